//! Joins logic and io, decides nothing: shard loop, configuration, command line.

pub mod config;
pub mod control;
pub mod peer;

pub mod shard;

pub mod cli;
