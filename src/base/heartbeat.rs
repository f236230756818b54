//! What a heartbeat says: one node's whole view of one group, small enough for one datagram.
//!
//! Every heartbeat is complete in itself; a lost one costs nothing but time. Moments are those of the sender's own clock and
//! mean something to the sender alone, which is why they are echoed. The datagram around it names cluster and group.

use super::arbiter::InSync;
use super::generation::Generation;
use super::group::{GroupRole, NodeState, Reason, Wish};
use super::ids::{BootId, Epoch, Incarnation, NodeId};
use super::limits::HEARTBEAT_PATHS_MAX;
use super::state::{DiskState, Role};
use super::time::Moment;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One heartbeat of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who sends.
    pub node: NodeId,
    /// Which life of its daemon.
    pub incarnation: Incarnation,
    /// Which boot of its kernel.
    pub boot: BootId,
    /// Rises with every heartbeat of this life, over all paths: a lower one than the last heard is old news.
    pub sequence: u64,
    /// When it was sent, on the sender's clock.
    pub sent: Moment,
    /// Highest epoch the sender knows.
    pub epoch: Epoch,
    /// What the sender is to the group.
    pub role: GroupRole,
    /// Its state and why, for the pair's table.
    pub state: NodeState,
    /// See `state`.
    pub reason: Reason,
    /// Its volumes, taken together.
    pub volume: VolumeWord,
    /// The nodes in sync as the sender knows the arbiter's record.
    pub insync: InSync,
    /// Every critical resource that should run runs, and those that should be able to could.
    pub healthy: bool,
    /// An operator took the sender out: it never takes over.
    pub deactivated: bool,
    /// What the operators want, as the sender knows it.
    pub wish: Wish,
    /// Checksum of what both configurations must agree on.
    pub config: u64,
    /// Software version: major, minor, patch.
    pub version: [u16; 3],
    /// How long ago the shard last made a turn: a node that beats and does not turn is stuck.
    pub turn_age: Duration,
    /// Per path: what the sender last heard of the receiver there.
    pub heard: [Option<Heard>; HEARTBEAT_PATHS_MAX],
    /// The sender wants a promise, and so an answer at once. Answers never want one.
    pub wants_promise: bool,
    /// What the sender promises.
    pub promise: Option<Promise>,
    /// What the sender asks; repeated until it is answered or withdrawn.
    pub ask: Option<Ask>,
    /// The answer to the receiver's last question.
    pub answer: Option<Answer>,
}

/// The volumes of a group on one node, taken together: the worst of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct VolumeWord {
    /// Their role.
    pub role: Role,
    /// The worst disk.
    pub disk: DiskState,
    /// Whether every one is connected and in sync.
    pub in_sync: bool,
    /// The generation of the first volume.
    pub generation: Generation,
    /// This node could serve them: every disk is good and its memory of the last session is not lost.
    pub fit: bool,
}

/// What was last heard of the peer on one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Heard {
    /// Its sequence.
    pub sequence: u64,
    /// How long ago.
    pub age: Duration,
}

/// "I will not take over for `span` after I received your heartbeat."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Promise {
    /// The life of the daemon it is given to.
    pub to: Incarnation,
    /// The owner's epoch it holds for.
    pub epoch: Epoch,
    /// When the heartbeat it answers was sent, echoed from it.
    pub sent: Moment,
    /// How long it holds from its receipt.
    pub span: Duration,
}

/// A question to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// Drawn at random; echoed in the answer.
    pub id: u64,
    /// What is asked.
    pub what: Question,
}

/// What one node may ask of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// "Call your copy outdated, durably, so that I may go on alone in this epoch."
    Outdate {
        /// The owner's epoch.
        epoch: Epoch,
    },
    /// "The group is yours, in this epoch."
    Handover {
        /// The new owner's epoch.
        epoch: Epoch,
        /// Who holds every acknowledged write.
        insync: InSync,
        /// Why.
        reason: Reason,
    },
    /// "Hand the group to me": an operator asked at the standby.
    Move {
        /// Why.
        reason: Reason,
    },
    /// "Leave your failed state": an operator asked here.
    Recover,
}

/// The answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// Which question.
    pub id: u64,
    /// Yes, and done or surely begun; or no, and it will not be.
    pub agreed: bool,
    /// The epoch of the answering node then.
    pub epoch: Epoch,
}
