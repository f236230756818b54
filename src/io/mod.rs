//! Does what the logic decided: ring, disk, buffers, sockets. Decides nothing. All `unsafe` lives here.

pub mod activation;
pub mod aligned;
pub mod clock;
pub mod poller;
pub mod pool;
pub mod process;

pub mod address;
pub mod archive;
pub mod disk;
pub mod dns;
pub mod files;
pub mod journal;
pub mod memory;
pub mod mounts;
pub mod namespace;
pub mod nbd_device;
pub mod ring;
pub mod stream;
pub mod ublk;
