use super::MIB;
use crate::base::ids::{BufferId, Epoch, OpId, Sequence, SessionId};
use crate::base::limits::{LINK_LINGERING_MAX, LINK_QUEUE_BYTES_MAX};
use crate::base::range::ByteRange;
use crate::base::time::Moment;
use crate::io::poller::Poller;
use crate::io::pool::{Class, Pool};
use crate::logic::mirror::interface::Input;
use crate::runtime::shard::link::Link;
use crate::wire::frame::{self, Frame};
use crate::wire::message::Message;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

const SESSION: SessionId = SessionId(0x5e55);
const TOKEN: u64 = 2;
const LINGERING: std::ops::Range<u64> = 16..16 + LINK_LINGERING_MAX as u64;

/// One end of a link, with the loop of a shard around it.
struct End {
    link: Link,
    pool: Pool,
    poller: Poller,
    epoch: Epoch,
    frames: Vec<Frame>,
    ended: Option<String>,
    now: Moment,
}

impl End {
    fn new(stream: TcpStream) -> End {
        let poller = Poller::new().unwrap();
        let mut link = Link::new(LINGERING);
        link.begin(stream, SESSION, TOKEN, &poller).unwrap();
        let pool = Pool::with_arena(8 * MIB).unwrap();
        End { link, pool, poller, epoch: Epoch(5), frames: Vec::new(), ended: None, now: Moment(0) }
    }

    /// One turn without waiting; whether anything happened.
    fn turn(&mut self) -> bool {
        let mut events = Vec::new();
        self.poller.wait(&mut events, Some(std::time::Duration::ZERO)).unwrap();
        for event in &events {
            match event.token {
                TOKEN => self.link.on_event(*event),
                _ => self.link.on_linger_event(*event, &mut self.pool, &self.poller),
            }
        }
        let mut inputs = Vec::new();
        self.link.receive(self.epoch, &mut self.pool, &self.poller, &mut inputs);
        self.link.flush(&mut self.pool, &self.poller);
        if let Some(ended) = self.link.take_ended() {
            assert_eq!((ended.session, self.ended.replace(ended.reason)), (SESSION, None), "a session ends once");
        }
        let more = !inputs.is_empty() || !events.is_empty() || self.link.has_more(&self.pool);
        for input in inputs {
            match input {
                Input::Frame { session: SESSION, frame } => self.frames.push(frame),
                other => panic!("not a frame: {other:?}"),
            }
        }
        more
    }

    fn send(&mut self, frame: &Frame) {
        self.link.send(SESSION, frame, (self.epoch, Moment(0)), &mut self.pool);
    }

    fn buffer(&mut self, class: Class, bytes: &[u8]) -> BufferId {
        let buffer = self.pool.allocate(bytes.len(), class).unwrap();
        self.pool.slice_mut(buffer).copy_from_slice(bytes);
        buffer
    }
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (left, listener.accept().unwrap().0)
}

fn pair() -> (End, End) {
    let (left, right) = connected();
    (End::new(left), End::new(right))
}

/// Turns both ends until the condition holds.
fn until(left: &mut End, right: &mut End, holds: impl Fn(&End, &End) -> bool) {
    let start = std::time::Instant::now();
    while !holds(left, right) {
        let busy = left.turn() | right.turn();
        assert!(start.elapsed() < super::PATIENCE, "the link has come to a stop");
        if !busy {
            std::thread::yield_now();
        }
    }
}

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) + seed) as u8).collect()
}

fn data(sequence: u64, range: ByteRange, buffer: BufferId) -> Frame {
    Frame::Data { sequence: Sequence(sequence), range, fua: false, buffer }
}

#[test]
fn frames_of_every_size_arrive_in_order_whatever_their_owner_does() {
    let (mut left, mut right) = pair();
    let sizes = [4096, MIB, 4096, 131_072, 4096, 65_536, MIB];
    for (number, size) in sizes.into_iter().enumerate() {
        let buffer = left.buffer(Class::Client, &pattern(number, size));
        left.send(&data(number as u64, ByteRange::new(8192, size as u64), buffer));
        left.send(&Frame::Control(Message::Ping { token: number as u64 }));
        // The core may be done with it at once; the frame still holds it.
        left.pool.release(buffer);
        until(&mut left, &mut right, |_, right| right.frames.len() == 2);
        let frames = std::mem::take(&mut right.frames);
        let (buffer, _) = frames[0].bulk().expect("data first");
        assert!(right.pool.slice(buffer) == pattern(number, size));
        assert_eq!(frames[1], Frame::Control(Message::Ping { token: number as u64 }));
        right.pool.release(buffer);
    }
    assert_eq!((left.pool.in_use(), right.pool.in_use()), (0, 0));
}

#[test]
fn an_unaligned_payload_lies_at_its_place_in_the_buffer() {
    let (mut left, mut right) = pair();
    let buffer = left.buffer(Class::Client, &pattern(0, 8192));
    left.send(&data(1, ByteRange::new(4196, 5000), buffer));
    until(&mut left, &mut right, |_, right| right.frames.len() == 1);
    let (there, range) = right.frames[0].bulk().unwrap();
    assert_eq!((range, right.pool.bytes_of(there)), (ByteRange::new(4196, 5000), 8192));
    assert!(right.pool.slice(there)[100..5100] == pattern(0, 8192)[100..5100]);
}

#[test]
fn a_receiver_without_buffers_waits_and_goes_on() {
    let (mut left, mut right) = pair();
    let held: Vec<BufferId> = std::iter::from_fn(|| right.pool.allocate(MIB, Class::Link)).collect();
    let buffer = left.buffer(Class::Client, &pattern(1, MIB));
    for sequence in 0..20 {
        left.send(&data(sequence, ByteRange::new(0, MIB as u64), buffer));
    }
    for _ in 0..50 {
        left.turn();
        right.turn();
    }
    assert_eq!(right.frames, []);
    assert!(left.pool.in_use() > 0 && right.ended.is_none());
    held.into_iter().for_each(|buffer| right.pool.release(buffer));
    for sequence in 0..20 {
        until(&mut left, &mut right, |_, right| !right.frames.is_empty());
        let frame = right.frames.remove(0);
        assert!(matches!(frame, Frame::Data { sequence: Sequence(got), .. } if got == sequence));
        right.pool.release(frame.bulk().unwrap().0);
    }
}

#[test]
fn writes_of_a_lower_epoch_are_dropped_and_messages_are_not() {
    let (mut left, mut right) = pair();
    right.epoch = Epoch(6);
    let buffer = left.buffer(Class::Client, &pattern(1, MIB));
    let range = ByteRange::new(0, MIB as u64);
    left.send(&data(1, range, buffer));
    left.send(&Frame::Zero { sequence: Sequence(2), range, unmap: true, fua: false });
    left.send(&Frame::ResyncZero { sequence: Sequence(3), range });
    left.send(&Frame::ReadReply { op: OpId(4), range, buffer });
    left.send(&Frame::Control(Message::Join));
    left.epoch = Epoch(6);
    left.send(&Frame::ResyncZero { sequence: Sequence(5), range });
    until(&mut left, &mut right, |_, right| right.frames.len() == 3);
    assert!(matches!(right.frames[0], Frame::ReadReply { op: OpId(4), .. }));
    assert_eq!(right.frames[1], Frame::Control(Message::Join));
    assert!(matches!(right.frames[2], Frame::ResyncZero { sequence: Sequence(5), .. }));
    assert_eq!(right.pool.in_use(), 1, "what is dropped has no buffer");
}

/// Bytes that are no frame for this session end it with a reason, whatever they are.
#[test]
fn nonsense_ends_the_session_and_leaves_no_buffer() {
    let header = |session, payload: &[u8], crc| {
        let frame = data(1, ByteRange::new(0, payload.len() as u64), BufferId(0));
        let mut bytes = frame::encode_header(&frame, session, Epoch(5), payload.len(), crc).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    };
    let payload = [7; 8192];
    let mut flipped = header(SESSION, &payload, crc32fast::hash(&payload));
    flipped[30] ^= 1;
    let cases: [(&str, Vec<u8>); 4] = [
        ("no twinblock frame", b"GET / HTTP/1.1\r\n".repeat(10)),
        ("header with a wrong checksum", flipped),
        ("payload with a wrong checksum", header(SESSION, &payload, 1)),
        ("frame of session", header(SessionId(1), &payload, crc32fast::hash(&payload))),
    ];
    for (words, bytes) in cases {
        let (mut peer, ours) = connected();
        let mut end = End::new(ours);
        peer.write_all(&bytes).unwrap();
        let start = std::time::Instant::now();
        while end.ended.is_none() {
            end.turn();
            assert!(start.elapsed() < super::PATIENCE, "{words}");
        }
        let reason = end.ended.clone().unwrap();
        assert!(reason.contains(words), "{reason}");
        assert_eq!((end.pool.in_use(), end.link.session()), (0, None));
    }
}

#[test]
fn a_peer_that_vanishes_in_mid_frame_is_told() {
    let (mut peer, ours) = connected();
    let mut end = End::new(ours);
    let frame = data(1, ByteRange::new(0, 8192), BufferId(0));
    peer.write_all(&frame::encode_header(&frame, SESSION, Epoch(5), 8192, 0)).unwrap();
    peer.write_all(&[1; 100]).unwrap();
    drop(peer);
    while end.ended.is_none() {
        end.turn();
    }
    assert_eq!(end.ended.as_deref(), Some("the peer closed the connection in the middle of a frame"));
    assert_eq!(end.pool.in_use(), 0);
}

#[test]
fn what_was_sent_before_a_disconnect_still_arrives() {
    let (mut left, mut right) = pair();
    let buffer = left.buffer(Class::Client, &pattern(1, MIB));
    for sequence in 0..6 {
        left.send(&data(sequence, ByteRange::new(0, MIB as u64), buffer));
    }
    left.send(&Frame::Control(Message::Goodbye { reason: "test".to_owned() }));
    left.pool.release(buffer);
    // The other side sends too: unread input must not destroy what is on its way.
    right.send(&Frame::Control(Message::Ping { token: 1 }));
    right.turn();
    left.link.disconnect(SESSION, "enough".to_owned(), false, left.now, (&mut left.pool, &left.poller));
    assert_eq!(left.link.session(), None);
    let mut got = 0;
    while right.ended.is_none() {
        left.turn();
        right.turn();
        for frame in right.frames.drain(..) {
            got += 1;
            if let Some((buffer, _)) = frame.bulk() {
                right.pool.release(buffer);
            }
        }
    }
    assert_eq!((got, left.ended.as_deref()), (7, Some("enough")));
    assert_eq!(right.ended.as_deref(), Some("the peer closed the connection"));
    until(&mut left, &mut right, |left, _| left.link.is_quiet());
    assert_eq!(left.pool.in_use(), 0);
}

#[test]
fn a_peer_that_does_not_read_the_goodbye_is_left_after_a_while() {
    let (mut peer, ours) = connected();
    let mut end = End::new(ours);
    let buffer = end.buffer(Class::Client, &pattern(1, MIB));
    for sequence in 0..40 {
        end.send(&data(sequence, ByteRange::new(0, MIB as u64), buffer));
    }
    end.pool.release(buffer);
    end.link.disconnect(SESSION, "enough".to_owned(), true, end.now, (&mut end.pool, &end.poller));
    end.turn();
    assert_eq!(end.pool.in_use(), 1, "the frames still hold their buffer");
    let deadline = end.link.deadline().expect("time is bounded");
    end.link.on_deadline(deadline, &mut end.pool);
    assert_eq!((end.pool.in_use(), end.link.is_quiet()), (0, true));
    // Read what the kernel had: it ends.
    peer.read_to_end(&mut Vec::new()).unwrap_or(0);
}

#[test]
fn a_peer_that_reads_nothing_cannot_make_the_queue_grow_without_bound() {
    let (_peer, ours) = connected();
    let mut end = End::new(ours);
    let buffer = end.buffer(Class::Client, &pattern(1, MIB));
    let mut queued = 0;
    while end.ended.is_none() {
        end.send(&data(1, ByteRange::new(0, MIB as u64), buffer));
        queued += MIB;
        end.turn();
        assert!(queued < LINK_QUEUE_BYTES_MAX + 64 * MIB);
    }
    assert!(end.ended.as_deref().unwrap().contains("unread"));
    end.pool.release(buffer);
    assert_eq!(end.pool.in_use(), 0);
}

#[test]
fn frames_of_a_session_that_ended_are_not_sent() {
    let (mut left, mut right) = pair();
    let buffer = left.buffer(Class::Client, &pattern(1, 4096));
    left.link.end("over".to_owned(), false, &mut left.pool, &left.poller);
    left.send(&data(1, ByteRange::new(0, 4096), buffer));
    left.pool.release(buffer);
    assert_eq!(left.pool.in_use(), 0);
    until(&mut left, &mut right, |_, right| right.ended.is_some());
    assert_eq!(right.frames, []);
}
