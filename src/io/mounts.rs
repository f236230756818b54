//! What is mounted where, who keeps a mount busy, and what kind of file system a device holds. Reads only.

use super::process;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes at the start of a device in which the known file systems have their marks.
const HEAD_BYTES: u64 = 65_536 + 4096;

/// One mount, as this process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub at: PathBuf,
    /// What was mounted: a device's path, or a name.
    pub source: PathBuf,
    /// Kind of the file system.
    pub kind: String,
    /// Device number of the file system: the block device's, where it is on just one.
    pub device: u64,
    /// Whether it, or the file system, is read-only.
    pub read_only: bool,
}

/// Every mount of this process's mount namespace, in the order they were made.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(mount).collect())
}

/// Whether the disk under a mount has gone for good: it was removed, or is an NBD device without a client. What is on no
/// single block device never has.
pub fn disk_has_gone(device: u64) -> bool {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    if major == 0 {
        return false;
    }
    let Ok(disk) = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")) else { return true };
    disk.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nbd")) && !disk.join("pid").exists()
}

/// The topmost mount at a place.
pub fn mounted_at(place: &Path) -> io::Result<Option<Mount>> {
    Ok(mounts()?.into_iter().rev().find(|mount| mount.at == place))
}

fn mount(line: &str) -> Option<Mount> {
    // "36 35 98:0 /root /at rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue", with any number of optional fields.
    let (first, second) = line.split_once(" - ")?;
    let first: Vec<&str> = first.split(' ').collect();
    let second: Vec<&str> = second.split(' ').collect();
    let (major, minor) = first.get(2)?.split_once(':')?;
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    Some(Mount {
        at: unescape(first.get(4)?),
        source: unescape(second.get(1)?),
        kind: second.first()?.to_string(),
        device: nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?),
        read_only: read_only(first.get(5)?) || second.get(2).is_some_and(|options| read_only(options)),
    })
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| std::str::from_utf8(after.get(..3)?).ok()).flatten();
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// Somebody who keeps a mount busy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The process, where it is one.
    pub process: Option<i32>,
    /// For people: who, and by what.
    pub words: String,
}

/// Who keeps a mount busy: processes with an open file, a working directory, a root, a program or a mapping on it; mounts
/// below it; loop devices over its files; other mount namespaces in which it is mounted, too. Best effort: what may not be
/// looked at is not found.
pub fn holders(mount: &Mount) -> Vec<Holder> {
    let mut found = BTreeSet::new();
    let below = mounts().unwrap_or_default().into_iter().filter(|other| other.at != mount.at);
    for other in below.filter(|other| other.at.starts_with(&mount.at)) {
        found.insert(Holder { process: None, words: format!("mounted below it: {}", other.at.display()) });
    }
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim_end()).starts_with(&mount.at) {
            let words = format!("/dev/{} over {}", entry.file_name().to_string_lossy(), backing.trim_end());
            found.insert(Holder { process: None, words });
        }
    }
    for id in process::processes() {
        if let Some(by) = use_of(id, mount.device) {
            let words = format!("{} {by}", process::describe(id));
            found.insert(Holder { process: Some(id), words });
        }
    }
    if found.is_empty() {
        found.extend(other_namespaces(mount));
    }
    found.into_iter().collect()
}

/// One process of each other mount namespace in which the file system is mounted, too. Most of these follow an unmount here
/// (services with a private /tmp have such namespaces), so they only count when nobody else is found, and are no process to
/// be ended.
fn other_namespaces(mount: &Mount) -> Vec<Holder> {
    let mut namespaces: BTreeSet<PathBuf> = fs::read_link("/proc/self/ns/mnt").into_iter().collect();
    let mut found = Vec::new();
    for id in process::processes() {
        let Ok(namespace) = fs::read_link(format!("/proc/{id}/ns/mnt")) else { continue };
        if !namespaces.insert(namespace) {
            continue;
        }
        let theirs = fs::read_to_string(format!("/proc/{id}/mountinfo")).unwrap_or_default();
        if theirs.lines().filter_map(self::mount).any(|other| other.device == mount.device) {
            let words = format!("it is also mounted in the namespace of {}", process::describe(id));
            found.push(Holder { process: None, words });
        }
    }
    found
}

/// By what a process uses a file system.
fn use_of(id: i32, device: u64) -> Option<String> {
    let folder = PathBuf::from(format!("/proc/{id}"));
    let on_it = |link: &Path| fs::metadata(link).is_ok_and(|metadata| metadata.dev() == device);
    for (link, words) in [("cwd", "has its working directory on it"), ("root", "has its root on it")] {
        if on_it(&folder.join(link)) {
            return Some(words.into());
        }
    }
    for entry in fs::read_dir(folder.join("fd")).into_iter().flatten().flatten() {
        if on_it(&entry.path()) {
            let file = fs::read_link(entry.path()).unwrap_or_default();
            return Some(format!("has {} open", file.display()));
        }
    }
    let numbers = format!("{:02x}:{:02x}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let maps = fs::read_to_string(folder.join("maps")).unwrap_or_default();
    let mapped = maps.lines().find(|line| line.split_whitespace().nth(3) == Some(&numbers))?;
    Some(format!("runs or has mapped {}", mapped.split_whitespace().nth(5).unwrap_or("a file of it")))
}

/// The kind of file system a device holds, where it is known here.
pub fn kind_of(device: &Path) -> io::Result<Option<&'static str>> {
    let mut head = Vec::new();
    fs::File::open(device)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    let is = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    Ok(match () {
        () if is(1024 + 0x38, &[0x53, 0xef]) => Some("ext4"),
        () if is(0, b"XFSB") => Some("xfs"),
        () if is(65_536 + 64, b"_BHRfS_M") => Some("btrfs"),
        () if is(1024, &[0x10, 0x20, 0xf5, 0xf2]) => Some("f2fs"),
        () if is(3, b"NTFS    ") => Some("ntfs"),
        () if is(82, b"FAT32") || is(54, b"FAT") => Some("vfat"),
        () => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_block_device_that_is_not_there_has_gone() {
        use nix::sys::stat::makedev;
        assert!(!disk_has_gone(makedev(0, 77)), "no single block device");
        assert!(disk_has_gone(makedev(4000, 77)));
        let known = fs::read_dir("/sys/dev/block").into_iter().flatten().flatten().map(|entry| entry.file_name());
        for name in known.filter_map(|name| name.into_string().ok()) {
            let (major, minor) = name.split_once(':').unwrap();
            let has_gone = disk_has_gone(makedev(major.parse().unwrap(), minor.parse().unwrap()));
            assert!(!has_gone || major == "43", "{name} is there");
        }
    }

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let line = r"36 35 98:2 / /mnt/a\040b rw,noatime master:1 shared:2 - ext4 /dev/sd\134a1 ro,errors=continue";
        let read = mount(line).unwrap();
        assert_eq!(read.at, Path::new("/mnt/a b"));
        assert_eq!(read.source, Path::new(r"/dev/sd\a1"));
        assert_eq!((read.kind.as_str(), read.read_only), ("ext4", true));
        assert_eq!(read.device, nix::sys::stat::makedev(98, 2));
        assert!(!mount(&line.replace(" ro,", " rw,")).unwrap().read_only);
        for bad in ["", " - ", "1 2 3:4", "1 2 34 / /a rw - ext4 /dev/x rw", r"\"] {
            assert_eq!(mount(bad), None, "{bad}");
        }
        assert_eq!(unescape(r"\04"), Path::new(r"\04"));
        assert_eq!(unescape(r"\999é"), Path::new(r"\999é"));
    }

    #[test]
    fn the_root_is_mounted_and_this_process_uses_it() {
        let root = mounted_at(Path::new("/")).unwrap().unwrap();
        assert!(!root.kind.is_empty());
        assert_eq!(mounted_at(Path::new("/nonexistent")).unwrap(), None);
    }
}
