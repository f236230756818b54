//! Probes of the handshake.

use crate::raw::{Raw, info, meta};
use crate::server::{Server, times};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use twinblock::base::limits::{NBD_CONNECTIONS_MAX, NBD_HANDSHAKES_MAX};
use twinblock::runtime::shard::clients::NbdStream;
use twinblock::wire::nbd::handshake::{ClientOption, OptionReply, encode_option};
use twinblock::wire::nbd::transmission::{HeaderStyle, command};

const SIZE: u64 = 16 << 20;

fn greeted(server: &Server) -> Raw {
    let mut raw = Raw::connect(server);
    raw.send(&3u32.to_be_bytes());
    raw
}

#[test]
fn every_option_is_answered_by_the_book() {
    let server = Server::start(SIZE);
    let mut raw = greeted(&server);
    let ack = OptionReply::Ack as u32;
    let expected = [
        (ClientOption::Unknown(77), &b"data"[..], OptionReply::ErrUnsupported as u32),
        (ClientOption::PeekExport, b"", OptionReply::ErrUnsupported as u32),
        (ClientOption::StartTls, b"", OptionReply::ErrPolicy as u32),
        (ClientOption::List, b"x", OptionReply::ErrInvalid as u32),
        (ClientOption::StructuredReply, b"x", OptionReply::ErrInvalid as u32),
        (ClientOption::SetMetaContext, &meta("vol0", &[]), OptionReply::ErrInvalid as u32),
        (ClientOption::StructuredReply, b"", ack),
        (ClientOption::SetMetaContext, &meta("vol0", &["base:", "x:y"]), ack),
        (ClientOption::SetMetaContext, &meta("vol1", &[]), OptionReply::ErrUnknown as u32),
        (ClientOption::Info, &info("vol1"), OptionReply::ErrUnknown as u32),
        (ClientOption::Info, &[0xff; 40_000], OptionReply::ErrInvalid as u32),
        (ClientOption::Info, &[0; 65_537], OptionReply::ErrTooBig as u32),
        (ClientOption::Go, b"", OptionReply::ErrInvalid as u32),
        (ClientOption::ExtendedHeaders, b"", ack),
        (ClientOption::StructuredReply, b"", OptionReply::ErrExtendedHeadersRequired as u32),
        (ClientOption::Abort, b"ignored", ack),
    ];
    for (option, data, code) in expected {
        assert_eq!(raw.option_code(option, data), code, "{option:?} {} bytes", data.len());
    }
    raw.assert_closed();
}

#[test]
fn the_old_way_in_pads_unless_it_is_waived() {
    let server = Server::start(SIZE);
    for (flags, padding) in [(0u32, 124), (1, 124), (3, 0)] {
        for name in [&b"vol0"[..], b""] {
            let mut raw = Raw::connect_tcp(&server);
            raw.send(&flags.to_be_bytes());
            raw.send_option(ClientOption::ExportName, name);
            let head = raw.receive(10);
            assert_eq!((&head[..8], &head[8..]), (&SIZE.to_be_bytes()[..], &[0x0d, 0x6d][..]));
            assert_eq!(raw.receive(padding), vec![0; padding]);
            assert_eq!(raw.ask(command::FLUSH, 0, 0, 0, b""), 0);
        }
    }
    let mut raw = greeted(&server);
    raw.send_option(ClientOption::ExportName, b"vol1");
    raw.assert_closed();
}

#[test]
fn nonsense_is_cut_off_at_once() {
    let server = Server::start(SIZE);
    let mut unknown_flags = Raw::connect(&server);
    unknown_flags.send(&0x8000_0003u32.to_be_bytes());
    unknown_flags.assert_closed();
    let mut http = greeted(&server);
    http.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    http.assert_closed();
    for code in [1u32, 3, 7, 99] {
        let mut huge = greeted(&server);
        huge.send(b"IHAVEOPT");
        huge.send(&code.to_be_bytes());
        huge.send(&u32::MAX.to_be_bytes());
        huge.assert_closed();
    }
}

#[test]
fn options_come_in_any_segmentation() {
    let server = Server::start(SIZE);
    let mut bytes = 3u32.to_be_bytes().to_vec();
    encode_option(&mut bytes, ClientOption::StructuredReply, b"");
    encode_option(&mut bytes, ClientOption::Unknown(50), &[7; 3000]);
    encode_option(&mut bytes, ClientOption::List, b"");
    let (pieces, whole): (Vec<&[u8]>, Vec<&[u8]>) = (bytes.chunks(7).collect(), vec![&bytes]);
    for parts in [pieces, whole] {
        let mut raw = Raw::connect_tcp(&server);
        parts.iter().for_each(|part| raw.send(part));
        assert_eq!(raw.option_answer(ClientOption::StructuredReply).0, OptionReply::Ack as u32);
        assert_eq!(raw.option_answer(ClientOption::Unknown(50)).0, OptionReply::ErrUnsupported as u32);
        assert!(raw.option_answer(ClientOption::List).1.starts_with(b"\0\0\0\x04vol0"));
        assert_eq!(raw.option_answer(ClientOption::List).0, OptionReply::Ack as u32);
    }
}

#[test]
fn a_server_that_does_not_serve_says_why() {
    let server = Server::start(SIZE);
    server.with(|state| state.serving = None);
    let mut raw = greeted(&server);
    let (code, message) = raw.option(ClientOption::Go, &info("vol0"));
    assert_eq!(code, OptionReply::ErrPolicy as u32);
    assert_eq!(message, b"volume vol0 is secondary on beta; connect to alpha");
    server.with(|state| state.refusal = None);
    assert_eq!(raw.option_code(ClientOption::Go, &info("vol0")), OptionReply::ErrShutdown as u32);
    let mut old = greeted(&server);
    old.send_option(ClientOption::ExportName, b"vol0");
    old.assert_closed();
}

#[test]
fn who_never_negotiates_is_cut_after_a_time() {
    let server = Server::start(SIZE);
    let mut idle = Raw::connect(&server);
    let mut slow = greeted(&server);
    slow.send(b"IHAVE");
    server.wait_until("both are here", |state| state.clients.len() == 2);
    let mut busy = Raw::ready(&server, HeaderStyle::Simple);
    server.with(|state| state.clock_ahead = times().handshake);
    idle.assert_closed();
    slow.assert_closed();
    assert_eq!(busy.ask(command::FLUSH, 0, 0, 0, b""), 0, "one who has negotiated stays");
}

#[test]
fn connections_are_bounded() {
    let server = Server::start(SIZE);
    // Who connects and says nothing can't keep others out: the oldest of them gives way.
    let mut waiting: Vec<Raw> = (0..NBD_HANDSHAKES_MAX).map(|_| Raw::connect(&server)).collect();
    let mut newcomer = Raw::ready(&server, HeaderStyle::Simple);
    waiting.remove(0).assert_closed();
    assert_eq!(newcomer.ask(command::FLUSH, 0, 0, 0, b""), 0);
    assert_eq!(server.with(|state| state.clients.len()), NBD_HANDSHAKES_MAX);
    drop((waiting, newcomer));
    server.wait_until("those in the handshake are gone", |state| state.clients.is_empty());
    let mut used: Vec<Raw> = (0..NBD_CONNECTIONS_MAX).map(|_| Raw::ready(&server, HeaderStyle::Simple)).collect();
    let stream = UnixStream::connect(server.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(std::io::Read::read(&mut &stream, &mut [0; 18]).unwrap_or(0), 0, "one too many is turned away");
    for raw in &mut used {
        assert_eq!(raw.ask(command::FLUSH, 0, 0, 0, b""), 0);
    }
    used.pop();
    server.wait_until("one has gone", |state| state.clients.len() == NBD_CONNECTIONS_MAX - 1);
    Raw::ready(&server, HeaderStyle::Simple);
}

#[test]
fn a_connected_socket_can_be_served() {
    let server = Server::start(SIZE);
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.adopt(NbdStream::Unix(theirs));
    let mut raw = Raw::over(ours);
    raw.negotiate(HeaderStyle::Structured);
    assert_eq!(raw.write(0, 0, b"hello"), 0);
    assert_eq!(raw.read(0, 0, 5), Ok(b"hello".to_vec()));
}
