use super::*;
use crate::io::poller::{Interest, Poller};
use crate::io::pool::Class;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Long enough for any disk of a test machine; reached only when an operation is lost.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    ring: Ring,
    pool: Pool,
    poller: Poller,
    file: Arc<DiskFile>,
    plain: std::fs::File,
}

impl Bench {
    fn new(choice: Choice, plain: std::fs::File) -> Bench {
        let ring = Ring::new(choice).unwrap();
        let poller = Poller::new().unwrap();
        poller.add(ring.as_fd(), 1, Interest::READ).unwrap();
        plain.set_len(16 << 20).unwrap();
        let file = Arc::new(DiskFile::new(plain.try_clone().unwrap().into()));
        Bench { ring, pool: Pool::with_arena(8 << 20).unwrap(), poller, file, plain }
    }

    fn start(&mut self, token: u64, action: Action) {
        self.ring.start(token, &self.file, action, &mut self.pool);
    }

    /// Submits and waits by readiness, as the shard does, until `count` operations have ended; sorted by token.
    fn finish(&mut self, count: usize) -> Vec<Completion> {
        let mut out = Vec::new();
        let mut events = Vec::new();
        let started = std::time::Instant::now();
        while out.len() < count {
            self.ring.submit().unwrap();
            self.ring.reap(&mut self.pool, &mut out);
            if out.len() < count && !self.ring.wants_submit() && !self.ring.has_finished() {
                // The kernel's own work for the ring may end a wait without any event.
                self.poller.wait(&mut events, Some(PATIENCE)).unwrap();
                assert!(started.elapsed() < PATIENCE, "an operation was lost: {} of {count} ended", out.len());
            }
        }
        assert_eq!(self.ring.in_flight(), 0);
        out.sort_by_key(|completion| completion.token);
        out
    }
}

/// A file that is in memory on any machine.
fn in_memory() -> std::fs::File {
    nix::sys::memfd::memfd_create("disk", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap().into()
}

/// Both engines, and a file that wants neither.
fn both(test: impl Fn(Bench)) {
    test(Bench::new(Choice::Threads, tempfile::tempfile().unwrap()));
    test(Bench::new(Choice::Automatic, in_memory()));
    let bench = Bench::new(Choice::Automatic, tempfile::tempfile().unwrap());
    match bench.ring.fallback_reason() {
        None => test(bench),
        Some(reason) => eprintln!("skipped with io_uring: {reason}"),
    }
}

#[test]
fn what_is_written_is_read() {
    both(|mut bench| {
        let count = 40u64;
        for token in 0..count {
            let buffer = bench.pool.allocate(65536, Class::Client).unwrap();
            bench.pool.slice_mut(buffer).fill(token as u8 + 1);
            let from = Memory::Buffer(buffer);
            bench.start(token, Action::Write { offset: token * 65536, length: 65536, from, fua: token % 7 == 0 });
            // The owner may give it up at once: the operation holds it.
            bench.pool.release(buffer);
        }
        assert!(bench.finish(count as usize).iter().all(|completion| completion.result == Ok(())));
        assert_eq!(bench.pool.in_use(), 0, "holds end with their operations");
        for token in 0..count {
            let into = Memory::Buffer(bench.pool.allocate(65536, Class::Client).unwrap());
            bench.start(token, Action::Read { offset: token * 65536, length: 65536, into });
        }
        bench.start(count, Action::Sync);
        for completion in bench.finish(count as usize + 1) {
            assert_eq!(completion.result, Ok(()));
            if let Memory::Buffer(buffer) = completion.memory {
                let bytes = bench.pool.slice(buffer);
                assert!(bytes.iter().all(|byte| *byte == completion.token as u8 + 1));
            }
        }
    });
}

#[test]
fn a_file_in_memory_is_not_waited_for() {
    let mut bench = Bench::new(Choice::Threads, in_memory());
    bench.start(1, Action::Write { offset: 0, length: 4096, from: Memory::Own(AlignedBytes::zeroed(4096)), fua: true });
    assert!(!bench.ring.has_finished(), "nothing happens before the turn's end");
    bench.ring.submit().unwrap();
    assert!(bench.ring.has_finished());
    assert_eq!(bench.finish(1)[0].result, Ok(()));
    assert!(!bench.ring.has_finished());
}

#[test]
fn more_than_the_kernel_takes_at_once_all_end() {
    both(|mut bench| {
        let count = 3 * RING_IN_FLIGHT_MAX;
        for token in 0..count as u64 {
            let from = Memory::Own(AlignedBytes::copy_of(&[token as u8; 512]));
            bench.start(token, Action::Write { offset: token * 512, length: 512, from, fua: false });
        }
        let ended = bench.finish(count);
        assert!(ended.iter().enumerate().all(|(at, completion)| completion.token == at as u64));
        assert!(ended.iter().all(|completion| completion.result == Ok(())));
        let mut bytes = vec![0; count * 512];
        bench.plain.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.chunks(512).enumerate().all(|(at, chunk)| chunk.iter().all(|byte| *byte == at as u8)));
    });
}

#[test]
fn reading_past_the_end_is_short() {
    both(|mut bench| {
        let into = || Memory::Own(AlignedBytes::zeroed(8192));
        bench.start(1, Action::Read { offset: (16 << 20) - 4096, length: 8192, into: into() });
        bench.start(2, Action::Read { offset: 16 << 20, length: 8192, into: into() });
        for completion in bench.finish(2) {
            assert_eq!(completion.result, Err(DiskError::Short));
        }
    });
}

#[test]
fn zeroing_gives_space_back_or_keeps_it() {
    both(|mut bench| {
        use std::os::unix::fs::MetadataExt;
        bench.plain.write_all_at(&[1; 1 << 20], 0).unwrap();
        bench.plain.sync_all().unwrap();
        let full = bench.plain.metadata().unwrap().blocks();
        let zero = |unmap, fua| Action::Zero { range: ByteRange::new(4096, 512 << 10), unmap, fua };
        for (unmap, fua) in [(false, false), (false, true), (true, false), (true, true)] {
            bench.plain.write_all_at(&[1; 1 << 20], 0).unwrap();
            bench.start(1, zero(unmap, fua));
            assert_eq!(bench.finish(1)[0].result, Ok(()));
            let mut bytes = vec![0; 1 << 20];
            bench.plain.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes[4096..][..512 << 10].iter().all(|byte| *byte == 0));
            assert!(bytes[..4096].iter().chain(&bytes[4096 + (512 << 10)..]).all(|byte| *byte == 1));
            bench.plain.sync_all().unwrap();
            if bench.file.supports_punch() {
                assert_eq!(bench.plain.metadata().unwrap().blocks() < full, unmap);
            }
        }
        assert_eq!(bench.plain.metadata().unwrap().len(), 16 << 20, "the size stays");
    });
}

#[test]
fn a_failing_disk_says_why() {
    both(|mut bench| {
        let read_only = std::fs::File::open("/proc/self/exe").unwrap();
        bench.file = Arc::new(DiskFile::new(read_only.into()));
        let from = Memory::Own(AlignedBytes::zeroed(4096));
        bench.start(1, Action::Write { offset: 0, length: 4096, from, fua: false });
        bench.start(2, Action::Zero { range: ByteRange::new(0, 4096), unmap: true, fua: false });
        for completion in bench.finish(2) {
            assert_eq!(completion.result, Err(DiskError::Failed(libc::EBADF)));
        }
        // A device that is always full.
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        bench.file = Arc::new(DiskFile::new(full.into()));
        let from = Memory::Own(AlignedBytes::zeroed(4096));
        bench.start(3, Action::Write { offset: 0, length: 4096, from, fua: false });
        assert_eq!(bench.finish(1)[0].result, Err(DiskError::NoSpace));
    });
}

#[test]
fn a_ring_given_up_in_mid_operation_leaves_no_memory_to_be_reused() {
    both(|mut bench| {
        let buffer = bench.pool.allocate(1 << 20, Class::Client).unwrap();
        let from = Memory::Buffer(buffer);
        bench.start(1, Action::Write { offset: 0, length: 1 << 20, from, fua: false });
        bench.pool.release(buffer);
        bench.ring.submit().unwrap();
        drop(bench.ring);
        assert_eq!(bench.pool.in_use(), 1);
    });
}
