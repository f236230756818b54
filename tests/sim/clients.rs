//! Clients: each has its connection, asks for overlapping ranges on purpose, and after a failover connects to the node
//! that serves and asks again for what was not answered, as the kernel's block driver does. A client whose cache epoch
//! is over has lost its device: what it had asked for is given up.

use super::content::{self, SECTOR, Value, ZEROES};
use super::node::{Ask, Connection, NAMES, Work};
use super::world::{Event, World};
use std::collections::VecDeque;
use std::time::Duration;
use twinblock::base::limits::PIECE_BYTES_MAX;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::request::Outcome;
use twinblock::base::state::{DiskState, LinkState, Mode};

/// Time a client waits before it looks for a node that serves.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(300));

/// One client.
pub struct Client {
    /// Which of its connections is the current one; zero for none.
    connection: u64,
    connections_made: u64,
    node: usize,
    /// What it is bound to since it first connected.
    cache_epoch: Option<u64>,
    line: usize,
    /// Asked and not answered.
    pub unanswered: Vec<Ask>,
    serial: u64,
    /// It asks for nothing new.
    pub idle: bool,
    /// What a scenario wants done, before anything random.
    pub script: VecDeque<Work>,
    /// Operations answered with an error.
    pub errors: u64,
    /// Operations answered well.
    pub answered: u64,
}

impl Client {
    pub fn new() -> Client {
        Client {
            connection: 0,
            connections_made: 0,
            node: 0,
            cache_epoch: None,
            line: 0,
            unanswered: Vec::new(),
            serial: 0,
            idle: false,
            script: VecDeque::new(),
            errors: 0,
            answered: 0,
        }
    }

    /// The connection is gone, whoever cut it.
    pub fn lost_connection(&mut self) {
        self.connection = 0;
    }

    /// A daemon has cut this connection, which need not be the current one.
    pub fn lost(&mut self, connection: u64) {
        if self.connection == connection {
            self.connection = 0;
        }
    }

    /// Whether it has a connection, and to whom.
    pub fn connected_to(&self) -> Option<usize> {
        (self.connection != 0).then_some(self.node)
    }
}

/// The bytes of a write.
pub fn fill_range(value: Value, range: ByteRange, out: &mut [u8]) {
    let first = range.offset / SECTOR as u64;
    for (index, sector) in out.chunks_exact_mut(SECTOR).enumerate() {
        content::fill(value, first + index as u64, sector);
    }
}

impl World {
    /// All clients begin to look for a node that serves.
    pub fn wake_clients(&mut self) {
        for client in 0..self.clients.len() {
            self.schedule_client(client, Duration::from_millis(1));
        }
    }

    /// Makes a client look around after a while, and only then.
    pub fn schedule_client(&mut self, client: usize, delay: Duration) {
        self.clients[client].serial += 1;
        let serial = self.clients[client].serial;
        self.after(delay, Event::Client { client, serial });
    }

    /// A client looks around.
    pub fn client_wakes(&mut self, client: usize, serial: u64) {
        if self.clients[client].serial != serial {
            return;
        }
        if self.clients[client].connection == 0 && !self.client_connects(client) {
            let delay = self.span(RECONNECT);
            return self.schedule_client(client, delay);
        }
        let this = &self.clients[client];
        if this.unanswered.len() < self.config.depth
            && let Some(work) = self.next_work(client)
        {
            self.client_asks(client, work);
        }
        let delay = if self.clients[client].script.is_empty() {
            self.span(self.config.think)
        } else {
            Duration::from_micros(50)
        };
        self.schedule_client(client, delay);
    }

    fn next_work(&mut self, client: usize) -> Option<Work> {
        if let Some(work) = self.clients[client].script.pop_front() {
            return Some(work);
        }
        (self.active && !self.clients[client].idle).then(|| self.random_work())
    }

    /// Connects to the node that serves; of two (after a forced promotion) to either.
    fn client_connects(&mut self, client: usize) -> bool {
        let reachable = |node: usize| self.group().is_none() || self.holds_address(node);
        let open = |node: &usize| self.serves(*node) && self.operator.draining != Some(*node) && reachable(*node);
        let mut serving: Vec<usize> = (0..2).filter(open).collect();
        if serving.len() == 2 {
            // A primary that lost its disk and its peer lets clients in, and can't do anything for them.
            serving.retain(|node| self.view(*node).is_some_and(|view| view.serving));
        }
        if serving.is_empty() {
            return false;
        }
        let node = *self.random.pick(&serving);
        let line = self.nodes[node].line;
        let Some(process) = self.nodes[node].process.as_mut().filter(|p| p.turns() && !p.stopping) else {
            return false;
        };
        let serving = process.mirror.serving().expect("it serves");
        let this = &mut self.clients[client];
        this.connections_made += 1;
        this.connection = this.connections_made;
        this.node = node;
        let same_device = this.cache_epoch == Some(serving.cache_epoch) && this.line == line;
        let unanswered = if same_device { this.unanswered.clone() } else { std::mem::take(&mut this.unanswered) };
        this.cache_epoch = Some(serving.cache_epoch);
        this.line = line;
        let mut socket = VecDeque::new();
        let fits = |ask: &Ask| ask.work.range().is_none_or(|range| range.end() <= serving.size_bytes);
        for mut ask in unanswered {
            if same_device && fits(&ask) {
                ask.connection = this.connection;
                self.next_op += 1;
                if ask.work.range().is_some() {
                    self.history.asked_again(ask.op, self.next_op, ask.work.value(), self.now);
                }
                ask.op = self.next_op;
                socket.push_back(ask);
            } else if ask.work.range().is_some() {
                self.history.given_up(ask.op);
            }
        }
        if same_device {
            this.unanswered = socket.iter().copied().collect();
        }
        self.log.say(|| format!("client {client} connects to {}, asks again for {}", NAMES[node], socket.len()));
        let connection = Connection { serial: this.connection, cache_epoch: serving.cache_epoch, socket };
        process.connections.insert(client, connection);
        self.wake(node, Duration::from_micros(50));
        true
    }

    /// A client asks for something.
    pub fn client_asks(&mut self, client: usize, work: Work) {
        self.next_op += 1;
        let op = self.next_op;
        let work = match work {
            Work::Write { range, fua, .. } => Work::Write { range, value: op, fua },
            other => other,
        };
        let this = &mut self.clients[client];
        let ask = Ask { client, connection: this.connection, op, work, asked: self.now };
        this.unanswered.push(ask);
        let (node, line) = (this.node, this.line);
        match work {
            Work::Read(range) => self.history.read_began(line, op, range),
            Work::Write { range, value, .. } => self.history.write_began(line, op, value, range, self.now),
            Work::Zero { range, .. } => self.history.write_began(line, op, ZEROES, range, self.now),
            Work::Flush => {}
        }
        let process = self.nodes[node].process.as_mut().expect("a connection has a daemon");
        process.connections.get_mut(&client).expect("connected").socket.push_back(ask);
        self.wake(node, Duration::from_micros(50));
    }

    /// A client's answer.
    pub fn client_answered(&mut self, node: usize, ask: Ask, outcome: Outcome, bytes: Option<Vec<u8>>) {
        let this = &mut self.clients[ask.client];
        let Some(index) = this.unanswered.iter().position(|other| other.op == ask.op) else { return };
        this.unanswered.remove(index);
        let line = this.line;
        if outcome.is_err() {
            this.errors += 1;
            self.stats.errors += 1;
            if ask.work.range().is_some() {
                self.history.given_up(ask.op);
            }
            return;
        }
        this.answered += 1;
        match ask.work {
            Work::Flush => {
                self.stats.flushes += 1;
                if !self.config.flushes_here_only() {
                    self.history.flushed(line, ask.asked);
                }
            }
            Work::Read(range) => {
                self.stats.reads += 1;
                let values = self.values_read(node, range, &bytes.expect("a read has bytes"));
                self.history.read_done(ask.op, &values);
            }
            Work::Write { range, fua, .. } | Work::Zero { range, fua, .. } => {
                self.stats.writes += 1;
                self.written_end = self.written_end.max(range.end());
                self.note_told(range, ask.work);
                let mut holders = self.holders(node, range, ask.work);
                let joined = self.view(node).is_some_and(|view| view.link == LinkState::Connected);
                if holders & (1 << node) != 0 && (self.config.mode == Mode::Async || !joined) {
                    // What the peer happens to hold, asynchronously or while it is not in sync, was never promised to count.
                    holders = 1 << node;
                }
                if self.view(node).is_some_and(|view| view.disk == DiskState::Diskless) {
                    // What a disk that was given up happens to hold counts for nothing; the peer had it when it said so.
                    holders = 1 << (1 - node);
                }
                for index in 0..2 {
                    if holders & (1 << index) != 0 {
                        self.nodes[index].disk.acknowledged(range, self.now);
                    }
                }
                let durable = fua && !self.config.flushes_here_only();
                self.history.write_done(ask.op, self.now, holders, durable);
                let [a, b] = &self.nodes;
                let there = |sector| [a.disk.values(sector as u64), b.disk.values(sector as u64)].concat();
                self.history.thin_out(self.now, there);
            }
        }
    }

    /// Remembers what a flush must make durable although the peer's disk may not have it yet.
    fn note_told(&mut self, range: ByteRange, work: Work) {
        for sector in range.offset / SECTOR as u64..range.end() / SECTOR as u64 {
            match work {
                Work::Write { value, .. } if self.config.mode == Mode::Memory => {
                    self.told.insert(sector, (value, self.now));
                }
                _ => {
                    self.told.remove(&sector);
                }
            }
        }
    }

    fn values_read(&self, node: usize, range: ByteRange, bytes: &[u8]) -> Vec<Value> {
        let first = range.offset / SECTOR as u64;
        let name = |(index, sector): (usize, &[u8])| {
            let number = first + index as u64;
            content::identify(sector, number).unwrap_or_else(|| {
                panic!(
                    "{} answered a read of sector {number} with bytes that nobody wrote there as a whole",
                    NAMES[node]
                )
            })
        };
        bytes.chunks_exact(SECTOR).enumerate().map(name).collect()
    }

    /// The daemon cuts a client.
    pub fn cut_client(&mut self, node: usize, client: usize) {
        if let Some(connection) = self.process_of(node).connections.remove(&client) {
            self.clients[client].lost(connection.serial);
        }
    }

    /// A client drops its connection; it may come back and ask again, or be gone for good.
    pub fn client_resets(&mut self, client: usize, for_good: bool) {
        let Some(node) = self.clients[client].connected_to() else { return };
        self.log.say(|| format!("client {client} drops its connection (for good: {for_good})"));
        self.cut_client(node, client);
        if for_good {
            for ask in std::mem::take(&mut self.clients[client].unanswered) {
                if ask.work.range().is_some() {
                    self.history.given_up(ask.op);
                }
            }
        }
    }

    fn random_work(&mut self) -> Work {
        let kind = self.random.below(100);
        let config = &self.config;
        if kind < config.flushes {
            return Work::Flush;
        }
        if kind < config.flushes + config.zeroes {
            let range = self.random_range(BLOCK).aligned_out();
            return Work::Zero { range, unmap: self.random.chance(0.5), fua: self.draw_fua() };
        }
        if self.random.below(100) < self.config.reads {
            return Work::Read(self.random_range(SECTOR as u64));
        }
        let grain = if self.random.chance(0.3) { SECTOR as u64 } else { BLOCK };
        Work::Write { range: self.random_range(grain), value: 0, fua: self.draw_fua() }
    }

    fn draw_fua(&mut self) -> bool {
        self.random.below(100) < self.config.fua
    }

    /// Somewhere in the volume, mostly where it is hot, never across the boundary of a piece.
    fn random_range(&mut self, grain: u64) -> ByteRange {
        let size = self.served_bytes;
        let hot = (self.config.hot_blocks * BLOCK).min(size);
        let area = if self.random.chance(0.8) { hot } else { size };
        let offset = self.random.below(area / grain) * grain;
        let longest = (self.config.operation_blocks_max * BLOCK)
            .min(size - offset)
            .min(PIECE_BYTES_MAX - offset % PIECE_BYTES_MAX);
        let length = self.random.between(1, longest / grain) * grain;
        ByteRange::new(offset, length)
    }

    /// Whether any client waits for an answer.
    pub fn clients_wait(&self) -> bool {
        self.clients.iter().any(|client| !client.unanswered.is_empty())
    }
}
