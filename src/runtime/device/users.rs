//! Who uses a block device: a demotion says their names rather than pull it from under them.

use crate::io::{mounts, process};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Who has the device mounted, open, as swap, or under another device, in words; empty when nobody is found. What this
/// process may not look at is not found.
pub fn users_of(device: &Path) -> Vec<String> {
    let Ok(metadata) = fs::metadata(device) else { return Vec::new() };
    let number = metadata.rdev();
    let mounts = mounts::mounts().unwrap_or_default().into_iter().filter(|mount| mount.device == number);
    let mut found: Vec<String> = mounts.map(|mount| format!("mounted at {}", mount.at.display())).collect();
    let name = fs::canonicalize(device).ok().and_then(|path| path.file_name().map(|name| name.to_owned()));
    if let Some(name) = name {
        let holders = fs::read_dir(Path::new("/sys/class/block").join(name).join("holders"));
        let holders = holders.into_iter().flatten().flatten();
        found.extend(holders.map(|holder| format!("under /dev/{}", holder.file_name().to_string_lossy())));
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let swap = |line: &str| fs::metadata(line.split(' ').next()?).ok().map(|metadata| metadata.rdev());
    if swaps.lines().skip(1).any(|line| swap(line) == Some(number)) {
        found.push("used as swap".into());
    }
    let own = std::process::id() as i32;
    for id in process::processes().filter(|id| *id != own) {
        let files = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        let mut numbers = files.filter_map(|file| fs::metadata(file.path()).ok()).map(|metadata| metadata.rdev());
        if numbers.any(|other| other == number) {
            found.push(format!("open in {}", process::describe(id)));
        }
    }
    found
}
