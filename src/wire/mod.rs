//! Bytes to types and back. No I/O, no decisions; every decoder takes hostile bytes and never panics.

pub mod archive;
pub mod aside;
pub mod bitmap;
pub mod files;
pub mod frame;
pub mod heartbeat;
pub mod hello;
pub mod message;

pub mod metadata;
pub mod nbd;
