//! The mirror core of one volume on one node.

pub mod interface;

mod mutation;
mod slab;

mod intents;
mod lock;
pub mod marks;
mod rate;

pub mod handshake;

mod archive;
mod chunk;
mod command;
mod core;
mod door;
mod exclusion;
mod failure;
mod flush;
mod grow;
mod housekeeping;
mod leave;
mod meeting;
mod read;
mod request;
mod session;
mod source;
mod target;
mod verify;
mod view;

pub use self::core::Mirror;
pub use self::mutation::Mutation;
