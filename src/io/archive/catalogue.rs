//! The archives of a directory: `VOLUME-NODE-YYYYMMDDTHHMMSSZ.archive`.

use super::ArchiveError;
use super::reader::Reader;
use crate::base::ids::Uuid;
use crate::base::limits::{ARCHIVE_FILES_MAX, ARCHIVE_NAMES_TRIED};
use crate::wire::archive::Header;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Ending of an archive's file.
pub const ENDING: &str = "archive";

/// An archive's file.
#[derive(Debug)]
pub struct Entry {
    /// Its name without the ending.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
    /// It open, or why it can't be.
    pub reader: Result<Reader, ArchiveError>,
}

/// The archives of a directory by name; none where there is no directory.
pub fn list(directory: &Path) -> Result<Vec<Entry>, ArchiveError> {
    let failed = |error: io::Error| ArchiveError::of(directory, "read", &error);
    let files = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files.map_err(failed)?,
    };
    let mut entries = Vec::new();
    for file in files.take(ARCHIVE_FILES_MAX) {
        let path = file.map_err(failed)?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
        let Some(name) = name.filter(|_| path.extension().is_some_and(|ending| ending == ENDING)) else { continue };
        let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        entries.push(Entry { name, reader: Reader::open(&path), path, bytes });
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

/// Where the archive of that name would be; `None` for what is no name.
pub fn path_of(directory: &Path, name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    plain.then(|| directory.join(format!("{name}.{ENDING}")))
}

/// The newest archive of a disk that was begun and not finished.
pub(super) fn unfinished(directory: &Path, volume: Uuid, device: Uuid) -> Result<Option<Reader>, ArchiveError> {
    let readers = list(directory)?.into_iter().filter_map(|entry| entry.reader.ok());
    let open = readers.filter(|reader| {
        reader.finished.is_none() && (reader.header.volume_uuid, reader.header.device) == (volume, device)
    });
    Ok(open.max_by_key(|reader| reader.header.began))
}

/// Creates the file of a new archive, under a name that is free.
pub(super) fn create(directory: &Path, header: &Header) -> Result<(PathBuf, File), ArchiveError> {
    let stem = format!("{}-{}-{}", header.volume, header.node, stamp(header.began));
    for attempt in 1..=ARCHIVE_NAMES_TRIED {
        let name = if attempt == 1 { stem.clone() } else { format!("{stem}-{attempt}") };
        let path = directory.join(format!("{name}.{ENDING}"));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(ArchiveError::of(&path, "made", &error)),
        }
    }
    let path = directory.join(format!("{stem}.{ENDING}"));
    Err(ArchiveError::of(&path, "made", &io::Error::from(io::ErrorKind::AlreadyExists)))
}

/// Seconds since 1970.
pub(super) fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs())
}

/// A moment as `YYYYMMDDTHHMMSSZ`.
fn stamp(seconds: u64) -> String {
    let (year, month, day, [hour, minute, second]) = civil(seconds);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// A moment as `YYYY-MM-DD HH:MM:SS UTC`, for people.
pub fn show_moment(seconds: u64) -> String {
    let (year, month, day, [hour, minute, second]) = civil(seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Year, month, day and time of day of a moment in seconds since 1970.
fn civil(seconds: u64) -> (u64, u64, u64, [u64; 3]) {
    // Counted in eras of 400 years from a first of March, so that the leap day is a year's last.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day, [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        assert_eq!(show_moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(show_moment(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(stamp(1_709_251_199), "20240229T235959Z");
        assert_eq!(stamp(1_709_251_200), "20240301T000000Z");
        assert_eq!(stamp(4_107_542_400), "21000301T000000Z");
    }

    #[test]
    fn names_lead_nowhere_else() {
        let directory = Path::new("/a");
        assert_eq!(path_of(directory, "x"), Some("/a/x.archive".into()));
        for name in ["", ".", "..", "../x", "b/c", ".hidden"] {
            assert_eq!(path_of(directory, name), None, "{name}");
        }
    }
}
