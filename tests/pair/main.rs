//! Two cores joined by a perfect link and perfect disks: what must work before anything goes wrong.
//! Faults are the simulator's business (`tests/sim`); here each story is a page.

mod group;
mod grow;
mod world;

use twinblock::base::command::{Command, CommandOutcome};
use twinblock::base::generation::Lineage;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::request::Action;
use twinblock::base::state::*;
use world::{BLOCKS, Node, Pair, REGION_SHIFT};

#[track_caller]
fn assert_done(outcome: CommandOutcome) {
    assert!(matches!(outcome, CommandOutcome::Done(_)), "{outcome:?}");
}

#[track_caller]
fn assert_refused(outcome: CommandOutcome, code: &str) {
    assert!(matches!(&outcome, CommandOutcome::Refused(refusal) if refusal.code == code), "{outcome:?}");
}

fn serving_pair() -> Pair {
    let mut pair = Pair::new();
    pair.assert_in_sync();
    assert_done(pair.promote(0, false));
    pair
}

#[test]
fn two_fresh_disks_join_without_copying_and_mirror_every_write() {
    let mut pair = serving_pair();
    assert_eq!(pair.write(0, 8192, &[1; 4096]), Ok(()));
    assert_eq!(pair.write(0, 100_000, &[2; 777]), Ok(()));
    assert_eq!(pair.request(0, Action::Flush), Ok(()));
    assert_eq!(pair.read(0, 99_999, 779).map(|b| (b[0], b[1], b[777], b[778])), Ok((0, 2, 2, 0)));
    let zero = Action::Zero { range: ByteRange::new(8192, 4096), unmap: true, fua: true };
    assert_eq!(pair.request(0, zero), Ok(()));
    pair.assert_in_sync();
    assert_eq!(pair.view(0).last_resync, None);
    assert_refused(pair.promote(1, true), "peer-is-primary");
}

#[test]
fn a_lost_secondary_comes_back_and_only_the_difference_is_copied() {
    let mut pair = serving_pair();
    assert_eq!(pair.write(0, 0, &[1; 65536]), Ok(()));
    pair.kill(1);
    assert_eq!(pair.write(0, 40960, &[2; 4096]), Ok(()));
    assert_eq!(pair.write(0, 81920, &[3; 8192]), Ok(()));
    assert_eq!(pair.view(0).dirty_bytes, 3 * BLOCK);
    pair.restart(1);
    pair.assert_in_sync();
    let resync = pair.view(0).last_resync.expect("a resync ran");
    assert_eq!((resync.kind, resync.bytes_copied), (ResyncKind::Differential, 3 * BLOCK));
    assert_eq!(pair.view(1).last_resync.map(|r| r.source), Some(false));
}

#[test]
fn a_link_that_comes_back_before_any_write_changes_no_generation() {
    let mut pair = serving_pair();
    assert_eq!(pair.write(0, 0, &[1; 4096]), Ok(()));
    let before = pair.view(0).generation;
    pair.cut = true;
    pair.drop_link("cut");
    pair.run();
    pair.cut = false;
    pair.run();
    pair.assert_in_sync();
    assert_eq!(pair.view(0).generation, before);
}

#[test]
fn a_dead_primary_is_replaced_without_force_and_returns_as_target() {
    let mut pair = serving_pair();
    assert_eq!(pair.write(0, 0, &[1; 8192]), Ok(()));
    pair.kill(0);
    assert_done(pair.promote(1, false));
    assert_eq!(pair.read(1, 4096, 4096), Ok(vec![1; 4096]));
    assert_eq!(pair.write(1, 4096, &[2; 4096]), Ok(()));
    pair.restart(0);
    pair.assert_in_sync();
    assert_eq!(pair.view(0).role, Role::Secondary);
}

#[test]
fn a_secondary_that_only_lost_the_link_is_promoted_by_force_alone_and_a_fork_overwrites_nothing() {
    let mut pair = serving_pair();
    pair.cut = true;
    pair.drop_link("cut");
    pair.run();
    assert_refused(pair.promote(1, false), "connecting");
    assert_done(pair.promote(1, true));
    assert_eq!(pair.write(0, 0, &[1; 4096]), Ok(()));
    assert_eq!(pair.write(1, 4096, &[2; 4096]), Ok(()));
    pair.cut = false;
    pair.run();
    assert_eq!((pair.view(0).link, pair.view(0).rule.as_deref()), (LinkState::Refused, Some("split-brain")));
    assert_done(pair.command(1, Command::Demote { force: false }));
    assert_done(pair.command(1, Command::Resync { full: false, compare: false, discard_ours: Some(true) }));
    pair.assert_in_sync();
    assert_eq!((pair.nodes[1].disk[0], pair.nodes[1].disk[4096]), (1, 0));
}

#[test]
fn a_crash_of_both_is_resynced_by_the_durable_record() {
    let mut pair = serving_pair();
    assert_eq!(pair.write(0, 3 << REGION_SHIFT, &[7; 4096]), Ok(()));
    pair.kill(1);
    pair.kill(0);
    pair.restart(0);
    pair.restart(1);
    pair.assert_in_sync();
    let resync = pair.view(0).last_resync.expect("a resync ran");
    assert_eq!(resync.kind, ResyncKind::Differential);
    assert!(resync.bytes_copied + resync.bytes_equal <= 2 << REGION_SHIFT, "{resync:?}");
}

#[test]
fn roles_change_hands_in_order() {
    let mut pair = serving_pair();
    assert_eq!(pair.write(0, 0, &[1; 4096]), Ok(()));
    assert_done(pair.command(0, Command::Demote { force: false }));
    assert_done(pair.promote(1, false));
    assert_eq!(pair.write(1, 0, &[2; 4096]), Ok(()));
    pair.assert_in_sync();
    assert_eq!((pair.view(0).role, pair.view(1).role), (Role::Secondary, Role::Primary));
}

#[test]
fn a_failing_disk_is_replaced_by_the_peers_while_clients_go_on() {
    let mut pair = serving_pair();
    assert_eq!(pair.write(0, 0, &[1; 4096]), Ok(()));
    pair.nodes[0].broken = true;
    assert_eq!(pair.write(0, 4096, &[2; 4096]), Ok(()));
    assert_eq!(pair.view(0).disk, DiskState::Diskless);
    assert_eq!(pair.write(0, 10_000, &[3; 100]), Ok(()));
    assert_eq!(pair.read(0, 0, 12_288).map(|b| (b[0], b[4096], b[10_000], b[10_100])), Ok((1, 2, 3, 0)));
    assert_eq!(pair.request(0, Action::Flush), Ok(()));
    // Mended and started again it is behind, and gets just what it missed.
    assert_done(pair.command(0, Command::Demote { force: false }));
    pair.kill(0);
    pair.nodes[0].broken = false;
    pair.restart(0);
    pair.assert_in_sync();
    assert_done(pair.promote(1, false));
}

#[test]
fn a_secondary_whose_disk_fails_leaves_the_primary_alone() {
    let mut pair = serving_pair();
    pair.nodes[1].broken = true;
    assert_eq!(pair.write(0, 0, &[1; 4096]), Ok(()));
    assert_eq!(pair.view(1).disk, DiskState::Diskless);
    assert_eq!(pair.view(0).dirty_bytes, BLOCK);
    pair.kill(1);
    pair.nodes[1].broken = false;
    pair.restart(1);
    pair.assert_in_sync();
}

#[test]
fn both_stop_in_order_and_start_with_nothing_to_compare() {
    let mut pair = serving_pair();
    assert_eq!(pair.write(0, 0, &[1; 65536]), Ok(()));
    pair.stop(0);
    pair.stop(1);
    pair.restart(0);
    pair.restart(1);
    pair.assert_in_sync();
    assert_eq!(pair.view(0).last_resync, None);
}

#[test]
fn a_primary_that_stopped_alone_remembers_exactly_what_differs() {
    let mut pair = serving_pair();
    pair.kill(1);
    assert_eq!(pair.write(0, 65536, &[1; 4096]), Ok(()));
    pair.stop(0);
    pair.restart(0);
    assert_done(pair.promote(0, false));
    pair.restart(1);
    pair.assert_in_sync();
    let resync = pair.view(0).last_resync.expect("a resync ran");
    assert_eq!((resync.bytes_copied, resync.bytes_equal), (BLOCK, 0));
}

#[test]
fn verify_finds_what_rotted_and_repairs_it() {
    let mut pair = serving_pair();
    assert_eq!(pair.write(0, 0, &[1; 65536]), Ok(()));
    assert_done(pair.command(1, Command::Verify { repair: false }));
    assert_eq!(pair.view(0).last_verify.map(|v| (v.bytes_different, v.complete)), Some((0, true)));
    pair.nodes[1].disk[20_000] ^= 1;
    assert_done(pair.command(0, Command::Verify { repair: false }));
    let found = pair.view(0).last_verify.expect("a verify ran");
    assert_eq!((found.bytes_different, found.ranges), (BLOCK, vec![(16384, BLOCK)]));
    assert!(!pair.view(0).in_sync, "a mirror that differs does not say that it is in sync");
    assert_done(pair.command(0, Command::Verify { repair: true }));
    pair.assert_in_sync();
}

#[test]
fn a_full_resync_copies_everything_that_is_not_zero() {
    let mut pair = serving_pair();
    assert_eq!(pair.write(0, 0, &[1; 65536]), Ok(()));
    assert_done(pair.command(0, Command::Resync { full: true, compare: false, discard_ours: None }));
    pair.assert_in_sync();
    let resync = pair.view(0).last_resync.expect("a resync ran");
    let all = BLOCKS as u64 * BLOCK;
    assert_eq!(resync.kind, ResyncKind::Full);
    assert!(resync.bytes_copied >= 65536);
    assert_eq!(resync.bytes_copied + resync.bytes_zeroed, all);
}

#[test]
fn a_replaced_empty_disk_gets_what_is_not_zero() {
    let mut pair = serving_pair();
    assert_eq!(pair.write(0, 0, &[1; 65536]), Ok(()));
    pair.kill(1);
    pair.nodes[1] = Node::new(1, 999);
    pair.restart(1);
    pair.assert_in_sync();
    assert_eq!(pair.view(0).last_resync.map(|r| r.kind), Some(ResyncKind::Full));
}

#[test]
fn of_two_disks_that_nobody_vouches_for_the_chosen_one_becomes_the_volume() {
    let mut pair = Pair::new();
    for node in [0, 1] {
        pair.kill(node);
        let superblock = &mut pair.nodes[node].loaded.superblock;
        (superblock.disk, superblock.lineage) = (DiskState::New, Lineage::default());
        pair.nodes[node].disk.fill(1 + node as u8);
    }
    pair.restart(0);
    pair.restart(1);
    assert_eq!((pair.view(0).rule.as_deref(), pair.view(1).link), (Some("both-new"), LinkState::Refused));
    let choose = |ours: bool| Command::Resync { full: false, compare: false, discard_ours: Some(!ours) };
    assert_refused(pair.command(0, choose(false)), "both-new");
    assert_eq!(pair.view(0).disk, DiskState::New, "nothing was changed");
    assert_done(pair.command(1, choose(true)));
    pair.assert_in_sync();
    assert!(pair.nodes[0].disk.iter().all(|byte| *byte == 2), "what the chosen disk held is on both");
    // An empty disk put in later is behind it, and filled.
    pair.kill(0);
    pair.nodes[0] = Node::new(0, 999);
    pair.restart(0);
    pair.assert_in_sync();
    assert!(pair.nodes[0].disk.iter().all(|byte| *byte == 2));
}

#[test]
fn a_target_is_not_promoted_before_it_is_done() {
    let mut pair = serving_pair();
    pair.kill(1);
    assert_eq!(pair.write(0, 0, &[1; 65536]), Ok(()));
    assert_done(pair.command(0, Command::PauseResync));
    pair.restart(1);
    assert_eq!(pair.view(1).disk, DiskState::Inconsistent);
    assert_refused(pair.promote(1, false), "peer-is-primary");
    pair.kill(0);
    assert_refused(pair.promote(1, false), "inconsistent");
    pair.restart(0);
    pair.assert_in_sync();
}

/// Rule R12: marks that can't be read are not no marks.
#[test]
fn unreadable_marks_mean_that_everything_is_compared() {
    let mut pair = serving_pair();
    pair.kill(1);
    assert_eq!(pair.write(0, 0, &[1; 65536]), Ok(()));
    pair.kill(0);
    pair.nodes[0].loaded.maps_unreadable = true;
    pair.nodes[0].loaded.dirty.clear();
    pair.nodes[0].loaded.intents.clear();
    pair.restart(0);
    pair.restart(1);
    pair.assert_in_sync();
    assert_eq!(pair.view(0).last_resync.map(|r| r.kind), Some(ResyncKind::Compare));
}
