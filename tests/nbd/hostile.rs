//! Clients that mean harm, break, or vanish: each costs its own connection and nothing else.

use crate::raw::{Raw, info};
use crate::server::{Server, State, times};
use proptest::prelude::*;
use std::time::Duration;
use twinblock::base::limits::{NBD_READ_WINDOW_BYTES, NBD_REQUESTS_IN_FLIGHT_MAX};
use twinblock::base::range::ByteRange;
use twinblock::base::request::Action;
use twinblock::wire::nbd::handshake::{ClientOption, encode_option};
use twinblock::wire::nbd::transmission::{HeaderStyle, RequestHeader, command, encode_request};

const SIZE: u64 = 128 << 20;

fn assert_alive(server: &Server) {
    let mut raw = Raw::ready(server, HeaderStyle::Structured);
    assert_eq!(raw.write(0, 77, b"alive"), 0);
    assert_eq!(raw.read(0, 77, 5), Ok(b"alive".to_vec()));
}

fn wait_for_rest(server: &Server) {
    server.wait_until("no client is left", |state| state.clients.is_empty());
    server.wait_until("every buffer is back", |state| state.buffers_in_use == 0);
}

#[test]
fn bytes_that_are_no_request_cut_the_connection() {
    let server = Server::start(SIZE);
    for style in [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended] {
        let mut raw = Raw::ready(&server, style);
        raw.send(&[0x5a; 64]);
        raw.assert_closed();
    }
    assert_alive(&server);
}

#[test]
fn vanishing_with_reads_queued_costs_nothing_else() {
    let server = Server::start(SIZE);
    for _ in 0..8 {
        let mut raw = Raw::ready(&server, HeaderStyle::Structured);
        raw.write(0, 0, &[1; 1 << 20]);
        for _ in 0..64 {
            raw.request(command::READ, 0, 0, 1 << 20, b"");
        }
        drop(raw);
        assert_alive(&server);
    }
    wait_for_rest(&server);
}

#[test]
fn vanishing_while_the_core_has_its_pieces_leaves_them_to_settle() {
    let server = Server::start(SIZE);
    server.with(|state| state.holding = true);
    let mut raw = Raw::ready(&server, HeaderStyle::Simple);
    raw.request(command::READ, 0, 1000, 3 << 20, b"");
    raw.request(command::WRITE, 0, 0, 4096, &[1; 4096]);
    raw.request(command::WRITE, 0, 8192, 1 << 20, b"only the beginning");
    server.wait_until("the pieces are taken", |state| state.taken.len() == 5);
    drop(raw);
    server.wait_until("it is gone", |state| state.clients.is_empty());
    // The place is taken by another client before the pieces settle.
    let mut next = Raw::ready(&server, HeaderStyle::Simple);
    let cookie = next.request(command::FLUSH, 0, 0, 0, b"");
    server.with(|state| state.holding = false);
    assert_eq!(next.outcome(cookie), 0, "the first answer is its own");
    assert_eq!(next.read(0, 0, 10), Ok(vec![1; 10]), "an admitted write is done");
    assert_eq!(next.read(0, 8192, 10), Ok(vec![0; 10]), "half a write is not");
    drop(next);
    wait_for_rest(&server);
}

#[test]
fn requests_in_flight_are_bounded_by_not_reading() {
    let server = Server::start(SIZE);
    server.with(|state| state.holding = true);
    let mut raw = Raw::ready(&server, HeaderStyle::Simple);
    let mut requests = Vec::new();
    for cookie in 0..1000 {
        let request = RequestHeader { flags: 0, command: command::FLUSH, cookie, offset: 0, length: 0 };
        encode_request(&mut requests, HeaderStyle::Simple, &request);
    }
    raw.send(&requests);
    server.wait_until("the most are taken", |state| state.taken.len() == NBD_REQUESTS_IN_FLIGHT_MAX);
    let mut other = Raw::ready(&server, HeaderStyle::Simple);
    other.request(command::FLUSH, 0, 0, 0, b"");
    server.wait_until("another client's is taken", |state| state.taken.len() > NBD_REQUESTS_IN_FLIGHT_MAX);
    assert_eq!(server.with(|state| state.taken.len()), NBD_REQUESTS_IN_FLIGHT_MAX + 1);
    server.with(|state| state.holding = false);
    for cookie in 0..1000 {
        assert_eq!(raw.outcome(cookie), 0);
    }
}

#[test]
fn f037_a_client_that_reads_nothing_is_bounded_and_cut_in_the_end() {
    let server = Server::start(SIZE);
    let mut filled = Raw::ready(&server, HeaderStyle::Structured);
    filled.write(0, 0, &vec![0x77; 32 << 20]);
    let mut deaf = Raw::ready(&server, HeaderStyle::Structured);
    for _ in 0..8 {
        deaf.request(command::READ, 0, 0, 32 << 20, b"");
    }
    server.wait_until("its socket is full", |state| state.clients.iter().any(|client| client.unsent_bytes > 0));
    for _ in 0..50 {
        assert_eq!(filled.ask(command::FLUSH, 0, 0, 0, b""), 0, "others are served");
    }
    let unsent = server.with(|state| state.clients.iter().map(|client| client.unsent_bytes).max().unwrap());
    assert!(unsent <= NBD_READ_WINDOW_BYTES + 4096, "{unsent} bytes wait for a client that reads nothing");
    server.with(|state| state.clock_ahead = times().send + Duration::from_secs(1));
    server.wait_until("it is cut", |state| state.clients.len() == 1);
    assert_eq!(filled.ask(command::FLUSH, 0, 0, 0, b""), 0);
    drop((filled, deaf));
    wait_for_rest(&server);
}

#[test]
fn clients_that_sit_on_every_buffer_make_room_for_one_that_works() {
    let server = Server::start(SIZE);
    server.with(|state| state.freeze());
    let mut filled = Raw::ready(&server, HeaderStyle::Structured);
    filled.write(0, 0, &vec![0x77; 32 << 20]);
    let sitting: Vec<Raw> = (0..50)
        .map(|n| {
            let mut raw = Raw::ready(&server, HeaderStyle::Structured);
            if n % 2 == 0 {
                raw.request(command::READ, 0, 0, 32 << 20, b"");
            } else {
                raw.request(command::WRITE, 0, 0, 1 << 20, b"and then nothing");
            }
            raw
        })
        .collect();
    server.wait_until("all have what they wait for", |state| {
        let requests = state.clients.iter().filter(|client| client.requests_in_flight > 0).count();
        requests == sitting.len()
    });
    // Small enough to lie in the socket as a whole until it is taken.
    let last = ByteRange::new(64 << 20, 64 << 10);
    let write = filled.request(command::WRITE, 0, last.offset, last.length, &vec![1; last.length as usize]);
    server.wait_until("every request has begun", |state| {
        state.clients.iter().all(|client| client.requests_in_flight == 1)
    });
    let begun = |state: &State| {
        state.taken.iter().any(|action| matches!(action, Action::Write { range, .. } if *range == last))
    };
    assert!(!server.with(|state| begun(state)), "nobody sits on all the buffers");
    // Those who wait beside it may get the room first, and sit on it in their turn.
    let mut rounds = 0;
    while !server.with(|state| begun(state)) {
        let before = server.with(|state| {
            state.clock_ahead += times().stall;
            state.clients.len()
        });
        server.wait_until("room is made", |state| begun(state) || state.clients.len() < before);
        rounds += 1;
        assert!(rounds <= 50, "each round ends at least one of them");
    }
    assert_eq!(filled.outcome(write), 0);
    drop((filled, sitting));
    wait_for_rest(&server);
}

#[test]
fn a_client_that_only_causes_errors_and_reads_none_is_bounded() {
    let server = Server::start(SIZE);
    let mut deaf = Raw::ready(&server, HeaderStyle::Structured);
    let mut bytes = Vec::new();
    for cookie in 0..20_000 {
        let request = RequestHeader { flags: 0, command: 99, cookie, offset: 0, length: 0 };
        encode_request(&mut bytes, HeaderStyle::Structured, &request);
    }
    let sender = std::thread::spawn(move || {
        for _ in 0..40 {
            deaf.send(&bytes);
        }
    });
    server.wait_until("it is not read any more", |state| {
        state.clients.iter().any(|client| client.unsent_bytes >= twinblock::base::limits::NBD_UNSENT_BYTES_MAX)
    });
    assert_alive(&server);
    let unsent = server.with(|state| state.clients.iter().map(|client| client.unsent_bytes).max().unwrap());
    assert!(unsent < 2 * twinblock::base::limits::NBD_UNSENT_BYTES_MAX, "{unsent} bytes of errors wait");
    server.cut("enough");
    sender.join().unwrap();
}

#[test]
fn more_payload_than_the_pool_holds_gets_through() {
    let server = Server::start(SIZE);
    let mut writers: Vec<Raw> = (0..4).map(|_| Raw::ready(&server, HeaderStyle::Simple)).collect();
    let payload = vec![0x33; 32 << 20];
    std::thread::scope(|scope| {
        for (raw, offset) in writers.iter_mut().zip((0..4).map(|n| n * (32 << 20))) {
            let payload = &payload;
            scope.spawn(move || {
                assert_eq!(raw.write(0, offset, payload), 0);
                assert!(raw.read(0, offset, payload.len() as u64).as_ref() == Ok(payload));
            });
        }
    });
    drop(writers);
    wait_for_rest(&server);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Random bytes at any point never take the server down; sound magics in front let them get deeper.
    #[test]
    fn garbage_costs_one_connection(
        stage in 0..5u8,
        code in 0..14u32,
        command in 0..10u16,
        flags in prop_oneof![Just(0u16), any::<u16>()],
        offset in prop_oneof![0..SIZE, any::<u64>()],
        length in prop_oneof![0..200_000u64, 0..u64::from(u32::MAX)],
        garbage in prop::collection::vec(any::<u8>(), 0..5000),
    ) {
        use std::cell::OnceCell;
        thread_local!(static SERVER: OnceCell<Server> = const { OnceCell::new() });
        SERVER.with(|server| {
            let server = server.get_or_init(|| Server::start(SIZE));
            let mut bytes = Vec::new();
            let mut raw = match stage {
                0 => Raw::connect(server),
                1 => {
                    let mut raw = Raw::connect(server);
                    raw.send(&3u32.to_be_bytes());
                    encode_option(&mut bytes, ClientOption::from_code(code), &garbage);
                    encode_option(&mut bytes, ClientOption::Go, &info("vol0"));
                    raw
                }
                2 => Raw::ready(server, HeaderStyle::Simple),
                3 => Raw::ready(server, HeaderStyle::Structured),
                _ => Raw::ready(server, HeaderStyle::Extended),
            };
            if stage >= 2 {
                let request = RequestHeader { flags, command, cookie: 1, offset, length };
                encode_request(&mut bytes, raw.style, &request);
            }
            bytes.extend_from_slice(&garbage);
            raw.send(&bytes);
            drop(raw);
            assert_alive(server);
        });
    }
}
