//! Numbers and layouts that the ublk driver and its servers share, as Linux 6.5 and later have them
//! (`linux/ublk_cmd.h`). Everything is in the machine's byte order.

/// `ioctl` encoding of a command: direction, size of its argument, the letter of the driver, its number.
const fn command(direction: u32, number: u32, bytes: usize) -> u32 {
    direction << 30 | (bytes as u32) << 16 | (b'u' as u32) << 8 | number
}

const READS: u32 = 2;
const READS_AND_WRITES: u32 = 3;

/// Bytes of the argument of a control command.
pub(super) const CONTROL_BYTES: usize = 32;
/// Bytes of the argument of a queue command.
pub(super) const QUEUE_BYTES: usize = 16;
/// Bytes that describe a device.
pub(super) const INFO_BYTES: usize = 64;
/// Bytes of the parameters that are set: header, basic, discard. The driver takes a shorter structure than its own.
pub(super) const PARAMETERS_BYTES: usize = 60;
/// Bytes that describe one request in the memory shared with the driver.
pub(super) const DESCRIPTOR_BYTES: usize = 24;

pub(super) const GET_DEVICE_INFO: u32 = command(READS, 0x02, CONTROL_BYTES);
pub(super) const ADD_DEVICE: u32 = command(READS_AND_WRITES, 0x04, CONTROL_BYTES);
pub(super) const DELETE_DEVICE: u32 = command(READS_AND_WRITES, 0x05, CONTROL_BYTES);
pub(super) const START_DEVICE: u32 = command(READS_AND_WRITES, 0x06, CONTROL_BYTES);
pub(super) const STOP_DEVICE: u32 = command(READS_AND_WRITES, 0x07, CONTROL_BYTES);
pub(super) const SET_PARAMETERS: u32 = command(READS_AND_WRITES, 0x08, CONTROL_BYTES);
pub(super) const START_RECOVERY: u32 = command(READS_AND_WRITES, 0x10, CONTROL_BYTES);
pub(super) const END_RECOVERY: u32 = command(READS_AND_WRITES, 0x11, CONTROL_BYTES);
pub(super) const GET_FEATURES: u32 = command(READS, 0x13, CONTROL_BYTES);
pub(super) const DELETE_DEVICE_LATER: u32 = command(READS, 0x14, CONTROL_BYTES);
pub(super) const UPDATE_SIZE: u32 = command(READS_AND_WRITES, 0x15, CONTROL_BYTES);
pub(super) const FETCH: u32 = command(READS_AND_WRITES, 0x20, QUEUE_BYTES);
pub(super) const COMMIT_AND_FETCH: u32 = command(READS_AND_WRITES, 0x21, QUEUE_BYTES);

/// A device survives its server, and waits for the next one.
pub(super) const FEATURE_USER_RECOVERY: u64 = 1 << 3;
/// What the server that died had under way is given to the next one.
pub(super) const FEATURE_RECOVERY_REISSUE: u64 = 1 << 4;
/// Commands are encoded as `ioctl` does it.
pub(super) const FEATURE_IOCTL_ENCODE: u64 = 1 << 6;
/// The server copies a request's bytes itself, to and from where it wants them.
pub(super) const FEATURE_USER_COPY: u64 = 1 << 7;
/// The size may change while the device is in use.
pub(super) const FEATURE_UPDATE_SIZE: u64 = 1 << 10;
/// A device can be held back for the next server. Of no use to us, but it came with Linux 6.16, and so after the driver
/// no longer ends a command twice when its server is killed while a request is on its way (kernel-notes/0010).
pub(super) const FEATURE_QUIESCE: u64 = 1 << 12;
/// The kernel does not look for partitions while it starts the device.
pub(super) const FEATURE_NO_PARTITION_SCAN: u64 = 1 << 18;

pub(super) const STATE_LIVE: u16 = 1;
pub(super) const STATE_QUIESCED: u16 = 2;

/// A queue command's result: no request comes for this tag any more.
pub(super) const RESULT_ABORT: i32 = -libc::ENODEV;

pub(super) const OP_READ: u32 = 0;
pub(super) const OP_WRITE: u32 = 1;
pub(super) const OP_FLUSH: u32 = 2;
pub(super) const OP_DISCARD: u32 = 3;
pub(super) const OP_WRITE_ZEROES: u32 = 5;
/// The operation's bits of a descriptor's first word; the others are flags.
pub(super) const OP_MASK: u32 = 0xff;
pub(super) const FLAG_FUA: u32 = 1 << 13;
pub(super) const FLAG_NO_UNMAP: u32 = 1 << 15;

pub(super) const PARAMETERS_BASIC: u32 = 1;
pub(super) const PARAMETERS_DISCARD: u32 = 2;
pub(super) const ATTRIBUTE_VOLATILE_CACHE: u32 = 1 << 2;
pub(super) const ATTRIBUTE_FUA: u32 = 1 << 3;

/// Where a request's bytes lie in the character device: this, and from it the tag and the place in the request.
const BYTES_BEGIN: u64 = 0x8000_0000;
const TAG_SHIFT: u32 = 25;

/// Where a byte of the request with this tag lies in the character device; the only queue is the first.
pub(super) fn place_of(tag: u16, at: u64) -> u64 {
    BYTES_BEGIN + (u64::from(tag) << TAG_SHIFT) + at
}

/// Puts a number's bytes into a structure.
pub(super) fn put<const N: usize>(structure: &mut [u8], at: usize, bytes: [u8; N]) {
    structure[at..at + N].copy_from_slice(&bytes);
}

/// The bytes of a number in a structure.
pub(super) fn get<const N: usize>(structure: &[u8], at: usize) -> [u8; N] {
    structure[at..at + N].try_into().expect("a number lies inside its structure")
}
