//! The volume's block device of this kernel (ublk): its requests are handed to the core like those of a client.
//!
//! ```text
//!  queue ──▶ slot of the tag: pieces ──▶ core ──▶ reply ──▶ slot: all pieces settled ──▶ answer
//!              │ waits for a buffer, or for the core
//! ```
//!
//! The bytes of a write are copied once, into the buffer that both disks are written from; those of a read once, out
//! of it. A read or write never crosses a piece, so it is one; zeroing may be several.

use super::clients::Host;
use crate::base::error::RequestError;
use crate::base::ids::{BufferId, RequestId};
use crate::base::limits::UBLK_DEPTH;
use crate::base::range::{BLOCK, ByteRange};
use crate::base::request::{Outcome, Request};
use crate::io::poller::{Interest, Poller};
use crate::io::pool::{Class, Pool};
use crate::io::ublk::{self, Queue};
use crate::logic::export::split::{Piece, Pieces};
use crate::logic::export::validate::Work;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The bit by which the core's requests of a device are told from those of clients.
const DEVICE: u64 = 1 << 63;
/// Bits of a request id below the tag: the piece.
const PIECE_BITS: u32 = 16;
static ZEROES: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// The device of one volume, and what it has under way.
#[derive(Debug, Default)]
pub(super) struct Device {
    queue: Option<Queue>,
    /// How often a device was opened: the number of this opening.
    opening: u64,
    /// The life of the volume's cache that its users know.
    cache_epoch: u64,
    slots: Vec<Slot>,
    /// Pieces the core has.
    with_core: usize,
    /// Tags with pieces to hand over, in the order they came.
    waiting: VecDeque<u16>,
    /// State of the pool when a buffer was last refused.
    refused_at: Option<u64>,
    /// Nothing more is handed over nor answered with an error: the next daemon gets it again.
    parked: bool,
    /// Reused from turn to turn.
    came: Vec<ublk::Request>,
}

/// A request under way.
#[derive(Debug, Default)]
struct Slot {
    pieces: Option<Pieces>,
    /// Pieces handed to the core, ever and not settled.
    handed: u16,
    under_way: u16,
    length: u32,
    /// Of a read: where its bytes are.
    buffer: Option<(ByteRange, BufferId)>,
    failed: Option<i32>,
}

impl Device {
    /// Whether a reply of the core is for the device.
    pub fn owns(id: RequestId) -> bool {
        id.0 & DEVICE != 0
    }

    /// Serves a device from this thread on. `server_side` is its character device. Refused while there is one. The
    /// opening's number.
    pub fn open(&mut self, server_side: OwnedFd, cache_epoch: u64, token: u64, poller: &Poller) -> io::Result<u64> {
        if self.queue.is_some() || self.with_core > 0 {
            return Err(io::Error::other("the device before is not closed yet"));
        }
        let queue = Queue::new(server_side)?;
        poller.add(queue.as_fd(), token, Interest::READ)?;
        self.queue = Some(queue);
        self.opening += 1;
        self.cache_epoch = cache_epoch;
        self.slots.clear();
        self.slots.resize_with(usize::from(UBLK_DEPTH), Slot::default);
        self.waiting.clear();
        self.parked = false;
        Ok(self.opening)
    }

    /// Leaves everything that is not answered to the next daemon.
    pub fn park(&mut self) {
        self.parked = true;
    }

    /// Takes what has come and hands it to the core, as far as both go. An opening's number: no request comes any more,
    /// and that device is closed.
    pub fn admit<H: Host>(&mut self, host: &mut H, pool: &mut Pool, poller: &Poller) -> Option<u64> {
        let queue = self.queue.as_mut()?;
        queue.reap(&mut self.came);
        for request in self.came.drain(..) {
            self.slots[usize::from(request.tag)] = Slot::of(&request);
            self.waiting.push_back(request.tag);
        }
        if !self.parked {
            let serves = host.serving().is_some_and(|serving| serving.cache_epoch == self.cache_epoch);
            if serves {
                self.hand_over(host, pool);
            } else {
                self.refuse();
            }
        }
        self.close_if_ended(poller)
    }

    fn hand_over<H: Host>(&mut self, host: &mut H, pool: &mut Pool) {
        self.refused_at = None;
        let Some(queue) = &mut self.queue else { return };
        while let Some(&tag) = self.waiting.front() {
            let slot = &mut self.slots[usize::from(tag)];
            while let Some(piece) = slot.pieces.as_ref().and_then(Pieces::peek) {
                if !host.can_admit() {
                    return;
                }
                let buffer = match piece.buffer_bytes() {
                    0 => None,
                    bytes => match pool.allocate(bytes, Class::Client) {
                        None => {
                            self.refused_at = Some(pool.frees());
                            return;
                        }
                        buffer => buffer,
                    },
                };
                if let Err(error) = fill(queue, tag, piece, buffer, pool) {
                    // The kernel has given the request up, so nobody waits for it.
                    tracing::debug!(tag, "a request of the device has gone: {error}");
                    buffer.into_iter().for_each(|buffer| pool.release(buffer));
                    slot.fail(libc::EIO);
                    break;
                }
                if let Some(pieces) = &mut slot.pieces {
                    pieces.next();
                }
                let id = RequestId(DEVICE | u64::from(tag) << PIECE_BITS | u64::from(slot.handed));
                slot.handed += 1;
                slot.under_way += 1;
                if let (Piece::Read(range), Some(buffer)) = (piece, buffer) {
                    slot.buffer = Some((range, buffer));
                }
                self.with_core += 1;
                host.submit(Request { id, action: piece.action(buffer) });
            }
            self.waiting.pop_front();
            if self.slots[usize::from(tag)].under_way == 0 {
                // Nothing to do, as a discard of less than a block.
                self.answer(tag, pool);
                return self.hand_over(host, pool);
            }
        }
    }

    /// This node no longer serves what the device's users had: they hear it at once.
    fn refuse(&mut self) {
        let Some(queue) = &mut self.queue else { return };
        while let Some(tag) = self.waiting.pop_front() {
            let slot = &mut self.slots[usize::from(tag)];
            slot.fail(libc::EIO);
            if slot.under_way == 0 {
                queue.answer(tag, Err(libc::EIO));
            }
        }
    }

    /// A piece is settled. A read's bytes are in its own buffer.
    pub fn reply(&mut self, id: RequestId, outcome: Outcome, pool: &mut Pool) {
        let tag = (id.0 >> PIECE_BITS) as u16;
        self.with_core -= 1;
        let slot = &mut self.slots[usize::from(tag)];
        slot.under_way -= 1;
        if let Err(error) = outcome {
            slot.fail(errno_of(error));
        }
        if slot.under_way == 0 && slot.pieces.as_ref().is_none_or(Pieces::is_done) {
            self.answer(tag, pool);
        }
    }

    /// A read is settled whose own buffer stays with the core: its bytes are in another one, or are zeroes.
    pub fn reply_apart(&mut self, id: RequestId, outcome: Outcome, bytes: Option<BufferId>, pool: &mut Pool) {
        let tag = (id.0 >> PIECE_BITS) as u16;
        let slot = &mut self.slots[usize::from(tag)];
        let (range, _) = slot.buffer.take().expect("only reads are answered apart");
        match bytes {
            Some(buffer) => slot.buffer = Some((range, buffer)),
            None if outcome.is_ok() && self.give_zeroes(tag, range).is_err() => {
                self.slots[usize::from(tag)].fail(libc::EIO);
            }
            None => {}
        }
        self.reply(id, outcome, pool);
    }

    fn give_zeroes(&self, tag: u16, range: ByteRange) -> io::Result<()> {
        match &self.queue {
            Some(queue) => (0..range.length).step_by(ZEROES.len()).try_for_each(|at| {
                let part = (range.length - at).min(ZEROES.len() as u64) as usize;
                queue.give_bytes(tag, at, &ZEROES[..part])
            }),
            None => Ok(()),
        }
    }

    fn answer(&mut self, tag: u16, pool: &mut Pool) {
        let slot = &mut self.slots[usize::from(tag)];
        let buffer = slot.buffer.take();
        if let Some(queue) = &mut self.queue {
            if let (Some((range, buffer)), None) = (buffer, slot.failed) {
                let start = (range.offset % BLOCK) as usize;
                let bytes = &pool.slice(buffer)[start..start + range.length as usize];
                if queue.give_bytes(tag, 0, bytes).is_err() {
                    slot.failed = Some(libc::EIO);
                }
            }
            // Parked, a failure is not the application's: the next daemon gets the request again.
            match slot.failed {
                Some(_) if self.parked => {}
                failed => queue.answer(tag, failed.map_or(Ok(slot.length), Err)),
            }
        }
        slot.pieces = None;
        buffer.into_iter().for_each(|(_, buffer)| pool.release(buffer));
    }

    /// Gives the answers of this turn to the kernel.
    pub fn flush(&mut self) -> io::Result<()> {
        self.queue.as_mut().map_or(Ok(()), Queue::submit)
    }

    fn close_if_ended(&mut self, poller: &Poller) -> Option<u64> {
        let ended = self.queue.as_ref().is_some_and(Queue::has_ended);
        if ended {
            self.close(poller);
        }
        ended.then_some(self.opening)
    }

    /// Closes the device. What the core has of it settles without it.
    pub fn close(&mut self, poller: &Poller) {
        let Some(queue) = self.queue.take() else { return };
        if let Err(error) = poller.remove(queue.as_fd()) {
            tracing::debug!("a device's queue was not watched: {error}");
        }
        self.waiting.clear();
    }

    /// Whether something can be done although nothing has come in.
    pub fn has_more(&self, can_admit: bool, pool: &Pool) -> bool {
        let Some(queue) = &self.queue else { return false };
        let can_hand_over = !self.waiting.is_empty()
            && !self.parked
            && can_admit
            && self.refused_at.is_none_or(|frees| pool.frees() > frees);
        can_hand_over || queue.has_requests() || queue.wants_submit()
    }
}

impl Slot {
    fn of(request: &ublk::Request) -> Slot {
        let range = request.range;
        let (work, failed) = match request.action {
            ublk::Action::Read => (Some(Work::Read { range, whole: false }), None),
            ublk::Action::Write { fua } => (Some(Work::Write { range, fua }), None),
            ublk::Action::WriteZeroes { unmap, fua } => (Some(Work::WriteZeroes { range, unmap, fua }), None),
            ublk::Action::Discard => (Some(Work::Trim { range, fua: false }), None),
            ublk::Action::Flush => (Some(Work::Flush), None),
            ublk::Action::Unknown(operation) => {
                tracing::error!(operation, "the kernel asks for an operation that the device does not offer");
                (None, Some(libc::EOPNOTSUPP))
            }
        };
        Slot { pieces: work.map(Pieces::of), length: range.length as u32, failed, ..Slot::default() }
    }

    /// The first failure is the request's; what was not handed over yet never is.
    fn fail(&mut self, errno: i32) {
        self.failed.get_or_insert(errno);
        self.pieces = None;
    }
}

/// Puts the bytes of a write into its buffer.
fn fill(queue: &Queue, tag: u16, piece: Piece, buffer: Option<BufferId>, pool: &mut Pool) -> io::Result<()> {
    let Some(buffer) = buffer else { return Ok(()) };
    let part = |range: ByteRange| {
        let start = (range.offset % BLOCK) as usize;
        start..start + range.length as usize
    };
    match piece {
        Piece::Write { range, .. } => queue.take_bytes(tag, &mut pool.slice_mut(buffer)[part(range)]),
        Piece::WriteOfZeroes { range, .. } => {
            pool.slice_mut(buffer)[part(range)].fill(0);
            Ok(())
        }
        Piece::Read(_) | Piece::Zero { .. } | Piece::Flush => Ok(()),
    }
}

fn errno_of(error: RequestError) -> i32 {
    match error {
        RequestError::Io | RequestError::Shutdown => libc::EIO,
        RequestError::NoSpace => libc::ENOSPC,
    }
}
