//! One daemon per node: a locked file in the state directory, with the process's number in it.

use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::config::NodeConfig;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};

/// Name of the lock in the state directory.
const LOCK_FILE: &str = "daemon.lock";
/// Bytes read of the lock file: a process number.
const PID_BYTES_MAX: u64 = 32;

/// Holds the lock for as long as it lives. The kernel drops it with the process, however that ends.
pub struct Instance {
    _lock: File,
}

impl Instance {
    /// Makes the state directory and takes the lock.
    pub fn begin(node: &NodeConfig) -> Result<Instance, Failure> {
        let folder = &node.state_dir;
        let path = folder.join(LOCK_FILE);
        let failed = |what: &str, error: std::io::Error| {
            let message = format!("{what} {error}; check `state_dir` of node {} and its permissions", node.name);
            Failure::new(Exit::Failed, message)
        };
        std::fs::create_dir_all(folder)
            .map_err(|error| failed(&format!("the state directory {} can't be made:", folder.display()), error))?;
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| failed(&format!("{} can't be opened:", path.display()), error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = lock.take(PID_BYTES_MAX).read_to_string(&mut pid);
                let message = format!(
                    "the daemon of node {} is already running, process {}; stop it first, or see `twinblock status`",
                    node.name,
                    pid.trim()
                );
                return Err(Failure::new(Exit::Refused, message));
            }
            Err(TryLockError::Error(error)) => {
                return Err(failed(&format!("{} can't be locked:", path.display()), error));
            }
        }
        let written = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .and_then(|()| lock.flush());
        written.map_err(|error| failed(&format!("{} can't be written:", path.display()), error))?;
        Ok(Instance { _lock: lock })
    }
}

/// Asks the kernel to end this process with its parent; for daemons that belong to a demo.
pub fn die_with_parent() -> Result<(), Failure> {
    let parent = nix::unistd::getppid();
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|error| Failure::new(Exit::Failed, format!("the kernel can't watch the parent process: {error}")))?;
    // The parent may have ended before the kernel watched it.
    if parent.as_raw() == 1 {
        return Err(Failure::new(Exit::Failed, "the parent process has ended"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_with_the_number_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let node = NodeConfig {
            name: "alpha".into(),
            mirror: vec![],
            heartbeat: vec![],
            control: folder.path().join("c"),
            state_dir: folder.path().join("state/alpha"),
            archive_dir: folder.path().join("archive"),
            device_dir: folder.path().join("dev"),
        };
        let first = Instance::begin(&node).unwrap();
        let refused = Instance::begin(&node).err().unwrap();
        assert_eq!(refused.exit, Exit::Refused);
        let words = format!("already running, process {};", std::process::id());
        assert!(refused.message.contains(&words), "{}", refused.message);
        drop(first);
        Instance::begin(&node).unwrap();
    }
}
