//! A piece that reads: from the local disk, else from the peer's.
//!
//! ```text
//! lock ─► local read ─┬─ done ─► reply
//!                     ├─ failed ─► lock alone ─► the peer's bytes ─► written back here (mended) ─► reply
//!                     └─ the disk was given up ─► the peer's bytes, in another buffer ─► reply apart
//! no local disk ─► the peer's bytes ─► reply
//! ```
//! An operation of a disk that was given up may end at any time, or never, and until it has it may write to the client's
//! buffer. So the buffer stays here, and what the client gets comes from another one.

use super::core::{Mirror, Op, Owner};
use super::interface::{Completion, DiskIo, Effect, Note, RequestIdAndOutcome};
use super::request::{Leg, Origin, Work};
use super::slab::Key;
use crate::base::error::{DiskError, RequestError};
use crate::base::ids::{BufferId, OpId};
use crate::base::latency::{Kind, Stage};
use crate::base::state::DiskState;
use crate::wire::message::Message;

impl Mirror {
    pub(super) fn drive_read(&mut self, key: Key, out: &mut Vec<Effect>) {
        let slot = &self.slots[key];
        if slot.local == Leg::Busy || slot.remote != Leg::Idle {
            return;
        }
        if matches!(slot.origin, Origin::Client(_)) && !self.may_read() {
            self.hold_read(out);
            return;
        }
        if self.disk != DiskState::UpToDate {
            self.read_from_peer(key, out);
            return;
        }
        if slot.local != Leg::Idle {
            // The disk could not read it.
            if self.session.as_ref().is_some_and(|session| session.peer_can_read()) {
                self.read_from_peer(key, out);
            } else {
                self.slots[key].failed = Some(RequestError::Io);
                self.conclude(key, out);
            }
            return;
        }
        let range = slot.range.aligned_out();
        let io = match slot.work {
            Work::Read(Some(buffer)) => DiskIo::Read { range, buffer },
            _ => DiskIo::ReadChunk { range },
        };
        self.slots[key].local = Leg::Busy;
        self.disk_op(Op::Read(key), io, out);
    }

    /// Asks the peer for bytes the local disk does not have.
    fn read_from_peer(&mut self, key: Key, out: &mut Vec<Effect>) {
        let can = self.session.as_ref().is_some_and(|session| session.peer_can_read());
        if !can || !matches!(self.slots[key].origin, Origin::Client(_)) {
            self.hold(out);
            return;
        }
        let slot = &mut self.slots[key];
        slot.remote = Leg::Busy;
        slot.waits_since = self.now;
        let request = Message::ReadRequest { op: OpId(key.number()), range: slot.range.aligned_out() };
        self.send(request, out);
    }

    /// The disk is given up: reads it owes are no longer waited for.
    pub(super) fn abandon_reads(&mut self) {
        for key in self.slots.keys() {
            if let Some(slot) = self.slots.get_mut(key)
                && matches!(slot.work, Work::Read(_))
                && slot.local == Leg::Busy
            {
                slot.local = Leg::Waived;
                slot.haunted = true;
                if slot.remote == Leg::Done {
                    // It was being mended here: the bytes must come once more, to another buffer.
                    slot.remote = Leg::Idle;
                }
            }
        }
    }

    pub(super) fn read_done(&mut self, key: Key, result: Result<Completion, DiskError>, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let was_given_up = std::mem::take(&mut slot.haunted);
        slot.local = Leg::Done;
        if let Origin::PeerRead(op) = slot.origin {
            let range = slot.range;
            if slot.failed.is_none() {
                self.answer_peer_read(op, range, result, out);
            } else if let Ok(Completion::Chunk { buffer: Some(buffer) }) = result {
                out.push(Effect::Release { buffer });
            }
            self.slots[key].replied = true;
            self.free_slot(key, out);
            return;
        }
        if slot.replied {
            self.free_slot(key, out);
            return;
        }
        match result {
            _ if slot.failed.is_some() => self.conclude(key, out),
            Ok(_) if !self.may_read() => {
                // Read too late to be shown; again when it may be.
                self.slots[key].local = Leg::Idle;
                self.hold_read(out);
            }
            Ok(_) => {
                self.reply(key, Ok(()), out);
                self.free_slot(key, out);
            }
            // The peer was asked when the disk was given up, or will be as soon as it can serve.
            Err(_) if was_given_up => self.drive(key, out),
            Err(error) => self.read_failed(key, error, out),
        }
    }

    /// The local disk can't read it: the peer's copy serves, and mends the local one. A disk that fails too often goes.
    fn read_failed(&mut self, key: Key, error: DiskError, out: &mut Vec<Effect>) {
        self.read_errors += 1;
        if self.read_errors >= super::failure::READ_ERRORS_MAX {
            self.disk_failed("reads", error, out);
        }
        if let Some(shared) = self.slots[key].ticket.take() {
            // Mending writes: nobody else may read there meanwhile.
            let whole = self.slots[key].range.aligned_out();
            self.release_range(shared, out);
            let (ticket, held) = self.lock.acquire(whole, true, Owner::Slot(key));
            self.slots[key].ticket = Some(ticket);
            self.slots[key].locked = held;
        }
        self.drive(key, out);
    }

    /// The peer's answer to a read: bytes (`Some(Some)`), zeroes (`Some(None)`) or failure (`None`).
    pub(super) fn peer_read_answered(&mut self, op: OpId, data: Option<Option<BufferId>>, out: &mut Vec<Effect>) {
        let key = Key::of(op.0);
        let into = self.slots.get(key).filter(|slot| slot.remote == Leg::Busy).and_then(|slot| match slot.work {
            Work::Read(Some(buffer)) => Some((buffer, slot.local)),
            _ => None,
        });
        let (Some((to, local)), Some(from)) = (into, data) else {
            if into.is_some() {
                self.slots[key].remote = Leg::Done;
                self.slots[key].failed = Some(RequestError::Io);
                self.conclude(key, out);
            }
            if let Some(Some(buffer)) = data {
                out.push(Effect::Release { buffer });
            }
            return;
        };
        self.slots[key].remote = Leg::Done;
        self.record(Kind::Read, Stage::PeerRead, self.slots[key].waits_since);
        if self.slots[key].haunted {
            self.reply_apart(key, from, out);
            return;
        }
        out.push(Effect::Copy { from, to });
        if let Some(buffer) = from {
            out.push(Effect::Release { buffer });
        }
        if local == Leg::Done && self.disk == DiskState::UpToDate {
            let range = self.slots[key].range.aligned_out();
            self.note(Note::ReadRepaired { range }, out);
            self.slots[key].local = Leg::Busy;
            self.disk_op(Op::Repair(key), DiskIo::Write { range, buffer: to, fua: false }, out);
        } else {
            self.reply(key, Ok(()), out);
            self.free_slot(key, out);
        }
    }

    /// Answers a read whose buffer an operation of a given-up disk may still touch. Its range is free from here on: that
    /// disk is nobody's any more.
    fn reply_apart(&mut self, key: Key, bytes: Option<BufferId>, out: &mut Vec<Effect>) {
        let slot = &mut self.slots[key];
        let Origin::Client(id) = slot.origin else { unreachable!("only clients' reads go to the peer") };
        slot.replied = true;
        slot.apart = true;
        out.push(Effect::ReplyApart { request: RequestIdAndOutcome { id, outcome: Ok(()) }, bytes });
        self.leave_ghost(key, out);
    }

    pub(super) fn repaired(&mut self, key: Key, result: Result<(), DiskError>, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.local = Leg::Done;
        slot.haunted = false;
        if let Err(error) = result {
            self.disk_failed("mending a block from the peer's copy", error, out);
        }
        // Whatever became of the mending, the buffer holds the peer's bytes.
        let failed = self.slots[key].failed;
        self.reply(key, failed.map_or(Ok(()), Err), out);
        self.free_slot(key, out);
    }
}
