//! Joins logic and io, decides nothing: shard loop, configuration, command line.

pub mod cli;
