//! A copy that is given up: what only it has is archived before it is overwritten.
//!
//! After a split brain, or a forced promotion that was wrong, the victim of the resync holds writes that were acknowledged
//! and that nobody else has. No block of it is overwritten before the archive has what the block held, durably:
//!
//! ```text
//! resync begins ─► Open ─► "archiving" and Inconsistent durable ─► each frame: Save ─► write ─► adopted ─► Finish
//!                   │                                                        │
//!                   └── fails: nothing was changed ──────────────────────────┴── fails: the session ends, and this
//!                       node is no target (rule archive-failed) until an operator gives the copy up once more
//! ```
//! The superblock says that it is so, so an interrupted resync goes on with the same archive. Which blocks the archive has
//! is known best by whoever writes it; here it is only remembered in order not to ask twice.

use super::core::{Mirror, Op};
use super::interface::{Archive, Effect, Note};
use super::slab::Key;
use crate::base::generation::Relation;
use crate::base::ids::OpId;
use crate::base::range::ByteRange;
use crate::base::state::{Archiving, DiskState, SplitBrain};
use crate::wire::message::{
    FEATURE_ARCHIVE_FAILED, FEATURE_DISCARD_LEAST, FEATURE_DISCARD_OLDER, FEATURE_DISCARD_YOUNGER,
    FEATURE_DISCARD_ZERO_CHANGES,
};
use roaring::RoaringBitmap;

/// The archive, as far as the core knows it.
#[derive(Debug, Default)]
pub(super) struct Archiver {
    /// What it is known to have, while it is open.
    has: Option<RoaringBitmap>,
    /// Why it can't be written.
    failure: Option<String>,
}

/// What an operation of the archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archived {
    /// Having one.
    Open,
    /// What a frame of the peer overwrites.
    Frame(Key),
    /// Its end.
    Finish,
}

impl Archiver {
    /// Whether frames wait for it.
    pub(super) fn is_open(&self) -> bool {
        self.has.is_some()
    }

    /// Whether it must have a range that it is not known to have.
    pub(super) fn lacks(&self, range: ByteRange) -> bool {
        self.has.as_ref().is_some_and(|has| !has.contains_range(range.blocks()))
    }

    /// It has a range.
    pub(super) fn has(&mut self, range: ByteRange) {
        if let Some(has) = &mut self.has {
            has.insert_range(range.blocks());
        }
    }

    /// Why it can't be written.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The disk is given up.
    pub(super) fn close(&mut self) {
        *self = Archiver::default();
    }
}

impl Mirror {
    /// Whether what is overwritten must be archived, and if so whether that was begun already.
    pub(super) fn must_archive(&self) -> Option<bool> {
        match self.superblock.archiving {
            Archiving::Running => Some(true),
            Archiving::Declined => None,
            Archiving::Off => (self.settings.archive && self.has_writes_of_its_own()).then_some(false),
        }
    }

    /// Whether this copy has content that is in no past of the peer's.
    fn has_writes_of_its_own(&self) -> bool {
        let Some(theirs) = self.peer() else { return false };
        if matches!(self.disk, DiskState::New | DiskState::Diskless) {
            return false;
        }
        match self.superblock.lineage.relation(&theirs.lineage) {
            Relation::Fork | Relation::OursNewerMarks | Relation::OursNewerHistory => true,
            // So long apart that their common past is forgotten; without one this is a first copy, not a split.
            Relation::Unrelated => self.superblock.join.is_some(),
            Relation::Equal | Relation::TheirsNewerMarks | Relation::TheirsNewerHistory => false,
        }
    }

    /// What the peer must know of it in the handshake.
    pub(super) fn archive_features(&self) -> u64 {
        let failed = if self.archiver.failure.is_some() { FEATURE_ARCHIVE_FAILED } else { 0 };
        failed
            | match self.settings.split_brain {
                SplitBrain::Manual => 0,
                SplitBrain::DiscardZeroChanges => FEATURE_DISCARD_ZERO_CHANGES,
                SplitBrain::DiscardLeast => FEATURE_DISCARD_LEAST,
                SplitBrain::DiscardYounger => FEATURE_DISCARD_YOUNGER,
                // Whom the arbiter's record names has the newest epoch: nobody becomes primary without raising it there.
                SplitBrain::DiscardOlder | SplitBrain::PreferArbiterPrimary => FEATURE_DISCARD_OLDER,
            }
    }

    pub(super) fn archive(&mut self, what: Archived, work: Archive, out: &mut Vec<Effect>) {
        let op = self.op(Op::Archive(what));
        out.push(Effect::Archive { op, work });
    }

    pub(super) fn open_archive(&mut self, resumed: bool, out: &mut Vec<Effect>) {
        if self.archiver.is_open() {
            return self.begin_copy(out);
        }
        let ours = self.superblock.lineage.current;
        let theirs = self.peer().map(|peer| peer.lineage.current).unwrap_or_default();
        let (device, size_bytes) = (self.superblock.device, self.size_bytes());
        self.archive(Archived::Open, Archive::Open { resumed, device, ours, theirs, size_bytes }, out);
    }

    /// The archive answered.
    pub(super) fn archived(&mut self, op: OpId, result: Result<(), String>, out: &mut Vec<Effect>) {
        let (op, _) = self.ops.remove(Key::of(op.0)).expect("the archive answers once");
        let Op::Archive(what) = op else { unreachable!("{op:?} is not the archive's") };
        match (what, result) {
            (Archived::Frame(key), result) => self.frame_archived(key, result, out),
            (Archived::Open, _) if self.disk == DiskState::Diskless => {}
            (Archived::Open, Ok(())) => {
                self.archiver.has = Some(RoaringBitmap::new());
                self.begin_copy(out);
            }
            (Archived::Open, Err(reason)) => self.archive_failed(reason, out),
            // Everything is in it all the same.
            (Archived::Finish, _) => {}
        }
        self.begin_session_if_ready(out);
    }

    /// What only this copy has can't be archived: it is overwritten no further.
    pub(super) fn archive_failed(&mut self, reason: String, out: &mut Vec<Effect>) {
        self.archiver = Archiver { has: None, failure: Some(reason.clone()) };
        self.note(Note::ArchiveFailed { reason: reason.clone() }, out);
        self.reconnect(&reason, out);
    }

    /// This copy is the peer's equal, durably.
    pub(super) fn finish_archive(&mut self, out: &mut Vec<Effect>) {
        if self.archiver.is_open() {
            self.archive(Archived::Finish, Archive::Finish, out);
        }
        self.archiver.close();
    }

    /// The operator gives this copy up, once more if the archive failed before; without an archive if so said.
    pub(super) fn archive_again(&mut self, archive: bool) {
        self.archiver.failure = None;
        if !archive {
            self.superblock.archiving = Archiving::Declined;
            self.archiver.close();
        } else if self.superblock.archiving == Archiving::Declined {
            self.superblock.archiving = Archiving::Off;
        }
    }
}
