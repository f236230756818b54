//! A page of the write-intent map: one bit per region, [`REGIONS_PER_PAGE`] of them.
//!
//! Both copies are written at once with one sequence, so setting an intent costs one wait. A crash leaves each copy old,
//! new or torn. The newest sound one is taken; where none is left, the page counts as set throughout:
//!
//! - setting: the write that needs the bit was not sent yet, so the old copy is as good as the new one;
//! - clearing: the old copy has more set than needed;
//! - both torn, or rotten: everything set, which is more than needed.
//!
//! As with the superblock, a copy that is older than its twin is made equal at start, before anyone relies on its bits.

use crate::base::ids::Uuid;
use crate::wire::metadata::record::REGIONS_PER_PAGE;
use crate::wire::metadata::unit::{self, Bad, Kind, Label};

const PAGE_BYTES: usize = REGIONS_PER_PAGE.div_ceil(8) as usize;
const COPIES: u32 = 2;

/// The unit of one copy of page `page`. Regions are numbered from the start of the volume.
pub(super) fn encode(page: u32, copy: u32, sequence: u64, device: Uuid, regions: &[u32]) -> Vec<u8> {
    let mut bits = [0; PAGE_BYTES];
    for &region in regions {
        assert_eq!(region / REGIONS_PER_PAGE, page, "region {region} is not of page {page}");
        let bit = (region % REGIONS_PER_PAGE) as usize;
        bits[bit / 8] |= 1 << (bit % 8);
    }
    unit::encode(Label { kind: Kind::Intents, index: page * COPIES + copy, sequence, device }, &bits)
}

/// One copy: its sequence and its set regions in order. Regions from `limit` on don't exist and are left out.
pub(super) fn decode(bytes: &[u8], page: u32, copy: u32, device: Uuid, limit: u32) -> Result<(u64, Vec<u32>), Bad> {
    let unit = unit::decode(bytes, Kind::Intents, page * COPIES + copy, Some(device))?;
    if unit.payload.len() != PAGE_BYTES {
        return Err(Bad::Rotten);
    }
    let first = page * REGIONS_PER_PAGE;
    let regions = (0..REGIONS_PER_PAGE.min(limit.saturating_sub(first)))
        .filter(|bit| unit.payload[*bit as usize / 8] & (1 << (bit % 8)) != 0)
        .map(|bit| first + bit)
        .collect();
    Ok((unit.sequence, regions))
}
