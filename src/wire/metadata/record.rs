//! What the mirror core makes durable, and what it finds again at start. Types only; the bytes are beside this file.

use crate::base::generation::Lineage;
use crate::base::ids::{BootId, Epoch, Incarnation, NodeId, SessionId, Uuid};
use crate::base::state::{Archiving, DiskState, ResyncKind, Role};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

/// The durable state of one disk of a volume, apart from its maps. Written whole, in effect only when both copies are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superblock {
    /// Rises by one per write.
    pub sequence: u64,
    /// Identity of the volume, from cluster and volume name; equal on both nodes.
    pub volume: Uuid,
    /// Identity of this disk's metadata, drawn when it was made.
    pub device: Uuid,
    /// The peer's device at the last join.
    pub peer_device: Option<Uuid>,
    /// Node this disk belongs to.
    pub node: NodeId,
    /// Size of the volume once agreed or served, in bytes; 0 before.
    pub committed_bytes: u64,
    /// log2 of the bytes one intent bit stands for.
    pub region_shift: u32,
    /// Role when last written.
    pub role: Role,
    /// What the content is worth. Never `Diskless`.
    pub disk: DiskState,
    /// Generations.
    pub lineage: Lineage,
    /// Highest epoch in which this node was primary.
    pub primary_epoch: Epoch,
    /// Highest epoch ever seen.
    pub seen_epoch: Epoch,
    /// Rises when acknowledged, unflushed writes may have been lost (rule R9).
    pub cache_epoch: u64,
    /// The last time both were in sync, if ever.
    pub join: Option<Join>,
    /// An unfinished resync of which this node was the source.
    pub unfinished: Option<ResyncKind>,
    /// Sequence of the newest confirmed snapshot of the maps; `None` when there are no marks but intents.
    pub snapshot: Option<u64>,
    /// Stopped in order, with everything flushed.
    pub clean: bool,
    /// This node went on alone since: the peer's copy is known to be older.
    pub peer_outdated: bool,
    /// The operator gave up this disk's data; cleared when the resync that follows begins.
    pub discard: bool,
    /// The operator asked for a resync of everything by this means; cleared when it begins.
    pub requested: Option<ResyncKind>,
    /// Unreadable or rotten metadata was found at start; never promoted without force.
    pub suspect: bool,
    /// What becomes of what only this disk has while it is overwritten. Stored by itself, where it is not `Off`.
    #[serde(skip)]
    pub archiving: Archiving,
}

/// Both nodes as they were when they were last known to be in sync (rule R6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// This node's process then.
    pub incarnation: Incarnation,
    /// This node's boot then.
    pub boot: BootId,
    /// The peer's process then.
    pub peer_incarnation: Incarnation,
    /// The peer's boot then.
    pub peer_boot: BootId,
    /// The session in which they joined.
    pub session: SessionId,
    /// Whether local writes waited for the peer's receipt from join on.
    pub gated: bool,
}

/// One thing to make durable. Answered with `Input::Persisted` when every byte of it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The superblock. `sequence` is set by the writer.
    Superblock(Box<Superblock>),
    /// One page of the write-intent map: the set regions among `page * REGIONS_PER_PAGE ..`.
    Intents {
        /// Page number.
        page: u32,
        /// Set regions, numbered from the start of the volume.
        regions: Vec<u32>,
    },
    /// Snapshot of the maps, newer than any before.
    Snapshot {
        /// Rises by one per snapshot; the superblock names it once it is durable.
        sequence: u64,
        /// Blocks known to differ.
        dirty: RoaringBitmap,
        /// Blocks that may differ.
        suspect: RoaringBitmap,
    },
}

/// Regions one page of the intent map holds.
pub const REGIONS_PER_PAGE: u32 = 32_000;

/// What was found on the disk at start.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The newest sound superblock.
    pub superblock: Superblock,
    /// Bytes of volume data this disk can hold, before any agreement with the peer.
    pub capacity_bytes: u64,
    /// Regions whose intent bit is set. An unreadable page counts as set throughout.
    pub intents: RoaringBitmap,
    /// Blocks of the snapshot the superblock names, known to differ.
    pub dirty: RoaringBitmap,
    /// Blocks of that snapshot that may differ.
    pub suspect: RoaringBitmap,
    /// The snapshot that the superblock names could not be read: everything must be compared.
    pub maps_unreadable: bool,
    /// Both copies of the newest superblock were rotten, or the data disk is not the one the metadata was made for.
    pub superblock_suspect: bool,
}

impl Superblock {
    /// Of a disk that was never used and whose content is worth nothing yet.
    pub fn blank(volume: Uuid, node: NodeId, device: Uuid, region_shift: u32) -> Superblock {
        Superblock {
            sequence: 0,
            volume,
            device,
            peer_device: None,
            node,
            committed_bytes: 0,
            region_shift,
            role: Role::Secondary,
            disk: DiskState::New,
            lineage: Lineage::default(),
            primary_epoch: Epoch(0),
            seen_epoch: Epoch(0),
            cache_epoch: 0,
            join: None,
            unfinished: None,
            snapshot: None,
            clean: true,
            peer_outdated: false,
            discard: false,
            requested: None,
            suspect: false,
            archiving: Archiving::Off,
        }
    }

    /// log2 of the bytes of one intent region for a disk of this capacity.
    pub fn region_shift_for(capacity_bytes: u64) -> u32 {
        use crate::base::limits::{REGION_SHIFT_MAX, REGION_SHIFT_MIN, REGIONS_WANTED};
        let wanted = (capacity_bytes / REGIONS_WANTED).max(1).next_power_of_two();
        wanted.trailing_zeros().clamp(REGION_SHIFT_MIN, REGION_SHIFT_MAX)
    }
}
