//! Child processes of a bench, and whether there is room for it.

use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::demo::ward::{Member, Ward};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time a child has to do what it was started for.
pub(super) const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Copies of the volume: of the pair, of the pair beside it, and of the disk by itself.
const COPIES: u64 = 6;
/// Room for metadata and the machine's own needs.
const ROOM_LEFT_BYTES: u64 = 512 << 20;
/// Longest path of a directory: the name of a socket in it must fit the 108 bytes a Unix socket's name may have.
const PATH_BYTES_MAX: usize = 60;

/// Whether a directory can hold the volumes of both pairs. The reason if not.
pub(super) fn check_room(medium: &str, directory: &Path, size_bytes: u64) -> Result<(), String> {
    let shown = directory.display();
    let room = statfs(directory).map_err(|error| format!("{shown} can't be used: {error}"))?;
    let in_memory = room.filesystem_type() == TMPFS_MAGIC;
    match medium {
        "tmpfs" if !in_memory => return Err(format!("{shown} is on no tmpfs (name one with --tmpfs)")),
        "disk" if in_memory => return Err(format!("{shown} is in memory (name a directory on disk with --dir)")),
        _ => {}
    }
    if directory.as_os_str().len() > PATH_BYTES_MAX {
        return Err(format!("{shown} is too long a path for the sockets in it"));
    }
    let needed = COPIES * size_bytes + ROOM_LEFT_BYTES;
    let free = room.blocks_available() * room.block_size() as u64;
    if free < needed {
        let (free, needed) = (free >> 20, needed >> 20);
        return Err(format!("{shown} has {free} MiB free and {needed} MiB are needed (or a smaller --size)"));
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
    member: Member,
    log: PathBuf,
}

impl Process {
    /// Starts a command; what it says goes to `log`.
    pub fn start(mut command: Command, log: PathBuf, ward: &Ward) -> Result<Process, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        let fail = |error: std::io::Error| Failure::new(Exit::Failed, format!("{name} can't be started: {error}"));
        let output = fs::File::create(&log).map_err(fail)?;
        let errors = output.try_clone().map_err(fail)?;
        let member = ward.start(command.stdin(Stdio::null()).stdout(output).stderr(errors)).map_err(fail)?;
        Ok(Process { name, member, log })
    }

    /// Waits until `is_ready`, which looks from time to time.
    pub fn wait_until(&mut self, what: &str, mut is_ready: impl FnMut() -> bool) -> Result<(), Failure> {
        let started = Instant::now();
        while !is_ready() {
            let ended = self.member.ended();
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

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.member.id()
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

/// The most memory a process has ever had, in bytes.
pub(super) fn resident_bytes_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

/// `sysconf(_SC_CLK_TCK)`, which is this on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing of a throw-away process is worth keeping.
        self.member.kill();
    }
}
