//! The 4 KiB unit everything in the metadata area is made of.
//!
//! ```text
//!  0      4     6        8      12       16        24      40     44    64
//!  magic  type  version  index  payload  sequence  device  crc32  zero  payload, then zeroes
//!                               bytes
//! ```
//! All little-endian. The CRC covers all 4096 bytes with itself as zero, so a torn or rotten unit is never taken. The
//! device's identity, drawn when the metadata was made, makes every unit of an earlier life of the disk void.

use crate::base::ids::Uuid;
use crate::base::limits::METADATA_UNIT_BYTES;

/// Major version of the whole format. Another one is refused, with both numbers named.
pub const FORMAT_VERSION: u16 = 1;

/// First bytes of every unit: "TWBM".
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"TWBM");
const HEADER_BYTES: usize = 64;
/// Bytes a unit carries.
pub(super) const PAYLOAD_BYTES_MAX: usize = METADATA_UNIT_BYTES - HEADER_BYTES;

/// Sequences end here: none is ever reached by counting, so a larger one is no unit of ours.
const SEQUENCE_MAX: u64 = 1 << 62;

/// What a unit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    Locator = 1,
    Superblock = 2,
    Intents = 3,
    SnapshotData = 4,
    SnapshotHeader = 5,
}

/// A decoded unit: where it belongs, and what it carries.
#[derive(Debug)]
pub(super) struct Unit<'a> {
    pub(super) sequence: u64,
    pub(super) device: Uuid,
    pub(super) payload: &'a [u8],
}

/// Why bytes are no unit of the wanted kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Not a unit of ours at all, or torn or rotten.
    Rotten,
    /// Sound, but of another kind, place or device.
    Misplaced,
    /// Sound, but of another version of the format.
    Version(u16),
}

/// The fields of a unit besides its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) kind: Kind,
    pub(super) index: u32,
    pub(super) sequence: u64,
    pub(super) device: Uuid,
}

/// Appends a unit to `out`.
pub(super) fn encode_into(label: Label, payload: &[u8], out: &mut Vec<u8>) {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a payload of {} bytes fits no unit", payload.len());
    let start = out.len();
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&(label.kind as u16).to_le_bytes());
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&label.index.to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&label.sequence.to_le_bytes());
    out.extend_from_slice(&label.device.0.to_le_bytes());
    out.resize(start + HEADER_BYTES, 0);
    out.extend_from_slice(payload);
    out.resize(start + METADATA_UNIT_BYTES, 0);
    let crc = crc32fast::hash(&out[start..]);
    out[start + 40..start + 44].copy_from_slice(&crc.to_le_bytes());
}

/// A unit on its own.
pub(super) fn encode(label: Label, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(METADATA_UNIT_BYTES);
    encode_into(label, payload, &mut out);
    out
}

/// Whether these bytes were written as a unit of ours, of whatever kind and version, sound or not.
pub fn begins_like_a_unit(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_le_bytes())
}

/// Decodes a unit of the given kind and index, of `device` if that is known.
pub(super) fn decode(bytes: &[u8], kind: Kind, index: u32, device: Option<Uuid>) -> Result<Unit<'_>, Bad> {
    if bytes.len() != METADATA_UNIT_BYTES || u32_at(bytes, 0) != MAGIC {
        return Err(Bad::Rotten);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..40]);
    crc.update(&[0; 4]);
    crc.update(&bytes[44..]);
    let payload_bytes = u32_at(bytes, 12) as usize;
    if crc.finalize() != u32_at(bytes, 40) || payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(Bad::Rotten);
    }
    // The version comes before the rest: a unit of another version says nothing else that we understand.
    let version = u16_at(bytes, 6);
    if version != FORMAT_VERSION {
        return Err(Bad::Version(version));
    }
    let found = Uuid(u128::from_le_bytes(bytes[24..40].try_into().expect("sixteen bytes")));
    if u16_at(bytes, 4) != kind as u16 || u32_at(bytes, 8) != index || device.is_some_and(|device| device != found) {
        return Err(Bad::Misplaced);
    }
    let sequence = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
    if sequence > SEQUENCE_MAX {
        return Err(Bad::Rotten);
    }
    Ok(Unit { sequence, device: found, payload: &bytes[HEADER_BYTES..HEADER_BYTES + payload_bytes] })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LABEL: Label = Label { kind: Kind::Intents, index: 3, sequence: 9, device: Uuid(7) };

    #[test]
    fn a_unit_comes_back_only_where_it_belongs() {
        let bytes = encode(LABEL, b"payload");
        let unit = decode(&bytes, Kind::Intents, 3, Some(Uuid(7))).unwrap();
        assert_eq!((unit.sequence, unit.device, unit.payload), (9, Uuid(7), &b"payload"[..]));
        assert_eq!(decode(&bytes, Kind::Superblock, 3, None).unwrap_err(), Bad::Misplaced);
        assert_eq!(decode(&bytes, Kind::Intents, 2, None).unwrap_err(), Bad::Misplaced);
        assert_eq!(decode(&bytes, Kind::Intents, 3, Some(Uuid(8))).unwrap_err(), Bad::Misplaced);
        assert_eq!(decode(&bytes[..4095], Kind::Intents, 3, None).unwrap_err(), Bad::Rotten);
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = encode(LABEL, b"");
        bytes[6..8].copy_from_slice(&7u16.to_le_bytes());
        bytes[40..44].fill(0);
        let crc = crc32fast::hash(&bytes);
        bytes[40..44].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&bytes, Kind::Intents, 3, None).unwrap_err(), Bad::Version(7));
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_seen(bit in 0usize..METADATA_UNIT_BYTES * 8) {
            let mut bytes = encode(LABEL, b"payload");
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&bytes, Kind::Intents, 3, None).unwrap_err(), Bad::Rotten);
        }

        #[test]
        fn every_tear_between_two_contents_is_seen(sector in 1usize..8) {
            let old = encode(LABEL, &[1; PAYLOAD_BYTES_MAX]);
            let mut torn = encode(Label { sequence: 10, ..LABEL }, &[2; PAYLOAD_BYTES_MAX]);
            torn[sector * 512..].copy_from_slice(&old[sector * 512..]);
            prop_assert_eq!(decode(&torn, Kind::Intents, 3, None).unwrap_err(), Bad::Rotten);
        }
    }
}
