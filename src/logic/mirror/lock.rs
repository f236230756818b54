//! Keeps what is under way disjoint (rules R8 and R13).
//!
//! Writes, zeroings and resync chunks hold their range exclusively, reads share it. A newcomer waits for every earlier
//! conflicting entry, active or waiting, so the order is first come first served per range, nobody starves, and
//! nobody waits in a circle. Therefore all frames of one session that are in flight are pairwise disjoint and the peer
//! may apply them in any order; and no read returns bytes of a write that isn't settled.

use crate::base::limits::PIECE_BYTES_MAX;
use crate::base::range::ByteRange;
use std::collections::BTreeMap;

/// A place in the lock; valid until released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u32);

#[derive(Debug)]
struct Entry<O> {
    range: ByteRange,
    exclusive: bool,
    owner: O,
    /// Earlier conflicting entries not yet released.
    blockers: u32,
    /// Later entries that wait for this one.
    waiters: Vec<Ticket>,
}

/// The lock over one volume's bytes. `O` names whom to tell when a waiting entry becomes ready.
#[derive(Debug)]
pub struct RangeLock<O> {
    entries: Vec<Option<Entry<O>>>,
    free: Vec<u32>,
    /// Entries no longer than a piece, by first byte: an overlap query looks back at most one piece.
    short: BTreeMap<(u64, Ticket), u64>,
    /// The others: zeroings and runs of holes. Few.
    long: BTreeMap<(u64, Ticket), u64>,
    /// Reused from query to query.
    scratch: Vec<Ticket>,
    /// Mutant R13: everyone is ready at once.
    open: bool,
}

impl<O: Copy> Default for RangeLock<O> {
    fn default() -> Self {
        RangeLock {
            entries: Vec::new(),
            free: Vec::new(),
            short: BTreeMap::new(),
            long: BTreeMap::new(),
            scratch: Vec::new(),
            open: false,
        }
    }
}

impl<O: Copy> RangeLock<O> {
    /// Breaks the lock on purpose, for the simulator.
    #[cfg(feature = "mutants")]
    pub fn break_open(&mut self) {
        self.open = true;
    }

    /// Takes a place. Returns whether the range is held at once; otherwise `release` will name the owner later.
    pub fn acquire(&mut self, range: ByteRange, exclusive: bool, owner: O) -> (Ticket, bool) {
        let ticket = match self.free.pop() {
            Some(index) => Ticket(index),
            None => {
                self.entries.push(None);
                Ticket(self.entries.len() as u32 - 1)
            }
        };
        let mut blockers = 0;
        let mut scratch = std::mem::take(&mut self.scratch);
        self.overlapping(range, &mut scratch);
        for earlier in scratch.drain(..) {
            let entry = self.entries[earlier.0 as usize].as_mut().expect("an indexed ticket has an entry");
            if (exclusive || entry.exclusive) && !self.open {
                entry.waiters.push(ticket);
                blockers += 1;
            }
        }
        self.scratch = scratch;
        self.index(range).insert((range.offset, ticket), range.end());
        let entry = Entry { range, exclusive, owner, blockers, waiters: Vec::new() };
        self.entries[ticket.0 as usize] = Some(entry);
        (ticket, blockers == 0)
    }

    /// Gives a held place up and appends the owners that now hold theirs.
    pub fn release(&mut self, ticket: Ticket, ready: &mut Vec<O>) {
        let entry = self.entries[ticket.0 as usize].take().expect("a ticket is released once");
        self.index(entry.range).remove(&(entry.range.offset, ticket));
        for waiter in entry.waiters {
            let waiting = self.entries[waiter.0 as usize].as_mut().expect("who waits is never released");
            assert!(waiting.blockers > 0, "a waiter counts every entry it waits for");
            waiting.blockers -= 1;
            if waiting.blockers == 0 {
                ready.push(waiting.owner);
            }
        }
        assert!(entry.blockers == 0 || self.open, "only a held range is released");
        self.free.push(ticket.0);
    }

    /// Names another owner for a place just taken.
    pub fn rename(&mut self, ticket: Ticket, owner: O) {
        self.entries[ticket.0 as usize].as_mut().expect("the ticket was just taken").owner = owner;
    }

    /// Whether any two held entries conflict: never, unless broken on purpose. For `check`.
    pub fn is_sound(&self) -> bool {
        let held: Vec<&Entry<O>> = self.entries.iter().flatten().filter(|e| e.blockers == 0).collect();
        self.open
            || held.iter().enumerate().all(|(n, a)| {
                held[n + 1..].iter().all(|b| !(a.exclusive || b.exclusive) || !a.range.overlaps(&b.range))
            })
    }

    fn index(&mut self, range: ByteRange) -> &mut BTreeMap<(u64, Ticket), u64> {
        if range.length <= PIECE_BYTES_MAX { &mut self.short } else { &mut self.long }
    }

    fn overlapping(&self, range: ByteRange, found: &mut Vec<Ticket>) {
        let first = (range.offset.saturating_sub(PIECE_BYTES_MAX), Ticket(0));
        let after = (range.end(), Ticket(0));
        let short = self.short.range(first..after);
        let long = self.long.range(..after);
        found.extend(short.chain(long).filter(|(_, end)| **end > range.offset).map(|((_, ticket), _)| *ticket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The slow obvious lock: a list in order of arrival; an entry is ready when no earlier one conflicts.
    #[derive(Default)]
    struct Oracle(Vec<(u32, ByteRange, bool)>);

    impl Oracle {
        fn ready(&self) -> Vec<u32> {
            let conflicts = |a: &(u32, ByteRange, bool), b: &(u32, ByteRange, bool)| (a.2 || b.2) && a.1.overlaps(&b.1);
            (0..self.0.len())
                .filter(|&n| !self.0[..n].iter().any(|earlier| conflicts(earlier, &self.0[n])))
                .map(|n| self.0[n].0)
                .collect()
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_slow_lock(steps in prop::collection::vec((0u64..40, 1u64..12, any::<bool>(), any::<u8>()), 1..200)) {
            let mut lock = RangeLock::default();
            let mut oracle = Oracle::default();
            let mut held: Vec<(u32, Ticket)> = Vec::new();
            let mut waiting: Vec<(u32, Ticket)> = Vec::new();
            for (name, (offset, length, exclusive, pick)) in steps.into_iter().enumerate() {
                let name = name as u32;
                // Lengths on both sides of the piece limit.
                let length = if pick & 1 == 0 { length * PIECE_BYTES_MAX } else { length * 4096 };
                let range = ByteRange::new(offset * 65536, length);
                let (ticket, at_once) = lock.acquire(range, exclusive, name);
                oracle.0.push((name, range, exclusive));
                if at_once { held.push((name, ticket)) } else { waiting.push((name, ticket)) }
                prop_assert_eq!(at_once, oracle.ready().contains(&name));
                prop_assert!(lock.is_sound());
                if pick & 2 == 0 && !held.is_empty() {
                    let (name, ticket) = held.remove(pick as usize % held.len());
                    let mut ready = Vec::new();
                    lock.release(ticket, &mut ready);
                    oracle.0.retain(|entry| entry.0 != name);
                    for name in ready {
                        let at = waiting.iter().position(|w| w.0 == name).expect("only waiters become ready");
                        held.push(waiting.remove(at));
                    }
                    let mut names: Vec<u32> = held.iter().map(|h| h.0).collect();
                    names.sort_unstable();
                    prop_assert_eq!(names, oracle.ready());
                }
            }
        }
    }
}
