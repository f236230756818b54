//! Two namespaces, two cables: paths that are cut, addresses that come and go, daemons that end.

use crate::namespaces::{World, address};
use crate::node::{Node, spec, until};
use std::net::SocketAddr;

const PORT: u16 = 7790;

fn start(world: &World, node: usize, incarnation: u64) -> Node {
    let at = |node: usize, path| format!("{}:{PORT}", address(node, path)).parse::<SocketAddr>().unwrap();
    let paths = [(at(node, 0), at(1 - node, 0)), (at(node, 1), at(1 - node, 1))];
    world.inside(node, move || Node::start(spec(node as u8, incarnation, &paths)))
}

/// Both hear each other on all of these paths, in news.
fn hear(what: &str, nodes: &mut [&mut Node], paths: &[usize]) {
    nodes.iter_mut().for_each(|node| node.forget());
    until(what, nodes, |nodes| paths.iter().all(|path| nodes.iter().all(|node| node.hears(*path))));
}

/// Heartbeats pass on the second path and not on the first.
fn hear_only_on_the_second(nodes: &mut [&mut Node]) {
    // What was under way has come when this many later ones have come on the other path.
    nodes.iter_mut().for_each(|node| node.forget());
    until("the other path goes on", nodes, |nodes| nodes.iter().all(|node| node.heard[1].len() > 10));
    nodes.iter_mut().for_each(|node| node.forget());
    until("the other path goes on", nodes, |nodes| nodes.iter().all(|node| node.heard[1].len() > 20));
    assert!(nodes.iter().all(|node| !node.hears(0)), "a path that is cut carries nothing");
}

#[test]
fn a_path_is_cut_and_mended() {
    let Some(world) = World::new() else { return };
    let (mut a, mut b) = (start(&world, 0, 1), start(&world, 1, 2));
    let mut nodes = [&mut a, &mut b];
    hear("at first", &mut nodes, &[0, 1]);
    for side in [0, 1] {
        world.set_link(side, 0, false);
        hear_only_on_the_second(&mut nodes);
        world.set_link(side, 0, true);
        hear("mended", &mut nodes, &[0, 1]);
    }
    // Both at once, as when a switch is restarted.
    world.set_link(0, 0, false);
    world.set_link(1, 1, false);
    std::thread::sleep(std::time::Duration::from_millis(50));
    world.set_link(0, 0, true);
    world.set_link(1, 1, true);
    hear("both mended", &mut nodes, &[0, 1]);
    let sent = nodes[0].beats.report()[0].sent;
    until("troubles are over", &mut nodes, |nodes| {
        nodes[0].beats.report()[0].sent > sent
            && nodes.iter().all(|node| (0..2).all(|path| node.trouble(path).is_none()))
    });
}

#[test]
fn an_address_that_is_not_there_yet_is_waited_for() {
    let Some(world) = World::new() else { return };
    world.remove_address(0, 0);
    let (mut a, mut b) = (start(&world, 0, 1), start(&world, 1, 2));
    let trouble = a.trouble(0).expect("it is said");
    assert!(trouble.contains(&address(0, 0)) && trouble.contains("does not have the address"), "{trouble}");
    assert_eq!(a.trouble(1), None);
    let mut nodes = [&mut a, &mut b];
    hear_only_on_the_second(&mut nodes);
    world.add_address(0, 0);
    hear("the address has come", &mut nodes, &[0, 1]);
    assert_eq!(nodes[0].trouble(0), None);
    // It goes and comes again.
    world.remove_address(0, 0);
    hear_only_on_the_second(&mut nodes);
    until("it is said again", &mut nodes, |nodes| nodes[0].trouble(0).is_some());
    world.add_address(0, 0);
    hear("the address has come back", &mut nodes, &[0, 1]);
    assert_eq!(nodes[0].trouble(0), None);
}

#[test]
fn a_daemon_that_ended_is_told_at_once_by_its_host() {
    let Some(world) = World::new() else { return };
    let (mut a, mut b) = (start(&world, 0, 1), start(&world, 1, 2));
    hear("at first", &mut [&mut a, &mut b], &[0, 1]);
    drop(b);
    a.forget();
    until("its host says so", &mut [&mut a], |nodes| nodes[0].unheard.iter().all(|times| *times > 0));
    assert_eq!((a.trouble(0), a.trouble(1)), (None, None), "nothing is wrong with the paths");
    // The next life is believed, and no other one.
    let mut b = start(&world, 1, 3);
    hear("a new life", &mut [&mut a, &mut b], &[0, 1]);
    assert!(a.heard.iter().flatten().all(|heartbeat| heartbeat.incarnation.0 == 3));
    // A host that is not there says nothing: silence is no evidence.
    world.set_link(1, 0, false);
    world.set_link(1, 1, false);
    drop(b);
    a.forget();
    for _ in 0..20 {
        a.beat();
        a.take();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(a.unheard, [0, 0]);
}
