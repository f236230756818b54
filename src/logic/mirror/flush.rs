//! Flush cycles: what is durable on both disks, and when.
//!
//! A cycle flushes the local disk and asks the peer to flush, at the same time. One runs at a time; whoever asks meanwhile
//! shares the next. When both are through, everything that had left for both disks when the cycle began is stable:
//! a client's flush may be acknowledged (invariant I16), `unstable` forgets it, and its intents may be cleared.
//!
//! The local disk is flushed by one operation at a time, whoever wants it: of two at once, one may report the failure of
//! both, and the other's success would be believed.
//!
//! A client's flush covers what was acknowledged before it, so it needs not wait for writes under way. The periodic
//! cycle does wait for them, so that under constant load stability advances too.

use super::core::{Mirror, Op};
use super::interface::{DiskIo, Effect};
use super::request::{Leg, Path};
use super::slab::Key;
use crate::base::error::{DiskError, RequestError};
use crate::base::latency::{Kind, Stage};
use crate::base::state::{DiskState, Mode, Role};
use crate::base::time::Moment;
use crate::wire::message::Message;

/// The running cycle, and who waits for the next.
#[derive(Debug, Default)]
pub(super) struct Flushing {
    cycle: Option<Cycle>,
    /// Client flushes for the next cycle.
    next: Vec<Key>,
    numbers: u64,
    /// The last cycle that ran to its end.
    pub(super) completed: u64,
    /// When the last cycle began.
    pub(super) began: Moment,
    /// Everything up to this order is durable on both disks.
    pub(super) stable: u64,
}

/// Flushes of the local disk.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    /// For whom the one under way is.
    running: Vec<Op>,
    /// Who came since: the next one is for all of them.
    waiting: Vec<Op>,
}

impl Flushes {
    /// Takes note of who wants a flush. Returns whether one is under way already, which doesn't cover this.
    pub(super) fn waits_behind_another(&mut self, op: &Op) -> bool {
        let busy = !self.running.is_empty();
        let place = if busy { &mut self.waiting } else { &mut self.running };
        place.push(op.clone());
        busy
    }
}

#[derive(Debug)]
struct Cycle {
    number: u64,
    /// The last order that had left when the cycle began.
    upto: u64,
    local: Leg,
    remote: Leg,
    waiters: Vec<Key>,
    /// The local flush was handed out when every local leg up to `upto` was done.
    covers: bool,
}

impl Flushing {
    /// A number of its own for a flush outside the cycles.
    pub(super) fn take_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Number of the last cycle begun.
    pub(super) fn number(&self) -> u64 {
        self.numbers
    }

    /// Whether a cycle runs or is wanted.
    pub(super) fn is_idle(&self) -> bool {
        self.cycle.is_none() && self.next.is_empty()
    }
}

impl Mirror {
    /// A client asks for a flush.
    pub(super) fn flush_wanted(&mut self, key: Key, out: &mut Vec<Effect>) {
        self.flushing.next.push(key);
        self.start_cycle_if_wanted(out);
    }

    /// Begins the next cycle if someone waits and none runs. While held nobody flushes: nothing may be acknowledged.
    pub(super) fn start_cycle_if_wanted(&mut self, out: &mut Vec<Effect>) {
        if self.flushing.cycle.is_none() && !self.flushing.next.is_empty() {
            if self.path() == Path::Held {
                self.hold(out);
                return;
            }
            self.start_cycle(out);
        } else if self.flushing.cycle.as_ref().is_some_and(|cycle| cycle.local == Leg::Idle)
            && !self.flushing.next.is_empty()
        {
            // A client waits behind a periodic cycle that waits for writes: it must not.
            self.flush_here(out);
        }
    }

    /// Begins a cycle, for the clients that wait or for nobody.
    pub(super) fn start_cycle(&mut self, out: &mut Vec<Effect>) {
        assert!(self.flushing.cycle.is_none(), "one cycle at a time");
        let path = self.path();
        self.flushing.numbers += 1;
        self.flushing.began = self.now;
        let number = self.flushing.numbers;
        let waiters = std::mem::take(&mut self.flushing.next);
        let urgent = !waiters.is_empty();
        let mut cycle =
            Cycle { number, upto: self.sequence, local: Leg::Idle, remote: Leg::Waived, waiters, covers: false };
        if matches!(path, Path::Mirrored | Path::Forward) && self.drives_the_peer() {
            cycle.remote = Leg::Busy;
            self.unstable.close(number);
            self.send(Message::Flush { cycle: number }, out);
        }
        if self.disk == DiskState::Diskless {
            cycle.local = Leg::Waived;
        }
        self.flushing.cycle = Some(cycle);
        if urgent || self.finished_upto(self.sequence) {
            self.flush_here(out);
        }
        self.end_cycle_if_over(out);
    }

    /// Whether this node's frames are what the peer writes: a secondary that receives has nothing to ask for.
    fn drives_the_peer(&self) -> bool {
        self.role == Role::Primary || self.session.as_ref().is_some_and(|session| session.is_copying())
    }

    /// Whether the local leg of every mutation up to `order` is done.
    pub(super) fn finished_upto(&self, order: u64) -> bool {
        [&self.unfinished, &self.gated].iter().all(|orders| orders.first().is_none_or(|first| *first > order))
    }

    fn flush_here(&mut self, out: &mut Vec<Effect>) {
        let Some(cycle) = &self.flushing.cycle else { return };
        if cycle.local != Leg::Idle {
            return;
        }
        let (number, covers) = (cycle.number, self.finished_upto(cycle.upto));
        let cycle = self.flushing.cycle.as_mut().expect("a cycle runs");
        cycle.local = Leg::Busy;
        cycle.covers = covers;
        self.disk_op(Op::Cycle(number), DiskIo::Flush, out);
    }

    /// A local leg ended: who waited for it goes on.
    pub(super) fn local_progress(&mut self, out: &mut Vec<Effect>) {
        if let Some(cycle) = &self.flushing.cycle
            && cycle.local == Leg::Idle
            && self.finished_upto(cycle.upto)
        {
            self.flush_here(out);
        }
        self.door_step(out);
        self.source_flush_step(out);
    }

    /// The flush under way ended: the next one begins, and those whose it was go on.
    pub(super) fn flush_done(&mut self, result: Result<(), DiskError>, out: &mut Vec<Effect>) {
        let ended = std::mem::take(&mut self.flushes.running);
        if result.is_ok() && self.disk != DiskState::Diskless && !self.flushes.waiting.is_empty() {
            self.flushes.running = std::mem::take(&mut self.flushes.waiting);
            let op = self.op(Op::Flush);
            out.push(Effect::Disk { op, io: DiskIo::Flush });
        }
        for op in ended {
            self.flushed(op, result, out);
        }
    }

    /// The disk is given up: who waits for a flush that did not begin, waits no longer.
    pub(super) fn abandon_flushes(&mut self, out: &mut Vec<Effect>) {
        for op in std::mem::take(&mut self.flushes.waiting) {
            self.flushed(op, Err(DiskError::NoDisk), out);
        }
    }

    fn flushed(&mut self, op: Op, result: Result<(), DiskError>, out: &mut Vec<Effect>) {
        match op {
            Op::Barrier(number) => self.barrier_flushed(number, result, out),
            Op::Cycle(number) => self.cycle_flushed_here(number, result, out),
            Op::Door => self.door_flushed(result, out),
            Op::SourceFlush(session) => self.source_flushed(session, result, out),
            other => unreachable!("{other:?} is no flush"),
        }
    }

    /// The local disk flushed.
    pub(super) fn cycle_flushed_here(&mut self, number: u64, result: Result<(), DiskError>, out: &mut Vec<Effect>) {
        if let Err(error) = result {
            // A failed flush is final: what the cache held may be gone, and a second flush would not say so (I17).
            self.flush_failed("a flush", error, out);
            return;
        }
        let Some(cycle) = self.flushing.cycle.as_mut().filter(|cycle| cycle.number == number) else { return };
        cycle.local = Leg::Done;
        if cycle.covers && cycle.remote != Leg::Waived {
            self.send(Message::PrimaryDurable { cycle: number }, out);
        }
        self.end_cycle_if_over(out);
    }

    /// The peer flushed everything sent before the cycle began.
    pub(super) fn cycle_flushed_there(&mut self, number: u64, out: &mut Vec<Effect>) {
        self.unstable.stable(number);
        let Some(cycle) = self.flushing.cycle.as_mut().filter(|cycle| cycle.number == number) else { return };
        cycle.remote = Leg::Done;
        self.record(Kind::Flush, Stage::PeerFlush, self.flushing.began);
        self.end_cycle_if_over(out);
    }

    fn end_cycle_if_over(&mut self, out: &mut Vec<Effect>) {
        let asynchronous = self.settings.mode == Mode::Async;
        let Some(cycle) = self.flushing.cycle.as_mut() else { return };
        let local = matches!(cycle.local, Leg::Done | Leg::Waived);
        let remote = matches!(cycle.remote, Leg::Done | Leg::Waived);
        // An asynchronous volume promises durability here only.
        if local && (remote || asynchronous && cycle.local == Leg::Done) {
            for key in std::mem::take(&mut cycle.waiters) {
                self.reply(key, Ok(()), out);
                self.free_slot(key, out);
            }
        }
        if !(local && remote) {
            return;
        }
        let cycle = self.flushing.cycle.take().expect("a cycle runs");
        self.flushing.completed = cycle.number;
        if cycle.covers && cycle.remote == Leg::Done && self.is_joined() {
            self.flushing.stable = cycle.upto;
        }
        self.start_cycle_if_wanted(out);
        self.drained_step(out);
        self.stop_step(out);
    }

    /// The path ended under a cycle: its clients wait for the next one, on whatever path there will be.
    pub(super) fn abandon_cycle(&mut self) {
        if let Some(mut cycle) = self.flushing.cycle.take() {
            cycle.waiters.append(&mut self.flushing.next);
            self.flushing.next = cycle.waiters;
        }
    }

    /// Fails every client's flush that waits: nobody will serve it here.
    pub(super) fn fail_flushes(&mut self, error: RequestError, out: &mut Vec<Effect>) {
        self.abandon_cycle();
        for key in std::mem::take(&mut self.flushing.next) {
            // Freeing one may take a stop's next step, which fails the others itself.
            if self.slots.get(key).is_some() {
                self.reply(key, Err(error), out);
                self.free_slot(key, out);
            }
        }
    }
}
