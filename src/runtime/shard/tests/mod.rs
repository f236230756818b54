//! The parts of a shard on real files and sockets.

mod disk;
mod link;
mod pair;
mod persist;

use super::disk::{Disk, Means};
use crate::io::poller::{Interest, Poller};
use crate::io::pool::Pool;
use crate::io::ring::{Choice, Completion, DiskFile, Ring};
use crate::logic::mirror::interface::Input;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

const MIB: usize = 1 << 20;
/// Reached only when something is lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// A file, and what is needed to work on it.
struct Bench {
    ring: Ring,
    pool: Pool,
    poller: Poller,
    plain: std::fs::File,
    file: Arc<DiskFile>,
    answers: Vec<Input>,
}

impl Bench {
    fn new(file_bytes: u64) -> Bench {
        let ring = Ring::new(Choice::Automatic).unwrap();
        let poller = Poller::new().unwrap();
        poller.add(ring.as_fd(), 1, Interest::READ).unwrap();
        let plain = tempfile::tempfile().unwrap();
        plain.set_len(file_bytes).unwrap();
        let file = Arc::new(DiskFile::new(plain.try_clone().unwrap().into()));
        Bench { ring, pool: Pool::with_arena(8 * MIB).unwrap(), poller, plain, file, answers: Vec::new() }
    }

    fn means(&mut self) -> Means<'_> {
        Means { ring: &mut self.ring, pool: &mut self.pool, answers: &mut self.answers }
    }

    /// Waits until operations of the ring have ended.
    fn completions(&mut self) -> Vec<Completion> {
        let mut out = Vec::new();
        let mut events = Vec::new();
        let started = std::time::Instant::now();
        while out.is_empty() {
            self.ring.submit().unwrap();
            self.ring.reap(&mut self.pool, &mut out);
            if out.is_empty() && !self.ring.wants_submit() && !self.ring.has_finished() {
                self.poller.wait(&mut events, Some(PATIENCE)).unwrap();
                assert!(started.elapsed() < PATIENCE, "an operation was lost");
            }
        }
        out
    }

    /// Works as the shard does until `count` operations of the core are answered.
    fn answers_of(&mut self, disk: &mut Disk, count: usize) -> Vec<Input> {
        while self.answers.len() < count {
            for completion in self.completions() {
                let answer = disk.finish(completion, &mut self.pool);
                self.answers.extend(answer);
            }
            disk.resume(&mut self.means());
        }
        std::mem::take(&mut self.answers)
    }
}
