//! Who uses a block device: a demotion says their names rather than pull it from under them.

use crate::io::{mounts, process};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One who uses a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// A file system on it is mounted there.
    Mounted(PathBuf),
    /// Another device lies on it.
    Under(PathBuf),
    /// The kernel swaps to it.
    Swap,
    /// A process has it open, in words.
    Open(String),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Mounted(at) => write!(f, "mounted at {}", at.display()),
            User::Under(device) => write!(f, "under {}", device.display()),
            User::Swap => f.write_str("used as swap"),
            User::Open(process) => write!(f, "open in {process}"),
        }
    }
}

/// Users in words, one after the other.
pub fn in_words(users: &[User]) -> String {
    users.iter().map(ToString::to_string).collect::<Vec<String>>().join(", ")
}

/// Who has the device mounted, open, as swap, or under another device; empty when nobody is found. What this
/// process may not look at is not found.
pub fn users_of(device: &Path) -> Vec<User> {
    let Ok(metadata) = fs::metadata(device) else { return Vec::new() };
    let number = metadata.rdev();
    let mounts = mounts::mounts().unwrap_or_default().into_iter().filter(|mount| mount.device == number);
    let mut found: Vec<User> = mounts.map(|mount| User::Mounted(mount.at)).collect();
    let name = fs::canonicalize(device).ok().and_then(|path| path.file_name().map(|name| name.to_owned()));
    if let Some(name) = name {
        let holders = fs::read_dir(Path::new("/sys/class/block").join(name).join("holders"));
        let holders = holders.into_iter().flatten().flatten();
        found.extend(holders.map(|holder| User::Under(Path::new("/dev").join(holder.file_name()))));
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let swap = |line: &str| fs::metadata(line.split(' ').next()?).ok().map(|metadata| metadata.rdev());
    if swaps.lines().skip(1).any(|line| swap(line) == Some(number)) {
        found.push(User::Swap);
    }
    let own = std::process::id() as i32;
    for id in process::processes().filter(|id| *id != own) {
        let files = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        let mut numbers = files.filter_map(|file| fs::metadata(file.path()).ok()).map(|metadata| metadata.rdev());
        if numbers.any(|other| other == number) {
            found.push(User::Open(process::describe(id)));
        }
    }
    found
}
