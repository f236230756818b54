//! Why a resource could not do what was asked.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// What the group should make of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TroubleKind {
    /// The configuration can't work on this server: no use in trying again before it is changed.
    Config,
    /// Something this server lacks: a program, a right, a device. Another server may have it.
    Environment,
    /// May pass: somebody else holds it, the network is away, a deadline ended. Trying again makes sense.
    Transient,
    /// A stop failed: the resource may still be in use here.
    StopFailed,
}

impl fmt::Display for TroubleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TroubleKind::Config => "config",
            TroubleKind::Environment => "environment",
            TroubleKind::Transient => "transient",
            TroubleKind::StopFailed => "stop-failed",
        })
    }
}

/// A failure that says what, why and what next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What the group should make of it.
    pub kind: TroubleKind,
    /// The resource, or the part of it, that failed.
    pub thing: String,
    /// Why, one clause.
    pub reason: String,
    /// What to do next, one clause.
    pub next: String,
}

impl Trouble {
    /// The configuration can't work here.
    pub fn config(thing: &str, reason: impl Into<String>, next: impl Into<String>) -> Trouble {
        Trouble { kind: TroubleKind::Config, thing: thing.into(), reason: reason.into(), next: next.into() }
    }

    /// This server lacks something.
    pub fn environment(thing: &str, reason: impl Into<String>, next: impl Into<String>) -> Trouble {
        Trouble { kind: TroubleKind::Environment, ..Trouble::config(thing, reason, next) }
    }

    /// It may pass.
    pub fn transient(thing: &str, reason: impl Into<String>, next: impl Into<String>) -> Trouble {
        Trouble { kind: TroubleKind::Transient, ..Trouble::config(thing, reason, next) }
    }

    /// What a refused system call means: a missing right is told as such.
    pub fn system(thing: &str, what: &str, error: &io::Error, right: &str) -> Trouble {
        if error.kind() == io::ErrorKind::PermissionDenied {
            let reason = format!("{what} is not permitted to this process");
            return Trouble::environment(thing, reason, format!("run the daemon as root, or give it {right}"));
        }
        Trouble::transient(thing, format!("{what} failed: {error}"), "look at the kernel's log and at the interface")
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.thing, self.reason, self.next)
    }
}

impl std::error::Error for Trouble {}
