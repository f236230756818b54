//! A standby's duties: what it may begin, and when.
//!
//! A standby begins to become owner by one of these rules:
//!
//! | rule | when |
//! |---|---|
//! | `peer-lost` | the peer is lost, the promise has ended, the mode lets it, this copy is fit |
//! | `own-right` | the peer is lost, and the superblock says that this node was alone last (modes without a record) |
//! | `both-stand-by` | both hear each other, neither owns; home if it can, else the other, else the resync's source |
//! | `handed-over` | the owner offered it (see `talk`) |
//! | `forced` | an operator insists (see `command`) |

use super::core::Failover;
use super::detector::Level;
use super::interface::{Change, Effect, MirrorOrder, Way};
use super::mutation::Mutation;
use super::register::Purpose;
use super::state::{Guard, Phase, TakeStep};
use crate::base::arbiter::InSync;
use crate::base::group::{FailoverMode, GroupRole, Reason, Stage};
use crate::base::heartbeat::Question;
use crate::base::state::DiskState;
use crate::base::time::Moment;
use crate::wire::message::Continuity;

impl Failover {
    /// Everything a standby looks at.
    pub(super) fn standby_duties(&mut self, out: &mut Vec<Effect>) {
        let level = self.detector.level();
        if self.state.phase == Phase::Starting && level != Level::Unheard {
            self.become_phase(Phase::Standby);
        }
        self.forget_owners_failure();
        self.learn_from_record();
        if level == Level::Suspect || level == Level::Lost {
            self.register.look_soon(self.now);
        }
        self.resolve_offer(out);
        if self.mirror.wants_qualify && self.job.is_none() && !self.register.binds() {
            // Nobody serves: both copies are the same from here on, and either may.
            self.order(MirrorOrder::Qualify, out);
        }
        if self.state.phase != Phase::Standby || self.stopping {
            return;
        }
        if let Some(insync) = self.claim() {
            let reason = self.state.reason;
            let reason = if reason == Reason::Normal { Reason::Initialization } else { reason };
            self.begin_episode(Change::ToOwner, reason, "both-stand-by", (Stage::Exclude, self.now), out);
            self.begin_claim(insync, out);
        } else if level == Level::Lost && self.takeover_block().is_none() {
            let from = self.detector.last_heard().unwrap_or(self.began);
            let (reason, rule) = match (self.detector.last_heard(), self.own_right()) {
                (_, true) => (self.loss_reason(), "own-right"),
                (None, false) => (Reason::PeerDownDuringInit, "peer-lost"),
                (Some(_), false) => (self.loss_reason(), "peer-lost"),
            };
            self.begin_episode(Change::ToOwner, reason, rule, (Stage::Detect, from), out);
            self.stage(Stage::Drain);
            self.lacks_writes = self.may_lack_writes();
            self.become_phase(Phase::TakingOver { way: Way::Takeover, step: TakeStep::Preparing });
            self.order(MirrorOrder::PrepareTakeover, out);
        }
    }

    /// What was down while this node owned the group is said by its disk and its resources from here on: they may be mended.
    fn forget_owners_failure(&mut self) {
        let owners = matches!(self.state.failed, Some(Reason::StorageFailure | Reason::CriticalServiceDown));
        if owners && self.state.phase == Phase::Standby {
            self.state.failed = None;
        }
    }

    /// Why the peer is lost.
    fn loss_reason(&self) -> Reason {
        match self.peer {
            Some(peer) if peer.role == GroupRole::Gone => Reason::PeerReboot,
            Some(_) => Reason::PeerDown,
            None => Reason::PeerDownDuringInit,
        }
    }

    /// What the record says of the past is known to a standby as well.
    fn learn_from_record(&mut self) {
        if let Some(record) = self.register.record() {
            self.adopt_epoch(record.epoch);
        }
    }

    /// Whether this node was alone last, by what is durable here. Says nothing where a record does, nor of a peer that was
    /// last heard as owner: without a disk it is the older one and owns the group all the same.
    pub(super) fn own_right(&self) -> bool {
        let owned_by_peer = self.peer.is_some_and(|peer| peer.role.claims());
        self.mirror.peer_outdated && !self.settings.mode.has_arbiter() && !owned_by_peer
    }

    /// Why this node does not take over from a lost peer, if it doesn't.
    pub(super) fn takeover_block(&self) -> Option<&'static str> {
        let own_right = self.own_right();
        let record = self.register.record();
        let unknown_stop = self.peer.is_some_and(|peer| peer.reason == Reason::StopFailed);
        match () {
            () if self.memory.wish.stopped => Some("the group is stopped by an operator"),
            () if self.memory.wish.disabled => Some("high availability is disabled"),
            () if self.memory.deactivated => Some("this node is deactivated"),
            () if !self.settings.mode.is_automatic() && !own_right => Some("mode manual: an operator decides"),
            () if self.state.failed.is_some() => Some("this node is in failed mode"),
            () if !self.plan.is_down() => Some("resources are still being stopped here"),
            () if unknown_stop && !self.settings.mode.has_fencing() => {
                Some("a resource may still run on the peer, where its stop failed")
            }
            () if self.copy_block(own_right).is_some() => self.copy_block(own_right),
            () if self.now < self.promises.end(self.rules) => Some("the promise to the peer has not ended"),
            () if self.now < self.retry_at => Some("the last try was a moment ago"),
            () if self.job.is_some() => Some("the volume is busy with an order"),
            () if !self.settings.mode.has_arbiter() => None,
            () if self.register.went_back() => Some("the arbiter's record went back in time"),
            () if self.register.trouble().is_some() => Some("the arbiter does not answer"),
            () if self.register.is_empty() => Some("the arbiter has no record of the group"),
            () if record.is_some_and(|record| !record.insync.contains(self.settings.node))
                && !self.rules.broken(Mutation::NotInSync) =>
            {
                Some("the record says that this copy is not in sync")
            }
            () => None,
        }
    }

    /// Why the copy here must not serve alone, if it must not.
    pub(super) fn copy_block(&self, own_right: bool) -> Option<&'static str> {
        let memory = self.mirror.memory;
        let waited = self.now.since(self.began) >= self.settings.peer_wait;
        let remembers_enough = match self.settings.mode {
            // Whoever fenced this node made it reboot: a node that did not reboot was not excluded.
            FailoverMode::Fencing => memory >= Continuity::SameBoot || own_right,
            FailoverMode::BestEffort => memory == Continuity::SameProcess || own_right,
            FailoverMode::Manual | FailoverMode::Arbiter | FailoverMode::ArbiterFencing => true,
        };
        match () {
            () if self.mirror.disk != DiskState::UpToDate => Some("the disk is not up to date"),
            () if self.mirror.suspect => Some("the metadata of the disk was damaged"),
            () if self.mirror.split => Some("both nodes went on alone"),
            () if self.talk.is_outdating() => Some("this copy is being called outdated"),
            () if self.memory.disk_was_out && !self.settings.mode.has_arbiter() && !own_right => {
                Some("its disk was out of service, and the peer may have gone on without it")
            }
            () if !remembers_enough => Some("this node restarted and may have been excluded meanwhile"),
            () if self.declares_cache_loss() && !self.settings.unclean_takeover => {
                Some("this node rebooted: acknowledged writes that were not flushed may be lost")
            }
            () if self.declares_cache_loss() && !waited => Some("waiting for the peer, which may hold more"),
            () if self.may_lack_writes() && !self.settings.unclean_takeover => {
                Some("the volume is asynchronous: what the owner acknowledged last may not have arrived here")
            }
            () => None,
        }
    }

    /// Whether a takeover here and now would have to be declared (rule R9).
    pub(super) fn declares_cache_loss(&self) -> bool {
        self.mirror.memory == Continuity::Rebooted && !self.mirror.in_sync && !self.mirror.connected
    }

    /// Whether the takeover under way has to be declared.
    pub(super) fn declares_loss(&self) -> bool {
        let taking = matches!(self.state.phase, Phase::TakingOver { way: Way::Takeover | Way::Forced, .. });
        self.declares_cache_loss() || self.lacks_writes && taking
    }

    /// Whether a lost peer may have acknowledged writes that never came here. Not, if this node was the last owner itself.
    pub(super) fn may_lack_writes(&self) -> bool {
        let record = self.register.record().filter(|_| self.settings.mode.has_arbiter());
        let own = record.is_some_and(|record| record.primary == self.settings.node);
        self.mirror.lossy && !own && !self.own_right()
    }

    /// Whether the record names the owner alone, however well its peer keeps up: whoever may lack the newest writes must not
    /// take over.
    pub(super) fn keeps_peer_out(&self) -> bool {
        self.mirror.lossy && !self.settings.unclean_takeover
    }

    /// Who is in sync, when this node is the one to claim a group that nobody owns.
    fn claim(&self) -> Option<InSync> {
        let me = self.settings.node;
        let peer = self.peer.filter(|peer| peer.role == GroupRole::Standby)?;
        let wish = self.memory.wish;
        let asked = self.settings.auto_start || wish.version > 0;
        let may = asked && !wish.stopped && !self.memory.deactivated && self.state.failed.is_none();
        let quiet =
            self.state.offered.is_none() && !self.register.binds() && self.job.is_none() && self.talk.is_quiet();
        let settled = self.plan.is_down() && self.now >= self.retry_at && self.detector.level() == Level::Alive;
        let here = self.is_session_current() && self.mirror.disk == DiskState::UpToDate && !self.mirror.split;
        if !(may && quiet && settled && here) {
            return None;
        }
        let peer_can = peer.volume.fit && peer.healthy && !peer.deactivated;
        match () {
            () if self.mirror.in_sync && (me == self.settings.home || !peer_can) => {
                Some(if self.keeps_peer_out() { InSync::only(me) } else { InSync::BOTH })
            }
            () if self.mirror.source && !self.mirror.in_sync => Some(InSync::only(me)),
            () => None,
        }
    }

    fn begin_claim(&mut self, insync: InSync, out: &mut Vec<Effect>) {
        let way = Way::Claim;
        self.talk.grant(insync);
        if self.settings.mode.has_arbiter() {
            self.become_phase(Phase::TakingOver { way, step: TakeStep::Excluding(Guard::Record) });
            self.register.want(Purpose::Claim(insync), self.now);
        } else {
            self.promote(way, out);
        }
    }

    /// What became of the group that was offered to the peer.
    fn resolve_offer(&mut self, out: &mut Vec<Effect>) {
        let Some(epoch) = self.state.offered else { return };
        let peer = self.peer.filter(|_| self.detector.level() == Level::Alive);
        let owns = peer.is_some_and(|peer| peer.role == GroupRole::Owner && peer.epoch >= epoch);
        let lost = self.detector.level() == Level::Lost;
        // Where a record or an agent decides, a lost peer is a case for the takeover; elsewhere the offer stands.
        let decided = lost && (self.settings.mode.has_arbiter() || self.settings.mode.has_fencing());
        if owns {
            self.offer_answered(true, out);
        } else if decided {
            self.offer_answered(false, out);
        } else if self.rules.broken(Mutation::HandoverTakenBack)
            && self.talk.asked_for(self.now) > self.settings.dead_after
        {
            self.state.offered = None;
            self.talk.withdraw();
            self.promote(Way::Handover, out);
        }
    }

    /// The peer has, or will surely not have, the group.
    pub(super) fn offer_answered(&mut self, taken: bool, out: &mut Vec<Effect>) {
        if self.state.offered.take().is_none() {
            return;
        }
        self.talk.withdraw_if(|question| matches!(question, Question::Handover { .. }));
        self.end_episode(taken, out);
        self.answer_waiting(taken, "the other node refused the group", out);
        if !taken {
            self.retry_at = self.now + self.settings.retry_interval;
        }
    }

    /// When a standby's clocks want a look.
    pub(super) fn standby_deadline(&self) -> Option<Moment> {
        if !matches!(self.state.phase, Phase::Standby | Phase::Starting) {
            return None;
        }
        let promise = self.promises.end(self.rules);
        let wait = self.began + self.settings.peer_wait;
        [promise, self.retry_at, wait].into_iter().filter(|moment| *moment > self.now).min()
    }
}
