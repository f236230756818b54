//! The product's own area on a disk: what the core persists, as types ([`record`]).

pub mod record;
