//! A pair whose nodes obey a failover group.

use super::world::{BLOCKS, Pair};
use std::time::Duration;
use twinblock::base::error::RequestError;
use twinblock::base::ids::{Epoch, RequestId};
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::request::Action;
use twinblock::base::state::{DiskState, Role};
use twinblock::logic::mirror::interface::{Order, Way};

const ALPHA: usize = 0;
const BETA: usize = 1;

fn promote(epoch: u64, way: Way) -> Order {
    Order::Promote { epoch: Epoch(epoch), way, cache_epoch: None }
}

fn open_solo(epoch: u64) -> Order {
    Order::OpenSolo { epoch: Epoch(epoch) }
}

/// Alpha is primary and may read for ever; both are in sync.
fn serving() -> Pair {
    let mut pair = Pair::in_group();
    pair.order(ALPHA, promote(1, Way::Claim)).unwrap();
    pair.permit(ALPHA, None);
    pair.write(ALPHA, 0, b"first").unwrap();
    pair.assert_in_sync();
    pair
}

fn cut(pair: &mut Pair) {
    pair.cut = true;
    pair.drop_link("cut");
}

/// Begins a write that waits for the peer.
fn held_write(pair: &mut Pair, bytes: &[u8]) -> RequestId {
    let action = pair.writing(ALPHA, 0, bytes);
    let write = pair.begin(ALPHA, action);
    pair.run();
    assert_eq!(pair.ended(ALPHA, write), None, "nothing is acknowledged alone unasked");
    write
}

/// The link is back; the group lets the primary call its peer up to date.
fn reunite(pair: &mut Pair, primary: usize) {
    pair.cut = false;
    pair.run();
    assert!(pair.facts(primary).wants_qualify);
    assert!(!pair.facts(primary).in_sync, "not before the group knows that the peer may take over");
    pair.order(primary, Order::Qualify).unwrap();
    assert!(!pair.facts(primary).wants_qualify && pair.facts(primary).in_sync);
    pair.assert_in_sync();
}

#[test]
fn a_primary_alone_acknowledges_nothing_before_the_peer_is_excluded() {
    let mut pair = serving();
    cut(&mut pair);
    assert!(!pair.facts(ALPHA).wants_solo, "nothing waits, so nothing is wanted");
    let write = held_write(&mut pair, b"alone");
    assert!(pair.facts(ALPHA).wants_solo);
    pair.order(ALPHA, Order::PrepareSolo).unwrap();
    assert_eq!(pair.ended(ALPHA, write), None);
    let before = pair.facts(ALPHA).generation;
    pair.order(ALPHA, open_solo(7)).unwrap();
    assert_eq!(pair.ended(ALPHA, write), Some(Ok(())));
    let facts = pair.facts(ALPHA);
    assert_eq!(facts.seen_epoch, Epoch(7));
    assert!(facts.generation != before && facts.peer_outdated && !facts.wants_solo);
    reunite(&mut pair, ALPHA);
}

#[test]
fn the_door_is_prepared_without_a_write_and_under_a_session() {
    let mut pair = serving();
    let id = pair.begin_order(ALPHA, Order::PrepareSolo);
    pair.cut = true;
    pair.run();
    assert_eq!(pair.order_ended(ALPHA, id), Some(Ok(())));
    pair.order(ALPHA, open_solo(2)).unwrap();
    pair.write(ALPHA, 0, b"alone").unwrap();
    reunite(&mut pair, ALPHA);
}

#[test]
fn a_primary_that_was_too_slow_steps_down_and_fails_what_it_held() {
    let mut pair = serving();
    cut(&mut pair);
    let write = held_write(&mut pair, b"never");
    pair.order(BETA, Order::PrepareTakeover).unwrap();
    assert_eq!(pair.view(BETA).role, Role::Secondary);
    pair.order(BETA, promote(2, Way::Takeover)).unwrap();
    assert_eq!(pair.view(BETA).role, Role::Primary);
    pair.order(ALPHA, Order::Demote).unwrap();
    assert_eq!(pair.ended(ALPHA, write), Some(Err(RequestError::Shutdown)));
    assert_eq!(pair.view(ALPHA).role, Role::Secondary);
    pair.permit(BETA, None);
    pair.write(BETA, BLOCK, b"second").unwrap();
    reunite(&mut pair, BETA);
    assert_eq!(pair.read(BETA, 0, 5).unwrap(), b"first");
}

#[test]
fn a_peer_that_comes_back_closes_the_door() {
    let mut pair = serving();
    cut(&mut pair);
    let write = held_write(&mut pair, b"twice");
    pair.order(ALPHA, Order::PrepareSolo).unwrap();
    pair.cut = false;
    pair.run();
    assert_eq!(pair.ended(ALPHA, write), Some(Ok(())), "written on both");
    assert!(pair.order(ALPHA, open_solo(5)).is_err(), "it came too late");
    assert_eq!(pair.view(ALPHA).role, Role::Primary);
    reunite(&mut pair, ALPHA);
    assert_eq!(pair.order(ALPHA, Order::CloseDoor), Ok(()));
}

#[test]
fn a_takeover_that_is_only_prepared_changes_nothing() {
    let mut pair = serving();
    pair.kill(ALPHA);
    let before = pair.nodes[BETA].loaded.superblock.clone();
    pair.order(BETA, Order::PrepareTakeover).unwrap();
    assert_eq!(pair.view(BETA).role, Role::Secondary);
    assert_eq!(pair.nodes[BETA].loaded.superblock, before);
    pair.restart(ALPHA);
    pair.assert_in_sync();
}

#[test]
fn a_takeover_granted_after_the_peer_returned_still_flushes_what_came_meanwhile() {
    let mut pair = serving();
    cut(&mut pair);
    pair.order(BETA, Order::PrepareTakeover).unwrap();
    pair.cut = false;
    pair.run();
    pair.write(ALPHA, BLOCK, b"between").unwrap();
    // The record names beta all the same: alpha must go, and beta is never half a primary.
    let id = pair.begin_order(BETA, promote(4, Way::Takeover));
    pair.order(ALPHA, Order::Demote).unwrap();
    pair.run();
    let ended = pair.order_ended(BETA, id).expect("an order ends");
    assert_eq!(ended.is_ok(), pair.view(BETA).role == Role::Primary);
    assert_eq!(pair.view(ALPHA).role, Role::Secondary);
}

#[test]
fn a_forced_demotion_waits_for_nobody() {
    let mut pair = serving();
    cut(&mut pair);
    let write = held_write(&mut pair, b"stays");
    pair.order(ALPHA, Order::Demote).unwrap();
    assert_eq!(pair.ended(ALPHA, write), Some(Err(RequestError::Shutdown)));
    assert_eq!(pair.view(ALPHA).role, Role::Secondary);
    assert_eq!(pair.order(ALPHA, Order::Demote), Ok(()), "twice is no harm");
}

#[test]
fn an_order_that_another_overtakes_is_answered() {
    let mut pair = serving();
    pair.nodes[ALPHA].slow = true;
    let buffer = pair.buffer(ALPHA);
    let read = pair.begin(ALPHA, Action::Read { range: ByteRange::new(0, BLOCK), buffer });
    let quiesce = pair.begin_order(ALPHA, Order::Quiesce);
    assert_eq!(pair.order_ended(ALPHA, quiesce), None, "a request is under way");
    pair.order(ALPHA, Order::Demote).unwrap();
    assert!(pair.order_ended(ALPHA, quiesce).unwrap().is_err());
    pair.nodes[ALPHA].slow = false;
    pair.finish_slow(ALPHA);
    // Answered while the disk still worked on it: its buffer was given back by the core, when that had ended.
    assert_eq!(pair.ended(ALPHA, read), Some(Err(RequestError::Shutdown)));
    pair.run();
    pair.assert_in_sync();
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
fn a_planned_move_copies_nothing_and_carries_the_epoch_of_the_record() {
    let mut pair = serving();
    pair.order(ALPHA, Order::Quiesce).unwrap();
    assert!(pair.facts(BETA).source, "of two standbys in sync each may serve");
    pair.order(BETA, promote(9, Way::Claim)).unwrap();
    assert_eq!(pair.view(BETA).role, Role::Primary);
    assert_eq!(pair.nodes[BETA].loaded.superblock.primary_epoch, Epoch(9));
    assert!(pair.facts(BETA).in_sync, "no resync");
    pair.permit(BETA, None);
    let last = (BLOCKS as u64 - 1) * BLOCK;
    pair.write(BETA, last, b"moved").unwrap();
    pair.assert_in_sync();
}

#[test]
fn a_planned_move_that_loses_its_peer_leaves_the_primary_primary() {
    let mut pair = serving();
    cut(&mut pair);
    let write = held_write(&mut pair, b"waits");
    pair.order(ALPHA, Order::PrepareSolo).unwrap();
    let id = pair.begin_order(ALPHA, Order::Quiesce);
    pair.run();
    assert_eq!(pair.order_ended(ALPHA, id), None, "what was admitted waits for the group's word");
    pair.order(ALPHA, open_solo(3)).unwrap();
    assert!(pair.order_ended(ALPHA, id).unwrap().is_err(), "overtaken");
    assert_eq!(pair.ended(ALPHA, write), Some(Ok(())));
}

#[test]
fn a_copy_called_outdated_is_not_promoted_and_recovers_by_a_resync() {
    let mut pair = serving();
    cut(&mut pair);
    pair.order(BETA, Order::Outdate).unwrap();
    assert_eq!(pair.nodes[BETA].loaded.superblock.disk, DiskState::Outdated);
    assert!(pair.order(BETA, Order::PrepareTakeover).is_err());
    pair.restart(BETA);
    assert_eq!(pair.facts(BETA).disk, DiskState::Outdated, "durably");
    reunite(&mut pair, ALPHA);
    assert_eq!(pair.facts(BETA).disk, DiskState::UpToDate);
}

#[test]
fn a_primary_without_a_disk_acknowledges_only_when_its_peer_is_the_only_copy_that_counts() {
    let mut pair = serving();
    pair.nodes[ALPHA].broken = true;
    let action = pair.writing(ALPHA, 0, b"onward");
    let write = pair.begin(ALPHA, action);
    pair.run();
    assert_eq!(pair.ended(ALPHA, write), None);
    assert!(pair.facts(ALPHA).wants_peer_only);
    // What was wanted in a session ends with it.
    cut(&mut pair);
    assert!(!pair.facts(ALPHA).wants_peer_only);
    assert!(pair.order(ALPHA, Order::AllowPeerOnly).is_err());
    pair.cut = false;
    pair.run();
    pair.order(ALPHA, Order::AllowPeerOnly).unwrap();
    assert_eq!(pair.ended(ALPHA, write), Some(Ok(())));
}

#[test]
fn a_promotion_raises_the_cache_epoch_to_the_records() {
    let mut pair = serving();
    pair.kill(ALPHA);
    pair.order(BETA, Order::PrepareTakeover).unwrap();
    pair.order(BETA, Order::Promote { epoch: Epoch(2), way: Way::Takeover, cache_epoch: Some(6) }).unwrap();
    assert_eq!(pair.facts(BETA).cache_epoch, 6);
}
