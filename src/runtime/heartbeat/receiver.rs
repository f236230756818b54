//! The thread that receives: waits for all paths at once, judges each datagram, and reopens what was closed.

use super::{Event, Shared, now};
use crate::base::limits::{HEARTBEAT_BYTES_MAX, HEARTBEAT_REOPEN_INTERVAL, HEARTBEATS_PER_TURN};
use crate::base::time::Moment;
use crate::wire::heartbeat::Refusal;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Runs until the heartbeats are over.
pub fn run(shared: &Shared) {
    let mut reopen_at = Instant::now() + HEARTBEAT_REOPEN_INTERVAL;
    while !shared.over.load(Ordering::Acquire) {
        let mut sockets: Vec<Option<Arc<UdpSocket>>> = shared.paths.iter().map(|path| path.socket()).collect();
        if sockets.iter().any(Option::is_none) && Instant::now() >= reopen_at {
            // Its descriptor is closed with the last holder.
            drop(sockets);
            for path in shared.paths.iter().filter(|path| path.socket().is_none()) {
                path.open();
            }
            reopen_at = Instant::now() + HEARTBEAT_REOPEN_INTERVAL;
            sockets = shared.paths.iter().map(|path| path.socket()).collect();
        }
        for path in wait(shared, &sockets, reopen_at) {
            if let Some(socket) = &sockets[path] {
                receive(shared, path, socket);
            }
        }
    }
}

/// The paths that have something to receive. Ends early when woken, and when a closed path is to be opened.
fn wait(shared: &Shared, sockets: &[Option<Arc<UdpSocket>>], reopen_at: Instant) -> Vec<usize> {
    let open: Vec<usize> = (0..sockets.len()).filter(|path| sockets[*path].is_some()).collect();
    let mut polled = vec![PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN)];
    for socket in sockets.iter().flatten() {
        polled.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
    }
    let timeout = if open.len() == sockets.len() {
        PollTimeout::NONE
    } else {
        // Rounded up, so as not to come back a moment too early.
        let wait = reopen_at.saturating_duration_since(Instant::now()).as_millis() + 1;
        PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
    };
    if poll(&mut polled, timeout).is_err() {
        return Vec::new();
    }
    let ready: Vec<bool> = polled.iter().map(|polled| polled.any().unwrap_or(true)).collect();
    if ready[0] {
        let _ = shared.wake.read();
    }
    open.into_iter().zip(&ready[1..]).filter(|(_, ready)| **ready).map(|(path, _)| path).collect()
}

/// Takes what has come on a path, up to a bound.
fn receive(shared: &Shared, path: usize, socket: &UdpSocket) {
    // One byte more than a heartbeat may have: a longer one is seen to be longer.
    let mut buffer = [0; HEARTBEAT_BYTES_MAX + 1];
    for _ in 0..HEARTBEATS_PER_TURN {
        match socket.recv(&mut buffer) {
            Ok(count) => match judge(shared, path, &buffer[..count], now()) {
                Ok(event) => {
                    shared.paths[path].count_heard();
                    shared.tell(event);
                }
                Err(refusal) => shared.paths[path].refused(shared.peer_name(), &refusal),
            },
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                shared.paths[path].count_unheard();
                shared.tell(Event::Unheard { path, at: now() });
            }
            Err(error) => {
                shared.paths[path].failed(&error);
                return;
            }
        }
    }
}

/// Whether a datagram is a heartbeat to hand on.
fn judge(shared: &Shared, path: usize, bytes: &[u8], at: Moment) -> Result<Event, Refusal> {
    let (envelope, heartbeat) = shared.keys.open(bytes)?;
    if usize::from(envelope.path) != path {
        return Err(Refusal::OtherPath(envelope.path));
    }
    shared.guard.lock().expect("nobody panics with the guard in hand").admit(&envelope)?;
    let group = shared.spec.groups.iter().position(|group| *group == envelope.group);
    let group = group.ok_or(Refusal::OtherGroup(envelope.group))?;
    Ok(Event::Heard { group, path, at, heartbeat: Box::new(heartbeat) })
}
