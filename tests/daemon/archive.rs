//! Both servers went on alone: what each has is shown, one copy is given up, and what only it had is kept.

use crate::pair::{ALPHA, BETA, NODES, Pair, assert_holds, write};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

const MIB: u64 = 1 << 20;

/// Both have served alone and written: `first` what only alpha has, `second` what only beta has. They refuse each other;
/// beta is primary, alpha started again as secondary.
fn split(settings: &str, size: &str, first: &[(u64, usize)], second: &[(u64, usize)]) -> Pair {
    let mut pair = Pair::running(settings, size);
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 4 << 20, 1);
    pair.kill9(BETA);
    for (at, length) in first {
        write(&mut client, *at, *length, 2);
    }
    pair.kill9(ALPHA);
    pair.start(BETA);
    pair.done(BETA, &["promote", "vol0", "--force", "--yes"]);
    let mut client = pair.client(BETA);
    for (at, length) in second {
        write(&mut client, *at, *length, 3);
    }
    client.disconnect();
    pair.start(ALPHA);
    for node in [ALPHA, BETA] {
        pair.wait_status(node, "split", |status| status["rule"] == "split-brain");
    }
    pair
}

/// What the disk of a node holds of the volume, read beside its idle daemon.
fn copy_of(pair: &Pair, node: usize) -> Vec<u8> {
    let size = pair.status(node)["size_bytes"].as_u64().unwrap() as usize;
    let mut bytes = std::fs::read(pair.path(&format!("{}.img", NODES[node]))).unwrap();
    bytes.truncate(size);
    bytes
}

fn archives(pair: &Pair, node: usize) -> Vec<Value> {
    serde_json::from_str(&pair.done(node, &["archive", "list", "--json"])).unwrap()
}

/// The name of the newest archive of a node, which must be complete.
fn newest(pair: &mut Pair, node: usize) -> String {
    let complete = pair.wait("the archive to be complete", |pair| {
        let newest = archives(pair, node).pop()?;
        newest["finished"].is_u64().then_some(newest)
    });
    complete["name"].as_str().unwrap().into()
}

/// The whole copy that was given up, as the archive shows it.
fn exported(pair: &Pair, node: usize, name: &str) -> Vec<u8> {
    let image = format!("{name}.img");
    pair.done(node, &["archive", "export", name, &image, "--whole"]);
    std::fs::read(pair.path(&image)).unwrap()
}

fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// An archive that is served, until this is dropped.
struct Mounted(Child, String);

impl Mounted {
    fn new(pair: &Pair, node: usize, name: &str) -> Mounted {
        let socket = pair.path("archive.sock");
        let arguments = ["archive", "mount", name, "--socket", socket.to_str().unwrap()];
        let mut child = pair.command(node, &arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut uri = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut uri).unwrap();
        assert!(uri.starts_with("nbd+unix:///"), "{uri}");
        Mounted(child, uri.trim().into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success(), "it ends in order");
    }
}

/// F119, in one direction from afar and in the other on the primary itself.
#[test]
fn either_copy_can_be_given_up_and_is_kept() {
    let mut pair = split("", "32MiB", &[(0, 1 << 20)], &[(8 * MIB, 1 << 20)]);
    let shown: Value = serde_json::from_str(&pair.done(ALPHA, &["split-brain", "show", "vol0", "--json"])).unwrap();
    let changed = |node: &str| shown[0]["sides"][node]["changed_bytes"].as_u64().unwrap();
    assert!(changed("alpha") >= MIB && changed("beta") >= MIB && shown[0]["apart_since"].is_u64(), "{shown}");
    let words = pair.done(ALPHA, &["split-brain", "show"]);
    for part in ["--discard alpha", "--discard beta", "at most", "recommended: beta serves"] {
        assert!(words.contains(part), "{part} in {words}");
    }
    let given_up = copy_of(&pair, ALPHA);
    pair.fails(BETA, &["split-brain", "resolve", "vol0", "--discard", "gamma"], 2, "there is no node gamma");
    pair.fails(BETA, &["split-brain", "resolve", "vol0", "--discard", "alpha"], 6, "is archived on alpha");
    let for_good = ["split-brain", "resolve", "vol0", "--discard", "alpha", "--no-archive", "--yes"];
    pair.fails(BETA, &for_good, 3, "Run it on alpha");
    pair.done(BETA, &["split-brain", "resolve", "vol0", "--discard", "alpha", "--yes", "--wait"]);
    pair.wait_in_sync(ALPHA);
    let name = newest(&mut pair, ALPHA);
    let archive = archives(&pair, ALPHA).remove(0);
    assert_eq!(
        (&archive["node"], &archive["bytes"], &archive["damaged_bytes"]),
        (&"alpha".into(), &(2 * MIB).into(), &0.into())
    );
    assert!(exported(&pair, ALPHA, &name) == given_up, "the archive over the volume is the copy that was given up");
    pair.fails(ALPHA, &["archive", "export", &name, &format!("{name}.img")], 1, "name a file that does not exist");
    pair.done(ALPHA, &["archive", "export", &name, "delta.img"]);
    let delta = std::fs::read(pair.path("delta.img")).unwrap();
    assert!(delta[..MIB as usize] == given_up[..MIB as usize] && delta[MIB as usize..].iter().all(|byte| *byte == 0));
    let list: Value = serde_json::from_slice(&std::fs::read(pair.path("delta.img.json")).unwrap()).unwrap();
    let parts = list["parts"].as_array().unwrap();
    assert_eq!(parts.iter().map(|part| part[1].as_u64().unwrap()).sum::<u64>(), 2 * MIB);
    served_to_others(&pair, &name, &given_up);
    pair.fails(ALPHA, &["archive", "delete", &name], 6, "are removed for good");
    pair.done(ALPHA, &["archive", "delete", &name, "--yes"]);
    assert!(archives(&pair, ALPHA).is_empty());
    pair.fails(ALPHA, &["archive", "mount", &name], 2, "there is no archive");
    other_direction(&mut pair);
}

/// Other people's clients see the copy that was given up, and what of it is from the archive.
fn served_to_others(pair: &Pair, name: &str, given_up: &[u8]) {
    let mounted = Mounted::new(pair, ALPHA, name);
    let uri = &mounted.1;
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
        said
    };
    if installed("nbdinfo") {
        let said = run("nbdinfo", &[uri]);
        assert!(said.contains("is_read_only: true") && said.contains("twinblock:dirty"), "{said}");
        let map = run("nbdinfo", &["--map=twinblock:dirty", uri]);
        let from_archive: u64 = map
            .lines()
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                (fields.get(2) == Some(&"1")).then(|| fields[1].parse::<u64>().unwrap())
            })
            .sum();
        assert_eq!(from_archive, 2 * MIB, "{map}");
    }
    if installed("nbdcopy") {
        let copy = pair.path("nbdcopy.img");
        run("nbdcopy", &[uri, copy.to_str().unwrap()]);
        assert!(std::fs::read(copy).unwrap() == given_up, "nbdcopy sees the copy that was given up");
    }
    if installed("qemu-img") {
        let copy = pair.path("qemu.img");
        run("qemu-img", &["convert", "-f", "raw", "-O", "raw", uri, copy.to_str().unwrap()]);
        assert!(std::fs::read(copy).unwrap() == given_up, "qemu-img sees the copy that was given up");
    }
}

/// The primary's own copy is given up, where the primary is.
fn other_direction(pair: &mut Pair) {
    pair.kill9(ALPHA);
    let mut client = pair.client(BETA);
    write(&mut client, 20 * MIB, 1 << 20, 4);
    let resolve = ["split-brain", "resolve", "vol0", "--discard", "beta", "--yes"];
    pair.fails(BETA, &resolve, 3, "no-split");
    pair.kill9(BETA);
    pair.start(ALPHA);
    pair.done(ALPHA, &["promote", "vol0", "--force", "--yes"]);
    let mut client = pair.client(ALPHA);
    write(&mut client, 24 * MIB, 1 << 20, 5);
    pair.start(BETA);
    pair.wait_status(ALPHA, "split", |status| status["rule"] == "split-brain");
    let resolve = ["split-brain", "resolve", "vol0", "--discard", "alpha", "--yes"];
    pair.fails(BETA, &resolve, 3, "Run it on alpha");
    pair.fails(ALPHA, &resolve, 3, "clients-connected");
    client.disconnect();
    let given_up = copy_of(pair, ALPHA);
    pair.done(ALPHA, &[&resolve[..], &["--wait"]].concat());
    pair.wait_in_sync(BETA);
    let name = newest(pair, ALPHA);
    assert!(exported(pair, ALPHA, &name) == given_up, "the archive over the volume is the copy that was given up");
    pair.done(BETA, &["promote", "vol0"]);
    let mut client = pair.client(BETA);
    assert_holds(&mut client, 20 * MIB, 1 << 20, 4);
    assert_holds(&mut client, 8 * MIB, 1 << 20, 3);
    client.disconnect();
    pair.stop_identical([ALPHA, BETA]);
}

/// F120: the side that changed nothing gives way by itself, where that is the policy, and goes through the archive.
#[test]
fn a_side_that_changed_nothing_gives_way_by_policy() {
    let mut pair = Pair::running("split_brain = \"discard-zero-changes\"", "32MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 4 << 20, 1);
    client.flush().unwrap();
    pair.wait_status(ALPHA, "durable on both", |status| status["dirty_bytes"] == 0);
    pair.kill9(BETA);
    write(&mut client, 0, 1 << 20, 2);
    pair.kill9(ALPHA);
    pair.start(BETA);
    pair.done(BETA, &["promote", "vol0", "--force", "--yes"]);
    pair.start(ALPHA);
    let status = pair.wait_in_sync(ALPHA);
    assert_eq!((&status["rule"], &status["peer_role"]), (&"split-brain-by-policy".into(), &"secondary".into()));
    assert_eq!(archives(&pair, BETA).len(), 1);
    newest(&mut pair, BETA);
    pair.done(ALPHA, &["promote", "vol0"]);
    let mut client = pair.client(ALPHA);
    assert_holds(&mut client, 0, 1 << 20, 2);
    assert_holds(&mut client, MIB, 3 << 20, 1);
    client.disconnect();
    pair.stop_identical([BETA, ALPHA]);
}

/// The victim's daemon is killed in the middle, and again: what it held first is in the archive in the end.
#[test]
fn a_victim_killed_while_it_is_overwritten_loses_nothing() {
    let slow = "resync_rate_max = \"4MiB/s\"\nresync_rate_min = \"1MiB/s\"";
    let mut pair = split(slow, "32MiB", &[(0, 12 << 20)], &[(16 * MIB, 1 << 20)]);
    let given_up = copy_of(&pair, ALPHA);
    pair.done(ALPHA, &["split-brain", "resolve", "vol0", "--discard", "alpha", "--yes"]);
    for least in [1, 4] {
        pair.wait("some of it to be archived", |pair| {
            let saved = archives(pair, ALPHA).first().and_then(|archive| archive["bytes"].as_u64());
            saved.filter(|bytes| *bytes >= least * MIB)
        });
        pair.kill9(ALPHA);
        pair.start(ALPHA);
    }
    // While the resync still runs, the view is the copy exactly as it was.
    let name = archives(&pair, ALPHA)[0]["name"].as_str().unwrap().to_owned();
    pair.done(ALPHA, &["archive", "export", &name, "meanwhile.img", "--whole"]);
    assert!(std::fs::read(pair.path("meanwhile.img")).unwrap() == given_up, "the view during the resync");
    pair.wait_in_sync(ALPHA);
    assert_eq!(archives(&pair, ALPHA).len(), 1, "it is one archive throughout");
    assert_eq!(newest(&mut pair, ALPHA), name);
    assert!(exported(&pair, ALPHA, &name) == given_up, "the archive over the volume is the copy that was given up");
    pair.stop_identical([BETA, ALPHA]);
}

/// F045: there is no room for the archive, so nothing more is overwritten; and the way out.
#[test]
fn without_room_for_the_archive_nothing_is_overwritten() {
    let mut pair = split("archive_limit = \"1MiB\"", "32MiB", &[(0, 6 << 20)], &[(16 * MIB, 1 << 20)]);
    let given_up = copy_of(&pair, ALPHA);
    let resolve = ["split-brain", "resolve", "vol0", "--discard", "alpha", "--yes"];
    pair.done(ALPHA, &resolve);
    for node in [ALPHA, BETA] {
        pair.wait_status(node, "refused", |status| status["rule"] == "archive-failed" && status["link"] == "refused");
    }
    let status = pair.status(ALPHA);
    assert!(status["link_reason"].as_str().unwrap().contains("`archive_limit`"), "{status}");
    assert!(pair.done(ALPHA, &["status"]).contains("--no-archive"));
    let name = archives(&pair, ALPHA)[0]["name"].as_str().unwrap().to_owned();
    assert!(exported(&pair, ALPHA, &name) == given_up, "something was overwritten that is in no archive");
    // The other server serves meanwhile.
    let mut client = pair.client(BETA);
    write(&mut client, 28 * MIB, 1 << 20, 6);
    pair.done(ALPHA, &[&resolve[..], &["--no-archive", "--wait"]].concat());
    pair.wait_in_sync(BETA);
    assert_holds(&mut client, 28 * MIB, 1 << 20, 6);
    client.disconnect();
    pair.stop_identical([ALPHA, BETA]);
}
