//! The verbs on a running pair: disks given up and replaced, links ended, disks compared.

use crate::pair::{ALPHA, BETA, Pair, assert_holds, write};
use std::os::unix::fs::FileExt;

const MIB: u64 = 1 << 20;

#[test]
fn a_replaced_disk_is_filled_again() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 8 << 20, 4);
    let before = std::fs::read(pair.path("beta.img")).unwrap();
    pair.fails(BETA, &["replace-disk", "vol0"], 6, "is initialised anew for volume vol0: what it holds is lost");
    pair.fails(BETA, &["replace-disk", "vol0", "--disk", "other.img", "--yes"], 3, "(other-disk)");
    assert_eq!(pair.status(BETA)["disk"], "up-to-date", "nothing was changed");
    assert_eq!(std::fs::read(pair.path("beta.img")).unwrap().len(), before.len());

    let out = pair.done(BETA, &["replace-disk", "vol0", "--disk", "beta.img", "--wait", "--yes"]);
    assert!(out.contains("vol0 is in sync"), "{out}");
    let status = pair.wait_in_sync(ALPHA);
    assert_ne!(status["last_resync"]["kind"], "differential", "a new disk has no record: {status}");
    assert!(!status["last_resync"]["reason"].as_str().unwrap().is_empty());
    assert_holds(&mut client, 0, 8 << 20, 4);
    client.disconnect();
    pair.stop_identical([BETA, ALPHA]);
}

#[test]
fn the_disk_of_the_primary_is_not_replaced_under_its_clients() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 8 << 20, 5);
    let words = pair.fails(ALPHA, &["replace-disk", "vol0", "--yes"], 3, "(primary)");
    assert!(words.contains("promote beta"), "{words}");
    assert_eq!(pair.status(ALPHA)["disk"], "up-to-date", "nothing was changed");
    assert_holds(&mut client, 0, 8 << 20, 5);
    client.disconnect();
    // The way round it that the message names.
    pair.done(ALPHA, &["demote", "vol0"]);
    pair.done(BETA, &["promote", "vol0"]);
    pair.done(ALPHA, &["replace-disk", "vol0", "--wait", "--yes"]);
    let mut client = pair.client(BETA);
    assert_holds(&mut client, 0, 8 << 20, 5);
}

#[test]
fn the_only_good_copy_is_not_replaced() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    pair.kill9(BETA);
    write(&mut client, 0, 1 << 20, 6);
    pair.fails(ALPHA, &["replace-disk", "vol0", "--yes"], 3, "(only-copy)");
    assert_holds(&mut client, 0, 1 << 20, 6);
}

#[test]
fn a_detached_disk_is_attached_again_with_what_it_missed() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 8 << 20, 1);
    pair.done(BETA, &["detach", "vol0"]);
    let status = pair.wait_status(BETA, "diskless", |status| status["disk"] == "diskless");
    assert!(status["disk_reason"].is_string(), "{status}");
    assert!(pair.done(BETA, &["status"]).contains("next: put right what is said of the disk and `attach vol0`"));
    write(&mut client, 16 * MIB, 1 << 20, 2);
    pair.fails(ALPHA, &["attach", "vol0"], 3, "(has-disk)");
    pair.done(BETA, &["attach", "vol0"]);
    let status = pair.wait_in_sync(ALPHA);
    assert_eq!(status["last_resync"]["kind"], "differential", "{status}");
    client.disconnect();
    pair.stop_identical([BETA, ALPHA]);
}

#[test]
fn a_disconnected_volume_stays_apart_until_connected() {
    for who in [ALPHA, BETA] {
        let mut pair = Pair::running("", "64MiB");
        let mut client = pair.client(ALPHA);
        pair.done(who, &["disconnect", "vol0"]);
        pair.wait_status(who, "disconnected", |status| status["link"] == "disconnected");
        if who == BETA {
            // Neither a crash nor an orderly restart forgets it.
            pair.kill9(BETA);
            pair.start(BETA);
            assert_eq!(pair.status(BETA)["link"], "disconnected", "{}", pair.logs());
            pair.stop(BETA);
            pair.start(BETA);
            let status = pair.status(BETA);
            assert_eq!(status["link"], "disconnected");
            assert!(status["link_reason"].as_str().unwrap().contains("by the operator"), "{status}");
        }
        write(&mut client, 0, 2 << 20, 3);
        let dirty: serde_json::Value = serde_json::from_str(&pair.done(ALPHA, &["dirty", "vol0", "--json"])).unwrap();
        assert_eq!(dirty["ranges"], serde_json::json!([[0, 2 * MIB]]), "{dirty}");
        assert_eq!(pair.done(ALPHA, &["dirty", "vol0"]).trim(), format!("0 {}", 2 * MIB));
        pair.done(who, &["connect", "vol0"]);
        let status = pair.wait_in_sync(ALPHA);
        assert_eq!(status["last_resync"]["bytes_copied"], 2 * MIB, "{status}");
    }
}

#[test]
fn verify_finds_and_repairs_a_difference() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 8 << 20, 7);
    let out = pair.done(ALPHA, &["verify", "vol0", "--wait"]);
    assert!(out.contains("none differ"), "{out}");
    // A disk changes behind the daemon's back.
    let disk = std::fs::File::options().write(true).open(pair.path("beta.img")).unwrap();
    disk.write_all_at(&[8; 4096], 2 * MIB).unwrap();
    disk.sync_all().unwrap();
    pair.fails(ALPHA, &["verify", "vol0", "--wait"], 7, "verify --repair");
    let found = pair.status(ALPHA)["last_verify"].clone();
    assert_eq!((&found["bytes_different"], &found["ranges"]), (&4096.into(), &serde_json::json!([[2 * MIB, 4096]])));
    let out = pair.done(ALPHA, &["verify", "vol0", "--repair", "--wait"]);
    assert!(out.contains("4.00 KiB repaired"), "{out}");
    pair.done(ALPHA, &["verify", "vol0", "--wait"]);
    client.disconnect();
    pair.stop_identical([BETA, ALPHA]);
}

#[test]
fn everything_is_copied_or_compared_when_asked() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 8 << 20, 7);
    let out = pair.done(ALPHA, &["resync", "vol0", "--compare", "--wait"]);
    assert!(out.contains("compare resync copied 0 B"), "{out}");
    let out = pair.done(ALPHA, &["resync", "vol0", "--full", "--wait"]);
    assert!(out.contains("full resync copied 8.00 MiB"), "{out}");
    assert_holds(&mut client, 0, 8 << 20, 7);
}

#[test]
fn clients_keep_a_primary_from_being_demoted() {
    let mut pair = Pair::running("", "64MiB");
    let client = pair.client(ALPHA);
    assert_eq!(pair.status(ALPHA)["clients"].as_array().unwrap().len(), 1);
    let words = pair.fails(ALPHA, &["demote", "vol0"], 3, "refused (");
    assert!(words.contains('1'), "the number of clients is named: {words}");
    pair.fails(ALPHA, &["demote", "vol0", "--force"], 6, "1 clients are connected to vol0 on alpha");
    pair.done(ALPHA, &["demote", "vol0", "--force", "--yes"]);
    assert_eq!(pair.status(ALPHA)["role"], "secondary");
    drop(client);
    assert!(pair.done(ALPHA, &["status"]).contains("next: nobody serves the volume: `promote vol0`"));
}
