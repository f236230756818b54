//! The NBD protocol's bytes: what a client sends and what a server answers. Big-endian throughout.
//!
//! | module | phase |
//! |---|---|
//! | [`handshake`] | greeting, options and their replies, until an export is chosen |
//! | [`transmission`] | requests, simple replies, structured and extended chunks |
//!
//! Decoders take hostile bytes: they answer with an error, never panic and never allocate from a length they have not
//! bounded. Nothing is decided here; `logic::export` decides.

pub mod handshake;
pub mod transmission;

/// A reader over received bytes whose every step is checked.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    /// The next `count` bytes, or `None` when there are fewer.
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
