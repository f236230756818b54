//! Lines on the control socket: whatever is taken as a request means the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinblock::runtime::control::message::{CONTROL_VERSION, Request, decode_request, encode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ask) = decode_request(bytes) {
        let again = encode(&Request { version: CONTROL_VERSION, ask: ask.clone() });
        assert_eq!(decode_request(&again), Ok(ask));
    }
});
