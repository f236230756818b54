//! The first bytes of a connection, before and after the other side is known to have the secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinblock::wire::hello::{self, CLUSTER_BYTES_MAX, Hello, Reply, SENTENCE_BYTES_MAX};

fuzz_target!(|bytes: &[u8]| {
    if let Some((_, name_bytes)) = bytes.first_chunk().and_then(hello::decode_preamble_head) {
        assert!(name_bytes <= CLUSTER_BYTES_MAX);
    }
    if let Some((.., name_bytes)) = bytes.first_chunk().and_then(hello::decode_verdict_head) {
        assert!(name_bytes <= CLUSTER_BYTES_MAX);
    }
    assert!(
        hello::printable(bytes).chars().all(|character| !character.is_control()) || bytes.len() > SENTENCE_BYTES_MAX
    );
    if let Some(hello) = hello::decode::<Hello>(bytes) {
        let _ = hello::encode(&hello);
    }
    if let Some(reply) = hello::decode::<Reply>(bytes) {
        let _ = hello::encode(&reply);
    }
});
