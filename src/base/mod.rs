//! The words everyone uses. No I/O, no decisions; imports nothing but the standard library and serde.

pub mod ids;
pub mod limits;
pub mod range;
pub mod time;

pub mod histogram;
pub mod latency;

pub mod generation;
pub mod group;
pub mod state;

pub mod arbiter;
pub mod error;
pub mod rules;
pub mod volume;

pub mod command;
pub mod request;
pub mod view;

pub mod heartbeat;
