//! Archives on disk: what only a copy that was given up had, one file each.
//!
//! | file | tells |
//! |---|---|
//! | `keeper` | the thread that saves blocks before they are overwritten |
//! | `writer` | appends to the file, durably, and goes on with one that a crash interrupted |
//! | `reader` | finds what a file has, whatever happened to it |
//! | `view` | an archive over the volume, as it is shown |
//! | `catalogue` | the files of a directory, and their names |

pub mod catalogue;
pub mod keeper;
pub mod reader;
pub mod view;

mod writer;

#[cfg(test)]
mod tests;

pub use catalogue::{Entry, list};
pub use keeper::{Begin, Keeper, Place, Work};
pub use reader::{Extent, Held, Reader};
pub use view::View;

use std::fmt;
use std::io;
use std::path::Path;

/// Why an archive can't be written or read: a sentence that names it, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveError {
    /// What is wrong with which file.
    pub reason: String,
    /// What to do about it.
    pub next: String,
}

impl ArchiveError {
    fn new(reason: impl Into<String>, next: impl Into<String>) -> ArchiveError {
        ArchiveError { reason: reason.into(), next: next.into() }
    }

    /// A system call failed.
    fn of(path: &Path, what: &str, error: &io::Error) -> ArchiveError {
        let next = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => {
                "Make room there, or set another `archive_dir` and restart; then give the copy up again."
            }
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => "Make it writable, then give the copy up again.",
            _ => "Look at the file system it is on, then give the copy up again.",
        };
        ArchiveError::new(format!("the archive {} can't be {what}: {error}.", path.display()), next)
    }
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.reason, self.next)
    }
}

impl std::error::Error for ArchiveError {}
