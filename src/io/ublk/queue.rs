//! The queue of one device, as the thread sees it that serves it.
//!
//! One command per tag waits in the kernel. It ends when a request has come, whose description then stands in memory
//! shared with the driver; the answer goes out with the command that fetches the next one. All commands are given by
//! the thread that made the queue, because the driver insists on it.

use super::SECTOR;
use super::abi::{self, put};
use crate::base::limits::UBLK_DEPTH;
use crate::base::range::ByteRange;
use crate::io::ring::uring::give_to_kernel;
use io_uring::{IoUring, opcode, squeue, types};
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fill the request's bytes.
    Read,
    /// Write the request's bytes.
    Write {
        /// Durable before it is answered.
        fua: bool,
    },
    /// Make the range read as zeroes.
    WriteZeroes {
        /// Give the space back.
        unmap: bool,
        /// Durable before it is answered.
        fua: bool,
    },
    /// The range is of no use any more.
    Discard,
    /// Make every write that was answered durable.
    Flush,
    /// Something we never said we could do.
    Unknown(u32),
}

/// A request of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its name among those under way.
    pub tag: u16,
    /// What is asked.
    pub action: Action,
    /// Where; a flush has none.
    pub range: ByteRange,
}

/// The queue; dropping it leaves what is under way to whoever serves the device next.
pub struct Queue {
    // Dropped first: the kernel then takes back the commands that wait.
    ring: IoUring,
    descriptors: Descriptors,
    device: OwnedFd,
    /// Commands not given to the kernel yet.
    unsent: usize,
    /// Tags for which requests may still come.
    alive: usize,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("alive", &self.alive).field("unsent", &self.unsent).finish_non_exhaustive()
    }
}

impl Queue {
    /// Serves the only queue of a device from this thread on; takes the server's side, open for reading and writing.
    pub fn new(device: OwnedFd) -> io::Result<Queue> {
        let depth = u32::from(UBLK_DEPTH);
        let mut builder = IoUring::builder();
        builder.setup_coop_taskrun().setup_single_issuer();
        let ring = match builder.build(depth) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(depth)?,
            other => other?,
        };
        let descriptors = Descriptors::map(&device)?;
        let mut queue = Queue { ring, descriptors, device, unsent: 0, alive: usize::from(UBLK_DEPTH) };
        for tag in 0..UBLK_DEPTH {
            queue.push(abi::FETCH, tag, 0);
        }
        queue.submit()?;
        Ok(queue)
    }

    /// Appends the requests that have come. No system call.
    pub fn reap(&mut self, out: &mut Vec<Request>) {
        for done in self.ring.completion() {
            let tag = done.user_data() as u16;
            match done.result() {
                0 => out.push(self.descriptors.request(tag)),
                result => {
                    self.alive -= 1;
                    if result != abi::RESULT_ABORT {
                        tracing::error!(tag, "the kernel refused a command of a device's queue: error {}", -result);
                    }
                }
            }
        }
    }

    /// Whether requests have come that [`Queue::reap`] would hand over. No system call.
    pub fn has_requests(&self) -> bool {
        // SAFETY: the ring is used by one thread only, and nothing else borrows the completion queue meanwhile.
        !unsafe { self.ring.completion_shared() }.is_empty()
    }

    /// Whether no request comes any more.
    pub fn has_ended(&self) -> bool {
        self.alive == 0
    }

    /// Copies a write's bytes, from the request's first on. Fails when the kernel has given the request up.
    pub fn take_bytes(&self, tag: u16, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            let rest = &mut into[done..];
            let at = abi::place_of(tag, done as u64) as libc::off_t;
            // SAFETY: the rest of the slice is writable for its whole length during the call.
            let count = unsafe { libc::pread(self.device.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), at) };
            done += progress(count)?;
        }
        Ok(())
    }

    /// Copies bytes that were read to their place `at` in the request. Fails when the kernel has given it up.
    pub fn give_bytes(&self, tag: u16, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let at = abi::place_of(tag, at + done as u64) as libc::off_t;
            // SAFETY: the rest of the slice is readable for its whole length during the call.
            let count = unsafe { libc::pwrite(self.device.as_raw_fd(), rest.as_ptr().cast(), rest.len(), at) };
            done += progress(count)?;
        }
        Ok(())
    }

    /// Answers a request: with its length, or an errno. Goes out with the next [`Queue::submit`].
    pub fn answer(&mut self, tag: u16, result: Result<u32, i32>) {
        let result = match result {
            Ok(bytes) => bytes as i32,
            Err(errno) => -errno,
        };
        self.push(abi::COMMIT_AND_FETCH, tag, result);
    }

    /// Gives the answers to the kernel, in one system call.
    pub fn submit(&mut self) -> io::Result<()> {
        give_to_kernel(&self.ring, &mut self.unsent)
    }

    /// Whether [`Queue::submit`] has something to do.
    pub fn wants_submit(&self) -> bool {
        self.unsent > 0
    }

    fn push(&mut self, operation: u32, tag: u16, result: i32) {
        let mut bytes = [0; abi::QUEUE_BYTES];
        put(&mut bytes, 2, tag.to_ne_bytes());
        put(&mut bytes, 4, result.to_ne_bytes());
        let device = types::Fd(self.device.as_raw_fd());
        let entry: squeue::Entry =
            opcode::UringCmd16::new(device, operation).cmd(bytes).build().user_data(u64::from(tag));
        // SAFETY: the entry points to no memory, and its descriptor is open as long as the ring.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("a tag has one command at a time, and the ring room for all");
        self.unsent += 1;
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring, which the borrow outlives not.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

fn progress(count: isize) -> io::Result<usize> {
    match count {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count if count > 0 => Ok(count as usize),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        },
    }
}

/// The descriptions of requests, in memory that the driver writes.
struct Descriptors {
    base: NonNull<u8>,
    bytes: NonZeroUsize,
}

// SAFETY: the mapping belongs to this value alone and is only read.
unsafe impl Send for Descriptors {}

impl Descriptors {
    fn map(device: &OwnedFd) -> io::Result<Descriptors> {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.map_or(4096, |bytes| bytes as usize);
        let bytes = (usize::from(UBLK_DEPTH) * abi::DESCRIPTOR_BYTES).next_multiple_of(page);
        let bytes = NonZeroUsize::new(bytes).expect("a queue has tags");
        let protection = nix::sys::mman::ProtFlags::PROT_READ;
        let flags = nix::sys::mman::MapFlags::MAP_SHARED | nix::sys::mman::MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address the kernel chooses; nothing else refers to it.
        let base = unsafe { nix::sys::mman::mmap(None, bytes, protection, flags, device, 0) }?;
        Ok(Descriptors { base: base.cast(), bytes })
    }

    /// The request of a tag whose command has ended: the driver leaves it alone until it is answered.
    fn request(&self, tag: u16) -> Request {
        assert!(tag < UBLK_DEPTH, "a tag of the queue");
        let at = usize::from(tag) * abi::DESCRIPTOR_BYTES;
        // SAFETY: inside the mapping, because the tag is below the depth it was made for; aligned, because a descriptor
        // has 24 bytes and the mapping begins at a page; any bits are a valid number.
        let (flags, sectors, start) = unsafe {
            let base = self.base.as_ptr().add(at);
            let word = |at: usize| base.add(at).cast::<u32>().read_volatile();
            (word(0), word(4), base.add(8).cast::<u64>().read_volatile())
        };
        let fua = flags & abi::FLAG_FUA != 0;
        let action = match flags & abi::OP_MASK {
            abi::OP_READ => Action::Read,
            abi::OP_WRITE => Action::Write { fua },
            abi::OP_FLUSH => Action::Flush,
            abi::OP_DISCARD => Action::Discard,
            abi::OP_WRITE_ZEROES => Action::WriteZeroes { unmap: flags & abi::FLAG_NO_UNMAP == 0, fua },
            other => Action::Unknown(other),
        };
        // A flush has no place, and the driver leaves there whatever it finds.
        let range = match action {
            Action::Flush => ByteRange::new(0, 0),
            _ => ByteRange::new(start.saturating_mul(SECTOR), u64::from(sectors) * SECTOR),
        };
        Request { tag, action, range }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by us with these bounds, and no reference into it exists.
        if let Err(error) = unsafe { nix::sys::mman::munmap(self.base.cast(), self.bytes.get()) } {
            tracing::error!("a device's descriptors can't be unmapped: {error}");
        }
    }
}
