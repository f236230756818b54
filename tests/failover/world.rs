//! The simulated world: events in order of true time, and what effects do in it.

use super::arbiter::{Answer, Arbiter, Register};
use super::check::History;
use super::config::{Config, NAMES};
use super::mirror::Frame;
use super::node::Node;
use super::random::Random;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;
use twinblock::base::command::CommandOutcome;
use twinblock::base::group::StepVerb;
use twinblock::base::heartbeat::Heartbeat;
use twinblock::base::ids::{BootId, CommandId};
use twinblock::base::time::Moment;
use twinblock::logic::failover::interface::{ArbiterCall, Effect, Gate, Input, MirrorOrder, Note, Verb};

/// What is to happen.
#[derive(Clone, Debug)]
pub enum Event {
    Tick(usize, u64),
    Heartbeat { to: usize, path: usize, heartbeat: Box<Heartbeat> },
    Frame { to: usize, session: u64, frame: Frame },
    LinkBreaks { at: usize, session: u64 },
    Connect,
    KeepAlive { to: usize, session: u64 },
    Copied { at: usize, session: u64 },
    ArbiterHears { from: usize, life: u64, id: u64, call: ArbiterCall, answer_lost: bool },
    Answer { to: usize, life: u64, input: Input },
    Ordered { at: usize, life: u64, id: u64, order: MirrorOrder },
    Fenced { by: usize, life: u64, id: u64 },
    Step { at: usize, life: u64, id: u64, index: usize, verb: StepVerb },
    Write(usize),
    Flush(usize),
    Resume(usize),
    Start(usize),
    Nemesis,
    Heal(super::nemesis::Heal),
}

pub struct World {
    pub config: Config,
    pub now: Moment,
    pub random: Random,
    events: BinaryHeap<Reverse<(Moment, u64)>>,
    pending: std::collections::BTreeMap<u64, Event>,
    order: u64,
    pub nodes: [Node; 2],
    pub arbiter: Arbiter,
    /// Heartbeat paths cut, per path and receiver.
    pub cut: [[bool; 2]; 2],
    pub link_cut: bool,
    pub client_network: [bool; 2],
    /// Each node reaches its ping targets and not the other's addresses.
    pub client_split: bool,
    /// Nodes that were fenced stay off.
    pub hold_starts: bool,
    pub fence_broken: [bool; 2],
    pub step_fails: [Option<(usize, StepVerb)>; 2],
    pub step_hangs: [Option<(usize, StepVerb)>; 2],
    pub sessions: u64,
    pub fifo: [Moment; 2],
    pub next_write: u32,
    pub history: History,
    pub log: Vec<String>,
    pub keeps_log: bool,
    pub outcomes: Vec<(usize, CommandId, CommandOutcome)>,
    pub notes: Vec<(Moment, usize, Note)>,
    pub healing: bool,
    pub steps: u64,
}

impl World {
    pub fn new(config: Config, keeps_log: bool) -> World {
        let nodes = [Node::new(0, &config), Node::new(1, &config)];
        let mut world = World {
            random: Random::new(config.seed),
            now: Moment(0),
            events: BinaryHeap::new(),
            pending: Default::default(),
            order: 0,
            nodes,
            arbiter: Arbiter::default(),
            cut: [[false; 2]; 2],
            link_cut: false,
            client_network: [true; 2],
            client_split: false,
            hold_starts: false,
            fence_broken: [false; 2],
            step_fails: [None; 2],
            step_hangs: [None; 2],
            sessions: 0,
            fifo: [Moment(0); 2],
            next_write: 0,
            history: History::default(),
            log: Vec::new(),
            keeps_log,
            outcomes: Vec::new(),
            notes: Vec::new(),
            healing: false,
            steps: 0,
            config,
        };
        world.after(ms(1), Event::Connect);
        for node in 0..2 {
            world.after(ms(5), Event::Write(node));
            world.after(ms(300), Event::Flush(node));
        }
        world
    }

    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if self.keeps_log {
            self.log.push(format!("{:>12.3} ms  {}", self.now.0 as f64 / 1e6, line()));
        }
    }

    pub fn after(&mut self, span: Duration, event: Event) {
        self.at(self.now + span, event);
    }

    pub fn at(&mut self, when: Moment, event: Event) {
        self.order += 1;
        self.events.push(Reverse((when.max(self.now), self.order)));
        self.pending.insert(self.order, event);
    }

    pub fn run_for(&mut self, span: Duration) {
        self.run_until(span, |_| false);
    }

    /// Runs until something is true, or the time is over; says whether it became true.
    pub fn run_until(&mut self, span: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + span;
        loop {
            if done(self) {
                return true;
            }
            match self.events.peek() {
                Some(Reverse((when, _))) if *when <= end => {}
                _ => {
                    self.now = end;
                    return done(self);
                }
            }
            let Some(Reverse((when, id))) = self.events.pop() else { return false };
            self.now = self.now.max(when);
            let event = self.pending.remove(&id).expect("an event is there once");
            self.happen(event);
            self.steps += 1;
            self.check_step();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(node, life) => {
                if self.nodes[node].lives == life {
                    self.input(node, Input::Tick);
                }
            }
            Event::Heartbeat { to, path, heartbeat } => self.input(to, Input::Heartbeat { path, heartbeat }),
            Event::Frame { to, session, frame } => self.frame(to, session, frame),
            Event::LinkBreaks { at, session } => self.link_broke(at, session),
            Event::Connect => self.connect(),
            Event::KeepAlive { to, session } => self.keep_alive(to, session),
            Event::Copied { at, session } => {
                if let Some(current) = self.session(at, session) {
                    current.copied = true;
                    self.facts(at);
                }
            }
            Event::ArbiterHears { from, life, id, call, answer_lost } => {
                let answer = self.arbiter.carry_out(call);
                self.say(|| format!("arbiter: {} {call:?} -> {answer:?}", NAMES[from]));
                if !answer_lost {
                    let delay = self.random.span(ms(1), ms(10));
                    self.after(delay, Event::Answer { to: from, life, input: arbiter_input(id, answer) });
                }
            }
            Event::Answer { to, life, input } => {
                if self.nodes[to].lives == life {
                    self.input(to, input);
                }
            }
            Event::Ordered { at, life, id, order } => self.ordered(at, life, id, order),
            Event::Fenced { by, life, id } => self.fenced(by, life, id),
            Event::Step { at, life, id, index, verb } => self.stepped(at, life, id, index, verb),
            Event::Write(node) => self.write(node),
            Event::Flush(node) => {
                self.flush_cycle(node);
                let gap = self.random.span(ms(100), ms(2_000));
                self.after(gap, Event::Flush(node));
            }
            Event::Resume(node) => self.resume(node),
            Event::Start(node) if self.hold_starts => self.after(ms(1_000), Event::Start(node)),
            Event::Start(node) => self.start(node),
            Event::Nemesis => self.nemesis(),
            Event::Heal(heal) => self.heal(heal),
        }
    }

    // --- processes

    pub fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        self.say(|| format!("{}: starts", NAMES[node]));
        let mut effects = Vec::new();
        let config = self.config.clone();
        self.nodes[node].start(self.now, &config, &mut effects);
        if self.nodes[node].disk_fails
            && let Some(process) = &mut self.nodes[node].process
        {
            process.mirror.failed = true;
        }
        self.carry_out(node, effects);
        self.facts(node);
    }

    /// The process is gone; with power, memory and cache are as well.
    pub fn crash(&mut self, node: usize, power: bool) {
        if self.nodes[node].process.is_none() && !power {
            return;
        }
        self.say(|| format!("{}: {}", NAMES[node], if power { "loses power" } else { "is killed" }));
        if self.nodes[node].process.as_ref().is_some_and(|process| process.clock_stands) {
            self.nodes[node].hold_clock(self.now, false);
        }
        let process = self.nodes[node].process.take();
        if power {
            self.nodes[node].boot = BootId(self.nodes[node].boot.0 + 10);
            self.nodes[node].running = [false; 3];
            let lost: Vec<u32> = {
                let disk = &self.nodes[node].disk;
                disk.written.missing_in(&disk.flushed).collect()
            };
            for write in lost {
                if self.random.chance(0.5) {
                    self.nodes[node].disk.written.remove(write);
                }
            }
            self.nodes[node].disk.flush();
            self.history.forget_what_nobody_holds(&self.nodes);
        }
        if let Some(session) = process.and_then(|process| process.mirror.session) {
            // The kernel of a killed process resets its connections; a dead host says nothing.
            let delay = if power { ms(2_000) } else { ms(1) };
            self.after(delay, Event::LinkBreaks { at: 1 - node, session: session.number });
            let other = 1 - node;
            if !power && !self.link_cut && self.nodes[other].is_awake() {
                let life = self.nodes[other].lives;
                self.after(ms(5), Event::Answer { to: other, life, input: Input::PeerRefused });
            }
        }
    }

    pub fn pause(&mut self, node: usize, span: Duration, clock: bool) {
        if !self.nodes[node].is_awake() {
            return;
        }
        self.say(|| format!("{}: is paused for {span:?}, clock {}", NAMES[node], if clock { "too" } else { "not" }));
        let until = self.now + span;
        if let Some(process) = &mut self.nodes[node].process {
            process.paused = Some(until);
        }
        if clock {
            self.nodes[node].hold_clock(self.now, true);
            // Its permit may look valid for as long after.
            self.nodes[node].clock_stood_until = until + self.config.dead_after;
        }
        self.at(until, Event::Resume(node));
    }

    /// Whoever is paused goes on now.
    pub fn resume_now(&mut self, node: usize) {
        let now = self.now;
        if let Some(process) = &mut self.nodes[node].process
            && process.paused.is_some()
        {
            process.paused = Some(now);
            self.resume(node);
        }
    }

    fn resume(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.paused.is_none_or(|until| until > now) {
            return;
        }
        process.paused = None;
        let stood = process.clock_stands;
        let queue = std::mem::take(&mut process.queue);
        let inbox = std::mem::take(&mut process.inbox);
        if stood {
            self.nodes[node].hold_clock(now, false);
        }
        self.say(|| format!("{}: goes on", NAMES[node]));
        self.input(node, Input::Tick);
        for input in queue {
            self.input(node, input);
        }
        for (session, frame) in inbox {
            self.frame(node, session, frame);
        }
        self.facts(node);
    }

    /// Hands an input to the core, or keeps it for when the process goes on.
    pub fn input(&mut self, node: usize, input: Input) {
        let clock = self.nodes[node].clock(self.now);
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.paused.is_some() {
            if process.queue.len() < 200 {
                process.queue.push_back(input);
            }
            return;
        }
        let mut effects = Vec::new();
        process.core.handle(clock, input, &mut effects);
        process.core.settle(clock, &mut effects);
        process.core.check();
        self.carry_out(node, effects);
    }

    pub fn command(&mut self, node: usize, verb: Verb) -> CommandId {
        self.order += 1;
        let id = CommandId(self.order);
        self.say(|| format!("operator: {verb:?} on {}", NAMES[node]));
        self.input(node, Input::Command { id, verb });
        id
    }

    fn plan_tick(&mut self, node: usize) {
        let life = self.nodes[node].lives;
        let now = self.now;
        let Some(process) = &self.nodes[node].process else { return };
        let Some(deadline) = process.core.next_deadline() else { return };
        if process.clock_stands {
            return;
        }
        let at = self.nodes[node].true_time(deadline).max(now);
        let process = self.nodes[node].process.as_mut().expect("it was there");
        if process.tick_at.is_some_and(|planned| planned <= at && planned > now) {
            return;
        }
        process.tick_at = Some(at);
        self.at(at, Event::Tick(node, life));
    }

    fn carry_out(&mut self, node: usize, effects: Vec<Effect>) {
        // The gate before anything else.
        for effect in &effects {
            if let Effect::Gate(gate) = effect
                && let Some(process) = &mut self.nodes[node].process
            {
                process.gate = *gate;
            }
        }
        for effect in effects {
            self.effect(node, effect);
        }
        self.plan_tick(node);
    }

    fn effect(&mut self, node: usize, effect: Effect) {
        let life = self.nodes[node].lives;
        match effect {
            Effect::Heartbeat { path, heartbeat } => self.send_heartbeat(1 - node, path, heartbeat),
            Effect::Gate(Gate::Until(_)) => {}
            Effect::Gate(gate) => self.say(|| format!("{}: gate {gate:?}", NAMES[node])),
            Effect::Mirror { id, order } => {
                self.say(|| format!("{}: order {id} {order:?}", NAMES[node]));
                let delay = self.random.span(ms(1), ms(20));
                self.begin_order(node, id, order);
                self.after(delay, Event::Ordered { at: node, life, id, order });
            }
            Effect::Arbiter { id, call } => self.call_arbiter(node, id, call),
            Effect::Fence { id } => {
                self.say(|| format!("{}: fences", NAMES[node]));
                let delay = self.random.span(ms(100), ms(800));
                self.after(delay, Event::Fenced { by: node, life, id });
            }
            Effect::Probe { id } => {
                let peer = &self.nodes[1 - node];
                let targets_answer = self.client_network[node];
                let peer_answers =
                    targets_answer && self.client_network[1 - node] && peer.process.is_some() && !self.client_split;
                let input = Input::Probed { id, targets_answer, peer_answers };
                self.after(ms(20), Event::Answer { to: node, life, input });
            }
            Effect::Step { id, index, verb, .. } => {
                self.say(|| format!("{}: {verb} {index}", NAMES[node]));
                if self.step_hangs[node] != Some((index, verb)) {
                    let delay = self.random.span(ms(1), ms(60));
                    self.after(delay, Event::Step { at: node, life, id, index, verb });
                }
            }
            Effect::Remember(memory) => self.nodes[node].memory = memory,
            Effect::CommandDone { id, outcome } => {
                self.say(|| format!("{}: command {id}: {outcome:?}", NAMES[node]));
                self.outcomes.push((node, id, outcome));
            }
            Effect::Abort { reason } => {
                self.say(|| format!("{}: aborts: {reason}", NAMES[node]));
                self.crash(node, false);
                self.after(ms(1_000), Event::Start(node));
            }
            Effect::Stopped => {
                self.say(|| format!("{}: stopped", NAMES[node]));
                self.crash(node, false);
                if self.healing {
                    self.after(ms(500), Event::Start(node));
                }
            }
            Effect::Note(note) => {
                self.say(|| format!("{}: {note:?}", NAMES[node]));
                self.notes.push((self.now, node, note));
            }
        }
    }

    // --- heartbeats, arbiter, agent

    fn send_heartbeat(&mut self, to: usize, path: usize, heartbeat: Box<Heartbeat>) {
        if self.cut[path][to] || self.random.below(1000) < self.config.loss_per_mille {
            return;
        }
        let delay = self.random.span(Duration::from_micros(100), self.config.heartbeat_delay);
        self.after(delay, Event::Heartbeat { to, path, heartbeat });
    }

    fn call_arbiter(&mut self, from: usize, id: u64, call: ArbiterCall) {
        let life = self.nodes[from].lives;
        if self.arbiter.away[from] {
            // Half the time it may have been asked, as far as the caller knows; sometimes it was.
            let asked = self.random.chance(0.5);
            if asked && self.random.chance(0.3) {
                let late = self.random.span(ms(1), ms(3_000));
                self.after(late, Event::ArbiterHears { from, life, id, call, answer_lost: true });
            }
            let answer = Register::silence(call, asked);
            let input = arbiter_input(id, answer);
            self.after(ms(300), Event::Answer { to: from, life, input });
            return;
        }
        let slowest = if self.arbiter.slow { ms(2_500) } else { self.config.arbiter_delay };
        let change = self.arbiter.change_takes.filter(|_| matches!(call, ArbiterCall::Cas { .. }));
        let drawn = self.random.span(ms(1), slowest);
        let delay = change.unwrap_or(drawn);
        let lost = self.arbiter.ambiguous && self.random.chance(0.6) || delay > ms(1_000);
        self.after(delay, Event::ArbiterHears { from, life, id, call, answer_lost: lost });
        if lost {
            let input = arbiter_input(id, Register::silence(call, true));
            self.after(ms(1_000), Event::Answer { to: from, life, input });
        }
    }

    fn fenced(&mut self, by: usize, life: u64, id: u64) {
        if self.nodes[by].lives != life || self.nodes[by].process.is_none() {
            return;
        }
        let result = if self.fence_broken[by] {
            Err("the agent does not answer".to_string())
        } else {
            self.crash(1 - by, true);
            let back = self.random.span(ms(500), ms(10_000));
            self.after(back, Event::Start(1 - by));
            Ok(())
        };
        self.input(by, Input::Fenced { id, result });
    }

    fn stepped(&mut self, at: usize, life: u64, id: u64, index: usize, verb: StepVerb) {
        if self.nodes[at].lives != life || self.nodes[at].process.is_none() {
            return;
        }
        let fails = self.step_fails[at] == Some((index, verb));
        if !fails {
            self.nodes[at].running[index] = verb == StepVerb::Start;
            if verb == StepVerb::Start {
                self.check_resource_start(at, index);
            }
        }
        let result = if fails { Err("simulated".to_string()) } else { Ok(()) };
        self.input(at, Input::StepDone { id, result });
    }
}

fn arbiter_input(id: u64, answer: Answer) -> Input {
    match answer {
        Answer::Read(outcome) => Input::ArbiterRead { id, outcome },
        Answer::Cas(outcome) => Input::ArbiterCas { id, outcome },
    }
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
