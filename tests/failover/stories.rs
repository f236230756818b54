//! Named stories beyond the fault matrix: resources, operators, rehearsals, and the rules whose counterexample is a story.

use super::config::Fault;
use super::scenarios::{ALPHA, BETA, Story, pair, pair_with, seconds};
use super::world::{World, ms};
use twinblock::base::arbiter::{ArbiterError, ArbiterErrorKind};
use twinblock::base::group::{FailoverMode, NodeState, Reason, StepVerb};
use twinblock::base::ids::NodeId;
use twinblock::base::state::Role;
use twinblock::logic::failover::explain::{Explanation, Loss};
use twinblock::logic::failover::interface::{Input, Note, Verb};

// --- resources

#[test]
fn a_start_that_fails_is_undone_and_said() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.step_fails[BETA] = Some((2, StepVerb::Start));
    story.world.crash(ALPHA, true);
    story.wait(seconds(5), "failed", |world| {
        let process = world.nodes[BETA].process.as_ref();
        process.is_some_and(|process| process.core.state().failed == Some(Reason::CriticalServiceStartFailed))
    });
    assert_eq!(story.world.nodes[BETA].running, [false; 3], "what was started is stopped again");
    story.world.step_fails[BETA] = None;
    story.ask(BETA, Verb::Recover).unwrap();
    story.wait(seconds(5), "recovered", |world| world.nodes[BETA].running == [true; 3]);
}

#[test]
fn a_stop_that_fails_keeps_the_group_where_it_is() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.step_fails[ALPHA] = Some((2, StepVerb::Stop));
    assert_eq!(story.ask(ALPHA, Verb::Move { to: None }), Err("failed".into()));
    assert_eq!(story.shown(ALPHA), (NodeState::RunningInFailedMode, Reason::StopFailed));
    assert_eq!(story.ask(ALPHA, Verb::Move { to: None }), Err("stop-failed".into()));
    // Not even when this node falls silent: the resource may still run.
    story.pass(seconds(1));
    story.world.crash(ALPHA, false);
    story.no_acknowledgement(seconds(20));
    story.world.step_fails[ALPHA] = None;
    story.world.start(ALPHA);
    story.wait(seconds(60), "settled", World::is_settled);
}

#[test]
fn a_step_that_hangs_has_its_deadline() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.step_hangs[ALPHA] = Some((1, StepVerb::Stop));
    assert_eq!(story.ask(ALPHA, Verb::Move { to: None }), Err("failed".into()));
    assert!(story.noted(ALPHA, |note| matches!(note, Note::StepFailed { index: 1, verb: StepVerb::Stop, .. })));
}

#[test]
fn a_service_that_stays_down_moves_the_group_once() {
    let mut story = pair(FailoverMode::Arbiter);
    let down = || Input::Resource { index: 2, trouble: Some("it exited".into()) };
    story.world.input(ALPHA, down());
    story.pass(ms(1_500));
    story.serves(ALPHA);
    story.settled_at(BETA);
    assert_eq!(story.shown(BETA), (NodeState::RunningInBackupMode, Reason::CriticalServiceDown));
    story.world.input(BETA, down());
    story.pass(seconds(4));
    story.serves(BETA);
    assert_eq!(
        story.shown(BETA),
        (NodeState::RunningInFailedMode, Reason::CriticalServiceDown),
        "the guard against flapping"
    );
    story.pass(seconds(10));
    story.settled_at(ALPHA);
}

#[test]
fn a_disk_that_fails_for_a_moment_moves_nothing_and_a_dead_one_is_said() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.fault(Fault::DiskFails, ALPHA);
    story.wait(seconds(5), "seen", |world| {
        world.nodes[ALPHA].process.as_ref().is_some_and(|process| process.core.node_state().1 == Reason::StorageFailure)
    });
    story.world.heal_everything();
    story.wait(seconds(30), "settled", World::is_settled);
}

#[test]
fn fallback_returns_the_group_by_itself_when_home_is_well() {
    let mut story = pair_with(FailoverMode::Arbiter, |config| config.fallback_after = Some(seconds(15)));
    story.world.crash(ALPHA, true);
    story.acknowledges(BETA, seconds(2));
    story.world.start(ALPHA);
    story.settled_at(BETA);
    story.pass(seconds(12));
    story.serves(BETA);
    story.settled_at(ALPHA);
    let auto = |note: &Note| matches!(note, Note::Began { reason: Reason::AutoFallback, .. });
    assert!(story.noted(BETA, auto));
}

// --- operators

#[test]
fn a_deactivated_node_stays_out() {
    let mut story = pair(FailoverMode::Arbiter);
    story.ask(ALPHA, Verb::Deactivate).unwrap();
    story.settled_at(BETA);
    assert_eq!(story.shown(ALPHA), (NodeState::Idle, Reason::Deactivated));
    story.world.crash(BETA, true);
    story.no_acknowledgement(seconds(20));
    story.ask(ALPHA, Verb::Activate).unwrap();
    story.acknowledges(ALPHA, seconds(3));
}

#[test]
fn a_stopped_group_is_started_nowhere() {
    let mut story = pair(FailoverMode::Arbiter);
    story.ask(ALPHA, Verb::StopGroup).unwrap();
    story.pass(seconds(1));
    assert_eq!(story.world.nodes[ALPHA].running, [false; 3]);
    story.world.crash(ALPHA, true);
    story.no_acknowledgement(seconds(20));
    story.world.start(ALPHA);
    story.pass(seconds(5));
    assert_eq!(story.shown(ALPHA), (NodeState::Idle, Reason::AdminRequest));
    story.ask(BETA, Verb::Start { force: false }).unwrap();
    story.wait(seconds(10), "settled", World::is_settled);
}

#[test]
fn a_group_is_stopped_and_started_from_either_node() {
    let mut story = pair(FailoverMode::Arbiter);
    story.ask(BETA, Verb::StopGroup).unwrap();
    story.pass(seconds(2));
    assert_eq!(story.world.nodes[ALPHA].running, [false; 3], "it stops where it runs");
    assert_eq!(story.shown(BETA), (NodeState::Idle, Reason::AdminRequest));
    story.ask(BETA, Verb::Start { force: false }).unwrap();
    story.settled_at(ALPHA);
    story.world.crash(ALPHA, true);
    story.acknowledges(BETA, seconds(3));
}

#[test]
fn a_stop_ordered_while_the_owner_could_not_hear_it_is_carried_out_later() {
    let mut story = pair(FailoverMode::Arbiter);
    story.isolate();
    story.acknowledges(ALPHA, seconds(5));
    story.ask(BETA, Verb::StopGroup).unwrap();
    story.pass(seconds(1));
    story.serves(ALPHA);
    story.reunite();
    story.wait(seconds(10), "stopped", |world| world.nodes[ALPHA].running == [false; 3]);
    story.no_acknowledgement(seconds(10));
    story.ask(ALPHA, Verb::Start { force: false }).unwrap();
    story.settled_at(ALPHA);
}

#[test]
fn a_group_that_is_being_stopped_does_not_run_already() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.step_hangs[ALPHA] = Some((1, StepVerb::Stop));
    let stop = story.world.command(ALPHA, Verb::StopGroup);
    story.pass(ms(100));
    assert_eq!(story.ask(ALPHA, Verb::Start { force: false }), Err("busy".into()), "it is not taken for running");
    story.wait(seconds(60), "given up", |world| world.outcomes.iter().any(|(_, answered, _)| *answered == stop));
}

#[test]
fn a_failure_of_an_owner_ends_with_its_ownership() {
    let mut story = pair(FailoverMode::Arbiter);
    let down = || Input::Resource { index: 2, trouble: Some("it exited".into()) };
    story.world.input(ALPHA, down());
    story.settled_at(BETA);
    // The guard against flapping keeps the group here.
    story.world.input(BETA, down());
    story.wait(seconds(4), "failed", |world| {
        let process = world.nodes[BETA].process.as_ref();
        process.is_some_and(|process| process.core.state().failed == Some(Reason::CriticalServiceDown))
    });
    story.ask(BETA, Verb::StopGroup).unwrap();
    story.pass(seconds(1));
    story.ask(ALPHA, Verb::Start { force: false }).unwrap();
    story.settled_at(ALPHA);
    story.world.crash(ALPHA, true);
    story.acknowledges(BETA, seconds(3));
}

#[test]
fn a_disabled_group_changes_nothing_by_itself() {
    let mut story = pair(FailoverMode::Arbiter);
    story.ask(BETA, Verb::Disable).unwrap();
    story.pass(seconds(1));
    assert_eq!(story.shown(ALPHA), (NodeState::Unknown, Reason::Disabled), "both nodes know");
    story.world.crash(ALPHA, true);
    story.no_acknowledgement(seconds(20));
    story.world.start(ALPHA);
    story.wait(seconds(30), "settled", World::is_settled);
    story.ask(BETA, Verb::Enable).unwrap();
}

// --- rehearsals

fn explain(story: &Story, node: usize, loss: Loss) -> Explanation {
    story.world.nodes[node].process.as_ref().expect("its daemon runs").core.explain(loss)
}

/// What is foretold comes true: who serves, and about when.
#[test]
fn an_explanation_comes_true() {
    for (asked, loss) in [(BETA, Loss::Peer), (ALPHA, Loss::ThisServer)] {
        let mut story = pair(FailoverMode::Arbiter);
        let foretold = explain(&story, asked, loss);
        assert_eq!(foretold.serves, Some(NodeId(1)), "{foretold:?}");
        let began = story.world.now;
        story.world.crash(ALPHA, true);
        story.wait(seconds(5), "serving", |world| world.serving() == Some(BETA));
        let took = story.world.now.since(began);
        assert!(took.abs_diff(foretold.interrupted) < ms(400), "{took:?} {:?}", foretold.interrupted);
    }
}

#[test]
fn an_explanation_names_what_is_in_the_way() {
    let mut story = pair(FailoverMode::Arbiter);
    assert_eq!(explain(&story, ALPHA, Loss::Path(0)).serves, Some(NodeId(0)));
    assert_eq!(explain(&story, ALPHA, Loss::Arbiter).serves, Some(NodeId(0)));
    assert_eq!(explain(&story, ALPHA, Loss::Network).serves, Some(NodeId(0)));
    let moved = explain(&story, ALPHA, Loss::Resource(2));
    assert_eq!(moved.serves, Some(NodeId(1)), "{moved:?}");
    let link = explain(&story, ALPHA, Loss::Link);
    assert_eq!(link.serves, Some(NodeId(0)), "{link:?}");
    assert!(link.timeline.iter().any(|(_, note)| matches!(note, Note::Alone { rule: "outdated-by-consent" })));
    story.world.arbiter.away = [true; 2];
    story.pass(seconds(12));
    let blocked = explain(&story, BETA, Loss::Peer);
    assert_eq!(blocked.serves, None);
    assert_eq!(blocked.why.as_deref(), Some("the arbiter does not answer"));
    let manual = pair(FailoverMode::Manual);
    assert_eq!(explain(&manual, BETA, Loss::Peer).why.as_deref(), Some("mode manual: an operator decides"));
}

// --- an arbiter that takes no change

#[test]
fn a_move_that_the_arbiter_refuses_leaves_the_group_where_it_is() {
    let mut story = pair(FailoverMode::Arbiter);
    story.world.arbiter.read_only = true;
    assert_eq!(story.ask(ALPHA, Verb::Move { to: None }), Err("failed".into()));
    story.acknowledges(ALPHA, seconds(2));
    assert!(story.noted(ALPHA, |note| matches!(note, Note::Began { rule: "arbiter-refused", .. })));
    // A look at the whole of it finds out beforehand.
    let error = ArbiterError::new(ArbiterErrorKind::Permission, "permission denied");
    story.world.input(ALPHA, Input::ArbiterLooked { trouble: Some(error) });
    assert_eq!(story.ask(ALPHA, Verb::Move { to: None }), Err("arbiter".into()));
    assert_eq!(story.shown(ALPHA), (NodeState::Normal, Reason::ArbiterUnreachable));
    story.world.input(ALPHA, Input::ArbiterLooked { trouble: None });
    story.world.arbiter.read_only = false;
    story.pass(seconds(6));
    story.ask(ALPHA, Verb::Move { to: None }).unwrap();
    story.settled_at(BETA);
}

// --- the arbiter restored from a backup

/// The owner is alone, by the record; the record is put back to "both in sync"; the owner falls silent.
pub fn record_goes_back(story: &mut Story) {
    story.world.pause(BETA, seconds(4), false);
    story.acknowledges(ALPHA, seconds(4));
    story.world.link_cut = true;
    // Long enough for the standby to have seen the newer record, and to be out of sync.
    story.pass(seconds(12));
    story.world.history.restored = true;
    story.world.arbiter.restore();
    story.world.nodes[BETA].disk.state = twinblock::base::state::DiskState::UpToDate;
    story.world.facts(BETA);
    story.world.crash(ALPHA, true);
    story.pass(seconds(10));
}

#[test]
fn a_record_that_went_back_is_not_believed() {
    let mut story = pair(FailoverMode::Arbiter);
    record_goes_back(&mut story);
    assert_eq!(story.world.serving(), None);
    assert_eq!(story.shown(BETA), (NodeState::Unknown, Reason::ArbiterWentBack));
}

#[test]
fn recover_writes_a_record_above_everything_seen() {
    let mut story = pair(FailoverMode::Arbiter);
    let backup = story.world.arbiter.standing;
    story.ask(ALPHA, Verb::Move { to: None }).unwrap();
    story.settled_at(BETA);
    let before = story.world.arbiter.standing.expect("there is one").record.epoch;
    story.world.history.restored = true;
    story.world.arbiter.standing = backup;
    story.pass(seconds(12));
    story.serves(BETA);
    assert_eq!(story.shown(BETA).1, Reason::ArbiterWentBack);
    assert_eq!(story.ask(BETA, Verb::Enable), Err("arbiter".into()));
    story.ask(BETA, Verb::Recover).unwrap();
    story.settled_at(BETA);
    assert!(story.world.arbiter.standing.expect("anew").record.epoch > before);
    story.pass(seconds(6));
    assert_eq!(story.shown(BETA).1, Reason::AdminRequest);
}

/// A standby contests a slow arbiter; meanwhile its peer, the owner, is heard for a moment and no longer.
pub fn heard_in_a_contest(story: &mut Story) {
    story.world.arbiter.away[ALPHA] = true;
    story.world.arbiter.change_takes = Some(ms(700));
    story.isolate();
    story.wait(seconds(3), "contesting", |world| {
        world.log.iter().rev().take(3).any(|line| line.contains("PrepareTakeover"))
    });
    story.pass(ms(60));
    story.world.cut = [[false; 2]; 2];
    story.pass(ms(300));
    story.world.cut = [[true; 2]; 2];
    story.pass(seconds(2));
}

#[test]
fn a_node_with_an_open_contest_promises_nothing() {
    let mut story = pair(FailoverMode::Arbiter);
    heard_in_a_contest(&mut story);
    story.serves(BETA);
}

/// The old owner goes on after a pause and can't ask the arbiter: the heartbeats alone must tell it.
pub fn told_by_heartbeats(story: &mut Story) {
    story.world.arbiter.away[ALPHA] = true;
    story.world.pause(ALPHA, seconds(5), false);
    story.acknowledges(BETA, seconds(2));
    story.pass(seconds(5));
    story.wait(seconds(1), "yielding", |world| {
        world.nodes[ALPHA].process.as_ref().is_some_and(|process| process.mirror.role == Role::Secondary)
    });
}

#[test]
fn an_old_owner_yields_to_a_higher_epoch() {
    told_by_heartbeats(&mut pair(FailoverMode::Arbiter));
}

#[cfg(feature = "mutants")]
mod broken {
    use super::*;
    use twinblock::logic::failover::Mutation;

    fn without(mutation: Mutation) -> Story {
        pair_with(FailoverMode::Arbiter, |config| config.mutation = Some(mutation))
    }

    #[test]
    #[should_panic(expected = "without the acknowledged write")]
    fn believing_a_record_that_went_back_loses_a_write() {
        record_goes_back(&mut without(Mutation::RecordWentBack));
    }

    #[test]
    #[should_panic(expected = "both serve")]
    fn a_promise_in_a_contest_lets_both_serve() {
        heard_in_a_contest(&mut without(Mutation::PromiseInContest));
    }

    #[test]
    #[should_panic(expected = "never yielding")]
    fn a_higher_epoch_ignored_leaves_an_old_owner_in_place() {
        told_by_heartbeats(&mut without(Mutation::HigherEpochIgnored));
    }
}
