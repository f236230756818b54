//! One path as a disk: a block device or a regular file, open past the page cache where possible, locked, measured.
//!
//! A file is locked with `flock`, a block device with `flock` and an exclusive open: the first keeps a second daemon out,
//! the second everything else that claims devices (mounts, device mapper, md). Both end with the descriptor, which the
//! kernel keeps until the last request on it is done (kernel-notes/0003): who gets the lock after a crash sees the disk at rest.

use super::holder::{Holder, Stay};
use super::{OpenError, access, holder};
use crate::base::limits::{DISK_LOCK_DYING_TIME, DISK_LOCK_TIME, METADATA_UNIT_BYTES};
use nix::errno::Errno;
use sha2::{Digest, Sha256};
use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Pause between two tries for a lock: udev holds one for a moment while it looks at a device.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// An open, locked disk.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) is_block_device: bool,
    /// Why the page cache is used, where it is.
    pub(super) not_direct: Option<String>,
    pub(super) bytes: u64,
    /// Hash of what identifies the disk; of its size where nothing else does.
    pub(super) fingerprint: u128,
}

impl Device {
    /// Opens and locks. `what` names its part in messages: "disk" or "metadata".
    pub(super) fn open(path: &Path, what: &str) -> Result<Device, OpenError> {
        let metadata = std::fs::metadata(path).map_err(|error| missing(path, what, &error))?;
        let is_block_device = kind(path, what, &metadata)?;
        if !is_block_device && let Some(words) = holder::loop_device(path) {
            return Err(in_use(path, what, Some(Holder { words, stay: Stay::Permanent })));
        }
        let not_direct = why_not_direct(path, &metadata);
        let (file, not_direct) = open_when_free(path, what, is_block_device, not_direct)?;
        let bytes = (&file).seek(SeekFrom::End(0)).map_err(|error| failed(path, what, "measured", &error))?;
        let known = if is_block_device { block_identity(&metadata) } else { file_identity(&metadata) };
        let fingerprint = known.unwrap_or_else(|| hash(&format!("size {bytes}")));
        Ok(Device { path: path.into(), file, is_block_device, not_direct, bytes, fingerprint })
    }

    /// Creates a regular file of `bytes` that reads as zeroes, and opens it.
    pub(super) fn create(path: &Path, what: &str, bytes: u64) -> Result<Device, OpenError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::new(
                "disk-missing",
                format!("The {what} {} can't be created: its directory does not exist.", path.display()),
                "Create the directory, or correct the path in the configuration.",
            ),
            _ => failed(path, what, "created", &error),
        })?;
        let size = || -> io::Result<()> {
            file.set_len(bytes)?;
            file.sync_all()?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)?.sync_all()
        };
        let opened = size().map_err(|error| match error.raw_os_error() {
            Some(libc::EFBIG | libc::EINVAL) => OpenError::new(
                "disk-too-large",
                format!(
                    "The {what} {} can't be created: its file system has no files of {bytes} bytes.",
                    path.display()
                ),
                "Choose a smaller size, or another file system.",
            ),
            _ => failed(path, what, "created", &error),
        });
        opened.and_then(|()| Device::open(path, what)).inspect_err(|_| {
            // It is ours, and empty.
            let _ = std::fs::remove_file(path);
        })
    }

    /// An error in the middle of using it.
    pub(super) fn failed(&self, verb: &str, error: &io::Error) -> OpenError {
        failed(&self.path, "disk", verb, error)
    }

    /// Makes everything that reached it durable.
    pub(super) fn flush(&self) -> Result<(), OpenError> {
        self.file.sync_data().map_err(|error| self.failed("flushed", &error))
    }

    /// Reads whole units.
    pub(super) fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        access::read_at(&self.file, offset, length).map(|bytes| bytes.to_vec())
    }
}

/// Whether it is a block device; refuses what is neither that nor a regular file.
fn kind(path: &Path, what: &str, metadata: &Metadata) -> Result<bool, OpenError> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        let reason = format!("The {what} {} is a directory.", path.display());
        return Err(OpenError::new("disk-is-directory", reason, "Name a block device or a regular file."));
    }
    if !kind.is_block_device() && !kind.is_file() {
        let reason = format!("The {what} {} is neither a block device nor a regular file.", path.display());
        return Err(OpenError::new("disk-kind", reason, "Name a block device or a regular file."));
    }
    Ok(kind.is_block_device())
}

/// Opens and locks; waits a moment for who may be just looking, and longer for who is dying.
fn open_when_free(
    path: &Path,
    what: &str,
    is_block_device: bool,
    not_direct: Option<String>,
) -> Result<(File, Option<String>), OpenError> {
    let since = Instant::now();
    loop {
        let busy = match open_file(path, is_block_device, not_direct.clone()) {
            Ok((file, not_direct)) => match file.try_lock() {
                Ok(()) => return Ok((file, not_direct)),
                Err(TryLockError::WouldBlock) => true,
                Err(TryLockError::Error(error)) => return Err(failed(path, what, "locked", &error)),
            },
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EBUSY) => true,
                Some(Errno::ETXTBSY) => false,
                _ => return Err(failed(path, what, "opened", &error)),
            },
        };
        let holder = holder::find(path);
        let patience = match holder.as_ref().map(|holder| holder.stay) {
            _ if !busy => Duration::ZERO,
            Some(Stay::Permanent) => Duration::ZERO,
            Some(Stay::Process) | None => DISK_LOCK_TIME,
            Some(Stay::Dying) => DISK_LOCK_DYING_TIME,
        };
        if since.elapsed() >= patience {
            return Err(in_use(path, what, holder));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

fn open_file(path: &Path, is_block_device: bool, not_direct: Option<String>) -> io::Result<(File, Option<String>)> {
    let exclusive = if is_block_device { libc::O_EXCL } else { 0 };
    let open = |flags: i32| OpenOptions::new().read(true).write(true).custom_flags(flags | exclusive).open(path);
    if not_direct.is_none() {
        match open(libc::O_DIRECT) {
            Ok(file) => return Ok((file, None)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    let why = not_direct.unwrap_or_else(|| "its file system refuses O_DIRECT".into());
    open(0).map(|file| (file, Some(why)))
}

/// Why direct I/O in units of 4 KiB is impossible, if the kernel says so (kernel-notes/0001). Kernels before 6.1 say
/// nothing.
fn why_not_direct(path: &Path, metadata: &Metadata) -> Option<String> {
    if metadata.file_type().is_block_device() {
        let unit = sysfs(metadata.rdev(), "queue/logical_block_size")?.parse::<u64>().ok()?;
        return (unit > METADATA_UNIT_BYTES as u64)
            .then(|| format!("its sectors have {unit} bytes, more than the {METADATA_UNIT_BYTES} of a block"));
    }
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: a statx is plain data, for which all zeroes is a value.
    let mut answer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte and the answer is a statx; both live through the call.
    let result = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), 0, libc::STATX_DIOALIGN, &mut answer) };
    if result != 0 || answer.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    match answer.stx_dio_offset_align {
        0 => Some("its file system has no direct I/O for this file".into()),
        align if align as usize > METADATA_UNIT_BYTES => Some(format!("its file system wants {align} bytes at a time")),
        _ => None,
    }
}

fn missing(path: &Path, what: &str, error: &io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::NotFound => OpenError::new(
            "disk-missing",
            format!("The {what} {} does not exist.", path.display()),
            "Correct the path in the configuration, or let init-disk create a file with --size.",
        ),
        _ => failed(path, what, "looked at", error),
    }
}

fn in_use(path: &Path, what: &str, holder: Option<Holder>) -> OpenError {
    let user = holder.map_or_else(|| "held by someone the kernel doesn't name".into(), |holder| holder.words);
    OpenError::new(
        "disk-in-use",
        format!("The {what} {} is in use: it is {user}.", path.display()),
        "Stop or unmount what uses it, and try again.",
    )
}

fn failed(path: &Path, what: &str, verb: &str, error: &io::Error) -> OpenError {
    let reason = format!("The {what} {} can't be {verb}: {error}.", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => OpenError::new(
            "disk-permission",
            reason,
            "Run the command as a user that may, or change the owner or mode of the disk.",
        ),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            OpenError::new("disk-full", reason, "Free space on its file system, or use another one.")
        }
        _ => OpenError::new(
            "disk-io",
            reason,
            "Look into the kernel's log for the disk's own errors, and repair or replace it.",
        ),
    }
}

/// Inode and time of birth: another file at the same path is another disk.
fn file_identity(metadata: &Metadata) -> Option<u128> {
    let born = metadata.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(hash(&format!("file {} {}", metadata.ino(), born.as_nanos())))
}

/// What the kernel knows of a device that stays with it: serial, world-wide name, device-mapper or md identity.
fn block_identity(metadata: &Metadata) -> Option<u128> {
    const ATTRIBUTES: [&str; 7] =
        ["dm/uuid", "md/uuid", "wwid", "serial", "device/wwid", "device/serial", "loop/backing_file"];
    let device = metadata.rdev();
    let read = |prefix: &str| -> String {
        ATTRIBUTES.iter().filter_map(|name| sysfs(device, &format!("{prefix}{name}"))).collect::<Vec<_>>().join(" ")
    };
    // A partition has a number and the identity of the disk it is on.
    let identity = match sysfs(device, "partition") {
        Some(partition) => (read("../"), partition),
        None => (read(""), String::new()),
    };
    (!identity.0.is_empty()).then(|| hash(&format!("device {} {}", identity.0, identity.1)))
}

/// An attribute of a block device or, for a partition that has none of its own, of its disk.
fn sysfs(device: u64, attribute: &str) -> Option<String> {
    let base = format!("/sys/dev/block/{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let base = std::fs::canonicalize(base).ok()?;
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let found = match attribute.strip_prefix("queue/") {
        Some(_) if !base.join("queue").exists() => read(base.parent()?.join(attribute)),
        _ => read(base.join(attribute)),
    };
    found.map(|value| value.trim().to_string()).filter(|value| !value.is_empty())
}

fn hash(identity: &str) -> u128 {
    access::first_half(&Sha256::digest(identity.as_bytes()))
}
