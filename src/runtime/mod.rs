//! Joins logic and io, decides nothing: shard loop, configuration, command line.

pub mod config;
pub mod notes;

pub mod control;
pub mod peer;
pub mod shard;

pub mod daemon;
pub mod demo;

pub mod bench;

pub mod cli;
