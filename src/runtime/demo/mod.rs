//! `demo`: what twinblock is for, on one machine, in under a minute.
//!
//! As root first a failover group (`floating`): two servers, a client and a witness in network namespaces, a floating
//! address and a service that move by order and by themselves. Then, and without root only, a pair by hand: two daemons as
//! child processes, one volume on two files, a client that writes known data and keeps verifying it. The secondary is
//! killed and returns; the primary is killed, the other takes over, the old one returns. In the end of either part both
//! disks are compared byte for byte. Anything wrong is told, and the exit code is not 0. Nothing is left behind.

pub mod ledger;
pub mod nbd;

pub mod ward;

pub mod pair;

mod client;

pub mod counter;
pub mod pulse;
pub mod town;

mod yardstick;

mod floating;

use self::client::{Dice, Running, Tally};
use self::ledger::Ledger;
use self::nbd::NbdClient;
use self::pair::{NODES, Pair, VOLUME};
use self::ward::Ward;
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::config::units::{show_size, show_time};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Size of the demo's disks.
const DISK_SIZE: &str = "256MiB";
/// Known data written at first, in bytes.
const FILL_BYTES: u64 = 96 << 20;
/// Written while a server is away, in bytes.
const AWAY_BYTES: u64 = 12 << 20;
/// Time the client works before a server is killed.
const WORK_TIME: Duration = Duration::from_millis(700);

/// Runs the demo in a directory of its own below `parent` (the system's directory for temporary files by default).
/// With `rounds` only the part with the group, so many times, and its figures; with `keepalived` beside it in the same run.
pub fn demo(parent: Option<PathBuf>, rounds: Option<u32>, keepalived: bool) -> Result<Exit, Failure> {
    let ward = Ward::default();
    ward.end_when_interrupted()?;
    let started = Instant::now();
    let parent = parent.unwrap_or_else(std::env::temp_dir);
    let result = play(&parent, &ward, rounds, keepalived);
    ward.close();
    result?;
    say!("\nEverything acknowledged was there, both disks are the same. {} in all.", show_time(started.elapsed()));
    Ok(Exit::Done)
}

fn play(parent: &Path, ward: &Ward, rounds: Option<u32>, keepalived: bool) -> Result<(), Failure> {
    let step = match floating::missing() {
        None => floating::show(parent, ward, rounds, keepalived)?,
        Some(why) if rounds.is_some() => {
            return Err(Failure::new(Exit::Refused, format!("the figures can't be taken: {why}")));
        }
        Some(why) => {
            say!("The part with a failover group and a floating address is left out: {why}.");
            0
        }
    };
    if rounds.is_some() {
        return Ok(());
    }
    let pair = Pair::new(parent, "demo", ward)?;
    Show { pair, step }.play()
}

/// The part by hand, step by step.
struct Show {
    pair: Pair,
    step: u32,
}

/// The application: its connection, and what it was told.
struct Application {
    client: NbdClient,
    ledger: Ledger,
    dice: Dice,
}

impl Show {
    fn play(mut self) -> Result<(), Failure> {
        say!(
            "\nTwo servers on this machine without a group, one volume mirrored between them; files in {}",
            self.pair.folder.display()
        );
        self.make_pair()?;
        let application = self.first_data()?;
        let application = self.secondary_dies(application)?;
        let application = self.primary_dies(application)?;
        self.compare(application)
    }

    /// Two blank disks, two daemons: in sync without copying.
    fn make_pair(&mut self) -> Result<(), Failure> {
        self.say("make two disks, start two daemons");
        let started = Instant::now();
        for node in 0..NODES.len() {
            self.pair.verb(node, &["init-disk", VOLUME, "--size", DISK_SIZE])?;
        }
        for node in 0..NODES.len() {
            self.pair.start(node)?;
        }
        let status = self.pair.wait_in_sync(0)?;
        let size = show_size(number(&status, "/size_bytes"));
        self.tell(format!("{VOLUME}: {size}, in sync after {}: blank disks need no copying", since(started)));
        Ok(())
    }

    /// The first server serves; known data is written and read back.
    fn first_data(&mut self) -> Result<Application, Failure> {
        self.say("promote alpha, and write known data to it over NBD");
        self.pair.verb(0, &["promote", VOLUME])?;
        let client = self.connect(0)?;
        let ledger = Ledger::new(client.size_bytes);
        let mut application = Application { client, ledger, dice: Dice(0x7477_696e_626c_6f63) };
        let started = Instant::now();
        let filled = client::fill(&mut application.client, &mut application.ledger, FILL_BYTES);
        filled.map_err(|error| self.cut("writing", &error))?;
        let rate = FILL_BYTES as f64 / started.elapsed().as_secs_f64();
        self.tell(format!(
            "{} written and flushed on both servers in {}, {}/s",
            show_size(FILL_BYTES),
            since(started),
            show_size(rate as u64)
        ));
        self.read_back(&mut application)?;
        Ok(application)
    }

    /// The secondary is killed while the client works, and returns.
    fn secondary_dies(&mut self, application: Application) -> Result<Application, Failure> {
        self.say("kill -9 the daemon of beta while the client works");
        let running = Running::start(application.client, application.ledger, application.dice);
        std::thread::sleep(WORK_TIME);
        self.pair.kill(1);
        let before = running.tally();
        std::thread::sleep(WORK_TIME);
        let (mut application, tally) = self.resting(running)?;
        let away = client::scatter(&mut application.client, &mut application.ledger, &mut application.dice, AWAY_BYTES);
        let away = away.map_err(|error| self.cut("writing to alpha alone", &error))?;
        let status = self.pair.status(0)?;
        let alone = tally.bytes_written - before.bytes_written + away.bytes_written;
        self.tell(format!(
            "the client noticed nothing: {} writes before, then {} more written by alpha alone",
            before.writes,
            show_size(alone)
        ));
        self.tell(format!("recorded as differing: {}", show_size(number(&status, "/dirty_bytes"))));

        self.say("start the daemon of beta again, the client goes on");
        let running = Running::start(application.client, application.ledger, application.dice);
        let started = Instant::now();
        self.pair.start(1)?;
        let status = self.pair.wait_in_sync(0)?;
        self.tell_resync(&status, started)?;
        let (mut application, tally) = self.resting(running)?;
        self.tell(format!("the client wrote {} meanwhile", show_size(tally.bytes_written)));
        self.read_back(&mut application)?;
        Ok(application)
    }

    /// The primary is killed in the middle of writing, the other takes over, the old one returns.
    fn primary_dies(&mut self, application: Application) -> Result<Application, Failure> {
        self.say("kill -9 the daemon of alpha, the primary, in the middle of writing");
        let running = Running::start(application.client, application.ledger, application.dice);
        std::thread::sleep(WORK_TIME);
        let started = Instant::now();
        self.pair.kill(0);
        let ended = running.end();
        self.right(ended.wrong)?;
        self.tell(format!(
            "{} writes, {} were acknowledged until then",
            ended.tally.writes,
            show_size(ended.tally.bytes_written)
        ));

        self.say("promote beta");
        self.pair.verb(1, &["promote", VOLUME])?;
        let client = self.connect(1)?;
        self.tell(format!("beta serves {} after the crash", since(started)));
        let mut application = Application { client, ledger: ended.ledger, dice: ended.dice };
        self.read_back(&mut application)?;
        let written =
            client::scatter(&mut application.client, &mut application.ledger, &mut application.dice, AWAY_BYTES);
        let written = written.map_err(|error| self.cut("writing to beta alone", &error))?;
        self.tell(format!("{} more written by beta alone", show_size(written.bytes_written)));

        self.say("start the daemon of alpha again");
        let started = Instant::now();
        self.pair.start(0)?;
        let status = self.pair.wait_in_sync(1)?;
        self.tell_resync(&status, started)?;
        self.read_back(&mut application)?;
        Ok(application)
    }

    /// Both files hold the same, and it is what the client was told.
    fn compare(&mut self, mut application: Application) -> Result<(), Failure> {
        self.say("stop both daemons, and compare the two disks byte for byte");
        application.client.disconnect();
        self.pair.stop(1)?;
        self.pair.stop(0)?;
        let paths = NODES.map(|node| self.pair.folder.join(format!("{node}.img")));
        let compared = compare_files(&paths, &mut application.ledger);
        let bytes = compared.map_err(|words| self.pair.failure(words))?;
        self.tell(format!("{} compared, the same on both, and what the client was told", show_size(bytes)));
        Ok(())
    }

    fn say(&mut self, words: &str) {
        self.step += 1;
        say!("\n{}. {words}", self.step);
    }

    fn tell(&self, words: String) {
        say!("   {words}");
    }

    fn tell_resync(&self, status: &serde_json::Value, started: Instant) -> Result<(), Failure> {
        let word = |key: &str| status.pointer(key).and_then(|value| value.as_str()).unwrap_or("?").to_string();
        let (copied, size) = (number(status, "/last_resync/bytes_copied"), number(status, "/size_bytes"));
        self.tell(format!(
            "{} resync: {} copied of {} ({:.1} %), {} found equal, in {} ({} with the start of the daemon)",
            word("/last_resync/kind"),
            show_size(copied),
            show_size(size),
            100.0 * copied as f64 / size.max(1) as f64,
            show_size(number(status, "/last_resync/bytes_equal")),
            show_time(Duration::from_millis(number(status, "/last_resync/milliseconds"))),
            since(started)
        ));
        self.tell(format!("reason: {}", word("/last_resync/reason")));
        if word("/last_resync/kind") != "differential" || copied >= size / 2 {
            return Err(self.pair.failure(format!("the resync was not one of the differences only: {status}")));
        }
        Ok(())
    }

    fn read_back(&self, application: &mut Application) -> Result<(), Failure> {
        let started = Instant::now();
        let read = client::read_back(&mut application.client, &mut application.ledger);
        let known = read.map_err(|error| self.cut("reading back", &error))?;
        let known = known.map_err(|wrong| self.pair.failure(format!("WRONG DATA: {wrong}")))?;
        self.tell(format!("all {} of known data read back and right, in {}", show_size(known), since(started)));
        Ok(())
    }

    fn connect(&self, node: usize) -> Result<NbdClient, Failure> {
        client::connect(self.pair.nbd[node], VOLUME).map_err(|words| self.pair.failure(words))
    }

    fn resting(&self, running: Running) -> Result<(Application, Tally), Failure> {
        let ended = running.end();
        self.right(ended.wrong)?;
        match ended.client {
            Some(client) => Ok((Application { client, ledger: ended.ledger, dice: ended.dice }, ended.tally)),
            None => Err(self.pair.failure("the client was cut off by a server that was not killed".into())),
        }
    }

    fn right(&self, wrong: Option<String>) -> Result<(), Failure> {
        match wrong {
            Some(wrong) => Err(self.pair.failure(format!("WRONG DATA: {wrong}"))),
            None => Ok(()),
        }
    }

    fn cut(&self, what: &str, error: &std::io::Error) -> Failure {
        self.pair.failure(format!("{what} failed: {error}"))
    }
}

/// Compares the volume's part of two disks, and what it holds with the ledger. The error says where they differ.
fn compare_files(paths: &[PathBuf; 2], ledger: &mut Ledger) -> Result<u64, String> {
    let open = |path: &Path| std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()));
    let mut files = [open(&paths[0])?, open(&paths[1])?];
    let step = ledger::BLOCK_BYTES * 256;
    let (mut ours, mut theirs) = (vec![0; step], vec![0; step]);
    let blocks = ledger.blocks();
    for first in (0..blocks).step_by(256) {
        let bytes = ledger::BLOCK_BYTES * 256.min(blocks - first);
        for (file, buffer) in files.iter_mut().zip([&mut ours, &mut theirs]) {
            file.read_exact(&mut buffer[..bytes]).map_err(|error| format!("a disk can't be read: {error}"))?;
        }
        if let Some(at) = (0..bytes).find(|at| ours[*at] != theirs[*at]) {
            let offset = (first * ledger::BLOCK_BYTES + at) as u64;
            return Err(format!("THE DISKS DIFFER at byte {offset} (block {})", offset / ledger::BLOCK_BYTES as u64));
        }
        ledger.check(first, &ours[..bytes]).map_err(|wrong| format!("WRONG DATA on both disks: {wrong}"))?;
    }
    Ok((blocks * ledger::BLOCK_BYTES) as u64)
}

fn since(started: Instant) -> String {
    show_time(started.elapsed())
}

fn number(status: &serde_json::Value, key: &str) -> u64 {
    status.pointer(key).and_then(|value| value.as_u64()).unwrap_or(0)
}
