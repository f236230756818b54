//! Everything a demo or a bench has started and made. It ends with its owner, whenever and however that is.
//!
//! Processes and directories come to be only through here. What ends them shuts the door first, under the same lock: so
//! nothing is started or made behind its back, and it finds everything there is.

use crate::runtime::cli::exit::{Exit, Failure};
use std::fs::DirBuilder;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Exit code of a process ended by ctrl-C, as shells count.
const INTERRUPTED: i32 = 130;
/// Tries to remove a directory into which another thread of this process may still put a file.
const REMOVE_TRIES: u32 = 100;
/// Time between two of them.
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// What is to be ended and removed, shared with whoever does it.
#[derive(Clone, Debug, Default)]
pub struct Ward {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Nothing is started or made any more.
    closed: bool,
    /// A signal is ending this process.
    interrupted: bool,
    processes: Vec<Member>,
    folders: Vec<PathBuf>,
}

/// A process, shared with whoever ends it.
#[derive(Clone, Debug)]
pub struct Member {
    child: Arc<Mutex<Child>>,
    id: u32,
}

impl Member {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Ends it as a crash would, without a word, and waits until it is gone. One that has ended is left alone.
    pub fn kill(&self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Ward {
    /// Makes a directory that only this user can use.
    pub fn make_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.open()?;
        DirBuilder::new().mode(0o700).create(path)?;
        state.folders.push(path.into());
        Ok(())
    }

    /// Removes a directory that was made here, with what is in it.
    pub fn remove_folder(&self, path: &Path) {
        remove(path);
        lock(&self.state).folders.retain(|folder| folder != path);
    }

    /// Starts a process.
    pub fn start(&self, command: &mut Command) -> io::Result<Member> {
        let mut state = self.open()?;
        let child = command.spawn()?;
        let member = Member { id: child.id(), child: Arc::new(Mutex::new(child)) };
        state.processes.push(member.clone());
        Ok(member)
    }

    /// Runs a process to its end, and returns what it printed.
    pub fn run(&self, command: &mut Command) -> io::Result<Output> {
        let member = self.start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let (out, errors) = {
            let mut child = lock(&member.child);
            (child.stdout.take(), child.stderr.take())
        };
        let (stdout, stderr) = std::thread::scope(|scope| {
            let errors = scope.spawn(|| read_all(errors));
            (read_all(out), errors.join().unwrap_or_default())
        });
        let status = lock(&member.child).wait()?;
        lock(&self.state).processes.retain(|other| !Arc::ptr_eq(&other.child, &member.child));
        Ok(Output { status, stdout, stderr })
    }

    /// Ends every process and removes every directory. Nothing comes after it. May be called twice, and at once.
    pub fn end(&self) {
        let (processes, folders) = {
            let mut state = lock(&self.state);
            state.closed = true;
            (state.processes.clone(), state.folders.clone())
        };
        processes.iter().for_each(Member::kill);
        folders.iter().for_each(|folder| remove(folder));
    }

    /// From here on a signal that asks this process to end ends everything else first.
    pub fn end_when_interrupted(&self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Failed, format!("signals can't be listened to: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        use tokio::signal::unix::{SignalKind, signal};
        let guard = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        drop(guard);
        let ward = self.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            });
            lock(&ward.state).interrupted = true;
            ward.end();
            eprintln!("\ninterrupted: the daemons are ended and the files removed");
            std::process::exit(INTERRUPTED);
        });
        Ok(())
    }

    /// Ends everything, and then the process too if a signal asks for that: what then went wrong in the meantime went
    /// wrong because of it, and is not worth telling.
    pub fn close(&self) {
        self.end();
        while lock(&self.state).interrupted {
            std::thread::park();
        }
    }

    /// The state, as long as the door is open.
    fn open(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = lock(&self.state);
        if state.closed { Err(io::Error::other("interrupted")) } else { Ok(state) }
    }
}

fn remove(path: &Path) {
    for _ in 0..REMOVE_TRIES {
        let _ = std::fs::remove_dir_all(path);
        if !path.exists() {
            return;
        }
        std::thread::sleep(REMOVE_PAUSE);
    }
}

fn read_all(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A process that was killed in mid-sentence has said what it said.
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    bytes
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outlives_the_end_and_nothing_comes_after_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("inside");
        let ward = Ward::default();
        ward.make_folder(&folder).unwrap();
        let sleeper = ward.start(Command::new("sleep").arg("1000")).unwrap();
        let said = ward.run(Command::new("sh").args(["-c", "echo out; echo err >&2"]).current_dir(&folder)).unwrap();
        assert_eq!((said.stdout, said.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
        // Others start and make things all the time meanwhile.
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| {
                let mut started = Vec::new();
                while let Ok(member) = ward.start(Command::new("sleep").arg("1000")) {
                    let _ = std::fs::write(folder.join(format!("{}", started.len())), "x");
                    started.push(member);
                }
                started
            });
            while std::fs::read_dir(&folder).unwrap().next().is_none() {}
            ward.end();
            let started = busy.join().unwrap();
            assert!(!started.is_empty() && started.iter().all(|member| member.ended().is_some()));
        });
        assert!(sleeper.ended().is_some() && !folder.exists());
        assert!(ward.make_folder(&folder).is_err() && ward.run(&mut Command::new("true")).is_err());
        ward.end();
    }
}
