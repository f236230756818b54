//! A piece of a client's request, from lock to reply.
//!
//! ```text
//! lock ─► fill in ragged ends ─► intent durable (R1) ─► path? ─┬─ Mirrored: send ─► (receipt) ─► local write ┐
//!                                                             ├─ Solo:     mark dirty ─► local write       ├─► reply
//!                                                             ├─ Forward:  send (no local disk)             │
//!                                                             └─ Held:     wait: door, session or disk ─────┘
//! ```
//! [`Mirror::drive`] looks at where a piece stands and does everything that can be done now; it may be called at any
//! time. Once admitted a piece settles exactly once, and holds its range until both disks are through with it, client or
//! no client.

use super::core::{Mirror, Op, Owner};
use super::interface::{DiskIo, Effect, RequestIdAndOutcome};
use super::lock::Ticket;
use super::mutation::Mutation;
use super::slab::Key;
use crate::base::error::{DiskError, RequestError};
use crate::base::ids::{BufferId, OpId, RequestId, Sequence};
use crate::base::latency::{Kind, Stage};
use crate::base::range::ByteRange;
use crate::base::request::{Action, Outcome, Request};
use crate::base::state::{DiskState, Mode, Overflow, Role};
use crate::base::time::Moment;
use crate::wire::frame::Frame;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client.
    Client(RequestId),
    /// The peer, a primary without a disk: a mutation.
    Peer(Sequence),
    /// The peer: a read.
    PeerRead(OpId),
}

/// One leg of a mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    /// Not begun.
    Idle,
    /// Under way.
    Busy,
    /// Done.
    Done,
    /// Not wanted.
    Waived,
}

impl Leg {
    fn over(self) -> bool {
        matches!(self, Leg::Done | Leg::Waived)
    }
}

/// What a piece does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Read into the client's buffer (`None`: the peer's read, into a buffer of the runtime's choice).
    Read(Option<BufferId>),
    /// Write the buffer.
    Write(BufferId),
    /// Zero.
    Zero {
        /// Give the space back.
        unmap: bool,
    },
    /// Flush; holds no range.
    Flush,
}

/// A piece under way.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) origin: Origin,
    pub(super) work: Work,
    /// As the client asked.
    pub(super) range: ByteRange,
    pub(super) fua: bool,
    pub(super) ticket: Option<Ticket>,
    /// The range is held.
    pub(super) locked: bool,
    /// The buffer holds whole blocks.
    pub(super) filled: bool,
    /// A fill is under way.
    pub(super) filling: bool,
    pub(super) local: Leg,
    pub(super) remote: Leg,
    /// The peer has it in memory.
    pub(super) received: bool,
    /// Order of its frame in this session.
    pub(super) sequence: Option<u64>,
    /// Its local write's order.
    pub(super) order: u64,
    pub(super) replied: bool,
    /// The buffer was given back early: only mutant R14 does.
    pub(super) released: bool,
    /// An operation of a disk that was given up has not ended: it may still use the buffer.
    pub(super) haunted: bool,
    /// A read that was answered without its buffer, which is still ours.
    pub(super) apart: bool,
    /// A sticky failure.
    pub(super) failed: Option<RequestError>,
    pub(super) admitted: Moment,
    /// Since when it waits for its range, its intent or the peer's receipt or bytes.
    pub(super) waits_since: Moment,
}

impl Slot {
    /// Whether it changes the volume.
    pub(super) fn is_mutation(&self) -> bool {
        matches!(self.work, Work::Write(_) | Work::Zero { .. })
    }

    pub(super) fn kind(&self) -> Kind {
        match self.work {
            Work::Read(_) => Kind::Read,
            Work::Write(_) | Work::Zero { .. } => Kind::Write,
            Work::Flush => Kind::Flush,
        }
    }

    fn is_read(&self) -> bool {
        matches!(self.work, Work::Read(_))
    }

    /// Settled, and there only because an operation of a disk that was given up may still touch its buffer.
    pub(super) fn is_ghost(&self) -> bool {
        self.replied && self.ticket.is_none()
    }

    fn buffer(&self) -> Option<BufferId> {
        match self.work {
            Work::Write(buffer) => Some(buffer),
            Work::Read(buffer) => buffer,
            _ => None,
        }
    }

    pub(super) fn check(&self) {
        if self.sequence.is_some() {
            assert!(self.locked, "a piece that was sent holds its range");
        }
        assert!(self.local != Leg::Busy || self.locked, "a piece that is written holds its range");
    }
}

/// Where mutations go right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// To both disks.
    Mirrored,
    /// To the local disk alone, which is durably the only authority.
    Solo,
    /// To the peer's disk alone.
    Forward,
    /// Nowhere yet.
    Held,
}

impl Mirror {
    /// Where mutations go right now.
    pub(super) fn path(&self) -> Path {
        let mirrors = self.session.as_ref().is_some_and(|session| session.mirrors());
        if self.disk == DiskState::Diskless {
            // The authority of a primary without a disk has lost its own: nobody is left to forward to.
            let granted = self.role == Role::Primary && self.session.as_ref().is_some_and(|session| session.forwards());
            return if granted { Path::Forward } else { Path::Held };
        }
        if mirrors {
            Path::Mirrored
        } else if self.door.is_open() {
            Path::Solo
        } else {
            Path::Held
        }
    }

    /// Takes a client's piece.
    pub(super) fn admit(&mut self, request: Request, out: &mut Vec<Effect>) {
        let (work, range, fua) = match request.action {
            Action::Read { range, buffer } => (Work::Read(Some(buffer)), range, false),
            Action::Write { range, buffer, fua } => (Work::Write(buffer), range, fua),
            Action::Zero { range, unmap, fua } => (Work::Zero { unmap }, range, fua),
            Action::Flush => (Work::Flush, ByteRange::new(0, 0), false),
        };
        self.admit_work(Origin::Client(request.id), work, range, fua, out);
    }

    /// Takes a piece of whatever origin.
    pub(super) fn admit_work(
        &mut self,
        origin: Origin,
        work: Work,
        range: ByteRange,
        fua: bool,
        out: &mut Vec<Effect>,
    ) {
        let slot = Slot {
            origin,
            work,
            range,
            fua,
            ticket: None,
            locked: false,
            filled: range.is_aligned(),
            filling: false,
            local: Leg::Idle,
            remote: Leg::Idle,
            received: false,
            sequence: None,
            order: 0,
            replied: false,
            released: false,
            haunted: false,
            apart: false,
            failed: None,
            admitted: self.now,
            waits_since: self.now,
        };
        let mutation = slot.is_mutation();
        let key = self.slots.insert(slot);
        if !self.lets_in(origin) {
            // The client is being cut; the piece still settles, so that its buffer comes back.
            self.slots[key].failed = Some(RequestError::Shutdown);
            self.conclude(key, out);
            return;
        }
        if work == Work::Flush {
            self.flush_wanted(key, out);
            return;
        }
        let whole = range.aligned_out();
        assert!(range.length > 0 && whole.end() <= self.size_bytes(), "the export keeps pieces inside the volume");
        if !mutation && self.rules.broken(Mutation::R8) {
            self.slots[key].locked = true;
            self.drive(key, out);
            return;
        }
        let (ticket, held) = self.lock.acquire(whole, mutation, Owner::Slot(key));
        self.slots[key].ticket = Some(ticket);
        if mutation {
            // Until it leaves, its region can't be swept: it has no place in the order yet.
            self.intents.touch(self.now, whole, u64::MAX);
        }
        if held {
            self.slots[key].locked = true;
            self.drive(key, out);
        }
    }

    fn lets_in(&self, origin: Origin) -> bool {
        match origin {
            Origin::Client(_) => self.serving().is_some(),
            Origin::Peer(_) | Origin::PeerRead(_) => true,
        }
    }

    /// Goes on with everything that became ready.
    pub(super) fn run_ready(&mut self, out: &mut Vec<Effect>) {
        while let Some(key) = self.ready.pop_front() {
            self.drive(key, out);
        }
    }

    /// Tells the owners that now hold their range.
    pub(super) fn release_range(&mut self, ticket: Ticket, out: &mut Vec<Effect>) {
        let mut owners = Vec::new();
        self.lock.release(ticket, &mut owners);
        for owner in owners {
            match owner {
                Owner::Slot(key) => {
                    let slot = &mut self.slots[key];
                    slot.locked = true;
                    let (kind, since) = (slot.kind(), slot.waits_since);
                    self.record(kind, Stage::GateWait, since);
                    self.ready.push_back(key);
                }
                Owner::Chunk(key) => self.chunk_locked(key, out),
            }
        }
    }

    /// Lets every waiting piece look again: the path changed.
    pub(super) fn drive_all(&mut self, out: &mut Vec<Effect>) {
        for key in self.slots.keys() {
            self.drive(key, out);
        }
        self.start_cycle_if_wanted(out);
    }

    /// Does everything that can be done for a piece now.
    pub(super) fn drive(&mut self, key: Key, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get(key) else { return };
        if !slot.locked || slot.is_ghost() || slot.work == Work::Flush {
            return;
        }
        if slot.failed.is_some() {
            self.conclude(key, out);
            return;
        }
        if slot.is_mutation() { self.drive_mutation(key, out) } else { self.drive_read(key, out) }
    }

    fn drive_mutation(&mut self, key: Key, out: &mut Vec<Effect>) {
        let path = self.path();
        if path != Path::Forward && !self.prepare(key, out) {
            return;
        }
        match path {
            Path::Mirrored => self.mirror_leg(key, out),
            Path::Forward => self.forward_leg(key, out),
            Path::Solo => self.solo_leg(key, out),
            Path::Held => self.hold(out),
        }
        self.conclude(key, out);
    }

    /// Fills in ragged ends and makes the intent durable. Returns whether the mutation may leave.
    fn prepare(&mut self, key: Key, out: &mut Vec<Effect>) -> bool {
        let disk = self.disk;
        let slot = &mut self.slots[key];
        if disk == DiskState::Diskless {
            self.hold(out);
            return false;
        }
        if !slot.filled {
            if !slot.filling {
                slot.filling = true;
                let Work::Write(buffer) = slot.work else { unreachable!("only writes are ragged") };
                let range = slot.range;
                self.disk_op(Op::Fill(key), DiskIo::Fill { range, buffer }, out);
            }
            return false;
        }
        let whole = slot.range.aligned_out();
        if self.intents.is_durable(whole) {
            return true;
        }
        if !self.intent_waiters.contains(&key) {
            self.intent_waiters.push(key);
            self.slots[key].waits_since = self.now;
            self.intents.want(self.now, whole);
            self.write_intents(out);
        }
        self.rules.broken(Mutation::R1)
    }

    /// Writes the next page of the intent map, if one is due.
    pub(super) fn write_intents(&mut self, out: &mut Vec<Effect>) {
        if self.disk == DiskState::Diskless {
            return;
        }
        if let Some((page, regions)) = self.intents.next_page() {
            let op = self.op(Op::Intents);
            let record = crate::wire::metadata::record::Record::Intents { page, regions };
            out.push(Effect::Persist { op, record });
        }
    }

    /// A page is durable: those who waited look again.
    pub(super) fn intents_written(&mut self, out: &mut Vec<Effect>) {
        self.intents.page_written();
        for key in std::mem::take(&mut self.intent_waiters) {
            if let Some(since) = self.slots.get(key).map(|slot| slot.waits_since) {
                self.record(Kind::Write, Stage::IntentWait, since);
            }
            self.drive(key, out);
        }
        self.write_intents(out);
        self.stop_step(out);
    }

    pub(super) fn filled(&mut self, key: Key, result: Result<(), DiskError>, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.filling = false;
        match result {
            Ok(()) => slot.filled = true,
            // The ends can't be read here. The peer fills them in once it is the authority.
            Err(error) => self.disk_failed("reading around an unaligned write", error, out),
        }
        self.drive(key, out);
        self.conclude(key, out);
    }

    fn mirror_leg(&mut self, key: Key, out: &mut Vec<Effect>) {
        if self.slots[key].remote == Leg::Idle {
            if self.settings.mode == Mode::Async && self.is_behind() {
                self.overflowed(key, out);
                return;
            }
            self.send_mutation(key, out);
        }
        let gated = self.settings.receipt_gating && self.settings.mode != Mode::Async;
        let slot = &self.slots[key];
        if !gated || slot.received || slot.remote.over() {
            if gated && slot.local == Leg::Idle && slot.sequence.is_some() {
                self.record(Kind::Write, Stage::GateWait, slot.waits_since);
            }
            self.submit_local(key, out);
        }
    }

    /// An asynchronous volume's buffer is full: the piece waits, or, where the volume sheds, does not.
    fn overflowed(&mut self, key: Key, out: &mut Vec<Effect>) {
        if self.settings.overflow == Overflow::Block {
            return;
        }
        if self.is_joined() {
            self.shed(out);
        } else if self.session.as_mut().and_then(|session| session.source()).is_some_and(|source| source.takes_marks())
        {
            // The target is durably no copy: written here alone and marked, the block is copied in its turn.
            self.solo_leg(key, out);
        }
        // While a resync ends nothing may be marked any more: the piece waits for the little that is under way.
    }

    /// Sends a mutation's frame; from here on the peer may differ until it is durable there.
    pub(super) fn send_mutation(&mut self, key: Key, out: &mut Vec<Effect>) {
        self.sequence += 1;
        let number = self.sequence;
        let slot = &mut self.slots[key];
        slot.sequence = Some(number);
        slot.remote = Leg::Busy;
        slot.received = false;
        slot.waits_since = self.now;
        let (sequence, range, fua) = (Sequence(number), slot.range.aligned_out(), slot.fua);
        let frame = match slot.work {
            // Without a disk of our own nobody filled in the ends: the peer does.
            Work::Write(buffer) if !slot.filled => Frame::Data { sequence, range: slot.range, fua, buffer },
            Work::Write(buffer) => Frame::Data { sequence, range, fua, buffer },
            Work::Zero { unmap } => Frame::Zero { sequence, range, unmap, fua },
            Work::Read(_) | Work::Flush => unreachable!("only mutations are sent"),
        };
        if slot.local == Leg::Idle {
            slot.order = number;
            self.gated.insert(number);
        }
        self.intents.touch(self.now, range, number);
        self.unstable.add(range);
        self.send_data(number, super::session::Sent::Slot(key), range.length, frame, out);
    }

    fn submit_local(&mut self, key: Key, out: &mut Vec<Effect>) {
        let slot = &mut self.slots[key];
        if slot.local != Leg::Idle {
            return;
        }
        slot.local = Leg::Busy;
        let range = slot.range.aligned_out();
        let io = match slot.work {
            Work::Write(buffer) => DiskIo::Write { range, buffer, fua: slot.fua },
            Work::Zero { unmap } => DiskIo::Zero { range, unmap, fua: slot.fua },
            Work::Read(_) | Work::Flush => unreachable!("only mutations are written"),
        };
        self.gated.remove(&slot.order);
        self.unfinished.insert(slot.order);
        self.disk_op(Op::Write(key), io, out);
    }

    fn solo_leg(&mut self, key: Key, out: &mut Vec<Effect>) {
        let order = self.sequence + 1;
        let slot = &mut self.slots[key];
        let range = slot.range.aligned_out();
        slot.remote = Leg::Waived;
        slot.sequence = None;
        // Set before anything is written or told: a session that begins now must find it.
        self.marks.mark(range);
        if slot.local == Leg::Idle {
            slot.order = order;
            self.sequence = order;
            self.intents.touch(self.now, range, order);
            self.submit_local(key, out);
        }
    }

    fn forward_leg(&mut self, key: Key, out: &mut Vec<Effect>) {
        if self.slots[key].local != Leg::Busy {
            self.slots[key].local = Leg::Waived;
        }
        if self.slots[key].remote == Leg::Idle {
            self.send_mutation(key, out);
        }
    }

    /// The local disk has it.
    pub(super) fn local_written(&mut self, key: Key, result: Result<(), DiskError>, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        self.unfinished.remove(&slot.order);
        match result {
            Ok(()) => {
                slot.local = Leg::Done;
                self.release_early(key, out);
            }
            Err(error) => {
                // Not acknowledged from here: the peer's copy must become the authority first, or nobody serves.
                slot.local = Leg::Idle;
                self.disk_failed("a write", error, out);
            }
        }
        self.conclude(key, out);
        self.local_progress(out);
    }

    /// Mutant R14 gives the buffer back while the peer's leg may still need it.
    fn release_early(&mut self, key: Key, out: &mut Vec<Effect>) {
        let slot = &mut self.slots[key];
        if self.rules.broken(Mutation::R14)
            && let Some(buffer) = slot.buffer()
        {
            slot.released = true;
            out.push(Effect::Release { buffer });
        }
    }

    /// The peer's disk has it.
    pub(super) fn remote_written(&mut self, key: Key, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.remote = Leg::Done;
        slot.received = true;
        let range = slot.range.aligned_out();
        if self.path() == Path::Mirrored {
            // Both have the same bytes there; until they are durable `unstable` remembers it.
            self.marks.clear(range);
        }
        if self.rules.broken(Mutation::R10) {
            self.unstable.forget(range);
        }
        self.drive(key, out);
    }

    /// The peer has it in memory.
    pub(super) fn remote_received(&mut self, key: Key, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if !slot.received {
            slot.received = true;
            self.drive(key, out);
        }
    }

    /// Replies when the mode's condition holds, frees when both legs are over.
    pub(super) fn conclude(&mut self, key: Key, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get(key) else { return };
        if let Some(error) = slot.failed {
            self.conclude_failed(key, error, out);
            return;
        }
        if !slot.is_mutation() {
            return;
        }
        if self.may_acknowledge(&self.slots[key]) {
            self.reply(key, Ok(()), out);
        }
        let slot = &self.slots[key];
        if slot.local.over() && slot.remote.over() && slot.replied && !slot.filling {
            self.free_slot(key, out);
        } else if slot.replied && slot.remote == Leg::Done && self.path() == Path::Forward {
            self.leave_ghost(key, out);
        }
    }

    fn conclude_failed(&mut self, key: Key, error: RequestError, out: &mut Vec<Effect>) {
        self.reply(key, Err(error), out);
        let slot = &mut self.slots[key];
        if slot.is_read() {
            // The peer's answer would come too late.
            slot.remote = Leg::Waived;
        }
        if slot.remote == Leg::Busy {
            return;
        }
        if slot.local != Leg::Busy && !slot.filling && !slot.haunted {
            self.free_slot(key, out);
        } else if self.disk == DiskState::Diskless {
            self.leave_ghost(key, out);
        }
    }

    /// Settled, and the local disk, given up, has not answered yet. Others need not wait for that, only the buffer must.
    pub(super) fn leave_ghost(&mut self, key: Key, out: &mut Vec<Effect>) {
        if let Some(ticket) = self.slots[key].ticket.take() {
            self.release_range(ticket, out);
            self.drained_step(out);
        }
    }

    /// DESIGN A.3: when a mutation may be acknowledged.
    fn may_acknowledge(&self, slot: &Slot) -> bool {
        if self.rules.broken(Mutation::R4) && self.door.is_opening() && slot.local == Leg::Done {
            return true;
        }
        match self.path() {
            Path::Held => false,
            Path::Solo => slot.local == Leg::Done && slot.remote.over(),
            // Whatever the local disk still does, it was given up: it counts for nothing.
            Path::Forward => slot.remote == Leg::Done && slot.is_mutation(),
            Path::Mirrored => {
                let remote = match self.settings.mode {
                    _ if slot.fua && self.settings.mode != Mode::Async => slot.remote.over(),
                    Mode::Sync => slot.remote.over(),
                    Mode::Memory => slot.received || slot.remote.over(),
                    // Without the peer's word, its promise not to have taken over meanwhile is all there is.
                    Mode::Async => slot.sequence.is_some() && self.may_read() || slot.remote.over(),
                };
                slot.local == Leg::Done && remote
            }
        }
    }

    /// Tells whoever asked, once.
    pub(super) fn reply(&mut self, key: Key, outcome: Outcome, out: &mut Vec<Effect>) {
        let slot = &mut self.slots[key];
        if slot.replied {
            return;
        }
        slot.replied = true;
        let latency = self.now.since(slot.admitted);
        let (mutation, kind) = (slot.is_mutation(), slot.kind());
        slot.apart |= slot.is_read() && (slot.haunted || slot.local == Leg::Busy);
        let apart = slot.apart;
        match slot.origin {
            Origin::Client(id) => {
                let request = RequestIdAndOutcome { id, outcome };
                out.push(if apart { Effect::ReplyApart { request, bytes: None } } else { Effect::Reply { request } });
                if mutation && outcome.is_ok() {
                    self.governor.client_wrote(latency);
                }
                self.latency.record(kind, Stage::Total, latency);
            }
            Origin::Peer(sequence) => self.applying.answer(sequence, outcome.is_ok()),
            Origin::PeerRead(_) => {}
        }
    }

    pub(super) fn free_slot(&mut self, key: Key, out: &mut Vec<Effect>) {
        let slot = self.slots.remove(key).expect("a slot is freed once");
        if let Some(buffer) = slot.buffer()
            && (slot.is_mutation() && !slot.released || slot.apart)
        {
            out.push(Effect::Release { buffer });
        }
        if self.rules.broken(Mutation::R2a) && slot.is_mutation() {
            self.intents.touch(self.now, slot.range.aligned_out(), 0);
            self.intents.sweep(self.now, std::time::Duration::ZERO, u64::MAX - 1);
            self.write_intents(out);
        }
        if let Some(ticket) = slot.ticket {
            self.release_range(ticket, out);
        }
        if self.slots.is_empty() {
            self.held_since = None;
        }
        self.drained_step(out);
    }
}
