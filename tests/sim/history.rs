//! What clients saw, checked: every sector is a register, and every run of it must be linearizable.
//!
//! - A write that was never answered (its client gave it up) may take effect at any later time, or never.
//! - At a *declared* cache loss an acknowledged write may vanish, if it was not flushed and every node that held it lost
//!   its cache since. Nothing else ever vanishes.
//! - Reads are monotone, since that is part of linearizability.
//!
//! A register ([`super::register`]) is worked off whenever nobody waits for an answer about it, so that every read's value
//! is known when its turn comes.

use super::content::{SECTOR, Value};
use super::register::{Candidate, Event, Register};
use std::collections::BTreeMap;
use std::time::Duration;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::time::Moment;

/// A client's operation, unique in a run. A write's is also the value it writes.
pub type OpNumber = u64;

/// Which nodes held a write when it was acknowledged: bit 0 for node 0, bit 1 for node 1.
pub type Holders = u8;

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
    /// Which sectors of a block are checked, one bit each.
    watched: u8,
}

/// Writes that could come back, beyond which a look at the disks tells which really could.
const CANDIDATES_MANY: usize = 40;
/// The same, when a loss is declared: the sessions are over, so that nothing is on its way to a disk.
const CANDIDATES_FEW: usize = 8;
/// Acknowledged writes younger than this may be on neither disk yet, in a peer's memory.
const YOUNG: Duration = Duration::from_secs(5);

/// Sectors of a block.
const SECTORS: usize = BLOCK as usize / SECTOR;

/// The sectors of a range that are watched, each with its place in the range.
fn sectors(range: ByteRange, watched: u8) -> impl Iterator<Item = (usize, usize)> {
    let all = (range.offset / SECTOR as u64) as usize..(range.end() / SECTOR as u64) as usize;
    all.enumerate().filter(move |(_, sector)| watched & 1 << (sector % SECTORS) != 0)
}

impl History {
    /// The history of a volume of zeroes. Of each block the sectors in `watched` are checked: most operations are of whole
    /// blocks, so that the others have nothing else to tell, and another run watches those.
    pub fn new(volume_bytes: u64, watched: u8) -> History {
        let registers = vec![Register::default(); volume_bytes as usize / SECTOR];
        History {
            lines: vec![Line { registers, flushed_before: Moment(0) }],
            open: BTreeMap::new(),
            crowded: Vec::new(),
            watched,
        }
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
        for (_, sector) in sectors(range, self.watched) {
            let register = &mut self.lines[line].registers[sector];
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
        for (index, sector) in sectors(range, self.watched) {
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
        let watched = self.watched;
        let line = &mut self.lines[line];
        let whole = ByteRange::new(0, (line.registers.len() * SECTOR) as u64);
        for (sector, register) in line.registers.iter_mut().enumerate() {
            if watched & 1 << (sector % SECTORS) == 0 {
                continue;
            }
            if register.open == 0 && register.candidates.len() > CANDIDATES_FEW {
                let there = on_disks(sector);
                let possible =
                    |candidate: &Candidate| candidate.acknowledged.is_none() || there.contains(&candidate.value);
                register.candidates.retain(possible);
            }
        }
        let event = Event::CacheLost { at, flushed_before: line.flushed_before, lost };
        for (_, sector) in sectors(whole, watched) {
            line.registers[sector].events.push(event);
        }
    }

    /// An asynchronous owner's buffer is lost with its disk: an older copy may be served from here on.
    pub fn buffer_lost(&mut self, line: usize) {
        let watched = self.watched;
        let registers = self.lines[line].registers.iter_mut().enumerate();
        for (_, register) in registers.filter(|(sector, _)| watched & 1 << (sector % SECTORS) != 0) {
            register.events.push(Event::BufferLost);
        }
    }

    /// A forced promotion: from here on, clients of the new primary see what its disk held, flushed.
    pub fn forked(&mut self, line: usize, content: &[u8], at: Moment) -> usize {
        let mut fork = self.lines[line].clone();
        let flushed_before = fork.flushed_before;
        for (sector, bytes) in content.chunks_exact(SECTOR).enumerate().take(fork.registers.len()) {
            if self.watched & 1 << (sector % SECTORS) == 0 {
                continue;
            }
            let value = super::content::identify(bytes, sector as u64);
            let value = value.unwrap_or_else(|| panic!("sector {sector} is forced to serve a mixture"));
            let register = &mut fork.registers[sector];
            register.events.push(Event::Is { value, at });
            register.open = 0;
            // What the old line's clients still wait for is nothing to those of this one.
            register.work_off(sector, flushed_before);
        }
        self.lines.push(fork);
        self.lines.len() - 1
    }

    /// A volume that has grown holds this in a sector of its new part.
    pub fn appeared(&mut self, line: usize, sector: usize, bytes: &[u8], at: Moment) {
        if self.watched & 1 << (sector % SECTORS) == 0 {
            return;
        }
        let value = super::content::identify(bytes, sector as u64);
        let value = value.unwrap_or_else(|| panic!("sector {sector} appears with a mixture"));
        let line = &mut self.lines[line];
        let register = &mut line.registers[sector];
        register.events.push(Event::Is { value, at });
        if register.open == 0 {
            register.work_off(sector, line.flushed_before);
        }
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

#[cfg(test)]
mod tests {
    use super::super::content::ZEROES;
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    const RANGE: ByteRange = ByteRange::new(0, SECTOR as u64);

    struct Script {
        history: History,
        clock: u64,
    }

    impl Script {
        fn new() -> Script {
            Script { history: History::new(SECTOR as u64, 1), clock: 0 }
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
        let at = script.now();
        let line = script.history.forked(0, &disk, at);
        script.history.read_began(line, 70, RANGE);
        script.history.read_done(70, &[1]);
        assert!(script.reads(2), "the other line goes on");
    }
}
