//! The operator makes the volume larger while it is in use, up to what both disks hold.
//!
//! | step | durable | clients have |
//! |---|---|---|
//! | the new part is written to a snapshot as different | a snapshot that nothing names | the old size |
//! | the superblock names that snapshot and the new size | both, or neither | the old size |
//! | the servers connect again | | the new size |
//!
//! What the disks hold in the new part is whatever was there before, so it is copied like anything else that differs.
//! Nothing is mirrored to it by the session of before, whose peer knows the old size only: that one ends, and the next one
//! tells the peer the size before anything is written there.

use super::core::{After, Mirror};
use super::interface::{Effect, Note};
use crate::base::command::{CommandOutcome, Refusal};
use crate::base::ids::CommandId;
use crate::base::range::{BLOCK, BLOCK_SHIFT};
use crate::base::state::{DiskState, Role};
use std::ops::Range;

/// A growth that is not durable yet.
#[derive(Debug)]
pub(super) struct Growth {
    id: CommandId,
    from_bytes: u64,
    to_bytes: u64,
    /// The snapshot that has the new part.
    snapshot: u64,
}

impl Growth {
    /// The size that clients have meanwhile.
    pub(super) fn size_before(&self) -> u64 {
        self.from_bytes
    }

    /// Blocks of the new part.
    pub(super) fn blocks(&self) -> Range<u32> {
        (self.from_bytes >> BLOCK_SHIFT) as u32..(self.to_bytes >> BLOCK_SHIFT) as u32
    }
}

impl Mirror {
    /// Grows the volume to this size, or as far as both disks allow.
    pub(super) fn grow(&mut self, id: CommandId, wanted: Option<u64>, out: &mut Vec<Effect>) {
        let answer = match self.growth_allowed(wanted) {
            Ok(to) if to == self.size_bytes() => CommandOutcome::Done(format!("it has {to} bytes already")),
            Ok(to_bytes) => {
                let (from_bytes, snapshot) = (self.size_bytes(), self.next_snapshot());
                self.pending.growth = Some(Growth { id, from_bytes, to_bytes, snapshot });
                return self.take_snapshot(out);
            }
            Err(refusal) => CommandOutcome::Refused(refusal),
        };
        out.push(Effect::CommandDone { id, outcome: answer });
    }

    /// The size the volume would grow to.
    fn growth_allowed(&self, wanted: Option<u64>) -> Result<u64, Refusal> {
        let refuse = |code: &str, reason: String, next: &str| Err(Refusal::new(code, reason, next));
        let name = &self.settings.name;
        if self.role != Role::Primary {
            return refuse("not-primary", format!("{name} is not primary on this node."), "Ask the primary's node.");
        }
        let busy = self.pending.growth.is_some() || self.is_changing() || !self.pending.lets_clients_in();
        if busy || self.door.is_opening() {
            return refuse("busy", format!("{name} is changing its role or size."), "Ask again in a moment.");
        }
        let peer = self.peer().filter(|_| self.is_joined() && self.disk == DiskState::UpToDate);
        let Some(peer) = peer.filter(|_| self.marks.is_empty() && self.verify.is_none()) else {
            let reason = format!("{name} grows only while both disks are in sync, and no verify runs.");
            return refuse("not-in-sync", reason, "Wait until status shows in sync.");
        };
        let (ours, theirs) = (self.capacity_bytes, peer.capacity_bytes);
        let (limit, now) = (ours.min(theirs), self.size_bytes());
        let to = wanted.unwrap_or(limit);
        if to > limit {
            let here = &self.settings.node_names[usize::from(self.settings.node.0)];
            let reason = format!(
                "{name} can't have {to} bytes: the disk of {here} holds {ours} of it, that of {} holds {theirs}.",
                self.peer_name()
            );
            return refuse("disk-too-small", reason, "Replace the smaller disk first (replace-disk), or ask for less.");
        }
        if to < now {
            let reason = format!("{name} has {now} bytes and can't be made smaller.");
            return refuse("shrinking", reason, "Make a new volume, and copy what is on it.");
        }
        if !to.is_multiple_of(BLOCK) {
            let reason = format!("{to} bytes are no multiple of {BLOCK}.");
            return refuse("alignment", reason, "Round the size.");
        }
        Ok(to)
    }

    /// A snapshot is durable. If it has the new part, a superblock may name it together with the new size.
    pub(super) fn growth_snapshot_written(&mut self, sequence: u64, out: &mut Vec<Effect>) {
        let Some(growth) = self.pending.growth.as_ref().filter(|growth| growth.snapshot == sequence) else { return };
        let (blocks, to_bytes) = (growth.blocks(), growth.to_bytes);
        self.commit_size(to_bytes);
        self.marks.dirty.insert_range(blocks);
        self.superblock.snapshot = Some(sequence);
        self.persist(After::Grown, out);
    }

    /// The new size is durable.
    pub(super) fn grown(&mut self, out: &mut Vec<Effect>) {
        let Some(growth) = self.pending.growth.take() else { return };
        self.note(Note::Grown { bytes: growth.to_bytes }, out);
        let done = format!("has {} bytes now, the new part is being copied", growth.to_bytes);
        out.push(Effect::CommandDone { id: growth.id, outcome: CommandOutcome::Done(done) });
        self.reconnect("the volume has grown", out);
    }

    /// It can't be made durable: nobody has seen the new size.
    pub(super) fn growth_fails(&mut self, reason: &str, out: &mut Vec<Effect>) {
        let Some(growth) = self.pending.growth.take() else { return };
        self.commit_size(growth.from_bytes);
        let refusal = Refusal::new(
            "grow-failed",
            format!("{} keeps its {} bytes: {reason}.", self.settings.name, growth.from_bytes),
            "Look at status; ask again when both disks are in sync.",
        );
        out.push(Effect::CommandDone { id: growth.id, outcome: CommandOutcome::Refused(refusal) });
    }
}
