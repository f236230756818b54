//! One server: its disk, its metadata device, and at most one daemon process with a real mirror core in it.

use super::archive::Vault;
use super::buffers::Buffers;
use super::clock::Clock;
use super::config::Config;
use super::content::Value;
use super::disk::Disk;
use super::group::{Lasting, Side, side_for};
use super::history::OpNumber;
use super::metadata::{self, Metadata};
use super::random::Random;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use twinblock::base::command::Command;
use twinblock::base::error::DiskError;
use twinblock::base::ids::{BootId, BufferId, CommandId, Incarnation, NodeId, OpId, RequestId, SessionId, Uuid};
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::state::{DiskState, Exclusion};
use twinblock::base::time::Moment;
use twinblock::logic::mirror::Mirror;
use twinblock::logic::mirror::interface::{Archive, DiskIo, Identity, Input, Settings};
use twinblock::wire::metadata::Plan;
use twinblock::wire::metadata::record::{Record, Superblock};

/// Names of the two nodes in timelines.
pub const NAMES: [&str; 2] = ["alpha", "beta"];

/// Faults waiting for their chance on one node's devices.
#[derive(Default)]
pub struct Faults {
    pub next_read: Option<DiskError>,
    pub next_write: Option<DiskError>,
    pub next_flush: Option<DiskError>,
    /// The device forgets its cache with the failing flush.
    pub flush_drops: bool,
    pub next_persist: Option<DiskError>,
    /// Operations submitted until then get no answer before.
    pub hangs_until: Moment,
    /// The snapshot of the maps rots while the daemon is down.
    pub rot_maps: bool,
    /// Every operation takes this many times longer, until the moment.
    pub slow: (u32, Moment),
}

/// One server.
pub struct Node {
    pub index: usize,
    pub disk: Disk,
    pub metadata: Metadata,
    pub faults: Faults,
    pub vault: Vault,
    pub boot: BootId,
    /// The machine has power.
    pub powered: bool,
    pub process: Option<Process>,
    /// When the cache was last lost, and the memory.
    pub cache_lost: Moment,
    pub memory_lost: Moment,
    /// A failed flush made its disk forget something for good.
    pub was_doomed: bool,
    /// Which line of content its clients see.
    pub line: usize,
    /// The newest value of [`twinblock::logic::mirror::interface::Serving::cache_epoch`] seen on it.
    pub cache_epoch: u64,
    pub clock: Clock,
    /// What of a group outlives a daemon.
    pub lasting: Lasting,
}

/// A disk operation under way.
pub struct DiskOp {
    pub io: DiskIo,
    pub fails: Option<DiskError>,
    /// For a flush: what it covers.
    pub flush_point: u64,
    /// Checksum of what a write will put on the disk, when it was handed in.
    pub checksum: u32,
}

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Read(ByteRange),
    Write { range: ByteRange, value: Value, fua: bool },
    Zero { range: ByteRange, unmap: bool, fua: bool },
    Flush,
}

impl Work {
    /// The bytes it touches, if any.
    pub fn range(&self) -> Option<ByteRange> {
        match *self {
            Work::Read(range) | Work::Write { range, .. } | Work::Zero { range, .. } => Some(range),
            Work::Flush => None,
        }
    }

    /// What it writes, if it writes.
    pub fn value(&self) -> Option<Value> {
        match *self {
            Work::Write { value, .. } => Some(value),
            Work::Zero { .. } => Some(super::content::ZEROES),
            Work::Read(_) | Work::Flush => None,
        }
    }
}

/// What the operator asked a daemon for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Command(Command),
    /// To take its disk back.
    Attach,
}

/// A request in the socket, or in the core.
#[derive(Clone, Copy)]
pub struct Ask {
    pub client: usize,
    /// Which of the client's connections it came by.
    pub connection: u64,
    pub op: OpNumber,
    pub work: Work,
    /// When the client asked first.
    pub asked: Moment,
}

/// A request the core has.
pub struct Admitted {
    pub ask: Ask,
    pub buffer: Option<BufferId>,
    pub at: Moment,
}

/// One client's connection, as the daemon sees it.
pub struct Connection {
    pub serial: u64,
    pub cache_epoch: u64,
    pub socket: VecDeque<Ask>,
}

/// One life of the daemon.
pub struct Process {
    pub life: u64,
    pub mirror: Mirror,
    pub buffers: Buffers,
    pub inbox: VecDeque<Input>,
    pub turn_at: Option<Moment>,
    pub tick_at: Option<Moment>,
    pub paused: bool,
    /// The volume's thread makes no turn since then; the others go on.
    pub stuck: Option<Moment>,
    /// Something came in while it was paused.
    pub arrivals_waiting: bool,
    /// Turns in a row whose deadline was already past.
    pub spins: u32,
    pub disk_ops: BTreeMap<OpId, DiskOp>,
    pub persists: VecDeque<(OpId, Record)>,
    /// What the archive has to do, in order.
    pub archive_ops: VecDeque<(OpId, Archive)>,
    /// What is being written for the first of them.
    pub plan: Plan,
    pub session: Option<SessionId>,
    /// The peer's word that it received something came in this turn.
    pub told_of_receipt: bool,
    pub connections: BTreeMap<usize, Connection>,
    pub requests: BTreeMap<RequestId, Admitted>,
    pub commands: BTreeMap<CommandId, Asked>,
    pub probes: u32,
    /// The core may use the disk; false once it asked to close it.
    pub disk_open: bool,
    pub flush_failed: bool,
    pub stopping: bool,
    pub next_id: u64,
    /// Mutations under way in the session: sequence and range.
    pub in_flight: Vec<(u64, ByteRange)>,
    pub incarnation: Incarnation,
    /// The failover group's thread, if the volume is in one.
    pub group: Option<Side>,
}

impl Process {
    /// A fresh number for a request or a command.
    pub fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Whether the volume's thread makes turns.
    pub fn turns(&self) -> bool {
        !self.paused && self.stuck.is_none()
    }

    /// Writes under way, as they would reach the disk.
    pub fn writes_under_way(&self) -> Vec<(u64, Vec<u8>)> {
        let bytes = |op: &DiskOp| match &op.io {
            DiskIo::Write { range, buffer, .. } => Some((range.offset, self.buffers.get(*buffer).to_vec())),
            DiskIo::Zero { range, .. } => Some((range.offset, vec![0; range.length as usize])),
            _ => None,
        };
        self.disk_ops.values().filter_map(bytes).collect()
    }
}

impl Node {
    /// A server with a freshly initialised disk of zeroes.
    pub fn new(index: usize, config: &Config, random: &mut Random) -> Node {
        let blocks = config.blocks[index];
        let device = Uuid(random.next() as u128 + 1);
        let mut superblock = metadata::fresh_superblock(index, device, config.region_shift, DiskState::UpToDate);
        let mut disk = Disk::new(blocks);
        if config.reserve_blocks > 0 {
            superblock.committed_bytes = config.first_bytes();
            disk.keep_of_another_life(config.first_bytes(), random);
        }
        Node {
            index,
            disk,
            metadata: Metadata::new(&superblock, blocks * BLOCK),
            faults: Faults::default(),
            vault: Vault::default(),
            boot: BootId(random.next() as u128),
            powered: true,
            process: None,
            cache_lost: Moment(0),
            memory_lost: Moment(0),
            was_doomed: false,
            line: 0,
            cache_epoch: 0,
            clock: config.group.as_ref().map_or_else(Clock::exact, |group| {
                Clock::new(Moment(group.clocks[index].as_nanos() as u64), group.rates[index])
            }),
            lasting: Lasting::default(),
        }
    }

    /// The superblock in effect on the disk.
    pub fn durable(&self) -> &Superblock {
        self.metadata.superblock()
    }

    /// Puts a disk in that was never part of the volume.
    pub fn replace_disk(&mut self, config: &Config, random: &mut Random) {
        let blocks = config.blocks[self.index];
        let device = Uuid(random.next() as u128 + 1);
        self.disk = Disk::full_of_old_data(blocks, random);
        let superblock = metadata::fresh_superblock(self.index, device, config.region_shift, DiskState::New);
        self.metadata = Metadata::new(&superblock, blocks * BLOCK);
        self.faults = Faults::default();
        self.vault = Vault::default();
        self.was_doomed = false;
    }

    /// A process that has just started.
    pub fn start(&mut self, config: &Config, life: u64, random: &mut Random) {
        assert!(self.process.is_none() && self.powered);
        self.disk.reopened();
        self.was_doomed = false;
        if std::mem::take(&mut self.faults.rot_maps) {
            self.metadata.rot_snapshot();
        }
        let identity = Identity { incarnation: Incarnation(random.next()), boot: self.boot, seed: random.next() };
        let mirror = Mirror::new(settings(config, self.index), identity, Some(self.metadata.open()));
        self.process = Some(Process {
            life,
            mirror: broken_on_purpose(mirror, config),
            buffers: Buffers::default(),
            inbox: VecDeque::from([Input::Tick]),
            turn_at: None,
            tick_at: None,
            paused: false,
            stuck: None,
            arrivals_waiting: false,
            spins: 0,
            disk_ops: BTreeMap::new(),
            persists: VecDeque::new(),
            archive_ops: VecDeque::new(),
            plan: Plan::default(),
            session: None,
            told_of_receipt: false,
            connections: BTreeMap::new(),
            requests: BTreeMap::new(),
            commands: BTreeMap::new(),
            probes: 0,
            disk_open: true,
            flush_failed: false,
            stopping: false,
            next_id: 0,
            in_flight: Vec::new(),
            incarnation: identity.incarnation,
            group: side_for(config),
        });
    }

    /// The process is gone; what it had under way on the disk may have been done, in part or not at all.
    pub fn kill(&mut self, now: Moment, random: &mut Random) -> Option<Process> {
        let process = self.process.take()?;
        self.memory_lost = now;
        for (offset, bytes) in process.writes_under_way() {
            self.disk.write_in_part(offset, &bytes, random);
        }
        self.tear_metadata(&process, random);
        Some(process)
    }

    /// The machine is without power; so is its disk's cache.
    pub fn lose_power(&mut self, now: Moment, random: &mut Random) -> Option<Process> {
        self.powered = false;
        self.lasting.running = [false; 3];
        self.cache_lost = now;
        self.vault.before = None;
        self.memory_lost = now;
        self.boot = BootId(random.next() as u128);
        let process = self.process.take();
        let under_way = process.as_ref().map_or(Vec::new(), Process::writes_under_way);
        self.disk.power_lost(&under_way, random);
        if let Some(process) = &process {
            self.tear_metadata(process, random);
        }
        process
    }

    fn tear_metadata(&mut self, process: &Process, random: &mut Random) {
        if !process.persists.is_empty() {
            self.metadata.torn(&process.plan, random);
        }
    }

    /// How long an operation takes that takes `normal` on a healthy disk.
    pub fn latency(&self, normal: Duration, now: Moment) -> Duration {
        let (factor, until) = self.faults.slow;
        let slow = if now < until { normal * factor } else { normal };
        slow + self.faults.hangs_until.since(now)
    }
}

/// A mutant, when the run wants one.
#[cfg(feature = "mutants")]
fn broken_on_purpose(mirror: Mirror, config: &Config) -> Mirror {
    match config.mutation {
        Some(mutation) => mirror.with_mutation(mutation),
        None => mirror,
    }
}

#[cfg(not(feature = "mutants"))]
fn broken_on_purpose(mirror: Mirror, config: &Config) -> Mirror {
    assert!(config.mutation.is_none(), "mutants want feature mutants");
    mirror
}

/// The settings both nodes share, but for their own number.
pub fn settings(config: &Config, node: usize) -> Settings {
    Settings {
        exclusion: if config.group.is_some() { Exclusion::Group } else { Exclusion::Operator },
        mode: config.mode,
        overflow: config.overflow,
        async_bytes_max: config.async_bytes_max,
        receipt_gating: config.gating,
        exact_recovery: config.exact,
        remote_io_timeout: config.remote_io_timeout,
        link_timeout: config.link_timeout,
        disk_timeout: config.disk_timeout,
        suspend_max: config.suspend_max,
        intent_idle: config.intent_idle,
        intent_sweep_interval: config.intent_sweep_interval,
        snapshot_interval: config.snapshot_interval,
        flush_interval: config.flush_interval,
        resync_rate_max: config.resync_rate_max,
        resync_rate_min: 1 << 20,
        ..Settings::usual(NodeId(node as u8), metadata::VOLUME)
    }
}
