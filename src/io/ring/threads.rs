//! The engine for where io_uring is forbidden: a few threads that make the system calls one by one.

use super::{Job, Step, carry_out};
use crate::base::limits::DISK_THREADS;
use crate::io::poller::{eventfd_drain, eventfd_signal, new_eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

#[derive(Debug)]
pub(super) struct Threads {
    shared: Arc<Shared>,
    /// Jobs of this turn, handed over in one go.
    gathered: Vec<Job>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    done: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    finished: Vec<(u32, i32)>,
    stopping: bool,
}

impl Threads {
    pub fn new() -> io::Result<Threads> {
        let done = new_eventfd()?;
        let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), done });
        // Dropped on an early return: stops those already started.
        let threads = Threads { shared, gathered: Vec::new() };
        for number in 0..DISK_THREADS {
            let shared = threads.shared.clone();
            std::thread::Builder::new().name(format!("disk-{number}")).spawn(move || shared.run())?;
        }
        Ok(threads)
    }

    pub fn push(&mut self, slot: u32, fd: RawFd, step: Step) {
        self.gathered.push((slot, fd, step));
    }

    pub fn submit(&mut self) {
        let count = self.gathered.len();
        if count == 0 {
            return;
        }
        self.shared.lock().jobs.extend(self.gathered.drain(..));
        if count == 1 { self.shared.work.notify_one() } else { self.shared.work.notify_all() }
    }

    pub fn finished(&mut self, out: &mut Vec<(u32, i32)>) {
        let mut state = self.shared.lock();
        if !state.finished.is_empty() {
            out.append(&mut state.finished);
            // Under the lock, so that a signal for what comes after is not drained with it.
            eventfd_drain(self.shared.done.as_fd());
        }
    }

    pub fn has_finished(&self) -> bool {
        !self.shared.lock().finished.is_empty()
    }
}

impl AsFd for Threads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.done.as_fd()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Not joined: one may hang in a disk that never answers.
        self.shared.lock().stopping = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the lock")
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.stopping {
            let Some((slot, fd, step)) = state.jobs.pop_front() else {
                state = self.work.wait(state).expect("no thread panics while it holds the lock");
                continue;
            };
            drop(state);
            let result = carry_out(fd, step);
            state = self.lock();
            if state.finished.is_empty() {
                eventfd_signal(self.done.as_fd());
            }
            state.finished.push((slot, result));
        }
    }
}
