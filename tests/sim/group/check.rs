//! What must hold over both cores of both nodes, whatever happened before (the design's E.10).
//!
//! | invariant | where |
//! |---|---|
//! | I1, I2, I19, I18, I24 | here, after every turn of a group's thread, and (I1, I2) after every turn of a volume's |
//! | I3 | here: when the record changes, and with every acknowledged write |
//! | I4 | `history`: every sector is a linearizable register across failovers |
//! | I5, I6, I9, I10, I13, I14, I15, I16 | `invariants`, for volumes with and without a group |
//! | I7, I8, I11 | `invariants`: before a byte is written or sent, after every record |
//! | I12 | `link` drops what has a lower epoch; `history` would show what gets through |
//! | I17, I20, I21 | `devices` (flushes, checksums), `daemon` and `run` (answers) |
//! | I22, I23 | `run`: the healed pair serves, is in sync and moves within a bound; `stories` have the bounds of single faults |

use super::super::node::NAMES;
use super::super::world::World;
use std::collections::BTreeSet;
use twinblock::base::arbiter::{InSync, Versioned};
use twinblock::base::group::{NodeState, Reason};
use twinblock::base::ids::{Epoch, NodeId};
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::state::{Continuity, DiskState, Mode, Role};
use twinblock::base::time::Moment;
use twinblock::logic::failover::state::Phase;
use twinblock::logic::failover::states::advice;

/// A node's state as it sees itself, and its peer's as it was told.
pub type Pair = ((NodeState, Reason), Option<(NodeState, Reason)>);

/// What was seen so far.
#[derive(Default)]
pub struct Checks {
    pub pairs: BTreeSet<Pair>,
    pub newest_hop: Moment,
    epochs: [Epoch; 2],
    record_epoch: Epoch,
}

impl Checks {
    /// A node's newest superblock is gone.
    pub fn forget_epoch(&mut self, node: usize) {
        self.epochs[node] = Epoch(0);
    }
}

impl World {
    /// Whether a machine's clock stood still so lately that a permit which is over looks valid there: nothing the daemon
    /// could look at says otherwise.
    pub fn clock_is_doubtful(&self, node: usize) -> bool {
        self.nodes[node].lasting.clock_stood_until > self.now
    }

    /// Whether more than one line of content is expected.
    pub fn splits(&self) -> bool {
        self.config.forced()
    }

    /// After a turn of a group's thread.
    pub(super) fn check_group(&mut self, node: usize) {
        self.check_only_one_serves();
        let durable = self.nodes[node].durable().seen_epoch;
        let Some(core) = self.side(node).and_then(|side| side.core.as_ref()) else { return };
        let (state, pair, name) = (core.state(), core.pair(), NAMES[node]);
        let before = std::mem::replace(&mut self.outside.checks.epochs[node], durable);
        assert!(durable >= before, "the epoch of {name} went from {before:?} to {durable:?} (I18)");
        assert!(!state.owns() || state.epoch >= durable, "{name} owns in {:?} below {durable:?} (I18)", state.epoch);
        if self.outside.checks.pairs.insert(pair) {
            assert!(advice(pair.0, pair.1).is_some(), "no row of the table of states for {pair:?} (I24)");
        }
    }

    /// I1, I2, I19: at most one node answers reads, and at most one has the floating address up.
    pub fn check_only_one_serves(&self) {
        if self.group().is_none() || self.splits() {
            return;
        }
        let permitted = |node: usize| {
            let clock = self.clock(node);
            let awake = self.nodes[node].process.as_ref().is_some_and(|process| !process.paused);
            awake && self.side(node).is_some_and(|side| side.gate.allows(clock)) && !self.clock_is_doubtful(node)
        };
        if !(permitted(0) && permitted(1)) {
            return;
        }
        assert!(!(self.holds_address(0) && self.holds_address(1)), "both hold the floating address (I19)");
        let reads = |node: usize| {
            let view = self.view(node);
            view.is_some_and(|view| view.role == Role::Primary && view.disk == DiskState::UpToDate)
        };
        assert!(!(reads(0) && reads(1)), "both nodes serve reads (I2)");
    }

    /// The arbiter's record has changed. Whoever it newly names as in sync holds what is acknowledged (I3).
    pub(super) fn check_record_change(&mut self, before: Option<Versioned>, now: Option<Versioned>) {
        let (Some(now), false) = (now, self.splits()) else { return };
        if before == Some(now) {
            return;
        }
        let record = now.record;
        assert!(record.epoch >= self.outside.checks.record_epoch, "the record's epoch fell (I18)");
        self.outside.checks.record_epoch = record.epoch;
        let was = before.map(|before| before.record.insync);
        for node in 0..2 {
            let named = record.insync.contains(NodeId(node as u8));
            let was_named = was.is_some_and(|was| was.contains(NodeId(node as u8)));
            if named && !was_named && before.is_some() {
                self.check_holds_what_is_acknowledged(node, usize::from(record.primary.0));
            }
        }
    }

    /// Everything nobody is about to change is the same on this node's disk as on the owner's.
    fn check_holds_what_is_acknowledged(&self, node: usize, owner: usize) {
        // What it can't serve from, as its superblock says, harms nobody by being named; what a power loss took meanwhile
        // is a matter of the rank rule and of C4.
        let there = self.nodes.iter().all(|node| node.process.is_some()) && !self.config.takes_over_behind();
        // So is what either forgot by a restart: it knows that it did. A call of its life before may arrive only now.
        let remembers = |process: &super::super::node::Process| process.mirror.facts().memory != Continuity::Rebooted;
        let there = there && self.nodes.iter().all(|node| node.process.as_ref().is_some_and(remembers));
        if node == owner || !there || self.nodes[node].durable().disk != DiskState::UpToDate {
            return;
        }
        let under_way = |node: usize, range: &ByteRange| {
            self.nodes[node].process.as_ref().is_some_and(|process| {
                let asked = process.requests.values().filter_map(|admitted| admitted.ask.work.range());
                let writes = process.disk_ops.values().filter_map(|op| super::super::devices::changed_by(&op.io));
                let flying = process.in_flight.iter().map(|(_, range)| *range);
                asked.chain(writes).chain(flying).any(|other| other.aligned_out().overlaps(range))
            })
        };
        for block in 0..(self.config.volume_bytes() / BLOCK) as u32 {
            let range = ByteRange::of_blocks(block..block + 1);
            let same = self.nodes[0].disk.read(range) == self.nodes[1].disk.read(range);
            assert!(
                same || under_way(0, &range) || under_way(1, &range) || self.nodes[owner].was_doomed,
                "the record names {} as in sync, which lacks block {block} (I3)",
                NAMES[node]
            );
        }
    }

    /// A write is acknowledged: everybody whom the record names holds it (I3), nobody acknowledges behind a newer epoch
    /// (I1), and what only one node holds is remembered until both are in sync.
    pub fn check_group_write(&mut self, node: usize, holders: u8) {
        let alone = holders & (1 << (1 - node)) == 0;
        let early = self.config.mode == Mode::Async || self.peer_may_hold_in_memory(node);
        if early {
            // What is acknowledged early is on one node only, for a moment, without anybody having been alone.
        } else if alone || holders & (1 << node) == 0 {
            let holder = if alone { node } else { 1 - node };
            self.nodes[holder].lasting.wrote_alone = true;
        }
        if self.splits() || self.group().is_none() {
            return;
        }
        let Some(core) = self.side(node).and_then(|side| side.core.as_ref()) else { return };
        let epoch = core.state().epoch.0;
        let other = self.nodes[1 - node].lasting.acknowledged_in;
        assert!(
            other <= epoch || self.clock_is_doubtful(node),
            "{} acknowledges in epoch {epoch} after the other did in {other} (I1)",
            NAMES[node]
        );
        if !self.clock_is_doubtful(node) {
            self.nodes[node].lasting.acknowledged_in = epoch;
        }
        // A peer that died with what it had received knows that, and an operator has allowed a takeover without it.
        let died = self.config.mode == Mode::Memory && early && self.nodes[1 - node].process.is_none();
        let Some(standing) = self.outside.arbiter.standing.filter(|_| !died && !self.config.takes_over_behind()) else {
            return;
        };
        for index in (0..2).filter(|index| standing.record.insync.contains(NodeId(*index as u8))) {
            let knows = self.nodes[index].durable().disk != DiskState::UpToDate;
            assert!(
                holders & (1 << index) != 0 || knows || self.nodes[index].was_doomed,
                "the record names {} as in sync, which lacks an acknowledged write (I3)",
                NAMES[index]
            );
        }
    }

    /// A resync begins: nothing that only its target acknowledged is overwritten unless an operator gave that up (E.8).
    pub fn check_resync_begins(&self, node: usize, source: bool) {
        let target = if source { 1 - node } else { node };
        let given_up = self.nodes[target].durable().discard || self.nodes[target].durable().unfinished.is_some();
        let both = self.nodes.iter().all(|node| node.lasting.wrote_alone);
        assert!(
            !both || given_up || self.nodes[target].durable().disk != DiskState::UpToDate,
            "{} is overwritten by a resync although both wrote alone: the split was not seen (E.8)",
            NAMES[target]
        );
    }

    /// Both are in sync: what was written alone is on both.
    pub fn both_hold_everything(&mut self) {
        for node in &mut self.nodes {
            node.lasting.wrote_alone = false;
        }
    }

    /// The group serves, on one node, with its resources up there and down on the other, nothing failed or under way, and
    /// the record right.
    pub fn group_is_settled(&self) -> bool {
        let state = |node: usize| self.side(node).and_then(|side| side.core.as_ref()).map(|core| core.state());
        let Some(owner) = (0..2).find(|node| state(*node).is_some_and(|state| state.phase == Phase::Owner)) else {
            return false;
        };
        let other = state(1 - owner).is_some_and(|state| state.phase == Phase::Standby);
        let quiet = (0..2).all(|node| state(node).is_some_and(|state| state.failed.is_none() && state.door.is_none()));
        let alone = self.config.mode == Mode::Async && !self.config.takes_over_behind();
        let insync = if alone { InSync::only(NodeId(owner as u8)) } else { InSync::BOTH };
        let right = self.outside.arbiter.standing.is_some_and(|standing| {
            usize::from(standing.record.primary.0) == owner && standing.record.insync == insync
        });
        let right = right || !self.group().is_some_and(|group| group.mode.has_arbiter());
        let allowed = |node: usize| {
            let shown = self.side(node).and_then(|side| side.core.as_ref()).map(|core| core.node_state());
            shown.is_some_and(|(state, reason)| {
                !matches!(state, NodeState::Unknown | NodeState::RunningInFailedMode) && reason != Reason::Deactivated
            })
        };
        other
            && quiet
            && allowed(0)
            && allowed(1)
            && (0..2).all(|node| self.side(node).is_some_and(|side| side.inbox.is_empty()))
            && self.outside.shots == 0
            && self.outside.steps == 0
            && right
            && self.nodes[owner].lasting.running == [true; 3]
            && self.nodes[1 - owner].lasting.running == [false; 3]
    }
}
