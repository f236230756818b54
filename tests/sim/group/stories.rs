//! Rows of the fault matrix that need both cores: who serves, how soon, and what becomes of the data. Each ends healed,
//! settled and checked like any other run.

use super::super::config::{Act, Config};
use super::super::log::Log;
use super::super::world::World;
use super::run::scripted;
use std::time::Duration;
use twinblock::base::command::CommandOutcome;
use twinblock::base::group::{FailoverMode, NodeState, Reason};
use twinblock::base::ids::NodeId;
use twinblock::base::state::{DiskState, Mode};
use twinblock::logic::failover::interface::{Note, Verb};

const ALPHA: usize = 0;
const BETA: usize = 1;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A pair with its group and clients, driven by hand.
struct Story {
    world: World,
}

/// Both run, alpha serves, both in sync, two clients at work.
fn pair(seed: u64, mode: FailoverMode) -> Story {
    pair_with(seed, mode, |_| {})
}

fn pair_with(seed: u64, mode: FailoverMode, change: impl FnOnce(&mut Config)) -> Story {
    let mut config = scripted(seed, mode);
    change(&mut config);
    let mut story = Story { world: World::new(config, Log::keeping(200)) };
    story.world.start(ALPHA);
    story.world.start(BETA);
    story.world.operator_on_duty();
    story.world.wake_clients();
    story.wait(seconds(20), "settled", |world| world.both_in_sync() && world.group_is_settled());
    assert_eq!(story.world.serving(), Some(ALPHA), "home serves");
    story.served_by(ALPHA, seconds(2));
    story
}

impl Story {
    fn wait(&mut self, time: Duration, what: &str, done: impl FnMut(&World) -> bool) {
        if !self.world.run_until(time, done) {
            panic!("never {what}:\n{}\n{:?}\n{:?}", self.world.log.text(), self.world.view(0), self.world.view(1));
        }
    }

    fn pass(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    fn answered(&self) -> u64 {
        self.world.clients.iter().map(|client| client.answered).sum()
    }

    /// Clients get answers of this node, this soon (I23).
    fn served_by(&mut self, node: usize, within: Duration) {
        let before = self.answered();
        let name = super::super::node::NAMES[node];
        self.wait(within, &format!("served by {name}"), |world| {
            let answered: u64 = world.clients.iter().map(|client| client.answered).sum();
            answered > before + 10 && world.serves(node) && world.holds_address(node)
        });
    }

    fn nothing_is_answered(&mut self, time: Duration) {
        let before = self.answered();
        self.pass(time);
        assert_eq!(self.answered(), before, "something was answered");
    }

    fn shown(&self, node: usize) -> (NodeState, Reason) {
        self.world.side(node).and_then(|side| side.core.as_ref()).expect("its group runs").node_state()
    }

    fn noted(&self, node: usize, matching: impl Fn(&Note) -> bool) -> bool {
        self.world.outside.notes.iter().any(|(who, note)| *who == node && matching(note))
    }

    fn ask(&mut self, node: usize, verb: Verb) -> Result<(), String> {
        let id = self.world.ask_group(node, verb);
        self.wait(seconds(60), "answered", |world| world.outside.outcomes.iter().any(|(_, known, _)| *known == id));
        let outcome = self.world.outside.outcomes.iter().find(|(_, known, _)| *known == id).expect("answered");
        match &outcome.2 {
            CommandOutcome::Done(_) => Ok(()),
            CommandOutcome::Refused(refusal) => Err(refusal.code.clone()),
        }
    }

    /// Everything is well again, and everything is checked.
    fn ends_well(&mut self) {
        self.world.heal_everything();
        self.world.converge_group();
        self.world.check_everything_at_rest();
    }
}

#[test]
fn f001_f002_the_owner_loses_its_power_and_the_clients_go_on_at_the_other() {
    for mode in [FailoverMode::Arbiter, FailoverMode::Fencing, FailoverMode::ArbiterFencing] {
        let mut story = pair(1, mode);
        story.world.power_off(ALPHA);
        story.served_by(BETA, if mode == FailoverMode::Arbiter { seconds(3) } else { seconds(5) });
        story.world.start(ALPHA);
        story.wait(seconds(30), "in sync again", |world| world.both_in_sync() && world.group_is_settled());
        assert_eq!(story.world.serving(), Some(BETA), "it does not jump back");
        story.ends_well();
    }
}

#[test]
fn f003_the_owners_daemon_is_killed_and_another_owns_when_it_is_back() {
    let mut story = pair(3, FailoverMode::Arbiter);
    story.world.kill(ALPHA, "kill -9");
    story.world.start_soon(ALPHA, seconds(1));
    story.served_by(BETA, seconds(3));
    story.ends_well();
}

#[test]
fn f004_f114_a_stopped_owner_finds_the_epoch_moved() {
    let mut story = pair(4, FailoverMode::Arbiter);
    story.world.pause(ALPHA);
    story.served_by(BETA, seconds(3));
    story.pass(seconds(20));
    story.world.resume(ALPHA);
    story.wait(seconds(20), "in sync again", |world| world.both_in_sync() && world.group_is_settled());
    assert_eq!(story.world.serving(), Some(BETA));
    story.ends_well();
}

#[test]
fn f006_f007_f008_the_standby_goes_and_the_owner_goes_on() {
    for (seed, way) in [(6, 0), (7, 1), (8, 2)] {
        let mut story = pair(seed, FailoverMode::Arbiter);
        match way {
            0 => story.world.power_off(BETA),
            1 => story.world.kill(BETA, "kill -9"),
            _ => story.world.pause(BETA),
        }
        story.served_by(ALPHA, seconds(14));
        story.pass(seconds(3));
        story.ends_well();
    }
}

#[test]
fn f009_the_link_alone_is_cut_and_the_owner_goes_on() {
    // Long before the link's own time-out, since beta is heard elsewhere: within a second of silence, and by its consent.
    for mode in FailoverMode::ALL.iter().copied() {
        for seed in 0..5 {
            let mut story = pair_with(90 + seed, mode, |config| {
                config.link_timeout = seconds(30);
                config.remote_io_timeout = seconds(30);
            });
            story.world.cut_network();
            story.pass(millis(200));
            story.served_by(ALPHA, millis(2_300));
            let rule = if mode == FailoverMode::Manual { "manual-mode" } else { "outdated-by-consent" };
            assert!(story.noted(ALPHA, |note| matches!(note, Note::Alone { rule: by } if *by == rule)), "{mode}");
            story.ends_well();
        }
    }
}

#[test]
fn f011_everything_is_cut_and_one_goes_on() {
    let mut story = pair(11, FailoverMode::Arbiter);
    story.world.isolate(true);
    story.pass(seconds(15));
    let serving = story.world.serving().expect("one of them");
    story.served_by(serving, seconds(5));
    story.ends_well();
}

#[test]
fn f012_an_owner_without_peer_and_arbiter_freezes() {
    let mut story = pair(12, FailoverMode::Arbiter);
    story.world.outside.arbiter.away[ALPHA] = true;
    story.world.isolate(true);
    story.served_by(BETA, seconds(15));
    assert!(!story.world.holds_address(ALPHA), "its permit has ended");
    story.ends_well();
}

#[test]
fn f013_a_standby_without_peer_and_arbiter_never_serves() {
    let mut story = pair(13, FailoverMode::Arbiter);
    story.world.outside.arbiter.away[BETA] = true;
    story.world.isolate(true);
    story.served_by(ALPHA, seconds(15));
    story.pass(seconds(20));
    assert_eq!(story.world.serving(), Some(ALPHA));
    story.ends_well();
}

#[test]
fn f015_in_mode_manual_only_the_owner_goes_on() {
    let mut story = pair(15, FailoverMode::Manual);
    story.world.isolate(true);
    story.served_by(ALPHA, seconds(10));
    story.pass(seconds(10));
    assert_eq!(story.world.serving(), Some(ALPHA));
    story.ends_well();
}

#[test]
fn f016_best_effort_may_split_and_then_nothing_is_overwritten() {
    let mut story = pair(16, FailoverMode::BestEffort);
    story.world.isolate(true);
    story.wait(seconds(30), "split", |world| world.serves(ALPHA) && world.serves(BETA));
    story.pass(seconds(5));
    story.world.heal_group(super::super::nemesis::Heal::Everything);
    story.wait(seconds(30), "seen", |world| {
        (0..2).any(|node| world.view(node).is_some_and(|view| view.rule.is_some_and(|rule| rule.contains("split"))))
            || world.outside.notes.iter().any(|(_, note)| matches!(note, Note::SplitBrain))
    });
    story.ends_well();
}

#[test]
fn f035_clocks_an_hour_apart_change_nothing() {
    let mut story = pair_with(35, FailoverMode::Arbiter, |config| {
        config.group.as_mut().expect("it has one").clocks = [seconds(4_000), seconds(400)];
    });
    story.pass(seconds(30));
    assert_eq!(story.world.serving(), Some(ALPHA));
    story.world.power_off(ALPHA);
    story.served_by(BETA, seconds(3));
    story.ends_well();
}

#[test]
fn f039_a_move_under_load_gives_no_error_and_copies_nothing() {
    let mut story = pair(39, FailoverMode::Arbiter);
    let errors: u64 = story.world.clients.iter().map(|client| client.errors).sum();
    let resyncs = story.world.stats.resyncs;
    story.ask(BETA, Verb::Move { to: Some(NodeId(BETA as u8)) }).expect("a healthy pair moves");
    story.served_by(BETA, seconds(2));
    assert_eq!(story.world.clients.iter().map(|client| client.errors).sum::<u64>(), errors, "clients got errors");
    assert_eq!(story.world.stats.resyncs, resyncs, "something was copied");
    story.ends_well();
}

#[test]
fn f101_both_lose_their_power_and_one_of_them_serves_again() {
    let mut story = pair(101, FailoverMode::Arbiter);
    story.world.power_off(ALPHA);
    story.world.power_off(BETA);
    story.pass(seconds(2));
    story.ends_well();
}

#[test]
fn f104_who_missed_writes_does_not_serve() {
    let mut story = pair(104, FailoverMode::Arbiter);
    story.world.kill(ALPHA, "kill -9");
    story.served_by(BETA, seconds(3));
    story.world.power_off(BETA);
    story.world.start(ALPHA);
    story.nothing_is_answered(seconds(40));
    story.ends_well();
}

#[test]
fn f113_a_handover_whose_link_is_cut_leaves_no_two_owners() {
    for (seed, after) in (0..20).map(|n| (1_130 + n, 5 * n)) {
        let mut story = pair(seed, FailoverMode::Arbiter);
        story.world.ask_group(ALPHA, Verb::Move { to: None });
        story.pass(millis(after));
        story.world.outside.arbiter.away = [true; 2];
        story.world.isolate(true);
        story.pass(seconds(10));
        story.ends_well();
    }
}

#[test]
fn a_stop_given_at_the_standby_stops_the_owner() {
    let mut story = pair(200, FailoverMode::Arbiter);
    story.ask(BETA, Verb::StopGroup).expect("it may be given anywhere");
    story.wait(seconds(5), "stopped", |world| world.serving().is_none() && !world.holds_address(ALPHA));
    story.pass(seconds(1));
    assert_eq!(story.shown(ALPHA), (NodeState::Idle, Reason::AdminRequest));
    story.ends_well();
}

#[test]
fn a_standby_whose_disk_is_out_does_not_agree_to_be_outdated() {
    // What its superblock says can't be changed, so that the owner has to have it excluded by the record.
    let mut story = pair(201, FailoverMode::Arbiter);
    story.world.nodes[BETA].faults.next_write = Some(twinblock::base::error::DiskError::Failed(5));
    story.wait(seconds(5), "alone", |world| {
        world.outside.notes.iter().any(|(who, note)| *who == ALPHA && matches!(note, Note::Alone { .. }))
    });
    assert!(story.noted(ALPHA, |note| matches!(note, Note::Alone { rule } if *rule == "record-won")));
    story.served_by(ALPHA, seconds(3));
    story.ends_well();
}

#[test]
fn a_group_handed_over_by_heartbeat_waits_for_the_links_word() {
    // The heartbeat that hands the group over is faster than the link's message that alpha is secondary.
    for seed in 0..10 {
        let mut story = pair_with(202 + seed, FailoverMode::Arbiter, |config| {
            config.link_latency = (millis(5), millis(60));
            config.group.as_mut().expect("it has one").heartbeat_delay = millis(1);
        });
        story.ask(ALPHA, Verb::Move { to: None }).expect("a healthy pair moves");
        story.served_by(BETA, seconds(3));
        assert!(story.world.side(BETA).and_then(|side| side.core.as_ref()).is_some_and(|c| c.state().failed.is_none()));
        story.ends_well();
    }
}

#[test]
fn f122_a_restarted_standby_that_had_only_received_does_not_take_over() {
    // What it had received and not written, in mode memory, is gone with its process: beta's memory was promised.
    let mut story = pair_with(122, FailoverMode::Arbiter, |config| config.mode = Mode::Memory);
    story.world.outside.arbiter.away[ALPHA] = true;
    story.world.kill(BETA, "kill -9");
    story.pass(millis(1));
    story.world.power_off(ALPHA);
    story.world.outside.arbiter.away[ALPHA] = false;
    story.world.start(BETA);
    story.nothing_is_answered(seconds(40));
    story.ends_well();
}

#[test]
fn a_standby_in_mode_memory_writes_what_it_had_received_and_takes_over() {
    for seed in 0..5 {
        let mut story = pair_with(1_220 + seed, FailoverMode::Arbiter, |config| {
            config.mode = Mode::Memory;
            config.disk_latency = (millis(1), millis(30));
        });
        story.world.power_off(ALPHA);
        story.served_by(BETA, seconds(5));
        story.ends_well();
    }
}

#[test]
fn an_asynchronous_standby_does_not_take_over_by_itself() {
    for mode in [FailoverMode::Arbiter, FailoverMode::Fencing, FailoverMode::ArbiterFencing] {
        let mut story = pair_with(123, mode, |config| config.mode = Mode::Async);
        story.world.power_off(ALPHA);
        story.nothing_is_answered(seconds(20));
        story.world.start(ALPHA);
        story.served_by(ALPHA, seconds(30));
        story.ends_well();
    }
}

#[test]
fn an_asynchronous_standby_that_may_take_over_declares_what_may_be_lost() {
    let mut story = pair_with(124, FailoverMode::Arbiter, |config| {
        config.mode = Mode::Async;
        config.group.as_mut().expect("it has one").unclean_takeover = true;
    });
    let declared = story.world.stats.cache_losses;
    story.world.isolate(true);
    story.world.outside.arbiter.away[ALPHA] = true;
    story.served_by(BETA, seconds(5));
    assert_eq!(story.world.stats.cache_losses, declared + 1, "clients of before must not believe in what they wrote");
    story.ends_well();
}

#[test]
fn an_asynchronous_volume_moves_without_loss() {
    for seed in 0..10 {
        let mut story = pair_with(1_240 + seed, FailoverMode::Arbiter, |config| {
            config.mode = Mode::Async;
            config.link_latency = (millis(5), millis(60));
            config.think = (millis(1), millis(2));
        });
        story.ask(BETA, Verb::Move { to: Some(NodeId(BETA as u8)) }).expect("it is drained first");
        story.served_by(BETA, seconds(5));
        assert_eq!(story.world.stats.cache_losses, 0, "nothing was lost");
        story.world.power_off(ALPHA);
        story.served_by(BETA, seconds(5));
        story.ends_well();
    }
}

/// Alpha owns the group without its disk, and beta's is the only copy: what is acknowledged from here on, alpha's disk lacks.
fn owner_without_a_disk(seed: u64, mode: FailoverMode) -> Story {
    let mut story = pair(seed, mode);
    story.world.operator.on_duty = false;
    story.world.nodes[ALPHA].faults.next_write = Some(twinblock::base::error::DiskError::Failed(5));
    let before = story.answered();
    story.wait(seconds(10), "served by beta's disk", |world| {
        let answered: u64 = world.clients.iter().map(|client| client.answered).sum();
        let without = world.view(ALPHA).is_some_and(|view| view.disk == DiskState::Diskless);
        without && answered > before + 50
    });
    story
}

#[test]
fn a_disk_that_was_out_does_not_come_back_as_the_newest_copy() {
    // Nobody excluded alpha: it gave beta the word by itself, and its disk could not be told. Beta can't shoot.
    for mode in [FailoverMode::Fencing, FailoverMode::BestEffort, FailoverMode::Arbiter] {
        for restarts in [true, false] {
            let mut story = owner_without_a_disk(301, mode);
            story.world.outside.fence_broken[BETA] = true;
            story.world.outside.arbiter.away[BETA] = true;
            if restarts {
                story.world.isolate(true);
                story.world.kill(ALPHA, "kill -9");
                story.world.start(ALPHA);
            } else {
                story.wait(seconds(20), "moved", |world| world.serves(BETA));
                story.world.isolate(true);
                story.pass(millis(100));
                story.world.attach(ALPHA);
            }
            story.pass(seconds(40));
            assert!(!story.world.serves(ALPHA), "{mode}: alpha serves what it had when its disk failed");
            story.world.operator_on_duty();
            story.ends_well();
        }
    }
}

/// Alpha serves alone in mode manual: its disk says that beta's copy is older.
fn alone_in_mode_manual(seed: u64) -> Story {
    let mut story = pair_with(seed, FailoverMode::Manual, |config| config.acts = vec![(Act::GroupForce, 0)]);
    story.world.isolate(true);
    story.served_by(ALPHA, seconds(10));
    story
}

#[test]
fn only_who_was_alone_starts_again_by_itself_in_mode_manual() {
    let mut story = alone_in_mode_manual(302);
    story.world.kill(BETA, "kill -9");
    story.world.start(BETA);
    story.pass(seconds(30));
    assert!(!story.world.serves(BETA), "beta's copy is older, as far as it knows it may be");
    story.world.kill(ALPHA, "kill -9");
    story.world.start(ALPHA);
    story.served_by(ALPHA, seconds(30));
    assert!(!story.world.serves(BETA));
    story.ends_well();
}

#[test]
fn of_two_owners_that_hear_each_other_the_lower_epoch_gives_up() {
    for (seed, epochs) in [(303, 0), (304, 1), (305, 2)] {
        let mut story = alone_in_mode_manual(seed);
        // Each restart of one that was alone is another epoch.
        for _ in 0..epochs {
            story.world.kill(ALPHA, "kill -9");
            story.world.start(ALPHA);
            story.served_by(ALPHA, seconds(30));
        }
        story.ask(BETA, Verb::Start { force: true }).expect("an operator insists");
        story.wait(seconds(10), "served by both", |world| {
            world.serves(ALPHA) && world.serves(BETA) && world.holds_address(ALPHA) && world.holds_address(BETA)
        });
        let epoch = |story: &Story, node| {
            let side = story.world.side(node).and_then(|side| side.core.as_ref());
            side.expect("its group runs").state().epoch
        };
        // Of two alike the home server keeps it.
        let winner = if epoch(&story, ALPHA) >= epoch(&story, BETA) { ALPHA } else { BETA };
        let loser = 1 - winner;
        story.world.client_resets(0, false);
        story.world.client_resets(1, false);
        story.pass(seconds(1));
        // They hear each other on the paths; the volumes' link is still cut.
        story.world.outside.cut = [[false; 2]; 2];
        story.wait(seconds(5), "one owner", |world| {
            world.serves(winner) && !world.serves(loser) && world.holds_address(winner) && !world.holds_address(loser)
        });
        let connections = &story.world.nodes[loser].process.as_ref().expect("it runs").connections;
        assert!(connections.is_empty(), "clients of the one that gave up are cut");
        assert!(story.noted(loser, |note| matches!(note, Note::SplitBrain)), "an alarm is raised");
        story.ends_well();
    }
}

#[test]
fn f117_an_old_clone_of_the_standbys_disk_does_not_take_over() {
    let mut story = pair(306, FailoverMode::Arbiter);
    let beta = &story.world.nodes[BETA];
    let clone = (beta.disk.clone(), beta.metadata.image());
    story.world.power_off(BETA);
    story.served_by(ALPHA, seconds(14));
    story.world.start(BETA);
    story.wait(seconds(30), "in sync again", |world| world.both_in_sync() && world.group_is_settled());
    story.served_by(ALPHA, seconds(5));
    // The clone is of an older generation: it is put back, and the owner dies before they meet.
    story.world.power_off(BETA);
    (story.world.nodes[BETA].disk, story.world.nodes[BETA].metadata) = clone;
    story.world.outside.checks.forget_epoch(BETA);
    story.world.power_off(ALPHA);
    story.world.start(BETA);
    story.nothing_is_answered(seconds(40));
    // Then they meet: it is brought up to date, and compared as a whole.
    story.world.start(ALPHA);
    story.served_by(ALPHA, seconds(30));
    story.ends_well();
}

#[test]
fn a_stuck_thread_of_the_owners_volume_ends_its_daemon_and_the_standby_takes_over() {
    let mut story = pair(307, FailoverMode::Arbiter);
    let life = story.world.process_of(ALPHA).life;
    story.world.shard_sticks(ALPHA);
    story.served_by(BETA, seconds(20));
    assert!(!story.world.alive(ALPHA, life), "only its end lets the other one serve");
    story.ends_well();
}

#[test]
fn a_stuck_thread_of_the_standbys_volume_does_not_hold_the_owner() {
    let mut story = pair(308, FailoverMode::Arbiter);
    story.world.shard_sticks(BETA);
    story.served_by(ALPHA, seconds(20));
    story.wait(seconds(20), "seen by the owner", |world| {
        world
            .outside
            .notes
            .iter()
            .any(|(who, note)| *who == ALPHA && matches!(note, Note::Stuck { here: false, stuck: true }))
    });
    assert_eq!(story.world.serving(), Some(ALPHA));
    story.ends_well();
}

#[test]
fn damaged_metadata_is_mended_by_a_resync_in_either_direction() {
    for seed in 310..316 {
        let mut story = pair(seed, FailoverMode::Arbiter);
        story.world.power_off(ALPHA);
        story.world.power_off(BETA);
        story.world.nodes[ALPHA].metadata.rot_newest_superblock();
        story.world.outside.checks.forget_epoch(ALPHA);
        story.world.start(ALPHA);
        story.world.start(BETA);
        story.wait(seconds(60), "in sync again", |world| world.both_in_sync() && world.group_is_settled());
        for node in [ALPHA, BETA] {
            assert!(!story.world.process_of(node).mirror.facts().suspect, "everything was compared, with the peer's");
        }
        story.ends_well();
    }
}
