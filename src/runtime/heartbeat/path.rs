//! One path: its socket, opened anew whenever its address was gone, and its counters.

use super::log::Log;
use super::{PathReport, PathSpec};
use crate::wire::heartbeat::Refusal;
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A path, used by both threads.
pub struct Path {
    spec: PathSpec,
    socket: Mutex<Option<Arc<UdpSocket>>>,
    /// The socket is of no use any more.
    broken: AtomicBool,
    log: Mutex<Log>,
    sent: AtomicU64,
    unsent: AtomicU64,
    heard: AtomicU64,
    unheard: AtomicU64,
}

/// What sending showed beside that it was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The peer's host says that nobody listens there.
    pub unheard: bool,
    /// The socket should be opened anew.
    pub reopen: bool,
}

impl Path {
    /// A path that is not open yet.
    pub fn new(spec: PathSpec) -> Path {
        Path {
            spec,
            socket: Mutex::new(None),
            broken: AtomicBool::new(false),
            log: Mutex::default(),
            sent: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            unheard: AtomicU64::new(0),
        }
    }

    /// The socket, if it is open and good.
    pub fn socket(&self) -> Option<Arc<UdpSocket>> {
        let good = !self.broken.load(Ordering::Acquire);
        self.socket.lock().expect("nobody panics with a socket in hand").clone().filter(|_| good)
    }

    /// Opens the socket; a failure is said and the path stays closed.
    pub fn open(&self) {
        // The old one is closed first: it holds the address.
        *self.socket.lock().expect("nobody panics with a socket in hand") = None;
        let opened = UdpSocket::bind(self.spec.local).and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.connect(self.spec.peer)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                *self.socket.lock().expect("nobody panics with a socket in hand") = Some(Arc::new(socket));
                self.broken.store(false, Ordering::Release);
                self.with_log(|log, name| log.well(name));
            }
            Err(error) => self.trouble(&error),
        }
    }

    /// Sends a datagram, now or never.
    pub fn send(&self, bytes: &[u8]) -> Sent {
        let mut outcome = Sent::default();
        // Held while sending, which never waits: a socket that is in use can't be opened anew on the same address.
        let held = self.socket.lock().expect("nobody panics with a socket in hand");
        let Some(socket) = held.as_ref().filter(|_| !self.broken.load(Ordering::Acquire)) else {
            self.unsent.fetch_add(1, Ordering::Relaxed);
            return outcome;
        };
        let mut sent = socket.send(bytes);
        // The answer to an earlier datagram; this one has not been sent yet.
        if sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            self.unheard.fetch_add(1, Ordering::Relaxed);
            outcome.unheard = true;
            sent = socket.send(bytes);
        }
        match sent {
            Ok(_) => {
                self.sent.fetch_add(1, Ordering::Relaxed);
                self.with_log(|log, name| log.well(name));
            }
            Err(error) => {
                self.unsent.fetch_add(1, Ordering::Relaxed);
                outcome.reopen = self.failed(&error);
            }
        }
        outcome
    }

    /// Notes that the network or the kernel failed; whether the socket has to be opened anew.
    pub fn failed(&self, error: &io::Error) -> bool {
        let number = error.raw_os_error().unwrap_or(0);
        // Nothing is wrong, or what is wrong passes with the network: a full queue, no route, an interface that is down.
        let passing = [libc::EAGAIN, libc::EINTR, libc::ECONNREFUSED];
        if passing.contains(&number) {
            return false;
        }
        self.trouble(error);
        let outside = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENETDOWN, libc::EHOSTDOWN, libc::ENOBUFS];
        let reopen = ![libc::EPERM, libc::EACCES].contains(&number) && !outside.contains(&number);
        if reopen {
            self.broken.store(true, Ordering::Release);
        }
        reopen
    }

    /// The peer was heard.
    pub fn count_heard(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        self.with_log(|log, _| log.heard());
    }

    /// The peer's host said that nobody listens.
    pub fn count_unheard(&self) {
        self.unheard.fetch_add(1, Ordering::Relaxed);
    }

    /// A datagram was not taken.
    pub fn refused(&self, peer: &str, refusal: &Refusal) {
        self.with_log(|log, name| log.refused(name, peer, refusal, Instant::now()));
    }

    /// How it is.
    pub fn report(&self) -> PathReport {
        let (trouble, refused) = self.with_log(|log, _| (log.current(), log.counts(Instant::now())));
        PathReport {
            name: self.spec.name.clone(),
            local: self.spec.local,
            peer: self.spec.peer,
            trouble,
            sent: self.sent.load(Ordering::Relaxed),
            unsent: self.unsent.load(Ordering::Relaxed),
            heard: self.heard.load(Ordering::Relaxed),
            unheard: self.unheard.load(Ordering::Relaxed),
            refused,
        }
    }

    fn trouble(&self, error: &io::Error) {
        let (local, peer) = (self.spec.local, self.spec.peer);
        let words = match error.kind() {
            ErrorKind::AddrNotAvailable => {
                format!("this server does not have the address {} yet; it is tried again all the time", local.ip())
            }
            ErrorKind::AddrInUse => format!("another program uses {local}; give the heartbeat an address of its own"),
            _ => format!("nothing can be sent from {local} to {peer}: {error}; check the interface and the routes"),
        };
        self.with_log(|log, name| log.trouble(name, words));
    }

    fn with_log<T>(&self, act: impl FnOnce(&mut Log, &str) -> T) -> T {
        act(&mut self.log.lock().expect("nobody panics with the log in hand"), &self.spec.name)
    }
}
