//! Block devices of this kernel that are served from here (ublk): the driver's control commands, and its queue.
//!
//! ```text
//!  application ─▶ /dev/ublkbN ─▶ queue of the kernel ──▶ Queue: one command per tag waits in the kernel; it ends when
//!                                      ▲                 a request has come, and answering it fetches the next one
//!  control thread ─▶ /dev/ublk-control │
//!    Control: add, parameters, start, stop, delete, recovery
//! ```
//!
//! A driver of our own rather than `libublk`: the commands of a tag must be given by one thread for ever, which is the
//! volume's shard thread, and that has an event loop already; the crate brings another executor, and needs libclang to
//! build. The driver copies nothing by itself (user copy), so that what is mirrored is one private copy of each write.

mod abi;
mod control;
mod queue;

pub use control::{Control, ControlError, Device, DeviceState, Features, Shape};
pub use queue::{Action, Queue, Request};

/// Bytes of a sector as the kernel counts, whatever the disk's own sectors are.
pub const SECTOR: u64 = 512;
