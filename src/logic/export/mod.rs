//! What a client of the NBD export may ask and what it is answered. Sans-io: bytes in, bytes and pieces out; no
//! descriptor, no clock, and of a payload only the name of its buffer.
//!
//! ```text
//!  bytes ─▶ negotiation ─▶ Agreed ─▶ session ─▶ validate ─▶ split ─▶ pieces for the core
//!                                       │                              │
//!                      answers ◀─ reply ┴──────────── outcomes ◀───────┘
//! ```
//!
//! One request is validated in one place, [`validate`]. A piece that failed decides the whole request: the first error
//! stays. Nothing here trusts a cookie, and nothing is allocated from a length that was not bounded before.

pub mod contexts;
pub mod offer;

pub mod negotiation;

pub mod split;
pub mod status;
pub mod validate;

pub mod answers;
pub mod session;

mod reply;
