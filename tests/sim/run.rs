//! One run from its seed to its verdict: faults first, then everything heals and the pair must converge; and what is
//! printed when it doesn't.

use super::config::{Config, Profile};
use super::log::Log;
use super::node::{NAMES, Work};
use super::world::{Stats, World};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::state::LinkState;

/// Events after which clients and faults have gone on for long enough: another seed finds more.
const ACTIVE_EVENTS_MAX: u64 = 400_000;
/// Simulated time in which a healed pair must be in sync again with nothing left to do.
const CONVERGENCE_TIME: Duration = Duration::from_secs(300);
/// Simulated time in which an idle pair must have flushed what it holds.
const FLUSH_TIME: Duration = Duration::from_secs(10);
/// Bytes of one read of the final check.
const FINAL_READ_BYTES: u64 = 64 << 10;
/// Lines of the timeline that are printed.
const TIMELINE_LINES: usize = 400;

thread_local! {
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
    static CATCHING: RefCell<bool> = const { RefCell::new(false) };
}

/// Keeps the panics of runs for their reports; others are printed as always.
fn install_hook() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CATCHING.with(|catching| *catching.borrow()) {
                CAUGHT.with(|caught| *caught.borrow_mut() = Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
}

/// Runs `body` and gives back what it panicked with.
fn catching(body: impl FnOnce()) -> Result<(), String> {
    install_hook();
    CATCHING.with(|catching| *catching.borrow_mut() = true);
    let result = catch_unwind(AssertUnwindSafe(body));
    CATCHING.with(|catching| *catching.borrow_mut() = false);
    result
        .map_err(|_| CAUGHT.with(|caught| caught.borrow_mut().take()).unwrap_or_else(|| "a panic without words".into()))
}

/// Plays a whole run; an error says what was violated.
pub fn play(config: &Config) -> Result<Stats, String> {
    let _watched = super::watch::begin(replay_command(config));
    let mut world = World::new(config.clone(), Log::keeping(0));
    catching(|| world.play())?;
    Ok(world.stats)
}

/// Plays a failing run once more and prints everything about it.
pub fn report(config: &Config) -> String {
    let lines = std::env::var("TWINBLOCK_SIM_LINES").ok().and_then(|n| n.parse().ok()).unwrap_or(TIMELINE_LINES);
    let _watched = super::watch::begin(replay_command(config));
    let mut world = World::new(config.clone(), Log::keeping(lines));
    let result = catching(|| world.play());
    let verdict = result.err().unwrap_or_else(|| "it passed this time: the run is not deterministic".into());
    let views: String = (0..2).map(|node| format!("{}: {}\n", NAMES[node], catch_view(&world, node))).collect();
    format!(
        "{}\n--- violation\n{verdict}\n--- config\n{config:?}\n{:?}\n{views}--- replay\n{}\n",
        world.log.text(),
        world.stats,
        replay_command(config)
    )
}

fn catch_view(world: &World, node: usize) -> String {
    let group = |node| world.side(node).and_then(|side| side.core.as_ref()).map(|core| core.view());
    let shown = || format!("{:?}\n    {:?}", world.view(node), group(node));
    catch_unwind(AssertUnwindSafe(shown)).unwrap_or_else(|_| "no view".into())
}

fn replay_command(config: &Config) -> String {
    let profile = match (config.profile, config.bias, config.mutation) {
        (Profile::Group(_), ..) => format!("TWINBLOCK_SIM_PROFILE={} ", super::profile_of_group(config)),
        (Profile::Forced, ..) => "TWINBLOCK_SIM_PROFILE=forced ".to_string(),
        (Profile::Growing, ..) => "TWINBLOCK_SIM_PROFILE=growing ".to_string(),
        (_, Some(bias), None) => format!("TWINBLOCK_SIM_PROFILE=sound-{bias:?} "),
        (_, _, Some(mutation)) => format!("TWINBLOCK_SIM_PROFILE={mutation:?} "),
        _ => String::new(),
    };
    format!(
        "{profile}TWINBLOCK_SIM_SEED={} cargo test --release --features mutants --test sim replay -- --nocapture",
        config.seed
    )
}

impl World {
    fn play(&mut self) {
        if self.group().is_some() {
            self.play_group();
        } else {
            self.play_alone();
        }
        self.run_until(self.config.active, |world| world.stats.events >= ACTIVE_EVENTS_MAX);
        self.heal_everything();
        self.converge();
        self.check_everything_at_rest();
    }

    fn play_alone(&mut self) {
        for node in 0..2 {
            if self.random.chance(0.9) {
                self.start(node);
            } else {
                self.after(Duration::from_millis(700), super::world::Event::Heal(super::nemesis::Heal::Start(node)));
            }
        }
        self.operator_on_duty();
        self.wake_clients();
        self.nemesis_on_duty();
    }

    /// Demands that the healed pair is in sync with nothing left to do, in bounded time.
    pub fn converge(&mut self) {
        if self.group().is_some() {
            return self.converge_group();
        }
        let end = self.now + CONVERGENCE_TIME;
        while self.now < end {
            if self.run_until(Duration::from_secs(3), World::is_settled) {
                return;
            }
            self.resolve_refusal();
            for node in 0..2 {
                // A stop that was asked for before the healing may have ended the daemon since.
                self.start(node);
            }
        }
        panic!("the healed pair does not converge (I22): {:?}\n{:?}", self.view(0), self.view(1));
    }

    /// Both in sync, nothing marked, nothing asked, somebody serves.
    pub fn is_settled(&self) -> bool {
        let settled = |node: usize| {
            self.view(node).is_some_and(|view| {
                view.in_sync
                    && view.link == LinkState::Connected
                    && view.dirty_bytes == 0
                    && view.requests_in_flight == 0
            })
        };
        self.is_quiet() && settled(0) && settled(1) && !self.clients_wait() && self.serving().is_some()
    }

    /// The last word on a run: equal disks, every sector readable on either node, nothing left behind.
    pub fn check_everything_at_rest(&mut self) {
        self.assert_disks_equal();
        if self.config.reserve_blocks > 0 {
            self.grow_to_the_end();
        }
        let stable = |world: &World| world.nodes.iter().all(|node| node.disk.is_stable() || node.was_doomed);
        assert!(self.run_until(FLUSH_TIME, stable), "an idle pair in sync never makes its writes durable (I5)");
        self.assert_disks_equal();
        self.read_everything();
        let to = 1 - self.serving().expect("settled");
        if self.group().is_some() {
            assert!(
                self.move_group(to),
                "a planned move of a healthy group failed: {:?}",
                self.outside.outcomes.last()
            );
        } else {
            self.run_until(Duration::from_secs(15), |world| !world.operator.is_moving());
            self.switch_over(to);
            let moved = self.run_until(Duration::from_secs(60), |world| world.serving() == Some(to));
            assert!(moved, "a planned switchover of a healthy pair failed: {:?}", self.operator.outcomes.last());
        }
        self.read_everything();
        for (node, name) in NAMES.iter().enumerate() {
            let process = self.process_of(node);
            assert!(process.requests.is_empty(), "requests were never answered (I21)");
            let left = process.buffers.alive();
            assert!(left.is_empty(), "buffers of {name} were never released: {left:?}");
        }
        self.history.finish();
    }

    fn read_everything(&mut self) {
        let reads = (0..self.served_bytes).step_by(FINAL_READ_BYTES as usize).map(|offset| {
            let length = FINAL_READ_BYTES.min(self.served_bytes - offset).max(BLOCK);
            Work::Read(ByteRange::new(offset, length))
        });
        self.clients[0].script.extend(reads.collect::<Vec<_>>());
        let errors = self.clients[0].errors;
        self.schedule_client(0, Duration::ZERO);
        let done = self
            .run_until(Duration::from_secs(120), |world| world.clients[0].script.is_empty() && !world.clients_wait());
        assert!(done, "a healthy pair does not answer reads (I22)");
        assert_eq!(self.clients[0].errors, errors, "a healthy pair answers reads with errors");
    }
}

/// How many seeds, or seconds, a swarm may take.
pub struct Budget {
    end: std::time::Instant,
    seeds_left: u64,
}

impl Budget {
    /// `TWINBLOCK_SIM_SECONDS` and `TWINBLOCK_SIM_SEEDS`, or so many seconds; of the time, one of so many shares.
    pub fn from_environment(seconds: u64, shares: u64) -> Budget {
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let seeds = number("TWINBLOCK_SIM_SEEDS");
        let seconds = number("TWINBLOCK_SIM_SECONDS").unwrap_or(if seeds.is_some() { 86_400 } else { seconds });
        let seconds = seconds.div_ceil(shares);
        let end = std::time::Instant::now() + Duration::from_secs(seconds);
        Budget { end, seeds_left: seeds.unwrap_or(u64::MAX) }
    }

    /// Whether another seed may be played.
    pub fn goes_on(&mut self) -> bool {
        self.seeds_left -= 1;
        self.seeds_left > 0 && std::time::Instant::now() < self.end
    }
}
