//! The small messages of the link: what is taken is sent again as the same message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinblock::wire::message::{decode, encode};

fuzz_target!(|bytes: &[u8]| {
    if let Some(message) = decode(bytes) {
        assert_eq!(decode(&encode(&message)), Some(message));
    }
});
