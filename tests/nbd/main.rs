//! The NBD server as its clients meet it: raw probes of the protocol, and other people's clients, over real sockets.

mod raw;
mod server;

mod handshake;
mod hostile;
mod programs;
mod transmission;
