use super::*;
use crate::logic::export::answers::Run;
use crate::logic::export::offer::Terms;
use crate::wire::nbd::transmission::{chunk, command, command_flags as flag, encode_request};

const SIZE: u64 = 1 << 30;
const PIECE: u64 = PIECE_BYTES_MAX;

fn session(style: HeaderStyle) -> Session {
    let contexts = if style == HeaderStyle::Simple { Selection::NONE } else { Selection::listed(&[]) };
    let terms = Terms { size_bytes: SIZE, cache_epoch: 1, read_only: false, fast_zero: true };
    Session::new(Agreed { style, contexts, terms })
}

fn head(session: &Session, command: u16, flags: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_request(&mut out, session.agreed().style, &RequestHeader { flags, command, cookie, offset, length });
    out
}

fn begin(session: &mut Session, command: u16, flags: u16, cookie: u64, offset: u64, length: u64) -> Intake {
    let head = head(session, command, flags, cookie, offset, length);
    session.begin(&head).expect("a sound head")
}

/// Hands out every waiting piece the window allows; a read's buffer is numbered by its piece.
fn hand_out(session: &mut Session) -> Vec<(JobId, Piece)> {
    let mut handed = Vec::new();
    while let Some(waiting) = session.waiting(0) {
        handed.push((waiting.job, waiting.pieces.peek().expect("a piece waits")));
        session.waiting_taken(waiting.job);
    }
    handed
}

fn payload_of(range: ByteRange) -> Payload {
    let buffer = BufferId((range.offset / PIECE) as u32);
    Payload { buffer, start: (range.offset % 4096) as usize, length: range.length as usize }
}

#[derive(Default)]
struct Released(Vec<BufferId>);

fn settle_read(session: &mut Session, handed: (JobId, Piece), outcome: Result<(), RequestError>) -> Released {
    let Piece::Read(range) = handed.1 else { panic!("{handed:?} is no read") };
    let mut released = Released::default();
    session.settle_read(handed.0, range, payload_of(range), outcome, false, |buffer| released.0.push(buffer));
    released
}

/// What was answered: own bytes as hex, payloads as `<buffer:length>`.
fn sent(session: &mut Session) -> String {
    let mut text = String::new();
    session.answers().take(|run| match run {
        Run::Own(bytes) => text.extend(bytes.iter().map(|byte| format!("{byte:02x}"))),
        Run::Pool(payload) => text += &format!("<{}:{}>", payload.buffer.0, payload.length),
    });
    text
}

fn simple(error: u32, cookie: u64) -> String {
    format!("67446698{error:08x}{cookie:016x}")
}

fn chunk_head(flags: u16, kind: u16, cookie: u64, length: u32) -> String {
    format!("668e33ef{flags:04x}{kind:04x}{cookie:016x}{length:08x}")
}

fn error_chunk(cookie: u64, error: WireError, message: &str, at: u64) -> String {
    let text: String = message.bytes().map(|byte| format!("{byte:02x}")).collect();
    let head = chunk_head(1, chunk::ERROR_OFFSET, cookie, 14 + message.len() as u32);
    format!("{head}{:08x}{:04x}{text}{at:016x}", error as u32, message.len())
}

const IO_MESSAGE: &str = "neither copy of the volume could serve this";

#[test]
fn a_small_read_is_answered_in_each_style() {
    let mut simple_session = session(HeaderStyle::Simple);
    begin(&mut simple_session, command::READ, 0, 7, 10, 20);
    let handed = hand_out(&mut simple_session);
    settle_read(&mut simple_session, handed[0], Ok(()));
    assert_eq!(sent(&mut simple_session), simple(0, 7) + "<0:20>");

    let mut structured = session(HeaderStyle::Structured);
    begin(&mut structured, command::READ, 0, 7, 10, 20);
    let handed = hand_out(&mut structured);
    settle_read(&mut structured, handed[0], Ok(()));
    assert_eq!(sent(&mut structured), chunk_head(1, chunk::OFFSET_DATA, 7, 28) + "000000000000000a<0:20>");

    let mut extended = session(HeaderStyle::Extended);
    begin(&mut extended, command::READ, 0, 7, 10, 20);
    let handed = hand_out(&mut extended);
    settle_read(&mut extended, handed[0], Ok(()));
    let head = "6e8a278c00010001000000000000000700000000 0000000a000000000000001c".replace(' ', "");
    assert_eq!(sent(&mut extended), head + "000000000000000a<0:20>");
    assert_eq!((extended.in_flight(), extended.bytes_in_flight, extended.read_bytes_held), (0, 0, 0));
}

#[test]
fn what_a_volume_has_grown_by_may_be_used() {
    let mut session = session(HeaderStyle::Simple);
    begin(&mut session, command::READ, 0, 7, SIZE, 4096);
    assert!(hand_out(&mut session).is_empty(), "beyond the end");
    sent(&mut session);
    session.grown(SIZE + 4096);
    session.grown(SIZE);
    begin(&mut session, command::READ, 0, 8, SIZE, 4096);
    let handed = hand_out(&mut session);
    settle_read(&mut session, handed[0], Ok(()));
    assert!(sent(&mut session).starts_with(&simple(0, 8)));
}

#[test]
fn zeroes_are_sent_as_a_hole_where_the_style_has_one() {
    let range = ByteRange::new(0, 4096);
    for style in [HeaderStyle::Simple, HeaderStyle::Structured] {
        let mut session = session(style);
        begin(&mut session, command::READ, 0, 7, 0, 4096);
        let (job, _) = hand_out(&mut session)[0];
        let mut released = Vec::new();
        session.settle_read(job, range, payload_of(range), Ok(()), true, |buffer| released.push(buffer));
        if style == HeaderStyle::Simple {
            assert_eq!(sent(&mut session), simple(0, 7) + "<0:4096>");
        } else {
            assert_eq!(sent(&mut session), chunk_head(1, chunk::OFFSET_HOLE, 7, 12) + "000000000000000000001000");
            assert_eq!(released, [BufferId(0)]);
        }
    }
}

#[test]
fn structured_pieces_are_sent_as_they_come_and_only_the_last_is_marked() {
    let mut session = session(HeaderStyle::Structured);
    begin(&mut session, command::READ, 0, 7, PIECE - 10, 20);
    let handed = hand_out(&mut session);
    assert_eq!(handed.len(), 2);
    settle_read(&mut session, handed[1], Ok(()));
    assert_eq!(sent(&mut session), chunk_head(0, chunk::OFFSET_DATA, 7, 18) + "0000000000100000<1:10>");
    settle_read(&mut session, handed[0], Ok(()));
    assert_eq!(sent(&mut session), chunk_head(1, chunk::OFFSET_DATA, 7, 18) + "00000000000ffff6<0:10>");
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn a_failed_piece_of_a_structured_read_ends_it_with_the_place() {
    let mut session = session(HeaderStyle::Structured);
    begin(&mut session, command::READ, 0, 7, PIECE - 10, 20);
    let handed = hand_out(&mut session);
    let released = settle_read(&mut session, handed[1], Err(RequestError::Io));
    assert_eq!(released.0, [BufferId(1)]);
    assert_eq!(sent(&mut session), "", "not before the other piece is settled");
    let released = settle_read(&mut session, handed[0], Ok(()));
    assert_eq!(released.0, [BufferId(0)]);
    assert_eq!(sent(&mut session), error_chunk(7, WireError::Io, IO_MESSAGE, PIECE));
}

#[test]
fn a_simple_read_of_several_pieces_waits_for_all() {
    let mut session = session(HeaderStyle::Simple);
    begin(&mut session, command::READ, 0, 7, PIECE - 10, 20);
    assert!(session.waiting(0).unwrap().all_or_nothing);
    let handed = hand_out(&mut session);
    settle_read(&mut session, handed[1], Ok(()));
    assert_eq!(sent(&mut session), "");
    settle_read(&mut session, handed[0], Ok(()));
    assert_eq!(sent(&mut session), simple(0, 7) + "<0:10><1:10>");
    assert_eq!((session.in_flight(), session.read_bytes_held), (0, 0));
}

#[test]
fn a_simple_read_with_a_failed_piece_never_sends_a_good_head() {
    let mut session = session(HeaderStyle::Simple);
    begin(&mut session, command::READ, 0, 7, PIECE - 10, 20);
    let handed = hand_out(&mut session);
    assert!(settle_read(&mut session, handed[0], Ok(())).0.is_empty());
    let released = settle_read(&mut session, handed[1], Err(RequestError::Io));
    assert_eq!(released.0, [BufferId(1), BufferId(0)]);
    assert_eq!(sent(&mut session), simple(5, 7));
    assert!(!session.is_broken());
    assert_eq!(session.read_bytes_held, 0);
}

#[test]
fn a_large_simple_read_is_sent_in_order_and_cut_by_a_late_error() {
    let length = NBD_READ_WINDOW_BYTES + PIECE;
    let mut session = session(HeaderStyle::Simple);
    begin(&mut session, command::READ, 0, 7, 0, length);
    assert!(!session.waiting(0).unwrap().all_or_nothing);
    let handed = hand_out(&mut session);
    assert_eq!(handed.len() as u64, NBD_READ_WINDOW_BYTES / PIECE, "no more than the window");
    settle_read(&mut session, handed[1], Ok(()));
    assert_eq!(sent(&mut session), "");
    settle_read(&mut session, handed[0], Ok(()));
    assert_eq!(sent(&mut session), simple(0, 7) + "<0:1048576><1:1048576>");
    settle_read(&mut session, handed[2], Err(RequestError::Io));
    assert!(session.is_broken());
}

#[test]
fn a_large_simple_read_whose_first_piece_fails_is_an_ordinary_error() {
    let mut session = session(HeaderStyle::Simple);
    begin(&mut session, command::READ, 0, 7, 0, NBD_READ_WINDOW_BYTES + PIECE);
    let handed = hand_out(&mut session);
    settle_read(&mut session, handed[1], Ok(()));
    settle_read(&mut session, handed[0], Err(RequestError::Io));
    assert!(session.waiting(0).is_none(), "the rest is left undone");
    for piece in &handed[2..] {
        settle_read(&mut session, *piece, Ok(()));
    }
    assert_eq!(sent(&mut session), simple(5, 7));
    assert!(!session.is_broken() && session.in_flight() == 0);
    assert_eq!(session.read_bytes_held, 0);
}

#[test]
fn an_unfragmented_read_across_a_piece_boundary_is_one_chunk() {
    let mut session = session(HeaderStyle::Structured);
    begin(&mut session, command::READ, flag::DF, 7, PIECE - 10, 20);
    let handed = hand_out(&mut session);
    for piece in handed.iter().rev() {
        settle_read(&mut session, *piece, Ok(()));
    }
    assert_eq!(sent(&mut session), chunk_head(1, chunk::OFFSET_DATA, 7, 28) + "00000000000ffff6<0:10><1:10>");
}

#[test]
fn a_client_that_reads_nothing_holds_no_more_than_its_window() {
    let mut session = session(HeaderStyle::Structured);
    begin(&mut session, command::READ, 0, 1, 0, 32 << 20);
    begin(&mut session, command::READ, 0, 2, 0, 32 << 20);
    assert!(!session.accepts(0), "two of the largest requests fill the budget");
    let handed = hand_out(&mut session);
    assert_eq!(handed.len() as u64, NBD_READ_WINDOW_BYTES / PIECE);
    for piece in handed {
        settle_read(&mut session, piece, Ok(()));
    }
    assert!(session.waiting(NBD_READ_WINDOW_BYTES).is_none(), "unsent data counts");
    assert!(session.waiting(NBD_READ_WINDOW_BYTES - PIECE).is_some());
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut session = session(HeaderStyle::Structured);
    for cookie in 0..NBD_REQUESTS_IN_FLIGHT_MAX as u64 {
        assert!(session.accepts(0));
        begin(&mut session, command::FLUSH, 0, cookie, 0, 0);
    }
    assert!(!session.accepts(0));
    let (job, _) = hand_out(&mut session)[0];
    session.settle(job, 0, Ok(()), |_| {});
    assert!(session.accepts(0));
}

#[test]
fn answers_left_unread_stop_the_intake() {
    let session = session(HeaderStyle::Structured);
    assert!(session.accepts(NBD_UNSENT_BYTES_MAX - 1));
    assert!(!session.accepts(NBD_UNSENT_BYTES_MAX));
}

fn take_write(session: &mut Session, id: JobId) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while let Some(piece) = session.write_piece(id) {
        pieces.push(piece);
        session.write_piece_taken(id);
    }
    pieces
}

#[test]
fn a_write_is_answered_when_every_piece_is_settled_and_the_first_error_stays() {
    let mut session = session(HeaderStyle::Structured);
    let Intake::Write(job) = begin(&mut session, command::WRITE, flag::FUA, 7, PIECE - 512, PIECE + 1024) else {
        panic!("a write has a payload")
    };
    let pieces = take_write(&mut session, job);
    assert_eq!(pieces.len(), 3);
    assert!(pieces.iter().all(|piece| matches!(piece, Piece::Write { fua: true, .. })));
    session.settle(job, PIECE, Err(RequestError::NoSpace), |_| {});
    session.settle(job, PIECE - 512, Err(RequestError::Io), |_| {});
    assert_eq!(sent(&mut session), "");
    session.settle(job, 2 * PIECE, Ok(()), |_| {});
    assert_eq!(sent(&mut session), error_chunk(7, WireError::NoSpace, "the backing device is full", PIECE));
    assert_eq!((session.in_flight(), session.bytes_in_flight), (0, 0));
}

#[test]
fn a_write_in_pieces_is_not_answered_while_its_payload_is_still_coming() {
    let mut session = session(HeaderStyle::Structured);
    let Intake::Write(job) = begin(&mut session, command::WRITE, 0, 7, 0, 2 * PIECE) else { panic!() };
    session.write_piece_taken(job);
    session.settle(job, 0, Ok(()), |_| {});
    assert_eq!(sent(&mut session), "");
    session.write_piece_taken(job);
    session.settle(job, PIECE, Ok(()), |_| {});
    assert_eq!(sent(&mut session), simple(0, 7));
}

#[test]
fn a_write_whose_payload_is_cut_off_settles_and_ends() {
    let mut session = session(HeaderStyle::Structured);
    let Intake::Write(job) = begin(&mut session, command::WRITE, 0, 7, 0, 2 * PIECE) else { panic!() };
    session.write_piece_taken(job);
    session.end_input(Some(job));
    assert!(!session.is_finished(), "the core has a piece of it");
    session.settle(job, 0, Ok(()), |_| {});
    assert!(session.is_finished());
}

#[test]
fn a_refused_write_is_consumed_first() {
    let mut session = session(HeaderStyle::Simple);
    let intake = begin(&mut session, command::WRITE, 0, 7, SIZE, 4096);
    assert_eq!(intake, Intake::Skip(4096));
    assert_eq!(sent(&mut session), "");
    session.skipped();
    assert_eq!(sent(&mut session), simple(28, 7));
    assert_eq!(begin(&mut session, command::WRITE, 0, 8, 0, (32 << 20) + 1), Intake::End);
    assert_eq!(sent(&mut session), simple(22, 8));
    assert!(session.is_finished());
}

#[test]
fn errors_before_work_are_chunks_in_structured_style_and_keep_the_session() {
    let mut session = session(HeaderStyle::Structured);
    assert_eq!(begin(&mut session, command::READ, 0, 7, SIZE, 1), Intake::Head);
    assert!(sent(&mut session).starts_with(&chunk_head(1, chunk::ERROR, 7, 6 + 44)[..8]));
    assert_eq!(begin(&mut session, command::READ, 0, 8, 0, 0), Intake::Head);
    assert_eq!(sent(&mut session), chunk_head(1, chunk::NONE, 8, 0));
    assert_eq!(begin(&mut session, command::CACHE, 0, 9, 0, 4096), Intake::Head);
    assert_eq!(sent(&mut session), simple(0, 9));
    assert!(session.accepts(0));
}

#[test]
fn extended_style_never_uses_simple_replies() {
    let mut session = session(HeaderStyle::Extended);
    begin(&mut session, command::FLUSH, 0, 7, 0, 0);
    let (job, _) = hand_out(&mut session)[0];
    session.settle(job, 0, Ok(()), |_| {});
    let head = "6e8a278c000100000000000000000007".to_owned();
    assert_eq!(sent(&mut session), head + "0000000000000000" + "0000000000000000");
}

#[test]
fn a_trim_of_no_whole_block_is_done_at_once() {
    let mut session = session(HeaderStyle::Simple);
    assert_eq!(begin(&mut session, command::TRIM, flag::FUA, 7, 1, 4096), Intake::Head);
    assert_eq!(sent(&mut session), simple(0, 7));
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn a_failed_zero_leaves_the_rest_undone_and_frees_its_place_once() {
    let mut session = session(HeaderStyle::Simple);
    begin(&mut session, command::WRITE_ZEROES, 0, 7, 0, SIZE);
    let first = session.waiting(0).unwrap();
    session.waiting_taken(first.job);
    session.settle(first.job, 0, Err(RequestError::NoSpace), |_| {});
    assert_eq!(sent(&mut session), simple(28, 7));
    assert!(session.waiting(0).is_none());
    begin(&mut session, command::FLUSH, 0, 8, 0, 0);
    assert_eq!(hand_out(&mut session).len(), 1);
}

#[test]
fn block_status_is_one_chunk_a_context() {
    let mut session = session(HeaderStyle::Structured);
    let Intake::Status(query) = begin(&mut session, command::BLOCK_STATUS, flag::REQ_ONE, 7, 4096, 8192) else {
        panic!("a status is answered at once")
    };
    assert_eq!((query.range, query.one), (ByteRange::new(4096, 8192), true));
    session.answer_status(&query, |context, out| {
        *out = vec![Descriptor { length: 4096, flags: u64::from(context.id()) }];
    });
    let one = |flags, id| chunk_head(flags, chunk::BLOCK_STATUS, 7, 12) + &format!("{id:08x}00001000{id:08x}");
    assert_eq!(sent(&mut session), one(0, 1) + &one(1, 2));
}

#[test]
fn a_status_payload_narrows_the_contexts() {
    let mut session = session(HeaderStyle::Extended);
    let intake = begin(&mut session, command::BLOCK_STATUS, flag::PAYLOAD_LEN, 7, 4096, 12);
    assert_eq!(intake, Intake::StatusPayload(12));
    let Intake::Status(query) = session.status_payload(&[0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 2]) else {
        panic!("a sound payload")
    };
    assert_eq!((query.range, query.contexts), (ByteRange::new(4096, 8192), Selection::chosen(&["twinblock:dirty"])));
    begin(&mut session, command::BLOCK_STATUS, flag::PAYLOAD_LEN, 8, 4096, 12);
    assert_eq!(session.status_payload(&[0; 12]), Intake::Head);
    assert!(sent(&mut session).contains("80010000000000000008"), "an error chunk");
}

#[test]
fn leaving_waits_for_outstanding_answers() {
    let mut session = session(HeaderStyle::Simple);
    begin(&mut session, command::FLUSH, 0, 7, 0, 0);
    assert_eq!(begin(&mut session, command::DISCONNECT, 0, 8, 0, 0), Intake::End);
    assert!(!session.accepts(0) && !session.is_finished());
    let (job, _) = hand_out(&mut session)[0];
    session.settle(job, 0, Ok(()), |_| {});
    assert_eq!(sent(&mut session), simple(0, 7), "no answer to the good-bye");
    assert!(session.is_finished());
}

#[test]
fn a_vanished_client_gives_every_buffer_back() {
    let mut session = session(HeaderStyle::Simple);
    begin(&mut session, command::READ, 0, 7, 0, 4096);
    begin(&mut session, command::READ, 0, 8, PIECE - 10, 20);
    let handed = hand_out(&mut session);
    settle_read(&mut session, handed[0], Ok(()));
    settle_read(&mut session, handed[2], Ok(()));
    let mut released = Vec::new();
    session.abandon(|buffer| released.push(buffer));
    assert_eq!(released, [BufferId(0), BufferId(1)]);
}

#[test]
fn bytes_that_are_no_request_are_refused() {
    let mut session = session(HeaderStyle::Simple);
    assert_eq!(session.begin(&[0; 28]), Err(BadRequest));
    assert_eq!(session.begin(b"short"), Err(BadRequest));
}
