//! What every kind of arbiter does, in bytes: one register that is read, and changed from what was seen.

use super::etcd::Etcd;
use super::file::Shared;
use super::memory::Memory;
use super::report::Report;
use crate::base::arbiter::{ArbiterError, Revision};
use tokio::time::Instant;

/// A look at the register and the store it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Identity of the store: another one after it was replaced.
    pub store: String,
    /// How far the store as a whole has come; never falls by itself.
    pub store_revision: u64,
    /// What stands in the register.
    pub entry: Option<Entry>,
}

/// What stands in the register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its revision.
    pub revision: Revision,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The outcome of a compare-and-set of bytes; as [`crate::base::arbiter::CasOutcome`].
#[derive(Debug)]
pub enum Swapped {
    /// The new entry stands there.
    Won(Seen),
    /// Another one stands there.
    Lost(Seen),
    /// Certainly not carried out.
    Refused(ArbiterError),
    /// Carried out or not, now or later.
    Unknown(ArbiterError),
}

/// The kinds of arbiter.
pub enum Register {
    /// A key of an etcd.
    Etcd(Box<Etcd>),
    /// A file in a directory that both servers share.
    Shared(Shared),
}

impl Register {
    /// Looks at the register; answered by the deadline.
    pub async fn read(&mut self, deadline: Instant) -> Result<Seen, ArbiterError> {
        match self {
            Register::Etcd(etcd) => etcd.read(deadline).await,
            Register::Shared(shared) => shared.read(deadline).await,
        }
    }

    /// Puts `new` in the place of `expected`, in a store that `memory` knows; answered by the deadline.
    pub async fn swap(&mut self, expected: Option<&Entry>, new: &[u8], memory: &Memory, deadline: Instant) -> Swapped {
        match self {
            Register::Etcd(etcd) => etcd.swap(expected, new, memory, deadline).await,
            Register::Shared(shared) => shared.swap(expected, new, memory, deadline).await,
        }
    }

    /// Looks at the health of what the register is in; answered by the deadline.
    pub async fn check(&mut self, peer_alive: bool, deadline: Instant) -> Report {
        match self {
            Register::Etcd(etcd) => etcd.check(deadline).await,
            Register::Shared(shared) => shared.check(peer_alive, deadline).await,
        }
    }
}
