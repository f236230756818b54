//! The failover group decides who may serve: its orders, and its permit to read.
//!
//! | this node | needs |
//! |---|---|
//! | primary, alone, or about to be | `OpenSolo`: the peer is excluded, before the first acknowledgement |
//! | secondary that takes over | `Promote`, before it serves anything |
//! | primary without a disk | `AllowPeerOnly`, before it acknowledges what the peer wrote |
//! | primary, source of a resync | `Qualify`, before it calls the peer up to date: then the peer may take over again |
//! | primary beside a peer that may take over | a permit for reads, which the peer's promise outlives |
//!
//! Writes need no clock: one that is acknowledged is on the peer's disk or behind the door. A read that was answered by
//! the local disk after the permit ended is read again when there is a new one: the peer may have taken over meanwhile.

use super::core::{After, Mirror};
use super::door::{Door, Purpose};
use super::handshake::Rule;
use super::interface::{Effect, Facts, Note, Order, Way};
use super::session::Phase;
use crate::base::ids::Epoch;
use crate::base::limits::{PEER_SLOW, PINGS_MISSED};
use crate::base::state::{Continuity, DiskState, Exclusion, Mode, Role};
use crate::base::time::Moment;

/// What the group has said, and what it is waited for to say.
#[derive(Debug, Default)]
pub(super) struct Word {
    permit: Permit,
    /// The order under way.
    order: Option<(u64, Order)>,
    wants_qualify: bool,
    wants_peer_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Permit {
    #[default]
    Never,
    Until(Moment),
    Always,
}

impl Mirror {
    /// Whether a failover group decides who may serve.
    pub(super) fn is_in_group(&self) -> bool {
        self.settings.exclusion == Exclusion::Group
    }

    /// What a failover group must know.
    pub fn facts(&self) -> Facts {
        let phase = self.session.as_ref().map(|session| &session.phase);
        let superblock = &self.superblock;
        Facts {
            role: self.role,
            mixed: false,
            disk: self.disk,
            connected: !matches!(phase, None | Some(Phase::Draining | Phase::Hello | Phase::Deciding)),
            session_with: self.peer().map(|peer| peer.incarnation),
            in_sync: self.is_whole(),
            lossy: self.settings.mode == Mode::Async,
            source: match phase {
                Some(Phase::Joined) => true,
                Some(Phase::Source(source)) => source.mirrors(),
                Some(Phase::Forwarding { .. }) => self.disk == DiskState::UpToDate && self.holds_what_the_peer_held(),
                _ => false,
            },
            wants_solo: self.role == Role::Primary && self.door.is_opening(),
            peer_slow: self.is_peer_slow(),
            wants_qualify: self.word.wants_qualify,
            wants_peer_only: self.word.wants_peer_only,
            peer_outdated: superblock.peer_outdated,
            memory: if self.cache_lost { Continuity::Rebooted } else { self.continuity() },
            suspect: superblock.suspect || self.maps_unreadable,
            split: matches!(phase, Some(Phase::Refused)) && self.rule == Some(Rule::Fork),
            generation: superblock.lineage.current,
            seen_epoch: superblock.seen_epoch,
            cache_epoch: superblock.cache_epoch,
        }
    }

    /// Whether writes of clients wait for the peer's word for long. Asynchronous ones don't wait.
    fn is_peer_slow(&self) -> bool {
        let oldest = self.session.as_ref().and_then(|session| session.oldest_unwritten());
        let waits = self.settings.mode != Mode::Async && self.role == Role::Primary && self.is_joined();
        waits && oldest.is_some_and(|since| self.now.since(since) >= PEER_SLOW)
    }

    /// Whether what the local disk holds may be shown to clients now.
    pub(super) fn may_read(&self) -> bool {
        if !self.is_in_group() {
            return true;
        }
        match self.word.permit {
            Permit::Never => false,
            Permit::Until(end) => self.now < end,
            Permit::Always => true,
        }
    }

    /// The permit was renewed, or ended.
    pub(super) fn permitted(&mut self, until: Option<Moment>, out: &mut Vec<Effect>) {
        let could = self.may_read();
        self.word.permit = until.map_or(Permit::Always, Permit::Until);
        if !could && self.may_read() {
            self.held_since = self.held_since.take().filter(|_| self.door.is_asking() || self.word.wants_peer_only);
            self.drive_all(out);
            if self.settings.mode == Mode::Async {
                self.slots.keys().into_iter().for_each(|key| self.conclude(key, out));
            }
        }
    }

    /// A read can't be served before there is a permit.
    pub(super) fn hold_read(&mut self, out: &mut Vec<Effect>) {
        self.held_for("waiting for the group's permit to serve reads", out);
    }

    /// Carries out an order, or begins to.
    pub(super) fn order(&mut self, id: u64, order: Order, out: &mut Vec<Effect>) {
        self.order_done(Err("another order came before it was done"), out);
        if self.pending.stopping.is_some() && order != Order::Demote {
            out.push(Effect::OrderDone { id, result: Err("the daemon is stopping".into()) });
            return;
        }
        self.word.order = Some((id, order));
        match order {
            Order::PrepareSolo => self.prepare_solo(out),
            Order::CloseDoor => {
                self.withdraw_solo(out);
                self.order_done(Ok(()), out);
                self.drive_all(out);
                self.begin_session_if_ready(out);
            }
            Order::OpenSolo { epoch } => self.open_solo(epoch, out),
            Order::PrepareTakeover => self.prepare_takeover(out),
            Order::Promote { epoch, way, .. } => self.promote_for_group(epoch, way, out),
            Order::Qualify => self.qualify(out),
            Order::AllowPeerOnly => self.allow_peer_only(out),
            Order::Outdate => self.outdate(out),
            Order::Quiesce => self.begin_demotion(None, false, out),
            Order::Demote => self.demote_at_once(out),
        }
    }

    /// The order under way has ended.
    pub(super) fn order_done(&mut self, result: Result<(), &str>, out: &mut Vec<Effect>) {
        if let Some((id, _)) = self.word.order.take() {
            out.push(Effect::OrderDone { id, result: result.map_err(str::to_owned) });
        }
    }

    /// The order under way, if it is one of these, has ended.
    pub(super) fn order_ended(
        &mut self,
        which: impl Fn(Order) -> bool,
        result: Result<(), &str>,
        out: &mut Vec<Effect>,
    ) {
        if self.word.order.is_some_and(|(_, order)| which(order)) {
            self.order_done(result, out);
        }
    }

    /// Everything is flushed and only the group's word is missing.
    pub(super) fn at_the_door(&mut self, purpose: Purpose, out: &mut Vec<Effect>) {
        self.door = Door::Asking(purpose);
        match (purpose, self.word.order) {
            (Purpose::Takeover { .. }, Some((_, Order::Promote { epoch, .. }))) => self.pass(purpose, epoch, out),
            (Purpose::Takeover { .. }, _) => {
                self.order_ended(|order| order == Order::PrepareTakeover, Ok(()), out);
            }
            (Purpose::Solo, _) if self.session.is_none() => {
                self.held_for("waiting for the group to exclude the peer", out);
                self.order_ended(|order| order == Order::PrepareSolo, Ok(()), out);
            }
            (Purpose::Solo, _) => {}
            (Purpose::Authority, _) => unreachable!("the primary asks for it"),
        }
        if self.session.is_some() && self.door.is_asking() {
            // The peer came back meanwhile: a handshake goes first.
            self.withdraw_passage(out);
            self.begin_session_if_ready(out);
        }
    }

    fn prepare_solo(&mut self, out: &mut Vec<Effect>) {
        if self.role != Role::Primary || self.disk != DiskState::UpToDate {
            return self.order_done(Err("it is no primary with an up-to-date disk"), out);
        }
        match self.door {
            Door::Open | Door::Asking(Purpose::Solo) => self.order_done(Ok(()), out),
            Door::Closed if self.session.is_some() => self.end_session("going on alone", false, out),
            Door::Closed => self.go_through(Purpose::Solo, out),
            _ => {}
        }
    }

    /// The session that an order waited for has ended.
    pub(super) fn prepare_without_session(&mut self, out: &mut Vec<Effect>) {
        if self.word.order.is_some_and(|(_, order)| order == Order::PrepareSolo) && self.door == Door::Closed {
            self.prepare_solo(out);
        }
        if self.word.order.is_some_and(|(_, order)| order == Order::Outdate) {
            self.outdate(out);
        }
    }

    fn open_solo(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        match self.door {
            Door::Open => self.order_done(Ok(()), out),
            Door::Asking(Purpose::Solo) => {
                self.held_since = None;
                self.pass(Purpose::Solo, epoch, out);
            }
            _ => self.order_done(Err("the peer is back"), out),
        }
    }

    fn prepare_takeover(&mut self, out: &mut Vec<Effect>) {
        if matches!(self.door, Door::Asking(Purpose::Takeover { .. })) {
            return self.order_done(Ok(()), out);
        }
        if self.role == Role::Primary {
            return self.order_done(Err("it is primary already"), out);
        }
        match self.takeover_refusal() {
            Some(refusal) => self.order_done(Err(&refusal.reason), out),
            None => self.take_over(false, out),
        }
    }

    fn promote_for_group(&mut self, epoch: Epoch, way: Way, out: &mut Vec<Effect>) {
        let agreed = matches!(way, Way::Claim | Way::Handover);
        match self.door {
            Door::Closed if agreed && self.role == Role::Secondary => self.promote_agreed(epoch, way, out),
            Door::Asking(purpose @ Purpose::Takeover { .. }) if !agreed => {
                self.pass(purpose, epoch, out);
            }
            _ => self.promote(None, way == Way::Forced, Some(epoch), out),
        }
    }

    /// The peer agrees, or handed over: it is asked in the session, or not needed. Never through the door, which is for
    /// whoever has excluded the peer: without a session this node is primary, and holds what would have to be
    /// acknowledged alone.
    fn promote_agreed(&mut self, epoch: Epoch, way: Way, out: &mut Vec<Effect>) {
        let Some(session) = &self.session else {
            match self.takeover_refusal() {
                Some(refusal) => self.order_done(Err(&refusal.reason), out),
                None if way != Way::Handover || self.continuity() != Continuity::SameProcess => {
                    self.order_done(Err("the peer is not connected, so that it can't agree"), out);
                }
                None if self.old_frames_ended() => self.promote_without_peer(epoch, out),
                // When what was received has reached the disk.
                None => {}
            }
            return;
        };
        // The group's word may be faster than the link's: the peer's decision, or that it is secondary, is on its way.
        let on_its_way = session.is_deciding() || self.peer().is_some_and(|peer| peer.role == Role::Primary);
        if !on_its_way {
            self.promote(None, false, Some(epoch), out);
        }
    }

    /// Goes on with a promotion that had to wait, if it still does.
    pub(super) fn promotion_step(&mut self, out: &mut Vec<Effect>) {
        if let Some((_, Order::Promote { epoch, way: way @ (Way::Claim | Way::Handover), .. })) = self.word.order
            && self.door == Door::Closed
            && self.role == Role::Secondary
            && !self.has_promotion()
        {
            self.promote_agreed(epoch, way, out);
        }
    }

    /// What the group says of the cache epoch, while this node becomes primary.
    pub(super) fn cache_epoch_ordered(&self) -> Option<u64> {
        match self.word.order {
            Some((_, Order::Promote { cache_epoch, .. })) => cache_epoch,
            _ => None,
        }
    }

    /// The resync is done but for telling the target.
    pub(super) fn want_qualify(&mut self) {
        self.word.wants_qualify = true;
    }

    fn qualify(&mut self, out: &mut Vec<Effect>) {
        let wanted = std::mem::take(&mut self.word.wants_qualify);
        if wanted {
            self.offer(out);
        }
        self.order_done(if wanted { Ok(()) } else { Err("no resync waits for it") }, out);
    }

    /// Without a disk, and the peer has become the only good copy.
    pub(super) fn want_peer_only(&mut self, out: &mut Vec<Effect>) {
        self.word.wants_peer_only = true;
        self.held_for("waiting for the group to make the peer the only copy", out);
    }

    fn allow_peer_only(&mut self, out: &mut Vec<Effect>) {
        let wanted = std::mem::take(&mut self.word.wants_peer_only);
        if wanted {
            self.forward_from_now(out);
        }
        self.order_done(if wanted { Ok(()) } else { Err("no primary without a disk waits for it") }, out);
    }

    fn outdate(&mut self, out: &mut Vec<Effect>) {
        let session = self.session.as_ref().filter(|session| !session.is_deciding());
        let silent =
            session.is_some_and(|session| self.now.since(session.heard) >= self.settings.ping_interval * PINGS_MISSED);
        if self.role == Role::Primary || self.door.is_opening() || session.is_some() && !silent {
            return self.order_done(Err("it is primary, becoming so, or connected"), out);
        }
        if silent {
            // The owner, heard elsewhere, has ended its session; that did not get through.
            return self.end_session("the owner goes on alone", false, out);
        }
        if self.is_changing() {
            return self.order_done(Err("it is in the middle of a change"), out);
        }
        match self.disk {
            DiskState::UpToDate => {}
            // What a disk that was given up says of itself, when it is back, can't be changed now.
            DiskState::Diskless => return self.order_done(Err("its disk is out, and can't be told"), out),
            DiskState::New | DiskState::Inconsistent | DiskState::Outdated => return self.order_done(Ok(()), out),
        }
        self.disk = DiskState::Outdated;
        let reason = format!("{} goes on alone", self.peer_name());
        self.note(Note::DiskChanged { disk: self.disk, reason }, out);
        self.persist(After::Outdated, out);
    }

    /// The copy is outdated, durably.
    pub(super) fn outdated(&mut self, out: &mut Vec<Effect>) {
        self.order_ended(|order| order == Order::Outdate, Ok(()), out);
    }

    fn demote_at_once(&mut self, out: &mut Vec<Effect>) {
        self.withdraw_all(out);
        self.forget_promotion();
        if self.role == Role::Primary {
            self.pending.demotion = None;
            self.step_down("by the group's order", out);
        } else {
            self.order_done(Ok(()), out);
        }
    }

    /// Whatever was waited for, this node changes nothing any more.
    pub(super) fn withdraw_all(&mut self, out: &mut Vec<Effect>) {
        self.withdraw_passage(out);
        self.withdraw_with_session();
    }

    /// Whoever is at the door turns back. What the group may have won meanwhile is harmless: a record that excludes the
    /// peer while this node does not serve alone.
    pub(super) fn withdraw_passage(&mut self, out: &mut Vec<Effect>) {
        if self.door.is_asking() {
            self.door = Door::Closed;
            self.held_since = None;
            let waits = |order| matches!(order, Order::PrepareSolo | Order::PrepareTakeover);
            self.order_ended(waits, Err("the peer is back, or nothing waits any more"), out);
        }
    }

    /// A primary need not go on alone: the peer is back, or nothing is held any more.
    pub(super) fn withdraw_solo(&mut self, out: &mut Vec<Effect>) {
        if self.door == Door::Asking(Purpose::Solo) {
            self.withdraw_passage(out);
        }
    }

    /// What was waited for in the session that has ended.
    pub(super) fn withdraw_with_session(&mut self) {
        self.word.wants_qualify = false;
        self.word.wants_peer_only = false;
    }
}
