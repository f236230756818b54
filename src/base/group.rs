//! The words of a failover group: modes, roles, node states and their reasons.
//!
//! Node states and reasons are those an operator reads in `status`; which pair of them means what, and what to do about it,
//! is one table: `logic::failover::states`.

use super::ids::Epoch;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

macro_rules! words {
    ($name:ty { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $name {
            /// Every one, in the order of the documentation.
            pub const ALL: &'static [$name] = &[$(<$name>::$variant),+];

            /// The word for people.
            pub const fn word(self) -> &'static str {
                match self { $(<$name>::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

/// How it is made sure that only one node serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverMode {
    /// Nobody takes over by itself; a primary goes on alone at once.
    #[default]
    Manual,
    /// Whoever changes the arbiter's record first.
    Arbiter,
    /// Whoever has the other confirmed off.
    Fencing,
    /// Whoever changes the arbiter's record first, and then has the other confirmed off.
    ArbiterFencing,
    /// Whoever reaches the ping targets; the other must be silent on every address. Two may serve at once.
    BestEffort,
}
words!(FailoverMode {
    Manual => "manual", Arbiter => "arbiter", Fencing => "fencing", ArbiterFencing => "arbiter+fencing",
    BestEffort => "best-effort",
});

impl FailoverMode {
    /// Whether the arbiter's record has a say.
    pub const fn has_arbiter(self) -> bool {
        matches!(self, FailoverMode::Arbiter | FailoverMode::ArbiterFencing)
    }

    /// Whether a fencing agent has a say.
    pub const fn has_fencing(self) -> bool {
        matches!(self, FailoverMode::Fencing | FailoverMode::ArbiterFencing)
    }

    /// Whether a standby may take over without an operator.
    pub const fn is_automatic(self) -> bool {
        !matches!(self, FailoverMode::Manual)
    }
}

/// What a node is to its group right now, as its heartbeats say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupRole {
    /// Looks for the peer; has decided nothing yet.
    #[default]
    Starting,
    /// Leaves the group to the peer, ready or not.
    Standby,
    /// On its way to own the group.
    TakingOver,
    /// Owns the group.
    Owner,
    /// On its way to give the group up.
    Leaving,
    /// Stopped in order; says goodbye.
    Gone,
}
words!(GroupRole {
    Starting => "starting", Standby => "standby", TakingOver => "taking-over", Owner => "owner", Leaving => "leaving",
    Gone => "gone",
});

impl GroupRole {
    /// Whether it owns the group or is becoming its owner.
    pub const fn claims(self) -> bool {
        matches!(self, GroupRole::Owner | GroupRole::TakingOver)
    }
}

/// The twelve states of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// The daemon is up and looks for its peer.
    Initializing,
    /// Healthy, not serving, because an operator wants it so.
    Idle,
    /// As it should be: the home node serves, or the other stands by in sync.
    Normal,
    /// The node that is not the group's home serves.
    RunningInBackupMode,
    /// Becoming owner.
    TakingOver,
    /// The peer becomes owner, this node gives up.
    FailingOver,
    /// The peer serves what this node should; this node is healthy again.
    FailedOver,
    /// The same, but this node's disk or a critical service is down.
    FailedOverCriticalServicesNotRunning,
    /// Handing the group back to its home node.
    FallingBack,
    /// The home node gets its group back.
    TakingBack,
    /// Something failed on the way, or the last one serving lost a critical service.
    RunningInFailedMode,
    /// High availability is off, or nothing is known of the peer.
    Unknown,
}
words!(NodeState {
    Initializing => "Initializing", Idle => "Idle", Normal => "Normal",
    RunningInBackupMode => "Running in Backup Mode", TakingOver => "Taking Over", FailingOver => "Failing Over",
    FailedOver => "Failed Over",
    FailedOverCriticalServicesNotRunning => "Failed Over with Critical Services Not Running",
    FallingBack => "Falling Back", TakingBack => "Taking Back", RunningInFailedMode => "Running in Failed Mode",
    Unknown => "Unknown",
});

impl NodeState {
    /// Whether it passes by itself.
    pub const fn is_transient(self) -> bool {
        use NodeState as S;
        matches!(self, S::Initializing | S::TakingOver | S::FailingOver | S::FallingBack | S::TakingBack)
    }
}

/// Why a node is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing out of the ordinary.
    Normal,
    /// An operator asked.
    AdminRequest,
    /// The daemon started.
    #[default]
    Initialization,
    /// Given back to the home node after the set time.
    AutoFallback,
    /// A critical resource failed.
    CriticalServiceDown,
    /// The disk failed.
    StorageFailure,
    /// A critical resource did not start.
    CriticalServiceStartFailed,
    /// A resource did not stop: whether it still runs is not known.
    StopFailed,
    /// The peer is silent.
    PeerDown,
    /// The peer went in order.
    PeerReboot,
    /// The peer was silent from the start.
    PeerDownDuringInit,
    /// Becoming owner failed.
    TakeoverFailed,
    /// Getting the group back failed.
    TakebackFailed,
    /// Returned to the home node because the backup's disk failed.
    AutoRecoverStorage,
    /// Returned to the home node because a critical resource of the backup failed.
    AutoRecoverCriticalService,
    /// This node reaches neither its peer nor what decides between them.
    NetworkIsolated,
    /// The peer's promise ended; nothing is served until it is known who owns the group.
    LeaseLost,
    /// The arbiter does not answer, or can't be used: nobody can take over.
    ArbiterUnreachable,
    /// The arbiter's record is older than one seen before.
    ArbiterWentBack,
    /// Both nodes went on alone.
    SplitBrain,
    /// The copy is being brought up to date.
    ResyncInProgress,
    /// High availability is disabled.
    Disabled,
    /// An operator took this node out.
    Deactivated,
    /// Nothing better is known.
    Unknown,
    /// Both disks are new: neither node has the volume's data yet.
    NoData,
}
words!(Reason {
    Normal => "normal", AdminRequest => "on admin request", Initialization => "initialization",
    AutoFallback => "automatic fallback", CriticalServiceDown => "critical service down",
    StorageFailure => "storage failure", CriticalServiceStartFailed => "start of critical services failed",
    StopFailed => "a resource did not stop", PeerDown => "peer down", PeerReboot => "peer left in order",
    PeerDownDuringInit => "peer down during initialization", TakeoverFailed => "takeover failed",
    TakebackFailed => "takeback failed", AutoRecoverStorage => "automatic recovery of storage",
    AutoRecoverCriticalService => "automatic recovery of a critical service",
    NetworkIsolated => "network isolated", LeaseLost => "lease lost", ArbiterUnreachable => "arbiter unreachable",
    ArbiterWentBack => "arbiter's record went back in time", SplitBrain => "split brain",
    ResyncInProgress => "resync in progress", Disabled => "high availability is disabled",
    Deactivated => "deactivated by an operator", Unknown => "unknown", NoData => "no data on either node",
});

/// What the operators want of a group. Both nodes keep it; the higher version counts, then the stopped one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Wish {
    /// Rises with every change.
    pub version: u64,
    /// The group is to be stopped on both nodes.
    pub stopped: bool,
    /// No node changes role by itself.
    pub disabled: bool,
}

/// What a node must remember of a group across restarts. The rest is found out anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Memory {
    /// What the operators want.
    pub wish: Wish,
    /// An operator took this node out.
    pub deactivated: bool,
    /// Highest epoch heard of, from whomever.
    pub epoch: Epoch,
    /// Highest epoch of a record seen at the arbiter: one below it went back in time.
    pub arbiter_epoch: Epoch,
    /// This node owned the group last, as far as it knows.
    pub owned: bool,
    /// Why the group is where it is.
    pub reason: Reason,
    /// Longest time one of its promises may hold: it may have been given and forgotten by a restart, perhaps one with other
    /// settings.
    #[serde(default)]
    pub promised: Duration,
    /// Since both copies were last in sync the disk here was out of service: the peer may have gone on without it, and the
    /// disk itself could not be told.
    #[serde(default)]
    pub disk_was_out: bool,
}

/// What is done to one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepVerb {
    /// Bring it up.
    Start,
    /// Take it down.
    Stop,
}
words!(StepVerb { Start => "start", Stop => "stop" });

/// What a resource of a group is on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceState {
    /// Not started here.
    #[default]
    Stopped,
    /// Being started.
    Starting,
    /// Started, and well at the last look.
    Running,
    /// Started, and taken off while nothing may leave for clients.
    Suspended,
    /// Being stopped.
    Stopping,
    /// Started and found down, or it could not be started.
    Failed,
    /// It could not be stopped, or nobody knows whether it was: perhaps running.
    Unknown,
    /// The configuration leaves it out on this node.
    Skipped,
}
words!(ResourceState {
    Stopped => "stopped", Starting => "starting", Running => "running", Suspended => "suspended",
    Stopping => "stopping", Failed => "failed", Unknown => "unknown", Skipped => "skipped",
});

impl ResourceState {
    /// What it means and what to do about it, when the resource itself says nothing better.
    pub const fn advice(self) -> (&'static str, &'static str) {
        match self {
            ResourceState::Stopped => ("not started on this node", "nothing: it runs where the group runs"),
            ResourceState::Starting => ("being started", "wait; `events` shows when it has ended"),
            ResourceState::Running => ("started, and well at the last look", "nothing"),
            ResourceState::Suspended => (
                "taken off while nothing may leave for clients",
                "see why the group does not serve: it comes back with it",
            ),
            ResourceState::Stopping => ("being stopped", "wait; `events` shows when it has ended"),
            ResourceState::Failed => ("down", "mend it; if the group does not go on by itself, run `group recover`"),
            ResourceState::Unknown => {
                ("it did not stop, and may still run", "stop it by hand on this node, then run `group recover`")
            }
            ResourceState::Skipped => ("left out on this node by `skip_on`", "nothing"),
        }
    }
}

/// A part of a change of role, for the durations in announcements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// From the peer's last sign of life to the decision.
    Detect,
    /// Received writes reach the disk, and are flushed.
    Drain,
    /// The other node is excluded.
    Exclude,
    /// The volume changes role.
    Volume,
    /// Resources start.
    Start,
    /// Resources stop.
    Stop,
    /// The other node is told, and agrees.
    Agree,
}
words!(Stage {
    Detect => "detect", Drain => "drain", Exclude => "exclude", Volume => "volume", Start => "start", Stop => "stop",
    Agree => "agree",
});
