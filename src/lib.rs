//! twinblock keeps a block device mirrored on two servers.
//!
//! The map, lowest floor first; a file imports only lower floors, and `logic` and `io` never import each other
//! (`tests/house.rs` holds this, and `cargo check --lib --no-default-features` builds only the first three):
//!
//! | floor | what it is | opens with |
//! |---|---|---|
//! | [`base`] | the words everyone uses: ids, ranges, states, limits, requests, views | [`base::limits`] |
//! | [`wire`] | bytes to types and back: link frames, metadata on disk, NBD, control | [`wire::frame`] |
//! | [`logic`] | decides; no clock, no descriptor, no thread | [`logic::mirror`] |
//! | `io` | does; decides nothing: ring, disk, buffers, sockets | `io::disk` |
//! | `runtime` | joins the two: shard loop, config, command line | `runtime::shard` |
//!
//! A write enters in `runtime::shard` (a client's bytes), is checked in [`logic::export`], decided in
//! [`logic::mirror`], and done in `io::ring` and on the peer link.

pub mod base;
pub mod wire;

pub mod logic;

#[cfg(feature = "daemon")]
pub mod io;
#[cfg(feature = "daemon")]
pub mod runtime;
