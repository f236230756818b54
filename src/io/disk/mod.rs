//! Opens and initialises a volume's disk: lock, geometry, identity, metadata. Refuses with the thing, the reason and the
//! next step; never changes a disk it refuses.
//!
//! | question | file |
//! |---|---|
//! | what is at this path, is it free, how large is it | `device` |
//! | who uses it | `holder` |
//! | what does it hold already | `content` |
//! | is it ours, and in which state | `open` |
//! | make it ours | `init` |

pub mod access;
mod holder;

mod device;

mod content;

mod init;
mod open;

#[cfg(test)]
mod tests;

pub use access::{holes, volume_uuid};
pub use init::{InitOptions, InitReport, InitialContent, Progress, init_disk, init_disk_with_progress};
pub use open::open_volume;

use crate::base::command::Refusal;
use crate::base::ids::{NodeId, Uuid};
use crate::wire::metadata::record::Loaded;
use crate::wire::metadata::writer::Writer;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Which disk, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Name of the volume.
    pub volume: String,
    /// Name of the cluster.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// Identity of the volume: [`volume_uuid`] of the two names.
    pub volume_uuid: Uuid,
    /// The data disk: a block device or a regular file.
    pub disk: PathBuf,
    /// Where the metadata is.
    pub metadata: MetadataPlace,
}

/// Where the metadata of a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataPlace {
    /// At the tail of the data disk.
    Internal,
    /// On a block device or file of its own.
    External(PathBuf),
}

/// A disk that is open, locked against a second opener and read.
#[derive(Debug)]
pub struct OpenedVolume {
    /// The data; offset 0 is the volume's first byte.
    pub data: OwnedFd,
    /// The metadata.
    pub metadata: MetadataFile,
    /// What the metadata says.
    pub loaded: Loaded,
    /// Whether the data is on a block device (or in a regular file).
    pub is_block_device: bool,
    /// Whether the data is read and written past the page cache.
    pub direct: bool,
    /// What the operator should know of, as sentences: a swapped disk, damaged metadata, no direct I/O.
    pub warnings: Vec<String>,
}

/// Where metadata is written, and what knows how.
#[derive(Debug)]
pub struct MetadataFile {
    /// The file or device the plans' offsets refer to. If internal, a second descriptor of the data disk.
    pub fd: OwnedFd,
    /// Whether it is written past the page cache.
    pub direct: bool,
    /// Plans the writes.
    pub writer: Writer,
}

/// Why a disk was not opened or initialised. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenError {
    /// Code, reason and next step.
    pub refusal: Refusal,
}

impl OpenError {
    fn new(code: &str, reason: impl Into<String>, next: impl Into<String>) -> OpenError {
        OpenError { refusal: Refusal::new(code, reason, next) }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.refusal.fmt(f)
    }
}

impl std::error::Error for OpenError {}
