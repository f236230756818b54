//! A copy that was given up, as it is shown: what its archive has, over what the volume holds on this node now.
//!
//! While the resync that takes its place runs, that is exactly the copy as it was: a block is either still on the disk, or
//! was archived before it was overwritten, or was the same on both servers. After that, blocks that were the same on both
//! show what has been written to the volume since.

use super::ArchiveError;
use super::reader::{Held, Reader};
use crate::base::range::ByteRange;
use crate::io::aligned::AlignedBytes;
use crate::io::disk::holes;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// An archive over the volume.
#[derive(Debug)]
pub struct View {
    reader: Reader,
    volume: File,
}

impl View {
    /// Lays an archive over the disk that holds the volume on this node. Reads both, writes neither.
    pub fn open(archive: &Path, volume: &Path) -> Result<View, ArchiveError> {
        let reader = Reader::open(archive)?;
        let failed = |error: io::Error| {
            ArchiveError::new(
                format!("the volume's disk {} can't be read: {error}.", volume.display()),
                "Run this as the user the daemon runs as, on the server the archive is on.",
            )
        };
        let plain = || OpenOptions::new().read(true).open(volume);
        // Past the page cache, as the daemon writes; where that can't be, through it.
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(volume);
        let volume = direct.or_else(|_| plain()).map_err(failed)?;
        Ok(View { reader, volume })
    }

    /// The archive.
    pub fn archive(&self) -> &Reader {
        &self.reader
    }

    /// Size of the volume, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.reader.header.size_bytes
    }

    /// Reads block-aligned bytes into memory that is aligned, too.
    pub fn read(&mut self, range: ByteRange, bytes: &mut [u8]) -> io::Result<()> {
        // In this order: what was overwritten before the disk was read, is in the archive by now.
        self.volume.read_exact_at(bytes, range.offset)?;
        self.reader.refresh()?;
        self.reader.overlay(range, bytes)
    }

    /// Parts of a range that come from the archive.
    pub fn archived(&self, range: ByteRange, most: usize) -> Vec<ByteRange> {
        self.reader.extents(range, most).into_iter().map(|extent| extent.range).collect()
    }

    /// Parts of a range that read as zeroes; not all of them.
    pub fn holes(&self, range: ByteRange, most: usize) -> Vec<ByteRange> {
        let mut found = holes(&self.volume, range).unwrap_or_default();
        found.retain(|hole| self.reader.extents(*hole, 1).is_empty());
        found.truncate(most);
        found
    }

    /// Writes the view to a new sparse file: all of it, or only what the archive has, with holes around it. `progress` hears
    /// of bytes done and in all. Blocks that can't be read end it, unless they are to be left out; then their number is
    /// returned.
    pub fn export(
        &mut self,
        file: &File,
        whole: bool,
        skip_damaged: bool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> io::Result<u64> {
        let volume = ByteRange::new(0, self.size_bytes());
        file.set_len(volume.length)?;
        let parts = if whole { vec![volume] } else { self.archived(volume, usize::MAX) };
        let total = parts.iter().map(|part| part.length).sum();
        let (mut done, mut left_out) = (0, 0);
        for part in parts {
            let mut offset = part.offset;
            while offset < part.end() {
                let piece = ByteRange::new(offset, crate::base::limits::PIECE_BYTES_MAX.min(part.end() - offset));
                left_out += self.export_piece(file, piece, skip_damaged)?;
                offset = piece.end();
                done += piece.length;
                progress(done, total);
            }
        }
        file.sync_all()?;
        Ok(left_out)
    }

    fn export_piece(&mut self, file: &File, piece: ByteRange, skip_damaged: bool) -> io::Result<u64> {
        let mut bytes = AlignedBytes::zeroed(piece.length as usize);
        match self.read(piece, &mut bytes) {
            Ok(()) if bytes.iter().all(|byte| *byte == 0) => return Ok(0),
            Ok(()) => file.write_all_at(&bytes, piece.offset)?,
            Err(error) if !skip_damaged => return Err(error),
            Err(_) => {
                let mut left_out = 0;
                for block in piece.blocks() {
                    let place = ByteRange::of_blocks(block..block + 1);
                    let mut bytes = AlignedBytes::zeroed(place.length as usize);
                    match self.read(place, &mut bytes) {
                        Ok(()) => file.write_all_at(&bytes, place.offset)?,
                        Err(_) => left_out += 1,
                    }
                }
                return Ok(left_out);
            }
        }
        Ok(0)
    }

    /// What the archive has, for machines: offset, length, and whether it is data, zeroes or unreadable.
    pub fn parts(&self) -> Vec<(u64, u64, &'static str)> {
        let volume = ByteRange::new(0, self.size_bytes());
        let word = |held| match held {
            Held::Data => "data",
            Held::Zeroes => "zeroes",
            Held::Unreadable => "unreadable",
        };
        let extents = self.reader.extents(volume, usize::MAX).into_iter();
        extents.map(|extent| (extent.range.offset, extent.range.length, word(extent.held))).collect()
    }
}
