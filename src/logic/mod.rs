//! Decides. No clock, no descriptor, no thread, no dice: time and chance come as arguments.
//! `mirror`, `failover` and `export` never import each other.

pub mod export;
pub mod failover;
pub mod mirror;

pub mod volumes;
