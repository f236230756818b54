//! The way to owner.
//!
//! ```text
//! Preparing ─► Excluding(record, fence, probe) ─► Promoting ─► Starting ─► owner
//!  drain,       nobody else can own it             durable      resources, one by one
//!  flush
//! ```
//! Until something binds (a proposal on its way, a guard passed) the peer's return ends it at no cost. A claim and a
//! handover begin at the record or at the promotion.

use super::core::Failover;
use super::detector::Level;
use super::interface::{Effect, MirrorOrder, Note, Way};
use super::mutation::Mutation;
use super::plan::{Direction, End};
use super::register::Purpose;
use super::state::{Guard, Leave, LeaveStep, Phase, TakeStep};
use crate::base::arbiter::InSync;
use crate::base::group::{FailoverMode, Reason, Stage};
use crate::base::ids::Epoch;

impl Failover {
    /// Everything a node on its way to owner looks at.
    pub(super) fn takeover_duties(&mut self, out: &mut Vec<Effect>) {
        let Phase::TakingOver { way, step } = self.state.phase else { return };
        match step {
            TakeStep::Preparing | TakeStep::Excluding(_) => {
                let changed = self.register.wants() == Some(Purpose::Claim(InSync::BOTH)) && !self.mirror.in_sync;
                if way != Way::Forced && (self.peer_returned(way) || changed) && !self.is_committed(step) {
                    self.abort_takeover(out);
                } else {
                    self.guard_duties();
                }
            }
            TakeStep::Promoting => {}
            TakeStep::Starting => self.stay_owner_duties(out),
        }
    }

    /// Whether the peer is there after all. A claim wants it there, as a standby.
    fn peer_returned(&self, way: Way) -> bool {
        let alive = self.detector.level() == Level::Alive;
        match way {
            Way::Claim => !alive || self.peer.is_some_and(|peer| peer.role.claims()),
            _ => alive,
        }
    }

    /// Whether something binds: the record may be, or is, this node's.
    fn is_committed(&self, step: TakeStep) -> bool {
        let passed = step == TakeStep::Excluding(Guard::Fence) && self.settings.mode.has_arbiter();
        passed || self.register.binds()
    }

    /// What the record is wanted for.
    pub(super) fn takeover_purpose(&self) -> Option<Purpose> {
        match self.state.phase {
            Phase::TakingOver { way: Way::Takeover, .. } => Some(Purpose::Takeover),
            Phase::TakingOver { way: Way::Forced, .. } => Some(Purpose::Force),
            // Wanted when it began, and not again: what was true then may not be any more.
            _ => None,
        }
    }

    /// Back to standby; nothing was changed.
    pub(super) fn abort_takeover(&mut self, out: &mut Vec<Effect>) {
        self.register.drop_unless_bound(|purpose| matches!(purpose, Purpose::Takeover | Purpose::Claim(_)));
        let prepared = matches!(self.state.phase, Phase::TakingOver { way: Way::Takeover | Way::Forced, .. });
        self.retry_at = self.now + self.settings.retry_interval;
        self.become_phase(Phase::Standby);
        self.end_episode(false, out);
        if prepared {
            self.order(MirrorOrder::CloseDoor, out);
        }
        self.answer_waiting(false, "the other node is there and did not agree", out);
    }

    /// The mirror has done its part of a takeover.
    pub(super) fn takeover_ordered(&mut self, order: MirrorOrder, result: Result<(), String>, out: &mut Vec<Effect>) {
        let Phase::TakingOver { way, step } = self.state.phase else { return };
        match (order, result) {
            (MirrorOrder::PrepareTakeover, Ok(())) => {
                self.stage(Stage::Exclude);
                let right = way == Way::Takeover && self.own_right();
                // An operator who insists needs the record, if there is one, and nobody's leave.
                let forced = way == Way::Forced && !self.settings.mode.has_arbiter();
                match Guard::first(self.settings.mode) {
                    Some(guard) if !right && !forced => {
                        self.become_phase(Phase::TakingOver { way, step: TakeStep::Excluding(guard) });
                    }
                    _ => self.promote(way, out),
                }
            }
            (MirrorOrder::PrepareTakeover, Err(_)) => self.abort_takeover(out),
            (MirrorOrder::Promote { epoch, .. }, Ok(())) if step == TakeStep::Promoting => {
                self.promoted(way, epoch, out);
            }
            // It may have become primary or may still become it: make sure that it is not.
            (_, Err(_)) => {
                let claim = way == Way::Claim;
                self.state.failed = if claim { None } else { Some(self.failure()) };
                // What stands in the way may take a while, and asking again at once would only keep both threads busy.
                self.retry_at = self.now + self.settings.retry_interval;
                self.yield_group("promotion-failed", out);
            }
            _ => {}
        }
    }

    /// What a failed change of role to owner is called.
    fn failure(&self) -> Reason {
        if self.settings.home == self.settings.node { Reason::TakebackFailed } else { Reason::TakeoverFailed }
    }

    /// Everything is as it must be: the volume becomes primary, if its copy is still fit.
    pub(super) fn promote(&mut self, way: Way, out: &mut Vec<Effect>) {
        let unchecked = self.rules.broken(Mutation::OutdatedInContest);
        let alone = matches!(way, Way::Takeover);
        let fit = self.copy_block(self.own_right()).is_none() || unchecked;
        if alone && !fit {
            // The record is ours and the copy is not good: nobody can serve until an operator looks.
            self.state.failed = Some(self.failure());
            self.become_phase(Phase::Standby);
            self.end_episode(false, out);
            self.order(MirrorOrder::CloseDoor, out);
            return;
        }
        self.stage(Stage::Volume);
        let record = self.register.record().filter(|_| self.settings.mode.has_arbiter());
        let from_record = record.is_some_and(|record| record.primary == self.settings.node);
        // The volume may have heard of an epoch, in the session, that no heartbeat told.
        let known = self.state.epoch.max(self.mirror.seen_epoch);
        let epoch = if from_record || way == Way::Handover { self.state.epoch } else { Epoch(known.0 + 1) };
        let lossy = matches!(way, Way::Takeover | Way::Forced) && self.declares_loss();
        let cache_epoch = lossy.then_some(self.mirror.cache_epoch + 1);
        self.become_phase(Phase::TakingOver { way, step: TakeStep::Promoting });
        self.order(MirrorOrder::Promote { epoch, way, cache_epoch }, out);
    }

    fn promoted(&mut self, way: Way, epoch: Epoch, out: &mut Vec<Effect>) {
        self.adopt_epoch(epoch);
        let me = self.settings.node;
        self.state.solo = match way {
            Way::Takeover | Way::Forced => true,
            Way::Claim | Way::Handover => self.talk.granted() == InSync::only(me),
        } && self.settings.mode != FailoverMode::Manual;
        self.told.paired = false;
        self.lacks_writes = false;
        self.state.failed = None;
        if self.state.solo && way != Way::Claim {
            out.push(Effect::Note(Note::Alone { rule: "took-over" }));
        }
        self.cleaning = false;
        self.stage(Stage::Start);
        self.become_phase(Phase::TakingOver { way, step: TakeStep::Starting });
        self.plan.go(Direction::Up);
    }

    /// The plan of an owner, or of one that becomes it, came to its end.
    pub(super) fn plan_ended_as_owner(&mut self, end: End, out: &mut Vec<Effect>) {
        let taking = matches!(self.state.phase, Phase::TakingOver { step: TakeStep::Starting, .. });
        match end {
            End::Up => self.state.failed = None,
            End::StartFailed(_) => self.state.failed = Some(Reason::CriticalServiceStartFailed),
            End::StopFailed(_) => self.state.failed = Some(Reason::StopFailed),
            // Half of a recovery: what was half done is down, now up again.
            End::Down => self.plan.go(Direction::Up),
        }
        if taking && end != End::Down {
            self.become_phase(Phase::Owner);
            self.end_episode(end == End::Up, out);
        }
        if end != End::Down {
            self.answer_waiting(end == End::Up, "a resource failed (see the event log)", out);
        }
    }

    /// Somebody else owns the group, or this node may not: nothing more leaves, everything stops.
    pub(super) fn yield_group(&mut self, rule: &'static str, out: &mut Vec<Effect>) {
        let reason = self.state.reason;
        self.begin_episode(super::interface::Change::ToStandby, reason, rule, (Stage::Stop, self.now), out);
        self.state.solo = false;
        self.state.door = None;
        self.permit.clear();
        self.talk.withdraw();
        self.register.drop_unless_bound(|_| true);
        self.register.forget();
        self.become_phase(Phase::Leaving { how: Leave::Yield, step: LeaveStep::Stopping });
        self.plan.go(Direction::Down);
        self.order(MirrorOrder::Demote, out);
        self.answer_waiting(false, "the other node owns the group", out);
    }
}
