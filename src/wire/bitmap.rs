//! Roaring bitmaps as bytes: the portable format of the roaring specification, with bounds.
//!
//! Used by the snapshots on disk and by the marks exchanged over the link. Decoding takes hostile bytes: what it
//! allocates is bounded by what it reads, every container is checked, and nothing may follow the bitmap.

use roaring::RoaringBitmap;

/// Values one container of the format stands for.
const CONTAINER_VALUES: u64 = 1 << 16;
/// Largest array or bitmap container, in bytes, with its key, cardinality and offset.
const CONTAINER_BYTES_MAX: u64 = 8192 + 8;
/// Cookie and number of containers, rounded up.
const HEADER_BYTES_MAX: u64 = 16;

/// Bytes [`encode`] yields at most for values below `limit`.
pub fn encoded_bytes_max(limit: u64) -> u64 {
    HEADER_BYTES_MAX + limit.div_ceil(CONTAINER_VALUES) * CONTAINER_BYTES_MAX
}

/// Encodes a bitmap.
///
/// Run containers are kept where they help. A map whose runs are so short that it would exceed
/// [`encoded_bytes_max`] is encoded without them, so that the bound always holds.
pub fn encode(bitmap: &RoaringBitmap) -> Vec<u8> {
    let limit = bitmap.max().map_or(0, |max| u64::from(max) + 1);
    if bitmap.serialized_size() as u64 <= encoded_bytes_max(limit) {
        return serialise(bitmap);
    }
    let mut plain = bitmap.clone();
    plain.remove_run_compression();
    serialise(&plain)
}

fn serialise(bitmap: &RoaringBitmap) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).expect("a vector takes every byte");
    bytes
}

/// Decodes a bitmap whose values all lie below `limit`; `None` for anything else, trailing bytes included.
pub fn decode(mut bytes: &[u8], limit: u64) -> Option<RoaringBitmap> {
    let bitmap = RoaringBitmap::deserialize_from(&mut bytes).ok()?;
    let inside = bitmap.max().is_none_or(|max| u64::from(max) < limit);
    (bytes.is_empty() && inside).then_some(bitmap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One run from which every third value was taken again: as runs it takes far more room than as plain bits.
    fn ragged() -> RoaringBitmap {
        let mut bitmap = RoaringBitmap::new();
        bitmap.insert_range(0..65_536);
        bitmap.optimize();
        (0..65_535).step_by(3).for_each(|value| {
            bitmap.remove(value);
        });
        bitmap
    }

    #[test]
    fn the_bound_holds_for_the_worst_patterns() {
        let mut dense = RoaringBitmap::new();
        dense.insert_range(0..1 << 20);
        let every_second: RoaringBitmap = (0..1u32 << 20).step_by(2).collect();
        assert!(ragged().serialized_size() as u64 > encoded_bytes_max(65_536), "the pattern is bad enough");
        let arrays: RoaringBitmap = (0..1u32 << 20).step_by(16).collect();
        for bitmap in [RoaringBitmap::new(), dense, every_second, arrays, ragged()] {
            let limit = bitmap.max().map_or(0, |max| u64::from(max) + 1);
            let bytes = encode(&bitmap);
            assert!(bytes.len() as u64 <= encoded_bytes_max(limit));
            assert_eq!(decode(&bytes, limit), Some(bitmap));
        }
    }

    #[test]
    fn values_beyond_the_limit_and_trailing_bytes_are_refused() {
        let bitmap: RoaringBitmap = [1u32, 99].into_iter().collect();
        let mut bytes = encode(&bitmap);
        assert_eq!(decode(&bytes, 100), Some(bitmap));
        assert_eq!(decode(&bytes, 99), None);
        bytes.push(0);
        assert_eq!(decode(&bytes, 100), None);
        assert_eq!(decode(&[], 100), None);
    }

    proptest! {
        #[test]
        fn any_bitmap_comes_back(values in proptest::collection::vec(any::<u32>(), 0..200), runs in proptest::collection::vec((any::<u32>(), 0u32..100_000), 0..5)) {
            let mut bitmap: RoaringBitmap = values.into_iter().collect();
            for (start, length) in runs {
                bitmap.insert_range(start..start.saturating_add(length));
            }
            bitmap.optimize();
            prop_assert_eq!(decode(&encode(&bitmap), 1 << 32), Some(bitmap));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), runs in any::<bool>()) {
            let mut framed = if runs { vec![59, 48, 1, 0] } else { vec![58, 48, 0, 0, 2, 0, 0, 0] };
            framed.extend(&bytes);
            for candidate in [&bytes, &framed] {
                if let Some(bitmap) = decode(candidate, 1 << 20) {
                    prop_assert_eq!(decode(&encode(&bitmap), 1 << 20), Some(bitmap));
                }
            }
        }
    }
}
