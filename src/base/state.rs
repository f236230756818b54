//! States a user can read in `status`.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! words {
    ($name:ty { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(<$name>::$variant => $word),+ })
            }
        }
    };
}

/// Which part this node plays for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Serves the volume to clients.
    Primary,
    /// Keeps the copy; refuses clients.
    #[default]
    Secondary,
}
words!(Role { Primary => "primary", Secondary => "secondary" });

/// What a disk's content is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskState {
    /// No disk: never attached, detached by the operator, or failed.
    #[default]
    Diskless,
    /// Has metadata, never held the volume's data; its content is unknown.
    New,
    /// The target of an unfinished resync: a mixture of two points in time.
    Inconsistent,
    /// One consistent point in time, known to be older than the peer's.
    Outdated,
    /// Holds every acknowledged write, as far as this node knows.
    UpToDate,
}
words!(DiskState {
    Diskless => "diskless", New => "new", Inconsistent => "inconsistent", Outdated => "outdated", UpToDate => "up-to-date",
});

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// On both disks (protocol C).
    #[default]
    Sync,
    /// On the local disk and in the peer's memory (protocol B).
    Memory,
    /// On the local disk and in the bounded send buffer (protocol A).
    Async,
}
words!(Mode { Sync => "sync", Memory => "memory", Async => "async" });

/// Who keeps the two nodes from going on alone at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exclusion {
    /// Nobody needs to: the standby takes over only by an operator's order.
    #[default]
    Operator,
    /// The failover group: every way to serve alone is asked for, and serving beside a peer needs its permit.
    Group,
}
words!(Exclusion { Operator => "operator", Group => "group" });

/// What an asynchronous volume does when its send buffer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// Writers wait.
    #[default]
    Block,
    /// The peer falls behind and is resynced later.
    Shed,
}
words!(Overflow { Block => "block", Shed => "shed" });

/// The replication link, as the mirror core sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// No session; the runtime keeps trying.
    #[default]
    Down,
    /// Disconnected by the operator; nobody tries.
    Disconnected,
    /// A session exists, the handshake is not finished.
    Handshake,
    /// The handshake refused to sync; the session stays up for status and commands.
    Refused,
    /// A resync runs over the session; writes are mirrored meanwhile.
    Resync,
    /// One side has no disk; no sync, requests may be forwarded.
    Forwarding,
    /// In sync; every write is mirrored.
    Connected,
}
words!(LinkState {
    Down => "down", Disconnected => "disconnected", Handshake => "handshake", Refused => "refused",
    Resync => "resync", Forwarding => "forwarding", Connected => "connected",
});

/// How a resync finds out what to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResyncKind {
    /// Only what the marks of either side name.
    Differential,
    /// Checksums of everything, then what differs.
    Compare,
    /// Everything that is not known to be zero on both.
    Full,
}
words!(ResyncKind { Differential => "differential", Compare => "compare", Full => "full" });

/// What becomes of the writes that only this copy has while it is overwritten from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Archiving {
    /// It has none, as far as is known.
    #[default]
    Off,
    /// Every block is archived before it is overwritten, until this copy is whole again.
    Running,
    /// The operator gave them up for good.
    Declined,
}
words!(Archiving { Off => "off", Running => "running", Declined => "declined" });

/// What happens by itself when two nodes meet that both went on alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitBrain {
    /// Nothing: the operator chooses.
    #[default]
    Manual,
    /// The side that changed nothing is given up.
    DiscardZeroChanges,
    /// A secondary that changed less than the other is given up.
    DiscardLeast,
    /// A secondary that became primary after the other did is given up.
    DiscardYounger,
    /// A secondary that became primary before the other did is given up.
    DiscardOlder,
    /// A secondary that the arbiter's record does not name is given up: the one of the older epoch.
    PreferArbiterPrimary,
}
words!(SplitBrain {
    Manual => "manual", DiscardZeroChanges => "discard-zero-changes", DiscardLeast => "discard-least",
    DiscardYounger => "discard-younger", DiscardOlder => "discard-older",
    PreferArbiterPrimary => "prefer-arbiter-primary",
});

/// What a node still has of the time since both were last in sync (rule R6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Continuity {
    /// Rebooted since: memory and volatile disk cache are gone.
    Rebooted,
    /// The process restarted, the machine did not: what the disk accepted is still there.
    SameBoot,
    /// The same process: knows everything.
    SameProcess,
}
