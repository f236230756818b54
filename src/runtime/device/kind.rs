//! What a keeper needs of a way to have a block device.

use crate::logic::mirror::interface::Serving;
use std::path::PathBuf;

/// A device of the volume that an earlier daemon made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// Its number.
    pub id: u32,
    /// Somebody may wait for it. One that was never started, or was stopped, is only in the way.
    pub is_used: bool,
}

/// How a device that is served is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// As it was left.
    Served,
    /// What leads to the volume's thread is cut: it can go on as after a restart.
    Severed,
    /// Somebody ended it with other tools.
    Ended,
}

/// A way to have a block device. Everything blocks. Errors are sentences: what failed, why, and what to do next.
pub(super) trait Kind: Send {
    /// Where the users of a device find it.
    fn path(&self, id: u32) -> PathBuf;

    /// Devices of this volume that are left from an earlier daemon.
    fn left(&mut self) -> Vec<Left>;

    /// Makes a device and lets its users in; its number.
    fn make(&mut self, serving: Serving) -> Result<u32, String>;

    /// Goes on with one that was left: what its users have under way is asked again. False when they may have lost writes
    /// since: then it can't go on.
    fn take_over(&mut self, id: u32, serving: Serving) -> Result<bool, String>;

    /// By which opening the volume's thread serves the device, where it is told when that ends.
    fn opening(&self) -> Option<u64> {
        None
    }

    /// How the device is, where nobody is told.
    fn condition(&self, _id: u32) -> Condition {
        Condition::Served
    }

    /// The volume has another size.
    fn resize(&mut self, id: u32, size_bytes: u64) -> Result<(), String>;

    /// Ends a device; its users get errors.
    fn remove(&mut self, id: u32) -> Result<(), String>;
}

/// Loads a module of the kernel; whether that was possible.
pub(super) fn load_module(name: &str) -> bool {
    std::process::Command::new("modprobe").arg(name).output().is_ok_and(|output| output.status.success())
}
