//! One sector's register, checked by just-in-time linearization: the set of all states it may be in is carried along, and
//! a return that no state explains is the violation.
//!
//! What keeps the set small: a pending write that began before the current value took effect may have taken effect just
//! before it, seen by nobody. Such a write is neither done nor not done but *free*, and needs no state of its own.

use super::content::{Value, ZEROES};
use super::history::{Holders, OpNumber};
use std::fmt::Write as _;
use twinblock::base::time::Moment;

/// States of one register beyond which the checker stops telling them apart.
const STATES_MAX: usize = 64;

/// Pending operations of one register beyond which it forgets them: the states have a bit for each.
const PENDING_MAX: usize = 120;

/// Events of a register kept for a report.
const PAST_EVENTS: usize = 40;

/// What happened to a sector.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Write {
        op: OpNumber,
        value: Value,
        at: Moment,
    },
    Read {
        op: OpNumber,
    },
    WriteDone {
        op: OpNumber,
        at: Moment,
        holders: Holders,
        durable: bool,
    },
    ReadDone {
        op: OpNumber,
        value: Value,
    },
    Expired {
        op: OpNumber,
    },
    CacheLost {
        at: Moment,
        flushed_before: Moment,
        lost: [Moment; 2],
    },
    /// Anything acknowledged may be gone, or be back, though nobody declared it.
    BufferLost,
    Is {
        value: Value,
        at: Moment,
    },
}

/// An operation that began and may still take effect.
#[derive(Clone, Copy)]
struct Pending {
    op: OpNumber,
    /// What it writes, or what it will have read.
    value: Value,
    read: bool,
    /// It will be answered (false: its client gave it up).
    answered: bool,
    /// Number of the event with which it began.
    began: u64,
}

/// One state a register may be in.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    value: Value,
    /// The value took effect just after this event: pending writes that began before are free.
    since: u64,
    /// Pending writes that were the value at some time, by index.
    used: u128,
    /// Pending reads that have seen what they will return, by index.
    seen: u128,
}

/// A write that a declared cache loss may bring back to light, by losing all that came after it.
#[derive(Clone, Copy)]
pub struct Candidate {
    op: OpNumber,
    pub value: Value,
    began: Moment,
    pub acknowledged: Option<(Moment, Holders)>,
    durable: bool,
    /// It came through a cache loss; of several such, one was true.
    reborn: bool,
}

#[derive(Clone, Default)]
pub struct Register {
    pub events: Vec<Event>,
    /// Events worked off.
    clock: u64,
    /// Operations begun and neither answered nor given up.
    pub open: u32,
    states: Vec<State>,
    pending: Vec<Pending>,
    pub candidates: Vec<Candidate>,
    /// There were too many states to go on with.
    track_lost: bool,
    /// How many were left when they were last thinned out.
    pub thinned_to: usize,
    /// Worked-off events, for the report of a violation.
    past: Vec<Event>,
}

impl Register {
    /// Takes in what happened, now that nobody waits for an answer.
    pub fn work_off(&mut self, sector: usize, flushed_before: Moment) {
        if self.events.is_empty() {
            return;
        }
        if self.states.is_empty() && !self.track_lost {
            self.states.push(State { value: ZEROES, since: 0, used: 0, seen: 0 });
            self.candidates.push(Candidate {
                op: 0,
                value: ZEROES,
                began: Moment(0),
                acknowledged: Some((Moment(0), 3)),
                durable: true,
                reborn: false,
            });
        }
        let events = std::mem::take(&mut self.events);
        for (index, event) in events.iter().enumerate() {
            self.past.push(*event);
            self.take(*event, &events[index..], sector);
        }
        self.past.drain(..self.past.len().saturating_sub(PAST_EVENTS));
        self.forget_what_is_flushed_over(flushed_before);
    }

    fn take(&mut self, event: Event, rest: &[Event], sector: usize) {
        self.clock += 1;
        let began = self.clock;
        match event {
            Event::Write { op, value, at } => {
                let answered = rest.iter().any(|later| matches!(later, Event::WriteDone { op: o, .. } if *o == op));
                self.push_pending(Pending { op, value, read: false, answered, began });
                self.candidates.push(Candidate {
                    op,
                    value,
                    began: at,
                    acknowledged: None,
                    durable: false,
                    reborn: false,
                });
            }
            Event::Read { op } => {
                let value = rest.iter().find_map(|later| match later {
                    Event::ReadDone { op: o, value } if *o == op => Some(*value),
                    _ => None,
                });
                if let Some(value) = value {
                    self.push_pending(Pending { op, value, read: true, answered: true, began });
                }
            }
            Event::WriteDone { op, at, holders, durable } => {
                let candidate = self.candidates.iter_mut().find(|candidate| candidate.op == op);
                if let Some(candidate) = candidate {
                    candidate.acknowledged = Some((at, holders));
                    candidate.durable = durable;
                }
                self.resolve(op, event, sector);
            }
            Event::ReadDone { op, value } => {
                self.resolve(op, event, sector);
                let mut same = self.candidates.iter().filter(|candidate| candidate.value == value).peekable();
                if same.peek().is_some() && same.all(|candidate| candidate.reborn) {
                    self.candidates.retain(|candidate| !candidate.reborn || candidate.value == value);
                }
            }
            Event::Expired { op } => self.expire(op),
            Event::CacheLost { at, flushed_before, lost } => self.lose(at, flushed_before, lost),
            Event::BufferLost => self.anything_may_be_back(),
            Event::Is { value, at } => {
                self.track_lost = false;
                self.states = vec![State { value, since: began, used: 0, seen: 0 }];
                self.candidates.retain(|candidate| candidate.acknowledged.is_none());
                let acknowledged = Some((at, 3));
                self.candidates.push(Candidate { op: 0, value, began: at, acknowledged, durable: true, reborn: false });
            }
        }
    }

    fn push_pending(&mut self, pending: Pending) {
        if self.pending.len() >= PENDING_MAX {
            // Mostly writes whose clients gave them up long ago; as candidates they are still known.
            self.pending.clear();
            self.lose_track();
        }
        self.pending.push(pending);
    }

    /// An operation returned: it took effect in every state that goes on.
    fn resolve(&mut self, op: OpNumber, event: Event, sector: usize) {
        let Some(index) = self.pending.iter().position(|pending| pending.op == op) else { return };
        self.close_over_pending();
        if self.track_lost {
            return self.find_track(index, event, sector);
        }
        let before: Vec<Value> = self.states.iter().map(|state| state.value).collect();
        let (bit, pending) = (1u128 << index, self.pending[index]);
        self.states
            .retain(|state| (state.used | state.seen) & bit != 0 || (!pending.read && pending.began < state.since));
        if self.states.is_empty() {
            panic!("{}", self.report(event, sector, before));
        }
        self.remove_pending(index);
    }

    /// An operation takes effect no more; it may have.
    fn expire(&mut self, op: OpNumber) {
        let Some(index) = self.pending.iter().position(|pending| pending.op == op) else { return };
        self.close_over_pending();
        self.remove_pending(index);
        self.candidates.retain(|candidate| candidate.op != op);
    }

    fn remove_pending(&mut self, index: usize) {
        let below = (1u128 << index) - 1;
        let without = |mask: u128| (mask & below) | ((mask >> 1) & !below);
        for state in &mut self.states {
            (state.used, state.seen) = (without(state.used), without(state.seen));
        }
        self.pending.remove(index);
        for state in std::mem::take(&mut self.states) {
            self.add(state);
        }
    }

    /// Adds every state that pending operations could have led to by now.
    fn close_over_pending(&mut self) {
        let pending = self.pending.iter().enumerate();
        let reads: Vec<(Value, u128)> =
            pending.filter(|(_, pending)| pending.read).map(|(index, pending)| (pending.value, 1 << index)).collect();
        let reads_of = |value: Value| reads.iter().filter(|read| read.0 == value).fold(0, |mask, read| mask | read.1);
        let mut work = Vec::new();
        for mut state in std::mem::take(&mut self.states) {
            state.seen |= reads_of(state.value);
            if self.add(state) {
                work.push(state);
            }
        }
        while let Some(state) = work.pop() {
            if self.states.len() > STATES_MAX {
                self.lose_track();
                return;
            }
            for index in 0..self.pending.len() {
                let (pending, bit) = (self.pending[index], 1u128 << index);
                if pending.read || state.used & bit != 0 {
                    continue;
                }
                let seen = state.seen | reads_of(pending.value);
                let next = State { value: pending.value, since: self.clock, used: state.used | bit, seen };
                // A value between that no read sees is as good as skipped.
                if self.add(next) && seen != state.seen {
                    work.push(next);
                }
            }
        }
    }

    /// Too many possibilities to tell apart: until a read says what the value is, anything that was written is possible.
    /// Misses violations, never invents one.
    fn lose_track(&mut self) {
        self.track_lost = true;
        self.states.clear();
    }

    /// [`Register::resolve`] when track was lost.
    fn find_track(&mut self, index: usize, event: Event, sector: usize) {
        let Pending { value, read, .. } = self.pending[index];
        if read {
            let written = self.candidates.iter().any(|candidate| candidate.value == value)
                || self.pending.iter().any(|pending| !pending.read && pending.value == value);
            assert!(written, "{}", self.report(event, sector, Vec::new()));
            self.track_lost = false;
            self.states = vec![State { value, since: self.clock, used: 0, seen: 0 }];
        }
        self.remove_pending(index);
    }

    /// Adds a state unless another one can do all that it can; says whether it was added.
    fn add(&mut self, state: State) -> bool {
        if self.states.iter().any(|other| covers(&self.pending, other, &state)) {
            return false;
        }
        self.states.retain(|other| !covers(&self.pending, &state, other));
        self.states.push(state);
        true
    }

    fn lose(&mut self, at: Moment, flushed_before: Moment, lost: [Moment; 2]) {
        self.close_over_pending();
        let kept = |candidate: &Candidate| match candidate.acknowledged {
            None => false,
            Some((at, holders)) => {
                let somebody_kept_it = (0..2).any(|node| holders & (1 << node) != 0 && lost[node] < at);
                candidate.durable || at < flushed_before || somebody_kept_it
            }
        };
        let newest_kept = self.candidates.iter().filter(|candidate| kept(candidate)).map(|kept| kept.began).max();
        let hidden = |candidate: &Candidate| candidate.acknowledged.is_some_and(|(at, _)| newest_kept > Some(at));
        let mut left: Vec<Candidate> = self.candidates.iter().filter(|candidate| !hidden(candidate)).copied().collect();
        for candidate in left.iter_mut().filter(|candidate| candidate.acknowledged.is_some()) {
            *candidate =
                Candidate { began: at, acknowledged: Some((at, 0)), durable: false, reborn: true, ..*candidate };
        }
        for candidate in left.iter().filter(|_| !self.track_lost).copied().collect::<Vec<_>>() {
            self.add(State { value: candidate.value, since: self.clock, used: 0, seen: 0 });
        }
        self.candidates = left;
    }

    fn anything_may_be_back(&mut self) {
        self.close_over_pending();
        if self.track_lost {
            return;
        }
        let acknowledged = self.candidates.iter().filter(|candidate| candidate.acknowledged.is_some());
        let values: Vec<Value> = acknowledged.map(|candidate| candidate.value).collect();
        for value in values {
            self.add(State { value, since: self.clock, used: 0, seen: 0 });
        }
    }

    /// A write that a flushed one came after can't resurface.
    fn forget_what_is_flushed_over(&mut self, flushed_before: Moment) {
        let newest = self.candidates.iter().filter_map(|candidate| {
            let (at, _) = candidate.acknowledged?;
            (candidate.durable || at < flushed_before).then_some(candidate.began)
        });
        let Some(newest) = newest.max() else { return };
        self.candidates.retain(|candidate| candidate.acknowledged.is_none_or(|(at, _)| at >= newest));
        let still_pending = |op: OpNumber| self.pending.iter().any(|pending| pending.op == op);
        self.candidates.retain(|candidate| candidate.acknowledged.is_some() || still_pending(candidate.op));
    }

    fn report(&self, event: Event, sector: usize, explained: Vec<Value>) -> String {
        let mut text =
            format!("sector {sector} is not linearizable at {event:?}\n  values possible there: {explained:?}\n");
        for event in &self.past {
            let _ = writeln!(text, "  before: {event:?}");
        }
        for pending in &self.pending {
            let kind = if pending.read { "read" } else { "write" };
            let _ = writeln!(text, "  pending: {kind} {} of value {}", pending.op, pending.value);
        }
        text
    }
}

/// Whether whatever can follow `b` can follow `a`.
fn covers(pending: &[Pending], a: &State, b: &State) -> bool {
    if a.value != b.value || a.since < b.since || b.seen & !a.seen != 0 || a.used & !b.used != 0 {
        return false;
    }
    // What only `b` has used must be free in `a`, if it is to be answered.
    let mut only_b = b.used & !a.used;
    while only_b != 0 {
        let only = &pending[only_b.trailing_zeros() as usize];
        if only.answered && only.began >= a.since {
            return false;
        }
        only_b &= only_b - 1;
    }
    true
}
