//! What an operator asks of a volume, and what it answers.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An operator's command for one volume on one node. All are answered exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verb")]
pub enum Command {
    /// Become primary.
    Promote {
        /// Although the peer may hold newer data, or this copy is not whole.
        force: bool,
    },
    /// Become secondary. The runtime refuses before this, or cuts clients, when some are connected.
    Demote {
        /// Although requests are unfinished: they fail.
        force: bool,
    },
    /// Copy everything, or choose the good side.
    Resync {
        /// Copy without comparing.
        full: bool,
        /// Compare everything rather than trusting the marks.
        compare: bool,
        /// Whether the peer's copy is the good one and ours is given up (`Some(true)`), or the reverse.
        /// `None` keeps the direction the handshake finds.
        discard_ours: Option<bool>,
    },
    /// Give up this node's data in favour of the peer's, which is compared with it and copied where it differs.
    GiveUp {
        /// Archive what only this node has before it is overwritten.
        archive: bool,
    },
    /// Hold the resync where it is.
    PauseResync,
    /// Go on.
    ResumeResync,
    /// Compare both disks while in use.
    Verify {
        /// Copy this side's data over what differs on the other.
        repair: bool,
    },
    /// Give up the local disk in an orderly way; the peer serves.
    Detach,
    /// Make the volume larger while it is in use.
    Resize {
        /// Its new size in bytes; `None` for as much as both disks hold.
        bytes: Option<u64>,
    },
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "detail")]
pub enum CommandOutcome {
    /// Done, or begun where it takes long (resync, verify: follow it in the view). A sentence for people.
    Done(String),
    /// Refused or failed; nothing changed unless the refusal says so.
    Refused(Refusal),
}

/// A refusal that says what, why and what next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A stable word for machines, such as `resync-target`.
    pub code: String,
    /// What was refused and why, one sentence.
    pub reason: String,
    /// What to do next, one sentence.
    pub next: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.reason, self.next)
    }
}

impl Refusal {
    /// A refusal with the given code, reason and next step.
    pub fn new(code: &str, reason: impl Into<String>, next: impl Into<String>) -> Refusal {
        Refusal { code: code.into(), reason: reason.into(), next: next.into() }
    }
}
