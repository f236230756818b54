//! Memory for a process that serves block devices of its own kernel: when memory is short, the kernel writes to these
//! devices to get some, and must never wait for this process to get memory for that.

use std::io;

/// `PR_SET_IO_FLUSHER` (Linux 5.6): this thread, and every one it starts from now on, is on the way of write-back.
const SET_IO_FLUSHER: libc::c_int = 57;

/// Marks this thread, and those it starts, as needed to free memory: the kernel gives them reserves rather than have them
/// wait for write-back. Called before any other thread is started. Needs CAP_SYS_RESOURCE.
pub fn become_io_flusher() -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    check(unsafe { libc::prctl(SET_IO_FLUSHER, 1, 0, 0, 0) })
}

/// Keeps what this process has in memory, now and later, from being taken away: what is touched stays. Needs
/// CAP_IPC_LOCK or a limit on locked memory that is large enough.
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
