//! The accepting side: one listener per mirror address, a bounded number of handshakes, each of bounded time.

use super::auth::{self, AuthError, Authenticated};
use super::{Links, Local, VolumeLink, aside, dial};
use crate::runtime::config::NodeConfig;
use crate::wire::aside::ASIDE;
use crate::wire::hello::{Encryption, Hello, Refused};
use nix::sys::socket::{setsockopt, sockopt};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Pause after a failed accept (no descriptors left): the loop must not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between two lines of the log about strangers.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// Connections the kernel keeps for us until we take them.
const BACKLOG: u32 = 128;

/// Binds every mirror address of a node. The error is a reason and a next step.
pub fn bind(node: &NodeConfig) -> Result<Vec<TcpListener>, (String, String)> {
    node.mirror.iter().map(|address| bind_tcp(*address)).collect()
}

/// Binds a TCP address.
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, (String, String)> {
    bind_here(address, false)
}

/// Binds a TCP address that need not be here yet: it may come, and go, while the listener stands.
pub fn bind_floating(address: SocketAddr) -> Result<TcpListener, (String, String)> {
    bind_here(address, true)
}

fn bind_here(address: SocketAddr, floating: bool) -> Result<TcpListener, (String, String)> {
    let bound = || {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        }?;
        // A daemon that was killed leaves connections behind that would keep the port for a minute.
        socket.set_reuseaddr(true)?;
        if floating {
            // Holds for IPv6 sockets, too.
            setsockopt(&socket, sockopt::IpFreebind, &true)?;
        }
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|error| {
        let next = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!(
                    "stop the process that has the port (`ss -ltnp 'sport = :{}'`), or choose another",
                    address.port()
                )
            }
            std::io::ErrorKind::AddrNotAvailable => {
                "it is no address of this server: check the configuration and --node, or bring the interface up".into()
            }
            _ => "check the address in the configuration".into(),
        };
        (format!("the address {address} can't be listened at: {error}"), next)
    })
}

/// Places for connections that are not authenticated yet. Half of them are for the peer's own addresses, so that
/// strangers who connect and say nothing can't keep it out.
pub struct Places {
    peer: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    peer_addresses: Vec<IpAddr>,
    rare: RareLog,
}

/// A log that a stranger can't flood: one line in a while, with the number of those left out.
struct RareLog {
    last: Cell<Option<Instant>>,
    left_out: Cell<u64>,
}

impl RareLog {
    fn log(&self, words: std::fmt::Arguments<'_>) {
        if self.last.get().is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            self.left_out.set(self.left_out.get() + 1);
            return;
        }
        self.last.set(Some(Instant::now()));
        match self.left_out.take() {
            0 => tracing::warn!("{words}"),
            n => tracing::warn!("{words} (and {n} more like this were not logged)"),
        }
    }
}

impl Places {
    /// As many places as the configuration allows.
    pub fn new(local: &Local) -> Places {
        let half = (local.settings().handshakes_max as usize / 2).max(1);
        Places {
            peer: Arc::new(Semaphore::new(half)),
            strangers: Arc::new(Semaphore::new(half)),
            peer_addresses: local.peer_addresses.iter().map(SocketAddr::ip).collect(),
            rare: RareLog { last: Cell::new(None), left_out: Cell::new(0) },
        }
    }

    /// A place for a connection from there, if one is free.
    pub fn take(&self, from: IpAddr) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let places = if self.peer_addresses.contains(&from) { &self.peer } else { &self.strangers };
        places.clone().try_acquire_owned().ok()
    }
}

/// Accepts at one listener for as long as the daemon runs. Runs on a `LocalSet`.
pub async fn serve(listener: TcpListener, local: Rc<Local>, links: Links, places: Rc<Places>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(place) = places.take(from.ip()) else {
                    let rare = &places.rare;
                    rare.log(format_args!("a connection from {from} was closed: too many are authenticating at once"));
                    continue;
                };
                let (local, links, places) = (local.clone(), links.clone(), places.clone());
                tokio::task::spawn_local(async move {
                    handshake(&local, &links, &places.rare, stream, from).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("a connection of the peer can't be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn handshake(local: &Rc<Local>, links: &Links, rare: &RareLog, mut stream: TcpStream, from: SocketAddr) {
    let mut named: Option<Rc<VolumeLink>> = None;
    let handshake = auth::accept(&mut stream, &local.credentials, |hello| {
        named = links.iter().find(|link| link.name == hello.volume).cloned();
        judge(local, named.as_deref(), hello)
    });
    let result = match timeout(local.settings().handshake_timeout, handshake).await {
        Ok(result) => result,
        Err(_) => Err(AuthError::TooSlow),
    };
    match (result, named) {
        (Ok(authenticated), Some(link)) => dial::hand_over(local, &link, stream, &authenticated, from),
        (Ok(authenticated), None) => {
            tokio::task::spawn_local(serve_aside(local.clone(), stream, authenticated, from));
        }
        (Err(AuthError::Probe), _) => tracing::debug!("{from} looked whether this daemon listens"),
        (Err(error), Some(link)) if link.wanted.get() => link.set_trouble(format!("connection from {from}: {error}")),
        (Err(error), _) => {
            rare.log(format_args!("a connection from {from} was refused: {error}"));
            // Nobody knows which volume it was for; while there is no link, it is what every one of them lacks.
            for link in links.iter().filter(|link| link.wanted.get() && error.is_refusal()) {
                link.trouble.borrow_mut().get_or_insert_with(|| format!("connection from {from}: {error}"));
            }
        }
    }
}

/// Answers a question of the peer; its place among those that authenticate is free again.
async fn serve_aside(local: Rc<Local>, stream: TcpStream, authenticated: Authenticated, from: SocketAddr) {
    match aside::serve(&local, stream, authenticated).await {
        Ok(()) => tracing::debug!("{from} asked something, and was answered"),
        Err(reason) => tracing::warn!("what {from} asked was not answered: {reason}"),
    }
}

/// Whether the sender of a hello gets a session, and what we tell of ourselves.
fn judge(local: &Local, link: Option<&VolumeLink>, hello: &Hello) -> Result<Hello, Refused> {
    let refused = |code: &str, reason: String| Err(Refused { code: code.into(), reason });
    local.judge(hello)?;
    if hello.volume == ASIDE {
        return Ok(aside::hello(local));
    }
    let Some(link) = link else {
        let reason = format!(
            "{} has no volume \"{}\"; use the same configuration on both servers, and restart the daemon whose file \
             changed",
            local.name(),
            crate::wire::hello::printable(hello.volume.as_bytes())
        );
        return refused("unknown-volume", reason);
    };
    if hello.volume_uuid != link.uuid {
        return refused("other-volume", format!("volume {} has another identity on {}", link.name, local.name()));
    }
    if link.disconnected.get() {
        let reason = format!("volume {} was disconnected on {}; `connect` it there", link.name, local.name());
        return refused("disconnected", reason);
    }
    match hello.requested_encryption {
        Encryption::None => Ok(local.hello(link)),
    }
}
