//! The core's state and its outer face: one input in, effects out; after each, every decision is looked at again.
//!
//! | file | what it decides |
//! |---|---|
//! | `core` | who gets which input; the order in which decisions are looked at |
//! | `detector` | is the peer there |
//! | `permit` | until when may be served; until when must not be taken over |
//! | `register` | the arbiter's record, and the one change of it under way |
//! | `door` | excluding the peer: record, fence, probe |
//! | `owner` | an owner's duties: gate, going on alone, returning to a pair, moving when something breaks |
//! | `standby` | a standby's duties: taking over, starting, what it agrees to |
//! | `takeover` | the way to owner, step by step |
//! | `leave` | the way back: in order, or at once |
//! | `plan` | resources, one step at a time |
//! | `talk` | heartbeats, questions, answers |
//! | `command` | operators; whether the pair is fit |
//! | `states`, `view` | what is shown |
//! | `explain` | what would happen if |

use super::announce::Episode;
use super::detector::Detector;
use super::door::Fencing;
use super::interface::{Effect, Gate, Identity, Input, MirrorFacts, MirrorOrder, Note, Settings};
use super::mutation::Rules;
use super::permit::{Permit, Promises, Terms};
use super::plan::{Direction, End, Plan};
use super::reconfigure::Pace;
use super::register::{Hints, Register, Verdict};
use super::state::{Leave, Phase, State};
use super::talk::Talk;
use crate::base::arbiter::ArbiterError;
use crate::base::group::{GroupRole, Memory, NodeState, Reason};
use crate::base::heartbeat::Heartbeat;
use crate::base::ids::{CommandId, Epoch};
use crate::base::limits::GROUP_DECISIONS_MAX;
use crate::base::state::DiskState;
use crate::base::time::Moment;
use std::time::Duration;

/// The failover core of one group on one node.
#[derive(Clone, Debug)]
pub struct Failover {
    pub(super) settings: Settings,
    pub(super) identity: Identity,
    pub(super) rules: Rules,
    pub(super) random: u64,
    pub(super) now: Moment,
    pub(super) began: Moment,
    pub(super) state: State,
    pub(super) memory: Memory,
    pub(super) detector: Detector,
    /// What it goes by.
    pub(super) pace: Pace,
    pub(super) permit: Permit,
    pub(super) promises: Promises,
    pub(super) register: Register,
    /// What the last look at every part of the arbiter found wrong.
    pub(super) arbiter_unfit: Option<ArbiterError>,
    pub(super) fencing: Fencing,
    pub(super) plan: Plan,
    pub(super) talk: Talk,
    pub(super) mirror: MirrorFacts,
    /// The last order to the mirror that is not answered.
    pub(super) job: Option<Job>,
    /// The newest heartbeat of the peer.
    pub(super) peer: Option<Heartbeat>,
    pub(super) gate: Gate,
    /// Since when the gate of an owner is closed.
    pub(super) held_since: Option<Moment>,
    /// Since when each resource is down, and why.
    pub(super) troubles: Vec<Option<(Moment, String)>>,
    /// Since when the local disk of an owner is not good.
    pub(super) storage_down: Option<Moment>,
    pub(super) turn_age: Duration,
    pub(super) episode: Option<Episode>,
    /// Since when the pair is as healthy as a fallback wants it.
    pub(super) well_since: Option<Moment>,
    /// When the last change of role that no loss forced began.
    pub(super) last_voluntary: Option<Moment>,
    /// The command that waits for the end of a change.
    pub(super) waiting: Option<CommandId>,
    /// The daemon is to stop.
    pub(super) stopping: bool,
    /// No claim or takeover before this: the last one failed.
    pub(super) retry_at: Moment,
    /// Left behind by an earlier life of the daemon: to be stopped first.
    pub(super) cleaning: bool,
    /// The takeover under way may be without acknowledged writes of an asynchronous owner.
    pub(super) lacks_writes: bool,
    pub(super) shown: Option<(NodeState, Reason)>,
    pub(super) told: Told,
    ids: u64,
}

/// An order to the mirror under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) order: MirrorOrder,
    pub(super) since: Moment,
}

/// What was told and is still so.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) arbiter_down: bool,
    pub(super) config_differs: bool,
    pub(super) stuck_here: bool,
    pub(super) stuck_there: bool,
    pub(super) paired: bool,
    pub(super) split: bool,
    pub(super) aborted: bool,
    pub(super) stopped: bool,
}

impl Failover {
    /// A core that has just started: it owns nothing, and first has everything stopped that an earlier life of the
    /// daemon may have left running.
    pub fn new(settings: Settings, identity: Identity, memory: Memory, mirror: MirrorFacts, now: Moment) -> Failover {
        Failover::with_rules(settings, identity, memory, mirror, now, Rules::default())
    }

    /// The same core with one rule broken, for the tests.
    #[cfg(feature = "mutants")]
    pub fn with_mutation(
        settings: Settings,
        identity: Identity,
        memory: Memory,
        mirror: MirrorFacts,
        now: Moment,
        mutation: super::Mutation,
    ) -> Failover {
        Failover::with_rules(settings, identity, memory, mirror, now, Rules::without(mutation))
    }

    fn with_rules(
        settings: Settings,
        identity: Identity,
        memory: Memory,
        mirror: MirrorFacts,
        now: Moment,
        rules: Rules,
    ) -> Failover {
        let (retry, interval) = (settings.retry_interval, settings.arbiter_interval);
        let mut plan = Plan::new(&settings);
        plan.doubt();
        plan.go(Direction::Down);
        Failover {
            rules,
            random: identity.seed,
            now,
            began: now,
            state: State::new(mirror.seen_epoch.max(memory.arbiter_epoch).max(memory.epoch), memory.reason),
            detector: Detector::new(&settings, now),
            pace: Pace::of(&settings),
            permit: Permit::default(),
            promises: Promises::new(&settings, memory.promised, now, rules),
            register: Register::new(settings.node, memory.arbiter_epoch, retry, interval, now, rules),
            arbiter_unfit: None,
            fencing: Fencing::default(),
            troubles: vec![None; settings.resources.len()],
            plan,
            talk: Talk::new(now),
            memory,
            mirror,
            job: None,
            peer: None,
            gate: Gate::Closed,
            held_since: None,
            storage_down: None,
            turn_age: Duration::ZERO,
            episode: None,
            well_since: None,
            last_voluntary: None,
            waiting: None,
            stopping: false,
            retry_at: now,
            cleaning: true,
            lacks_writes: false,
            shown: None,
            told: Told::default(),
            ids: 0,
            settings,
            identity,
        }
    }

    /// Takes one input and appends what is to be done.
    pub fn handle(&mut self, now: Moment, input: Input, out: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        match input {
            Input::Heartbeat { path, heartbeat } => self.heartbeat(path, &heartbeat, out),
            Input::LinkHeard => self.detector.link_heard(self.now),
            Input::PeerRefused => self.detector.refused(self.now),
            Input::Mirror(facts) => self.mirror = facts,
            Input::MirrorDone { id, result } => self.mirror_done(id, result, out),
            Input::ArbiterRead { id, outcome } => {
                if let Some(verdict) = self.register.read(self.now, id, outcome) {
                    self.verdict(verdict, out);
                }
            }
            Input::ArbiterCas { id, outcome } => {
                if let Some(verdict) = self.register.answered(self.now, id, outcome) {
                    self.verdict(verdict, out);
                }
            }
            Input::ArbiterLooked { trouble } => self.arbiter_unfit = trouble,
            Input::Fenced { id, result } => self.fenced(id, result, out),
            Input::Probed { id, targets_answer, peer_answers } => self.probed(id, targets_answer, peer_answers, out),
            Input::StepDone { id, result } => self.step_done(id, result, out),
            Input::Resource { index, trouble } => self.resource(index, trouble),
            Input::TurnAge(age) => self.turn_age = age,
            Input::Command { id, verb } => self.command(id, verb, out),
            Input::Stop => self.stopping = true,
            Input::Tick => {}
        }
        self.drive(out);
    }

    /// Ends a batch of inputs: heartbeats that are due, or wanted at once, go out.
    pub fn settle(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        self.drive(out);
        self.beat(out);
    }

    /// When [`Input::Tick`] is wanted at the latest.
    pub fn next_deadline(&self) -> Option<Moment> {
        let job = self.job.map(|job| job.since + self.settings.mirror_timeout);
        let permit = self.permit.until();
        let moments = [
            Some(self.talk.next_beat()),
            self.detector.deadline(self.now),
            self.register.deadline(),
            self.fencing.deadline(),
            self.plan.deadline(),
            job,
            permit,
            self.door_deadline(),
            self.standby_deadline(),
            self.owner_deadline(),
        ];
        // What is due already was looked at just now; a tick at the same moment again would tell nothing new.
        moments.into_iter().flatten().filter(|moment| *moment > self.now).min()
    }

    /// Looks at every decision again until nothing changes.
    pub(super) fn drive(&mut self, out: &mut Vec<Effect>) {
        let mut notes = Vec::new();
        self.detector.look(self.now, &mut notes);
        out.extend(notes.into_iter().map(Effect::Note));
        for _ in 0..GROUP_DECISIONS_MAX {
            let before =
                (self.state, self.job.map(|job| job.id), self.register.wants(), self.plan.direction(), self.ids);
            self.overdue(out);
            self.step_plan(out);
            self.call_arbiter(out);
            self.stop_wanted(out);
            match self.state.phase {
                Phase::Starting | Phase::Standby => self.standby_duties(out),
                Phase::TakingOver { .. } => self.takeover_duties(out),
                Phase::Owner => self.owner_duties(out),
                Phase::Leaving { .. } => self.leave_duties(out),
                Phase::Gone => {}
            }
            self.fence_duties(out);
            let after =
                (self.state, self.job.map(|job| job.id), self.register.wants(), self.plan.direction(), self.ids);
            if before == after {
                break;
            }
        }
        self.set_gate(out);
        self.tell_changes(out);
        self.remember(out);
    }

    /// What is to be answered and was not, counts as failed.
    fn overdue(&mut self, out: &mut Vec<Effect>) {
        if let Some(job) = self.job.filter(|job| self.now >= job.since + self.settings.mirror_timeout) {
            let limit = self.settings.mirror_timeout.as_secs();
            self.mirror_done(job.id, Err(format!("the volume did not answer within {limit} s")), out);
        }
        if let Some(step) = self.plan.overdue(self.now) {
            self.step_ended(step, Err("it did not end within its time".into()), out);
        }
    }

    /// What is wrong with the arbiter: its last answer was no good one, or else a look at all of it found something.
    pub(super) fn arbiter_trouble(&self) -> Option<&ArbiterError> {
        let trouble = self.register.trouble().or(self.arbiter_unfit.as_ref());
        trouble.filter(|_| self.settings.mode.has_arbiter())
    }

    /// A new id for something that will be answered.
    pub(super) fn fresh_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// A random number (splitmix64 over the seed from outside).
    pub(super) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The one place where the phase changes.
    pub(super) fn become_phase(&mut self, phase: Phase) {
        let owned = self.state.owns();
        self.state.phase = phase;
        // Whoever owns nothing is alone with nothing, whichever way it left.
        self.state.solo &= self.state.owns();
        if owned != self.state.owns() {
            self.held_since = None;
            self.storage_down = None;
            self.well_since = None;
        }
        self.talk.beat_now();
    }

    /// Orders something of the mirror; an order before it that is not answered counts no more.
    pub(super) fn order(&mut self, order: MirrorOrder, out: &mut Vec<Effect>) {
        let id = self.fresh_id();
        self.job = Some(Job { id, order, since: self.now });
        out.push(Effect::Mirror { id, order });
    }

    /// Whether this order is under way.
    pub(super) fn is_ordered(&self, matching: impl Fn(MirrorOrder) -> bool) -> bool {
        self.job.is_some_and(|job| matching(job.order))
    }

    fn mirror_done(&mut self, id: u64, result: Result<(), String>, out: &mut Vec<Effect>) {
        let Some(job) = self.job.filter(|job| job.id == id) else { return };
        self.job = None;
        match job.order {
            MirrorOrder::PrepareSolo | MirrorOrder::OpenSolo { .. } => self.solo_ordered(job.order, result, out),
            MirrorOrder::PrepareTakeover | MirrorOrder::Promote { .. } => self.takeover_ordered(job.order, result, out),
            MirrorOrder::Outdate => self.outdated(result.is_ok()),
            MirrorOrder::Quiesce => self.quiesced(result, out),
            MirrorOrder::Demote => self.demoted(result, out),
            MirrorOrder::CloseDoor | MirrorOrder::Qualify | MirrorOrder::AllowPeerOnly => {}
        }
    }

    fn verdict(&mut self, verdict: Verdict, out: &mut Vec<Effect>) {
        match verdict {
            Verdict::Won(purpose, record) => self.record_won(purpose, record, out),
            Verdict::Denied(purpose, denied) => self.record_denied(purpose, denied, out),
        }
    }

    fn call_arbiter(&mut self, out: &mut Vec<Effect>) {
        if !self.settings.mode.has_arbiter() {
            return;
        }
        let cache_epoch = self.mirror.cache_epoch + u64::from(self.declares_loss());
        let stands_by = self.peer.filter(|peer| peer.role == GroupRole::Standby);
        let peer_epoch = stands_by.map_or(Epoch(0), |peer| peer.epoch);
        let drained = self.keeps_peer_out() && matches!(self.state.phase, Phase::Leaving { how: Leave::Move, .. });
        let (generation, epoch) = (self.mirror.generation, self.state.epoch);
        let hints = Hints { generation, cache_epoch, epoch, peer_epoch, drained };
        let (id, nonce) = (self.ids + 1, self.draw());
        match self.register.next_call(self.now, id, hints, nonce) {
            None => {}
            Some(Ok(call)) => {
                self.ids = id;
                out.push(Effect::Arbiter { id, call });
            }
            Some(Err(verdict)) => self.verdict(verdict, out),
        }
    }

    fn step_plan(&mut self, out: &mut Vec<Effect>) {
        let id = self.ids + 1;
        match self.plan.next(self.now, id) {
            None => {}
            Some(Ok(step)) => {
                self.ids = id;
                let reason = self.state.reason;
                let (index, verb, deadline) = (step.index, step.verb, step.deadline);
                out.push(Effect::Step { id, index, verb, deadline, reason });
            }
            Some(Err(end)) => self.plan_ended(end, out),
        }
    }

    fn step_done(&mut self, id: u64, result: Result<(), String>, out: &mut Vec<Effect>) {
        if let Some(step) = self.plan.done(id, result.is_ok()) {
            self.step_ended(step, result, out);
        }
    }

    fn step_ended(&mut self, step: super::plan::Step, result: Result<(), String>, out: &mut Vec<Effect>) {
        self.troubles[step.index] = None;
        if let Err(why) = result {
            out.push(Effect::Note(Note::StepFailed { index: step.index, verb: step.verb, why }));
        }
    }

    fn plan_ended(&mut self, end: End, out: &mut Vec<Effect>) {
        if self.cleaning {
            self.cleaning = false;
            if let End::StopFailed(_) = end {
                self.state.failed = Some(Reason::StopFailed);
            }
            return;
        }
        match self.state.phase {
            Phase::TakingOver { .. } | Phase::Owner => self.plan_ended_as_owner(end, out),
            Phase::Leaving { .. } => self.plan_ended_leaving(end, out),
            Phase::Starting | Phase::Standby | Phase::Gone => {
                if let End::StopFailed(_) = end {
                    self.state.failed = Some(Reason::StopFailed);
                } else if self.state.failed == Some(Reason::StopFailed) {
                    self.state.failed = None;
                }
            }
        }
    }

    fn resource(&mut self, index: usize, trouble: Option<String>) {
        let Some(entry) = self.troubles.get_mut(index) else { return };
        *entry = match (trouble, entry.take()) {
            (None, _) => None,
            (Some(why), Some((since, _))) => Some((since, why)),
            (Some(why), None) => Some((self.now, why)),
        };
    }

    pub(super) fn terms(&self) -> Terms {
        Terms {
            clock_rate_per_mille: self.settings.clock_rate_per_mille,
            margin: self.settings.permit_margin,
            rules: self.rules,
        }
    }

    /// Adopts an epoch if it is a higher one.
    pub(super) fn adopt_epoch(&mut self, epoch: Epoch) {
        if epoch > self.state.epoch {
            self.state.epoch = epoch;
            self.permit.clear();
        }
    }

    /// Until both are in sync again, or this copy was found good enough to own the group with.
    fn disk_was_out(&self) -> bool {
        match self.mirror.disk {
            DiskState::Diskless => true,
            DiskState::UpToDate if self.mirror.in_sync || self.state.owns() => false,
            _ => self.memory.disk_was_out,
        }
    }

    fn remember(&mut self, out: &mut Vec<Effect>) {
        let memory = Memory {
            epoch: self.state.epoch,
            arbiter_epoch: self.register.floor(),
            owned: self.state.owns(),
            reason: self.state.reason,
            promised: self.promises.remembered(self.now, self.memory.promised),
            disk_was_out: self.disk_was_out(),
            ..self.memory
        };
        if memory != self.memory || self.talk.take_wish_changed() {
            self.memory = memory;
            // Durable before anything leaves that rests on it.
            out.insert(0, Effect::Remember(memory));
        }
    }
}
