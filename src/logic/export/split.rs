//! Cuts a request into pieces the core takes.
//!
//! ```text
//!  WRITE_ZEROES   ....[aaa|====================|bb]....
//!                      │    zero pieces, whole   │
//!                      └ write pieces of zeroes ─┘   (a TRIM leaves the ragged ends alone)
//! ```

use super::validate::Work;
use crate::base::ids::BufferId;
use crate::base::limits::{PIECE_BYTES_MAX, ZERO_BYTES_MAX};
use crate::base::range::{BLOCK, ByteRange};
use crate::base::request::Action;

/// One piece of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Read into a buffer; never crosses a piece boundary of the volume.
    Read(ByteRange),
    /// Write from a buffer that the client fills; never crosses a piece boundary of the volume.
    Write {
        /// Any alignment.
        range: ByteRange,
        /// Durable before it is done.
        fua: bool,
    },
    /// Write from a buffer of zeroes; inside one block.
    WriteOfZeroes {
        /// Less than a block.
        range: ByteRange,
        /// Durable before it is done.
        fua: bool,
    },
    /// Make the range read as zeroes.
    Zero {
        /// Block-aligned, at most [`ZERO_BYTES_MAX`].
        range: ByteRange,
        /// Give the space back.
        unmap: bool,
        /// Durable before it is done.
        fua: bool,
    },
    /// Make every write that was answered durable.
    Flush,
}

impl Piece {
    /// The bytes of the buffer the piece needs; zero if it needs none.
    pub fn buffer_bytes(&self) -> usize {
        match self {
            Piece::Read(range) | Piece::Write { range, .. } | Piece::WriteOfZeroes { range, .. } => {
                range.aligned_out().length as usize
            }
            Piece::Zero { .. } | Piece::Flush => 0,
        }
    }

    /// What the core is asked for, with the buffer of a piece that needs one.
    pub fn action(self, buffer: Option<BufferId>) -> Action {
        let with_buffer = || buffer.expect("a piece with bytes has a buffer");
        match self {
            Piece::Read(range) => Action::Read { range, buffer: with_buffer() },
            Piece::Write { range, fua } | Piece::WriteOfZeroes { range, fua } => {
                Action::Write { range, buffer: with_buffer(), fua }
            }
            Piece::Zero { range, unmap, fua } => Action::Zero { range, unmap, fua },
            Piece::Flush => Action::Flush,
        }
    }
}

/// Whether the range contains at least one whole block.
pub fn has_whole_block(range: ByteRange) -> bool {
    inner(range).length > 0
}

/// The pieces of one request, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    work: Work,
    /// What is left of the range. A flush has one byte until it was handed out.
    left: ByteRange,
}

impl Pieces {
    /// The pieces of `work`. A block status has none: it is answered without the core.
    pub fn of(work: Work) -> Pieces {
        let left = match work {
            Work::Read { range, .. } | Work::Write { range, .. } | Work::WriteZeroes { range, .. } => range,
            Work::Trim { range, .. } => inner(range),
            Work::Flush => ByteRange::new(0, 1),
            Work::Status { .. } => ByteRange::new(0, 0),
        };
        Pieces { work, left }
    }

    /// The piece that comes next.
    pub fn peek(&self) -> Option<Piece> {
        if self.left.length == 0 {
            return None;
        }
        Some(match self.work {
            Work::Read { .. } => Piece::Read(self.up_to_boundary()),
            Work::Write { fua, .. } => Piece::Write { range: self.up_to_boundary(), fua },
            Work::WriteZeroes { unmap, fua, .. } => self.zeroes(unmap, fua),
            Work::Trim { fua, .. } => self.zeroes(true, fua),
            Work::Flush | Work::Status { .. } => Piece::Flush,
        })
    }

    /// Whether every piece was handed out.
    pub fn is_done(&self) -> bool {
        self.left.length == 0
    }

    /// Forgets the pieces not handed out yet.
    pub fn abandon(&mut self) {
        self.left.length = 0;
    }

    fn up_to_boundary(&self) -> ByteRange {
        let room = PIECE_BYTES_MAX - self.left.offset % PIECE_BYTES_MAX;
        ByteRange::new(self.left.offset, self.left.length.min(room))
    }

    fn zeroes(&self, unmap: bool, fua: bool) -> Piece {
        let ByteRange { offset, length } = self.left;
        let into_block = offset % BLOCK;
        let whole = length & !(BLOCK - 1);
        if into_block == 0 && whole > 0 {
            return Piece::Zero { range: ByteRange::new(offset, whole.min(ZERO_BYTES_MAX)), unmap, fua };
        }
        Piece::WriteOfZeroes { range: ByteRange::new(offset, length.min(BLOCK - into_block)), fua }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let piece = self.peek()?;
        let taken = match piece {
            Piece::Read(range)
            | Piece::Write { range, .. }
            | Piece::WriteOfZeroes { range, .. }
            | Piece::Zero { range, .. } => range.length,
            Piece::Flush => self.left.length,
        };
        self.left = ByteRange::new(self.left.offset + taken, self.left.length - taken);
        Some(piece)
    }
}

/// The whole blocks inside a range; empty when there is none.
fn inner(range: ByteRange) -> ByteRange {
    let start = range.offset.next_multiple_of(BLOCK);
    let end = range.end() & !(BLOCK - 1);
    ByteRange::new(start, end.saturating_sub(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range_of(piece: &Piece) -> ByteRange {
        match *piece {
            Piece::Read(range)
            | Piece::Write { range, .. }
            | Piece::WriteOfZeroes { range, .. }
            | Piece::Zero { range, .. } => range,
            Piece::Flush => panic!("a flush has no range"),
        }
    }

    fn assert_tiles(pieces: &[Piece], whole: ByteRange) {
        let mut at = whole.offset;
        for piece in pieces {
            assert_eq!(range_of(piece).offset, at, "pieces follow one another");
            assert!(range_of(piece).length > 0);
            at = range_of(piece).end();
        }
        assert_eq!(at, whole.end());
    }

    proptest! {
        #[test]
        fn reads_and_writes_are_tiled_at_piece_boundaries(offset in 0u64..1 << 40, length in 1u64..=32 << 20) {
            let range = ByteRange::new(offset, length);
            for work in [Work::Read { range, whole: false }, Work::Write { range, fua: true }] {
                let pieces: Vec<Piece> = Pieces::of(work).collect();
                assert_tiles(&pieces, range);
                for piece in &pieces {
                    let part = range_of(piece);
                    prop_assert_eq!(part.offset / PIECE_BYTES_MAX, (part.end() - 1) / PIECE_BYTES_MAX);
                    prop_assert!(piece.buffer_bytes() as u64 <= PIECE_BYTES_MAX);
                }
            }
        }

        #[test]
        fn zeroes_are_tiled_by_whole_blocks_and_ragged_ends(
            offset in 0u64..1 << 30,
            length in prop_oneof![1u64..20_000, 1u64..1 << 29],
        ) {
            let range = ByteRange::new(offset, length);
            let pieces: Vec<Piece> = Pieces::of(Work::WriteZeroes { range, unmap: false, fua: true }).collect();
            assert_tiles(&pieces, range);
            for piece in &pieces {
                match *piece {
                    Piece::Zero { range, unmap, fua } => {
                        prop_assert!(range.is_aligned() && range.length <= ZERO_BYTES_MAX && !unmap && fua);
                    }
                    Piece::WriteOfZeroes { range, fua } => {
                        prop_assert!(fua && range.length < BLOCK && range.blocks().len() == 1);
                    }
                    other => prop_assert!(false, "{other:?} in a zero request"),
                }
            }
            let ragged = pieces.iter().filter(|piece| matches!(piece, Piece::WriteOfZeroes { .. })).count();
            prop_assert!(ragged <= 2);
        }

        #[test]
        fn a_trim_never_leaves_its_range_and_never_writes(offset in 0u64..1 << 30, length in 1u64..1 << 20) {
            let range = ByteRange::new(offset, length);
            let pieces: Vec<Piece> = Pieces::of(Work::Trim { range, fua: false }).collect();
            for piece in &pieces {
                let Piece::Zero { range: part, unmap, .. } = *piece else { panic!("{piece:?} in a trim") };
                prop_assert!(unmap && range.contains(&part) && part.is_aligned());
            }
            prop_assert_eq!(pieces.is_empty(), !has_whole_block(range));
        }
    }

    #[test]
    fn a_flush_is_one_piece_and_a_status_none() {
        assert_eq!(Pieces::of(Work::Flush).collect::<Vec<_>>(), [Piece::Flush]);
        let status = Work::Status { range: ByteRange::new(0, 4096), one: false, contexts: Default::default() };
        assert!(Pieces::of(status).is_done());
    }
}
