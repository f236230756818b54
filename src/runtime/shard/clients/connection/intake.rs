//! What a client sends, as far as it is there: options, requests, payloads.

use super::{Connection, Next, Part, Phase, Receiving, Stuck, Why, note_entered, submit};
use crate::base::latency::Kind;
use crate::base::limits::{NBD_STATUS_DESCRIPTORS_MAX, NBD_UNSENT_BYTES_MAX};
use crate::base::range::BLOCK;
use crate::io::pool::{Class, Pool};
use crate::io::stream::Received;
use crate::logic::export::contexts::Context;
use crate::logic::export::negotiation::Step;
use crate::logic::export::offer::Offer;
use crate::logic::export::session::{Intake, JobId, Session, StatusQuery};
use crate::logic::export::split::Piece;
use crate::logic::export::status::{self, Marks};
use crate::runtime::shard::clients::host::{Host, Means};
use crate::wire::nbd::transmission::allocation;

impl Connection {
    /// Does one thing with the bytes that are there.
    pub(super) fn step<H: Host>(
        &mut self,
        offer: &Offer,
        means: &mut Means<'_, H>,
        budget: &mut usize,
    ) -> Result<Next, Why> {
        match self.receiving {
            Receiving::Ended => Ok(Next::Wait),
            Receiving::Payload { job, .. } => self.take_payload(job, means, budget),
            Receiving::Skip(left) => {
                let dropped = left.min(self.stream.staged().len() as u64);
                self.stream.consume(dropped as usize);
                if dropped < left {
                    self.receiving = Receiving::Skip(left - dropped);
                    return self.receive(means.pool, budget);
                }
                self.receiving = Receiving::Head;
                self.session().skipped();
                Ok(Next::Again)
            }
            Receiving::StatusPayload(bytes) => {
                if self.stream.staged().len() < bytes {
                    return self.receive(means.pool, budget);
                }
                self.receiving = Receiving::Head;
                let Phase::Transmission(session) = &mut self.phase else { unreachable!("only sessions have payloads") };
                let intake = session.status_payload(&self.stream.staged()[..bytes]);
                self.stream.consume(bytes);
                self.follow(intake, means);
                Ok(Next::Again)
            }
            Receiving::Head => match self.phase {
                Phase::Handshake(_) => self.negotiate(offer, means, budget),
                Phase::Transmission(_) => self.take_head(means, budget),
                Phase::Refused(_) => Ok(Next::Wait),
            },
        }
    }

    fn negotiate<H: Host>(&mut self, offer: &Offer, means: &mut Means<'_, H>, budget: &mut usize) -> Result<Next, Why> {
        if self.unsent() >= NBD_UNSENT_BYTES_MAX {
            self.intake = Stuck::Client;
            return Ok(Next::Wait);
        }
        let Phase::Handshake(negotiation) = &mut self.phase else { return Ok(Next::Wait) };
        let mut answer = Vec::new();
        let (consumed, step) = negotiation.handle(offer, self.stream.staged(), &mut answer);
        self.stream.consume(consumed);
        self.stream.queue_bytes(&answer);
        match step {
            Step::Again => {}
            Step::More => return self.receive(means.pool, budget),
            Step::Agreed(agreed) => {
                self.phase = Phase::Transmission(Box::new(Session::new(agreed)));
                let style = agreed.style;
                tracing::info!(volume = offer.name, peer = self.peer, ?style, "a client uses the volume");
            }
            Step::Close(why) => {
                self.phase = Phase::Refused(why);
                self.receiving = Receiving::Ended;
            }
        }
        Ok(Next::Again)
    }

    fn take_head<H: Host>(&mut self, means: &mut Means<'_, H>, budget: &mut usize) -> Result<Next, Why> {
        let unsent = self.unsent();
        let Phase::Transmission(session) = &mut self.phase else { return Ok(Next::Wait) };
        if !session.accepts(unsent) {
            self.intake = Stuck::Client;
            return Ok(Next::Wait);
        }
        let Some(head) = self.stream.staged().get(..session.head_bytes()) else {
            return self.receive(means.pool, budget);
        };
        let intake = session.begin(head).map_err(|_| "it sent bytes that are no request".to_owned())?;
        let head_bytes = head.len();
        self.stream.consume(head_bytes);
        self.requests += 1;
        self.head_at = means.began;
        self.follow(intake, means);
        Ok(Next::Again)
    }

    fn follow<H: Host>(&mut self, intake: Intake, means: &mut Means<'_, H>) {
        self.receiving = match intake {
            Intake::Head => Receiving::Head,
            Intake::Write(job) => Receiving::Payload { job, part: None },
            Intake::Skip(bytes) => Receiving::Skip(bytes),
            Intake::StatusPayload(bytes) => Receiving::StatusPayload(bytes),
            Intake::Status(query) => {
                self.answer_status(&query, means);
                Receiving::Head
            }
            Intake::End => Receiving::Ended,
        };
        self.queue_answers(means.pool);
    }

    /// Takes the payload of a write into buffers, and hands each to the core when it is full.
    fn take_payload<H: Host>(&mut self, job: JobId, means: &mut Means<'_, H>, budget: &mut usize) -> Result<Next, Why> {
        let Receiving::Payload { part, .. } = &mut self.receiving else { return Ok(Next::Wait) };
        let Phase::Transmission(session) = &mut self.phase else { return Ok(Next::Wait) };
        let Some(filling) = part else {
            let Some(piece) = session.write_piece(job) else {
                self.receiving = Receiving::Head;
                return Ok(Next::Again);
            };
            let Piece::Write { range, .. } = piece else { unreachable!("a write consists of write pieces") };
            let Some(buffer) = means.pool.allocate(piece.buffer_bytes(), Class::Client) else {
                self.intake = Stuck::Buffer { frees: means.pool.frees() };
                return Ok(Next::Wait);
            };
            *part = Some(Part { piece, range, buffer, filled: 0 });
            return Ok(Next::Again);
        };
        let wanted = filling.range.length as usize;
        if filling.filled < wanted {
            let from_socket = self.stream.staged().is_empty();
            if from_socket && !self.readable {
                return Ok(Next::Wait);
            }
            let start = (filling.range.offset % BLOCK) as usize;
            let place = &mut means.pool.slice_mut(filling.buffer)[start + filling.filled..start + wanted];
            return match self.stream.receive_into(place).map_err(|error| error.to_string())? {
                Received::Bytes(count) => {
                    filling.filled += count;
                    self.moved.0 += count as u64;
                    *budget = budget.saturating_sub(count);
                    self.readable &= !from_socket || self.stream.may_have_more();
                    Ok(Next::Again)
                }
                Received::Nothing => {
                    self.readable = false;
                    Ok(Next::Wait)
                }
                Received::Closed => self.end_of_input(means.pool),
            };
        }
        if !means.host.can_admit() {
            self.intake = Stuck::Core;
            return Ok(Next::Wait);
        }
        let (piece, buffer) = (filling.piece, filling.buffer);
        *part = None;
        session.write_piece_taken(job);
        submit(self.id, job, piece, Some(buffer), means);
        note_entered(&mut self.entered, Kind::Write, self.head_at);
        Ok(Next::Again)
    }

    fn receive(&mut self, pool: &mut Pool, budget: &mut usize) -> Result<Next, Why> {
        if !self.readable {
            return Ok(Next::Wait);
        }
        match self.stream.receive().map_err(|error| error.to_string())? {
            Received::Bytes(count) => {
                *budget = budget.saturating_sub(count);
                self.readable = self.stream.may_have_more();
                Ok(Next::Again)
            }
            Received::Nothing => {
                self.readable = false;
                Ok(Next::Wait)
            }
            Received::Closed => self.end_of_input(pool),
        }
    }

    /// The client sends no more: what it asked for is still answered.
    fn end_of_input(&mut self, pool: &mut Pool) -> Result<Next, Why> {
        let receiving = std::mem::replace(&mut self.receiving, Receiving::Ended);
        let Phase::Transmission(session) = &mut self.phase else {
            return Err("it left during the handshake".to_owned());
        };
        let cut_write = match receiving {
            Receiving::Payload { job, part } => {
                part.into_iter().for_each(|part| pool.release(part.buffer));
                Some(job)
            }
            _ => None,
        };
        session.end_input(cut_write);
        Ok(Next::Wait)
    }

    fn answer_status<H: Host>(&mut self, query: &StatusQuery, means: &mut Means<'_, H>) {
        // A marked part and an unmarked one make two descriptors.
        let (most, asked) =
            if query.one { (1, 2) } else { (NBD_STATUS_DESCRIPTORS_MAX, NBD_STATUS_DESCRIPTORS_MAX / 2) };
        self.session().answer_status(query, |context, out| match context {
            Context::Allocation => {
                let mut marks = Marks::found(query.range, means.host.holes(query.range, asked), asked);
                marks.remove(means.pieces.being_zeroed());
                status::describe(query.range, &marks, allocation::HOLE | allocation::ZERO, most, out);
            }
            Context::Dirty => {
                let marks = Marks::found(query.range, means.host.dirty(query.range, asked), asked);
                status::describe(query.range, &marks, 1, most, out);
            }
        });
    }
}
