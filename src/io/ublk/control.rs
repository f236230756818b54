//! The driver's control commands. Each blocks its thread until the kernel has answered, some for as long as the device
//! is busy: never called by the thread that serves a device.

use super::SECTOR;
use super::abi::{self, get, put};
use crate::base::limits::{PIECE_BYTES_MAX, UBLK_DEPTH, ZERO_BYTES_MAX};
use crate::base::range::BLOCK;
use io_uring::{IoUring, opcode, squeue, types};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

const CONTROL_DEVICE: &str = "/dev/ublk-control";
const MAKING: &str = "making a ublk device";

/// What the driver of this kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// What is needed and missing; empty when a device can be served.
    pub fn missing(self) -> Vec<&'static str> {
        let needed = [
            (abi::FEATURE_USER_RECOVERY, "recovery after the daemon's end (6.1)"),
            (abi::FEATURE_RECOVERY_REISSUE, "giving requests to the next daemon (6.1)"),
            (abi::FEATURE_IOCTL_ENCODE, "encoded commands (6.4)"),
            (abi::FEATURE_USER_COPY, "copying by the server (6.5)"),
        ];
        needed.into_iter().filter(|(bit, _)| self.0 & bit == 0).map(|(_, name)| name).collect()
    }

    /// Whether the server may be killed at any moment without harm to the kernel (kernel-notes/0010).
    pub fn survives_kills(self) -> bool {
        self.0 & abi::FEATURE_QUIESCE != 0
    }

    /// Whether the size of a device in use can change.
    pub fn can_resize(self) -> bool {
        self.0 & abi::FEATURE_UPDATE_SIZE != 0
    }
}

/// What a device looks like to those who use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its size in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// 64 bits that come back with [`Control::device`]: who made the device, for whom.
    pub mark: u64,
}

/// What a device is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// Not started, or stopped.
    Dead,
    /// Served.
    Live,
    /// Its server has gone: requests wait for the next one.
    Parked,
}

/// A device that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number N: `/dev/ublkcN` is the server's side, `/dev/ublkbN` the users'.
    pub id: u32,
    /// What it is doing.
    pub state: DeviceState,
    /// As it was made: see [`Shape::mark`].
    pub mark: u64,
}

impl Device {
    /// The server's side.
    pub fn server_path(id: u32) -> PathBuf {
        format!("/dev/ublkc{id}").into()
    }

    /// The users' side.
    pub fn user_path(id: u32) -> PathBuf {
        format!("/dev/ublkb{id}").into()
    }
}

/// A control command that failed.
#[derive(Debug)]
pub struct ControlError {
    /// What was asked, in words.
    pub doing: &'static str,
    /// What the kernel answered.
    pub error: io::Error,
}

impl ControlError {
    /// Whether a device could not be made.
    pub fn is_about_a_new_device(&self) -> bool {
        self.doing == MAKING
    }

    /// Whether the driver of this kernel is too old to know the command. (Some versions look for a device first.)
    fn is_unknown_command(&self) -> bool {
        matches!(self.error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENODEV | libc::ENOTTY))
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.error)
    }
}

impl std::error::Error for ControlError {}

/// The driver's control device. Used by one thread.
pub struct Control {
    ring: IoUring<squeue::Entry128>,
    device: File,
    features: Features,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("features", &self.features).finish_non_exhaustive()
    }
}

/// Memory a command reads or fills.
type Argument = Vec<u8>;

impl Control {
    /// Opens it. `NotFound`: the module is not loaded.
    pub fn open() -> Result<Control, ControlError> {
        let failed = |doing| move |error| ControlError { doing, error };
        let options = OpenOptions::new().read(true).write(true).open(CONTROL_DEVICE);
        let device = options.map_err(failed("opening /dev/ublk-control"))?;
        let ring = IoUring::builder().build(4).map_err(failed("making an io_uring with large entries"))?;
        let mut control = Control { ring, device, features: Features(0) };
        control.features = match control.call("asking for the driver's features", abi::GET_FEATURES, 0, vec![0; 8], 0) {
            Ok(answer) => Features(u64::from_ne_bytes(get(&answer, 0))),
            // Before 6.5 nobody could ask, and what is needed was not there.
            Err(error) if error.is_unknown_command() => Features(0),
            Err(error) => return Err(error),
        };
        Ok(control)
    }

    /// What the driver can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Makes a device and says what it looks like; it is served by nobody yet. Returns its number.
    pub fn add(&mut self, shape: Shape) -> Result<u32, ControlError> {
        let mut info = vec![0; abi::INFO_BYTES];
        let flags = abi::FEATURE_USER_RECOVERY
            | abi::FEATURE_RECOVERY_REISSUE
            | abi::FEATURE_IOCTL_ENCODE
            | abi::FEATURE_USER_COPY
            | self.features.0 & (abi::FEATURE_UPDATE_SIZE | abi::FEATURE_NO_PARTITION_SCAN);
        put(&mut info, 0, 1u16.to_ne_bytes());
        put(&mut info, 2, UBLK_DEPTH.to_ne_bytes());
        put(&mut info, 8, (PIECE_BYTES_MAX as u32).to_ne_bytes());
        put(&mut info, 12, u32::MAX.to_ne_bytes());
        put(&mut info, 24, flags.to_ne_bytes());
        put(&mut info, 32, shape.mark.to_ne_bytes());
        let info = self.call(MAKING, abi::ADD_DEVICE, u32::MAX, info, 0)?;
        let id = u32::from_ne_bytes(get(&info, 12));
        let parameters = parameters(shape.size_bytes);
        match self.call("setting the parameters of the ublk device", abi::SET_PARAMETERS, id, parameters, 0) {
            Ok(_) => Ok(id),
            Err(error) => {
                self.delete(id)?;
                Err(error)
            }
        }
    }

    /// Opens the server's side, which only one process can have open.
    pub fn open_server_side(&self, id: u32) -> io::Result<OwnedFd> {
        let file = OpenOptions::new().read(true).write(true).open(Device::server_path(id))?;
        Ok(file.into())
    }

    /// Makes the device appear; its queue must be served already. Returns when the kernel has looked for partitions.
    pub fn start(&mut self, id: u32) -> Result<(), ControlError> {
        let pid = std::process::id().into();
        self.call("starting the ublk device", abi::START_DEVICE, id, Vec::new(), pid).map(drop)
    }

    /// Ends the device for those who use it: what they have under way must be answered meanwhile. Its queue then ends.
    pub fn stop(&mut self, id: u32) -> Result<(), ControlError> {
        self.call("stopping the ublk device", abi::STOP_DEVICE, id, Vec::new(), 0).map(drop)
    }

    /// Removes it as soon as nobody has it open any more, not even those who only get errors from it. Where the kernel
    /// can't do that by itself (before 6.10), this call waits for them.
    pub fn delete(&mut self, id: u32) -> Result<(), ControlError> {
        let doing = "removing the ublk device";
        match self.call(doing, abi::DELETE_DEVICE_LATER, id, Vec::new(), 0) {
            Err(error) if matches!(error.error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                self.call(doing, abi::DELETE_DEVICE, id, Vec::new(), 0).map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Begins to take a parked device over. `ResourceBusy` while the process that served it is not quite gone.
    pub fn start_recovery(&mut self, id: u32) -> Result<(), ControlError> {
        self.call("taking over the ublk device", abi::START_RECOVERY, id, Vec::new(), 0).map(drop)
    }

    /// Lets requests come again; the queue must be served already.
    pub fn end_recovery(&mut self, id: u32) -> Result<(), ControlError> {
        let pid = std::process::id().into();
        self.call("waking the ublk device", abi::END_RECOVERY, id, Vec::new(), pid).map(drop)
    }

    /// Changes the size of a device in use; see [`Features::can_resize`].
    pub fn resize(&mut self, id: u32, size_bytes: u64) -> Result<(), ControlError> {
        let sectors = size_bytes / SECTOR;
        self.call("changing the size of the ublk device", abi::UPDATE_SIZE, id, Vec::new(), sectors).map(drop)
    }

    /// What a device is; `None` when there is none with that number.
    pub fn device(&mut self, id: u32) -> Result<Option<Device>, ControlError> {
        let doing = "asking for a ublk device";
        let info = match self.call(doing, abi::GET_DEVICE_INFO, id, vec![0; abi::INFO_BYTES], 0) {
            Err(error) if matches!(error.error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => return Ok(None),
            other => other?,
        };
        let state = match u16::from_ne_bytes(get(&info, 4)) {
            abi::STATE_LIVE => DeviceState::Live,
            abi::STATE_QUIESCED => DeviceState::Parked,
            _ => DeviceState::Dead,
        };
        Ok(Some(Device { id, state, mark: u64::from_ne_bytes(get(&info, 32)) }))
    }

    /// All devices there are, of whatever server.
    pub fn devices(&mut self) -> Result<Vec<Device>, ControlError> {
        let listed = std::fs::read_dir("/sys/class/ublk-char");
        let listed = listed.map_err(|error| ControlError { doing: "listing the ublk devices", error })?;
        let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut ids: Vec<u32> = names.filter_map(|name| name.strip_prefix("ublkc")?.parse().ok()).collect();
        ids.sort_unstable();
        let found: Result<Vec<Option<Device>>, ControlError> = ids.into_iter().map(|id| self.device(id)).collect();
        Ok(found?.into_iter().flatten().collect())
    }

    /// One command, until the kernel has answered it. Returns the argument as the kernel left it.
    fn call(
        &mut self,
        doing: &'static str,
        operation: u32,
        id: u32,
        mut argument: Argument,
        data: u64,
    ) -> Result<Argument, ControlError> {
        let mut bytes = [0; 80];
        put(&mut bytes, 0, id.to_ne_bytes());
        put(&mut bytes, 4, u16::MAX.to_ne_bytes());
        if !argument.is_empty() {
            put(&mut bytes, 6, (argument.len() as u16).to_ne_bytes());
            put(&mut bytes, 8, (argument.as_mut_ptr() as u64).to_ne_bytes());
        }
        put(&mut bytes, 16, data.to_ne_bytes());
        let entry = opcode::UringCmd80::new(types::Fd(self.device.as_raw_fd()), operation).cmd(bytes).build();
        match self.carry_out(&entry) {
            Ok(result) if result >= 0 => Ok(argument),
            Ok(result) => Err(ControlError { doing, error: io::Error::from_raw_os_error(-result) }),
            Err(error) => {
                // Not answered, so the kernel may still write to it.
                std::mem::forget(argument);
                Err(ControlError { doing, error })
            }
        }
    }

    fn carry_out(&mut self, entry: &squeue::Entry128) -> io::Result<i32> {
        // SAFETY: the descriptor is ours and open; the argument the entry points to is kept by the caller until the
        // command is answered, and leaked when that is not known.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)?;
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            if let Some(done) = self.ring.completion().next() {
                return Ok(done.result());
            }
        }
    }
}

/// The parameters of a device of that size.
///
/// Sectors of 512 bytes, because a disk that was adopted may hold a file system that needs them; requests are best made
/// of whole blocks. No read or write crosses a piece of the volume, so each is one piece to the mirror. A cache that
/// needs flushes: without saying so none ever comes.
fn parameters(size_bytes: u64) -> Argument {
    const SHIFT_512: u8 = 9;
    const SHIFT_4096: u8 = 12;
    let piece_sectors = (PIECE_BYTES_MAX / SECTOR) as u32;
    let zero_sectors = (ZERO_BYTES_MAX / SECTOR) as u32;
    let mut all = vec![0; abi::PARAMETERS_BYTES];
    put(&mut all, 0, (abi::PARAMETERS_BYTES as u32).to_ne_bytes());
    put(&mut all, 4, (abi::PARAMETERS_BASIC | abi::PARAMETERS_DISCARD).to_ne_bytes());
    put(&mut all, 8, (abi::ATTRIBUTE_VOLATILE_CACHE | abi::ATTRIBUTE_FUA).to_ne_bytes());
    put(&mut all, 12, [SHIFT_512, SHIFT_4096, PIECE_BYTES_MAX.trailing_zeros() as u8, SHIFT_4096]);
    put(&mut all, 16, piece_sectors.to_ne_bytes());
    put(&mut all, 20, piece_sectors.to_ne_bytes());
    put(&mut all, 24, (size_bytes / SECTOR).to_ne_bytes());
    put(&mut all, 44, (BLOCK as u32).to_ne_bytes());
    put(&mut all, 48, zero_sectors.to_ne_bytes());
    put(&mut all, 52, zero_sectors.to_ne_bytes());
    put(&mut all, 56, 1u16.to_ne_bytes());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_says_that_it_has_a_cache_and_that_pieces_are_not_crossed() {
        let all = parameters(10 << 20);
        assert_eq!(u32::from_ne_bytes(get(&all, 8)), 0b1100);
        assert_eq!(u32::from_ne_bytes(get(&all, 16)), 2048, "largest request, in sectors");
        assert_eq!(u32::from_ne_bytes(get(&all, 20)), 2048, "boundary no request crosses, in sectors");
        assert_eq!(u64::from_ne_bytes(get(&all, 24)), 20480, "size, in sectors");
    }

    #[test]
    fn what_an_old_driver_lacks_is_named() {
        assert_eq!(Features(0x1fe).missing(), Vec::<&str>::new());
        assert!(!Features(0x1fe).can_resize() && Features(0x3fff).can_resize());
        assert_eq!(Features(0x5e).missing(), ["copying by the server (6.5)"]);
    }
}
