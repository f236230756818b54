//! One fault at a time (F.1).

use super::super::world::World;
use super::{ALPHA, BETA, millis, seconds, serving_pair, serving_pair_with};
use std::time::Duration;
use twinblock::base::command::Command;
use twinblock::base::error::DiskError;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::state::{DiskState, LinkState, Mode, Overflow, Role};
use twinblock::base::time::Moment;

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
    for seed in 0..10 {
        let mut pair = serving_pair_with(23 + 100 * seed, |config| {
            config.reads = 50;
            config.hot_blocks = 4;
            config.depth = 4;
        });
        let until = pair.world.now + seconds(40);
        pair.world.nodes[ALPHA].faults.hangs_until = until;
        // What the hung disk owes when it is given up, the peer answers: reads and overlapping writes too.
        for _ in 0..3 {
            pair.clients_get_on(seconds(15));
        }
        let longest = pair.world.clients.iter().flat_map(|client| &client.unanswered).map(|ask| ask.asked).min();
        assert!(
            longest.is_none_or(|asked| pair.world.now.since(asked) < seconds(8)),
            "somebody waits for the hung disk"
        );
        assert_eq!(pair.disk(ALPHA), DiskState::Diskless);
        pair.world.nodes[ALPHA].faults.hangs_until = Moment(0);
        pair.pass(seconds(45));
        pair.ends_well();
    }
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
    let faults: [fn(&mut super::super::node::Faults); 2] = [
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
fn f018_a_slow_lossy_link_changes_no_role() {
    // What TCP makes of lost packets: half a second of delay, now and then more.
    let mut pair = serving_pair_with(18, |config| config.depth = 8);
    pair.world.link.latency = (millis(200), millis(900));
    for _ in 0..10 {
        pair.clients_get_on(seconds(30));
        assert_eq!((pair.role(ALPHA), pair.role(BETA)), (Role::Primary, Role::Secondary));
    }
    pair.world.link.latency = (millis(1), millis(2));
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f026_a_secondary_whose_disk_hangs_holds_nobody_up() {
    let mut pair = serving_pair(2600);
    let until = pair.world.now + seconds(60);
    pair.world.nodes[BETA].faults.hangs_until = until;
    for _ in 0..3 {
        pair.clients_get_on(seconds(15));
    }
    assert_eq!(pair.disk(BETA), DiskState::Diskless);
    assert_eq!(pair.link(ALPHA), LinkState::Forwarding, "its daemon is still there and says that it has no disk");
    pair.world.nodes[BETA].faults.hangs_until = Moment(0);
    pair.attach(BETA);
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn f043_more_requests_than_fit_wait_outside_and_all_are_answered() {
    let mut pair = serving_pair_with(43, |config| {
        config.clients = 4;
        config.depth = 500;
        config.hot_blocks = 64;
        config.think = (Duration::from_micros(10), Duration::from_micros(100));
    });
    pair.world.cut_network();
    pair.pass(seconds(2));
    let waiting: usize = pair.world.clients.iter().map(|client| client.unanswered.len()).sum();
    let inside = pair.world.view(ALPHA).expect("it runs").requests_in_flight as usize;
    assert!(inside <= twinblock::base::limits::PIECES_IN_FLIGHT_MAX, "the core took {inside} of {waiting}");
    assert!(waiting > inside, "no one had to wait: {waiting} asked");
    pair.clients_get_on(seconds(15));
    pair.world.heal_network();
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn an_asynchronous_volume_that_sheds_never_makes_its_clients_wait_for_a_slow_link() {
    let mut pair = serving_pair_with(44, |config| {
        config.mode = Mode::Async;
        config.overflow = Overflow::Shed;
        config.async_bytes_max = 32 << 10;
        config.operation_blocks_max = 8;
        config.flushes = 0;
        config.reads = 0;
    });
    pair.world.link.latency = (millis(300), millis(500));
    for _ in 0..20 {
        pair.clients_get_on(seconds(2));
    }
    assert!(pair.world.stats.joins < 40, "shed and joined without end");
    pair.world.link.latency = (millis(1), millis(2));
    pair.world.active = false;
    pair.back_in_sync();
    pair.ends_well();
}

#[test]
fn evidence_of_a_primarys_death_is_there_from_the_join_on() {
    for seed in 0..10 {
        let mut pair = serving_pair(450 + seed);
        pair.world.reset_session();
        pair.wait(seconds(10), "apart", |world| !World::both_in_sync(world));
        pair.back_in_sync();
        pair.pass(millis(5));
        pair.world.kill(ALPHA, "kill -9");
        // Asked once the primary's end was noticed, and not again.
        pair.pass(millis(400));
        assert_eq!(pair.ask(BETA, Command::Promote { force: false }), Ok(()), "seed {seed}");
        pair.clients_get_on(seconds(3));
        pair.ends_well();
    }
}

#[test]
fn intents_are_cleared_only_when_both_disks_hold_what_they_cover() {
    // A write now and then, so that a sweep finds one that is complete, idle and not flushed.
    for seed in 0..3 {
        let mut pair = serving_pair_with(4600 + seed, |config| {
            config.clients = 1;
            config.depth = 1;
            config.hot_blocks = 64;
            config.reads = 0;
            config.flushes = 0;
            config.fua = 0;
            config.intent_idle = millis(50);
        });
        pair.world.config.think = (millis(300), millis(1500));
        for _ in 0..200 {
            // Every record is checked when it is durable: what may differ is marked.
            pair.pass(seconds(3));
        }
        pair.ends_well();
    }
}

#[test]
fn f028_f029_rot_is_found_by_a_verify_reported_and_repaired_only_when_told() {
    for node in [ALPHA, BETA] {
        let mut pair = serving_pair(290 + node as u64);
        for client in 0..2 {
            pair.world.clients[client].idle = true;
        }
        pair.wait(seconds(10), "idle", World::is_settled);
        // The last block, where nobody works.
        let at = ByteRange::new(pair.world.config.volume_bytes() - BLOCK, BLOCK);
        let was = pair.world.nodes[ALPHA].disk.read(at).to_vec();
        pair.world.nodes[node].disk.rot(at);
        assert_eq!(pair.ask(ALPHA, Command::Verify { repair: false }), Ok(()));
        let verified = |world: &World| world.view(ALPHA).is_some_and(|view| view.verify.is_none());
        pair.wait(seconds(30), "verified", verified);
        pair.pass(millis(10));
        let view = pair.world.view(ALPHA).expect("it runs");
        let found = view.last_verify.expect("a verify ended");
        assert_eq!((found.bytes_different, found.bytes_repaired, found.complete), (BLOCK, 0, true));
        assert_eq!((view.in_sync, view.dirty_bytes), (false, BLOCK), "what was found is not forgotten");
        assert!(!pair.world.view(BETA).expect("it runs").in_sync, "the other node is told");
        // The operator knows which copy is rotten, the mirror does not.
        pair.world.nodes[node].disk.write(at.offset, &was, true);
        assert_eq!(pair.ask(ALPHA, Command::Verify { repair: true }), Ok(()));
        pair.wait(seconds(30), "verified", verified);
        assert_eq!(pair.ask(ALPHA, Command::Resync { full: false, compare: false, discard_ours: None }), Ok(()));
        pair.pass(millis(100));
        pair.back_in_sync();
        pair.ends_well();
    }
}

#[test]
fn a_flush_covers_what_the_peer_has_only_received() {
    for seed in 0..20 {
        let mut pair = serving_pair_with(4700 + seed, |config| {
            config.mode = Mode::Memory;
            config.flushes = 20;
            config.reads = 20;
            config.disk_latency = (millis(1), millis(20));
            config.flush_latency = (Duration::from_micros(10), Duration::from_micros(50));
        });
        let flushes = pair.world.stats.flushes;
        pair.wait(seconds(10), "flushed", |world| world.stats.flushes > flushes);
        pair.world.power_off(ALPHA);
        pair.world.power_off(BETA);
        pair.pass(millis(50));
        for node in [ALPHA, BETA] {
            pair.world.start(node);
        }
        pair.back_in_sync();
        pair.ends_well();
    }
}

#[test]
fn a_verify_never_takes_a_write_under_way_for_a_difference() {
    for seed in 0..5 {
        let mut pair = serving_pair_with(4900 + seed, |config| {
            config.hot_blocks = 64;
            config.operation_blocks_max = 32;
            config.depth = 8;
            config.reads = 0;
            config.think = (Duration::from_micros(50), Duration::from_micros(500));
        });
        for round in 0..10 {
            let on = if round % 2 == 0 { ALPHA } else { BETA };
            assert_eq!(pair.ask(on, Command::Verify { repair: round % 3 == 0 }), Ok(()));
            pair.pass(millis(50));
            pair.wait(seconds(30), "verified", |world| world.view(ALPHA).is_some_and(|view| view.verify.is_none()));
            let found = pair.world.view(ALPHA).expect("it runs").last_verify.expect("a verify ended");
            assert_eq!((found.bytes_different, found.complete), (0, true), "seed {seed}, round {round}");
        }
        pair.ends_well();
    }
}

#[test]
fn f039_planned_switchovers_under_load_lose_and_leave_nothing() {
    for seed in 0..3 {
        let mut pair = serving_pair_with(390 + seed, |config| {
            config.reads = 10;
            config.flushes = 0;
            config.fua = 0;
            config.hot_blocks = 64;
            // Intents go quickly where nothing is written any more: whatever they covered must be durable by then.
            config.intent_sweep_interval = millis(200);
            config.intent_idle = millis(50);
            config.flush_interval = seconds(5);
        });
        for round in 0..10 {
            let (from, to) = if round % 2 == 0 { (ALPHA, BETA) } else { (BETA, ALPHA) };
            let errors = pair.errors();
            assert_eq!(pair.ask(from, Command::Demote { force: false }), Ok(()));
            pair.pass(millis(600));
            pair.promote(to);
            pair.clients_get_on(seconds(2));
            assert_eq!(pair.errors(), errors);
            assert_eq!(pair.world.stats.resyncs, 0, "a planned switchover copies nothing");
        }
        pair.ends_well();
    }
}

#[test]
fn who_takes_over_by_evidence_misses_nothing_that_was_acknowledged_alone() {
    for step in 0..12 {
        let mut pair = serving_pair_with(5000 + step, |config| config.link_timeout = seconds(10));
        pair.pass(seconds(1));
        // Only alpha notices that the session is over; beta does when alpha is dead.
        let session = pair.world.link.session_of(ALPHA).expect("connected");
        pair.world.link.lossy = [true; 2];
        pair.world.session_ends(ALPHA, session, "connection reset".into());
        pair.pass(millis(250 * step));
        pair.world.link.lossy = [false; 2];
        pair.world.kill(ALPHA, "kill -9");
        pair.pass(millis(400));
        if pair.ask(BETA, Command::Promote { force: false }).is_ok() {
            // What alpha acknowledged alone would be missing.
            pair.clients_get_on(seconds(3));
        }
        pair.world.start(ALPHA);
        pair.back_in_sync();
        pair.ends_well();
    }
}

#[test]
fn a_demotion_whose_peer_is_lost_under_its_flush_comes_to_an_end() {
    for seed in 0..10 {
        let mut pair = serving_pair(5100 + seed);
        pair.world.nodes[BETA].faults.next_flush = Some(DiskError::Failed(5));
        assert_eq!(pair.ask(ALPHA, Command::Demote { force: false }), Ok(()), "seed {seed}");
        assert_eq!(pair.role(ALPHA), Role::Secondary);
        pair.ends_well();
    }
}
