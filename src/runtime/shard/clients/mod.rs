//! The clients of one volume: connections accepted, requests taken in, answers sent, all on the shard's thread.
//!
//! ```text
//!  socket ─▶ staging ─▶ Session (checks, splits) ─▶ Host::submit ─▶ core
//!     │                                                              │
//!     └─▶ pool buffer (large payloads, read in place)                ▼
//!  socket ◀─ one vectored send a turn ◀─ Session (joins, answers) ◀─ reply
//! ```
//!
//! Order of a turn: [`Clients::on_event`] for each event, [`Clients::admit`] once, the core's effects (replies come
//! in by [`Clients::reply`]), [`Clients::flush`] once. Nothing here waits: what has no buffer, no room in the core or
//! a client that reads nothing is left unread in its socket.

mod connection;
mod host;
mod socket;

pub use host::Host;
pub use socket::{ClientView, NbdListener, NbdStream};

use crate::base::ids::RequestId;
use crate::base::limits::{
    NBD_ACCEPT_PAUSE, NBD_ACCEPTS_PER_TURN, NBD_CONNECTIONS_MAX, NBD_HANDSHAKES_MAX, NBD_SEND_TIME_MAX,
    NBD_STALL_TIME_MAX,
};
use crate::base::request::Outcome;
use crate::base::time::Moment;
use crate::io::poller::{Event, Interest, Poller};
use crate::io::pool::Pool;
use crate::logic::export::offer::{Availability, Offer};
use crate::logic::export::split::Piece;
use connection::Connection;
use host::{Means, Pieces};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Tokens of listeners lie below this many above the first one, those of connections from there on.
const LISTENER_TOKENS: u64 = 256;

/// The clients of one volume.
#[derive(Debug)]
pub struct Clients {
    offer: Offer,
    token_base: u64,
    listeners: Vec<NbdListener>,
    /// The kernel had no descriptor left for a client: no one is accepted until then.
    paused_until: Option<Moment>,
    /// Boxed, because every turn looks at every place, and most are empty.
    connections: Vec<Option<Box<Connection>>>,
    /// Whose turn it is first: the core's room and the pool's buffers may not last for all.
    first: usize,
    /// Connections so far; each gets its own number.
    accepted: u64,
    pieces: Pieces,
}

impl Clients {
    /// Clients of the volume `name` that come through `listeners`, which are bound. The poller's tokens from
    /// `token_base` on are theirs.
    pub fn new(name: &str, listeners: Vec<NbdListener>, token_base: u64, poller: &Poller) -> io::Result<Clients> {
        assert!((listeners.len() as u64) < LISTENER_TOKENS, "a volume has a handful of addresses");
        for (token, listener) in (token_base..).zip(&listeners) {
            listener.set_nonblocking()?;
            poller.add(listener.as_fd(), token, Interest::READ)?;
        }
        let offer = Offer {
            name: name.to_owned(),
            description: format!("twinblock volume {name}, mirrored on two servers"),
            availability: Availability::Stopping,
        };
        let connections = (0..NBD_CONNECTIONS_MAX).map(|_| None).collect();
        let pieces = Pieces::default();
        Ok(Clients { offer, token_base, listeners, paused_until: None, connections, first: 0, accepted: 0, pieces })
    }

    /// Serves a client that is connected already. Turned away when there are too many.
    pub fn adopt(&mut self, stream: NbdStream, now: Moment, poller: &Poller) -> io::Result<()> {
        let handshakes = self.connections.iter().flatten().filter(|connection| connection.is_negotiating()).count();
        let free = self.connections.iter().position(Option::is_none);
        let (Some(index), true) = (free, handshakes < NBD_HANDSHAKES_MAX) else {
            return Err(io::Error::other(format!(
                "{} has its most clients ({NBD_CONNECTIONS_MAX}, {NBD_HANDSHAKES_MAX} of them in the handshake)",
                self.offer.name
            )));
        };
        let (peer, socket) = stream.prepare()?;
        let id = (index, self.accepted);
        let mut connection = Connection::new(id, peer, socket, now)?;
        connection.watched = connection.interest();
        poller.add(connection.stream().as_fd(), self.connection_token(index), connection.watched)?;
        self.accepted += 1;
        self.connections[index] = Some(Box::new(connection));
        Ok(())
    }

    /// Takes note of what a descriptor of ours is ready for. Events of descriptors that are gone are ignored.
    pub fn on_event(&mut self, event: Event, now: Moment, poller: &Poller) {
        let index = event.token.saturating_sub(self.token_base);
        if index < LISTENER_TOKENS {
            self.accept(index as usize, now, poller);
        } else if let Some(connection) = self.connections.get_mut((index - LISTENER_TOKENS) as usize) {
            connection.iter_mut().for_each(|connection| connection.note_ready(event.readable, event.broken));
        }
    }

    fn accept(&mut self, listener: usize, now: Moment, poller: &Poller) {
        for _ in 0..NBD_ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get(listener) else { return };
            let adopted = match listener.accept() {
                Ok(None) => return,
                Ok(Some(stream)) => self.adopt(stream, now, poller),
                Err(error) => {
                    tracing::warn!(volume = self.offer.name, "clients have to wait, none can be accepted: {error}");
                    self.paused_until = Some(now + NBD_ACCEPT_PAUSE);
                    return self.watch_listeners(Interest::NONE, poller);
                }
            };
            if let Err(error) = adopted {
                tracing::debug!(volume = self.offer.name, "a client was turned away: {error}");
            }
        }
    }

    fn watch_listeners(&self, interest: Interest, poller: &Poller) {
        for (token, listener) in (self.token_base..).zip(&self.listeners) {
            if let Err(error) = poller.modify(listener.as_fd(), token, interest) {
                tracing::warn!(volume = self.offer.name, "a listening socket can't be watched: {error}");
            }
        }
    }

    /// Takes in what clients sent and hands pieces to the core, as far as both go in one turn. Cuts sessions that
    /// belong to another life of the volume.
    pub fn admit<H: Host>(&mut self, host: &mut H, pool: &mut Pool, poller: &Poller) {
        if self.connections.iter().flatten().any(|connection| connection.is_negotiating()) {
            self.offer.availability = host.availability();
        }
        let cache_epoch = host.serving().map(|serving| serving.cache_epoch);
        let mut means = Means { host, pool, poller, pieces: &mut self.pieces };
        self.first = (self.first + 1) % self.connections.len();
        let (last, first) = self.connections.split_at_mut(self.first);
        for slot in first.iter_mut().chain(last) {
            let Some(connection) = slot else { continue };
            let bound_to = connection.cache_epoch();
            let ended = if bound_to.is_some() && bound_to != cache_epoch {
                Err("this node no longer serves what it was connected to".to_owned())
            } else {
                connection.take_in(&self.offer, &mut means)
            };
            if let Err(why) = ended {
                close(slot, &why, &self.offer.name, means.pool, means.poller);
            }
        }
    }

    /// A piece is settled.
    pub fn reply(&mut self, id: RequestId, outcome: Outcome, pool: &mut Pool) {
        let piece = self.pieces.take(id);
        match &mut self.connections[piece.connection.0] {
            Some(connection) if connection.is(piece.connection) => connection.settle(&piece, outcome, pool),
            _ => {
                // Its client has vanished; a read's buffer is ours to give back.
                if let (Piece::Read(_), Some(buffer)) = (piece.piece, piece.buffer) {
                    pool.release(buffer);
                }
            }
        }
    }

    /// Sends what waits, ends connections that are over, and tells the poller what to watch for.
    pub fn flush(&mut self, now: Moment, pool: &mut Pool, poller: &Poller) {
        let patience = self.patience();
        for (index, slot) in self.connections.iter_mut().enumerate() {
            let Some(connection) = slot else { continue };
            let token = self.token_base + LISTENER_TOKENS + index as u64;
            let watched = connection.send(now, patience, pool).and_then(|()| watch(connection, token, poller));
            if let Err(why) = watched {
                close(slot, &why, &self.offer.name, pool, poller);
            }
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.watch_listeners(Interest::READ, poller);
        }
    }

    /// Whether something can be done although nothing has come in.
    pub fn has_more(&self, can_admit: bool, pool: &Pool) -> bool {
        self.connections.iter().flatten().any(|connection| connection.has_more(can_admit, pool))
    }

    /// When [`Clients::flush`] is wanted at the latest.
    pub fn deadline(&self) -> Option<Moment> {
        let patience = self.patience();
        let connections = self.connections.iter().flatten();
        connections.filter_map(|connection| connection.deadline(patience)).chain(self.paused_until).min()
    }

    /// How long a client may hold buffers without moving a byte: less while another one waits for a buffer.
    fn patience(&self) -> Duration {
        let starving = self.connections.iter().flatten().any(|connection| connection.is_starving());
        if starving { NBD_STALL_TIME_MAX } else { NBD_SEND_TIME_MAX }
    }

    /// Cuts every client that uses the volume. Those still in the handshake hear why it is not served.
    pub fn cut(&mut self, reason: &str, pool: &mut Pool, poller: &Poller) {
        for slot in &mut self.connections {
            if slot.as_ref().is_some_and(|connection| !connection.is_negotiating()) {
                close(slot, reason, &self.offer.name, pool, poller);
            }
        }
    }

    /// Clients that use the volume.
    pub fn connected(&self) -> usize {
        self.connections.iter().flatten().filter(|connection| !connection.is_negotiating()).count()
    }

    /// Whether no client uses the volume and the core has no piece of one.
    pub fn is_quiet(&self) -> bool {
        self.connected() == 0 && self.pieces.count() == 0
    }

    /// All clients, for status.
    pub fn view(&self, now: Moment) -> Vec<ClientView> {
        self.connections.iter().flatten().map(|connection| connection.view(now)).collect()
    }

    fn connection_token(&self, index: usize) -> u64 {
        self.token_base + LISTENER_TOKENS + index as u64
    }
}

/// Watches the socket for what the connection waits for now.
fn watch(connection: &mut Connection, token: u64, poller: &Poller) -> Result<(), String> {
    let interest = connection.interest();
    if interest != connection.watched {
        poller.modify(connection.stream().as_fd(), token, interest).map_err(|error| error.to_string())?;
        connection.watched = interest;
    }
    Ok(())
}

/// Ends a connection. What the core has of it settles without it.
fn close(slot: &mut Option<Box<Connection>>, why: &str, volume: &str, pool: &mut Pool, poller: &Poller) {
    let Some(mut connection) = slot.take() else { return };
    if connection.is_negotiating() {
        tracing::debug!(volume, peer = connection.peer(), "the handshake with a client ended: {why}");
    } else {
        tracing::info!(volume, peer = connection.peer(), "a client's connection ended: {why}");
    }
    connection.close(pool);
    if let Err(error) = poller.remove(connection.stream().as_fd()) {
        // The descriptor is closed next, which ends the watching as well.
        tracing::debug!(volume, "a client's socket was not watched: {error}");
    }
}
