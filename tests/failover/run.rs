//! One run from its seed to its verdict, and what is printed when it fails.

use super::check::Pair;
use super::config::{Config, NAMES};
use super::world::{World, ms};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use twinblock::base::group::{FailoverMode, NodeState, Reason};
use twinblock::logic::failover::interface::Verb;

/// Time in which a healed pair serves again, by itself or with the operator's help that `status` recommends.
const CONVERGENCE_TIME: Duration = Duration::from_secs(240);
/// Lines of the timeline that are printed.
const TIMELINE_LINES: usize = 250;

thread_local! {
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
    static CATCHING: RefCell<bool> = const { RefCell::new(false) };
}

/// What a run did, to see that it was not idle.
#[derive(Debug, Default)]
pub struct Stats {
    pub acked: u64,
    pub promotions: u64,
    pub takeovers: u64,
    pub pairs: BTreeSet<Pair>,
}

impl Stats {
    pub fn add(&mut self, other: Stats) {
        self.acked += other.acked;
        self.promotions += other.promotions;
        self.takeovers += other.takeovers;
        self.pairs.extend(other.pairs);
    }
}

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

fn catching(body: impl FnOnce()) -> Result<(), String> {
    install_hook();
    CATCHING.with(|catching| *catching.borrow_mut() = true);
    let result = catch_unwind(AssertUnwindSafe(body));
    CATCHING.with(|catching| *catching.borrow_mut() = false);
    result.map_err(|_| CAUGHT.with(|caught| caught.borrow_mut().take()).unwrap_or_else(|| "a panic".into()))
}

/// Plays a whole run; an error says what was violated.
pub fn play(config: &Config) -> Result<Stats, String> {
    let mut world = World::new(config.clone(), false);
    catching(|| world.play())?;
    Ok(world.stats())
}

/// Plays a failing run once more and prints everything about it.
pub fn report(config: &Config) -> String {
    let mut world = World::new(config.clone(), true);
    let verdict = catching(|| world.play()).err().unwrap_or_else(|| "it passed".into());
    let lines = super::number("TWINBLOCK_FAILOVER_LINES").map_or(TIMELINE_LINES, |lines| lines as usize);
    let from = world.log.len().saturating_sub(lines);
    let views: String = (0..2)
        .map(|node| {
            let view = world.nodes[node].process.as_ref().map(|process| process.core.view());
            let disk = &world.nodes[node].disk;
            format!("{}: {:?} {:?}\n{view:?}\n", NAMES[node], disk.state, disk.lineage)
        })
        .collect();
    let timeline = world.log[from..].join("\n");
    format!(
        "{timeline}\n--- violation\n{verdict}\n--- config\n{config:?}\n{views}--- replay\nTWINBLOCK_FAILOVER_SEED={} \
         TWINBLOCK_FAILOVER_MODE={} cargo test --features mutants --test failover replay -- --nocapture",
        config.seed, config.mode
    )
}

impl World {
    fn play(&mut self) {
        for node in 0..2 {
            let late = self.random.chance(0.2);
            let at = if late { ms(700) } else { ms(1 + node as u64) };
            self.after(at, super::world::Event::Start(node));
        }
        // This mode promises less: two may serve at once. What is demanded is that it ends.
        let splits = self.config.mode == FailoverMode::BestEffort;
        self.history.forced = splits;
        self.nemesis_on_duty();
        let active = self.config.active;
        self.run_for(active);
        self.heal_everything();
        if splits {
            self.run_for(ms(30_000));
            let serving = (0..2).filter(|node| self.nodes[*node].may_reply(self.now)).count();
            assert!(serving <= 1, "both serve although they hear each other");
        } else {
            self.converge();
        }
    }

    pub fn stats(&mut self) -> Stats {
        Stats {
            acked: self.history.count,
            promotions: self.history.promotions,
            takeovers: self.history.takeovers,
            pairs: std::mem::take(&mut self.history.pairs),
        }
    }

    /// Demands that the healed pair serves again. The operator does what the table of states says, and no more.
    pub fn converge(&mut self) {
        let end = self.now + CONVERGENCE_TIME;
        while self.now < end {
            if self.run_until(ms(5_000), World::is_settled) {
                let before = self.history.count;
                let serves = self.run_until(ms(3_000), |world| world.history.count > before);
                assert!(serves, "I22: a settled pair acknowledges nothing");
                return;
            }
            self.operate();
        }
        panic!("I22: the healed pair does not serve");
    }

    /// What a careful operator does.
    pub fn operate(&mut self) {
        for node in 0..2 {
            self.start(node);
            let Some(process) = &self.nodes[node].process else { continue };
            let (state, reason) = process.core.node_state();
            let verb = match (state, reason) {
                (NodeState::RunningInFailedMode, _) => Verb::Recover,
                (NodeState::Idle, Reason::Deactivated) => Verb::Activate,
                (NodeState::Idle, Reason::AdminRequest) => Verb::Start { force: false },
                (NodeState::Unknown, Reason::Disabled) => Verb::Enable,
                _ => continue,
            };
            self.command(node, verb);
        }
    }
}
