//! Disk operations without waiting: io_uring, or a few threads where io_uring is forbidden.
//!
//! One ring belongs to one shard and serves its data disk and its metadata. Operations are gathered with
//! [`Ring::start`] and given to the kernel with one [`Ring::submit`] per turn; they run concurrently, in no order.
//! [`Ring::as_fd`] becomes readable when some have ended; [`Ring::reap`] hands those over. Every operation started
//! ends exactly once, and keeps its file open and its memory in place until then. What needs no waiting (a file in
//! memory) is done in [`Ring::submit`] itself.

mod operation;
mod threads;
pub(in crate::io) mod uring;

use crate::base::error::DiskError;
use crate::base::ids::BufferId;
use crate::base::limits::RING_IN_FLIGHT_MAX;
use crate::base::range::ByteRange;
use crate::io::aligned::AlignedBytes;
use crate::io::pool::Pool;
use nix::sys::statfs::TMPFS_MAGIC;
pub use operation::disk_error;
use operation::{Operation, Step};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An open disk or metadata file, and what was learnt of what it can't do.
#[derive(Debug)]
pub struct DiskFile {
    fd: OwnedFd,
    no_dsync: AtomicBool,
    no_punch: AtomicBool,
    no_zero_range: AtomicBool,
    in_memory: bool,
}

impl DiskFile {
    /// Takes over an open descriptor.
    pub fn new(fd: OwnedFd) -> DiskFile {
        let no = || AtomicBool::new(false);
        let in_memory = nix::sys::statfs::fstatfs(&fd).is_ok_and(|at| at.filesystem_type() == TMPFS_MAGIC);
        DiskFile { fd, no_dsync: no(), no_punch: no(), no_zero_range: no(), in_memory }
    }

    /// Whether this step is a copy between memory and memory: it has nothing to wait for, and the ring would hand it
    /// to a worker thread, whose waking costs several times the copy.
    fn is_done_at_once(&self, step: Step) -> bool {
        self.in_memory && !matches!(step, Step::Allocate { .. })
    }

    /// Whether ranges can be zeroed without writing zeroes, both with and without giving the space back. Believed until
    /// the file has refused.
    pub fn zeroes_fast(&self) -> bool {
        self.supports_zero_range()
    }

    fn supports_dsync(&self) -> bool {
        !self.no_dsync.load(Ordering::Relaxed)
    }

    fn set_no_dsync(&self) {
        self.no_dsync.store(true, Ordering::Relaxed);
    }

    fn supports_punch(&self) -> bool {
        !self.no_punch.load(Ordering::Relaxed)
    }

    fn set_no_punch(&self) {
        self.no_punch.store(true, Ordering::Relaxed);
    }

    fn supports_zero_range(&self) -> bool {
        !self.no_zero_range.load(Ordering::Relaxed)
    }

    fn set_no_zero_range(&self) {
        self.no_zero_range.store(true, Ordering::Relaxed);
    }
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Memory an operation works on.
#[derive(Debug)]
pub enum Memory {
    /// None: zeroing and syncing need none.
    None,
    /// A buffer of the shard's pool, from its first byte.
    Buffer(BufferId),
    /// Its own.
    Own(AlignedBytes),
}

/// What to do. Offsets and lengths in bytes, multiples of the disk's sector where it was opened for direct I/O.
#[derive(Debug)]
pub enum Action {
    /// Read; reaching the end of the file first is [`DiskError::Short`].
    Read {
        /// Where in the file.
        offset: u64,
        /// How much.
        length: usize,
        /// At least as large as `length`.
        into: Memory,
    },
    /// Write.
    Write {
        /// Where in the file.
        offset: u64,
        /// How much.
        length: usize,
        /// At least as large as `length`.
        from: Memory,
        /// Durable before it ends.
        fua: bool,
    },
    /// Make a range read as zeroes, by the best means the disk has.
    Zero {
        /// Where in the file.
        range: ByteRange,
        /// Give the space back if possible; otherwise keep it provisioned.
        unmap: bool,
        /// Durable before it ends.
        fua: bool,
    },
    /// Make durable every operation that ended before this one was started.
    Sync,
}

/// An operation that ended.
#[derive(Debug)]
pub struct Completion {
    /// The name given to [`Ring::start`].
    pub token: u64,
    /// How it ended.
    pub result: Result<(), DiskError>,
    /// The memory it worked on.
    pub memory: Memory,
}

/// How disk operations are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Choice {
    /// io_uring, or threads where the kernel or its policy forbids it.
    #[default]
    Automatic,
    /// Threads, even where io_uring is allowed.
    Threads,
}

/// The disk operations of one shard.
#[derive(Debug)]
pub struct Ring {
    engine: Engine,
    slots: Vec<Option<Operation>>,
    free: Vec<u32>,
    /// Slots whose next step waits for room in the engine.
    backlog: VecDeque<u32>,
    /// Steps given to the engine and not finished.
    under_way: usize,
    finished: Vec<(u32, i32)>,
    fallback_reason: Option<String>,
}

#[derive(Debug)]
enum Engine {
    Uring(Box<uring::Uring>),
    Threads(threads::Threads),
}

impl Ring {
    /// A ring. Fails only when neither io_uring nor threads can be had. Used by the thread that makes it.
    pub fn new(choice: Choice) -> io::Result<Ring> {
        let (engine, fallback_reason) = match choice {
            Choice::Threads => (Engine::Threads(threads::Threads::new()?), Some("asked for".to_owned())),
            Choice::Automatic => match uring::Uring::new() {
                Ok(uring) => (Engine::Uring(Box::new(uring)), None),
                Err(error) => (Engine::Threads(threads::Threads::new()?), Some(error.to_string())),
            },
        };
        Ok(Ring {
            engine,
            slots: Vec::new(),
            free: Vec::new(),
            backlog: VecDeque::new(),
            under_way: 0,
            finished: Vec::new(),
            fallback_reason,
        })
    }

    /// Why threads are used rather than io_uring, if they are.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback_reason.as_deref()
    }

    /// Takes an operation; it begins with the next [`Ring::submit`]. A pool buffer is held until it ends.
    pub fn start(&mut self, token: u64, file: &Arc<DiskFile>, action: Action, pool: &mut Pool) {
        let operation = Operation::begin(token, file, action, pool);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        assert!(self.slots[slot as usize].is_none(), "a slot holds one operation");
        self.slots[slot as usize] = Some(operation);
        self.backlog.push_back(slot);
    }

    /// Gives what was gathered to the kernel, as far as it has room; the rest follows when some have ended.
    pub fn submit(&mut self) -> io::Result<()> {
        while self.under_way < RING_IN_FLIGHT_MAX {
            let Some(slot) = self.backlog.pop_front() else { break };
            let operation = self.slots[slot as usize].as_ref().expect("a waiting slot holds an operation");
            let (fd, step) = (operation.file.fd.as_raw_fd(), operation.step());
            if operation.file.is_done_at_once(step) {
                self.finished.push((slot, carry_out(fd, step)));
                self.under_way += 1;
                continue;
            }
            match &mut self.engine {
                Engine::Uring(uring) => {
                    if !uring.push(slot, fd, step)? {
                        self.backlog.push_front(slot);
                        break;
                    }
                }
                Engine::Threads(threads) => threads.push(slot, fd, step),
            }
            self.under_way += 1;
        }
        match &mut self.engine {
            Engine::Uring(uring) => uring.submit(),
            Engine::Threads(threads) => {
                threads.submit();
                Ok(())
            }
        }
    }

    /// Appends the operations that have ended. Cheap when none has: no system call with io_uring. Rests of short
    /// transfers go out with the next [`Ring::submit`].
    pub fn reap(&mut self, pool: &mut Pool, out: &mut Vec<Completion>) {
        let mut finished = std::mem::take(&mut self.finished);
        match &mut self.engine {
            Engine::Uring(uring) => uring.finished(&mut finished),
            Engine::Threads(threads) => threads.finished(&mut finished),
        }
        for (slot, result) in finished.drain(..) {
            self.under_way -= 1;
            let place = &mut self.slots[slot as usize];
            let operation = place.as_mut().expect("a step that ended has an operation");
            match operation.advance(result) {
                None => self.backlog.push_back(slot),
                Some(result) => {
                    let operation = place.take().expect("the operation is there");
                    self.free.push(slot);
                    let token = operation.token;
                    out.push(Completion { token, result, memory: operation.end(pool) });
                }
            }
        }
        self.finished = finished;
    }

    /// Whether [`Ring::submit`] has something to do that needs no other operation to end first.
    pub fn wants_submit(&self) -> bool {
        let unsent = matches!(&self.engine, Engine::Uring(uring) if uring.unsent() > 0);
        unsent || (!self.backlog.is_empty() && self.under_way < RING_IN_FLIGHT_MAX)
    }

    /// Whether operations have ended that [`Ring::reap`] would hand over. No system call.
    pub fn has_finished(&self) -> bool {
        let in_engine = match &self.engine {
            Engine::Uring(uring) => uring.has_finished(),
            Engine::Threads(threads) => threads.has_finished(),
        };
        in_engine || !self.finished.is_empty()
    }

    /// Operations started and not handed over as ended.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.engine {
            Engine::Uring(uring) => uring.as_fd(),
            Engine::Threads(threads) => threads.as_fd(),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may still work on their memory: it is leaked rather than reused.
        self.slots.drain(..).flatten().for_each(std::mem::forget);
    }
}

/// What an engine is given: a slot, the file, the step.
type Job = (u32, RawFd, Step);

/// Makes the system call; the count, or the negative errno.
fn carry_out(fd: RawFd, step: Step) -> i32 {
    // SAFETY: the descriptor is open and the memory valid and unused by others until the step is finished, because the
    // ring's slot owns both (and leaks them rather than end them early).
    let result = unsafe {
        match step {
            Step::Read { pointer, length, offset } => {
                libc::pread(fd, pointer.cast(), length as usize, offset as libc::off_t)
            }
            Step::Write { pointer, length, offset, durable } => {
                let part = libc::iovec { iov_base: pointer.cast_mut().cast(), iov_len: length as usize };
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                libc::pwritev2(fd, &part, 1, offset as libc::off_t, flags)
            }
            Step::Sync => libc::fdatasync(fd) as isize,
            Step::Allocate { mode, offset, length } => {
                libc::fallocate(fd, mode, offset as libc::off_t, length as libc::off_t) as isize
            }
        }
    };
    if result < 0 { -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) } else { result as i32 }
}

#[cfg(test)]
mod tests;
