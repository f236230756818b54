//! The thread of one volume.

pub mod clients;
