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

use crate::base::ids::{BufferId, RequestId};
use crate::base::latency::{Latency, Stage};
use crate::base::limits::{NBD_ACCEPT_PAUSE, NBD_ACCEPTS_PER_TURN, NBD_CONNECTIONS_MAX, NBD_HANDSHAKES_MAX};
use crate::base::request::Outcome;
use crate::base::time::Moment;
use crate::io::poller::{Event, Interest, Poller};
use crate::io::pool::{Class, Pool};
use crate::logic::export::offer::{Availability, Offer};
use crate::logic::export::split::Piece;
use connection::Connection;
use host::{Means, Pieces};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

/// Tokens of listeners lie below this many above the first one, those of connections from there on.
const LISTENER_TOKENS: u64 = 256;

/// How long clients are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTimes {
    /// To finish negotiating.
    pub handshake: Duration,
    /// To take something of the answers that wait for them.
    pub send: Duration,
    /// The same, and to go on inside a write's payload, while another client waits for a buffer.
    pub stall: Duration,
    /// Silence after which the kernel asks whether a TCP client is still there, in whole seconds.
    pub keepalive: Duration,
}

/// What is borne of a client at present.
#[derive(Clone, Copy, Debug)]
struct Patience {
    handshake: Duration,
    /// With a client that holds buffers without moving a byte.
    holding: Duration,
    /// Someone waits for a buffer: one who pauses in the middle of a write is in the way.
    buffers_are_short: bool,
}

/// The clients of one volume.
#[derive(Debug)]
pub struct Clients {
    offer: Offer,
    times: ClientTimes,
    token_base: u64,
    listeners: Vec<NbdListener>,
    /// Listeners at which someone waits.
    knocking: Vec<usize>,
    /// The kernel had no descriptor left for a client: no one is accepted until then.
    paused_until: Option<Moment>,
    /// Boxed, because every turn looks at every place, and most are empty.
    connections: Vec<Option<Box<Connection>>>,
    /// Addresses that move with the volume and are not here: whoever comes to one is turned away.
    away: Vec<IpAddr>,
    /// Whose turn it is first: the core's room and the pool's buffers may not last for all.
    first: usize,
    /// Connections so far; each gets its own number.
    accepted: u64,
    pieces: Pieces,
    /// Reads of zeroes for which the pool had no buffer yet.
    owed: Vec<(RequestId, Outcome)>,
    /// Of the turn that runs.
    now: Moment,
    /// How long requests take to come in, and answers to go out.
    latency: Latency,
}

impl Clients {
    /// Clients of the volume `name` that come through `listeners`, which are bound. The poller's tokens from
    /// `token_base` on are theirs.
    pub fn new(
        name: &str,
        listeners: Vec<NbdListener>,
        times: ClientTimes,
        token_base: u64,
        poller: &Poller,
    ) -> io::Result<Clients> {
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
        Ok(Clients {
            offer,
            times,
            token_base,
            listeners,
            knocking: Vec::new(),
            paused_until: None,
            connections,
            away: Vec::new(),
            first: 0,
            accepted: 0,
            pieces,
            owed: Vec::new(),
            now: Moment::default(),
            latency: Latency::of(&[Stage::ClientRead, Stage::Reply]),
        })
    }

    /// Waits for clients by other times from here on; the keepalive is that of new connections.
    pub fn set_times(&mut self, times: ClientTimes) {
        self.times = times;
    }

    /// Serves a client that is connected already. When there are too many, the one that has been negotiating for the
    /// longest time gives way; turned away when all of them use the volume.
    pub fn adopt(&mut self, stream: NbdStream, now: Moment, pool: &mut Pool, poller: &Poller) -> io::Result<()> {
        let local = stream.local();
        if local.is_some_and(|local| self.away.contains(&local)) {
            socket::reset_on_close(&stream);
            return Err(io::Error::other("the address it came to is on its way to the other server"));
        }
        let Some(index) = self.place(pool, poller) else {
            return Err(io::Error::other(format!("{} has its most clients ({NBD_CONNECTIONS_MAX})", self.offer.name)));
        };
        let (peer, socket) = stream.prepare(self.times.keepalive)?;
        let id = (index, self.accepted);
        let mut connection = Connection::new(id, peer, local, socket, now)?;
        connection.watched = connection.interest();
        poller.add(connection.stream().as_fd(), self.connection_token(index), connection.watched)?;
        self.accepted += 1;
        self.connections[index] = Some(Box::new(connection));
        Ok(())
    }

    /// A place for one more client: a free one, or that of the oldest that only negotiates.
    fn place(&mut self, pool: &mut Pool, poller: &Poller) -> Option<usize> {
        let negotiating = self.connections.iter().enumerate().filter_map(|(index, slot)| {
            let connection = slot.as_ref().filter(|connection| connection.is_negotiating())?;
            Some((connection.number(), index))
        });
        let (handshakes, oldest) =
            negotiating.fold((0, None), |(count, oldest): (usize, Option<(u64, usize)>), next| {
                (count + 1, Some(oldest.map_or(next, |oldest| oldest.min(next))))
            });
        let free = self.connections.iter().position(Option::is_none).filter(|_| handshakes < NBD_HANDSHAKES_MAX);
        free.or_else(|| {
            let (_, index) = oldest?;
            close(&mut self.connections[index], "it gave way to a newer one", &self.offer.name, pool, poller);
            Some(index)
        })
    }

    /// Takes note of what a descriptor of ours is ready for. Events of descriptors that are gone are ignored.
    pub fn on_event(&mut self, event: Event) {
        let index = event.token.saturating_sub(self.token_base);
        if index < LISTENER_TOKENS {
            // Later: a newcomer may get a place for which there is still an event to come.
            self.knocking.push(index as usize);
        } else if let Some(connection) = self.connections.get_mut((index - LISTENER_TOKENS) as usize) {
            connection.iter_mut().for_each(|connection| connection.note_ready(event.readable, event.broken));
        }
    }

    fn accept(&mut self, listener: usize, now: Moment, pool: &mut Pool, poller: &Poller) {
        for _ in 0..NBD_ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get(listener) else { return };
            let adopted = match listener.accept() {
                Ok(None) => return,
                Ok(Some(stream)) => self.adopt(stream, now, pool, poller),
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

    /// Accepts those who knock, takes in what clients sent and hands pieces to the core, as far as both go in one turn. Cuts sessions that
    /// belong to another life of the volume. The turn woke up at the first moment, and counts as the second.
    pub fn admit<H: Host>(&mut self, host: &mut H, (began, now): (Moment, Moment), pool: &mut Pool, poller: &Poller) {
        self.now = now;
        for listener in std::mem::take(&mut self.knocking) {
            self.accept(listener, now, pool, poller);
        }
        if self.connections.iter().flatten().any(|connection| connection.is_negotiating()) {
            self.offer.availability = host.availability();
        }
        let (cache_epoch, size_bytes) =
            host.serving().map_or((None, 0), |serving| (Some(serving.cache_epoch), serving.size_bytes));
        let mut means = Means { host, pool, poller, pieces: &mut self.pieces, began, latency: &mut self.latency };
        self.first = (self.first + 1) % self.connections.len();
        let (last, first) = self.connections.split_at_mut(self.first);
        for slot in first.iter_mut().chain(last) {
            let Some(connection) = slot else { continue };
            let bound_to = connection.cache_epoch();
            let ended = if bound_to.is_some() && bound_to != cache_epoch {
                Err("this node no longer serves what it was connected to".to_owned())
            } else {
                connection.grown(size_bytes);
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
            Some(connection) if connection.is(piece.connection) => connection.settle(&piece, outcome, self.now, pool),
            _ => {
                // Its client has vanished; a read's buffer is ours to give back.
                if let (Piece::Read(_), Some(buffer)) = (piece.piece, piece.buffer) {
                    pool.release(buffer);
                }
            }
        }
    }

    /// A read is settled whose own buffer stays with the core: its bytes are in another one, or are zeroes.
    pub fn reply_apart(&mut self, id: RequestId, outcome: Outcome, bytes: Option<BufferId>, pool: &mut Pool) {
        let Piece::Read(range) = self.pieces.get(id).piece else { unreachable!("only reads are answered apart") };
        let length = range.aligned_out().length as usize;
        let Some(buffer) = bytes.or_else(|| pool.allocate(length, Class::Client)) else {
            return self.owed.push((id, outcome));
        };
        if bytes.is_none() {
            pool.slice_mut(buffer).fill(0);
        }
        self.pieces.exchange_buffer(id, buffer);
        self.reply(id, outcome, pool);
    }

    /// Sends what waits, ends connections that are over, and tells the poller what to watch for.
    pub fn flush(&mut self, now: Moment, pool: &mut Pool, poller: &Poller) {
        for (id, outcome) in std::mem::take(&mut self.owed) {
            self.reply_apart(id, outcome, None, pool);
        }
        let patience = self.patience();
        for (index, slot) in self.connections.iter_mut().enumerate() {
            let Some(connection) = slot else { continue };
            let token = self.token_base + LISTENER_TOKENS + index as u64;
            let watched = connection
                .send(now, &patience, &mut self.latency, pool)
                .and_then(|()| watch(connection, token, poller));
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
        connections.filter_map(|connection| connection.deadline(&patience)).chain(self.paused_until).min()
    }

    /// A client that holds buffers is borne for less time while another one waits for a buffer.
    fn patience(&self) -> Patience {
        let buffers_are_short = self.connections.iter().flatten().any(|connection| connection.is_starving());
        let holding = if buffers_are_short { self.times.stall } else { self.times.send };
        Patience { handshake: self.times.handshake, holding, buffers_are_short }
    }

    /// Cuts every client that uses the volume. Those still in the handshake hear why it is not served.
    pub fn cut(&mut self, reason: &str, pool: &mut Pool, poller: &Poller) {
        for slot in &mut self.connections {
            if slot.as_ref().is_some_and(|connection| !connection.is_negotiating()) {
                close(slot, reason, &self.offer.name, pool, poller);
            }
        }
    }

    /// An address that moves with the volume is here, or is about to go. Before it goes, whoever came to it is reset: after
    /// that nothing reaches them any more. From then on until it is here again newcomers are turned away, so that they try
    /// again, and find the other server.
    pub fn set_address(&mut self, address: IpAddr, here: bool, pool: &mut Pool, poller: &Poller) {
        self.away.retain(|away| *away != address);
        if here {
            return;
        }
        self.away.push(address);
        for slot in &mut self.connections {
            if let Some(connection) = slot.as_ref().filter(|connection| connection.local() == Some(address)) {
                socket::reset_on_close(&connection.stream().as_fd());
                close(slot, "the address it came to leaves this node", &self.offer.name, pool, poller);
            }
        }
    }

    /// Clients that use the volume.
    pub fn connected(&self) -> usize {
        self.connections.iter().flatten().filter(|connection| !connection.is_negotiating()).count()
    }

    /// Clients that use the volume, but for the block device of this kernel.
    pub fn connected_by_themselves(&self) -> usize {
        let connections = self.connections.iter().flatten();
        connections.filter(|connection| !connection.is_negotiating() && !connection.is_device()).count()
    }

    /// Cuts the block device of this kernel, and leaves what it asked for unanswered.
    pub fn cut_devices(&mut self, reason: &str, pool: &mut Pool, poller: &Poller) {
        for slot in &mut self.connections {
            if slot.as_ref().is_some_and(|connection| connection.is_device()) {
                close(slot, reason, &self.offer.name, pool, poller);
            }
        }
    }

    /// Whether no client uses the volume and the core has no piece of one.
    pub fn is_quiet(&self) -> bool {
        self.connected() == 0 && self.pieces.count() == 0
    }

    /// How long requests took to come in, and answers to go out.
    pub fn latency(&self) -> &Latency {
        &self.latency
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
