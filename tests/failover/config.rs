//! What one seed decides: the mode is given; rates of faults, delays, clocks and settings are drawn.

use super::random::Random;
use std::time::Duration;
use twinblock::base::group::FailoverMode;
use twinblock::base::ids::NodeId;
#[cfg(feature = "mutants")]
use twinblock::logic::failover::Mutation;
use twinblock::logic::failover::interface::{ResourceSettings, Settings};

pub const NAMES: [&str; 2] = ["alpha", "beta"];

/// One run.
#[derive(Clone, Debug)]
pub struct Config {
    pub seed: u64,
    pub mode: FailoverMode,
    /// Time with faults.
    pub active: Duration,
    /// Mean time between two faults; zero: none.
    pub gap: Duration,
    /// How long a fault lasts.
    pub outage: (Duration, Duration),
    /// Faults that may happen.
    pub faults: Vec<Fault>,
    /// Heartbeats lost, of a thousand.
    pub loss_per_mille: u64,
    /// Longest delay of a heartbeat.
    pub heartbeat_delay: Duration,
    /// Longest delay of an arbiter's answer.
    pub arbiter_delay: Duration,
    /// Rate of each node's clock, parts per thousand of true time.
    pub rates: [u64; 2],
    pub init_dead_after: Duration,
    pub dead_after: Duration,
    pub fallback_after: Option<Duration>,
    pub write_gap: Duration,
    pub unclean_takeover: bool,
    /// The rule that is broken; used with feature `mutants` only.
    #[cfg(feature = "mutants")]
    pub mutation: Option<Mutation>,
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    CutPath,
    CutPathOneWay,
    CutLink,
    CutAll,
    KillProcess,
    PowerOff,
    Pause,
    PauseClock,
    ArbiterAway,
    ArbiterSlow,
    ArbiterAmbiguous,
    FenceBroken,
    DiskFails,
    StepFails,
    StepHangs,
    ServiceDown,
    Operator,
    StopDaemon,
    /// Connections are refused although the peer lives: a firewall answers for it.
    FalseRefusal,
}

use Fault::*;
pub const ALL_FAULTS: &[Fault] = &[
    CutPath,
    CutPathOneWay,
    CutLink,
    CutAll,
    KillProcess,
    PowerOff,
    Pause,
    PauseClock,
    ArbiterAway,
    ArbiterSlow,
    ArbiterAmbiguous,
    FenceBroken,
    DiskFails,
    StepFails,
    StepHangs,
    ServiceDown,
    Operator,
    StopDaemon,
    FalseRefusal,
];

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Config {
    /// The run of a seed: some kinds of faults, at some rate.
    pub fn for_seed(seed: u64, mode: FailoverMode) -> Config {
        let mut random = Random::new(seed.wrapping_mul(31) ^ mode as u64);
        let faults = ALL_FAULTS.iter().copied().filter(|_| random.chance(0.4)).collect();
        Config {
            seed,
            mode,
            active: ms(random.between(8_000, 25_000)),
            gap: random.span(ms(200), ms(5_000)),
            outage: (ms(20), random.span(ms(300), ms(8_000))),
            faults,
            loss_per_mille: *random.pick(&[0, 0, 10, 100]),
            heartbeat_delay: random.span(ms(1), ms(120)),
            arbiter_delay: random.span(ms(2), ms(1_500)),
            rates: [random.between(996, 1_004), random.between(996, 1_004)],
            init_dead_after: random.span(ms(1_000), ms(20_000)),
            dead_after: ms(*random.pick(&[300, 1_000, 1_000, 3_000])),
            fallback_after: random.chance(0.2).then(|| ms(3_000)),
            write_gap: random.span(ms(10), ms(400)),
            unclean_takeover: false,
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    /// A quiet run with the defaults, for stories.
    pub fn scripted(seed: u64, mode: FailoverMode) -> Config {
        Config {
            gap: Duration::ZERO,
            faults: Vec::new(),
            loss_per_mille: 0,
            heartbeat_delay: ms(1),
            arbiter_delay: ms(10),
            rates: [1_000, 1_000],
            init_dead_after: ms(120_000),
            dead_after: ms(1_000),
            fallback_after: None,
            write_gap: ms(10),
            outage: (ms(20), ms(2_000)),
            ..Config::for_seed(seed, mode)
        }
    }

    pub fn settings(&self, node: usize) -> Settings {
        let resource = |name: &str, needs: Vec<usize>| ResourceSettings {
            name: name.into(),
            needs,
            critical: true,
            skip: false,
            start_timeout: ms(2_000),
            stop_timeout: ms(2_000),
        };
        Settings {
            group: "web".into(),
            node: NodeId(node as u8),
            home: NodeId(0),
            node_names: NAMES.map(String::from),
            mode: self.mode,
            paths: vec!["mirror".into(), "public".into()],
            heartbeat_interval: ms(100).min(self.dead_after / 4),
            suspect_after: self.dead_after / 2,
            dead_after: self.dead_after,
            link_silence: self.dead_after.max(ms(800)),
            init_dead_after: self.init_dead_after,
            clock_rate_per_mille: 10,
            permit_margin: ms(5),
            arbiter_interval: ms(5_000),
            retry_interval: ms(200),
            fence_delay: ms(1_000),
            quiet_time: self.dead_after * 2,
            unclean_takeover: self.unclean_takeover,
            peer_wait: ms(60_000),
            fallback_after: self.fallback_after,
            flap_guard: ms(10_000),
            critical_delay_storage: ms(1_000),
            critical_delay_service: ms(2_000),
            stall_after: ms(10_000),
            mirror_timeout: ms(10_000),
            handover_timeout: ms(5_000),
            auto_start: true,
            resources: vec![resource("files", vec![]), resource("address", vec![]), resource("service", vec![0])],
            config: 7,
            version: [0, 1, 0],
        }
    }
}
