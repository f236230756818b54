//! Disks that fail (DESIGN A.8): a failing disk is given up with a latched reason, and the other copy serves.
//!
//! Nothing is retried: a failed flush may have dropped what the cache held, and a second one would not say so. The disk
//! comes back only by `attach` or a restart, and then as what its metadata says, behind the peer's generation.

use super::core::{After, Mirror, Op};
use super::door::{Door, Purpose};
use super::interface::{Effect, Note, Order};
use crate::base::command::{CommandOutcome, Refusal};
use crate::base::error::DiskError;
use crate::base::ids::{CommandId, Sequence};
use crate::base::state::{DiskState, Role};
use crate::wire::message::Message;
use crate::wire::metadata::record::Loaded;

/// Client reads that may fail before the disk is given up. A block or two are mended from the peer; more is a dying disk.
pub(super) const READ_ERRORS_MAX: u64 = 16;

impl Mirror {
    /// The local disk failed at something: it is out, with that reason, until an operator acts.
    pub(super) fn disk_failed(&mut self, at: &str, error: DiskError, out: &mut Vec<Effect>) {
        self.give_up_disk(format!("{at} failed: {error}"), out);
    }

    /// A flush failed: what the disk had accepted may be gone for good, although neither process nor machine restarted.
    /// From here on its content counts no more than after a power loss (rules R6, R9), whoever reads it next.
    pub(super) fn flush_failed(&mut self, at: &str, error: DiskError, out: &mut Vec<Effect>) {
        if error == DiskError::NoDisk {
            // It never began.
            self.disk_failed(at, error, out);
            return;
        }
        self.superblock.join = None;
        self.cache_dropped = true;
        self.persist(After::Nothing, out);
        self.disk_failed(at, error, out);
    }

    /// Gives the local disk up. Whoever can, goes on with the peer's copy.
    pub(super) fn give_up_disk(&mut self, reason: String, out: &mut Vec<Effect>) {
        if self.disk == DiskState::Diskless {
            return;
        }
        self.disk = DiskState::Diskless;
        self.disk_reason = Some(reason.clone());
        let promotion_may_count = matches!(self.door, Door::Persisting(Purpose::Takeover { .. }));
        self.withdraw_passage(out);
        self.door = Door::Closed;
        self.note(Note::DiskChanged { disk: DiskState::Diskless, reason: reason.clone() }, out);
        out.push(Effect::CloseDisk);
        self.intent_waiters.clear();
        self.abandon_cycle();
        self.abandon_applying();
        self.archiver.close();
        self.abandon_reads();
        self.abandon_reading_chunks(out);
        self.abandon_flushes(out);
        self.abandon_superblocks(out);
        self.leave_ghosts(out);
        if promotion_may_count {
            self.promotion_unknown(out);
        }
        self.promotion_failed("the local disk failed", out);
        self.growth_fails("the local disk failed", out);
        let needs_disk = |order| !matches!(order, Order::Quiesce | Order::Demote);
        self.order_ended(needs_disk, Err("the local disk failed"), out);
        if self.role == Role::Primary && self.session.is_none() {
            self.drive_all(out);
        }
        self.send(Message::DiskChanged { disk: DiskState::Diskless, reason: reason.clone() }, out);
        // A new handshake finds out who can serve: the peer for us, or the peer alone.
        self.reconnect(&format!("the local disk is out: {reason}"), out);
        self.stop_step(out);
    }

    /// What waits for a superblock that the disk given up may never take, waits no longer. Only a stop does: it ends with
    /// the record or with the process.
    fn abandon_superblocks(&mut self, out: &mut Vec<Effect>) {
        let mut lost = Vec::new();
        for key in self.ops.keys() {
            if let Some((Op::Superblock(after), _)) = self.ops.get_mut(key)
                && *after != After::Stopped
            {
                lost.push(std::mem::replace(after, After::Nothing));
            }
        }
        for after in lost {
            self.after_lost_disk(after, out);
        }
    }

    /// Pieces that have settled and are only waited for by the disk given up let go of their ranges.
    fn leave_ghosts(&mut self, out: &mut Vec<Effect>) {
        for key in self.slots.keys() {
            if self.slots.get(key).is_some_and(|slot| slot.failed.is_some() && slot.locked) {
                self.conclude(key, out);
            }
        }
    }

    /// A record could not be made durable: nothing that depends on it happens.
    pub(super) fn metadata_failed(&mut self, op: Op, error: DiskError, out: &mut Vec<Effect>) {
        if self.door.is_taking_over() {
            self.role = Role::Secondary;
        }
        self.disk_failed("writing the metadata", error, out);
        if let Op::Superblock(after) = op
            && self.disk == DiskState::Diskless
        {
            self.after_lost_disk(after, out);
        }
    }

    /// The peer could not write a frame. It gives up its disk and says so in the next handshake.
    pub(super) fn peer_write_failed(&mut self, sequence: Sequence, errno: i32) {
        self.link_reason =
            Some(format!("the disk of {} failed at frame {} (errno {errno})", self.peer_name(), sequence.0));
    }

    /// The operator takes the disk away in order.
    pub(super) fn detach(&mut self, id: CommandId, out: &mut Vec<Effect>) {
        let outcome = if self.disk == DiskState::Diskless {
            CommandOutcome::Refused(Refusal::new("no-disk", "There is no disk to detach.", "Nothing needs to be done."))
        } else if self.role == Role::Primary && !self.is_joined() {
            CommandOutcome::Refused(Refusal::new(
                "last-copy",
                format!("This node is primary and {} is not in sync: this is the only good copy.", self.peer_name()),
                "Wait until status shows in sync, or demote first.",
            ))
        } else {
            self.give_up_disk("detached by the operator".into(), out);
            CommandOutcome::Done("detached".into())
        };
        out.push(Effect::CommandDone { id, outcome });
    }

    /// A disk was opened for a node that has none.
    pub(super) fn attach(&mut self, id: CommandId, loaded: Loaded, out: &mut Vec<Effect>) {
        let refusal = if self.disk != DiskState::Diskless {
            Some(Refusal::new("has-disk", "This node has a disk already.", "Detach it first."))
        } else if self.role == Role::Primary {
            Some(Refusal::new(
                "primary",
                "This node is primary without a disk, and a disk that joins must be brought in sync first.",
                format!("Demote it and promote {}, then attach.", self.peer_name()),
            ))
        } else if !self.ops.is_empty() || !self.applying.is_idle() {
            Some(Refusal::new("busy", "Operations of the old disk have not ended yet.", "Try again in a moment."))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            out.push(Effect::CommandDone { id, outcome: CommandOutcome::Refused(refusal) });
            return;
        }
        let mut loaded = loaded;
        if std::mem::take(&mut self.cache_dropped) {
            // The record that says so may not have reached a failing disk.
            loaded.superblock.join = None;
        }
        self.adopt_disk(loaded);
        self.forgot = true;
        self.read_errors = 0;
        self.note(Note::DiskChanged { disk: self.disk, reason: "attached".into() }, out);
        out.push(Effect::CommandDone { id, outcome: CommandOutcome::Done("attached".into()) });
        self.reconnect("a disk was attached", out);
    }
}
