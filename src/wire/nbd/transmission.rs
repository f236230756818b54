//! The transmission phase: requests and replies.
//!
//! ```text
//! request   0x25609513 flags:16 command:16 cookie:64 offset:64 length:32  payload
//! extended  0x21e41c71 flags:16 command:16 cookie:64 offset:64 length:64  payload
//! simple    0x67446698 error:32 cookie:64                                  data of a READ
//! chunk     0x668e33ef flags:16 kind:16 cookie:64 length:32                payload
//! extended  0x6e8a278c flags:16 kind:16 cookie:64 offset:64 length:64      payload
//! ```

use super::Fields;
use crate::base::error::RequestError;

/// Begins a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins a request with an extended header.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Begins a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Begins a structured chunk.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// Begins a chunk with an extended header.
pub const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// Bytes of a request before its payload.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of an extended request before its payload.
pub const EXTENDED_REQUEST_BYTES: usize = 32;
/// Bytes of a simple reply before its data.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of a structured chunk before its payload.
pub const CHUNK_BYTES: usize = 20;
/// Bytes of an extended chunk before its payload.
pub const EXTENDED_CHUNK_BYTES: usize = 32;

/// Numbers of the commands.
pub mod command {
    /// Data from the export.
    pub const READ: u16 = 0;
    /// Data to the export; a payload follows.
    pub const WRITE: u16 = 1;
    /// Good-bye; not answered.
    pub const DISCONNECT: u16 = 2;
    /// Every write that was answered becomes stable.
    pub const FLUSH: u16 = 3;
    /// The content of the range is no longer wanted.
    pub const TRIM: u16 = 4;
    /// The range will be read soon.
    pub const CACHE: u16 = 5;
    /// The range reads as zeroes from here on.
    pub const WRITE_ZEROES: u16 = 6;
    /// What the meta contexts say of the range.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a request.
pub mod command_flags {
    /// Answer only when stable.
    pub const FUA: u16 = 1 << 0;
    /// `WRITE_ZEROES`: keep the space.
    pub const NO_HOLE: u16 = 1 << 1;
    /// `READ`: one content chunk.
    pub const DF: u16 = 1 << 2;
    /// `BLOCK_STATUS`: one descriptor.
    pub const REQ_ONE: u16 = 1 << 3;
    /// `WRITE_ZEROES`: refuse unless faster than writing.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// Extended headers: the length is that of a payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Numbers of the chunks.
pub mod chunk {
    /// The last chunk of a reply has this flag.
    pub const FLAG_DONE: u16 = 1 << 0;
    /// Nothing to say.
    pub const NONE: u16 = 0;
    /// An offset and the data there.
    pub const OFFSET_DATA: u16 = 1;
    /// An offset and how many zeroes are there.
    pub const OFFSET_HOLE: u16 = 2;
    /// A context and 32-bit descriptors.
    pub const BLOCK_STATUS: u16 = 5;
    /// A context and 64-bit descriptors.
    pub const BLOCK_STATUS_EXTENDED: u16 = 6;
    /// An error with a message.
    pub const ERROR: u16 = 0x8001;
    /// The same, with the offset where it happened.
    pub const ERROR_OFFSET: u16 = 0x8002;
}

/// Bits of a `base:allocation` descriptor.
pub mod allocation {
    /// Nothing is stored here.
    pub const HOLE: u64 = 1 << 0;
    /// Reads as zeroes.
    pub const ZERO: u64 = 1 << 1;
}

/// Which headers the two sides agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderStyle {
    /// Simple replies only.
    #[default]
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers both ways.
    Extended,
}

impl HeaderStyle {
    /// Bytes of a request before its payload.
    pub fn request_bytes(self) -> usize {
        match self {
            HeaderStyle::Simple | HeaderStyle::Structured => REQUEST_BYTES,
            HeaderStyle::Extended => EXTENDED_REQUEST_BYTES,
        }
    }
}

/// The errors the protocol knows, by their number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum WireError {
    /// EPERM: a write to a read-only export.
    NotPermitted = 1,
    /// EIO: neither copy could serve it.
    Io = 5,
    /// EINVAL: the request makes no sense.
    Invalid = 22,
    /// ENOSPC: past the end, or the back end is full.
    NoSpace = 28,
    /// EOVERFLOW: too large for one chunk.
    Overflow = 75,
    /// ENOTSUP: zeroing would not be fast.
    NotSupported = 95,
    /// ESHUTDOWN: this node no longer serves.
    Shutdown = 108,
}

impl From<RequestError> for WireError {
    fn from(error: RequestError) -> WireError {
        match error {
            RequestError::Io => WireError::Io,
            RequestError::NoSpace => WireError::NoSpace,
            RequestError::Shutdown => WireError::Shutdown,
        }
    }
}

/// A request as it was sent; nothing about it is checked yet but its magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// See [`command_flags`].
    pub flags: u16,
    /// See [`command`].
    pub command: u16,
    /// Echoed in the reply; means nothing here.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes concerned, or bytes of payload.
    pub length: u64,
}

/// Decodes a request. `None` when there are too few bytes or the magic is wrong: the connection must end, since what
/// follows can't be told apart.
pub fn decode_request(style: HeaderStyle, bytes: &[u8]) -> Option<RequestHeader> {
    let mut fields = Fields::new(bytes);
    let extended = style == HeaderStyle::Extended;
    if fields.u32()? != if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC } {
        return None;
    }
    Some(RequestHeader {
        flags: fields.u16()?,
        command: fields.u16()?,
        cookie: fields.u64()?,
        offset: fields.u64()?,
        length: if extended { fields.u64()? } else { u64::from(fields.u32()?) },
    })
}

/// Appends a request as a client sends it. Without extended headers the length must fit 32 bits.
pub fn encode_request(out: &mut Vec<u8>, style: HeaderStyle, request: &RequestHeader) {
    let extended = style == HeaderStyle::Extended;
    let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
    out.extend_from_slice(&magic.to_be_bytes());
    out.extend_from_slice(&request.flags.to_be_bytes());
    out.extend_from_slice(&request.command.to_be_bytes());
    out.extend_from_slice(&request.cookie.to_be_bytes());
    out.extend_from_slice(&request.offset.to_be_bytes());
    if extended {
        out.extend_from_slice(&request.length.to_be_bytes());
    } else {
        let length = u32::try_from(request.length).expect("a plain header has 32 bits for the length");
        out.extend_from_slice(&length.to_be_bytes());
    }
}

/// Appends a simple reply's head.
pub fn encode_simple_reply(out: &mut Vec<u8>, error: Option<WireError>, cookie: u64) {
    out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&error.map_or(0, |error| error as u32).to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
}

/// A chunk's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Nothing follows for this request.
    pub done: bool,
    /// See [`chunk`].
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// The request's; sent only with extended headers.
    pub offset: u64,
    /// Bytes of payload that follow; at most 32 bits without extended headers.
    pub length: u64,
}

/// Appends a chunk's head, structured or extended.
pub fn encode_chunk(out: &mut Vec<u8>, extended: bool, header: &ChunkHeader) {
    let magic = if extended { EXTENDED_CHUNK_MAGIC } else { CHUNK_MAGIC };
    out.extend_from_slice(&magic.to_be_bytes());
    out.extend_from_slice(&(if header.done { chunk::FLAG_DONE } else { 0 }).to_be_bytes());
    out.extend_from_slice(&header.kind.to_be_bytes());
    out.extend_from_slice(&header.cookie.to_be_bytes());
    if extended {
        out.extend_from_slice(&header.offset.to_be_bytes());
        out.extend_from_slice(&header.length.to_be_bytes());
    } else {
        let length = u32::try_from(header.length).expect("no chunk is larger than the largest payload");
        out.extend_from_slice(&length.to_be_bytes());
    }
}

/// What a `BLOCK_STATUS` payload asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusPayload {
    /// Bytes concerned.
    pub length: u64,
    /// Contexts wanted, as sent.
    pub contexts: Vec<u32>,
}

/// Bytes of a `BLOCK_STATUS` payload that names `contexts` contexts.
pub const fn status_payload_bytes(contexts: usize) -> usize {
    8 + 4 * contexts
}

/// Decodes a `BLOCK_STATUS` payload; the caller has bounded its size. `None` when it is no such thing.
pub fn decode_status_payload(bytes: &[u8]) -> Option<StatusPayload> {
    let mut fields = Fields::new(bytes);
    let length = fields.u64()?;
    let mut contexts = Vec::new();
    while !fields.is_empty() {
        contexts.push(fields.u32()?);
    }
    Some(StatusPayload { length, contexts })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const REQUEST: RequestHeader = RequestHeader {
        flags: command_flags::FUA,
        command: command::WRITE,
        cookie: 0x0102_0304_0506_0708,
        offset: 0x1000,
        length: 0x200,
    };

    #[test]
    fn requests_have_their_bytes_and_survive_both_ways() {
        let golden = [
            (
                HeaderStyle::Simple,
                "25609513".to_owned() + "00010001" + "0102030405060708" + "0000000000001000" + "00000200",
            ),
            (
                HeaderStyle::Extended,
                "21e41c71".to_owned() + "00010001" + "0102030405060708" + "0000000000001000" + "0000000000000200",
            ),
        ];
        for (style, bytes) in golden {
            let mut out = Vec::new();
            encode_request(&mut out, style, &REQUEST);
            assert_eq!(hex(&out), bytes);
            assert_eq!(out.len(), style.request_bytes());
            assert_eq!(decode_request(style, &out), Some(REQUEST));
            for cut in 0..out.len() {
                assert_eq!(decode_request(style, &out[..cut]), None);
            }
            out[0] ^= 0x80;
            assert_eq!(decode_request(style, &out), None);
        }
    }

    #[test]
    fn the_two_request_headers_are_not_taken_for_each_other() {
        let mut out = Vec::new();
        encode_request(&mut out, HeaderStyle::Extended, &REQUEST);
        assert_eq!(decode_request(HeaderStyle::Structured, &out), None);
    }

    #[test]
    fn replies_have_their_bytes() {
        let mut out = Vec::new();
        encode_simple_reply(&mut out, Some(WireError::NoSpace), 7);
        assert_eq!(hex(&out), "67446698".to_owned() + "0000001c" + "0000000000000007");
        let header = ChunkHeader { done: true, kind: chunk::ERROR_OFFSET, cookie: 7, offset: 9, length: 14 };
        out.clear();
        encode_chunk(&mut out, false, &header);
        assert_eq!(hex(&out), "668e33ef".to_owned() + "00018002" + "0000000000000007" + "0000000e");
        assert_eq!(out.len(), CHUNK_BYTES);
        out.clear();
        encode_chunk(&mut out, true, &header);
        assert_eq!(
            hex(&out),
            "6e8a278c".to_owned() + "00018002" + "0000000000000007" + "0000000000000009" + "000000000000000e"
        );
        assert_eq!(out.len(), EXTENDED_CHUNK_BYTES);
    }

    #[test]
    fn errors_have_the_numbers_of_the_protocol() {
        let numbers = [
            (WireError::NotPermitted, 1),
            (WireError::from(RequestError::Io), 5),
            (WireError::Invalid, 22),
            (WireError::from(RequestError::NoSpace), 28),
            (WireError::Overflow, 75),
            (WireError::NotSupported, 95),
            (WireError::from(RequestError::Shutdown), 108),
        ];
        for (error, number) in numbers {
            assert_eq!(error as u32, number);
        }
    }

    #[test]
    fn status_payloads_are_read_and_ragged_ones_refused() {
        let bytes = [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(decode_status_payload(&bytes), Some(StatusPayload { length: 512, contexts: vec![1, 2] }));
        assert_eq!(decode_status_payload(&bytes[..8]), Some(StatusPayload { length: 512, contexts: vec![] }));
        assert_eq!(decode_status_payload(&bytes[..15]), None);
        assert_eq!(decode_status_payload(&bytes[..7]), None);
        assert_eq!(status_payload_bytes(2), bytes.len());
    }
}
