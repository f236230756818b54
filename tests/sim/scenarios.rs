//! Named stories: the single and sequenced faults of the design's matrix (F.1, F.2) that apply to two nodes in mode
//! `manual`. Each ends with everything healed, converged and checked like any other run.

use super::config::Config;
use super::log::Log;
use super::node::NAMES;
use super::world::World;
use std::time::Duration;
use twinblock::base::command::{Command, CommandOutcome};
use twinblock::base::error::DiskError;
use twinblock::base::state::{DiskState, LinkState, Role};
use twinblock::base::time::Moment;

const ALPHA: usize = 0;
const BETA: usize = 1;

/// A pair and its clients, driven by hand.
struct Pair {
    world: World,
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Both run, alpha serves, two clients work.
fn serving_pair(seed: u64) -> Pair {
    serving_pair_with(seed, |_| {})
}

fn serving_pair_with(seed: u64, change: impl FnOnce(&mut Config)) -> Pair {
    let mut config = Config::scripted(seed);
    change(&mut config);
    let mut pair = Pair { world: World::new(config, Log::keeping(200)) };
    pair.world.start(ALPHA);
    pair.world.start(BETA);
    pair.wait(seconds(5), "in sync", World::both_in_sync);
    pair.promote(ALPHA);
    pair.world.wake_clients();
    pair.clients_get_on(seconds(2));
    pair
}

impl Pair {
    /// Waits for something to come true.
    fn wait(&mut self, time: Duration, what: &str, done: impl FnMut(&World) -> bool) {
        let came = self.world.run_until(time, done);
        if !came {
            panic!("never {what}:\n{}\n{:?}\n{:?}", self.world.log.text(), self.world.view(0), self.world.view(1));
        }
    }

    fn pass(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    /// The operator asks; says whether it was done.
    fn ask(&mut self, node: usize, command: Command) -> Result<(), String> {
        let before = self.world.operator.outcomes.len();
        self.world.command(node, command.clone()).expect("its daemon runs");
        self.wait(seconds(60), "answered", |world| {
            world.operator.outcomes[before..].iter().any(|(who, what, _)| (*who, what) == (node, &command))
        });
        let outcomes = &self.world.operator.outcomes[before..];
        let (_, _, outcome) = outcomes.iter().find(|(_, what, _)| *what == command).expect("answered");
        match outcome {
            CommandOutcome::Done(_) => Ok(()),
            CommandOutcome::Refused(refusal) => Err(refusal.code.clone()),
        }
    }

    fn promote(&mut self, node: usize) {
        let mut last = String::new();
        for _ in 0..50 {
            match self.ask(node, Command::Promote { force: false }) {
                Ok(()) => return,
                Err(code) => last = code,
            }
            self.pass(millis(100));
        }
        panic!("{} can't be promoted: {last}\n{}", NAMES[node], self.world.log.text());
    }

    fn answered(&self) -> u64 {
        self.world.clients.iter().map(|client| client.answered).sum()
    }

    fn errors(&self) -> u64 {
        self.world.clients.iter().map(|client| client.errors).sum()
    }

    /// The clients get answers again, within this time, and no errors.
    fn clients_get_on(&mut self, within: Duration) {
        let (answered, errors) = (self.answered(), self.errors());
        self.wait(within, "answering clients", |world| {
            world.clients.iter().map(|client| client.answered).sum::<u64>() > answered + 20
        });
        assert_eq!(self.errors(), errors, "clients got errors");
    }

    fn clients_get_nothing(&mut self, time: Duration) {
        let answered = self.answered();
        self.pass(time);
        assert!(self.answered() <= answered, "clients got answers");
    }

    fn disk(&self, node: usize) -> DiskState {
        self.world.view(node).expect("its daemon runs").disk
    }

    fn link(&self, node: usize) -> LinkState {
        self.world.view(node).expect("its daemon runs").link
    }

    fn role(&self, node: usize) -> Role {
        self.world.view(node).expect("its daemon runs").role
    }

    fn back_in_sync(&mut self) {
        self.wait(seconds(60), "back in sync", World::both_in_sync);
    }

    /// The daemon whose disk was given up gets it back.
    fn attach(&mut self, node: usize) {
        let closed = |world: &World| {
            world.nodes[node]
                .process
                .as_ref()
                .is_some_and(|p| !p.disk_open && p.disk_ops.is_empty() && p.persists.is_empty())
        };
        self.wait(seconds(60), "closed", closed);
        self.world.attach(node);
        self.wait(seconds(5), "attached", |world| {
            world.nodes[node].process.as_ref().is_some_and(|p| p.commands.is_empty())
        });
    }

    /// Bytes the last resync moved as data.
    fn copied(&self) -> u64 {
        let copied =
            |node| self.world.view(node).and_then(|view| view.last_resync).map_or(0, |resync| resync.bytes_copied);
        copied(ALPHA).max(copied(BETA))
    }

    /// Everything heals; the pair must converge, and every promise must have been kept.
    fn ends_well(mut self) {
        self.world.operator_on_duty();
        self.world.heal_everything();
        self.world.converge();
        self.world.check_everything_at_rest();
    }
}

#[test]
fn f003_a_killed_primary_comes_back_as_the_target() {
    let mut pair = serving_pair(3);
    pair.world.kill(ALPHA, "kill -9");
    pair.pass(millis(500));
    pair.promote(BETA);
    pair.clients_get_on(seconds(2));
    pair.world.start(ALPHA);
    pair.back_in_sync();
    assert_eq!((pair.role(ALPHA), pair.role(BETA)), (Role::Secondary, Role::Primary));
    pair.ends_well();
}

#[test]
fn f006_the_secondary_loses_its_power_and_the_primary_goes_on() {
    let mut pair = serving_pair(6);
    pair.world.power_off(BETA);
    pair.clients_get_on(seconds(10));
    pair.world.start(BETA);
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f007_the_secondarys_daemon_is_killed() {
    let mut pair = serving_pair(7);
    pair.world.kill(BETA, "kill -9");
    pair.clients_get_on(seconds(3));
    pair.world.start(BETA);
    pair.back_in_sync();
    assert!(pair.copied() <= pair.world.config.volume_bytes(), "more was copied than there is");
    pair.ends_well();
}

#[test]
fn f008_the_secondary_stands_still_and_comes_back() {
    let mut pair = serving_pair(8);
    pair.world.pause(BETA);
    pair.clients_get_on(seconds(10));
    pair.world.resume(BETA);
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f009_f015_the_link_is_cut_and_only_the_primary_goes_on() {
    let mut pair = serving_pair(9);
    pair.world.cut_network();
    pair.clients_get_on(seconds(10));
    pair.pass(seconds(5));
    assert_eq!(pair.ask(BETA, Command::Promote { force: false }), Err("connecting".into()));
    pair.world.heal_network();
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f017_one_direction_is_lost() {
    for from in [ALPHA, BETA] {
        let mut pair = serving_pair(17 + from as u64);
        pair.world.link.lossy[from] = true;
        pair.clients_get_on(seconds(15));
        pair.world.heal_network();
        pair.back_in_sync();
        pair.ends_well();
    }
}

#[test]
fn f019_a_flapping_link_changes_no_role() {
    let mut pair = serving_pair(19);
    for _ in 0..20 {
        pair.world.reset_session();
        pair.clients_get_on(seconds(5));
        pair.pass(seconds(1));
        assert_eq!((pair.role(ALPHA), pair.role(BETA)), (Role::Primary, Role::Secondary));
    }
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f020_f027_a_write_error_on_the_primary_reaches_no_client() {
    for (seed, error) in [(20, DiskError::Failed(5)), (27, DiskError::NoSpace), (28, DiskError::Short)] {
        let mut pair = serving_pair(seed);
        pair.world.nodes[ALPHA].faults.next_write = Some(error);
        pair.wait(seconds(5), "diskless", |world| {
            world.view(ALPHA).is_some_and(|view| view.disk == DiskState::Diskless)
        });
        pair.clients_get_on(seconds(5));
        assert_eq!(pair.link(ALPHA), LinkState::Forwarding);
        pair.ends_well();
    }
}

#[test]
fn f021_a_read_error_on_the_primary_is_served_by_the_peer() {
    let mut pair = serving_pair_with(21, |config| {
        config.operation_blocks_max = 1;
        config.reads = 100;
        config.zeroes = 0;
        config.flushes = 0;
    });
    pair.world.nodes[ALPHA].faults.next_read = Some(DiskError::Failed(5));
    pair.clients_get_on(seconds(5));
    assert_eq!(pair.disk(ALPHA), DiskState::UpToDate);
    pair.ends_well();
}

#[test]
fn f022_a_failed_flush_is_final() {
    let mut pair = serving_pair(22);
    pair.world.nodes[ALPHA].faults.next_flush = Some(DiskError::Failed(5));
    pair.world.nodes[ALPHA].faults.flush_drops = true;
    pair.wait(seconds(5), "diskless", |world| world.view(ALPHA).is_some_and(|view| view.disk == DiskState::Diskless));
    pair.clients_get_on(seconds(5));
    assert_eq!(pair.ask(ALPHA, Command::Demote { force: true }), Ok(()));
    pair.promote(BETA);
    pair.attach(ALPHA);
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f023_a_disk_that_hangs_is_given_up_and_its_ghosts_do_no_harm() {
    // Reads that the hung disk still owes hold their ranges until it answers; writes do not.
    let mut pair = serving_pair_with(23, |config| config.reads = 0);
    let until = pair.world.now + seconds(40);
    pair.world.nodes[ALPHA].faults.hangs_until = until;
    pair.clients_get_on(seconds(15));
    assert_eq!(pair.disk(ALPHA), DiskState::Diskless);
    pair.world.nodes[ALPHA].faults.hangs_until = Moment(0);
    pair.pass(seconds(45));
    pair.ends_well();
}

#[test]
fn f024_a_slow_disk_is_only_slow() {
    let mut pair = serving_pair(24);
    let until = pair.world.now + seconds(5);
    pair.world.nodes[ALPHA].faults.slow = (100, until);
    pair.clients_get_on(seconds(30));
    assert_eq!((pair.disk(ALPHA), pair.role(ALPHA)), (DiskState::UpToDate, Role::Primary));
    pair.ends_well();
}

#[test]
fn f025_no_write_leaves_after_the_metadata_failed() {
    let mut pair = serving_pair_with(25, |config| config.hot_blocks = 64);
    pair.world.nodes[ALPHA].faults.next_persist = Some(DiskError::Failed(5));
    pair.wait(seconds(20), "diskless", |world| world.view(ALPHA).is_some_and(|view| view.disk == DiskState::Diskless));
    pair.clients_get_on(seconds(5));
    pair.ends_well();
}

#[test]
fn f026_errors_of_the_secondary_reach_no_client() {
    let faults: [fn(&mut super::node::Faults); 2] = [
        |faults| faults.next_write = Some(DiskError::Failed(5)),
        |faults| faults.next_flush = Some(DiskError::Failed(5)),
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        let mut pair = serving_pair(26 + index as u64);
        fault(&mut pair.world.nodes[BETA].faults);
        pair.wait(seconds(5), "diskless", |world| {
            world.view(BETA).is_some_and(|view| view.disk == DiskState::Diskless)
        });
        pair.clients_get_on(seconds(5));
        assert!(pair.ask(BETA, Command::Promote { force: false }).is_err());
        pair.attach(BETA);
        pair.back_in_sync();
        pair.ends_well();
    }
}

#[test]
fn f030_f111_a_crash_at_any_moment_finds_sound_metadata() {
    for step in 0..60 {
        let mut pair = serving_pair(300 + step);
        let node = (step % 2) as usize;
        pair.pass(Duration::from_micros(step * 777));
        pair.world.power_off(node);
        pair.pass(millis(20));
        pair.world.start(node);
        // A crash between any two steps of what follows: handshake, copy, adoption, join.
        pair.pass(Duration::from_micros(step * 1913));
        pair.world.power_off(1 - node);
        pair.pass(millis(300));
        pair.world.start(1 - node);
        pair.ends_well();
    }
}

#[test]
fn f031_a_rotten_superblock_is_never_promoted_and_compared() {
    let mut pair = serving_pair(31);
    pair.world.power_off(BETA);
    pair.world.nodes[BETA].metadata.rot_newest_superblock();
    pair.clients_get_on(seconds(10));
    pair.world.cut_network();
    pair.world.start(BETA);
    pair.pass(seconds(1));
    assert_eq!(pair.ask(BETA, Command::Promote { force: false }), Err("metadata-suspect".into()));
    pair.world.heal_network();
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f032_a_flipped_bit_on_the_way_ends_the_session_and_nothing_else() {
    let mut pair = serving_pair(32);
    for _ in 0..10 {
        let World { link, random, .. } = &mut pair.world;
        link.corrupt(random);
        pair.clients_get_on(seconds(5));
    }
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f036_a_client_that_drops_its_connection_overwrites_nothing_later() {
    let mut pair = serving_pair_with(36, |config| config.hot_blocks = 2);
    for round in 0..50 {
        pair.world.client_resets(round % 2, false);
        pair.pass(millis(50));
    }
    pair.clients_get_on(seconds(5));
    pair.ends_well();
}

#[test]
fn f040_a_promotion_beside_a_living_primary_is_refused() {
    let mut pair = serving_pair(40);
    assert_eq!(pair.ask(BETA, Command::Promote { force: false }), Err("peer-is-primary".into()));
    pair.clients_get_on(seconds(2));
    pair.ends_well();
}

#[test]
fn f041_an_orderly_stop_of_the_secondary_costs_a_difference_only() {
    let mut pair = serving_pair(41);
    pair.world.stop(BETA);
    pair.wait(seconds(10), "stopped", |world| world.nodes[BETA].process.is_none());
    pair.clients_get_on(seconds(3));
    pair.world.start(BETA);
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f042_both_stopped_in_order_start_without_copying() {
    let mut pair = serving_pair(42);
    pair.world.active = false;
    pair.wait(seconds(10), "idle", World::is_settled);
    for node in [ALPHA, BETA] {
        pair.world.stop(node);
        pair.wait(seconds(10), "stopped", |world| world.nodes[node].process.is_none());
    }
    let resyncs = pair.world.stats.resyncs;
    pair.world.start(ALPHA);
    pair.world.start(BETA);
    pair.wait(seconds(1), "in sync", World::both_in_sync);
    assert_eq!(pair.world.stats.resyncs, resyncs, "something was copied");
    pair.ends_well();
}

#[test]
fn f101_both_lose_their_power_under_load() {
    for seed in 0..20 {
        let mut pair = serving_pair(1010 + seed);
        pair.pass(millis(37 * seed));
        pair.world.power_off(ALPHA);
        pair.world.power_off(BETA);
        pair.pass(millis(100));
        pair.world.start((seed % 2) as usize);
        pair.pass(millis(50));
        pair.world.start(1 - (seed % 2) as usize);
        pair.back_in_sync();
        pair.ends_well();
    }
}

#[test]
fn f105_a_half_copied_node_serves_nobody() {
    let mut pair = serving_pair_with(105, |config| config.resync_rate_max = 64 << 10);
    pair.world.kill(ALPHA, "kill -9");
    pair.pass(millis(500));
    pair.promote(BETA);
    pair.clients_get_on(seconds(3));
    pair.world.start(ALPHA);
    pair.wait(seconds(5), "copying", |world| {
        world.view(ALPHA).is_some_and(|view| view.disk == DiskState::Inconsistent)
    });
    pair.world.power_off(BETA);
    pair.pass(seconds(5));
    assert_eq!(pair.ask(ALPHA, Command::Promote { force: false }), Err("inconsistent".into()));
    pair.clients_get_nothing(seconds(2));
    pair.world.start(BETA);
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f106_the_target_of_a_resync_dies_and_the_resync_goes_on_from_the_record() {
    let mut pair = serving_pair_with(106, |config| config.resync_rate_max = 64 << 10);
    pair.world.kill(BETA, "kill -9");
    pair.clients_get_on(seconds(5));
    pair.world.start(BETA);
    pair.wait(seconds(5), "copying", |world| world.view(BETA).is_some_and(|view| view.disk == DiskState::Inconsistent));
    pair.world.power_off(BETA);
    pair.clients_get_on(seconds(10));
    pair.world.start(BETA);
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f107_a_primary_alone_loses_its_power_and_nothing_more_than_the_record_is_copied() {
    let mut pair = serving_pair_with(107, |config| {
        config.blocks = [512, 512];
        config.hot_blocks = 8;
    });
    pair.world.config.hot_blocks = 8;
    pair.world.kill(BETA, "kill -9");
    pair.pass(seconds(10));
    pair.world.power_off(ALPHA);
    pair.pass(millis(100));
    pair.world.start(ALPHA);
    pair.world.start(BETA);
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f116_a_new_disk_is_filled() {
    let mut pair = serving_pair(116);
    pair.world.power_off(BETA);
    let World { nodes, config, random, .. } = &mut pair.world;
    nodes[BETA].replace_disk(config, random);
    pair.clients_get_on(seconds(10));
    pair.world.start(BETA);
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f121_alternating_solo_periods_relate_rightly() {
    let mut pair = serving_pair(121);
    for round in 0..6 {
        let (gone, stays) = if round % 2 == 0 { (ALPHA, BETA) } else { (BETA, ALPHA) };
        pair.world.kill(gone, "kill -9");
        pair.pass(millis(500));
        if pair.role(stays) == Role::Secondary {
            pair.promote(stays);
        }
        pair.clients_get_on(seconds(5));
        pair.world.start(gone);
        pair.back_in_sync();
        // Evidence of a primary's death wants a session that has lived for a moment.
        pair.pass(seconds(2));
    }
    pair.ends_well();
}

#[test]
fn f123_the_targets_flush_fails_at_the_end_of_a_resync() {
    let mut pair = serving_pair(123);
    pair.world.kill(BETA, "kill -9");
    pair.clients_get_on(seconds(5));
    pair.world.nodes[BETA].faults.next_flush = Some(DiskError::Failed(5));
    pair.world.nodes[BETA].faults.flush_drops = true;
    pair.world.start(BETA);
    pair.wait(seconds(20), "diskless", |world| world.view(BETA).is_some_and(|view| view.disk == DiskState::Diskless));
    pair.clients_get_on(seconds(5));
    pair.attach(BETA);
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f124_the_link_is_lost_at_every_step_of_a_join() {
    for step in 0..60 {
        let mut pair = serving_pair(12400 + step);
        pair.world.reset_session();
        pair.clients_get_on(seconds(5));
        pair.pass(Duration::from_micros(step * 499));
        pair.world.reset_session();
        pair.clients_get_on(seconds(5));
        pair.ends_well();
    }
}

#[test]
fn f125_a_block_the_source_cannot_read_is_never_filled_with_zeroes() {
    let mut pair = serving_pair_with(125, |config| config.zeroes = 0);
    pair.world.kill(BETA, "kill -9");
    pair.clients_get_on(seconds(5));
    pair.world.active = false;
    pair.pass(seconds(1));
    pair.world.nodes[ALPHA].faults.next_read = Some(DiskError::Failed(5));
    pair.world.start(BETA);
    pair.ends_well();
}
