//! Marks from the peer and maps from the disk: whatever is taken is a bitmap within its bounds that survives both ways.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinblock::wire::bitmap::{decode, encode, encoded_bytes_max};

const LIMIT: u64 = 1 << 24;

fuzz_target!(|bytes: &[u8]| {
    if let Some(bitmap) = decode(bytes, LIMIT) {
        assert!(bitmap.max().is_none_or(|max| u64::from(max) < LIMIT));
        let again = encode(&bitmap);
        assert!(again.len() as u64 <= encoded_bytes_max(LIMIT));
        assert_eq!(decode(&again, LIMIT), Some(bitmap));
    }
});
