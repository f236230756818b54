//! The core's state and its outer face: one call in, effects out.
//!
//! | file | what it decides |
//! |---|---|
//! | `core` | the state; who gets which input |
//! | `request`, `read` | a client's piece, from lock to reply |
//! | `flush` | flush cycles and what they make stable |
//! | `door` | going on alone, taking over, giving authority |
//! | `exclusion` | the failover group: its orders, its permit to read |
//! | `session` | a session's life, and what is on its way in it |
//! | `meeting`, `handshake` | what two nodes that meet decide |
//! | `source`, `chunk` | a resync's giving side |
//! | `target` | what the receiving side applies |
//! | `archive` | what only a copy that is given up has |
//! | `command` | the operator |
//! | `failure` | disks that fail |
//! | `housekeeping` | time |
//! | `view` | what is shown |

use super::archive::{Archived, Archiver};
use super::chunk::Chunk;
use super::command::Pending;
use super::door::Door;
use super::exclusion::Word;
use super::flush::{Flushes, Flushing};
use super::grow::Growth;
use super::handshake;
use super::housekeeping::Timers;
use super::intents::Intents;
use super::interface::{Completion, DiskIo, Effect, Identity, Input, Note, Serving, Settings};
use super::lock::RangeLock;
use super::marks::{Marks, Unstable};
use super::mutation::Rules;
use super::rate::Governor;
use super::request::Slot;
use super::session::Session;
use super::slab::{Key, Slab};
use super::source::Finished;
use super::target::Applying;
use super::verify::Verify;
use crate::base::error::DiskError;
use crate::base::generation::Generation;
use crate::base::ids::{Epoch, OpId, SessionId};
use crate::base::latency::{Kind, Latency, Stage};
use crate::base::limits::PIECES_IN_FLIGHT_MAX;
use crate::base::range::{BLOCK_SHIFT, ByteRange};
use crate::base::state::{DiskState, Mode, Role};
use crate::base::time::Moment;
use crate::wire::message::Descriptor;
use crate::wire::metadata::record::{Loaded, Record, Superblock};
use std::collections::{BTreeSet, VecDeque};

/// The stages of a request that the core sees.
const STAGES_HERE: [Stage; 10] = [
    Stage::GateWait,
    Stage::IntentWait,
    Stage::LocalWrite,
    Stage::LocalRead,
    Stage::LocalFlush,
    Stage::PeerReceipt,
    Stage::PeerWrite,
    Stage::PeerRead,
    Stage::PeerFlush,
    Stage::Total,
];

/// The mirror core of one volume on one node.
pub struct Mirror {
    pub(super) settings: Settings,
    pub(super) identity: Identity,
    pub(super) rules: Rules,
    /// The last moment heard of.
    pub(super) now: Moment,
    pub(super) random: Random,
    /// Disk and metadata operations under way, and since when.
    pub(super) ops: Slab<(Op, Moment)>,
    pub(super) role: Role,
    /// The local disk's worth, and why.
    pub(super) disk: DiskState,
    pub(super) disk_reason: Option<String>,
    /// Bytes the local disk can hold.
    pub(super) capacity_bytes: u64,
    /// What is durable of this node, as it will be after the persists under way.
    pub(super) superblock: Superblock,
    /// Acknowledged, unflushed writes may have been lost since this node last served or joined (rule R9).
    pub(super) cache_lost: bool,
    /// The disk that was given up failed to flush.
    pub(super) cache_dropped: bool,
    pub(super) marks: Marks,
    /// Since the last join a disk was attached: what only memory held of the marks is gone, so memory is not exact (R11).
    pub(super) forgot: bool,
    /// The marks on disk could not be read; everything must be compared.
    pub(super) maps_unreadable: bool,
    /// At the primary: sent and not durable at the secondary. At the secondary: received and not durable at the primary.
    pub(super) unstable: Unstable,
    pub(super) intents: Intents,
    /// Generations the peer may hold such that our marks cover every difference.
    pub(super) cover: Vec<Generation>,
    pub(super) lock: RangeLock<Owner>,
    /// Client pieces, and the peer's while this node is its authority.
    pub(super) slots: Slab<Slot>,
    /// Resync and verify chunks.
    pub(super) chunks: Slab<Chunk>,
    pub(super) verify: Option<Verify>,
    /// Mutations that wait for an intent page.
    pub(super) intent_waiters: Vec<Key>,
    /// Order of the last mutation that left for either disk.
    pub(super) sequence: u64,
    /// Orders whose local leg is not done.
    pub(super) unfinished: BTreeSet<u64>,
    /// Orders that were sent and whose local leg has not begun: it waits for the peer's receipt.
    pub(super) gated: BTreeSet<u64>,
    pub(super) flushing: Flushing,
    pub(super) flushes: Flushes,
    pub(super) door: Door,
    pub(super) word: Word,
    pub(super) session: Option<Session>,
    pub(super) applying: Applying,
    pub(super) archiver: Archiver,
    /// A sentence on the last session's end, for status.
    pub(super) link_reason: Option<String>,
    /// The last decision's rule.
    pub(super) rule: Option<handshake::Rule>,
    /// The peer's process was gone right when the last session ended: it can't have gone on alone.
    pub(super) peer_gone: bool,
    /// The peer stopped in order, having sent everything.
    pub(super) peer_left: bool,
    /// The last session was joined when it ended, then.
    pub(super) was_joined: bool,
    pub(super) link_lost: Moment,
    /// When the newest ping that the peer answered in the last session was sent.
    pub(super) peer_answered: Moment,
    pub(super) pending: Pending,
    pub(super) finished: Finished,
    pub(super) governor: Governor,
    pub(super) timers: Timers,
    /// Snapshots taken so far.
    pub(super) snapshots: u64,
    /// When requests began to be held, and why.
    pub(super) held_since: Option<(Moment, String)>,
    /// Client reads the local disk failed.
    pub(super) read_errors: u64,
    pub(super) ready: VecDeque<Key>,
    /// Where the time of requests goes.
    pub(super) latency: Latency,
}

/// Whom the range lock tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A piece.
    Slot(Key),
    /// A chunk of a resync or verify.
    Chunk(Key),
}

/// What an operation under way is for.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// The one flush under way, for whoever shares it.
    Flush,
    /// Filling in the ends of an unaligned write.
    Fill(Key),
    /// A client's read.
    Read(Key),
    /// Putting back what the peer had and the local disk could not read.
    Repair(Key),
    /// The local leg of a mutation.
    Write(Key),
    /// A frame of the peer.
    Apply(Key),
    /// Checksums for the peer.
    PeerDigest(Key),
    /// A flush before a promise to the peer.
    Barrier(u64),
    /// The local part of a flush cycle.
    Cycle(u64),
    /// The flush before going on alone or taking over.
    Door,
    /// The source's flush before or at the end of a resync, in this session.
    SourceFlush(SessionId),
    /// A resync chunk's read, checksum or question for holes.
    Chunk(Key),
    /// The question for holes ahead of the resync's cursor.
    Holes(ByteRange),
    /// A page of the intent map.
    Intents,
    /// A snapshot of the maps.
    Snapshot(u64),
    /// A superblock, and what follows.
    Superblock(After),
    /// Something for the archive.
    Archive(Archived),
}

/// What follows when a superblock is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing.
    Nothing,
    /// This node is primary.
    Promoted,
    /// This node is secondary.
    Demoted,
    /// A stale primary stepped down during the handshake; the plan goes on.
    SteppedDown,
    /// The copy is called outdated by the group's order.
    Outdated,
    /// The door is open.
    DoorOpen,
    /// The target may be offered our generation.
    Offered,
    /// The source may tell the target to begin.
    SourceBegun,
    /// The target is ready.
    TargetBegun,
    /// The target adopted the source's generation.
    Adopted,
    /// The source has joined.
    SourceJoined,
    /// The target has joined.
    TargetJoined,
    /// Connect again: the operator's wish is durable.
    Wish,
    /// The volume has its new size.
    Grown,
    /// Stopped in order.
    Stopped,
}

/// A small generator for generation nonces and jitter; seeded from outside (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Mirror {
    /// Goes by other settings from here on. What both servers agree on when they meet must be the same, and what the
    /// volume is.
    pub fn reconfigure(&mut self, settings: Settings) {
        let old = &self.settings;
        assert_eq!((&settings.name, settings.node, settings.volume), (&old.name, old.node, old.volume));
        assert_eq!((settings.exclusion, settings.mode), (old.exclusion, old.mode));
        let agreed = |settings: &Settings| (settings.receipt_gating, settings.exact_recovery);
        assert_eq!(agreed(&settings), agreed(old));
        self.governor.set_limits(&settings);
        self.settings = settings;
    }

    /// A core whose disk holds `loaded`, or that has no disk. Starts as secondary.
    pub fn new(settings: Settings, identity: Identity, loaded: Option<Loaded>) -> Mirror {
        let superblock = blank_superblock(&settings);
        let mut mirror = Mirror {
            random: Random(identity.seed),
            rules: Rules::default(),
            now: Moment(0),
            ops: Slab::default(),
            role: Role::Secondary,
            disk: DiskState::Diskless,
            disk_reason: None,
            capacity_bytes: 0,
            cache_lost: false,
            cache_dropped: false,
            marks: Marks::default(),
            forgot: false,
            maps_unreadable: false,
            unstable: Unstable::default(),
            intents: Intents::new(superblock.region_shift, 0, Default::default()),
            cover: Vec::new(),
            superblock,
            lock: RangeLock::default(),
            slots: Slab::default(),
            chunks: Slab::default(),
            verify: None,
            intent_waiters: Vec::new(),
            sequence: 0,
            unfinished: BTreeSet::new(),
            gated: BTreeSet::new(),
            flushing: Flushing::default(),
            flushes: Flushes::default(),
            door: Door::Closed,
            word: Word::default(),
            session: None,
            applying: Applying::default(),
            archiver: Archiver::default(),
            link_reason: None,
            rule: None,
            peer_gone: false,
            peer_left: false,
            was_joined: false,
            link_lost: Moment(0),
            peer_answered: Moment(0),
            pending: Pending::default(),
            finished: Finished::default(),
            governor: Governor::new(&settings),
            timers: Timers::default(),
            snapshots: 0,
            held_since: None,
            read_errors: 0,
            ready: VecDeque::new(),
            latency: Latency::of(&STAGES_HERE),
            settings,
            identity,
        };
        if let Some(loaded) = loaded {
            mirror.adopt_disk(loaded);
        }
        mirror
    }

    /// The same core with one rule broken, for the simulator.
    #[cfg(feature = "mutants")]
    pub fn with_mutation(mut self, mutation: super::mutation::Mutation) -> Mirror {
        self.rules = Rules::without(mutation);
        if mutation == super::mutation::Mutation::R13 {
            self.lock.break_open();
        }
        self
    }

    /// Takes what was found on a disk as this node's own.
    pub(super) fn adopt_disk(&mut self, loaded: Loaded) {
        let superblock = loaded.superblock;
        self.capacity_bytes = loaded.capacity_bytes;
        self.disk = superblock.disk;
        self.disk_reason =
            loaded.superblock_suspect.then(|| "its metadata was damaged or made for another disk".into());
        let foreign_boot = match superblock.join {
            Some(join) => join.boot != self.identity.boot,
            None => superblock.seen_epoch > Epoch(0),
        };
        // What a secondary had received and not written, in mode memory, was promised by its process alone.
        let promised = self.settings.mode == Mode::Memory && superblock.role == Role::Secondary;
        let forgot = promised && superblock.join.is_some_and(|join| join.incarnation != self.identity.incarnation);
        self.cache_lost = (foreign_boot || forgot) && !superblock.clean;
        let size = if superblock.committed_bytes > 0 { superblock.committed_bytes } else { loaded.capacity_bytes };
        self.intents = Intents::new(superblock.region_shift, size, loaded.intents);
        self.marks = Marks { dirty: loaded.dirty, suspect: loaded.suspect, intents: self.intents.blocks() };
        self.marks.truncate((size >> BLOCK_SHIFT) as u32);
        self.maps_unreadable = loaded.maps_unreadable || loaded.superblock_suspect || superblock.suspect;
        self.snapshots = superblock.snapshot.unwrap_or(0);
        self.cover = superblock.lineage.bases.clone();
        if self.cover.is_empty() {
            self.cover.push(superblock.lineage.current);
        }
        self.superblock = superblock;
        self.superblock.suspect |= loaded.superblock_suspect;
        self.superblock.role = Role::Secondary;
        self.superblock.clean = false;
    }

    /// Takes one input and appends what is to be done.
    pub fn handle(&mut self, now: Moment, input: Input, out: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        match input {
            Input::Request(request) => self.admit(request, out),
            Input::DiskDone { op, result } => self.disk_done(op, result, out),
            Input::Persisted { op, result } => self.persisted(op, result, out),
            Input::Archived { op, result } => self.archived(op, result, out),
            Input::LinkUp { session } => self.link_up(session, out),
            Input::LinkDown { session, reason } => self.link_down(session, reason, out),
            Input::Frame { session, frame } => self.frame(session, frame, out),
            Input::PeerProbed { refused } => self.peer_probed(refused, out),
            Input::Order { id, order } => self.order(id, order, out),
            Input::Permit { until } => self.permitted(until, out),
            Input::Command { id, command } => self.command(id, command, out),
            Input::Attach { id, loaded } => self.attach(id, *loaded, out),
            Input::Stop => self.stop(out),
            Input::Tick => self.tick(out),
        }
        self.promotion_step(out);
        self.run_ready(out);
    }

    /// Ends a batch of inputs: sends what was gathered (receipts, acknowledgements), goes on with what could wait.
    pub fn settle(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        self.settle_target(out);
        self.pump_resync(out);
        self.run_ready(out);
    }

    /// Where the time of requests went so far.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// When [`Input::Tick`] is wanted at the latest.
    pub fn next_deadline(&self) -> Option<Moment> {
        Some(self.timers.next(self))
    }

    /// Whether another client piece may be handed in.
    pub fn can_admit(&self) -> bool {
        self.slots.len() < PIECES_IN_FLIGHT_MAX
    }

    /// The highest epoch this node has seen. Data frames of a lower one are stale and must not touch a disk.
    pub fn epoch(&self) -> Epoch {
        self.superblock.seen_epoch
    }

    /// What this node serves, if it serves.
    pub fn serving(&self) -> Option<Serving> {
        let durable = !self.door.is_taking_over();
        let serves = self.role == Role::Primary && durable && self.pending.lets_clients_in();
        let committed = self.superblock.committed_bytes;
        let size_bytes = self.pending.growth.as_ref().map_or(committed, Growth::size_before);
        (serves && size_bytes > 0).then_some(Serving { size_bytes, cache_epoch: self.superblock.cache_epoch })
    }

    /// Checks invariants too dear for every call; panics on our own bugs.
    pub fn check(&self) {
        assert!(self.lock.is_sound(), "no two conflicting ranges are under way");
        if self.role == Role::Primary {
            let fit = matches!(self.disk, DiskState::UpToDate | DiskState::Diskless);
            assert!(fit, "a primary serves from an up-to-date disk or forwards, not from {}", self.disk);
        }
        if let Some(session) = &self.session {
            assert!(!(self.role == Role::Primary && session.is_target()), "a primary is never the target of a resync");
        }
        for (_, slot) in self.slots.iter() {
            slot.check();
        }
    }

    fn disk_done(&mut self, op: OpId, result: Result<Completion, DiskError>, out: &mut Vec<Effect>) {
        let (op, since) = self.ops.remove(Key::of(op.0)).expect("an operation is answered once");
        self.record_disk(&op, since);
        let done = result.as_ref().map(|_| ()).map_err(|error| *error);
        match op {
            Op::Flush => self.flush_done(done, out),
            Op::Fill(key) => self.filled(key, done, out),
            Op::Read(key) => self.read_done(key, result, out),
            Op::Repair(key) => self.repaired(key, done, out),
            Op::Write(key) => self.local_written(key, done, out),
            Op::Apply(key) => self.applied(key, done, out),
            Op::PeerDigest(key) => self.peer_digested(key, result, out),
            Op::Chunk(key) => self.chunk_done(key, result, out),
            Op::Holes(range) => self.holes_found(range, result, out),
            Op::Barrier(_) | Op::Cycle(_) | Op::Door | Op::SourceFlush(_) => {
                unreachable!("flushes share one operation")
            }
            Op::Intents | Op::Snapshot(_) | Op::Superblock(_) => unreachable!("a record is answered by Persisted"),
            Op::Archive(_) => unreachable!("the archive is answered by Archived"),
        }
    }

    /// Counts how long the local disk took for a client, or for the peer's.
    fn record_disk(&mut self, op: &Op, since: Moment) {
        let (kind, stage) = match op {
            Op::Read(_) => (Kind::Read, Stage::LocalRead),
            Op::Write(_) | Op::Apply(_) => (Kind::Write, Stage::LocalWrite),
            Op::Flush => (Kind::Flush, Stage::LocalFlush),
            _ => return,
        };
        self.record(kind, stage, since);
    }

    /// Counts a stage that began then and ends now.
    pub(super) fn record(&mut self, kind: Kind, stage: Stage, since: Moment) {
        self.latency.record(kind, stage, self.now.since(since));
    }

    fn persisted(&mut self, op: OpId, result: Result<(), DiskError>, out: &mut Vec<Effect>) {
        let (op, _) = self.ops.remove(Key::of(op.0)).expect("a record is answered once");
        if let Err(error) = result {
            self.metadata_failed(op, error, out);
            return;
        }
        if self.disk == DiskState::Diskless {
            // It was under way when the disk was given up.
            if let Op::Superblock(after) = op {
                self.after_lost_disk(after, out);
            }
            return;
        }
        match op {
            Op::Intents => self.intents_written(out),
            Op::Snapshot(sequence) => self.snapshot_written(sequence, out),
            Op::Superblock(after) => self.superblock_written(after, out),
            other => unreachable!("{other:?} is answered by DiskDone"),
        }
    }

    fn superblock_written(&mut self, after: After, out: &mut Vec<Effect>) {
        match after {
            After::Nothing => {}
            After::Promoted => self.promoted(out),
            After::Demoted => self.demoted(out),
            After::Outdated => self.outdated(out),
            After::SteppedDown => self.stepped_down(out),
            After::DoorOpen => self.door_opened(out),
            After::Offered => self.offer_adoption(out),
            After::SourceBegun => self.source_persisted(out),
            After::TargetBegun => self.target_persisted(out),
            After::Adopted => self.adopted_here(out),
            After::SourceJoined => self.source_joined(out),
            After::TargetJoined => self.target_joined(out),
            After::Wish => self.reconnect("the operator asked for it", out),
            After::Grown => self.grown(out),
            After::Stopped => self.stopped(out),
        }
        // A session that came meanwhile waited for this.
        self.begin_session_if_ready(out);
    }

    /// Hands out a disk operation.
    pub(super) fn disk_op(&mut self, op: Op, io: DiskIo, out: &mut Vec<Effect>) {
        if io == DiskIo::Flush && self.flushes.waits_behind_another(&op) {
            return;
        }
        let op = if io == DiskIo::Flush { Op::Flush } else { op };
        let op = self.op(op);
        out.push(Effect::Disk { op, io });
    }

    /// Remembers an operation that is handed out now.
    pub(super) fn op(&mut self, op: Op) -> OpId {
        OpId(self.ops.insert((op, self.now)).number())
    }

    /// Whether an operation of this kind is under way.
    pub(super) fn is_under_way(&self, of_kind: impl Fn(&Op) -> bool) -> bool {
        self.ops.iter().any(|(_, (op, _))| of_kind(op))
    }

    /// Persists the superblock as it is now. Without a disk there is nothing to persist to, and what follows follows.
    pub(super) fn persist(&mut self, after: After, out: &mut Vec<Effect>) {
        if self.disk == DiskState::Diskless {
            self.superblock_written(after, out);
            return;
        }
        self.superblock.disk = self.disk;
        self.superblock.role = self.role;
        self.superblock.sequence += 1;
        let op = self.op(Op::Superblock(after));
        out.push(Effect::Persist { op, record: Record::Superblock(Box::new(self.superblock.clone())) });
    }

    /// Whether a superblock with a consequence is being written: the state is about to change.
    pub(super) fn is_changing(&self) -> bool {
        self.is_under_way(|op| matches!(op, Op::Superblock(after) if *after != After::Nothing))
    }

    /// Size of the volume in bytes: what was agreed, or what this disk alone could hold.
    pub(super) fn size_bytes(&self) -> u64 {
        if self.superblock.committed_bytes > 0 { self.superblock.committed_bytes } else { self.capacity_bytes }
    }

    /// Number of blocks of the volume.
    pub(super) fn blocks(&self) -> u32 {
        (self.size_bytes() >> BLOCK_SHIFT) as u32
    }

    /// Agrees on the size of the volume.
    pub(super) fn commit_size(&mut self, bytes: u64) {
        if self.superblock.committed_bytes != bytes {
            self.superblock.committed_bytes = bytes;
            self.intents.resize(bytes);
            self.marks.truncate((bytes >> BLOCK_SHIFT) as u32);
        }
    }

    /// A generation nobody has used.
    pub(super) fn fresh_generation(&mut self, epoch: Epoch) -> Generation {
        // The two smallest nonces have meanings of their own.
        Generation { epoch: epoch.0, nonce: self.random.next().max(2) }
    }

    pub(super) fn note(&self, note: Note, out: &mut Vec<Effect>) {
        out.push(Effect::Note(note));
    }

    pub(super) fn peer_name(&self) -> &str {
        &self.settings.node_names[self.settings.node.peer().0 as usize]
    }

    /// The peer as it described itself in this session.
    pub(super) fn peer(&self) -> Option<&Descriptor> {
        self.session.as_ref().and_then(|session| session.theirs.as_ref())
    }
}

/// What a node without a disk knows of itself.
fn blank_superblock(settings: &Settings) -> Superblock {
    let shift = crate::base::limits::REGION_SHIFT_MAX;
    let blank = Superblock::blank(settings.volume, settings.node, Default::default(), shift);
    Superblock { disk: DiskState::Diskless, clean: false, ..blank }
}
