//! The product as its users meet it: two daemons, the command, an NBD client. Nothing is stubbed but the second machine.

mod pair;
mod town;
#[path = "../heartbeat/word.rs"]
mod word;

mod archive;
mod bad_arbiters;
mod bad_input;
mod bad_resources;
mod bench;
mod bounds;
mod chaos;
mod commands;
mod crashes;
mod filesystem;
mod floating;
mod following;
mod groups;
mod latency;
mod new_pair;
mod reload;
mod scripted;
mod service;
mod troubles;
