//! Joins logic and io, decides nothing: shard loop, configuration, command line.

/// Prints a line for whoever called. Nobody reading any more (a closed pipe) is no error.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout().lock(), $($words)*);
    }};
}

pub mod config;
pub mod events;
pub mod notes;

pub mod arbiter;
pub mod fencing;
pub mod group;
pub mod heartbeat;

pub mod control;
pub mod peer;
pub mod shard;

pub mod resource;

pub mod daemon;
pub mod demo;
pub mod device;

pub mod archive;
pub mod bench;

pub mod cli;
