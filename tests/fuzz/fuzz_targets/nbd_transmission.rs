//! The NBD transmission phase: any requests with any payloads, pieces settled in any order with any outcome.
//!
//! What comes out must be whole replies of the style agreed on, one for each request, and no buffer may be lost.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use twinblock::base::error::RequestError;
use twinblock::base::ids::BufferId;
use twinblock::base::limits::{NBD_READ_WINDOW_BYTES, NBD_REQUESTS_IN_FLIGHT_MAX, PIECE_BYTES_MAX, ZERO_BYTES_MAX};
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::logic::export::answers::Run;
use twinblock::logic::export::contexts::Selection;
use twinblock::logic::export::offer::{Agreed, Payload, Terms};
use twinblock::logic::export::session::{Intake, JobId, Session};
use twinblock::logic::export::split::Piece;
use twinblock::logic::export::status::{Marks, describe};
use twinblock::wire::nbd::transmission::{
    CHUNK_BYTES, CHUNK_MAGIC, EXTENDED_CHUNK_BYTES, EXTENDED_CHUNK_MAGIC, HeaderStyle, SIMPLE_REPLY_BYTES,
    SIMPLE_REPLY_MAGIC, chunk,
};

const SIZE: u64 = 1 << 36;

/// The world around a session: buffers, the core's pieces, and the bytes sent.
#[derive(Default)]
struct World {
    next_buffer: u32,
    /// Buffers the session has, by what became of them: true while it has them.
    buffers: HashMap<BufferId, bool>,
    core: Vec<(JobId, Piece, Option<BufferId>)>,
    replies: Replies,
}

/// Reads what is sent, as a client with structured replies would.
#[derive(Default)]
struct Replies {
    head: Vec<u8>,
    /// Bytes of the present chunk's payload still to come.
    payload: u64,
}

fuzz_target!(|input: &[u8]| {
    let Some((&[kind], mut bytes)) = input.split_first_chunk() else { return };
    let (style, contexts) = match kind & 3 {
        0 => (HeaderStyle::Simple, Selection::NONE),
        1 => (HeaderStyle::Structured, Selection::listed(&[])),
        2 => (HeaderStyle::Extended, Selection::listed(&[])),
        _ => (HeaderStyle::Extended, Selection::NONE),
    };
    let terms = Terms { size_bytes: SIZE, cache_epoch: 1, read_only: kind & 4 != 0, fast_zero: kind & 8 != 0 };
    let mut session = Session::new(Agreed { style, contexts, terms });
    let mut world = World::default();
    // Between two heads one byte of the input says what the core does.
    while session.accepts(0) && !session.is_broken() {
        let Some((head, rest)) = bytes.split_at_checked(session.head_bytes()) else { break };
        bytes = rest;
        let Ok(mut intake) = session.begin(head) else { break };
        if let Intake::StatusPayload(length) = intake {
            let Some((payload, rest)) = bytes.split_at_checked(length) else { break };
            bytes = rest;
            intake = session.status_payload(payload);
        }
        match intake {
            Intake::Head | Intake::End => {}
            Intake::Write(job) => world.write(&mut session, job),
            Intake::Skip(_) => session.skipped(),
            Intake::StatusPayload(_) => unreachable!("its payload was handed in"),
            Intake::Status(query) => session.answer_status(&query, |context, out| {
                let part = ByteRange::new(query.range.offset / 2, query.range.length / 2 + 1);
                let most = if query.one { 1 } else { 16 };
                describe(query.range, &Marks::found(query.range, vec![part], 2), u64::from(context.id()), most, out);
                let told: u64 = out.iter().map(|descriptor| descriptor.length).sum();
                assert!(!out.is_empty() && told <= query.range.length);
            }),
        }
        let (what, rest) = bytes.split_first().map_or((0, bytes), |(what, rest)| (*what, rest));
        bytes = rest;
        world.turn(&mut session, what);
    }
    session.end_input(None);
    while !session.is_broken() && session.in_flight() > 0 {
        world.turn(&mut session, 0x3f);
    }
    world.end(&mut session);
});

impl World {
    fn buffer(&mut self) -> BufferId {
        self.next_buffer += 1;
        let buffer = BufferId(self.next_buffer);
        self.buffers.insert(buffer, true);
        buffer
    }

    fn write(&mut self, session: &mut Session, job: JobId) {
        while let Some(piece) = session.write_piece(job) {
            check(&piece);
            session.write_piece_taken(job);
            self.core.push((job, piece, None));
        }
    }

    /// Hands out what waits and settles some of what the core has: low bits how much, high bits how it ends.
    fn turn(&mut self, session: &mut Session, what: u8) {
        for _ in 0..64 {
            let Some(waiting) = session.waiting(0) else { break };
            let piece = waiting.pieces.peek().expect("what waits has a piece");
            check(&piece);
            session.waiting_taken(waiting.job);
            let buffer = matches!(piece, Piece::Read(_)).then(|| self.buffer());
            self.core.push((waiting.job, piece, buffer));
        }
        assert!(session.in_flight() <= NBD_REQUESTS_IN_FLIGHT_MAX);
        let held: u64 = self.core.iter().filter(|(_, piece, _)| matches!(piece, Piece::Read(_))).count() as u64;
        assert!(held <= NBD_READ_WINDOW_BYTES, "more reads than bytes of the window");
        for _ in 0..what & 0x3f {
            if self.core.is_empty() {
                break;
            }
            let at = if what & 0x40 == 0 { 0 } else { self.core.len() - 1 };
            let (job, piece, buffer) = self.core.remove(at);
            let outcome = if what & 0x80 == 0 { Ok(()) } else { Err(RequestError::Io) };
            let buffers = &mut self.buffers;
            let release = |buffer| assert_eq!(buffers.insert(buffer, false), Some(true), "{buffer:?} released twice");
            match (piece, buffer) {
                (Piece::Read(range), Some(buffer)) => {
                    let start = (range.offset % BLOCK) as usize;
                    let payload = Payload { buffer, start, length: range.length as usize };
                    session.settle_read(job, range, payload, outcome, what & 1 != 0, release);
                }
                _ => session.settle(job, 0, outcome, release),
            }
        }
        let (replies, buffers, style) = (&mut self.replies, &mut self.buffers, session.agreed().style);
        session.answers().take(|run| match run {
            // How much data follows a simple reply only its asker knows.
            Run::Own(bytes) if style != HeaderStyle::Simple => replies.own(bytes, style == HeaderStyle::Extended),
            Run::Own(_) => {}
            Run::Pool(payload) => {
                assert_eq!(buffers.insert(payload.buffer, false), Some(true), "a buffer is sent once");
                if style != HeaderStyle::Simple {
                    let left = replies.payload.checked_sub(payload.length as u64);
                    replies.payload = left.expect("data only inside a chunk that announced it");
                }
            }
        });
    }

    fn end(mut self, session: &mut Session) {
        let buffers = &mut self.buffers;
        session.abandon(|buffer| assert_eq!(buffers.insert(buffer, false), Some(true)));
        let with_core: Vec<BufferId> = self.core.iter().filter_map(|(_, _, buffer)| *buffer).collect();
        let lost = self.buffers.iter().find(|(buffer, has)| **has && !with_core.contains(buffer));
        assert_eq!(lost, None, "a buffer was lost");
        if !session.is_broken() {
            assert!(self.replies.head.is_empty() && self.replies.payload == 0, "the last reply is whole");
        }
    }
}

fn check(piece: &Piece) {
    let (range, most) = match *piece {
        Piece::Read(range) | Piece::Write { range, .. } => (range, PIECE_BYTES_MAX),
        Piece::WriteOfZeroes { range, .. } => (range, BLOCK),
        Piece::Zero { range, .. } => (range, ZERO_BYTES_MAX),
        Piece::Flush => return,
    };
    assert!(range.length > 0 && range.end() <= SIZE && range.length <= most, "{piece:?}");
    assert!(!matches!(piece, Piece::Zero { .. }) || range.is_aligned(), "{piece:?}");
    assert!(piece.buffer_bytes() as u64 <= PIECE_BYTES_MAX, "{piece:?}");
}

impl Replies {
    /// Takes own bytes: heads and small payloads.
    fn own(&mut self, mut bytes: &[u8], extended: bool) {
        while !bytes.is_empty() {
            let inside = bytes.len().min(usize::try_from(self.payload).unwrap_or(usize::MAX));
            self.payload -= inside as u64;
            bytes = &bytes[inside..];
            let Some((byte, rest)) = bytes.split_first() else { break };
            self.head.push(*byte);
            bytes = rest;
            self.take_head(extended);
        }
    }

    /// Takes the head once it is whole: simple ones only without extended headers, chunks of known kinds.
    fn take_head(&mut self, extended: bool) {
        let Some(magic) = self.head.first_chunk::<4>() else { return };
        let bytes = match u32::from_be_bytes(*magic) {
            SIMPLE_REPLY_MAGIC if !extended => SIMPLE_REPLY_BYTES,
            CHUNK_MAGIC if !extended => CHUNK_BYTES,
            EXTENDED_CHUNK_MAGIC if extended => EXTENDED_CHUNK_BYTES,
            other => panic!("{other:08x} begins no reply"),
        };
        if self.head.len() < bytes {
            return;
        }
        if bytes != SIMPLE_REPLY_BYTES {
            let kind = u16::from_be_bytes([self.head[6], self.head[7]]);
            let known = [
                chunk::NONE,
                chunk::OFFSET_DATA,
                chunk::OFFSET_HOLE,
                chunk::BLOCK_STATUS,
                chunk::BLOCK_STATUS_EXTENDED,
                chunk::ERROR,
                chunk::ERROR_OFFSET,
            ];
            assert!(known.contains(&kind), "chunk {kind:#x}");
            assert!(self.head[4] == 0 && self.head[5] <= 1, "unknown chunk flags");
            self.payload =
                self.head[if extended { 24 } else { 16 }..].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        }
        self.head.clear();
    }
}
