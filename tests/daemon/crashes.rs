//! Daemons are killed; what was acknowledged stays, and only what differs is copied.

use crate::pair::{ALPHA, BETA, Pair, assert_holds, write};

const MIB: u64 = 1 << 20;

#[test]
fn a_new_pair_is_in_sync_without_copying_and_serves() {
    let mut pair = Pair::initialised("", "64MiB");
    pair.start(ALPHA);
    pair.start(BETA);
    pair.done(ALPHA, &["promote", "vol0", "--timeout", "30s"]);
    let status = pair.wait_in_sync(ALPHA);
    assert_eq!((&status["role"], &status["peer_role"]), (&"primary".into(), &"secondary".into()));
    assert_eq!((&status["disk"], &status["peer_disk"]), (&"up-to-date".into(), &"up-to-date".into()));
    assert_eq!((&status["link"], &status["dirty_bytes"]), (&"connected".into(), &0.into()));
    if !status["last_resync"].is_null() {
        assert_eq!(status["last_resync"]["bytes_copied"], 0, "blank disks need no copying: {status}");
    }
    let size = status["size_bytes"].as_u64().unwrap();
    let mut client = pair.client(ALPHA);
    assert_eq!(client.size_bytes, size);
    write(&mut client, 0, 3 << 20, 0x5a);
    write(&mut client, size - 4096, 4096, 0xa5);
    assert_holds(&mut client, MIB, MIB as usize, 0x5a);
    client.disconnect();

    pair.stop_identical([BETA, ALPHA]);
    assert!(!pair.path("alpha.sock").exists() && !pair.path("alpha-nbd.sock").exists(), "sockets are removed");

    pair.start(ALPHA);
    pair.start(BETA);
    let status = pair.wait_in_sync(ALPHA);
    let copied = &status["last_resync"]["bytes_copied"];
    assert!(copied.is_null() || copied == 0, "after an orderly stop nothing is copied: {status}");
}

#[test]
fn a_killed_secondary_gets_what_it_missed_and_little_more() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 16 << 20, 1);
    pair.kill9(BETA);
    write(&mut client, 20 * MIB, 3 << 20, 2);
    write(&mut client, 4 * MIB, 1 << 20, 3);
    let alone = pair.wait_status(ALPHA, "alone", |status| status["link"] == "down");
    assert!(alone["dirty_bytes"].as_u64().unwrap() >= 4 * MIB, "{alone}");
    assert_eq!((&alone["in_sync"], &alone["role"]), (&false.into(), &"primary".into()));

    pair.start(BETA);
    let status = pair.wait_in_sync(ALPHA);
    let last = &status["last_resync"];
    assert_eq!(last["kind"], "differential", "{status}");
    let copied = last["bytes_copied"].as_u64().unwrap();
    assert!((4 * MIB..24 * MIB).contains(&copied), "4 MiB were missed, {copied} bytes were copied");
    assert!(last["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    assert_holds(&mut client, 4 * MIB, MIB as usize, 3);
    client.disconnect();
    pair.stop_identical([BETA, ALPHA]);
}

#[test]
fn a_killed_primary_is_replaced_and_comes_back_as_secondary() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 8 << 20, 7);
    pair.kill9(ALPHA);
    pair.done(BETA, &["promote", "vol0"]);
    let mut client = pair.client(BETA);
    assert_holds(&mut client, 0, 8 << 20, 7);
    write(&mut client, 8 * MIB, 2 << 20, 8);

    pair.start(ALPHA);
    let status = pair.wait_in_sync(BETA);
    assert_eq!((&status["role"], &status["peer_role"]), (&"primary".into(), &"secondary".into()));
    client.disconnect();
    // And back again, in order.
    pair.fails(ALPHA, &["promote", "vol0"], 3, "peer-is-primary");
    pair.done(BETA, &["demote", "vol0"]);
    pair.done(ALPHA, &["promote", "vol0"]);
    let mut client = pair.client(ALPHA);
    assert_holds(&mut client, 8 * MIB, 2 << 20, 8);
    client.disconnect();
    pair.stop_identical([ALPHA, BETA]);
}

#[test]
fn both_killed_resync_by_the_durable_record() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 8 << 20, 1);
    pair.kill9(BETA);
    write(&mut client, 32 * MIB, 2 << 20, 2);
    pair.kill9(ALPHA);
    pair.start(BETA);
    pair.start(ALPHA);
    let status = pair.wait_in_sync(ALPHA);
    assert_ne!(status["last_resync"]["kind"], "full", "{status}");
    let went_through = status["last_resync"]["bytes_copied"].as_u64().unwrap();
    assert!((2 * MIB..32 * MIB).contains(&went_through), "2 MiB were missed: {status}");
    pair.done(ALPHA, &["promote", "vol0"]);
    let mut client = pair.client(ALPHA);
    assert_holds(&mut client, 0, 8 << 20, 1);
    assert_holds(&mut client, 32 * MIB, 2 << 20, 2);
    client.disconnect();
    pair.stop_identical([BETA, ALPHA]);
}

#[test]
fn a_resync_goes_on_after_either_daemon_died_and_its_target_is_not_promoted() {
    let slow = "resync_rate_max = \"8MiB/s\"\nresync_rate_min = \"1MiB/s\"";
    let mut pair = Pair::running(slow, "96MiB");
    let mut client = pair.client(ALPHA);
    pair.kill9(BETA);
    write(&mut client, 0, 64 << 20, 9);
    pair.start(BETA);
    let running = |status: &serde_json::Value| status["resync"]["percent"].as_f64().is_some_and(|done| done > 2.0);
    let status = pair.wait_status(ALPHA, "resyncing", running);
    for key in ["kind", "reason", "percent", "bytes_left", "bytes_per_second", "seconds_left"] {
        assert!(status["resync"].get(key).is_some(), "{key} in {status}");
    }
    pair.fails(BETA, &["promote", "vol0"], 3, "peer-is-primary");
    client.disconnect();
    pair.done(ALPHA, &["demote", "vol0"]);
    pair.fails(BETA, &["promote", "vol0"], 3, "resync-target");
    pair.fails(BETA, &["promote", "vol0", "--force"], 6, "a mixture of two points in time");
    pair.done(ALPHA, &["promote", "vol0"]);

    pair.done(ALPHA, &["pause-resync", "vol0"]);
    pair.wait_status(ALPHA, "paused", |status| status["resync"]["paused"] == true);
    pair.done(ALPHA, &["resume-resync", "vol0"]);
    pair.wait_status(ALPHA, "going on", |status| status["resync"]["paused"] == false);

    pair.kill9(BETA);
    pair.start(BETA);
    pair.wait_status(ALPHA, "resyncing again", running);
    // The source dies too; the target alone must not be taken for a good copy.
    pair.kill9(ALPHA);
    pair.fails(BETA, &["promote", "vol0", "--timeout", "1s"], 3, "refused (");
    pair.start(ALPHA);
    pair.done(ALPHA, &["promote", "vol0", "--timeout", "30s"]);
    let out = pair.done(ALPHA, &["resync", "vol0", "--wait"]);
    assert!(out.contains("vol0 is in sync"), "{out}");
    let mut client = pair.client(ALPHA);
    assert_holds(&mut client, 40 << 20, 1 << 20, 9);
    client.disconnect();
    pair.stop_identical([BETA, ALPHA]);
}

#[test]
fn a_split_brain_is_found_and_settled_by_the_operator() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 4 << 20, 1);
    pair.kill9(BETA);
    write(&mut client, 0, 1 << 20, 2);
    pair.kill9(ALPHA);
    pair.start(BETA);
    pair.fails(BETA, &["promote", "vol0", "--timeout", "500ms"], 3, "connecting");
    let words = pair.fails(BETA, &["promote", "vol0", "--force"], 6, "repeat it with --yes");
    assert!(words.contains("split brain"), "{words}");
    pair.done(BETA, &["promote", "vol0", "--force", "--yes"]);
    let mut client = pair.client(BETA);
    assert_holds(&mut client, 0, 4 << 20, 1);
    write(&mut client, 8 * MIB, 1 << 20, 3);

    pair.start(ALPHA);
    let refused = pair.wait_status(ALPHA, "refused", |status| status["link"] == "refused");
    assert_eq!(refused["rule"], "split-brain", "{refused}");
    let table = pair.done(ALPHA, &["status"]);
    assert!(table.contains("next: ") && table.contains("--discard beta"), "{table}");

    pair.fails(ALPHA, &["resync", "vol0", "--source", "gamma"], 2, "there is no node gamma");
    let words = pair.fails(ALPHA, &["resync", "vol0", "--source", "beta"], 6, "--yes");
    assert!(words.contains("Everything that was written on alpha and that beta does not have is lost"), "{words}");
    pair.done(ALPHA, &["resync", "vol0", "--source", "beta", "--wait", "--yes"]);
    pair.wait_in_sync(BETA);
    assert_holds(&mut client, 0, 4 << 20, 1);
    assert_holds(&mut client, 8 * MIB, 1 << 20, 3);
    client.disconnect();
    pair.stop_identical([ALPHA, BETA]);
}
