//! What the receiving side does: it applies frames as they come, flushes when told, and takes over the source's
//! generation at the end of a resync.
//!
//! Frames in flight are disjoint (rule R13), so each goes to the disk at once and in any order; an overlap is the peer's
//! fault and ends the session. Before it promises anything (`Flushed`, `Adopted`, authority) it waits until everything
//! that came before has been written, and flushes (rule R3).

use super::archive::Archived;
use super::core::{After, Mirror, Op};
use super::door::{Door, Purpose};
use super::handshake::Sync;
use super::interface::{Archive, Completion, DiskIo, Effect, Note};
use super::marks::serialise_in_parts;
use super::mutation::Mutation;
use super::request::{Origin, Slot, Work};
use super::session::Phase;
use super::slab::{Key, Slab};
use crate::base::error::DiskError;
use crate::base::generation::{Generation, Lineage};
use crate::base::ids::{BufferId, Epoch, OpId, Sequence};
use crate::base::range::ByteRange;
use crate::base::state::{Archiving, DiskState, ResyncKind, Role};
use crate::wire::frame::Frame;
use crate::wire::message::{Continuity, Message};
use crate::wire::metadata::record::Join;
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Frames of the peer that are being written here, and what is owed for them.
#[derive(Debug, Default)]
pub(super) struct Applying {
    frames: Slab<Applied>,
    /// Ranges under way, by first byte.
    ranges: BTreeMap<u64, u64>,
    /// Arrival numbers of the frames under way.
    arrivals: BTreeSet<u64>,
    arrived: u64,
    /// Highest sequence that came since the last receipt.
    received: Option<Sequence>,
    /// Written since the last acknowledgement.
    written: Vec<Sequence>,
    /// Failed since the last acknowledgement.
    failed: Vec<(Sequence, i32)>,
    /// Promises that wait for a flush, oldest first.
    barriers: VecDeque<Barrier>,
    barrier_numbers: u64,
}

#[derive(Debug)]
struct Applied {
    arrival: u64,
    sequence: Sequence,
    range: ByteRange,
    buffer: Option<BufferId>,
    /// The checksums to compare with, for a hashed range.
    digests: Option<Vec<u128>>,
    /// What it does to the disk once the archive has what it overwrites.
    waiting: Option<DiskIo>,
    /// The disk it is for was given up: nobody waits for it any more.
    ghost: bool,
}

#[derive(Debug)]
struct Barrier {
    number: u64,
    /// Everything that arrived up to here must be written first.
    after: u64,
    promise: Promise,
    flushing: bool,
}

/// What is promised when a barrier's flush is done.
#[derive(Clone, Debug)]
enum Promise {
    /// The disk was given up meanwhile.
    Nothing,
    /// That the peer's flush cycle is done here.
    Flushed(u64),
    /// That this disk is the source's equal.
    Adopt { lineage: Lineage, epoch: Epoch, cache_epoch: u64 },
}

/// The receiving side of a resync.
#[derive(Debug)]
pub(super) struct Target {
    stage: Stage,
    pub(super) kind: Option<ResyncKind>,
    pub(super) reason: String,
    pub(super) total: u64,
    pub(super) progress: Progress,
    /// What the source said when it began.
    begun: Begun,
}

/// How a resync begins.
#[derive(Clone, Copy, Debug, Default)]
struct Begun {
    /// How it finds out what to copy, in the source's word.
    kind: Option<ResyncKind>,
    /// The generation for the time of the copy.
    tag: Option<Generation>,
    /// Nothing will be copied.
    clean: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Our marks are sent; the source will begin.
    Told,
    /// The archive of what only this copy has is being opened.
    Opening,
    /// Inconsistent is being made durable.
    Persisting,
    /// Frames come.
    Copying,
    /// Flushing, then taking over the generation.
    Adopting,
    /// The source knows; it will join.
    Adopted,
    /// The join is being made durable.
    Joining,
}

/// How far the source says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) left: u64,
    pub(super) total: u64,
    pub(super) copied: u64,
    pub(super) zeroed: u64,
    pub(super) equal: u64,
    pub(super) paused: bool,
}

impl Applying {
    /// Whether no frame of the peer is under way and nothing is promised.
    pub(super) fn is_idle(&self) -> bool {
        self.frames.is_empty() && self.barriers.is_empty()
    }

    /// The same, leaving aside what a disk that was given up has not answered.
    fn is_idle_but_for_ghosts(&self) -> bool {
        self.frames.iter().all(|(_, frame)| frame.ghost)
            && self.barriers.iter().all(|barrier| matches!(barrier.promise, Promise::Nothing))
    }

    /// A forwarded mutation ended.
    pub(super) fn answer(&mut self, sequence: Sequence, written: bool) {
        if written { self.written.push(sequence) } else { self.failed.push((sequence, 5)) }
    }

    fn overlaps(&self, range: ByteRange) -> bool {
        self.ranges.range(..range.end()).next_back().is_some_and(|(_, end)| *end > range.offset)
    }

    fn begin(&mut self, sequence: Sequence, range: ByteRange, buffer: Option<BufferId>) -> Key {
        self.arrived += 1;
        let arrival = self.arrived;
        self.arrivals.insert(arrival);
        self.ranges.insert(range.offset, range.end());
        self.received = self.received.max(Some(sequence));
        self.frames.insert(Applied { arrival, sequence, range, buffer, digests: None, waiting: None, ghost: false })
    }

    fn end(&mut self, key: Key) -> Applied {
        let applied = self.frames.remove(key).expect("a frame ends once");
        if !applied.ghost {
            self.arrivals.remove(&applied.arrival);
            self.ranges.remove(&applied.range.offset);
        }
        applied
    }

    /// The disk is given up: what it still does counts for nothing, and nobody waits for it.
    fn abandon(&mut self) {
        for key in self.frames.keys() {
            self.frames[key].ghost = true;
        }
        self.arrivals.clear();
        self.ranges.clear();
        for barrier in &mut self.barriers {
            barrier.promise = Promise::Nothing;
        }
    }
}

impl Target {
    fn takes_data(&self) -> bool {
        matches!(self.stage, Stage::Copying | Stage::Adopting | Stage::Adopted | Stage::Joining)
    }
}

impl Mirror {
    /// This node receives: say what is marked here, then wait for the source to begin.
    pub(super) fn begin_target(&mut self, sync: Sync, out: &mut Vec<Effect>) {
        let target = Target {
            stage: Stage::Told,
            kind: sync.kind,
            reason: String::new(),
            total: 0,
            progress: Progress::default(),
            begun: Begun::default(),
        };
        self.set_phase(Phase::Target(target));
        if self.role == Role::Primary {
            assert!(sync.demote, "a primary is a target only when the plan says that it steps down");
            // The stale primary never acknowledged alone, so what it holds was never promised.
            self.stop_serving("the peer took over", out);
            self.persist(After::Nothing, out);
        }
        self.door = Door::Closed;
        self.doubt_unstable();
        let mut suspect = self.marks.suspect.clone();
        if !sync.skip_intents {
            suspect |= &self.marks.intents;
        }
        self.send_marks(&self.marks.dirty.clone(), true, false, out);
        self.send_marks(&suspect, false, true, out);
    }

    fn send_marks(&mut self, map: &RoaringBitmap, known: bool, closes: bool, out: &mut Vec<Effect>) {
        let parts = serialise_in_parts(map);
        let count = parts.len();
        for (n, bitmap) in parts.into_iter().enumerate() {
            let last = closes && n + 1 == count;
            self.send(Message::Marks { bitmap, known, last }, out);
        }
    }

    /// A message that only a receiving side gets.
    pub(super) fn target_message(&mut self, message: Message, out: &mut Vec<Effect>) {
        match message {
            Message::ResyncBegin { kind, reason, bytes, tag, committed_bytes, clean } => {
                self.resync_begins(kind, reason, bytes, (tag, committed_bytes, clean), out);
            }
            Message::Progress { left, total, copied, zeroed, equal, paused } => {
                if let Some(target) = self.session.as_mut().and_then(|session| session.target()) {
                    target.progress = Progress { left, total, copied, zeroed, equal, paused };
                }
            }
            Message::Adopt { lineage, epoch, cache_epoch } => self.adopt_wanted(lineage, epoch, cache_epoch, out),
            Message::Join => self.join_wanted(out),
            Message::Hashes { sequence, range, digests } => self.hashed_frame(sequence, range, digests, out),
            Message::Flush { cycle } => {
                self.unstable.close(cycle);
                self.barrier(Promise::Flushed(cycle), out);
            }
            Message::PrimaryDurable { cycle } => self.unstable.stable(cycle),
            Message::ReadRequest { op, range } => self.peer_reads(op, range, out),
            other => self.misbehaved(&format!("an unexpected {}", name_of(&other)), out),
        }
    }

    fn resync_begins(
        &mut self,
        kind: ResyncKind,
        reason: String,
        bytes: u64,
        (tag, committed_bytes, clean): (Option<Generation>, u64, bool),
        out: &mut Vec<Effect>,
    ) {
        let Some(target) = self.session.as_mut().and_then(|session| session.target()) else {
            self.misbehaved("a resync that was not agreed on", out);
            return;
        };
        if target.stage != Stage::Told || committed_bytes > self.capacity_bytes || clean != target.kind.is_none() {
            self.misbehaved("a resync that does not fit what was agreed on", out);
            return;
        }
        target.stage = Stage::Opening;
        target.begun = Begun { kind: Some(kind), tag, clean };
        target.reason = reason;
        target.total = bytes;
        target.progress = Progress { left: bytes, total: bytes, ..Progress::default() };
        self.commit_size(committed_bytes);
        let Some(resumed) = self.must_archive() else {
            // One that was opened in a session before which came to nothing.
            self.archiver.close();
            return self.begin_copy(out);
        };
        self.open_archive(resumed, out);
    }

    /// The archive is open, or none is needed: this copy is given up.
    pub(super) fn begin_copy(&mut self, out: &mut Vec<Effect>) {
        let Some(target) = self.session.as_mut().and_then(|session| session.target()) else { return };
        if target.stage != Stage::Opening {
            return;
        }
        target.stage = Stage::Persisting;
        let Begun { kind, tag, clean } = target.begun;
        let (reason, bytes) = (target.reason.clone(), target.total);
        if clean && tag.is_none() {
            self.target_persisted(out);
            return;
        }
        if let Some(kind) = kind.filter(|_| !clean) {
            self.note(Note::ResyncBegan { kind, reason, bytes }, out);
            self.disk = DiskState::Inconsistent;
        }
        self.superblock.discard = false;
        self.superblock.requested = None;
        if self.archiver.is_open() {
            self.superblock.archiving = Archiving::Running;
        }
        if let Some(tag) = tag {
            self.superblock.lineage.bump(tag, Vec::new());
            self.cover = vec![tag];
        }
        self.persist(After::TargetBegun, out);
    }

    /// Inconsistent is durable: frames may come.
    pub(super) fn target_persisted(&mut self, out: &mut Vec<Effect>) {
        let Some(target) = self.session.as_mut().and_then(|session| session.target()) else { return };
        if target.stage == Stage::Persisting {
            target.stage = Stage::Copying;
            self.send(Message::ResyncReady, out);
        }
    }

    /// A frame to be written here.
    pub(super) fn data_frame(&mut self, frame: Frame, out: &mut Vec<Effect>) {
        let session = self.session.as_ref().expect("frames come over a session");
        let mirrored = match &session.phase {
            Phase::Joined => true,
            Phase::Target(target) => target.takes_data(),
            _ => false,
        };
        let forwarded = session.forwards() && self.disk == DiskState::UpToDate;
        let (sequence, range, buffer) = match frame {
            Frame::Data { sequence, range, buffer, .. } => (sequence, range, Some(buffer)),
            Frame::ResyncData { sequence, range, buffer } => (sequence, range, Some(buffer)),
            Frame::Zero { sequence, range, .. } | Frame::ResyncZero { sequence, range } => (sequence, range, None),
            Frame::ReadReply { .. } | Frame::Control(_) => unreachable!("handled before"),
        };
        let fits = range.aligned_out().end() <= self.size_bytes();
        let sound = fits && self.role == Role::Secondary && self.disk != DiskState::Diskless;
        if forwarded && sound {
            self.applying.received = self.applying.received.max(Some(sequence));
            self.serve_forwarded(frame, out);
            return;
        }
        if !mirrored || !sound || !range.is_aligned() || self.applying.overlaps(range) {
            if let Some(buffer) = buffer {
                out.push(Effect::Release { buffer });
            }
            if self.disk != DiskState::Diskless {
                self.misbehaved(&format!("a frame for {range} that must not come now"), out);
            }
            return;
        }
        self.unstable.add(range);
        let key = self.applying.begin(sequence, range, buffer);
        let io = match frame {
            Frame::Data { range, fua, buffer, .. } => DiskIo::Write { range, buffer, fua },
            Frame::ResyncData { range, buffer, .. } => DiskIo::Write { range, buffer, fua: false },
            Frame::Zero { range, unmap, fua, .. } => DiskIo::Zero { range, unmap, fua },
            Frame::ResyncZero { range, .. } => DiskIo::Zero { range, unmap: true, fua: false },
            Frame::ReadReply { .. } | Frame::Control(_) => unreachable!("handled before"),
        };
        if self.archiver.lacks(range) && !self.rules.broken(Mutation::E8) {
            let zeroes = matches!(io, DiskIo::Zero { .. });
            self.applying.frames[key].waiting = Some(io);
            self.archive(Archived::Frame(key), Archive::Save { range, zeroes }, out);
        } else {
            self.disk_op(Op::Apply(key), io, out);
        }
    }

    /// The archive has what a frame overwrites, or can't have it: then the frame is as if it had not come.
    pub(super) fn frame_archived(&mut self, key: Key, result: Result<(), String>, out: &mut Vec<Effect>) {
        let frame = &mut self.applying.frames[key];
        let (range, ghost) = (frame.range, frame.ghost);
        let io = frame.waiting.take().expect("a frame waits once for the archive");
        match result {
            Ok(()) if !ghost => {
                if !matches!(io, DiskIo::Zero { .. }) {
                    self.archiver.has(range);
                }
                self.disk_op(Op::Apply(key), io, out);
                return;
            }
            Err(reason) if !ghost => {
                // No promise may follow: not everything that came before it is written.
                self.archive_failed(reason, out);
                self.forget_promises();
            }
            _ => {}
        }
        let frame = self.applying.end(key);
        if let Some(buffer) = frame.buffer {
            out.push(Effect::Release { buffer });
        }
        self.barrier_step(out);
    }

    /// A mutation of a primary without a disk: this node is the authority and treats it as its own.
    fn serve_forwarded(&mut self, frame: Frame, out: &mut Vec<Effect>) {
        match frame {
            Frame::Data { sequence, range, fua, buffer } => {
                self.admit_work(Origin::Peer(sequence), Work::Write(buffer), range, fua, out);
            }
            Frame::Zero { sequence, range, unmap, fua } => {
                self.admit_work(Origin::Peer(sequence), Work::Zero { unmap }, range, fua, out);
            }
            Frame::ResyncData { buffer, .. } => {
                out.push(Effect::Release { buffer });
                self.misbehaved("resync data from a node without a disk", out);
            }
            _ => self.misbehaved("resync data from a node without a disk", out),
        }
    }

    /// A frame is on the disk, or failed.
    pub(super) fn applied(&mut self, key: Key, result: Result<(), DiskError>, out: &mut Vec<Effect>) {
        let applied = self.applying.end(key);
        if let Some(buffer) = applied.buffer {
            out.push(Effect::Release { buffer });
        }
        match result {
            _ if applied.ghost => {}
            Ok(()) => self.applying.written.push(applied.sequence),
            Err(error) => {
                self.applying.failed.push((applied.sequence, errno_of(error)));
                self.settle_target(out);
                self.disk_failed("writing what the peer sent", error, out);
            }
        }
        self.barrier_step(out);
    }

    /// A hashed range: read ours and compare.
    fn hashed_frame(&mut self, sequence: Sequence, range: ByteRange, digests: Vec<u128>, out: &mut Vec<Effect>) {
        let phase = &self.session.as_ref().expect("frames come over a session").phase;
        let expected = match phase {
            Phase::Joined => true,
            Phase::Target(target) => target.takes_data(),
            _ => false,
        };
        let sound = range.is_aligned()
            && range.length > 0
            && range.offset.checked_add(range.length).is_some_and(|end| end <= self.size_bytes())
            && range.length <= crate::base::limits::PIECE_BYTES_MAX
            && digests.len() == range.blocks().len();
        if !expected || !sound || self.applying.overlaps(range) {
            self.misbehaved("checksums that must not come now", out);
            return;
        }
        if self.disk == DiskState::Diskless {
            return;
        }
        let key = self.applying.begin(sequence, range, None);
        self.applying.frames[key].digests = Some(digests);
        self.disk_op(Op::PeerDigest(key), DiskIo::Digest { range }, out);
    }

    pub(super) fn peer_digested(&mut self, key: Key, result: Result<Completion, DiskError>, out: &mut Vec<Effect>) {
        let applied = self.applying.end(key);
        let theirs = applied.digests.expect("a hashed range keeps its checksums");
        let sequence = applied.sequence;
        match result {
            _ if applied.ghost => {}
            Ok(Completion::Digests(ours)) => {
                let mut differing = RoaringBitmap::new();
                for (block, (a, b)) in applied.range.blocks().zip(ours.iter().zip(&theirs)) {
                    if a != b {
                        differing.insert(block);
                    }
                }
                let ranges = super::view::ranges_of(&differing, 0..u32::MAX, usize::MAX);
                self.send(Message::Differs { sequence, ranges, failed: false }, out);
            }
            _ => self.send(Message::Differs { sequence, ranges: vec![applied.range], failed: true }, out),
        }
        self.barrier_step(out);
    }

    /// Sends receipts and acknowledgements gathered in this batch.
    pub(super) fn settle_target(&mut self, out: &mut Vec<Effect>) {
        if let Some(upto) = self.applying.received.take() {
            self.acknowledge_receipt(upto, out);
        }
        if !self.applying.written.is_empty() {
            let sequences = std::mem::take(&mut self.applying.written);
            self.send(Message::Written { sequences }, out);
        }
        for (sequence, errno) in std::mem::take(&mut self.applying.failed) {
            self.send(Message::Failed { sequence, errno }, out);
        }
    }

    /// The session ended: nothing is owed to it any more. What is under way still ends.
    pub(super) fn forget_promises(&mut self) {
        self.applying.received = None;
        self.applying.written.clear();
        self.applying.failed.clear();
        self.applying.barriers.retain(|barrier| barrier.flushing);
    }

    /// The local disk is given up: frames and promises that wait for it are over, whenever it answers.
    pub(super) fn abandon_applying(&mut self) {
        self.forget_promises();
        self.applying.abandon();
    }

    /// Whether nothing that the peer sent in an earlier session is under way here, but for what a disk that was given up
    /// has not answered.
    pub(super) fn old_frames_ended(&self) -> bool {
        let settled = |slot: &Slot| matches!(slot.origin, Origin::Client(_)) || slot.is_ghost();
        self.applying.is_idle_but_for_ghosts() && self.slots.iter().all(|(_, slot)| settled(slot))
    }

    fn barrier(&mut self, promise: Promise, out: &mut Vec<Effect>) {
        self.applying.barrier_numbers += 1;
        let (number, after) = (self.applying.barrier_numbers, self.applying.arrived);
        self.applying.barriers.push_back(Barrier { number, after, promise, flushing: false });
        self.barrier_step(out);
    }

    /// Flushes for the oldest promise once everything that came before it is written.
    pub(super) fn barrier_step(&mut self, out: &mut Vec<Effect>) {
        let skips = self.rules.broken(Mutation::R3b);
        let Some(barrier) = self.applying.barriers.front_mut() else {
            self.door_step(out);
            self.begin_session_if_ready(out);
            self.stop_step(out);
            return;
        };
        if barrier.flushing || self.applying.arrivals.first().is_some_and(|first| *first <= barrier.after) {
            return;
        }
        barrier.flushing = true;
        let number = barrier.number;
        if skips && matches!(barrier.promise, Promise::Adopt { .. }) {
            self.barrier_flushed(number, Ok(()), out);
        } else {
            self.disk_op(Op::Barrier(number), DiskIo::Flush, out);
        }
    }

    pub(super) fn barrier_flushed(&mut self, number: u64, result: Result<(), DiskError>, out: &mut Vec<Effect>) {
        let barrier = self.applying.barriers.pop_front().expect("a barrier was flushing");
        assert!(barrier.number == number, "barriers are flushed in order");
        match result {
            Err(error) => {
                self.applying.barriers.clear();
                self.flush_failed("a flush", error, out);
            }
            Ok(()) => match barrier.promise {
                Promise::Nothing => {}
                Promise::Flushed(cycle) => self.send(Message::Flushed { cycle }, out),
                Promise::Adopt { lineage, epoch, cache_epoch } => self.adopt(lineage, epoch, cache_epoch, out),
            },
        }
        self.barrier_step(out);
    }

    fn adopt_wanted(&mut self, lineage: Lineage, epoch: Epoch, cache_epoch: u64, out: &mut Vec<Effect>) {
        let target = self.session.as_mut().and_then(|session| session.target());
        let Some(target) = target.filter(|target| target.stage == Stage::Copying) else {
            self.misbehaved("an adoption that was not agreed on", out);
            return;
        };
        target.stage = Stage::Adopting;
        self.barrier(Promise::Adopt { lineage, epoch, cache_epoch }, out);
    }

    /// Everything sent is durable here: this disk now is the source's, under the source's generation.
    fn adopt(&mut self, lineage: Lineage, epoch: Epoch, cache_epoch: u64, out: &mut Vec<Effect>) {
        let still =
            self.session.as_mut().and_then(|session| session.target()).is_some_and(|t| t.stage == Stage::Adopting);
        if !still {
            return;
        }
        self.disk = DiskState::UpToDate;
        self.disk_reason = None;
        self.cover = vec![lineage.current];
        self.superblock.lineage = Lineage { bases: Vec::new(), ..lineage };
        self.superblock.seen_epoch = self.superblock.seen_epoch.max(epoch);
        self.superblock.cache_epoch = self.superblock.cache_epoch.max(cache_epoch);
        self.cache_lost = false;
        self.superblock.snapshot = None;
        self.superblock.unfinished = None;
        self.superblock.peer_outdated = false;
        self.superblock.discard = false;
        self.superblock.requested = None;
        self.superblock.suspect = false;
        self.superblock.archiving = Archiving::Off;
        self.maps_unreadable = false;
        self.persist(After::Adopted, out);
    }

    pub(super) fn adopted_here(&mut self, out: &mut Vec<Effect>) {
        // Our old marks were united into the source's and copied; the new generation has none.
        self.marks.clear_all();
        self.finish_archive(out);
        if let Some(target) = self.session.as_mut().and_then(|session| session.target()) {
            target.stage = Stage::Adopted;
            self.send(Message::Adopted, out);
        }
    }

    fn join_wanted(&mut self, out: &mut Vec<Effect>) {
        let target = self.session.as_mut().and_then(|session| session.target());
        let Some(target) = target.filter(|target| target.stage == Stage::Adopted) else {
            self.misbehaved("a join that was not agreed on", out);
            return;
        };
        target.stage = Stage::Joining;
        self.record_join();
        self.persist(After::TargetJoined, out);
    }

    /// Remembers both nodes as they are now: who still is the same later knows everything since (rule R6).
    pub(super) fn record_join(&mut self) {
        let gated = self.settings.receipt_gating;
        let session = self.session.as_ref().expect("a join has a session");
        let theirs = session.theirs.as_ref().expect("a join has a peer");
        self.superblock.peer_device = Some(theirs.device);
        self.forgot = false;
        self.superblock.lineage.joined();
        self.superblock.join = Some(Join {
            incarnation: self.identity.incarnation,
            boot: self.identity.boot,
            peer_incarnation: theirs.incarnation,
            peer_boot: theirs.boot,
            session: session.id,
            gated,
        });
    }

    pub(super) fn target_joined(&mut self, out: &mut Vec<Effect>) {
        let now = self.now;
        let Some(session) = self.session.as_mut() else { return };
        let began = session.began;
        let Some(target) = session.target().filter(|target| target.stage == Stage::Joining) else { return };
        self.finished.as_target(target, now.since(began));
        let Progress { copied, zeroed, equal, .. } = target.progress;
        self.set_phase(Phase::Joined);
        self.link_reason = None;
        self.send(Message::Joined, out);
        let took = now.since(began);
        self.note(Note::Joined { bytes_copied: copied, bytes_equal: equal, bytes_zeroed: zeroed, took }, out);
        self.ping(out);
    }

    /// A primary without a disk wants this node to be the only authority.
    pub(super) fn authority_wanted(&mut self, reason: String, out: &mut Vec<Effect>) {
        let Some(session) = self.session.as_ref() else { return };
        let Some(theirs) = session.theirs.as_ref() else { return };
        let forwarding = matches!(session.phase, Phase::Forwarding { granted: false });
        let same = theirs.lineage.current == self.superblock.lineage.current;
        // Only who was there all the time has every acknowledged write.
        let continuous = self.continuity() == Continuity::SameProcess || self.door.is_open();
        self.link_reason = Some(format!("{} has no disk: {reason}", self.peer_name()));
        if !forwarding || self.role == Role::Primary || self.disk != DiskState::UpToDate || !same || !continuous {
            return;
        }
        self.set_phase(Phase::Forwarding { granted: true });
        if self.door.is_open() {
            let lineage = self.superblock.lineage.clone();
            self.send(Message::AuthorityTaken { lineage }, out);
        } else {
            self.doubt_unstable();
            self.go_through(Purpose::Authority, out);
        }
    }

    /// The peer is the authority now; what this primary holds goes there.
    pub(super) fn authority_granted(&mut self, lineage: Lineage, out: &mut Vec<Effect>) {
        let forwarding =
            self.session.as_ref().is_some_and(|session| matches!(session.phase, Phase::Forwarding { granted: false }));
        if forwarding && self.disk == DiskState::Diskless && self.role == Role::Primary {
            self.superblock.lineage = lineage;
            if self.is_in_group() {
                self.want_peer_only(out);
            } else {
                self.forward_from_now(out);
            }
        }
    }

    /// What this primary holds goes to the peer, which alone counts.
    pub(super) fn forward_from_now(&mut self, out: &mut Vec<Effect>) {
        self.set_phase(Phase::Forwarding { granted: true });
        self.held_since = None;
        self.drive_all(out);
    }

    /// A node without a disk reads here.
    fn peer_reads(&mut self, op: OpId, range: ByteRange, out: &mut Vec<Effect>) {
        let sound = range.is_aligned()
            && range.length > 0
            && range.length <= crate::base::limits::PIECE_BYTES_MAX
            && range.offset.checked_add(range.length).is_some_and(|end| end <= self.size_bytes());
        if !sound || self.disk != DiskState::UpToDate || self.role == Role::Primary {
            self.send(Message::ReadFailed { op, errno: 5 }, out);
            return;
        }
        self.admit_work(Origin::PeerRead(op), Work::Read(None), range, false, out);
    }

    pub(super) fn answer_peer_read(
        &mut self,
        op: OpId,
        range: ByteRange,
        result: Result<Completion, DiskError>,
        out: &mut Vec<Effect>,
    ) {
        match result {
            Ok(Completion::Chunk { buffer: Some(buffer) }) => {
                if let Some(session) = &self.session {
                    out.push(Effect::Send { session: session.id, frame: Frame::ReadReply { op, range, buffer } });
                }
                out.push(Effect::Release { buffer });
            }
            Ok(_) => self.send(Message::ReadZeroes { op }, out),
            Err(error) => self.send(Message::ReadFailed { op, errno: errno_of(error) }, out),
        }
    }

    /// What this node remembers of the last join.
    pub(super) fn continuity(&self) -> Continuity {
        match self.superblock.join {
            Some(join) if join.incarnation == self.identity.incarnation => Continuity::SameProcess,
            Some(join) if join.boot == self.identity.boot => Continuity::SameBoot,
            _ => Continuity::Rebooted,
        }
    }
}

/// A number for the wire; only shown.
pub(super) fn errno_of(error: DiskError) -> i32 {
    match error {
        DiskError::Failed(errno) => errno,
        DiskError::NoSpace => 28,
        DiskError::Short | DiskError::TimedOut | DiskError::NoDisk => 5,
    }
}

fn name_of(message: &Message) -> String {
    let text = format!("{message:?}");
    text.split([' ', '{', '(']).next().unwrap_or("message").to_string()
}
