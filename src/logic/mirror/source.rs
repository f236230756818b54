//! The giving side of a resync, from the decision to the join.
//!
//! ```text
//! Marks ─► Persisting ─► FlushingFirst ─► Begun ─► Copying ─► Flushing ─► Adopting ─► Persisting join ─► Joining ─► Joined
//! target's  all-marked   target   chunks     our disk    target      marks cleared      target
//! marks     first        durably  (chunk.rs) (R2, R3)    flushes,    (R2)               durably
//! united    (if so)      Incons.                         adopts
//! ```
//! From `Copying` on every client write is mirrored. Nothing durable is forgotten before the target said that it is
//! flushed and has adopted the generation; "nothing to copy" takes the same way with zero blocks.

use super::core::{After, Mirror, Op};
use super::handshake::{Rule, Side, Sync};
use super::interface::{DiskIo, Effect, Note};
use super::marks::deserialise_part;
use super::mutation::Mutation;
use super::rate::Meter;
use super::session::Phase;
use super::target::Target;
use crate::base::error::DiskError;
use crate::base::generation::Generation;
use crate::base::ids::SessionId;
use crate::base::range::{BLOCK_SHIFT, ByteRange};
use crate::base::state::{Archiving, DiskState, ResyncKind, Role};
use crate::base::time::Moment;
use crate::base::view::{ResyncSummary, VerifySummary, VerifyView};
use crate::wire::message::Message;
use crate::wire::metadata::record::Record;
use roaring::RoaringBitmap;
use std::time::Duration;

/// The giving side's state.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) stage: Stage,
    sync: Sync,
    pub(super) reason: String,
    tag: Option<Generation>,
    /// Next block to look at.
    pub(super) cursor: u32,
    /// Blocks under way, and blocks that could not be read.
    pub(super) skipped: RoaringBitmap,
    pub(super) unreadable: RoaringBitmap,
    /// What is known of holes ahead: a range, and the holes in it.
    pub(super) holes: Option<(ByteRange, Vec<ByteRange>)>,
    pub(super) asking_holes: bool,
    pub(super) total: u64,
    pub(super) copied: u64,
    pub(super) zeroed: u64,
    pub(super) equal: u64,
    pub(super) paused: bool,
    pub(super) meter: Meter,
    pub(super) told: Moment,
    /// The target may have taken over our generation.
    pub(super) adopt_sent: bool,
    /// The flush number under which everything sent before the adoption was closed.
    adopt_window: u64,
}

/// How far the giving side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The target's marks come.
    Marks,
    /// The snapshot that marks everything is being made durable.
    Persisting,
    /// Our disk flushes: once the target is Inconsistent, this copy alone counts (R3).
    FlushingFirst,
    /// The target makes itself Inconsistent.
    Begun,
    /// Chunks are copied; writes are mirrored.
    Copying,
    /// Everything up to this order must be written and flushed here.
    Flushing {
        /// The order.
        upto: u64,
        /// The flush is under way.
        busy: bool,
    },
    /// It is made durable that the target may hold our generation.
    Offering,
    /// The target flushes and adopts.
    Adopting,
    /// The join is being made durable here.
    PersistingJoin,
    /// The target makes the join durable.
    Joining,
}

impl Source {
    pub(super) fn mirrors(&self) -> bool {
        !matches!(self.stage, Stage::Marks | Stage::Persisting | Stage::FlushingFirst | Stage::Begun)
    }

    /// Whether a block may be marked anew: it will be copied before the resync ends.
    pub(super) fn takes_marks(&self) -> bool {
        self.stage == Stage::Copying && self.copies()
    }

    /// The target's disk read as zeroes when this began: zeroes need not be sent.
    pub(super) fn target_is_zeroed(&self) -> bool {
        self.sync.zeroed
    }

    /// What the resync is called.
    pub(super) fn kind(&self) -> ResyncKind {
        self.sync.kind.unwrap_or(ResyncKind::Differential)
    }

    /// Whether anything is to be copied at all.
    pub(super) fn copies(&self) -> bool {
        self.sync.kind.is_some()
    }
}

/// What ended, for status.
#[derive(Debug, Default)]
pub(super) struct Finished {
    pub(super) resync: Option<ResyncSummary>,
    pub(super) verify: Option<VerifySummary>,
    /// The peer's verify, as it tells.
    pub(super) peer_verify: Option<VerifyView>,
}

impl Finished {
    /// A resync ended in which this node received.
    pub(super) fn as_target(&mut self, target: &Target, took: Duration) {
        if let Some(kind) = target.kind {
            self.resync = Some(ResyncSummary {
                kind,
                reason: target.reason.clone(),
                source: false,
                bytes_copied: target.progress.copied,
                bytes_zeroed: target.progress.zeroed,
                bytes_equal: target.progress.equal,
                milliseconds: took.as_millis() as u64,
            });
        }
    }

    /// The peer tells how its verify goes.
    pub(super) fn peer_verified(&mut self, state: Message) {
        let Message::VerifyState { left, total, different, repaired, ranges, done } = state else { return };
        if done {
            self.peer_verify = None;
            self.verify = Some(VerifySummary {
                bytes_compared: total - left.min(total),
                bytes_different: different,
                bytes_repaired: repaired,
                ranges,
                complete: left == 0,
                milliseconds: 0,
            });
        } else {
            self.peer_verify = Some(VerifyView {
                percent: if total == 0 { 100.0 } else { 100.0 * (total - left.min(total)) as f64 / total as f64 },
                bytes_left: left,
                bytes_per_second: 0,
                seconds_left: None,
                bytes_different: different,
                repair: repaired > 0,
            });
        }
    }
}

impl Mirror {
    /// This node gives: the target's marks come next.
    pub(super) fn begin_source(&mut self, rule: Rule, sync: Sync) {
        assert!(sync.source == Side::Ours, "this node gives");
        let reason = self.resync_reason(rule, sync);
        self.set_phase(Phase::Source(Source {
            stage: Stage::Marks,
            sync,
            reason,
            tag: None,
            cursor: 0,
            skipped: RoaringBitmap::new(),
            unreadable: RoaringBitmap::new(),
            holes: None,
            asking_holes: false,
            total: 0,
            copied: 0,
            zeroed: 0,
            equal: 0,
            paused: self.pending.resync_paused,
            meter: Meter::new(self.now),
            told: self.now,
            adopt_sent: false,
            adopt_window: 0,
        }));
        if self.role == Role::Secondary {
            self.declare_cache_loss();
        }
    }

    fn resync_reason(&self, rule: Rule, sync: Sync) -> String {
        let peer = self.peer_name();
        let theirs = self.peer().expect("decided with a description");
        match (rule, sync.kind) {
            (_, None) => "nothing differs".into(),
            _ if theirs.requested.is_some() || self.superblock.requested.is_some() => {
                "the operator asked for it".into()
            }
            (Rule::Discard, _) => format!("the data of {peer} was given up by the operator"),
            (Rule::OneNew, _) => format!("the disk of {peer} is new"),
            (Rule::Newer, Some(ResyncKind::Full)) if sync.zeroed => format!("the disk of {peer} is new and empty"),
            (Rule::Newer, Some(ResyncKind::Differential)) => format!("{peer} was away"),
            (Rule::OneInconsistent, _) => format!("the last resync of {peer} was not finished"),
            (Rule::Survivor, Some(ResyncKind::Differential)) => format!("{peer} or both were down"),
            (Rule::Primary, Some(ResyncKind::Differential)) => "the link was interrupted".into(),
            _ if self.maps_unreadable || !theirs.maps_readable => "the record of what differs could not be read".into(),
            _ => format!("the marks do not reach back to the data of {peer}"),
        }
    }

    /// A part of the target's marks.
    pub(super) fn their_marks(&mut self, bitmap: &[u8], known: bool, last: bool, out: &mut Vec<Effect>) {
        let source = self.session.as_mut().and_then(|session| session.source());
        if source.is_none_or(|source| source.stage != Stage::Marks) {
            self.misbehaved("marks that were not asked for", out);
            return;
        }
        let Some(part) = deserialise_part(bitmap) else {
            self.misbehaved("marks that can't be read", out);
            return;
        };
        // Rule R7: always the union, whatever the generations say.
        if !self.rules.broken(Mutation::R7) {
            if known {
                self.marks.dirty |= part;
            } else {
                self.marks.suspect |= part;
            }
        }
        if last {
            self.unite(out);
        }
    }

    /// All marks are here: settle size and scope, make durable what must be, then begin.
    fn unite(&mut self, out: &mut Vec<Effect>) {
        let theirs = self.peer().expect("marks come from a peer").clone();
        let committed = self.superblock.committed_bytes.max(theirs.committed_bytes);
        let committed = if committed > 0 { committed } else { self.capacity_bytes.min(theirs.capacity_bytes) };
        self.commit_size(committed);
        self.doubt_unstable();
        let blocks = (committed >> BLOCK_SHIFT) as u32;
        self.marks.truncate(blocks);
        let sync = self.session.as_mut().and_then(|session| session.source()).expect("this node gives").sync;
        if sync.skip_intents {
            self.marks.intents.clear();
        }
        match sync.kind {
            None | Some(ResyncKind::Differential) => {}
            Some(ResyncKind::Compare) => {
                self.marks.suspect.insert_range(0..blocks);
            }
            Some(ResyncKind::Full) => {
                self.marks.dirty.insert_range(0..blocks);
            }
        }
        self.prepare_target(sync, out);
    }

    /// Makes durable here what must be before the target gives up or changes anything.
    fn prepare_target(&mut self, sync: Sync, out: &mut Vec<Effect>) {
        let whole = matches!(sync.kind, Some(ResyncKind::Compare | ResyncKind::Full));
        let total = self.marks.bytes();
        let virgin = self.superblock.lineage.current == Generation::ZEROED;
        let tag = (sync.tag || virgin).then(|| self.fresh_generation(self.superblock.seen_epoch));
        if virgin {
            self.leave_zeroed(tag.expect("a first generation has a tag"));
        } else if let Some(tag) = tag {
            // From the moment the target takes the tag, our marks are relative to exactly that.
            self.superblock.lineage.bases = vec![tag];
            self.cover = vec![tag];
        }
        let source = self.session.as_mut().and_then(|session| session.source()).expect("this node gives");
        source.total = total;
        source.tag = tag;
        source.stage = Stage::Persisting;
        if whole {
            self.superblock.unfinished = sync.kind;
            self.superblock.requested = None;
            self.maps_unreadable = false;
            self.take_snapshot(out);
        } else if virgin {
            self.persist(After::SourceBegun, out);
        } else {
            self.source_persisted(out);
        }
    }

    /// Data never lives under the generation of an empty disk: a disk put in later, empty, would count as equal.
    /// The target leaves it too, for `tag`, before anything is written to it.
    fn leave_zeroed(&mut self, tag: Generation) {
        let new = self.fresh_generation(self.superblock.seen_epoch);
        self.superblock.lineage.bump(new, vec![Generation::ZEROED, tag]);
        self.cover = self.superblock.lineage.bases.clone();
    }

    /// Makes the maps durable; the superblock that names them follows.
    pub(super) fn take_snapshot(&mut self, out: &mut Vec<Effect>) {
        if self.disk == DiskState::Diskless {
            return;
        }
        self.snapshots += 1;
        let sequence = self.snapshots;
        let op = self.op(Op::Snapshot(sequence));
        let mut dirty = self.marks.dirty.clone();
        if let Some(growth) = &self.pending.growth {
            dirty.insert_range(growth.blocks());
        }
        // What the peer has and may yet lose is no mark of ours any more, and no other record need cover it (rule R2).
        let mut suspect = &(&self.marks.suspect | &self.marks.intents) | &self.unstable.all();
        dirty.optimize();
        suspect.optimize();
        out.push(Effect::Persist { op, record: Record::Snapshot { sequence, dirty, suspect } });
    }

    /// Number of the next snapshot.
    pub(super) fn next_snapshot(&self) -> u64 {
        self.snapshots + 1
    }

    pub(super) fn snapshot_written(&mut self, sequence: u64, out: &mut Vec<Effect>) {
        self.timers.snapshot_taken(self.now);
        self.growth_snapshot_written(sequence, out);
        // A join that came in between has no marks to name any more.
        let wanted = !self.is_joined() || !self.marks.is_empty();
        if wanted {
            self.superblock.snapshot = Some(sequence);
        }
        let persisting = self.session.as_mut().and_then(|session| session.source());
        let after = match persisting {
            Some(source) if source.stage == Stage::Persisting => After::SourceBegun,
            _ => After::Nothing,
        };
        self.persist(after, out);
        self.stop_step(out);
    }

    pub(super) fn source_persisted(&mut self, out: &mut Vec<Effect>) {
        let source = self.session.as_mut().and_then(|session| session.source());
        let Some(source) = source.filter(|source| source.stage == Stage::Persisting) else { return };
        source.stage = Stage::FlushingFirst;
        if self.rules.broken(Mutation::R3d) || self.rules.broken(Mutation::R2b) || !source.copies() {
            // Nothing is given up on the other side: it stays as good as it is.
            self.tell_begin(out);
        } else {
            self.flush_source(out);
        }
    }

    fn flush_source(&mut self, out: &mut Vec<Effect>) {
        let session = self.session.as_ref().expect("a source has a session").id;
        self.disk_op(Op::SourceFlush(session), DiskIo::Flush, out);
    }

    fn tell_begin(&mut self, out: &mut Vec<Effect>) {
        let committed_bytes = self.superblock.committed_bytes;
        let source = self.session.as_mut().and_then(|session| session.source()).expect("this node gives");
        source.stage = Stage::Begun;
        let (kind, reason, bytes) = (source.kind(), source.reason.clone(), source.total);
        let (tag, clean) = (source.tag, !source.copies());
        if !clean {
            self.note(Note::ResyncBegan { kind, reason: reason.clone(), bytes }, out);
        }
        self.send(Message::ResyncBegin { kind, reason, bytes, tag, committed_bytes, clean }, out);
    }

    /// The target may be written to: writes are mirrored from here on.
    pub(super) fn target_is_ready(&mut self, out: &mut Vec<Effect>) {
        let now = self.now;
        let source = self.session.as_mut().and_then(|session| session.source());
        let Some(source) = source.filter(|source| source.stage == Stage::Begun) else {
            self.misbehaved("a readiness that was not asked for", out);
            return;
        };
        source.stage = Stage::Copying;
        source.meter = Meter::new(now);
        self.held_since = None;
        self.drive_all(out);
    }

    /// Everything is copied: our disk must hold it durably too before anything is forgotten.
    pub(super) fn everything_copied(&mut self, out: &mut Vec<Effect>) {
        let upto = self.sequence;
        let source = self.session.as_mut().and_then(|session| session.source()).expect("this node gives");
        source.stage = Stage::Flushing { upto, busy: false };
        self.source_flush_step(out);
    }

    pub(super) fn source_flush_step(&mut self, out: &mut Vec<Effect>) {
        let Some(source) = self.session.as_mut().and_then(|session| session.source()) else { return };
        let Stage::Flushing { upto, busy: false } = source.stage else { return };
        if self.disk == DiskState::Diskless {
            return;
        }
        source.stage = Stage::Flushing { upto, busy: true };
        if self.rules.broken(Mutation::R2b) {
            self.source_is_durable(out);
        } else if self.finished_upto(upto) {
            self.flush_source(out);
        } else {
            let source = self.session.as_mut().and_then(|session| session.source()).expect("this node gives");
            source.stage = Stage::Flushing { upto, busy: false };
        }
    }

    pub(super) fn source_flushed(&mut self, asked_in: SessionId, result: Result<(), DiskError>, out: &mut Vec<Effect>) {
        if let Err(error) = result {
            self.flush_failed("the flush of a resync", error, out);
            return;
        }
        // A flush of an earlier session does not cover what was written since.
        let Some(session) = self.session.as_mut().filter(|session| session.id == asked_in) else { return };
        match session.source().map(|source| source.stage) {
            Some(Stage::FlushingFirst) => self.tell_begin(out),
            Some(Stage::Flushing { busy: true, .. }) => self.source_is_durable(out),
            _ => {}
        }
    }

    fn source_is_durable(&mut self, out: &mut Vec<Effect>) {
        let Some(source) = self.session.as_mut().and_then(|session| session.source()) else { return };
        if !matches!(source.stage, Stage::Flushing { busy: true, .. }) {
            return;
        }
        source.stage = Stage::Offering;
        if self.is_in_group() && self.role == Role::Primary {
            self.want_qualify();
        } else {
            self.offer(out);
        }
    }

    /// Makes durable that the target may hold our generation from now on.
    pub(super) fn offer(&mut self, out: &mut Vec<Effect>) {
        let current = self.superblock.lineage.current;
        if self.cover.contains(&current) {
            self.offer_adoption(out);
        } else {
            // From the offer on the peer may hold it: that must outlive this process.
            self.cover.insert(0, current);
            self.superblock.lineage.bases = self.cover.clone();
            self.persist(After::Offered, out);
        }
    }

    /// Tells the target to take over our generation.
    pub(super) fn offer_adoption(&mut self, out: &mut Vec<Effect>) {
        let (lineage, epoch) = (self.superblock.lineage.clone(), self.superblock.seen_epoch);
        let cache_epoch = self.superblock.cache_epoch;
        let window = self.flushing.take_number();
        let Some(source) = self.session.as_mut().and_then(|session| session.source()) else { return };
        if source.stage != Stage::Offering {
            return;
        }
        source.stage = Stage::Adopting;
        source.adopt_sent = true;
        // The target flushes everything sent before it adopts.
        source.adopt_window = window;
        self.unstable.close(window);
        self.tell_progress(out);
        self.send(Message::Adopt { lineage, epoch, cache_epoch }, out);
    }

    /// The target flushed and adopted: now the old marks may go, durably.
    pub(super) fn adopted_there(&mut self, out: &mut Vec<Effect>) {
        let source = self.session.as_mut().and_then(|session| session.source());
        let Some(source) = source.filter(|source| source.stage == Stage::Adopting) else {
            self.misbehaved("an adoption that was not asked for", out);
            return;
        };
        source.stage = Stage::PersistingJoin;
        let window = source.adopt_window;
        self.unstable.stable(window);
        self.cover = vec![self.superblock.lineage.current];
        self.superblock.snapshot = None;
        self.superblock.unfinished = None;
        self.superblock.requested = None;
        self.superblock.peer_outdated = false;
        // Once given up, it is the good copy after all.
        self.superblock.archiving = Archiving::Off;
        // Called outdated for a peer that then did not go on alone.
        self.disk = DiskState::UpToDate;
        // Without readable marks everything was compared: whatever the damaged metadata hid, both hold the same now.
        self.superblock.suspect = false;
        self.record_join();
        self.persist(After::SourceJoined, out);
    }

    pub(super) fn source_joined(&mut self, out: &mut Vec<Effect>) {
        let source = self.session.as_mut().and_then(|session| session.source());
        if let Some(source) = source.filter(|source| source.stage == Stage::PersistingJoin) {
            source.stage = Stage::Joining;
            self.finish_archive(out);
            self.send(Message::Join, out);
        }
    }

    /// The target's join is durable: both are in sync.
    pub(super) fn joined_there(&mut self, out: &mut Vec<Effect>) {
        let (now, began) = (self.now, self.session.as_ref().map_or(self.now, |session| session.began));
        let source = self.session.as_mut().and_then(|session| session.source());
        let Some(source) = source.filter(|source| source.stage == Stage::Joining) else {
            self.misbehaved("a join that was not asked for", out);
            return;
        };
        let took = now.since(began);
        let (copied, zeroed, equal) = (source.copied, source.zeroed, source.equal);
        if source.copies() {
            self.finished.resync = Some(ResyncSummary {
                kind: source.kind(),
                reason: source.reason.clone(),
                source: true,
                bytes_copied: copied,
                bytes_zeroed: zeroed,
                bytes_equal: equal,
                milliseconds: took.as_millis() as u64,
            });
        }
        self.door = super::door::Door::Closed;
        self.link_reason = None;
        self.set_phase(Phase::Joined);
        self.note(Note::Joined { bytes_copied: copied, bytes_equal: equal, bytes_zeroed: zeroed, took }, out);
        self.ping(out);
    }

    /// Tells the target how far we are, for its status.
    pub(super) fn tell_progress(&mut self, out: &mut Vec<Effect>) {
        let (now, left) = (self.now, self.marks.bytes());
        let Some(source) = self.session.as_mut().and_then(|session| session.source()) else { return };
        if !source.mirrors() {
            return;
        }
        source.told = now;
        let Source { total, copied, zeroed, equal, paused, .. } = *source;
        self.send(Message::Progress { left, total, copied, zeroed, equal, paused }, out);
    }

    /// Pauses or resumes, wherever the resync is run from.
    pub(super) fn pause_resync(&mut self, paused: bool, out: &mut Vec<Effect>) {
        self.pending.resync_paused = paused;
        if let Some(source) = self.session.as_mut().and_then(|session| session.source()) {
            source.paused = paused;
            self.tell_progress(out);
        }
    }
}
