//! The forms of an answer, by the headers agreed on.
//!
//! | | simple | structured | extended |
//! |---|---|---|---|
//! | read | one simple reply | chunks | chunks |
//! | error | simple | chunk with message, where it happened | same |
//! | block status | never | one chunk a context | same, 64-bit |
//! | anything else that went well | simple | simple | chunk without content |

use super::answers::Answers;
use super::contexts::Context;
use super::offer::Payload;
use super::status::Descriptor;
use super::validate::Refused;
use crate::base::range::ByteRange;
use crate::wire::nbd::transmission::{self as wire, ChunkHeader, HeaderStyle, chunk};

/// What every answer repeats of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo {
    pub cookie: u64,
    pub offset: u64,
}

/// Writes answers in the style agreed on.
pub(super) struct Replier<'a> {
    pub style: HeaderStyle,
    pub answers: &'a mut Answers,
}

impl Replier<'_> {
    /// The request is done and there is nothing to say. Also an empty read.
    pub(super) fn success(&mut self, echo: Echo, read: bool) {
        if self.style == HeaderStyle::Extended || (read && self.style == HeaderStyle::Structured) {
            self.chunk(echo, true, chunk::NONE, &[], 0);
        } else {
            wire::encode_simple_reply(self.answers.bytes(), None, echo.cookie);
        }
    }

    /// The request failed, at the given offset if that is known.
    pub(super) fn error(&mut self, echo: Echo, refused: Refused, at: Option<u64>) {
        if self.style == HeaderStyle::Simple {
            wire::encode_simple_reply(self.answers.bytes(), Some(refused.error), echo.cookie);
            return;
        }
        let mut payload = Vec::with_capacity(14 + refused.message.len());
        payload.extend_from_slice(&(refused.error as u32).to_be_bytes());
        payload.extend_from_slice(&(refused.message.len() as u16).to_be_bytes());
        payload.extend_from_slice(refused.message.as_bytes());
        let kind = match at {
            Some(at) => {
                payload.extend_from_slice(&at.to_be_bytes());
                chunk::ERROR_OFFSET
            }
            None => chunk::ERROR,
        };
        self.chunk(echo, true, kind, &payload, 0);
    }

    /// The head of a simple reply to a read whose data follows.
    pub(super) fn simple_data_follows(&mut self, echo: Echo) {
        wire::encode_simple_reply(self.answers.bytes(), None, echo.cookie);
    }

    /// The head of one content chunk; `length` bytes of data follow.
    pub(super) fn data_follows(&mut self, echo: Echo, done: bool, at: u64, length: u64) {
        self.chunk(echo, done, chunk::OFFSET_DATA, &at.to_be_bytes(), length);
    }

    /// Data announced before.
    pub(super) fn data(&mut self, payload: Payload) {
        self.answers.push_payload(payload);
    }

    /// A part of a read that is all zeroes; at most a piece.
    pub(super) fn hole(&mut self, echo: Echo, done: bool, range: ByteRange) {
        let mut payload = [0; 12];
        payload[..8].copy_from_slice(&range.offset.to_be_bytes());
        payload[8..].copy_from_slice(&(range.length as u32).to_be_bytes());
        self.chunk(echo, done, chunk::OFFSET_HOLE, &payload, 0);
    }

    /// What one context says.
    pub(super) fn status(&mut self, echo: Echo, done: bool, context: Context, descriptors: &[Descriptor]) {
        let extended = self.style == HeaderStyle::Extended;
        let mut payload = context.id().to_be_bytes().to_vec();
        if extended {
            payload.extend_from_slice(&(descriptors.len() as u32).to_be_bytes());
        }
        for Descriptor { length, flags } in descriptors {
            if extended {
                payload.extend_from_slice(&length.to_be_bytes());
                payload.extend_from_slice(&flags.to_be_bytes());
            } else {
                let length = u32::try_from(*length).expect("a plain request has 32 bits for its length");
                payload.extend_from_slice(&length.to_be_bytes());
                payload.extend_from_slice(&(*flags as u32).to_be_bytes());
            }
        }
        let kind = if extended { chunk::BLOCK_STATUS_EXTENDED } else { chunk::BLOCK_STATUS };
        self.chunk(echo, done, kind, &payload, 0);
    }

    /// A chunk with its own payload, and `follows` bytes of data after it.
    fn chunk(&mut self, echo: Echo, done: bool, kind: u16, own: &[u8], follows: u64) {
        let length = own.len() as u64 + follows;
        let header = ChunkHeader { done, kind, cookie: echo.cookie, offset: echo.offset, length };
        let extended = self.style == HeaderStyle::Extended;
        let out = self.answers.bytes();
        wire::encode_chunk(out, extended, &header);
        out.extend_from_slice(own);
    }
}
