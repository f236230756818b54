//! Programs run for the daemon: each in a process group of its own, ended with all its members, its output kept short.
//!
//! ```text
//! caller ── spawn ──▶ a thread for each program: fork, exec ── ended ──▶ caller ── lets go ──▶ thread reaps, ends
//! ```
//! Starting a program reads its file: on a disk that hangs this takes for ever, and then only that thread. The thread lives
//! as long as its child, because the kernel's promise to kill a child with its parent (PR_SET_PDEATHSIG,
//! kernel-notes/0009) follows the thread that forked it. A child that ended keeps its id until the caller lets go of it, so
//! that no signal ever hits a stranger. What a program itself left running is found by a mark in its environment, however
//! often it forked or whatever session and group it is in.

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Bytes of a program's output that are kept: the last ones, where the reason of a failure stands.
const OUTPUT_BYTES_MAX: usize = 4096;
/// Time before its deadline at which a program is asked to end (SIGTERM), at most; a quarter of its time, at most.
const ASK_BEFORE_MAX: Duration = Duration::from_secs(2);
/// Outputs read at a time: of programs that run, and of what ended programs left running. Beyond it an output is closed.
const DRAINS_MAX: usize = 512;
/// Time the rest of the output is waited for when a program has ended.
const REST_TIME_MAX: Duration = Duration::from_millis(50);
/// Bytes of the stack of a thread that tends a program.
const STACK_BYTES: usize = 256 << 10;
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
    id: i32,
    /// The program's end, told once.
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
    /// Whether its end was told, and the id may belong to another process.
    let_go: bool,
    /// Dropped to let its thread reap it.
    hold: Option<mpsc::Sender<()>>,
    output: Arc<Mutex<Tail>>,
}

/// The end of an output.
#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
    dropped: bool,
    ended: bool,
}

/// Starts a program. Inside a tokio runtime. May take for ever, when the program's disk hangs; a program that starts
/// after the caller gave up is killed.
pub async fn spawn(program: &Program) -> io::Result<Running> {
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
    let (tell_started, started) = oneshot::channel();
    let (tell_ended, ended) = oneshot::channel();
    let (hold, held) = mpsc::channel();
    let tend = move || tend(command, tell_started, tell_ended, &held);
    std::thread::Builder::new().name("program".into()).stack_size(STACK_BYTES).spawn(tend)?;
    let id = started.await.map_err(|_| io::Error::other("the thread that starts it ended"))??;
    let output = Arc::new(Mutex::new(Tail::default()));
    let running = Running { id, ended, let_go: false, hold: Some(hold), output: output.clone() };
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    tokio::spawn(read_tail(reader, output));
    Ok(running)
}

/// Starts a program, waits for its end, and reaps it when it is let go of.
fn tend(
    mut command: Command,
    started: oneshot::Sender<io::Result<i32>>,
    ended: oneshot::Sender<io::Result<ExitStatus>>,
    held: &mpsc::Receiver<()>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return drop(started.send(Err(error))),
    };
    // The command holds the pipe's writing end.
    drop(command);
    let id = child.id() as i32;
    if started.send(Ok(id)).is_err() {
        signal_group(id, libc::SIGKILL);
    }
    let status = loop {
        match waitid(Id::Pid(nix::unistd::Pid::from_raw(id)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::Exited(_, code)) => break Ok(ExitStatus::from_raw(code << 8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => break Ok(ExitStatus::from_raw(signal as i32)),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => break Err(error.into()),
        }
    };
    // Nobody may want to know any more.
    let _ = ended.send(status);
    let _ = held.recv();
    let _ = child.wait();
}

/// Runs a program to its end, by `deadline` at the latest: shortly before it the program is asked to end, then it is killed
/// with its process group.
pub async fn run(program: &Program, deadline: Instant) -> io::Result<Finished> {
    let began = Instant::now();
    let whole = deadline.saturating_duration_since(began);
    let ask_at = deadline - ASK_BEFORE_MAX.min(whole / 4);
    let Ok(running) = timeout_at(ask_at, spawn(program)).await else {
        let output = "(it could not even be started: the disk it is on does not answer)".into();
        return Ok(Finished { status: None, output });
    };
    let mut running = running?;
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
    /// The process's id.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Waits for the program's end, once. What it left running goes on.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let ended = (&mut self.ended).await.unwrap_or_else(|_| Err(io::Error::other("its end was missed")));
        self.let_go = true;
        self.hold = None;
        ended
    }

    /// Sends a signal to the whole group, unless its leader was waited for.
    pub fn signal(&self, signal: i32) {
        if !self.let_go {
            signal_group(self.id, signal);
        }
    }

    /// Waits until every member of the group has ended, the leader last.
    pub async fn wait_for_all(&mut self) {
        while !self.let_go {
            let others = members(self.id).into_iter().any(|id| id != self.id);
            if !others && is_zombie(self.id) {
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
        if !self.let_go {
            let _ = tokio::time::timeout(REST_TIME_MAX, self.wait()).await;
        }
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

fn signal_group(group: i32, signal: i32) {
    // SAFETY: kill takes no pointers; the caller knows that the group's leader has not been reaped.
    unsafe { libc::kill(-group, signal) };
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
