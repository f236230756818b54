//! Byte ranges and the 4 KiB blocks they touch.

use serde::{Deserialize, Serialize};

/// log2 of the tracking block in bytes.
pub const BLOCK_SHIFT: u32 = 12;
/// The tracking block: what the dirty map counts, and the unit of every disk operation. Bytes.
pub const BLOCK: u64 = 1 << BLOCK_SHIFT;

/// A range of bytes of a volume: `offset .. offset + length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes; may be zero only in a client's no-op.
    pub length: u64,
}

impl ByteRange {
    /// The range of `length` bytes from `offset`.
    pub const fn new(offset: u64, length: u64) -> ByteRange {
        ByteRange { offset, length }
    }

    /// First byte after the range.
    pub const fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// Whether the two ranges share a byte.
    pub const fn overlaps(&self, other: &ByteRange) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }

    /// Whether `other` lies wholly inside this range.
    pub const fn contains(&self, other: &ByteRange) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }

    /// The smallest block-aligned range around this one.
    pub const fn aligned_out(&self) -> ByteRange {
        let start = self.offset & !(BLOCK - 1);
        let end = (self.end() + BLOCK - 1) & !(BLOCK - 1);
        ByteRange { offset: start, length: end - start }
    }

    /// Whether both ends lie on block boundaries.
    pub const fn is_aligned(&self) -> bool {
        self.offset & (BLOCK - 1) == 0 && self.length & (BLOCK - 1) == 0
    }

    /// The blocks this range touches, as `first .. after_last` block numbers.
    pub const fn blocks(&self) -> std::ops::Range<u32> {
        let out = self.aligned_out();
        (out.offset >> BLOCK_SHIFT) as u32..(out.end() >> BLOCK_SHIFT) as u32
    }

    /// The byte range of the blocks `first .. after_last`.
    pub const fn of_blocks(blocks: std::ops::Range<u32>) -> ByteRange {
        ByteRange {
            offset: (blocks.start as u64) << BLOCK_SHIFT,
            length: ((blocks.end - blocks.start) as u64) << BLOCK_SHIFT,
        }
    }

    /// The part both ranges share, if any.
    pub fn intersection(&self, other: &ByteRange) -> Option<ByteRange> {
        let start = self.offset.max(other.offset);
        let end = self.end().min(other.end());
        (start < end).then(|| ByteRange::new(start, end - start))
    }
}

impl std::fmt::Display for ByteRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.offset, self.length)
    }
}
