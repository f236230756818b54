//! Who uses a disk that is not free: for the message only, never for the decision.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Someone who uses a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// A sentence part such as `mounted on /srv` or `locked by process 812 (twinblock)`.
    pub(super) words: String,
    /// For how long it will.
    pub(super) stay: Stay,
}

/// For how long someone uses a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// Until someone does something about it.
    Permanent,
    /// A running process, which may be just looking.
    Process,
    /// A process that was killed and whose last I/O is not done.
    Dying,
}

/// Looks for who uses a disk; `None` when nothing was found.
pub(super) fn find(path: &Path) -> Option<Holder> {
    let metadata = fs::metadata(path).ok()?;
    let permanent = |words| Holder { words, stay: Stay::Permanent };
    let claimed = match metadata.rdev() {
        0 => loop_device(path),
        device => {
            let numbers = format!("{}:{}", major(device), minor(device));
            mounted(&numbers).or_else(|| stacked(&numbers)).or_else(|| swap(path))
        }
    };
    claimed.map(permanent).or_else(|| locked(&metadata))
}

/// Whether a regular file is the back end of a loop device, and of which.
pub(super) fn loop_device(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let entries = fs::read_dir("/sys/block").ok()?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let backing = entry.path().join("loop/backing_file");
        if fs::read_to_string(backing).is_ok_and(|backing| Path::new(backing.trim_end()) == path) {
            return Some(format!("the back end of /dev/{}", name.to_string_lossy()));
        }
    }
    None
}

fn locked(metadata: &fs::Metadata) -> Option<Holder> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let inode = format!(":{}", metadata.ino());
    locks.lines().find_map(|line| {
        // "1: FLOCK  ADVISORY  WRITE 812 fe:00:131 0 EOF"; waiting ones have "->" in second place.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, kind, _, _, process, file, ..] = fields[..] else { return None };
        if kind != "FLOCK" || !file.ends_with(&inode) {
            return None;
        }
        let device = u64::from_str_radix(file.split(':').next()?, 16).ok()?;
        if device != major(metadata.dev()) {
            return None;
        }
        let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_else(|_| "which has ended".into());
        let stay = if is_dying(process) { Stay::Dying } else { Stay::Process };
        Some(Holder { words: format!("locked by process {process} ({})", name.trim_end()), stay })
    })
}

/// Whether a process is gone, a zombie, or has a SIGKILL that it could not act on yet.
fn is_dying(process: &str) -> bool {
    const SIGKILL_BIT: u64 = 1 << 8;
    let Ok(status) = fs::read_to_string(format!("/proc/{process}/status")) else { return true };
    status.lines().any(|line| match line.split_once(':') {
        Some(("State", state)) => state.trim_start().starts_with(['Z', 'X']),
        Some(("SigPnd" | "ShdPnd", set)) => u64::from_str_radix(set.trim(), 16).is_ok_and(|set| set & SIGKILL_BIT != 0),
        _ => false,
    })
}

fn mounted(numbers: &str) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(2) == Some(&numbers)).then(|| format!("mounted on {}", fields.get(4).unwrap_or(&"?")))
    })
}

/// Device mapper, md and the like that sit on the device.
fn stacked(numbers: &str) -> Option<String> {
    let mut holders = fs::read_dir(format!("/sys/dev/block/{numbers}/holders")).ok()?;
    let holder = holders.next()?.ok()?;
    let name = fs::read_to_string(holder.path().join("dm/name")).ok();
    let name = name.as_deref().map_or(holder.file_name().to_string_lossy().into_owned(), |name| name.trim_end().into());
    Some(format!("a part of {name}"))
}

fn swap(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let swaps = fs::read_to_string("/proc/swaps").ok()?;
    let used = swaps.lines().skip(1).any(|line| line.split_whitespace().next() == path.to_str());
    used.then(|| "used as swap space".into())
}

fn major(device: u64) -> u64 {
    nix::sys::stat::major(device)
}

fn minor(device: u64) -> u64 {
    nix::sys::stat::minor(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_killed_process_is_told_from_a_running_one() {
        assert!(!is_dying(&std::process::id().to_string()));
        assert!(is_dying("4294967295"));
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = child.id().to_string();
        assert!(!is_dying(&process));
        child.kill().unwrap();
        // Not waited for yet: from the signal on it is dying, then a zombie.
        assert!(is_dying(&process));
        child.wait().unwrap();
        assert!(is_dying(&process));
    }
}
