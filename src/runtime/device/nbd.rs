//! A volume as a device of the kernel's NBD client, whose sockets lead back to the volume's thread.

use super::handshake::{Export, negotiate};
use super::kind::{Condition, Kind, Left, load_module};
use crate::base::limits::{DEVICE_STOP_TIME_MAX, NBD_DEVICE_DEAD_TIME, NBD_DEVICE_LOST_AFTER};
use crate::io::nbd_device::{
    NbdDriver, Shape, backend_of, device_path, devices_of, is_connected, is_severed, look_for_lost_after,
};
use crate::logic::mirror::interface::Serving;
use crate::runtime::shard::ShardHandle;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Time between two looks whether a device is quite gone.
const GONE_INTERVAL: Duration = Duration::from_millis(20);
/// Longest wait for the volume's thread to answer in a handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Smallest request, in bytes: a disk that was adopted may hold a file system that needs it.
const SECTOR: u64 = 512;

/// NBD devices of one volume.
pub(super) struct Nbd {
    driver: NbdDriver,
    /// Beginning of the backend's name of this volume's devices on this node; the cache's epoch follows.
    backend: String,
    volume: String,
    shard: ShardHandle,
    /// Our copy of the socket the kernel has, which tells when it is cut.
    socket: Option<UnixStream>,
}

impl Nbd {
    /// The driver, if this kernel has one; its module is loaded if need be and told so.
    pub(super) fn open(load: bool, identity: &str, volume: &str, shard: &ShardHandle) -> Result<Nbd, String> {
        let driver = match NbdDriver::open() {
            Err(error) if load && error.kind() == io::ErrorKind::NotFound && load_module("nbd") => NbdDriver::open(),
            other => other,
        };
        let driver = driver.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                "this kernel has no NBD client: load the module nbd (some distributions put it into \
                                        a package of extra modules)"
                    .to_owned()
            }
            _ => format!("the kernel's NBD client can't be reached: {error}"),
        })?;
        let backend = format!("twinblock/{identity}");
        Ok(Nbd { driver, backend, volume: volume.to_owned(), shard: shard.clone(), socket: None })
    }

    fn backend(&self, serving: Serving) -> String {
        format!("{}@{}", self.backend, serving.cache_epoch)
    }

    /// A connected socket that has chosen the export, and what was agreed.
    fn socket(&self) -> Result<(UnixStream, Export), String> {
        let failed = |error: io::Error| format!("the volume's thread can't be connected to: {error}");
        let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
        self.shard.adopt_device(theirs);
        ours.set_read_timeout(Some(HANDSHAKE_TIME_MAX)).map_err(failed)?;
        let export = negotiate(&mut ours, &self.volume).map_err(failed)?;
        ours.set_read_timeout(None).map_err(failed)?;
        Ok((ours, export))
    }

    /// A device goes on with this socket.
    fn began(&mut self, id: u32, socket: UnixStream) {
        self.socket = Some(socket);
        if let Err(error) = look_for_lost_after(id, NBD_DEVICE_LOST_AFTER) {
            tracing::warn!(
                "{}: after a restart of the daemon its users may wait 30 s: {error}",
                device_path(id).display()
            );
        }
    }

    fn failed(&self, doing: &str, error: &io::Error) -> String {
        let next = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => "run the daemon as root",
            Some(libc::ENOSPC | libc::ENODEV) => {
                "all NBD devices are in use: free one, or raise nbds_max of the module nbd"
            }
            Some(libc::EBUSY) => "somebody else uses that device",
            Some(libc::EINVAL) => "it belongs to somebody else",
            _ => "see the kernel's log",
        };
        format!("{doing}: {error}: {next}")
    }
}

fn shape(export: Export, backend: &str) -> Shape<'_> {
    Shape {
        size_bytes: export.size_bytes,
        block_bytes: SECTOR,
        flags: export.flags,
        dead_connection: NBD_DEVICE_DEAD_TIME,
        backend,
    }
}

impl Kind for Nbd {
    fn path(&self, id: u32) -> PathBuf {
        device_path(id)
    }

    fn left(&mut self) -> Vec<Left> {
        let start = format!("{}@", self.backend);
        let found = devices_of(|backend| backend.starts_with(&start));
        found.into_iter().map(|id| Left { id, is_used: true }).collect()
    }

    fn make(&mut self, serving: Serving) -> Result<u32, String> {
        let (socket, export) = self.socket()?;
        let backend = self.backend(serving);
        let made = self.driver.connect(&shape(export, &backend), socket.as_fd());
        let id = made.map_err(|error| self.failed("connecting an NBD device", &error))?;
        self.began(id, socket);
        Ok(id)
    }

    fn take_over(&mut self, id: u32, serving: Serving) -> Result<bool, String> {
        let backend = self.backend(serving);
        if !devices_of(|other| other == backend).contains(&id) {
            return Ok(false);
        }
        let (socket, export) = self.socket()?;
        let taken = self.driver.reconnect(id, &shape(export, &backend), Some(socket.as_fd()));
        taken.map_err(|error| self.failed("reconnecting the NBD device", &error))?;
        self.began(id, socket);
        Ok(true)
    }

    fn condition(&self, id: u32) -> Condition {
        match &self.socket {
            _ if !is_connected(id) => Condition::Ended,
            Some(socket) if is_severed(socket.as_fd()) => Condition::Severed,
            _ => Condition::Served,
        }
    }

    fn resize(&mut self, id: u32, size_bytes: u64) -> Result<(), String> {
        let export = Export { size_bytes, flags: 0 };
        let resized = self.driver.reconnect(id, &shape(export, &backend_of(id).unwrap_or_default()), None);
        resized.map_err(|error| self.failed("changing the size of the NBD device", &error))
    }

    fn remove(&mut self, id: u32) -> Result<(), String> {
        self.driver.disconnect(id).map_err(|error| self.failed("disconnecting the NBD device", &error))?;
        // What it says is done is not: until then another device of this number is refused.
        let until = Instant::now() + DEVICE_STOP_TIME_MAX;
        while is_connected(id) {
            if Instant::now() > until {
                return Err(format!("{} does not end: see who has it open", device_path(id).display()));
            }
            std::thread::sleep(GONE_INTERVAL);
        }
        Ok(())
    }
}
