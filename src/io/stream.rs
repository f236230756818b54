//! A non-blocking socket with gathered input and output, for the peer link and for clients.
//!
//! In: many small things are taken per read into a staging buffer; a large payload is read straight into its own
//! buffer, with the beginning of what follows it in the same system call. Out: small bytes and parts of pool buffers
//! are queued in order and go out with one vectored send per turn; queued buffers are held in the pool until the
//! kernel has their bytes, whatever their owner does.
//!
//! Nothing here waits, and nothing here is unbounded by itself except the output queue, whose user looks at
//! [`Stream::queued_bytes`] before adding what it need not.

use crate::base::ids::BufferId;
use crate::io::poller::Interest;
use crate::io::pool::Pool;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Parts given to one send. Half a dozen are usual; the kernel's limit is 1024.
const PARTS_MAX: usize = 64;
/// Bytes staged behind a payload that is read in place: the next header and what small frames may follow. Not more,
/// because the next payload is probably as large and should be read in place too.
const STAGED_BEHIND_PAYLOAD_MAX: usize = 1024;
/// A payload of so many bytes is large: the bytes of the next one should not be staged and copied.
const LARGE_PAYLOAD_BYTES: usize = 16 << 10;
/// Bytes staged per read at first after a large payload. Grows again as long as small things fill it.
const APPETITE_AFTER_LARGE: usize = 4 << 10;
const APPETITE_GROWTH: usize = 4;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, more than none.
    Bytes(usize),
    /// Nothing is there now.
    Nothing,
    /// The other side sends no more.
    Closed,
}

/// A connected stream socket, non-blocking.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    /// Staging buffer; `start .. end` of it are bytes not consumed yet.
    staging: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes staged per read at most.
    appetite: usize,
    /// The last read was given all it had room for.
    may_have_more: bool,
    output: Output,
}

/// What is to be sent, in order.
#[derive(Debug, Default)]
struct Output {
    parts: VecDeque<Part>,
    /// The bytes of all [`Part::Small`], from `small_start` on.
    small: Vec<u8>,
    small_start: usize,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Small { length: usize },
    Buffer { buffer: BufferId, at: usize, length: usize },
}

impl Stream {
    /// Takes over a connected socket and makes it non-blocking. At most `staging_bytes` are read ahead.
    pub fn new(socket: impl Into<OwnedFd>, staging_bytes: usize) -> io::Result<Stream> {
        let fd = socket.into();
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        let (staging, output) = (vec![0; staging_bytes], Output::default());
        Ok(Stream { fd, staging, start: 0, end: 0, appetite: staging_bytes, may_have_more: true, output })
    }

    /// The bytes read ahead and not consumed.
    pub fn staged(&self) -> &[u8] {
        &self.staging[self.start..self.end]
    }

    /// Drops the first `count` staged bytes.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start, "only staged bytes are consumed");
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once, at most what the staging buffer has room for. [`Received::Nothing`] when it is full, too: consume
    /// first.
    pub fn receive(&mut self) -> io::Result<Received> {
        self.make_room();
        let room = self.appetite.min(self.staging.len() - self.end);
        if room == 0 {
            return Ok(Received::Nothing);
        }
        let place = &mut self.staging[self.end..self.end + room];
        let received = receive_vectored(self.fd.as_fd(), &mut [IoSliceMut::new(place)])?;
        self.may_have_more = received == Received::Bytes(room);
        if let Received::Bytes(count) = received {
            self.end += count;
            if count == self.appetite {
                self.appetite = (self.appetite * APPETITE_GROWTH).min(self.staging.len());
            }
        }
        Ok(received)
    }

    /// Whether the socket may have more: the last read was given all it had room for. Otherwise the poller tells when
    /// there is something again.
    pub fn may_have_more(&self) -> bool {
        self.may_have_more
    }

    /// Fills the beginning of `target` (not empty): from the staged bytes if there are any, else by one read, which
    /// may stage a little of what follows. Returns the bytes of `target` that were filled.
    pub fn receive_into(&mut self, target: &mut [u8]) -> io::Result<Received> {
        if target.len() >= LARGE_PAYLOAD_BYTES {
            self.appetite = APPETITE_AFTER_LARGE.min(self.staging.len());
        }
        let staged = self.staged();
        if !staged.is_empty() {
            let count = staged.len().min(target.len());
            target[..count].copy_from_slice(&staged[..count]);
            self.consume(count);
            return Ok(Received::Bytes(count));
        }
        let wanted = target.len();
        let room = self.staging.len().min(STAGED_BEHIND_PAYLOAD_MAX);
        let mut places = [IoSliceMut::new(target), IoSliceMut::new(&mut self.staging[..room])];
        let received = receive_vectored(self.fd.as_fd(), &mut places)?;
        self.may_have_more = received == Received::Bytes(wanted + room);
        Ok(match received {
            Received::Bytes(count) => {
                self.end = count.saturating_sub(wanted);
                Received::Bytes(count.min(wanted))
            }
            other => other,
        })
    }

    /// Moves the staged bytes to the front when the room behind them has become small.
    fn make_room(&mut self) {
        if self.start > 0 && self.end > self.staging.len() / 2 {
            self.staging.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Queues a copy of these bytes.
    pub fn queue_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.output.small.extend_from_slice(bytes);
        self.output.bytes += bytes.len();
        match self.output.parts.back_mut() {
            Some(Part::Small { length }) => *length += bytes.len(),
            _ => self.output.parts.push_back(Part::Small { length: bytes.len() }),
        }
    }

    /// Queues a part of a buffer without copying it. Held in the pool until it is sent or discarded; not to be changed
    /// meanwhile.
    pub fn queue_buffer(&mut self, pool: &mut Pool, buffer: BufferId, at: usize, length: usize) {
        assert!(at + length <= pool.bytes_of(buffer), "the part lies inside its buffer");
        if length == 0 {
            return;
        }
        pool.hold(buffer);
        self.output.parts.push_back(Part::Buffer { buffer, at, length });
        self.output.bytes += length;
    }

    /// Bytes queued and not yet taken by the kernel.
    pub fn queued_bytes(&self) -> usize {
        self.output.bytes
    }

    /// Sends what the kernel takes. Whether it took everything; if not, call again when the socket is writable.
    pub fn send(&mut self, pool: &mut Pool) -> io::Result<bool> {
        while self.output.bytes > 0 {
            let (sent, offered) = self.output.send_once(self.fd.as_fd(), pool)?;
            self.output.advance(sent, pool);
            if sent < offered {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Drops what is queued and ends the holds on its buffers. To be called before the stream is dropped.
    pub fn discard(&mut self, pool: &mut Pool) {
        for part in std::mem::take(&mut self.output).parts {
            if let Part::Buffer { buffer, .. } = part {
                pool.unhold(buffer);
            }
        }
    }

    /// What to watch the socket for: writing as long as something is queued, reading if wanted.
    pub fn interest(&self, reading: bool) -> Interest {
        Interest { readable: reading, writable: self.output.bytes > 0 }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Output {
    /// One system call. How much was sent, and how much it was offered; nothing sent when the socket is full.
    fn send_once(&self, fd: BorrowedFd<'_>, pool: &Pool) -> io::Result<(usize, usize)> {
        let mut slices = [IoSlice::new(&[]); PARTS_MAX];
        let mut count = 0;
        let mut offered = 0;
        let mut small_at = self.small_start;
        for part in self.parts.iter().take(PARTS_MAX) {
            let bytes = match *part {
                Part::Small { length } => {
                    small_at += length;
                    &self.small[small_at - length..small_at]
                }
                Part::Buffer { buffer, at, length } => &pool.slice(buffer)[at..at + length],
            };
            offered += bytes.len();
            slices[count] = IoSlice::new(bytes);
            count += 1;
        }
        loop {
            match send_vectored(fd, &slices[..count]) {
                Ok(sent) => return Ok((sent, offered)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((0, offered)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn advance(&mut self, mut sent: usize, pool: &mut Pool) {
        self.bytes -= sent;
        while sent > 0 {
            let part = self.parts.front_mut().expect("what was sent was queued");
            let taken = match part {
                Part::Small { length } => {
                    let taken = sent.min(*length);
                    *length -= taken;
                    self.small_start += taken;
                    if *length > 0 {
                        return;
                    }
                    taken
                }
                Part::Buffer { buffer, at, length } => {
                    let taken = sent.min(*length);
                    *at += taken;
                    *length -= taken;
                    if *length > 0 {
                        return;
                    }
                    pool.unhold(*buffer);
                    taken
                }
            };
            sent -= taken;
            self.parts.pop_front();
        }
        // The sent half of the small bytes is forgotten now and then, not at every send.
        if self.small_start == self.small.len() {
            self.small.clear();
            self.small_start = 0;
        } else if self.small_start > self.small.len() / 2 {
            self.small.drain(..self.small_start);
            self.small_start = 0;
        }
    }
}

/// One `recvmsg` that never waits.
fn receive_vectored(fd: BorrowedFd<'_>, places: &mut [IoSliceMut<'_>]) -> io::Result<Received> {
    loop {
        // SAFETY: an all-zero msghdr is a valid one without places, name and control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = places.as_mut_ptr().cast();
        message.msg_iovlen = places.len() as _;
        // SAFETY: an IoSliceMut has the layout of an iovec, and all of them are writable during the call.
        let count = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
        if count > 0 {
            return Ok(Received::Bytes(count as usize));
        }
        if count == 0 {
            return Ok(Received::Closed);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
            io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

/// One `sendmsg` that neither waits nor signals a closed socket.
fn send_vectored(fd: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: an all-zero msghdr is a valid one without parts, name and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: an IoSlice has the layout of an iovec, and the kernel only reads them and their bytes during the call.
    let count = unsafe { libc::sendmsg(fd.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::pool::Class;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair(staging_bytes: usize) -> (Stream, UnixStream) {
        let (left, right) = UnixStream::pair().unwrap();
        right.set_nonblocking(true).unwrap();
        (Stream::new(left, staging_bytes).unwrap(), right)
    }

    /// Byte `n` of the test's stream: no period that a mistake could hide in.
    fn byte_at(n: usize) -> u8 {
        (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Headers are consumed from the staged bytes, payloads taken in place, however the sender cuts the stream.
        #[test]
        fn input_survives_any_segmentation(
            payloads in prop::collection::vec(0..5000usize, 1..20),
            cuts in prop::collection::vec(1..3000usize, 1..20),
            staging in 64..4096usize,
        ) {
            const HEADER: usize = 16;
            let (mut stream, mut sender) = pair(staging);
            let total: usize = payloads.iter().map(|payload| payload + HEADER).sum();
            let bytes: Vec<u8> = (0..total).map(byte_at).collect();
            let (mut sent, mut cut, mut got) = (0, 0, 0);
            let mut push = |stream_is_dry: bool| {
                if stream_is_dry && sent < total {
                    let end = (sent + cuts[cut % cuts.len()]).min(total);
                    sender.write_all(&bytes[sent..end]).unwrap();
                    (sent, cut) = (end, cut + 1);
                }
            };
            for payload in &payloads {
                while stream.staged().len() < HEADER {
                    push(stream.receive().unwrap() == Received::Nothing);
                }
                prop_assert_eq!(&stream.staged()[..HEADER], &bytes[got..got + HEADER]);
                stream.consume(HEADER);
                got += HEADER;
                let mut target = vec![0; *payload];
                let mut filled = 0;
                while filled < *payload {
                    match stream.receive_into(&mut target[filled..]).unwrap() {
                        Received::Bytes(count) => filled += count,
                        other => push(other == Received::Nothing),
                    }
                }
                prop_assert_eq!(&target[..], &bytes[got..got + payload]);
                got += payload;
            }
            prop_assert!(stream.staged().is_empty());
        }

        /// What is queued arrives in order, however little the kernel takes at a time, and no hold is left.
        #[test]
        fn output_survives_a_slow_reader(
            parts in prop::collection::vec((any::<bool>(), 1..40_000usize, 0..4000usize), 1..100),
            reads in prop::collection::vec(1..30_000usize, 1..10),
        ) {
            let mut pool = Pool::with_arena(8 << 20).unwrap();
            let (mut stream, mut reader) = pair(64);
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::SndBuf, &4096).unwrap();
            let (mut expected, mut got) = (Vec::new(), Vec::new());
            let mut scratch = vec![0; 30_000];
            for (turn, (small, length, at)) in parts.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..length).map(|n| byte_at(expected.len() + n)).collect();
                if small {
                    stream.queue_bytes(&bytes);
                } else {
                    let buffer = pool.allocate(at + length, Class::Client).unwrap();
                    pool.slice_mut(buffer)[at..at + length].copy_from_slice(&bytes);
                    stream.queue_buffer(&mut pool, buffer, at, length);
                    pool.release(buffer);
                }
                expected.extend(bytes);
                let all = stream.send(&mut pool).unwrap();
                prop_assert_eq!(all, stream.queued_bytes() == 0);
                prop_assert_eq!(stream.interest(false).writable, !all);
                let wanted = reads[turn % reads.len()];
                if let Ok(count) = reader.read(&mut scratch[..wanted]) {
                    got.extend_from_slice(&scratch[..count]);
                }
            }
            while got.len() < expected.len() {
                stream.send(&mut pool).unwrap();
                if let Ok(count) = reader.read(&mut scratch) {
                    got.extend_from_slice(&scratch[..count]);
                }
            }
            prop_assert!(got == expected, "the bytes arrive in order");
            prop_assert_eq!(stream.queued_bytes(), 0);
            prop_assert_eq!(pool.in_use(), 0);
        }
    }

    #[test]
    fn the_end_and_a_vanished_reader_are_told() {
        let (mut stream, sender) = pair(64);
        (&sender).write_all(b"last").unwrap();
        drop(sender);
        assert_eq!(stream.receive().unwrap(), Received::Bytes(4));
        assert_eq!(stream.receive().unwrap(), Received::Closed);
        stream.queue_bytes(b"x");
        let mut pool = Pool::with_arena(4 << 20).unwrap();
        assert_eq!(stream.send(&mut pool).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn discarding_ends_the_holds() {
        let mut pool = Pool::with_arena(4 << 20).unwrap();
        let (mut stream, _reader) = pair(64);
        let buffer = pool.allocate(4096, Class::Link).unwrap();
        stream.queue_bytes(b"header");
        stream.queue_buffer(&mut pool, buffer, 0, 4096);
        pool.release(buffer);
        assert_eq!(pool.in_use(), 1);
        stream.discard(&mut pool);
        assert_eq!((pool.in_use(), stream.queued_bytes()), (0, 0));
    }

    #[test]
    fn after_a_large_payload_less_is_read_ahead_until_small_things_come() {
        let (mut stream, mut sender) = pair(64 << 10);
        let header = [1; 16];
        let payload = [2; 32 << 10];
        let mut target = vec![0; payload.len()];
        for round in 0..3 {
            sender.write_all(&header).unwrap();
            sender.write_all(&payload).unwrap();
            assert_eq!(stream.receive().unwrap(), Received::Bytes(if round == 0 { 16 + (32 << 10) } else { 4 << 10 }));
            assert_eq!(stream.may_have_more(), round > 0);
            stream.consume(16);
            let mut filled = 0;
            while filled < target.len() {
                let Received::Bytes(count) = stream.receive_into(&mut target[filled..]).unwrap() else {
                    panic!("everything was sent")
                };
                filled += count;
            }
            assert!(target == payload && stream.staged().is_empty() && (round == 0 || !stream.may_have_more()));
        }
        sender.write_all(&[3; 60 << 10]).unwrap();
        for expected in [4 << 10, 16 << 10, 40 << 10] {
            assert_eq!(stream.receive().unwrap(), Received::Bytes(expected));
        }
        assert!(!stream.may_have_more());
    }

    #[test]
    fn a_full_staging_buffer_waits_for_its_reader() {
        let (mut stream, mut sender) = pair(64);
        sender.write_all(&[1; 100]).unwrap();
        assert_eq!(stream.receive().unwrap(), Received::Bytes(64));
        assert_eq!(stream.receive().unwrap(), Received::Nothing);
        stream.consume(40);
        assert_eq!(stream.receive().unwrap(), Received::Bytes(36));
        assert_eq!(stream.staged(), [1; 60]);
    }
}
