//! Readiness of descriptors: a thin, level-triggered epoll, and a waker for other threads.
//!
//! One poller belongs to one thread. It never closes a descriptor and never reads one; it only says which token is
//! ready for what.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Events taken from the kernel per wait. More stay ready and come with the next one.
const EVENTS_MAX: usize = 64;

/// What a descriptor is watched for. Errors and hang-ups are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interest {
    /// Tell when reading would not block (or would report the end).
    pub readable: bool,
    /// Tell when writing would not block.
    pub writable: bool,
}

impl Interest {
    /// Only errors and hang-ups.
    pub const NONE: Interest = Interest { readable: false, writable: false };
    /// Reading.
    pub const READ: Interest = Interest { readable: true, writable: false };
    /// Writing.
    pub const WRITE: Interest = Interest { readable: false, writable: true };
    /// Both.
    pub const BOTH: Interest = Interest { readable: true, writable: true };

    fn bits(self) -> u32 {
        let mut bits = 0;
        if self.readable {
            bits |= libc::EPOLLIN | libc::EPOLLRDHUP;
        }
        if self.writable {
            bits |= libc::EPOLLOUT;
        }
        bits as u32
    }
}

/// One descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The token given when the descriptor was added.
    pub token: u64,
    /// Reading will not block. Also set when the other side closed: the read then says so.
    pub readable: bool,
    /// Writing will not block.
    pub writable: bool,
    /// Both directions are gone, or the descriptor has a pending error. Reported whatever the interest was.
    pub broken: bool,
}

/// The descriptors one thread waits for.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    nanoseconds: bool,
}

impl Poller {
    /// A poller that watches nothing yet.
    pub fn new() -> io::Result<Poller> {
        // SAFETY: epoll_create1 takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Poller { epoll, nanoseconds: true })
    }

    /// Starts watching a descriptor. It must be removed before it is closed.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changes what a watched descriptor is watched for.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Stops watching a descriptor. An event of it that was already handed out may still be looked at.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::NONE)
    }

    fn control(&self, operation: i32, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.bits(), u64: token };
        // SAFETY: both descriptors are open for the duration of the call and the event lives on this stack frame.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), &mut event) })?;
        Ok(())
    }

    /// Waits until something is ready, at most `timeout` (`None`: for ever; zero: not at all), and replaces `events`
    /// by what is. An interrupting signal ends the wait early with no events.
    pub fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        let mut ready = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        let count = match self.wait_raw(&mut ready, timeout) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        events.extend(ready[..count].iter().map(|event| {
            let bits = event.events as i32;
            let broken = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
            Event {
                token: event.u64,
                readable: broken || bits & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0,
                writable: broken || bits & libc::EPOLLOUT != 0,
                broken,
            }
        }));
        Ok(())
    }

    fn wait_raw(&mut self, ready: &mut [libc::epoll_event], timeout: Option<Duration>) -> io::Result<usize> {
        if self.nanoseconds {
            match self.wait_precise(ready, timeout) {
                // Linux before 5.11: go on in milliseconds.
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => self.nanoseconds = false,
                other => return other,
            }
        }
        // Rounded up, so that a deadline has passed when the wait ends by it.
        let milliseconds = match timeout {
            None => -1,
            Some(span) => span.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32,
        };
        // SAFETY: `ready` is writable for its whole length and the kernel writes at most that many events.
        let count =
            unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), ready.as_mut_ptr(), ready.len() as i32, milliseconds) };
        check(count).map(|count| count as usize)
    }

    fn wait_precise(&self, ready: &mut [libc::epoll_event], timeout: Option<Duration>) -> io::Result<usize> {
        let span = timeout.map(|span| libc::timespec {
            tv_sec: span.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: span.subsec_nanos() as libc::c_long,
        });
        let span_pointer = span.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `ready` is writable for its whole length, the kernel writes at most that many events; the timespec
        // (if any) outlives the call; no signal mask is passed.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                ready.as_mut_ptr(),
                ready.len() as libc::c_int,
                span_pointer,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
    }
}

/// Wakes the owner of a [`Poller`] from any thread: an eventfd that the owner watches for reading.
///
/// However many wakes happen before the owner looks, it costs one system call.
#[derive(Clone, Debug)]
pub struct Waker {
    inner: Arc<WakerInner>,
}

#[derive(Debug)]
struct WakerInner {
    eventfd: OwnedFd,
    /// A wake was signalled and not taken yet.
    signalled: AtomicBool,
}

impl Waker {
    /// A waker; watch [`Waker::as_fd`] for [`Interest::READ`].
    pub fn new() -> io::Result<Waker> {
        let eventfd = new_eventfd()?;
        Ok(Waker { inner: Arc::new(WakerInner { eventfd, signalled: AtomicBool::new(false) }) })
    }

    /// Makes the descriptor readable. Publish what there is to do before calling this.
    pub fn wake(&self) {
        if !self.inner.signalled.swap(true, Ordering::SeqCst) {
            eventfd_signal(self.inner.eventfd.as_fd());
        }
    }

    /// Makes the descriptor quiet again. Look for what there is to do after calling this.
    pub fn take(&self) {
        eventfd_drain(self.inner.eventfd.as_fd());
        self.inner.signalled.store(false, Ordering::SeqCst);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.eventfd.as_fd()
    }
}

/// A non-blocking eventfd with a count of zero.
pub fn new_eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an eventfd's count, which makes it readable.
pub fn eventfd_signal(fd: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the eight bytes live on this stack frame. The call can only fail with EAGAIN when the count is about to
    // overflow; then the descriptor is readable already, which is all that is wanted.
    unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Sets an eventfd's count to zero, which makes it unreadable.
pub fn eventfd_drain(fd: BorrowedFd<'_>) {
    let mut count = [0u8; 8];
    // SAFETY: the eight bytes live on this stack frame. EAGAIN means that the count was zero, which is what is wanted.
    unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn readiness_carries_its_token_and_ends_with_the_data() {
        let (mut left, mut right) = UnixStream::pair().unwrap();
        let mut poller = Poller::new().unwrap();
        let mut events = Vec::new();
        poller.add(left.as_fd(), 7, Interest::READ).unwrap();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events, []);

        right.write_all(b"x").unwrap();
        poller.wait(&mut events, None).unwrap();
        assert_eq!(events, [Event { token: 7, readable: true, writable: false, broken: false }]);
        // Level-triggered: still there until it is read.
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.len(), 1);
        left.read_exact(&mut [0]).unwrap();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events, []);

        poller.modify(left.as_fd(), 9, Interest::BOTH).unwrap();
        poller.wait(&mut events, None).unwrap();
        assert_eq!(events, [Event { token: 9, readable: false, writable: true, broken: false }]);
        poller.remove(left.as_fd()).unwrap();
        right.write_all(b"x").unwrap();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events, []);
    }

    #[test]
    fn a_vanished_peer_is_told_whatever_the_interest() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut poller = Poller::new().unwrap();
        let mut events = Vec::new();
        poller.add(left.as_fd(), 1, Interest::NONE).unwrap();
        drop(right);
        poller.wait(&mut events, None).unwrap();
        assert!(events[0].broken && events[0].readable && events[0].writable);
    }

    #[test]
    fn many_wakes_from_another_thread_are_one_readiness() {
        let waker = Waker::new().unwrap();
        let mut poller = Poller::new().unwrap();
        let mut events = Vec::new();
        poller.add(waker.as_fd(), 3, Interest::READ).unwrap();
        let other = waker.clone();
        std::thread::spawn(move || (0..100).for_each(|_| other.wake())).join().unwrap();
        poller.wait(&mut events, None).unwrap();
        assert_eq!(events.len(), 1);
        waker.take();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events, []);
        waker.wake();
        poller.wait(&mut events, None).unwrap();
        assert_eq!(events.len(), 1, "a wake after the taking is told again");
    }

    #[test]
    fn a_wait_below_a_millisecond_ends_and_one_in_milliseconds_does_too() {
        let mut poller = Poller::new().unwrap();
        let mut events = Vec::new();
        for precise in [true, false] {
            poller.nanoseconds = precise;
            let span = Duration::from_micros(300);
            let start = std::time::Instant::now();
            poller.wait(&mut events, Some(span)).unwrap();
            assert!(start.elapsed() >= span, "the deadline has passed when the wait ends by it");
        }
    }
}
