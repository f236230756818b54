//! The whole visible state of a group on one node.

use super::interface::Way;
use crate::base::group::{FailoverMode, GroupRole, Reason};
use crate::base::ids::Epoch;
use serde::Serialize;

/// Changed in one place: [`super::Failover`]'s `become_phase` and the few setters beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// What this node is doing about the group.
    pub phase: Phase,
    /// Highest epoch known: its own as owner, the owner's as standby.
    pub epoch: Epoch,
    /// Nobody else can take over: no permit is needed.
    pub solo: bool,
    /// Where an owner stands that goes on alone.
    pub door: Option<DoorStep>,
    /// Something failed and wants an operator.
    pub failed: Option<Reason>,
    /// Why the group is where it is.
    pub reason: Reason,
    /// The group was offered to the peer in this epoch, and nothing was heard since.
    pub offered: Option<Epoch>,
}

/// What a node is doing about the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Looks for the peer.
    Starting,
    /// Leaves the group to the peer, or waits until it may have it.
    Standby,
    /// On its way to own the group.
    TakingOver {
        /// By which right.
        way: Way,
        /// How far.
        step: TakeStep,
    },
    /// Owns the group.
    Owner,
    /// On its way to give the group up.
    Leaving {
        /// In order, or at once.
        how: Leave,
        /// How far.
        step: LeaveStep,
    },
    /// Stopped in order.
    Gone,
}

/// How far a takeover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TakeStep {
    /// What was received reaches the disk and is flushed.
    Preparing,
    /// The peer is being excluded.
    Excluding(Guard),
    /// The volume becomes primary.
    Promoting,
    /// Resources start; the group is owned.
    Starting,
}

/// How far an owner is that goes on alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoorStep {
    /// Local writes end and are flushed.
    Preparing,
    /// The peer is being excluded.
    Excluding(Guard),
    /// The new generation is being made durable.
    Opening,
}

/// How a group is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leave {
    /// To the peer, in order, losing nothing.
    Move,
    /// To nobody, in order: the operators want it stopped.
    Stop,
    /// At once: somebody else owns it.
    Yield,
}

/// How far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaveStep {
    /// Resources stop.
    Stopping,
    /// The volume becomes secondary.
    Quiescing,
    /// The record is being changed.
    Recording,
}

/// What excludes the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// The arbiter's record.
    Record,
    /// The fencing agent.
    Fence,
    /// Silence on every address, and targets that answer.
    Probe,
}

impl Guard {
    /// What must be passed first, in this mode.
    pub fn first(mode: FailoverMode) -> Option<Guard> {
        match mode {
            FailoverMode::Manual => None,
            FailoverMode::Arbiter | FailoverMode::ArbiterFencing => Some(Guard::Record),
            FailoverMode::Fencing => Some(Guard::Fence),
            FailoverMode::BestEffort => Some(Guard::Probe),
        }
    }

    /// What must be passed after this one. The record first: it lets only one shoot.
    pub fn next(self, mode: FailoverMode) -> Option<Guard> {
        (self == Guard::Record && mode.has_fencing()).then_some(Guard::Fence)
    }
}

impl State {
    /// A node that has just started.
    pub fn new(epoch: Epoch, reason: Reason) -> State {
        State { phase: Phase::Starting, epoch, solo: false, door: None, failed: None, reason, offered: None }
    }

    /// Whether the volume is, or is becoming, this node's to serve.
    pub fn owns(&self) -> bool {
        match self.phase {
            Phase::Owner => true,
            Phase::TakingOver { step, .. } => step == TakeStep::Starting,
            Phase::Leaving { how, step } => how != Leave::Yield && step != LeaveStep::Recording,
            Phase::Starting | Phase::Standby | Phase::Gone => false,
        }
    }

    /// Whether it has an owner's right by its mode's means: an owner, or one that has yet to make it durable.
    pub fn wants_promise(&self) -> bool {
        let promoting = matches!(self.phase, Phase::TakingOver { step: TakeStep::Promoting, .. });
        self.owns() || promoting
    }

    /// What the heartbeats say.
    pub fn role(&self) -> GroupRole {
        match self.phase {
            Phase::Starting => GroupRole::Starting,
            Phase::Standby => GroupRole::Standby,
            Phase::TakingOver { step: TakeStep::Starting, .. } | Phase::Owner => GroupRole::Owner,
            Phase::TakingOver { .. } => GroupRole::TakingOver,
            Phase::Leaving { .. } => GroupRole::Leaving,
            Phase::Gone => GroupRole::Gone,
        }
    }
}
