//! The one door through which a node goes on alone (DESIGN D2, A.9, E.3).
//!
//! ```text
//! Closed ─► Draining ─► Flushing ─► Asking ─► Persisting ─► Open
//!           local I/O   local disk   the       generation    acknowledge alone
//!           ends        (R3)         group     (R4)
//! ```
//! The same door for a primary that lost its peer, for a secondary that takes over, and for a secondary that becomes the
//! only authority for a primary without a disk. A primary goes through it only when a mutation waits, so a link that
//! comes back before any write costs nothing.
//!
//! Without a failover group nothing has to be excluded and nobody is asked: the peer never promotes itself, and an
//! operator may promote it without force only when this process is known to be gone. With one (`exclusion.rs`) the group
//! says when the peer can no longer serve.

use super::core::{After, Mirror, Op};
use super::interface::{DiskIo, Effect, Note, Order};
use super::mutation::Mutation;
use crate::base::error::DiskError;
use crate::base::ids::Epoch;
use crate::base::limits::SOLO_AFTER;
use crate::base::state::{DiskState, Role};
use crate::wire::message::Message;

/// Where the door stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// Nothing is acknowledged alone.
    Closed,
    /// Local operations and frames of the last session end.
    Draining(Purpose),
    /// The local disk flushes.
    Flushing(Purpose),
    /// Only the failover group's word is missing.
    Asking(Purpose),
    /// The new generation is being made durable.
    Persisting(Purpose),
    /// This node is the only authority.
    Open,
}

/// Who goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A primary that lost its peer.
    Solo,
    /// A secondary that takes over.
    Takeover {
        /// Although its copy is not whole, or the peer may hold newer data.
        forced: bool,
    },
    /// A secondary that serves a primary without a disk.
    Authority,
}

impl Door {
    pub(super) fn is_open(self) -> bool {
        self == Door::Open
    }

    /// Whether a secondary is on its way to serve.
    pub(super) fn is_taking_over(self) -> bool {
        matches!(
            self,
            Door::Draining(Purpose::Takeover { .. })
                | Door::Flushing(Purpose::Takeover { .. })
                | Door::Asking(Purpose::Takeover { .. })
                | Door::Persisting(Purpose::Takeover { .. })
        )
    }

    /// Whether only the failover group's word is missing.
    pub(super) fn is_asking(self) -> bool {
        matches!(self, Door::Asking(_))
    }

    /// Whether it is being gone through.
    pub(super) fn is_opening(self) -> bool {
        !matches!(self, Door::Closed | Door::Open)
    }
}

impl Mirror {
    /// A piece can go nowhere: begin what lets it, and remember since when.
    pub(super) fn hold(&mut self, out: &mut Vec<Effect>) {
        if self.disk == DiskState::UpToDate && self.role == Role::Primary {
            if self.door == Door::Closed && self.may_go_alone() {
                self.go_through(Purpose::Solo, out);
            }
            return;
        }
        let reason = match &self.disk_reason {
            Some(reason) => format!("no local disk ({reason}) and no copy at {} to serve from", self.peer_name()),
            None => format!("no local disk and no copy at {} to serve from", self.peer_name()),
        };
        self.held_for(&reason, out);
    }

    /// Requests are held for this reason, from now on if they were not before.
    pub(super) fn held_for(&mut self, reason: &str, out: &mut Vec<Effect>) {
        if self.held_since.is_none() {
            self.note(Note::Held { reason: reason.into() }, out);
            self.held_since = Some((self.now, reason.into()));
        }
    }

    /// Whether a primary may go on alone now: not while a session may still lead to a sync, and not before every secondary
    /// that found this node gone has found it so (see `peer_probed`).
    pub(super) fn may_go_alone(&self) -> bool {
        match &self.session {
            Some(session) => !session.is_deciding(),
            // The group's answer waits for what has to be waited for.
            None if self.is_in_group() => true,
            None => self.peer_gone || self.now.since(self.link_lost) >= SOLO_AFTER,
        }
    }

    /// Begins to go through the door.
    pub(super) fn go_through(&mut self, purpose: Purpose, out: &mut Vec<Effect>) {
        assert!(self.door == Door::Closed || self.door == Door::Open, "one passage at a time");
        self.door = Door::Draining(purpose);
        self.door_step(out);
    }

    /// Goes on if everything under way has ended.
    pub(super) fn door_step(&mut self, out: &mut Vec<Effect>) {
        let Door::Draining(purpose) = self.door else { return };
        if !self.unfinished.is_empty() || !self.old_frames_ended() {
            return;
        }
        let skip = match purpose {
            Purpose::Solo => self.rules.broken(Mutation::R3a),
            Purpose::Takeover { .. } | Purpose::Authority => self.rules.broken(Mutation::R3c),
        };
        self.door = Door::Flushing(purpose);
        if skip {
            self.door_flushed(Ok(()), out);
        } else {
            self.disk_op(Op::Door, DiskIo::Flush, out);
        }
    }

    pub(super) fn door_flushed(&mut self, result: Result<(), DiskError>, out: &mut Vec<Effect>) {
        if let Err(error) = result {
            self.door = Door::Closed;
            self.flush_failed("the flush before going on alone", error, out);
            self.promotion_failed("the local disk failed while taking over", out);
            return;
        }
        let Door::Flushing(purpose) = self.door else { return };
        if self.is_in_group() && purpose != Purpose::Authority {
            self.at_the_door(purpose, out);
            return;
        }
        let epoch = match purpose {
            Purpose::Takeover { .. } => Epoch(self.superblock.seen_epoch.0 + 1),
            Purpose::Solo | Purpose::Authority => self.superblock.seen_epoch,
        };
        self.pass(purpose, epoch, out);
    }

    /// The peer is excluded: makes durable that this node alone counts.
    pub(super) fn pass(&mut self, purpose: Purpose, epoch: Epoch, out: &mut Vec<Effect>) {
        self.door = Door::Persisting(purpose);
        let epoch = epoch.max(self.superblock.seen_epoch);
        self.superblock.seen_epoch = epoch;
        if let Purpose::Takeover { forced } = purpose {
            self.superblock.primary_epoch = epoch;
            self.role = Role::Primary;
            if forced && self.disk != DiskState::UpToDate {
                // Half a copy descends from nothing: the peer's whole one must never be overwritten by it unasked.
                self.cover.clear();
                let current = self.superblock.lineage.current;
                self.superblock.lineage.history.retain(|generation| *generation != current);
                self.superblock.lineage.current = Default::default();
            }
            if self.maps_unreadable {
                // Nobody knows what differs from the peer, in no later life either: everything is compared.
                self.cover.clear();
            }
            self.declare_cache_loss();
            if forced {
                // What the peer acknowledged may be missing here, whatever caches of clients and devices say.
                self.superblock.cache_epoch += 1;
            }
        }
        self.bump(epoch);
        self.disk = DiskState::UpToDate;
        self.superblock.peer_outdated = true;
        self.superblock.discard = false;
        self.superblock.suspect = false;
        if self.superblock.committed_bytes == 0 {
            self.commit_size(self.capacity_bytes);
        }
        self.persist(After::DoorOpen, out);
    }

    /// Rule R9: if this node rebooted since it last served or joined, acknowledged writes that no flush covered may be
    /// gone. Clients of before must not believe in them: their sessions are of another cache epoch.
    pub(super) fn declare_cache_loss(&mut self) {
        if self.cache_lost && !self.rules.broken(Mutation::R9) {
            self.superblock.cache_epoch += 1;
        }
        if let Some(ordered) = self.cache_epoch_ordered() {
            self.superblock.cache_epoch = self.superblock.cache_epoch.max(ordered);
        }
        self.cache_lost = false;
    }

    /// Begins a generation of our own. Marks stay relative to every generation the peer may hold.
    fn bump(&mut self, epoch: Epoch) {
        let new = self.fresh_generation(epoch);
        let mut bases = self.cover.clone();
        bases.retain(|generation| *generation != Default::default());
        self.superblock.lineage.bump(new, bases);
    }

    pub(super) fn door_opened(&mut self, out: &mut Vec<Effect>) {
        let Door::Persisting(purpose) = self.door else { return };
        self.door = Door::Open;
        match purpose {
            Purpose::Solo => {
                self.note(Note::SoloBegan, out);
                self.order_ended(|order| matches!(order, Order::OpenSolo { .. } | Order::PrepareSolo), Ok(()), out);
            }
            Purpose::Takeover { .. } => self.promoted(out),
            Purpose::Authority => {
                let lineage = self.superblock.lineage.clone();
                self.send(Message::AuthorityTaken { lineage }, out);
            }
        }
        self.drive_all(out);
        self.begin_session_if_ready(out);
    }
}
