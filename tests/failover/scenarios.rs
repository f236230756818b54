//! Named stories: the rows of the design's fault matrix (F.1, F.2) as far as the group's core decides them. Data, disks and
//! the mirror's own part of a row are the business of `tests/sim`.

use super::config::Config;
use super::world::{World, ms};
use std::time::Duration;
use twinblock::base::command::CommandOutcome;
use twinblock::base::group::{FailoverMode, NodeState, Reason};
use twinblock::base::ids::NodeId;
use twinblock::base::state::Role;
use twinblock::logic::failover::interface::{Change, Input, Note, Verb, Way};
use twinblock::logic::failover::state::{DoorStep, Phase};

pub const ALPHA: usize = 0;
pub const BETA: usize = 1;

/// A pair driven by hand.
pub struct Story {
    pub world: World,
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Both run, alpha serves, both in sync.
pub fn pair(mode: FailoverMode) -> Story {
    pair_with(mode, |_| {})
}

pub fn pair_with(mode: FailoverMode, change: impl FnOnce(&mut Config)) -> Story {
    let mut config = Config::scripted(7, mode);
    change(&mut config);
    let mut story = Story { world: World::new(config, true) };
    story.world.start(ALPHA);
    story.world.start(BETA);
    story.wait(seconds(10), "settled", World::is_settled);
    story.serves(ALPHA);
    story.pass(ms(200));
    story
}

impl Story {
    pub fn wait(&mut self, time: Duration, what: &str, done: impl FnMut(&World) -> bool) {
        if !self.world.run_until(time, done) {
            let views = self.world.nodes.iter().map(|node| node.process.as_ref().map(|process| process.core.view()));
            let views: Vec<String> = views.map(|view| format!("{view:?}")).collect();
            self.world.log.extend(views);
            let from = self.world.log.len().saturating_sub(120);
            panic!("never {what}:\n{}", self.world.log[from..].join("\n"));
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    pub fn serves(&self, node: usize) {
        assert_eq!(self.world.serving(), Some(node), "who serves");
    }

    /// Writes are acknowledged again by this node, this soon.
    pub fn acknowledges(&mut self, node: usize, within: Duration) {
        let before = self.world.history.count;
        self.wait(within, "acknowledging", |world| world.history.count > before + 3 && world.serving() == Some(node));
    }

    pub fn no_acknowledgement(&mut self, time: Duration) {
        let before = self.world.history.count;
        self.pass(time);
        assert_eq!(self.world.history.count, before, "nothing is acknowledged");
    }

    pub fn settled_at(&mut self, node: usize) {
        self.wait(seconds(60), "settled", move |world| world.is_settled() && world.serving() == Some(node));
    }

    pub fn isolate(&mut self) {
        self.world.cut = [[true; 2]; 2];
        self.world.link_cut = true;
        self.world.break_link(false);
    }

    pub fn reunite(&mut self) {
        self.world.cut = [[false; 2]; 2];
        self.world.link_cut = false;
    }

    pub fn noted(&self, node: usize, matching: impl Fn(&Note) -> bool) -> bool {
        self.world.notes.iter().any(|(_, who, note)| *who == node && matching(note))
    }

    pub fn alone_by(&self, node: usize, wanted: &str) -> bool {
        self.noted(node, |note| matches!(note, Note::Alone { rule } if *rule == wanted))
    }

    pub fn promotions(&self) -> u64 {
        self.world.history.promotions
    }

    pub fn shown(&self, node: usize) -> (NodeState, Reason) {
        self.world.nodes[node].process.as_ref().expect("its daemon runs").core.node_state()
    }

    /// The operator asks, and the answer comes.
    pub fn ask(&mut self, node: usize, verb: Verb) -> Result<(), String> {
        let id = self.world.command(node, verb);
        self.wait(seconds(60), "answered", |world| world.outcomes.iter().any(|(_, answered, _)| *answered == id));
        let outcome =
            self.world.outcomes.iter().find(|(_, answered, _)| *answered == id).map(|(_, _, outcome)| outcome);
        match outcome.expect("answered") {
            CommandOutcome::Done(_) => Ok(()),
            CommandOutcome::Refused(refusal) => Err(refusal.code.clone()),
        }
    }
}

// --- F.1 single faults

#[test]
fn f001_f002_the_owner_loses_power_and_comes_back() {
    for mode in [FailoverMode::Arbiter, FailoverMode::Fencing, FailoverMode::ArbiterFencing] {
        let mut story = pair(mode);
        story.world.crash(ALPHA, true);
        let bound = if mode == FailoverMode::Arbiter { ms(2_000) } else { ms(4_000) };
        story.acknowledges(BETA, bound);
        story.pass(seconds(3));
        assert_eq!(story.shown(BETA), (NodeState::RunningInBackupMode, Reason::PeerDown));
        story.world.start(ALPHA);
        story.settled_at(BETA);
        assert_eq!(story.shown(ALPHA).0, NodeState::FailedOver);
        let stages = |note: &Note| matches!(note, Note::Ended { change: Change::ToOwner, done: true, stages, .. } if stages.len() >= 4);
        assert!(story.noted(BETA, stages), "the announcement has the duration of every stage");
    }
}

#[test]
fn f001_in_mode_manual_nobody_takes_over() {
    let mut story = pair(FailoverMode::Manual);
    story.world.crash(ALPHA, true);
    story.no_acknowledgement(seconds(30));
    assert_eq!(story.ask(BETA, Verb::Start { force: false }), Err("not-entitled".into()));
    story.ask(BETA, Verb::Start { force: true }).unwrap();
    story.acknowledges(BETA, seconds(1));
}

#[test]
fn f003_the_owners_daemon_is_killed_and_restarted() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.crash(ALPHA, false);
    story.acknowledges(BETA, ms(1_500));
    story.world.start(ALPHA);
    assert!(story.world.nodes[ALPHA].running[1], "the killed daemon left its address");
    story.settled_at(BETA);
    assert!(!story.world.nodes[ALPHA].running[1], "and the new one took it off");
}

#[test]
fn f004_f005_the_owner_stops_and_goes_on() {
    for clock in [false, true] {
        let mut story = pair(FailoverMode::Arbiter);
        story.world.pause(ALPHA, seconds(60), clock);
        story.acknowledges(BETA, ms(2_000));
        story.pass(seconds(60));
        story.settled_at(BETA);
        assert!(story.noted(ALPHA, |note| matches!(note, Note::Began { change: Change::ToStandby, .. })));
    }
}

#[test]
fn f006_f007_the_standby_goes_and_nothing_moves() {
    for power in [true, false] {
        let mut story = pair(FailoverMode::Arbiter);
        let promotions = story.promotions();
        story.world.crash(BETA, power);
        story.acknowledges(ALPHA, ms(2_500));
        story.pass(seconds(5));
        assert_eq!(story.promotions(), promotions);
        assert_eq!(story.shown(ALPHA), (NodeState::Normal, Reason::PeerDown));
        story.world.start(BETA);
        story.settled_at(ALPHA);
    }
}

#[test]
fn f008_the_standby_stops_and_goes_on() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.pause(BETA, seconds(20), false);
    story.acknowledges(ALPHA, seconds(3));
    story.pass(seconds(20));
    story.settled_at(ALPHA);
}

#[test]
fn f009_the_link_is_cut_and_the_standby_agrees_without_the_arbiter() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.arbiter.away = [true; 2];
    story.world.link_cut = true;
    story.world.break_link(true);
    story.acknowledges(ALPHA, ms(1_000));
    assert!(story.alone_by(ALPHA, "outdated-by-consent"));
    story.world.arbiter.away = [false; 2];
    story.reunite();
    story.settled_at(ALPHA);
}

#[test]
fn f010_one_path_cut_is_an_alarm_and_no_more() {
    let mut story = pair(FailoverMode::Arbiter);
    let promotions = story.promotions();
    story.world.cut[0] = [true; 2];
    story.pass(seconds(10));
    assert!(story.noted(ALPHA, |note| *note == Note::Path { path: 0, up: false }));
    assert!(
        !story.noted(ALPHA, |note| matches!(note, Note::Held { held: true, .. })) || story.promotions() == promotions
    );
    assert_eq!(story.promotions(), promotions);
    assert!(story.world.is_settled());
}

#[test]
fn f011_everything_cut_the_owner_wins_the_record() {
    let mut story = pair(FailoverMode::Arbiter);
    story.isolate();
    story.acknowledges(ALPHA, seconds(3));
    story.pass(seconds(10));
    story.serves(ALPHA);
    assert!(story.alone_by(ALPHA, "record-won"));
    story.reunite();
    story.settled_at(ALPHA);
}

#[test]
fn f012_f114_the_isolated_owner_freezes_and_gives_up() {
    let mut story = pair(FailoverMode::Arbiter);
    story.isolate();
    story.world.arbiter.away[ALPHA] = true;
    story.acknowledges(BETA, ms(2_500));
    assert!(!story.world.nodes[ALPHA].may_reply(story.world.now), "its permit ended before");
    assert_eq!(story.shown(ALPHA), (NodeState::Normal, Reason::LeaseLost));
    story.pass(seconds(20));
    story.world.arbiter.away[ALPHA] = false;
    story.wait(seconds(5), "demoted", |world| {
        world.nodes[ALPHA].process.as_ref().is_some_and(|process| process.mirror.role == Role::Secondary)
    });
    story.reunite();
    story.settled_at(BETA);
}

#[test]
fn f013_the_isolated_standby_never_serves() {
    let mut story = pair(FailoverMode::Arbiter);
    let promotions = story.promotions();
    story.isolate();
    story.world.arbiter.away[BETA] = true;
    story.acknowledges(ALPHA, seconds(3));
    story.pass(seconds(30));
    assert_eq!(story.promotions(), promotions);
    assert_eq!(story.shown(BETA), (NodeState::Unknown, Reason::NetworkIsolated));
    story.world.arbiter.away[BETA] = false;
    story.pass(seconds(30));
    assert_eq!(story.promotions(), promotions, "the record says that it is not in sync");
}

#[test]
fn f014_everything_cut_one_survives_the_shots() {
    let mut story = pair(FailoverMode::Fencing);
    story.isolate();
    story.acknowledges(ALPHA, seconds(4));
    assert!(story.alone_by(ALPHA, "fenced"), "the owner shoots first");
    story.reunite();
    story.settled_at(ALPHA);
}

#[test]
fn f014_a_fence_that_is_not_confirmed_opens_no_door() {
    let mut story = pair(FailoverMode::Fencing);
    story.world.fence_broken = [true; 2];
    story.isolate();
    story.pass(seconds(3));
    story.no_acknowledgement(seconds(30));
    assert!(story.noted(ALPHA, |note| matches!(note, Note::FenceFailed { .. })));
    story.world.fence_broken = [false; 2];
    let before = story.world.history.count;
    story.wait(seconds(30), "acknowledging", |world| world.history.count > before + 3);
}

#[test]
fn f015_in_mode_manual_the_owner_goes_on_at_once() {
    let mut story = pair(FailoverMode::Manual);
    story.world.cut = [[true; 2]; 2];
    story.world.link_cut = true;
    story.world.break_link(true);
    story.acknowledges(ALPHA, ms(500));
    story.pass(seconds(20));
    assert_eq!(story.world.nodes[BETA].process.as_ref().unwrap().mirror.role, Role::Secondary);
}

#[test]
fn f016_best_effort_may_split_and_it_is_seen() {
    let mut story = pair_until_serving(FailoverMode::BestEffort);
    story.world.history.forced = true;
    story.isolate();
    // Both see their ping targets and neither the other: this mode cannot tell.
    story.world.client_split = true;
    story.wait(seconds(10), "both serve", |world| (0..2).all(|node| world.nodes[node].may_reply(world.now)));
    story.reunite();
    story.wait(seconds(10), "one yields", |world| {
        (0..2).filter(|node| world.nodes[*node].may_reply(world.now)).count() == 1
    });
    assert!(story.alone_by(ALPHA, "targets-answer") && story.alone_by(BETA, "took-over"));
}

fn pair_until_serving(mode: FailoverMode) -> Story {
    let mut story = Story { world: World::new(Config::scripted(7, mode), true) };
    story.world.start(ALPHA);
    story.world.start(BETA);
    story.wait(seconds(10), "serving", |world| world.serving() == Some(ALPHA) && world.is_paired());
    story.pass(seconds(1));
    story
}

#[test]
fn f038_best_effort_does_not_take_over_while_an_address_answers() {
    let mut story = pair_until_serving(FailoverMode::BestEffort);
    story.isolate();
    story.pass(seconds(20));
    assert_eq!(story.world.nodes[BETA].process.as_ref().unwrap().mirror.role, Role::Secondary);
    story.serves(ALPHA);
}

#[test]
fn f016_best_effort_the_isolated_owner_isolates_itself() {
    let mut story = pair_until_serving(FailoverMode::BestEffort);
    story.isolate();
    story.world.client_network[ALPHA] = false;
    story.acknowledges(BETA, seconds(6));
    assert!(!story.world.nodes[ALPHA].may_reply(story.world.now));
}

#[test]
fn f017_one_way_loss_is_no_loss_of_the_peer() {
    let mut story = pair(FailoverMode::Arbiter);
    let promotions = story.promotions();
    story.world.cut = [[false, true], [false, true]];
    story.pass(seconds(15));
    assert_eq!(story.promotions(), promotions);
    assert!(story.noted(ALPHA, |note| matches!(note, Note::OneWay { one_way: true, .. })));
    story.reunite();
    story.settled_at(ALPHA);
}

#[test]
fn f033_f034_a_pair_does_not_need_its_arbiter() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.arbiter.away = [true; 2];
    story.pass(seconds(60));
    assert!(!story.noted(ALPHA, |note| matches!(note, Note::Began { change: Change::ToStandby, .. })));
    assert_eq!(story.shown(ALPHA), (NodeState::Normal, Reason::ArbiterUnreachable));
    story.acknowledges(ALPHA, ms(500));
    story.world.arbiter.away = [false; 2];
    story.world.arbiter.slow = true;
    story.pass(seconds(30));
    story.acknowledges(ALPHA, ms(500));
}

#[test]
fn f039_a_move_is_short_and_loses_nothing() {
    for mode in [FailoverMode::Manual, FailoverMode::Arbiter, FailoverMode::Fencing] {
        let mut story = pair(mode);
        let began = story.world.now;
        story.ask(ALPHA, Verb::Move { to: None }).unwrap();
        story.acknowledges(BETA, ms(1_000));
        let took = story.world.now.since(began);
        assert!(took < ms(1_000), "{mode}: {took:?}");
        story.settled_at(BETA);
        assert_eq!(story.shown(BETA), (NodeState::RunningInBackupMode, Reason::AdminRequest));
        assert_eq!(story.shown(ALPHA), (NodeState::Idle, Reason::AdminRequest));
        story.ask(ALPHA, Verb::Fallback).unwrap();
        story.settled_at(ALPHA);
    }
}

#[test]
fn f040_what_must_be_refused_is_refused() {
    let mut story = pair(FailoverMode::Arbiter);
    assert_eq!(story.ask(BETA, Verb::Start { force: false }), Err("peer-owns".into()));
    assert_eq!(story.ask(BETA, Verb::Start { force: true }), Err("peer-owns".into()));
    story.world.crash(BETA, false);
    story.pass(seconds(2));
    assert_eq!(story.ask(ALPHA, Verb::Move { to: None }), Err("peer-unheard".into()));
    assert_eq!(story.ask(ALPHA, Verb::Deactivate), Err("peer-unheard".into()));
    assert_eq!(story.ask(ALPHA, Verb::Enable), Err("peer-unheard".into()));
}

#[test]
fn f041_a_standby_that_leaves_in_order_costs_no_wait() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.input(BETA, Input::Stop);
    story.acknowledges(ALPHA, ms(300));
    story.pass(seconds(2));
    story.world.start(BETA);
    story.settled_at(ALPHA);
}

#[test]
fn an_owner_that_stops_in_order_hands_over_first() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.input(ALPHA, Input::Stop);
    story.acknowledges(BETA, ms(1_000));
    assert!(story.world.nodes[ALPHA].process.is_none(), "it ended");
    assert_eq!(story.world.nodes[ALPHA].running, [false; 3]);
}

// --- F.2 sequences

#[test]
fn f101_f042_both_go_and_both_come_back() {
    for power in [true, false] {
        let mut story = pair(FailoverMode::Arbiter);
        story.world.crash(ALPHA, power);
        story.world.crash(BETA, power);
        story.pass(seconds(3));
        story.world.start(BETA);
        story.pass(ms(300));
        story.world.start(ALPHA);
        story.wait(seconds(30), "settled", World::is_settled);
    }
}

#[test]
fn f102_f103_only_one_comes_back_and_forgot_too_much() {
    for node in [ALPHA, BETA] {
        let mut story = pair_with(FailoverMode::Arbiter, |config| config.init_dead_after = seconds(5));
        story.world.crash(ALPHA, true);
        story.world.crash(BETA, true);
        story.pass(seconds(3));
        story.world.start(node);
        story.no_acknowledgement(seconds(120));
        story.ask(node, Verb::Start { force: true }).unwrap();
        story.acknowledges(node, seconds(2));
    }
}

#[test]
fn f102_with_leave_to_lose_it_is_declared() {
    let mut story = pair_with(FailoverMode::Arbiter, |config| {
        config.init_dead_after = seconds(5);
        config.unclean_takeover = true;
    });
    story.world.crash(ALPHA, true);
    story.world.crash(BETA, true);
    story.world.start(BETA);
    story.world.history.forced = true;
    story.pass(seconds(50));
    assert_eq!(story.world.serving(), None, "the peer is waited for");
    story.acknowledges(BETA, seconds(30));
    assert_eq!(story.world.nodes[BETA].disk.cache_epoch, 1, "clients are told (R9)");
}

#[test]
fn f104_whoever_missed_writes_does_not_serve() {
    for mode in [FailoverMode::Arbiter, FailoverMode::Fencing] {
        let mut story = pair_with(mode, |config| config.init_dead_after = seconds(5));
        story.world.crash(ALPHA, true);
        story.acknowledges(BETA, seconds(4));
        story.pass(ms(100));
        // The agent of mode fencing would start alpha again by itself.
        story.world.crash(ALPHA, true);
        story.world.crash(BETA, true);
        story.world.hold_starts = true;
        story.world.start(ALPHA);
        story.no_acknowledgement(seconds(120));
        story.world.hold_starts = false;
        story.world.start(BETA);
        story.wait(seconds(30), "settled", World::is_settled);
    }
}

#[test]
fn f108_a_standby_that_lost_power_does_not_win_over_an_owner_that_lives() {
    let mut story = pair_with(FailoverMode::Arbiter, |config| config.init_dead_after = seconds(3));
    story.isolate();
    story.world.arbiter.away[ALPHA] = true;
    story.world.crash(BETA, true);
    story.world.start(BETA);
    story.pass(seconds(30));
    assert_eq!(story.world.nodes[BETA].process.as_ref().unwrap().mirror.role, Role::Secondary);
    story.world.arbiter.away[ALPHA] = false;
    story.acknowledges(ALPHA, seconds(3));
}

/// The owner fails; the taker fails at this point of its takeover; whatever happens, one serves in the end.
fn taker_fails_when(point: impl Fn(&World) -> bool + Copy, power: bool) {
    let mut story = pair_with(FailoverMode::Arbiter, |config| config.init_dead_after = seconds(3));
    story.world.crash(ALPHA, false);
    story.wait(seconds(3), "at that point", point);
    story.world.crash(BETA, power);
    story.pass(ms(500));
    story.world.start(ALPHA);
    story.pass(ms(100));
    story.world.start(BETA);
    story.wait(seconds(60), "settled", World::is_settled);
}

fn taking(world: &World, matching: impl Fn(&Phase) -> bool) -> bool {
    world.nodes[BETA].process.as_ref().is_some_and(|process| matching(&process.core.state().phase))
}

#[test]
fn f109_f112_the_taker_fails_between_each_pair_of_steps() {
    use twinblock::logic::failover::state::{Guard, TakeStep};
    for power in [true, false] {
        let step = |wanted: TakeStep| {
            move |world: &World| {
                taking(
                    world,
                    |phase| matches!(phase, Phase::TakingOver { way: Way::Takeover, step } if *step == wanted),
                )
            }
        };
        taker_fails_when(step(TakeStep::Preparing), power);
        taker_fails_when(step(TakeStep::Excluding(Guard::Record)), power);
        taker_fails_when(step(TakeStep::Promoting), power);
        taker_fails_when(step(TakeStep::Starting), power);
        let won = |world: &World| world.arbiter.standing.is_some_and(|standing| standing.record.primary == NodeId(1));
        taker_fails_when(won, power);
    }
}

#[test]
fn f110_the_owner_fails_between_the_record_and_its_disk() {
    let mut story = pair(FailoverMode::Arbiter);
    story.isolate();
    story.wait(seconds(3), "excluded", |world| {
        let process = world.nodes[ALPHA].process.as_ref();
        process.is_some_and(|process| process.core.state().door == Some(DoorStep::Opening))
    });
    story.world.crash(ALPHA, false);
    story.reunite();
    story.pass(seconds(2));
    story.no_acknowledgement(seconds(10));
    story.world.start(ALPHA);
    story.wait(seconds(30), "settled", World::is_settled);
}

#[test]
fn f113_a_handover_into_silence_leaves_no_two_owners() {
    for mode in [FailoverMode::Arbiter, FailoverMode::Manual, FailoverMode::Fencing] {
        let mut story = pair(mode);
        story.world.command(ALPHA, Verb::Move { to: None });
        story.wait(seconds(3), "offered", |world| {
            world.nodes[ALPHA].process.as_ref().is_some_and(|process| process.core.state().offered.is_some())
        });
        story.isolate();
        story.world.arbiter.away = [true; 2];
        story.world.fence_broken = [true; 2];
        story.pass(seconds(20));
        story.reunite();
        story.world.arbiter.away = [false; 2];
        story.world.fence_broken = [false; 2];
        story.wait(seconds(30), "settled", World::is_settled);
    }
}
