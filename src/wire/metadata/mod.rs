//! The product's own area on a disk: what the core persists, as types ([`record`]) and as bytes.
//!
//! Pure functions of bytes: [`Writer`] says what to write where and in which order, [`load()`] reads an area through a
//! closure. The daemon and the simulator run the same code on real and on simulated disks.
//!
//! | question | file |
//! |---|---|
//! | what is kept | [`record`] |
//! | where it lies | [`layout`] |
//! | what one 4 KiB unit looks like | `unit`, `features` |
//! | why a crash or rot at any point is safe | `superblock`, `intents`, `snapshot`, `locator` |
//! | in which order it is written | [`writer`] |
//! | what is believed at start | [`load`](mod@load) |

pub mod layout;
pub mod record;

mod features;
mod unit;

pub mod locator;
mod superblock;

mod intents;
mod snapshot;

pub mod load;
pub mod writer;

#[cfg(test)]
mod tests;

pub use layout::{Layout, Placement, TooSmall};
pub use load::{Expected, LoadError, load};
pub use locator::Locator;
pub use unit::begins_like_a_unit;
pub use writer::{Plan, Writer};

use crate::base::limits::METADATA_UNIT_BYTES;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Appends a value as fixed-width little-endian fields: the form of everything structured in a unit.
fn encode_plainly<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(value, out, bincode::config::legacy())
        .expect("a vector takes every byte, and the types have nothing that can't be encoded");
}

/// Decodes a value that fills `bytes` exactly. Allocates at most a few units.
fn decode_exactly<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let config = bincode::config::legacy().with_limit::<{ 4 * METADATA_UNIT_BYTES }>();
    match bincode::serde::decode_from_slice(bytes, config) {
        Ok((value, used)) if used == bytes.len() => Some(value),
        _ => None,
    }
}
