//! Leaving in order: demote and stop.
//!
//! Both let in nothing new, wait for what was admitted, flush both disks, and persist. A node that stopped in order has
//! no intents left, so that both can start again with nothing to compare.

use super::core::{After, Mirror};
use super::interface::{Effect, Note, Order};
use super::session::STOPPING;
use crate::base::command::CommandOutcome;
use crate::base::ids::CommandId;
use crate::base::limits::REQUESTS_STOP_TIME_MAX;
use crate::base::state::{DiskState, Role};
use crate::base::time::Moment;
use crate::wire::message::Message;
use std::time::Duration;

/// A demotion under way.
#[derive(Debug)]
pub(super) struct Demotion {
    /// `None` by the group's order.
    id: Option<CommandId>,
    step: Step,
}

impl Demotion {
    /// Whether everything admitted is settled.
    pub(super) fn is_flushing(&self) -> bool {
        self.step != Step::Draining
    }
}

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stopping {
    began: Moment,
    /// This was a secondary in sync: what its peer may lack in durability, the peer's own intents cover.
    standby: bool,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Pieces settle.
    Draining,
    /// The cycle with this number flushes both.
    Flushing(u64),
    /// The maps are being made durable.
    Snapshot,
    /// Intents are being cleared.
    Intents,
    /// The superblock is being written.
    Persisting,
}

impl Mirror {
    pub(super) fn demote(&mut self, id: CommandId, force: bool, out: &mut Vec<Effect>) {
        self.begin_demotion(Some(id), force, out);
    }

    /// Becomes secondary in order, for an operator or (without `id`) for the group.
    pub(super) fn begin_demotion(&mut self, id: Option<CommandId>, force: bool, out: &mut Vec<Effect>) {
        if self.role == Role::Secondary || self.pending.demotion.is_some() {
            return self.demotion_ends(id, "already secondary", out);
        }
        let who = if id.is_some() { "the operator" } else { "the group" };
        out.push(Effect::CutClients { reason: format!("demoted by {who}") });
        self.pending.demotion = Some(Demotion { id, step: Step::Draining });
        if force {
            self.fail_all(out);
        }
        self.drained_step(out);
    }

    fn demotion_ends(&mut self, id: Option<CommandId>, done: &str, out: &mut Vec<Effect>) {
        match id {
            Some(id) => out.push(Effect::CommandDone { id, outcome: CommandOutcome::Done(done.into()) }),
            None => self.order_ended(|order| order == Order::Quiesce, Ok(()), out),
        }
    }

    /// The link was lost while the group's demotion waits for requests that only the peer could finish: this node stays
    /// primary, and the group decides anew.
    pub(super) fn quiesce_failed(&mut self, out: &mut Vec<Effect>) {
        let waits = |demotion: &Demotion| demotion.id.is_none() && demotion.step == Step::Draining;
        if self.pending.demotion.as_ref().is_some_and(waits) && !self.is_settled() {
            self.pending.demotion = None;
            self.order_ended(|order| order == Order::Quiesce, Err("the peer was lost under requests"), out);
        }
    }

    /// A piece, chunk or cycle ended: whoever leaves may go on.
    pub(super) fn drained_step(&mut self, out: &mut Vec<Effect>) {
        let Some(demotion) = &self.pending.demotion else {
            self.stop_step(out);
            return;
        };
        match demotion.step {
            Step::Draining if self.is_settled() && !self.door.is_opening() => {
                self.set_demotion_step(Step::Flushing(self.flushing.number() + 1));
                self.flush_to_leave(out);
            }
            Step::Flushing(number) if self.flushing.completed >= number => {
                self.role = Role::Secondary;
                self.door = super::door::Door::Closed;
                self.set_demotion_step(Step::Persisting);
                self.persist(After::Demoted, out);
            }
            Step::Flushing(_) if self.flushing.is_idle() => {
                // The session was lost under the cycle, or it was another's.
                self.set_demotion_step(Step::Flushing(self.flushing.number() + 1));
                self.flush_to_leave(out);
            }
            _ => {}
        }
    }

    fn set_demotion_step(&mut self, step: Step) {
        if let Some(demotion) = self.pending.demotion.as_mut() {
            demotion.step = step;
        }
    }

    /// Begins a cycle for whoever leaves, unless one runs, after which it will be begun. Its end, which may come at once,
    /// takes the next step.
    fn flush_to_leave(&mut self, out: &mut Vec<Effect>) {
        if self.flushing.is_idle() {
            self.start_cycle(out);
        }
    }

    /// The role is durable.
    pub(super) fn demoted(&mut self, out: &mut Vec<Effect>) {
        let Some(demotion) = self.pending.demotion.take() else { return };
        self.role = Role::Secondary;
        let who = if demotion.id.is_some() { "operator" } else { "group" };
        self.note(Note::RoleChanged { role: Role::Secondary, reason: format!("by the {who}'s order") }, out);
        self.send(Message::RoleChanged { role: Role::Secondary, epoch: self.superblock.seen_epoch }, out);
        self.demotion_ends(demotion.id, "secondary", out);
        self.begin_session_if_ready(out);
    }

    /// The daemon is to stop.
    pub(super) fn stop(&mut self, out: &mut Vec<Effect>) {
        if self.pending.stopping.is_none() {
            out.push(Effect::CutClients { reason: "the daemon stops".into() });
            let standby = self.role == Role::Secondary && self.is_joined();
            self.pending.stopping = Some(Stopping { began: self.now, standby, step: Step::Draining });
            if self.role == Role::Secondary {
                // Nothing may come any more that the last flush would not cover.
                self.end_session(STOPPING, false, out);
            }
            self.stop_step(out);
        }
    }

    /// Goes on with a stop as far as it can.
    pub(super) fn stop_step(&mut self, out: &mut Vec<Effect>) {
        let Some(stopping) = &self.pending.stopping else { return };
        let late = self.now.since(stopping.began) >= REQUESTS_STOP_TIME_MAX;
        match stopping.step {
            Step::Draining if self.is_settled() && self.old_frames_ended() && !self.door.is_opening() => {
                self.set_stop_step(Step::Flushing(self.flushing.number() + 1));
                self.flush_to_leave(out);
            }
            Step::Draining if late => {
                self.withdraw_passage(out);
                self.fail_all(out);
            }
            Step::Flushing(number) if self.flushing.completed >= number => self.stop_maps(out),
            Step::Flushing(_) if self.flushing.is_idle() => {
                self.set_stop_step(Step::Flushing(self.flushing.number() + 1));
                self.flush_to_leave(out);
            }
            Step::Snapshot if !self.is_persisting() => self.stop_intents(out),
            Step::Intents if !self.is_persisting() && self.intents.is_quiet() => self.stop_persist(out),
            _ => {}
        }
    }

    fn set_stop_step(&mut self, step: Step) {
        if let Some(stopping) = self.pending.stopping.as_mut() {
            stopping.step = step;
        }
    }

    /// Whether every piece is settled. What a dead disk still owes an answer for may stay behind.
    fn is_settled(&self) -> bool {
        self.slots.iter().all(|(_, slot)| slot.is_ghost())
    }

    fn is_persisting(&self) -> bool {
        use super::core::Op;
        self.is_under_way(|op| matches!(op, Op::Snapshot(_) | Op::Intents | Op::Superblock(_)))
    }

    /// What differs from a peer that isn't there is written down exactly, so that the intents may go.
    fn stop_maps(&mut self, out: &mut Vec<Effect>) {
        self.set_stop_step(Step::Snapshot);
        let standby = self.pending.stopping.as_ref().is_some_and(|stopping| stopping.standby);
        let alone = !standby && !self.is_joined();
        if alone {
            self.doubt_unstable();
        }
        // From here on the peer changes nothing of what is written down.
        self.end_session(STOPPING, false, out);
        // In sync there are marks as well, when a verify has found something.
        if !standby && !self.marks.is_empty() && !self.maps_unreadable {
            self.take_snapshot(out);
        } else {
            self.stop_step(out);
        }
    }

    fn stop_intents(&mut self, out: &mut Vec<Effect>) {
        self.set_stop_step(Step::Intents);
        // Joined: the last cycle made both durable. Not joined: the snapshot holds every mark.
        if self.disk != DiskState::Diskless && self.unfinished.is_empty() && self.applying.is_idle() {
            self.intents.sweep(self.now, Duration::ZERO, u64::MAX);
            self.write_intents(out);
        }
        self.stop_step(out);
    }

    fn stop_persist(&mut self, out: &mut Vec<Effect>) {
        self.set_stop_step(Step::Persisting);
        self.role = Role::Secondary;
        // A loss nobody was told of yet is not forgotten by an orderly stop.
        self.superblock.clean = !self.cache_lost;
        self.persist(After::Stopped, out);
    }

    pub(super) fn stopped(&mut self, out: &mut Vec<Effect>) {
        self.end_session(STOPPING, false, out);
        out.push(Effect::Stopped);
    }
}
