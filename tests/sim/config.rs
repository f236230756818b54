//! What one run is like: drawn from its seed, so that every seed stresses something else (a swarm).

use super::random::Random;
use std::time::Duration;
use twinblock::base::group::FailoverMode;
use twinblock::base::ids::NodeId;
use twinblock::base::state::{Mode, Overflow};
use twinblock::logic::failover::interface as failover;
use twinblock::logic::mirror::Mutation;

/// What may happen to the pair beside its clients' work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A daemon is killed; its disk's cache stays.
    ProcessCrash,
    /// A machine loses its power.
    PowerCrash,
    /// Both lose it at once.
    BothPower,
    /// A daemon stands still for a while.
    Pause,
    /// The session is reset; both ends notice, not at the same time.
    Reset,
    /// Nothing passes for a while.
    Cut,
    /// Nothing passes in one direction for a while.
    OneWay,
    /// A bit flips on the way.
    Corrupt,
    /// A client drops its connection with requests in flight.
    ClientReset,
    /// The disk reports an error once.
    DiskError,
    /// A flush fails once, and the device forgets what it had cached.
    FlushError,
    /// A flush fails at once on whichever node is secondary, in the middle of something.
    MetadataError,
    /// The disk does not answer, then answers very late.
    DiskHang,
    /// The disk is a hundred times slower for a while.
    DiskSlow,
    /// The volume moves to the other node on purpose.
    Switchover,
    /// The operator asks for a resync of everything.
    Resync,
    /// The operator pauses the resync, and resumes it later.
    PauseResync,
    /// The operator compares the disks.
    Verify,
    /// The operator gives up a disk and attaches it again later.
    Detach,
    /// A disk is replaced by another one that was never part of the volume.
    ReplaceDisk,
    /// The daemon is stopped in order and started again.
    Restart,
    /// The superblock of a node that is down becomes unreadable.
    Rot,
    /// The record of what differs becomes unreadable while a node is down.
    RotMaps,
    /// The operator promotes by force, whatever is lost by it.
    Force,
    /// Heartbeats of one path get lost.
    CutPath,
    /// Heartbeats of one path get lost in one direction.
    CutPathOneWay,
    /// Nothing passes between the servers.
    CutAll,
    /// The arbiter can't be reached from one server; changes may arrive late.
    ArbiterAway,
    /// The arbiter is slow, for some calls too slow.
    ArbiterSlow,
    /// Answers of the arbiter get lost.
    ArbiterAmbiguous,
    /// The fencing agent fails.
    FenceBroken,
    /// A resource can't be started, or stopped.
    StepFails,
    /// Its start, or stop, hangs.
    StepHangs,
    /// A running resource fails.
    ServiceDown,
    /// The operator makes the volume larger.
    Grow,
    /// Connections are refused although the peer lives: a firewall answers for it.
    FalseRefusal,
    /// The thread of a volume makes no turn for a while; the group's goes on.
    ShardStuck,
    /// A virtual machine stands still, its clock with it.
    PauseClock,
    /// An operator asks something of the group.
    GroupVerb,
    /// An operator starts the group by force.
    GroupForce,
}

impl Act {
    /// Whether it is the group's world where it happens.
    pub fn is_of_group(self) -> bool {
        GROUP_ACTS.iter().any(|(act, _)| *act == self) || self == GroupForce
    }
}

use Act::*;

const ACTS: &[(Act, u64)] = &[
    (ProcessCrash, 10),
    (PowerCrash, 10),
    (BothPower, 4),
    (Pause, 6),
    (Reset, 10),
    (Cut, 8),
    (OneWay, 4),
    (Corrupt, 2),
    (ClientReset, 8),
    (DiskError, 6),
    (FlushError, 3),
    (MetadataError, 3),
    (DiskHang, 3),
    (DiskSlow, 3),
    (Switchover, 6),
    (Resync, 2),
    (PauseResync, 3),
    (Verify, 4),
    (Detach, 3),
    (ReplaceDisk, 2),
    (Restart, 5),
    (Rot, 1),
    (RotMaps, 2),
];

/// What happens around a group.
const GROUP_ACTS: &[(Act, u64)] = &[
    (CutPath, 6),
    (CutPathOneWay, 6),
    (CutAll, 10),
    (ArbiterAway, 6),
    (ArbiterSlow, 4),
    (ArbiterAmbiguous, 6),
    (FenceBroken, 4),
    (StepFails, 4),
    (StepHangs, 3),
    (ServiceDown, 5),
    (FalseRefusal, 3),
    (ShardStuck, 5),
    (PauseClock, 4),
    (GroupVerb, 10),
];

/// What an operator may do to a volume that is not in a group.
const WITHOUT_GROUP: &[Act] = &[Switchover, Force];

/// A bias of the swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Everything, at random.
    Swarm,
    /// Forced promotions too: the content may fork, and is brought together by giving up a side.
    Forced,
    /// The volume has room to grow into.
    Growing,
    /// Only these acts, with every other property still at random.
    Only(&'static [Act]),
    /// Nothing happens by itself: a scenario drives the pair.
    Scripted,
    /// A failover group in this mode owns the volume: its faults, too.
    Group(FailoverMode),
}

/// One run.
#[derive(Clone, Debug)]
pub struct Config {
    pub seed: u64,
    pub profile: Profile,
    /// Size of each node's disk, in blocks. The volume is as large as the smaller.
    pub blocks: [u64; 2],
    /// How much of the smaller the volume leaves at first, in blocks; zero for nothing.
    pub reserve_blocks: u64,
    pub region_shift: u32,
    pub mode: Mode,
    pub overflow: Overflow,
    pub async_bytes_max: u64,
    pub gating: bool,
    pub exact: bool,
    pub clients: usize,
    /// Operations one client has under way.
    pub depth: usize,
    /// Time between a client's operations.
    pub think: (Duration, Duration),
    /// Blocks the clients work on most of the time.
    pub hot_blocks: u64,
    pub operation_blocks_max: u64,
    /// Of a hundred operations.
    pub reads: u64,
    pub zeroes: u64,
    pub flushes: u64,
    /// Of a hundred writes.
    pub fua: u64,
    pub disk_latency: (Duration, Duration),
    pub flush_latency: (Duration, Duration),
    pub metadata_latency: (Duration, Duration),
    pub link_latency: (Duration, Duration),
    pub segment_bytes_max: usize,
    pub remote_io_timeout: Duration,
    pub link_timeout: Duration,
    pub disk_timeout: Duration,
    pub suspend_max: Duration,
    pub intent_idle: Duration,
    pub intent_sweep_interval: Duration,
    pub snapshot_interval: Duration,
    pub flush_interval: Duration,
    pub resync_rate_max: u64,
    /// Weighted acts, and the time between two of them.
    pub acts: Vec<(Act, u64)>,
    pub gap: (Duration, Duration),
    /// How long a fault lasts.
    pub outage: (Duration, Duration),
    /// How long clients and faults go on.
    pub active: Duration,
    /// Sectors of each block whose content is checked against the history, one bit each.
    pub watched_sectors: u8,
    /// The rule both cores have broken.
    pub mutation: Option<Mutation>,
    /// The rule whose counterexample this run makes likely.
    pub bias: Option<Mutation>,
    /// The failover group around the volume, if it is in one.
    pub group: Option<GroupConfig>,
}

/// The group around the volume.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    pub mode: FailoverMode,
    /// Heartbeats lost, of a thousand.
    pub loss_per_mille: u64,
    /// Longest delay of a heartbeat.
    pub heartbeat_delay: Duration,
    /// Longest delay of an arbiter's answer.
    pub arbiter_delay: Duration,
    /// Rate of each node's clock, parts per thousand of true time.
    pub rates: [u64; 2],
    /// What each node's clock shows at the beginning.
    pub clocks: [Duration; 2],
    pub init_dead_after: Duration,
    pub dead_after: Duration,
    pub fallback_after: Option<Duration>,
    pub unclean_takeover: bool,
    pub peer_wait: Duration,
    /// The rule the group's cores have broken.
    pub mutation: Option<twinblock::logic::failover::Mutation>,
    /// The rule whose counterexample this run makes likely.
    pub bias: Option<twinblock::logic::failover::Mutation>,
}

impl GroupConfig {
    fn for_mode(mode: FailoverMode, volume: Mode, random: &mut Random) -> GroupConfig {
        GroupConfig {
            mode,
            loss_per_mille: *random.pick(&[0, 0, 10, 100]),
            heartbeat_delay: random.span(millis(1), millis(120)),
            arbiter_delay: random.span(millis(2), millis(1_500)),
            rates: [random.between(996, 1_004), random.between(996, 1_004)],
            clocks: [millis(random.between(0, 10_000_000)), millis(random.between(0, 10_000_000))],
            init_dead_after: random.span(millis(1_000), millis(20_000)),
            dead_after: millis(*random.pick(&[300, 1_000, 1_000, 3_000])),
            fallback_after: random.chance(0.2).then(|| millis(3_000)),
            unclean_takeover: volume == Mode::Async && random.chance(0.5),
            peer_wait: millis(60_000),
            mutation: None,
            bias: None,
        }
    }

    /// The defaults, on a good network.
    fn quiet(mode: FailoverMode) -> GroupConfig {
        GroupConfig {
            mode,
            loss_per_mille: 0,
            heartbeat_delay: millis(2),
            arbiter_delay: millis(10),
            rates: [1000; 2],
            clocks: [millis(1_000), millis(78_000)],
            init_dead_after: millis(20_000),
            dead_after: millis(1_000),
            fallback_after: None,
            unclean_takeover: false,
            peer_wait: millis(60_000),
            mutation: None,
            bias: None,
        }
    }

    /// Whether two may serve at once by the mode's own rules.
    pub fn splits(&self) -> bool {
        self.mode == FailoverMode::BestEffort
    }

    /// What a node's group goes by.
    pub fn settings(&self, node: usize) -> failover::Settings {
        let resource = |name: &str, needs: Vec<usize>| failover::ResourceSettings {
            name: name.into(),
            needs,
            critical: true,
            skip: false,
            start_timeout: millis(2_000),
            stop_timeout: millis(2_000),
        };
        failover::Settings {
            group: "web".into(),
            node: NodeId(node as u8),
            home: NodeId(0),
            node_names: super::node::NAMES.map(String::from),
            mode: self.mode,
            paths: vec!["mirror".into(), "public".into()],
            heartbeat_interval: millis(100).min(self.dead_after / 4),
            suspect_after: self.dead_after / 2,
            dead_after: self.dead_after,
            link_silence: self.dead_after.max(millis(800)),
            init_dead_after: self.init_dead_after,
            clock_rate_per_mille: 10,
            permit_margin: millis(5),
            arbiter_interval: millis(5_000),
            retry_interval: millis(200),
            fence_delay: millis(1_000),
            quiet_time: self.dead_after * 2,
            unclean_takeover: self.unclean_takeover,
            peer_wait: self.peer_wait,
            fallback_after: self.fallback_after,
            flap_guard: millis(10_000),
            critical_delay_storage: millis(1_000),
            critical_delay_service: millis(2_000),
            stall_after: millis(10_000),
            mirror_timeout: millis(10_000),
            handover_timeout: millis(5_000),
            auto_start: true,
            resources: vec![resource("files", vec![]), resource("address", vec![]), resource("service", vec![0])],
            config: 7,
            version: [0, 1, 0],
        }
    }
}

const fn micros(n: u64) -> Duration {
    Duration::from_micros(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Config {
    /// The run of a seed.
    pub fn for_seed(seed: u64, profile: Profile) -> Config {
        let mut random = Random::new(seed ^ 0x00c0_ffee);
        let r = &mut random;
        let volume = if r.chance(0.02) { 4096 } else { *r.pick(&[64, 64, 64, 96, 128, 150, 256, 512]) };
        let larger = if r.chance(0.3) { r.between(1, 64) } else { 0 };
        let slow_disk = *r.pick(&[micros(200), millis(2), millis(10)]);
        let slow_link = *r.pick(&[micros(200), millis(1), millis(30)]);
        let busy = *r.pick(&[millis(1), millis(5), millis(30), millis(200)]);
        let gap = *r.pick(&[millis(300), millis(1500), millis(6000)]);
        let mode = *r.pick(&[Mode::Sync, Mode::Sync, Mode::Sync, Mode::Memory, Mode::Async]);
        let gating = r.chance(0.5);
        let clients = r.between(1, 4) as usize;
        Config {
            seed,
            profile,
            blocks: if matches!(profile, Profile::Forced | Profile::Group(_)) {
                // A smaller disk that comes later is refused for good.
                [volume; 2]
            } else if r.chance(0.5) {
                [volume, volume + larger]
            } else {
                [volume + larger, volume]
            },
            reserve_blocks: if profile == Profile::Growing { r.between(1, volume - 1) } else { 0 },
            region_shift: r.between(14, 16) as u32,
            mode,
            overflow: *r.pick(&[Overflow::Block, Overflow::Shed]),
            async_bytes_max: *r.pick(&[32 << 10, 256 << 10, 4 << 20]),
            gating,
            exact: gating && r.chance(0.4),
            clients,
            depth: r.between(1, 8 / clients as u64) as usize,
            think: (busy / 8, busy * 2),
            hot_blocks: *r.pick(&[2, 8, 32, volume]).min(&volume),
            operation_blocks_max: *r.pick(&[1, 2, 8, 32]),
            reads: *r.pick(&[10, 30, 60]),
            zeroes: *r.pick(&[0, 5, 20]),
            flushes: *r.pick(&[0, 2, 10, 25]),
            fua: *r.pick(&[0, 5, 30]),
            disk_latency: (micros(20), slow_disk),
            flush_latency: (micros(100), slow_disk * 4),
            metadata_latency: (micros(50), slow_disk * 2),
            link_latency: (micros(20), slow_link),
            segment_bytes_max: *r.pick(&[100, 1500, 65536, 1 << 20]),
            remote_io_timeout: *r.pick(&[millis(1000), millis(3000), millis(10_000)]),
            link_timeout: *r.pick(&[millis(1500), millis(3000), millis(10_000)]),
            disk_timeout: *r.pick(&[millis(2000), millis(5000), millis(30_000)]),
            suspend_max: *r.pick(&[millis(2000), millis(20_000), millis(60_000)]),
            intent_idle: *r.pick(&[millis(100), millis(1000), millis(15_000)]),
            intent_sweep_interval: *r.pick(&[millis(200), millis(2000), millis(10_000)]),
            snapshot_interval: *r.pick(&[millis(500), millis(3000), millis(30_000)]),
            flush_interval: *r.pick(&[millis(100), millis(500), millis(500), millis(5000)]),
            resync_rate_max: *r.pick(&[0, 0, 0, 1 << 20, 64 << 10]),
            acts: acts(profile, r),
            gap: (gap / 20, gap),
            outage: *r.pick(&[(millis(20), millis(800)), (millis(100), millis(5000)), (millis(500), millis(25_000))]),
            active: *r.pick(&[millis(5_000), millis(20_000), millis(60_000)]),
            watched_sectors: 1 << r.below(8) | 1 << r.below(8),
            mutation: None,
            bias: None,
            group: match profile {
                Profile::Group(of_group) => Some(GroupConfig::for_mode(of_group, mode, r)),
                _ => None,
            },
        }
    }

    /// A quiet pair with a group in this mode, for stories.
    pub fn scripted_group(seed: u64, mode: FailoverMode) -> Config {
        Config { group: Some(GroupConfig::quiet(mode)), ..Config::scripted(seed) }
    }

    /// A quiet pair of small disks, for scenarios.
    pub fn scripted(seed: u64) -> Config {
        Config {
            blocks: [64, 64],
            region_shift: 14,
            mode: Mode::Sync,
            overflow: Overflow::Block,
            gating: true,
            exact: false,
            clients: 2,
            depth: 2,
            think: (millis(1), millis(8)),
            hot_blocks: 16,
            operation_blocks_max: 4,
            reads: 30,
            zeroes: 5,
            flushes: 5,
            fua: 5,
            disk_latency: (micros(20), micros(300)),
            flush_latency: (micros(100), millis(2)),
            metadata_latency: (micros(50), millis(1)),
            link_latency: (micros(20), micros(200)),
            segment_bytes_max: 1500,
            remote_io_timeout: millis(3000),
            link_timeout: millis(3000),
            disk_timeout: millis(5000),
            suspend_max: millis(20_000),
            intent_idle: millis(1000),
            intent_sweep_interval: millis(10_000),
            snapshot_interval: millis(30_000),
            flush_interval: millis(500),
            resync_rate_max: 0,
            acts: Vec::new(),
            active: Duration::ZERO,
            ..Config::for_seed(seed, Profile::Scripted)
        }
    }

    /// Size of the volume when it takes all the room there is, in bytes.
    pub fn volume_bytes(&self) -> u64 {
        self.blocks[0].min(self.blocks[1]) * twinblock::base::range::BLOCK
    }

    /// Whether a takeover may lose what an asynchronous owner acknowledged last: then it is declared.
    pub fn takes_over_behind(&self) -> bool {
        self.mode == Mode::Async && self.group.as_ref().is_some_and(|group| group.unclean_takeover)
    }

    /// Whether a flush promises nothing of the copy that a group may go on with.
    pub fn flushes_here_only(&self) -> bool {
        self.mode == Mode::Async && self.group.is_some()
    }

    /// Size of the volume at first, in bytes.
    pub fn first_bytes(&self) -> u64 {
        self.volume_bytes() - self.reserve_blocks * twinblock::base::range::BLOCK
    }

    /// Whether something may be lost by force.
    pub fn forced(&self) -> bool {
        let force = self.acts.iter().any(|(act, _)| matches!(act, Force | GroupForce));
        force || self.group.as_ref().is_some_and(GroupConfig::splits)
    }
}

/// Each seed gets about half of the acts, so that one doesn't drown another.
fn acts(profile: Profile, random: &mut Random) -> Vec<(Act, u64)> {
    match profile {
        Profile::Group(mode) => {
            let mut all: Vec<(Act, u64)> = ACTS.iter().chain(GROUP_ACTS).copied().collect();
            all.retain(|(act, _)| !WITHOUT_GROUP.contains(act));
            all.retain(|_| random.chance(0.4));
            if mode == FailoverMode::Manual && random.chance(0.3) {
                all.push((GroupForce, 4));
            }
            if all.is_empty() {
                all.push((CutAll, 10));
            }
            all
        }
        Profile::Only(only) => only.iter().map(|act| (*act, 10)).collect(),
        Profile::Scripted => Vec::new(),
        Profile::Swarm | Profile::Forced | Profile::Growing => {
            let mut chosen: Vec<(Act, u64)> = ACTS.iter().filter(|_| random.chance(0.5)).copied().collect();
            if chosen.is_empty() {
                chosen.push((ProcessCrash, 10));
            }
            if profile == Profile::Growing {
                chosen.push((Grow, 12));
            }
            if profile == Profile::Forced {
                chosen.extend([(Force, 8), (Cut, 8)]);
            }
            chosen
        }
    }
}
