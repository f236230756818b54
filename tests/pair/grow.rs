//! A volume grows while it is in use: its new part is mirrored like the old one, whatever the disks held there.

use super::world::{BLOCKS, Node, Pair};
use super::{assert_done, assert_refused};
use twinblock::base::command::Command;
use twinblock::base::range::BLOCK;
use twinblock::base::state::ResyncKind;

const OLD: u64 = BLOCKS as u64 * BLOCK;
const NEW: u64 = 2 * OLD;

/// Both disks have room for twice the volume, and hold something else there.
fn roomy_pair() -> Pair {
    let mut pair = Pair::new();
    pair.kill(0);
    pair.kill(1);
    pair.nodes = [Node::with_room(0, 100), Node::with_room(1, 101)];
    pair.restart(0);
    pair.restart(1);
    assert_done(pair.promote(0, false));
    assert_eq!(pair.write(0, OLD - BLOCK, &[7; 4096]), Ok(()));
    pair
}

fn resize(bytes: Option<u64>) -> Command {
    Command::Resize { bytes }
}

#[test]
fn a_volume_grows_in_use_and_only_its_new_part_is_copied() {
    let mut pair = roomy_pair();
    assert_eq!(pair.served_bytes(0), Some(OLD));
    assert_done(pair.command(0, resize(None)));
    assert_eq!((pair.served_bytes(0), pair.view(1).size_bytes), (Some(NEW), NEW));
    pair.assert_in_sync();
    let resync = pair.view(0).last_resync.expect("a resync ran");
    assert_eq!((resync.kind, resync.bytes_copied + resync.bytes_zeroed), (ResyncKind::Differential, NEW - OLD));
    assert_eq!(pair.write(0, NEW - BLOCK, &[8; 4096]), Ok(()));
    pair.assert_in_sync();
    // The size is known after a restart, and on the other server.
    pair.kill(0);
    assert_done(pair.promote(1, true));
    assert_eq!(pair.served_bytes(1), Some(NEW));
    assert_eq!(pair.read(1, NEW - BLOCK, 4096).map(|bytes| bytes[0]), Ok(8));
    pair.restart(0);
    pair.assert_in_sync();
}

#[test]
fn it_grows_to_a_size_that_both_disks_hold_and_never_shrinks() {
    let mut pair = roomy_pair();
    assert_refused(pair.command(1, resize(None)), "not-primary");
    assert_refused(pair.command(0, resize(Some(NEW + BLOCK))), "disk-too-small");
    assert_refused(pair.command(0, resize(Some(OLD - BLOCK))), "shrinking");
    assert_refused(pair.command(0, resize(Some(OLD + 512))), "alignment");
    assert_done(pair.command(0, resize(Some(OLD))));
    assert_eq!(pair.view(0).last_resync, None, "nothing changed");
    assert_done(pair.command(0, resize(Some(OLD + BLOCK))));
    assert_eq!(pair.served_bytes(0), Some(OLD + BLOCK));
    pair.kill(1);
    assert_refused(pair.command(0, resize(None)), "not-in-sync");
}

/// Whichever record is the last that became durable: the size is the old or the new one, and both disks hold the same.
#[test]
fn a_crash_while_it_grows_leaves_the_old_size_or_the_new_one() {
    let mut sizes = Vec::new();
    for records in 0..8 {
        let mut pair = roomy_pair();
        pair.nodes[0].records_left = Some(records);
        pair.begin_command(0, resize(None));
        if pair.served_bytes(0) == Some(NEW) {
            assert_eq!(pair.nodes[0].loaded.superblock.committed_bytes, NEW, "clients see only what is durable");
        }
        pair.kill(0);
        pair.kill(1);
        pair.restart(0);
        pair.restart(1);
        assert_done(pair.promote(1, false));
        let size = pair.served_bytes(1).expect("it serves");
        sizes.push(size);
        for node in &pair.nodes {
            assert_eq!(node.disk[..size as usize], pair.nodes[0].disk[..size as usize], "after {records} records");
        }
        assert_eq!(pair.read(1, OLD - BLOCK, 4096).map(|bytes| bytes[0]), Ok(7));
        assert_done(pair.promote(1, false));
        assert_done(pair.command(1, resize(None)));
        pair.assert_in_sync();
    }
    assert!(sizes.is_sorted() && sizes[0] == OLD && *sizes.last().unwrap() == NEW, "{sizes:?}");
}

#[test]
fn a_disk_that_fails_meanwhile_leaves_the_old_size() {
    let mut pair = roomy_pair();
    pair.nodes[0].records_fail = true;
    assert_refused(pair.command(0, resize(None)), "grow-failed");
    assert_eq!(pair.served_bytes(0), Some(OLD), "served by the peer's disk");
    assert_eq!(pair.read(0, OLD - BLOCK, 4096).map(|bytes| bytes[0]), Ok(7));
}
