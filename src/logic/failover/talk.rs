//! Heartbeats: what is said, what is heard, and the few questions and answers that ride on them.
//!
//! One question at a time, repeated in every heartbeat until it is answered or withdrawn; the answer is repeated as long as
//! the question is heard. A node answers a question once; its id says whether it is the same.

use super::core::Failover;
use super::detector::Level;
use super::interface::{Change, Effect, MirrorOrder, Way};
use super::mutation::Mutation;
use super::state::{Phase, TakeStep};
use crate::base::arbiter::InSync;
use crate::base::group::{GroupRole, Reason, Stage};
use crate::base::heartbeat::{Answer, Ask, Heartbeat, Question, VolumeWord};
use crate::base::limits::HEARTBEAT_PATHS_MAX;
use crate::base::state::DiskState;
use crate::base::time::Moment;
use crate::wire::message::Continuity;
use std::time::Duration;

/// What is being said.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    sequence: u64,
    next: Moment,
    /// Something changed that the peer should know at once.
    now: bool,
    /// Paths on which an answer is wanted at once.
    replies: [bool; HEARTBEAT_PATHS_MAX],
    asked: Option<(Ask, Moment)>,
    answer: Option<Answer>,
    /// The last question that was taken up.
    heard: Option<u64>,
    /// The question whose answer waits for this copy to be outdated, durably.
    outdating: Option<u64>,
    /// Who is in sync, as the handover or claim said by which this node becomes owner.
    granted: InSync,
    wish_changed: bool,
}

impl Talk {
    pub(super) fn new(now: Moment) -> Talk {
        Talk {
            sequence: 0,
            next: now,
            now: true,
            replies: [false; HEARTBEAT_PATHS_MAX],
            asked: None,
            answer: None,
            heard: None,
            outdating: None,
            granted: InSync::NONE,
            wish_changed: false,
        }
    }

    pub(super) fn beat_now(&mut self) {
        self.now = true;
    }

    pub(super) fn next_beat(&self) -> Moment {
        self.next
    }

    /// Asks, in place of what was asked before.
    pub(super) fn ask(&mut self, id: u64, what: Question, now: Moment) {
        self.asked = Some((Ask { id, what }, now));
        self.now = true;
    }

    pub(super) fn asks(&self, matching: impl Fn(Question) -> bool) -> bool {
        self.asked.is_some_and(|(ask, _)| matching(ask.what))
    }

    /// How long the question is unanswered.
    pub(super) fn asked_for(&self, now: Moment) -> Duration {
        self.asked.map_or(Duration::ZERO, |(_, since)| now.since(since))
    }

    pub(super) fn withdraw(&mut self) {
        self.asked = None;
    }

    pub(super) fn withdraw_if(&mut self, matching: impl Fn(Question) -> bool) {
        if self.asks(matching) {
            self.asked = None;
        }
    }

    /// Nothing asked, nothing being agreed to.
    pub(super) fn is_quiet(&self) -> bool {
        self.asked.is_none() && self.outdating.is_none()
    }

    pub(super) fn is_outdating(&self) -> bool {
        self.outdating.is_some()
    }

    pub(super) fn granted(&self) -> InSync {
        self.granted
    }

    pub(super) fn grant(&mut self, insync: InSync) {
        self.granted = insync;
    }

    /// A heartbeat goes out at once.
    pub(super) fn speak(&mut self) {
        self.now = true;
    }

    pub(super) fn wish_changed(&mut self) {
        self.wish_changed = true;
        self.now = true;
    }

    pub(super) fn take_wish_changed(&mut self) -> bool {
        std::mem::take(&mut self.wish_changed)
    }
}

impl Failover {
    /// Sends the heartbeats that are due.
    pub(super) fn beat(&mut self, out: &mut Vec<Effect>) {
        let due = self.now >= self.talk.next || self.talk.now;
        for path in 0..self.settings.paths.len().min(HEARTBEAT_PATHS_MAX) {
            if due || self.talk.replies[path] {
                let heartbeat = Box::new(self.next_heartbeat());
                out.push(Effect::Heartbeat { path, heartbeat });
            }
        }
        self.talk.replies = [false; HEARTBEAT_PATHS_MAX];
        self.talk.now = false;
        if due {
            self.talk.next = self.now + self.pace.beat;
        }
    }

    pub(super) fn next_heartbeat(&mut self) -> Heartbeat {
        self.talk.sequence += 1;
        let (state, reason) = self.node_state();
        let idle = matches!(self.state.phase, Phase::Standby | Phase::Starting);
        let promises = idle || self.rules.broken(Mutation::PromiseInContest);
        Heartbeat {
            node: self.settings.node,
            incarnation: self.identity.incarnation,
            boot: self.identity.boot,
            sequence: self.talk.sequence,
            sent: self.now,
            epoch: self.state.epoch,
            role: self.state.role(),
            state,
            reason,
            volume: VolumeWord {
                role: self.mirror.role,
                disk: self.mirror.disk,
                in_sync: self.mirror.in_sync,
                generation: self.mirror.generation,
                fit: self.is_copy_good(),
            },
            insync: self.register.record().map_or(InSync::NONE, |record| record.insync),
            healthy: self.is_healthy(),
            deactivated: self.memory.deactivated,
            wish: self.memory.wish,
            config: self.settings.config,
            version: self.settings.version,
            turn_age: self.turn_age,
            heard: self.detector.heard_vector(self.now),
            wants_promise: self.state.wants_promise(),
            promise: self.promises.newest().filter(|_| promises),
            ask: self.talk.asked.map(|(ask, _)| ask),
            answer: self.talk.answer,
        }
    }

    fn is_copy_good(&self) -> bool {
        self.mirror.disk == DiskState::UpToDate && !self.mirror.suspect && !self.mirror.split
    }

    /// Whether nothing that the group needs is known to be down here.
    pub(super) fn is_healthy(&self) -> bool {
        self.state.failed.is_none() && self.service_down().is_none() && self.turn_age < self.settings.stall_after
    }

    /// The peer speaks.
    pub(super) fn heartbeat(&mut self, path: usize, heartbeat: &Heartbeat, out: &mut Vec<Effect>) {
        if heartbeat.node != self.settings.node.peer() || !self.detector.heard(self.now, path, heartbeat) {
            return;
        }
        self.peer = Some(*heartbeat);
        self.keep_pace();
        if heartbeat.wish > self.memory.wish {
            self.memory.wish = heartbeat.wish;
            self.talk.wish_changed();
        }
        if let Some(promise) = heartbeat.promise {
            let terms = self.terms();
            self.permit.renew(self.now, &promise, self.identity.incarnation, self.state.epoch, &terms);
        }
        if heartbeat.role == GroupRole::Gone {
            self.promises.release(self.now);
        }
        self.peers_epoch(heartbeat, out);
        self.promise(path, heartbeat);
        if let Some(answer) = heartbeat.answer {
            self.answered(answer, out);
        }
        match heartbeat.ask {
            Some(ask) => self.asked(ask, out),
            None => self.talk.answer = self.talk.answer.filter(|_| self.talk.outdating.is_some()),
        }
    }

    /// Whoever has the higher epoch is right.
    fn peers_epoch(&mut self, heartbeat: &Heartbeat, out: &mut Vec<Effect>) {
        let both = self.state.owns() && heartbeat.role == GroupRole::Owner;
        let tie = both && heartbeat.epoch == self.state.epoch;
        // Where nothing excludes the loser before the winner serves, both did.
        let excluded = self.settings.mode.has_arbiter() || self.settings.mode.has_fencing();
        if (tie || both && !excluded) && !self.told.split {
            self.told.split = true;
            out.push(Effect::Note(super::interface::Note::SplitBrain));
        }
        let loses_tie = tie && self.settings.home != self.settings.node;
        if heartbeat.epoch <= self.state.epoch && !loses_tie || self.rules.broken(Mutation::HigherEpochIgnored) {
            return;
        }
        let claiming = matches!(self.state.phase, Phase::TakingOver { step: TakeStep::Promoting, .. });
        self.adopt_epoch(heartbeat.epoch);
        if self.state.owns() || claiming {
            self.yield_group("higher-epoch", out);
        }
    }

    /// "I will not take over": to an owner, by a node that has nothing of the kind on its way.
    fn promise(&mut self, path: usize, heartbeat: &Heartbeat) {
        let idle = matches!(self.state.phase, Phase::Standby | Phase::Starting);
        let contesting = matches!(self.state.phase, Phase::TakingOver { step: TakeStep::Excluding(_), .. });
        let free =
            idle && !self.register.binds() || self.rules.broken(Mutation::PromiseInContest) && (idle || contesting);
        if heartbeat.wants_promise && heartbeat.epoch >= self.state.epoch && free {
            self.promises.give(self.now, heartbeat, self.settings.dead_after);
            self.talk.replies[path] = true;
        }
    }

    /// The peer answers.
    fn answered(&mut self, answer: Answer, out: &mut Vec<Effect>) {
        let Some((ask, _)) = self.talk.asked.filter(|(ask, _)| ask.id == answer.id) else { return };
        self.talk.asked = None;
        match ask.what {
            Question::Outdate { epoch } => {
                let current = epoch == self.state.epoch && self.guard().is_some() && self.state.door.is_some();
                if answer.agreed && current {
                    self.excluded("outdated-by-consent", out);
                }
            }
            Question::Handover { .. } => self.offer_answered(answer.agreed, out),
            Question::Move { .. } => {
                self.answer_waiting(answer.agreed, "the owner refused to move the group (see its event log)", out);
            }
            Question::Recover => {}
        }
    }

    /// The peer asks.
    fn asked(&mut self, ask: Ask, out: &mut Vec<Effect>) {
        if self.talk.heard == Some(ask.id) {
            return;
        }
        let agreed = match ask.what {
            Question::Outdate { epoch } => {
                if self.may_be_outdated(epoch) {
                    self.talk.heard = Some(ask.id);
                    self.talk.outdating = Some(ask.id);
                    self.talk.answer = None;
                    self.order(MirrorOrder::Outdate, out);
                    return;
                }
                if self.job.is_some() && self.state.phase == Phase::Standby {
                    // Busy for a moment; the question comes again.
                    return;
                }
                false
            }
            Question::Handover { epoch, insync, reason } => self.take_group(epoch, insync, reason, out),
            Question::Move { reason } => {
                let fit = self.state.phase == Phase::Owner && self.move_block().is_none();
                if fit {
                    self.start_move(reason, "asked-by-peer", out);
                }
                fit
            }
            Question::Recover => {
                self.recover();
                true
            }
        };
        self.talk.heard = Some(ask.id);
        self.answer(ask.id, agreed);
    }

    fn answer(&mut self, id: u64, agreed: bool) {
        self.talk.answer = Some(Answer { id, agreed, epoch: self.state.epoch });
        self.talk.now = true;
    }

    /// One negotiation at a time: not while this node contests.
    fn may_be_outdated(&self, epoch: crate::base::ids::Epoch) -> bool {
        let idle = matches!(self.state.phase, Phase::Standby | Phase::Starting) && !self.register.binds();
        let contesting = matches!(self.state.phase, Phase::TakingOver { step: TakeStep::Excluding(_), .. });
        let broken = self.rules.broken(Mutation::OutdatedInContest) && contesting;
        (idle && self.job.is_none() || broken) && epoch >= self.state.epoch
    }

    /// This copy is outdated, durably, or could not be made so.
    pub(super) fn outdated(&mut self, done: bool) {
        if let Some(id) = self.talk.outdating.take() {
            self.answer(id, done);
        }
    }

    /// The owner gives the group to this node. By its word it serves no more, and what was promised to it is over.
    fn take_group(
        &mut self,
        epoch: crate::base::ids::Epoch,
        insync: InSync,
        reason: Reason,
        out: &mut Vec<Effect>,
    ) -> bool {
        let idle = self.state.phase == Phase::Standby && !self.register.binds() && self.job.is_none();
        let free = idle && self.plan.is_down();
        let fit = self.is_copy_good() && self.state.failed.is_none() && !self.memory.deactivated && !self.stopping;
        // The owner means the life of this daemon that it was in sync with: a later one may have lost what that one held.
        let meant = self.mirror.memory == Continuity::SameProcess;
        let named = insync.contains(self.settings.node) && meant;
        if !(free && fit && named && epoch >= self.state.epoch) || self.memory.wish.stopped {
            return false;
        }
        self.promises.release(self.now);
        self.register.forget();
        self.adopt_epoch(epoch);
        self.talk.grant(insync);
        if !matches!(reason, Reason::AdminRequest) {
            // The guard against flapping holds wherever the group is.
            self.last_voluntary = Some(self.now);
        }
        self.begin_episode(Change::ToOwner, reason, "handed-over", (Stage::Volume, self.now), out);
        self.promote(Way::Handover, out);
        true
    }

    /// Whether the volumes' session is with the daemon that is heard: one with a life that has ended says nothing of the
    /// present, and it may take seconds until it is found broken.
    pub(super) fn is_session_current(&self) -> bool {
        self.mirror.connected && self.mirror.session_with.is_some() && self.mirror.session_with == self.detector.life()
    }

    /// Whether the peer is heard.
    pub(super) fn hears_peer(&self) -> bool {
        self.peer.is_some() && matches!(self.detector.level(), Level::Alive | Level::Suspect)
    }
}
