//! Keeps one volume connected from the dialling side, and looks whether the peer's daemon runs.

use super::auth::{self, AuthError, Authenticated};
use super::backoff::Backoff;
use super::{Local, VolumeLink};
use crate::base::limits::{PEER_GONE_WITHIN, PROBE_PAUSE};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// Dials whenever a session is wanted, for as long as the daemon runs.
///
/// Every try comes after a wait, unless it is wanted at once. Only a session that lasted makes the waits short again:
/// one that breaks as soon as it is there must not become a storm.
pub async fn keep_connected(local: &Local, link: &VolumeLink) {
    let (mut lost, mut refused) = (Backoff::default(), Backoff::default());
    let mut wait = Wait::Lost;
    let mut connected: Option<Instant> = None;
    loop {
        while !link.is_wanted() {
            link.changed.notified().await;
        }
        let settings = local.settings();
        lost.set_bounds(settings.reconnect_min, settings.reconnect_max);
        refused.set_bounds(settings.refused_retry_min, settings.refused_retry_max);
        if connected.take().is_some_and(|since| since.elapsed() >= settings.steady_time) {
            lost.reset();
        }
        let longest = match wait {
            Wait::Lost => lost.wait(random()),
            Wait::Refused => refused.wait(random()),
            Wait::Disconnected => refused.wait(random()).min(settings.disconnected_retry_max),
        };
        pause(link, longest).await;
        if !link.is_wanted() {
            continue;
        }
        match dial_all(local, link).await {
            // The operator may have changed his mind meanwhile.
            Ok(_) if link.disconnected.get() => {}
            Ok((stream, authenticated, address)) => {
                wait = Wait::Lost;
                refused.reset();
                connected = Some(Instant::now());
                hand_over(local, link, stream, &authenticated, address);
            }
            Err(error) => {
                wait = error.wait;
                link.set_trouble(error.message);
            }
        }
    }
}

/// Waits so long, or until a session is wanted at once or not any more.
async fn pause(link: &VolumeLink, longest: Duration) {
    let deadline = Instant::now() + longest;
    while link.is_wanted() && !link.at_once.take() {
        if timeout_at(deadline, link.changed.notified()).await.is_err() {
            return;
        }
    }
}

/// Whether every address of the peer refuses connections: its daemon does not run, though its kernel does.
pub async fn peer_refuses(local: &Local) -> bool {
    let mut tries = tokio::task::JoinSet::new();
    let patience = local.settings().probe_patience;
    for address in local.peer_addresses.clone() {
        tries.spawn_local(async move { timeout(PEER_GONE_WITHIN, refuses(address, patience)).await.unwrap_or(false) });
    }
    while let Some(result) = tries.join_next().await {
        if !matches!(result, Ok(true)) {
            return false;
        }
    }
    !local.peer_addresses.is_empty()
}

/// Whether nobody listens at an address. The kernel closes a dying process's sockets one by one, so its listener may
/// still take a connection when the link is gone already, and then drops it at once; a living daemon keeps it and
/// waits for the first message.
async fn refuses(address: SocketAddr, patience: Duration) -> bool {
    loop {
        match TcpStream::connect(address).await {
            Ok(mut stream) => {
                let mut byte = [0];
                if timeout(patience, stream.read(&mut byte)).await.is_err() {
                    return false;
                }
            }
            // Taken and dropped before this end had noticed that it was taken.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionRefused,
        }
        tokio::time::sleep(PROBE_PAUSE).await;
    }
}

/// Prepares an authenticated connection for the shard, and gives it away.
pub fn hand_over(
    local: &Local,
    link: &VolumeLink,
    stream: TcpStream,
    authenticated: &Authenticated,
    address: SocketAddr,
) {
    local.compare_configurations(link, &authenticated.peer);
    let prepared = stream.set_nodelay(true).and_then(|()| stream.into_std());
    match prepared {
        Ok(stream) => {
            link.connected();
            tracing::debug!(volume = %link.name, session = %authenticated.session, "authenticated {address}");
            (link.offer)(stream, authenticated.session, format!("{} at {address}", local.peer_name()));
        }
        Err(error) => link.set_trouble(format!("the connection to {address} can't be used: {error}")),
    }
}

struct DialError {
    message: String,
    wait: Wait,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Lost,
    Refused,
    Disconnected,
}

/// Tries each address of the peer in turn.
async fn dial_all(local: &Local, link: &VolumeLink) -> Result<(TcpStream, Authenticated, SocketAddr), DialError> {
    let mut messages = Vec::new();
    let mut wait = Wait::Lost;
    for address in &local.peer_addresses {
        match dial_one(local, link, *address).await {
            Ok((stream, authenticated)) => return Ok((stream, authenticated, *address)),
            Err(error) => {
                messages.push(format!("{} at {address}: {error}", local.peer_name()));
                wait = match &error {
                    Failure::Auth(AuthError::RefusedByPeer(refused)) if refused.code == "disconnected" => {
                        Wait::Disconnected
                    }
                    Failure::Auth(error) if error.is_refusal() => Wait::Refused,
                    _ => wait,
                };
            }
        }
    }
    Err(DialError { message: messages.join("; "), wait })
}

enum Failure {
    Connect(std::io::Error),
    Unanswered(Duration),
    Auth(AuthError),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Connect(error) if error.kind() == ErrorKind::ConnectionRefused => {
                write!(f, "nobody listens there (connection refused); is its daemon running?")
            }
            Failure::Connect(error) => write!(f, "can't connect: {error}"),
            Failure::Unanswered(time) => {
                write!(f, "no answer within {} ms; is the server up, and the network between?", time.as_millis())
            }
            Failure::Auth(error) => write!(f, "{error}"),
        }
    }
}

async fn dial_one(
    local: &Local,
    link: &VolumeLink,
    address: SocketAddr,
) -> Result<(TcpStream, Authenticated), Failure> {
    let settings = local.settings();
    let mut stream = match timeout(settings.connect_timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Failure::Connect(error)),
        Err(_) => return Err(Failure::Unanswered(settings.connect_timeout)),
    };
    let hello = local.hello(link);
    let handshake = auth::dial(&mut stream, &local.credentials, &hello, |peer| local.judge(peer));
    match timeout(settings.handshake_timeout, handshake).await {
        Ok(Ok(authenticated)) => Ok((stream, authenticated)),
        Ok(Err(error)) => Err(Failure::Auth(error)),
        Err(_) => Err(Failure::Auth(AuthError::TooSlow)),
    }
}

/// A number for the jitter; when the kernel has none to give, no jitter does no harm.
fn random() -> u32 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u32::from_le_bytes(bytes),
        Err(_) => u32::MAX,
    }
}
