//! A client's request as the mirror core takes it: pieces small enough for one buffer.

use super::error::RequestError;
use super::ids::{BufferId, RequestId};
use super::range::ByteRange;

/// One piece of a client's request. The runtime splits larger requests at [`super::limits::PIECE_BYTES_MAX`]
/// (at [`super::limits::ZERO_BYTES_MAX`] for [`Action::Zero`]) and answers the client when every piece is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Unique among the pieces in flight.
    pub id: RequestId,
    /// What is asked.
    pub action: Action,
}

/// What a piece asks for.
///
/// A buffer is as large as `range.aligned_out()`; the client's first byte lies at `range.offset % BLOCK` in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fill the buffer. Never crosses a [`super::limits::PIECE_BYTES_MAX`] boundary of the volume.
    Read {
        /// Bytes wanted; any alignment.
        range: ByteRange,
        /// Where they go. Belongs to the core until the reply, then to the runtime again.
        buffer: BufferId,
    },
    /// Write the buffer's bytes. Never crosses a piece boundary. Unaligned ends are filled in by the core.
    Write {
        /// Bytes to write; any alignment.
        range: ByteRange,
        /// The private copy both disks are written from. Belongs to the core until `Effect::Release`.
        buffer: BufferId,
        /// Reply only when durable on both disks.
        fua: bool,
    },
    /// Make the range read as zeroes. Block-aligned; unaligned ends come as separate writes.
    Zero {
        /// Bytes to zero; block-aligned.
        range: ByteRange,
        /// Give the space back (a hole). Without it the space stays provisioned.
        unmap: bool,
        /// Reply only when durable on both disks.
        fua: bool,
    },
    /// Make every write replied to so far durable on both disks.
    Flush,
}

/// How a piece ended.
pub type Outcome = Result<(), RequestError>;
