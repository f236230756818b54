//! The failover core of one group on one node: is the peer there, who may own the group, and what is done about it.
//!
//! Knows nothing of volumes but the facts and orders of [`interface`], nothing of addresses and services but steps.

pub mod interface;

mod mutation;
#[cfg(test)]
pub(crate) mod testing;

pub mod detector;
mod permit;
pub mod plan;
mod register;

pub mod state;
pub mod states;

mod announce;
mod command;
mod core;
mod door;
mod leave;
mod owner;
mod reconfigure;
mod standby;
mod takeover;
mod talk;
mod view;

pub mod explain;

pub use self::core::Failover;
pub use self::mutation::Mutation;
pub use self::view::{ArbiterView, GroupView, PeerView};
