//! The peer link of one volume: frames to bytes and back on one authenticated connection.
//!
//! In: a header is read and checked, then its payload goes into a buffer of the link's own class; while there is none,
//! the socket is not read. Frames of another session end this one; writes of a lower epoch than the core has seen are
//! dropped here, before they have a buffer, let alone a disk. Out: frames are queued in order, with their payload's
//! buffers held until the kernel has the bytes, and go out with one system call per turn.
//!
//! A session ends once, whoever ends it: [`Link::take_ended`] says so. What the core had sent before it ended the
//! session itself still goes out behind its back ([`super::linger`]).

use super::departures::Departures;
use super::linger::Lingering;
use crate::base::ids::{BufferId, Epoch, SessionId};
use crate::base::latency::{Kind, Latency, Stage};
use crate::base::limits::{LINK_FRAMES_PER_TURN, LINK_QUEUE_BYTES_MAX, LINK_STAGING_BYTES, LINK_TURN_BYTES_MAX};
use crate::base::time::Moment;
use crate::io::poller::{Event, Interest, Poller};
use crate::io::pool::{Class, Pool};
use crate::io::stream::{Received, Stream};
use crate::logic::mirror::interface::Input;
use crate::wire::frame::{self, Frame, HEADER_BYTES, Header};
use crate::wire::message;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;

/// The peer link. At most one session at a time.
#[derive(Debug)]
pub(super) struct Link {
    session: Option<Session>,
    ended: Option<Ended>,
    lingering: Lingering,
    /// How long data takes to go out.
    latency: Latency,
}

/// A session that ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub session: SessionId,
    /// Why, for the core and the log.
    pub reason: String,
    /// Connect again without a back-off.
    pub reconnect_now: bool,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    stream: Stream,
    departures: Departures,
    token: u64,
    /// What the poller watches it for.
    interest: Interest,
    incoming: Incoming,
    /// Bytes may be waiting in the socket.
    readable: bool,
    /// The socket may take bytes.
    writable: bool,
    /// No buffer is free for the payload that comes next; the pool's state then.
    refused_at: Option<u64>,
    /// More frames may be staged than one turn takes.
    more: bool,
}

/// How far the frame that is coming in has come.
#[derive(Debug)]
enum Incoming {
    Header,
    Bulk { header: Header, buffer: BufferId, filled: usize },
    Message { header: Header, bytes: Vec<u8>, filled: usize },
    Skipped { left: usize },
}

/// What one step of taking bytes in yields.
enum Progress {
    Frame(Frame),
    /// Something was consumed; there may be more.
    Some,
    /// The socket has no more now.
    Dry,
    /// Waits for a buffer.
    NoBuffer,
}

impl Link {
    /// A link without a session. `linger_tokens` are the poller's tokens for connections that still send their rest.
    pub fn new(linger_tokens: std::ops::Range<u64>) -> Link {
        Link {
            session: None,
            ended: None,
            lingering: Lingering::new(linger_tokens),
            latency: Latency::of(&[Stage::LinkOut]),
        }
    }

    /// The session there is.
    pub fn session(&self) -> Option<SessionId> {
        self.session.as_ref().map(|session| session.id)
    }

    /// Takes a fresh, authenticated connection. There must be no session.
    pub fn begin(&mut self, stream: TcpStream, id: SessionId, token: u64, poller: &Poller) -> io::Result<()> {
        assert!(self.session.is_none() && self.ended.is_none(), "the session before has ended and that was told");
        // Frames are gathered per turn already; waiting for more would only cost time. Buffer sizes are left to the
        // kernel, which grows them as the path needs.
        stream.set_nodelay(true)?;
        let stream = Stream::new(stream, LINK_STAGING_BYTES)?;
        let interest = Interest::READ;
        poller.add(stream.as_fd(), token, interest)?;
        let incoming = Incoming::Header;
        // The bytes may be there already, from before the poller watched.
        let (readable, writable, more) = (true, true, true);
        let refused_at = None;
        let departures = Departures::default();
        self.session =
            Some(Session { id, stream, departures, token, interest, incoming, readable, writable, refused_at, more });
        Ok(())
    }

    /// Notes that the socket is ready.
    pub fn on_event(&mut self, event: Event) {
        if let Some(session) = &mut self.session {
            session.readable |= event.readable;
            session.writable |= event.writable;
        }
    }

    /// Notes that a connection that ended is ready.
    pub fn on_linger_event(&mut self, event: Event, pool: &mut Pool, poller: &Poller) {
        self.lingering.on_event(event, pool, poller);
    }

    /// Whether there are frames to be taken without waiting for the socket.
    pub fn has_more(&self, pool: &Pool) -> bool {
        let has_more = |session: &Session| session.more || session.refused_at.is_some_and(|at| at != pool.frees());
        self.session.as_ref().is_some_and(has_more)
    }

    /// Takes frames in, as many as one turn takes. `epoch` is the highest the core has seen.
    pub fn receive(&mut self, epoch: Epoch, pool: &mut Pool, poller: &Poller, inputs: &mut Vec<Input>) {
        let Some(session) = &mut self.session else { return };
        if session.refused_at == Some(pool.frees())
            || !(session.readable || session.more || session.refused_at.is_some())
        {
            return;
        }
        if let Err(reason) = session.receive(epoch, pool, inputs) {
            self.end(reason, false, pool, poller);
        }
    }

    /// Queues a frame of the core, in the turn of that moment. Frames of a session that has ended are dropped.
    pub fn send(&mut self, id: SessionId, frame: &Frame, (epoch, now): (Epoch, Moment), pool: &mut Pool) {
        if let Some(session) = self.session.as_mut().filter(|session| session.id == id) {
            session.queue(frame, epoch, pool);
            if matches!(frame, Frame::Data { .. } | Frame::Zero { .. }) {
                session.departures.queued(Kind::Write, session.stream.queued_bytes(), now);
            }
        }
    }

    /// How long data took to go out.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Sends what is queued, as far as the socket takes it, and watches it for what is wanted next. Once per turn.
    pub fn flush(&mut self, pool: &mut Pool, poller: &Poller) {
        let Some(session) = &mut self.session else { return };
        let result = session.send(&mut self.latency, pool).and_then(|()| session.watch(poller));
        if let Err(error) = result {
            self.end(format!("sending to the peer failed: {error}"), false, pool, poller);
        } else if session.stream.queued_bytes() > LINK_QUEUE_BYTES_MAX {
            let reason = format!("the peer leaves more than {} MiB unread", LINK_QUEUE_BYTES_MAX >> 20);
            self.end(reason, false, pool, poller);
        }
    }

    /// Ends the session on the core's wish. What was queued is still sent, in bounded time, although the session ends
    /// at once as far as anyone here is concerned.
    pub fn disconnect(
        &mut self,
        id: SessionId,
        reason: String,
        reconnect_now: bool,
        now: Moment,
        means: (&mut Pool, &Poller),
    ) {
        let (pool, poller) = means;
        if self.session() != Some(id) {
            return;
        }
        if let Some(session) = self.take_session(pool) {
            self.ended = Some(Ended { session: id, reason, reconnect_now });
            self.lingering.add(session.stream, now, pool, poller);
        }
    }

    /// Ends the session at once. What was queued is lost.
    pub fn end(&mut self, reason: String, reconnect_now: bool, pool: &mut Pool, poller: &Poller) {
        let Some(mut session) = self.take_session(pool) else { return };
        self.ended = Some(Ended { session: session.id, reason, reconnect_now });
        session.stream.discard(pool);
        // It is watched since `begin`; closing it would remove it as well.
        let _ = poller.remove(session.stream.as_fd());
    }

    fn take_session(&mut self, pool: &mut Pool) -> Option<Session> {
        let mut session = self.session.take()?;
        if let Incoming::Bulk { buffer, .. } = std::mem::replace(&mut session.incoming, Incoming::Header) {
            pool.release(buffer);
        }
        Some(session)
    }

    /// The session that ended, once.
    pub fn take_ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    /// When [`Link::on_deadline`] is wanted.
    pub fn deadline(&self) -> Option<Moment> {
        self.lingering.deadline()
    }

    /// Closes connections that could not send their rest in time.
    pub fn on_deadline(&mut self, now: Moment, pool: &mut Pool) {
        self.lingering.on_deadline(now, pool);
    }

    /// Whether no ended connection has anything left to send.
    pub fn is_quiet(&self) -> bool {
        self.lingering.is_empty()
    }
}

impl Session {
    fn receive(&mut self, epoch: Epoch, pool: &mut Pool, inputs: &mut Vec<Input>) -> Result<(), String> {
        self.refused_at = None;
        self.more = false;
        let (mut frames, mut bytes) = (0, 0);
        while frames < LINK_FRAMES_PER_TURN && bytes < LINK_TURN_BYTES_MAX {
            match self.advance(epoch, pool)? {
                Progress::Frame(frame) => {
                    frames += 1;
                    bytes += frame.bulk().map_or(0, |(_, range)| range.length);
                    inputs.push(Input::Frame { session: self.id, frame });
                }
                Progress::Some => {}
                Progress::Dry => {
                    self.readable = false;
                    return Ok(());
                }
                Progress::NoBuffer => {
                    self.refused_at = Some(pool.frees());
                    return Ok(());
                }
            }
        }
        self.more = true;
        Ok(())
    }

    fn advance(&mut self, epoch: Epoch, pool: &mut Pool) -> Result<Progress, String> {
        match &mut self.incoming {
            Incoming::Header => {
                let Some(bytes) = self.stream.staged().first_chunk::<HEADER_BYTES>() else {
                    return self.fetch();
                };
                let header = frame::decode_header(bytes).map_err(|error| format!("the peer sent {error}"))?;
                self.begin_frame(header, epoch, pool)
            }
            Incoming::Bulk { header, buffer, filled } => {
                let (at, length) = (header.bulk_at(), header.payload_bytes);
                let target = &mut pool.slice_mut(*buffer)[at + *filled..at + length];
                match in_place(&mut self.stream, &mut self.readable, target)? {
                    0 => return Ok(Progress::Dry),
                    count => *filled += count,
                }
                if *filled < length {
                    return Ok(Progress::Some);
                }
                let (header, buffer) = (*header, *buffer);
                let frame = header.with_bulk(&pool.slice(buffer)[at..at + length], buffer);
                let frame = frame.map_err(|error| format!("the peer sent {error}"))?;
                self.incoming = Incoming::Header;
                Ok(Progress::Frame(frame))
            }
            Incoming::Message { header, bytes, filled } => {
                if *filled < bytes.len() {
                    match in_place(&mut self.stream, &mut self.readable, &mut bytes[*filled..])? {
                        0 => return Ok(Progress::Dry),
                        count => *filled += count,
                    }
                }
                if *filled < bytes.len() {
                    return Ok(Progress::Some);
                }
                let frame = header.without_bulk(bytes).map_err(|error| format!("the peer sent {error}"))?;
                self.incoming = Incoming::Header;
                Ok(Progress::Frame(frame))
            }
            Incoming::Skipped { left } => {
                let count = self.stream.staged().len().min(*left);
                self.stream.consume(count);
                *left -= count;
                if *left > 0 {
                    return self.fetch();
                }
                self.incoming = Incoming::Header;
                Ok(Progress::Some)
            }
        }
    }

    /// Reads ahead.
    fn fetch(&mut self) -> Result<Progress, String> {
        if !self.readable {
            return Ok(Progress::Dry);
        }
        match self.stream.receive() {
            Ok(Received::Bytes(_)) => {
                self.readable = self.stream.may_have_more();
                Ok(Progress::Some)
            }
            Ok(Received::Nothing) => Ok(Progress::Dry),
            Ok(Received::Closed) => Err("the peer closed the connection".to_owned()),
            Err(error) => Err(format!("receiving from the peer failed: {error}")),
        }
    }

    fn begin_frame(&mut self, header: Header, epoch: Epoch, pool: &mut Pool) -> Result<Progress, String> {
        if header.session != self.id {
            return Err(format!("the peer sent a frame of session {}, this is {}", header.session, self.id));
        }
        let length = header.payload_bytes;
        // Messages pass whatever their epoch: that is how a peer that was away learns of a higher one.
        self.incoming = if header.mutates() && header.epoch < epoch {
            Incoming::Skipped { left: length }
        } else if let Some(range) = header.bulk() {
            let bytes = range.aligned_out().length as usize;
            let Some(buffer) = pool.allocate(bytes, Class::Link) else { return Ok(Progress::NoBuffer) };
            Incoming::Bulk { header, buffer, filled: 0 }
        } else {
            Incoming::Message { header, bytes: vec![0; length], filled: 0 }
        };
        self.stream.consume(HEADER_BYTES);
        Ok(Progress::Some)
    }

    fn queue(&mut self, frame: &Frame, epoch: Epoch, pool: &mut Pool) {
        if let Some((buffer, range)) = frame.bulk() {
            let (at, length) = ((range.offset % crate::base::range::BLOCK) as usize, range.length as usize);
            let crc = pool.crc(buffer, at, length);
            self.stream.queue_bytes(&frame::encode_header(frame, self.id, epoch, length, crc));
            self.stream.queue_buffer(pool, buffer, at, length);
        } else {
            let payload = match frame {
                Frame::Control(message) => message::encode(message),
                _ => Vec::new(),
            };
            let crc = crc32fast::hash(&payload);
            self.stream.queue_bytes(&frame::encode_header(frame, self.id, epoch, payload.len(), crc));
            self.stream.queue_bytes(&payload);
        }
    }

    fn send(&mut self, latency: &mut Latency, pool: &mut Pool) -> io::Result<()> {
        let queued = self.stream.queued_bytes();
        if self.writable && queued > 0 {
            self.writable = self.stream.send(pool)?;
            self.departures.sent(queued - self.stream.queued_bytes(), Stage::LinkOut, latency);
        }
        Ok(())
    }

    fn watch(&mut self, poller: &Poller) -> io::Result<()> {
        // A peer whose bytes there is no buffer for waits.
        let wanted = self.stream.interest(self.refused_at.is_none());
        if wanted != self.interest {
            poller.modify(self.stream.as_fd(), self.token, wanted)?;
            self.interest = wanted;
        }
        Ok(())
    }
}

/// Reads into `target` (not empty): how much, none when the socket is dry.
fn in_place(stream: &mut Stream, readable: &mut bool, target: &mut [u8]) -> Result<usize, String> {
    if stream.staged().is_empty() && !*readable {
        return Ok(0);
    }
    let staged = !stream.staged().is_empty();
    match stream.receive_into(target) {
        Ok(Received::Bytes(count)) => {
            *readable &= staged || stream.may_have_more();
            Ok(count)
        }
        Ok(Received::Nothing) => {
            *readable = false;
            Ok(0)
        }
        Ok(Received::Closed) => Err("the peer closed the connection in the middle of a frame".to_owned()),
        Err(error) => Err(format!("receiving from the peer failed: {error}")),
    }
}
