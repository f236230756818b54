//! A pair whose nodes ask a failover group before they serve without each other.

use super::world::{BLOCKS, Pair};
use std::time::Duration;
use twinblock::base::command::{Command, CommandOutcome};
use twinblock::base::error::RequestError;
use twinblock::base::ids::{CommandId, Epoch};
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::request::Action;
use twinblock::base::state::{LinkState, Role};
use twinblock::logic::mirror::interface::{Input, PassageAnswer, PassageWish};

const ALPHA: usize = 0;
const BETA: usize = 1;
const HANDOVER: CommandId = CommandId(1 << 40);

fn granted(epoch: u64) -> PassageAnswer {
    PassageAnswer::Granted { epoch: Epoch(epoch) }
}

/// The link is back; the group lets the primary call its peer up to date.
fn reunite(pair: &mut Pair, primary: usize) {
    pair.cut = false;
    pair.run();
    assert_eq!(wishes(pair, primary), [PassageWish::Qualify]);
    assert!(!pair.view(primary).in_sync, "not before the group knows that the peer may take over");
    let epoch = pair.nodes[primary].loaded.superblock.seen_epoch;
    pair.answer(primary, PassageAnswer::Granted { epoch });
    pair.assert_in_sync();
}

fn wishes(pair: &Pair, node: usize) -> Vec<PassageWish> {
    pair.nodes[node].asked.iter().map(|(_, wish)| *wish).collect()
}

fn denied() -> PassageAnswer {
    PassageAnswer::Denied { reason: "the peer was faster".into() }
}

/// Alpha is primary and may read for ever; both are in sync.
fn serving() -> Pair {
    let mut pair = Pair::in_group();
    assert!(matches!(pair.promote(ALPHA, false), CommandOutcome::Done(_)));
    pair.permit(ALPHA, None);
    pair.write(ALPHA, 0, b"first").unwrap();
    pair.assert_in_sync();
    pair
}

#[test]
fn a_primary_alone_acknowledges_nothing_before_the_peer_is_excluded() {
    let mut pair = serving();
    pair.cut = true;
    pair.drop_link("cut");
    assert!(pair.nodes[ALPHA].asked.is_empty(), "nothing waits, so nothing is asked");
    let action = pair.writing(ALPHA, 0, b"alone");
    let write = pair.begin(ALPHA, action);
    pair.run();
    assert_eq!(pair.ended(ALPHA, write), None);
    assert_eq!(wishes(&pair, ALPHA), [PassageWish::Solo]);
    let before = pair.nodes[ALPHA].loaded.superblock.lineage.current;
    pair.answer(ALPHA, granted(7));
    assert_eq!(pair.ended(ALPHA, write), Some(Ok(())));
    let superblock = &pair.nodes[ALPHA].loaded.superblock;
    assert_eq!(superblock.seen_epoch, Epoch(7));
    assert_ne!(superblock.lineage.current, before, "a generation of its own, durable before the acknowledgement");
    reunite(&mut pair, ALPHA);
}

#[test]
fn a_primary_that_was_too_slow_steps_down_and_fails_what_it_held() {
    let mut pair = serving();
    pair.cut = true;
    pair.drop_link("cut");
    let action = pair.writing(ALPHA, 0, b"never");
    let write = pair.begin(ALPHA, action);
    pair.run();
    pair.give(BETA, Input::Command { id: CommandId(1), command: Command::Promote { force: false } });
    pair.answer(BETA, granted(2));
    assert_eq!(pair.view(BETA).role, Role::Primary);
    pair.answer(ALPHA, denied());
    assert_eq!(pair.ended(ALPHA, write), Some(Err(RequestError::Shutdown)));
    assert_eq!(pair.view(ALPHA).role, Role::Secondary);
    pair.permit(BETA, None);
    pair.write(BETA, BLOCK, b"second").unwrap();
    reunite(&mut pair, BETA);
    assert_eq!(pair.read(BETA, 0, 5).unwrap(), b"first");
}

#[test]
fn a_peer_that_comes_back_makes_the_question_idle() {
    let mut pair = serving();
    pair.cut = true;
    pair.drop_link("cut");
    let action = pair.writing(ALPHA, 0, b"twice");
    let write = pair.begin(ALPHA, action);
    pair.run();
    let (passage, _) = pair.nodes[ALPHA].asked[0];
    pair.cut = false;
    pair.run();
    assert!(!pair.nodes[ALPHA].asked.iter().any(|(asked, _)| *asked == passage), "withdrawn");
    assert_eq!(pair.ended(ALPHA, write), Some(Ok(())), "written on both");
    // The answer was on its way.
    pair.give(ALPHA, Input::PassageAnswered { passage, answer: denied() });
    assert_eq!(pair.view(ALPHA).role, Role::Primary);
    reunite(&mut pair, ALPHA);
}

#[test]
fn a_takeover_that_is_denied_changes_nothing() {
    let mut pair = serving();
    pair.kill(ALPHA);
    let id = CommandId(2);
    pair.give(BETA, Input::Command { id, command: Command::Promote { force: false } });
    pair.run();
    assert_eq!(wishes(&pair, BETA), [PassageWish::Takeover]);
    let before = pair.nodes[BETA].loaded.superblock.clone();
    pair.answer(BETA, denied());
    assert_eq!(pair.view(BETA).role, Role::Secondary);
    assert_eq!(pair.nodes[BETA].loaded.superblock, before);
    pair.restart(ALPHA);
    pair.assert_in_sync();
}

#[test]
fn a_forced_demotion_waits_for_no_answer() {
    let mut pair = serving();
    pair.cut = true;
    pair.drop_link("cut");
    let action = pair.writing(ALPHA, 0, b"stays");
    let write = pair.begin(ALPHA, action);
    pair.run();
    pair.give(ALPHA, Input::Command { id: CommandId(3), command: Command::Demote { force: true } });
    pair.run();
    assert!(pair.nodes[ALPHA].asked.is_empty(), "nobody waits for the answer any more");
    assert_eq!(pair.ended(ALPHA, write), Some(Err(RequestError::Shutdown)));
    assert_eq!(pair.view(ALPHA).role, Role::Secondary);
}

#[test]
fn without_a_permit_no_read_is_served_and_with_a_new_one_it_is_read_again() {
    let mut pair = serving();
    pair.permit(ALPHA, Some(Duration::ZERO));
    let range = ByteRange::new(0, BLOCK);
    let buffer = pair.buffer(ALPHA);
    let read = pair.begin(ALPHA, Action::Read { range, buffer });
    pair.run();
    assert_eq!(pair.ended(ALPHA, read), None);
    assert!(!pair.view(ALPHA).serving && pair.view(ALPHA).held_reason.is_some());
    // Writes need no permit: the peer's disk has them.
    pair.write(ALPHA, BLOCK, b"mirrored").unwrap();
    pair.permit(ALPHA, Some(Duration::from_millis(50)));
    assert_eq!(pair.ended(ALPHA, read), Some(Ok(())));
    assert!(pair.view(ALPHA).held_reason.is_none());
    pair.take_buffer(ALPHA, buffer);
}

#[test]
fn a_read_that_the_disk_answers_after_the_permit_ended_is_not_shown() {
    let mut pair = serving();
    pair.permit(ALPHA, Some(Duration::from_millis(500)));
    pair.nodes[ALPHA].slow = true;
    let buffer = pair.buffer(ALPHA);
    let read = pair.begin(ALPHA, Action::Read { range: ByteRange::new(0, BLOCK), buffer });
    pair.run();
    pair.nodes[ALPHA].slow = false;
    pair.finish_slow(ALPHA);
    assert_eq!(pair.ended(ALPHA, read), None, "what was read may be old by now");
    pair.permit(ALPHA, None);
    assert_eq!(pair.ended(ALPHA, read), Some(Ok(())));
    pair.take_buffer(ALPHA, buffer);
}

#[test]
fn a_planned_move_carries_the_epoch_of_the_record() {
    let mut pair = serving();
    assert!(matches!(pair.command(ALPHA, Command::Demote { force: false }), CommandOutcome::Done(_)));
    pair.give(BETA, Input::Handover { id: HANDOVER, epoch: Epoch(9) });
    pair.run();
    assert!(pair.nodes[BETA].asked.is_empty(), "the peer itself agreed");
    assert_eq!(pair.view(BETA).role, Role::Primary);
    assert_eq!(pair.nodes[BETA].loaded.superblock.primary_epoch, Epoch(9));
    assert_eq!(pair.view(BETA).link, LinkState::Connected);
    pair.permit(BETA, None);
    let last = (BLOCKS as u64 - 1) * BLOCK;
    pair.write(BETA, last, b"moved").unwrap();
    pair.assert_in_sync();
}

#[test]
fn a_primary_without_a_disk_acknowledges_only_when_its_peer_is_the_only_copy_that_counts() {
    let mut pair = serving();
    pair.nodes[ALPHA].broken = true;
    let action = pair.writing(ALPHA, 0, b"onward");
    let write = pair.begin(ALPHA, action);
    pair.run();
    assert_eq!(pair.ended(ALPHA, write), None);
    assert_eq!(wishes(&pair, ALPHA), [PassageWish::PeerOnly]);
    pair.answer(ALPHA, granted(3));
    assert_eq!(pair.ended(ALPHA, write), Some(Ok(())));
}

#[test]
fn questions_end_with_the_session_they_were_for() {
    let mut pair = serving();
    pair.nodes[ALPHA].broken = true;
    let action = pair.writing(ALPHA, 0, b"onward");
    let write = pair.begin(ALPHA, action);
    pair.run();
    assert_eq!(wishes(&pair, ALPHA), [PassageWish::PeerOnly]);
    pair.cut = true;
    pair.drop_link("cut");
    assert!(wishes(&pair, ALPHA).is_empty());
    pair.cut = false;
    pair.run();
    pair.answer(ALPHA, granted(3));
    assert_eq!(pair.ended(ALPHA, write), Some(Ok(())));
}
