//! Child processes of a bench, and whether there is room for it.

use crate::runtime::cli::exit::{Exit, Failure};
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time a child has to end in order before it is killed.
const END_TIME_MAX: Duration = Duration::from_secs(5);
/// Time a child has to do what it was started for.
pub(super) const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Four copies of the volume, and room for metadata and the machine's own needs.
const COPIES: u64 = 4;
const ROOM_LEFT_BYTES: u64 = 512 << 20;

/// Whether a directory can hold the volumes of both pairs. The reason if not.
pub(super) fn check_room(medium: &str, directory: &Path, size_bytes: u64) -> Result<(), String> {
    let shown = directory.display();
    let room = statvfs(directory).map_err(|error| format!("{shown} can't be used: {error}"))?;
    let is_memory = fs::read_to_string("/proc/mounts").unwrap_or_default().lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == directory.to_str() && words.next() == Some("tmpfs")
    });
    if medium == "tmpfs" && !is_memory {
        return Err(format!("{shown} is no tmpfs mount (name one with --tmpfs)"));
    }
    let needed = COPIES * size_bytes + ROOM_LEFT_BYTES;
    let free = room.blocks_available() * room.fragment_size();
    if free < needed {
        return Err(format!(
            "{shown} has {} MiB free and {} MiB are needed (or a smaller --size)",
            free >> 20,
            needed >> 20
        ));
    }
    Ok(())
}

/// A TCP port of the loopback that was free a moment ago.
pub(super) fn free_port() -> Result<u16, Failure> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    port.map(|address| address.port())
        .map_err(|error| Failure::new(Exit::Failed, format!("no TCP port of 127.0.0.1 is free: {error}")))
}

/// A process that ends with its owner.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command; what it says goes to `log`.
    pub fn start(mut command: Command, log: PathBuf) -> Result<Process, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        let fail = |error: std::io::Error| Failure::new(Exit::Failed, format!("{name} can't be started: {error}"));
        let output = fs::File::create(&log).map_err(fail)?;
        let errors = output.try_clone().map_err(fail)?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().map_err(fail)?;
        Ok(Process { name, child, log })
    }

    /// Waits until `is_ready`, which looks from time to time.
    pub fn wait_until(&mut self, what: &str, mut is_ready: impl FnMut() -> bool) -> Result<(), Failure> {
        let started = Instant::now();
        while !is_ready() {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || started.elapsed() > START_TIME_MAX {
                let how = ended.map_or("is not ready in time".to_owned(), |status| format!("ended with {status}"));
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                let words = format!("{} {how} while waiting for {what}; it said: {}", self.name, said.trim());
                return Err(Failure::new(Exit::Failed, words));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Processor seconds it has used.
    pub fn processor_seconds(&self) -> f64 {
        processor_seconds_of(self.child.id())
    }
}

/// Processor seconds a process has used so far, in user and kernel mode, its threads included.
pub(super) fn processor_seconds_of(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the command may hold anything, brackets too; what follows the last one is numbers.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// `sysconf(_SC_CLK_TCK)`, which is this on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

impl Drop for Process {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let asked = Instant::now();
        // Not ours any more if it was waited for: then nothing is sent.
        while let Ok(None) = self.child.try_wait() {
            let signal = if asked.elapsed() < END_TIME_MAX { Signal::SIGTERM } else { Signal::SIGKILL };
            if kill(pid, signal).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
