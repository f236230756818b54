//! The simulated world: two servers, the network between them, clients, an operator, and one queue of events.
//! Nothing in it knows the time but the queue, and nothing is random but the seed.

use super::clients::Client;
use super::config::Config;
use super::content::Value;
use super::group::Outside;
use super::history::History;
use super::link::Link;
use super::log::Log;
use super::nemesis::Heal;
use super::node::{NAMES, Node};
use super::operator::Operator;
use super::random::Random;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;
use twinblock::base::ids::{OpId, SessionId};
use twinblock::base::time::Moment;
use twinblock::base::view::VolumeView;
use twinblock::logic::mirror::interface::Input;

/// Events after which a run is said to go round in circles; the longest sound ones take a third.
const EVENTS_MAX: u64 = 3_000_000;
/// Events of one simulated second, likewise.
const EVENTS_PER_SECOND_MAX: u64 = 250_000;
/// Events that wait, likewise.
const QUEUE_MAX: usize = 200_000;

/// What is to happen at some moment. Events of a process that has ended are dropped (`life`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Turn {
        node: usize,
        life: u64,
    },
    DiskDone {
        node: usize,
        life: u64,
        op: OpId,
    },
    Persisted {
        node: usize,
        life: u64,
    },
    Archived {
        node: usize,
        life: u64,
    },
    Transmit {
        node: usize,
        session: SessionId,
    },
    Arrive {
        node: usize,
        session: SessionId,
    },
    SessionEnds {
        node: usize,
        session: SessionId,
        reason: String,
    },
    Connect,
    Probed {
        node: usize,
        life: u64,
    },
    Client {
        client: usize,
        serial: u64,
    },
    Operator,
    Nemesis,
    Heal(Heal),
    /// Something outside of the volume: its number.
    Group(u64),
}

/// Counts that say whether a run did anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub events: u64,
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    pub errors: u64,
    pub acts: u64,
    pub promotions: u64,
    pub resyncs: u64,
    pub joins: u64,
    pub cache_losses: u64,
    pub solo_acknowledgements: u64,
    pub equality_checks: u64,
}

impl Stats {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Stats) {
        self.events += other.events;
        self.reads += other.reads;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.errors += other.errors;
        self.acts += other.acts;
        self.promotions += other.promotions;
        self.resyncs += other.resyncs;
        self.joins += other.joins;
        self.cache_losses += other.cache_losses;
        self.solo_acknowledgements += other.solo_acknowledgements;
        self.equality_checks += other.equality_checks;
    }
}

/// The world.
pub struct World {
    pub config: Config,
    pub now: Moment,
    pub random: Random,
    queue: BinaryHeap<Reverse<(Moment, u64, u64, Event)>>,
    serial: u64,
    /// When the last second of the pace began, and with how many events.
    pace: (Moment, u64),
    pub lives: u64,
    pub nodes: [Node; 2],
    pub link: Link,
    /// The daemons do not try to connect (the operator said so).
    pub disconnected: bool,
    pub clients: Vec<Client>,
    pub operator: Operator,
    pub history: History,
    pub log: Log,
    pub stats: Stats,
    /// Faults and clients are still at work.
    pub active: bool,
    pub next_op: u64,
    /// In mode memory: what clients were told is done and no flush has covered since, by sector.
    pub told: BTreeMap<u64, (Value, Moment)>,
    /// The size that was served last, and how far into it acknowledged writes reach, in bytes.
    pub served_bytes: u64,
    /// What each node serves: the life of its daemon, and the size.
    pub served_by: [Option<(u64, u64)>; 2],
    pub written_end: u64,
    /// Writes of both disks when they were last compared.
    pub compared_at: (u64, u64),
    /// The first node's rule of each session's handshake.
    pub decided: BTreeMap<SessionId, (usize, &'static str)>,
    /// What is around the failover group, if there is one.
    pub outside: Outside,
}

impl World {
    pub fn new(config: Config, log: Log) -> World {
        let mut random = Random::new(config.seed);
        let nodes = [0, 1].map(|index| Node::new(index, &config, &mut random));
        let clients = (0..config.clients).map(|_| Client::new()).collect();
        World {
            now: Moment(1),
            link: Link::new(config.link_latency, config.segment_bytes_max),
            history: History::new(config.volume_bytes(), config.watched_sectors),
            queue: BinaryHeap::new(),
            serial: 0,
            pace: (Moment(0), 0),
            lives: 0,
            nodes,
            disconnected: false,
            clients,
            operator: Operator::default(),
            log,
            stats: Stats::default(),
            active: true,
            next_op: 0,
            told: BTreeMap::new(),
            served_bytes: config.first_bytes(),
            served_by: [None; 2],
            written_end: 0,
            compared_at: (0, 0),
            decided: BTreeMap::new(),
            outside: Outside::default(),
            random,
            config,
        }
    }

    /// Puts an event into the queue. Events of one moment come in random order.
    pub fn at(&mut self, moment: Moment, event: Event) {
        self.serial += 1;
        let tiebreak = self.random.next();
        self.queue.push(Reverse((moment, tiebreak, self.serial, event)));
    }

    /// The same, after a while.
    pub fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    /// A random time between the two.
    pub fn span(&mut self, (low, high): (Duration, Duration)) -> Duration {
        self.random.span(low, high)
    }

    /// Takes the next event, unless it lies beyond `end`. Says whether there was one.
    pub fn step(&mut self, end: Moment) -> bool {
        let due = self.queue.peek().is_some_and(|Reverse((moment, ..))| *moment <= end);
        if !due {
            self.now = end;
            return false;
        }
        let Reverse((moment, _, _, event)) = self.queue.pop().expect("just seen");
        self.now = moment;
        self.log.now = moment;
        self.stats.events += 1;
        self.check_pace();
        self.take(event);
        true
    }

    /// A run that gets nowhere is a failure like any other, long before it fills the memory.
    fn check_pace(&mut self) {
        assert!(self.stats.events < EVENTS_MAX, "the run goes round in circles: {EVENTS_MAX} events");
        assert!(self.queue.len() < QUEUE_MAX, "events pile up: {QUEUE_MAX} wait");
        if self.now.since(self.pace.0) >= Duration::from_secs(1) {
            self.pace = (self.now, self.stats.events);
        }
        let lately = self.stats.events - self.pace.1;
        assert!(
            lately < EVENTS_PER_SECOND_MAX,
            "the run goes round in circles: {lately} events within {:?}",
            self.now.since(self.pace.0)
        );
        if self.stats.events.is_multiple_of(1024) {
            super::watch::progress();
            for node in &mut self.nodes {
                node.disk.write_back_if_full();
            }
        }
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// Lets time pass until `done`, at most for `time`; says whether it came to be.
    pub fn run_until(&mut self, time: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + time;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(end) {
                return done(self);
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Turn { node, life } => self.turn(node, life),
            Event::DiskDone { node, life, op } => self.disk_done(node, life, op),
            Event::Persisted { node, life } => self.persisted(node, life),
            Event::Archived { node, life } => self.archived(node, life),
            Event::Transmit { node, session } => self.transmit(node, session),
            Event::Arrive { node, session } => self.arrive(node, session),
            Event::SessionEnds { node, session, reason } => self.session_ends(node, session, reason),
            Event::Connect => self.connect(),
            Event::Probed { node, life } => self.probed(node, life),
            Event::Client { client, serial } => self.client_wakes(client, serial),
            Event::Operator => self.operator_looks(),
            Event::Nemesis => self.nemesis_acts(),
            Event::Heal(heal) => self.heal(heal),
            Event::Group(serial) => self.group_happens(serial),
        }
    }

    /// Whether this life of this node's daemon is still on.
    pub fn alive(&self, node: usize, life: u64) -> bool {
        self.nodes[node].process.as_ref().is_some_and(|process| process.life == life)
    }

    /// Hands an input to a node's daemon, if it runs.
    pub fn deliver(&mut self, node: usize, input: Input) {
        if let Some(process) = &mut self.nodes[node].process {
            process.inbox.push_back(input);
        }
        self.wake(node, Duration::from_micros(20));
    }

    /// Makes sure that the daemon takes a turn soon.
    pub fn wake(&mut self, node: usize, at_most: Duration) {
        let now = self.now;
        let delay = self.random.span(Duration::from_micros(1), at_most);
        let Some(process) = &mut self.nodes[node].process else { return };
        if !process.turns() || process.turn_at.is_some_and(|at| at <= now + at_most) {
            return;
        }
        process.turn_at = Some(now + delay);
        let life = process.life;
        self.after(delay, Event::Turn { node, life });
    }

    /// What a node's clock shows.
    pub fn clock(&self, node: usize) -> Moment {
        self.nodes[node].clock.shows(self.now)
    }

    /// What a node shows of itself; `None` when its daemon is down.
    pub fn view(&self, node: usize) -> Option<VolumeView> {
        self.nodes[node].process.as_ref().map(|process| process.mirror.view(self.clock(node)))
    }

    /// The node that serves clients, if one does.
    pub fn serving(&self) -> Option<usize> {
        (0..2).find(|node| self.serves(*node))
    }

    /// Whether this node serves clients.
    pub fn serves(&self, node: usize) -> bool {
        self.nodes[node].process.as_ref().is_some_and(|process| process.mirror.serving().is_some())
    }

    /// Whether both daemons run.
    pub fn both_up(&self) -> bool {
        self.nodes.iter().all(|node| node.process.as_ref().is_some_and(|process| !process.paused))
    }

    /// Starts a node's daemon.
    pub fn start(&mut self, node: usize) {
        self.nodes[node].powered = true;
        if self.nodes[node].process.is_some() {
            return;
        }
        self.lives += 1;
        let life = self.lives;
        self.nodes[node].start(&self.config, life, &mut self.random);
        self.log.say(|| format!("{} starts, life {life}", NAMES[node]));
        self.wake(node, Duration::from_micros(50));
        self.connect_soon();
    }

    /// Both ends try to connect again after a while.
    pub fn connect_soon(&mut self) {
        let delay = self.random.span(Duration::from_millis(1), Duration::from_millis(200));
        self.after(delay, Event::Connect);
    }
}
