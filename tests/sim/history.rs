//! What clients saw, checked: every sector is a register, and every run of it must be linearizable.
//!
//! - A write that was never answered (its client gave it up) may take effect at any later time, or never.
//! - At a *declared* cache loss an acknowledged write may vanish, if it was not flushed and every node that held it lost
//!   its cache since. Nothing else ever vanishes.
//! - Reads are monotone, since that is part of linearizability.
//!
//! The check is just-in-time linearization: the set of all states a register may be in is carried along, and a return
//! that no state explains is the violation. A register is worked off whenever nobody waits for an answer about it, so
//! that every read's value is known when its turn comes.
//!
//! What keeps the set small: a pending write that began before the current value took effect may have taken effect just
//! before it, seen by nobody. Such a write is neither done nor not done but *free*, and needs no state of its own.

use super::content::{SECTOR, Value, ZEROES};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use twinblock::base::range::ByteRange;
use twinblock::base::time::Moment;

/// A client's operation, unique in a run. A write's is also the value it writes.
pub type OpNumber = u64;

/// Which nodes held a write when it was acknowledged: bit 0 for node 0, bit 1 for node 1.
pub type Holders = u8;

#[derive(Clone, Copy, Debug)]
enum Event {
    Write { op: OpNumber, value: Value, at: Moment },
    Read { op: OpNumber },
    WriteDone { op: OpNumber, at: Moment, holders: Holders, durable: bool },
    ReadDone { op: OpNumber, value: Value },
    Expired { op: OpNumber },
    CacheLost { at: Moment, flushed_before: Moment, lost: [Moment; 2] },
    Is { value: Value },
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
struct Candidate {
    op: OpNumber,
    value: Value,
    began: Moment,
    acknowledged: Option<(Moment, Holders)>,
    durable: bool,
    /// It came through a cache loss; of several such, one was true.
    reborn: bool,
}

#[derive(Clone, Default)]
struct Register {
    events: Vec<Event>,
    /// Events worked off.
    clock: u64,
    /// Operations begun and neither answered nor given up.
    open: u32,
    states: Vec<State>,
    pending: Vec<Pending>,
    candidates: Vec<Candidate>,
    /// There were too many states to go on with.
    track_lost: bool,
    /// What may be lost by force is lost: nothing is demanded.
    unchecked: bool,
    /// How many were left when they were last thinned out.
    thinned_to: usize,
    /// Worked-off events, for the report of a violation.
    past: Vec<Event>,
}

/// One line of content: what clients of one primary after the other see. Only a forced promotion begins another.
#[derive(Clone)]
struct Line {
    registers: Vec<Register>,
    /// When the newest answered flush was asked for: what was acknowledged before is durable.
    flushed_before: Moment,
}

struct Open {
    line: usize,
    range: ByteRange,
    /// Earlier tries of the same operation, given up.
    tries: Vec<OpNumber>,
}

/// The history of one run.
pub struct History {
    lines: Vec<Line>,
    open: BTreeMap<OpNumber, Open>,
    /// Registers (line, sector) with many writes that a loss could bring back.
    crowded: Vec<(usize, usize)>,
}

/// Writes that could come back, beyond which a look at the disks tells which really could.
const CANDIDATES_MANY: usize = 40;
/// The same, when a loss is declared: the sessions are over, so that nothing is on its way to a disk.
const CANDIDATES_FEW: usize = 8;
/// Acknowledged writes younger than this may be on neither disk yet, in a peer's memory.
const YOUNG: Duration = Duration::from_secs(5);

/// States of one register beyond which the checker stops telling them apart.
const STATES_MAX: usize = 64;

/// Events of a register kept for a report.
const PAST_EVENTS: usize = 40;

fn sectors(range: ByteRange) -> std::ops::Range<usize> {
    (range.offset / SECTOR as u64) as usize..(range.end() / SECTOR as u64) as usize
}

impl History {
    /// The history of a volume of zeroes.
    pub fn new(volume_bytes: u64) -> History {
        let registers = vec![Register::default(); volume_bytes as usize / SECTOR];
        History {
            lines: vec![Line { registers, flushed_before: Moment(0) }],
            open: BTreeMap::new(),
            crowded: Vec::new(),
        }
    }

    /// A history that demands nothing, for runs in which the operator uses force.
    pub fn unchecked(volume_bytes: u64) -> History {
        let mut history = History::new(volume_bytes);
        history.lines[0].registers.iter_mut().for_each(|register| register.unchecked = true);
        history
    }

    /// A client asks for a write (of zeroes, when `value` says so).
    pub fn write_began(&mut self, line: usize, op: OpNumber, value: Value, range: ByteRange, at: Moment) {
        self.begin(line, op, range, Event::Write { op, value, at });
    }

    /// A client asks for a read.
    pub fn read_began(&mut self, line: usize, op: OpNumber, range: ByteRange) {
        self.begin(line, op, range, Event::Read { op });
    }

    fn begin(&mut self, line: usize, op: OpNumber, range: ByteRange, event: Event) {
        let fresh = self.open.insert(op, Open { line, range, tries: Vec::new() }).is_none();
        assert!(fresh, "operation {op} begins twice");
        for register in &mut self.lines[line].registers[sectors(range)] {
            register.events.push(event);
            register.open += 1;
        }
    }

    /// The client was told that its write is done; `durable` when it had asked for that.
    pub fn write_done(&mut self, op: OpNumber, at: Moment, holders: Holders, durable: bool) {
        self.end(op, |_| Some(Event::WriteDone { op, at, holders, durable }));
    }

    /// The client got its read's answer: one value per sector.
    pub fn read_done(&mut self, op: OpNumber, values: &[Value]) {
        self.end(op, |index| Some(Event::ReadDone { op, value: values[index] }));
    }

    /// The client will never learn how this ended.
    pub fn given_up(&mut self, op: OpNumber) {
        self.end(op, |_| None);
    }

    /// The client asks again by another connection: `old` may still take effect, but not after `new` is answered.
    pub fn asked_again(&mut self, old: OpNumber, new: OpNumber, value: Option<Value>, at: Moment) {
        let Open { line, range, tries } = self.open.remove(&old).expect("only what began is asked again");
        self.open.insert(old, Open { line, range, tries: Vec::new() });
        match value {
            Some(value) => self.write_began(line, new, value, range, at),
            None => self.read_began(line, new, range),
        }
        self.given_up(old);
        let open = self.open.get_mut(&new).expect("just begun");
        open.tries = tries;
        open.tries.push(old);
    }

    fn end(&mut self, op: OpNumber, event: impl Fn(usize) -> Option<Event>) {
        let Open { line, range, tries } = self.open.remove(&op).expect("only what began ends");
        let number = line;
        let line = &mut self.lines[line];
        for (index, sector) in sectors(range).enumerate() {
            let register = &mut line.registers[sector];
            if let Some(event) = event(index) {
                register.events.push(event);
                register.events.extend(tries.iter().map(|op| Event::Expired { op: *op }));
            }
            register.open -= 1;
            if register.open == 0 {
                register.work_off(sector, line.flushed_before);
                if register.candidates.len() > CANDIDATES_MANY.max(2 * register.thinned_to) {
                    self.crowded.push((number, sector));
                }
            }
        }
    }

    /// Forgets old writes that are on no disk any more: nothing brings them back. `on_disks` names what a sector holds
    /// or may hold after a power loss.
    pub fn thin_out(&mut self, now: Moment, on_disks: impl Fn(usize) -> Vec<Value>) {
        for (line, sector) in std::mem::take(&mut self.crowded) {
            let register = &mut self.lines[line].registers[sector];
            // A write under way may have overwritten what a read under way returns.
            if register.open > 0 {
                continue;
            }
            let there = on_disks(sector);
            register.candidates.retain(|candidate| {
                candidate.acknowledged.is_none_or(|(at, _)| now.since(at) < YOUNG) || there.contains(&candidate.value)
            });
            register.thinned_to = register.candidates.len();
        }
    }

    /// A flush asked for at `asked` was answered.
    pub fn flushed(&mut self, line: usize, asked: Moment) {
        let line = &mut self.lines[line];
        line.flushed_before = line.flushed_before.max(asked);
    }

    /// Clients were told that acknowledged writes may be lost. `lost` is when each node last lost its cache.
    pub fn cache_lost(&mut self, line: usize, at: Moment, lost: [Moment; 2], on_disks: impl Fn(usize) -> Vec<Value>) {
        let line = &mut self.lines[line];
        for (sector, register) in line.registers.iter_mut().enumerate() {
            if register.open == 0 && register.candidates.len() > CANDIDATES_FEW {
                let there = on_disks(sector);
                let possible =
                    |candidate: &Candidate| candidate.acknowledged.is_none() || there.contains(&candidate.value);
                register.candidates.retain(possible);
            }
        }
        let event = Event::CacheLost { at, flushed_before: line.flushed_before, lost };
        for register in &mut line.registers {
            register.events.push(event);
        }
    }

    /// A forced promotion: from here on, clients of the new primary see what its disk held.
    pub fn forked(&mut self, line: usize, content: &[u8]) -> usize {
        let mut fork = self.lines[line].clone();
        for (sector, bytes) in content.chunks_exact(SECTOR).enumerate().take(fork.registers.len()) {
            let value = super::content::identify(bytes, sector as u64);
            let value = value.unwrap_or_else(|| panic!("sector {sector} is forced to serve a mixture"));
            let register = &mut fork.registers[sector];
            register.events.push(Event::Is { value });
            register.open = 0;
        }
        self.lines.push(fork);
        self.lines.len() - 1
    }

    /// Works off what is left; open operations count as given up.
    pub fn finish(&mut self) {
        for op in self.open.keys().copied().collect::<Vec<_>>() {
            self.given_up(op);
        }
        for line in &mut self.lines {
            for (sector, register) in line.registers.iter_mut().enumerate() {
                register.work_off(sector, line.flushed_before);
            }
        }
    }
}

impl Register {
    fn work_off(&mut self, sector: usize, flushed_before: Moment) {
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
        if self.unchecked {
            return;
        }
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
            Event::Is { value } => {
                self.track_lost = false;
                self.states = vec![State { value, since: began, used: 0, seen: 0 }];
                self.candidates.retain(|candidate| candidate.acknowledged.is_none());
            }
        }
    }

    fn push_pending(&mut self, pending: Pending) {
        assert!(self.pending.len() < 127, "too many operations on one sector for the checker");
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
        if self.states.iter().any(|other| self.covers(other, &state)) {
            return false;
        }
        let mut states = std::mem::take(&mut self.states);
        states.retain(|other| !self.covers(&state, other));
        states.push(state);
        self.states = states;
        true
    }

    /// Whether whatever can follow `b` can follow `a`.
    fn covers(&self, a: &State, b: &State) -> bool {
        if a.value != b.value || a.since < b.since || b.seen & !a.seen != 0 || a.used & !b.used != 0 {
            return false;
        }
        // What only `b` has used must be free in `a`, if it is to be answered.
        let mut only_b = b.used & !a.used;
        while only_b != 0 {
            let pending = &self.pending[only_b.trailing_zeros() as usize];
            if pending.answered && pending.began >= a.since {
                return false;
            }
            only_b &= only_b - 1;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    const RANGE: ByteRange = ByteRange::new(0, SECTOR as u64);

    struct Script {
        history: History,
        clock: u64,
    }

    impl Script {
        fn new() -> Script {
            Script { history: History::new(SECTOR as u64), clock: 0 }
        }
        fn now(&mut self) -> Moment {
            self.clock += 1;
            Moment(self.clock)
        }
        fn write(&mut self, op: OpNumber) -> &mut Script {
            let at = self.now();
            self.history.write_began(0, op, op, RANGE, at);
            self
        }
        fn done(&mut self, op: OpNumber) -> &mut Script {
            let at = self.now();
            self.history.write_done(op, at, 3, false);
            self
        }
        fn given_up(&mut self, op: OpNumber) -> &mut Script {
            self.history.given_up(op);
            self
        }
        fn flush(&mut self) -> &mut Script {
            let at = self.now();
            self.history.flushed(0, at);
            self
        }
        fn lose_both(&mut self) -> &mut Script {
            let at = self.now();
            self.history.cache_lost(0, at, [at, at], |_| Vec::new());
            self
        }
        fn lose_one(&mut self) -> &mut Script {
            let at = self.now();
            self.history.cache_lost(0, at, [at, Moment(0)], |_| Vec::new());
            self
        }
        fn reads(&mut self, value: Value) -> bool {
            self.clock += 1;
            let op = 1_000_000 + self.clock;
            self.history.read_began(0, op, RANGE);
            catch_unwind(AssertUnwindSafe(|| self.history.read_done(op, &[value]))).is_ok()
        }
    }

    #[test]
    fn the_newest_acknowledged_write_is_read_and_no_older_one() {
        assert!(Script::new().write(1).done(1).reads(1));
        assert!(!Script::new().write(1).done(1).reads(ZEROES));
        assert!(!Script::new().write(1).done(1).write(2).done(2).reads(1));
        assert!(!Script::new().reads(9), "a value nobody wrote");
    }

    #[test]
    fn concurrent_writes_take_either_order_but_one_only() {
        let concurrent = || {
            let mut script = Script::new();
            script.write(1).write(2).done(1).done(2);
            script
        };
        assert!(concurrent().reads(1));
        assert!(concurrent().reads(2));
        let mut both = concurrent();
        assert!(both.reads(1) && !both.reads(2), "reads went back and forth");
    }

    #[test]
    fn a_write_given_up_may_appear_later_but_not_disappear() {
        let mut script = Script::new();
        script.write(1).done(1).write(2).given_up(2);
        assert!(script.reads(1));
        assert!(script.reads(2));
        assert!(!script.reads(1));
    }

    #[test]
    fn an_earlier_try_takes_effect_before_the_later_one_is_answered_or_never() {
        let tried_twice = || {
            let mut script = Script::new();
            script.write(1);
            let at = script.now();
            script.history.asked_again(1, 2, Some(1), at);
            script
        };
        let mut script = tried_twice();
        assert!(script.reads(1), "the first try took effect");
        script.write(3).done(3).done(2);
        assert!(script.reads(1), "then the second one");
        let mut script = tried_twice();
        script.done(2).write(3).done(3);
        assert!(!script.reads(1), "an old try over newer data");
    }

    #[test]
    fn a_concurrent_read_may_see_either_side_of_a_write() {
        for value in [ZEROES, 1] {
            let mut script = Script::new();
            script.write(1);
            script.history.read_began(0, 50, RANGE);
            script.done(1);
            script.history.read_done(50, &[value]);
            assert!(script.reads(1));
        }
    }

    #[test]
    fn only_a_declared_loss_takes_back_an_unflushed_write() {
        let written = || {
            let mut script = Script::new();
            script.write(1).done(1).flush().write(2).done(2).write(3).done(3);
            script
        };
        assert!(!written().reads(2));
        assert!(written().lose_both().reads(3));
        assert!(written().lose_both().reads(2));
        assert!(written().lose_both().reads(1));
        assert!(!written().lose_both().reads(ZEROES), "a flushed write vanished");
        assert!(!written().flush().lose_both().reads(2), "a flushed write vanished");
        assert!(!written().lose_one().reads(2), "the other node had kept it");
        let mut settled = written();
        settled.lose_both();
        assert!(settled.reads(2) && !settled.reads(3), "a lost write came back");
        let mut twice = written();
        assert!(twice.lose_both().reads(2));
        assert!(twice.flush().write(4).done(4).lose_both().reads(2), "what a loss left is what the next one may leave");
        assert!(!written().lose_both().flush().lose_both().reads(ZEROES));
    }

    #[test]
    fn a_fork_sees_what_the_disk_held() {
        let mut script = Script::new();
        script.write(1).done(1).write(2).done(2);
        let mut disk = [0u8; SECTOR];
        super::super::content::fill(1, 0, &mut disk);
        let line = script.history.forked(0, &disk);
        script.history.read_began(line, 70, RANGE);
        script.history.read_done(70, &[1]);
        assert!(script.reads(2), "the other line goes on");
    }
}
