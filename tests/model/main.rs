//! The design, searched exhaustively: one block, two nodes with volatile caches, an arbiter, power and process crashes,
//! link cuts, takeovers, resync. The sound variants hold in every state; each rule taken away is caught.
//!
//! The handshake is the product's own [`decide`](twinblock::logic::mirror::handshake::decide). What the model leaves out:
//! several blocks in a region, overlapping writes (structural, see rule R13), rot, and torn metadata; the simulator has
//! these.
//!
//! `TWINBLOCK_MODEL_BUDGET=2,2,1,1,1` (writes, power crashes, process crashes, link cuts, flushes) searches the sound
//! variants as deep as that wants (about 40 million states and 10 GB each), without a cap.

mod decide;
mod meet;
mod search;
mod state;
mod steps;
mod variant;

use search::{Coverage, Verdict, search};
use state::Budget;
use steps::Model;
use variant::{BROKEN, SOUND, Variant};

/// States a search may hold in the small budget; 0.2 kB each.
const STATES_MAX: usize = if cfg!(debug_assertions) { 300_000 } else { 3_000_000 };
/// States a broken variant may take to be caught: the deepest needs 7.6 million.
const STATES_TO_CATCH_MAX: usize = 12_000_000;
/// Budget in which every broken variant shows.
const TO_CATCH: Budget = Budget { writes: 2, power_crashes: 2, process_crashes: 1, link_cuts: 1, flushes: 1 };

fn budget_of_environment() -> Option<Budget> {
    let text = std::env::var("TWINBLOCK_MODEL_BUDGET").ok()?;
    let numbers: Vec<u8> = text.split(',').map(|n| n.parse().expect("numbers with commas between them")).collect();
    let [writes, power_crashes, process_crashes, link_cuts, flushes] = numbers[..] else {
        panic!("TWINBLOCK_MODEL_BUDGET wants five numbers, not {text:?}");
    };
    Some(Budget { writes, power_crashes, process_crashes, link_cuts, flushes })
}

fn story(what: &str, steps: &[state::Step]) -> String {
    steps.iter().enumerate().fold(format!("{what}\n"), |text, (n, step)| format!("{text}  {:>2}. {step}\n", n + 1))
}

fn must_hold(variant: Variant, budget: Budget, cap: usize) -> Coverage {
    let (verdict, coverage) = search(&Model { variant, budget }, cap);
    match verdict {
        Verdict::Violated { what, steps, .. } => panic!("{} is violated: {}", variant.name, story(&what, &steps)),
        Verdict::Holds { states } => println!("{:<60} holds in all {states} states, {coverage:?}", variant.name),
        Verdict::Capped { states } => println!("{:<60} holds in the first {states} states, {coverage:?}", variant.name),
    }
    coverage
}

#[test]
fn the_sound_variants_hold() {
    let small = Budget { writes: 2, power_crashes: 1, process_crashes: 1, link_cuts: 1, flushes: 1 };
    let (budget, cap) = budget_of_environment().map_or((small, STATES_MAX), |budget| (budget, usize::MAX));
    for variant in SOUND {
        let coverage = must_hold(variant, budget, cap);
        let seen = [coverage.other_node_serves, coverage.in_resync, coverage.both_down, coverage.acknowledged_alone];
        assert!(seen.iter().all(|count| *count > 100), "the search of {} saw too little: {coverage:?}", variant.name);
    }
}

#[test]
fn every_rule_taken_away_is_caught() {
    let mut too_deep = 0;
    for variant in BROKEN {
        assert!(!variant.holds);
        // Without optimization only the shallow ones are looked for.
        let cap = if cfg!(debug_assertions) { STATES_MAX } else { STATES_TO_CATCH_MAX };
        match search(&Model { variant, budget: TO_CATCH }, cap).0 {
            Verdict::Violated { states, what, steps } => {
                println!("{:<60} caught after {states} states, {} steps: {what}", variant.name, steps.len());
            }
            Verdict::Capped { .. } if cfg!(debug_assertions) => too_deep += 1,
            Verdict::Capped { states } | Verdict::Holds { states } => {
                panic!("{} passed the search of {states} states", variant.name);
            }
        }
    }
    assert!(too_deep < BROKEN.len() * 3 / 4, "hardly any broken variant was caught");
}
