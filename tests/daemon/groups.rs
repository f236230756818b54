//! A failover group as its users meet it: it starts, moves and fails over by itself, and nothing acknowledged is lost.

use crate::pair::{ALPHA, BETA, NODES, Pair, assert_holds, write};
use crate::word::heartbeat;
use serde_json::Value;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use twinblock::base::group::GroupRole;
use twinblock::base::heartbeat::Heartbeat;
use twinblock::base::ids::{Epoch, Incarnation, NodeId};
use twinblock::wire::heartbeat::{Envelope, Keys};

const MIB: u64 = 1 << 20;

/// A pair of blank disks with a group.
fn configured() -> Pair {
    let pair = Pair::initialised("", "64MiB");
    add_group(&pair);
    pair
}

/// One group in mode `arbiter`, whose arbiter is a directory; a hook writes down what it is told.
fn add_group(pair: &Pair) {
    std::fs::create_dir(pair.path("arbiter")).unwrap();
    pair.file("script", "#!/bin/sh\necho $TWINBLOCK_NODE $TWINBLOCK_VERB $TWINBLOCK_EVENT >> \"$1\"\n");
    let script = pair.path("script");
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let script = script.display();
    let announced = "echo $TWINBLOCK_NODE $TWINBLOCK_EVENT $TWINBLOCK_CHANGE $TWINBLOCK_DONE >> \\\"$0.announced\\\"";
    let told = pair.path("told");
    let told = told.display();
    let sections = format!(
        "[failover]\nmode = \"arbiter\"\nhook = [\"/bin/sh\", \"-c\", \"{announced}\", \"{told}\"]\n[arbiter]\nkind = \"file\"\ndirectory = \"arbiter\"\n\
         [[group]]\nname = \"db\"\nhome = \"alpha\"\nvolumes = [\"vol0\"]\n\
         [[group.script]]\nname = \"hook\"\nstart = [\"{script}\", \"{told}\"]\n\
         stop = [\"{script}\", \"{told}\"]\nmonitor_interval = \"100ms\"\n"
    );
    pair.configure("", &sections);
}

/// Both daemons run, and the group is where it belongs.
fn running() -> Pair {
    let mut pair = configured();
    pair.start(ALPHA);
    pair.start(BETA);
    wait_group(&mut pair, ALPHA, "the owner, with a fit standby", |group| {
        group["role"] == "owner" && group["peer_state"][0] == "normal" && group["serving"] == true
    });
    pair.wait_in_sync(ALPHA);
    pair
}

/// The core's view of the group on a node.
fn group(pair: &Pair, node: usize) -> Value {
    let groups: Value = serde_json::from_str(&pair.done(node, &["group", "status", "--json"])).unwrap();
    groups[0]["group"].clone()
}

/// Everything that is shown of the group on a node.
fn report(pair: &Pair, node: usize) -> Value {
    let groups: Value = serde_json::from_str(&pair.done(node, &["group", "status", "--json"])).unwrap();
    groups[0].clone()
}

fn wait_group(pair: &mut Pair, node: usize, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    pair.wait(&format!("the group on {} to be {what}", NODES[node]), |pair| Some(group(pair, node)).filter(&wanted))
}

fn wait_owner(pair: &mut Pair, node: usize) -> Value {
    wait_group(pair, node, "the owner", |group| group["role"] == "owner" && group["serving"] == true)
}

/// What the hook was told, without the lines of clean-ups before a start.
fn told(pair: &Pair) -> Vec<String> {
    let text = std::fs::read_to_string(pair.path("told")).unwrap_or_default();
    text.lines().map(str::to_string).collect()
}

#[test]
fn a_group_starts_by_itself_and_moves_by_order_without_a_copy() {
    let mut pair = running();
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 3 << 20, 0x11);
    pair.fails(BETA, &["promote", "vol0"], 3, "group move db");
    pair.fails(ALPHA, &["demote", "vol0"], 3, "group move db");

    pair.done(ALPHA, &["group", "move"]);
    wait_owner(&mut pair, BETA);
    assert_eq!(group(&pair, ALPHA)["role"], "standby");
    assert!(client.read(0, &mut [0; 4096]).is_err(), "the old owner's clients are cut");
    let mut client = pair.client(BETA);
    assert_holds(&mut client, 0, 3 << 20, 0x11);
    write(&mut client, 4 * MIB, MIB as usize, 0x22);
    let status = pair.wait_in_sync(BETA);
    let copied = &status["last_resync"]["bytes_copied"];
    assert!(copied.is_null() || *copied == 0, "an orderly move copies nothing: {status}");
    assert!(told(&pair).ends_with(&["alpha stop stop".into(), "beta start move".into()]), "{:?}", told(&pair));
    client.disconnect();

    pair.done(BETA, &["group", "fallback", "db"]);
    wait_owner(&mut pair, ALPHA);
    let mut client = pair.client(ALPHA);
    assert_holds(&mut client, 4 * MIB, MIB as usize, 0x22);
    client.disconnect();
    pair.wait_in_sync(ALPHA);
    pair.stop_identical([BETA, ALPHA]);
}

#[test]
fn the_standby_takes_over_from_a_killed_owner_and_the_old_owner_returns_as_standby() {
    let mut pair = running();
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 3 << 20, 0x33);
    let mut follower = pair.command(BETA, &["events", "--follow", "--json", "db"]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    let followed = BufReader::new(follower.stdout.take().unwrap()).lines();
    pair.kill9(ALPHA);
    let group = wait_owner(&mut pair, BETA);
    assert_eq!((&group["alone"], &group["reason"]), (&true.into(), &"peer-down".into()));
    // The follower sees the change begin and end, with how long each stage took.
    let followed = followed.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let mut changes = followed.filter(|event| event["kind"].as_str().unwrap().starts_with("role-change"));
    let began = changes.find(|event| event["detail"]["reason"] == "peer-down").unwrap();
    let ended = changes.next().unwrap();
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert_eq!(
        (&began["kind"], &began["detail"]["change"]),
        (&"role-change-began".into(), &"to-owner".into()),
        "{began}"
    );
    assert_eq!((&ended["kind"], &ended["detail"]["done"]), (&"role-change-ended".into(), &true.into()), "{ended}");
    let stages = ended["detail"]["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(names, ["detect", "drain", "exclude", "volume", "start"], "{ended}");
    let took: u64 = stages.iter().map(|stage| stage["ms"].as_u64().unwrap()).sum();
    assert_eq!(ended["detail"]["took_ms"], took, "{ended}");
    pair.wait("the hook to be told", |pair| {
        let announced = std::fs::read_to_string(pair.path("told.announced")).unwrap_or_default();
        announced.ends_with("beta role-change-ended to-owner true\n").then_some(())
    });
    let mut client = pair.client(BETA);
    assert_holds(&mut client, 0, 3 << 20, 0x33);
    write(&mut client, 8 * MIB, MIB as usize, 0x44);
    pair.wait("the hook to be told", |pair| told(pair).ends_with(&["beta start failover".into()]).then_some(()));

    pair.start(ALPHA);
    // What happened to alpha before it was killed is still known there.
    let words = pair.done(ALPHA, &["events", "--last", "1000"]);
    assert!(
        words.matches("the daemon has started").count() == 2 && words.contains("taking the group over is done"),
        "{words}"
    );
    let status = pair.wait_in_sync(BETA);
    assert_eq!(status["last_resync"]["kind"], "differential", "{status}");
    wait_group(&mut pair, ALPHA, "standing by", |group| group["role"] == "standby" && group["peer_state"].is_array());
    wait_group(&mut pair, BETA, "with a peer that may take over", |group| group["alone"] == false);
    assert_holds(&mut client, 8 * MIB, MIB as usize, 0x44);

    // And the other way round.
    client.disconnect();
    pair.kill9(BETA);
    wait_owner(&mut pair, ALPHA);
    let mut client = pair.client(ALPHA);
    assert_holds(&mut client, 8 * MIB, MIB as usize, 0x44);
    client.disconnect();
}

#[test]
fn without_its_arbiter_nobody_takes_over_and_with_it_again_the_standby_does() {
    let mut pair = running();
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, MIB as usize, 0x55);
    std::fs::rename(pair.path("arbiter"), pair.path("away")).unwrap();
    pair.kill9(ALPHA);
    let group = wait_group(&mut pair, BETA, "without an arbiter", |group| {
        group["peer"]["level"] == "lost" && group["arbiter"]["trouble"].is_string()
    });
    assert_eq!((&group["role"] == "owner", &group["serving"]), (false, &false.into()), "{group}");
    assert!(group["arbiter"]["trouble"].as_str().unwrap().contains("arbiter"), "{group}");
    assert_eq!(pair.status(BETA)["role"], "secondary");

    std::fs::rename(pair.path("away"), pair.path("arbiter")).unwrap();
    wait_owner(&mut pair, BETA);
    let mut client = pair.client(BETA);
    assert_holds(&mut client, 0, MIB as usize, 0x55);
    client.disconnect();
}

#[test]
fn a_daemon_that_stops_in_order_hands_its_group_over() {
    let mut pair = running();
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, MIB as usize, 0x66);
    client.disconnect();
    pair.stop(ALPHA);
    wait_owner(&mut pair, BETA);
    let mut client = pair.client(BETA);
    assert_holds(&mut client, 0, MIB as usize, 0x66);
    client.disconnect();
    pair.stop(BETA);
}

#[test]
fn a_node_taken_out_gives_its_group_up_and_takes_none_over() {
    let mut pair = running();
    pair.done(ALPHA, &["deactivate"]);
    wait_owner(&mut pair, BETA);
    pair.kill9(BETA);
    let group = wait_group(&mut pair, ALPHA, "without a peer", |group| group["peer"]["level"] == "lost");
    assert!(group["takeover_block"].is_string(), "{group}");
    assert_ne!(group["role"], "owner");
    pair.done(ALPHA, &["activate"]);
    wait_owner(&mut pair, ALPHA);
}

#[test]
fn a_pair_that_was_run_by_hand_gets_a_group() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, MIB as usize, 0x77);
    client.disconnect();
    // Several changes of role, so that the disks have seen epochs that no record has.
    for (from, to) in [(ALPHA, BETA), (BETA, ALPHA), (ALPHA, BETA)] {
        pair.done(from, &["demote", "vol0"]);
        pair.done(to, &["promote", "vol0"]);
        pair.wait_in_sync(to);
    }
    pair.stop(ALPHA);
    pair.stop(BETA);
    add_group(&pair);
    pair.start(ALPHA);
    pair.start(BETA);
    // Both hold everything: the home server owns it, or beta, when its copy is known to be good a moment earlier.
    let owner = pair.wait("an owner", |pair| {
        let owns = |node: usize| {
            let group = group(pair, node);
            group["role"] == "owner" && group["serving"] == true
        };
        [ALPHA, BETA].into_iter().find(|node| owns(*node))
    });
    let other = 1 - owner;
    let group = group(&pair, owner);
    assert!(group["epoch"].as_u64().unwrap() > 3, "no epoch is used twice: {group}");
    let mut client = pair.client(owner);
    assert_holds(&mut client, 0, MIB as usize, 0x77);
    client.disconnect();
    wait_group(&mut pair, owner, "with a peer that may take over", |group| {
        group["arbiter"]["record"][2].as_array().is_some_and(|insync| insync.len() == 2)
    });
    pair.kill9(owner);
    wait_owner(&mut pair, other);
    // What was seen of the arbiter outlasts a restart.
    assert!(pair.path(&format!("{}.d/arbiter.db.json", NODES[other])).exists());
    pair.start(owner);
    pair.wait_in_sync(other);
}

#[test]
fn a_configuration_without_groups_has_no_group_verbs() {
    let mut pair = Pair::initialised("", "64MiB");
    pair.start(ALPHA);
    pair.fails(ALPHA, &["group", "status"], 2, "no group");
    pair.fails(ALPHA, &["deactivate"], 2, "no group");
}

#[test]
fn status_shows_the_evidence_and_explain_what_would_happen() {
    let mut pair = running();
    let report = pair.wait("both heard, and the record read", |pair| {
        let report: Value = serde_json::from_str(&pair.done(ALPHA, &["group", "status", "--json"])).unwrap();
        let report = report[0].clone();
        let in_sync = report["evidence"]["arbiter"]["in_sync"].as_array().is_some_and(|nodes| nodes.len() == 2);
        in_sync.then_some(report)
    });
    assert_eq!(
        (&report["name"], &report["meaning"], &report["action"]),
        (&"db".into(), &"Healthy.".into(), &"Nothing.".into())
    );
    assert_eq!(
        (&report["nodes"][0]["node"], &report["nodes"][0]["role"]),
        (&"alpha".into(), &"owner".into()),
        "{report}"
    );
    assert_eq!(
        (&report["nodes"][1]["node"], &report["nodes"][1]["state"]),
        (&"beta".into(), &"normal".into()),
        "{report}"
    );
    let hook = &report["resources"][0];
    assert_eq!(
        (&hook["name"], &hook["kind"], &hook["state"]),
        (&"hook".into(), &"script".into(), &"running".into()),
        "{report}"
    );
    assert!(
        hook["since"].as_str().unwrap().ends_with('Z') && hook["for_ms"].is_u64() && hook["restarts"] == 0,
        "{report}"
    );
    let evidence = &report["evidence"];
    assert_eq!((&evidence["peer"], &evidence["paths"][0]["up"]), (&"alive".into(), &true.into()), "{report}");
    assert_eq!((&evidence["arbiter"]["state"], &evidence["arbiter"]["owner"]), (&"reachable".into(), &"alpha".into()));
    assert_eq!(evidence["last_change"]["done"], true, "{report}");

    let explained: Value = serde_json::from_str(&pair.done(ALPHA, &["explain", "--json"])).unwrap();
    let serves = |kind: &str| {
        let losses = explained["losses"].as_array().unwrap();
        losses.iter().find(|loss| loss["loss"] == kind).unwrap()["serves"].clone()
    };
    assert_eq!(
        (serves("this-server"), serves("peer"), serves("path")),
        ("beta".into(), "alpha".into(), "alpha".into()),
        "{explained}"
    );
    assert_eq!(
        (serves("disk"), serves("arbiter"), serves("resource")),
        ("beta".into(), "alpha".into(), "beta".into()),
        "{explained}"
    );
    // What was rehearsed comes true.
    pair.kill9(BETA);
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, MIB as usize, 0x10);
    client.disconnect();
    wait_group(&mut pair, ALPHA, "alone", |group| group["alone"] == true && group["serving"] == true);
    let words = pair.done(ALPHA, &["group", "status"]);
    assert!(words.contains("beta: not heard (lost)") && words.contains("! alone: beta is excluded"), "{words}");
    let words = pair.done(ALPHA, &["explain", "db"]);
    assert!(words.contains("if alpha, this server died: nobody would serve"), "{words}");
    pair.fails(ALPHA, &["explain", "nothing"], 2, "no group \"nothing\"");
}

#[test]
fn what_is_not_fit_is_said_before_it_is_needed_and_enable_is_refused_with_the_reason() {
    let mut pair = running();
    pair.done(ALPHA, &["group", "disable"]);
    wait_group(&mut pair, BETA, "disabled, too", |group| group["reason"] == "disabled");

    // A script that beta could not run: seen there, told to alpha, and in the way of what would need it.
    let script = pair.path("script");
    std::fs::set_permissions(&script, Permissions::from_mode(0o644)).unwrap();
    let unfit = pair.wait("beta to see that it is not fit", |pair| {
        Some(report(pair, BETA)).filter(|report| report["resources"][0]["unfit"] == true)
    });
    assert!(unfit["resources"][0]["reason"].as_str().unwrap().contains("is not executable"), "{unfit}");
    assert!(unfit["resources"][0]["next"].as_str().unwrap().contains("chmod +x"), "{unfit}");
    assert!(unfit["notices"].to_string().contains("hook is stopped"), "{unfit}");
    pair.wait("alpha to hear of it", |pair| (report(pair, ALPHA)["evidence"]["peer_healthy"] == false).then_some(()));
    pair.fails(ALPHA, &["group", "enable"], 3, "refused (unhealthy)");
    pair.fails(ALPHA, &["group", "move"], 3, "beta is not healthy");
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    pair.wait("beta to be fit again", |pair| (report(pair, BETA)["resources"][0]["unfit"] == false).then_some(()));

    // What the operators want outlasts a restart of either daemon; without the other one nothing is enabled.
    pair.stop(BETA);
    pair.fails(ALPHA, &["group", "enable"], 3, "beta is not heard");
    pair.start(BETA);
    wait_group(&mut pair, BETA, "still disabled", |group| {
        group["reason"] == "disabled" && group["peer_state"].is_array()
    });
    pair.wait("enable to be allowed", |pair| (pair.verb(BETA, &["group", "enable"]).code == 0).then_some(()));
    wait_group(&mut pair, ALPHA, "the owner, with a fit standby", |group| group["peer_state"][0] == "normal");
}

#[test]
fn heartbeats_that_are_not_the_peers_are_seen_and_change_nothing() {
    let mut pair = running();
    // A third machine, or a misconfigured one: it has beta's address, and neither its secret nor its cluster.
    pair.stop(BETA);
    let stranger = UdpSocket::bind(pair.heartbeat(BETA)).unwrap();
    let keys = |secret: u8, cluster: &str| Keys::new(&[secret; 32], cluster, NodeId(1));
    let word = stranger_heartbeat();
    let envelope = |sequence| Envelope {
        group: "db".into(),
        node: NodeId(1),
        path: 0,
        incarnation: Incarnation(9),
        sequence,
        challenge: 1,
        echo: 1,
    };
    let report = pair.wait("the strangers to be seen", |pair| {
        stranger.send_to(&keys(1, "test").seal(&envelope(1), &word), pair.heartbeat(ALPHA)).unwrap();
        stranger.send_to(&keys(1, "other").seal(&envelope(2), &word), pair.heartbeat(ALPHA)).unwrap();
        let report = report(pair, ALPHA);
        let kinds = report["evidence"]["paths"][0]["refused"].to_string();
        (kinds.contains("wrong-key") && kinds.contains("other-cluster")).then_some(report)
    });
    let notices = report["notices"].to_string();
    assert!(notices.contains("(wrong-key)") && notices.contains("use the same file on both servers"), "{report}");
    assert!(notices.contains("(other-cluster)") && notices.contains("addresses and ports of its own"), "{report}");
    assert_eq!(
        (&report["nodes"][0]["role"], &report["nodes"][1]["heard"]),
        (&"owner".into(), &false.into()),
        "{report}"
    );
    let words = pair.wait("an alarm", |pair| {
        Some(pair.done(ALPHA, &["events"])).filter(|words| words.contains("[heartbeat-refused]"))
    });
    assert!(words.contains("datagrams were not taken (wrong-key)"), "{words}");
}

/// A heartbeat that would make alpha give up its group, were it believed.
fn stranger_heartbeat() -> Heartbeat {
    Heartbeat { epoch: Epoch(1000), role: GroupRole::Owner, version: [9, 9, 9], ..heartbeat(1, 9, 1) }
}
