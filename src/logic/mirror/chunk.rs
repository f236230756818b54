//! Chunks: the pieces in which a resync copies and a verify compares.
//!
//! ```text
//!           ┌─ Copy:    read ─► ResyncData / ResyncZero ─► Written ─► unmarked
//! lock ─►   ├─ Compare: checksums ─► Hashes ─► Differs ─► equal: unmarked; different: marked dirty, copied next
//!           └─ Zero:    still a hole? ─► ResyncZero ─► Written ─► unmarked
//! ```
//! A chunk holds its range exclusively from before the local read until the peer has it, so a client's write and a chunk
//! never cross (DESIGN D6), and a verify never sees a write in flight.

use super::core::{Mirror, Op, Owner};
use super::interface::{Completion, DiskIo, Effect};
use super::lock::Ticket;
use super::marks::next_absent;
use super::session::Sent;
use super::slab::Key;
use super::source::Stage;
use crate::base::error::DiskError;
use crate::base::ids::{BufferId, Sequence};
use crate::base::limits::{PIECE_BYTES_MAX, RESYNC_WINDOW_BYTES, RESYNC_ZERO_BYTES_MAX};
use crate::base::range::{BLOCK, BLOCK_SHIFT, ByteRange};
use crate::base::state::DiskState;
use crate::wire::frame::Frame;
use crate::wire::message::Message;
use roaring::RoaringBitmap;

/// What a hole under way counts in the resync's window, in bytes: eight of them fill it.
const HOLE_WEIGHT: u64 = RESYNC_WINDOW_BYTES / 8;

/// What a chunk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Copy blocks that are known to differ.
    Copy,
    /// Compare blocks that may differ.
    Compare,
    /// Send a hole as a hole.
    Zero,
    /// Compare for a verify.
    Verify,
    /// Copy what a verify found to differ.
    Repair,
}

/// What lies ahead in a long marked run.
enum Ahead {
    /// The disk was asked; the answer goes on.
    Asked,
    /// A hole; it is under way.
    Hole,
    /// Data up to this block.
    Data(u32),
}

/// A chunk under way.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) range: ByteRange,
    task: Task,
    /// Its place in the lock; none once the disk it reads was given up.
    ticket: Option<Ticket>,
    locked: bool,
    /// A disk operation is under way.
    busy: bool,
    /// The session it was for is gone.
    abandoned: bool,
}

impl Mirror {
    /// Begins as many chunks as window and rate allow.
    pub(super) fn pump_resync(&mut self, out: &mut Vec<Effect>) {
        if self.disk == DiskState::Diskless {
            return;
        }
        let copying = self.session.as_mut().is_some_and(|session| session.source().is_some());
        self.governor.advance(self.now, copying || self.verify.is_some());
        self.pump_verify(out);
        while self.chunk_bytes_in_flight() < self.governor.window_bytes() && self.governor.allows() {
            if !self.pump_one(out) {
                break;
            }
        }
    }

    /// Bytes of chunks under way; a hole weighs little, but a disk that can't punch holes has to write it.
    pub(super) fn chunk_bytes_in_flight(&self) -> u64 {
        self.chunks
            .iter()
            .map(|(_, chunk)| if chunk.task == Task::Zero { HOLE_WEIGHT } else { chunk.range.length })
            .sum()
    }

    /// Begins the next chunk. Returns whether there may be another.
    fn pump_one(&mut self, out: &mut Vec<Effect>) -> bool {
        let most = (self.governor.chunk_bytes() >> BLOCK_SHIFT) as u32;
        let idle = self.chunks.is_empty();
        let Some(source) = self.session.as_mut().and_then(|session| session.source()) else { return false };
        if source.stage != Stage::Copying || source.paused || source.asking_holes {
            return false;
        }
        let mut from = source.cursor;
        let (run, known) = loop {
            match self.marks.next_run(from, most) {
                Some((run, known)) => {
                    let busy = |block: u32| source.skipped.contains(block) || source.unreadable.contains(block);
                    if busy(run.start) {
                        from = next_absent(&source.skipped, run.start).max(next_absent(&source.unreadable, run.start));
                        continue;
                    }
                    let mut end = run.start + 1;
                    while end < run.end && !busy(end) {
                        end += 1;
                    }
                    break (run.start..end, known);
                }
                None if source.cursor > 0 => {
                    source.cursor = 0;
                    return idle || !self.marks.is_empty() && source.skipped.is_empty();
                }
                None => {
                    let complete = idle && self.marks.is_empty();
                    if complete {
                        self.everything_copied(out);
                    }
                    return false;
                }
            }
        };
        let mut run = run;
        if run.len() as u32 == most {
            match self.look_ahead(run.start, known, out) {
                Ahead::Asked => return false,
                Ahead::Hole => return true,
                Ahead::Data(end) => run.end = run.end.min(end),
            }
        }
        let task = if known { Task::Copy } else { Task::Compare };
        self.start_chunk(run, task, out);
        true
    }

    /// In a long marked run: asks what is a hole, sends holes as such, and says where data ends.
    fn look_ahead(&mut self, start: u32, known: bool, out: &mut Vec<Effect>) -> Ahead {
        let size = self.size_bytes();
        let at = ByteRange::of_blocks(start..start + 1);
        let source = self.session.as_mut().and_then(|session| session.source()).expect("this node gives");
        let Some((asked, holes)) = source.holes.as_ref().filter(|(asked, _)| asked.contains(&at)) else {
            let length = RESYNC_ZERO_BYTES_MAX.min(size - at.offset);
            let range = ByteRange::new(at.offset, length);
            source.asking_holes = true;
            self.disk_op(Op::Holes(range), DiskIo::Holes { range }, out);
            return Ahead::Asked;
        };
        // The first hole that ends after this block: it holds the block, or data ends where it begins.
        let index = holes.partition_point(|hole| hole.end() <= at.offset);
        let Some(hole) = holes.get(index) else { return Ahead::Data(u32::MAX) };
        if hole.offset > at.offset {
            return Ahead::Data((hole.offset >> BLOCK_SHIFT) as u32);
        }
        let end = hole.end().min(asked.end());
        let most = ((end - at.offset) >> BLOCK_SHIFT) as u32;
        let Some((run, same)) = self.marks.next_run(start, most) else { return Ahead::Data(u32::MAX) };
        let source = self.session.as_mut().and_then(|session| session.source()).expect("this node gives");
        let busy = |map: &RoaringBitmap| map.range_cardinality(run.clone()) > 0;
        if same != known || busy(&source.skipped) || busy(&source.unreadable) {
            return Ahead::Data(u32::MAX);
        }
        self.start_chunk(run, Task::Zero, out);
        Ahead::Hole
    }

    pub(super) fn holes_found(
        &mut self,
        range: ByteRange,
        result: Result<Completion, DiskError>,
        out: &mut Vec<Effect>,
    ) {
        if let Some(source) = self.session.as_mut().and_then(|session| session.source()) {
            source.asking_holes = false;
            let holes = match result {
                Ok(Completion::Holes(holes)) => holes,
                // Not knowing costs a read, nothing else.
                _ => Vec::new(),
            };
            source.holes = Some((range, holes));
            self.pump_resync(out);
        }
    }

    pub(super) fn start_chunk(&mut self, blocks: std::ops::Range<u32>, task: Task, out: &mut Vec<Effect>) {
        let range = ByteRange::of_blocks(blocks.clone());
        assert!(task == Task::Zero || range.length <= PIECE_BYTES_MAX, "a chunk with bytes fits a buffer");
        if let Some(source) = self.session.as_mut().and_then(|session| session.source()) {
            source.cursor = blocks.end;
            source.skipped.insert_range(blocks);
        }
        self.governor.spend(if task == Task::Zero { BLOCK } else { range.length });
        let placeholder = self.lock.acquire(range, true, Owner::Chunk(Key::of(0)));
        let (ticket, locked) = (Some(placeholder.0), placeholder.1);
        let chunk = Chunk { range, task, ticket, locked, busy: false, abandoned: false };
        let key = self.chunks.insert(chunk);
        self.lock.rename(placeholder.0, Owner::Chunk(key));
        if placeholder.1 {
            self.chunk_locked(key, out);
        }
    }

    /// The chunk's range is held.
    pub(super) fn chunk_locked(&mut self, key: Key, out: &mut Vec<Effect>) {
        let chunk = &mut self.chunks[key];
        chunk.locked = true;
        if chunk.abandoned || self.disk == DiskState::Diskless {
            self.free_chunk(key, out);
            return;
        }
        chunk.busy = true;
        let (range, task) = (chunk.range, chunk.task);
        let io = match task {
            Task::Copy | Task::Repair => DiskIo::ReadChunk { range },
            Task::Compare | Task::Verify => DiskIo::Digest { range },
            Task::Zero => DiskIo::Holes { range },
        };
        self.disk_op(Op::Chunk(key), io, out);
    }

    /// The local part of a chunk is done.
    pub(super) fn chunk_done(&mut self, key: Key, result: Result<Completion, DiskError>, out: &mut Vec<Effect>) {
        let chunk = &mut self.chunks[key];
        chunk.busy = false;
        let (range, task, abandoned) = (chunk.range, chunk.task, chunk.abandoned);
        if abandoned {
            if let Ok(Completion::Chunk { buffer: Some(buffer) }) = result {
                out.push(Effect::Release { buffer });
            }
            self.free_chunk(key, out);
            return;
        }
        match result {
            Ok(Completion::Chunk { buffer: Some(buffer) }) => self.send_chunk(key, range, buffer, out),
            Ok(Completion::Chunk { buffer: None }) => self.send_zero_chunk(key, range, out),
            Ok(Completion::Digests(digests)) => self.send_hashes(key, range, digests, out),
            Ok(Completion::Holes(holes)) => self.hole_checked(key, range, holes, out),
            Ok(Completion::Done) => unreachable!("a chunk's operation yields something"),
            Err(error) => self.chunk_unreadable(key, range, task, error, out),
        }
    }

    fn send_chunk(&mut self, key: Key, range: ByteRange, buffer: BufferId, out: &mut Vec<Effect>) {
        let number = self.next_sequence();
        self.unstable.add(range);
        let frame = Frame::ResyncData { sequence: Sequence(number), range, buffer };
        self.send_data(number, Sent::Chunk(key), range.length, frame, out);
        out.push(Effect::Release { buffer });
        self.count_copied(key, range.length, false);
    }

    fn send_zero_chunk(&mut self, key: Key, range: ByteRange, out: &mut Vec<Effect>) {
        self.count_copied(key, range.length, true);
        let zeroed = self.session.as_mut().and_then(|s| s.source()).is_some_and(|source| source.target_is_zeroed());
        if zeroed {
            // Zeroes there since its disk was made, and nothing wrote there since: equal without a byte on the wire.
            self.chunk_written(key, out);
            return;
        }
        let number = self.next_sequence();
        self.unstable.add(range);
        let frame = Frame::ResyncZero { sequence: Sequence(number), range };
        self.send_data(number, Sent::Chunk(key), 0, frame, out);
    }

    fn count_copied(&mut self, key: Key, bytes: u64, zero: bool) {
        if matches!(self.chunks[key].task, Task::Copy | Task::Zero)
            && let Some(source) = self.session.as_mut().and_then(|session| session.source())
        {
            if zero { source.zeroed += bytes } else { source.copied += bytes }
        }
    }

    fn send_hashes(&mut self, key: Key, range: ByteRange, digests: Vec<u128>, out: &mut Vec<Effect>) {
        let number = self.next_sequence();
        // Equal content may still be volatile at the peer.
        self.unstable.add(range);
        let message = Message::Hashes { sequence: Sequence(number), range, digests };
        self.send_data(number, Sent::Chunk(key), 0, Frame::Control(message), out);
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// The range is held: is all of it still a hole?
    fn hole_checked(&mut self, key: Key, range: ByteRange, holes: Vec<ByteRange>, out: &mut Vec<Effect>) {
        if holes.iter().any(|hole| hole.contains(&range)) {
            self.send_zero_chunk(key, range, out);
            return;
        }
        // Written to since it was asked: go over it again with what is known now.
        if let Some(source) = self.session.as_mut().and_then(|session| session.source()) {
            source.holes = Some((range, Vec::new()));
            source.cursor = source.cursor.min(range.blocks().start);
        }
        self.free_chunk(key, out);
    }

    /// The source itself can't read it. It stays marked, nothing is made up, and the resync does not end without it.
    fn chunk_unreadable(&mut self, key: Key, range: ByteRange, task: Task, error: DiskError, out: &mut Vec<Effect>) {
        self.link_reason = Some(format!("{range} can't be read at the resync's source: {error}"));
        if matches!(task, Task::Verify | Task::Repair) {
            self.verify_unreadable(range);
        } else if let Some(source) = self.session.as_mut().and_then(|session| session.source()) {
            source.unreadable.insert_range(range.blocks());
        }
        self.free_chunk(key, out);
    }

    /// The peer compared.
    pub(super) fn differs(&mut self, sequence: Sequence, ranges: Vec<ByteRange>, failed: bool, out: &mut Vec<Effect>) {
        let Some(Sent::Chunk(key)) = self.take_sent(sequence) else { return };
        let (range, task) = (self.chunks[key].range, self.chunks[key].task);
        if !ranges.iter().all(|part| part.length > 0 && range.contains(part) && part.is_aligned()) {
            self.misbehaved("differences outside what was compared", out);
            self.free_chunk(key, out);
            return;
        }
        if task == Task::Verify {
            self.verified_chunk(key, range, &ranges, failed, out);
            return;
        }
        let different: u64 = ranges.iter().map(|part| part.length).sum();
        self.marks.clear(range);
        for part in &ranges {
            self.marks.mark(*part);
        }
        if let Some(source) = self.session.as_mut().and_then(|session| session.source()) {
            source.equal += range.length - different;
            source.meter.add(range.length - different);
            if !ranges.is_empty() {
                source.cursor = source.cursor.min(range.blocks().start);
            }
        }
        self.free_chunk(key, out);
    }

    /// The peer has the chunk on its disk.
    pub(super) fn chunk_written(&mut self, key: Key, out: &mut Vec<Effect>) {
        let (range, task) = (self.chunks[key].range, self.chunks[key].task);
        self.marks.clear(range);
        if self.rules.broken(super::mutation::Mutation::R10) {
            self.unstable.forget(range);
        }
        if let Some(source) = self.session.as_mut().and_then(|session| session.source()) {
            source.meter.add(range.length);
        }
        if task == Task::Repair {
            self.repaired_chunk(range);
        }
        self.free_chunk(key, out);
    }

    pub(super) fn free_chunk(&mut self, key: Key, out: &mut Vec<Effect>) {
        let chunk = self.chunks.remove(key).expect("a chunk is freed once");
        if let Some(source) = self.session.as_mut().and_then(|session| session.source())
            && !chunk.abandoned
        {
            source.skipped.remove_range(chunk.range.blocks());
        }
        if let Some(ticket) = chunk.ticket {
            self.release_range(ticket, out);
        }
        self.verify_step(out);
        self.drained_step(out);
    }

    /// The local disk is given up: nobody waits for the chunks that it still reads.
    pub(super) fn abandon_reading_chunks(&mut self, out: &mut Vec<Effect>) {
        for key in self.chunks.keys() {
            let Some(chunk) = self.chunks.get_mut(key).filter(|chunk| chunk.busy) else { continue };
            chunk.abandoned = true;
            if let Some(ticket) = chunk.ticket.take() {
                self.release_range(ticket, out);
            }
        }
    }

    /// The session ended: chunks that wait for the disk or their range end when that does, the others now.
    pub(super) fn abandon_chunks(&mut self, out: &mut Vec<Effect>) {
        for key in self.chunks.keys() {
            // Freeing one may hand its range to the next, which then frees itself.
            let Some(chunk) = self.chunks.get_mut(key) else { continue };
            chunk.abandoned = true;
        }
        for key in self.chunks.keys() {
            if let Some(chunk) = self.chunks.get(key)
                && chunk.locked
                && !chunk.busy
            {
                self.free_chunk(key, out);
            }
        }
        self.verify_aborted(out);
    }
}
