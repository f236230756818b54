//! The failover groups of this node: each group's core, and everything the core wants done.
//!
//! ```text
//! heartbeat thread ─▶┐                                        ┌─▶ volumes' shards: orders, the permit to read
//! shards: facts ────▶│  thread "group": one task per group    ├─▶ arbiter, fencing, probes
//! operators ────────▶│  inputs ─▶ logic::failover ─▶ effects ─┼─▶ resources, one step at a time; their monitors
//! monitors ─────────▶┘                                        └─▶ heartbeats out, notes, what must be remembered
//! ```
//! The groups have a thread of their own: what an operator asks of the daemon, or a disk that is slow to open, holds up
//! no heartbeat and no permit. Nothing is decided here.

mod alarms;
mod asked;
mod book;
mod doors;
mod explained;
mod make;

mod hands;
mod notes;
mod probe;
mod remembered;
mod report;
mod watch;

mod task;

mod thread;

pub use self::make::Outgoing;
pub use self::probe::ProbeSpec;
pub use self::thread::{GroupChange, GroupSpec, Groups, GroupsSpec};
