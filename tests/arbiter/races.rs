//! Two proposers: exactly one wins, whatever the server does meanwhile.

use crate::proxy::{Proxy, Way};
use crate::server::{self, Options, Server};
use crate::world::{self, PATIENCE, arbiter, arbiter_of, decide, found_at_last, spec, takeover};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use twinblock::base::arbiter::{CasOutcome, Record, Settled, Versioned};
use twinblock::runtime::arbiter::Arbiter;
use twinblock::runtime::arbiter::memory::Memory;

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
        expected = Some(put_next(&arbiter, expected.as_ref()).await);
        swaps.push(began.elapsed());
    }
    reads.sort();
    swaps.sort();
    println!("alone: median of a read {:?}, of a compare-and-set {:?} (p99 {:?})", reads[50], swaps[50], swaps[99]);
}

async fn put_next(arbiter: &Arbiter, expected: Option<&Versioned>) -> Versioned {
    let new = takeover(0, expected);
    match arbiter.compare_and_set(expected, &new).await {
        CasOutcome::Won(revision) => Versioned { record: new, revision },
        other => panic!("{other:?}"),
    }
}

/// Two proposers that take the group from each other all the time.
struct Race {
    over: Arc<AtomicBool>,
    wins: Arc<AtomicUsize>,
    proposers: Vec<tokio::task::JoinHandle<Vec<Win>>>,
}

/// What a proposer was told.
struct Win {
    revision: u64,
    record: Record,
    /// The revision it was won from.
    expected: Option<u64>,
}

impl Race {
    fn start(arbiters: [Arbiter; 2]) -> Race {
        let (over, wins) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let propose = |(node, arbiter): (usize, Arbiter)| {
            let (over, wins) = (over.clone(), wins.clone());
            tokio::spawn(async move {
                let mut won = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    let expected = found_at_last(&arbiter).await;
                    let record = takeover(node as u8, expected.as_ref());
                    if let Settled::Won(revision) = decide(&arbiter, expected.as_ref(), &record).await {
                        let expected = expected.map(|expected| expected.revision.0);
                        won.push(Win { revision: revision.0, record, expected });
                        wins.fetch_add(1, Ordering::SeqCst);
                    }
                }
                won
            })
        };
        let proposers = arbiters.into_iter().enumerate().map(propose).collect();
        Race { over, wins, proposers }
    }

    /// Waits, on a thread of its own, until so many more were won.
    fn wait_for(wins: &AtomicUsize, more: usize) {
        let (goal, began) = (wins.load(Ordering::SeqCst) + more, Instant::now());
        while wins.load(Ordering::SeqCst) < goal {
            assert!(began.elapsed() < 3 * PATIENCE, "nobody wins any more");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whoever was told that he won has a revision of his own, and each winner saw the winner before him.
    async fn judge(self, least: usize, server: &Server) {
        self.over.store(true, Ordering::SeqCst);
        let mut chain = BTreeMap::new();
        for proposer in self.proposers {
            for win in proposer.await.unwrap() {
                let revision = win.revision;
                assert!(chain.insert(revision, win).is_none(), "revision {revision} was won twice");
            }
        }
        assert!(chain.len() >= least, "only {} wins: the test did not test", chain.len());
        // Between two of them may lie a change whose proposer saw it only when it had been replaced.
        let mut before: Option<&Win> = None;
        for win in chain.values() {
            if let Some(last) = before {
                assert!(win.expected >= Some(last.revision), "{} was won from before {}", win.revision, last.revision);
                assert!(win.record.epoch > last.record.epoch);
                let next = win.expected == Some(last.revision);
                assert_eq!(next, win.record.epoch.0 == last.record.epoch.0 + 1);
            }
            before = Some(win);
        }
        let last = before.unwrap();
        let stands = world::found(&arbiter(&[server], PATIENCE)).await.unwrap();
        assert_eq!((stands.revision.0, stands.record), (last.revision, last.record), "the last winner's record stands");
    }
}

#[tokio::test]
async fn a_server_that_crashes_again_and_again_never_lets_two_win() {
    if server::is_missing() {
        return;
    }
    // A leader is elected soon after each start.
    let arguments = ["--heartbeat-interval", "10", "--election-timeout", "100"].map(String::from).to_vec();
    let mut server = Server::start(Options { arguments, ..Options::default() });
    let race = Race::start([(); 2].map(|()| arbiter(&[&server], Duration::from_secs(1))));
    let wins = race.wins.clone();
    let killer = std::thread::spawn(move || {
        for crash in 0..12 {
            Race::wait_for(&wins, 5);
            std::thread::sleep(Duration::from_micros(137 * crash));
            server.restart();
        }
        server
    });
    let server = tokio::task::spawn_blocking(|| killer.join().unwrap()).await.unwrap();
    race.judge(60, &server).await;
}

#[tokio::test]
async fn a_network_that_loses_and_delays_never_lets_two_win() {
    if server::is_missing() {
        return;
    }
    let server = Server::start(Options::default());
    let proxies = [(); 2].map(|()| Proxy::start(server.port()));
    let far = |proxy: &Proxy| arbiter_of(spec(&[proxy.url()]), Duration::from_millis(200), Memory::default());
    let race = Race::start([far(&proxies[0]), far(&proxies[1])]);
    let wins = race.wins.clone();
    let network = std::thread::spawn(move || {
        let ways = [Way::Open, Way::Held, Way::Lost];
        for trouble in 0..40_usize {
            // Each pair of ways on each side, at another moment of a request each time.
            proxies[trouble % 2].set(ways[trouble / 2 % 3], ways[trouble / 6 % 3]);
            std::thread::sleep(Duration::from_micros(60_000 + 7_777 * trouble as u64 % 50_000));
            if trouble % 5 == 4 {
                proxies.iter().for_each(|proxy| proxy.set(Way::Open, Way::Open));
                Race::wait_for(&wins, 3);
            }
        }
        proxies.iter().for_each(|proxy| proxy.set(Way::Open, Way::Open));
        Race::wait_for(&wins, 3);
        proxies
    });
    let _proxies = tokio::task::spawn_blocking(|| network.join().unwrap()).await.unwrap();
    race.judge(30, &server).await;
}
