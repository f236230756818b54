//! Frames of the peer link: a fixed header, then a payload.
//!
//! ```text
//!  0      4    5     6     8        16       24        32      40      48       52       56      60      64
//!  magic  kind flags zero  session  epoch    sequence  offset  length  payload  payload  zero    header
//!                                                                      bytes    crc32            crc32
//! ```
//! All little-endian. The payload's CRC is computed once, when the primary admits the write, and checked when it
//! arrives (rules R14, I20). A frame of another session or of a lower epoch is dropped before it touches a disk.

use super::message::{self, Message};
use crate::base::ids::{BufferId, Epoch, OpId, Sequence, SessionId};
use crate::base::limits::FRAME_PAYLOAD_BYTES_MAX;
use crate::base::range::{BLOCK, ByteRange};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 64;
/// First bytes of every frame: "TWBF".
pub const MAGIC: u32 = u32::from_le_bytes(*b"TWBF");

/// One frame, as the core sends and takes it. Bulk payloads are named by their buffer.
///
/// The payload of a data frame is the buffer's bytes from `range.offset % BLOCK` on, `range.length` of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A client's write, to be mirrored.
    Data {
        /// Order in the session.
        sequence: Sequence,
        /// Where it goes. Block-aligned, except from a primary without a disk, where the receiver fills in the ends.
        range: ByteRange,
        /// Durable before it counts as written.
        fua: bool,
        /// The bytes.
        buffer: BufferId,
    },
    /// A client's zeroing or discard, to be mirrored.
    Zero {
        /// Order in the session.
        sequence: Sequence,
        /// Block-aligned range.
        range: ByteRange,
        /// Give the space back.
        unmap: bool,
        /// Durable before it counts as written.
        fua: bool,
    },
    /// A chunk of a resync.
    ResyncData {
        /// Order in the session.
        sequence: Sequence,
        /// Block-aligned range.
        range: ByteRange,
        /// The bytes.
        buffer: BufferId,
    },
    /// A run of zeroes of a resync; always unmapped at the target.
    ResyncZero {
        /// Order in the session.
        sequence: Sequence,
        /// Block-aligned range.
        range: ByteRange,
    },
    /// The answer to [`Message::ReadRequest`].
    ReadReply {
        /// The asker's operation.
        op: OpId,
        /// Block-aligned range.
        range: ByteRange,
        /// The bytes.
        buffer: BufferId,
    },
    /// Everything else.
    Control(Message),
}

impl Frame {
    /// The bulk payload, if the frame has one: the buffer, and where its bytes lie in the volume.
    pub fn bulk(&self) -> Option<(BufferId, ByteRange)> {
        match *self {
            Frame::Data { range, buffer, .. }
            | Frame::ResyncData { range, buffer, .. }
            | Frame::ReadReply { range, buffer, .. } => Some((buffer, range)),
            Frame::Zero { .. } | Frame::ResyncZero { .. } | Frame::Control(_) => None,
        }
    }
}

const DATA: u8 = 1;
const ZERO: u8 = 2;
const RESYNC_DATA: u8 = 3;
const RESYNC_ZERO: u8 = 4;
const READ_REPLY: u8 = 5;
const CONTROL: u8 = 6;

const FLAG_FUA: u8 = 1;
const FLAG_UNMAP: u8 = 2;

/// A decoded header: what the receiver needs before it reads the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    flags: u8,
    /// The session the frame belongs to.
    pub session: SessionId,
    /// The sender's epoch.
    pub epoch: Epoch,
    sequence: u64,
    range: ByteRange,
    /// Bytes that follow the header; never more than [`FRAME_PAYLOAD_BYTES_MAX`].
    pub payload_bytes: usize,
    /// CRC32 (IEEE) of these bytes.
    pub payload_crc: u32,
}

/// Why bytes are no frame. The connection ends; nothing was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The first bytes are not ours.
    Magic,
    /// The header's checksum is wrong.
    HeaderChecksum,
    /// The payload's checksum is wrong.
    PayloadChecksum,
    /// A kind, flag, length or range that no version of this protocol sends.
    Malformed,
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FrameError::Magic => "bytes that are no twinblock frame",
            FrameError::HeaderChecksum => "a frame header with a wrong checksum",
            FrameError::PayloadChecksum => "a frame payload with a wrong checksum",
            FrameError::Malformed => "a malformed frame",
        })
    }
}

/// Encodes the header of a frame whose payload has the given size and checksum.
/// For [`Frame::Control`] the payload is [`message::encode`] of the message.
pub fn encode_header(
    frame: &Frame,
    session: SessionId,
    epoch: Epoch,
    payload_bytes: usize,
    payload_crc: u32,
) -> [u8; HEADER_BYTES] {
    assert!(payload_bytes <= FRAME_PAYLOAD_BYTES_MAX, "a frame never carries more than its limit");
    let none = ByteRange::new(0, 0);
    let (kind, flags, sequence, range) = match frame {
        Frame::Data { sequence, range, fua, .. } => (DATA, if *fua { FLAG_FUA } else { 0 }, sequence.0, *range),
        Frame::Zero { sequence, range, unmap, fua } => {
            let flags = if *fua { FLAG_FUA } else { 0 } | if *unmap { FLAG_UNMAP } else { 0 };
            (ZERO, flags, sequence.0, *range)
        }
        Frame::ResyncData { sequence, range, .. } => (RESYNC_DATA, 0, sequence.0, *range),
        Frame::ResyncZero { sequence, range } => (RESYNC_ZERO, FLAG_UNMAP, sequence.0, *range),
        Frame::ReadReply { op, range, .. } => (READ_REPLY, 0, op.0, *range),
        Frame::Control(_) => (CONTROL, 0, 0, none),
    };
    let mut out = [0u8; HEADER_BYTES];
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4] = kind;
    out[5] = flags;
    out[8..16].copy_from_slice(&session.0.to_le_bytes());
    out[16..24].copy_from_slice(&epoch.0.to_le_bytes());
    out[24..32].copy_from_slice(&sequence.to_le_bytes());
    out[32..40].copy_from_slice(&range.offset.to_le_bytes());
    out[40..48].copy_from_slice(&range.length.to_le_bytes());
    out[48..52].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    out[52..56].copy_from_slice(&payload_crc.to_le_bytes());
    let crc = crc32fast::hash(&out[..60]);
    out[60..64].copy_from_slice(&crc.to_le_bytes());
    out
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Decodes and checks a header. Nothing is allocated from what it says before this returns `Ok`.
pub fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
    if u32_at(bytes, 0) != MAGIC {
        return Err(FrameError::Magic);
    }
    if u32_at(bytes, 60) != crc32fast::hash(&bytes[..60]) {
        return Err(FrameError::HeaderChecksum);
    }
    let header = Header {
        kind: bytes[4],
        flags: bytes[5],
        session: SessionId(u64_at(bytes, 8)),
        epoch: Epoch(u64_at(bytes, 16)),
        sequence: u64_at(bytes, 24),
        range: ByteRange::new(u64_at(bytes, 32), u64_at(bytes, 40)),
        payload_bytes: u32_at(bytes, 48) as usize,
        payload_crc: u32_at(bytes, 52),
    };
    if header.is_sound() { Ok(header) } else { Err(FrameError::Malformed) }
}

impl Header {
    fn is_sound(&self) -> bool {
        let allowed_flags = match self.kind {
            DATA => FLAG_FUA,
            ZERO => FLAG_FUA | FLAG_UNMAP,
            RESYNC_ZERO => FLAG_UNMAP,
            RESYNC_DATA | READ_REPLY | CONTROL => 0,
            _ => return false,
        };
        if self.flags & !allowed_flags != 0 || self.payload_bytes > FRAME_PAYLOAD_BYTES_MAX {
            return false;
        }
        let Some(end) = self.range.offset.checked_add(self.range.length) else { return false };
        if end > crate::base::limits::VOLUME_BYTES_MAX {
            return false;
        }
        match self.kind {
            DATA => self.range.length > 0 && self.range.length == self.payload_bytes as u64 && self.fits_buffer(),
            RESYNC_DATA | READ_REPLY => {
                self.range.length > 0 && self.range.length == self.payload_bytes as u64 && self.range.is_aligned()
            }
            ZERO | RESYNC_ZERO => self.range.length > 0 && self.payload_bytes == 0 && self.range.is_aligned(),
            _ => self.range.length == 0 && self.range.offset == 0 && self.payload_bytes > 0,
        }
    }

    fn fits_buffer(&self) -> bool {
        self.range.aligned_out().length <= FRAME_PAYLOAD_BYTES_MAX as u64
    }

    /// The range a bulk payload covers, for which the receiver needs a buffer of `aligned_out().length` bytes, its
    /// first byte at `offset % BLOCK`. `None` when the payload (if any) is a message.
    pub fn bulk(&self) -> Option<ByteRange> {
        matches!(self.kind, DATA | RESYNC_DATA | READ_REPLY).then_some(self.range)
    }

    /// Whether the frame changes the receiver's disk. Such a frame of a lower epoch is dropped.
    pub fn mutates(&self) -> bool {
        matches!(self.kind, DATA | ZERO | RESYNC_DATA | RESYNC_ZERO)
    }

    /// Where in its buffer the first byte of a bulk payload goes.
    pub fn bulk_at(&self) -> usize {
        (self.range.offset % BLOCK) as usize
    }

    /// Checks the payload of a bulk frame and names the frame.
    pub fn with_bulk(&self, payload: &[u8], buffer: BufferId) -> Result<Frame, FrameError> {
        if crc32fast::hash(payload) != self.payload_crc {
            return Err(FrameError::PayloadChecksum);
        }
        let (sequence, range) = (Sequence(self.sequence), self.range);
        match self.kind {
            DATA => Ok(Frame::Data { sequence, range, fua: self.flags & FLAG_FUA != 0, buffer }),
            RESYNC_DATA => Ok(Frame::ResyncData { sequence, range, buffer }),
            READ_REPLY => Ok(Frame::ReadReply { op: OpId(self.sequence), range, buffer }),
            _ => Err(FrameError::Malformed),
        }
    }

    /// Checks and decodes a frame without bulk; `payload` is empty or a message.
    pub fn without_bulk(&self, payload: &[u8]) -> Result<Frame, FrameError> {
        if crc32fast::hash(payload) != self.payload_crc {
            return Err(FrameError::PayloadChecksum);
        }
        let (sequence, range) = (Sequence(self.sequence), self.range);
        match self.kind {
            ZERO => Ok(Frame::Zero {
                sequence,
                range,
                unmap: self.flags & FLAG_UNMAP != 0,
                fua: self.flags & FLAG_FUA != 0,
            }),
            RESYNC_ZERO => Ok(Frame::ResyncZero { sequence, range }),
            CONTROL => message::decode(payload).map(Frame::Control).ok_or(FrameError::Malformed),
            _ => Err(FrameError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(frame: Frame, payload: &[u8]) {
        let crc = crc32fast::hash(payload);
        let bytes = encode_header(&frame, SessionId(7), Epoch(3), payload.len(), crc);
        let header = decode_header(&bytes).expect("own bytes decode");
        assert_eq!((header.session, header.epoch), (SessionId(7), Epoch(3)));
        let back = match header.bulk() {
            Some(_) => header.with_bulk(payload, frame.bulk().expect("bulk").0),
            None => header.without_bulk(payload),
        };
        assert_eq!(back, Ok(frame));
    }

    #[test]
    fn every_kind_survives_the_wire() {
        let range = ByteRange::new(8192, 4096);
        let page = [0x5a; 4096];
        round_trip(Frame::Data { sequence: Sequence(9), range, fua: true, buffer: BufferId(1) }, &page);
        let unaligned = ByteRange::new(8200, 100);
        round_trip(
            Frame::Data { sequence: Sequence(9), range: unaligned, fua: false, buffer: BufferId(1) },
            &page[..100],
        );
        round_trip(Frame::ResyncData { sequence: Sequence(9), range, buffer: BufferId(1) }, &page);
        round_trip(Frame::ReadReply { op: OpId(4), range, buffer: BufferId(1) }, &page);
        round_trip(Frame::Zero { sequence: Sequence(9), range, unmap: true, fua: false }, &[]);
        round_trip(Frame::ResyncZero { sequence: Sequence(9), range }, &[]);
        let message = Message::Written { sequences: vec![Sequence(1), Sequence(300)] };
        let bytes = message::encode(&message);
        round_trip(Frame::Control(message), &bytes);
    }

    #[test]
    fn one_flipped_bit_anywhere_is_refused() {
        let frame = Frame::ResyncZero { sequence: Sequence(1), range: ByteRange::new(0, 4096) };
        let bytes = encode_header(&frame, SessionId(7), Epoch(3), 0, 0);
        for bit in 0..HEADER_BYTES * 8 {
            let mut broken = bytes;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(&broken).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn sound_checksums_do_not_excuse_senseless_ranges() {
        let beyond = ByteRange::new(crate::base::limits::VOLUME_BYTES_MAX, 4096);
        let frame = Frame::ResyncZero { sequence: Sequence(1), range: beyond };
        assert_eq!(decode_header(&encode_header(&frame, SessionId(7), Epoch(3), 0, 0)), Err(FrameError::Malformed));
        let ragged = Frame::ResyncZero { sequence: Sequence(1), range: ByteRange::new(1, 4096) };
        assert_eq!(decode_header(&encode_header(&ragged, SessionId(7), Epoch(3), 0, 0)), Err(FrameError::Malformed));
    }

    #[test]
    fn a_message_with_trailing_bytes_is_refused() {
        let mut bytes = message::encode(&Message::Join);
        assert_eq!(message::decode(&bytes), Some(Message::Join));
        bytes.push(0);
        assert_eq!(message::decode(&bytes), None);
    }
}
