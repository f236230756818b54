//! Every socket the daemon listens at: bound at start, or handed over by the service manager.

use crate::io::activation::{self, HandedOver};
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::config::Config;
use crate::runtime::config::address::NbdAddress;
use crate::runtime::control::socket;
use crate::runtime::peer::listen;
use crate::runtime::shard::NbdListener;
use nix::sys::socket::{SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// Mode of the control socket: only the user the daemon runs as.
const CONTROL_MODE: u32 = 0o600;
/// Mode of NBD sockets: the user and group the daemon runs as.
const NBD_MODE: u32 = 0o660;

/// The daemon's sockets.
pub struct Bound {
    /// The control socket.
    pub control: tokio::net::UnixListener,
    /// One per mirror address of this node.
    pub peer: Vec<tokio::net::TcpListener>,
    /// Where each volume is served.
    pub nbd: HashMap<String, Vec<NbdListener>>,
    /// The socket files made here, to be removed in the end. Those handed over stay.
    pub made: Vec<PathBuf>,
}

/// Binds everything, or says what can't be bound and what to do.
pub fn bind_all(config: &Config) -> Result<Bound, Failure> {
    let failed = |(reason, next): (String, String)| Failure::new(Exit::Failed, format!("{reason}; {next}"));
    let node = config.this_node();
    let control = socket::bind(&node.control, CONTROL_MODE).map_err(failed)?;
    let control = tokio::net::UnixListener::from_std(control)
        .map_err(|error| Failure::new(Exit::Failed, format!("the control socket can't be used: {error}")))?;
    let peer = listen::bind(node).map_err(failed)?;
    let mut made = vec![node.control.clone()];
    let mut handed = activation::take();
    let mut nbd: HashMap<String, Vec<NbdListener>> = HashMap::new();
    for volume in &config.volumes {
        let floating: Vec<_> = config.group_of(&volume.name).into_iter().flat_map(|group| group.addresses()).collect();
        let listeners = nbd.entry(volume.name.clone()).or_default();
        for address in &volume.place(config.node).nbd {
            let listener = match take_handed_over(&mut handed, address) {
                Some(listener) => listener,
                None => {
                    let listener = bind_nbd(address, &floating).map_err(failed)?;
                    if let NbdAddress::Unix(path) = address {
                        made.push(path.clone());
                    }
                    listener
                }
            };
            listeners.push(listener);
        }
        // Sockets that carry the volume's name serve it, whatever their address.
        while let Some(index) = handed.iter().position(|socket| socket.name == volume.name) {
            listeners.extend(as_listener(handed.remove(index)));
        }
    }
    for socket in handed {
        tracing::warn!(
            "the socket \"{}\" handed over by the service manager fits no volume, neither by address nor by name; it \
             is closed",
            socket.name
        );
    }
    Ok(Bound { control, peer, nbd, made })
}

/// Listens at an address. A floating one need not be here: the listener stands from the start, so that the first client is
/// served as soon as the address comes, and nothing has to be bound, or can fail, in the middle of a takeover.
fn bind_nbd(address: &NbdAddress, floating: &[IpAddr]) -> Result<NbdListener, (String, String)> {
    match address {
        NbdAddress::Unix(path) => socket::bind(path, NBD_MODE).map(NbdListener::Unix),
        NbdAddress::Tcp(address) => {
            let floats = floating.contains(&address.ip());
            let listener = if floats { listen::bind_floating(*address) } else { listen::bind_tcp(*address) };
            let listener = listener?.into_std();
            let failed = |error| (format!("the address {address} can't be used: {error}"), "try again".to_string());
            listener.map(NbdListener::Tcp).map_err(failed)
        }
    }
}

/// The handed-over socket that is bound to an address, if there is one.
fn take_handed_over(handed: &mut Vec<HandedOver>, address: &NbdAddress) -> Option<NbdListener> {
    let index = handed.iter().position(|socket| is_bound_to(socket, address))?;
    as_listener(handed.remove(index))
}

fn is_bound_to(socket: &HandedOver, address: &NbdAddress) -> bool {
    let Ok(name) = getsockname::<SockaddrStorage>(socket.fd.as_raw_fd()) else { return false };
    match address {
        NbdAddress::Unix(path) => name.as_unix_addr().and_then(|unix| unix.path()) == Some(path.as_path()),
        NbdAddress::Tcp(wanted) => {
            let v4 = name.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
            let v6 = name.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())));
            v4.or(v6) == Some(*wanted)
        }
    }
}

/// A handed-over socket as a listener; none when it is something else.
fn as_listener(socket: HandedOver) -> Option<NbdListener> {
    let listens = getsockopt(&socket.fd, sockopt::AcceptConn).unwrap_or(false);
    let family = getsockname::<SockaddrStorage>(socket.fd.as_raw_fd()).ok().and_then(|name| name.family());
    let unix = family == Some(nix::sys::socket::AddressFamily::Unix);
    if !listens {
        tracing::warn!(
            "the socket \"{}\" handed over by the service manager does not listen; it is closed",
            socket.name
        );
        return None;
    }
    let made = if unix {
        let listener = std::os::unix::net::UnixListener::from(socket.fd);
        listener.set_nonblocking(true).map(|()| NbdListener::Unix(listener))
    } else {
        let listener = std::net::TcpListener::from(socket.fd);
        listener.set_nonblocking(true).map(|()| NbdListener::Tcp(listener))
    };
    made.inspect_err(|error| tracing::warn!("a socket of the service manager can't be used: {error}")).ok()
}
