//! Sockets handed over by the service manager (LISTEN_FDS): bound before the daemon runs, and while it restarts.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// First descriptor of those handed over.
const FIRST: RawFd = 3;
/// Most descriptors taken: more were never meant for this program.
const SOCKETS_MAX: usize = 256;

/// A socket handed over, with the name the service manager gave it (empty if none).
#[derive(Debug)]
pub struct HandedOver {
    /// The socket.
    pub fd: OwnedFd,
    /// Its name in `LISTEN_FDNAMES`.
    pub name: String,
}

/// Takes what was handed over to this process. Only the first call finds anything.
pub fn take() -> Vec<HandedOver> {
    static TAKEN: std::sync::Once = std::sync::Once::new();
    let mut sockets = Vec::new();
    TAKEN.call_once(|| sockets = take_once());
    sockets
}

fn take_once() -> Vec<HandedOver> {
    let variable = |name: &str| std::env::var(name).ok();
    let for_us = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count = variable("LISTEN_FDS").and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
    if !for_us {
        return Vec::new();
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_string);
    (FIRST..).take(count.min(SOCKETS_MAX)).filter_map(|fd| hand_over(fd, names.next().unwrap_or_default())).collect()
}

fn hand_over(fd: RawFd, name: String) -> Option<HandedOver> {
    // SAFETY: fcntl with F_GETFD reads a flag of whatever descriptor this is, and fails if it is none.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open; by the protocol it is ours alone, and `Once` keeps it from being taken twice.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // Children must not inherit it; a failure would only leak it to them.
    let _ = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC));
    Some(HandedOver { fd, name })
}
