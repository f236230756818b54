//! Everything a stranger can send from the peer's address.

use crate::node::{Node, secret, spec, until};
use crate::word::heartbeat;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use twinblock::base::ids::{Incarnation, NodeId};
use twinblock::base::limits::HEARTBEAT_BYTES_MAX;
use twinblock::runtime::config::secret::Secret;
use twinblock::wire::heartbeat::guard::Guard;
use twinblock::wire::heartbeat::{Envelope, Keys};

/// A node, and a socket in the place of its peer.
struct Scene {
    node: Node,
    peer: UdpSocket,
    keys: Keys,
    guard: Guard,
    life: u64,
}

impl Scene {
    fn new() -> Scene {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = free.local_addr().unwrap();
        peer.connect(address).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        drop(free);
        let node = Node::start(spec(0, 1, &[(address, peer.local_addr().unwrap())]));
        let keys = Keys::new(&secret().0, "lab", NodeId(1));
        Scene { node, peer, keys, guard: Guard::new(77), life: 5 }
    }

    fn envelope(&mut self) -> Envelope {
        let (sequence, challenge, echo) = self.guard.next(0);
        let (group, incarnation) = ("mail".to_string(), Incarnation(self.life));
        Envelope { group, node: NodeId(1), path: 0, incarnation, sequence, challenge, echo }
    }

    /// The next datagram of the true peer.
    fn next(&mut self) -> Vec<u8> {
        let envelope = self.envelope();
        self.keys.seal(&envelope, &heartbeat(1, self.life, envelope.sequence))
    }

    /// The true peer hears the node and is heard.
    fn meet(&mut self) {
        let mut bytes = [0; 2000];
        // What was sent before this life began is not heard by it.
        self.peer.set_nonblocking(true).unwrap();
        while self.peer.recv(&mut bytes).is_ok() {}
        self.peer.set_nonblocking(false).unwrap();
        self.node.beat();
        let count = self.peer.recv(&mut bytes).unwrap();
        let (envelope, _) = self.keys.open(&bytes[..count]).unwrap();
        let _ = self.guard.admit(&envelope);
        let next = self.next();
        self.expect_heard(&next);
    }

    fn expect_heard(&mut self, bytes: &[u8]) {
        self.node.forget();
        self.peer.send(bytes).unwrap();
        until("it is heard", &mut [&mut self.node], |nodes| nodes[0].hears(0));
    }

    fn expect_refused(&mut self, bytes: &[u8], reason: &str) {
        self.node.forget();
        let before = self.node.refused(reason);
        self.peer.send(bytes).unwrap();
        until(reason, &mut [&mut self.node], |nodes| nodes[0].refused(reason) == before + 1);
        assert!(!self.node.hears(0), "{reason}");
    }
}

#[test]
fn each_kind_of_nonsense_is_refused_by_its_name() {
    let mut scene = Scene::new();
    let unproven = scene.next();
    scene.expect_refused(&unproven, "unproven");
    scene.meet();
    let good = scene.next();
    scene.expect_refused(&good[..good.len() - 1], "truncated");
    scene.expect_refused(&[], "not-ours");
    scene.expect_refused(&vec![b'T'; HEARTBEAT_BYTES_MAX + 1], "oversized");
    scene.expect_refused(&vec![b'T'; 60_000], "oversized");
    scene.expect_refused(b"hello", "not-ours");
    let mut newer = good.clone();
    newer[8] += 1;
    scene.expect_refused(&newer, "other-version");
    let envelope = scene.envelope();
    let word = heartbeat(1, scene.life, envelope.sequence);
    let other_cluster = Keys::new(&secret().0, "prod", NodeId(1)).seal(&envelope, &word);
    scene.expect_refused(&other_cluster, "other-cluster");
    let wrong_key = Keys::new(&Secret::of(b"another secret").0, "lab", NodeId(1)).seal(&envelope, &word);
    scene.expect_refused(&wrong_key, "wrong-key");
    let own = Envelope { node: NodeId(0), ..envelope.clone() };
    let reflected = scene.keys.seal(&own, &heartbeat(0, scene.life, 1));
    scene.expect_refused(&reflected, "reflected");
    let other_path = scene.keys.seal(&Envelope { path: 1, ..envelope.clone() }, &word);
    scene.expect_refused(&other_path, "other-path");
    let other_group = scene.keys.seal(&Envelope { group: "files".into(), ..envelope }, &word);
    scene.expect_refused(&other_group, "other-group");
    // After all that the true peer is still believed, once.
    scene.expect_heard(&good);
    scene.expect_refused(&good, "replayed");
}

#[test]
fn recordings_of_a_former_life_are_refused_by_a_node_that_was_started_anew() {
    let mut scene = Scene::new();
    scene.meet();
    let recorded: Vec<Vec<u8>> = (0..5).map(|_| scene.next()).collect();
    scene.expect_heard(&recorded[0]);
    // The peer begins a new life.
    (scene.life, scene.guard) = (6, Guard::new(88));
    let first = scene.next();
    scene.expect_refused(&first, "unproven");
    scene.meet();
    for old in &recorded {
        scene.expect_refused(old, "unproven");
    }
    // Now this node does, and remembers nothing.
    let address = scene.node.beats.report()[0].local;
    let peer = scene.peer.local_addr().unwrap();
    scene.node = {
        let Scene { node, .. } = &mut scene;
        node.forget();
        let replacement = spec(0, 2, &[(address, peer)]);
        drop(std::mem::replace(node, Node::start(spec(0, 9, &[]))));
        Node::start(replacement)
    };
    // A child that another test has forked may hold the old socket for a moment, and so the address.
    until("its path is open", &mut [&mut scene.node], |nodes| nodes[0].beats.report()[0].sent > 0);
    for old in &recorded {
        scene.expect_refused(old, "unproven");
    }
    let live = scene.next();
    scene.expect_refused(&live, "unproven");
}

#[test]
fn a_clock_that_is_an_hour_off_is_none_of_our_business() {
    let mut scene = Scene::new();
    scene.meet();
    for sent in [0, 3_600_000_000_000, u64::MAX] {
        let envelope = scene.envelope();
        let mut word = heartbeat(1, scene.life, envelope.sequence);
        word.sent = twinblock::base::time::Moment(sent);
        let bytes = scene.keys.seal(&envelope, &word);
        scene.expect_heard(&bytes);
    }
}
