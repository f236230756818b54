//! What a group can't have: file systems and addresses that are busy, damaged, elsewhere or gone. Eight groups of one pair
//! in network namespaces, each with one such resource; both daemons are real, and what `group status` says of each is what
//! an operator would go by.

use crate::pair::{ALPHA, BETA, Pair};
use crate::town::{Town, skipped, v4};
use serde_json::Value;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Groups, and a volume of its own for each.
const GROUPS: [&str; 8] = ["busy", "dirty", "foreign", "outside", "family", "taken", "gone", "unnamed"];
const VOLUME_BYTES: &str = "16MiB";
/// Of a file system under test; sparse.
const DISK_BYTES: u64 = 32 << 20;

/// Network of the second interface of both servers, which has no IPv6.
fn aux(last: u8) -> IpAddr {
    IpAddr::from([10, 95, 0, last])
}

/// Runs a program; its output, or a panic with what it said.
fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
    said
}

/// A loop device with ext4. Dropping it takes off what is mounted at its place.
struct Disk {
    device: String,
    at: PathBuf,
}

impl Disk {
    fn new(folder: &Path, name: &str) -> Disk {
        let file = folder.join(format!("{name}.disk"));
        std::fs::File::create(&file).unwrap().set_len(DISK_BYTES).unwrap();
        let device = run("losetup", &["--find", "--show", file.to_str().unwrap()]).trim().to_string();
        run("mkfs.ext4", &["-q", "-F", &device]);
        let at = folder.canonicalize().unwrap().join(format!("{name}.mnt"));
        std::fs::create_dir(&at).unwrap();
        Disk { device, at }
    }

    fn section(&self, kind: &str) -> String {
        format!(
            "[[group.filesystem]]\nname = \"data\"\ndevice = \"{}\"\nmount_point = \"{}\"\nkind = \"{kind}\"\n\
             when_busy = \"fail\"\nstop_timeout = \"500ms\"\n",
            self.device,
            self.at.display()
        )
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Once for what the test mounted over it.
        for _ in 0..2 {
            let _ = Command::new("umount").args(["--quiet", "--lazy"]).arg(&self.at).stderr(Stdio::null()).status();
        }
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

fn missing() -> Option<String> {
    let absent = |program: &&str| Command::new(program).arg("-V").output().is_err();
    let tools = ["losetup", "mkfs.ext4", "debugfs"].iter().find(|tool| absent(tool));
    match tools {
        Some(tool) => Some(format!("{tool} is not installed")),
        None if !Path::new("/dev/loop-control").exists() => Some("this machine has no loop devices".into()),
        None => None,
    }
}

fn configuration(disks: &[Disk; 3]) -> String {
    let mut text = "cluster = \"test\"\nsecret_file = \"secret\"\n".to_string();
    for (name, host) in [("alpha", v4(1)), ("beta", v4(2))] {
        text.push_str(&format!(
            "[[node]]\nname = \"{name}\"\nmirror = [\"{host}:7100\"]\nheartbeat = [\"{host}:7200\"]\n\
             control = \"{name}.sock\"\nstate_dir = \"{name}.d\"\n"
        ));
    }
    text.push_str(
        "[failover]\nmode = \"arbiter\"\nflap_guard = 0\ncritical_delay_service = \"300ms\"\n\
         [arbiter]\nkind = \"file\"\ndirectory = \"arbiter\"\n",
    );
    let address = |address: IpAddr, more: &str| {
        format!("[[group.address]]\nname = \"ip\"\naddress = \"{address}\"\nmonitor_interval = \"200ms\"\n{more}")
    };
    let [busy, dirty, foreign] = disks;
    let resources = [
        busy.section("ext4"),
        dirty.section("ext4"),
        foreign.section("xfs"),
        address([10, 98, 0, 5].into(), ""),
        address("fd00:95::5".parse().unwrap(), "interface = \"eth1\"\n"),
        address(v4(3), "on_duplicate = \"refuse\"\n"),
        address(aux(50), "interface = \"eth1\"\n"),
        address(v4(51), "interface = \"eth7\"\n"),
    ];
    for (index, (group, resource)) in GROUPS.iter().zip(resources).enumerate() {
        text.push_str(&format!("[[volume]]\nname = \"vol{index}\"\n"));
        for name in ["alpha", "beta"] {
            text.push_str(&format!(
                "[volume.on.{name}]\ndisk = \"{name}{index}.img\"\nnbd = [\"unix:{name}{index}-nbd.sock\"]\n"
            ));
        }
        text.push_str(&format!(
            "[[group]]\nname = \"{group}\"\nhome = \"alpha\"\nvolumes = [\"vol{index}\"]\n{resource}"
        ));
    }
    text
}

/// Everything that is shown of a group on a node.
fn report(pair: &Pair, node: usize, group: &str) -> Value {
    let groups: Value = serde_json::from_str(&pair.done(node, &["group", "status", "--json"])).unwrap();
    let index = GROUPS.iter().position(|name| *name == group).unwrap();
    groups[index].clone()
}

/// What is expected to be said of a group's resource.
struct Said {
    group: &'static str,
    /// State of the node that says it.
    state: &'static str,
    reason: &'static str,
    next: &'static str,
    action: &'static str,
}

/// Waits until a server says all this, in JSON and for people.
fn wait_said(pair: &mut Pair, said: &Said) {
    let node = pair.wait(&format!("{} to be told: {}", said.group, said.reason), |pair| {
        [ALPHA, BETA].into_iter().find(|node| {
            let report = report(pair, *node, said.group);
            let has = |value: &Value, words: &str| value.as_str().is_some_and(|text| text.contains(words));
            let resource = &report["resources"][0];
            has(&resource["reason"], said.reason)
                && has(&resource["next"], said.next)
                && report["nodes"][0]["state"] == said.state
                && has(&report["action"], said.action)
                && report["notices"].to_string().contains(&said.reason.replace('"', "\\\""))
        })
    });
    let words = pair.done(node, &["group", "status"]);
    assert!(words.contains(said.reason) && words.contains(said.next) && words.contains(said.action), "{words}");
}

fn wait_running(pair: &mut Pair, node: usize, group: &str) {
    pair.wait(&format!("{group} to run"), |pair| {
        let report = report(pair, node, group);
        (report["nodes"][0]["role"] == "owner" && report["resources"][0]["state"] == "running").then_some(())
    });
}

const FAILED: &str = "running-in-failed-mode";

#[test]
fn what_a_group_can_not_have_is_said_with_a_state_and_the_next_step() {
    if skipped() {
        return;
    }
    if let Some(why) = missing() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let town = Town::new();
    for (host, port) in [(ALPHA, "q0"), (BETA, "q1")] {
        town.hosts[host].plug_into(&town.switch, port, "eth1").unwrap();
        town.hosts[host].give("eth1", aux(host as u8 + 1), 24).unwrap();
    }
    let mut pair = Pair::new("");
    let disks = ["busy", "dirty", "foreign"].map(|name| Disk::new(pair.folder.path(), name));
    // A root directory that is none: no repair is safe without a decision.
    run("debugfs", &["-w", "-R", "set_super_value state 2", &disks[1].device]);
    run("debugfs", &["-w", "-R", "clri <2>", &disks[1].device]);
    let occupied = disks[0].at.to_str().unwrap();
    run("mount", &["-t", "tmpfs", "somebody-elses", occupied]);
    std::fs::create_dir(pair.path("arbiter")).unwrap();
    std::fs::write(pair.path("pair.toml"), configuration(&disks)).unwrap();
    pair.spaces = [ALPHA, BETA].map(|node| Some(town.hosts[node].clone()));
    for node in [ALPHA, BETA] {
        for volume in 0..GROUPS.len() {
            pair.done(node, &["init-disk", &format!("vol{volume}"), "--size", VOLUME_BYTES]);
        }
        pair.start(node);
    }
    let failed = |group, reason, next| Said { group, state: FAILED, reason, next, action: "then run `group recover`" };
    for said in [
        failed("busy", "is busy: somebody-elses is mounted there", "unmount it"),
        failed("dirty", "is damaged: `e2fsck` ended with 4", "run `e2fsck -f "),
        failed("foreign", "holds a file system of kind ext4, not xfs", "correct `kind`"),
        failed(
            "outside",
            "10.98.0.5 is in no network of this server",
            "choose an address of one of its networks (eth0",
        ),
        failed("family", "eth1 has no IPv6 network", "give eth1 an IPv6 address of its own first"),
        failed(
            "taken",
            "10.97.0.3 is in use on eth0's network by the host with",
            "find that host and free the address",
        ),
        failed("unnamed", "there is no interface eth7 on this server", "correct the name (there are: eth0, eth1)"),
    ] {
        wait_said(&mut pair, &said);
    }

    // Mended: it starts; then somebody sits on it, and it does not stop.
    run("umount", &[occupied]);
    pair.done(ALPHA, &["group", "recover", "busy"]);
    wait_running(&mut pair, ALPHA, "busy");
    let mut sitting = Command::new("sleep").arg("1000").current_dir(&disks[0].at).spawn().unwrap();
    pair.fails(ALPHA, &["group", "stop", "busy"], 3, "refused (failed)");
    let holder = format!("is still mounted and busy: sleep ({})", sitting.id());
    wait_said(
        &mut pair,
        &Said {
            group: "busy",
            state: FAILED,
            reason: Box::leak(holder.into_boxed_str()),
            next: "end these",
            action: "Stop that resource by hand on that node",
        },
    );
    sitting.kill().unwrap();
    sitting.wait().unwrap();
    pair.wait("busy to be recovered", |pair| (pair.verb(ALPHA, &["group", "recover", "busy"]).code == 0).then_some(()));

    // The interface of the owner goes: the group moves, and is not let back.
    wait_running(&mut pair, ALPHA, "gone");
    town.hosts[ALPHA].remove("eth1").unwrap();
    wait_running(&mut pair, BETA, "gone");
    wait_said(
        &mut pair,
        &Said {
            group: "gone",
            state: "failed-over-critical-services-not-running",
            reason: "there is no interface eth1 on this server",
            next: "correct the name (there are: eth0)",
            action: "Mend that resource; then fall back if wanted.",
        },
    );
    let words = pair.wait("the way back to be refused", |pair| {
        Some(pair.verb(BETA, &["group", "fallback", "gone"])).filter(|ran| ran.err.contains("alpha is not healthy"))
    });
    assert_eq!(words.code, 3, "{}", words.err);
    let shown = report(&pair, BETA, "gone")["notices"].to_string();
    assert!(
        shown.contains("away from its home alpha") && shown.contains("it can't return now: alpha is not healthy"),
        "{shown}"
    );
    for node in [BETA, ALPHA] {
        pair.stop(node);
    }
    assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains(occupied), "it was left mounted");
}
