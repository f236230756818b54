//! Two failover cores, an arbiter, a fencing agent and a stand-in for the mirror, on simulated clocks and networks.
//!
//! One seed, one run; faults first, then everything heals and the pair must serve again. A failing seed is replayed with
//! `TWINBLOCK_FAILOVER_SEED=n cargo test --release --features mutants --test failover replay -- --nocapture`.

#[path = "../sim/group/choices.rs"]
mod choices;
#[path = "../sim/random.rs"]
mod random;
#[path = "../sim/group/register.rs"]
mod register;

mod arbiter;
mod check;
mod config;
mod data;
mod mirror;
#[cfg(feature = "mutants")]
mod mutants;
mod nemesis;
mod node;
mod run;
mod scenarios;
mod stories;
mod world;

use config::Config;
use run::{Stats, play, report};
use twinblock::base::group::FailoverMode;

/// Seeds of each mode in a plain run.
const SEEDS: u64 = 150;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn swarm(mode: FailoverMode) {
    let first = number("TWINBLOCK_FAILOVER_FIRST").unwrap_or(1);
    let seeds = number("TWINBLOCK_FAILOVER_SEEDS").unwrap_or(SEEDS);
    let mut total = Stats::default();
    for seed in first..first + seeds {
        let config = Config::for_seed(seed, mode);
        match play(&config) {
            Ok(stats) => total.add(stats),
            Err(_) => panic!("{}", report(&config)),
        }
    }
    let Stats { acked, promotions, takeovers, pairs } = total;
    println!(
        "{mode}: {seeds} seeds, {acked} writes acknowledged, {promotions} promotions, {takeovers} of them takeovers, {} pairs \
         of states",
        pairs.len()
    );
    assert!(acked > 50 * seeds && promotions > seeds, "too little happened");
    assert!(takeovers > seeds / 100 || !mode.is_automatic(), "too few takeovers");
    assert!(pairs.len() > 50 || seeds < SEEDS, "too few pairs of states were reached to prove the table");
}

#[test]
fn random_faults_in_mode_arbiter() {
    swarm(FailoverMode::Arbiter);
}

#[test]
fn random_faults_in_mode_fencing() {
    swarm(FailoverMode::Fencing);
}

#[test]
fn random_faults_in_mode_arbiter_and_fencing() {
    swarm(FailoverMode::ArbiterFencing);
}

#[test]
fn random_faults_in_mode_manual() {
    swarm(FailoverMode::Manual);
}

#[test]
fn random_faults_in_mode_best_effort() {
    swarm(FailoverMode::BestEffort);
}

/// Plays one seed with its timeline.
#[test]
fn replay() {
    let Some(seed) = number("TWINBLOCK_FAILOVER_SEED") else { return };
    let mode = std::env::var("TWINBLOCK_FAILOVER_MODE").unwrap_or_default();
    let mode = FailoverMode::ALL.iter().find(|known| known.word() == mode).copied().unwrap_or(FailoverMode::Arbiter);
    println!("{}", report(&Config::for_seed(seed, mode)));
}
