//! What the stand-in for the mirror does in the world: sessions, frames, orders, clients' writes.

use super::config::NAMES;
use super::mirror::{Frame, Mirror, Session, Writes, decide};
use super::node::Node;
use super::world::{Event, World, ms};
use std::time::Duration;
use twinblock::base::ids::Epoch;
use twinblock::base::state::{DiskState, Role};
use twinblock::logic::failover::interface::{Input, MirrorOrder, Way};

impl World {
    pub fn mirror(&mut self, node: usize) -> Option<&mut Mirror> {
        self.nodes[node].process.as_mut().map(|process| &mut process.mirror)
    }

    pub fn session(&mut self, node: usize, number: u64) -> Option<&mut Session> {
        self.mirror(node)?.session.as_mut().filter(|session| session.number == number)
    }

    /// Tells the core what the mirror is now.
    pub fn facts(&mut self, node: usize) {
        let here = &self.nodes[node];
        let Some(process) = &here.process else { return };
        let facts = process.mirror.facts(&here.disk, process.incarnation, here.boot);
        self.input(node, Input::Mirror(facts));
    }

    pub fn send(&mut self, from: usize, frame: Frame) {
        let Some(number) = self.mirror(from).and_then(|mirror| mirror.session.as_ref()).map(|session| session.number)
        else {
            return;
        };
        if self.link_cut {
            return;
        }
        let to = 1 - from;
        let delay = self.random.span(Duration::from_micros(50), ms(3));
        self.fifo[to] = self.fifo[to].max(self.now + delay);
        let when = self.fifo[to];
        self.at(when, Event::Frame { to, session: number, frame });
    }

    /// Ends the session at this end; the other end hears of it.
    pub fn end_session(&mut self, node: usize) {
        let Some(session) = self.mirror(node).and_then(|mirror| mirror.session.take()) else { return };
        let delay = if self.link_cut { ms(2_000) } else { ms(1) };
        self.after(delay, Event::LinkBreaks { at: 1 - node, session: session.number });
    }

    /// The cable is cut: both ends notice sooner or later.
    pub fn break_link(&mut self, at_once: bool) {
        for node in 0..2 {
            if let Some(session) = self.mirror(node).and_then(|mirror| mirror.session.clone()) {
                let delay = if at_once { ms(1) } else { ms(2_000) };
                self.after(delay, Event::LinkBreaks { at: node, session: session.number });
            }
        }
    }

    pub fn link_broke(&mut self, at: usize, number: u64) {
        if self.session(at, number).is_none() {
            return;
        }
        self.mirror(at).expect("it has a session").session = None;
        self.facts(at);
    }

    pub fn connect(&mut self) {
        self.after(ms(60), Event::Connect);
        let awake = self.nodes.iter().all(Node::is_awake);
        let free = self.nodes.iter().all(|node| {
            node.process.as_ref().is_some_and(|process| {
                process.mirror.session.is_none()
                    && !process.mirror.quiescing
                    && !process.mirror.prepared
                    && !process.mirror.failed
            })
        });
        if !awake || !free || self.link_cut {
            return;
        }
        let view = |node: &Node| {
            let process = node.process.as_ref().expect("awake");
            (process.mirror.clone(), node.disk.clone(), node.disk.memory(process.incarnation, node.boot))
        };
        let (a, b) = (view(&self.nodes[0]), view(&self.nodes[1]));
        let Some((first, whole)) = decide((&a.0, &a.1, a.2), (&b.0, &b.1, b.2)) else { return };
        self.sessions += 1;
        let number = self.sessions;
        self.fifo = [self.now; 2];
        let source = if first { 0 } else { 1 };
        self.say(|| {
            format!("link: session {number}, source {}, {}", NAMES[source], if whole { "whole" } else { "resync" })
        });
        let lives = [0, 1].map(|node: usize| self.nodes[node].process.as_ref().expect("awake").incarnation);
        for node in 0..2 {
            let session = Session {
                number,
                with: lives[1 - node],
                source: node == source,
                mirrors: whole,
                joined: false,
                copied: whole,
                qualified: false,
            };
            self.mirror(node).expect("awake").session = Some(session);
            self.after(ms(100), Event::KeepAlive { to: node, session: number });
        }
        if !whole {
            self.nodes[1 - source].disk.state = DiskState::Inconsistent;
            let time = self.random.span(ms(10), ms(1_500));
            self.after(time, Event::Copied { at: source, session: number });
        }
        self.facts(0);
        self.facts(1);
    }

    pub fn keep_alive(&mut self, to: usize, number: u64) {
        if self.session(to, number).is_none() {
            return;
        }
        let other = 1 - to;
        if self.nodes[other].is_awake() && self.session(other, number).is_some() && !self.link_cut {
            self.input(to, Input::LinkHeard);
        }
        self.after(ms(100), Event::KeepAlive { to, session: number });
    }

    pub fn frame(&mut self, to: usize, number: u64, frame: Frame) {
        if !self.nodes[to].is_awake() {
            if let Some(process) = &mut self.nodes[to].process {
                process.inbox.push_back((number, frame));
            }
            return;
        }
        if self.session(to, number).is_none() || self.nodes[to].disk_fails {
            return;
        }
        match frame {
            Frame::Write(write) => {
                if self.mirror(to).is_some_and(|mirror| mirror.role == Role::Secondary) {
                    self.nodes[to].disk.written.insert(write);
                    self.send(to, Frame::Written(write));
                }
            }
            Frame::Written(write) => {
                let mirror = self.mirror(to).expect("awake");
                mirror.confirmed.insert(write);
                self.acknowledge(to);
            }
            Frame::Qualified(writes, lineage) => {
                let node = &mut self.nodes[to];
                // The target becomes the source's copy; what only it had is gone.
                let extra: Vec<u32> = node.disk.written.missing_in(&writes).collect();
                for write in extra {
                    node.disk.written.remove(write);
                }
                node.disk.written.unite(&writes);
                node.disk.flush();
                node.disk.state = DiskState::UpToDate;
                node.disk.lineage = lineage;
                node.disk.peer_outdated = false;
                self.joined(to);
                self.send(to, Frame::Joined);
            }
            Frame::Joined => {
                let disk = &mut self.nodes[to].disk;
                disk.flush();
                disk.lineage.joined();
                self.joined(to);
                let held = self.nodes[1 - to].disk.written.clone();
                if let Some(mirror) = self.mirror(to) {
                    mirror.confirmed.unite(&held);
                }
                self.acknowledge(to);
            }
        }
    }

    pub fn joined(&mut self, node: usize) {
        let boot = self.nodes[node].boot;
        let incarnation = self.nodes[node].process.as_ref().expect("awake").incarnation;
        self.nodes[node].disk.join = Some((incarnation, boot));
        let mirror = self.mirror(node).expect("awake");
        mirror.alone = false;
        if let Some(session) = &mut mirror.session {
            session.joined = true;
            session.mirrors = true;
        }
        self.facts(node);
    }

    /// What an order does at once: it stops what must not go on.
    pub fn begin_order(&mut self, node: usize, id: u64, order: MirrorOrder) {
        match order {
            MirrorOrder::PrepareSolo => {
                self.mirror(node).expect("alive").holding = true;
                self.end_session(node);
            }
            MirrorOrder::PrepareTakeover => {
                self.mirror(node).expect("alive").prepared = true;
                self.end_session(node);
            }
            MirrorOrder::Outdate => {
                self.end_session(node);
                if self.nodes[node].disk.state == DiskState::UpToDate {
                    self.nodes[node].disk.state = DiskState::Outdated;
                }
            }
            MirrorOrder::Quiesce => self.mirror(node).expect("alive").quiescing = true,
            MirrorOrder::Demote => {
                let mirror = self.mirror(node).expect("alive");
                mirror.role = Role::Secondary;
                mirror.alone = false;
                mirror.cancelled = id;
                mirror.quiescing = false;
                (mirror.holding, mirror.prepared) = (false, false);
                mirror.pending.clear();
                self.end_session(node);
            }
            _ => {}
        }
    }

    pub fn ordered(&mut self, at: usize, life: u64, id: u64, order: MirrorOrder) {
        if self.nodes[at].lives != life || self.nodes[at].process.is_none() {
            return;
        }
        if !self.nodes[at].is_awake() {
            self.after(ms(5), Event::Ordered { at, life, id, order });
            return;
        }
        if order == MirrorOrder::Quiesce && !self.mirror(at).expect("awake").pending.is_empty() {
            let joined = self.mirror(at).expect("awake").is_joined();
            if joined {
                self.after(ms(5), Event::Ordered { at, life, id, order });
                return;
            }
        }
        let cancelled = self.mirror(at).expect("awake").cancelled > id;
        let result = if cancelled { Err("cancelled".to_string()) } else { self.do_order(at, order) };
        self.facts(at);
        self.input(at, Input::MirrorDone { id, result });
    }

    pub fn do_order(&mut self, at: usize, order: MirrorOrder) -> Result<(), String> {
        let broken = self.nodes[at].disk_fails;
        let nonce = self.random.next();
        let peer_secondary =
            self.nodes[1 - at].process.as_ref().is_some_and(|process| process.mirror.role == Role::Secondary);
        if broken && !matches!(order, MirrorOrder::Demote | MirrorOrder::CloseDoor) {
            let mirror = self.mirror(at).expect("awake");
            (mirror.quiescing, mirror.holding, mirror.prepared) = (false, false, false);
            return Err("the disk failed".into());
        }
        match order {
            MirrorOrder::PrepareSolo | MirrorOrder::PrepareTakeover => self.nodes[at].disk.flush(),
            MirrorOrder::CloseDoor => {
                let mirror = self.mirror(at).expect("awake");
                (mirror.holding, mirror.prepared) = (false, false);
                self.acknowledge(at);
            }
            MirrorOrder::AllowPeerOnly | MirrorOrder::Demote | MirrorOrder::Outdate => {}
            MirrorOrder::OpenSolo { epoch } => {
                self.end_session(at);
                self.nodes[at].disk.bump(epoch, nonce);
                let mirror = self.mirror(at).expect("awake");
                (mirror.alone, mirror.holding) = (true, false);
                self.history.flushed();
                self.acknowledge(at);
            }
            MirrorOrder::Promote { epoch, way, cache_epoch } => {
                if way == Way::Claim && !(self.shares_session(at) && peer_secondary && self.data_counts(at)) {
                    return Err("the other node did not agree".into());
                }
                self.promote(at, epoch, way, cache_epoch, nonce);
            }
            MirrorOrder::Qualify => self.qualify(at),
            MirrorOrder::Quiesce => {
                let mirror = self.mirror(at).expect("awake");
                mirror.quiescing = false;
                if !mirror.pending.is_empty() {
                    return Err("the link was lost with writes under way".into());
                }
                mirror.role = Role::Secondary;
                self.nodes[at].disk.flush();
                if self.is_heard(at) {
                    self.nodes[1 - at].disk.flush();
                    self.history.flushed();
                }
            }
        }
        Ok(())
    }

    pub fn promote(&mut self, at: usize, epoch: Epoch, way: Way, cache_epoch: Option<u64>, nonce: u64) {
        let whole = self.mirror(at).expect("awake").session.as_ref().is_some_and(|session| session.mirrors);
        let alone = matches!(way, Way::Takeover | Way::Forced) || way == Way::Claim && !whole;
        self.history.promoted(&self.nodes, at, way);
        let boot = self.nodes[at].boot;
        let process = self.nodes[at].process.as_mut().expect("awake");
        process.mirror.role = Role::Primary;
        process.mirror.prepared = false;
        process.mirror.alone = alone;
        let incarnation = process.incarnation;
        let disk = &mut self.nodes[at].disk;
        disk.seen_epoch = disk.seen_epoch.max(epoch);
        disk.cache_epoch = cache_epoch.unwrap_or(disk.cache_epoch).max(disk.cache_epoch);
        disk.join = Some((incarnation, boot));
        if alone {
            if way != Way::Claim {
                self.end_session(at);
            }
            self.nodes[at].disk.bump(epoch, nonce);
            self.nodes[at].disk.flush();
            self.history.flushed();
        }
    }

    pub fn qualify(&mut self, at: usize) {
        let writes = self.nodes[at].disk.written.clone();
        let lineage = self.nodes[at].disk.lineage.clone();
        let Some(session) = self.mirror(at).and_then(|mirror| mirror.session.as_mut()) else { return };
        if !session.source || session.qualified {
            return;
        }
        session.qualified = true;
        session.mirrors = true;
        self.mirror(at).expect("awake").alone = false;
        self.nodes[at].disk.peer_outdated = false;
        self.send(at, Frame::Qualified(writes, lineage));
    }

    /// Whether the other end of the session is there to answer.
    pub fn shares_session(&self, node: usize) -> bool {
        let session = |node: usize| {
            let process = self.nodes[node].process.as_ref()?;
            process.mirror.session.as_ref().map(|session| session.number)
        };
        self.nodes[1 - node].is_awake() && session(node).is_some() && session(0) == session(1) && !self.link_cut
    }

    /// Whether this node is in sync, or a resync's source.
    fn data_counts(&self, node: usize) -> bool {
        let session = self.nodes[node].process.as_ref().and_then(|process| process.mirror.session.as_ref());
        session.is_some_and(|session| session.joined || session.source)
    }

    /// Whether the session's other end is there, and both are in sync.
    pub fn is_heard(&self, node: usize) -> bool {
        let joined = |node: &Node| node.process.as_ref().is_some_and(|process| process.mirror.is_joined());
        self.shares_session(node) && self.nodes.iter().all(joined)
    }

    /// A client's flush: done when every disk that counts has flushed.
    pub fn flush_cycle(&mut self, node: usize) {
        let Some(mirror) = self.mirror(node) else { return };
        let (primary, alone) = (mirror.role == Role::Primary, mirror.alone);
        let joined = self.is_heard(node);
        let other = !self.nodes[1 - node].disk_fails;
        if !primary || !self.nodes[node].is_awake() || self.nodes[node].disk_fails || !(alone || joined && other) {
            return;
        }
        self.nodes[node].disk.flush();
        if !alone {
            self.nodes[1 - node].disk.flush();
        }
        self.history.flushed();
    }

    // --- clients

    pub fn write(&mut self, node: usize) {
        let gap = self.random.span(self.config.write_gap / 4, self.config.write_gap);
        self.after(gap, Event::Write(node));
        let now = self.now;
        if !self.nodes[node].is_awake() || self.nodes[node].disk_fails {
            return;
        }
        self.acknowledge(node);
        let mirror = self.mirror(node).expect("awake");
        if mirror.role != Role::Primary || mirror.quiescing || mirror.pending.len() > 20 {
            return;
        }
        if self.nodes[node].may_reply(now) {
            self.history.read(&self.nodes, node, now);
        }
        self.next_write += 1;
        let write = self.next_write;
        self.nodes[node].disk.written.insert(write);
        let mirror = self.mirror(node).expect("awake");
        mirror.pending.push(write);
        let sends = mirror.session.is_some();
        if sends {
            self.send(node, Frame::Write(write));
        }
        self.acknowledge(node);
        self.facts(node);
    }

    /// Acknowledges what may be acknowledged, through the gate.
    pub fn acknowledge(&mut self, node: usize) {
        let now = self.now;
        if !self.nodes[node].may_reply(now) {
            return;
        }
        let Some(mirror) = self.mirror(node) else { return };
        if mirror.role != Role::Primary || mirror.holding {
            return;
        }
        let mut pending = Writes::default();
        mirror.pending.iter().for_each(|write| pending.insert(*write));
        let unconfirmed: Vec<u32> =
            if mirror.alone { Vec::new() } else { pending.missing_in(&mirror.confirmed).collect() };
        let ready: Vec<u32> = mirror.pending.iter().copied().filter(|write| !unconfirmed.contains(write)).collect();
        mirror.pending = unconfirmed;
        for write in ready {
            self.history.acknowledged(&mut self.nodes, node, write, now);
        }
    }
}
