//! What goes into the mirror core and what comes out.
//!
//! Contract with the runtime:
//! - Effects of one call carry no promise of order among themselves, except the `Send`s of one session.
//! - Every [`Effect::Disk`], [`Effect::Persist`] is answered exactly once, failures and shutdown included. Disk
//!   operations run concurrently; the core never has two overlapping ones under way of which one writes, except a
//!   `Flush`, which covers exactly the operations that were answered before it was handed out. One flush at a time.
//! - Persist operations are carried out one after the other, in order; so are those of the archive.
//! - A buffer belongs to the core from the input that names it to the `Release` (or, for reads, the `Reply`) that names it.
//!   After a `ReplyApart` a read's buffer is still the core's.
//!   When a session ends, frames already handed out for it need their buffers no longer.
//! - `settle` is called once after each batch of inputs, before the effects are carried out.

use crate::base::command::{Command, CommandOutcome};
use crate::base::error::DiskError;
use crate::base::generation::Generation;
use crate::base::ids::{BootId, BufferId, CommandId, Incarnation, NodeId, OpId, RequestId, SessionId, Uuid};
use crate::base::range::ByteRange;
use crate::base::request::{Outcome, Request};
use crate::base::state::{DiskState, Exclusion, Mode, Overflow, ResyncKind, Role, SplitBrain};
use crate::base::time::Moment;
pub use crate::base::volume::{Facts, Order, Way};
use crate::wire::frame::Frame;
use crate::wire::metadata::record::{Loaded, Record};
use std::time::Duration;

/// Settings of one volume, fixed for the life of its core.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Name of the volume, for the view.
    pub name: String,
    /// This node.
    pub node: NodeId,
    /// Name of this node and of its peer, for sentences.
    pub node_names: [String; 2],
    /// Identity of the volume.
    pub volume: Uuid,
    /// Who keeps the two nodes from going on alone at the same time.
    pub exclusion: Exclusion,
    /// When a write is acknowledged.
    pub mode: Mode,
    /// What an asynchronous volume does when its buffer is full.
    pub overflow: Overflow,
    /// Bytes an asynchronous volume may have unacknowledged.
    pub async_bytes_max: u64,
    /// Age of the oldest unacknowledged write of an asynchronous volume.
    pub async_age_max: Duration,
    /// Local writes wait for the peer's receipt.
    pub receipt_gating: bool,
    /// Skip intents after a primary's crash when the survivor's memory is exact. Needs gating on both (R11).
    pub exact_recovery: bool,
    /// Longest wait for the peer to write a frame before the session is given up.
    pub remote_io_timeout: Duration,
    /// Longest silence of the peer before the session is given up.
    pub link_timeout: Duration,
    /// Longest wait for the local disk; zero for none.
    pub disk_timeout: Duration,
    /// Longest time requests are held when neither disk serves, before they fail.
    pub suspend_max: Duration,
    /// Time between two pings on a link.
    pub ping_interval: Duration,
    /// Time between two internal flushes while something is unstable.
    pub flush_interval: Duration,
    /// Time between two dirty snapshots while not in sync.
    pub snapshot_interval: Duration,
    /// Age at which an idle, stable region's intent is cleared.
    pub intent_idle: Duration,
    /// Time between two looks for intents that may be cleared.
    pub intent_sweep_interval: Duration,
    /// Time after which blocks that a resync's source could not read are tried again.
    pub unreadable_retry: Duration,
    /// Resync rate never exceeded, bytes per second; 0 for none.
    pub resync_rate_max: u64,
    /// Resync rate kept up under any client load, bytes per second.
    pub resync_rate_min: u64,
    /// Client write latency during a resync may be this many times what it is without.
    pub latency_allowance: f64,
    /// What only this copy has is archived before it is overwritten.
    pub archive: bool,
    /// What happens by itself when both nodes went on alone; needs to be the same on both.
    pub split_brain: SplitBrain,
}

impl Settings {
    /// A synchronous volume called `vol0` with every setting as the configuration's reference has it.
    pub fn usual(node: NodeId, volume: Uuid) -> Settings {
        Settings {
            name: "vol0".into(),
            node,
            node_names: ["alpha".into(), "beta".into()],
            volume,
            exclusion: Exclusion::Operator,
            mode: Mode::Sync,
            overflow: Overflow::Block,
            async_bytes_max: 256 << 20,
            async_age_max: Duration::from_secs(5),
            receipt_gating: false,
            exact_recovery: false,
            remote_io_timeout: Duration::from_secs(10),
            link_timeout: Duration::from_secs(5),
            disk_timeout: Duration::from_secs(30),
            suspend_max: Duration::from_secs(25),
            ping_interval: Duration::from_millis(200),
            flush_interval: Duration::from_millis(500),
            snapshot_interval: Duration::from_secs(30),
            intent_idle: Duration::from_secs(600),
            intent_sweep_interval: Duration::from_secs(10),
            unreadable_retry: Duration::from_secs(30),
            resync_rate_max: 0,
            resync_rate_min: 10 << 20,
            latency_allowance: 1.25,
            archive: true,
            split_brain: SplitBrain::Manual,
        }
    }
}

/// Who this process is; fixed for the life of the core.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// This process.
    pub incarnation: Incarnation,
    /// This boot.
    pub boot: BootId,
    /// Seed of the core's own random numbers (generation nonces).
    pub seed: u64,
}

/// What happened outside.
#[derive(Debug)]
pub enum Input {
    /// A client's piece. Only while [`super::Mirror::serving`] is `Some` and [`super::Mirror::can_admit`].
    Request(Request),
    /// A disk operation ended.
    DiskDone {
        /// The operation.
        op: OpId,
        /// What it yielded.
        result: Result<Completion, DiskError>,
    },
    /// A record is durable, or could not be made so.
    Persisted {
        /// The operation.
        op: OpId,
        /// How it ended.
        result: Result<(), DiskError>,
    },
    /// The answer to [`Effect::Archive`].
    Archived {
        /// The operation.
        op: OpId,
        /// Why it failed, as a sentence that names the archive and the next step.
        result: Result<(), String>,
    },
    /// An authenticated session with the peer exists. Never two at a time: the old one is `LinkDown` first.
    LinkUp {
        /// Both ends use the same value.
        session: SessionId,
    },
    /// The session ended.
    LinkDown {
        /// Which.
        session: SessionId,
        /// Why, for status.
        reason: String,
    },
    /// A frame came in; its checksums are right, its session is this one.
    Frame {
        /// Which session.
        session: SessionId,
        /// The frame; a bulk buffer belongs to the core from here on.
        frame: Frame,
    },
    /// The answer to [`Effect::ProbePeer`].
    PeerProbed {
        /// Every address of the peer refused the connection: its daemon does not run.
        refused: bool,
    },
    /// The failover group orders something, [`Exclusion::Group`] only. Answered by [`Effect::OrderDone`]; an order that
    /// another one overtakes is answered, too.
    Order {
        /// Echoed in the answer.
        id: u64,
        /// What is ordered.
        order: Order,
    },
    /// Until when this node may serve reads, [`Exclusion::Group`] only: it has no permit before the first of these.
    Permit {
        /// `None` when nobody else can take over, so that none is needed.
        until: Option<Moment>,
    },
    /// An operator's command.
    Command {
        /// Echoed in the outcome.
        id: CommandId,
        /// What is asked.
        command: Command,
    },
    /// A disk was opened for a core that has none.
    Attach {
        /// Echoed in the outcome.
        id: CommandId,
        /// Its metadata.
        loaded: Box<Loaded>,
    },
    /// The operator wants the daemon to stop: flush, persist clean, then `Effect::Stopped`.
    Stop,
    /// The deadline of [`super::Mirror::next_deadline`] has come (or any other reason to look at the clock).
    Tick,
}

/// What a disk operation yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Completion {
    /// Nothing but that it is done.
    Done,
    /// Of [`DiskIo::ReadChunk`]: a new buffer for the core, or all zeroes.
    Chunk {
        /// `None` when every byte is zero.
        buffer: Option<BufferId>,
    },
    /// Of [`DiskIo::Digest`]: XXH3-128 of each block, in order.
    Digests(Vec<u128>),
    /// Of [`DiskIo::Holes`]: block-aligned parts of the range that read as zeroes without a read, in order.
    Holes(Vec<ByteRange>),
}

/// An operation on the data disk. Ranges are block-aligned and inside the volume, except for [`DiskIo::Fill`].
#[derive(Clone, Debug, PartialEq)]
pub enum DiskIo {
    /// Read `range` into the buffer from its first byte.
    Read {
        /// Block-aligned.
        range: ByteRange,
        /// As large as the range.
        buffer: BufferId,
    },
    /// Complete the first and last block around an unaligned write: read them and copy into the buffer the bytes
    /// outside `range`, leaving those inside alone.
    Fill {
        /// The client's unaligned range; the buffer is as large as `range.aligned_out()`.
        range: ByteRange,
        /// Holds the client's bytes.
        buffer: BufferId,
    },
    /// Read into a buffer of the runtime's choice; waits for one if need be.
    ReadChunk {
        /// Block-aligned, at most a piece.
        range: ByteRange,
    },
    /// Write the buffer from its first byte.
    Write {
        /// Block-aligned.
        range: ByteRange,
        /// As large as the range.
        buffer: BufferId,
        /// Durable before it is done.
        fua: bool,
    },
    /// Make the range read as zeroes.
    Zero {
        /// Block-aligned.
        range: ByteRange,
        /// Give the space back.
        unmap: bool,
        /// Durable before it is done.
        fua: bool,
    },
    /// Make every operation that was answered before durable.
    Flush,
    /// Read and checksum each block.
    Digest {
        /// Block-aligned, at most a piece.
        range: ByteRange,
    },
    /// Ask which parts are holes. May answer with none.
    Holes {
        /// Block-aligned, any length.
        range: ByteRange,
    },
}

/// What is to be done with the archive of a copy that is given up.
#[derive(Clone, Debug, PartialEq)]
pub enum Archive {
    /// Have one ready, durably, before anything is overwritten.
    Open {
        /// One was begun and must go on: blocks that it holds may be overwritten already. Without it, that fails.
        resumed: bool,
        /// The disk.
        device: Uuid,
        /// What this copy is.
        ours: Generation,
        /// What takes its place.
        theirs: Generation,
        /// Of the volume, in bytes.
        size_bytes: u64,
    },
    /// Save what the disk holds there, durably. What an archive holds of a block already stays: it is older.
    Save {
        /// Block-aligned, of any length; nothing else reads or writes it meanwhile.
        range: ByteRange,
        /// Zeroes take its place: blocks that hold nothing else need not be saved.
        zeroes: bool,
    },
    /// This copy is the peer's equal: nothing more comes.
    Finish,
}

/// What the core wants done.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// A disk operation; answered by [`Input::DiskDone`].
    Disk {
        /// Echoed in the answer.
        op: OpId,
        /// What to do.
        io: DiskIo,
    },
    /// Make a record durable; answered by [`Input::Persisted`].
    Persist {
        /// Echoed in the answer.
        op: OpId,
        /// What to write.
        record: Record,
    },
    /// Something for the archive of what only this copy has; answered by [`Input::Archived`].
    Archive {
        /// Echoed in the answer.
        op: OpId,
        /// What to do.
        work: Archive,
    },
    /// Send a frame; frames of one session go out in the order of their effects.
    Send {
        /// Which session.
        session: SessionId,
        /// The frame.
        frame: Frame,
    },
    /// End the session once what was sent before is on its way. Answered by [`Input::LinkDown`].
    Disconnect {
        /// Which session.
        session: SessionId,
        /// For the log.
        reason: String,
        /// Connect again at once (or after a back-off, when the reason is a fault).
        reconnect_now: bool,
    },
    /// Look whether anyone listens at the peer's addresses. Answered by [`Input::PeerProbed`].
    ProbePeer,
    /// An order was carried out, or can't be: why.
    OrderDone {
        /// Which.
        id: u64,
        /// How it ended.
        result: Result<(), String>,
    },
    /// A piece is settled. A read's buffer belongs to the runtime again.
    Reply {
        /// The piece.
        request: RequestIdAndOutcome,
    },
    /// A read is settled while an operation of a disk that was given up may still write to its buffer: that one stays with
    /// the core until its `Release`. The bytes of a read that went well are in another buffer, the runtime's from here on.
    ReplyApart {
        /// The piece.
        request: RequestIdAndOutcome,
        /// Where its bytes are, as many as its own buffer has; `None` for zeroes, and for a read that failed.
        bytes: Option<BufferId>,
    },
    /// Copy a buffer's bytes over another of the same size, or fill it with zeroes. Carried out at once, before any
    /// later effect of the same batch.
    Copy {
        /// Where from; `None` for zeroes.
        from: Option<BufferId>,
        /// Where to.
        to: BufferId,
    },
    /// The core needs this buffer no longer.
    Release {
        /// The buffer.
        buffer: BufferId,
    },
    /// Every client connection must be cut: this node no longer serves. Their pieces still settle.
    CutClients {
        /// For the log.
        reason: String,
    },
    /// The local disk is given up: close it when its last operation has ended.
    CloseDisk,
    /// A command ended.
    CommandDone {
        /// Which.
        id: CommandId,
        /// How.
        outcome: CommandOutcome,
    },
    /// Everything is flushed and persisted; the process may end.
    Stopped,
    /// Something worth telling.
    Note(Note),
}

/// A settled piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestIdAndOutcome {
    /// The piece.
    pub id: RequestId,
    /// How it ended.
    pub outcome: Outcome,
}

/// What a serving core serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Size of the volume, in bytes.
    pub size_bytes: u64,
    /// A client session is bound to this value; when it changes, sessions of the old one are refused (R9).
    pub cache_epoch: u64,
}

/// Things worth telling: typed here, turned into log lines and events in one place of the runtime.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// The volume has grown.
    Grown {
        /// Its size in bytes now.
        bytes: u64,
    },
    /// A session began.
    SessionBegan,
    /// A session ended.
    SessionEnded {
        /// Why.
        reason: String,
    },
    /// The handshake ended.
    Decided {
        /// Name of the rule.
        rule: &'static str,
        /// The plan in words.
        plan: String,
    },
    /// The role changed.
    RoleChanged {
        /// Now.
        role: Role,
        /// Why.
        reason: String,
    },
    /// The local disk's worth changed.
    DiskChanged {
        /// Now.
        disk: DiskState,
        /// Why.
        reason: String,
    },
    /// The primary goes on alone; its peer's copy is outdated from here.
    SoloBegan,
    /// A resync began.
    ResyncBegan {
        /// How.
        kind: ResyncKind,
        /// Why.
        reason: String,
        /// Bytes to go through.
        bytes: u64,
    },
    /// Both are in sync.
    Joined {
        /// Bytes copied as data.
        bytes_copied: u64,
        /// Found equal.
        bytes_equal: u64,
        /// Sent as zeroes.
        bytes_zeroed: u64,
        /// From handshake to join.
        took: Duration,
    },
    /// Verify ended.
    Verified {
        /// Compared.
        bytes: u64,
        /// Different.
        different: u64,
    },
    /// A read failed here and was served by the peer.
    ReadRepaired {
        /// Where.
        range: ByteRange,
    },
    /// Requests are held.
    Held {
        /// Why.
        reason: String,
    },
    /// The peer broke the protocol.
    PeerMisbehaved {
        /// How.
        what: String,
    },
    /// An asynchronous volume fell behind on purpose.
    Shed,
    /// What only this copy has can't be archived, so it is not overwritten.
    ArchiveFailed {
        /// Why.
        reason: String,
    },
}
