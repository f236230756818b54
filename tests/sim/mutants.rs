//! Proof that the simulator would notice: every rule of the core, broken on purpose, is caught within a bounded number of
//! seeds, and the same seeds pass with the rule in place.
//!
//! A rule that matters only under a rare meeting of faults gets a swarm of its own, biased to what it is about. The
//! checkers are the same for all.

use super::config::{Act, Config, Profile};
use super::run::{play, report};
use std::time::Duration;
use twinblock::base::state::Mode;
use twinblock::logic::mirror::Mutation;

/// Seeds a mutant may survive.
const SEEDS_MAX: u64 = 500;

use Act::*;

/// Faults that a rule's counterexample needs.
fn acts(mutation: Mutation) -> &'static [Act] {
    match mutation {
        Mutation::R1 => &[PowerCrash, BothPower, Reset],
        Mutation::R2a | Mutation::R2b | Mutation::R3b => &[PowerCrash, BothPower, ProcessCrash, Reset, Cut],
        Mutation::R3a => &[Cut, Reset, PowerCrash, ProcessCrash],
        Mutation::R3c | Mutation::R3d => &[ProcessCrash, PowerCrash, Reset],
        Mutation::R4 | Mutation::R5 => &[Reset, Cut, ProcessCrash],
        Mutation::R6 => &[ProcessCrash, PowerCrash, Reset, Switchover],
        Mutation::R7 => &[Reset, ProcessCrash, PowerCrash, Switchover],
        Mutation::R8 => &[ProcessCrash, Cut, Reset],
        Mutation::R9 => &[BothPower, PowerCrash],
        Mutation::R10 => &[PowerCrash, Reset, ProcessCrash],
        Mutation::R11 => &[PowerCrash, ProcessCrash],
        Mutation::R12 => &[RotMaps, RotMaps, ProcessCrash, Cut, Reset],
        Mutation::R13 | Mutation::R14 => &[Reset, ProcessCrash],
        Mutation::E8 => &[Force, Cut, Reset, ProcessCrash],
    }
}

/// The run of a seed for this mutation: the swarm's, with what the rule needs made likely.
pub fn config(mutation: Mutation, seed: u64) -> Config {
    let mut config = Config::for_seed(seed, Profile::Only(acts(mutation)));
    config.mode = Mode::Sync;
    config.gap = (Duration::from_millis(50), Duration::from_millis(1500));
    config.outage = (Duration::from_millis(20), Duration::from_millis(1500));
    config.active = Duration::from_secs(10);
    config.hot_blocks = config.hot_blocks.min(32);
    config.intent_idle = Duration::from_millis(100);
    match mutation {
        Mutation::R11 => {
            config.exact = true;
            config.gating = false;
        }
        Mutation::R10 => {
            config.exact = true;
            config.gating = true;
        }
        _ => {}
    }
    config.mutation = Some(mutation);
    config.bias = Some(mutation);
    config
}

/// Plays seeds until one catches the mutant, then the same seeds with the rule in place.
fn caught(mutation: Mutation) {
    let first = super::number("TWINBLOCK_SIM_FIRST").unwrap_or(1);
    let catching = (first..first + SEEDS_MAX).find_map(|seed| {
        let failure = play(&config(mutation, seed)).err()?;
        Some((seed, failure))
    });
    let Some((seed, failure)) = catching else { panic!("{mutation:?} survives {SEEDS_MAX} seeds") };
    let first_line = failure.lines().nth(1).unwrap_or(&failure).to_string();
    println!("{mutation:?} is caught by seed {} of at most {SEEDS_MAX}: {first_line}", seed - first + 1);
    for seed in first..=seed {
        let sound = Config { mutation: None, ..config(mutation, seed) };
        if play(&sound).is_err() {
            panic!("the rules are in place, and yet: {}", report(&sound));
        }
    }
}

macro_rules! mutants {
    ($($name:ident: $mutation:ident,)+) => {
        $(
            #[test]
            fn $name() {
                caught(Mutation::$mutation);
            }
        )+

        #[test]
        fn every_mutation_has_its_test() {
            let tested = [$(Mutation::$mutation),+];
            for mutation in Mutation::ALL {
                assert!(tested.contains(&mutation), "{mutation:?} has no test");
            }
        }
    };
}

mutants! {
    writes_that_leave_before_their_intent_are_caught: R1,
    intents_cleared_before_both_flushed_are_caught: R2a,
    a_source_that_never_flushes_is_caught: R2b,
    going_on_alone_without_a_flush_is_caught: R3a,
    joining_without_a_flush_is_caught: R3b,
    taking_over_without_a_flush_is_caught: R3c,
    a_source_that_does_not_flush_before_its_target_gives_up_is_caught: R3d,
    acknowledging_alone_before_the_generation_is_durable_is_caught: R4,
    no_new_generation_after_a_broken_join_is_caught: R5,
    the_last_primary_as_source_whatever_it_forgot_is_caught: R6,
    marks_that_are_not_united_are_caught: R7,
    reads_that_do_not_wait_are_caught: R8,
    a_cache_loss_that_is_not_declared_is_caught: R9,
    stable_when_written_is_caught: R10,
    exact_without_gating_is_caught: R11,
    unreadable_maps_taken_for_empty_are_caught: R12,
    frames_that_overlap_are_caught: R13,
    buffers_given_back_early_are_caught: R14,
    overwriting_before_the_archive_has_it_is_caught: E8,
}
