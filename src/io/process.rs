//! Programs run for the daemon: each in a process group of its own, ended with all its members, its output kept short.
//!
//! A child dies with the daemon: it asked the kernel to be killed when its parent ends (PR_SET_PDEATHSIG, kernel-notes/0009),
//! which by the kernel's rule means the thread that spawned it. So programs are spawned on the daemon's main thread only.
//! What a program itself left running is found by a mark in its environment, however often it forked or whatever session
//! and group it is in.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout_at};

/// Bytes of a program's output that are kept: the last ones, where the reason of a failure stands.
const OUTPUT_BYTES_MAX: usize = 4096;
/// Time before its deadline at which a program is asked to end (SIGTERM), at most; a quarter of its time, at most.
const ASK_BEFORE_MAX: Duration = Duration::from_secs(2);
/// Outputs read at a time: of programs that run, and of what ended programs left running. Beyond it an output is closed.
const DRAINS_MAX: usize = 512;
/// Time the rest of the output is waited for when a program has ended.
const REST_TIME_MAX: Duration = Duration::from_millis(50);
/// Time between two looks whether a group is gone.
const GROUP_LOOK: Duration = Duration::from_millis(5);
/// Variable that marks what belongs to a resource.
pub const MARK: &str = "TWINBLOCK_RUN";

static DRAINS: AtomicUsize = AtomicUsize::new(0);

/// A program to run.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Its file; looked up in PATH when it has no slash.
    pub file: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables set beside the daemon's own.
    pub environment: Vec<(String, String)>,
    /// By which what it leaves running is found.
    pub mark: String,
}

/// How a program that was run ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its end; `None` when it was killed at its deadline.
    pub status: Option<ExitStatus>,
    /// The last of what it wrote to standard output and standard error.
    pub output: String,
}

/// A program that runs, with its process group. Dropping it kills the group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// The child's id, which is its group's; `None` when it was waited for.
    group: Option<i32>,
    output: Arc<Mutex<Tail>>,
}

/// The end of an output.
#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
    dropped: bool,
    ended: bool,
}

/// Starts a program. On the daemon's main thread, inside its runtime.
pub fn spawn(program: &Program) -> io::Result<Running> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(&program.file);
    command
        .args(&program.arguments)
        .envs(program.environment.iter().map(|(name, value)| (name, value)))
        .env(MARK, &program.mark)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let parent = std::process::id() as i32;
    // SAFETY: the closure makes only system calls that are allowed between fork and exec; it allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Err(io::Error::last_os_error());
            }
            // The daemon may have ended before that took hold.
            if libc::getppid() != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
    let child = command.spawn()?;
    // The command holds the pipe's writing end.
    drop(command);
    let output = Arc::new(Mutex::new(Tail::default()));
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    tokio::spawn(read_tail(reader, output.clone()));
    let group = child.id().map(|id| id as i32);
    Ok(Running { child, group, output })
}

/// Runs a program to its end, by `deadline` at the latest: shortly before it the program is asked to end, then it is killed
/// with its process group.
pub async fn run(program: &Program, deadline: Instant) -> io::Result<Finished> {
    let began = Instant::now();
    let mut running = spawn(program)?;
    let whole = deadline.saturating_duration_since(began);
    let ask_at = deadline - ASK_BEFORE_MAX.min(whole / 4);
    if let Ok(status) = timeout_at(ask_at, running.wait()).await {
        let status = Some(status?);
        return Ok(Finished { status, output: running.rest().await });
    }
    running.signal(libc::SIGTERM);
    // However it ends from here on, it did not end in its time.
    let _ = timeout_at(deadline, running.wait_for_all()).await;
    running.kill().await;
    Ok(Finished { status: None, output: running.rest().await })
}

impl Running {
    /// The process's id; `None` when it has ended and that was noticed.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for the program's end. What it left running goes on.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.group = None;
        Ok(status)
    }

    /// Sends a signal to the whole group.
    pub fn signal(&self, signal: i32) {
        if let Some(group) = self.group {
            // SAFETY: kill takes no pointers; the group is ours as long as its leader has not been waited for.
            unsafe { libc::kill(-group, signal) };
        }
    }

    /// Waits until every member of the group has ended, the leader last.
    pub async fn wait_for_all(&mut self) {
        let Some(group) = self.group else { return };
        loop {
            let others = members(group).into_iter().any(|id| id != group);
            if !others && is_zombie(group) {
                let _ = self.wait().await;
                return;
            }
            tokio::time::sleep(GROUP_LOOK).await;
        }
    }

    /// Kills the whole group and waits for its leader.
    pub async fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        // A process in uninterruptible sleep ends later; it is not waited for.
        let _ = tokio::time::timeout(REST_TIME_MAX, self.wait()).await;
    }

    /// The end of the output so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).text()
    }

    /// The end of the output of a program that has ended; a moment is given to what is still in the pipe.
    async fn rest(&self) -> String {
        let until = Instant::now() + REST_TIME_MAX;
        while !self.output.lock().unwrap_or_else(PoisonError::into_inner).ended && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.output()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
    }
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(OUTPUT_BYTES_MAX);
        self.dropped |= excess > 0;
        self.bytes.drain(..excess);
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        if self.dropped { format!("… {text}") } else { text.to_string() }
    }
}

/// Reads an output to its end, which is that of the last process that holds it: so none of them ever blocks on it.
async fn read_tail(mut reader: impl AsyncRead + Unpin, tail: Arc<Mutex<Tail>>) {
    if DRAINS.fetch_add(1, Ordering::Relaxed) < DRAINS_MAX {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut bytes).await {
            tail.lock().unwrap_or_else(PoisonError::into_inner).push(&bytes[..count]);
        }
    }
    DRAINS.fetch_sub(1, Ordering::Relaxed);
    tail.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
}

/// Processes that carry a mark in their environment, this one excepted.
pub fn marked(mark: &str) -> Vec<i32> {
    let wanted = format!("{MARK}={mark}");
    processes().filter(|id| *id != std::process::id() as i32 && carries(*id, &wanted)).collect()
}

/// Sends a signal to every process that carries a mark; how many there were. A process id that was given to another
/// process meanwhile is not hit.
pub fn signal_marked(mark: &str, signal: i32) -> usize {
    let wanted = format!("{MARK}={mark}");
    let mut count = 0;
    for id in marked(mark) {
        let Some(process) = pidfd(id) else { continue };
        // Looked at again while the descriptor holds on to the process.
        if carries(id, &wanted) {
            count += 1;
            // SAFETY: the descriptor is open; no signal information is passed.
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, 0usize, 0u32) };
        }
    }
    count
}

/// Kills one process.
pub fn kill_process(id: i32) {
    if id > 1 && id != std::process::id() as i32 {
        // SAFETY: kill takes no pointers.
        unsafe { libc::kill(id, libc::SIGKILL) };
    }
}

/// Name and id of a process, for people.
pub fn describe(id: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    match name.trim_end() {
        "" => format!("process {id}"),
        name => format!("{name} ({id})"),
    }
}

/// Ids of all processes.
pub fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn carries(id: i32, variable: &str) -> bool {
    let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
}

fn members(group: i32) -> Vec<i32> {
    processes().filter(|id| stat(*id).is_some_and(|(state, of)| of == group && state != 'Z' && state != 'X')).collect()
}

fn is_zombie(id: i32) -> bool {
    stat(id).is_none_or(|(state, _)| state == 'Z' || state == 'X')
}

/// State and process group of a process.
fn stat(id: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name may hold anything, closing parentheses, too.
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(1)?.parse().ok()?))
}

fn pidfd(id: i32) -> Option<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, id, 0u32) };
    // SAFETY: the descriptor was just made and nobody else owns it.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
