//! One client: takes bytes in, hands pieces to the core, sends answers.
//!
//! Nothing waits here. What can't go on (no buffer, the core is full, the client reads nothing) is left where it is,
//! its cause noted, and tried again in a later turn; the socket stays unread meanwhile.

mod intake;

use super::Patience;
use super::host::{Host, InFlight, Means, kind_of};
use super::socket::{ClientView, DEVICE};
use crate::base::ids::BufferId;
use crate::base::latency::{Kind, Latency, Stage};
use crate::base::limits::{NBD_STAGING_BYTES, NBD_TURN_BYTES_MAX, NBD_UNSENT_BYTES_MAX};
use crate::base::range::{BLOCK, ByteRange};
use crate::base::request::{Outcome, Request};
use crate::base::time::Moment;
use crate::io::clock;
use crate::io::poller::Interest;
use crate::io::pool::{Class, Pool};
use crate::io::stream::Stream;
use crate::logic::export::answers::Run;
use crate::logic::export::negotiation::Negotiation;
use crate::logic::export::offer::{Offer, Payload};
use crate::logic::export::session::{JobId, Session};
use crate::logic::export::split::{Piece, Pieces};
use crate::runtime::shard::departures::Departures;
use crate::wire::nbd::transmission::HeaderStyle;
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// Why a connection ends, for the log.
pub(super) type Why = String;

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its place among the connections, and its number.
    id: (usize, u64),
    peer: String,
    /// The address of this server it came to, over the network.
    local: Option<IpAddr>,
    since: Moment,
    stream: Stream,
    phase: Phase,
    receiving: Receiving,
    /// Buffers for the pieces of the oldest waiting request, which needs all of them before it begins.
    reserved: VecDeque<BufferId>,
    /// The socket may have something for us.
    readable: bool,
    /// Both directions are gone.
    gone: bool,
    /// Why no more is taken in.
    intake: Stuck,
    /// Why waiting pieces are not handed to the core.
    outlet: Stuck,
    /// What the poller watches for.
    pub(super) watched: Interest,
    /// Since when the client has taken nothing of what waits for it, or sent nothing of a payload it began: time in
    /// which it holds buffers of the pool.
    stalled: Option<Moment>,
    /// Bytes taken from the client and given to it, ever; and how many that were when last looked at.
    moved: (u64, u64),
    requests: u64,
    /// When the turn woke up that found the head of the request that is coming in.
    head_at: Moment,
    /// The same of the oldest request that waits to be handed to the core.
    waits_since: Moment,
    /// Pieces handed to the core in this turn: their kind, and when they came.
    entered: Vec<(Kind, Moment, u64)>,
    departures: Departures,
}

#[derive(Debug)]
enum Phase {
    Handshake(Box<Negotiation>),
    Transmission(Box<Session>),
    /// The handshake ended without an export; what was answered is still sent.
    Refused(&'static str),
}

/// What the next bytes from the client are.
#[derive(Debug)]
enum Receiving {
    /// An option, or a request's head.
    Head,
    /// The payload of a write.
    Payload { job: JobId, part: Option<Part> },
    /// Bytes of no use.
    Skip(u64),
    /// The payload of a block status.
    StatusPayload(usize),
    /// Nothing more is read.
    Ended,
}

/// A part of a write's payload on its way into a buffer.
#[derive(Debug)]
struct Part {
    piece: Piece,
    range: ByteRange,
    buffer: BufferId,
    filled: usize,
}

/// Why something does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stuck {
    /// It does, or has nothing to do.
    No,
    /// There was no buffer when the pool was in this state.
    Buffer { frees: u64 },
    /// The core takes no more pieces.
    Core,
    /// The client has enough in flight.
    Client,
}

/// Whether to go on with the same connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Again,
    Wait,
}

impl Connection {
    /// A client that has just connected: greets it.
    pub(super) fn new(
        id: (usize, u64),
        peer: String,
        local: Option<IpAddr>,
        socket: OwnedFd,
        now: Moment,
    ) -> io::Result<Connection> {
        let mut stream = Stream::new(socket, NBD_STAGING_BYTES)?;
        stream.queue_bytes(&Negotiation::greeting());
        Ok(Connection {
            id,
            peer,
            local,
            since: now,
            stream,
            phase: Phase::Handshake(Box::default()),
            receiving: Receiving::Head,
            reserved: VecDeque::new(),
            readable: true,
            gone: false,
            intake: Stuck::No,
            outlet: Stuck::No,
            watched: Interest::NONE,
            stalled: None,
            moved: (0, 0),
            requests: 0,
            head_at: now,
            waits_since: now,
            entered: Vec::new(),
            departures: Departures::default(),
        })
    }

    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// The address of this server it came to, over the network.
    pub(super) fn local(&self) -> Option<IpAddr> {
        self.local
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn is_negotiating(&self) -> bool {
        !matches!(self.phase, Phase::Transmission(_))
    }

    /// Whether it is the block device of this kernel, whose users are not known here.
    pub(super) fn is_device(&self) -> bool {
        self.peer == DEVICE
    }

    /// How many came before it.
    pub(super) fn number(&self) -> u64 {
        self.id.1
    }

    /// Whether this is the connection of that place and number.
    pub(super) fn is(&self, id: (usize, u64)) -> bool {
        self.id == id
    }

    /// The life of the volume's cache this client's session is bound to, once it has one.
    pub(super) fn cache_epoch(&self) -> Option<u64> {
        match &self.phase {
            Phase::Transmission(session) => Some(session.agreed().terms.cache_epoch),
            Phase::Handshake(_) | Phase::Refused(_) => None,
        }
    }

    /// The volume has this size now.
    pub(super) fn grown(&mut self, size_bytes: u64) {
        if let Phase::Transmission(session) = &mut self.phase {
            session.grown(size_bytes);
        }
    }

    pub(super) fn view(&self, now: Moment) -> ClientView {
        let in_flight = match &self.phase {
            Phase::Transmission(session) => session.in_flight(),
            Phase::Handshake(_) | Phase::Refused(_) => 0,
        };
        ClientView {
            peer: self.peer.clone(),
            negotiating: self.is_negotiating(),
            connected_seconds: now.since(self.since).as_secs(),
            requests_in_flight: in_flight as u32,
            requests: self.requests,
            unsent_bytes: self.unsent(),
        }
    }

    /// The poller says what the socket is ready for.
    pub(super) fn note_ready(&mut self, readable: bool, gone: bool) {
        self.readable |= readable;
        self.gone |= gone;
    }

    /// Takes in what the client sent and hands pieces to the core, as far as both go in one turn.
    pub(super) fn take_in<H: Host>(&mut self, offer: &Offer, means: &mut Means<'_, H>) -> Result<(), Why> {
        self.intake = Stuck::No;
        if !self.has_waiting() {
            self.waits_since = means.began;
        }
        let mut budget = NBD_TURN_BYTES_MAX;
        // What is left beyond the budget is still there in the next turn: the poller tells again.
        while budget > 0 && self.step(offer, means, &mut budget)? == Next::Again {}
        self.outlet = self.hand_over(means);
        self.queue_answers(means.pool);
        self.record_entered(means.latency);
        if self.gone && !self.wants_bytes() {
            return Err("it has gone".to_owned());
        }
        Ok(())
    }

    /// Counts how long what was handed to the core took to come in: one look at the clock for a turn.
    fn record_entered(&mut self, latency: &mut Latency) {
        if self.entered.is_empty() {
            return;
        }
        let now = clock::now();
        for (kind, since, count) in self.entered.drain(..) {
            latency.record_many(kind, Stage::ClientRead, now.since(since), count);
        }
    }

    /// Whether a request waits to be handed to the core.
    fn has_waiting(&self) -> bool {
        matches!(&self.phase, Phase::Transmission(session) if session.waiting(self.unsent()).is_some())
    }

    /// Hands waiting pieces to the core, oldest request first. Returns why it stopped before the last.
    fn hand_over<H: Host>(&mut self, means: &mut Means<'_, H>) -> Stuck {
        let unsent = self.unsent();
        let Phase::Transmission(session) = &mut self.phase else { return Stuck::No };
        while let Some(waiting) = session.waiting(unsent) {
            let Some(piece) = waiting.pieces.peek() else { break };
            if !means.host.can_admit() {
                return Stuck::Core;
            }
            let whole = waiting.all_or_nothing && self.reserved.is_empty();
            if whole && !reserve(&mut self.reserved, waiting.pieces, means.pool) {
                return Stuck::Buffer { frees: means.pool.frees() };
            }
            let buffer = match piece.buffer_bytes() {
                0 => None,
                bytes => {
                    let buffer = self.reserved.pop_front().or_else(|| means.pool.allocate(bytes, Class::Client));
                    if buffer.is_none() {
                        return Stuck::Buffer { frees: means.pool.frees() };
                    }
                    buffer
                }
            };
            if let (Piece::WriteOfZeroes { range, .. }, Some(buffer)) = (piece, buffer) {
                let start = (range.offset % BLOCK) as usize;
                means.pool.slice_mut(buffer)[start..start + range.length as usize].fill(0);
            }
            session.waiting_taken(waiting.job);
            submit(self.id, waiting.job, piece, buffer, means);
            note_entered(&mut self.entered, kind_of(&piece), self.waits_since);
        }
        Stuck::No
    }

    /// One of this client's pieces is settled.
    pub(super) fn settle(&mut self, piece: &InFlight, outcome: Outcome, now: Moment, pool: &mut Pool) {
        let queued_before = self.stream.queued_bytes();
        if outcome.is_err() {
            // The request these buffers were for may be the one that failed.
            self.reserved.drain(..).for_each(|buffer| pool.release(buffer));
        }
        let session = self.session();
        match (piece.piece, piece.buffer) {
            (Piece::Read(range), Some(buffer)) => {
                let payload = payload_of(range, buffer);
                let saves = session.agreed().style != HeaderStyle::Simple && range.length >= BLOCK;
                let all_zero = saves && outcome.is_ok() && is_zero(bytes_of(payload, pool));
                session.settle_read(piece.job, range, payload, outcome, all_zero, |buffer| pool.release(buffer));
            }
            (other, _) => session.settle(piece.job, offset_of(&other), outcome, |buffer| pool.release(buffer)),
        }
        self.queue_answers(pool);
        let queued = self.stream.queued_bytes();
        if queued > queued_before {
            self.departures.queued(kind_of(&piece.piece), queued, now);
        }
    }

    /// Moves answers to the socket's queue, which holds their buffers until they are sent.
    fn queue_answers(&mut self, pool: &mut Pool) {
        let Phase::Transmission(session) = &mut self.phase else { return };
        let stream = &mut self.stream;
        session.answers().take(|run| match run {
            Run::Own(bytes) => stream.queue_bytes(bytes),
            Run::Pool(payload) => {
                stream.queue_buffer(pool, payload.buffer, payload.start, payload.length);
                pool.release(payload.buffer);
            }
        });
    }

    /// Sends what the client takes. Tells when the connection is over, which it is when the client holds buffers for
    /// longer than it is borne without moving a byte.
    pub(super) fn send(
        &mut self,
        now: Moment,
        patience: &Patience,
        latency: &mut Latency,
        pool: &mut Pool,
    ) -> Result<(), Why> {
        let before = self.stream.queued_bytes();
        if before > 0 {
            self.stream.send(pool).map_err(|error| error.to_string())?;
        }
        let left = self.stream.queued_bytes();
        self.moved.0 += (before - left) as u64;
        self.departures.sent(before - left, Stage::Reply, latency);
        let moved = self.moved.0 > self.moved.1;
        self.moved.1 = self.moved.0;
        self.stalled = match left > 0 || self.awaits_payload() {
            true if moved => Some(now),
            true => self.stalled.or(Some(now)),
            false => None,
        };
        if self.deadline(patience).is_some_and(|deadline| deadline <= now) {
            return Err(match self.phase {
                Phase::Handshake(_) => "it did not finish the handshake in time".to_owned(),
                _ if left > 0 => "it has stopped reading its answers".to_owned(),
                _ => "it has stopped in the middle of a write while others wait for buffers".to_owned(),
            });
        }
        match &self.phase {
            Phase::Transmission(session) if session.is_broken() => {
                Err("a read failed after its answer had begun".to_owned())
            }
            Phase::Transmission(session) if session.is_finished() && self.stream.queued_bytes() == 0 => {
                Err("it has left".to_owned())
            }
            Phase::Refused(why) if self.stream.queued_bytes() == 0 => Err((*why).to_owned()),
            _ => Ok(()),
        }
    }

    /// When something must happen at the latest.
    pub(super) fn deadline(&self, patience: &Patience) -> Option<Moment> {
        match self.phase {
            Phase::Handshake(_) => Some(self.since + patience.handshake),
            // One who pauses in the middle of a write is only in the way when buffers are short.
            _ if self.stream.queued_bytes() == 0 && !patience.buffers_are_short => None,
            _ => self.stalled.map(|stalled| stalled + patience.holding),
        }
    }

    /// Whether it waits for a buffer.
    pub(super) fn is_starving(&self) -> bool {
        [self.intake, self.outlet].iter().any(|stuck| matches!(stuck, Stuck::Buffer { .. }))
    }

    /// Whether a buffer waits for the rest of a payload.
    fn awaits_payload(&self) -> bool {
        match &self.receiving {
            Receiving::Payload { part: Some(part), .. } => (part.filled as u64) < part.range.length,
            _ => false,
        }
    }

    /// What to watch the socket for.
    pub(super) fn interest(&self) -> Interest {
        self.stream.interest(self.wants_bytes())
    }

    fn wants_bytes(&self) -> bool {
        self.intake == Stuck::No && !matches!(self.receiving, Receiving::Ended)
    }

    /// Whether something can be done although nothing has come in.
    pub(super) fn has_more(&self, can_admit: bool, pool: &Pool) -> bool {
        let freed = |stuck| match stuck {
            Stuck::No | Stuck::Client => false,
            Stuck::Buffer { frees } => pool.frees() > frees,
            Stuck::Core => can_admit,
        };
        let unsent = self.unsent();
        let window_opened = match &self.phase {
            Phase::Transmission(session) => {
                (self.intake == Stuck::Client && session.accepts(unsent))
                    || (self.outlet == Stuck::No && session.waiting(unsent).is_some())
            }
            Phase::Handshake(_) => self.intake == Stuck::Client && unsent < NBD_UNSENT_BYTES_MAX,
            Phase::Refused(_) => false,
        };
        window_opened || freed(self.intake) || freed(self.outlet)
    }

    /// Gives back everything this connection holds. Its pieces with the core settle without it.
    pub(super) fn close(&mut self, pool: &mut Pool) {
        self.stream.discard(pool);
        self.reserved.drain(..).for_each(|buffer| pool.release(buffer));
        if let Receiving::Payload { part: Some(part), .. } = std::mem::replace(&mut self.receiving, Receiving::Ended) {
            pool.release(part.buffer);
        }
        if let Phase::Transmission(session) = &mut self.phase {
            session.abandon(|buffer| pool.release(buffer));
        }
    }

    fn unsent(&self) -> u64 {
        self.stream.queued_bytes() as u64
    }

    fn session(&mut self) -> &mut Session {
        match &mut self.phase {
            Phase::Transmission(session) => session,
            Phase::Handshake(_) | Phase::Refused(_) => unreachable!("only a client that chose the export has requests"),
        }
    }
}

/// Notes a piece that was handed to the core and came in since then.
fn note_entered(entered: &mut Vec<(Kind, Moment, u64)>, kind: Kind, since: Moment) {
    match entered.last_mut().filter(|last| (last.0, last.1) == (kind, since)) {
        Some(last) => last.2 += 1,
        None => entered.push((kind, since, 1)),
    }
}

/// Hands one piece to the core.
fn submit<H: Host>(
    connection: (usize, u64),
    job: JobId,
    piece: Piece,
    buffer: Option<BufferId>,
    means: &mut Means<'_, H>,
) {
    let ours = matches!(piece, Piece::Read(_));
    let id = means.pieces.add(InFlight { connection, job, piece, buffer: buffer.filter(|_| ours) });
    means.host.submit(Request { id, action: piece.action(buffer) });
}

/// Allocates a buffer for each of the pieces, or none at all.
fn reserve(reserved: &mut VecDeque<BufferId>, pieces: Pieces, pool: &mut Pool) -> bool {
    for piece in pieces {
        match pool.allocate(piece.buffer_bytes(), Class::Client) {
            Some(buffer) => reserved.push_back(buffer),
            None => {
                reserved.drain(..).for_each(|buffer| pool.release(buffer));
                return false;
            }
        }
    }
    true
}

fn payload_of(range: ByteRange, buffer: BufferId) -> Payload {
    Payload { buffer, start: (range.offset % BLOCK) as usize, length: range.length as usize }
}

fn bytes_of(payload: Payload, pool: &Pool) -> &[u8] {
    &pool.slice(payload.buffer)[payload.start..payload.start + payload.length]
}

/// Where a piece other than a read begins, for the error that names the place.
fn offset_of(piece: &Piece) -> u64 {
    match piece {
        Piece::Read(range) => range.offset,
        Piece::Write { range, .. } | Piece::WriteOfZeroes { range, .. } | Piece::Zero { range, .. } => range.offset,
        Piece::Flush => 0,
    }
}

/// Whether all bytes are zero; usually the first few tell that they are not.
fn is_zero(bytes: &[u8]) -> bool {
    const STRIDE: usize = 64;
    let (strides, rest) = bytes.as_chunks::<STRIDE>();
    strides.iter().all(|stride| *stride == [0; STRIDE]) && rest.iter().all(|byte| *byte == 0)
}
