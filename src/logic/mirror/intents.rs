//! The write-intent map: which regions were written since both disks were last known to be durable and equal.
//!
//! Rule R1: a region's bit is durable *before* a write to it leaves, for either disk. Rule R2: it is cleared only when
//! both disks hold the region's last write durably, and lazily at that. Setting is amortised: one page is written for
//! all regions wanted meanwhile, and misses that follow each other closely widen the span that is set ahead.

use crate::base::range::ByteRange;
use crate::base::time::Moment;
use crate::wire::metadata::record::REGIONS_PER_PAGE;
use roaring::RoaringBitmap;
use std::collections::BTreeMap;
use std::time::Duration;

/// Misses that follow each other within this time widen what is set ahead.
const MISS_CLOSE: Duration = Duration::from_secs(1);
/// Most regions set ahead of one miss.
const AHEAD_MAX: u32 = 64;
/// No more than this part of the volume is set ahead of one miss: else a small volume would be marked whole.
const AHEAD_SHARE: u32 = 64;

/// The map and what is being written of it.
#[derive(Debug)]
pub struct Intents {
    region_shift: u32,
    regions: u32,
    /// Bits that are durable.
    durable: RoaringBitmap,
    /// Bits wanted: set before the next write of their page.
    wanted: RoaringBitmap,
    /// Bits to clear with the next write of their page.
    unwanted: RoaringBitmap,
    /// The page being written, with its content.
    writing: Option<(u32, RoaringBitmap)>,
    /// Last write to a region in this life.
    touched: BTreeMap<u32, Touch>,
    last_miss: Option<Moment>,
    ahead: u32,
}

#[derive(Clone, Copy, Debug)]
struct Touch {
    /// Order of the last mutation admitted.
    order: u64,
    at: Moment,
}

impl Intents {
    /// The map of a volume of `bytes`, whose durable bits were found to be `durable`.
    pub fn new(region_shift: u32, bytes: u64, durable: RoaringBitmap) -> Intents {
        let regions = bytes.div_ceil(1 << region_shift) as u32;
        Intents {
            region_shift,
            regions,
            durable,
            wanted: RoaringBitmap::new(),
            unwanted: RoaringBitmap::new(),
            writing: None,
            touched: BTreeMap::new(),
            last_miss: None,
            ahead: 1,
        }
    }

    /// Regions of a byte range, as `first ..= last`.
    fn regions_of(&self, range: ByteRange) -> std::ops::RangeInclusive<u32> {
        (range.offset >> self.region_shift) as u32..=((range.end() - 1) >> self.region_shift) as u32
    }

    /// Blocks of every region whose bit is set.
    pub fn blocks(&self) -> RoaringBitmap {
        let mut blocks = RoaringBitmap::new();
        for region in &self.durable {
            let range = ByteRange::new(u64::from(region) << self.region_shift, 1 << self.region_shift);
            blocks.insert_range(range.blocks());
        }
        blocks
    }

    /// Whether every region of the range is durable. If so the write may leave.
    pub fn is_durable(&self, range: ByteRange) -> bool {
        let mut regions = self.regions_of(range);
        regions.all(|region| self.durable.contains(region) && !self.is_being_cleared(region))
    }

    fn is_being_cleared(&self, region: u32) -> bool {
        self.writing.as_ref().is_some_and(|(page, content)| page_of(region) == *page && !content.contains(region))
    }

    /// A mutation with this order was admitted: its regions stay until both disks are durable past it.
    pub fn touch(&mut self, now: Moment, range: ByteRange, order: u64) {
        for region in self.regions_of(range) {
            self.touched.insert(region, Touch { order, at: now });
            self.unwanted.remove(region);
        }
    }

    /// Wants the regions of a range durable, and more ahead if misses come quickly.
    pub fn want(&mut self, now: Moment, range: ByteRange) {
        let close = self.last_miss.is_some_and(|last| now.since(last) < MISS_CLOSE);
        let most = (self.regions / AHEAD_SHARE).clamp(1, AHEAD_MAX);
        self.ahead = if close { (self.ahead * 2).min(most) } else { 1 };
        self.last_miss = Some(now);
        let regions = self.regions_of(range);
        let end = regions.end().saturating_add(self.ahead).min(self.regions);
        for region in *regions.start()..end.max(regions.end() + 1) {
            self.unwanted.remove(region);
            if !self.durable.contains(region) || self.is_being_cleared(region) {
                self.wanted.insert(region);
            }
        }
    }

    /// The next page to write, if one is due and none is being written: its number and set regions.
    pub fn next_page(&mut self) -> Option<(u32, Vec<u32>)> {
        if self.writing.is_some() {
            return None;
        }
        let first = self.wanted.min().or_else(|| self.unwanted.min())?;
        let page = page_of(first);
        let span = page * REGIONS_PER_PAGE..(page + 1) * REGIONS_PER_PAGE;
        // By whole containers, not region by region: a page may have thousands.
        let mut whole = RoaringBitmap::new();
        whole.insert_range(span.clone());
        let mut content = &self.durable & &whole;
        content |= &self.wanted & &whole;
        content -= &self.unwanted & &whole;
        self.wanted.remove_range(span.clone());
        self.unwanted.remove_range(span);
        let regions = content.iter().collect();
        self.writing = Some((page, content));
        Some((page, regions))
    }

    /// The page being written is durable.
    pub fn page_written(&mut self) {
        let (page, mut content) = self.writing.take().expect("a page was being written");
        content.remove_range(self.regions..);
        self.durable.remove_range(page * REGIONS_PER_PAGE..(page + 1) * REGIONS_PER_PAGE);
        self.durable |= content;
    }

    /// Regions that were not touched since `idle` before `now`, and whose last write has an order up to `stable`
    /// (durable on both), are cleared with the next write of their page.
    pub fn sweep(&mut self, now: Moment, idle: Duration, stable: u64) {
        let clearable: RoaringBitmap = self
            .durable
            .iter()
            .filter(|region| {
                self.touched.get(region).is_none_or(|touch| touch.order <= stable && now.since(touch.at) >= idle)
            })
            .filter(|region| !self.wanted.contains(*region))
            .collect();
        for region in &clearable {
            self.touched.remove(&region);
        }
        self.unwanted |= clearable;
    }

    /// The size of the volume was agreed: regions beyond it no longer exist.
    pub fn resize(&mut self, bytes: u64) {
        self.regions = bytes.div_ceil(1 << self.region_shift) as u32;
        for map in [&mut self.durable, &mut self.wanted, &mut self.unwanted] {
            map.remove_range(self.regions..);
        }
    }

    /// Whether no page is being written or due.
    pub fn is_quiet(&self) -> bool {
        self.writing.is_none() && self.wanted.is_empty() && self.unwanted.is_empty()
    }
}

fn page_of(region: u32) -> u32 {
    region / REGIONS_PER_PAGE
}
