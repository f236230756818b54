//! A session's life, from the authenticated connection to its end, and what is on its way in it.
//!
//! ```text
//! Draining ─► Hello ─► Deciding ─┬─► Refused      no data moves until an operator acts
//!  old frames   both     both    ├─► Forwarding   one side has no disk
//!  and door     describe decide  ├─► Source(..)   ─► Joined
//!  end                           └─► Target(..)   ─► Joined
//! ```

use super::core::{After, Mirror};
use super::door::{Door, Purpose};
use super::handshake::Decision;
use super::interface::{Effect, Note, Order};
use super::mutation::Mutation;
use super::request::Leg;
use super::slab::Key;
use super::source::Source;
use super::target::Target;
use crate::base::error::RequestError;
use crate::base::ids::{Epoch, Sequence, SessionId};
use crate::base::latency::{Kind, Stage};
use crate::base::limits::PEER_GONE_WITHIN;
use crate::base::state::{DiskState, Role};
use crate::base::time::Moment;
use crate::wire::frame::Frame;
use crate::wire::message::{Descriptor, FEATURE_RECEIPTS, Message};
use std::collections::VecDeque;

/// A session with the peer.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) began: Moment,
    /// Last frame heard.
    pub(super) heard: Moment,
    /// Last ping sent.
    pub(super) pinged: Moment,
    /// When the newest ping that was answered was sent.
    answered: Moment,
    pub(super) phase: Phase,
    /// This node as it described itself.
    pub(super) ours: Option<Descriptor>,
    /// The peer as it described itself; role and disk kept up to date.
    pub(super) theirs: Option<Descriptor>,
    /// The peer's decision, if it came before ours.
    pub(super) their_decision: Option<(u16, u16)>,
    pub(super) decision: Option<Decision>,
    /// Frames sent and not yet written by the peer, in order from `sent_first` on.
    sent: VecDeque<Option<(Sent, Moment, u64)>>,
    sent_first: u64,
    received_upto: u64,
    /// Bytes of them.
    pub(super) sent_bytes: u64,
    /// Bytes of those among them that are clients' pieces.
    owed_bytes: u64,
    /// A piece waits until the peer has caught up (asynchronous volumes).
    pub(super) stalled: bool,
    /// Already told to end: nothing more is sent.
    pub(super) ending: bool,
    /// It ends because the peer fell behind: this node goes on alone before it meets the peer again.
    shed: bool,
    /// The peer stopped in order: it serves no more.
    left: bool,
    /// Bytes the peer's verify found different and did not repair.
    pub(super) unrepaired: u64,
}

/// What a sent frame was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// A piece.
    Slot(Key),
    /// A resync or verify chunk.
    Chunk(Key),
}

/// Where a session stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// What the last session left behind ends.
    Draining,
    /// Descriptors are on their way.
    Hello,
    /// Decisions are on their way.
    Deciding,
    /// No data moves.
    Refused,
    /// One side has no disk.
    Forwarding {
        /// The side without a disk may forward: the other has become the authority.
        granted: bool,
    },
    /// This node gives.
    Source(Source),
    /// This node receives.
    Target(Target),
    /// In sync.
    Joined,
}

impl Session {
    fn new(id: SessionId, now: Moment, next_sequence: u64) -> Session {
        Session {
            id,
            began: now,
            heard: now,
            pinged: Moment(0),
            answered: Moment(0),
            phase: Phase::Draining,
            ours: None,
            theirs: None,
            their_decision: None,
            decision: None,
            sent: VecDeque::new(),
            sent_first: next_sequence,
            received_upto: next_sequence - 1,
            sent_bytes: 0,
            owed_bytes: 0,
            shed: false,
            stalled: false,
            ending: false,
            left: false,
            unrepaired: 0,
        }
    }

    /// Whether writes are mirrored over it.
    pub(super) fn mirrors(&self) -> bool {
        match &self.phase {
            Phase::Joined => true,
            Phase::Source(source) => source.mirrors(),
            _ => false,
        }
    }

    /// Whether a primary without a disk may forward over it.
    pub(super) fn forwards(&self) -> bool {
        matches!(self.phase, Phase::Forwarding { granted: true })
    }

    /// Whether the peer's disk can serve a read.
    pub(super) fn peer_can_read(&self) -> bool {
        matches!(self.phase, Phase::Joined) || self.forwards()
    }

    /// Whether it may yet lead to a sync: nobody goes on alone meanwhile.
    pub(super) fn is_deciding(&self) -> bool {
        match &self.phase {
            Phase::Draining | Phase::Hello | Phase::Deciding => !self.ending,
            Phase::Source(source) => !source.mirrors() && !self.ending,
            _ => false,
        }
    }

    /// Whether this node gives and has begun to.
    pub(super) fn is_copying(&self) -> bool {
        matches!(&self.phase, Phase::Source(source) if source.mirrors())
    }

    /// Whether this node receives.
    pub(super) fn is_target(&self) -> bool {
        matches!(self.phase, Phase::Target(_))
    }

    /// The oldest frame the peer has not written, since when.
    pub(super) fn oldest_unwritten(&self) -> Option<Moment> {
        self.sent.iter().flatten().next().map(|(_, at, _)| *at)
    }

    /// The source's state, if this node gives.
    pub(super) fn source(&mut self) -> Option<&mut Source> {
        match &mut self.phase {
            Phase::Source(source) => Some(source),
            _ => None,
        }
    }

    /// The target's state, if this node receives.
    pub(super) fn target(&mut self) -> Option<&mut Target> {
        match &mut self.phase {
            Phase::Target(target) => Some(target),
            _ => None,
        }
    }

    fn wants_receipts(&self) -> bool {
        self.theirs.as_ref().is_some_and(|theirs| theirs.features & FEATURE_RECEIPTS != 0)
    }
}

impl Mirror {
    /// Sends a message over the current session.
    pub(super) fn send(&mut self, message: Message, out: &mut Vec<Effect>) {
        if let Some(session) = self.session.as_ref().filter(|session| !session.ending) {
            out.push(Effect::Send { session: session.id, frame: Frame::Control(message) });
        }
    }

    /// Sends a frame that the peer will write, and remembers it until it has.
    pub(super) fn send_data(&mut self, number: u64, what: Sent, bytes: u64, frame: Frame, out: &mut Vec<Effect>) {
        let now = self.now;
        let session = self.session.as_mut().expect("data is sent over a session");
        // Orders taken by writes that were not sent leave gaps.
        while session.sent_first + (session.sent.len() as u64) < number {
            if session.sent.is_empty() {
                session.sent_first = number;
            } else {
                session.sent.push_back(None);
            }
        }
        session.sent.push_back(Some((what, now, bytes)));
        session.sent_bytes += bytes;
        if matches!(what, Sent::Slot(_)) {
            session.owed_bytes += bytes;
        }
        out.push(Effect::Send { session: session.id, frame });
    }

    /// The peer wrote a frame: what it was for.
    pub(super) fn take_sent(&mut self, sequence: Sequence) -> Option<Sent> {
        let session = self.session.as_mut()?;
        let index = sequence.0.checked_sub(session.sent_first)? as usize;
        let (what, since, bytes) = session.sent.get_mut(index)?.take()?;
        session.sent_bytes -= bytes;
        if matches!(what, Sent::Slot(_)) {
            session.owed_bytes -= bytes;
        }
        while session.sent.front().is_some_and(|entry| entry.is_none()) {
            session.sent.pop_front();
            session.sent_first += 1;
        }
        if matches!(what, Sent::Slot(_)) {
            self.record(Kind::Write, Stage::PeerWrite, since);
        }
        Some(what)
    }

    /// The peer has every frame up to this one in memory.
    pub(super) fn received_upto(&mut self, upto: Sequence, out: &mut Vec<Effect>) {
        let Some(session) = self.session.as_mut() else { return };
        let from = session.received_upto.max(session.sent_first - 1) + 1;
        let mut keys = Vec::new();
        for number in from..=upto.0 {
            let index = (number - session.sent_first) as usize;
            let Some(entry) = session.sent.get(index) else { break };
            if let Some((Sent::Slot(key), since, _)) = entry {
                keys.push(*key);
                self.latency.record(Kind::Write, Stage::PeerReceipt, self.now.since(*since));
            }
        }
        session.received_upto = session.received_upto.max(upto.0);
        for key in keys {
            self.remote_received(key, out);
        }
    }

    /// Whether an asynchronous volume's peer is too far behind to send it more.
    pub(super) fn is_behind(&mut self) -> bool {
        let (now, limit, age) = (self.now, self.settings.async_bytes_max, self.settings.async_age_max);
        let Some(session) = self.session.as_mut() else { return false };
        let old = session.oldest_unwritten().is_some_and(|since| now.since(since) > age);
        let behind = session.owed_bytes >= limit || old;
        session.stalled |= behind;
        behind
    }

    /// An asynchronous volume lets its peer fall behind: it goes on alone and resyncs later. It goes through the door
    /// before it meets the peer again: else the next session's resync would fill the buffer with nothing gained.
    pub(super) fn shed(&mut self, out: &mut Vec<Effect>) {
        let Some(session) = self.session.as_mut().filter(|session| !session.ending) else { return };
        session.shed = true;
        self.note(Note::Shed, out);
        self.end_session("the send buffer is full: the peer falls behind and is resynced later", false, out);
    }

    /// An authenticated session exists.
    pub(super) fn link_up(&mut self, id: SessionId, out: &mut Vec<Effect>) {
        assert!(self.session.is_none(), "the old session is down before a new one comes up");
        self.note(Note::SessionBegan, out);
        self.peer_gone = false;
        self.session = Some(Session::new(id, self.now, self.sequence + 1));
        self.withdraw_passage(out);
        self.begin_session_if_ready(out);
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        self.session.as_mut().expect("a session exists").phase = phase;
    }

    /// Whether both are in sync and the session stands.
    pub(super) fn is_joined(&self) -> bool {
        self.session.as_ref().is_some_and(|session| matches!(session.phase, Phase::Joined))
    }

    /// A primary finds that another is right: it stops serving, fails what it holds and becomes secondary.
    pub(super) fn step_down(&mut self, reason: &str, out: &mut Vec<Effect>) {
        self.stop_serving(reason, out);
        self.persist(After::SteppedDown, out);
    }

    /// Ends service at once: clients are cut and what is held fails. Late local writes are covered by their intents.
    pub(super) fn stop_serving(&mut self, reason: &str, out: &mut Vec<Effect>) {
        self.role = Role::Secondary;
        self.withdraw_all(out);
        self.door = Door::Closed;
        self.note(Note::RoleChanged { role: Role::Secondary, reason: reason.into() }, out);
        out.push(Effect::CutClients { reason: reason.into() });
        self.fail_all(out);
    }

    /// Fails every client piece that nobody will serve here.
    pub(super) fn fail_all(&mut self, out: &mut Vec<Effect>) {
        self.withdraw_solo(out);
        self.fail_flushes(RequestError::Shutdown, out);
        for key in self.slots.keys() {
            // Freeing one may have freed others.
            if let Some(slot) = self.slots.get_mut(key) {
                slot.failed = Some(RequestError::Shutdown);
                let waits_for_range = !slot.locked && slot.ticket.is_some();
                if !waits_for_range {
                    self.conclude(key, out);
                }
            }
        }
    }

    pub(super) fn stepped_down(&mut self, out: &mut Vec<Effect>) {
        self.order_ended(|order| order == Order::Demote, Ok(()), out);
        self.reconnect("stepped down", out);
    }

    /// Ends the session and connects again at once: something changed that a new handshake must see.
    pub(super) fn reconnect(&mut self, reason: &str, out: &mut Vec<Effect>) {
        self.end_session(reason, true, out);
    }

    /// Ends the session. The runtime answers with `LinkDown`.
    pub(super) fn end_session(&mut self, reason: &str, reconnect_now: bool, out: &mut Vec<Effect>) {
        let Some(session) = self.session.as_ref().filter(|session| !session.ending) else { return };
        let id = session.id;
        self.send(Message::Goodbye { reason: reason.into() }, out);
        self.session.as_mut().expect("a session exists").ending = true;
        out.push(Effect::Disconnect { session: id, reason: reason.into(), reconnect_now });
    }

    /// The peer broke the protocol: nothing it says is believed any more.
    pub(super) fn misbehaved(&mut self, what: &str, out: &mut Vec<Effect>) {
        self.note(Note::PeerMisbehaved { what: what.into() }, out);
        self.end_session(what, false, out);
    }

    /// The session ended.
    pub(super) fn link_down(&mut self, id: SessionId, reason: String, out: &mut Vec<Effect>) {
        let Some(session) = self.session.take_if(|session| session.id == id) else { return };
        self.note(Note::SessionEnded { reason: reason.clone() }, out);
        self.withdraw_with_session();
        self.was_joined = matches!(session.phase, Phase::Joined);
        self.link_lost = self.now;
        self.peer_answered = session.answered;
        if !matches!(session.phase, Phase::Refused) {
            self.link_reason = Some(reason);
        }
        self.peer_gone = session.left;
        self.peer_left = session.left;
        // Mutant R5 forgets that the peer may have adopted this generation.
        let adopting = matches!(&session.phase, Phase::Source(source) if source.adopt_sent) || self.was_joined;
        if adopting && self.door.is_open() && !self.rules.broken(Mutation::R5) {
            self.door = Door::Closed;
        }
        self.doubt_unstable();
        self.gated.clear();
        self.forget_promises();
        self.abandon_cycle();
        self.abandon_chunks(out);
        for key in self.slots.keys() {
            let Some(slot) = self.slots.get_mut(key) else { continue };
            slot.sequence = None;
            slot.received = false;
            if slot.remote == Leg::Busy {
                slot.remote = Leg::Idle;
                if slot.is_mutation() {
                    // Nobody knows whether the peer wrote it.
                    self.marks.mark(slot.range.aligned_out());
                }
            }
        }
        if self.role == Role::Secondary {
            // While the peer had no disk its pieces ran here; whoever it is now will send them again.
            self.fail_peer_slots(out);
        }
        out.push(Effect::ProbePeer);
        if session.shed && self.role == Role::Primary && self.disk == DiskState::UpToDate && self.door == Door::Closed {
            // No need to wait for the peer to find this node gone: without its writes it never takes over unasked.
            self.go_through(Purpose::Solo, out);
        }
        self.claims_ended(out);
        self.quiesce_failed(out);
        self.prepare_without_session(out);
        self.drive_all(out);
        // Whoever leaves and flushes both disks flushes one now.
        self.drained_step(out);
        self.stop_step(out);
    }

    /// What was not known to be durable on the other side may differ there, if it lost its cache; most of it will not,
    /// so it is compared rather than copied.
    pub(super) fn doubt_unstable(&mut self) {
        self.marks.suspect |= self.unstable.drain();
    }

    /// Pieces of a peer that is gone settle without an answer.
    fn fail_peer_slots(&mut self, out: &mut Vec<Effect>) {
        for key in self.slots.keys() {
            if let Some(slot) = self.slots.get_mut(key)
                && !matches!(slot.origin, super::request::Origin::Client(_))
            {
                slot.failed = Some(RequestError::Shutdown);
                // Who still waits for its range is concluded when it gets it.
                if slot.locked {
                    self.conclude(key, out);
                }
            }
        }
    }

    /// Asks the peer for a sign of life.
    pub(super) fn ping(&mut self, out: &mut Vec<Effect>) {
        let now = self.now;
        if let Some(session) = self.session.as_mut() {
            session.pinged = now;
            self.send(Message::Ping { token: now.0 }, out);
        }
    }

    /// The peer answered a ping.
    fn ponged(&mut self, sent: Moment) {
        let now = self.now;
        if let Some(session) = self.session.as_mut().filter(|session| sent <= session.pinged && sent <= now) {
            session.answered = session.answered.max(sent);
        }
    }

    /// The runtime looked whether the peer's daemon runs, after the session ended.
    ///
    /// To a primary that tells that the secondary can't take over any more: only a process that was there all the time
    /// may. To a secondary it tells that the primary did not go on alone, if it comes soon enough: a primary in the
    /// session when it answered our ping waits [`SOLO_AFTER`] before it does.
    pub(super) fn peer_probed(&mut self, refused: bool, out: &mut Vec<Effect>) {
        let soon = self.now.since(self.peer_answered) <= PEER_GONE_WITHIN;
        if self.session.is_none() && refused && (soon || self.role == Role::Primary) {
            self.peer_gone = true;
            if self.role == Role::Primary {
                self.drive_all(out);
            }
        }
    }

    /// A frame of the peer.
    pub(super) fn frame(&mut self, id: SessionId, frame: Frame, out: &mut Vec<Effect>) {
        let now = self.now;
        let current = self.session.as_mut().filter(|session| session.id == id && !session.ending);
        let Some(session) = current else {
            // A frame of a session that ended, or that we ended: it must not touch anything.
            if let Some((buffer, _)) = frame.bulk() {
                out.push(Effect::Release { buffer });
            }
            return;
        };
        session.heard = now;
        match frame {
            Frame::Control(message) => self.message(message, out),
            Frame::ReadReply { op, buffer, .. } => self.peer_read_answered(op, Some(Some(buffer)), out),
            data => self.data_frame(data, out),
        }
    }

    fn message(&mut self, message: Message, out: &mut Vec<Effect>) {
        match message {
            Message::Hello(descriptor) => self.hello(*descriptor, out),
            Message::Decided { rule, plan } => self.decided(rule, plan, out),
            Message::Marks { bitmap, known, last } => self.their_marks(&bitmap, known, last, out),
            Message::ResyncReady => self.target_is_ready(out),
            Message::Differs { sequence, ranges, failed } => self.differs(sequence, ranges, failed, out),
            Message::Adopted => self.adopted_there(out),
            Message::Joined => self.joined_there(out),
            Message::Received { upto } => self.received_upto(upto, out),
            Message::Written { sequences } => self.written(sequences, out),
            Message::Failed { sequence, errno } => self.peer_write_failed(sequence, errno),
            Message::Flushed { cycle } => self.cycle_flushed_there(cycle, out),
            Message::Claim { epoch } => self.claimed(epoch, out),
            Message::Claimed { epoch, granted } => self.claim_answered(epoch, granted, out),
            Message::RoleChanged { role, epoch } => self.peer_role_changed(role, epoch),
            Message::DiskChanged { disk, reason } => self.peer_disk_changed(disk, reason),
            Message::TakeAuthority { reason } => self.authority_wanted(reason, out),
            Message::AuthorityTaken { lineage } => self.authority_granted(lineage, out),
            Message::ReadZeroes { op } => self.peer_read_answered(op, Some(None), out),
            Message::ReadFailed { op, .. } => self.peer_read_answered(op, None, out),
            Message::PauseResync { paused } => self.pause_resync(paused, out),
            Message::StartVerify { repair } => self.peer_wants_verify(repair, out),
            state @ Message::VerifyState { .. } => self.peer_verify_told(state),
            Message::DiscardYours { full } => self.peer_wants_discard(full, out),
            Message::Ping { token } => self.send(Message::Pong { token }, out),
            Message::Pong { token } => self.ponged(Moment(token)),
            Message::Goodbye { reason } => self.said_goodbye(reason, out),
            other => self.target_message(other, out),
        }
    }

    /// The peer ends the session in order: what it says is why the link is down.
    fn said_goodbye(&mut self, reason: String, out: &mut Vec<Effect>) {
        let reconnect = reason != STOPPING;
        let sentence = format!("{} ended the session: {reason}", self.peer_name());
        if let Some(session) = self.session.as_mut() {
            session.ending = true;
            session.left = !reconnect;
            let session = session.id;
            out.push(Effect::Disconnect { session, reason: sentence, reconnect_now: reconnect });
        }
    }

    /// The peer's disk has these frames.
    fn written(&mut self, sequences: Vec<Sequence>, out: &mut Vec<Effect>) {
        for sequence in sequences {
            match self.take_sent(sequence) {
                Some(Sent::Slot(key)) => self.remote_written(key, out),
                Some(Sent::Chunk(key)) => self.chunk_written(key, out),
                // Another session's, or nonsense: either way nothing of ours depends on it.
                None => {}
            }
        }
        if self.session.as_ref().is_some_and(|session| session.stalled) && !self.is_behind() {
            self.session.as_mut().expect("a session exists").stalled = false;
            self.drive_all(out);
        }
    }

    /// Sends receipts if the peer wants them.
    pub(super) fn acknowledge_receipt(&mut self, upto: Sequence, out: &mut Vec<Effect>) {
        if self.session.as_ref().is_some_and(Session::wants_receipts) {
            self.send(Message::Received { upto }, out);
        }
    }

    fn peer_verify_told(&mut self, state: Message) {
        if let (Message::VerifyState { different, repaired, .. }, Some(session)) = (&state, self.session.as_mut()) {
            session.unrepaired = different.saturating_sub(*repaired);
        }
        self.finished.peer_verified(state);
    }

    fn peer_role_changed(&mut self, role: Role, epoch: Epoch) {
        self.superblock.seen_epoch = self.superblock.seen_epoch.max(epoch);
        if let Some(theirs) = self.session.as_mut().and_then(|session| session.theirs.as_mut()) {
            theirs.role = role;
        }
    }

    fn peer_disk_changed(&mut self, disk: DiskState, reason: String) {
        if let Some(theirs) = self.session.as_mut().and_then(|session| session.theirs.as_mut()) {
            theirs.disk = disk;
        }
        self.link_reason = Some(format!("the disk of {} is {disk}: {reason}", self.peer_name()));
    }
}

/// The reason of a goodbye that is not followed by a new session.
pub(super) const STOPPING: &str = "stopping";
