//! Clients in the town who never stop asking, and how long they had to wait.

use super::client::{Dice, Tally, step};
use super::ledger::Ledger;
use super::nbd::NbdClient;
use super::pair::VOLUME;
use super::town::{FLOATING, NBD, SERVICE};
use crate::io::namespace::Namespace;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Patience with a connection: who gets no answer tries again, as the address may have moved.
const CONNECT_TIME: Duration = Duration::from_millis(200);
/// Patience with an answer. A server that vanishes sends none.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// Patience with the address alone.
const REACH_TIME: Duration = Duration::from_millis(20);
/// Nobody listens there, on either server.
const UNUSED_PORT: u16 = 1;
/// Pause before the next connection.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// Pause between two requests: they are to be there, not to load the machine.
const PAUSE: Duration = Duration::from_millis(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// When good answers came.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Beats>>);

#[derive(Debug, Default)]
struct Beats {
    last: Option<Instant>,
    /// The longest time between two since the mark.
    longest: Duration,
    /// On which connection the last one came.
    connection: u64,
    count: u64,
}

/// A moment from which on the longest wait counts.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    connection: u64,
}

impl Pulse {
    fn beat(&self, connection: u64) {
        let mut beats = self.lock();
        let now = Instant::now();
        if let Some(last) = beats.last {
            beats.longest = beats.longest.max(now - last);
        }
        (beats.last, beats.connection) = (Some(now), connection);
        beats.count += 1;
    }

    /// From here on.
    pub fn mark(&self) -> Mark {
        let mut beats = self.lock();
        beats.longest = Duration::ZERO;
        Mark { connection: beats.connection }
    }

    /// The longest wait since a mark, as soon as an answer has come on another connection than then; `None` when that does not
    /// happen in time.
    pub fn wait_back(&self, mark: Mark, longest: Duration) -> Option<Duration> {
        let deadline = Instant::now() + longest;
        loop {
            {
                let beats = self.lock();
                if beats.connection > mark.connection {
                    return Some(beats.longest);
                }
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Waits for so many answers more; whether they came in time.
    pub fn wait_more(&self, count: u64, longest: Duration) -> bool {
        let (goal, deadline) = (self.lock().count + count, Instant::now() + longest);
        while self.lock().count < goal {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Beats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client on a thread of its own.
pub struct Asking<T> {
    /// When it got answers.
    pub pulse: Pulse,
    rest: Arc<AtomicBool>,
    thread: JoinHandle<T>,
}

/// How a writer ended.
pub struct Written {
    /// What it was told.
    pub ledger: Ledger,
    /// What it did.
    pub tally: Tally,
    /// A wrong block, if one was read.
    pub wrong: Option<String>,
}

impl<T: Send + 'static> Asking<T> {
    fn start(space: &Arc<Namespace>, ask: impl FnOnce(&Pulse, &AtomicBool) -> T + Send + 'static) -> Asking<T> {
        let (pulse, rest) = (Pulse::default(), Arc::<AtomicBool>::default());
        let (own, space, resting) = (pulse.clone(), space.clone(), rest.clone());
        let thread = std::thread::spawn(move || {
            if let Err(error) = space.enter() {
                tracing::error!("a client is outside of its network: {error}");
            }
            ask(&own, &resting)
        });
        Asking { pulse, rest, thread }
    }

    /// Lets it rest.
    pub fn end(self) -> T {
        self.rest.store(true, Ordering::Relaxed);
        self.thread.join().expect("a demo's client has no reason to panic")
    }
}

/// Writes known data over NBD to the floating address, reads some of it back, and connects again whenever it is cut.
pub fn write_on(space: &Arc<Namespace>, mut ledger: Ledger, mut dice: Dice) -> Asking<Written> {
    Asking::start(space, move |pulse, rest| {
        let (mut tally, mut wrong, mut connection) = (Tally::default(), None, 0);
        while !rest.load(Ordering::Relaxed) && wrong.is_none() {
            let Ok(mut client) = NbdClient::connect_within(NBD, VOLUME, CONNECT_TIME, ANSWER_TIME) else {
                std::thread::sleep(RETRY_PAUSE);
                continue;
            };
            connection += 1;
            while !rest.load(Ordering::Relaxed) {
                let before = tally.writes;
                match step(&mut client, &mut ledger, &mut dice, &mut tally) {
                    Ok(Ok(())) if tally.writes > before => pulse.beat(connection),
                    Ok(Ok(())) => {}
                    Ok(Err(block)) => {
                        wrong = Some(block);
                        break;
                    }
                    Err(_) => break,
                }
                std::thread::sleep(PAUSE);
            }
        }
        Written { ledger, tally, wrong }
    })
}

/// Asks the counting service again and again; the last number it was given, or what is wrong with one.
pub fn count_on(space: &Arc<Namespace>) -> Asking<Result<u64, String>> {
    Asking::start(space, |pulse, rest| {
        let (mut asked, mut given, mut connection) = (0, 0, 0);
        while !rest.load(Ordering::Relaxed) {
            let Ok(mut lines) = connect_service() else {
                std::thread::sleep(RETRY_PAUSE);
                continue;
            };
            connection += 1;
            while !rest.load(Ordering::Relaxed) {
                asked += 1;
                let Ok(number) = ask(&mut lines) else { break };
                if number <= given || number > asked {
                    let words = format!("the service gave {number} after {given}, to the question number {asked}");
                    return Err(words);
                }
                given = number;
                pulse.beat(connection);
                std::thread::sleep(PAUSE * 4);
            }
        }
        Ok(given)
    })
}

/// Asks for the floating address alone: a port nobody listens at is refused as soon as the address is reached.
pub fn reach_on(space: &Arc<Namespace>) -> Asking<()> {
    Asking::start(space, |pulse, rest| {
        let to = SocketAddr::new(FLOATING, UNUSED_PORT);
        // Each time it could not be reached counts as a connection that was lost.
        let mut losses = 0;
        let mut reached = false;
        while !rest.load(Ordering::Relaxed) {
            match TcpStream::connect_timeout(&to, REACH_TIME) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    pulse.beat(losses);
                    reached = true;
                }
                _ => losses += u64::from(std::mem::take(&mut reached)),
            }
            std::thread::sleep(PAUSE);
        }
    })
}

fn connect_service() -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&SERVICE, CONNECT_TIME)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn ask(lines: &mut BufReader<TcpStream>) -> io::Result<u64> {
    lines.get_mut().write_all(b"next\n")?;
    let mut line = String::new();
    lines.read_line(&mut line)?;
    line.trim().parse().map_err(|_| io::ErrorKind::UnexpectedEof.into())
}
