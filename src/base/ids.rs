//! Identifiers. Each is a newtype, so that one can't be passed where another is meant.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }
    };
}

id!(
    /// One piece of a client's request; chosen by the runtime, echoed in the reply.
    RequestId(u64)
);
id!(
    /// A buffer of the shard's pool. The bytes never enter `logic`.
    BufferId(u32)
);
id!(
    /// One disk or metadata operation; chosen by the core, echoed in its completion.
    OpId(u64)
);
id!(
    /// One operator command; chosen by the runtime, echoed in its outcome.
    CommandId(u64)
);
id!(
    /// One authenticated connection between the two daemons; both ends derive the same value from the key exchange.
    SessionId(u64)
);
id!(
    /// Position of a mutation in the order of one primary; rises by one per frame that writes.
    Sequence(u64)
);
id!(
    /// Index of a node in the configuration: 0 or 1.
    NodeId(u8)
);
id!(
    /// A term of primacy. Rises with every change of authority; frames of a lower epoch never touch a disk.
    Epoch(u64)
);
id!(
    /// One life of the daemon's process on a node; drawn at random at start.
    Incarnation(u64)
);
id!(
    /// One boot of the node's kernel, from `/proc/sys/kernel/random/boot_id`.
    BootId(u128)
);
id!(
    /// Identity of a device or volume, drawn at random when its metadata is made.
    Uuid(u128)
);

impl Sequence {
    /// The sequence after this one.
    pub fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }
}

impl NodeId {
    /// The other node of the pair.
    pub fn peer(self) -> NodeId {
        NodeId(1 - self.0)
    }
}
