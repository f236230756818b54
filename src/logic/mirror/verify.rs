//! Verify: compares both disks while in use, says what differs, and repairs if told.
//!
//! Every chunk is compared under the range lock, so a write in flight is never reported as a difference. What differs is
//! marked (the mirror no longer says that it is in sync) and, with repair, copied from here to the peer. A verify never
//! decides who is right: it runs on the primary, or where it was asked for when nobody is primary.

use super::chunk::Task;
use super::core::Mirror;
use super::interface::{Effect, Note};
use super::rate::Meter;
use super::slab::Key;
use crate::base::command::{CommandOutcome, Refusal};
use crate::base::ids::CommandId;
use crate::base::limits::VERIFY_RANGES_MAX;
use crate::base::range::{BLOCK, BLOCK_SHIFT, ByteRange};
use crate::base::state::Role;
use crate::base::time::Moment;
use crate::base::view::{VerifySummary, VerifyView};
use crate::wire::message::Message;

/// A verify under way.
#[derive(Debug)]
pub(super) struct Verify {
    cursor: u32,
    repair: bool,
    compared: u64,
    different: u64,
    repaired: u64,
    ranges: Vec<(u64, u64)>,
    /// Differences to be copied next.
    to_repair: Vec<ByteRange>,
    began: Moment,
    meter: Meter,
    unreadable: u64,
}

impl Mirror {
    /// The operator wants a verify.
    pub(super) fn start_verify(&mut self, id: CommandId, repair: bool, out: &mut Vec<Effect>) {
        let outcome = if !self.is_joined() {
            CommandOutcome::Refused(Refusal::new(
                "not-in-sync",
                "The two disks can be compared only while both are connected and in sync.",
                "Wait until status shows in sync.",
            ))
        } else if self.verify.is_some() {
            CommandOutcome::Refused(Refusal::new(
                "verify-running",
                "A verify is already running.",
                "Follow it in status.",
            ))
        } else if self.role == Role::Secondary && self.peer().is_some_and(|peer| peer.role == Role::Primary) {
            self.send(Message::StartVerify { repair }, out);
            CommandOutcome::Done(format!("verify begins on {}, the primary", self.peer_name()))
        } else {
            self.begin_verify(repair, out);
            CommandOutcome::Done("verify begins".into())
        };
        out.push(Effect::CommandDone { id, outcome });
    }

    /// The peer, a secondary, was asked for a verify.
    pub(super) fn peer_wants_verify(&mut self, repair: bool, out: &mut Vec<Effect>) {
        if self.is_joined() && self.verify.is_none() {
            self.begin_verify(repair, out);
        }
    }

    fn begin_verify(&mut self, repair: bool, out: &mut Vec<Effect>) {
        self.verify = Some(Verify {
            cursor: 0,
            repair,
            compared: 0,
            different: 0,
            repaired: 0,
            ranges: Vec::new(),
            to_repair: Vec::new(),
            began: self.now,
            meter: Meter::new(self.now),
            unreadable: 0,
        });
        self.tell_verify(false, out);
        self.pump_verify(out);
    }

    pub(super) fn pump_verify(&mut self, out: &mut Vec<Effect>) {
        while self.verify.is_some()
            && self.is_joined()
            && self.chunk_bytes_in_flight() < self.governor.window_bytes()
            && self.governor.allows()
        {
            let (blocks, most) = (self.blocks(), (self.governor.chunk_bytes() >> BLOCK_SHIFT) as u32);
            let verify = self.verify.as_mut().expect("a verify runs");
            if let Some(range) = verify.to_repair.pop() {
                self.start_chunk(range.blocks(), Task::Repair, out);
            } else if verify.cursor < blocks {
                let run = verify.cursor..(verify.cursor + most).min(blocks);
                verify.cursor = run.end;
                self.start_chunk(run, Task::Verify, out);
            } else {
                break;
            }
        }
    }

    /// A chunk was compared.
    pub(super) fn verified_chunk(
        &mut self,
        key: Key,
        range: ByteRange,
        ranges: &[ByteRange],
        failed: bool,
        out: &mut Vec<Effect>,
    ) {
        if let Some(verify) = self.verify.as_mut() {
            verify.compared += range.length;
            verify.meter.add(range.length);
            if failed {
                // Neither equal nor different. Written anew it may be read again.
                verify.unreadable += range.length;
                if verify.repair {
                    verify.to_repair.push(range);
                }
            }
            for part in ranges.iter().filter(|_| !failed) {
                verify.different += part.length;
                if verify.ranges.len() < VERIFY_RANGES_MAX {
                    verify.ranges.push((part.offset, part.length));
                }
                if verify.repair {
                    verify.to_repair.push(*part);
                }
                // From now on nobody says "in sync" until it is repaired or resynced.
                self.marks.mark(*part);
            }
        }
        self.free_chunk(key, out);
    }

    /// A difference was copied.
    pub(super) fn repaired_chunk(&mut self, range: ByteRange) {
        if let Some(verify) = self.verify.as_mut() {
            verify.repaired += range.length;
        }
    }

    /// This side could not read it: neither equal nor different.
    pub(super) fn verify_unreadable(&mut self, range: ByteRange) {
        if let Some(verify) = self.verify.as_mut() {
            verify.compared += range.length;
            verify.unreadable += range.length;
        }
    }

    /// Ends the verify when nothing is left.
    pub(super) fn verify_step(&mut self, out: &mut Vec<Effect>) {
        let blocks = self.blocks();
        let over = self.verify.as_ref().is_some_and(|verify| verify.cursor >= blocks && verify.to_repair.is_empty());
        if over && self.chunks.is_empty() {
            self.end_verify(true, out);
        }
    }

    /// The verify can't go on: what it has found stands.
    pub(super) fn verify_aborted(&mut self, out: &mut Vec<Effect>) {
        if self.verify.is_some() {
            self.end_verify(false, out);
        }
    }

    fn end_verify(&mut self, complete: bool, out: &mut Vec<Effect>) {
        self.tell_verify(true, out);
        let verify = self.verify.take().expect("a verify runs");
        self.note(Note::Verified { bytes: verify.compared, different: verify.different }, out);
        let took = self.now.since(verify.began);
        self.finished.verify = Some(VerifySummary {
            bytes_compared: verify.compared,
            bytes_different: verify.different,
            bytes_repaired: verify.repaired,
            ranges: verify.ranges,
            complete: complete && verify.unreadable == 0,
            milliseconds: took.as_millis() as u64,
        });
        if verify.different > verify.repaired && self.pending.stopping.is_none() {
            // What was found must outlive this process. A stop writes it down itself.
            self.take_snapshot(out);
        }
    }

    /// Tells the peer how it goes, for its status.
    pub(super) fn tell_verify(&mut self, done: bool, out: &mut Vec<Effect>) {
        let total = self.size_bytes();
        let now = self.now;
        let Some(verify) = self.verify.as_mut() else { return };
        verify.meter.advance(now);
        let message = Message::VerifyState {
            left: total - u64::min(verify.compared, total),
            total,
            different: verify.different,
            repaired: verify.repaired,
            ranges: if done { verify.ranges.clone() } else { Vec::new() },
            done,
        };
        self.send(message, out);
    }

    /// The running verify, for status.
    pub(super) fn verify_view(&self) -> Option<VerifyView> {
        let Some(verify) = &self.verify else { return self.finished.peer_verify.clone() };
        let total = self.size_bytes().max(BLOCK);
        let left = total - verify.compared.min(total);
        let rate = verify.meter.rate(self.now);
        Some(VerifyView {
            percent: 100.0 * (total - left) as f64 / total as f64,
            bytes_left: left,
            bytes_per_second: rate,
            seconds_left: (rate > 0).then(|| left / rate),
            bytes_different: verify.different,
            repair: verify.repair,
        })
    }
}
