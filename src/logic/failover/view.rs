//! What a group shows of itself: the one source of `group status`, for people and machines.

use super::core::Failover;
use super::detector::{Level, PathView};
use super::interface::{Gate, Settings};
use super::plan::Standing;
use super::state::State;
use super::states::{Advice, Situation, advice, derive};
use crate::base::command::Refusal;
use crate::base::group::{FailoverMode, GroupRole, NodeState, Reason};
use crate::base::ids::{Epoch, NodeId};
use crate::base::state::DiskState;
use serde::Serialize;
use std::time::Duration;

/// One group on one node, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupView {
    /// Name in the configuration.
    pub group: String,
    /// Who decides.
    pub mode: FailoverMode,
    /// In this mode two nodes may serve at once.
    pub split_brain_possible: bool,
    /// This node's part.
    pub role: GroupRole,
    /// This node's state and why.
    pub state: NodeState,
    /// See `state`.
    pub reason: Reason,
    /// The peer's state and why, when it is heard.
    pub peer_state: Option<(NodeState, Reason)>,
    /// What the pair of states means and wants.
    pub advice: Option<Advice>,
    /// The highest epoch known.
    pub epoch: Epoch,
    /// Whether clients are answered right now.
    pub serving: bool,
    /// Nobody else can take over.
    pub alone: bool,
    /// Why this node would not take over from a lost peer, if it would not.
    pub takeover_block: Option<&'static str>,
    /// Why an owner that is not the group's home can't return it there now, if it can't: the reason and the next step.
    pub return_block: Option<Refusal>,
    /// The evidence about the peer.
    pub peer: PeerView,
    /// What the arbiter says.
    pub arbiter: ArbiterView,
    /// Each resource: name, what is known of it, what its monitor complains of.
    pub resources: Vec<(String, Standing, Option<String>)>,
    /// Everything about the phase, for people who look closely.
    pub detail: State,
}

/// The evidence about the peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerView {
    /// What it amounts to.
    pub level: Level,
    /// Its part, as it said last.
    pub role: Option<GroupRole>,
    /// Nothing that the group needs is known to be down there, as it said last.
    pub healthy: Option<bool>,
    /// How long nothing was heard, on any path or the link.
    pub silent: Option<Duration>,
    /// How long the replication link carried nothing; `None`: nothing since the start.
    pub link_silent: Option<Duration>,
    /// Each path, with its name.
    pub paths: Vec<(String, PathView)>,
    /// How long ago its shard made a turn.
    pub turn_age: Option<Duration>,
    /// Both servers' configurations agree.
    pub config_agrees: Option<bool>,
}

/// What the arbiter says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArbiterView {
    /// Owner, epoch and nodes in sync, as last seen.
    pub record: Option<(NodeId, Epoch, Vec<NodeId>)>,
    /// What is wrong, and what to do about it.
    pub trouble: Option<String>,
}

impl Failover {
    /// Whether this node owns a group that belongs on the other.
    fn is_away(&self) -> bool {
        self.state.owns() && self.settings.node != self.settings.home
    }

    /// The situation a state is derived from.
    fn situation(&self) -> Situation {
        let arbiter = self.settings.mode.has_arbiter();
        Situation {
            home: self.settings.node == self.settings.home,
            level: self.detector.level(),
            peer: self.peer.filter(|_| self.hears_peer()).map(|peer| peer.role),
            deactivated: self.memory.deactivated,
            disabled: self.memory.wish.disabled,
            stopped: self.memory.wish.stopped,
            storage: matches!(self.mirror.disk, DiskState::UpToDate | DiskState::Outdated | DiskState::Inconsistent)
                && !self.mirror.suspect
                && (!self.state.owns() || self.mirror.disk == DiskState::UpToDate),
            no_data: self.mirror.disk == DiskState::New
                && self.peer.is_some_and(|peer| self.hears_peer() && peer.volume.disk == DiskState::New),
            services: self.service_down().is_none(),
            in_sync: self.mirror.in_sync,
            resyncing: self.mirror.connected && !self.mirror.in_sync,
            held: self.held_since.is_some(),
            arbiter_down: self.arbiter_trouble().is_some(),
            arbiter_back: arbiter && self.register.went_back(),
            split: self.mirror.split,
        }
    }

    /// This node's state and why.
    pub fn node_state(&self) -> (NodeState, Reason) {
        derive(&self.state, &self.situation())
    }

    /// The pair of states as this node knows it.
    pub fn pair(&self) -> ((NodeState, Reason), Option<(NodeState, Reason)>) {
        let peer = self.peer.filter(|_| self.hears_peer()).map(|peer| (peer.state, peer.reason));
        (self.node_state(), peer)
    }

    /// The settings it goes by.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The state, for tests and invariants.
    pub fn state(&self) -> State {
        self.state
    }

    /// What may leave, as last said.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// Everything that is shown.
    pub fn view(&self) -> GroupView {
        let ((state, reason), peer_state) = self.pair();
        let record = self.register.record();
        let names = self.plan.resources().iter().map(|resource| resource.name.clone());
        let standing = names.zip(self.plan.standing()).zip(&self.troubles);
        GroupView {
            group: self.settings.group.clone(),
            mode: self.settings.mode,
            split_brain_possible: self.settings.mode == FailoverMode::BestEffort,
            role: self.state.role(),
            state,
            reason,
            peer_state,
            advice: advice((state, reason), peer_state),
            epoch: self.state.epoch,
            serving: self.gate.allows(self.now),
            alone: self.state.solo,
            takeover_block: if self.state.owns() { None } else { self.takeover_block() },
            return_block: if self.is_away() { self.fit_to_receive().err() } else { None },
            peer: PeerView {
                level: self.detector.level(),
                role: self.peer.map(|peer| peer.role),
                healthy: self.peer.map(|peer| peer.healthy),
                silent: self.detector.last_heard().map(|last| self.now.since(last)),
                link_silent: self.detector.link_silent(self.now),
                paths: self.settings.paths.iter().cloned().zip(self.detector.view(self.now)).collect(),
                turn_age: self.peer.map(|peer| peer.turn_age),
                config_agrees: self.peer.map(|peer| peer.config == self.settings.config),
            },
            arbiter: ArbiterView {
                record: record.map(|record| (record.primary, record.epoch, record.insync.into())),
                trouble: self.arbiter_trouble().map(ToString::to_string),
            },
            resources: standing
                .map(|((name, standing), trouble)| (name, *standing, trouble.as_ref().map(|(_, why)| why.clone())))
                .collect(),
            detail: self.state,
        }
    }

    /// Checks what must always hold of one node; panics on our own bugs.
    pub fn check(&self) {
        let state = &self.state;
        assert!(!state.solo || state.owns() || !state.role().claims(), "only an owner is alone");
        assert!(state.door.is_none() || state.owns(), "only an owner goes on alone");
        assert!(self.gate == Gate::Closed || state.owns(), "only an owner lets anything out");
        assert!(state.offered.is_none() || !state.owns(), "what is offered is not owned");
        assert!(state.epoch >= self.memory.arbiter_epoch || !state.owns(), "an owner's epoch is the newest seen");
    }
}
