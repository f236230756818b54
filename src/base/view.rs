//! What a volume shows of itself: the one source of `status`, for people and machines.

use super::state::{DiskState, LinkState, Mode, ResyncKind, Role};
use serde::{Deserialize, Serialize};

/// One volume on one node, at one moment. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeView {
    /// Name in the configuration.
    pub name: String,
    /// Acknowledgement mode.
    pub mode: Mode,
    /// This node's role.
    pub role: Role,
    /// This node's disk.
    pub disk: DiskState,
    /// Why the disk is what it is, when that needs a word (latched reason of a failure).
    pub disk_reason: Option<String>,
    /// The peer's role, if it was heard in this session.
    pub peer_role: Option<Role>,
    /// The peer's disk, if it was heard in this session.
    pub peer_disk: Option<DiskState>,
    /// The replication link.
    pub link: LinkState,
    /// Why the link is what it is (refusal, last error), when that needs a word.
    pub link_reason: Option<String>,
    /// The rule the last handshake ended with.
    pub rule: Option<String>,
    /// Whether both disks hold the same and every acknowledged write.
    pub in_sync: bool,
    /// Whether requests are served right now.
    pub serving: bool,
    /// Why they are held, when a primary doesn't serve.
    pub held_reason: Option<String>,
    /// Size of the volume; 0 until a disk is known.
    pub size_bytes: u64,
    /// What differs or may differ from the peer, in whole blocks.
    pub dirty_bytes: u64,
    /// The part of `dirty_bytes` that is only suspected and will be compared before it is copied.
    pub suspect_bytes: u64,
    /// Requests admitted and not settled.
    pub requests_in_flight: u32,
    /// Bytes sent and not yet written by the peer.
    pub unacknowledged_bytes: u64,
    /// The current generation.
    pub generation: String,
    /// Rises when acknowledged, unflushed writes may have been lost; part of what a client session is bound to.
    pub cache_epoch: u64,
    /// The running resync.
    pub resync: Option<ResyncView>,
    /// The last finished resync.
    pub last_resync: Option<ResyncSummary>,
    /// The running verify.
    pub verify: Option<VerifyView>,
    /// The last finished verify.
    pub last_verify: Option<VerifySummary>,
    /// Both sides, where the servers refuse to sync because both may have content that the other lacks.
    #[serde(default)]
    pub split: Option<SplitView>,
}

/// Two copies that went apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitView {
    /// This node's.
    pub ours: SplitSide,
    /// The peer's, as it was when the two met.
    pub theirs: SplitSide,
}

/// One of two copies that went apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitSide {
    /// Its node's role.
    pub role: Role,
    /// Its disk.
    pub disk: DiskState,
    /// Its generation.
    pub generation: String,
    /// The last epoch in which its node served.
    pub primary_epoch: u64,
    /// At most so many bytes it changed by itself since both were the same, in whole blocks; `None` where that isn't known.
    pub changed_bytes: Option<u64>,
}

/// A resync in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResyncView {
    /// How it finds out what to copy.
    pub kind: ResyncKind,
    /// Why it runs, one sentence.
    pub reason: String,
    /// Whether this node is the source.
    pub source: bool,
    /// Whether the operator paused it.
    pub paused: bool,
    /// Done, 0 to 100.
    pub percent: f64,
    /// Still to copy or compare.
    pub bytes_left: u64,
    /// What it had to copy or compare in all.
    pub bytes_total: u64,
    /// Copied as data so far.
    pub bytes_copied: u64,
    /// Sent as holes or zeroes so far.
    pub bytes_zeroed: u64,
    /// Found equal so far.
    pub bytes_equal: u64,
    /// Recent rate.
    pub bytes_per_second: u64,
    /// Time left at that rate; `None` while nothing moves.
    pub seconds_left: Option<u64>,
}

/// A resync that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResyncSummary {
    /// How it found out what to copy.
    pub kind: ResyncKind,
    /// Why it ran.
    pub reason: String,
    /// Whether this node was the source.
    pub source: bool,
    /// Copied as data.
    pub bytes_copied: u64,
    /// Sent as holes or zeroes.
    pub bytes_zeroed: u64,
    /// Found equal by checksum.
    pub bytes_equal: u64,
    /// From the start of the session to in sync.
    pub milliseconds: u64,
}

/// A verify in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyView {
    /// Done, 0 to 100.
    pub percent: f64,
    /// Still to compare.
    pub bytes_left: u64,
    /// Recent rate.
    pub bytes_per_second: u64,
    /// Time left at that rate.
    pub seconds_left: Option<u64>,
    /// Differing so far.
    pub bytes_different: u64,
    /// Whether differences are repaired.
    pub repair: bool,
}

/// A verify that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifySummary {
    /// Compared.
    pub bytes_compared: u64,
    /// Found different.
    pub bytes_different: u64,
    /// Of these, repaired.
    pub bytes_repaired: u64,
    /// The first differing ranges, as offset and length; at most 64.
    pub ranges: Vec<(u64, u64)>,
    /// Whether it reached the end.
    pub complete: bool,
    /// Time it took.
    pub milliseconds: u64,
}
