//! Who uses a disk that is not free: for the message only, never for the decision.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A sentence part such as `mounted on /srv` or `locked by process 812 (twinblock)`; `None` when nothing was found.
pub(super) fn describe(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    locked(&metadata).or_else(|| match metadata.rdev() {
        0 => loop_device(path),
        device => {
            let numbers = format!("{}:{}", major(device), minor(device));
            mounted(&numbers).or_else(|| stacked(&numbers)).or_else(|| swap(path))
        }
    })
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

fn locked(metadata: &fs::Metadata) -> Option<String> {
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
        let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        Some(format!("locked by process {process} ({})", name.trim_end()))
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
