//! Serves an archive's view over NBD, read-only, from the command that was asked for it: the same sessions as a volume's,
//! with a view behind them instead of a core.

use crate::base::error::RequestError;
use crate::base::ids::BufferId;
use crate::base::limits::PIECES_IN_FLIGHT_MAX;
use crate::base::range::ByteRange;
use crate::base::request::{Action, Outcome, Request};
use crate::io::archive::View;
use crate::io::clock::now;
use crate::io::poller::{Interest, Poller};
use crate::io::pool::Pool;
use crate::logic::export::offer::{Availability, Terms};
use crate::logic::mirror::interface::Serving;
use crate::runtime::config::settings::VolumeSettings;
use crate::runtime::shard::clients::{Clients, Host, NbdListener};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

const TOKEN_SIGNALS: u64 = 0;
const TOKEN_CLIENTS: u64 = 1 << 32;

/// Signals that end the serving, from when this is made: they must not end the process before it has tidied up.
pub struct Signals(SignalFd);

impl Signals {
    /// Takes them over from the process.
    pub fn new() -> io::Result<Signals> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        signals.thread_block()?;
        Ok(Signals(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }
}

/// Serves the view under this name until a signal comes.
pub fn serve(name: &str, view: View, listener: NbdListener, signals: Signals) -> io::Result<()> {
    let mut poller = Poller::new()?;
    let mut pool = Pool::new()?;
    poller.add(signals.0.as_fd(), TOKEN_SIGNALS, Interest::READ)?;
    let times = VolumeSettings::default().client_times();
    let mut clients = Clients::new(name, vec![listener], times, TOKEN_CLIENTS, &poller)?;
    let mut shown = Shown { view, taken: Vec::new() };
    let mut events = Vec::new();
    loop {
        let timeout = if clients.has_more(shown.can_admit(), &pool) {
            Some(Duration::ZERO)
        } else {
            clients.deadline().map(|deadline| deadline.since(now()))
        };
        poller.wait(&mut events, timeout)?;
        for event in events.drain(..) {
            if event.token == TOKEN_SIGNALS {
                return Ok(());
            }
            clients.on_event(event);
        }
        let now = now();
        clients.admit(&mut shown, (now, now), &mut pool, &poller);
        for request in std::mem::take(&mut shown.taken) {
            let outcome = shown.answer(&request.action, &mut pool);
            clients.reply(request.id, outcome, &mut pool);
        }
        clients.flush(now, &mut pool, &poller);
    }
}

/// The view, as the clients see it.
struct Shown {
    view: View,
    taken: Vec<Request>,
}

impl Shown {
    fn answer(&mut self, action: &Action, pool: &mut Pool) -> Outcome {
        match *action {
            Action::Read { range, buffer } => self.read(range, buffer, pool),
            Action::Flush => Ok(()),
            // Refused by the session already: it offers no writing.
            Action::Write { buffer, .. } => {
                pool.release(buffer);
                Err(RequestError::Io)
            }
            Action::Zero { .. } => Err(RequestError::Io),
        }
    }

    fn read(&mut self, range: ByteRange, buffer: BufferId, pool: &mut Pool) -> Outcome {
        self.view.read(range.aligned_out(), pool.slice_mut(buffer)).map_err(|error| {
            eprintln!("twinblock: {range} can't be read: {error}");
            RequestError::Io
        })
    }
}

impl Host for Shown {
    fn serving(&self) -> Option<Serving> {
        Some(Serving { size_bytes: self.view.size_bytes(), cache_epoch: 0 })
    }

    fn availability(&self) -> Availability {
        let size_bytes = self.view.size_bytes();
        Availability::Serving(Terms { size_bytes, cache_epoch: 0, read_only: true, fast_zero: false })
    }

    fn can_admit(&self) -> bool {
        self.taken.len() < PIECES_IN_FLIGHT_MAX
    }

    fn submit(&mut self, request: Request) {
        self.taken.push(request);
    }

    fn holes(&self, range: ByteRange, most: usize) -> Vec<ByteRange> {
        self.view.holes(range, most)
    }

    fn dirty(&self, range: ByteRange, most: usize) -> Vec<ByteRange> {
        self.view.archived(range, most)
    }
}
