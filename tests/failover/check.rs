//! What must hold after every step, whatever happened before.

use super::config::NAMES;
use super::mirror::Writes;
use super::node::Node;
use super::world::World;
use std::collections::BTreeSet;
use twinblock::base::group::{FailoverMode, NodeState, Reason};
use twinblock::base::ids::{Epoch, NodeId};
use twinblock::base::state::{DiskState, Role};
use twinblock::base::time::Moment;
use twinblock::logic::failover::interface::Way;
use twinblock::logic::failover::states::advice;

/// A node's state as it sees itself, and its peer's as it was told.
pub type Pair = ((NodeState, Reason), Option<(NodeState, Reason)>);

/// What the clients know, and what was seen.
#[derive(Default)]
pub struct History {
    pub acked: Writes,
    firm: Writes,
    pub count: u64,
    pub promotions: u64,
    pub takeovers: u64,
    pub last_ack: Moment,
    /// An operator forced: from here on two lines of data may exist, and what is promised is less.
    pub forced: bool,
    pub pairs: BTreeSet<Pair>,
    epochs: [Epoch; 2],
    record_epoch: Epoch,
    /// The record was restored from a backup.
    pub restored: bool,
}

impl History {
    /// A client hears that its write is safe.
    pub fn acknowledged(&mut self, nodes: &mut [Node; 2], at: usize, write: u32, now: Moment) {
        let epoch = nodes[at].process.as_ref().expect("it replies").core.state().epoch.0;
        let other = nodes[1 - at].acked_epoch;
        // A clock that stood shows a permit that has ended as valid; what leaves then is on the peer's disk all the same.
        let stood = nodes[at].clock_stood_until > now;
        assert!(
            self.forced || stood || other <= epoch,
            "I1: {} acknowledges in epoch {epoch} after the other did in {other}",
            NAMES[at]
        );
        if !stood {
            nodes[at].acked_epoch = epoch;
        }
        self.acked.insert(write);
        self.count += 1;
        self.last_ack = now;
    }

    /// A client reads the block that every write goes to.
    pub fn read(&mut self, nodes: &[Node; 2], at: usize, now: Moment) {
        if self.forced || nodes[at].clock_stood_until > now {
            return;
        }
        let missing = self.acked.missing_in(&nodes[at].disk.written).next();
        assert!(missing.is_none(), "I2: {} serves a read without the acknowledged write {missing:?}", NAMES[at]);
    }

    /// A node becomes primary.
    pub fn promoted(&mut self, nodes: &[Node; 2], at: usize, way: Way) {
        self.promotions += 1;
        self.takeovers += u64::from(way == Way::Takeover);
        if way == Way::Forced {
            self.forced = true;
        }
        if self.forced {
            return;
        }
        let state = nodes[at].disk.state;
        assert!(state == DiskState::UpToDate, "I6: {} is promoted and its disk is {state}", NAMES[at]);
        let missing = self.acked.missing_in(&nodes[at].disk.written).next();
        assert!(
            missing.is_none(),
            "C1: {} is promoted ({way:?}) without the acknowledged write {missing:?}",
            NAMES[at]
        );
    }

    /// Everything acknowledged so far is durable on every disk that counts.
    pub fn flushed(&mut self) {
        self.firm = self.acked.clone();
    }

    /// Power was lost: what was never flushed, and is held by nobody who kept his memory, may be lost (C4).
    pub fn forget_what_nobody_holds(&mut self, nodes: &[Node; 2]) {
        let mut held = self.firm.clone();
        for node in nodes {
            let remembers = node.disk.join.is_none_or(|(_, boot)| boot == node.boot);
            if remembers && node.disk.state == DiskState::UpToDate {
                held.unite(&node.disk.written);
            }
        }
        let lost: Vec<u32> = self.acked.missing_in(&held).collect();
        for write in lost {
            self.acked.remove(write);
        }
    }
}

impl World {
    /// Everything that must hold now.
    pub fn check_step(&mut self) {
        let now = self.now;
        let manual_or_forced = self.history.forced;
        let serves = |node: &Node| {
            let primary = node.process.as_ref().is_some_and(|process| process.mirror.role == Role::Primary);
            primary && node.may_reply(now) && node.clock_stood_until <= now
        };
        if !manual_or_forced {
            assert!(!(serves(&self.nodes[0]) && serves(&self.nodes[1])), "I2: both serve");
            let holds = |node: &Node| node.holds_address(now) && node.clock_stood_until <= now;
            assert!(!(holds(&self.nodes[0]) && holds(&self.nodes[1])), "I19: both hold the address");
        }
        for (node, name) in NAMES.iter().enumerate() {
            let Some(process) = &self.nodes[node].process else { continue };
            let epoch = process.core.state().epoch;
            let durable = self.nodes[node].disk.seen_epoch;
            assert!(
                durable >= self.history.epochs[node],
                "I18: the epoch of {name} went from {:?} to {durable:?}",
                self.history.epochs[node]
            );
            self.history.epochs[node] = durable;
            assert!(
                !process.core.state().owns() || epoch >= durable,
                "I18: {name} owns in {epoch:?} below {durable:?}"
            );
            let pair = process.core.pair();
            if self.history.pairs.insert(pair) {
                assert!(advice(pair.0, pair.1).is_some(), "I24: no row for {pair:?}");
            }
        }
        if self.steps.is_multiple_of(4) {
            self.check_record();
        }
    }

    /// I3: whoever the record names as in sync holds every acknowledged write, or knows durably that it does not.
    fn check_record(&mut self) {
        let Some(standing) = self.arbiter.standing else { return };
        let record = standing.record;
        if self.history.restored || self.history.forced {
            return;
        }
        assert!(record.epoch >= self.history.record_epoch, "I18: the record's epoch fell");
        self.history.record_epoch = record.epoch;
        for (node, name) in NAMES.iter().enumerate() {
            let here = &self.nodes[node];
            let boots_since = here.disk.join.is_some_and(|(_, boot)| boot != here.boot);
            if !record.insync.contains(NodeId(node as u8)) || here.disk.state != DiskState::UpToDate || boots_since {
                continue;
            }
            let missing = self.history.acked.missing_in(&here.disk.written).next();
            assert!(missing.is_none(), "I3: the record names {name}, which lacks the acknowledged write {missing:?}");
        }
    }

    /// A resource starts after a handover: the one who handed the group over must not know that it may still run there.
    pub fn check_resource_start(&mut self, at: usize, index: usize) {
        use twinblock::logic::failover::state::Phase;
        let (Some(here), Some(there)) = (&self.nodes[at].process, &self.nodes[1 - at].process) else { return };
        let handed = matches!(here.core.state().phase, Phase::TakingOver { way: Way::Handover, .. });
        let unknown = self.nodes[1 - at].running[index] && there.core.state().failed == Some(Reason::StopFailed);
        assert!(!(handed && unknown), "G: {} starts resource {index}, which the other could not stop", NAMES[at]);
    }

    /// Who serves clients right now, if one does.
    pub fn serving(&self) -> Option<usize> {
        (0..2).find(|node| {
            let here = &self.nodes[*node];
            here.may_reply(self.now)
                && here.process.as_ref().is_some_and(|process| process.mirror.role == Role::Primary)
        })
    }

    pub fn is_paired(&self) -> bool {
        self.nodes.iter().all(|node| {
            node.process.as_ref().is_some_and(|process| process.mirror.is_joined() && !process.mirror.failed)
        })
    }

    /// Serving, in sync, resources up on the owner and down on the other, the record right, nothing failed.
    pub fn is_settled(&self) -> bool {
        let Some(owner) = self.serving() else { return false };
        let state = |node: usize| self.nodes[node].process.as_ref().map(|process| process.core.state());
        let right = self.arbiter.standing.is_some_and(|standing| {
            let record = standing.record;
            usize::from(record.primary.0) == owner && record.insync == twinblock::base::arbiter::InSync::BOTH
        });
        let quiet = (0..2).all(|node| state(node).is_some_and(|state| state.failed.is_none() && state.door.is_none()));
        let owns = state(owner).is_some_and(|state| state.phase == twinblock::logic::failover::state::Phase::Owner);
        self.is_paired()
            && self.nodes.iter().all(Node::is_awake)
            && owns
            && quiet
            && (right || !self.config.mode.has_arbiter())
            && self.nodes[owner].running == [true; 3]
            && self.nodes[1 - owner].running == [false; 3]
            && self.config.mode != FailoverMode::BestEffort
    }
}
