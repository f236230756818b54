//! What differs, or may differ, between the two disks.
//!
//! Three kinds of marks, each a set of 4 KiB blocks:
//! - `dirty`: known to differ; copied.
//! - `suspect`: may differ; compared first, copied if it does.
//! - [`Unstable`]: sent to the peer and not yet known to be durable there (rule R10: counted from the last *durable*
//!   watermark, not from the last acknowledgement). When the session ends they become suspect.
//!
//! No decision drops a mark (rules R2, R7): one is removed only when both disks hold the block durably.

use crate::base::limits::FRAME_PAYLOAD_BYTES_MAX;
use crate::base::range::{BLOCK, ByteRange};
use crate::wire::bitmap;
use roaring::RoaringBitmap;
use std::collections::VecDeque;

/// The durable kinds of marks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    /// Known to differ.
    pub dirty: RoaringBitmap,
    /// May differ.
    pub suspect: RoaringBitmap,
    /// May differ only because a write-intent bit of an earlier life of this process says so (rule R11).
    pub intents: RoaringBitmap,
}

impl Marks {
    /// Number of marked bytes of any kind.
    pub fn bytes(&self) -> u64 {
        if self.suspect.is_empty() && self.intents.is_empty() {
            return self.dirty.len() * BLOCK;
        }
        self.all().len() * BLOCK
    }

    /// Number of bytes marked only as suspects.
    pub fn suspect_bytes(&self) -> u64 {
        if self.suspect.is_empty() && self.intents.is_empty() {
            return 0;
        }
        ((&self.suspect | &self.intents) - &self.dirty).len() * BLOCK
    }

    /// Every marked block.
    pub fn all(&self) -> RoaringBitmap {
        &(&self.dirty | &self.suspect) | &self.intents
    }

    /// Whether nothing is marked.
    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty() && self.suspect.is_empty() && self.intents.is_empty()
    }

    /// Marks a range as known to differ.
    pub fn mark(&mut self, range: ByteRange) {
        insert(&mut self.dirty, range.blocks());
    }

    /// Removes every mark of a range: both disks hold the same bytes there and a live set covers their durability.
    pub fn clear(&mut self, range: ByteRange) {
        let blocks = range.blocks();
        if !self.dirty.is_empty() {
            self.dirty.remove_range(blocks.clone());
        }
        if !self.suspect.is_empty() {
            self.suspect.remove_range(blocks.clone());
        }
        if !self.intents.is_empty() {
            self.intents.remove_range(blocks);
        }
    }

    /// Removes every mark.
    pub fn clear_all(&mut self) {
        *self = Marks::default();
    }

    /// Keeps only blocks below `blocks`, after the size of the volume was agreed.
    pub fn truncate(&mut self, blocks: u32) {
        for map in [&mut self.dirty, &mut self.suspect, &mut self.intents] {
            map.remove_range(blocks..);
        }
    }

    /// The first marked run at or after block `from`: its blocks, at most `most` of them, and whether they are known
    /// to differ (else suspected). A run is all of one kind.
    pub fn next_run(&self, from: u32, most: u32) -> Option<(std::ops::Range<u32>, bool)> {
        let first =
            [&self.dirty, &self.suspect, &self.intents].into_iter().filter_map(|map| next_block(map, from)).min()?;
        let known = self.dirty.contains(first);
        let limit = first.saturating_add(most);
        let whole = first..limit;
        let uniform = if known {
            self.dirty.contains_range(whole.clone())
        } else {
            self.dirty.range_cardinality(whole.clone()) == 0
                && (self.suspect.contains_range(whole.clone()) || self.intents.contains_range(whole.clone()))
        };
        if uniform {
            return Some((whole, known));
        }
        let mut end = first + 1;
        while end < limit {
            let same = if known {
                self.dirty.contains(end)
            } else {
                !self.dirty.contains(end) && (self.suspect.contains(end) || self.intents.contains(end))
            };
            if !same {
                break;
            }
            end += 1;
        }
        Some((first..end, known))
    }
}

/// The first set block at or after `from`.
pub fn next_block(map: &RoaringBitmap, from: u32) -> Option<u32> {
    map.range(from..).next()
}

/// The first block at or after `from` that is not set. Finds the end of a long run in few steps.
pub fn next_absent(map: &RoaringBitmap, from: u32) -> u32 {
    let mut at = from;
    let mut step = 1u32;
    while map.contains(at) {
        let end = at.saturating_add(step);
        if map.contains_range(at..end) {
            at = end;
            step = step.saturating_mul(2);
        } else {
            step = (step / 2).max(1);
        }
        if at == u32::MAX {
            break;
        }
    }
    at
}

/// Adds blocks. One alone, as most writes have, costs a tenth of what a run of one costs.
fn insert(map: &mut RoaringBitmap, blocks: std::ops::Range<u32>) {
    if blocks.len() == 1 {
        map.insert(blocks.start);
    } else {
        map.insert_range(blocks);
    }
}

/// Blocks sent to the peer and not known to be durable there, by flush cycle.
#[derive(Clone, Debug, Default)]
pub struct Unstable {
    current: RoaringBitmap,
    current_bytes: u64,
    /// Closed by the start of the named cycle, waiting for it to be durable.
    closing: VecDeque<(u64, RoaringBitmap)>,
}

impl Unstable {
    /// A frame with this range was sent (or, at the secondary, received).
    pub fn add(&mut self, range: ByteRange) {
        insert(&mut self.current, range.blocks());
        self.current_bytes += range.length;
    }

    /// Bytes added since the last cycle began.
    pub fn bytes(&self) -> u64 {
        self.current_bytes
    }

    /// A flush cycle begins: it will cover everything added so far.
    pub fn close(&mut self, cycle: u64) {
        let window = std::mem::take(&mut self.current);
        self.current_bytes = 0;
        if !window.is_empty() {
            self.closing.push_back((cycle, window));
        }
    }

    /// A cycle is durable at the other side: it and all before it are stable.
    pub fn stable(&mut self, cycle: u64) {
        while self.closing.front().is_some_and(|(closed, _)| *closed <= cycle) {
            self.closing.pop_front();
        }
    }

    /// Whether everything is durable at the other side.
    pub fn is_empty(&self) -> bool {
        self.current.is_empty() && self.closing.is_empty()
    }

    /// Forgets a range before it is durable: only mutant R10 does.
    pub fn forget(&mut self, range: ByteRange) {
        self.current.remove_range(range.blocks());
        for (_, window) in &mut self.closing {
            window.remove_range(range.blocks());
        }
    }

    /// Everything, whichever cycle closed it.
    pub fn all(&self) -> RoaringBitmap {
        self.closing.iter().fold(self.current.clone(), |all, (_, window)| all | window)
    }

    /// Takes everything out, to become marks.
    pub fn drain(&mut self) -> RoaringBitmap {
        let mut all = std::mem::take(&mut self.current);
        self.current_bytes = 0;
        for (_, window) in self.closing.drain(..) {
            all |= window;
        }
        all
    }
}

/// A bitmap in parts small enough for one message each, at least one.
pub fn serialise_in_parts(map: &RoaringBitmap) -> Vec<Vec<u8>> {
    // A container holds 65,536 blocks in at most 8 KiB, so 64 of them always fit a message.
    const BLOCKS_PER_PART: u64 = 64 << 16;
    const { assert!(64 * (8192 + 16) + 1024 <= FRAME_PAYLOAD_BYTES_MAX) };
    let mut parts = Vec::new();
    let mut at: u64 = 0;
    while at <= u64::from(u32::MAX) {
        let Some(first) = next_block(map, at as u32) else { break };
        let start = u64::from(first) / BLOCKS_PER_PART * BLOCKS_PER_PART;
        let last = (start + BLOCKS_PER_PART - 1).min(u64::from(u32::MAX)) as u32;
        // By whole containers, never block by block: a terabyte of marks must not hold the thread up.
        let mut part = RoaringBitmap::new();
        part.insert_range(start as u32..=last);
        part &= map;
        parts.push(bitmap::encode(&part));
        at = u64::from(last) + 1;
    }
    if parts.is_empty() {
        parts.push(bitmap::encode(&RoaringBitmap::new()));
    }
    parts
}

/// A part again; `None` for bytes that are no sound bitmap.
pub fn deserialise_part(bytes: &[u8]) -> Option<RoaringBitmap> {
    bitmap::decode(bytes, 1 << 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(blocks: std::ops::Range<u32>) -> ByteRange {
        ByteRange::of_blocks(blocks)
    }

    #[test]
    fn a_run_is_of_one_kind_and_bounded() {
        let mut marks = Marks::default();
        marks.mark(range(10..20));
        marks.suspect.insert_range(15..40);
        assert_eq!(marks.next_run(0, 100), Some((10..20, true)));
        assert_eq!(marks.next_run(20, 8), Some((20..28, false)));
        assert_eq!(marks.next_run(12, 3), Some((12..15, true)));
        assert_eq!(marks.next_run(40, 3), None);
        assert_eq!((marks.bytes(), marks.suspect_bytes()), (30 * BLOCK, 20 * BLOCK));
        marks.clear(range(0..40));
        assert!(marks.is_empty());
    }

    #[test]
    fn the_end_of_a_run_is_found() {
        let mut map = RoaringBitmap::new();
        map.insert_range(5..1_000_003);
        assert_eq!((next_absent(&map, 0), next_absent(&map, 5), next_absent(&map, 777)), (0, 1_000_003, 1_000_003));
    }

    #[test]
    fn unstable_blocks_stay_until_their_own_cycle_is_durable() {
        let mut unstable = Unstable::default();
        unstable.add(range(1..2));
        unstable.close(7);
        unstable.add(range(2..3));
        unstable.stable(6);
        unstable.close(8);
        unstable.stable(7);
        assert_eq!(unstable.clone().drain().iter().collect::<Vec<_>>(), vec![2]);
        unstable.stable(8);
        assert!(unstable.is_empty());
    }

    proptest! {
        #[test]
        fn parts_unite_to_the_whole(ranges in prop::collection::vec((any::<u32>(), 0u32..5000), 0..40)) {
            let mut map = RoaringBitmap::new();
            for (start, length) in ranges {
                map.insert_range(start..start.saturating_add(length));
            }
            let mut whole = RoaringBitmap::new();
            for part in serialise_in_parts(&map) {
                prop_assert!(part.len() <= FRAME_PAYLOAD_BYTES_MAX - 1024);
                whole |= deserialise_part(&part).expect("own bytes decode");
            }
            prop_assert_eq!(whole, map);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = deserialise_part(&bytes);
        }
    }
}
