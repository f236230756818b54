//! A disk with a volatile cache.
//!
//! A read sees the newest completed write of a sector. What a power loss leaves of it is any one of: the last stable
//! content, any completed write since, any write under way. Sectors are kept or lost one by one, never torn inside.

use super::content::{self, SECTOR, Value};
use super::random::Random;
use std::collections::BTreeMap;
use std::rc::Rc;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::time::Moment;

/// Sectors of one tracking block.
pub const SECTORS_PER_BLOCK: u64 = BLOCK / SECTOR as u64;

/// Sector versions that fit into the volatile cache of one disk.
const UNFLUSHED_MAX: usize = 200_000;

type Sector = Rc<[u8; SECTOR]>;

/// One content a sector may have after a power loss.
#[derive(Clone)]
struct Version {
    /// Order of the write among all writes of this disk.
    stamp: u64,
    bytes: Sector,
    /// A flush failed after this write: the device forgot it, and no later flush brings it back.
    doomed: bool,
    /// When the client was told that its write was done.
    acknowledged: Option<Moment>,
}

/// The content of one disk.
#[derive(Clone)]
pub struct Disk {
    visible: Vec<u8>,
    /// Sectors with writes since the last flush: first the stable content, last the visible one.
    unstable: BTreeMap<u64, Vec<Version>>,
    /// Blocks that hold no space.
    holes: Vec<bool>,
    stamp: u64,
    /// It holds something else than what was written: no mark can know of that.
    pub rotten: bool,
}

impl Disk {
    /// A disk of `blocks` blocks of zeroes, all of them holes.
    pub fn new(blocks: u64) -> Disk {
        Disk {
            visible: vec![0; (blocks * BLOCK) as usize],
            unstable: BTreeMap::new(),
            holes: vec![true; blocks as usize],
            stamp: 0,
            rotten: false,
        }
    }

    /// A disk of another life, full of something else.
    pub fn full_of_old_data(blocks: u64, random: &mut Random) -> Disk {
        let mut disk = Disk::new(blocks);
        disk.keep_of_another_life(0, random);
        disk
    }

    /// From this byte on, the disk holds something else.
    pub fn keep_of_another_life(&mut self, from_bytes: u64, random: &mut Random) {
        for block in from_bytes / BLOCK..self.holes.len() as u64 {
            if random.chance(0.7) {
                let at = (block * BLOCK) as usize;
                let pattern = random.next().to_le_bytes();
                self.visible[at..at + BLOCK as usize]
                    .chunks_exact_mut(8)
                    .for_each(|word| word.copy_from_slice(&pattern));
                self.holes[block as usize] = false;
            }
        }
    }

    pub fn bytes_total(&self) -> u64 {
        self.visible.len() as u64
    }

    pub fn read(&self, range: ByteRange) -> &[u8] {
        &self.visible[range.offset as usize..range.end() as usize]
    }

    /// Carries out a write; `durable` when it was asked to be.
    pub fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) {
        for (index, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            self.write_sector(offset / SECTOR as u64 + index as u64, sector, durable);
        }
    }

    /// Carries out a part of a write: what an error or a crash in the middle leaves.
    pub fn write_in_part(&mut self, offset: u64, bytes: &[u8], random: &mut Random) {
        let share = *random.pick(&[0.0, 0.3, 0.7, 1.0]);
        for (index, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            if random.chance(share) {
                self.write_sector(offset / SECTOR as u64 + index as u64, sector, false);
            }
        }
    }

    fn write_sector(&mut self, sector: u64, bytes: &[u8], durable: bool) {
        self.stamp += 1;
        let at = sector as usize * SECTOR;
        let old: Sector = Rc::new(self.visible[at..at + SECTOR].try_into().expect("a sector"));
        self.visible[at..at + SECTOR].copy_from_slice(bytes);
        self.holes[at / BLOCK as usize] = false;
        if durable {
            self.unstable.remove(&sector);
            return;
        }
        if old.as_slice() == bytes && !self.unstable.contains_key(&sector) {
            return;
        }
        let versions = self
            .unstable
            .entry(sector)
            .or_insert_with(|| vec![Version { stamp: 0, bytes: old.clone(), doomed: false, acknowledged: None }]);
        let newest = versions.last().expect("never empty");
        if versions.len() > 1 && !newest.doomed && newest.bytes.as_slice() == bytes {
            // The same once more: whatever a power loss leaves of either, is the same.
            return;
        }
        versions.push(Version {
            stamp: self.stamp,
            bytes: Rc::new(bytes.try_into().expect("a sector")),
            doomed: false,
            acknowledged: None,
        });
    }

    /// Zeroes a block-aligned range.
    pub fn zero(&mut self, range: ByteRange, unmap: bool, durable: bool) {
        let zeroes = vec![0; range.length as usize];
        self.write(range.offset, &zeroes, durable);
        for block in range.blocks() {
            self.holes[block as usize] = unmap;
        }
    }

    /// The parts of a range that are known to be zero without a read.
    pub fn holes(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut found: Vec<ByteRange> = Vec::new();
        for block in range.blocks().filter(|block| self.holes[*block as usize]) {
            match found.last_mut() {
                Some(last) if last.end() == block as u64 * BLOCK => last.length += BLOCK,
                _ => found.push(ByteRange::of_blocks(block..block + 1)),
            }
        }
        found
    }

    /// What a flush that starts now will cover.
    pub fn flush_point(&self) -> u64 {
        self.stamp
    }

    /// A flush that started at `point` succeeded.
    pub fn flushed(&mut self, point: u64) {
        self.unstable.retain(|_, versions| {
            if let Some(newest) = versions.iter().rposition(|version| version.stamp <= point && !version.doomed) {
                versions.drain(..newest);
            }
            versions.len() > 1
        });
    }

    /// A flush failed: the device may have dropped what it should have written, and will not try again.
    pub fn flush_failed(&mut self, drops: bool) {
        if drops {
            for versions in self.unstable.values_mut() {
                versions.iter_mut().skip(1).for_each(|version| version.doomed = true);
            }
        }
    }

    /// Bits flip, and nobody is told.
    pub fn rot(&mut self, range: ByteRange) {
        self.visible[range.offset as usize..range.end() as usize].iter_mut().for_each(|byte| *byte ^= 0x10);
        self.rotten = true;
        self.check_holes();
    }

    /// The disk is opened again: what a failed flush dropped is gone for every reader.
    pub fn reopened(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.unstable) {
            let kept: Vec<Version> = versions.into_iter().filter(|version| !version.doomed).collect();
            let at = sector as usize * SECTOR;
            let newest = kept.last().expect("the stable content is never doomed");
            self.visible[at..at + SECTOR].copy_from_slice(newest.bytes.as_slice());
            if kept.len() > 1 {
                self.unstable.insert(sector, kept);
            }
        }
        self.stamp += 1;
        self.check_holes();
    }

    /// A hole that holds something is none.
    fn check_holes(&mut self) {
        for block in 0..self.holes.len() {
            let at = block * BLOCK as usize;
            self.holes[block] =
                self.holes[block] && self.visible[at..at + BLOCK as usize].iter().all(|byte| *byte == 0);
        }
    }

    /// The machine lost its power, with these writes under way.
    pub fn power_lost(&mut self, under_way: &[(u64, Vec<u8>)], random: &mut Random) {
        let mode = random.below(4);
        for (offset, bytes) in under_way {
            if mode != 0 {
                self.write_in_part(*offset, bytes, random);
            }
        }
        for (sector, versions) in std::mem::take(&mut self.unstable) {
            let kept = match mode {
                0 => 0,
                1 => versions.len() - 1,
                _ => random.below(versions.len() as u64) as usize,
            };
            let at = sector as usize * SECTOR;
            self.visible[at..at + SECTOR].copy_from_slice(versions[kept].bytes.as_slice());
        }
        self.check_holes();
    }

    /// The client was told that what this range holds now is done.
    pub fn acknowledged(&mut self, range: ByteRange, now: Moment) {
        let sectors = range.offset / SECTOR as u64..range.end().div_ceil(SECTOR as u64);
        for (_, versions) in self.unstable.range_mut(sectors) {
            versions.last_mut().expect("never empty").acknowledged.get_or_insert(now);
        }
    }

    /// What a sector holds, or may hold after a power loss.
    pub fn values(&self, sector: u64) -> Vec<Value> {
        let versions = self.unstable.get(&sector).into_iter().flatten().map(|version| version.bytes.as_slice());
        let at = sector as usize * SECTOR;
        let visible = std::iter::once(&self.visible[at..at + SECTOR]);
        versions.chain(visible).filter_map(|bytes| content::identify(bytes, sector)).collect()
    }

    /// What a power loss leaves of a sector at the worst.
    pub fn stable_value(&self, sector: u64) -> Option<Value> {
        let at = sector as usize * SECTOR;
        let oldest = self.unstable.get(&sector).and_then(|versions| versions.first());
        content::identify(oldest.map_or(&self.visible[at..at + SECTOR], |version| version.bytes.as_slice()), sector)
    }

    /// A sector whose newest write was told done before `since` and that a power loss could still take back.
    pub fn acknowledged_but_unstable(&self, before: Moment) -> Option<u64> {
        let told = |version: &Version| version.acknowledged.is_some_and(|at| at < before);
        self.unstable.iter().find(|(_, versions)| versions.iter().skip(1).any(told)).map(|(sector, _)| *sector)
    }

    /// Whether a power loss would leave this range as it is.
    pub fn range_is_stable(&self, range: ByteRange) -> bool {
        let sectors = range.offset / SECTOR as u64..range.end().div_ceil(SECTOR as u64);
        self.unstable.range(sectors).next().is_none()
    }

    /// A cache is finite: one that is full writes down what it has, asked or not. A node that is alone flushes only when
    /// its clients do, and some never do.
    pub fn write_back_if_full(&mut self) {
        let unflushed: usize = self.unstable.values().map(Vec::len).sum();
        if unflushed >= UNFLUSHED_MAX {
            self.flushed(self.flush_point());
        }
    }

    pub fn is_stable(&self) -> bool {
        self.unstable.is_empty()
    }

    /// Whether a power loss now could leave this block with something other than `bytes`, or it holds that already.
    pub fn may_differ_from(&self, block: u32, other: &Disk) -> bool {
        let range = ByteRange::of_blocks(block..block + 1);
        if self.read(range) != other.read(range) {
            return true;
        }
        let first = block as u64 * SECTORS_PER_BLOCK;
        let any = |disk: &Disk| {
            disk.unstable.range(first..first + SECTORS_PER_BLOCK).any(|(sector, versions)| {
                let at = *sector as usize * SECTOR;
                versions.iter().any(|version| version.bytes.as_slice() != &disk.visible[at..at + SECTOR])
            })
        };
        any(self) || any(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: ByteRange = ByteRange::new(0, BLOCK);

    fn after_power_losses(disk: &Disk, under_way: &[(u64, Vec<u8>)]) -> std::collections::BTreeSet<u8> {
        (0..200)
            .map(|seed| {
                let mut lost = disk.clone();
                lost.power_lost(under_way, &mut Random::new(seed));
                assert!(lost.is_stable());
                lost.read(RANGE)[0]
            })
            .collect()
    }

    #[test]
    fn a_power_loss_keeps_any_unflushed_write_and_every_flushed_one() {
        let mut disk = Disk::new(1);
        disk.write(0, &[1; 4096], false);
        disk.flushed(disk.flush_point());
        disk.write(0, &[2; 4096], false);
        let point = disk.flush_point();
        disk.write(0, &[3; 4096], false);
        assert_eq!(after_power_losses(&disk, &[]), [1, 2, 3].into());
        disk.flushed(point);
        assert_eq!(after_power_losses(&disk, &[(0, vec![4; 4096])]), [2, 3, 4].into());
        disk.write(0, &[5; 4096], true);
        assert_eq!(after_power_losses(&disk, &[]), [5].into());
    }

    #[test]
    fn a_failed_flush_may_forget_for_good() {
        let mut disk = Disk::new(1);
        disk.write(0, &[1; 4096], false);
        disk.flush_failed(true);
        disk.flushed(disk.flush_point());
        assert_eq!(after_power_losses(&disk, &[]), [0, 1].into());
        disk.write(0, &[2; 4096], false);
        disk.flushed(disk.flush_point());
        assert_eq!(after_power_losses(&disk, &[]), [2].into());
    }

    #[test]
    fn what_a_failed_flush_dropped_is_gone_when_the_disk_is_opened_again() {
        let mut disk = Disk::new(1);
        disk.write(0, &[1; 4096], false);
        disk.flush_failed(true);
        assert_eq!(disk.read(RANGE)[0], 1, "the cache still shows it");
        disk.reopened();
        assert_eq!(disk.read(RANGE)[0], 0);
        assert!(disk.is_stable());
    }

    #[test]
    fn sectors_are_kept_one_by_one_and_whole() {
        let mut disk = Disk::new(1);
        disk.write(0, &[7; 4096], false);
        let mut mixed = false;
        for seed in 0..50 {
            let mut lost = disk.clone();
            lost.power_lost(&[], &mut Random::new(seed));
            let kept: Vec<bool> = lost.read(RANGE).chunks(SECTOR).map(|sector| sector[0] == 7).collect();
            assert!(lost.read(RANGE).chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            mixed |= kept.contains(&true) && kept.contains(&false);
        }
        assert!(mixed, "no power loss ever kept a part of a block");
    }

    #[test]
    fn holes_follow_zeroes_and_writes() {
        let mut disk = Disk::new(4);
        disk.write(4096, &[1; 4096], false);
        assert_eq!(disk.holes(ByteRange::new(0, 16384)), [ByteRange::new(0, 4096), ByteRange::new(8192, 8192)]);
        disk.zero(ByteRange::new(4096, 4096), true, true);
        assert_eq!(disk.holes(ByteRange::new(0, 16384)), [ByteRange::new(0, 16384)]);
        disk.zero(ByteRange::new(0, 4096), false, true);
        assert_eq!(disk.holes(ByteRange::new(0, 8192)), [ByteRange::new(4096, 4096)]);
    }
}
