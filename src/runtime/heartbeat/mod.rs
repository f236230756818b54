//! Heartbeats on the network: sends them when the group's core says so, and hands on what the peer says.
//!
//! ```text
//!                 send ─▶ seal ─▶ socket of the path ─▶ network          the caller's thread, never waits
//! core ◀─ channel ◀─ guard ◀─ open ◀─ socket of the path ◀─ network      a thread of its own
//! ```
//! One UDP socket per path, bound to this node's address of the path and connected to the peer's: nobody else's datagrams
//! come in, and the kernel tells when nobody listens at the other end (the host is up, the daemon is not). An address
//! that is not there yet, or goes away, is tried again and again; that is said once. Receiving has a thread of its own,
//! so that the time of receipt is true even when the group's task is busy. Nothing is added to the times of sending.

mod log;
mod path;
mod receiver;

pub use self::log::Refused;
use self::path::Path;
use crate::base::heartbeat::Heartbeat;
use crate::base::ids::{Incarnation, NodeId};
use crate::base::limits::{HEARTBEAT_PATHS_MAX, HEARTBEATS_WAITING_MAX};
use crate::base::time::Moment;
use crate::io::clock::now;
use crate::runtime::config::secret::Secret;
use crate::wire::heartbeat::guard::Guard;
use crate::wire::heartbeat::{Envelope, Keys};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// What the heartbeats of a daemon are made with.
pub struct HeartbeatSpec {
    /// Name of the cluster.
    pub cluster: String,
    /// Its secret.
    pub secret: Secret,
    /// This node.
    pub node: NodeId,
    /// Names of both nodes.
    pub names: [String; 2],
    /// This process.
    pub incarnation: Incarnation,
    /// Names of the groups.
    pub groups: Vec<String>,
    /// The paths, in the same order on both nodes; at most [`HEARTBEAT_PATHS_MAX`].
    pub paths: Vec<PathSpec>,
}

/// One path.
#[derive(Clone, Debug)]
pub struct PathSpec {
    /// Its name, for people.
    pub name: String,
    /// This node's address on it.
    pub local: SocketAddr,
    /// The peer's.
    pub peer: SocketAddr,
}

/// What happened on the paths.
#[derive(Clone, Debug)]
pub enum Event {
    /// The peer was heard: authentic, of this life of it, and not heard before.
    Heard {
        /// Index of the group in [`HeartbeatSpec::groups`].
        group: usize,
        /// Index of the path.
        path: usize,
        /// When it came.
        at: Moment,
        /// What it says.
        heartbeat: Box<Heartbeat>,
    },
    /// The peer's host says that nobody listens at the peer's address of this path: its daemon does not run.
    Unheard {
        /// Index of the path.
        path: usize,
        /// When it said so.
        at: Moment,
    },
}

/// One path, for `status`.
#[derive(Clone, Debug, Serialize)]
pub struct PathReport {
    /// Its name.
    pub name: String,
    /// This node's address.
    pub local: SocketAddr,
    /// The peer's.
    pub peer: SocketAddr,
    /// What is wrong with it on this node.
    pub trouble: Option<String>,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that could not be sent.
    pub unsent: u64,
    /// Heartbeats heard.
    pub heard: u64,
    /// Times the peer's host said that nobody listens.
    pub unheard: u64,
    /// Datagrams that were not taken, by reason.
    pub refused: Vec<Refused>,
}

/// The heartbeats of a daemon. Dropping it ends them.
pub struct Heartbeats {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What both threads use.
struct Shared {
    spec: HeartbeatSpec,
    keys: Keys,
    guard: Mutex<Guard>,
    paths: Vec<Path>,
    /// Wakes the receiving thread: a path wants to be opened anew, or all is over.
    wake: EventFd,
    over: AtomicBool,
    events: mpsc::Sender<Event>,
}

impl Heartbeats {
    /// Opens the paths, as far as their addresses are there, and starts to listen. Events come on the receiver.
    pub fn start(spec: HeartbeatSpec) -> io::Result<(Heartbeats, mpsc::Receiver<Event>)> {
        assert!(spec.paths.len() <= HEARTBEAT_PATHS_MAX, "paths are counted with the configuration");
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let (events, receiver) = mpsc::channel(HEARTBEATS_WAITING_MAX);
        let shared = Arc::new(Shared {
            keys: Keys::new(&spec.secret.0, &spec.cluster, spec.node),
            guard: Mutex::new(Guard::new(u64::from_le_bytes(random))),
            paths: spec.paths.iter().cloned().map(Path::new).collect(),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            over: AtomicBool::new(false),
            events,
            spec,
        });
        for path in &shared.paths {
            path.open();
        }
        let receiving = shared.clone();
        let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(move || receiver::run(&receiving))?;
        Ok((Heartbeats { shared, thread: Some(thread) }, receiver))
    }

    /// Sends a heartbeat of a group on a path, now or never. Indices are those of the specification.
    pub fn send(&self, path: usize, group: usize, heartbeat: &Heartbeat) {
        let shared = &self.shared;
        let (sequence, challenge, echo) = shared.guard.lock().expect("nobody panics with the guard in hand").next(path);
        let envelope = Envelope {
            group: shared.spec.groups[group].clone(),
            node: shared.spec.node,
            path: path as u8,
            incarnation: shared.spec.incarnation,
            sequence,
            challenge,
            echo,
        };
        let outcome = shared.paths[path].send(&shared.keys.seal(&envelope, heartbeat));
        if outcome.unheard {
            shared.tell(Event::Unheard { path, at: now() });
        }
        if outcome.reopen {
            let _ = shared.wake.write(1);
        }
    }

    /// Every path, in order.
    pub fn report(&self) -> Vec<PathReport> {
        self.shared.paths.iter().map(Path::report).collect()
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        let _ = self.shared.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Hands an event on. When nobody takes them, the newest is lost, as the network might have lost it.
    fn tell(&self, event: Event) {
        let _ = self.events.try_send(event);
    }

    /// Name of the peer.
    fn peer_name(&self) -> &str {
        &self.spec.names[usize::from(self.spec.node.peer().0)]
    }
}
