//! Failures of the world, as data.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a disk operation failed, reduced to what anyone decides on. The words are for logs and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DiskError {
    /// The device reported an error (EIO and everything unnamed here). Holds the errno.
    Failed(i32),
    /// No space left: a thin or file back end is full (ENOSPC, EDQUOT, EFBIG).
    NoSpace,
    /// Fewer bytes were moved than asked for.
    Short,
    /// No answer within the disk time-out.
    TimedOut,
    /// No disk is attached.
    NoDisk,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::Failed(errno) => write!(f, "input/output error (errno {errno})"),
            DiskError::NoSpace => f.write_str("no space left on the backing device (ENOSPC)"),
            DiskError::Short => f.write_str("short transfer"),
            DiskError::TimedOut => f.write_str("the disk did not answer in time"),
            DiskError::NoDisk => f.write_str("no disk is attached"),
        }
    }
}

/// Why a client's request failed. Maps one to one to what NBD may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RequestError {
    /// Neither copy could serve it.
    Io,
    /// The back end is full.
    NoSpace,
    /// The node is no longer primary; the connection is cut as well.
    Shutdown,
}
