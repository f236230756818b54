//! The demo's small service: a counter kept in the last block of the volume, one line in, one number out.
//!
//! What it has answered is flushed on both servers before, so no number it gave away may ever be given again, or be missing.

use super::ledger::BLOCK_BYTES;
use super::nbd::NbdClient;
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::daemon::die_with_parent;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait for volume and address, which the group has brought up before.
const START_TIME_MAX: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Longest line taken from a client, in bytes.
const LINE_BYTES_MAX: u64 = 64;

/// The counter, on the volume.
struct Counter {
    client: NbdClient,
    offset: u64,
    value: u64,
}

/// Serves until it is ended. `volume` is `ADDRESS/EXPORT`.
pub fn serve(volume: &str, listen: SocketAddr) -> Result<Exit, Failure> {
    die_with_parent()?;
    let failed = |what: &str, error: io::Error| Failure::new(Exit::Failed, format!("{what}: {error}"));
    let (address, export) = volume
        .split_once('/')
        .and_then(|(address, export)| Some((address.parse::<SocketAddr>().ok()?, export)))
        .ok_or_else(|| Failure::new(Exit::Usage, format!("{volume:?} is not ADDRESS/EXPORT")))?;
    let client = again(|| NbdClient::connect(address, export)).map_err(|error| failed("the volume", error))?;
    let counter = Counter::read(client).map_err(|error| failed("reading the counter", error))?;
    let listener = again(|| TcpListener::bind(listen)).map_err(|error| failed("listening", error))?;
    let counter = Arc::new(Mutex::new(counter));
    for client in listener.incoming() {
        let client = client.map_err(|error| failed("a client", error))?;
        let counter = counter.clone();
        std::thread::spawn(move || {
            // A client that left, or a volume that did: the group looks after both.
            let _ = answer(client, &counter);
        });
    }
    Ok(Exit::Done)
}

fn answer(client: TcpStream, counter: &Mutex<Counter>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut lines = BufReader::new(client.try_clone()?);
    let mut client = client;
    loop {
        let mut line = Vec::new();
        if io::Read::take(&mut lines, LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let value = counter.lock().unwrap_or_else(PoisonError::into_inner).count();
        match value {
            Ok(value) => client.write_all(format!("{value}\n").as_bytes())?,
            // Without its volume the service is of no use: its end has it started anew.
            Err(_) => std::process::exit(1),
        }
    }
}

impl Counter {
    fn read(mut client: NbdClient) -> io::Result<Counter> {
        let offset = client.size_bytes - BLOCK_BYTES as u64;
        let mut block = [0; BLOCK_BYTES];
        client.read(offset, &mut block)?;
        let value = u64::from_le_bytes(block[..8].try_into().expect("eight bytes"));
        Ok(Counter { client, offset, value })
    }

    /// The next number, durable on both servers.
    fn count(&mut self) -> io::Result<u64> {
        let next = self.value + 1;
        let mut block = [0; BLOCK_BYTES];
        block[..8].copy_from_slice(&next.to_le_bytes());
        self.client.write(self.offset, &block)?;
        self.client.flush()?;
        self.value = next;
        Ok(next)
    }
}

fn again<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + START_TIME_MAX;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(RETRY_PAUSE),
            done => return done,
        }
    }
}
