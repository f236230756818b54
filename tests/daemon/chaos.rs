//! Either daemon is killed again and again under several clients. Everything acknowledged stays, both disks end up the
//! same, and what is copied stays near what was written.
//!
//! `TWINBLOCK_CHAOS_ROUNDS=50 TWINBLOCK_CHAOS_SEED=7 cargo test --release --test daemon chaos -- --nocapture` does more.

use crate::pair::{ALPHA, BETA, Pair};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use twinblock::runtime::demo::ledger::{BLOCK_BYTES, Ledger};
use twinblock::runtime::demo::nbd::NbdClient;

/// Clients at a time, each with its own part of the volume.
const CLIENTS: usize = 4;
/// Rounds without `TWINBLOCK_CHAOS_ROUNDS`.
const ROUNDS: u64 = 5;
/// Blocks of the largest write.
const WRITE_BLOCKS_MAX: u64 = 32;

#[test]
fn kills_under_load_lose_nothing() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let seed = number("TWINBLOCK_CHAOS_SEED", u64::from(std::process::id()));
    println!("chaos seed {seed}");
    let mut dice = Dice::new(seed);
    let mut pair = Pair::running("", "128MiB");
    let size = pair.status(ALPHA)["size_bytes"].as_u64().unwrap();
    let mut ledgers: Vec<Ledger> = (0..CLIENTS).map(|_| Ledger::new(size)).collect();
    let (mut primary, mut secondary) = (ALPHA, BETA);
    for round in 0..number("TWINBLOCK_CHAOS_ROUNDS", ROUNDS) {
        let written = Arc::new(AtomicU64::new(0));
        let clients = start(&mut pair, primary, ledgers, &mut dice, &written);
        wait_for_steps(&clients, dice.roll(600));
        let victim = if dice.roll(2) == 0 { primary } else { secondary };
        println!("round {round}: kill the {}", if victim == primary { "primary" } else { "secondary" });
        pair.kill9(victim);
        if victim == primary {
            ledgers = rest(clients);
            pair.done(secondary, &["promote", "vol0", "--timeout", "20s"]);
            (primary, secondary) = (secondary, primary);
        } else {
            wait_for_steps(&clients, dice.roll(400));
            ledgers = rest(clients);
        }
        read_back(&mut pair, primary, &mut ledgers);
        // The other one comes back while the clients are at work, and may be killed in the middle of its resync.
        let clients = start(&mut pair, primary, ledgers, &mut dice, &written);
        pair.start(secondary);
        if dice.roll(3) == 0 {
            wait_for_steps(&clients, dice.roll(300));
            pair.kill9(secondary);
            pair.start(secondary);
        }
        let status = pair.wait_in_sync(primary);
        ledgers = rest(clients);
        read_back(&mut pair, primary, &mut ledgers);
        let copied = status["last_resync"]["bytes_copied"].as_u64().unwrap_or(0);
        let written = written.load(Ordering::Relaxed);
        println!("  written {written}, copied {copied}, {}", status["last_resync"]["kind"]);
        assert_ne!(status["last_resync"]["kind"], "full", "{status}");
        if round % 3 == 2 {
            compare_disks(&mut pair, primary, secondary);
        }
    }
    compare_disks(&mut pair, primary, secondary);
}

/// The longer run of `tools/chaos` in short: depth 32, fio where it is installed, both daemons killed at once too.
#[test]
fn the_chaos_tool_finds_nothing() {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/chaos");
    let run = Command::new("python3")
        .arg(tool)
        .args(["--rounds", "10", "--binary", env!("CARGO_BIN_EXE_twinblock")])
        .output();
    let output = match run {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIPPED: tools/chaos needs python3");
            return;
        }
        run => run.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("10 rounds, ") && said.contains("none lost"), "{said}");
}

/// Stops both in order, compares the disks, and brings the pair back.
fn compare_disks(pair: &mut Pair, primary: usize, secondary: usize) {
    pair.wait_in_sync(primary);
    pair.stop_identical([secondary, primary]);
    pair.start(primary);
    pair.start(secondary);
    pair.done(primary, &["promote", "vol0", "--timeout", "30s"]);
    pair.wait_in_sync(primary);
}

struct Worker {
    rest: Arc<AtomicBool>,
    /// One message for each request that was answered; closed when the client is cut.
    answered: Receiver<()>,
    thread: JoinHandle<Ledger>,
}

/// Waits until each client had so many more requests answered, or was cut.
fn wait_for_steps(workers: &[Worker], steps: u64) {
    for worker in workers {
        let _ = (0..steps).try_for_each(|_| worker.answered.recv());
    }
}

fn start(pair: &mut Pair, node: usize, ledgers: Vec<Ledger>, dice: &mut Dice, written: &Arc<AtomicU64>) -> Vec<Worker> {
    let worker = |(index, mut ledger): (usize, Ledger)| {
        let (mut client, mut dice, written) = (pair.client(node), Dice::new(dice.roll(u64::MAX)), written.clone());
        let rest = Arc::new(AtomicBool::new(false));
        let resting = rest.clone();
        let (tell, answered) = channel();
        let thread = std::thread::spawn(move || {
            while !resting.load(Ordering::Relaxed) {
                match step(&mut client, &mut ledger, index, &mut dice) {
                    Ok(bytes) => drop(written.fetch_add(bytes, Ordering::Relaxed)),
                    Err(_) => break,
                }
                let _ = tell.send(());
            }
            ledger
        });
        Worker { rest, answered, thread }
    };
    ledgers.into_iter().enumerate().map(worker).collect()
}

fn rest(workers: Vec<Worker>) -> Vec<Ledger> {
    workers.iter().for_each(|worker| worker.rest.store(true, Ordering::Relaxed));
    workers.into_iter().map(|worker| worker.thread.join().expect("a client that found wrong data panics")).collect()
}

/// One request of a client in its own part; returns bytes written. The error is a cut connection.
fn step(client: &mut NbdClient, ledger: &mut Ledger, part: usize, dice: &mut Dice) -> std::io::Result<u64> {
    let span = ledger.blocks() / CLIENTS;
    let count = 1 + dice.roll(WRITE_BLOCKS_MAX) as usize;
    let first = part * span + dice.roll((span - count) as u64) as usize;
    let offset = (first * BLOCK_BYTES) as u64;
    match dice.roll(8) {
        0 => client.flush().map(|()| 0),
        1 | 2 => {
            let mut data = vec![0; count * BLOCK_BYTES];
            client.read(offset, &mut data)?;
            ledger.check(first, &data).unwrap();
            Ok(0)
        }
        _ => {
            let (version, data) = ledger.compose(first..first + count);
            client.write(offset, &data)?;
            ledger.acknowledge(first..first + count, version);
            Ok(data.len() as u64)
        }
    }
}

fn read_back(pair: &mut Pair, node: usize, ledgers: &mut [Ledger]) {
    const STEP: usize = 256;
    let mut client = pair.client(node);
    let span = ledgers[0].blocks() / CLIENTS;
    let mut data = vec![0; STEP * BLOCK_BYTES];
    for (part, ledger) in ledgers.iter_mut().enumerate() {
        for first in (part * span..(part + 1) * span).step_by(STEP) {
            let count = STEP.min((part + 1) * span - first);
            let data = &mut data[..count * BLOCK_BYTES];
            client.read((first * BLOCK_BYTES) as u64, data).unwrap();
            if let Err(wrong) = ledger.check(first, data) {
                panic!("{wrong}\n{}", pair.logs());
            }
        }
    }
    client.disconnect();
}

struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides.max(1)
    }
}
