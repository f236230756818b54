//! One disk operation as a sequence of system calls: a state machine without I/O, the same for both engines.
//!
//! ```text
//! Read, Write   transfer ──short──▶ transfer of the rest ──▶ done
//! Write, fua    transfer with RWF_DSYNC ──not supported──▶ transfer, then sync
//! Zero          punch a hole ──not supported──▶ zero range ──not supported──▶ write zeroes; fua: then sync
//! ```

use super::{Action, DiskFile, Memory};
use crate::base::error::DiskError;
use crate::base::limits::{DISK_RETRIES_MAX, ZERO_FILL_BYTES};
use crate::base::range::BLOCK;
use crate::io::aligned::AlignedBytes;
use crate::io::pool::Pool;
use std::sync::{Arc, OnceLock};

/// One system call. Pointers stay valid until the call's result was handed to [`Operation::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `pread`.
    Read { pointer: *mut u8, length: u32, offset: u64 },
    /// `pwritev2`, durable with RWF_DSYNC.
    Write { pointer: *const u8, length: u32, offset: u64, durable: bool },
    /// `fdatasync`.
    Sync,
    /// `fallocate`.
    Allocate { mode: i32, offset: u64, length: u64 },
}

// SAFETY: the pointers are to memory that the operation keeps alive and that no thread but the one carrying out the
// step touches meanwhile.
unsafe impl Send for Step {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Read,
    Write { durable: bool },
    Punch,
    ZeroRange,
    ZeroWrite { durable: bool },
    Sync,
}

/// An operation under way.
#[derive(Debug)]
pub(super) struct Operation {
    /// The caller's name for it.
    pub token: u64,
    /// Kept open until the operation has ended.
    pub file: Arc<DiskFile>,
    /// Kept until the operation has ended.
    pub memory: Memory,
    phase: Phase,
    pointer: *mut u8,
    offset: u64,
    length: u64,
    /// Bytes of `length` that are done.
    moved: u64,
    fua: bool,
    retries: u32,
}

impl Operation {
    /// Begins an operation. A pool buffer is held until [`Operation::end`].
    pub fn begin(token: u64, file: &Arc<DiskFile>, action: Action, pool: &mut Pool) -> Operation {
        let file = file.clone();
        let (phase, offset, length, fua, mut memory) = match action {
            Action::Read { offset, length, into } => (Phase::Read, offset, length as u64, false, into),
            Action::Write { offset, length, from, fua } => {
                (Phase::Write { durable: fua && file.supports_dsync() }, offset, length as u64, fua, from)
            }
            Action::Zero { range, unmap, fua } => {
                (file.zero_phase(unmap, fua), range.offset, range.length, fua, Memory::None)
            }
            Action::Sync => (Phase::Sync, 0, 0, false, Memory::None),
        };
        let pointer = match &mut memory {
            Memory::None => std::ptr::null_mut(),
            Memory::Own(bytes) => {
                assert!(length <= bytes.len() as u64, "the transfer fits its memory");
                bytes.as_mut_ptr()
            }
            Memory::Buffer(buffer) => {
                assert!(length <= pool.bytes_of(*buffer) as u64, "the transfer fits its buffer");
                pool.hold(*buffer);
                pool.pointer(*buffer, phase == Phase::Read)
            }
        };
        Operation { token, file, memory, phase, pointer, offset, length, moved: 0, fua, retries: 0 }
    }

    /// Ends an operation: the kernel no longer uses its memory.
    pub fn end(self, pool: &mut Pool) -> Memory {
        if let Memory::Buffer(buffer) = self.memory {
            pool.unhold(buffer);
        }
        self.memory
    }

    /// The system call to make now.
    pub fn step(&self) -> Step {
        let offset = self.offset + self.moved;
        let left = self.length - self.moved;
        let transfer = left.min(1 << 30) as u32;
        match self.phase {
            Phase::Read => {
                Step::Read { pointer: self.pointer.wrapping_add(self.moved as usize), length: transfer, offset }
            }
            Phase::Write { durable } => Step::Write {
                pointer: self.pointer.wrapping_add(self.moved as usize),
                length: transfer,
                offset,
                durable,
            },
            Phase::Punch => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                Step::Allocate { mode, offset: self.offset, length: self.length }
            }
            Phase::ZeroRange => {
                let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
                Step::Allocate { mode, offset: self.offset, length: self.length }
            }
            Phase::ZeroWrite { durable } => {
                let length = left.min(ZERO_FILL_BYTES as u64) as u32;
                Step::Write { pointer: zeroes().as_ptr(), length, offset, durable }
            }
            Phase::Sync => Step::Sync,
        }
    }

    /// Takes the result of the last step: a count, or a negative errno. `None`: make the next step.
    pub fn advance(&mut self, result: i32) -> Option<Result<(), DiskError>> {
        if result < 0 {
            return self.advance_failed(-result);
        }
        self.retries = 0;
        match self.phase {
            Phase::Sync => Some(Ok(())),
            Phase::Punch | Phase::ZeroRange => self.transferred(false),
            Phase::Read => self.advance_moved(result as u64, false),
            Phase::Write { durable } | Phase::ZeroWrite { durable } => self.advance_moved(result as u64, durable),
        }
    }

    fn advance_moved(&mut self, moved: u64, durable: bool) -> Option<Result<(), DiskError>> {
        self.moved += moved;
        if self.moved == self.length {
            return self.transferred(durable);
        }
        // Nothing moved: the end of the disk. Part of a sector moved: direct I/O can't go on from there.
        let goes_on = moved > 0 && moved.is_multiple_of(SECTOR_BYTES) && self.moved < self.length;
        if goes_on { None } else { Some(Err(DiskError::Short)) }
    }

    fn transferred(&mut self, durable: bool) -> Option<Result<(), DiskError>> {
        if self.fua && !durable {
            self.phase = Phase::Sync;
            return None;
        }
        Some(Ok(()))
    }

    fn advance_failed(&mut self, errno: i32) -> Option<Result<(), DiskError>> {
        if errno == libc::EINTR || errno == libc::EAGAIN {
            self.retries += 1;
            return if self.retries > DISK_RETRIES_MAX { Some(Err(DiskError::Failed(errno))) } else { None };
        }
        let unsupported = errno == libc::EOPNOTSUPP || errno == libc::ENOSYS;
        let next = match self.phase {
            Phase::Write { durable: true } if unsupported => Phase::Write { durable: false },
            Phase::ZeroWrite { durable: true } if unsupported => Phase::ZeroWrite { durable: false },
            Phase::Punch if unsupported => Phase::ZeroRange,
            Phase::ZeroRange if unsupported => Phase::ZeroWrite { durable: self.fua && self.file.supports_dsync() },
            _ => return Some(Err(disk_error(errno))),
        };
        self.file.lacks(self.phase);
        self.phase = next;
        None
    }
}

/// The smallest unit direct I/O moves.
const SECTOR_BYTES: u64 = 512;

impl DiskFile {
    fn zero_phase(&self, unmap: bool, fua: bool) -> Phase {
        if unmap && self.supports_punch() {
            Phase::Punch
        } else if self.supports_zero_range() {
            Phase::ZeroRange
        } else {
            Phase::ZeroWrite { durable: fua && self.supports_dsync() }
        }
    }

    fn lacks(&self, phase: Phase) {
        match phase {
            Phase::Write { .. } | Phase::ZeroWrite { .. } => self.set_no_dsync(),
            Phase::Punch => self.set_no_punch(),
            Phase::ZeroRange => self.set_no_zero_range(),
            Phase::Read | Phase::Sync => unreachable!("every file can be read and synced"),
        }
    }
}

/// What anyone decides on, of an errno.
pub fn disk_error(errno: i32) -> DiskError {
    match errno {
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => DiskError::NoSpace,
        other => DiskError::Failed(other),
    }
}

/// Zeroes to be written where a disk can't be told to zero a range.
fn zeroes() -> &'static [u8] {
    static ZEROES: OnceLock<AlignedBytes> = OnceLock::new();
    const { assert!((ZERO_FILL_BYTES as u64).is_multiple_of(BLOCK)) };
    ZEROES.get_or_init(|| AlignedBytes::zeroed(ZERO_FILL_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::range::ByteRange;

    fn file() -> Arc<DiskFile> {
        Arc::new(DiskFile::new(tempfile::tempfile().unwrap().into()))
    }

    fn begin(file: &Arc<DiskFile>, action: Action) -> Operation {
        Operation::begin(1, file, action, &mut Pool::with_arena(4 << 20).unwrap())
    }

    fn write(file: &Arc<DiskFile>, length: usize, fua: bool) -> Operation {
        let from = Memory::Own(AlignedBytes::zeroed(length));
        begin(file, Action::Write { offset: 4096, length, from, fua })
    }

    fn offset_and_length(step: Step) -> (u64, u64) {
        match step {
            Step::Read { offset, length, .. } | Step::Write { offset, length, .. } => (offset, u64::from(length)),
            Step::Allocate { offset, length, .. } => (offset, length),
            Step::Sync => (0, 0),
        }
    }

    #[test]
    fn a_short_transfer_goes_on_where_it_stopped() {
        let mut operation = write(&file(), 16384, false);
        assert_eq!(offset_and_length(operation.step()), (4096, 16384));
        let Step::Write { pointer: start, .. } = operation.step() else { panic!("a write") };
        assert_eq!(operation.advance(4096), None);
        assert_eq!(offset_and_length(operation.step()), (8192, 12288));
        let Step::Write { pointer, .. } = operation.step() else { panic!("a write") };
        assert_eq!(pointer, start.wrapping_add(4096));
        assert_eq!(operation.advance(12288), Some(Ok(())));
    }

    #[test]
    fn the_end_of_the_disk_and_a_broken_sector_are_short() {
        assert_eq!(write(&file(), 8192, false).advance(0), Some(Err(DiskError::Short)));
        assert_eq!(write(&file(), 8192, false).advance(100), Some(Err(DiskError::Short)));
    }

    #[test]
    fn interruptions_are_retried_but_not_for_ever() {
        let mut operation = write(&file(), 4096, false);
        let mut tries = 0;
        while operation.advance(-libc::EAGAIN).is_none() {
            tries += 1;
            assert!(tries <= DISK_RETRIES_MAX);
        }
        assert_eq!(tries, DISK_RETRIES_MAX);
    }

    #[test]
    fn durable_writes_fall_back_to_a_sync_and_remember_it() {
        let file = file();
        let mut operation = write(&file, 4096, true);
        assert!(matches!(operation.step(), Step::Write { durable: true, .. }));
        assert_eq!(operation.advance(-libc::EOPNOTSUPP), None);
        for mut operation in [operation, write(&file, 4096, true)] {
            assert!(matches!(operation.step(), Step::Write { durable: false, .. }));
            assert_eq!(operation.advance(4096), None);
            assert_eq!(operation.step(), Step::Sync);
            assert_eq!(operation.advance(0), Some(Ok(())));
        }
        let mut supported = write(&self::file(), 4096, true);
        assert_eq!(supported.advance(4096), Some(Ok(())), "no sync after a durable write");
    }

    #[test]
    fn zeroing_falls_back_twice_and_still_covers_the_range() {
        let file = file();
        let length = 2 * ZERO_FILL_BYTES as u64 + 4096;
        let action = || Action::Zero { range: ByteRange::new(8192, length), unmap: true, fua: true };
        let mut operation = begin(&file, action());
        assert!(matches!(operation.step(), Step::Allocate { mode, .. } if mode & libc::FALLOC_FL_PUNCH_HOLE != 0));
        assert_eq!(operation.advance(-libc::EOPNOTSUPP), None);
        assert!(matches!(operation.step(), Step::Allocate { mode, .. } if mode & libc::FALLOC_FL_ZERO_RANGE != 0));
        assert_eq!(operation.advance(-libc::EOPNOTSUPP), None);
        for mut operation in [operation, begin(&file, action())] {
            let mut covered = 8192;
            while covered < 8192 + length {
                let (offset, bytes) = offset_and_length(operation.step());
                assert_eq!(offset, covered);
                assert!(matches!(operation.step(), Step::Write { durable: true, .. }));
                covered += bytes;
                assert_eq!(operation.advance(bytes as i32).is_some(), covered == 8192 + length);
            }
        }
    }

    #[test]
    fn keeping_space_provisioned_never_punches() {
        let operation = begin(&file(), Action::Zero { range: ByteRange::new(0, 4096), unmap: false, fua: false });
        assert!(matches!(operation.step(), Step::Allocate { mode, .. } if mode & libc::FALLOC_FL_PUNCH_HOLE == 0));
    }

    #[test]
    fn errnos_become_what_can_be_decided_on() {
        assert_eq!(disk_error(libc::ENOSPC), DiskError::NoSpace);
        assert_eq!(disk_error(libc::EFBIG), DiskError::NoSpace);
        assert_eq!(disk_error(libc::EIO), DiskError::Failed(libc::EIO));
    }
}
