//! The control socket: how the other commands talk to the running daemon.
//!
//! One unix socket per node, mode 0600. A request is one line of JSON, and so is its answer; several may follow each
//! other on one connection. Whatever is not a request is answered with what is wrong, and never ends the daemon.

pub mod group;
pub mod message;

pub mod client;
pub mod server;
pub mod socket;
