//! The NBD handshake: any bytes, in any segmentation, to a server that serves, refuses or stops.
//!
//! Every reply must be one the protocol knows, for the option that was sent, and every step must get on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinblock::logic::export::negotiation::{Negotiation, Step};
use twinblock::logic::export::offer::{Availability, Offer, Terms};
use twinblock::wire::nbd::handshake::{OPTION_REPLY_HEADER_BYTES, OPTION_REPLY_MAGIC};

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, chunk], bytes)) = input.split_first_chunk() else { return };
    let terms = Terms { size_bytes: 1 << 30, cache_epoch: 1, read_only: kind & 4 != 0, fast_zero: kind & 8 != 0 };
    let availability = match kind & 3 {
        0 | 1 => Availability::Serving(terms),
        2 => Availability::Refused("volume vol0 is secondary on beta; connect to alpha".to_owned()),
        _ => Availability::Stopping,
    };
    let offer = Offer { name: "vol0".to_owned(), description: "a volume".to_owned(), availability };
    let mut negotiation = Negotiation::new();
    let mut held: Vec<u8> = Vec::new();
    for part in bytes.chunks(usize::from(chunk) + 1) {
        held.extend_from_slice(part);
        loop {
            let mut out = Vec::new();
            let (consumed, step) = negotiation.handle(&offer, &held, &mut out);
            assert!(consumed <= held.len());
            held.drain(..consumed);
            if !matches!(step, Step::Agreed(_)) {
                check_replies(&out);
            }
            match step {
                Step::More => break,
                Step::Again => {}
                Step::Agreed(agreed) => {
                    assert!(kind & 3 < 2, "an export that is not served was agreed on");
                    assert_eq!(agreed.terms, terms);
                    return;
                }
                Step::Close(_) => return,
            }
        }
    }
});

fn check_replies(mut out: &[u8]) {
    while !out.is_empty() {
        let (head, rest) = out.split_first_chunk::<OPTION_REPLY_HEADER_BYTES>().expect("a whole reply");
        assert_eq!(head[..8], OPTION_REPLY_MAGIC.to_be_bytes());
        let kind = u32::from_be_bytes(head[12..16].try_into().expect("four bytes"));
        assert!((1..=4).contains(&kind) || (0x8000_0001..=0x8000_000a).contains(&kind), "reply {kind:#x}");
        let length = u32::from_be_bytes(head[16..20].try_into().expect("four bytes")) as usize;
        assert!(length <= 8192, "a reply of {length} bytes");
        out = &rest[length..];
    }
}
