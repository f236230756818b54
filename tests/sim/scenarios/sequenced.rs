//! Two faults and more, in sequence (F.2).

use super::super::config::Act;
use super::super::node::Work;
use super::super::world::World;
use super::{ALPHA, BETA, Pair, blocks_that_differ, millis, seconds, serving_pair, serving_pair_with};
use std::time::Duration;
use twinblock::base::command::Command;
use twinblock::base::error::DiskError;
use twinblock::base::range::ByteRange;
use twinblock::base::state::{Archiving, DiskState, LinkState, Mode, Role};

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
fn f115_the_sources_flush_fails_under_a_resync_and_nothing_is_given_up_unasked() {
    let mut pair = serving_pair_with(115, |config| config.resync_rate_max = 16 << 10);
    pair.world.kill(BETA, "kill -9");
    pair.clients_get_on(seconds(5));
    pair.world.start(BETA);
    pair.wait(seconds(5), "copying", |world| world.view(BETA).is_some_and(|view| view.disk == DiskState::Inconsistent));
    pair.world.nodes[ALPHA].faults.next_flush = Some(DiskError::Failed(5));
    pair.wait(seconds(10), "diskless", |world| world.view(ALPHA).is_some_and(|view| view.disk == DiskState::Diskless));
    // The only whole copy is out: everybody waits, and half a copy serves nobody.
    pair.pass(millis(200));
    pair.clients_get_nothing(seconds(5));
    assert!(pair.ask(BETA, Command::Promote { force: false }).is_err());
    assert_eq!(pair.world.view(BETA).map(|view| view.disk), Some(DiskState::Inconsistent));
    pair.ask(ALPHA, Command::Demote { force: true }).expect("an operator may");
    pair.attach(ALPHA);
    pair.wait(seconds(60), "source again", World::both_in_sync);
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
        // Evidence of the next death is on its way.
        pair.pass(millis(10));
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

#[test]
fn f117_an_old_clone_of_a_disk_is_not_taken_for_the_disk() {
    let mut pair = serving_pair(117);
    pair.world.power_off(BETA);
    let clone = (pair.world.nodes[BETA].disk.clone(), pair.world.nodes[BETA].metadata.image());
    pair.clients_get_on(seconds(10));
    pair.world.start(BETA);
    pair.back_in_sync();
    pair.clients_get_on(seconds(2));
    pair.world.power_off(BETA);
    (pair.world.nodes[BETA].disk, pair.world.nodes[BETA].metadata) = clone;
    pair.clients_get_on(seconds(10));
    pair.world.start(BETA);
    pair.back_in_sync();
    pair.ends_well();
}

/// Both serve, by force, without a link between them; then both meet again.
fn split_pair(seed: u64, beta_writes: bool) -> Pair {
    let mut pair = serving_pair_with(seed, |config| config.acts = vec![(Act::Force, 0)]);
    pair.world.cut_network();
    pair.clients_get_on(seconds(15));
    for client in 0..2 {
        pair.world.clients[client].idle = true;
    }
    pair.pass(seconds(1));
    assert_eq!(pair.ask(BETA, Command::Promote { force: true }), Ok(()));
    if beta_writes {
        // They look for a new server, and find either.
        for client in 0..2 {
            pair.world.clients[client].idle = false;
        }
        for _ in 0..20 {
            pair.world.client_resets(0, false);
            pair.world.client_resets(1, false);
            pair.pass(millis(200));
        }
    }
    pair.world.heal_network();
    pair.wait(seconds(10), "refused", |world| {
        (0..2).all(|node| world.view(node).is_some_and(|view| view.link == LinkState::Refused))
    });
    pair
}

#[test]
fn f119_a_split_is_refused_until_a_side_is_chosen_and_either_may_be() {
    for (seed, victim) in [(1190, ALPHA), (1191, BETA)] {
        let mut pair = split_pair(seed, true);
        let before = [ALPHA, BETA].map(|node| pair.content(node));
        pair.pass(seconds(3));
        for client in 0..2 {
            pair.world.clients[client].idle = true;
        }
        assert_eq!((pair.link(ALPHA), pair.link(BETA)), (LinkState::Refused, LinkState::Refused));
        assert!(before[ALPHA] != before[BETA], "seed {seed}: they hold the same");
        let discard = Command::Resync { full: false, compare: false, discard_ours: Some(true) };
        assert_eq!(pair.ask(victim, discard.clone()), Err("primary".into()));
        assert_eq!(pair.ask(victim, Command::Demote { force: true }), Ok(()));
        let (kept, lost) = (pair.content(1 - victim), pair.content(victim));
        assert_eq!(pair.ask(victim, discard), Ok(()));
        pair.back_in_sync();
        assert!(pair.content(victim) == kept, "the side that was chosen has changed");
        pair.has_archived(victim, &lost);
        pair.ends_well();
    }
}

#[test]
fn f120_a_split_without_a_write_on_one_side_is_refused_all_the_same() {
    let mut pair = split_pair(120, false);
    assert_eq!(pair.ask(BETA, Command::Demote { force: true }), Ok(()));
    let discard = Command::Resync { full: false, compare: false, discard_ours: Some(true) };
    assert_eq!(pair.ask(BETA, discard), Ok(()));
    pair.back_in_sync();
    pair.ends_well();
}

/// F045: the archive is full while the victim is being overwritten.
#[test]
fn f045_what_cannot_be_archived_is_not_overwritten() {
    let mut pair = split_pair(450, true);
    for client in 0..2 {
        pair.world.clients[client].idle = true;
    }
    pair.pass(seconds(3));
    assert_eq!(pair.ask(BETA, Command::Demote { force: true }), Ok(()));
    let before = pair.content(BETA);
    pair.world.nodes[BETA].vault.fails_next = true;
    assert_eq!(pair.ask(BETA, Command::GiveUp { archive: true }), Ok(()));
    pair.wait(seconds(10), "refused by its archive", |world| {
        (0..2).all(|node| world.view(node).is_some_and(|view| view.rule.as_deref() == Some("archive-failed")))
    });
    pair.pass(seconds(3));
    assert_eq!((pair.link(ALPHA), pair.link(BETA)), (LinkState::Refused, LinkState::Refused));
    let saved = &pair.world.nodes[BETA].vault;
    let changed = blocks_that_differ(&before, &pair.content(BETA));
    assert!(saved.failures == 1 && changed.iter().all(|block| saved.blocks.contains_key(block)), "{changed:?}");
    // Its operator makes room and says so: the same archive goes on.
    assert_eq!(pair.ask(BETA, Command::GiveUp { archive: true }), Ok(()));
    pair.back_in_sync();
    pair.has_archived(BETA, &before);
    pair.ends_well();
}

/// The victim's daemon dies in the middle, more than once: the archive still has what was there first.
#[test]
fn f119_a_victim_that_dies_while_it_is_overwritten_goes_on_with_the_same_archive() {
    for seed in 1192..1196 {
        let mut pair = split_pair(seed, true);
        for client in 0..2 {
            pair.world.clients[client].idle = true;
        }
        pair.pass(seconds(3));
        assert_eq!(pair.ask(BETA, Command::Demote { force: true }), Ok(()));
        let before = pair.content(BETA);
        assert_eq!(pair.ask(BETA, Command::GiveUp { archive: true }), Ok(()));
        for saved in [1, 3] {
            let enough = |world: &World| {
                let node = &world.nodes[BETA];
                node.vault.blocks.len() >= saved && node.durable().archiving == Archiving::Running
            };
            if pair.world.run_until(seconds(5), enough) {
                pair.world.kill(BETA, "killed");
                pair.pass(millis(100));
                pair.world.start(BETA);
            }
        }
        pair.back_in_sync();
        pair.has_archived(BETA, &before);
        pair.ends_well();
    }
}

#[test]
fn f122_a_secondary_killed_with_frames_in_memory_while_the_primary_loses_its_power() {
    for (seed, mode) in (1220..1240).map(|seed| (seed, if seed % 2 == 0 { Mode::Sync } else { Mode::Memory })) {
        let mut pair = serving_pair_with(seed, |config| {
            config.mode = mode;
            config.disk_latency = (millis(1), millis(30));
        });
        pair.pass(millis(seed % 17));
        pair.world.kill(BETA, "kill -9");
        pair.world.power_off(ALPHA);
        pair.pass(millis(50));
        pair.world.start(BETA);
        pair.pass(millis(500));
        assert_eq!(pair.ask(BETA, Command::Promote { force: false }), Err("connecting".into()));
        pair.world.start(ALPHA);
        pair.back_in_sync();
        pair.ends_well();
    }
}

#[test]
fn f105_the_source_dies_under_a_resync_and_what_its_target_had_marked_is_not_forgotten() {
    for seed in 0..10 {
        let mut pair = serving_pair_with(10500 + seed, |config| {
            config.gating = false;
            config.resync_rate_max = 64 << 10;
            // More than one chunk holds, so that it is half done when the source dies.
            config.blocks = [512, 512];
            config.hot_blocks = 512;
            config.link_latency = (millis(5), millis(20));
            config.think = (Duration::from_micros(100), millis(1));
            config.depth = 8;
        });
        // What was on its way is on alpha's disk only. Beta writes somewhere else.
        pair.world.kill(ALPHA, "kill -9");
        for client in 0..2 {
            pair.world.clients[client].idle = true;
        }
        pair.pass(millis(500));
        pair.promote(BETA);
        let elsewhere = ByteRange::of_blocks(500..501);
        pair.world.clients[0].script.push_back(Work::Write { range: elsewhere, value: 0, fua: false });
        pair.pass(seconds(3));
        pair.world.start(ALPHA);
        pair.wait(seconds(5), "copying", |world| {
            world.view(ALPHA).is_some_and(|view| view.disk == DiskState::Inconsistent)
        });
        pair.pass(millis(20 * seed));
        pair.world.kill(BETA, "kill -9");
        pair.pass(millis(100));
        pair.world.start(BETA);
        pair.back_in_sync();
        pair.ends_well();
    }
}

#[test]
fn both_are_asked_to_be_primary_and_one_becomes_so() {
    for seed in 0..40 {
        let mut pair = serving_pair(4800 + seed);
        pair.world.active = false;
        pair.wait(seconds(10), "idle", World::is_settled);
        assert_eq!(pair.ask(ALPHA, Command::Demote { force: false }), Ok(()));
        pair.world.command(ALPHA, Command::Promote { force: false });
        pair.pass(Duration::from_micros(seed * 37));
        pair.world.command(BETA, Command::Promote { force: false });
        pair.pass(seconds(1));
        let primaries = [ALPHA, BETA].into_iter().filter(|node| pair.role(*node) == Role::Primary).count();
        assert_eq!(primaries, 1, "seed {seed}");
        pair.ends_well();
    }
}
