//! What a failover group and its volumes say to each other: facts one way, orders the other.
//!
//! The two cores know nothing of each other but these words.

use super::generation::Generation;
use super::ids::{Epoch, Incarnation};
use super::state::{Continuity, DiskState, Role};
use serde::Serialize;

/// What a failover group must know of its volumes on one node: of one, or of all taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Their role.
    pub role: Role,
    /// Some are primary and some are not: an order was carried out in part, or one stepped down by itself.
    pub mixed: bool,
    /// The worst disk.
    pub disk: DiskState,
    /// A session exists and its handshake is decided.
    pub connected: bool,
    /// The life of the peer's daemon that the session is with.
    pub session_with: Option<Incarnation>,
    /// Every acknowledged write is on both disks, and will be; of an asynchronous volume, but for what is on its way.
    pub in_sync: bool,
    /// A primary's writes are acknowledged before the peer has them (mode async): whoever takes over from one that is lost
    /// may lack some.
    pub lossy: bool,
    /// A session exists in which this node's data counts: of two standbys, this one may serve.
    pub source: bool,
    /// Writes are held because the peer can't be reached.
    pub wants_solo: bool,
    /// Clients wait for the peer to write something, in a session, longer than any disk's hiccup.
    pub peer_slow: bool,
    /// A resync's source is done but for telling its target that it is up to date.
    pub wants_qualify: bool,
    /// The local disk failed, the peer's serves, and waits to be the only one in sync.
    pub wants_peer_only: bool,
    /// The peer's copy is known to be older, durably.
    pub peer_outdated: bool,
    /// What this node still knows of the time it was last in sync, or alone; nothing (`Rebooted`) if it never was.
    pub memory: Continuity,
    /// The metadata was damaged.
    pub suspect: bool,
    /// The handshake found that both went on alone.
    pub split: bool,
    /// Generation of the first volume.
    pub generation: Generation,
    /// Highest epoch in any superblock.
    pub seen_epoch: Epoch,
    /// Highest cache epoch.
    pub cache_epoch: u64,
}

/// What a failover group orders of its volumes. Of several it is answered when all have done it, or when one has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Primary: end the session, let local writes end, flush. From here on nothing is acknowledged, whatever a new session
    /// with the peer may bring, until [`Order::OpenSolo`] or [`Order::CloseDoor`].
    PrepareSolo,
    /// Forget [`Order::PrepareSolo`] or [`Order::PrepareTakeover`]: the peer is back, nobody was excluded.
    CloseDoor,
    /// Begin a generation, call the peer outdated, durably; then acknowledge alone.
    OpenSolo {
        /// The epoch.
        epoch: Epoch,
    },
    /// Secondary: end the session, let what was received reach the disk, flush. No new session is begun until
    /// [`Order::Promote`] or [`Order::CloseDoor`].
    PrepareTakeover,
    /// Become primary, durably.
    Promote {
        /// The epoch.
        epoch: Epoch,
        /// By which right.
        way: Way,
        /// Acknowledged, unflushed writes may be lost: raise the cache epoch to this (rule R9).
        cache_epoch: Option<u64>,
    },
    /// Tell the target that it is up to date.
    Qualify,
    /// The record names only the peer: acknowledge on its word.
    AllowPeerOnly,
    /// Secondary: call this copy outdated, durably.
    Outdate,
    /// Primary: hold new requests, let the admitted ones end, flush both, become secondary, durably. When it fails, this node
    /// is primary as before.
    Quiesce,
    /// Become secondary at once: held requests fail, clients are cut, nothing more is acknowledged. What was ordered before
    /// and is not done is not done any more: a promotion that ends after this would leave a primary nobody wants.
    Demote,
}

/// By which right a node becomes owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The peer is lost and excluded: serve alone, in a new generation.
    Takeover,
    /// Both stand by and hear each other; the peer agrees.
    Claim,
    /// The owner handed it over.
    Handover,
    /// An operator insists, whatever the peer may hold.
    Forced,
}
