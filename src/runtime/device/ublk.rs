//! A volume as a ublk device.

use super::kind::{Kind, Left, load_module};
use crate::base::limits::DEVICE_TAKEOVER_TIME_MAX;
use crate::io::ublk::{Control, ControlError, Device, DeviceState, Shape};
use crate::logic::mirror::interface::Serving;
use crate::runtime::shard::ShardHandle;
use sha2::{Digest, Sha256};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Time between two tries to take a device from a process that is not quite gone.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);

/// ublk devices of one volume.
pub(super) struct Ublk {
    control: Control,
    /// 32 bits that tell this volume's devices on this node from others; the cache's epoch has the other 32.
    identity: u32,
    shard: ShardHandle,
    opening: Option<u64>,
}

impl Ublk {
    /// The driver, if this kernel has one that will do; its module is loaded if need be and told so.
    pub(super) fn open(load: bool, identity: &str, shard: &ShardHandle) -> Result<Ublk, String> {
        let control = match Control::open() {
            Err(error) if load && error.error.kind() == io::ErrorKind::NotFound && load_module("ublk_drv") => {
                Control::open()
            }
            other => other,
        };
        let control = control.map_err(|error| match error.error.kind() {
            io::ErrorKind::NotFound => "this kernel has no ublk: load the module ublk_drv (Linux 6.5 or later; some \
                                        distributions put it into a package of extra modules)"
                .to_owned(),
            _ => advice(&error),
        })?;
        let missing = control.features().missing();
        if !missing.is_empty() {
            return Err(format!("this kernel's ublk driver lacks {}: use Linux 6.5 or later", missing.join(", ")));
        }
        let digest = Sha256::digest(identity.as_bytes());
        let identity = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        Ok(Ublk { control, identity, shard: shard.clone(), opening: None })
    }

    /// Whether a daemon that is killed does no harm to the kernel: otherwise the kernel's NBD client serves better.
    pub(super) fn survives_kills(&self) -> bool {
        self.control.features().survives_kills()
    }

    fn mark(&self, serving: Serving) -> u64 {
        u64::from(self.identity) << 32 | serving.cache_epoch & u64::from(u32::MAX)
    }

    fn serve(&mut self, id: u32, serving: Serving) -> Result<(), String> {
        let failed = |error: io::Error| format!("{} can't be served: {error}", Device::server_path(id).display());
        let server_side = self.control.open_server_side(id).map_err(failed)?;
        self.opening = Some(self.shard.open_device(server_side, serving.cache_epoch).map_err(failed)?);
        Ok(())
    }
}

impl Kind for Ublk {
    fn path(&self, id: u32) -> PathBuf {
        Device::user_path(id)
    }

    fn left(&mut self) -> Vec<Left> {
        let devices = self.control.devices().unwrap_or_else(|error| {
            tracing::error!("{}", advice(&error));
            Vec::new()
        });
        let ours = devices.into_iter().filter(|device| (device.mark >> 32) as u32 == self.identity);
        ours.map(|device| Left { id: device.id, is_used: device.state != DeviceState::Dead }).collect()
    }

    fn make(&mut self, serving: Serving) -> Result<u32, String> {
        let shape = Shape { size_bytes: serving.size_bytes, mark: self.mark(serving) };
        let id = self.control.add(shape).map_err(|error| advice(&error))?;
        let served = self.serve(id, serving);
        match served.and_then(|()| self.control.start(id).map_err(|error| advice(&error))) {
            Ok(()) => Ok(id),
            Err(trouble) => {
                self.shard.close_device();
                self.control.delete(id).map_err(|error| format!("{trouble}; {}", advice(&error)))?;
                Err(trouble)
            }
        }
    }

    fn take_over(&mut self, id: u32, serving: Serving) -> Result<bool, String> {
        let device = self.control.device(id).map_err(|error| advice(&error))?;
        if device.is_none_or(|device| device.mark != self.mark(serving)) {
            return Ok(false);
        }
        let until = Instant::now() + DEVICE_TAKEOVER_TIME_MAX;
        while let Err(error) = self.control.start_recovery(id) {
            if error.error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > until {
                return Err(advice(&error));
            }
            std::thread::sleep(BUSY_INTERVAL);
        }
        self.serve(id, serving)?;
        self.control.end_recovery(id).map_err(|error| advice(&error))?;
        Ok(true)
    }

    fn opening(&self) -> Option<u64> {
        self.opening
    }

    fn resize(&mut self, id: u32, size_bytes: u64) -> Result<(), String> {
        if !self.control.features().can_resize() {
            return Err(format!(
                "the volume has {size_bytes} bytes now, and this kernel can't tell the users of a ublk device \
                 (Linux 6.16 can): stop using it, demote and promote the volume"
            ));
        }
        self.control.resize(id, size_bytes).map_err(|error| advice(&error))
    }

    fn remove(&mut self, id: u32) -> Result<(), String> {
        // The shard answers what is under way meanwhile, and closes its side then.
        self.control.stop(id).and_then(|()| self.control.delete(id)).map_err(|error| advice(&error))
    }
}

/// What the kernel said, and what to do about it.
fn advice(error: &ControlError) -> String {
    let next = match error.error.raw_os_error() {
        Some(libc::EPERM) => "run the daemon as root",
        // Another device than `ublks_max` allows is refused as if it were a matter of rights.
        Some(libc::EACCES) if error.is_about_a_new_device() => {
            "there are too many ublk devices: remove some, or raise ublks_max of the module ublk_drv"
        }
        Some(libc::EACCES) => "run the daemon as root",
        Some(libc::ENOSPC | libc::EMFILE | libc::ENFILE) => {
            "there are too many ublk devices: remove some, or raise ublks_max of the module ublk_drv"
        }
        Some(libc::ENOMEM) => "the kernel lacks memory for it",
        Some(libc::EBUSY) => "somebody else serves it: see who has it open",
        _ => "see the kernel's log",
    };
    format!("{error}: {next}")
}
