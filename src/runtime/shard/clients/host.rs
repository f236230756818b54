//! What the clients need of the shard: the core, and what is known of the disk.

use crate::base::ids::{BufferId, RequestId};
use crate::base::latency::{Kind, Latency};
use crate::base::limits::PIECES_IN_FLIGHT_MAX;
use crate::base::range::ByteRange;
use crate::base::request::Request;
use crate::base::time::Moment;
use crate::io::poller::Poller;
use crate::io::pool::Pool;
use crate::logic::export::offer::Availability;
use crate::logic::export::session::JobId;
use crate::logic::export::split::Piece;
use crate::logic::mirror::interface::Serving;

/// The core behind the export, as the clients see it.
pub trait Host {
    /// What is served, if anything is.
    fn serving(&self) -> Option<Serving>;

    /// The same in the words a client gets: what is on offer, or why nothing is.
    fn availability(&self) -> Availability;

    /// Whether another piece may be submitted.
    fn can_admit(&self) -> bool;

    /// Hands a piece to the core. Answered exactly once, by [`super::Clients::reply`], never from inside this call.
    fn submit(&mut self, request: Request);

    /// Parts of the range that are holes of an up-to-date local disk, in order, at most `most`; none where that is not
    /// known. May say less than there is, never more.
    fn holes(&self, range: ByteRange, most: usize) -> Vec<ByteRange>;

    /// Parts of the range that differ or may differ from the peer, in order, at most `most`.
    fn dirty(&self, range: ByteRange, most: usize) -> Vec<ByteRange>;
}

/// What a turn works with.
pub(super) struct Means<'a, H> {
    pub host: &'a mut H,
    pub pool: &'a mut Pool,
    pub poller: &'a Poller,
    pub pieces: &'a mut Pieces,
    /// When this turn woke up.
    pub began: Moment,
    pub latency: &'a mut Latency,
}

/// A piece the core has.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    /// The connection's place, and its number, which tells it from a later one in the same place.
    pub connection: (usize, u64),
    pub job: JobId,
    pub piece: Piece,
    /// Of a read: given back to us by the reply. A write's belongs to the core until it releases it.
    pub buffer: Option<BufferId>,
}

/// The kind of request a piece is of.
pub(super) fn kind_of(piece: &Piece) -> Kind {
    match piece {
        Piece::Read(_) => Kind::Read,
        Piece::Write { .. } | Piece::WriteOfZeroes { .. } | Piece::Zero { .. } => Kind::Write,
        Piece::Flush => Kind::Flush,
    }
}

/// The pieces the core has, by their request id.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    slots: Vec<Option<InFlight>>,
    free: Vec<usize>,
}

impl Pieces {
    pub(super) fn add(&mut self, piece: InFlight) -> RequestId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        assert!(index <= PIECES_IN_FLIGHT_MAX, "the core admits no more than its limit");
        self.slots[index] = Some(piece);
        RequestId(index as u64)
    }

    pub(super) fn take(&mut self, id: RequestId) -> InFlight {
        let index = id.0 as usize;
        let piece = self.slots.get_mut(index).and_then(Option::take).expect("a piece is answered once");
        self.free.push(index);
        piece
    }

    pub(super) fn get(&self, id: RequestId) -> &InFlight {
        self.slots[id.0 as usize].as_ref().expect("a piece is answered once")
    }

    /// A read's bytes are in another buffer than the one it was given.
    pub(super) fn exchange_buffer(&mut self, id: RequestId, buffer: BufferId) {
        self.slots[id.0 as usize].as_mut().expect("a piece is answered once").buffer = Some(buffer);
    }

    pub(super) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Ranges being zeroed: the disk may have holes there already that a reader must not be told about yet.
    pub(super) fn being_zeroed(&self) -> impl Iterator<Item = ByteRange> {
        self.slots.iter().flatten().filter_map(|piece| match piece.piece {
            Piece::Zero { range, .. } => Some(range),
            _ => None,
        })
    }
}
