//! Listening and connected sockets of either kind.

use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// A socket clients connect to, bound already.
#[derive(Debug)]
pub enum NbdListener {
    /// On this machine.
    Unix(UnixListener),
    /// Over the network.
    Tcp(TcpListener),
}

/// What the kernel's own client is called.
pub(super) const DEVICE: &str = "the block device of this kernel";

/// A connected client.
#[derive(Debug)]
pub enum NbdStream {
    /// On this machine.
    Unix(UnixStream),
    /// This kernel's own client: a block device.
    Device(UnixStream),
    /// Over the network.
    Tcp(TcpStream),
}

/// One client, for status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientView {
    /// Who it is: an address, or a process on this machine.
    pub peer: String,
    /// It has not chosen the export yet.
    pub negotiating: bool,
    /// How long it has been connected.
    pub connected_seconds: u64,
    /// Requests taken and not answered.
    pub requests_in_flight: u32,
    /// Requests taken in all.
    pub requests: u64,
    /// Bytes of answers it has not read yet.
    pub unsent_bytes: u64,
}

impl NbdListener {
    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            NbdListener::Unix(listener) => listener.set_nonblocking(true),
            NbdListener::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    /// The next client, or `None` when none waits.
    pub(super) fn accept(&self) -> io::Result<Option<NbdStream>> {
        let accepted = match self {
            NbdListener::Unix(listener) => listener.accept().map(|(stream, _)| NbdStream::Unix(stream)),
            NbdListener::Tcp(listener) => listener.accept().map(|(stream, _)| NbdStream::Tcp(stream)),
        };
        match accepted {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The client left before it was taken; there may be another.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                self.accept()
            }
            Err(error) => Err(error),
        }
    }
}

/// Has the connection reset when it is closed, so that the client learns it at once: a close in order would wait for what
/// is still to be sent, and leave the client waiting if the address is gone by then.
pub(super) fn reset_on_close(socket: &impl AsFd) {
    let abort = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    if let Err(error) = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Linger, &abort) {
        tracing::debug!("a client's connection can't be reset, only closed: {error}");
    }
}

impl AsFd for NbdStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            NbdStream::Unix(stream) | NbdStream::Device(stream) => stream.as_fd(),
            NbdStream::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl AsFd for NbdListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            NbdListener::Unix(listener) => listener.as_fd(),
            NbdListener::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl NbdStream {
    /// The address of this server the client came to, over the network.
    pub(super) fn local(&self) -> Option<IpAddr> {
        match self {
            NbdStream::Unix(_) | NbdStream::Device(_) => None,
            NbdStream::Tcp(stream) => stream.local_addr().ok().map(|local| local.ip().to_canonical()),
        }
    }

    /// Who the client is, and its socket, set up for requests and answers.
    pub(super) fn prepare(self, keepalive: Duration) -> io::Result<(String, OwnedFd)> {
        use nix::sys::socket::{getsockopt, setsockopt, sockopt};
        match self {
            NbdStream::Unix(stream) => {
                let peer = match getsockopt(&stream, sockopt::PeerCredentials) {
                    Ok(credentials) if credentials.pid() > 0 => {
                        format!("process {} on this machine", credentials.pid())
                    }
                    _ => "a process on this machine".to_owned(),
                };
                Ok((peer, stream.into()))
            }
            NbdStream::Device(stream) => Ok((DEVICE.to_owned(), stream.into())),
            NbdStream::Tcp(stream) => {
                let peer = stream.peer_addr()?.to_string();
                stream.set_nodelay(true)?;
                setsockopt(&stream, sockopt::KeepAlive, &true)?;
                let seconds = u32::try_from(keepalive.as_secs()).unwrap_or(u32::MAX).max(1);
                setsockopt(&stream, sockopt::TcpKeepIdle, &seconds)?;
                setsockopt(&stream, sockopt::TcpKeepInterval, &seconds)?;
                Ok((peer, stream.into()))
            }
        }
    }
}
