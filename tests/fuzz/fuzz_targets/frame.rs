//! A peer that has the secret but not our manners: headers and payloads with right checksums and any content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinblock::base::ids::BufferId;
use twinblock::base::limits::{FRAME_PAYLOAD_BYTES_MAX, VOLUME_BYTES_MAX};
use twinblock::wire::frame::{Frame, HEADER_BYTES, MAGIC, decode_header, encode_header};
use twinblock::wire::message;

fuzz_target!(|bytes: &[u8]| {
    let Some((head, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    let _ = decode_header(head);

    let mut head = *head;
    head[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    head[52..56].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let crc = crc32fast::hash(&head[..60]);
    head[60..64].copy_from_slice(&crc.to_le_bytes());
    let Ok(header) = decode_header(&head) else { return };
    assert!(header.payload_bytes <= FRAME_PAYLOAD_BYTES_MAX);
    let frame = match header.bulk() {
        Some(range) => {
            assert!(range.end() <= VOLUME_BYTES_MAX && header.bulk_at() + payload.len() <= bytes.len() + 4096);
            header.with_bulk(payload, BufferId(1))
        }
        None => header.without_bulk(payload),
    };
    let Ok(frame) = frame else { return };
    let payload = match &frame {
        Frame::Control(content) => message::encode(content),
        _ => payload.to_vec(),
    };
    let crc = crc32fast::hash(&payload);
    if header.payload_bytes == payload.len() {
        let again = encode_header(&frame, header.session, header.epoch, payload.len(), crc);
        let again = decode_header(&again).expect("what was taken is sent as well");
        assert_eq!(again.bulk(), header.bulk());
    }
});
