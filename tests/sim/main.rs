//! The simulator: two real mirror cores on simulated disks, a simulated network, with simulated clients, an operator and
//! a nemesis, on a simulated clock. One seed is one run; a failing seed is replayed by one command.
//!
//! | file | what it is |
//! |---|---|
//! | `world`, `random`, `log`, `config` | the queue of events, chance, the timeline, what a seed means |
//! | `node`, `clock`, `daemon`, `devices` | a server and its daemon: the runtime around a core, its contract checked |
//! | `disk`, `metadata`, `archive`, `link`, `buffers`, `content` | what it runs on |
//! | `clients`, `operator`, `nemesis` | what is done to it |
//! | `history`, `register`, `invariants`, `run` | what must hold, and the verdict |
//! | `watch` | ends a run that hangs or takes all memory |
//! | `grow` | the volume grows meanwhile |
//! | `group` | the failover group around the volume, and everything that lies outside of it |
//! | `scenarios`, `mutants` | named stories; proof that a broken rule is caught (with feature `mutants`) |
//!
//! Environment: `TWINBLOCK_SIM_SECONDS` or `TWINBLOCK_SIM_SEEDS` bound the swarm, `TWINBLOCK_SIM_FIRST` is its first seed,
//! `TWINBLOCK_SIM_SEED` and `TWINBLOCK_SIM_PROFILE` name the run that `replay` plays, `TWINBLOCK_SIM_LINES` is how much
//! of its timeline is printed.

mod archive;
mod buffers;
mod clients;
mod clock;
mod config;
mod content;
mod daemon;
mod devices;
mod disk;
mod group;
mod grow;
mod history;
mod invariants;
mod link;
mod log;
mod metadata;
#[cfg(feature = "mutants")]
mod mutants;
mod nemesis;
mod node;
mod operator;
mod random;
mod register;
mod run;
mod scenarios;
mod watch;
mod world;

use config::{Config, Profile};
use run::{Budget, play, report};
use twinblock::base::group::FailoverMode;

/// Seconds a swarm takes unless the environment says otherwise.
const SWARM_SECONDS: u64 = 30;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn swarm(profile: Profile) {
    // There are five swarms with groups.
    let share = if matches!(profile, Profile::Group(_) | Profile::Growing) { 3 } else { 1 };
    let mut budget = Budget::from_environment(SWARM_SECONDS, share);
    let first = number("TWINBLOCK_SIM_FIRST").unwrap_or(1);
    let mut total = world::Stats::default();
    let mut seeds = 0;
    while budget.goes_on() {
        let config = Config::for_seed(first + seeds, profile);
        let began = std::time::Instant::now();
        match play(&config) {
            Ok(stats) => {
                if std::env::var_os("TWINBLOCK_SIM_VERBOSE").is_some() {
                    println!("seed {} took {:?}: {stats:?}", config.seed, began.elapsed());
                }
                total.add(&stats);
            }
            Err(_) => panic!("{}", report(&config)),
        }
        seeds += 1;
    }
    println!("{profile:?}: {seeds} seeds from {first} on, {total:?}");
}

#[test]
fn a_swarm_of_faults_never_breaks_a_promise() {
    swarm(Profile::Swarm);
}

/// Runs in which the operator promotes by force and gives up a side afterwards: what is lost by that is lost, but the pair
/// must come together again.
#[test]
fn forced_promotions_split_the_volume_and_it_comes_together_again() {
    swarm(Profile::Forced);
}

/// Runs in which the operator makes the volume larger meanwhile.
#[test]
fn a_volume_that_grows_under_faults_keeps_every_promise() {
    swarm(Profile::Growing);
}

/// The run that a profile's name and a seed mean: `forced`, `growing`, a mutation such as `R3a`, or `sound-R3a` for the same run with
/// the rule in place; anything else is the swarm.
fn config_of_profile(profile: &str, seed: u64) -> Config {
    #[cfg(feature = "mutants")]
    for mutation in twinblock::logic::mirror::Mutation::ALL {
        let name = format!("{mutation:?}");
        if profile == name {
            return mutants::config(mutation, seed);
        }
        if profile == format!("sound-{name}") {
            return Config { mutation: None, ..mutants::config(mutation, seed) };
        }
    }
    #[cfg(feature = "mutants")]
    for mutation in twinblock::logic::failover::Mutation::ALL {
        let name = format!("{mutation:?}");
        if profile.trim_start_matches("sound-") == name {
            return group::mutants::config(mutation, seed, profile == name);
        }
    }
    for mode in FailoverMode::ALL.iter().copied() {
        if profile == mode.word() {
            return Config::for_seed(seed, Profile::Group(mode));
        }
    }
    let profile = match profile {
        "forced" => Profile::Forced,
        "growing" => Profile::Growing,
        _ => Profile::Swarm,
    };
    Config::for_seed(seed, profile)
}

/// The name by which [`config_of_profile`] finds a group's run again.
fn profile_of_group(config: &Config) -> String {
    let group = config.group.as_ref().expect("it has a group");
    match (group.bias, group.mutation) {
        (Some(bias), None) => format!("sound-{bias:?}"),
        (_, Some(mutation)) => format!("{mutation:?}"),
        _ => group.mode.to_string(),
    }
}

/// Seeds that once found something, by profile. What a seed means changes when the simulator does; they are kept because
/// each stresses something unusual.
const ONCE_FAILED: &[(&str, u64)] = &[
    ("swarm", 2),
    ("swarm", 8),
    ("swarm", 9),
    ("swarm", 11),
    ("swarm", 14),
    ("swarm", 21),
    ("swarm", 33),
    ("swarm", 39),
    ("swarm", 42),
    ("swarm", 51),
    ("swarm", 59),
    ("swarm", 2205),
    ("swarm", 5056),
    ("swarm", 5124),
    ("swarm", 9037),
    ("swarm", 20003),
    ("swarm", 30020),
    ("swarm", 30051),
    ("swarm", 50026),
    ("swarm", 50447),
    ("swarm", 51629),
    ("swarm", 80035),
    ("forced", 50121),
    ("forced", 61017),
    ("forced", 10),
    ("forced", 66),
    ("forced", 72),
    ("forced", 307),
    ("forced", 42),
    ("forced", 30039),
    ("forced", 30068),
    ("arbiter", 300004),
    ("arbiter+fencing", 1),
    ("fencing", 200007),
    ("manual", 300000),
    ("best-effort", 400016),
    ("best-effort", 87),
    ("sound-R12", 18),
    ("sound-R14", 8),
];

/// Plays one seed (`TWINBLOCK_SIM_SEED`) with its whole timeline, or else every seed that once failed.
#[test]
fn replay() {
    if let Some(seed) = number("TWINBLOCK_SIM_SEED") {
        let config = config_of_profile(&std::env::var("TWINBLOCK_SIM_PROFILE").unwrap_or_default(), seed);
        match play(&config) {
            Ok(stats) => println!("seed {seed} passes: {stats:?}"),
            Err(_) => panic!("{}", report(&config)),
        }
        return;
    }
    for (profile, seed) in ONCE_FAILED {
        let config = config_of_profile(profile, *seed);
        if play(&config).is_err() {
            panic!("{}", report(&config));
        }
    }
}
