//! The failover group around the volume: a real failover core beside each mirror core, joined as `runtime::group` joins
//! them (by the same [`Volumes`]), on each node's own clock, with what lies outside simulated.
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | the group's thread on one node: inputs, one decision, effects; facts, orders and the permit between the cores |
//! | `outside`, `register` | heartbeats, the arbiter, the fencing agent, probes, resources |
//! | `faults`, `choices` | what goes wrong there, and what operators ask |
//! | `check` | what must hold over both cores |
//! | `run`, `mutants`, `stories` | swarms of each mode, proof that broken rules are caught, rows of the fault matrix |

pub mod check;
pub mod choices;
pub mod faults;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod outside;
pub mod register;
mod run;
mod stories;

use super::config::{Config, GroupConfig};
use super::node::NAMES;
use super::world::World;
use register::Arbiter;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;
use twinblock::base::command::CommandOutcome;
use twinblock::base::group::{Memory, StepVerb};
use twinblock::base::heartbeat::Heartbeat;
use twinblock::base::ids::CommandId;
use twinblock::base::time::Moment;
use twinblock::base::volume::{Facts, Order, Way};
use twinblock::logic::failover::Failover;
use twinblock::logic::failover::interface::{ArbiterCall, Effect, Gate, Identity, Input, Note, Verb};
use twinblock::logic::mirror::interface::Input as MirrorInput;
use twinblock::logic::volumes::{Volume, Volumes};

/// Heartbeats and answers that wait for a daemon that stands still; more are dropped, as by a full socket.
const WAITING_MAX: usize = 200;
/// Longest way of a word between the group's thread and the volume's.
const HOP: Duration = Duration::from_micros(60);
/// Inputs of one turn after which the group's core is said to have lost its measure.
const EFFECTS_MAX: usize = 10_000;

/// What is to happen outside of the volume.
#[derive(Clone, Debug)]
pub enum GroupEvent {
    Turn { node: usize, life: u64 },
    Facts { node: usize, life: u64, facts: Facts },
    OrderDone { node: usize, life: u64, id: u64, result: Result<(), String> },
    Heartbeat { to: usize, path: usize, heartbeat: Box<Heartbeat> },
    ArbiterHears { from: usize, life: u64, id: u64, call: ArbiterCall, answer_lost: bool },
    Answer { to: usize, life: u64, input: Box<Input> },
    Fenced { by: usize, life: u64, id: u64 },
    Step { at: usize, life: u64, id: u64, index: usize, verb: StepVerb, gives_up: bool },
    Refused { to: usize },
}

/// The orders that wait to be carried to a node's volume.
#[derive(Clone, Debug, Default)]
struct Shard(Rc<RefCell<Vec<(u64, Order)>>>);

impl Volume for Shard {
    fn name(&self) -> &str {
        "vol0"
    }

    fn order(&self, id: u64, order: Order) {
        self.0.borrow_mut().push((id, order));
    }
}

/// The group's thread in one life of a daemon.
pub struct Side {
    /// Begins when the volume has told what it is.
    pub core: Option<Failover>,
    volumes: Volumes<Shard>,
    orders: Shard,
    told: Option<Facts>,
    pub gate: Gate,
    inbox: VecDeque<Input>,
    turn_at: Option<Moment>,
    link_heard: bool,
    /// The core has said that it has stopped.
    pub over: bool,
}

impl Side {
    /// A thread that has just begun.
    pub fn new() -> Side {
        let orders = Shard::default();
        Side {
            core: None,
            volumes: Volumes::new(vec![orders.clone()]),
            orders,
            told: None,
            gate: Gate::Closed,
            inbox: VecDeque::new(),
            turn_at: None,
            link_heard: false,
            over: false,
        }
    }
}

/// What of a group outlives a daemon on one server.
#[derive(Default)]
pub struct Lasting {
    pub memory: Memory,
    /// Resources that run: they outlive the process, not the boot.
    pub running: [bool; 3],
    /// The clock stood still with the process: until then its permit may look valid.
    pub clock_stood_until: Moment,
    /// The durable generation when a promotion was ordered that begins a line of its own.
    pub forking: Option<twinblock::base::generation::Generation>,
    /// Since both were in sync, it acknowledged something alone.
    pub wrote_alone: bool,
    /// Highest epoch in which a write was acknowledged here.
    pub acknowledged_in: u64,
}

/// The outside of both groups.
#[derive(Default)]
pub struct Outside {
    pending: BTreeMap<u64, GroupEvent>,
    serial: u64,
    pub arbiter: Arbiter,
    /// Heartbeat paths cut, per path and receiver.
    pub cut: [[bool; 2]; 2],
    /// Each node reaches its ping targets and not the other's addresses.
    pub client_split: bool,
    pub fence_broken: [bool; 2],
    pub step_fails: [Option<(usize, StepVerb)>; 2],
    pub step_hangs: [Option<(usize, StepVerb)>; 2],
    pub outcomes: Vec<(usize, CommandId, CommandOutcome)>,
    pub notes: Vec<(usize, Note)>,
    next_command: u64,
    /// Calls of a fencing agent under way: they shoot, whoever is back meanwhile.
    pub shots: u32,
    /// Starts and stops of resources under way.
    pub steps: u32,
    pub checks: check::Checks,
}

impl World {
    /// What a group's settings are, when there is one.
    pub fn group(&self) -> Option<&GroupConfig> {
        self.config.group.as_ref()
    }

    pub fn group_event(&mut self, delay: Duration, event: GroupEvent) {
        self.group_event_at(self.now + delay, event);
    }

    pub fn group_event_at(&mut self, at: Moment, event: GroupEvent) {
        self.outside.serial += 1;
        let serial = self.outside.serial;
        self.outside.pending.insert(serial, event);
        self.at(at, super::world::Event::Group(serial));
    }

    /// Something happens outside of the volume.
    pub fn group_happens(&mut self, serial: u64) {
        let event = self.outside.pending.remove(&serial).expect("an event is there once");
        match event {
            GroupEvent::Turn { node, life } => self.group_turn(node, life),
            GroupEvent::Facts { node, life, facts } => self.facts_arrive(node, life, facts),
            GroupEvent::OrderDone { node, life, id, result } => self.order_done(node, life, id, result),
            GroupEvent::Heartbeat { to, path, heartbeat } => {
                self.group_input(to, Input::Heartbeat { path, heartbeat });
            }
            GroupEvent::ArbiterHears { from, life, id, call, answer_lost } => {
                self.arbiter_hears(from, life, id, call, answer_lost);
            }
            GroupEvent::Answer { to, life, input } => {
                if self.alive(to, life) {
                    self.group_input(to, *input);
                }
            }
            GroupEvent::Fenced { by, life, id } => self.fenced(by, life, id),
            GroupEvent::Step { at, life, id, index, verb, gives_up } => {
                self.stepped(at, life, (id, index, verb), gives_up)
            }
            GroupEvent::Refused { to } => {
                let gone = self.nodes[1 - to].process.is_none() && self.nodes[1 - to].powered;
                if gone && self.link.passes() {
                    self.group_input(to, Input::PeerRefused);
                }
            }
        }
    }

    pub fn side(&self, node: usize) -> Option<&Side> {
        self.nodes[node].process.as_ref()?.group.as_ref()
    }

    fn side_mut(&mut self, node: usize) -> Option<&mut Side> {
        self.nodes[node].process.as_mut()?.group.as_mut()
    }

    /// Hands an input to the group's thread, if it runs.
    pub fn group_input(&mut self, node: usize, input: Input) {
        let Some(side) = self.side_mut(node) else { return };
        if side.inbox.len() < WAITING_MAX {
            side.inbox.push_back(input);
        }
        self.wake_group(node);
    }

    /// An operator's verb.
    pub fn ask_group(&mut self, node: usize, verb: Verb) -> CommandId {
        self.outside.next_command += 1;
        let id = CommandId(self.outside.next_command);
        self.log.say(|| format!("operator: {verb:?} on {}", NAMES[node]));
        self.group_input(node, Input::Command { id, verb });
        id
    }

    /// Makes sure that the group's thread takes a turn soon.
    pub fn wake_group(&mut self, node: usize) {
        let at = self.now + self.random.span(Duration::from_micros(1), HOP);
        self.group_turn_at(node, at);
    }

    fn group_turn_at(&mut self, node: usize, at: Moment) {
        let now = self.now;
        let Some(process) = self.nodes[node].process.as_mut().filter(|process| !process.paused) else { return };
        let life = process.life;
        let Some(side) = process.group.as_mut() else { return };
        if side.turn_at.is_some_and(|planned| planned > now && planned <= at) {
            return;
        }
        side.turn_at = Some(at);
        self.group_event_at(at, GroupEvent::Turn { node, life });
    }

    /// One turn of the group's thread.
    fn group_turn(&mut self, node: usize, life: u64) {
        let clock = self.clock(node);
        let (name, now) = (NAMES[node], self.now);
        let Some(process) = self.nodes[node].process.as_mut().filter(|p| p.life == life && !p.paused) else { return };
        let stood = process.stuck.map_or(Duration::ZERO, |since| now.since(since));
        let Some(side) = process.group.as_mut() else { return };
        if side.turn_at.is_some_and(|at| at <= now) {
            side.turn_at = None;
        }
        let Some(core) = side.core.as_mut() else { return };
        let mut inputs: Vec<Input> = side.inbox.drain(..).collect();
        if std::mem::take(&mut side.link_heard) {
            inputs.push(Input::LinkHeard);
        }
        inputs.push(Input::TurnAge(stood));
        let mut effects = Vec::new();
        for input in inputs {
            if !matches!(input, Input::Heartbeat { .. } | Input::LinkHeard | Input::TurnAge(_) | Input::Tick) {
                self.log.say(|| format!("{name:<5} <= {input:?}"));
            }
            core.handle(clock, input, &mut effects);
        }
        if core.next_deadline().is_some_and(|deadline| deadline <= clock) {
            core.handle(clock, Input::Tick, &mut effects);
        }
        core.settle(clock, &mut effects);
        core.check();
        assert!(effects.len() < EFFECTS_MAX, "the group's core of {name} wants {} things done", effects.len());
        self.carry_out_group(node, effects);
        self.plan_group_tick(node);
        self.check_group(node);
    }

    fn plan_group_tick(&mut self, node: usize) {
        let clock = self.nodes[node].clock;
        let Some(core) = self.side(node).and_then(|side| side.core.as_ref()) else { return };
        let Some(deadline) = core.next_deadline() else { return };
        if let Some(at) = clock.when(deadline) {
            self.group_turn_at(node, at.max(self.now + Duration::from_nanos(500)));
        }
    }

    fn carry_out_group(&mut self, node: usize, effects: Vec<Effect>) {
        // The gate before anything else of its batch.
        for effect in &effects {
            if let (Effect::Gate(gate), Some(side)) = (effect, self.side_mut(node)) {
                side.gate = *gate;
            }
        }
        for effect in effects {
            if self.nodes[node].process.is_none() {
                return;
            }
            self.group_effect(node, effect);
        }
        self.carry_orders(node);
    }

    fn group_effect(&mut self, node: usize, effect: Effect) {
        let life = self.process_of(node).life;
        match effect {
            Effect::Heartbeat { path, heartbeat } => self.send_heartbeat(1 - node, path, heartbeat),
            Effect::Gate(gate) => {
                let until = match gate {
                    Gate::Closed => Some(Moment(0)),
                    Gate::Until(end) => Some(end),
                    Gate::Open => None,
                };
                if !matches!(gate, Gate::Until(_)) {
                    self.log.say(|| format!("{:<5} => gate {gate:?}", NAMES[node]));
                }
                self.deliver(node, MirrorInput::Permit { until });
            }
            Effect::Mirror { id, order } => {
                self.log.say(|| format!("{:<5} => order {id} {order:?}", NAMES[node]));
                self.watch_order(node, order);
                let answer = self.side_mut(node).expect("it orders").volumes.order(id, order);
                if let Some(result) = answer {
                    self.group_input(node, Input::MirrorDone { id, result });
                }
            }
            Effect::Arbiter { id, call } => self.call_arbiter(node, id, call),
            Effect::Fence { id } => {
                self.log.say(|| format!("{:<5} => fences", NAMES[node]));
                let delay = self.random.span(Duration::from_millis(100), Duration::from_millis(800));
                self.outside.shots += 1;
                self.group_event(delay, GroupEvent::Fenced { by: node, life, id });
            }
            Effect::Probe { id } => self.probe(node, id),
            Effect::Step { id, index, verb, deadline, .. } => self.begin_step(node, (id, index, verb), deadline),
            Effect::Remember(memory) => self.nodes[node].lasting.memory = memory,
            Effect::CommandDone { id, outcome } => {
                self.log.say(|| format!("{:<5} => command {id}: {outcome:?}", NAMES[node]));
                self.outside.outcomes.push((node, id, outcome));
            }
            Effect::Abort { reason } => {
                self.kill(node, &reason);
                self.after(Duration::from_secs(1), super::world::Event::Heal(super::nemesis::Heal::Start(node)));
            }
            Effect::Stopped => {
                self.log.say(|| format!("{:<5} => the group has stopped", NAMES[node]));
                if let Some(side) = self.side_mut(node) {
                    side.over = true;
                }
                self.deliver(node, MirrorInput::Stop);
            }
            Effect::Note(note) => {
                self.log.say(|| format!("{:<5} => {note:?}", NAMES[node]));
                self.count_note(&note);
                self.outside.notes.push((node, note));
            }
        }
    }

    fn count_note(&mut self, note: &Note) {
        use twinblock::logic::failover::interface::Change;
        if let Note::Ended { change: Change::ToOwner, done: true, .. } = note {
            self.stats.promotions += 1;
        }
    }

    /// Orders go to the volume's thread.
    fn carry_orders(&mut self, node: usize) {
        let Some(side) = self.side(node) else { return };
        let orders: Vec<(u64, Order)> = side.orders.0.borrow_mut().drain(..).collect();
        for (id, order) in orders {
            self.deliver(node, MirrorInput::Order { id, order });
        }
    }

    // --- from the volume's thread

    /// Tells the group what has changed of the volume.
    pub fn tell_facts(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let (life, facts) = (process.life, process.mirror.facts());
        let Some(side) = process.group.as_mut().filter(|side| side.told != Some(facts)) else { return };
        side.told = Some(facts);
        self.group_hop(GroupEvent::Facts { node, life, facts });
    }

    /// The volume has carried out an order, or could not.
    pub fn tell_order_done(&mut self, node: usize, id: u64, result: Result<(), String>) {
        self.tell_facts(node);
        let life = self.process_of(node).life;
        self.group_hop(GroupEvent::OrderDone { node, life, id, result });
    }

    /// The channel between two threads keeps the order of what is in it.
    fn group_hop(&mut self, event: GroupEvent) {
        let at = self.now + self.random.span(Duration::from_micros(1), HOP);
        let at = at.max(self.outside.checks.newest_hop + Duration::from_nanos(1));
        self.outside.checks.newest_hop = at;
        self.group_event_at(at, event);
    }

    /// The link carried something.
    pub fn link_heard(&mut self, node: usize) {
        if let Some(side) = self.side_mut(node) {
            side.link_heard = true;
        }
    }

    fn facts_arrive(&mut self, node: usize, life: u64, facts: Facts) {
        if !self.alive(node, life) {
            return;
        }
        let (clock, begun) = (self.clock(node), self.side(node).is_some_and(|side| side.core.is_some()));
        let Some(side) = self.side_mut(node) else { return };
        let Some(all) = side.volumes.learn("vol0", facts) else { return };
        if begun {
            self.log.say(|| format!("{:<5} <= facts {all:?}", NAMES[node]));
            return self.group_input(node, Input::Mirror(all));
        }
        let core = self.new_group_core(node, all, clock);
        self.side_mut(node).expect("just seen").core = Some(core);
        self.wake_group(node);
    }

    fn new_group_core(&self, node: usize, facts: Facts, clock: Moment) -> Failover {
        let this = &self.nodes[node];
        let process = this.process.as_ref().expect("it runs");
        let seed = self.config.seed ^ process.life << 20;
        let identity = Identity { incarnation: process.incarnation, boot: this.boot, seed };
        let config = self.group().expect("it has a group");
        let (settings, memory) = (config.settings(node), this.lasting.memory);
        #[cfg(feature = "mutants")]
        if let Some(mutation) = config.mutation {
            return Failover::with_mutation(settings, identity, memory, facts, clock, mutation);
        }
        Failover::new(settings, identity, memory, facts, clock)
    }

    fn order_done(&mut self, node: usize, life: u64, id: u64, result: Result<(), String>) {
        if !self.alive(node, life) {
            return;
        }
        let Some(side) = self.side_mut(node) else { return };
        if let Some(result) = side.volumes.order_done("vol0", id, result) {
            self.group_input(node, Input::MirrorDone { id, result });
        }
    }

    /// An order that makes a node primary whatever the peer may hold begins a line of content of its own.
    fn watch_order(&mut self, node: usize, order: Order) {
        let splits = self.group().is_some_and(|group| group.splits());
        let Order::Promote { way, .. } = order else { return };
        if way == Way::Forced || way == Way::Takeover && splits {
            self.nodes[node].lasting.forking = Some(self.nodes[node].durable().lineage.current);
        }
    }

    /// A record is durable: if it begins a line of its own, so does the history.
    pub fn fork_if_begun(&mut self, node: usize) {
        let Some(before) = self.nodes[node].lasting.forking else { return };
        if self.nodes[node].durable().lineage.current == before {
            return;
        }
        self.nodes[node].lasting.forking = None;
        self.fork(node);
        let Some(process) = self.nodes[node].process.as_ref() else { return };
        let clients: Vec<usize> = process.connections.keys().copied().collect();
        clients.into_iter().for_each(|client| self.cut_client(node, client));
    }
}

/// Whether this run has a group.
pub fn side_for(config: &Config) -> Option<Side> {
    config.group.as_ref().map(|_| Side::new())
}
