//! A journal: lines that are appended and outlast a crash, in two files that together never exceed a bound.
//!
//! ```text
//! append ─▶ NAME (durable) ── full ─▶ renamed to NAME.old, a new NAME begins
//! ```
//! A crash can only tear the last line; what has no end is dropped when the journal is opened again, and the next line
//! begins on a line of its own.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Bytes each of the two files may have.
    bytes_max: u64,
    file: File,
    bytes: u64,
    /// A line may have been begun and not ended.
    torn: bool,
}

impl Journal {
    /// Opens a journal, makes it when there is none, and returns its lines, oldest first. `bytes_max` is for each file.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<(Journal, Vec<Vec<u8>>)> {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let mut text = read(&old(path), bytes_max)?;
        end_last_line(&mut text);
        let current = read(path, bytes_max)?;
        let (bytes, torn) = (current.len() as u64, current.last().is_some_and(|byte| *byte != b'\n'));
        text.extend(current);
        end_last_line(&mut text);
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
        let journal = Journal { path: path.into(), bytes_max, file: open(path)?, bytes, torn };
        Ok((journal, lines))
    }

    /// Appends lines; they are durable when it returns. Each must be free of newlines.
    pub fn append(&mut self, lines: &[Vec<u8>]) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            assert!(!line.contains(&b'\n'), "a line of the journal is one line");
            text.extend(line);
            text.push(b'\n');
        }
        if self.bytes > 0 && self.bytes + text.len() as u64 > self.bytes_max {
            self.turn_over()?;
        }
        if self.torn {
            text.insert(0, b'\n');
        }
        // Until the write is known to be whole.
        self.torn = true;
        self.file.write_all(&text)?;
        self.file.sync_data()?;
        self.torn = false;
        self.bytes += text.len() as u64;
        Ok(())
    }

    fn turn_over(&mut self) -> io::Result<()> {
        fs::rename(&self.path, old(&self.path))?;
        self.file = open(&self.path)?;
        (self.bytes, self.torn) = (0, false);
        File::open(self.path.parent().ok_or(ErrorKind::InvalidInput)?)?.sync_all()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// What a file holds; of one that is larger than any of ours, only the beginning.
fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        // The last append may have been larger than the room that was left.
        Ok(file) => file.take(bytes_max.saturating_mul(2)).read_to_end(&mut bytes).map(|_| bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(bytes),
        Err(error) => Err(error),
    }
}

/// Drops a last line that has no end.
fn end_last_line(text: &mut Vec<u8>) {
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    text.truncate(whole);
}

fn old(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(".old");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        let (_, lines) = Journal::open(path, 64).unwrap();
        lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn lines_outlast_and_the_size_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made").join("events");
        let (mut journal, before) = Journal::open(&path, 64).unwrap();
        assert_eq!(before.len(), 0);
        for number in 0..40 {
            journal.append(&[format!("line {number:03}").into_bytes()]).unwrap();
        }
        let kept = lines(&path);
        assert_eq!(kept.last().unwrap(), "line 039");
        assert!(kept.len() > 7 && kept.windows(2).all(|pair| pair[0] < pair[1]), "{kept:?}");
        for name in ["events", "events.old"] {
            assert!(fs::metadata(path.with_file_name(name)).unwrap().len() <= 64, "{name}");
        }
    }

    #[test]
    fn a_torn_line_is_dropped_and_harms_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let (mut journal, _) = Journal::open(&path, 64).unwrap();
        journal.append(&[b"one".to_vec(), b"two".to_vec()]).unwrap();
        drop(journal);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"thr").unwrap();
        assert_eq!(lines(&path), ["one", "two"]);
        let (mut journal, _) = Journal::open(&path, 64).unwrap();
        journal.append(&[b"four".to_vec()]).unwrap();
        // What was torn stands there as a line of its own, which its reader refuses.
        assert_eq!(lines(&path), ["one", "two", "thr", "four"]);
    }
}
