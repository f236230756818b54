//! Small accesses outside the shard's ring: whole reads and writes, holes, zeroing.

use crate::base::ids::Uuid;
use crate::base::limits::{HOLES_MAX, PIECE_BYTES_MAX};
use crate::base::range::{BLOCK, ByteRange};
use crate::io::aligned::AlignedBytes;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// Identity of a volume, from the names of its cluster and itself: equal on both nodes without asking.
pub fn volume_uuid(cluster: &str, volume: &str) -> Uuid {
    let mut hash = Sha256::new();
    for part in ["twinblock volume", cluster, volume] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    Uuid(first_half(&hash.finalize()))
}

/// The first 16 bytes of a SHA-256 as a number.
pub(super) fn first_half(hash: &[u8]) -> u128 {
    u128::from_le_bytes(hash[..16].try_into().expect("a hash of 32 bytes"))
}

/// Reads `length` bytes at `offset`, past or through the page cache.
pub(super) fn read_at(file: &File, offset: u64, length: usize) -> io::Result<AlignedBytes> {
    let mut buffer = AlignedBytes::zeroed(length);
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer)
}

/// Writes whole units at `offset`.
pub(super) fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(&AlignedBytes::copy_of(bytes), offset)
}

/// Block-aligned parts of `range` that read as zeroes without a read, in order; at most [`HOLES_MAX`], so a range may have
/// more. Only regular files know; a block device has none (kernel-notes/0006).
pub fn holes(file: impl AsFd, range: ByteRange) -> io::Result<Vec<ByteRange>> {
    let mut holes = Vec::new();
    let mut take = |hole_start: u64, hole_end: u64| {
        let start = hole_start.next_multiple_of(BLOCK);
        let end = hole_end / BLOCK * BLOCK;
        if start < end {
            holes.push(ByteRange::new(start, end - start));
        }
        holes.len() < HOLES_MAX
    };
    let mut position = range.offset;
    while position < range.end() {
        let hole = match seek(&file, position, Whence::SeekHole) {
            Ok(hole) => hole.unwrap_or(range.end()).min(range.end()),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => break,
            Err(errno) => return Err(errno.into()),
        };
        if hole >= range.end() {
            break;
        }
        // No data after it: the hole reaches the end of the file.
        let data = seek(&file, hole, Whence::SeekData)?.unwrap_or(range.end()).min(range.end());
        if !take(hole, data) {
            break;
        }
        position = data;
    }
    Ok(holes)
}

/// The parts of `range` that may hold data, in order: all of it where nobody knows.
pub(super) fn extents(file: &File, range: ByteRange) -> io::Result<Vec<ByteRange>> {
    let mut extents = Vec::new();
    let mut position = range.offset;
    while position < range.end() {
        let data = match seek(file, position, Whence::SeekData) {
            Ok(data) => data.filter(|data| *data < range.end()),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(vec![range]),
            Err(errno) => return Err(errno.into()),
        };
        let Some(data) = data else { break };
        let hole = seek(file, data, Whence::SeekHole)?.unwrap_or(range.end()).min(range.end());
        extents.push(ByteRange::new(data, hole - data));
        position = hole;
    }
    Ok(extents)
}

/// The next data or hole; `None` when there is none up to the end of the file.
fn seek(file: impl AsFd, offset: u64, whence: Whence) -> Result<Option<u64>, Errno> {
    match lseek(file, offset as i64, whence) {
        Ok(found) => Ok(Some(found as u64)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Makes a range read as zeroes: space given back where possible, zeroed by the device where it can, written otherwise.
pub(super) fn zero(file: &File, range: ByteRange) -> io::Result<()> {
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let zero = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for how in [punch, zero] {
        match fallocate(file, how, range.offset as i64, range.length as i64) {
            Ok(()) => return Ok(()),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut offset = range.offset;
    while offset < range.end() {
        let length = PIECE_BYTES_MAX.min(range.end() - offset);
        file.write_all_at(&AlignedBytes::zeroed(length as usize), offset)?;
        offset += length;
    }
    Ok(())
}

/// Keeps the space of a range, so that a later write there can't fail for want of it. A file system that can't is fine.
pub(super) fn reserve(file: &File, range: ByteRange) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), range.offset as i64, range.length as i64) {
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
