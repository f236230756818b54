//! Probes of the transmission phase: every command, flag and error of the matrix, in every style of headers.

use crate::raw::{Raw, Reply};
use crate::server::Server;
use std::collections::BTreeSet;
use twinblock::base::error::RequestError;
use twinblock::base::range::ByteRange;
use twinblock::base::request::Action;
use twinblock::wire::nbd::transmission::{HeaderStyle, RequestHeader, chunk, command, command_flags as flag};

const SIZE: u64 = 128 << 20;
const PIECE: u64 = 1 << 20;
const STYLES: [HeaderStyle; 3] = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended];

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ENOTSUP: u32 = 95;
const ESHUTDOWN: u32 = 108;

fn bytes(count: usize, seed: u32) -> Vec<u8> {
    (0..count as u32).map(|at| (at ^ seed).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

#[test]
fn what_was_written_is_read_at_any_alignment() {
    let server = Server::start(SIZE);
    for style in STYLES {
        let mut raw = Raw::ready(&server, style);
        for (offset, length) in
            [(0, 1), (1, 4096), (4095, 2), (PIECE - 1, 2), (PIECE - 100, 300_000), (5, 3 * PIECE), (SIZE - 7, 7)]
        {
            let data = bytes(length as usize, offset as u32);
            assert_eq!(raw.write(0, offset, &data), 0);
            assert_eq!(raw.read(0, offset, length), Ok(data), "{style:?} {offset}+{length}");
        }
    }
}

#[test]
fn the_largest_requests_work_and_larger_ones_are_refused() {
    let server = Server::start(SIZE);
    for style in STYLES {
        let mut raw = Raw::ready(&server, style);
        let most = 32 << 20;
        let data = bytes(most, 9);
        assert_eq!(raw.write(0, 12_345, &data), 0);
        assert!(raw.read(0, 12_345, most as u64) == Ok(data), "{style:?}");
        assert_eq!(raw.read(0, 0, most as u64 + 1), Err(EINVAL));
        assert_eq!(raw.ask(command::WRITE_ZEROES, 0, 0, SIZE, b""), 0, "no payload, no limit");
        let flags = if style == HeaderStyle::Extended { flag::PAYLOAD_LEN } else { 0 };
        assert_eq!(raw.ask(command::WRITE, flags, 0, most as u64 + 1, b""), EINVAL);
        raw.assert_closed();
    }
}

#[test]
fn ranges_past_the_end_get_the_error_of_their_command() {
    let server = Server::start(SIZE);
    for style in STYLES {
        let mut raw = Raw::ready(&server, style);
        for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX - 10, 4096)] {
            assert_eq!(raw.read(0, offset, length), Err(EINVAL));
            assert_eq!(raw.write(0, offset, &vec![1; length as usize]), ENOSPC);
            assert_eq!(raw.ask(command::WRITE_ZEROES, 0, offset, length, b""), ENOSPC);
            assert_eq!(raw.ask(command::TRIM, 0, offset, length, b""), EINVAL);
            assert_eq!(raw.ask(command::CACHE, 0, offset, length, b""), EINVAL);
            assert_eq!(raw.ask(command::BLOCK_STATUS, 0, offset, length, b""), EINVAL);
        }
        assert_eq!(raw.ask(command::FLUSH, 0, 0, 0, b""), 0, "and the connection goes on");
    }
}

#[test]
fn unknown_commands_and_stray_flags_are_refused_in_sync() {
    let server = Server::start(SIZE);
    for style in STYLES {
        let mut raw = Raw::ready(&server, style);
        for unknown in [8, 9, 100, u16::MAX] {
            assert_eq!(raw.ask(unknown, 0, 0, 0, b""), EINVAL);
        }
        for stray in [flag::NO_HOLE, flag::REQ_ONE, flag::FAST_ZERO, 1 << 6, 1 << 15] {
            assert_eq!(raw.write(stray, 0, &[1; 70_000]), EINVAL, "its payload is consumed");
            assert_eq!(raw.read(stray, 0, 1), Err(EINVAL));
            assert_eq!(raw.ask(command::FLUSH, stray, 0, 0, b""), EINVAL);
        }
        assert_eq!(raw.read(0, 0, 4), Ok(vec![0; 4]), "nothing was written");
    }
    let mut simple = Raw::ready(&server, HeaderStyle::Simple);
    assert_eq!(simple.read(flag::DF, 0, 1), Err(EINVAL));
    assert_eq!(simple.ask(command::WRITE, flag::PAYLOAD_LEN, 0, 4, b"1234"), EINVAL);
    let mut extended = Raw::ready(&server, HeaderStyle::Extended);
    assert_eq!(extended.ask(command::TRIM, flag::PAYLOAD_LEN, 0, 4, b"1234"), EINVAL);
    assert_eq!(extended.ask(command::WRITE, 0, 0, 4, b"1234"), 0, "as qemu writes");
}

#[test]
fn requests_of_no_bytes_do_nothing() {
    let server = Server::start(SIZE);
    for style in STYLES {
        let mut raw = Raw::ready(&server, style);
        assert_eq!(raw.read(0, 5, 0), Ok(vec![]));
        assert_eq!(raw.write(0, SIZE, b""), 0);
        for command in [command::TRIM, command::CACHE, command::WRITE_ZEROES] {
            assert_eq!(raw.ask(command, 0, 0, 0, b""), 0);
        }
    }
    assert!(server.with(|state| state.taken.is_empty()));
}

#[test]
fn fua_is_taken_on_every_command_and_reaches_the_core() {
    let server = Server::start(SIZE);
    for style in STYLES {
        let mut raw = Raw::ready(&server, style);
        server.with(|state| state.taken.clear());
        assert_eq!(raw.write(flag::FUA, 100, &[1; 8192]), 0);
        assert_eq!(raw.ask(command::WRITE_ZEROES, flag::FUA, 100, 8192, b""), 0);
        assert_eq!(raw.ask(command::TRIM, flag::FUA, 0, 8192, b""), 0);
        let durable = |action: &Action| match action {
            Action::Write { fua, .. } | Action::Zero { fua, .. } => *fua,
            Action::Read { .. } | Action::Flush => false,
        };
        let taken = server.with(|state| std::mem::take(&mut state.taken));
        assert!(taken.len() == 5 && taken.iter().all(durable), "{taken:?}");
        assert!(raw.read(flag::FUA, 0, 8192).is_ok());
        assert_eq!(raw.ask(command::FLUSH, flag::FUA, 0, 0, b""), 0);
        assert_eq!(raw.ask(command::CACHE, flag::FUA, 0, 4096, b""), 0);
    }
}

#[test]
fn zeroing_keeps_its_edges_and_its_promise() {
    let server = Server::start(SIZE);
    for style in STYLES {
        let mut raw = Raw::ready(&server, style);
        assert_eq!(raw.write(0, 0, &[7; 40_000]), 0);
        server.with(|state| state.taken.clear());
        assert_eq!(raw.ask(command::WRITE_ZEROES, flag::NO_HOLE, 100, 20_000, b""), 0);
        let mut expected = vec![7; 40_000];
        expected[100..20_100].fill(0);
        assert_eq!(raw.read(0, 0, 40_000), Ok(expected.clone()));
        let zero = |unmap| Action::Zero { range: ByteRange::new(4096, 12_288), unmap, fua: false };
        assert!(server.with(|state| state.taken.contains(&zero(false))), "no hole was wanted");
        assert_eq!(raw.ask(command::WRITE_ZEROES, 0, 100, 20_000, b""), 0);
        assert!(server.with(|state| state.taken.contains(&zero(true))));

        assert_eq!(raw.ask(command::TRIM, 0, 24_000, 12_000, b""), 0);
        let after = raw.read(0, 0, 40_000).unwrap();
        assert_eq!((&after[..24_576], &after[32_768..]), (&expected[..24_576], &expected[32_768..]));

        assert_eq!(raw.ask(command::WRITE_ZEROES, flag::FAST_ZERO, 0, 4096, b""), 0);
        assert_eq!(raw.ask(command::WRITE_ZEROES, flag::FAST_ZERO, 33_000, 100, b""), ENOTSUP);
        server.with(|state| state.fast_zero = false);
        let mut slow = Raw::ready(&server, style);
        assert_eq!(slow.ask(command::WRITE_ZEROES, flag::FAST_ZERO, 36_864, 4096, b""), ENOTSUP);
        assert_eq!(slow.read(0, 33_000, 7000), Ok(vec![7; 7000]), "refused without touching data");
        server.with(|state| state.fast_zero = true);
    }
}

#[test]
fn a_read_only_export_refuses_changes() {
    let server = Server::start(SIZE);
    server.with(|state| state.read_only = true);
    for style in STYLES {
        let mut raw = Raw::ready(&server, style);
        assert_eq!(raw.write(0, 0, &[1; 100_000]), EPERM);
        assert_eq!(raw.ask(command::TRIM, 0, 0, 4096, b""), EPERM);
        assert_eq!(raw.ask(command::WRITE_ZEROES, 0, 0, 4096, b""), EPERM);
        assert_eq!(raw.read(0, 0, 10), Ok(vec![0; 10]));
        assert_eq!(raw.ask(command::FLUSH, 0, 0, 0, b""), 0);
    }
}

#[test]
fn failures_have_their_numbers() {
    let server = Server::start(SIZE);
    let failures = [(RequestError::Io, EIO), (RequestError::NoSpace, ENOSPC), (RequestError::Shutdown, ESHUTDOWN)];
    for style in STYLES {
        for (error, number) in failures {
            // The second of two pieces.
            server.with(|state| state.failing = vec![(ByteRange::new(PIECE, 1), error)]);
            let mut raw = Raw::ready(&server, style);
            assert_eq!(raw.write(0, PIECE - 10, &[1; 20]), number);
            assert_eq!(raw.read(0, PIECE - 10, 20), Err(number));
            assert_eq!(raw.ask(command::WRITE_ZEROES, 0, 0, 100 * PIECE, b""), number);
            assert_eq!(raw.ask(command::TRIM, 0, 0, 2 * PIECE, b""), number);
            assert!(raw.read(0, 0, 20).is_ok());
        }
    }
}

#[test]
fn a_large_simple_read_that_fails_late_ends_the_connection() {
    let server = Server::start(SIZE);
    server.with(|state| state.failing = vec![(ByteRange::new(30 << 20, 1), RequestError::Io)]);
    let mut raw = Raw::ready(&server, HeaderStyle::Simple);
    let cookie = raw.request(command::READ, 0, 0, 32 << 20, b"");
    assert_eq!(raw.reply(), Reply::Simple(0, cookie));
    let data = raw.receive_all();
    assert!(data.len() <= 30 << 20 && data.iter().all(|byte| *byte == 0), "{} bytes came", data.len());
    let mut structured = Raw::ready(&server, HeaderStyle::Structured);
    assert_eq!(structured.read(0, 0, 32 << 20), Err(EIO), "structured replies can say it");
}

#[test]
fn an_unfragmented_read_is_one_chunk() {
    let server = Server::start(SIZE);
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        let mut raw = Raw::ready(&server, style);
        raw.write(0, PIECE - 65_536, &bytes(131_072, 3));
        let cookie = raw.request(command::READ, flag::DF, PIECE - 32_768, 65_536, b"");
        let (data, kinds) = raw.data_of(cookie, PIECE - 32_768, 65_536).unwrap();
        assert!(data == bytes(131_072, 3)[32_768..98_304]);
        assert_eq!(kinds, [chunk::OFFSET_DATA]);
        assert_eq!(raw.read(flag::DF, 0, 16 << 20), Err(EOVERFLOW));
    }
}

#[test]
fn zeroes_travel_as_holes_where_the_style_has_them() {
    let server = Server::start(SIZE);
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        let mut raw = Raw::ready(&server, style);
        raw.write(0, 2 * PIECE + 5000, b"x");
        let cookie = raw.request(command::READ, 0, 0, 4 * PIECE, b"");
        let (data, kinds) = raw.data_of(cookie, 0, 4 * PIECE).unwrap();
        assert_eq!(data.iter().position(|byte| *byte == b'x'), Some(2 * PIECE as usize + 5000));
        assert_eq!(kinds.iter().filter(|kind| **kind == chunk::OFFSET_HOLE).count(), 3);
        assert_eq!(kinds.iter().filter(|kind| **kind == chunk::OFFSET_DATA).count(), 1);
    }
}

/// The chunks of a block status: context, then (length, flags) each.
fn status(raw: &mut Raw, flags: u16, offset: u64, length: u64, payload: &[u8]) -> Vec<(u32, Vec<(u64, u64)>)> {
    let cookie = raw.request(command::BLOCK_STATUS, flags, offset, length, payload);
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let extended = raw.style == HeaderStyle::Extended;
    let mut found = Vec::new();
    loop {
        let Reply::Chunk { done, kind, cookie: echoed, payload } = raw.reply() else { panic!("a status is chunks") };
        assert_eq!(echoed, cookie);
        assert_eq!(kind, if extended { chunk::BLOCK_STATUS_EXTENDED } else { chunk::BLOCK_STATUS });
        let (head, width) = if extended { (8, 8) } else { (4, 4) };
        let descriptors: Vec<(u64, u64)> = payload[head..]
            .chunks_exact(2 * width)
            .map(|descriptor| (number(&descriptor[..width]), number(&descriptor[width..])))
            .collect();
        if extended {
            assert_eq!(number(&payload[4..8]) as usize, descriptors.len());
        }
        found.push((number(&payload[..4]) as u32, descriptors));
        if done {
            return found;
        }
    }
}

#[test]
fn block_status_tells_holes_and_dirt() {
    let server = Server::start(SIZE);
    server.with(|state| state.dirty = vec![ByteRange::new(PIECE, 8192), ByteRange::new(3 * PIECE, 4096)]);
    let narrowed = |id: u32| {
        let mut payload = (4 * PIECE).to_be_bytes().to_vec();
        payload.extend_from_slice(&id.to_be_bytes());
        payload
    };
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        let mut raw = Raw::ready(&server, style);
        raw.write(0, PIECE + 100, b"x");
        let allocation = vec![(PIECE, 3), (4096, 0), (3 * PIECE - 4096, 3)];
        let dirty = vec![(PIECE, 0), (8192, 1), (2 * PIECE - 8192, 0), (4096, 1), (PIECE - 4096, 0)];
        let whole = status(&mut raw, 0, 0, 4 * PIECE, b"");
        assert_eq!(whole, [(1, allocation.clone()), (2, dirty.clone())]);
        let one = status(&mut raw, flag::REQ_ONE, PIECE, PIECE, b"");
        assert_eq!(one, [(1, vec![(4096, 0)]), (2, vec![(8192, 1)])]);
        assert_eq!(raw.ask(command::BLOCK_STATUS, 0, 0, 0, b""), EINVAL);
        if style == HeaderStyle::Extended {
            let only = status(&mut raw, flag::PAYLOAD_LEN, 0, 12, &narrowed(2));
            assert_eq!(only, [(2, dirty)]);
            assert_eq!(raw.ask(command::BLOCK_STATUS, flag::PAYLOAD_LEN, 0, 12, &narrowed(3)), EINVAL);
            assert_eq!(raw.ask(command::BLOCK_STATUS, flag::PAYLOAD_LEN, 0, 1000, &[0; 1000]), EINVAL);
        }
    }
    let mut simple = Raw::ready(&server, HeaderStyle::Simple);
    assert_eq!(simple.ask(command::BLOCK_STATUS, 0, 0, 4096, b""), EINVAL);
}

#[test]
fn block_status_is_bounded_and_may_end_short() {
    let server = Server::start(SIZE);
    let dirty: Vec<ByteRange> = (0..4000).map(|n| ByteRange::new(n * 8192, 4096)).collect();
    server.with(|state| state.dirty = dirty);
    let mut raw = Raw::ready(&server, HeaderStyle::Structured);
    let mut at = 0;
    let mut marked = 0;
    while at < SIZE {
        let answer = status(&mut raw, 0, at, SIZE - at, b"");
        assert!(answer[1].1.len() <= 1024);
        marked += answer[1].1.iter().filter(|descriptor| descriptor.1 == 1).count();
        at += answer[1].1.iter().map(|descriptor| descriptor.0).sum::<u64>();
    }
    assert_eq!((at, marked), (SIZE, 4000));
}

#[test]
fn a_range_being_zeroed_is_no_hole_yet() {
    let server = Server::start(SIZE);
    server.with(|state| state.holding = true);
    let mut raw = Raw::ready(&server, HeaderStyle::Structured);
    let cookie = raw.request(command::WRITE_ZEROES, 0, 8192, 4096, b"");
    server.wait_until("it is under way", |state| state.taken.len() == 1);
    let mut other = Raw::ready(&server, HeaderStyle::Structured);
    assert_eq!(status(&mut other, 0, 0, 16_384, b"")[0].1, [(8192, 3), (4096, 0), (4096, 3)]);
    server.with(|state| state.holding = false);
    assert_eq!(raw.outcome(cookie), 0);
    assert_eq!(status(&mut other, 0, 0, 16_384, b"")[0].1, [(16_384, 3)]);
}

#[test]
fn replies_come_in_any_order_and_cookies_mean_nothing() {
    let server = Server::start(SIZE);
    for style in STYLES {
        server.with(|state| (state.holding, state.reversed) = (true, true));
        let mut raw = Raw::ready(&server, style);
        let before = server.with(|state| state.taken.len());
        let request = |cookie| RequestHeader { flags: 0, command: command::FLUSH, cookie, offset: 0, length: 0 };
        for cookie in [1, 2, u64::MAX, 2] {
            raw.request_with(&request(cookie), b"");
        }
        server.wait_until("all are taken", |state| state.taken.len() == before + 4);
        server.with(|state| state.holding = false);
        let mut answered: Vec<u64> = (0..4)
            .map(|_| match raw.reply() {
                Reply::Simple(0, cookie) | Reply::Chunk { done: true, kind: chunk::NONE, cookie, .. } => cookie,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(answered[0], 2, "the last comes first");
        answered.sort_unstable();
        assert_eq!(answered, [1, 2, 2, u64::MAX]);
    }
}

#[test]
fn leaving_in_either_way_finishes_what_is_outstanding() {
    let server = Server::start(SIZE);
    for half_close in [false, true] {
        for style in STYLES {
            server.with(|state| state.holding = true);
            let mut raw = Raw::ready(&server, style);
            let before = server.with(|state| state.taken.len());
            let mut cookies: BTreeSet<u64> = (0..16).map(|_| raw.request(command::FLUSH, 0, 0, 0, b"")).collect();
            if half_close {
                raw.half_close();
            } else {
                raw.request(command::DISCONNECT, 0, 0, 0, b"");
            }
            server.wait_until("all are taken", |state| state.taken.len() == before + 16);
            server.with(|state| state.holding = false);
            for _ in 0..16 {
                match raw.reply() {
                    Reply::Simple(0, cookie) | Reply::Chunk { done: true, kind: chunk::NONE, cookie, .. } => {
                        assert!(cookies.remove(&cookie));
                    }
                    other => panic!("{other:?}"),
                }
            }
            raw.assert_closed();
        }
    }
}

#[test]
fn several_connections_see_each_other() {
    let server = Server::start(SIZE);
    let mut left = Raw::ready(&server, HeaderStyle::Structured);
    let mut right = Raw::connect_tcp(&server);
    right.negotiate(HeaderStyle::Simple);
    assert_eq!(left.write(0, 4096, b"from the left"), 0);
    assert_eq!(right.read(0, 4096, 13), Ok(b"from the left".to_vec()));
    assert_eq!(right.ask(command::FLUSH, 0, 0, 0, b""), 0);
}

#[test]
fn a_session_ends_with_the_life_of_the_cache_it_was_bound_to() {
    let server = Server::start(SIZE);
    let mut raw = Raw::ready(&server, HeaderStyle::Simple);
    server.with(|state| state.serving.as_mut().unwrap().cache_epoch = 2);
    raw.assert_closed();
    let mut raw = Raw::ready(&server, HeaderStyle::Simple);
    assert_eq!(raw.ask(command::FLUSH, 0, 0, 0, b""), 0);
    server.with(|state| state.serving = None);
    raw.assert_closed();
}
