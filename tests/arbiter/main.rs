//! The arbiter against a real etcd, started here on the loopback, and against a directory with many processes.
//!
//! Without etcd's programs the tests with it say so and pass.

mod certificates;
mod proxy;
mod server;
mod world;

mod races;
mod restores;
mod safety;
mod troubles;

mod shared;
