//! An owner's duties: what may leave, going on alone, returning to a pair, moving when something breaks.
//!
//! An owner begins to exclude its peer when
//!
//! | rule | because |
//! |---|---|
//! | `writes-wait` | writes are held that the peer can't acknowledge |
//! | `link-silent` | writes wait for a peer that is heard elsewhere, while the link has been silent for long |
//! | `peer-suspect` | the link is down and every path silent |
//! | `peer-silent` | every path and the link are silent for so long that the permit is about to end; the link may still look whole |
//! | `permit-ended` | the peer is heard and does not promise, or its promises do not arrive |

use super::core::Failover;
use super::detector::Level;
use super::interface::{Change, Effect, Gate, MirrorOrder, Note};
use super::mutation::Mutation;
use super::plan::Direction;
use super::register::{Denied, Purpose};
use super::state::{DoorStep, Guard, Leave, LeaveStep, Phase};
use crate::base::arbiter::{InSync, Record};
use crate::base::group::{FailoverMode, Reason, Stage};
use crate::base::heartbeat::Question;
use crate::base::ids::Epoch;
use crate::base::state::{DiskState, Role};
use crate::base::time::Moment;
use std::time::Duration;

impl Failover {
    /// Everything an owner looks at.
    pub(super) fn owner_duties(&mut self, out: &mut Vec<Effect>) {
        self.stay_owner_duties(out);
        if self.state.phase == Phase::Owner {
            self.obey_stop(out);
        }
        if self.state.phase == Phase::Owner {
            self.stuck(out);
            self.breakage(out);
            self.fall_back(out);
        }
    }

    /// A stop that was ordered at the other node, perhaps while this one could not hear it, or was on its way to owner.
    fn obey_stop(&mut self, out: &mut Vec<Effect>) {
        let free = self.state.door.is_none() && self.job.is_none() && !self.register.binds();
        let idle = free && self.now >= self.retry_at;
        if self.memory.wish.stopped && idle && self.state.failed != Some(Reason::StopFailed) {
            self.stop_group(Reason::AdminRequest, "stopped-by-operator", out);
        }
    }

    /// What concerns everyone who serves, also on the way up or down.
    pub(super) fn stay_owner_duties(&mut self, out: &mut Vec<Effect>) {
        if self.obeyed_record(out) {
            return;
        }
        if (self.mirror.role == Role::Secondary || self.mirror.mixed) && self.job.is_none() {
            // It found another in the right when the two volumes met, before this core heard of it. Of several volumes one
            // is enough: the group moves as one.
            self.yield_group("volume-stepped-down", out);
            return;
        }
        let own = self.register.record().filter(|record| record.primary == self.settings.node);
        if let Some(record) = own {
            self.adopt_epoch(record.epoch);
        }
        self.qualify(out);
        self.solo_door(out);
        self.guard_duties();
        self.keep_record(out);
    }

    /// Whether the record names the other as owner, in a newer epoch: then this node yields.
    pub(super) fn obeyed_record(&mut self, out: &mut Vec<Effect>) -> bool {
        let newer = |record: &Record| record.primary != self.settings.node && record.epoch > self.state.epoch;
        let yields = self.register.record().as_ref().is_some_and(newer);
        if yields {
            self.yield_group("record-names-the-other", out);
        }
        yields
    }

    /// Whether reads and addresses need the peer's promise.
    pub(super) fn needs_permit(&self) -> bool {
        !self.state.solo && self.settings.mode != FailoverMode::Manual
    }

    /// What may leave now.
    pub(super) fn set_gate(&mut self, out: &mut Vec<Effect>) {
        let gate = match self.permit.until() {
            _ if !self.state.owns() => Gate::Closed,
            _ if !self.needs_permit() => Gate::Open,
            Some(until) if until > self.now => Gate::Until(until),
            _ => Gate::Closed,
        };
        let held = self.state.owns() && gate == Gate::Closed;
        if held != self.held_since.is_some() {
            self.held_since = held.then_some(self.now);
            if self.state.owns() {
                out.push(Effect::Note(Note::Held { held, reason: Reason::LeaseLost }));
            }
        }
        if gate != self.gate {
            self.gate = gate;
            out.push(Effect::Gate(gate));
        }
    }

    /// A resync is done but for telling the peer so: back to permits first, or a peer that may take over and an owner that
    /// thinks that nobody can would exist at once.
    fn qualify(&mut self, out: &mut Vec<Effect>) {
        let late = self.rules.broken(Mutation::LatePermits);
        let paired = !late || self.register.record().is_some_and(|record| record.insync == InSync::BOTH);
        if self.state.solo && self.mirror.in_sync && paired && self.state.door.is_none() && self.job.is_none() {
            self.state.solo = false;
        }
        let idle = self.job.is_none() && self.state.door.is_none() && !self.register.binds();
        if !self.mirror.wants_qualify || !idle {
            return;
        }
        let safely = self.permit.is_valid(self.now + self.settings.dead_after / 4);
        if !self.needs_permit() && self.settings.mode != FailoverMode::Manual && !late {
            if !safely {
                return;
            }
            self.state.solo = false;
        }
        self.order(MirrorOrder::Qualify, out);
    }

    /// Goes on alone, step by step.
    fn solo_door(&mut self, out: &mut Vec<Effect>) {
        match self.state.door {
            None => {
                if self.wants_door().is_some() && self.job.is_none() && self.now >= self.retry_at {
                    self.state.door = Some(DoorStep::Preparing);
                    // Not any more, or not yet again, a pair.
                    self.register.drop_unless_bound(|purpose| matches!(purpose, Purpose::Widen | Purpose::PeerOnly));
                    self.register.look_soon(self.now);
                    if self.rules.broken(Mutation::ExcludeUndrained) {
                        self.solo_ordered(MirrorOrder::PrepareSolo, Ok(()), out);
                    } else {
                        self.order(MirrorOrder::PrepareSolo, out);
                    }
                }
            }
            Some(DoorStep::Excluding(_)) => {
                let asked = self.talk.asks(|question| matches!(question, Question::Outdate { .. }));
                let back = self.mirror.in_sync && !self.mirror.wants_solo && self.permit.is_valid(self.now);
                if back && !asked && !self.register.binds() {
                    self.close_door(out);
                } else if self.rules.broken(Mutation::SoloUnexcluded) {
                    self.excluded("mutant", out);
                } else if self.register.is_ours_alone() && self.settings.mode.has_arbiter() {
                    self.excluded("record-is-ours-alone", out);
                }
            }
            Some(DoorStep::Preparing | DoorStep::Opening) => {}
        }
    }

    /// The rule by which the peer is to be excluded, if one applies.
    fn wants_door(&self) -> Option<&'static str> {
        if self.mirror.disk != DiskState::UpToDate {
            return None;
        }
        if self.mirror.wants_solo {
            return Some("writes-wait");
        }
        if self.is_link_dead() {
            return Some("link-silent");
        }
        if !self.needs_permit() {
            return None;
        }
        if self.detector.level() >= Level::Suspect && !self.mirror.connected {
            return Some("peer-suspect");
        }
        if self.detector.level() >= Level::Suspect && self.door_at().is_some_and(|at| self.now >= at) {
            return Some("peer-silent");
        }
        let held = self.held_since.is_some_and(|since| self.now.since(since) >= self.settings.suspect_after);
        held.then_some("permit-ended")
    }

    /// Whether clients wait for a peer that is well, as it says on other paths, and from which the link brings nothing. The
    /// volumes' own time for a silent link is longer: it knows nothing of other paths.
    fn is_link_dead(&self) -> bool {
        let turns = |age: Duration| age < self.settings.suspect_after;
        let both_turn = turns(self.turn_age) && self.peer.is_some_and(|peer| turns(peer.turn_age));
        let silence = self.detector.link_alone_silent(self.now);
        self.mirror.peer_slow && both_turn && silence.is_some_and(|silence| silence >= self.settings.link_silence)
    }

    /// When a silent peer is to be excluded: late enough to bear a hiccup, early enough to be first at the arbiter.
    fn door_at(&self) -> Option<Moment> {
        let span = (self.settings.suspect_after + self.settings.dead_after) / 2;
        self.detector.silent_since().map(|since| since + span)
    }

    /// The peer is back and nobody was excluded.
    fn close_door(&mut self, out: &mut Vec<Effect>) {
        self.state.door = None;
        self.register.drop_unless_bound(|purpose| purpose == Purpose::Narrow);
        self.order(MirrorOrder::CloseDoor, out);
    }

    /// The mirror has done its part of the door.
    pub(super) fn solo_ordered(&mut self, order: MirrorOrder, result: Result<(), String>, out: &mut Vec<Effect>) {
        if self.state.door.is_none() {
            return;
        }
        if result.is_err() {
            // The disk failed on the way; its facts say what becomes of this node.
            self.talk.withdraw();
            self.retry_at = self.now + self.settings.retry_interval;
            // Of several volumes, those that have done their part wait for more.
            self.close_door(out);
            return;
        }
        match (order, Guard::first(self.settings.mode)) {
            (MirrorOrder::OpenSolo { .. }, _) => self.state.door = None,
            _ if self.state.solo => self.excluded("already-alone", out),
            (_, None) => self.excluded("manual-mode", out),
            (_, Some(guard)) => {
                self.state.door = Some(DoorStep::Excluding(guard));
                if self.detector.level() <= Level::Suspect {
                    let id = self.draw();
                    self.talk.ask(id, Question::Outdate { epoch: self.state.epoch }, self.now);
                }
            }
        }
    }

    /// Nobody else can take over from here on.
    pub(super) fn excluded(&mut self, rule: &'static str, out: &mut Vec<Effect>) {
        self.talk.withdraw();
        self.register.drop_unless_bound(|purpose| purpose == Purpose::Narrow);
        // Where the record gave an epoch it is adopted already; elsewhere the owner draws the next one.
        let from_record = self.register.is_ours_alone() && rule != "record-is-ours-alone";
        let epoch = if from_record { self.state.epoch } else { Epoch(self.state.epoch.0 + 1) };
        self.adopt_epoch(epoch);
        self.state.solo = true;
        self.state.door = Some(DoorStep::Opening);
        self.told.paired = false;
        out.push(Effect::Note(Note::Alone { rule }));
        self.order(MirrorOrder::OpenSolo { epoch }, out);
        self.talk.beat_now();
    }

    /// Brings the arbiter's record in line with what is so.
    fn keep_record(&mut self, out: &mut Vec<Effect>) {
        let me = self.settings.node;
        if self.mirror.wants_peer_only && !self.settings.mode.has_arbiter() && self.job.is_none() {
            self.state.solo = false;
            self.order(MirrorOrder::AllowPeerOnly, out);
        }
        // What an operator wants of the record comes first.
        let forced = self.register.wants() == Some(Purpose::Force);
        let busy = forced || self.state.door.is_some() || self.now < self.retry_at;
        if !self.settings.mode.has_arbiter() || busy {
            return;
        }
        let late = self.rules.broken(Mutation::LatePermits) && self.mirror.in_sync;
        let (wanted, purpose) = match () {
            () if self.state.solo && !late => (InSync::only(me), Purpose::Narrow),
            () if self.mirror.in_sync && self.keeps_peer_out() => (InSync::only(me), Purpose::Narrow),
            () if self.mirror.in_sync => (InSync::BOTH, Purpose::Widen),
            () if self.mirror.wants_peer_only => (InSync::only(me.peer()), Purpose::PeerOnly),
            () => {
                self.register.drop_unless_bound(|purpose| purpose == Purpose::Widen);
                return;
            }
        };
        let right = self.register.record().is_some_and(|record| record.primary == me && record.insync == wanted);
        if right && wanted == InSync::BOTH && !self.told.paired {
            self.told.paired = true;
            out.push(Effect::Note(Note::Paired));
        }
        if right && purpose == Purpose::PeerOnly && self.job.is_none() {
            self.order(MirrorOrder::AllowPeerOnly, out);
        }
        if right {
            self.register.drop_unless_bound(|purpose| purpose != Purpose::Force);
        } else {
            if purpose == Purpose::PeerOnly {
                self.state.solo = false;
            }
            self.register.want(purpose, self.now);
        }
    }

    /// The record is as this node proposed.
    pub(super) fn record_won(&mut self, purpose: Purpose, record: Record, out: &mut Vec<Effect>) {
        let (before, offered) = (self.state.phase, record.primary != self.settings.node);
        if !offered {
            self.adopt_epoch(record.epoch);
        }
        match purpose {
            Purpose::Narrow if self.state.door == Some(DoorStep::Excluding(Guard::Record)) => {
                self.guard_passed("record-won", out);
            }
            Purpose::Takeover | Purpose::Claim(_) | Purpose::Force if self.guard() == Some(Guard::Record) => {
                self.guard_passed("record-won", out);
            }
            Purpose::Handover if matches!(before, Phase::Leaving { how: Leave::Move, step: LeaveStep::Recording }) => {
                self.offer(record.epoch, record.insync, out);
            }
            _ => {}
        }
    }

    /// The record can't be had.
    pub(super) fn record_denied(&mut self, purpose: Purpose, denied: Denied, out: &mut Vec<Effect>) {
        self.retry_at = self.now + self.settings.retry_interval;
        match (purpose, denied) {
            (Purpose::Takeover | Purpose::Claim(_), _) => self.abort_takeover(out),
            (_, Denied::OtherOwner) if self.state.owns() || self.state.door.is_some() => {
                self.yield_group("record-names-the-other", out);
            }
            (Purpose::Handover, _) => self.move_failed("the arbiter's record can't be changed", out),
            _ => {}
        }
    }

    /// The shard makes no turn while this node owns the group: only its end lets the peer take over in time.
    fn stuck(&mut self, out: &mut Vec<Effect>) {
        let peer_can = self.fit_to_receive().is_ok();
        if self.turn_age >= self.settings.stall_after && peer_can && self.is_automatic() && !self.told.aborted {
            self.told.aborted = true;
            let reason = format!("the shard made no turn for {} s", self.turn_age.as_secs());
            out.push(Effect::Abort { reason });
        }
    }

    /// Whether role changes may be decided here without an operator.
    pub(super) fn is_automatic(&self) -> bool {
        self.settings.mode.is_automatic() && !self.memory.wish.disabled
    }

    /// Something critical is down for too long: move the group if the peer is fit, or say that nothing can be done.
    fn breakage(&mut self, out: &mut Vec<Effect>) {
        let bad = self.mirror.disk != DiskState::UpToDate;
        self.storage_down = if bad { self.storage_down.or(Some(self.now)) } else { None };
        let storage = self.storage_down.map(|since| since + self.settings.critical_delay_storage);
        let service = self.service_down().map(|since| since + self.settings.critical_delay_service);
        let (due, reason, own) = match (storage, service) {
            (Some(due), _) => (due, Reason::StorageFailure, Reason::AutoRecoverStorage),
            (None, Some(due)) => (due, Reason::CriticalServiceDown, Reason::AutoRecoverCriticalService),
            (None, None) => {
                if matches!(self.state.failed, Some(Reason::StorageFailure | Reason::CriticalServiceDown)) {
                    self.state.failed = None;
                }
                return;
            }
        };
        if self.now < due || !self.settings.mode.is_automatic() {
            return;
        }
        let returns = self.settings.home != self.settings.node;
        if self.is_automatic() && self.flap_guard_allows() && self.fit_to_receive().is_ok() {
            self.last_voluntary = Some(self.now);
            self.start_move(if returns { own } else { reason }, "critical-resource", out);
        } else if self.state.failed.is_none() {
            self.state.failed = Some(reason);
        }
    }

    /// Since when the first critical resource is down.
    pub(super) fn service_down(&self) -> Option<Moment> {
        let resources = self.plan.resources().iter().zip(&self.troubles);
        let critical = resources.filter(|(resource, _)| resource.critical && !resource.skip);
        critical.filter_map(|(_, trouble)| trouble.as_ref().map(|(since, _)| *since)).min()
    }

    fn flap_guard_allows(&self) -> bool {
        self.last_voluntary.is_none_or(|last| self.now.since(last) >= self.settings.flap_guard)
    }

    /// Returns the group to its home node when the pair has been well for the set time.
    fn fall_back(&mut self, out: &mut Vec<Effect>) {
        let away = self.settings.home != self.settings.node;
        let well = away && self.fit_to_receive().is_ok() && self.state.failed.is_none();
        self.well_since = if well { self.well_since.or(Some(self.now)) } else { None };
        let (Some(since), Some(after)) = (self.well_since, self.settings.fallback_after) else { return };
        if self.now.since(since) >= after && self.flap_guard_allows() && self.is_automatic() {
            self.last_voluntary = Some(self.now);
            self.start_move(Reason::AutoFallback, "automatic-fallback", out);
        }
    }

    /// When an owner's clocks want a look.
    pub(super) fn owner_deadline(&self) -> Option<Moment> {
        if !self.state.owns() {
            return None;
        }
        let storage = self.storage_down.map(|since| since + self.settings.critical_delay_storage);
        let service = self.service_down().map(|since| since + self.settings.critical_delay_service);
        let fallback = self.well_since.zip(self.settings.fallback_after).map(|(since, after)| since + after);
        let guard = self.last_voluntary.map(|last| last + self.settings.flap_guard);
        let held = self.held_since.map(|since| since + self.settings.suspect_after);
        let all = [storage, service, fallback, guard, held, self.door_at(), Some(self.retry_at)];
        all.into_iter().flatten().filter(|moment| *moment > self.now).min()
    }

    /// Begins to hand the group over in order.
    pub(super) fn start_move(&mut self, reason: Reason, rule: &'static str, out: &mut Vec<Effect>) {
        if matches!(self.state.failed, Some(Reason::StorageFailure | Reason::CriticalServiceDown)) {
            // Moving is what mends it.
            self.state.failed = None;
        }
        self.begin_episode(Change::ToStandby, reason, rule, (Stage::Stop, self.now), out);
        self.become_phase(Phase::Leaving { how: Leave::Move, step: LeaveStep::Stopping });
        self.plan.go(Direction::Down);
    }
}
