//! The small messages of the peer link: everything but bulk data. Encoded with bincode behind [`super::frame`].

use crate::base::generation::{Generation, Lineage};
use crate::base::ids::{BootId, Epoch, Incarnation, NodeId, OpId, Sequence, Uuid};
use crate::base::range::ByteRange;
pub use crate::base::state::Continuity;
use crate::base::state::{DiskState, Mode, ResyncKind, Role};
use serde::{Deserialize, Serialize};

/// Version of everything in this file. A peer with another one is refused with both numbers named.
pub const PROTOCOL_VERSION: u32 = 1;

/// Bit of [`Descriptor::features`]: this node wants [`Message::Received`] for the frames it sends.
pub const FEATURE_RECEIPTS: u64 = 1;
/// Bit of [`Descriptor::features`]: what this node would lose as a resync's target can't be archived, so it must not be one.
pub const FEATURE_ARCHIVE_FAILED: u64 = 2;
/// Bit of [`Descriptor::features`]: of two nodes that went on alone the one that changed nothing gives way.
pub const FEATURE_DISCARD_ZERO_CHANGES: u64 = 4;
/// Bit of [`Descriptor::features`]: of two nodes that went on alone the one that changed less gives way.
pub const FEATURE_DISCARD_LEAST: u64 = 8;
/// Bit of [`Descriptor::features`]: of two nodes that went on alone the one that became primary later gives way.
pub const FEATURE_DISCARD_YOUNGER: u64 = 16;
/// Bit of [`Descriptor::features`]: of two nodes that went on alone the one that became primary earlier gives way.
pub const FEATURE_DISCARD_OLDER: u64 = 32;

/// What a node tells of itself when a session begins. The handshake decision is a pure function of two of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Optional behaviours this node can do; the session uses the intersection.
    pub features: u64,
    /// Index of the node in the configuration.
    pub node: NodeId,
    /// Identity of the volume: equal on both, derived from cluster and volume name.
    pub volume: Uuid,
    /// Identity of the disk's metadata.
    pub device: Uuid,
    /// Role right now.
    pub role: Role,
    /// Disk right now.
    pub disk: DiskState,
    /// Acknowledgement mode configured; both sides must agree.
    pub mode: Mode,
    /// Bytes the disk can hold; 0 without a disk.
    pub capacity_bytes: u64,
    /// Size of the volume once it was agreed or served; 0 before.
    pub committed_bytes: u64,
    /// The generations.
    pub lineage: Lineage,
    /// Highest epoch in which this node was primary.
    pub primary_epoch: Epoch,
    /// Highest epoch this node has seen at all.
    pub seen_epoch: Epoch,
    /// Rises when acknowledged, unflushed writes may have been lost.
    pub cache_epoch: u64,
    /// How much of the last join this node still remembers.
    pub continuity: Continuity,
    /// Whether anything is marked: dirty, suspect, unstable or unacknowledged.
    pub marked: bool,
    /// Bytes that are marked in any way, in whole blocks: at most so many differ from what the generations before hold.
    pub marked_bytes: u64,
    /// Whether some of the marks are only write-intent regions of a life that ended.
    pub intents_marked: bool,
    /// Whether the marks could be read.
    pub maps_readable: bool,
    /// Whether the last session was receipt-gated on this node's side from join to end.
    pub gated_since_join: bool,
    /// Whether this node asks for exact recovery (skip intents when a survivor's memory suffices).
    pub exact: bool,
    /// An unfinished resync of which this node was the source, and how it found out what to copy.
    pub unfinished: Option<ResyncKind>,
    /// The operator gave up this node's data: it becomes the target whatever the generations say.
    pub discard: bool,
    /// The operator asked for a resync of everything by this means.
    pub requested: Option<ResyncKind>,
    /// This node's process.
    pub incarnation: Incarnation,
    /// This node's boot.
    pub boot: BootId,
}

/// A message of the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// First message of a session, both ways.
    Hello(Box<Descriptor>),
    /// The handshake's result, as each side computed it; must be equal. Carries rule and plan as stable codes.
    Decided {
        /// Code of the rule.
        rule: u16,
        /// Code of the plan, seen from node 0.
        plan: u16,
    },
    /// A part of the target's marks as serialised roaring bitmap, to be united at the source.
    Marks {
        /// Serialised bitmap of blocks.
        bitmap: Vec<u8>,
        /// Whether these blocks are known to differ (or may differ and must be compared).
        known: bool,
        /// Whether this is the last part.
        last: bool,
    },
    /// Source to target: a resync begins. The target persists Inconsistent first.
    ResyncBegin {
        /// How it finds out what to copy.
        kind: ResyncKind,
        /// Why, for the target's status.
        reason: String,
        /// Bytes to go through.
        bytes: u64,
        /// A generation the target takes for the time of the resync; `None` keeps its own.
        tag: Option<Generation>,
        /// Size of the volume from now on.
        committed_bytes: u64,
        /// Whether the target's content may stay servable (nothing will be copied).
        clean: bool,
    },
    /// Target to source: persisted, send.
    ResyncReady,
    /// Checksums of the blocks of a range; the target answers with [`Message::Differs`].
    Hashes {
        /// Order in the session.
        sequence: Sequence,
        /// Block-aligned range.
        range: ByteRange,
        /// XXH3-128 of each block.
        digests: Vec<u128>,
    },
    /// The blocks of a hashed range that differ at the target; empty when equal.
    Differs {
        /// That of the hashes.
        sequence: Sequence,
        /// Block-aligned ranges that differ.
        ranges: Vec<ByteRange>,
        /// The target could not read its disk (errno), so nothing is known.
        failed: bool,
    },
    /// How far the source is, for the target's status.
    Progress {
        /// Bytes still to go through.
        left: u64,
        /// Bytes to go through in all.
        total: u64,
        /// Copied as data so far.
        copied: u64,
        /// Sent as zeroes so far.
        zeroed: u64,
        /// Found equal so far.
        equal: u64,
        /// Whether the operator paused it.
        paused: bool,
    },
    /// Source to target: everything was sent; flush, then take over generation and history.
    Adopt {
        /// The source's lineage.
        lineage: Lineage,
        /// Highest epoch.
        epoch: Epoch,
        /// The source's cache epoch.
        cache_epoch: u64,
    },
    /// Target to source: flushed, persisted, own old marks cleared.
    Adopted,
    /// Source to target: marks cleared; both are in sync from here on.
    Join,
    /// Target to source: the join is persisted.
    Joined,
    /// Cumulative: every frame up to this one has been received and its checksum was right.
    Received {
        /// Highest sequence received.
        upto: Sequence,
    },
    /// These frames are on the target's disk (its cache).
    Written {
        /// Any order.
        sequences: Vec<Sequence>,
    },
    /// The target's disk failed at this frame.
    Failed {
        /// The frame.
        sequence: Sequence,
        /// Errno, for status.
        errno: i32,
    },
    /// Primary to secondary: make everything before this message durable.
    Flush {
        /// Number of the flush cycle.
        cycle: u64,
    },
    /// Secondary to primary: done.
    Flushed {
        /// Number of the flush cycle.
        cycle: u64,
    },
    /// Primary to secondary: the primary's own disk has everything before that cycle durable.
    PrimaryDurable {
        /// Number of the flush cycle.
        cycle: u64,
    },
    /// "I want to be primary."
    Claim {
        /// The epoch it would serve in.
        epoch: Epoch,
    },
    /// The answer to a claim.
    Claimed {
        /// That of the claim.
        epoch: Epoch,
        /// Whether it is granted.
        granted: bool,
    },
    /// The sender's role changed and is persisted.
    RoleChanged {
        /// The new role.
        role: Role,
        /// In this epoch.
        epoch: Epoch,
    },
    /// The sender's disk changed.
    DiskChanged {
        /// The new state.
        disk: DiskState,
        /// Why.
        reason: String,
    },
    /// A primary without a disk asks the secondary to be the only authority.
    TakeAuthority {
        /// Why the primary's disk is gone.
        reason: String,
    },
    /// Granted: drained, flushed, persisted under this lineage.
    AuthorityTaken {
        /// The secondary's new lineage.
        lineage: Lineage,
    },
    /// A primary that can't read its disk asks the secondary. Answered with `Frame::ReadReply`.
    ReadRequest {
        /// The asker's operation.
        op: OpId,
        /// Block-aligned range.
        range: ByteRange,
    },
    /// The read found nothing but zeroes.
    ReadZeroes {
        /// The asker's operation.
        op: OpId,
    },
    /// The read failed at the secondary too.
    ReadFailed {
        /// The asker's operation.
        op: OpId,
        /// Errno, for status.
        errno: i32,
    },
    /// Ask the side that runs the resync to pause or go on.
    PauseResync {
        /// Pause, or go on.
        paused: bool,
    },
    /// Ask the primary, or the resync source, to verify.
    StartVerify {
        /// Repair what differs.
        repair: bool,
    },
    /// The verify's state, for the other side's status.
    VerifyState {
        /// Bytes left; 0 with `done`.
        left: u64,
        /// Bytes in all.
        total: u64,
        /// Bytes differing so far.
        different: u64,
        /// Bytes repaired so far.
        repaired: u64,
        /// First differing ranges.
        ranges: Vec<(u64, u64)>,
        /// Whether it ended.
        done: bool,
    },
    /// The operator gave up the receiver's data in favour of the sender's.
    DiscardYours {
        /// Copy in full rather than compare.
        full: bool,
    },
    /// Keep-alive.
    Ping {
        /// Echoed.
        token: u64,
    },
    /// Answer to a ping.
    Pong {
        /// That of the ping.
        token: u64,
    },
    /// The sender ends the session on purpose, in order.
    Goodbye {
        /// Why.
        reason: String,
    },
}

/// Encodes a message.
pub fn encode(message: &Message) -> Vec<u8> {
    bincode::serde::encode_to_vec(message, bincode::config::standard())
        .expect("a message has no type that bincode can't encode")
}

/// Decodes a message; `None` for anything that is not exactly one message.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    let config = bincode::config::standard().with_limit::<{ crate::base::limits::FRAME_PAYLOAD_BYTES_MAX }>();
    match bincode::serde::decode_from_slice(bytes, config) {
        Ok((message, used)) if used == bytes.len() => Some(message),
        _ => None,
    }
}
