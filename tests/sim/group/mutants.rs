//! Proof that the two cores together show a broken rule, of either: each is caught within a bounded number of seeds, and the
//! same seeds pass with the rule in place. The checkers are those of every run.

use super::super::config::{Act, Config, Profile};
use super::super::run::{play, report};
use std::time::Duration;
use twinblock::base::group::FailoverMode as Mode;
use twinblock::logic::failover::Mutation;
use twinblock::logic::mirror::Mutation as MirrorMutation;

/// Seeds a mutant may survive.
const SEEDS_MAX: u64 = 200;

use Act::*;

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Mode and faults that a rule's counterexample needs.
fn world(mutation: Mutation) -> (Mode, &'static [Act]) {
    match mutation {
        Mutation::PermitFromReceipt => (Mode::Arbiter, &[CutAll, CutPathOneWay, CutPath, Cut]),
        Mutation::PermitWithoutMargin => (Mode::Arbiter, &[CutAll, ArbiterAway]),
        Mutation::PromiseNotKept => (Mode::Arbiter, &[CutAll, FalseRefusal]),
        Mutation::NoBootWait => (Mode::Arbiter, &[CutAll, ProcessCrash, ArbiterAway]),
        Mutation::PromiseInContest => (Mode::Arbiter, &[CutAll, ArbiterSlow, CutPathOneWay]),
        Mutation::OutdatedInContest => (Mode::Arbiter, &[CutAll, ArbiterSlow, ArbiterAmbiguous, Cut]),
        Mutation::LatePermits => (Mode::Arbiter, &[Cut, CutAll, ArbiterAway, ArbiterAmbiguous]),
        Mutation::SoloUnexcluded => (Mode::Arbiter, &[CutAll]),
        Mutation::ExcludeUndrained => (Mode::Arbiter, &[Cut, PowerCrash, CutAll]),
        Mutation::AmbiguousIsWon => (Mode::Arbiter, &[CutAll, ArbiterAmbiguous, ArbiterAway]),
        Mutation::AmbiguousIsLost => (Mode::Arbiter, &[CutAll, ArbiterAmbiguous, ArbiterSlow]),
        Mutation::UnconfirmedFence => (Mode::Fencing, &[CutAll, FenceBroken]),
        Mutation::NotInSync => (Mode::Arbiter, &[CutAll, Cut, Pause]),
        Mutation::HigherEpochIgnored | Mutation::RecordWentBack => (Mode::Arbiter, &[CutAll, Pause, ArbiterAway]),
        Mutation::FailedStopIgnored => (Mode::Arbiter, &[GroupVerb, StepFails]),
        Mutation::HandoverTakenBack => (Mode::Manual, &[CutAll, GroupVerb]),
    }
}

/// The run of a seed for this mutation, with the rule broken or in place.
pub fn config(mutation: Mutation, seed: u64, broken: bool) -> Config {
    let (mode, acts) = world(mutation);
    let mut config = short(mode, acts, seed);
    let group = config.group.as_mut().expect("it has a group");
    group.mutation = broken.then_some(mutation);
    group.bias = Some(mutation);
    match mutation {
        Mutation::PermitFromReceipt => group.heartbeat_delay = millis(250),
        Mutation::PermitWithoutMargin => {
            group.rates = [995, 1_005];
            group.dead_after = millis(10_000);
            group.arbiter_delay = millis(3);
            config.gap = (millis(750), millis(6_000));
            config.outage = (millis(5_000), millis(40_000));
            config.active = millis(90_000);
        }
        Mutation::NoBootWait => {
            group.init_dead_after = millis(50);
            group.dead_after = millis(3_000);
        }
        Mutation::HandoverTakenBack => {
            group.dead_after = millis(300);
            config.gap = (millis(60), millis(500));
        }
        _ => {}
    }
    config
}

/// A short run of many faults.
fn short(mode: Mode, acts: &'static [Act], seed: u64) -> Config {
    let mut config = Config::for_seed(seed, Profile::Group(mode));
    config.acts = acts.iter().map(|act| (*act, 10)).collect();
    config.gap = (millis(175), millis(1_400));
    config.outage = (millis(50), millis(3_000));
    config.active = millis(12_000);
    config.think = (millis(2), millis(30));
    config.hot_blocks = config.hot_blocks.min(32);
    config
}

/// The same for a rule of the mirror's core.
pub fn mirror_config(mutation: MirrorMutation, seed: u64) -> Config {
    let acts: &'static [Act] = match mutation {
        MirrorMutation::R3a => &[Cut, CutAll, PowerCrash, ProcessCrash],
        MirrorMutation::R3b | MirrorMutation::R3d => &[PowerCrash, ProcessCrash, Cut, CutAll],
        MirrorMutation::R3c => &[ProcessCrash, PowerCrash, CutAll],
        MirrorMutation::R4 | MirrorMutation::R5 => &[Reset, Cut, CutAll, ProcessCrash],
        MirrorMutation::R6 => &[ProcessCrash, PowerCrash, Reset, GroupVerb],
        _ => &[BothPower, PowerCrash],
    };
    let mut config = short(Mode::Arbiter, acts, seed);
    config.gap = (millis(50), millis(1_500));
    config.intent_idle = millis(100);
    config.mutation = Some(mutation);
    config.bias = Some(mutation);
    if let (MirrorMutation::R9, Some(group)) = (mutation, config.group.as_mut()) {
        group.unclean_takeover = true;
        group.peer_wait = millis(1_000);
        group.init_dead_after = millis(500);
    }
    config
}

/// Plays seeds until one catches the mutant, then the same seeds with the rule in place.
fn caught(name: &str, mutant: impl Fn(u64) -> Config, sound: impl Fn(u64) -> Config) {
    let first = super::super::number("TWINBLOCK_SIM_FIRST").unwrap_or(1);
    let catching = (first..first + SEEDS_MAX).find_map(|seed| Some((seed, play(&mutant(seed)).err()?)));
    let Some((seed, failure)) = catching else { panic!("{name} survives {SEEDS_MAX} seeds") };
    let first_line = failure.lines().nth(1).unwrap_or(&failure).to_string();
    println!("{name} is caught by seed {} of at most {SEEDS_MAX}: {first_line}", seed - first + 1);
    for seed in first..=seed {
        if play(&sound(seed)).is_err() {
            panic!("the rules are in place, and yet: {}", report(&sound(seed)));
        }
    }
}

fn group_rule(mutation: Mutation) {
    caught(&format!("{mutation:?}"), |seed| config(mutation, seed, true), |seed| config(mutation, seed, false));
}

fn mirror_rule(mutation: MirrorMutation) {
    let sound = |seed| Config { mutation: None, ..mirror_config(mutation, seed) };
    caught(&format!("{mutation:?} in a group"), |seed| mirror_config(mutation, seed), sound);
}

macro_rules! mutants {
    ($rule:ident of $kind:ident: $($name:ident: $mutation:ident,)+) => {
        $(
            #[test]
            fn $name() {
                $rule($kind::$mutation);
            }
        )+
    };
}

mutants! {
    mirror_rule of MirrorMutation:
    an_owner_that_does_not_flush_before_it_goes_on_alone_is_caught: R3a,
    a_target_that_joins_without_a_flush_is_caught: R3b,
    an_owner_that_acknowledges_before_its_generation_is_durable_is_caught: R4,
    no_new_generation_after_a_broken_join_is_caught: R5,
    the_last_owner_as_source_whatever_it_forgot_is_caught: R6,
    a_loss_that_is_not_declared_is_caught: R9,
}

// The group's other rules take more seeds than a run on every change can play here; `tests/failover` kills them.
mutants! {
    group_rule of Mutation:
    a_promise_not_kept_is_caught: PromiseNotKept,
    a_promise_forgotten_by_a_restart_is_caught: NoBootWait,
    returning_to_permits_late_is_caught: LatePermits,
    going_on_alone_without_exclusion_is_caught: SoloUnexcluded,
    taking_over_out_of_sync_is_caught: NotInSync,
}
