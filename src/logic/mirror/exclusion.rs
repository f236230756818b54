//! The failover group decides who may serve: questions at the door, and the permit to read.
//!
//! | this node | needs |
//! |---|---|
//! | primary, alone, or about to be | the group's word that the peer is excluded, before the first acknowledgement |
//! | secondary that takes over | the same, before it serves anything |
//! | primary without a disk | the group's word that only the peer counts, before it acknowledges what the peer wrote |
//! | source of a resync | the group's word that it counts with the peer again, before it calls the peer up to date |
//! | primary beside a peer that may take over | a permit for reads, which the peer's promise outlives |
//!
//! Writes need no clock: one that is acknowledged is on the peer's disk or behind the door. A read that was answered by
//! the local disk after the permit ended is read again when there is a new one: the peer may have taken over meanwhile.

use super::core::Mirror;
use super::door::{Door, Purpose};
use super::interface::{Effect, PassageAnswer, PassageWish};
use crate::base::ids::Epoch;
use crate::base::state::Exclusion;
use crate::base::time::Moment;

/// What the group was asked, and what it has said.
#[derive(Debug, Default)]
pub(super) struct Word {
    /// Questions asked, ever.
    asked: u64,
    /// Those without an answer; never two of the same wish.
    open: Vec<(u64, PassageWish)>,
    permit: Permit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Permit {
    #[default]
    Never,
    Until(Moment),
    Always,
}

impl Mirror {
    /// Whether a failover group decides who may serve.
    pub(super) fn is_in_group(&self) -> bool {
        self.settings.exclusion == Exclusion::Group
    }

    /// Whether what the local disk holds may be shown to clients now.
    pub(super) fn may_read(&self) -> bool {
        if !self.is_in_group() {
            return true;
        }
        match self.word.permit {
            Permit::Never => false,
            Permit::Until(end) => self.now < end,
            Permit::Always => true,
        }
    }

    /// The permit was renewed, or ended.
    pub(super) fn permitted(&mut self, until: Option<Moment>, out: &mut Vec<Effect>) {
        let could = self.may_read();
        self.word.permit = until.map_or(Permit::Always, Permit::Until);
        if !could && self.may_read() {
            self.held_since = self.held_since.take().filter(|_| !self.word.open.is_empty());
            self.drive_all(out);
        }
    }

    /// A read can't be served before there is a permit.
    pub(super) fn hold_read(&mut self, out: &mut Vec<Effect>) {
        self.held_for("waiting for the group's permit to serve reads", out);
    }

    pub(super) fn ask_passage(&mut self, wish: PassageWish, out: &mut Vec<Effect>) {
        assert!(self.word.open.iter().all(|(_, other)| *other != wish), "nothing is asked twice at a time");
        self.word.asked += 1;
        self.word.open.push((self.word.asked, wish));
        out.push(Effect::AskPassage { passage: self.word.asked, wish });
        match wish {
            PassageWish::Solo => self.held_for("waiting for the group to exclude the peer", out),
            PassageWish::PeerOnly => self.held_for("waiting for the group to make the peer the only copy", out),
            PassageWish::Takeover | PassageWish::Qualify => {}
        }
    }

    pub(super) fn passage_answered(&mut self, passage: u64, answer: PassageAnswer, out: &mut Vec<Effect>) {
        let Some(index) = self.word.open.iter().position(|(open, _)| *open == passage) else { return };
        let (_, wish) = self.word.open.swap_remove(index);
        match answer {
            PassageAnswer::Granted { epoch } => {
                let epoch = epoch.max(self.superblock.seen_epoch);
                self.granted(wish, epoch, out);
            }
            PassageAnswer::Denied { reason } => self.denied(wish, &reason, out),
        }
    }

    fn granted(&mut self, wish: PassageWish, epoch: Epoch, out: &mut Vec<Effect>) {
        match (wish, self.door) {
            (PassageWish::Solo | PassageWish::Takeover, Door::Asking(purpose)) => {
                self.held_since = None;
                self.pass(purpose, epoch, out);
            }
            (PassageWish::Solo | PassageWish::Takeover, door) => {
                unreachable!("{wish:?} is asked at the door: {door:?}")
            }
            (PassageWish::PeerOnly, _) => {
                self.superblock.seen_epoch = epoch;
                self.forward_from_now(out);
            }
            (PassageWish::Qualify, _) => {
                self.superblock.seen_epoch = epoch;
                self.offer(out);
            }
        }
    }

    fn denied(&mut self, wish: PassageWish, reason: &str, out: &mut Vec<Effect>) {
        if wish == PassageWish::Takeover {
            self.door = Door::Closed;
            self.promotion_failed(reason, out);
            self.begin_session_if_ready(out);
        } else {
            self.step_down(reason, out);
        }
    }

    /// Nobody waits for the answer any more. What the group may have granted meanwhile is harmless: a record that
    /// excludes the peer while this node does not serve alone.
    fn withdraw(&mut self, which: impl Fn(PassageWish) -> bool, out: &mut Vec<Effect>) {
        for (passage, wish) in std::mem::take(&mut self.word.open) {
            if which(wish) {
                out.push(Effect::PassageWithdrawn { passage });
            } else {
                self.word.open.push((passage, wish));
            }
        }
    }

    /// Whatever was asked, this node changes nothing any more.
    pub(super) fn withdraw_all(&mut self, out: &mut Vec<Effect>) {
        self.withdraw_passage(out);
        self.withdraw_with_session(out);
    }

    /// Whoever is at the door turns back.
    pub(super) fn withdraw_passage(&mut self, out: &mut Vec<Effect>) {
        if self.door.is_asking() {
            self.door = Door::Closed;
            self.held_since = None;
            self.withdraw(|wish| matches!(wish, PassageWish::Solo | PassageWish::Takeover), out);
        }
    }

    /// A primary need not go on alone: the peer is back, or nothing is held any more.
    pub(super) fn withdraw_solo(&mut self, out: &mut Vec<Effect>) {
        if self.door == Door::Asking(Purpose::Solo) {
            self.withdraw_passage(out);
        }
    }

    /// What was asked for the session that has ended.
    pub(super) fn withdraw_with_session(&mut self, out: &mut Vec<Effect>) {
        self.withdraw(|wish| matches!(wish, PassageWish::PeerOnly | PassageWish::Qualify), out);
    }
}
