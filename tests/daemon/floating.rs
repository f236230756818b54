//! Two servers and a client in network namespaces: NBD clients find the volume at its floating address, whoever owns it.

use crate::pair::{ALPHA, BETA, NODES, Pair, assert_holds, write};
use crate::town::{PORT, Town, floating, skipped, v4};
use serde_json::Value;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use twinblock::runtime::demo::nbd::NbdClient;

const MIB: u64 = 1 << 20;
/// Two servers in the town, with a group that has both floating addresses; nothing runs yet.
fn pair(town: &Town, failover: &str) -> Pair {
    let mut pair = Pair::initialised("", "64MiB");
    let [four, six] = floating();
    let nbd = format!("nbd = [\"tcp:{}\", \"tcp:{}\"]", SocketAddr::new(four, PORT), SocketAddr::new(six, PORT));
    let mut text = "cluster = \"test\"\nsecret_file = \"secret\"\n".to_string();
    for (name, host) in [("alpha", v4(1)), ("beta", v4(2))] {
        text.push_str(&format!(
            "[[node]]\nname = \"{name}\"\nmirror = [\"{host}:7100\"]\nheartbeat = [\"{host}:7200\"]\n\
             control = \"{name}.sock\"\nstate_dir = \"{name}.d\"\n"
        ));
    }
    text.push_str("[[volume]]\nname = \"vol0\"\n");
    for name in ["alpha", "beta"] {
        text.push_str(&format!("[volume.on.{name}]\ndisk = \"{name}.img\"\n{nbd}\n"));
    }
    text.push_str(failover);
    text.push_str(&format!(
        "[[group]]\nname = \"db\"\nhome = \"alpha\"\nvolumes = [\"vol0\"]\n\
         [[group.address]]\nname = \"four\"\naddress = \"{four}\"\n[[group.address]]\nname = \"six\"\naddress = \"{six}\"\n"
    ));
    std::fs::write(pair.path("pair.toml"), text).unwrap();
    pair.spaces = [ALPHA, BETA].map(|node| Some(town.hosts[node].clone()));
    pair
}

fn running(town: &Town) -> Pair {
    let failover = "[failover]\nmode = \"arbiter\"\n[arbiter]\nkind = \"file\"\ndirectory = \"arbiter\"\n";
    let mut pair = pair(town, failover);
    std::fs::create_dir(pair.path("arbiter")).unwrap();
    pair.start(ALPHA);
    pair.start(BETA);
    wait_owner(&mut pair, ALPHA);
    pair.wait_in_sync(ALPHA);
    pair
}

/// In the mode that goes by pings alone, with the client as the host that is pinged.
fn running_by_pings(town: &Town) -> Pair {
    let failover = format!(
        "[failover]\nmode = \"best-effort\"\naccept_split_brain_risk = true\nping = [\"{}\", \"{}\"]\n",
        v4(77),
        v4(3)
    );
    let mut pair = pair(town, &failover);
    pair.start(ALPHA);
    pair.start(BETA);
    wait_owner(&mut pair, ALPHA);
    pair.wait_in_sync(ALPHA);
    pair
}

fn group(pair: &Pair, node: usize) -> Value {
    let groups: Value = serde_json::from_str(&pair.done(node, &["group", "status", "--json"])).unwrap();
    groups[0]["group"].clone()
}

fn wait_owner(pair: &mut Pair, node: usize) {
    pair.wait("the owner", |pair| {
        let group = group(pair, node);
        let running = group["resources"].as_array().unwrap().iter().all(|resource| resource[1] == "running");
        (group["role"] == "owner" && group["serving"] == true && running).then_some(())
    });
}

#[test]
fn clients_find_the_volume_at_its_floating_address_wherever_it_is() {
    if skipped() {
        return;
    }
    let town = Town::new();
    let mut pair = running(&town);
    let mut clients = floating().map(|address| town.client(&mut pair, address));
    write(&mut clients[0], 0, 3 << 20, 0x11);
    assert_holds(&mut clients[1], 0, 3 << 20, 0x11);
    let mut silent = floating().map(|address| town.silent_client(address));

    pair.done(ALPHA, &["group", "move"]);
    wait_owner(&mut pair, BETA);
    for (address, silent) in floating().into_iter().zip(&mut silent) {
        // Who says nothing can't learn it from the new owner: the old one has said it while it had the address.
        let ended = silent.read(&mut [0]).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset, "a client of {address} was left hanging: {ended}");
        assert!(!town.has(ALPHA, address) && town.has(BETA, address));
    }
    let ended = clients.each_mut().map(|client| client.flush().unwrap_err().kind());
    assert_eq!(ended, [ErrorKind::ConnectionReset; 2]);
    let mut clients = floating().map(|address| town.client(&mut pair, address));
    assert_holds(&mut clients[0], 0, 3 << 20, 0x11);
    write(&mut clients[1], 4 * MIB, MIB as usize, 0x22);

    // The owner crashes; its kernel goes on, and keeps the addresses.
    pair.kill9(BETA);
    assert!(town.has(BETA, v4(50)));
    let mut clients = floating().map(|address| town.client(&mut pair, address));
    assert_holds(&mut clients[0], 4 * MIB, MIB as usize, 0x22);
    write(&mut clients[1], 5 * MIB, MIB as usize, 0x33);

    // It returns, and has given the addresses up before it is ready.
    pair.start(BETA);
    let ready = floating().map(|address| (town.has(ALPHA, address), town.has(BETA, address)));
    assert_eq!(ready, [(true, false); 2], "a returning server answers for what it does not own");
    assert!(town.has(BETA, v4(2)), "its own address stays");
    pair.wait_in_sync(ALPHA);
    assert_holds(&mut clients[0], 5 * MIB, MIB as usize, 0x33);
    clients.into_iter().for_each(NbdClient::disconnect);
    pair.stop_identical([BETA, ALPHA]);
    for address in floating() {
        assert!(!town.has(ALPHA, address) && !town.has(BETA, address), "{address} was left behind");
    }
}

#[test]
fn by_pings_alone_a_dead_owner_is_replaced_and_an_isolated_one_gives_way() {
    if skipped() {
        return;
    }
    let town = Town::new();
    let mut pair = running_by_pings(&town);
    let status = pair.done(ALPHA, &["group", "status"]);
    assert!(status.contains("two servers may serve at once"), "the risk is shown all the time: {status}");
    let mut client = town.client(&mut pair, v4(50));
    write(&mut client, 0, MIB as usize, 0x11);
    // Cut off from everybody: the owner reaches nobody of the list, the standby does and hears nobody else.
    town.switch.set_up("p0", false).unwrap();
    let mut client = town.client(&mut pair, v4(50));
    assert_holds(&mut client, 0, MIB as usize, 0x11);
    write(&mut client, MIB, MIB as usize, 0x22);
    let isolated = group(&pair, ALPHA);
    assert_eq!(isolated["serving"], false, "{isolated}");
    assert!(!town.has(ALPHA, v4(50)), "an isolated owner keeps no address");
    town.switch.set_up("p0", true).unwrap();
    wait_owner(&mut pair, BETA);
    pair.wait_in_sync(BETA);
    assert_holds(&mut client, MIB, MIB as usize, 0x22);
}

#[test]
fn by_pings_alone_two_servers_apart_both_serve_and_that_is_seen_and_nothing_is_overwritten() {
    if skipped() {
        return;
    }
    let town = Town::new();
    let mut pair = running_by_pings(&town);
    let mut client = town.client(&mut pair, v4(50));
    write(&mut client, 0, MIB as usize, 0x11);
    // Each still reaches the host that is pinged, and not the other server.
    town.switch.keep_apart(["p0", "p1"], true).unwrap();
    write(&mut client, MIB, MIB as usize, 0x22);
    wait_owner(&mut pair, BETA);
    wait_owner(&mut pair, ALPHA);
    town.switch.keep_apart(["p0", "p1"], false).unwrap();
    for node in [ALPHA, BETA] {
        pair.wait_status(node, "refused as a split brain", |status| {
            status["link"] == "refused" && status["link_reason"].as_str().is_some_and(|why| why.contains("split-brain"))
        });
    }
    // What only one side has is still there.
    let holds = |node: &str| {
        let image = std::fs::read(pair.path(&format!("{node}.img"))).unwrap();
        image[MIB as usize..2 * MIB as usize].iter().all(|byte| *byte == 0x22)
    };
    assert!(holds("alpha") && !holds("beta"), "nothing may be copied before somebody has chosen");

    // Both say what to do, and it works: neither copy is given up while its server serves.
    for node in [ALPHA, BETA] {
        pair.wait("the group to know of the split brain", |pair| {
            let words = pair.done(node, &["group", "status"]);
            (words.contains("(split brain)") && words.contains("split-brain resolve --discard NODE")).then_some(())
        });
    }
    // Of two owners that hear each other again one has given way; the other one goes on, and its copy is not given up.
    let kept = pair.wait("one of them to serve", |pair| {
        let serves = [ALPHA, BETA].map(|node| pair.status(node)["role"] == "primary");
        match serves {
            [true, false] => Some(ALPHA),
            [false, true] => Some(BETA),
            _ => None,
        }
    });
    let lost = 1 - kept;
    let discard = |node: usize| ["split-brain", "resolve", "vol0", "--discard", NODES[node], "--yes", "--wait"];
    pair.fails(kept, &discard(kept), 3, "which stops it on both servers: `group stop db`");
    pair.fails(lost, &discard(kept), 3, "is primary of vol0");
    pair.done(kept, &discard(lost));
    wait_owner(&mut pair, kept);
    pair.wait_in_sync(kept);
    if kept == ALPHA {
        let mut client = town.client(&mut pair, v4(50));
        assert_holds(&mut client, MIB, MIB as usize, 0x22);
        client.disconnect();
    }
    let archives = pair.done(lost, &["archive", "list"]);
    assert!(archives.contains(&format!("vol0-{}-", NODES[lost])), "what only it had is kept: {archives}");
}
