//! Runs one fencing program: fed, listened to within bounds, and ended with all it has started.

use crate::base::limits::{FENCING_OUTPUT_BYTES_MAX, FENCING_REST_TIME};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until, timeout};

/// Where programs are looked up: fence agents are among the administrators' programs.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program to run.
pub struct Program {
    /// Its file.
    pub file: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, beside PATH, HOME and LANG.
    pub environment: Vec<(String, String)>,
    /// What it reads.
    pub input: Vec<u8>,
    /// What must not be shown of its output.
    pub secrets: Vec<String>,
}

/// A program that was run.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub end: End,
    /// The last of what it wrote, without secrets.
    pub output: String,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exit(i32),
    /// By this signal, which was not ours.
    Signal(i32),
    /// It was killed at its deadline.
    Late,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exit(status) => write!(f, "ended with status {status}"),
            End::Signal(signal) => write!(f, "was killed by signal {signal}"),
            End::Late => f.write_str("did not end in its time"),
        }
    }
}

impl Finished {
    /// The output as the end of a sentence.
    pub fn said(&self) -> String {
        if self.output.is_empty() { String::new() } else { format!("; it wrote: {}", self.output) }
    }
}

/// Runs a program to its end, or kills it at the deadline. The error says why it could not be started.
pub async fn run(program: &Program, deadline: Instant) -> Result<Finished, String> {
    let mut child = spawn(program)?;
    let group = Group(child.id().map(|id| Pid::from_raw(id as i32)));
    let tail = RefCell::new(VecDeque::new());
    let longest_secret = program.secrets.iter().map(String::len).max().unwrap_or(0);
    let keep = FENCING_OUTPUT_BYTES_MAX + longest_secret;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // One that does not read its input is no failure.
            let _ = stdin.write_all(&program.input).await;
        }
    };
    let talk = async { tokio::join!(feed, drain(stdout, &tail, keep), drain(stderr, &tail, keep)) };
    tokio::pin!(talk);
    let mut talking = true;
    let end = loop {
        tokio::select! {
            status = child.wait() => break status.map_or(End::Late, end_of),
            _ = &mut talk, if talking => talking = false,
            () = sleep_until(deadline) => break End::Late,
        }
    };
    // What it left running is ended, too: it must not act later, nor hold its output open.
    drop(group);
    if talking {
        let _ = timeout(FENCING_REST_TIME, &mut talk).await;
    }
    let output = shown(&tail.borrow(), &program.secrets);
    Ok(Finished { end, output })
}

fn spawn(program: &Program) -> Result<Child, String> {
    let mut command = Command::new(&program.file);
    command
        .args(&program.arguments)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("LANG", "C.UTF-8")
        .env("HOME", std::env::var_os("HOME").unwrap_or_else(|| "/".into()))
        .envs(program.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command.spawn().map_err(|error| {
        let file = program.file.display();
        match (error.kind(), error.raw_os_error()) {
            (ErrorKind::NotFound, _) => {
                format!("the fencing program {file} does not exist, or the program that its first line names")
            }
            (ErrorKind::PermissionDenied, _) => format!("the fencing program {file} is not executable; run `chmod +x`"),
            (_, Some(libc::ENOEXEC)) => format!("the fencing program {file} is no program; begin it with `#!/bin/sh`"),
            _ => format!("the fencing program {file} can't be started: {error}"),
        }
    })
}

/// The process group of a program. Dropping it kills all members.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exit(code),
        (None, signal) => End::Signal(signal.unwrap_or(0)),
    }
}

/// Reads to the end, so that nobody ever blocks on a full pipe, and keeps the last bytes.
async fn drain(pipe: Option<impl AsyncRead + Unpin>, tail: &RefCell<VecDeque<u8>>, keep: usize) {
    let Some(mut pipe) = pipe else { return };
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut bytes).await {
        let mut tail = tail.borrow_mut();
        tail.extend(&bytes[..count]);
        let excess = tail.len().saturating_sub(keep);
        tail.drain(..excess);
    }
}

/// What was kept, as one line without secrets.
fn shown(tail: &VecDeque<u8>, secrets: &[String]) -> String {
    let bytes: Vec<u8> = tail.iter().copied().collect();
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    for secret in secrets {
        text = text.replace(secret.as_str(), "***");
    }
    // More was kept than is shown, so that a secret that was cut at the beginning is not shown in part.
    let mut cut = text.len().saturating_sub(FENCING_OUTPUT_BYTES_MAX);
    while !text.is_char_boundary(cut) {
        cut += 1;
    }
    let line: Vec<&str> =
        text[cut..].split(|c: char| c.is_control()).map(str::trim).filter(|l| !l.is_empty()).collect();
    let line = line.join(" | ");
    if cut > 0 { format!("… {line}") } else { line }
}
