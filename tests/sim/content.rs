//! Self-identifying sectors: every sector a client writes says which write it is and where it belongs, down to the last
//! byte, so that a torn, misplaced or mixed one is known at sight.

use super::random::mix;

/// What a disk keeps whole over a crash, in bytes.
pub const SECTOR: usize = 512;

/// What a sector holds: zero for zeroes, else the number of the write, unique in a run.
pub type Value = u64;

/// Sectors of zeroes.
pub const ZEROES: Value = 0;

/// Set in the value of a sector that no client wrote: what was on a disk before it came into the volume.
const OLD: Value = 1 << 63;

const MAGIC: u64 = 0x7477_696e_5f73_696d;

/// The bytes write `value` puts into sector number `sector` of the volume.
pub fn fill(value: Value, sector: u64, out: &mut [u8]) {
    assert_eq!(out.len(), SECTOR);
    if value == ZEROES {
        out.fill(0);
        return;
    }
    for (index, word) in out.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&word_at(value, sector, index).to_le_bytes());
    }
}

fn word_at(value: Value, sector: u64, index: usize) -> u64 {
    match index {
        0 => MAGIC,
        1 => value,
        2 => sector,
        _ => mix(value.wrapping_mul(0x1000_0000_01b3) ^ (sector << 8) ^ index as u64),
    }
}

/// Names what a sector holds; `None` when it is nobody's whole write to this place.
pub fn identify(bytes: &[u8], sector: u64) -> Option<Value> {
    assert_eq!(bytes.len(), SECTOR);
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(ZEROES);
    }
    let mut words = bytes.chunks_exact(8);
    let first = words.next().expect("a sector has words");
    if words.all(|word| word == first) {
        // What a disk of another life held.
        return Some(OLD | u64::from_le_bytes(first.try_into().expect("eight bytes")) >> 1);
    }
    let value = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
    let whole = value != ZEROES
        && bytes
            .chunks_exact(8)
            .enumerate()
            .all(|(index, word)| word == word_at(value, sector, index).to_le_bytes().as_slice());
    whole.then_some(value)
}

#[test]
fn a_sector_is_recognised_only_whole_and_in_its_place() {
    let mut bytes = [0u8; SECTOR];
    fill(7, 3, &mut bytes);
    assert_eq!(identify(&bytes, 3), Some(7));
    assert_eq!(identify(&bytes, 4), None, "misplaced");
    let mut other = [0u8; SECTOR];
    fill(8, 3, &mut other);
    bytes[256..].copy_from_slice(&other[256..]);
    assert_eq!(identify(&bytes, 3), None, "mixed");
    assert_eq!(identify(&[0; SECTOR], 3), Some(ZEROES));
}
