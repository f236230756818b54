//! The transmission phase of one client: requests in, pieces out, outcomes in, answers out.
//!
//! | a read is answered | when |
//! |---|---|
//! | piece by piece, in any order | structured replies; anything of one piece |
//! | whole, once every piece is here | simple replies up to the read window; an unfragmented read |
//! | piece by piece, in order | larger simple replies: an error after the head ends the connection |
//!
//! The first error of a request stays; pieces of it that were not handed out are then left undone, except those of a
//! write, whose payload has to be taken anyway.

use super::answers::Answers;
use super::contexts::{Context, Selection};
use super::offer::{Agreed, Payload};
use super::reply::{Echo, Replier};
use super::split::{Piece, Pieces};
use super::status::Descriptor;
use super::validate::{self, Refused, Verdict, Work};
use crate::base::error::RequestError;
use crate::base::ids::BufferId;
use crate::base::limits::{
    NBD_BYTES_IN_FLIGHT_MAX, NBD_READ_WINDOW_BYTES, NBD_REQUESTS_IN_FLIGHT_MAX, NBD_UNSENT_BYTES_MAX, PIECE_BYTES_MAX,
};
use crate::base::range::ByteRange;
use crate::wire::nbd::transmission::{self as wire, HeaderStyle, RequestHeader, WireError};
use std::collections::VecDeque;

/// A request in flight, by its place in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobId(u16);

/// What follows a request's head in the byte stream, or is to be done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// The next head.
    Head,
    /// The payload of a write: [`Session::write_piece`] names its parts, one after the other.
    Write(JobId),
    /// So many bytes of no use; then [`Session::skipped`].
    Skip(u64),
    /// So many bytes for [`Session::status_payload`].
    StatusPayload(usize),
    /// The next head; and this is to be answered now, with [`Session::answer_status`].
    Status(StatusQuery),
    /// Nothing: the client is leaving, or can't be followed any more. Outstanding answers are still sent.
    End,
}

/// A block status to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusQuery {
    /// Which bytes.
    pub range: ByteRange,
    /// One descriptor only.
    pub one: bool,
    /// Which contexts.
    pub contexts: Selection,
    echo: Echo,
}

/// Bytes that are no request. The connection is cut at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRequest;

/// A request whose pieces wait to be handed to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which request.
    pub job: JobId,
    /// What is left of it.
    pub pieces: Pieces,
    /// It has not begun, and must not begin before there is a buffer for each of its pieces: none of them is given
    /// back before the last has come.
    pub all_or_nothing: bool,
}

#[derive(Debug)]
enum Delivery {
    /// Nothing but success or error is answered.
    Plain,
    /// Each piece of a read is answered as it comes. With simple replies there is only one.
    AsItComes,
    /// The pieces of a read are kept until all are here.
    Whole(Vec<Option<Payload>>),
    /// The pieces of a read are sent in order.
    InOrder {
        parts: Vec<Option<Payload>>,
        /// How many were sent; the head goes out with the first.
        sent: usize,
    },
}

#[derive(Debug)]
struct Job {
    echo: Echo,
    work: Work,
    pieces: Pieces,
    /// Pieces the core has.
    outstanding: u32,
    /// The first failure, and where.
    error: Option<(Refused, u64)>,
    delivery: Delivery,
}

/// The transmission phase of one client.
#[derive(Debug)]
pub struct Session {
    agreed: Agreed,
    jobs: Vec<Option<Job>>,
    free: Vec<u16>,
    /// Requests whose pieces wait for buffers or for the core, oldest first. Writes are never here.
    waiting: VecDeque<JobId>,
    /// Payload bytes of requests in flight.
    bytes_in_flight: u64,
    /// Bytes of reads that hold buffers and are not answered yet.
    read_bytes_held: u64,
    /// A request whose payload is being consumed or awaited.
    pending: Option<(RequestHeader, Option<Refused>)>,
    /// No more requests are taken.
    ended: bool,
    /// An answer can't be completed: the connection must be cut.
    broken: bool,
    answers: Answers,
}

impl Session {
    /// A session that has just been agreed on.
    pub fn new(agreed: Agreed) -> Session {
        Session {
            agreed,
            jobs: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            bytes_in_flight: 0,
            read_bytes_held: 0,
            pending: None,
            ended: false,
            broken: false,
            answers: Answers::default(),
        }
    }

    /// The volume has this size now. A client that heard of it otherwise, as this kernel's does, may use what is new; the
    /// others go on with what they know.
    pub fn grown(&mut self, size_bytes: u64) {
        let known = &mut self.agreed.terms.size_bytes;
        *known = size_bytes.max(*known);
    }

    /// What was agreed on.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// Bytes of the next request's head.
    pub fn head_bytes(&self) -> usize {
        self.agreed.style.request_bytes()
    }

    /// Whether another request may be taken while `unsent` bytes of answers are; else the socket is left unread.
    pub fn accepts(&self, unsent: u64) -> bool {
        !self.ended
            && self.in_flight() < NBD_REQUESTS_IN_FLIGHT_MAX
            && self.bytes_in_flight < NBD_BYTES_IN_FLIGHT_MAX
            && unsent < NBD_UNSENT_BYTES_MAX
    }

    /// Requests taken and not answered.
    pub fn in_flight(&self) -> usize {
        self.jobs.len() - self.free.len()
    }

    /// Whether every request is answered and none will come.
    pub fn is_finished(&self) -> bool {
        self.ended && self.in_flight() == 0
    }

    /// Whether the connection must be cut at once, because an answer can't be completed.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// What is to be sent. The runtime takes it at least once a turn.
    pub fn answers(&mut self) -> &mut Answers {
        &mut self.answers
    }

    /// The client will send nothing more: outstanding answers are sent, then the session is finished.
    /// A write whose payload was cut off is forgotten; what the core has of it settles.
    pub fn end_input(&mut self, cut_write: Option<JobId>) {
        self.ended = true;
        self.pending = None;
        if let Some(id) = cut_write {
            let job = self.job(id);
            job.pieces.abandon();
            let error = (Refused { error: WireError::Invalid, message: "the payload was cut off" }, job.echo.offset);
            job.error.get_or_insert(error);
            self.finish_if_done(id);
        }
    }

    /// Takes a request's head, of [`Session::head_bytes`] bytes.
    pub fn begin(&mut self, head: &[u8]) -> Result<Intake, BadRequest> {
        let request = wire::decode_request(self.agreed.style, head).ok_or(BadRequest)?;
        let payload = validate::payload_bytes(&self.agreed, &request);
        match validate::validate(&self.agreed, &request) {
            Verdict::Refuse(refused) if payload > 0 => {
                self.pending = Some((request, Some(refused)));
                Ok(Intake::Skip(payload))
            }
            Verdict::StatusPayload => {
                self.pending = Some((request, None));
                Ok(Intake::StatusPayload(payload as usize))
            }
            verdict => Ok(self.act(&request, verdict)),
        }
    }

    /// The bytes of [`Intake::Skip`] are gone.
    pub fn skipped(&mut self) {
        if let Some((request, Some(refused))) = self.pending.take() {
            self.act(&request, Verdict::Refuse(refused));
        }
    }

    /// The bytes of [`Intake::StatusPayload`] are here.
    pub fn status_payload(&mut self, bytes: &[u8]) -> Intake {
        let Some((request, _)) = self.pending.take() else { return Intake::Head };
        let verdict = validate::status_by_payload(&self.agreed, &request, wire::decode_status_payload(bytes));
        self.act(&request, verdict)
    }

    fn act(&mut self, request: &RequestHeader, verdict: Verdict) -> Intake {
        let echo = Echo { cookie: request.cookie, offset: request.offset };
        let read = request.command == wire::command::READ;
        match verdict {
            Verdict::Work(Work::Status { range, one, contexts }) => {
                Intake::Status(StatusQuery { range, one, contexts, echo })
            }
            Verdict::Work(work) => self.start(echo, work),
            Verdict::Nothing => {
                self.replier().success(echo, read);
                Intake::Head
            }
            Verdict::StatusPayload => unreachable!("a block status is decided on after its payload has come"),
            Verdict::Refuse(refused) => {
                self.replier().error(echo, refused, None);
                Intake::Head
            }
            Verdict::RefuseAndClose(refused) => {
                self.replier().error(echo, refused, None);
                self.ended = true;
                Intake::End
            }
            Verdict::Disconnect => {
                self.ended = true;
                Intake::End
            }
        }
    }

    fn start(&mut self, echo: Echo, work: Work) -> Intake {
        let pieces = Pieces::of(work);
        let job =
            Job { echo, work, pieces, outstanding: 0, error: None, delivery: delivery_of(self.agreed.style, work) };
        self.bytes_in_flight += job.payload_bytes();
        let id = match self.free.pop() {
            Some(index) => {
                self.jobs[usize::from(index)] = Some(job);
                JobId(index)
            }
            None => {
                self.jobs.push(Some(job));
                JobId((self.jobs.len() - 1) as u16)
            }
        };
        match work {
            Work::Write { .. } => return Intake::Write(id),
            _ if pieces.is_done() => self.finish_if_done(id),
            _ => self.waiting.push_back(id),
        }
        Intake::Head
    }

    /// The next part of a write's payload, as the piece it becomes. `None` when the payload is complete.
    pub fn write_piece(&mut self, id: JobId) -> Option<Piece> {
        self.job(id).pieces.peek()
    }

    /// The part named by [`Session::write_piece`] was handed to the core.
    pub fn write_piece_taken(&mut self, id: JobId) {
        let job = self.job(id);
        job.outstanding += u32::from(job.pieces.next().is_some());
    }

    /// The oldest request whose pieces wait, if the client's window has room for the next one beside `unsent` bytes of
    /// answers.
    pub fn waiting(&self, unsent: u64) -> Option<Waiting> {
        let id = *self.waiting.front()?;
        let job = self.jobs[usize::from(id.0)].as_ref().expect("a waiting request is in flight");
        let whole = matches!(job.delivery, Delivery::Whole(_));
        let begun = job.outstanding > 0 || job.delivery.has_parts();
        let wanted = match job.pieces.peek() {
            Some(Piece::Read(_)) if whole && begun => 0,
            Some(Piece::Read(_)) if whole => job.payload_bytes(),
            Some(Piece::Read(range)) => range.length,
            _ => 0,
        };
        let held = self.read_bytes_held + unsent;
        let has_room = held == 0 || wanted == 0 || held + wanted <= NBD_READ_WINDOW_BYTES;
        has_room.then_some(Waiting { job: id, pieces: job.pieces, all_or_nothing: whole && !begun })
    }

    /// The next piece of the request [`Session::waiting`] names was handed to the core.
    pub fn waiting_taken(&mut self, id: JobId) {
        let job = self.job(id);
        let piece = job.pieces.next();
        job.outstanding += u32::from(piece.is_some());
        if job.pieces.is_done() {
            self.waiting.pop_front();
        }
        if let Some(Piece::Read(range)) = piece {
            self.read_bytes_held += range.length;
        }
    }

    /// A piece other than a read's is settled.
    pub fn settle(&mut self, id: JobId, at: u64, outcome: Result<(), RequestError>, release: impl FnMut(BufferId)) {
        if let Err(error) = outcome {
            self.fail(id, error, at, release);
        }
        self.job(id).outstanding -= 1;
        self.finish_if_done(id);
    }

    /// A piece of a read is settled. `all_zero`: its bytes are, which saves sending them where the headers allow it.
    /// Buffers no longer needed go to `release`.
    pub fn settle_read(
        &mut self,
        id: JobId,
        range: ByteRange,
        payload: Payload,
        outcome: Result<(), RequestError>,
        all_zero: bool,
        mut release: impl FnMut(BufferId),
    ) {
        self.job(id).outstanding -= 1;
        self.read_bytes_held -= range.length;
        match outcome {
            Ok(()) if self.job(id).error.is_some() => release(payload.buffer),
            Ok(()) => self.deliver(id, range, payload, all_zero, release),
            Err(error) => {
                release(payload.buffer);
                self.fail(id, error, range.offset, release);
            }
        }
        self.finish_if_done(id);
    }

    fn deliver(
        &mut self,
        id: JobId,
        range: ByteRange,
        payload: Payload,
        all_zero: bool,
        mut release: impl FnMut(BufferId),
    ) {
        let style = self.agreed.style;
        let job = self.jobs[usize::from(id.0)].as_mut().expect("a settling request is in flight");
        let mut replier = Replier { style, answers: &mut self.answers };
        let index = (range.offset / PIECE_BYTES_MAX - job.echo.offset / PIECE_BYTES_MAX) as usize;
        match &mut job.delivery {
            Delivery::Plain => release(payload.buffer),
            Delivery::AsItComes if style == HeaderStyle::Simple => {
                replier.simple_data_follows(job.echo);
                replier.data(payload);
            }
            Delivery::AsItComes => {
                let done = job.outstanding == 0 && job.pieces.is_done();
                if all_zero {
                    replier.hole(job.echo, done, range);
                    release(payload.buffer);
                } else {
                    replier.data_follows(job.echo, done, range.offset, range.length);
                    replier.data(payload);
                }
            }
            Delivery::Whole(parts) => {
                parts[index] = Some(payload);
                // Counted as held until it is answered with the rest.
                self.read_bytes_held += range.length;
            }
            Delivery::InOrder { parts, sent } => {
                parts[index] = Some(payload);
                self.read_bytes_held += range.length;
                while let Some(part) = parts.get_mut(*sent).and_then(Option::take) {
                    if *sent == 0 {
                        replier.simple_data_follows(job.echo);
                    }
                    replier.data(part);
                    self.read_bytes_held -= part.length as u64;
                    *sent += 1;
                }
            }
        }
    }

    /// Notes a failure: the first one stays, and pieces not handed out are left undone.
    fn fail(&mut self, id: JobId, error: RequestError, at: u64, mut release: impl FnMut(BufferId)) {
        let job = self.jobs[usize::from(id.0)].as_mut().expect("a settling request is in flight");
        let message = match error {
            RequestError::Io => "neither copy of the volume could serve this",
            RequestError::NoSpace => "the backing device is full",
            RequestError::Shutdown => "this node no longer serves the volume",
        };
        job.error.get_or_insert((Refused { error: error.into(), message }, at));
        if let Delivery::Whole(parts) | Delivery::InOrder { parts, .. } = &mut job.delivery {
            for part in parts.iter_mut().filter_map(Option::take) {
                self.read_bytes_held -= part.length as u64;
                release(part.buffer);
            }
        }
        self.broken |= matches!(job.delivery, Delivery::InOrder { sent, .. } if sent > 0);
        if !matches!(job.work, Work::Write { .. }) && !job.pieces.is_done() {
            job.pieces.abandon();
            self.waiting.retain(|waiting| *waiting != id);
        }
    }

    fn finish_if_done(&mut self, id: JobId) {
        let slot = &mut self.jobs[usize::from(id.0)];
        let Some(job) = slot.take_if(|job| job.outstanding == 0 && job.pieces.is_done()) else { return };
        self.free.push(id.0);
        self.bytes_in_flight -= job.payload_bytes();
        let mut replier = Replier { style: self.agreed.style, answers: &mut self.answers };
        if let Some((refused, at)) = job.error {
            return replier.error(job.echo, refused, Some(at));
        }
        let length = job.payload_bytes();
        match job.delivery {
            Delivery::Plain => replier.success(job.echo, false),
            Delivery::AsItComes | Delivery::InOrder { .. } => {}
            Delivery::Whole(parts) => {
                match self.agreed.style {
                    HeaderStyle::Simple => replier.simple_data_follows(job.echo),
                    _ => replier.data_follows(job.echo, true, job.echo.offset, length),
                }
                for part in parts.into_iter().flatten() {
                    self.read_bytes_held -= part.length as u64;
                    replier.data(part);
                }
            }
        }
    }

    /// Answers a block status: `describe` fills in what a context says, at least one descriptor.
    pub fn answer_status(&mut self, query: &StatusQuery, mut describe: impl FnMut(Context, &mut Vec<Descriptor>)) {
        let mut descriptors = Vec::new();
        let mut contexts = query.contexts.iter().peekable();
        while let Some(context) = contexts.next() {
            describe(context, &mut descriptors);
            self.replier().status(query.echo, contexts.peek().is_none(), context, &descriptors);
        }
    }

    /// Gives back every buffer the session holds; its connection is gone.
    pub fn abandon(&mut self, mut release: impl FnMut(BufferId)) {
        self.answers.clear(&mut release);
        for job in self.jobs.iter_mut().flatten() {
            if let Delivery::Whole(parts) | Delivery::InOrder { parts, .. } = &mut job.delivery {
                parts.iter_mut().filter_map(Option::take).for_each(|part| release(part.buffer));
            }
        }
    }

    fn replier(&mut self) -> Replier<'_> {
        Replier { style: self.agreed.style, answers: &mut self.answers }
    }

    fn job(&mut self, id: JobId) -> &mut Job {
        self.jobs[usize::from(id.0)].as_mut().expect("a request named by its place is in flight")
    }
}

impl Job {
    fn payload_bytes(&self) -> u64 {
        match self.work {
            Work::Read { range, .. } | Work::Write { range, .. } => range.length,
            _ => 0,
        }
    }
}

impl Delivery {
    fn has_parts(&self) -> bool {
        match self {
            Delivery::Whole(parts) | Delivery::InOrder { parts, .. } => parts.iter().any(Option::is_some),
            Delivery::Plain | Delivery::AsItComes => false,
        }
    }
}

fn delivery_of(style: HeaderStyle, work: Work) -> Delivery {
    let Work::Read { range, whole } = work else { return Delivery::Plain };
    let pieces = ((range.end() - 1) / PIECE_BYTES_MAX - range.offset / PIECE_BYTES_MAX + 1) as usize;
    let parts = || vec![None; pieces];
    match style {
        _ if pieces == 1 => Delivery::AsItComes,
        HeaderStyle::Simple if range.length > NBD_READ_WINDOW_BYTES => Delivery::InOrder { parts: parts(), sent: 0 },
        HeaderStyle::Structured | HeaderStyle::Extended if !whole => Delivery::AsItComes,
        _ => Delivery::Whole(parts()),
    }
}

#[cfg(test)]
mod tests;
