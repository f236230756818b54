//! Operators: each verb is done, or refused with the reason and the next step. And whether the pair is fit.

use super::core::Failover;
use super::detector::Level;
use super::interface::{Change, Effect, MirrorOrder, Verb, Way};
use super::plan::Direction;
use super::state::{Leave, LeaveStep, Phase, TakeStep};
use crate::base::command::{CommandOutcome, Refusal};
use crate::base::group::{GroupRole, Reason, Stage, Wish};
use crate::base::heartbeat::{Heartbeat, Question};
use crate::base::ids::{CommandId, NodeId};
use crate::base::state::{DiskState, Role};

impl Failover {
    /// An operator asks.
    pub(super) fn command(&mut self, id: CommandId, verb: Verb, out: &mut Vec<Effect>) {
        if self.stopping {
            let refusal = Refusal::new("stopping", "The daemon is stopping.", "Start it again first.");
            return self.refuse(id, refusal, out);
        }
        match verb {
            Verb::Start { force } => self.start(id, force, out),
            Verb::StopGroup => self.stop_by_command(id, out),
            Verb::Move { to } => self.move_to(id, to.unwrap_or(self.other_place()), Reason::AdminRequest, out),
            Verb::Fallback => self.move_to(id, self.settings.home, Reason::AdminRequest, out),
            Verb::Recover => self.recover_by_command(id, out),
            Verb::Enable => self.enable(id, out),
            Verb::Disable => {
                self.wish(|wish| wish.disabled = true);
                self.done(id, "no node changes its role by itself any more", out);
            }
            Verb::Deactivate => self.deactivate(id, out),
            Verb::Activate => {
                self.memory.deactivated = false;
                self.talk.wish_changed();
                self.done(id, "this node may own the group again", out);
            }
        }
    }

    /// The node the group is not on, as far as known.
    fn other_place(&self) -> NodeId {
        let me = self.settings.node;
        if self.state.owns() { me.peer() } else { me }
    }

    fn name(&self, node: NodeId) -> &str {
        &self.settings.node_names[usize::from(node.0)]
    }

    fn wish(&mut self, change: impl Fn(&mut Wish)) {
        change(&mut self.memory.wish);
        self.memory.wish.version += 1;
        self.talk.wish_changed();
    }

    fn done(&self, id: CommandId, sentence: &str, out: &mut Vec<Effect>) {
        out.push(Effect::CommandDone { id, outcome: CommandOutcome::Done(sentence.into()) });
    }

    fn refuse(&self, id: CommandId, refusal: Refusal, out: &mut Vec<Effect>) {
        out.push(Effect::CommandDone { id, outcome: CommandOutcome::Refused(refusal) });
    }

    /// The command that waits for the end of a change is answered by it.
    pub(super) fn answer_waiting(&mut self, done: bool, why: &str, out: &mut Vec<Effect>) {
        let Some(id) = self.waiting.take() else { return };
        if done {
            self.done(id, "done", out);
        } else {
            let reason = format!("It did not come to an end: {why}.");
            let refusal =
                Refusal::new("failed", reason, "See `events` for the stage that failed, then `group status`.");
            self.refuse(id, refusal, out);
        }
    }

    /// A change that is under way; its end answers this command, and no other.
    fn wait(&mut self, id: CommandId, out: &mut Vec<Effect>) {
        self.answer_waiting(false, "another command took its place", out);
        self.waiting = Some(id);
    }

    fn busy(&self) -> Option<Refusal> {
        let changing = matches!(self.state.phase, Phase::TakingOver { .. } | Phase::Leaving { .. });
        let busy = changing || self.state.offered.is_some() || self.state.door.is_some();
        busy.then(|| {
            let next = "Wait until it has ended (`events --follow`), then ask again.";
            Refusal::new("busy", "A change of role is under way.", next)
        })
    }

    fn start(&mut self, id: CommandId, force: bool, out: &mut Vec<Effect>) {
        // One that is on its way down does not run, whatever else is still up.
        let leaving = matches!(self.state.phase, Phase::Leaving { .. });
        if self.state.owns() && !leaving && !self.memory.wish.stopped {
            return self.done(id, "it runs here already", out);
        }
        if let Some(refusal) = self.busy() {
            return self.refuse(id, refusal, out);
        }
        if self.state.owns() {
            // A stop from the other node has just been heard, and is not begun.
            self.wish(|wish| wish.stopped = false);
            return self.done(id, "it goes on running here", out);
        }
        let peer = self.name(self.settings.node.peer()).to_string();
        if self.hears_peer() && self.peer.is_some_and(|peer| peer.role.claims()) {
            let reason = format!("{peer} owns the group and is heard; two owners would both write.");
            return self.refuse(id, Refusal::new("peer-owns", reason, "Move it instead: `group move`."), out);
        }
        self.wish(|wish| wish.stopped = false);
        self.memory.deactivated = false;
        if force {
            if self.mirror.disk == DiskState::Diskless || self.mirror.disk == DiskState::New {
                let next = format!("Attach a disk that holds the volume, or start the group on {peer}.");
                return self.refuse(id, Refusal::new("no-disk", "This node has nothing to serve from.", next), out);
            }
            self.state.failed = None;
            let began = (Stage::Drain, self.now);
            self.begin_episode(Change::ToOwner, Reason::AdminRequest, "forced", began, out);
            self.lacks_writes = self.may_lack_writes();
            self.become_phase(Phase::TakingOver { way: Way::Forced, step: TakeStep::Preparing });
            self.order(MirrorOrder::PrepareTakeover, out);
            self.wait(id, out);
            return;
        }
        match self.detector.level() {
            // The rule for two standbys does the rest.
            Level::Alive if self.mirror.connected => self.done(id, "it starts as soon as both nodes agree", out),
            Level::Lost if self.takeover_block().is_none() => self.done(id, "it starts here", out),
            _ => {
                let block = self.takeover_block().unwrap_or("it is not known yet whether the peer is there");
                let reason = format!("The group can't start here alone: {block}.");
                let next =
                    format!("Start {peer}; or make sure that it is off, and force: what only {peer} has is given up.");
                self.refuse(id, Refusal::new("not-entitled", reason, next), out);
            }
        }
    }

    fn stop_by_command(&mut self, id: CommandId, out: &mut Vec<Effect>) {
        if let Some(refusal) = self.busy() {
            return self.refuse(id, refusal, out);
        }
        self.wish(|wish| wish.stopped = true);
        if self.state.phase == Phase::Owner {
            self.stop_group(Reason::AdminRequest, "stopped-by-operator", out);
            self.wait(id, out);
        } else {
            self.done(id, "it stops where it runs, and is started nowhere", out);
        }
    }

    fn move_to(&mut self, id: CommandId, to: NodeId, reason: Reason, out: &mut Vec<Effect>) {
        let me = self.settings.node;
        if let Some(refusal) = self.busy() {
            return self.refuse(id, refusal, out);
        }
        let (there, owner) = (self.name(to).to_string(), self.state.phase == Phase::Owner);
        let peer_owns = self.hears_peer() && self.peer.is_some_and(|peer| peer.role == GroupRole::Owner);
        match (owner, to == me) {
            (true, true) => self.done(id, &format!("it runs on {there} already"), out),
            (false, false) if peer_owns => self.done(id, &format!("it runs on {there} already"), out),
            (true, false) => match self.move_block() {
                Some(refusal) => self.refuse(id, refusal, out),
                None => {
                    self.start_move(reason, "moved-by-operator", out);
                    self.wait(id, out);
                }
            },
            (false, true) if peer_owns => {
                let ask = self.draw();
                self.talk.ask(ask, Question::Move { reason }, self.now);
                self.wait(id, out);
            }
            _ => {
                let next = "Start it first: `group start` on the node with the newest data (`group status`).";
                self.refuse(id, Refusal::new("not-running", "The group runs on no node that is heard.", next), out);
            }
        }
    }

    /// Why the group can't be moved now, if it can't.
    pub(super) fn move_block(&self) -> Option<Refusal> {
        let unknown = self.plan.standing().contains(&super::plan::Standing::Unknown);
        if unknown {
            let next = "Stop it by hand, then run `group recover`.";
            return Some(Refusal::new("stop-failed", "A resource here did not stop, and may still run.", next));
        }
        self.busy().or_else(|| self.fit_to_receive().err())
    }

    /// Whether the peer could take the group from this node now.
    pub(super) fn fit_to_receive(&self) -> Result<(), Refusal> {
        let there = self.name(self.settings.node.peer()).to_string();
        let refuse = |code: &str, reason: String, next: String| Err(Refusal::new(code, reason, next));
        let peer = match self.peer {
            Some(peer) if self.detector.level() == Level::Alive => peer,
            _ => {
                let next = format!("Check the power, daemon and networks of {there}.");
                return refuse("peer-unheard", format!("{there} is not heard."), next);
            }
        };
        if let Some((reason, next)) = self.peer_block(&peer, &there) {
            return refuse("peer-unfit", reason, next);
        }
        let arbiter = self.settings.mode.has_arbiter();
        if let Some(trouble) = self.arbiter_trouble() {
            return refuse(
                "arbiter",
                format!("The arbiter can't be used: {}.", trouble.detail),
                sentence(trouble.next()),
            );
        }
        let known = self.register.record().is_some_and(|record| record.insync.contains(self.settings.node.peer()));
        if arbiter && !known && !self.keeps_peer_out() {
            let next = "Wait until `group status` shows both as in sync.".to_string();
            return refuse("record", format!("The arbiter's record does not name {there} as in sync yet."), next);
        }
        Ok(())
    }

    fn peer_block(&self, peer: &Heartbeat, there: &str) -> Option<(String, String)> {
        let peer_only = self.mirror.disk != DiskState::UpToDate && self.mirror.connected;
        match () {
            () if peer.role != GroupRole::Standby => {
                Some((format!("{there} is {}.", peer.role), "Wait until it stands by.".into()))
            }
            () if peer.deactivated => {
                Some((format!("{there} was deactivated by an operator."), format!("Run `activate` on {there}.")))
            }
            () if !peer.healthy => Some((
                format!("{there} is not healthy: {}, {}.", peer.state, peer.reason),
                format!("See `group status` on {there}."),
            )),
            () if !peer.volume.fit && peer.volume.disk == DiskState::UpToDate => Some((
                format!("The copy of {there} can't be trusted: its metadata was damaged, or both went on alone."),
                format!("See `status` on {there}."),
            )),
            () if !peer.volume.fit => Some((
                format!("The disk of {there} is {}.", peer.volume.disk),
                "Wait for the resync, or mend that disk.".into(),
            )),
            () if !self.is_session_current() || !self.mirror.in_sync && !peer_only => {
                Some(("The two copies are not in sync.".into(), "Wait until the resync is done (`status`).".into()))
            }
            () => None,
        }
    }

    /// Whether automatic changes of role may be allowed (H10): otherwise the pair might change at once, or to its harm.
    pub(super) fn enable_block(&self) -> Option<Refusal> {
        let there = self.name(self.settings.node.peer()).to_string();
        let Some(peer) = self.peer.filter(|_| self.detector.level() == Level::Alive) else {
            let next = format!("Start {there} and check the networks first.");
            return Some(Refusal::new("peer-unheard", format!("{there} is not heard."), next));
        };
        let refuse = |code: &str, reason: String, next: &str| Some(Refusal::new(code, reason, next));
        match () {
            () if peer.version != self.settings.version => {
                let reason =
                    format!("The versions differ: {:?} here, {:?} on {there}.", self.settings.version, peer.version);
                refuse("version", reason, "Bring both to the same version.")
            }
            () if peer.config != self.settings.config => {
                let next = "Compare them with `twinblock check --peer`, which names the differences.";
                refuse("config", "The configurations of the two servers differ.".into(), next)
            }
            () if !self.mirror.in_sync => refuse(
                "not-in-sync",
                "The two copies are not in sync.".into(),
                "Wait until the resync is done (`status`).",
            ),
            () if !self.is_healthy() || !peer.healthy => {
                let reason = "A critical resource is down, or a node is in failed mode.".into();
                refuse("unhealthy", reason, "See `group status` for which; mend it first.")
            }
            () if self.arbiter_trouble().is_some() => {
                let trouble = self.arbiter_trouble().expect("there is some");
                let reason = format!("The arbiter can't be used, so nobody could take over: {}.", trouble.detail);
                refuse("arbiter", reason, &sentence(trouble.next()))
            }
            () => None,
        }
    }

    fn enable(&mut self, id: CommandId, out: &mut Vec<Effect>) {
        match self.enable_block() {
            Some(refusal) => self.refuse(id, refusal, out),
            None => {
                self.wish(|wish| wish.disabled = false);
                self.done(id, "the pair is fit; it changes roles by itself from now on", out);
            }
        }
    }

    fn deactivate(&mut self, id: CommandId, out: &mut Vec<Effect>) {
        if let Some(refusal) = self.busy() {
            return self.refuse(id, refusal, out);
        }
        if self.state.phase != Phase::Owner {
            self.memory.deactivated = true;
            self.talk.wish_changed();
            return self.done(id, "this node owns nothing and will not", out);
        }
        match self.move_block() {
            Some(refusal) => self.refuse(id, refusal, out),
            None => {
                self.memory.deactivated = true;
                self.talk.wish_changed();
                self.start_move(Reason::AdminRequest, "deactivated", out);
                self.wait(id, out);
            }
        }
    }

    fn recover_by_command(&mut self, id: CommandId, out: &mut Vec<Effect>) {
        let ask = self.draw();
        if self.hears_peer() && self.state.offered.is_none() && self.state.door.is_none() {
            self.talk.ask(ask, Question::Recover, self.now);
        }
        if self.register.went_back() && self.state.owns() {
            // The owner is known by its own right; the record follows it, above everything seen before.
            self.register.want(super::register::Purpose::Force, self.now);
        }
        self.recover();
        self.done(id, "what was half done is stopped; what should run starts again", out);
    }

    /// Leaves the failed state: what is half done is stopped, then everything is decided anew. Never a decision on data.
    pub(super) fn recover(&mut self) {
        self.retry_at = self.now;
        for trouble in &mut self.troubles {
            *trouble = None;
        }
        match self.state.phase {
            Phase::Owner => {
                self.state.failed = None;
                self.plan.go(Direction::Down);
            }
            Phase::Leaving { how: Leave::Move | Leave::Stop, step: LeaveStep::Stopping }
                if self.mirror.role == Role::Primary =>
            {
                self.become_phase(Phase::Owner);
                self.plan.go(Direction::Down);
            }
            Phase::Standby | Phase::Starting => {
                let unknown = self.state.failed == Some(Reason::StopFailed);
                if !unknown {
                    self.state.failed = None;
                }
                self.plan.go(Direction::Down);
            }
            _ => {}
        }
    }
}

/// A clause as a sentence of its own.
fn sentence(clause: &str) -> String {
    let mut letters = clause.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).chain(['.']).collect())
}
