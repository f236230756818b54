//! Connections of sessions that ended in order: what was queued (a goodbye above all) is still sent, and the other side
//! gets time to read it, because closing a socket with unread input would destroy what is under way.

use crate::base::limits::{LINK_LINGER_TIME_MAX, LINK_LINGERING_MAX};
use crate::base::time::Moment;
use crate::io::poller::{Event, Interest, Poller};
use crate::io::pool::Pool;
use crate::io::stream::{Received, Stream};
use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::{AsFd, AsRawFd};

/// The connections, oldest first.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    tokens: std::ops::Range<u64>,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    token: u64,
    until: Moment,
    /// Everything was sent and the other side was told that this was all.
    sent: bool,
}

impl Lingering {
    /// No connections yet; each gets one of the tokens.
    pub fn new(tokens: std::ops::Range<u64>) -> Lingering {
        assert!(tokens.end - tokens.start >= LINK_LINGERING_MAX as u64, "each connection has its own token");
        Lingering { tokens, connections: Vec::new() }
    }

    /// Takes over a connection that the poller watches.
    pub fn add(&mut self, mut stream: Stream, now: Moment, pool: &mut Pool, poller: &Poller) {
        if self.connections.len() == LINK_LINGERING_MAX {
            self.connections.remove(0).stream.discard(pool);
        }
        let used = |token: &u64| self.connections.iter().any(|connection| connection.token == *token);
        let token = self.tokens.clone().find(|token| !used(token)).expect("fewer connections than tokens");
        if poller.modify(stream.as_fd(), token, Interest::BOTH).is_err() {
            return stream.discard(pool);
        }
        self.connections.push(Connection { stream, token, until: now + LINK_LINGER_TIME_MAX, sent: false });
        self.advance(self.connections.len() - 1, pool, poller);
    }

    pub fn on_event(&mut self, event: Event, pool: &mut Pool, poller: &Poller) {
        if let Some(at) = self.connections.iter().position(|connection| connection.token == event.token) {
            self.advance(at, pool, poller);
        }
    }

    fn advance(&mut self, at: usize, pool: &mut Pool, poller: &Poller) {
        if self.connections[at].advance(pool, poller).is_none() {
            self.connections.remove(at).stream.discard(pool);
        }
    }

    pub fn deadline(&self) -> Option<Moment> {
        self.connections.first().map(|connection| connection.until)
    }

    pub fn on_deadline(&mut self, now: Moment, pool: &mut Pool) {
        while self.connections.first().is_some_and(|connection| connection.until <= now) {
            self.connections.remove(0).stream.discard(pool);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }
}

impl Connection {
    /// Goes on; `None` when there is nothing left to do.
    fn advance(&mut self, pool: &mut Pool, poller: &Poller) -> Option<()> {
        if !self.sent && self.stream.send(pool).ok()? {
            shutdown(self.stream.as_fd().as_raw_fd(), Shutdown::Write).ok()?;
            self.sent = true;
            poller.modify(self.stream.as_fd(), self.token, Interest::READ).ok()?;
        }
        // One read per event: what still comes in is of no use to anyone.
        match self.stream.receive().ok()? {
            Received::Bytes(_) => self.stream.consume(self.stream.staged().len()),
            Received::Nothing => {}
            Received::Closed => return None,
        }
        Some(())
    }
}
