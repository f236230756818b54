//! Proof that the tests would notice: every rule of the core, broken on purpose, is caught within a bounded number of seeds,
//! and the same seeds pass with the rule in place. The checkers are the same for all; a rule that matters only under a rare
//! meeting of faults gets runs in which those are likely.

use super::config::{Config, Fault};
use super::run::{play, report};
use std::time::Duration;
use twinblock::base::group::FailoverMode;
use twinblock::logic::failover::Mutation;

/// Rules whose counterexample takes a meeting of faults too rare for a swarm, or of faults whose harm is not ours to prevent
/// (a restored arbiter, a clock that stood still): `stories` has the story of each, with and without the rule.
const WITH_STORIES: [Mutation; 3] =
    [Mutation::RecordWentBack, Mutation::PromiseInContest, Mutation::HigherEpochIgnored];

/// Seeds a mutant may survive.
const SEEDS_MAX: u64 = 1_000;

use Fault::*;

/// Mode and faults that a rule's counterexample needs.
fn world(mutation: Mutation) -> (FailoverMode, &'static [Fault]) {
    use FailoverMode as Mode;
    match mutation {
        Mutation::PermitFromReceipt => (Mode::Arbiter, &[CutAll, CutPathOneWay, CutPath, CutLink]),
        Mutation::PermitWithoutMargin => (Mode::Arbiter, &[CutAll, ArbiterAway]),
        Mutation::PromiseNotKept => (Mode::Arbiter, &[CutAll, FalseRefusal]),
        Mutation::NoBootWait => (Mode::Arbiter, &[CutAll, KillProcess, ArbiterAway]),
        Mutation::OutdatedInContest => (Mode::Arbiter, &[CutAll, ArbiterSlow, ArbiterAmbiguous, CutLink]),
        Mutation::LatePermits => (Mode::Arbiter, &[CutLink, CutAll, ArbiterAway, ArbiterAmbiguous]),
        Mutation::SoloUnexcluded => (Mode::Arbiter, &[CutAll]),
        Mutation::ExcludeUndrained => (Mode::Arbiter, &[CutLink, PowerOff, CutAll]),
        Mutation::AmbiguousIsWon => (Mode::Arbiter, &[CutAll, ArbiterAmbiguous, ArbiterAway]),
        Mutation::AmbiguousIsLost => (Mode::Arbiter, &[CutAll, ArbiterAmbiguous, ArbiterSlow]),
        Mutation::UnconfirmedFence => (Mode::Fencing, &[CutAll, FenceBroken]),
        Mutation::NotInSync => (Mode::Arbiter, &[CutAll, CutLink, Pause]),
        Mutation::RecordWentBack | Mutation::PromiseInContest | Mutation::HigherEpochIgnored => {
            unreachable!("has a story")
        }
        Mutation::FailedStopIgnored => (Mode::Arbiter, &[Operator, StepFails]),
        Mutation::HandoverTakenBack => (Mode::Manual, &[CutAll, Operator]),
    }
}

/// The run of a seed for this mutation.
fn config(mutation: Mutation, seed: u64) -> Config {
    let (mode, faults) = world(mutation);
    let mut config = Config::for_seed(seed, mode);
    config.faults = faults.to_vec();
    config.gap = Duration::from_millis(700);
    config.outage = (Duration::from_millis(50), Duration::from_millis(3_000));
    config.active = Duration::from_secs(12);
    config.write_gap = Duration::from_millis(15);
    config.mutation = Some(mutation);
    match mutation {
        Mutation::PermitFromReceipt => config.heartbeat_delay = Duration::from_millis(250),
        Mutation::PermitWithoutMargin => {
            config.rates = [995, 1_005];
            config.dead_after = Duration::from_secs(10);
            config.gap = Duration::from_secs(3);
            config.outage = (Duration::from_secs(5), Duration::from_secs(40));
            config.active = Duration::from_secs(90);
            config.arbiter_delay = Duration::from_millis(3);
        }
        Mutation::NoBootWait => {
            config.init_dead_after = Duration::from_millis(50);
            config.dead_after = Duration::from_secs(3);
        }
        Mutation::HandoverTakenBack => {
            config.dead_after = Duration::from_millis(300);
            config.gap = Duration::from_millis(250);
        }
        _ => {}
    }
    config
}

/// Plays seeds until one catches the mutant, then the same seeds with the rule in place.
fn caught(mutation: Mutation) {
    let catching = (1..=SEEDS_MAX).find_map(|seed| {
        let failure = play(&config(mutation, seed)).err()?;
        Some((seed, failure))
    });
    let Some((seed, failure)) = catching else { panic!("{mutation:?} survives {SEEDS_MAX} seeds") };
    let what = failure.lines().nth(1).unwrap_or(&failure).to_string();
    println!("{mutation:?} is caught by seed {seed} of at most {SEEDS_MAX}: {what}");
    if std::env::var_os("TWINBLOCK_FAILOVER_REPORT").is_some() {
        println!("{}", report(&config(mutation, seed)));
    }
    for seed in 1..=seed {
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
                assert!(tested.contains(&mutation) != WITH_STORIES.contains(&mutation), "{mutation:?} has no test");
            }
        }
    };
}

mutants! {
    a_permit_counted_from_receipt_is_caught: PermitFromReceipt,
    a_permit_without_margin_is_caught: PermitWithoutMargin,
    a_promise_not_kept_is_caught: PromiseNotKept,
    a_promise_forgotten_by_a_restart_is_caught: NoBootWait,
    agreeing_to_be_outdated_in_a_contest_is_caught: OutdatedInContest,
    returning_to_permits_late_is_caught: LatePermits,
    going_on_alone_without_exclusion_is_caught: SoloUnexcluded,
    excluding_before_the_flush_is_caught: ExcludeUndrained,
    an_ambiguous_answer_taken_for_won_is_caught: AmbiguousIsWon,
    an_ambiguous_answer_taken_for_lost_is_caught: AmbiguousIsLost,
    an_unconfirmed_fence_is_caught: UnconfirmedFence,
    taking_over_out_of_sync_is_caught: NotInSync,
    handing_over_after_a_failed_stop_is_caught: FailedStopIgnored,
    taking_a_handover_back_is_caught: HandoverTakenBack,
}
