//! Two proposers: exactly one wins, whatever the server does meanwhile.

use crate::server::{self, Options, Server};
use crate::world::{self, PATIENCE, arbiter, decide, found_at_last, takeover};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use twinblock::base::arbiter::{CasOutcome, Record, Settled};

#[tokio::test]
async fn exactly_one_of_two_wins_each_of_many_rounds() {
    if server::is_missing() {
        return;
    }
    let server = Server::start(Options::default());
    let arbiters = [Arc::new(arbiter(&[&server], PATIENCE)), Arc::new(arbiter(&[&server], PATIENCE))];
    let (mut wins, mut times) = ([0; 2], Vec::new());
    let mut expected = None;
    for round in 0..300 {
        let proposals: Vec<_> = (0..2u8)
            .map(|node| {
                let (arbiter, new) = (arbiters[usize::from(node)].clone(), takeover(node, expected.as_ref()));
                tokio::spawn(async move {
                    let began = Instant::now();
                    (arbiter.compare_and_set(expected.as_ref(), &new).await, new, began.elapsed())
                })
            })
            .collect();
        let mut outcomes = Vec::new();
        for proposal in proposals {
            outcomes.push(proposal.await.unwrap());
        }
        let winner = match [&outcomes[0].0, &outcomes[1].0] {
            [CasOutcome::Won(_), CasOutcome::Lost(Some(seen))] => (0, *seen),
            [CasOutcome::Lost(Some(seen)), CasOutcome::Won(_)] => (1, *seen),
            other => panic!("round {round}: {other:?}"),
        };
        let (node, seen) = winner;
        assert_eq!(seen.record, outcomes[node].1, "round {round}: the loser sees the winner's record");
        assert_eq!(outcomes[node].0, CasOutcome::Won(seen.revision));
        wins[node] += 1;
        times.push(outcomes[node].2);
        expected = Some(seen);
    }
    times.sort();
    println!("compare-and-set over etcd, two at a time: median {:?}, wins {wins:?}", times[times.len() / 2]);
    assert_eq!(world::found(&arbiters[0]).await, expected);
}

#[tokio::test]
async fn the_time_of_one_compare_and_set_is_shown() {
    if server::is_missing() {
        return;
    }
    let server = Server::start(Options::default());
    let arbiter = arbiter(&[&server], PATIENCE);
    let (mut expected, mut swaps, mut reads) = (None, Vec::new(), Vec::new());
    for _ in 0..100 {
        let began = Instant::now();
        assert_eq!(world::found(&arbiter).await, expected);
        reads.push(began.elapsed());
        let began = Instant::now();
        expected = Some(world_put(&arbiter, expected.as_ref()).await);
        swaps.push(began.elapsed());
    }
    reads.sort();
    swaps.sort();
    println!("alone: median of a read {:?}, of a compare-and-set {:?} (p99 {:?})", reads[50], swaps[50], swaps[99]);
}

async fn world_put(
    arbiter: &twinblock::runtime::arbiter::Arbiter,
    expected: Option<&twinblock::base::arbiter::Versioned>,
) -> twinblock::base::arbiter::Versioned {
    let new = takeover(0, expected);
    match arbiter.compare_and_set(expected, &new).await {
        CasOutcome::Won(revision) => twinblock::base::arbiter::Versioned { record: new, revision },
        other => panic!("{other:?}"),
    }
}

/// Both propose all the time while the server is killed and started again. Whoever is told that he won has a revision of
/// his own, and each winner saw the winner before him.
#[tokio::test]
async fn a_server_that_crashes_again_and_again_never_lets_two_win() {
    if server::is_missing() {
        return;
    }
    // A leader is elected soon after each start.
    let arguments = ["--heartbeat-interval", "10", "--election-timeout", "100"].map(String::from).to_vec();
    let mut server = Server::start(Options { arguments, ..Options::default() });
    let (over, wins) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let proposers: Vec<_> = (0..2u8)
        .map(|node| {
            let (arbiter, over, wins) = (arbiter(&[&server], Duration::from_secs(1)), over.clone(), wins.clone());
            tokio::spawn(async move {
                let mut won: Vec<(u64, Record, Option<u64>)> = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    let expected = found_at_last(&arbiter).await;
                    let new = takeover(node, expected.as_ref());
                    if let Settled::Won(revision) = decide(&arbiter, expected.as_ref(), &new).await {
                        won.push((revision.0, new, expected.map(|expected| expected.revision.0)));
                        wins.fetch_add(1, Ordering::SeqCst);
                    }
                }
                won
            })
        })
        .collect();
    let killer = std::thread::spawn(move || {
        for crash in 0..12 {
            let (goal, began) = (wins.load(Ordering::SeqCst) + 5, Instant::now());
            while wins.load(Ordering::SeqCst) < goal {
                assert!(began.elapsed() < 3 * PATIENCE, "nobody wins any more after crash {crash}");
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_micros(137 * crash));
            server.restart();
        }
        server
    });
    let server = tokio::task::spawn_blocking(|| killer.join().unwrap()).await.unwrap();
    over.store(true, Ordering::SeqCst);
    let mut chain = BTreeMap::new();
    for proposer in proposers {
        for (revision, record, expected) in proposer.await.unwrap() {
            let twice = chain.insert(revision, (record, expected));
            assert_eq!(twice, None, "revision {revision} was won twice");
        }
    }
    assert!(chain.len() >= 60, "only {} wins: the test did not test", chain.len());
    // Between two of them may lie a change whose proposer saw it only when it had been replaced.
    let mut before: Option<(u64, Record)> = None;
    for (revision, (record, expected)) in chain {
        if let Some((last, last_record)) = before {
            assert!(expected >= Some(last), "revision {revision} was won from {expected:?}, after {last} had been won");
            assert!(record.epoch > last_record.epoch);
            assert_eq!(expected == Some(last), record.epoch.0 == last_record.epoch.0 + 1);
        }
        before = Some((revision, record));
    }
    let last = before.unwrap();
    let stands = world::found(&arbiter(&[&server], PATIENCE)).await.unwrap();
    assert_eq!((stands.revision.0, stands.record), last, "the last winner's record stands there");
}
