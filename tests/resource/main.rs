//! What a group owns, for real: addresses in network namespaces, file systems on loop devices, programs that hang and lie.

mod world;

mod address;
mod dns;
mod files;
mod filesystem;
mod programs;
mod yardstick;
