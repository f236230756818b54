//! One node: sends when told, and keeps what it heard.

use crate::word::heartbeat;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;
use twinblock::base::heartbeat::Heartbeat;
use twinblock::base::ids::{Incarnation, NodeId};
use twinblock::io::clock::now;
use twinblock::runtime::config::secret::Secret;
use twinblock::runtime::heartbeat::{Event, HeartbeatSpec, Heartbeats, PathSpec};

/// Longest wait for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between two heartbeats.
const INTERVAL: Duration = Duration::from_millis(10);

pub struct Node {
    pub beats: Heartbeats,
    events: Receiver<Event>,
    number: u8,
    incarnation: Incarnation,
    paths: usize,
    sequence: u64,
    /// Heard on each path since it was asked last.
    pub heard: Vec<VecDeque<Heartbeat>>,
    /// Times the peer's host said that nobody listens, by path.
    pub unheard: Vec<usize>,
}

pub fn secret() -> Secret {
    Secret::of(b"a secret of the tests")
}

pub fn spec(number: u8, incarnation: u64, paths: &[(SocketAddr, SocketAddr)]) -> HeartbeatSpec {
    let path = |(index, (local, peer)): (usize, &(SocketAddr, SocketAddr))| PathSpec {
        name: format!("path{index}"),
        local: *local,
        peer: *peer,
    };
    HeartbeatSpec {
        cluster: "lab".into(),
        secret: secret(),
        node: NodeId(number),
        names: ["alpha".into(), "beta".into()],
        incarnation: Incarnation(incarnation),
        groups: vec!["web".into(), "mail".into()],
        paths: paths.iter().enumerate().map(path).collect(),
    }
}

impl Node {
    pub fn start(spec: HeartbeatSpec) -> Node {
        let (number, incarnation, paths) = (spec.node.0, spec.incarnation, spec.paths.len());
        let (beats, events) = Heartbeats::start(spec).unwrap();
        let (heard, unheard) = (vec![VecDeque::new(); paths], vec![0; paths]);
        Node { beats, events, number, incarnation, paths, sequence: 0, heard, unheard }
    }

    /// Sends on every path, about the second group.
    pub fn beat(&mut self) {
        for path in 0..self.paths {
            self.sequence += 1;
            self.beats.send(path, 1, &heartbeat(self.number, self.incarnation.0, self.sequence));
        }
    }

    /// Takes what was heard.
    pub fn take(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Heard { group, path, at, heartbeat } => {
                    assert!(group == 1 && at <= now());
                    self.heard[path].push_back(*heartbeat);
                }
                Event::Unheard { path, .. } => self.unheard[path] += 1,
            }
        }
    }

    pub fn forget(&mut self) {
        self.take();
        self.heard.iter_mut().for_each(VecDeque::clear);
        self.unheard.fill(0);
    }

    pub fn hears(&self, path: usize) -> bool {
        !self.heard[path].is_empty()
    }

    pub fn trouble(&self, path: usize) -> Option<String> {
        self.beats.report()[path].trouble.clone()
    }

    /// How many datagrams were refused for this reason on the first path.
    pub fn refused(&self, reason: &str) -> u64 {
        let report = &self.beats.report()[0];
        report.refused.iter().find(|refused| refused.kind == reason).map_or(0, |refused| refused.count)
    }
}

/// Has the nodes beat until what is awaited has come.
pub fn until(what: &str, nodes: &mut [&mut Node], mut come: impl FnMut(&[&mut Node]) -> bool) {
    let began = Instant::now();
    loop {
        for node in nodes.iter_mut() {
            node.take();
        }
        if come(nodes) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {:?}", nodes.iter().map(|n| n.beats.report()).collect::<Vec<_>>());
        for node in nodes.iter_mut() {
            node.beat();
        }
        std::thread::sleep(INTERVAL);
    }
}
