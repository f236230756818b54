//! The mirror core of one volume on one node.

pub mod interface;

mod lock;
mod marks;

mod core;

pub use self::core::Mirror;
