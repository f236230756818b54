//! One server: its disk, its process, its clock, what runs on it.

use super::config::Config;
use super::mirror::{Disk, Mirror};
use std::collections::VecDeque;
use std::time::Duration;
use twinblock::base::group::Memory;
use twinblock::base::ids::{BootId, Incarnation};
use twinblock::base::time::Moment;
use twinblock::logic::failover::Failover;
use twinblock::logic::failover::interface::{Effect, Gate, Identity, Input};

pub struct Node {
    pub index: usize,
    pub disk: Disk,
    pub memory: Memory,
    pub boot: BootId,
    pub lives: u64,
    /// Resources that run: they outlive the process, not the boot.
    pub running: [bool; 3],
    pub process: Option<Process>,
    /// True time at which the clock showed `clock_base`.
    pub true_base: Moment,
    pub clock_base: Moment,
    pub rate: u64,
    /// The clock stood still with the process since the last time its permit was surely over.
    pub clock_stood_until: Moment,
    pub disk_fails: bool,
    /// Highest epoch in which a write was acknowledged here.
    pub acked_epoch: u64,
}

pub struct Process {
    pub core: Failover,
    pub mirror: Mirror,
    pub incarnation: Incarnation,
    pub gate: Gate,
    /// Paused: inputs queue up. Holds when it goes on, in true time.
    pub paused: Option<Moment>,
    pub clock_stands: bool,
    pub queue: VecDeque<Input>,
    /// Frames that wait in the socket meanwhile, with their sessions.
    pub inbox: VecDeque<(u64, super::mirror::Frame)>,
    /// When its next tick is planned, in true time.
    pub tick_at: Option<Moment>,
}

impl Node {
    pub fn new(index: usize, config: &Config) -> Node {
        Node {
            index,
            disk: Disk::fresh(),
            memory: Memory::default(),
            boot: BootId(1 + index as u128),
            lives: 0,
            running: [false; 3],
            process: None,
            true_base: Moment(0),
            clock_base: Moment(1_000_000_000 * (1 + index as u64 * 77)),
            rate: config.rates[index],
            clock_stood_until: Moment(0),
            disk_fails: false,
            acked_epoch: 0,
        }
    }

    /// What the node's clock shows at this true time.
    pub fn clock(&self, now: Moment) -> Moment {
        let process_stands = self.process.as_ref().is_some_and(|process| process.clock_stands);
        if process_stands {
            return self.clock_base;
        }
        Moment(self.clock_base.0 + now.since(self.true_base).as_nanos() as u64 / 1000 * self.rate)
    }

    /// True time at which the clock will show `moment`, not earlier.
    pub fn true_time(&self, moment: Moment) -> Moment {
        let ahead = moment.since(self.clock_base).as_nanos() as u64;
        self.true_base + Duration::from_nanos(ahead.div_ceil(self.rate) * 1000 + 1000)
    }

    /// Stops the clock, or lets it go on.
    pub fn hold_clock(&mut self, now: Moment, stands: bool) {
        let shows = self.clock(now);
        self.clock_base = shows;
        self.true_base = now;
        if let Some(process) = &mut self.process {
            process.clock_stands = stands;
        }
    }

    /// Starts the daemon.
    pub fn start(&mut self, now: Moment, config: &Config, effects: &mut Vec<Effect>) {
        self.lives += 1;
        let incarnation = Incarnation(self.lives * 10 + self.index as u64);
        let mirror = Mirror::new();
        let facts = mirror.facts(&self.disk, incarnation, self.boot);
        let identity = Identity { incarnation, boot: self.boot, seed: config.seed ^ incarnation.0 << 20 };
        let clock = self.clock(now);
        let mut core = new_core(config, self.index, identity, self.memory, facts, clock);
        core.handle(clock, Input::Tick, effects);
        core.settle(clock, effects);
        self.process = Some(Process {
            core,
            mirror,
            incarnation,
            gate: Gate::Closed,
            paused: None,
            clock_stands: false,
            queue: VecDeque::new(),
            inbox: VecDeque::new(),
            tick_at: None,
        });
    }

    /// Whether the process is there and runs.
    pub fn is_awake(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.paused.is_none())
    }

    /// Whether a reply could leave now: what the shard asks at its own clock.
    pub fn may_reply(&self, now: Moment) -> bool {
        let clock = self.clock(now);
        self.process.as_ref().is_some_and(|process| process.paused.is_none() && process.gate.allows(clock))
    }

    /// Whether the floating address answers: the runtime takes it off when the gate closes. A killed process leaves it.
    pub fn holds_address(&self, now: Moment) -> bool {
        self.running[1] && self.may_reply(now)
    }
}

fn new_core(
    config: &Config,
    index: usize,
    identity: Identity,
    memory: Memory,
    facts: twinblock::logic::failover::interface::MirrorFacts,
    clock: Moment,
) -> Failover {
    let settings = config.settings(index);
    #[cfg(feature = "mutants")]
    if let Some(mutation) = config.mutation {
        return Failover::with_mutation(settings, identity, memory, facts, clock, mutation);
    }
    Failover::new(settings, identity, memory, facts, clock)
}
