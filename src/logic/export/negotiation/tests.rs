use super::*;
use crate::wire::nbd::handshake::encode_option;
use proptest::prelude::*;

fn serving() -> Offer {
    offer(Availability::Serving(Terms { size_bytes: 1 << 20, cache_epoch: 3, read_only: false, fast_zero: true }))
}

fn offer(availability: Availability) -> Offer {
    Offer { name: "vol0".to_owned(), description: "mirrored".to_owned(), availability }
}

/// A decoded option reply.
type Reply = (u32, u32, Vec<u8>);

const ACK: u32 = OptionReply::Ack as u32;
const INVALID: u32 = OptionReply::ErrInvalid as u32;

struct Client {
    negotiation: Negotiation,
    offer: Offer,
}

impl Client {
    fn new(offer: Offer) -> Client {
        let mut client = Client { negotiation: Negotiation::new(), offer };
        assert_eq!(client.send(&3u32.to_be_bytes()).1, Step::More);
        client
    }

    /// Hands in bytes until nothing more happens; the raw answer and the last step.
    fn send(&mut self, mut input: &[u8]) -> (Vec<u8>, Step) {
        let mut out = Vec::new();
        loop {
            let (consumed, step) = self.negotiation.handle(&self.offer, input, &mut out);
            input = &input[consumed..];
            if step != Step::Again {
                return (out, step);
            }
        }
    }

    fn option(&mut self, code: u32, data: &[u8]) -> (Vec<Reply>, Step) {
        let mut bytes = Vec::new();
        encode_option(&mut bytes, ClientOption::from_code(code), data);
        let (out, step) = self.send(&bytes);
        (replies(&out), step)
    }

    fn only_reply(&mut self, code: u32, data: &[u8]) -> u32 {
        let (replies, step) = self.option(code, data);
        assert_eq!(step, Step::More);
        assert_eq!(replies.len(), 1, "{replies:?}");
        assert_eq!(replies[0].0, code);
        replies[0].1
    }
}

fn replies(mut out: &[u8]) -> Vec<Reply> {
    let mut found = Vec::new();
    while !out.is_empty() {
        assert_eq!(out[..8], wire::OPTION_REPLY_MAGIC.to_be_bytes());
        let number = |at: usize| u32::from_be_bytes(out[at..at + 4].try_into().unwrap());
        let end = wire::OPTION_REPLY_HEADER_BYTES + number(16) as usize;
        found.push((number(8), number(12), out[wire::OPTION_REPLY_HEADER_BYTES..end].to_vec()));
        out = &out[end..];
    }
    found
}

fn info_data(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(infos.len() as u16).to_be_bytes());
    infos.iter().for_each(|info| data.extend_from_slice(&info.to_be_bytes()));
    data
}

fn meta_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend_from_slice(&(query.len() as u32).to_be_bytes());
        data.extend_from_slice(query.as_bytes());
    }
    data
}

#[test]
fn go_tells_what_was_asked_and_agrees() {
    for name in ["vol0", ""] {
        let mut client = Client::new(serving());
        assert_eq!(client.only_reply(8, b""), ACK);
        let (replies, step) = client.option(7, &info_data(name, &[1, 2, 3, 3, 77]));
        let data: Vec<&[u8]> = replies.iter().map(|reply| &reply.2[..]).collect();
        assert_eq!(
            data,
            [
                &wire::info_export(1 << 20, 0x0ded)[..],
                b"\0\x01vol0",
                b"\0\x02mirrored",
                &wire::info_block_size(1, 4096, 32 << 20),
                b"",
            ]
        );
        assert_eq!(replies.last().unwrap().1, ACK);
        let Step::Agreed(agreed) = step else { panic!("{step:?}") };
        assert_eq!((agreed.style, agreed.terms.cache_epoch), (HeaderStyle::Structured, 3));
    }
}

#[test]
fn info_agrees_with_go_and_stays_in_the_handshake() {
    let mut client = Client::new(serving());
    let (told, step) = client.option(6, &info_data("vol0", &[]));
    assert_eq!(step, Step::More);
    assert_eq!(told[0].2, wire::info_export(1 << 20, 0x0d6d), "without structured replies there is no DF");
    let (chosen, _) = client.option(7, &info_data("vol0", &[]));
    assert_eq!(told[0].2, chosen[0].2);
}

#[test]
fn flags_follow_what_was_agreed() {
    let mut client = Client::new(serving());
    assert_eq!(client.only_reply(11, b""), ACK);
    let (plain, _) = client.option(6, &info_data("", &[]));
    assert_eq!(plain[0].2, wire::info_export(1 << 20, 0x0ded));
    client.option(10, &meta_data("vol0", &["base:allocation"]));
    let (with_contexts, _) = client.option(6, &info_data("", &[]));
    assert_eq!(with_contexts[0].2, wire::info_export(1 << 20, 0x1ded));
}

#[test]
fn an_unserved_volume_is_refused_with_the_reason() {
    let why = "volume vol0 is secondary on beta; connect to alpha";
    let mut client = Client::new(offer(Availability::Refused(why.to_owned())));
    for code in [6, 7] {
        let (replies, step) = client.option(code, &info_data("vol0", &[]));
        assert_eq!(step, Step::More);
        assert_eq!(replies, [(code, OptionReply::ErrPolicy as u32, why.as_bytes().to_vec())]);
    }
    assert_eq!(client.only_reply(7, &info_data("other", &[])), OptionReply::ErrUnknown as u32);
    let (_, step) = client.option(1, b"vol0");
    assert!(matches!(step, Step::Close(_)));
}

#[test]
fn while_stopping_only_abort_is_answered_normally() {
    let mut client = Client::new(offer(Availability::Stopping));
    for code in 3..=11 {
        let expected = if code == 4 { OptionReply::ErrUnsupported } else { OptionReply::ErrShutdown };
        assert_eq!(client.only_reply(code, b""), expected as u32, "option {code}");
    }
    let (replies, step) = client.option(2, b"good-bye");
    assert_eq!(replies, [(2, ACK, vec![])]);
    assert!(matches!(step, Step::Close(_)));
}

#[test]
fn export_name_pads_unless_waived_and_closes_where_it_cannot_serve() {
    for (flags, padding) in [(1u32, wire::EXPORT_NAME_PADDING_BYTES), (3, 0), (0, wire::EXPORT_NAME_PADDING_BYTES)] {
        let mut client = Client { negotiation: Negotiation::new(), offer: serving() };
        client.send(&flags.to_be_bytes());
        let mut bytes = Vec::new();
        encode_option(&mut bytes, ClientOption::ExportName, b"vol0");
        let (out, step) = client.send(&bytes);
        assert!(matches!(step, Step::Agreed(_)));
        assert_eq!(out[..10], [0, 0, 0, 0, 0, 0x10, 0, 0, 0x0d, 0x6d]);
        assert_eq!(out.len(), 10 + padding);
    }
    let (_, step) = Client::new(serving()).option(1, b"other");
    assert!(matches!(step, Step::Close(_)));
    let mut extended = Client::new(serving());
    extended.option(11, b"");
    assert!(matches!(extended.option(1, b"vol0").1, Step::Close(_)));
}

#[test]
fn unknown_and_withdrawn_options_are_skipped() {
    let mut client = Client::new(serving());
    for code in [4, 12, 99, 0, u32::MAX] {
        assert_eq!(client.only_reply(code, &[7; 100_000]), OptionReply::ErrUnsupported as u32);
    }
    assert_eq!(client.only_reply(8, b""), ACK, "the next option is found");
}

#[test]
fn sizes_have_their_bounds() {
    let mut client = Client::new(serving());
    assert_eq!(client.only_reply(6, &vec![0; NBD_OPTION_BYTES_MAX + 1]), OptionReply::ErrTooBig as u32);
    assert_eq!(client.only_reply(6, &vec![0; NBD_OPTION_BYTES_MAX]), INVALID);
    assert_eq!(client.only_reply(99, &vec![0; NBD_OPTION_SKIP_BYTES_MAX]), OptionReply::ErrUnsupported as u32);
    for code in [99u32, 1, 7] {
        let mut client = Client::new(serving());
        let mut head = wire::OPTION_MAGIC.to_be_bytes().to_vec();
        head.extend_from_slice(&code.to_be_bytes());
        head.extend_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(client.send(&head).1, Step::Close(_)), "option {code} of 4 GiB");
    }
    assert!(matches!(Client::new(serving()).option(1, &[b'a'; NBD_OPTION_BYTES_MAX + 1]).1, Step::Close(_)));
    assert!(matches!(Client::new(serving()).option(1, &[b'a'; 5000]).1, Step::Close(_)));
}

#[test]
fn styles_are_agreed_on_once() {
    let mut client = Client::new(serving());
    assert_eq!(client.only_reply(8, b"x"), INVALID);
    assert_eq!(client.only_reply(8, b""), ACK);
    assert_eq!(client.only_reply(8, b""), INVALID);
    assert_eq!(client.only_reply(11, b"x"), INVALID);
    assert_eq!(client.only_reply(11, b""), ACK);
    assert_eq!(client.only_reply(11, b""), INVALID);
    assert_eq!(client.only_reply(8, b""), OptionReply::ErrExtendedHeadersRequired as u32);
}

#[test]
fn list_and_tls_are_answered_by_the_book() {
    let mut client = Client::new(serving());
    let (replies, _) = client.option(3, b"");
    assert_eq!(replies, [(3, 2, b"\0\0\0\x04vol0mirrored".to_vec()), (3, ACK, vec![])]);
    assert_eq!(client.only_reply(3, b"x"), INVALID);
    assert_eq!(client.only_reply(5, b""), OptionReply::ErrPolicy as u32);
    assert_eq!(client.only_reply(5, b"x"), INVALID);
}

#[test]
fn contexts_are_chosen_and_a_failed_choice_clears_the_last() {
    let mut client = Client::new(serving());
    assert_eq!(client.only_reply(10, &meta_data("vol0", &["base:allocation"])), INVALID, "needs structured replies");
    client.option(8, b"");
    let (replies, _) = client.option(10, &meta_data("vol0", &["base:allocation", "x:y", "twinblock:dirty"]));
    let told: Vec<&[u8]> = replies.iter().map(|reply| &reply.2[..]).collect();
    assert_eq!(told, [&b"\0\0\0\x01base:allocation"[..], b"\0\0\0\x02twinblock:dirty", b""]);
    let chosen = |client: &mut Client| match client.clone_agreed() {
        Step::Agreed(agreed) => agreed.contexts,
        step => panic!("{step:?}"),
    };
    assert_eq!(chosen(&mut client), Selection::listed(&[]));
    assert_eq!(client.only_reply(10, &meta_data("other", &[])), OptionReply::ErrUnknown as u32);
    assert_eq!(chosen(&mut client), Selection::NONE);
    client.option(10, &meta_data("", &["twinblock:dirty"]));
    assert_eq!(chosen(&mut client), Selection::chosen(&["twinblock:dirty"]));
    assert_eq!(client.only_reply(10, b"\0\0\0\x09"), INVALID);
    assert_eq!(chosen(&mut client), Selection::NONE);
}

impl Client {
    /// What a GO would agree on now.
    fn clone_agreed(&self) -> Step {
        Client { negotiation: self.negotiation.clone(), offer: self.offer.clone() }.option(7, &info_data("", &[])).1
    }
}

#[test]
fn contexts_are_listed() {
    let mut client = Client::new(serving());
    let (all, _) = client.option(9, &meta_data("vol0", &[]));
    assert_eq!(all.len(), 3);
    let (base, _) = client.option(9, &meta_data("vol0", &["base:"]));
    assert_eq!(base[0], (9, 4, b"\0\0\0\0base:allocation".to_vec()));
    assert_eq!(client.only_reply(9, &meta_data("vol0", &["qemu:"])), ACK);
    assert_eq!(client.only_reply(9, &meta_data("other", &[])), OptionReply::ErrUnknown as u32);
    let many = vec!["base:allocation"; 65];
    assert_eq!(client.only_reply(9, &meta_data("vol0", &many)), OptionReply::ErrTooBig as u32);
}

#[test]
fn unknown_client_flags_and_wrong_magic_close() {
    let mut client = Client { negotiation: Negotiation::new(), offer: serving() };
    assert!(matches!(client.send(&4u32.to_be_bytes()).1, Step::Close(_)));
    let mut client = Client::new(serving());
    assert!(matches!(client.send(b"GET / HTTP/1.1\r\n").1, Step::Close(_)));
}

#[test]
fn options_may_come_byte_by_byte_or_all_at_once() {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    encode_option(&mut bytes, ClientOption::StructuredReply, b"");
    encode_option(&mut bytes, ClientOption::Unknown(50), b"abc");
    encode_option(&mut bytes, ClientOption::Go, &info_data("vol0", &[]));
    let run = |chunk: usize| {
        let mut negotiation = Negotiation::new();
        let (mut held, mut out, mut last) = (Vec::new(), Vec::new(), Step::More);
        for part in bytes.chunks(chunk) {
            held.extend_from_slice(part);
            loop {
                let (consumed, step) = negotiation.handle(&serving(), &held, &mut out);
                held.drain(..consumed);
                last = step;
                if last != Step::Again {
                    break;
                }
            }
        }
        assert!(held.is_empty());
        (out, last)
    };
    let whole = run(bytes.len());
    assert!(matches!(whole.1, Step::Agreed(_)));
    for chunk in 1..40 {
        assert_eq!(run(chunk), whole, "in chunks of {chunk}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_every_step_gets_on(bytes in prop::collection::vec(any::<u8>(), 0..600), code in 0u32..14) {
        let mut client = Client::new(serving());
        let mut option = Vec::new();
        encode_option(&mut option, ClientOption::from_code(code), &bytes);
        option.extend_from_slice(&bytes);
        client.send(&option);
        Client { negotiation: Negotiation::new(), offer: serving() }.send(&bytes);
    }
}
