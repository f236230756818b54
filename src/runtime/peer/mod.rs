//! The way to the peer: dials or accepts, authenticates, and hands a ready connection to the volume's shard.
//!
//! The first node of the configuration dials, the second accepts; one connection per volume, one listener per mirror
//! address for all of them. What the connection carries afterwards is not seen here.
//!
//! | file | what it does |
//! |---|---|
//! | [`auth`] | the authenticated handshake on one connection |
//! | [`backoff`] | how long to wait before the next try |
//! | [`aside`] | questions beside the replication, on connections of their own |
//! | [`dial`] | the loop that keeps one volume connected; the probe |
//! | [`listen`] | listeners, bounded handshakes, hand-over |

pub mod auth;
pub mod backoff;

pub mod aside;
pub mod dial;
pub mod listen;

#[cfg(test)]
mod tests;

use self::auth::Credentials;
use crate::base::ids::{Incarnation, NodeId, SessionId, Uuid};
use crate::runtime::config::Config;
use crate::runtime::config::settings::DaemonSettings;
use crate::wire::hello::{Encryption, Hello, Preamble, Refused};
use crate::wire::message::PROTOCOL_VERSION;
use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::sync::Notify;

/// Takes an authenticated connection: non-blocking, without delay; the next byte is the first frame's.
pub type Offer = Box<dyn Fn(std::net::TcpStream, SessionId, String)>;

/// The link of one volume, as far as it is made here.
pub struct VolumeLink {
    /// Name of the volume.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Where a connection goes.
    pub offer: Offer,
    /// A session is wanted and there is none.
    wanted: Cell<bool>,
    /// It is wanted at once: what is left of a wait is skipped.
    at_once: Cell<bool>,
    /// The operator wants none.
    disconnected: Cell<bool>,
    /// Something changed: look again without waiting further.
    changed: Notify,
    /// Why there is no session, as last logged; cleared by a session.
    trouble: RefCell<Option<String>>,
    /// Digest of the peer's configuration, as last seen: a difference is told once.
    peer_config: Cell<Option<u64>>,
}

impl VolumeLink {
    /// A link for which no session is wanted yet.
    pub fn new(name: &str, uuid: Uuid, offer: Offer) -> VolumeLink {
        VolumeLink {
            name: name.into(),
            uuid,
            offer,
            wanted: Cell::new(false),
            at_once: Cell::new(false),
            disconnected: Cell::new(false),
            changed: Notify::new(),
            trouble: RefCell::default(),
            peer_config: Cell::new(None),
        }
    }

    /// The shard has no session and wants one; `now` skips what is left of a wait.
    pub fn want(&self, now: bool) {
        self.wanted.set(true);
        self.at_once.set(now || self.at_once.get());
        self.changed.notify_one();
    }

    /// The operator's `disconnect` and `connect`.
    pub fn set_disconnected(&self, disconnected: bool) {
        self.disconnected.set(disconnected);
        self.at_once.set(!disconnected);
        self.changed.notify_one();
    }

    /// Whether the dialling side should try.
    fn is_wanted(&self) -> bool {
        self.wanted.get() && !self.disconnected.get()
    }

    /// Why there is no session, when this end or the peer knows.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Records and logs why there is no session; the same reason again is only for debugging.
    fn set_trouble(&self, words: String) {
        let mut trouble = self.trouble.borrow_mut();
        if trouble.as_ref() == Some(&words) {
            tracing::debug!(volume = %self.name, "still no link: {words}");
        } else {
            tracing::warn!(volume = %self.name, "no link: {words}");
            *trouble = Some(words);
        }
    }

    fn connected(&self) {
        self.wanted.set(false);
        self.at_once.set(false);
        *self.trouble.borrow_mut() = None;
    }
}

/// Everything both ends of the link need to know of themselves.
pub struct Local {
    /// This node.
    pub node: NodeId,
    /// Names of both nodes.
    pub names: [String; 2],
    /// Addresses of the peer.
    pub peer_addresses: Vec<SocketAddr>,
    /// This process.
    pub incarnation: Incarnation,
    /// Digest of the configuration.
    pub config_digest: Cell<u64>,
    /// Secret, version, cluster.
    pub credentials: Credentials,
    /// Timers and bounds.
    pub settings: RefCell<Rc<DaemonSettings>>,
    /// Answers the peer's questions, once the daemon can.
    pub asides: OnceCell<aside::Asides>,
    /// The peer came with a configuration it did not have before.
    pub other_config: Notify,
}

impl Local {
    /// From a configuration that was loaded with its secret.
    pub fn new(config: &Config, incarnation: Incarnation) -> Local {
        Local {
            node: config.node,
            names: [config.nodes[0].name.clone(), config.nodes[1].name.clone()],
            peer_addresses: config.peer_node().mirror.clone(),
            incarnation,
            config_digest: Cell::new(config.digest),
            credentials: Credentials {
                preamble: Preamble { protocol: PROTOCOL_VERSION, cluster: config.cluster.clone() },
                secret: config.secret.clone().expect("the daemon loads its configuration with the secret"),
            },
            settings: RefCell::new(Rc::new(config.daemon.clone())),
            asides: OnceCell::new(),
            other_config: Notify::new(),
        }
    }

    /// Goes by other settings from here on.
    pub fn reconfigure(&self, config: &Config) {
        self.config_digest.set(config.digest);
        self.settings.replace(Rc::new(config.daemon.clone()));
    }

    /// Timers and bounds as they are now.
    pub fn settings(&self) -> Rc<DaemonSettings> {
        self.settings.borrow().clone()
    }

    /// This node's name.
    pub fn name(&self) -> &str {
        &self.names[usize::from(self.node.0)]
    }

    /// The peer's name.
    pub fn peer_name(&self) -> &str {
        &self.names[usize::from(self.node.peer().0)]
    }

    /// What this node tells of itself for a volume.
    fn hello(&self, link: &VolumeLink) -> Hello {
        Hello {
            volume: link.name.clone(),
            volume_uuid: link.uuid,
            node: self.node,
            node_name: self.name().into(),
            features: 0,
            requested_encryption: Encryption::None,
            incarnation: self.incarnation,
            config_digest: self.config_digest.get(),
        }
    }

    /// Whether the sender of a hello is the peer of the configuration.
    fn judge(&self, hello: &Hello) -> Result<(), Refused> {
        let refused = |code: &str, reason: String| Err(Refused { code: code.into(), reason });
        if hello.node_name == self.name() {
            return refused(
                "same-node",
                format!(
                    "both servers run as node {}; start each with its own name (--node, or the host name)",
                    hello.node_name
                ),
            );
        }
        if hello.node_name != self.peer_name() || hello.node != self.node.peer() {
            return refused(
                "other-node",
                format!(
                    "node {} (number {}) is not the peer that {} has in its configuration ({}, number {}); use the \
                     same configuration on both servers, with the nodes in the same order",
                    hello.node_name,
                    hello.node.0 + 1,
                    self.name(),
                    self.peer_name(),
                    self.node.peer().0 + 1
                ),
            );
        }
        Ok(())
    }

    /// Sees to it that a peer with another configuration is asked for it; it is allowed while a change is rolled out.
    fn compare_configurations(&self, link: &VolumeLink, peer: &Hello) {
        let seen = link.peer_config.replace(Some(peer.config_digest));
        if peer.config_digest != self.config_digest.get() && seen != Some(peer.config_digest) {
            // It is asked for them; what differs is told by name then.
            self.other_config.notify_one();
        }
    }
}

/// All links of this node.
pub type Links = Rc<Vec<Rc<VolumeLink>>>;
