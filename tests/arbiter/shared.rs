//! A shared directory: many processes, crashes, hanging and torn storage, directories that are not shared.

use crate::world::{PATIENCE, failure, found, owner, put, takeover};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use twinblock::base::arbiter::{ArbiterErrorKind, CasOutcome, ReadOutcome};
use twinblock::base::ids::{Epoch, Incarnation, NodeId};
use twinblock::runtime::arbiter::file::SharedSpec;
use twinblock::runtime::arbiter::memory::Memory;
use twinblock::runtime::arbiter::{Arbiter, ArbiterSpec};

const FOLDER: &str = "TWINBLOCK_TEST_ARBITER_FOLDER";
const NODE: &str = "TWINBLOCK_TEST_ARBITER_NODE";

fn spec(folder: &Path, node: u8) -> SharedSpec {
    let mut incarnation = [0; 8];
    getrandom::fill(&mut incarnation).unwrap();
    SharedSpec {
        directory: folder.into(),
        node: NodeId(node),
        incarnation: Incarnation(u64::from_le_bytes(incarnation)),
        sign_time: Duration::from_millis(400),
    }
}

fn arbiter(folder: &Path, node: u8) -> Arbiter {
    remembering(folder, node, PATIENCE, Memory::default())
}

fn remembering(folder: &Path, node: u8, timeout: Duration, memory: Memory) -> Arbiter {
    Arbiter::new(&ArbiterSpec::Shared(spec(folder, node)), owner(), timeout, memory).unwrap()
}

#[tokio::test]
async fn exactly_one_of_two_wins_each_of_many_rounds() {
    let folder = tempfile::tempdir().unwrap();
    let arbiters = [arbiter(folder.path(), 0), arbiter(folder.path(), 1)];
    let (mut wins, mut times, mut expected) = ([0; 2], Vec::new(), None);
    for round in 0..300 {
        let new = [takeover(0, expected.as_ref()), takeover(1, expected.as_ref())];
        let began = Instant::now();
        let propose = |node: usize| arbiters[node].compare_and_set(expected.as_ref(), &new[node]);
        let outcomes = tokio::join!(propose(0), propose(1));
        times.push(began.elapsed());
        let (winner, seen) = match &outcomes {
            (CasOutcome::Won(_), CasOutcome::Lost(Some(seen))) => (0, *seen),
            (CasOutcome::Lost(Some(seen)), CasOutcome::Won(_)) => (1, *seen),
            other => panic!("round {round}: {other:?}"),
        };
        assert_eq!(seen.record, new[winner], "round {round}: the loser sees the winner's record");
        wins[winner] += 1;
        expected = Some(seen);
    }
    times.sort();
    println!("compare-and-set over a directory, two at a time: median {:?}, wins {wins:?}", times[times.len() / 2]);
    assert_eq!(found(&arbiters[0]).await, expected);
    let records = names(folder.path()).into_iter().filter(|name| name.starts_with("record.")).count();
    assert!(records < 100, "{records} records are kept");
}

fn group(folder: &Path) -> std::path::PathBuf {
    folder.join("lab.web")
}

fn names(folder: &Path) -> Vec<String> {
    let items = std::fs::read_dir(group(folder)).unwrap();
    items.map(|item| item.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// One process of the race below.
#[tokio::test]
#[ignore = "started by the race of many processes"]
async fn racer() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let node = std::env::var(NODE).unwrap().parse().unwrap();
    let arbiter = arbiter(Path::new(&folder), node);
    loop {
        let expected = match arbiter.read().await {
            ReadOutcome::Found(found) => Some(found),
            ReadOutcome::Absent => None,
            ReadOutcome::Failed(error) => panic!("{error}"),
        };
        let new = takeover(node, expected.as_ref());
        match arbiter.compare_and_set(expected.as_ref(), &new).await {
            CasOutcome::Won(revision) => {
                let expected = expected.map_or(0, |expected| expected.revision.0);
                println!("\nwon {} {expected} {} {:x}", revision.0, new.epoch.0, new.nonce);
            }
            CasOutcome::Lost(_) => {}
            other => println!("\nfailed {other:?}"),
        }
    }
}

fn start_racer(folder: &Path, index: usize, lines: mpsc::Sender<String>) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shared::racer", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(NODE, (index % 2).to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
    child
}

#[tokio::test]
async fn of_many_processes_that_are_killed_at_any_time_never_two_win() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, lines) = mpsc::channel();
    let mut racers: Vec<Child> = (0..5).map(|index| start_racer(folder.path(), index, sender.clone())).collect();
    for kill in 0..20 {
        std::thread::sleep(Duration::from_millis(50 + kill * 13 % 70));
        let victim = kill as usize % racers.len();
        assert!(racers[victim].try_wait().unwrap().is_none(), "a racer ended by itself, see above");
        racers[victim].kill().unwrap();
        racers[victim].wait().unwrap();
        racers[victim] = start_racer(folder.path(), victim, sender.clone());
    }
    std::thread::sleep(Duration::from_millis(300));
    for racer in &mut racers {
        racer.kill().unwrap();
        racer.wait().unwrap();
    }
    drop(sender);
    let mut won = BTreeMap::new();
    for line in lines {
        assert!(!line.starts_with("failed"), "{line}");
        let Some(words) = line.strip_prefix("won ") else { continue };
        let words: Vec<&str> = words.split(' ').collect();
        let [revision, expected, epoch] = [0, 1, 2].map(|index: usize| words[index].parse::<u64>().unwrap());
        let twice = won.insert(revision, (expected, epoch, words[3].to_string()));
        assert_eq!(twice, None, "revision {revision} was won twice");
        assert_eq!(revision, expected + 1);
    }
    println!("{} wins of 5 processes, 20 of them killed", won.len());
    assert!(won.len() > 100, "only {} wins: the test did not test", won.len());
    let stands = found(&arbiter(folder.path(), 0)).await.unwrap();
    let (last, (_, epoch, nonce)) = won.last_key_value().unwrap();
    // A racer may have been killed between its win and the word about it.
    assert!(stands.revision.0 >= *last && stands.revision.0 <= last + 5);
    if stands.revision.0 == *last {
        assert_eq!((stands.record.epoch.0, format!("{:x}", stands.record.nonce)), (*epoch, nonce.clone()));
    }
    // Each change raised the epoch by one, so that none was lost.
    assert!(won.iter().all(|(revision, (_, epoch, _))| revision == epoch), "an epoch was left out or used twice");
}

/// A folder seen through two mounts with caches of their own, as two hosts see a network file system. `stale`: also that
/// a name does not exist is remembered, which is worse than what NFS does.
fn two_mounts(folder: &Path, stale: bool) -> Option<[(Unmount, std::path::PathBuf); 2]> {
    let back = folder.join("back");
    std::fs::create_dir(&back).unwrap();
    let negative = if stale { 60 } else { 0 };
    let options = format!("entry_timeout=60,attr_timeout=60,negative_timeout={negative}");
    let mount = |name: &str| {
        let at = folder.join(name);
        std::fs::create_dir(&at).unwrap();
        let mut command = Command::new("bindfs");
        let done = command.args(["--no-allow-other", "-o", &options]).args([&back, &at]).output();
        let mounted = done.is_ok_and(|done| done.status.success());
        mounted.then(|| (Unmount(at.display().to_string()), at))
    };
    let mounts = mount("one").zip(mount("other"));
    if mounts.is_none() {
        println!("SKIPPED: can't mount with bindfs (needs root, bindfs and FUSE)");
    }
    mounts.map(|(one, other)| [one, other])
}

#[tokio::test]
async fn through_two_caches_each_sees_the_other_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let Some([(_one, here), (_other, there)]) = two_mounts(folder.path(), false) else { return };
    let arbiters = [arbiter(&here, 0), arbiter(&there, 1)];
    let mut expected = None;
    for round in 0..100 {
        for arbiter in &arbiters {
            assert_eq!(found(arbiter).await, expected, "round {round}");
        }
        let new = [takeover(0, expected.as_ref()), takeover(1, expected.as_ref())];
        let propose = |node: usize| arbiters[node].compare_and_set(expected.as_ref(), &new[node]);
        expected = match tokio::join!(propose(0), propose(1)) {
            (CasOutcome::Won(_), CasOutcome::Lost(Some(seen))) if seen.record == new[0] => Some(seen),
            (CasOutcome::Lost(Some(seen)), CasOutcome::Won(_)) if seen.record == new[1] => Some(seen),
            other => panic!("round {round}: {other:?}"),
        };
    }
}

#[tokio::test]
async fn through_caches_that_lie_never_two_win() {
    let folder = tempfile::tempdir().unwrap();
    let Some([(_one, here), (_other, there)]) = two_mounts(folder.path(), true) else { return };
    // Each once alone, so that the store is there before anybody remembers that it is not.
    let arbiters = [arbiter(&here, 0), arbiter(&there, 1)];
    let mut last = Some(put(&arbiters[0], takeover(0, None)).await);
    let (mut won, mut revisions) = (0, std::collections::BTreeSet::new());
    for round in 0..200 {
        let new = [takeover(0, last.as_ref()), takeover(1, last.as_ref())];
        let propose = |node: usize| arbiters[node].compare_and_set(last.as_ref(), &new[node]);
        let outcomes = tokio::join!(propose(0), propose(1));
        let mut next = None;
        for (node, outcome) in [&outcomes.0, &outcomes.1].into_iter().enumerate() {
            if let CasOutcome::Won(revision) = *outcome {
                assert!(revisions.insert(revision) && next.is_none(), "round {round}: {outcomes:?}");
                next = Some(twinblock::base::arbiter::Versioned { record: new[node], revision });
                won += 1;
            }
        }
        match next {
            Some(_) => last = next,
            None => last = Some(crate::world::found_at_last(&arbiters[0]).await.unwrap()),
        }
    }
    println!("through caches that lie: {won} wins in 200 rounds");
    assert!(won > 20, "only {won} wins: the test did not test");
}

#[tokio::test]
async fn a_node_that_was_away_for_long_loses() {
    let folder = tempfile::tempdir().unwrap();
    let (near, away) = (arbiter(folder.path(), 0), arbiter(folder.path(), 1));
    let old = put(&near, takeover(0, None)).await;
    assert_eq!(found(&away).await, Some(old));
    let mut last = old;
    for _ in 0..200 {
        last = put(&near, takeover(0, Some(&last))).await;
    }
    assert!(!names(folder.path()).contains(&format!("record.{:020}", 2)), "the file it would make is cleared away");
    let outcome = away.compare_and_set(Some(&old), &takeover(1, Some(&old))).await;
    assert_eq!(outcome, CasOutcome::Lost(Some(last)));
}

#[tokio::test]
async fn torn_and_strange_files_are_refused_not_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let arbiter = arbiter(folder.path(), 0);
    let first = put(&arbiter, takeover(0, None)).await;
    let second = put(&arbiter, takeover(1, Some(&first))).await;
    let path = group(folder.path()).join(format!("record.{:020}", second.revision.0));
    let whole = std::fs::read(&path).unwrap();
    assert!(String::from_utf8_lossy(&whole).contains("\"primary\":\"beta\""), "a person can read it");
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    for bad in [&whole[..whole.len() - 1], &whole[..10], &[], &flipped, &[whole.clone(), whole.clone()].concat()] {
        std::fs::write(&path, bad).unwrap();
        let error = failure(&arbiter).await;
        assert_eq!(error.kind, ArbiterErrorKind::Foreign, "{error}");
        assert!(error.detail.contains(path.to_str().unwrap()), "{error}");
        let outcome = arbiter.compare_and_set(Some(&second), &takeover(0, Some(&second))).await;
        assert!(matches!(outcome, CasOutcome::Refused(_)), "{outcome:?}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(found(&arbiter).await, Some(second));
    std::fs::write(group(folder.path()).join("store"), "nonsense").unwrap();
    assert_eq!(failure(&arbiter).await.kind, ArbiterErrorKind::Foreign);
}

#[tokio::test]
async fn a_directory_that_went_back_in_time_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let arbiter = arbiter(folder.path(), 0);
    let first = put(&arbiter, takeover(0, None)).await;
    let second = put(&arbiter, takeover(1, Some(&first))).await;
    // As after a restore of the day before.
    std::fs::remove_file(group(folder.path()).join(format!("record.{:020}", second.revision.0))).unwrap();
    let error = failure(&arbiter).await;
    assert_eq!((error.kind, error.found), (ArbiterErrorKind::WentBack, Some(first)), "{error}");
    let outcome = arbiter.compare_and_set(Some(&first), &takeover(0, Some(&first))).await;
    assert!(matches!(&outcome, CasOutcome::Refused(error) if error.kind == ArbiterErrorKind::WentBack), "{outcome:?}");
    // As after somebody made the directory anew.
    std::fs::remove_dir_all(group(folder.path())).unwrap();
    let error = failure(&arbiter).await;
    assert!(error.kind == ArbiterErrorKind::WentBack && error.detail.contains("another one"), "{error}");
    let fresh = remembering(folder.path(), 0, PATIENCE, Memory::default());
    assert_eq!(found(&fresh).await, None);
    fresh.raise(Epoch(2));
    assert_eq!(failure(&fresh).await.kind, ArbiterErrorKind::WentBack);
}

#[tokio::test]
async fn a_directory_that_is_not_mounted_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("not-mounted");
    let arbiter = arbiter(&missing, 0);
    let error = failure(&arbiter).await;
    assert_eq!(error.kind, ArbiterErrorKind::Unreachable);
    assert!(error.detail.contains(missing.to_str().unwrap()) && error.detail.contains("mounted"), "{error}");
    let outcome = arbiter.compare_and_set(None, &takeover(0, None)).await;
    assert!(matches!(outcome, CasOutcome::Refused(_)), "{outcome:?}");
    assert!(!missing.exists());
    assert!(arbiter.check(true).await.trouble.is_some());
}

#[tokio::test]
async fn storage_that_hangs_is_waited_for_only_so_long() {
    let folder = tempfile::tempdir().unwrap();
    let patient = arbiter(folder.path(), 0);
    let first = put(&patient, takeover(0, None)).await;
    let hasty = remembering(folder.path(), 1, Duration::from_millis(300), patient.memory());
    assert_eq!(found(&hasty).await, Some(first));
    // Opening a pipe that nobody writes to hangs as a network file system without its server does.
    let store = group(folder.path()).join("store");
    let identity = std::fs::read(&store).unwrap();
    std::fs::remove_file(&store).unwrap();
    nix::unistd::mkfifo(&store, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let new = takeover(1, Some(&first));
    let outcome = hasty.compare_and_set(Some(&first), &new).await;
    assert!(matches!(&outcome, CasOutcome::Unknown(error) if error.kind == ArbiterErrorKind::TimedOut), "{outcome:?}");
    // It still hangs: nothing further is asked of it, which is certain.
    let outcome = hasty.compare_and_set(Some(&first), &new).await;
    assert!(matches!(&outcome, CasOutcome::Refused(error) if error.kind == ArbiterErrorKind::TimedOut), "{outcome:?}");
    assert_eq!(failure(&hasty).await.kind, ArbiterErrorKind::TimedOut);
    assert_eq!(hasty.check(true).await.trouble.map(|error| error.kind), Some(ArbiterErrorKind::TimedOut));
    // The storage comes back, and with it the request of long ago.
    std::fs::write(&store, &identity).unwrap();
    std::fs::remove_file(&store).unwrap();
    std::fs::write(&store, &identity).unwrap();
    let stands = crate::world::found_at_last(&hasty).await.unwrap();
    assert_eq!(stands.record, new, "it was carried out late");
}

#[tokio::test]
async fn whether_the_directory_is_shared_is_seen_by_the_signs() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (arbiter(one.path(), 0), arbiter(one.path(), 1));
    let report = a.check(true).await;
    assert_eq!((report.trouble, report.notes.len()), (None, 1), "not proven yet");
    assert_eq!(a.check(false).await.trouble, None, "a peer that is down shows nothing");
    b.check(true).await;
    let until = Instant::now() + Duration::from_millis(1200);
    while Instant::now() < until {
        for report in [a.check(true).await, b.check(true).await] {
            assert_eq!(report.trouble, None);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(a.check(true).await.notes, Vec::<String>::new(), "proven");
    // The same configuration, and something else mounted there.
    let strange = arbiter(other.path(), 1);
    let until = Instant::now() + PATIENCE;
    let trouble = loop {
        let (here, there) = (a.check(true).await, strange.check(true).await);
        if let (Some(here), Some(there)) = (here.trouble, there.trouble) {
            break [here, there];
        }
        assert!(Instant::now() < until, "it is never noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for (trouble, name) in trouble.iter().zip(["beta", "alpha"]) {
        assert_eq!(trouble.kind, ArbiterErrorKind::NotShared);
        assert!(trouble.detail.contains(name), "{trouble}");
    }
}

#[tokio::test]
async fn storage_that_is_full_or_read_only_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let mount = |arguments: &[&str]| Command::new("mount").args(arguments).status().is_ok_and(|done| done.success());
    if !mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs", path]) {
        println!("SKIPPED: may not mount a tmpfs");
        return;
    }
    let unmount = Unmount(path.to_string());
    let arbiter = arbiter(folder.path(), 0);
    let first = put(&arbiter, takeover(0, None)).await;
    assert!(std::fs::write(folder.path().join("fill"), vec![1; 128 << 10]).is_err());
    let outcome = arbiter.compare_and_set(Some(&first), &takeover(1, Some(&first))).await;
    assert!(matches!(&outcome, CasOutcome::Refused(error) if error.kind == ArbiterErrorKind::ReadOnly), "{outcome:?}");
    std::fs::remove_file(folder.path().join("fill")).unwrap();
    assert_eq!(found(&arbiter).await, Some(first));
    assert!(mount(&["-o", "remount,ro", path]));
    let error = failure(&arbiter).await;
    assert_eq!(error.kind, ArbiterErrorKind::ReadOnly, "{error}");
    drop(unmount);
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0]).status();
    }
}
