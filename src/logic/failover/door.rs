//! Excluding the peer: the same guards for an owner that goes on alone and for a standby that takes over.
//!
//! | mode | owner goes on alone | standby takes over |
//! |---|---|---|
//! | manual | at once | by an operator only |
//! | arbiter | record | record |
//! | fencing | fence, at once | fence, after the owner's head start |
//! | arbiter+fencing | record | record, then fence |
//! | best-effort | targets answer | targets answer, every address of the peer silent for the quiet time |
//!
//! An owner whose peer is excluded by the record does not shoot it: a standby serves nothing, and an agent that fails must not
//! hold the one node that is entitled. An owner needs none of these when the peer agrees to be outdated, or when the record names it alone already. A standby
//! needs none when its superblock says that it was alone last, in the modes without a record.

use super::core::Failover;
use super::interface::{Effect, Note, Way};
use super::mutation::Mutation;
use super::register::Purpose;
use super::state::{DoorStep, Guard, Phase, TakeStep};
use crate::base::time::Moment;
use std::time::Duration;

/// The agent's call or the probe under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fencing {
    wanted: Option<Wanted>,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    guard: Guard,
    call: Option<u64>,
    next_at: Moment,
    /// Since when every address is silent and the targets answer.
    quiet_since: Option<Moment>,
}

impl Fencing {
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.wanted.filter(|wanted| wanted.call.is_none()).map(|wanted| wanted.next_at)
    }
}

impl Failover {
    /// The guard that is being passed, if any.
    pub(super) fn guard(&self) -> Option<Guard> {
        match (self.state.door, self.state.phase) {
            (Some(DoorStep::Excluding(guard)), _) => Some(guard),
            (None, Phase::TakingOver { step: TakeStep::Excluding(guard), .. }) => Some(guard),
            _ => None,
        }
    }

    fn is_owner_side(&self) -> bool {
        self.state.door.is_some()
    }

    /// Works at the guard that is being passed: the record here, agent and probe in `fence_duties`.
    pub(super) fn guard_duties(&mut self) {
        if self.guard() != Some(Guard::Record) || self.now < self.retry_at {
            return;
        }
        let purpose = if self.is_owner_side() { Some(Purpose::Narrow) } else { self.takeover_purpose() };
        if let Some(purpose) = purpose {
            self.register.want(purpose, self.now);
        }
    }

    /// Calls the agent or probes when the guard wants it.
    pub(super) fn fence_duties(&mut self, out: &mut Vec<Effect>) {
        let guard = self.guard().filter(|guard| matches!(guard, Guard::Fence | Guard::Probe));
        let Some(guard) = guard else {
            self.fencing.wanted = None;
            return;
        };
        if self.fencing.wanted.is_none_or(|wanted| wanted.guard != guard) {
            let next_at = self.now + self.head_start(guard);
            self.fencing.wanted = Some(Wanted { guard, call: None, next_at, quiet_since: None });
        }
        let due = self.fencing.wanted.is_some_and(|wanted| wanted.call.is_none() && self.now >= wanted.next_at);
        if due {
            let id = self.fresh_id();
            if let Some(wanted) = &mut self.fencing.wanted {
                wanted.call = Some(id);
            }
            out.push(if guard == Guard::Fence { Effect::Fence { id } } else { Effect::Probe { id } });
        }
    }

    /// The agent ended.
    pub(super) fn fenced(&mut self, id: u64, result: Result<(), String>, out: &mut Vec<Effect>) {
        if !self.is_answered(id) {
            return;
        }
        match result {
            Ok(()) => {
                // Whatever ran there runs no more; whatever was promised there binds nobody.
                self.promises.release(self.now);
                self.guard_passed("fenced", out);
            }
            Err(_) if self.rules.broken(Mutation::UnconfirmedFence) => self.guard_passed("fenced", out),
            Err(why) => out.push(Effect::Note(Note::FenceFailed { why })),
        }
    }

    /// Addresses were probed.
    pub(super) fn probed(&mut self, id: u64, targets_answer: bool, peer_answers: bool, out: &mut Vec<Effect>) {
        if !self.is_answered(id) {
            return;
        }
        if self.is_owner_side() {
            if targets_answer {
                self.guard_passed("targets-answer", out);
            }
            return;
        }
        let (now, quiet_time) = (self.now, self.settings.quiet_time);
        let Some(wanted) = &mut self.fencing.wanted else { return };
        if !targets_answer || peer_answers {
            wanted.quiet_since = None;
            return;
        }
        let since = *wanted.quiet_since.get_or_insert(now);
        if now.since(since) >= quiet_time {
            self.guard_passed("silent-on-every-address", out);
        }
    }

    /// The owner shoots first; where the record has decided before, nobody shoots back.
    fn head_start(&self, guard: Guard) -> Duration {
        let waits = guard == Guard::Fence && !self.is_owner_side() && !self.settings.mode.has_arbiter();
        if waits { self.settings.fence_delay } else { Duration::ZERO }
    }

    /// Whether this is the answer waited for; the next try is not before the pause is over.
    fn is_answered(&mut self, id: u64) -> bool {
        let head_start = self.guard().map_or(Duration::ZERO, |guard| self.head_start(guard));
        let next_at = self.now + self.settings.retry_interval + head_start;
        match &mut self.fencing.wanted {
            Some(wanted) if wanted.call == Some(id) => {
                wanted.call = None;
                wanted.next_at = next_at;
                true
            }
            _ => false,
        }
    }

    /// One guard is passed: the next one, or the peer is excluded.
    pub(super) fn guard_passed(&mut self, rule: &'static str, out: &mut Vec<Effect>) {
        let Some(guard) = self.guard() else { return };
        self.fencing.wanted = None;
        // A claim has the peer's agreement, an owner's peer serves nothing: there is nobody to shoot.
        let harmless = self.is_owner_side() || matches!(self.state.phase, Phase::TakingOver { way: Way::Claim, .. });
        let next = guard.next(self.settings.mode).filter(|_| !harmless);
        match (self.state.phase, next) {
            _ if self.is_owner_side() => self.excluded(rule, out),
            (Phase::TakingOver { way, .. }, Some(next)) => {
                self.become_phase(Phase::TakingOver { way, step: TakeStep::Excluding(next) });
            }
            (Phase::TakingOver { way, .. }, None) => self.promote(way, out),
            _ => {}
        }
    }

    /// When a door that waits looks again.
    pub(super) fn door_deadline(&self) -> Option<Moment> {
        self.guard().map(|_| self.retry_at)
    }
}
