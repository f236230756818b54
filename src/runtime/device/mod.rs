//! The volume as a block device of this kernel, where and while this node serves it.
//!
//! ```text
//!  shard: what is served ──▶ keeper (a thread per volume) ──▶ control commands of the driver
//!    ▲                          │ hands over the server's side
//!    └──────────────────────────┘
//! ```
//!
//! The keeper makes the device when the volume begins to be served here, and removes it when that ends: its users then
//! get errors at once. When the daemon dies the device stays, and its users wait (parked): the next daemon serves them
//! again, unless the other server has taken over meanwhile. Control commands block, some for as long as a user keeps
//! them waiting: nothing but this device's keeper waits for them.

mod handshake;
mod keeper;
mod kind;
mod link;
mod nbd;
mod ublk;
mod users;

pub use keeper::{Keeper, KeeperConfig};
pub use users::{User, in_words, users_of};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// By what a volume is served on the node that is its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FrontEnd {
    /// A block device if there are no NBD addresses, otherwise none: ublk from
    /// Linux 6.16 on, else the kernel's NBD client.
    #[default]
    Auto,
    /// A ublk device.
    Ublk,
    /// A device of the kernel's NBD client.
    NbdDevice,
    /// Its NBD addresses.
    NbdExport,
    /// Nothing.
    None,
}

/// What a device is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// There is none, because the volume is not served here.
    Absent,
    /// It is being made or taken over.
    Starting,
    /// In use or ready for it.
    Live,
    /// Its users wait until the volume is served here again.
    Parked,
    /// It is being removed.
    Stopping,
    /// The volume is served here and has no device; see the trouble.
    Failed,
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceState::Absent => "absent",
            DeviceState::Starting => "starting",
            DeviceState::Live => "live",
            DeviceState::Parked => "parked",
            DeviceState::Stopping => "stopping",
            DeviceState::Failed => "failed",
        })
    }
}

/// The device as status shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceView {
    /// What it is doing.
    pub state: DeviceState,
    /// The stable link that its users open.
    pub link: PathBuf,
    /// The device the link leads to now.
    pub device: Option<PathBuf>,
    /// What is wrong, and what to do next.
    pub trouble: Option<String>,
}
