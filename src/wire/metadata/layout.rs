//! Where everything lies in the metadata area. A function of a disk's size and of the placement, nothing else.
//!
//! ```text
//!  area
//!  offset   +64 KiB         +128 KiB        +192 KiB        +256 KiB        +320 KiB
//!  locator  superblock 0/0  superblock 0/1  superblock 1/0  superblock 1/1  intents A, intents B,
//!                                                           (pair/copy)     snapshot 0, snapshot 1,
//!                                                                           256 KiB for events, 1 MiB reserved,
//!                                                                           (room), locator copy in the last 4 KiB
//! ```
//! Internal: the area is the tail of the disk, from a MiB boundary to the last whole 4 KiB unit; what lies before it is
//! the volume's data. External: the area is the whole of a file or device of its own. The locator's copy is the last
//! unit in both cases, so it is found without knowing anything but the size.

use crate::base::limits::{METADATA_UNIT_BYTES, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN};
use crate::base::range::BLOCK;
use crate::wire::bitmap;
use crate::wire::metadata::record::{REGIONS_PER_PAGE, Superblock};
use crate::wire::metadata::unit::PAYLOAD_BYTES_MAX;
use serde::{Deserialize, Serialize};

const UNIT: u64 = METADATA_UNIT_BYTES as u64;
const MIB: u64 = 1 << 20;
/// Distance between two copies of one thing, in bytes: larger than what one failing write or sector run destroys.
const APART: u64 = 64 << 10;
/// Room for events of the volume, in bytes. Not used: the daemon keeps its events in a journal of its own, since they are
/// about groups, paths and arbiters as well, matter most when this disk fails, and must not wait for, or hold up, the one
/// writer of this area in the middle of a takeover. The room stays, so that the layout does.
const EVENTS_BYTES: u64 = 256 << 10;
/// Room for what is to come, in bytes.
const RESERVED_BYTES: u64 = MIB;

/// Where the metadata is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    /// At the tail of the data disk.
    Internal,
    /// On a file or device of its own.
    External,
}

/// The places of one metadata area. Offsets count from the start of the file or device the area is on; sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where the area begins.
    pub area_offset: u64,
    /// Size of the area.
    pub area_bytes: u64,
    /// Bytes of volume data the disk can hold; whole blocks.
    pub capacity_bytes: u64,
    /// log2 of the bytes of an intent region.
    pub region_shift: u32,
    /// Pages of the intent map.
    pub intent_pages: u32,
    /// Units of data of a snapshot slot, its header not counted.
    pub slot_units: u32,
}

/// A disk or metadata device is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// Bytes it has.
    pub has_bytes: u64,
    /// Bytes it needs at least.
    pub needs_bytes: u64,
}

impl Layout {
    /// The layout of a disk of `disk_bytes` that carries its own metadata.
    pub fn internal(disk_bytes: u64) -> Result<Layout, TooSmall> {
        let whole = disk_bytes / UNIT * UNIT;
        // The area is sized for the whole disk: a little more than the data before it needs.
        let area_bytes = Layout::sized_for(whole.min(VOLUME_BYTES_MAX), 0, 0).needed_bytes();
        let area_offset = whole.saturating_sub(area_bytes) / MIB * MIB;
        if area_offset < VOLUME_BYTES_MIN {
            let needs_bytes = (VOLUME_BYTES_MIN + area_bytes).next_multiple_of(MIB);
            // A disk of that size has an area a little larger than this one, at most once more.
            let area_bytes = Layout::sized_for(needs_bytes, 0, 0).needed_bytes();
            return Err(TooSmall { has_bytes: disk_bytes, needs_bytes: VOLUME_BYTES_MIN + area_bytes });
        }
        Ok(Layout::sized_for(area_offset.min(VOLUME_BYTES_MAX), area_offset, whole - area_offset))
    }

    /// The layout of a metadata device of `metadata_bytes` for a data disk of `data_bytes`.
    pub fn external(data_bytes: u64, metadata_bytes: u64) -> Result<Layout, TooSmall> {
        let capacity_bytes = (data_bytes / BLOCK * BLOCK).min(VOLUME_BYTES_MAX);
        let layout = Layout::sized_for(capacity_bytes, 0, metadata_bytes / UNIT * UNIT);
        if layout.area_bytes < layout.needed_bytes() {
            return Err(TooSmall { has_bytes: metadata_bytes, needs_bytes: layout.needed_bytes() });
        }
        Ok(layout)
    }

    /// Bytes an external metadata device must have for a data disk of `data_bytes`.
    pub fn external_bytes(data_bytes: u64) -> u64 {
        Layout::sized_for((data_bytes / BLOCK * BLOCK).min(VOLUME_BYTES_MAX), 0, 0).needed_bytes()
    }

    /// Where the copy of the locator lies on a file or device of this size, if it has room for one.
    pub fn locator_copy_offset(file_bytes: u64) -> Option<u64> {
        (file_bytes / UNIT * UNIT).checked_sub(UNIT)
    }

    fn sized_for(capacity_bytes: u64, area_offset: u64, area_bytes: u64) -> Layout {
        let region_shift = Superblock::region_shift_for(capacity_bytes);
        let regions = capacity_bytes.div_ceil(1 << region_shift);
        let map_bytes = bitmap::encoded_bytes_max(capacity_bytes / BLOCK);
        Layout {
            area_offset,
            area_bytes,
            capacity_bytes,
            region_shift,
            intent_pages: (regions.div_ceil(u64::from(REGIONS_PER_PAGE))).max(1) as u32,
            slot_units: (2 * map_bytes).div_ceil(PAYLOAD_BYTES_MAX as u64) as u32,
        }
    }

    /// The same places with intent regions of another size; `None` if their map would need another number of pages.
    pub fn with_region_shift(self, region_shift: u32) -> Option<Layout> {
        let regions = self.capacity_bytes.div_ceil(1u64.checked_shl(region_shift)?);
        let pages = regions.div_ceil(u64::from(REGIONS_PER_PAGE)).max(1);
        (pages == u64::from(self.intent_pages)).then_some(Layout { region_shift, ..self })
    }

    /// Regions of the intent map.
    pub fn regions(&self) -> u32 {
        self.capacity_bytes.div_ceil(1 << self.region_shift) as u32
    }

    /// Blocks of volume data.
    pub fn blocks(&self) -> u64 {
        self.capacity_bytes / BLOCK
    }

    /// Offsets of the locator and of its copy.
    pub(super) fn locators(&self) -> [u64; 2] {
        [self.area_offset, self.area_offset + self.area_bytes - UNIT]
    }

    /// Offset of one copy of one of the two superblock pairs.
    pub(super) fn superblock(&self, pair: usize, copy: usize) -> u64 {
        self.area_offset + APART * (1 + 2 * pair as u64 + copy as u64)
    }

    /// Offset of one copy of an intent page.
    pub(super) fn intent_page(&self, page: u32, copy: usize) -> u64 {
        self.area_offset + APART * 5 + self.intent_copy_bytes() * copy as u64 + UNIT * u64::from(page)
    }

    /// Offset of the header of a snapshot slot; its data units follow it.
    pub(super) fn snapshot(&self, slot: usize) -> u64 {
        self.intent_page(0, 2) + self.slot_bytes() * slot as u64
    }

    /// Offset of the event ring.
    fn events(&self) -> u64 {
        self.snapshot(2)
    }

    fn intent_copy_bytes(&self) -> u64 {
        (UNIT * u64::from(self.intent_pages)).next_multiple_of(APART)
    }

    fn slot_bytes(&self) -> u64 {
        UNIT * (1 + u64::from(self.slot_units))
    }

    fn needed_bytes(&self) -> u64 {
        self.events() + EVENTS_BYTES + RESERVED_BYTES + UNIT - self.area_offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    /// Every place of the layout as start and end, in the order of the picture.
    fn places(layout: &Layout) -> Vec<(u64, u64)> {
        let mut places = vec![(layout.locators()[0], layout.locators()[0] + UNIT)];
        for (pair, copy) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            places.push((layout.superblock(pair, copy), layout.superblock(pair, copy) + UNIT));
        }
        for copy in 0..2 {
            places.push((layout.intent_page(0, copy), layout.intent_page(layout.intent_pages, copy)));
        }
        for slot in 0..2 {
            places.push((layout.snapshot(slot), layout.snapshot(slot) + layout.slot_bytes()));
        }
        places.push((layout.events(), layout.events() + EVENTS_BYTES + RESERVED_BYTES));
        places.push((layout.locators()[1], layout.locators()[1] + UNIT));
        places
    }

    proptest! {
        #[test]
        fn places_are_apart_aligned_and_inside(disk_bytes in 4 * MIB..40 << 40, external in any::<bool>()) {
            let layout = if external {
                Layout::external(disk_bytes, Layout::external_bytes(disk_bytes) + disk_bytes % 100_000).unwrap()
            } else {
                Layout::internal(disk_bytes).unwrap()
            };
            let places = places(&layout);
            prop_assert!(places.iter().all(|(start, _)| start % UNIT == 0));
            prop_assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{places:?}");
            let last = places.last().unwrap().1;
            prop_assert_eq!(last, layout.area_offset + layout.area_bytes);
            if !external {
                prop_assert!(last <= disk_bytes && last + UNIT > disk_bytes);
                prop_assert!(layout.capacity_bytes <= layout.area_offset && layout.area_offset % MIB == 0);
                prop_assert_eq!(Layout::locator_copy_offset(disk_bytes), Some(layout.locators()[1]));
            }
            prop_assert!(layout.capacity_bytes % BLOCK == 0 && layout.blocks() <= u64::from(u32::MAX));
            prop_assert!(u64::from(layout.regions()) << layout.region_shift >= layout.capacity_bytes);
            prop_assert!(layout.intent_pages * REGIONS_PER_PAGE >= layout.regions());
        }
    }

    #[test]
    fn what_the_metadata_costs() {
        let gib = Layout::internal(GIB).unwrap();
        assert_eq!((gib.region_shift, gib.intent_pages), (20, 1));
        assert!(GIB - gib.capacity_bytes <= 4 * MIB);
        let tib = Layout::internal(1024 * GIB).unwrap();
        assert_eq!((tib.region_shift, tib.intent_pages), (26, 1));
        assert!(1024 * GIB - tib.capacity_bytes <= 140 * MIB);
    }

    #[test]
    fn what_is_too_small_says_what_it_needs() {
        let refused = Layout::internal(MIB).unwrap_err();
        assert!(Layout::internal(refused.needs_bytes).is_ok());
        assert!(Layout::internal(refused.needs_bytes - UNIT).is_err());
        let needs_bytes = Layout::external_bytes(GIB);
        assert!(Layout::external(GIB, needs_bytes).is_ok());
        assert_eq!(Layout::external(GIB, 4096), Err(TooSmall { has_bytes: 4096, needs_bytes }));
    }
}
