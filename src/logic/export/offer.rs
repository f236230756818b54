//! What is on offer to a client that knocks now.

use super::contexts::Selection;
use crate::base::ids::BufferId;
use crate::base::limits::NBD_PAYLOAD_BYTES_MAX;
use crate::wire::nbd::handshake::transmission_flags as flags;
use crate::wire::nbd::transmission::HeaderStyle;

/// Smallest block a client may ask for, in bytes: unaligned ends are filled in by the core.
pub const BLOCK_BYTES_MIN: u32 = 1;
/// Block that costs no filling in, in bytes.
pub const BLOCK_BYTES_PREFERRED: u32 = crate::base::range::BLOCK as u32;
/// Largest payload of one request, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = NBD_PAYLOAD_BYTES_MAX;

/// The export as it stands now. Its name is the volume's; the empty name means it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Name of the volume.
    pub name: String,
    /// One line for people who list exports.
    pub description: String,
    /// Whether it can be had.
    pub availability: Availability,
}

/// Whether the export can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Served here.
    Serving(Terms),
    /// Not here or not now; a sentence for the client, which names where or what next.
    Refused(String),
    /// The daemon is stopping.
    Stopping,
}

/// What the serving node can do for this export. Fixed for a session, but for a volume that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Size of the volume, in bytes.
    pub size_bytes: u64,
    /// The life of the volume's cache this session belongs to (R9).
    pub cache_epoch: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// The back end zeroes whole blocks without writing them, here and on the peer.
    pub fast_zero: bool,
}

/// What client and server agreed on: all a session needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Which headers are used.
    pub style: HeaderStyle,
    /// Meta contexts that were chosen for this export.
    pub contexts: Selection,
    /// What is served.
    pub terms: Terms,
}

impl Agreed {
    /// The transmission flags the export is announced with.
    pub fn transmission_flags(&self) -> u16 {
        let mut word = flags::HAS_FLAGS
            | flags::SEND_FLUSH
            | flags::SEND_FUA
            | flags::SEND_TRIM
            | flags::SEND_WRITE_ZEROES
            | flags::CAN_MULTI_CONN
            | flags::SEND_CACHE
            | flags::SEND_FAST_ZERO;
        if self.terms.read_only {
            word |= flags::READ_ONLY;
        }
        if self.style != HeaderStyle::Simple {
            word |= flags::SEND_DF;
        }
        if self.takes_status_payload() {
            word |= flags::BLOCK_STATUS_PAYLOAD;
        }
        word
    }

    /// Whether a `BLOCK_STATUS` may carry a payload that names contexts.
    pub fn takes_status_payload(&self) -> bool {
        self.style == HeaderStyle::Extended && !self.contexts.is_empty()
    }
}

/// Bytes of a read that wait in a buffer of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The buffer; the runtime releases it when the bytes are sent.
    pub buffer: BufferId,
    /// First byte of the payload inside the buffer.
    pub start: usize,
    /// Bytes of payload.
    pub length: usize,
}
