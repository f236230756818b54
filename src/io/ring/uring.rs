//! The io_uring engine.

use super::Step;
use crate::base::limits::{RING_ENTRIES, RING_IN_FLIGHT_MAX};
use io_uring::{IoUring, Probe, opcode, squeue, types};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

pub(super) struct Uring {
    ring: IoUring,
    /// Entries in the submission queue that the kernel has not taken.
    unsent: usize,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("unsent", &self.unsent).finish_non_exhaustive()
    }
}

impl Uring {
    /// Sets up a ring; an error says why there is none.
    pub fn new() -> io::Result<Uring> {
        let ring = Self::build().map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSYS) => io::Error::other("this kernel has no io_uring"),
            Some(libc::EPERM) => io::Error::other("io_uring is forbidden here (seccomp or kernel.io_uring_disabled)"),
            _ => error,
        })?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];
        if !needed.into_iter().all(|code| probe.is_supported(code)) {
            return Err(io::Error::other("this kernel's io_uring lacks read, write, fsync or fallocate"));
        }
        Ok(Uring { ring, unsent: 0 })
    }

    fn build() -> io::Result<IoUring> {
        // Completions run when the thread enters the kernel anyway instead of interrupting it. (Not DEFER_TASKRUN:
        // a ring set up with it is never ready in epoll.) Older kernels know neither flag.
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(RING_IN_FLIGHT_MAX as u32).setup_coop_taskrun().setup_single_issuer();
        match builder.build(RING_ENTRIES) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                IoUring::builder().setup_clamp().setup_cqsize(RING_IN_FLIGHT_MAX as u32).build(RING_ENTRIES)
            }
            other => other,
        }
    }

    /// Puts a step into the submission queue, making room by submitting if need be. False: there is no room now.
    pub fn push(&mut self, slot: u32, fd: RawFd, step: Step) -> io::Result<bool> {
        if self.unsent == RING_ENTRIES as usize {
            self.submit()?;
        }
        let entry = entry(fd, step).user_data(u64::from(slot));
        // SAFETY: descriptor and memory of the step stay valid until it is finished: the ring's slot owns them.
        let pushed = unsafe { self.ring.submission().push(&entry) }.is_ok();
        self.unsent += usize::from(pushed);
        Ok(pushed)
    }

    /// Gives the queue to the kernel. What the kernel is too busy for stays for the next call.
    pub fn submit(&mut self) -> io::Result<()> {
        give_to_kernel(&self.ring, &mut self.unsent)
    }

    pub fn finished(&mut self, out: &mut Vec<(u32, i32)>) {
        out.extend(self.ring.completion().map(|entry| (entry.user_data() as u32, entry.result())));
    }

    pub fn unsent(&self) -> usize {
        self.unsent
    }

    pub fn has_finished(&self) -> bool {
        // SAFETY: the ring is used by one thread only, and nothing else borrows the completion queue meanwhile.
        !unsafe { self.ring.completion_shared() }.is_empty()
    }
}

impl AsFd for Uring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring, which the borrow outlives not.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

/// Gives the `unsent` entries of a submission queue to the kernel, as far as it is not too busy for them.
pub(in crate::io) fn give_to_kernel(ring: &IoUring, unsent: &mut usize) -> io::Result<()> {
    while *unsent > 0 {
        match ring.submit() {
            Ok(0) => return Ok(()),
            Ok(count) => *unsent -= count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM)) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn entry(fd: RawFd, step: Step) -> squeue::Entry {
    let fd = types::Fd(fd);
    match step {
        Step::Read { pointer, length, offset } => opcode::Read::new(fd, pointer, length).offset(offset).build(),
        Step::Write { pointer, length, offset, durable } => {
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            opcode::Write::new(fd, pointer, length).offset(offset).rw_flags(flags).build()
        }
        Step::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        Step::Allocate { mode, offset, length } => opcode::Fallocate::new(fd, length).offset(offset).mode(mode).build(),
    }
}
