//! The way from owner: in order (a move, a stop), or at once (somebody else owns the group).
//!
//! ```text
//! Move:  Stopping ─► Quiescing ─► Recording ─► standby, the group offered to the peer
//! Stop:  Stopping ─► Quiescing ─► standby, nobody's
//! Yield: Stopping, and the volume is demoted at the same time ─► standby
//! ```
//! A stop that fails ends a move where it is: the group stays here, in failed mode, and is not started elsewhere. An arbiter
//! that takes no change of its record ends it, too: the group stays here and is started again.

use super::core::Failover;
use super::detector::Level;
use super::interface::{Change, Effect, MirrorOrder, Way};
use super::mutation::Mutation;
use super::plan::{Direction, End};
use super::register::Purpose;
use super::state::{Leave, LeaveStep, Phase, TakeStep};
use crate::base::arbiter::{InSync, Record};
use crate::base::group::{GroupRole, Reason, Stage};
use crate::base::heartbeat::Question;
use crate::base::ids::Epoch;
use crate::base::state::{DiskState, Role};

impl Failover {
    /// Everything a leaving node looks at.
    pub(super) fn leave_duties(&mut self, out: &mut Vec<Effect>) {
        let Phase::Leaving { how, step } = self.state.phase else { return };
        if how == Leave::Yield {
            if self.plan.direction().is_none() && !self.is_ordered(|order| order == MirrorOrder::Demote) {
                self.become_phase(Phase::Standby);
                self.end_episode(true, out);
            }
            return;
        }
        match step {
            LeaveStep::Stopping => {
                // Resources that stop still write: their writes must not wait for a peer that is gone.
                self.stay_owner_duties(out);
                let gone = how == Leave::Move && self.detector.level() == Level::Lost;
                if gone && matches!(self.state.phase, Phase::Leaving { .. }) {
                    self.move_failed("the other node was lost", out);
                }
            }
            LeaveStep::Quiescing => {
                self.obeyed_record(out);
            }
            LeaveStep::Recording => {
                if self.may_stay_after_all() {
                    self.stay_after_all(out);
                } else if !self.register.binds() && self.now >= self.retry_at && how == Leave::Move {
                    self.register.want(Purpose::Handover, self.now);
                }
            }
        }
    }

    /// The plan of a leaving node came to its end.
    pub(super) fn plan_ended_leaving(&mut self, end: End, out: &mut Vec<Effect>) {
        let Phase::Leaving { how, step } = self.state.phase else { return };
        let failed = matches!(end, End::StopFailed(_));
        if failed {
            self.state.failed = Some(Reason::StopFailed);
        }
        if how == Leave::Yield || step != LeaveStep::Stopping {
            return;
        }
        if failed && !self.rules.broken(Mutation::FailedStopIgnored) {
            self.become_phase(Phase::Owner);
            self.end_episode(false, out);
            self.answer_waiting(false, "a resource did not stop (see the event log)", out);
            return;
        }
        if self.state.door.is_some() || self.register.binds() || self.job.is_some() {
            // Going on alone first; the plan is down, so that this is asked again at once.
            self.plan.go(Direction::Down);
            return;
        }
        if how == Leave::Move
            && let Err(refusal) = self.fit_to_receive()
        {
            // Much may have happened while the resources stopped; this node may even be alone by now.
            self.move_failed(&refusal.reason, out);
            return;
        }
        self.stage(Stage::Drain);
        self.become_phase(Phase::Leaving { how, step: LeaveStep::Quiescing });
        self.order(MirrorOrder::Quiesce, out);
    }

    /// The volume is secondary, or it could not be.
    pub(super) fn quiesced(&mut self, result: Result<(), String>, out: &mut Vec<Effect>) {
        let Phase::Leaving { how, step: LeaveStep::Quiescing } = self.state.phase else { return };
        if let Err(why) = result {
            self.move_failed(&why, out);
            return;
        }
        // Without a good disk here, whatever was acknowledged in this session is on the peer's.
        let peer_only = self.mirror.disk != DiskState::UpToDate;
        let peer_has_all = self.is_session_current() && (self.mirror.in_sync || peer_only);
        if how == Leave::Move && !peer_has_all {
            self.move_failed("the link was lost meanwhile", out);
            return;
        }
        self.stage(Stage::Agree);
        let solo = self.state.solo;
        self.state.solo = false;
        match how {
            Leave::Move if self.settings.mode.has_arbiter() => {
                self.become_phase(Phase::Leaving { how, step: LeaveStep::Recording });
                self.register.want(Purpose::Handover, self.now);
            }
            Leave::Move => {
                let both = self.mirror.in_sync && !self.keeps_peer_out();
                let insync = if both { InSync::BOTH } else { InSync::only(self.settings.node.peer()) };
                self.offer(Epoch(self.state.epoch.0 + 1), insync, out);
            }
            Leave::Stop | Leave::Yield => {
                // Alone before, alone again when it is started: the peer's copy is older.
                self.state.reason = if solo { self.state.reason } else { Reason::AdminRequest };
                self.permit.clear();
                self.register.forget();
                self.become_phase(Phase::Standby);
                self.end_episode(true, out);
                self.answer_waiting(true, "", out);
            }
        }
    }

    /// The group is the peer's from now on, whether it knows it or not.
    pub(super) fn offer(&mut self, epoch: Epoch, insync: InSync, out: &mut Vec<Effect>) {
        self.adopt_epoch(epoch);
        self.permit.clear();
        self.register.forget();
        self.state.offered = Some(epoch);
        self.become_phase(Phase::Standby);
        let id = self.draw();
        let reason = self.state.reason;
        self.talk.ask(id, Question::Handover { epoch, insync, reason }, self.now);
        self.drive_gate(out);
    }

    /// A move can't be finished: the group stays.
    pub(super) fn move_failed(&mut self, why: &str, out: &mut Vec<Effect>) {
        self.end_episode(false, out);
        self.answer_waiting(false, why, out);
        self.register.drop_unless_bound(|purpose| purpose == Purpose::Handover);
        if self.mirror.mixed {
            // Some volumes are secondary by now, and some could not be: all of them, and the rule for two standbys goes on.
            return self.yield_group("moved-in-part", out);
        }
        if self.mirror.role == Role::Primary {
            self.become_phase(Phase::TakingOver { way: Way::Claim, step: TakeStep::Starting });
            self.plan.go(Direction::Up);
        } else {
            // Nobody's now; the rule for two standbys finds its owner.
            self.permit.clear();
            self.register.forget();
            self.become_phase(Phase::Standby);
        }
    }

    /// Whether the arbiter took nothing for certain, and its record names this node as before: nobody was offered the group,
    /// and nobody can have taken it while the peer stands by. An arbiter that answers never again must not cost the service.
    fn may_stay_after_all(&self) -> bool {
        let names_me = |record: Record| record.primary == self.settings.node && record.epoch == self.state.epoch;
        let refused = self.register.trouble().is_some() && !self.register.binds();
        let alone = self.job.is_some() || !self.is_session_current() || !self.mirror.in_sync;
        refused && !alone && self.register.record().is_some_and(names_me)
    }

    /// The group stays where it was: its volume becomes primary again, with the peer's leave, in the same epoch.
    fn stay_after_all(&mut self, out: &mut Vec<Effect>) {
        let why = self.register.trouble().map_or_else(String::new, |trouble| trouble.detail.clone());
        self.answer_waiting(false, &format!("the arbiter takes no change of its record ({why})"), out);
        self.register.drop_unless_bound(|purpose| purpose == Purpose::Handover);
        let reason = self.state.reason;
        self.begin_episode(Change::ToOwner, reason, "arbiter-refused", (Stage::Volume, self.now), out);
        self.talk.grant(InSync::BOTH);
        self.promote(Way::Claim, out);
    }

    /// The volume was made secondary at once.
    pub(super) fn demoted(&mut self, result: Result<(), String>, out: &mut Vec<Effect>) {
        if let Err(why) = result {
            // A volume that can't be told to stop must not go on beside another owner.
            out.push(Effect::Abort { reason: format!("the volume can't be made secondary: {why}") });
        }
    }

    /// The daemon is to stop: the group goes first.
    pub(super) fn stop_wanted(&mut self, out: &mut Vec<Effect>) {
        if !self.stopping || self.told.stopped {
            return;
        }
        match self.state.phase {
            Phase::Owner if self.state.failed == Some(Reason::StopFailed) => {
                // No goodbye: the peer must not take it for a reason to start what may still run here.
                self.told.stopped = true;
                out.push(Effect::Stopped);
            }
            Phase::Owner if self.state.door.is_some() || self.job.is_some() => {}
            Phase::Owner if self.fit_to_receive().is_ok() && !self.memory.wish.stopped => {
                self.start_move(Reason::AdminRequest, "daemon-stops", out);
            }
            Phase::Owner => self.stop_group(Reason::AdminRequest, "daemon-stops", out),
            Phase::Starting | Phase::Standby => {
                let waits = self.state.offered.is_some()
                    && self.talk.asked_for(self.now) < self.settings.handover_timeout
                    && self.detector.level() == Level::Alive;
                if !waits && !self.register.binds() {
                    self.told.stopped = true;
                    self.talk.withdraw();
                    self.become_phase(Phase::Gone);
                    self.beat(out);
                    out.push(Effect::Stopped);
                }
            }
            Phase::TakingOver { .. } | Phase::Leaving { .. } | Phase::Gone => {}
        }
    }

    /// Begins to stop the group, for nobody.
    pub(super) fn stop_group(&mut self, reason: Reason, rule: &'static str, out: &mut Vec<Effect>) {
        self.begin_episode(Change::ToStandby, reason, rule, (Stage::Stop, self.now), out);
        self.become_phase(Phase::Leaving { how: Leave::Stop, step: LeaveStep::Stopping });
        self.plan.go(Direction::Down);
    }

    fn drive_gate(&mut self, out: &mut Vec<Effect>) {
        self.set_gate(out);
        debug_assert!(self.state.role() == GroupRole::Standby);
    }
}

#[cfg(test)]
mod tests {
    use super::super::interface::{Identity, Input, Settings, Verb};
    use super::super::testing::{facts, heartbeat, settings};
    use super::*;
    use crate::base::group::{FailoverMode, Memory};
    use crate::base::heartbeat::VolumeWord;
    use crate::base::ids::{BootId, CommandId, Incarnation};
    use crate::base::time::Moment;
    use crate::base::volume::Facts;

    /// Alpha, in mode manual, with nothing but volumes in its group: each order is answered as the test says.
    struct Alpha {
        core: Failover,
        now: u64,
        orders: Vec<(u64, MirrorOrder)>,
    }

    impl Alpha {
        fn owner() -> Alpha {
            let settings = Settings { mode: FailoverMode::Manual, resources: Vec::new(), ..settings(0) };
            let identity = Identity { incarnation: Incarnation(9), boot: BootId(9), seed: 1 };
            let core = Failover::new(settings, identity, Memory::default(), facts(), Moment(0));
            let mut alpha = Alpha { core, now: 0, orders: Vec::new() };
            alpha.hear();
            let promotion = alpha.ordered(|order| matches!(order, MirrorOrder::Promote { .. }));
            alpha.take(Input::Mirror(Facts { role: Role::Primary, ..facts() }));
            alpha.take(Input::MirrorDone { id: promotion, result: Ok(()) });
            assert_eq!(alpha.core.state().phase, Phase::Owner);
            alpha
        }

        fn take(&mut self, input: Input) {
            self.now += 1_000_000;
            let mut out = Vec::new();
            self.core.handle(Moment(self.now), input, &mut out);
            self.core.settle(Moment(self.now), &mut out);
            self.core.check();
            self.orders.extend(out.iter().filter_map(|effect| match effect {
                Effect::Mirror { id, order } => Some((*id, *order)),
                _ => None,
            }));
        }

        /// Beta stands by and is well.
        fn hear(&mut self) {
            let volume = VolumeWord { disk: DiskState::UpToDate, in_sync: true, fit: true, ..VolumeWord::default() };
            let heartbeat = crate::base::heartbeat::Heartbeat { volume, ..heartbeat(1, self.now + 1) };
            self.take(Input::Heartbeat { path: 0, heartbeat: Box::new(heartbeat) });
        }

        fn ordered(&mut self, matching: impl Fn(MirrorOrder) -> bool) -> u64 {
            let orders = std::mem::take(&mut self.orders);
            let found = orders.iter().find(|(_, order)| matching(*order));
            found.unwrap_or_else(|| panic!("not among {orders:?}")).0
        }
    }

    #[test]
    fn a_move_that_one_of_two_volumes_refuses_makes_both_secondary() {
        let mut alpha = Alpha::owner();
        alpha.take(Input::Command { id: CommandId(1), verb: Verb::Move { to: None } });
        let quiesce = alpha.ordered(|order| order == MirrorOrder::Quiesce);
        // The first has become secondary; the second lost its link on the way.
        alpha.take(Input::Mirror(Facts { role: Role::Primary, mixed: true, connected: false, ..facts() }));
        alpha.take(Input::MirrorDone { id: quiesce, result: Err("volume b: the peer was lost".into()) });
        let demotion = alpha.ordered(|order| order == MirrorOrder::Demote);
        alpha.take(Input::Mirror(facts()));
        alpha.take(Input::MirrorDone { id: demotion, result: Ok(()) });
        assert!(!alpha.core.state().owns(), "half a group is served by nobody");
        alpha.now += 1_000_000_000;
        alpha.hear();
        alpha.ordered(|order| matches!(order, MirrorOrder::Promote { .. }));
    }

    #[test]
    fn an_owner_of_two_volumes_of_which_one_stepped_down_gives_up_both() {
        let mut alpha = Alpha::owner();
        alpha.take(Input::Mirror(Facts { role: Role::Primary, mixed: true, ..facts() }));
        alpha.ordered(|order| order == MirrorOrder::Demote);
    }

    #[test]
    fn volumes_that_prepared_to_go_on_alone_are_told_when_another_could_not() {
        let mut alpha = Alpha::owner();
        let waits = Facts { role: Role::Primary, connected: false, in_sync: false, wants_solo: true, ..facts() };
        alpha.take(Input::Mirror(waits));
        let prepare = alpha.ordered(|order| order == MirrorOrder::PrepareSolo);
        alpha.take(Input::MirrorDone { id: prepare, result: Err("volume b: its disk failed".into()) });
        alpha.ordered(|order| order == MirrorOrder::CloseDoor);
    }
}
