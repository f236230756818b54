//! The demo's application: writes known data at random places, reads it back, and stops at nothing but a cut
//! connection. It runs on a thread of its own until it is told to rest.

use super::ledger::{BLOCK_BYTES, Ledger};
use super::nbd::NbdClient;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for a server to accept a client after it became primary.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Blocks of the largest random write.
const WRITE_BLOCKS_MAX: usize = 32;
/// Requests between two flushes.
const FLUSH_EVERY: u64 = 64;
/// Blocks read at once when everything is read back.
const READ_BLOCKS: usize = 256;
/// Pause after each request of the running client: it is to be there, not to load the machine.
const PAUSE: Duration = Duration::from_micros(500);

/// What a client did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Their bytes.
    pub bytes_written: u64,
    /// Bytes read and found right.
    pub bytes_verified: u64,
}

/// Connects to the volume, trying again while the server is still becoming primary.
pub fn connect(address: SocketAddr, export: &str) -> Result<NbdClient, String> {
    let deadline = Instant::now() + CONNECT_TIME_MAX;
    loop {
        match NbdClient::connect(address, export) {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() >= deadline => {
                return Err(format!("no NBD connection to {address}: {error}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Writes these bytes of known data one after the other, from the start of the volume, and flushes.
pub fn fill(client: &mut NbdClient, ledger: &mut Ledger, bytes: u64) -> io::Result<()> {
    let last = (bytes / BLOCK_BYTES as u64) as usize;
    for first in (0..last).step_by(READ_BLOCKS) {
        write(client, ledger, first, READ_BLOCKS.min(last - first))?;
    }
    client.flush()
}

/// Writes random blocks until so many bytes were acknowledged, and flushes.
pub fn scatter(client: &mut NbdClient, ledger: &mut Ledger, dice: &mut Dice, bytes: u64) -> io::Result<Tally> {
    let mut tally = Tally::default();
    while tally.bytes_written < bytes {
        let (first, count) = dice.blocks(ledger);
        write(client, ledger, first, count)?;
        tally.writes += 1;
        tally.bytes_written += (count * BLOCK_BYTES) as u64;
    }
    client.flush()?;
    Ok(tally)
}

/// Reads the whole volume and checks every block. The outer error is the connection's, the inner one the data's.
pub fn read_back(client: &mut NbdClient, ledger: &mut Ledger) -> io::Result<Result<u64, String>> {
    let mut data = vec![0; READ_BLOCKS * BLOCK_BYTES];
    for first in (0..ledger.blocks()).step_by(READ_BLOCKS) {
        let count = READ_BLOCKS.min(ledger.blocks() - first);
        let data = &mut data[..count * BLOCK_BYTES];
        client.read((first * BLOCK_BYTES) as u64, data)?;
        if let Err(wrong) = ledger.check(first, data) {
            return Ok(Err(wrong));
        }
    }
    Ok(Ok(ledger.bytes_known()))
}

/// A client at work on its own thread.
pub struct Running {
    rest: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    thread: JoinHandle<Ended>,
}

/// How a running client ended.
pub struct Ended {
    /// The connection, unless it was cut.
    pub client: Option<NbdClient>,
    /// The ledger.
    pub ledger: Ledger,
    /// The dice.
    pub dice: Dice,
    /// What it did.
    pub tally: Tally,
    /// A wrong block, if one was read.
    pub wrong: Option<String>,
}

impl Running {
    /// Sets a client to work: three writes for one read that is checked.
    pub fn start(mut client: NbdClient, mut ledger: Ledger, mut dice: Dice) -> Running {
        let rest = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (resting, counted) = (rest.clone(), tally.clone());
        let thread = std::thread::spawn(move || {
            let mut wrong = None;
            let mut cut = false;
            while wrong.is_none() && !cut && !resting.load(Ordering::Relaxed) {
                let mut tally = *counted.lock().expect("a tally is never left in the middle");
                match step(&mut client, &mut ledger, &mut dice, &mut tally) {
                    Ok(Ok(())) => {}
                    Ok(Err(block)) => wrong = Some(block),
                    Err(_) => cut = true,
                }
                *counted.lock().expect("a tally is never left in the middle") = tally;
                std::thread::sleep(PAUSE);
            }
            let tally = *counted.lock().expect("a tally is never left in the middle");
            Ended { client: (!cut).then_some(client), ledger, dice, tally, wrong }
        });
        Running { rest, tally, thread }
    }

    /// What it has done so far.
    pub fn tally(&self) -> Tally {
        *self.tally.lock().expect("a tally is never left in the middle")
    }

    /// Lets it rest, or finds out how it ended.
    pub fn end(self) -> Ended {
        self.rest.store(true, Ordering::Relaxed);
        self.thread.join().expect("the demo's client has no reason to panic")
    }
}

/// One request: three writes for one read that is checked. The outer error is the connection's, the inner one the data's.
pub(super) fn step(
    client: &mut NbdClient,
    ledger: &mut Ledger,
    dice: &mut Dice,
    tally: &mut Tally,
) -> io::Result<Result<(), String>> {
    let (first, count) = dice.blocks(ledger);
    if dice.roll(4) == 0 {
        let mut data = vec![0; count * BLOCK_BYTES];
        client.read((first * BLOCK_BYTES) as u64, &mut data)?;
        if let Err(wrong) = ledger.check(first, &data) {
            return Ok(Err(wrong));
        }
        tally.bytes_verified += data.len() as u64;
        return Ok(Ok(()));
    }
    write(client, ledger, first, count)?;
    tally.writes += 1;
    tally.bytes_written += (count * BLOCK_BYTES) as u64;
    if tally.writes.is_multiple_of(FLUSH_EVERY) {
        client.flush()?;
    }
    Ok(Ok(()))
}

fn write(client: &mut NbdClient, ledger: &mut Ledger, first: usize, count: usize) -> io::Result<()> {
    let blocks = first..first + count;
    let (version, data) = ledger.compose(blocks.clone());
    client.write((first * BLOCK_BYTES) as u64, &data)?;
    ledger.acknowledge(blocks, version);
    Ok(())
}

/// Random choices from a fixed seed: every demo does the same.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// Some blocks of the first half of the volume; the other half stays blank.
    fn blocks(&mut self, ledger: &Ledger) -> (usize, usize) {
        let count = 1 + self.roll(WRITE_BLOCKS_MAX as u64) as usize;
        let first = self.roll((ledger.blocks() / 2 - count) as u64) as usize;
        (first, count)
    }
}
