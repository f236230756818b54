//! A snapshot of the dirty and the suspect map: a header unit, then both maps' bytes cut into data units.
//!
//! Two slots, so that one can be written while the other is the one a superblock names. All data units are durable
//! before the header, and the header before the superblock that names the slot with the digest of its content. So a
//! named slot was complete once; if it isn't now, the maps are unreadable and everything must be compared. Another
//! content of that slot, older or newer, has another digest and is never taken instead.

use crate::base::ids::Uuid;
use crate::base::limits::{METADATA_UNIT_BYTES, METADATA_WRITE_BYTES_MAX};
use crate::wire::bitmap;
use crate::wire::metadata::layout::Layout;
use crate::wire::metadata::superblock::NamedSnapshot;
use crate::wire::metadata::unit::{self, Kind, Label, PAYLOAD_BYTES_MAX};
use crate::wire::metadata::{decode_exactly, encode_plainly};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

const UNITS_PER_WRITE: usize = METADATA_WRITE_BYTES_MAX / METADATA_UNIT_BYTES;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    dirty_bytes: u64,
    suspect_bytes: u64,
}

/// A snapshot ready to be written: what goes where, and what a superblock must say of it.
pub(super) struct Encoded {
    /// Data units, in writes of at most [`METADATA_WRITE_BYTES_MAX`].
    pub(super) data: Vec<(u64, Vec<u8>)>,
    /// The header, to be written when the data is durable.
    pub(super) header: (u64, Vec<u8>),
    /// XXH3-128 of sequence and both maps' bytes.
    pub(super) digest: u128,
}

/// Encodes both maps for a slot.
pub(super) fn encode(
    layout: &Layout,
    device: Uuid,
    slot: u8,
    sequence: u64,
    maps: (&RoaringBitmap, &RoaringBitmap),
) -> Encoded {
    let mut bytes = bitmap::encode(maps.0);
    let dirty_bytes = bytes.len() as u64;
    bytes.extend(bitmap::encode(maps.1));
    let suspect_bytes = bytes.len() as u64 - dirty_bytes;
    let units = bytes.len().div_ceil(PAYLOAD_BYTES_MAX);
    assert!(units <= layout.slot_units as usize, "{units} units exceed a slot: a map reaches beyond the volume");

    let digest = digest(sequence, &bytes);
    let offset = layout.snapshot(usize::from(slot));
    let label = |kind, index| Label { kind, index, sequence, device };
    let mut data = Vec::new();
    for (number, write) in bytes.chunks(PAYLOAD_BYTES_MAX * UNITS_PER_WRITE).enumerate() {
        let first = number * UNITS_PER_WRITE;
        let mut buffer = Vec::with_capacity(write.len().div_ceil(PAYLOAD_BYTES_MAX) * METADATA_UNIT_BYTES);
        for (index, payload) in write.chunks(PAYLOAD_BYTES_MAX).enumerate() {
            unit::encode_into(label(Kind::SnapshotData, (first + index) as u32), payload, &mut buffer);
        }
        data.push((data_offset(offset, first), buffer));
    }
    let mut payload = Vec::new();
    encode_plainly(&Header { dirty_bytes, suspect_bytes }, &mut payload);
    let header = (offset, unit::encode(label(Kind::SnapshotHeader, u32::from(slot)), &payload));
    Encoded { data, header, digest }
}

/// Reads the snapshot a superblock names; `None` when any part of it is not what was written.
pub(super) fn load(
    layout: &Layout,
    device: Uuid,
    sequence: u64,
    named: NamedSnapshot,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Option<(RoaringBitmap, RoaringBitmap)> {
    if named.slot > 1 {
        return None;
    }
    let offset = layout.snapshot(usize::from(named.slot));
    let bytes = read(offset, METADATA_UNIT_BYTES)?;
    let unit = unit::decode(&bytes, Kind::SnapshotHeader, u32::from(named.slot), Some(device)).ok()?;
    let header = decode_exactly::<Header>(unit.payload)?;
    let total = header.dirty_bytes.checked_add(header.suspect_bytes)?;
    let units = total.div_ceil(PAYLOAD_BYTES_MAX as u64);
    if unit.sequence != sequence || units > u64::from(layout.slot_units) {
        return None;
    }

    let mut content = Vec::with_capacity(total as usize);
    for first in (0..units as usize).step_by(UNITS_PER_WRITE) {
        let count = UNITS_PER_WRITE.min(units as usize - first);
        let bytes = read(data_offset(offset, first), count * METADATA_UNIT_BYTES)?;
        for (index, bytes) in bytes.chunks(METADATA_UNIT_BYTES).enumerate() {
            let unit = unit::decode(bytes, Kind::SnapshotData, (first + index) as u32, Some(device)).ok()?;
            content.extend_from_slice(unit.payload);
        }
    }
    if content.len() as u64 != total || digest(sequence, &content) != named.digest {
        return None;
    }
    let (dirty, suspect) = content.split_at(header.dirty_bytes as usize);
    Some((bitmap::decode(dirty, layout.blocks())?, bitmap::decode(suspect, layout.blocks())?))
}

fn data_offset(slot_offset: u64, index: usize) -> u64 {
    slot_offset + ((1 + index) * METADATA_UNIT_BYTES) as u64
}

fn digest(sequence: u64, content: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&sequence.to_le_bytes());
    hash.update(content);
    hash.digest128()
}
