//! Files that follow a group: taken up from the disk as they are, put in place as they were, watched for changes.
//!
//! Each file is replaced in one step (written beside its place, made durable, renamed), so that whoever reads it finds the
//! old or the new one. Symbolic links are taken as links and never followed below a configured path.

use crate::wire::files::{Content, ENTRIES_MAX, Entry, before};
use nix::fcntl::AT_FDCWD;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Beginning of the names of files that are being written.
const BESIDE: &str = ".twinblock-new-";
/// Directories below a configured path, from it down.
const DEPTH_MAX: usize = 32;

/// Why files can't be taken up or put in place: which, and why.
#[derive(Debug)]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// Why, a clause.
    pub reason: String,
}

impl FileError {
    fn new(path: &Path, reason: impl ToString) -> FileError {
        FileError { path: path.into(), reason: reason.to_string() }
    }
}

/// Takes up everything at and below these paths, at most `bytes_max` bytes of it. A configured path that does not exist is
/// an error: it is never understood as the wish to remove it on the other server.
pub fn capture(roots: &[PathBuf], bytes_max: u64) -> Result<Vec<Entry>, FileError> {
    let mut taken = Taken { entries: Vec::new(), bytes_left: bytes_max, bytes_max };
    for (index, root) in roots.iter().enumerate() {
        taken.take(index as u16, root, Vec::new(), 0)?;
    }
    let mut entries = taken.entries;
    let place = |entry: &Entry| (entry.root, entry.path.clone());
    entries.sort_by(|one, other| {
        let (one, other) = (place(one), place(other));
        let (one, other) = ((one.0, one.1.as_slice()), (other.0, other.1.as_slice()));
        before(other, one).cmp(&before(one, other))
    });
    Ok(entries)
}

struct Taken {
    entries: Vec<Entry>,
    bytes_left: u64,
    bytes_max: u64,
}

impl Taken {
    fn take(&mut self, root: u16, at: &Path, path: Vec<u8>, depth: usize) -> Result<(), FileError> {
        let failed = |error: io::Error| FileError::new(at, error);
        let metadata = fs::symlink_metadata(at).map_err(failed)?;
        if self.entries.len() >= ENTRIES_MAX {
            return Err(FileError::new(at, format!("there are more than {ENTRIES_MAX} files and directories")));
        }
        let content = match metadata.file_type() {
            kind if kind.is_dir() => Content::Directory,
            kind if kind.is_symlink() => Content::Link(fs::read_link(at).map_err(failed)?.into_os_string().into_vec()),
            kind if kind.is_file() => Content::File(self.read(at)?),
            _ => return Err(FileError::new(at, "it is no file, directory or symbolic link")),
        };
        let folder = content == Content::Directory;
        let file = matches!(content, Content::File(_));
        let modified = if file { (metadata.mtime(), metadata.mtime_nsec() as u32) } else { (0, 0) };
        let (mode, user, group) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        self.entries.push(Entry { root, path: path.clone(), mode, user, group, modified, content });
        if !folder {
            return Ok(());
        }
        if depth >= DEPTH_MAX {
            return Err(FileError::new(at, format!("it is more than {DEPTH_MAX} directories deep")));
        }
        for entry in fs::read_dir(at).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name.as_bytes().starts_with(BESIDE.as_bytes()) {
                continue;
            }
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend(name.as_bytes());
            self.take(root, &at.join(&name), below, depth + 1)?;
        }
        Ok(())
    }

    fn read(&mut self, at: &Path) -> Result<Vec<u8>, FileError> {
        let failed = |error: io::Error| FileError::new(at, error);
        // What was a file a moment ago may be a pipe now: that must not block.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(at).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(self.bytes_left + 1).read_to_end(&mut bytes).map_err(failed)?;
        let left = self.bytes_left.checked_sub(bytes.len() as u64);
        self.bytes_left =
            left.ok_or_else(|| FileError::new(at, format!("with it there are more than {} bytes", self.bytes_max)))?;
        Ok(bytes)
    }
}

/// Puts everything in place that is not so already, and removes what is not among `wanted` below configured directories.
/// Returns how many files and directories were changed.
pub fn apply(roots: &[PathBuf], wanted: &[Entry]) -> Result<usize, FileError> {
    let mut changed = 0;
    for entry in wanted {
        let at = place(roots, entry);
        if !is_so(&at, entry) {
            put(&at, entry).map_err(|error| FileError::new(&at, error))?;
            changed += 1;
        }
        if entry.content == Content::Directory {
            changed += clear(&at, entry, wanted)?;
        }
    }
    Ok(changed)
}

/// Removes from a directory what is not wanted there.
fn clear(at: &Path, folder: &Entry, wanted: &[Entry]) -> Result<usize, FileError> {
    let failed = |error: io::Error| FileError::new(at, error);
    let mut removed = 0;
    for entry in fs::read_dir(at).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let mut path = folder.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(entry.file_name().as_bytes());
        if !wanted.iter().any(|other| other.root == folder.root && other.path == path) {
            remove(&entry.path()).map_err(|error| FileError::new(&entry.path(), error))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn place(roots: &[PathBuf], entry: &Entry) -> PathBuf {
    let root = &roots[usize::from(entry.root)];
    if entry.path.is_empty() { root.clone() } else { root.join(OsStr::from_bytes(&entry.path)) }
}

/// Whether a place holds just this.
fn is_so(at: &Path, entry: &Entry) -> bool {
    let Ok(metadata) = fs::symlink_metadata(at) else { return false };
    let same_owner = (metadata.uid(), metadata.gid()) == (entry.user, entry.group);
    let same_mode = metadata.mode() & 0o7777 == entry.mode;
    let same_time = (metadata.mtime(), metadata.mtime_nsec() as u32) == entry.modified;
    match &entry.content {
        Content::Directory => metadata.is_dir() && same_owner && same_mode,
        Content::Link(to) => {
            metadata.is_symlink() && same_owner && fs::read_link(at).is_ok_and(|is| is.as_os_str().as_bytes() == to)
        }
        Content::File(bytes) => {
            let alike = metadata.is_file() && same_owner && same_mode && same_time;
            alike && metadata.len() == bytes.len() as u64 && fs::read(at).is_ok_and(|is| is == *bytes)
        }
    }
}

fn put(at: &Path, entry: &Entry) -> io::Result<()> {
    let there = fs::symlink_metadata(at).ok();
    let parent = at.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(parent)?;
    match &entry.content {
        Content::Directory => {
            if there.as_ref().is_some_and(|there| !there.is_dir()) {
                fs::remove_file(at)?;
            }
            if !there.as_ref().is_some_and(Metadata::is_dir) {
                // Nobody else may look in before its owner and mode are right.
                fs::DirBuilder::new().mode(0o700).create(at)?;
            }
            std::os::unix::fs::lchown(at, Some(entry.user), Some(entry.group))?;
            fs::set_permissions(at, Permissions::from_mode(entry.mode))?;
        }
        Content::File(_) | Content::Link(_) => {
            let beside = beside(at);
            remove(&beside)?;
            write_beside(&beside, entry).inspect_err(|_| drop(fs::remove_file(&beside)))?;
            if there.is_some_and(|there| there.is_dir()) {
                fs::remove_dir_all(at)?;
            }
            fs::rename(&beside, at).inspect_err(|_| drop(fs::remove_file(&beside)))?;
        }
    }
    File::open(parent)?.sync_all()
}

fn write_beside(beside: &Path, entry: &Entry) -> io::Result<()> {
    let bytes = match &entry.content {
        Content::Link(to) => {
            std::os::unix::fs::symlink(OsStr::from_bytes(to), beside)?;
            return std::os::unix::fs::lchown(beside, Some(entry.user), Some(entry.group));
        }
        Content::File(bytes) => bytes,
        Content::Directory => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(bytes)?;
    std::os::unix::fs::fchown(&file, Some(entry.user), Some(entry.group))?;
    file.set_permissions(Permissions::from_mode(entry.mode))?;
    let time = TimeSpec::new(entry.modified.0, entry.modified.1.into());
    utimensat(AT_FDCWD, beside, &time, &time, UtimensatFlags::NoFollowSymlink)?;
    file.sync_all()
}

/// Where a file is written before it is renamed. Short, whatever the length of the file's own name.
fn beside(at: &Path) -> PathBuf {
    let name = at.file_name().unwrap_or_default();
    let sum = crc32fast::hash(name.as_bytes());
    at.with_file_name(OsString::from(format!("{BESIDE}{sum:08x}")))
}

fn remove(at: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(at) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(at),
        Ok(_) => fs::remove_file(at),
        Err(error) => Err(error),
    };
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Writes a file of our own in one step, durable.
pub fn write_atomically(at: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = at.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let beside = beside(at);
    remove(&beside)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, at)?;
    File::open(parent)?.sync_all()
}

/// Tells when something at or below the configured paths may have changed.
#[derive(Debug)]
pub struct Watcher {
    inotify: AsyncFd<Watched>,
}

#[derive(Debug)]
struct Watched(Inotify);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watcher {
    /// Watches the directories the paths are in, and all directories below them. What comes later below a new directory is
    /// seen when the watcher is opened anew, which every capture does.
    pub fn open(roots: &[PathBuf]) -> io::Result<Watcher> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        for root in roots {
            if let Some(parent) = root.parent() {
                add(&inotify, parent)?;
            }
            add_below(&inotify, root, 0)?;
        }
        // SAFETY: an Inotify always yields the same descriptor, and keeps it open until it is dropped.
        let inotify = unsafe { AsyncFd::register_with_interest(Watched(inotify), Interest::READABLE) }?;
        Ok(Watcher { inotify })
    }

    /// Waits until something may have changed.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match self.inotify.get_ref().0.read_events() {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn add(inotify: &Inotify, folder: &Path) -> io::Result<()> {
    let flags = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    match inotify.add_watch(folder, flags) {
        // It vanished meanwhile, which its parent tells.
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

fn add_below(inotify: &Inotify, at: &Path, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX || !fs::symlink_metadata(at).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    add(inotify, at)?;
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        add_below(inotify, &entry.path(), depth + 1)?;
    }
    Ok(())
}
