//! The operator: promotes when nobody serves, moves the volume on purpose, attaches disks again, and brings a split
//! volume together. Never forces anything, except in runs that say so.

use super::node::{Asked, NAMES};
use super::world::{Event, World};
use std::time::Duration;
use twinblock::base::command::{Command, CommandOutcome};
use twinblock::base::generation::Generation;
use twinblock::base::ids::CommandId;
use twinblock::base::state::{LinkState, Role};
use twinblock::base::time::Moment;
use twinblock::logic::mirror::interface::Input;

/// Time between two looks.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Time until a disk that was given up is attached again.
const ATTACH_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(4));

/// Time after which a move that did not come about is given up.
const MOVE_TIME: Duration = Duration::from_secs(10);

/// A planned switchover.
#[derive(Clone, Copy)]
struct Move {
    to: usize,
    /// The other node has demoted.
    demoted: bool,
    until: Moment,
}

/// What the operator keeps in mind.
#[derive(Default)]
pub struct Operator {
    /// Promotes and attaches of its own accord.
    pub on_duty: bool,
    /// No new client is let in here: the volume is about to move away.
    pub draining: Option<usize>,
    /// Where the volume is to go.
    moving: Option<Move>,
    attach_at: [Option<Moment>; 2],
    /// What each node held when it was asked to promote by force and has not answered.
    forcing: [Option<Generation>; 2],
    /// Every command that ended.
    pub outcomes: Vec<(usize, Command, CommandOutcome)>,
}

impl Operator {
    /// Whether a switchover is under way.
    pub fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    /// A node's daemon is gone, and with it what was asked of it.
    pub fn daemon_ended(&mut self, node: usize) {
        self.attach_at[node] = None;
        if self.draining == Some(node) {
            self.draining = None;
        }
    }
}

impl World {
    /// The operator begins to look after the pair.
    pub fn operator_on_duty(&mut self) {
        self.operator.on_duty = true;
        self.after(Duration::from_millis(50), Event::Operator);
    }

    /// A look at the pair.
    pub fn operator_looks(&mut self) {
        if !self.operator.on_duty {
            return;
        }
        for node in 0..2 {
            self.attach_when_due(node);
        }
        if self.group().is_none() {
            self.promote_somebody();
        }
        let delay = self.span(LOOK);
        self.after(delay, Event::Operator);
    }

    fn promote_somebody(&mut self) {
        let visible: Vec<usize> = (0..2).filter(|node| self.can_be_asked(*node)).collect();
        if let Some(Move { to, demoted, until }) = self.operator.moving {
            if self.serves(to) || self.now >= until {
                self.operator.moving = None;
                self.operator.draining = None;
            } else if demoted && self.can_be_asked(to) {
                self.ask_to_promote(to);
            }
            return;
        }
        if visible.is_empty() {
            return;
        }
        let somebody = visible.iter().any(|node| self.view(*node).is_some_and(|view| view.role == Role::Primary));
        // Now and then it asks for what must be refused: a promotion beside a primary that is alive.
        if somebody && !self.random.chance(0.01) {
            return;
        }
        let node = *self.random.pick(&visible);
        self.ask_to_promote(node);
        if !somebody && visible.len() == 2 && self.random.chance(0.1) {
            // Two operators who do not know of each other.
            self.ask_to_promote(1 - node);
        }
    }

    fn ask_to_promote(&mut self, node: usize) {
        let asked =
            self.process_of(node).commands.values().any(|c| matches!(c, Asked::Command(Command::Promote { .. })));
        if !asked {
            self.command(node, Command::Promote { force: false });
        }
    }

    /// Whether a daemon answers its operator.
    pub fn can_be_asked(&self, node: usize) -> bool {
        self.nodes[node].process.as_ref().is_some_and(|process| process.turns() && !process.stopping)
    }

    fn attach_when_due(&mut self, node: usize) {
        let now = self.now;
        if !self.can_be_asked(node) {
            return;
        }
        let process = self.process_of(node);
        if process.disk_open || !process.disk_ops.is_empty() || !process.persists.is_empty() {
            self.operator.attach_at[node] = None;
            return;
        }
        match self.operator.attach_at[node] {
            None => {
                let delay = self.span(ATTACH_AFTER);
                self.operator.attach_at[node] = Some(now + delay);
            }
            Some(at) if at <= now => {
                self.operator.attach_at[node] = None;
                self.attach(node);
            }
            Some(_) => {}
        }
    }

    /// Opens the node's disk again for its daemon.
    pub fn attach(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.disk.reopened();
        this.was_doomed = false;
        let loaded = Box::new(this.metadata.open());
        let process = self.process_of(node);
        assert!(!process.disk_open && process.disk_ops.is_empty());
        process.disk_open = true;
        process.flush_failed = false;
        let id = CommandId(process.fresh_id());
        process.commands.insert(id, Asked::Attach);
        self.log.say(|| format!("operator attaches the disk of {}", NAMES[node]));
        self.deliver(node, Input::Attach { id, loaded });
    }

    /// A daemon has taken its disk back, or not: a primary without a disk has to give the volume to its peer first.
    pub fn attach_ended(&mut self, node: usize, outcome: &CommandOutcome) {
        let CommandOutcome::Refused(refusal) = outcome else { return };
        self.process_of(node).disk_open = false;
        if refusal.code == "primary" && self.can_be_asked(1 - node) && self.group().is_none() {
            self.switch_over(1 - node);
        }
    }

    /// Begins to move the volume to `to`: no new clients, those there are cut, then a demotion.
    pub fn switch_over(&mut self, to: usize) {
        let from = 1 - to;
        if !self.can_be_asked(from) || self.operator.moving.is_some() {
            return;
        }
        self.operator.draining = Some(from);
        self.operator.moving = Some(Move { to, demoted: false, until: self.now + MOVE_TIME });
        let clients: Vec<usize> = self.process_of(from).connections.keys().copied().collect();
        for client in clients {
            self.cut_client(from, client);
        }
        self.command(from, Command::Demote { force: false });
    }

    /// A command has its answer.
    pub fn command_ended(&mut self, node: usize, command: Command, outcome: CommandOutcome) {
        let done = matches!(outcome, CommandOutcome::Done(_));
        match command {
            Command::Demote { .. } => {
                self.operator.draining = None;
                self.operator.moving = self.operator.moving.filter(|_| done);
                if let Some(moving) = &mut self.operator.moving {
                    moving.demoted = true;
                    let to = moving.to;
                    self.command(to, Command::Promote { force: false });
                }
            }
            Command::Promote { force } if done => {
                self.stats.promotions += 1;
                if force {
                    self.operator.forcing[node] = None;
                    self.forced(node, &outcome);
                }
            }
            Command::Promote { force: true } => {
                let unknown = matches!(&outcome, CommandOutcome::Refused(refusal) if refusal.code == "disk-failed");
                if !unknown {
                    self.operator.forcing[node] = None;
                }
                self.forced_in_doubt(node);
            }
            _ => {}
        }
        self.operator.outcomes.push((node, command, outcome));
    }

    /// The operator wants a node to serve, whatever is lost by it.
    pub fn force(&mut self, node: usize) {
        self.operator.forcing[node] = Some(self.nodes[node].durable().lineage.current);
        self.command(node, Command::Promote { force: true });
    }

    /// A daemon ended under a forced promotion: it may have got as far as making it durable.
    pub fn forced_unheard(&mut self, node: usize) {
        let asked_at = self.operator.forcing[node].take();
        if asked_at.is_some_and(|asked_at| asked_at != self.nodes[node].durable().lineage.current) {
            self.fork(node);
        }
    }

    /// A forced promotion was refused because the disk failed under its record: which may be durable all the same, now or
    /// when a disk that was given up takes it in the end.
    pub fn forced_in_doubt(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let asked = process.commands.values().any(|c| matches!(c, Asked::Command(Command::Promote { force: true })));
        let writing = !process.persists.is_empty();
        let Some(asked_at) = self.operator.forcing[node].filter(|_| !asked) else { return };
        if self.nodes[node].durable().lineage.current != asked_at {
            self.operator.forcing[node] = None;
            self.fork(node);
        } else if !writing {
            self.operator.forcing[node] = None;
        }
    }

    /// A node serves by force: its clients see a line of their own from here on. What the peer agreed to, and what was so
    /// already, needed no force.
    fn forced(&mut self, node: usize, outcome: &CommandOutcome) {
        let alone = self.view(node).is_some_and(|view| !matches!(view.link, LinkState::Connected | LinkState::Resync));
        if !alone || *outcome != CommandOutcome::Done("primary".into()) {
            return;
        }
        self.fork(node);
        let clients: Vec<usize> = self.process_of(node).connections.keys().copied().collect();
        for client in clients {
            self.cut_client(node, client);
        }
    }

    /// What this node's disk holds is a line of its own from here on.
    pub fn fork(&mut self, node: usize) {
        let volume = twinblock::base::range::ByteRange::new(0, self.config.volume_bytes());
        let content = self.nodes[node].disk.read(volume).to_vec();
        self.nodes[node].line = self.history.forked(self.nodes[node].line, &content, self.now);
        // A disk that is not the one its clients knew counts its losses anew.
        self.nodes[node].cache_epoch = self.nodes[node].durable().cache_epoch;
    }

    /// What an operator does about a pair that refuses to sync: one side is given up.
    pub fn resolve_refusal(&mut self) {
        let refused = (0..2).all(|node| self.view(node).is_some_and(|view| view.link == LinkState::Refused));
        if !refused || !self.config.forced() {
            return;
        }
        let primary = (0..2).find(|node| self.view(*node).is_some_and(|view| view.role == Role::Primary));
        let victim = primary.map_or_else(|| self.random.below(2) as usize, |primary| 1 - primary);
        if self.view(victim).is_some_and(|view| view.role == Role::Primary) {
            self.command(victim, Command::Demote { force: true });
        }
        let discard = Command::Resync { full: false, compare: false, discard_ours: Some(true) };
        self.command(victim, discard);
    }
}
