//! The files of one group in the shared directory. Every call here may block for as long as the storage likes.

use super::SharedSpec;
use super::presence::Presence;
use crate::base::arbiter::{ArbiterError, ArbiterErrorKind, Revision};
use crate::base::limits::{ARBITER_FILES_MAX, ARBITER_RECORD_BYTES_MAX, ARBITER_RECORDS_KEPT};
use crate::runtime::arbiter::memory::Memory;
use crate::runtime::arbiter::register::{Entry, Seen};
use crate::runtime::arbiter::report::{Place, Report};
use crate::runtime::arbiter::stored::Owner;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the names of records begin with; the revision follows with all its digits, so that a listing is in order.
const RECORD: &str = "record.";
/// What the names of files that are being written begin with.
const NEW: &str = "new.";
/// The file with the store's identity.
const STORE: &str = "store";
/// Bytes of the line with the checksum, its line ends included: `crc32 1234abcd`.
const CHECKSUM_LINE_BYTES: usize = 16;

/// Age at which a file that was never finished is removed; longer than clocks differ.
const UNFINISHED_AGE: Duration = Duration::from_secs(24 * 3600);

/// A request that failed, and whether it may have changed the record.
#[derive(Debug)]
pub struct Trouble {
    /// Why.
    pub error: ArbiterError,
    /// Whether the new record may stand there.
    pub perhaps_done: bool,
}

/// One group's part of the directory.
pub struct Directory {
    /// As configured.
    root: PathBuf,
    /// The group's own folder.
    folder: PathBuf,
    /// What our new files are called, up to a number.
    own: String,
    /// Makes every new file's name another one.
    counter: u64,
    /// The revision that was made durable by us, whoever wrote it.
    durable: Option<Revision>,
    presence: Presence,
}

impl From<ArbiterError> for Trouble {
    fn from(error: ArbiterError) -> Trouble {
        Trouble { error, perhaps_done: false }
    }
}

impl Directory {
    /// The part of a group. Nothing is looked at yet.
    pub fn new(spec: &SharedSpec, owner: &Owner) -> Directory {
        let node = &owner.nodes[usize::from(spec.node.0)];
        Directory {
            root: spec.directory.clone(),
            folder: spec.directory.join(format!("{}.{}", owner.cluster, owner.group)),
            own: format!("{NEW}{node}.{:016x}", spec.incarnation.0),
            counter: 0,
            durable: None,
            presence: Presence::new(spec, owner),
        }
    }

    /// Names the register in messages.
    pub fn place(&self) -> String {
        format!("the arbiter's directory {}", self.folder.display())
    }

    /// The record as it stands.
    pub fn read(&mut self) -> Result<Seen, Trouble> {
        let store = self.enter()?;
        Ok(self.look(store)?)
    }

    /// Puts `new` where `expected` stands: whether that was done, and what stands there now.
    pub fn swap(&mut self, expected: Option<&Entry>, new: &[u8], memory: &Memory) -> Result<(bool, Seen), Trouble> {
        let store = self.enter()?;
        let seen = self.look(store)?;
        memory.judge_store(&seen.store, seen.store_revision)?;
        if seen.entry.as_ref() != expected {
            return Ok((false, seen));
        }
        let revision = Revision(seen.store_revision + 1);
        let prepared = self.write_new(&with_checksum(new))?;
        let linked = fs::hard_link(&prepared, self.record(revision));
        let is_ours = linked.is_ok() || is_linked(&prepared);
        let _ = fs::remove_file(&prepared);
        match linked {
            // The answer of a network file system may have been lost: the file itself tells whether it was linked.
            _ if is_ours => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok((false, self.look(seen.store)?)),
            Err(error) if has_no_links(&error) => return Err(self.no_links(&error).into()),
            Err(error) => {
                let perhaps_done = !is_refusal(&error);
                return Err(Trouble { error: self.failed("link the new record", &error), perhaps_done });
            }
            Ok(()) => unreachable!("it is ours"),
        }
        let perhaps = |error| Trouble { error, perhaps_done: true };
        self.make_durable(revision).map_err(perhaps)?;
        let after = self.look(seen.store).map_err(perhaps)?;
        let won = after.entry.as_ref().is_some_and(|entry| entry.revision == revision);
        self.clear_away(Revision(after.store_revision));
        Ok((won, after))
    }

    /// Tries what the storage must keep, and looks for the peer's sign.
    pub fn check(&mut self, peer_alive: bool) -> Report {
        let trouble = match self.read() {
            Ok(_) => self.try_links().err(),
            Err(trouble) => Some(trouble.error),
        };
        let mut report = Report { trouble, ..Report::default() };
        if report.trouble.is_none() {
            match self.presence.judge(&self.folder, peer_alive) {
                Ok(note) => report.notes.extend(note),
                Err(error) => report.trouble = Some(error),
            }
            report.notes.extend(self.open_to_others());
        }
        let (name, what) = (self.folder.display().to_string(), "directory".to_string());
        report.places.push(Place { name, what, trouble: report.trouble.clone() });
        report
    }

    /// Makes sure that the folder is there, shows our sign in it, and tells whose store it is.
    fn enter(&mut self) -> Result<String, ArbiterError> {
        match fs::create_dir(&self.folder) {
            Ok(()) => self.flush(&self.root.clone())?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let detail = format!("the arbiter's directory {} does not exist; is it mounted?", self.root.display());
                return Err(ArbiterError::new(ArbiterErrorKind::Unreachable, detail));
            }
            Err(error) => return Err(self.failed("make it", &error)),
        }
        let sign = self.presence.next(&self.folder);
        let new = self.new_name();
        let shown = fs::write(&new, sign).and_then(|()| fs::rename(&new, self.presence.own_file(&self.folder)));
        shown.map_err(|error| self.failed("show this node's sign in it", &error))?;
        self.store()
    }

    /// The store's identity, which is made by whoever comes first.
    fn store(&mut self) -> Result<String, ArbiterError> {
        let path = self.folder.join(STORE);
        for _ in 0..2 {
            match read_bounded(&path) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes).trim().to_string();
                    let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                    return if plain { Ok(text) } else { Err(self.foreign(STORE, "holds no identity of a store")) };
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.failed("read its identity", &error)),
            }
            let mut identity = [0; 16];
            getrandom::fill(&mut identity)
                .map_err(|error| self.failed("draw a random number for it", &io::Error::other(error)))?;
            let prepared = self.write_new(format!("{:032x}\n", u128::from_le_bytes(identity)).as_bytes())?;
            let linked = fs::hard_link(&prepared, &path);
            let _ = fs::remove_file(&prepared);
            match linked {
                Err(error) if has_no_links(&error) => return Err(self.no_links(&error)),
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(self.failed("link its identity", &error));
                }
                _ => self.flush(&self.folder.clone())?,
            }
        }
        Err(self.foreign(STORE, "comes and goes"))
    }

    /// The highest record.
    fn look(&mut self, store: String) -> Result<Seen, ArbiterError> {
        let Some(revision) = self.revisions()?.into_iter().max() else {
            return Ok(Seen { store, store_revision: 0, entry: None });
        };
        let path = self.record(revision);
        let bytes = read_bounded(&path).map_err(|error| self.failed("read the record", &error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = without_checksum(&bytes).ok_or_else(|| {
            self.foreign(&name, "is torn or was changed by hand: its checksum does not fit; an earlier one is not used")
        })?;
        // It may have been linked a moment ago by a server that died before it made that durable.
        if self.durable != Some(revision) {
            self.make_durable(revision)?;
        }
        let entry = Some(Entry { revision, bytes: bytes.to_vec() });
        Ok(Seen { store, store_revision: revision.0, entry })
    }

    /// Revisions that have a file.
    fn revisions(&self) -> Result<Vec<Revision>, ArbiterError> {
        let failed = |error| self.failed("list it", &error);
        let mut found = Vec::new();
        for (count, item) in fs::read_dir(&self.folder).map_err(failed)?.enumerate() {
            if count >= ARBITER_FILES_MAX {
                return Err(self.foreign("", &format!("holds more than {ARBITER_FILES_MAX} files")));
            }
            let name = item.map_err(failed)?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix(RECORD)).filter(|digits| digits.len() == 20);
            found.extend(digits.and_then(|digits| digits.parse().ok()).map(Revision));
        }
        Ok(found)
    }

    fn record(&self, revision: Revision) -> PathBuf {
        self.folder.join(format!("{RECORD}{:020}", revision.0))
    }

    fn new_name(&mut self) -> PathBuf {
        self.counter += 1;
        self.folder.join(format!("{}.{}", self.own, self.counter))
    }

    /// A new file of a name of its own, whole and durable.
    fn write_new(&mut self, bytes: &[u8]) -> Result<PathBuf, ArbiterError> {
        let path = self.new_name();
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        match written {
            Ok(()) => Ok(path),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(self.failed("write to it", &error))
            }
        }
    }

    fn make_durable(&mut self, revision: Revision) -> Result<(), ArbiterError> {
        self.flush(&self.folder.clone())?;
        self.durable = Some(revision);
        Ok(())
    }

    fn flush(&self, folder: &Path) -> Result<(), ArbiterError> {
        let flushed = File::open(folder).and_then(|folder| folder.sync_all());
        flushed.map_err(|error| self.failed("flush it", &error))
    }

    /// Removes what nobody needs any more: records long past, and files that were not finished a day ago.
    fn clear_away(&self, current: Revision) {
        let oldest = current.0.saturating_sub(ARBITER_RECORDS_KEPT);
        for old in self.revisions().unwrap_or_default().into_iter().filter(|revision| revision.0 < oldest) {
            let _ = fs::remove_file(self.record(old));
        }
        for item in fs::read_dir(&self.folder).into_iter().flatten().flatten().take(ARBITER_FILES_MAX) {
            let changed = item.metadata().and_then(|status| status.modified()).ok();
            let age = changed.and_then(|changed| changed.elapsed().ok()).unwrap_or_default();
            if item.file_name().to_string_lossy().starts_with(NEW) && age > UNFINISHED_AGE {
                let _ = fs::remove_file(item.path());
            }
        }
    }

    /// Whether a name that exists can't be linked again.
    fn try_links(&mut self) -> Result<(), ArbiterError> {
        let prepared = self.write_new(b"a try\n")?;
        let other = self.new_name();
        let first = fs::hard_link(&prepared, &other);
        let second = fs::hard_link(&prepared, &other);
        let counted = is_linked(&prepared);
        let _ = fs::remove_file(&prepared);
        let _ = fs::remove_file(&other);
        match (first, second) {
            (Err(error), _) if has_no_links(&error) => Err(self.no_links(&error)),
            (Err(error), _) => Err(self.failed("link a file in it", &error)),
            (Ok(()), Err(error)) if error.kind() == io::ErrorKind::AlreadyExists && counted => Ok(()),
            _ => {
                let detail = format!("{} links a name twice, so two servers could both win", self.place());
                Err(ArbiterError::new(ArbiterErrorKind::NotShared, detail))
            }
        }
    }

    /// Who else may write here.
    fn open_to_others(&self) -> Option<String> {
        let mode = fs::metadata(&self.folder).ok()?.permissions().mode() & 0o7777;
        let open = mode & 0o002 != 0;
        open.then(|| format!("{} may be written by everybody (mode {mode:04o}); run `chmod o-w` on it", self.place()))
    }

    fn failed(&self, what: &str, error: &io::Error) -> ArbiterError {
        use io::ErrorKind as Kind;
        let kind = match error.kind() {
            Kind::PermissionDenied => ArbiterErrorKind::Permission,
            Kind::ReadOnlyFilesystem | Kind::StorageFull | Kind::QuotaExceeded => ArbiterErrorKind::ReadOnly,
            Kind::TimedOut => ArbiterErrorKind::TimedOut,
            _ => ArbiterErrorKind::Unreachable,
        };
        ArbiterError::new(kind, format!("{}: can't {what}: {error}", self.place()))
    }

    fn foreign(&self, name: &str, what: &str) -> ArbiterError {
        let detail = format!("{} {what}", self.folder.join(name).display());
        ArbiterError::new(ArbiterErrorKind::Foreign, detail)
    }

    fn no_links(&self, error: &io::Error) -> ArbiterError {
        let detail = format!("{} is on a file system without hard links ({error})", self.place());
        ArbiterError::new(ArbiterErrorKind::NotShared, detail)
    }
}

/// Whether a file that we wrote has a second name.
fn is_linked(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|status| status.nlink() == 2)
}

fn has_no_links(error: &io::Error) -> bool {
    let number = error.raw_os_error().unwrap_or(0);
    [libc::EPERM, libc::EOPNOTSUPP, libc::ENOSYS, libc::EXDEV, libc::EMLINK].contains(&number)
}

/// Errors with which the storage says that it did nothing. After any other one it may still do it.
fn is_refusal(error: &io::Error) -> bool {
    let number = error.raw_os_error().unwrap_or(0);
    [libc::EACCES, libc::EROFS, libc::ENOSPC, libc::EDQUOT, libc::ENOENT, libc::ENOTDIR].contains(&number)
}

/// Reads a file up to one byte more than a record may have.
pub fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = ARBITER_RECORD_BYTES_MAX + CHECKSUM_LINE_BYTES;
    File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The record's line, and a line with its checksum.
fn with_checksum(record: &[u8]) -> Vec<u8> {
    let mut bytes = record.to_vec();
    bytes.extend(format!("\ncrc32 {:08x}\n", crc32fast::hash(record)).as_bytes());
    bytes
}

fn without_checksum(bytes: &[u8]) -> Option<&[u8]> {
    let (record, line) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_LINE_BYTES)?)?;
    (with_checksum(record)[record.len()..] == *line).then_some(record)
}
