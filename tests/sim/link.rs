//! The network between the two nodes, and the sessions on it: one ordered stream of encoded frames in each direction,
//! in arbitrary segments, with delay. A session's two ends notice its end at different times.

use super::buffers::Buffers;
use super::random::Random;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use twinblock::base::ids::{BufferId, Epoch, SessionId};
use twinblock::base::range::ByteRange;
use twinblock::base::time::Moment;
use twinblock::wire::frame::{self, Frame, FrameError, HEADER_BYTES};
use twinblock::wire::message;

/// A frame handed out by a core and not yet on its way.
struct Staged {
    header: [u8; HEADER_BYTES],
    payload: Vec<u8>,
}

/// One direction of a session.
#[derive(Default)]
pub struct Pipe {
    staged: VecDeque<Staged>,
    transit: VecDeque<(Moment, Vec<u8>)>,
    newest_arrival: Moment,
    received: Vec<u8>,
    /// No more comes after what is in transit.
    pub closed: bool,
}

impl Pipe {
    /// When the last of what is in transit arrives.
    pub fn newest_arrival(&self) -> Moment {
        self.newest_arrival
    }
}

/// One session, with one pipe for what each node sends.
pub struct Session {
    pub id: SessionId,
    /// Which ends are still open, as their own node sees it.
    pub open: [bool; 2],
    /// Written by node 0, by node 1.
    pub pipes: [Pipe; 2],
}

/// The network.
pub struct Link {
    pub sessions: BTreeMap<SessionId, Session>,
    /// Bytes sent by node 0, by node 1 get lost (a stalled stream, until it heals).
    pub lossy: [bool; 2],
    /// Delay of one segment.
    pub latency: (Duration, Duration),
    /// Splits what is sent into segments of at most this size, at random.
    pub segment_bytes_max: usize,
    serial: u64,
}

impl Link {
    pub fn new(latency: (Duration, Duration), segment_bytes_max: usize) -> Link {
        Link { sessions: BTreeMap::new(), lossy: [false; 2], latency, segment_bytes_max, serial: 0 }
    }

    /// Whether a connection can be made.
    pub fn passes(&self) -> bool {
        !self.lossy[0] && !self.lossy[1]
    }

    /// The session in which both ends believe, or one of them.
    pub fn session_of(&self, node: usize) -> Option<SessionId> {
        self.sessions.values().find(|session| session.open[node]).map(|session| session.id)
    }

    /// A new session between both nodes. Neither may have one any more.
    pub fn connect(&mut self) -> SessionId {
        assert!((0..2).all(|node| self.session_of(node).is_none()), "never two sessions at a time");
        self.serial += 1;
        let id = SessionId(super::random::mix(self.serial));
        let session = Session { id, open: [true; 2], pipes: Default::default() };
        self.sessions.insert(id, session);
        id
    }

    /// Takes a frame to send, with its bytes: they need their buffer no longer. Frames of a session whose end is closed are dropped, as by a closed socket.
    pub fn stage(&mut self, from: usize, id: SessionId, epoch: Epoch, frame: Frame, buffers: &Buffers) {
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.open[from]) else { return };
        if session.pipes[from].closed {
            return;
        }
        let payload = match (&frame, frame.bulk()) {
            (Frame::Control(message), _) => message::encode(message),
            (_, Some((buffer, range))) => bulk_bytes(buffers, buffer, range).to_vec(),
            (_, None) => Vec::new(),
        };
        let header = frame::encode_header(&frame, id, epoch, payload.len(), crc32fast::hash(&payload));
        session.pipes[from].staged.push_back(Staged { header, payload });
    }

    /// Puts what is staged on its way; returns when the segments arrive.
    pub fn transmit(&mut self, from: usize, id: SessionId, now: Moment, random: &mut Random) -> Vec<Moment> {
        let (latency, segment_max) = (self.latency, self.segment_bytes_max);
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.open[from]) else { return Vec::new() };
        let pipe = &mut session.pipes[from];
        let mut bytes = Vec::new();
        for staged in std::mem::take(&mut pipe.staged) {
            bytes.extend_from_slice(&staged.header);
            bytes.extend_from_slice(&staged.payload);
        }
        let mut arrivals = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let length = random.between(1, segment_max as u64).max(rest.len() as u64 / 8) as usize;
            let (segment, tail) = rest.split_at(length.min(rest.len()));
            rest = tail;
            let at = (now + random.span(latency.0, latency.1)).max(pipe.newest_arrival + Duration::from_nanos(1));
            pipe.newest_arrival = at;
            pipe.transit.push_back((at, segment.to_vec()));
            arrivals.push(at);
        }
        arrivals
    }

    /// Delivers what has arrived for `to`, up to something that is no frame, if there is such a thing.
    pub fn arrive(
        &mut self,
        to: usize,
        id: SessionId,
        now: Moment,
        buffers: &mut Buffers,
    ) -> (Vec<Frame>, Option<FrameError>) {
        let stuck = self.lossy[1 - to];
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.open[to]) else {
            return (Vec::new(), None);
        };
        let pipe = &mut session.pipes[1 - to];
        while !stuck && pipe.transit.front().is_some_and(|(at, _)| *at <= now) {
            let (_, segment) = pipe.transit.pop_front().expect("just seen");
            pipe.received.extend_from_slice(&segment);
        }
        let mut frames = Vec::new();
        let error = decode_frames(&mut pipe.received, id, buffers, &mut frames).err();
        (frames, error)
    }

    /// Whether everything this node sent has reached the other.
    pub fn drained(&self, from: usize, id: SessionId) -> bool {
        self.sessions.get(&id).is_none_or(|s| s.pipes[from].staged.is_empty() && s.pipes[from].transit.is_empty())
    }

    /// When the stream heals, what is stuck in it goes on.
    pub fn stuck_arrivals(&self, to: usize) -> Vec<SessionId> {
        let stuck = |session: &&Session| session.open[to] && !session.pipes[1 - to].transit.is_empty();
        self.sessions.values().filter(stuck).map(|session| session.id).collect()
    }

    /// Flips a bit of something in transit; says whether anything was.
    pub fn corrupt(&mut self, random: &mut Random) -> bool {
        let from = random.below(2) as usize;
        let Some(session) = self.sessions.values_mut().next_back() else { return false };
        let Some((_, segment)) = session.pipes[from].transit.back_mut() else { return false };
        let bit = random.below(segment.len() as u64 * 8) as usize;
        segment[bit / 8] ^= 1 << (bit % 8);
        true
    }

    /// Loses everything under way in a session, in both directions.
    pub fn lose_transit(&mut self, id: SessionId, random: &mut Random) {
        if let Some(session) = self.sessions.get_mut(&id) {
            for pipe in &mut session.pipes {
                let kept = random.below(pipe.transit.len() as u64 + 1) as usize;
                pipe.transit.truncate(kept);
                pipe.staged.clear();
                pipe.closed = true;
            }
        }
    }

    /// A node's end of a session is closed; says whether it was open.
    pub fn close_end(&mut self, node: usize, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let was_open = std::mem::replace(&mut session.open[node], false);
        if session.open == [false; 2] {
            self.sessions.remove(&id);
        }
        was_open
    }
}

fn bulk_bytes(buffers: &Buffers, buffer: BufferId, range: ByteRange) -> &[u8] {
    let at = (range.offset % twinblock::base::range::BLOCK) as usize;
    &buffers.get(buffer)[at..at + range.length as usize]
}

/// Cuts whole frames off the front of a stream.
fn decode_frames(
    stream: &mut Vec<u8>,
    id: SessionId,
    buffers: &mut Buffers,
    frames: &mut Vec<Frame>,
) -> Result<(), FrameError> {
    let mut used = 0;
    while let Some(head) = stream[used..].first_chunk::<HEADER_BYTES>() {
        let header = frame::decode_header(head)?;
        let start = used + HEADER_BYTES;
        let Some(payload) = stream.get(start..start + header.payload_bytes) else { break };
        assert_eq!(header.session, id, "a frame strayed into another session");
        let frame = match header.bulk() {
            Some(range) => {
                let mut bytes = vec![0xdd; range.aligned_out().length as usize];
                bytes[header.bulk_at()..header.bulk_at() + payload.len()].copy_from_slice(payload);
                let buffer = buffers.insert(bytes);
                let decoded = header.with_bulk(payload, buffer);
                if decoded.is_err() {
                    buffers.release(buffer);
                }
                decoded
            }
            None => header.without_bulk(payload),
        };
        frames.push(frame?);
        used = start + header.payload_bytes;
    }
    stream.drain(..used);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinblock::wire::message::Message;

    const LATENCY: (Duration, Duration) = (Duration::from_micros(10), Duration::from_millis(1));

    #[test]
    fn frames_arrive_whole_and_in_order_however_they_are_cut() {
        let mut random = Random::new(4);
        let mut link = Link::new(LATENCY, 100);
        let id = link.connect();
        let (mut ours, mut theirs) = (Buffers::default(), Buffers::default());
        let buffer = ours.insert((0..4096u32).map(|n| n as u8).collect());
        let range = ByteRange::new(8192, 4096);
        let sent = vec![
            Frame::Control(Message::Ping { token: 1 }),
            Frame::Data { sequence: twinblock::base::ids::Sequence(5), range, fua: false, buffer },
            Frame::Control(Message::Join),
        ];
        for frame in &sent {
            link.stage(0, id, Epoch(1), frame.clone(), &ours);
        }
        let mut arrived = Vec::new();
        for at in link.transmit(0, id, Moment(0), &mut random) {
            arrived.extend(link.arrive(1, id, at, &mut theirs).0);
        }
        assert_eq!(arrived.len(), 3);
        assert_eq!((&arrived[0], &arrived[2]), (&sent[0], &sent[2]));
        let (copy, _) = arrived[1].bulk().expect("data");
        assert_eq!(theirs.get(copy), ours.get(buffer));
    }

    #[test]
    fn a_flipped_bit_ends_the_stream() {
        let mut random = Random::new(9);
        let mut link = Link::new(LATENCY, 4096);
        let id = link.connect();
        let (ours, mut theirs) = (Buffers::default(), Buffers::default());
        for from in 0..2 {
            link.stage(from, id, Epoch(1), Frame::Control(Message::Join), &ours);
            link.transmit(from, id, Moment(0), &mut random);
        }
        assert!(link.corrupt(&mut random));
        let late = Moment(1 << 40);
        assert!((0..2).any(|to| link.arrive(to, id, late, &mut theirs).1.is_some()));
    }
}
