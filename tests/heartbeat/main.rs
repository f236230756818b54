//! Heartbeats over real sockets: between two network namespaces with paths that are cut, and against a hostile peer.
//!
//! The namespaces need root and iproute2; without them those tests say so and pass.

mod namespaces;
mod node;
mod word;

mod hostile;
mod paths;
