//! Two nodes meet: each describes itself, both decide by the same function, and what they agree on is carried out.

use super::core::Mirror;
use super::handshake::{self, Decision, Plan, Rule, Side};
use super::interface::{Effect, Note};
use super::session::Phase;
use crate::base::state::{Mode, Role};
use crate::wire::message::{Descriptor, FEATURE_RECEIPTS, Message, PROTOCOL_VERSION};

impl Mirror {
    /// Describes this node, once nothing of before is under way that could change the description.
    pub(super) fn begin_session_if_ready(&mut self, out: &mut Vec<Effect>) {
        let quiet =
            self.old_frames_ended() && !self.door.is_opening() && !self.is_changing() && !self.pending.is_leaving();
        let Some(session) = &self.session else { return };
        if !matches!(session.phase, Phase::Draining) || session.ending || !quiet {
            return;
        }
        let ours = self.descriptor();
        self.send(Message::Hello(Box::new(ours.clone())), out);
        let session = self.session.as_mut().expect("a session exists");
        session.ours = Some(ours);
        session.phase = Phase::Hello;
        self.decide_if_ready(out);
    }

    /// This node as the peer must know it.
    fn descriptor(&self) -> Descriptor {
        let superblock = &self.superblock;
        let marked = !self.marks.dirty.is_empty() || !self.marks.suspect.is_empty() || !self.unstable.is_empty();
        let marked_bytes = self.marks.bytes() + self.unstable.bytes();
        let receipts = self.settings.receipt_gating || self.settings.mode == Mode::Memory;
        let join = superblock.join;
        Descriptor {
            protocol: PROTOCOL_VERSION,
            features: if receipts { FEATURE_RECEIPTS } else { 0 } | self.archive_features(),
            node: self.settings.node,
            volume: self.settings.volume,
            device: superblock.device,
            role: self.role,
            disk: self.disk,
            mode: self.settings.mode,
            capacity_bytes: self.capacity_bytes,
            committed_bytes: superblock.committed_bytes,
            lineage: superblock.lineage.clone(),
            primary_epoch: superblock.primary_epoch,
            seen_epoch: superblock.seen_epoch,
            cache_epoch: superblock.cache_epoch,
            continuity: self.continuity(),
            marked,
            marked_bytes,
            intents_marked: !self.marks.intents.is_empty(),
            maps_readable: !self.maps_unreadable,
            gated_since_join: join.is_some_and(|join| join.gated) && self.settings.receipt_gating,
            exact: self.settings.exact_recovery && !self.forgot,
            unfinished: superblock.unfinished,
            discard: superblock.discard,
            requested: superblock.requested,
            incarnation: self.identity.incarnation,
            boot: self.identity.boot,
        }
    }

    /// The peer described itself.
    pub(super) fn hello(&mut self, theirs: Descriptor, out: &mut Vec<Effect>) {
        let Some(session) = self.session.as_mut() else { return };
        if session.theirs.is_some() {
            self.misbehaved("a second description in one session", out);
            return;
        }
        session.theirs = Some(theirs);
        self.decide_if_ready(out);
    }

    fn decide_if_ready(&mut self, out: &mut Vec<Effect>) {
        let rules = self.rules;
        let Some(session) = self.session.as_mut() else { return };
        let (Some(ours), Some(theirs), Phase::Hello) = (&session.ours, &session.theirs, &session.phase) else { return };
        let decision = handshake::decide_by(rules, ours, theirs);
        session.decision = Some(decision);
        session.phase = Phase::Deciding;
        self.send(Message::Decided { rule: decision.rule as u16, plan: decision.plan.code() }, out);
        self.carry_out_if_agreed(out);
    }

    /// The peer decided.
    pub(super) fn decided(&mut self, rule: u16, plan: u16, out: &mut Vec<Effect>) {
        let Some(session) = self.session.as_mut() else { return };
        session.their_decision = Some((rule, plan));
        self.carry_out_if_agreed(out);
    }

    fn carry_out_if_agreed(&mut self, out: &mut Vec<Effect>) {
        let Some(session) = self.session.as_mut() else { return };
        let (Some(decision), Some(theirs), Phase::Deciding) =
            (session.decision, session.their_decision, &session.phase)
        else {
            return;
        };
        if theirs != (decision.rule as u16, decision.plan.mirrored().code()) {
            self.misbehaved("the two nodes decided differently how to go on", out);
            return;
        }
        self.rule = Some(decision.rule);
        self.note(Note::Decided { rule: decision.rule.name(), plan: decision.plan.to_string() }, out);
        self.carry_out(decision, out);
    }

    fn carry_out(&mut self, decision: Decision, out: &mut Vec<Effect>) {
        let peer =
            self.session.as_ref().and_then(|session| session.theirs.clone()).expect("decided with a description");
        match decision.plan {
            Plan::Refuse => self.refused(decision.rule, out),
            Plan::Demote { side } => {
                if side == Side::Ours {
                    self.step_down("the peer is primary in a higher epoch", out);
                }
            }
            Plan::Forward { disk } => {
                self.set_phase(Phase::Forwarding { granted: false });
                // Which disk is out, and why, is told beside it; what kept an earlier session from beginning is over.
                self.link_reason = None;
                if disk == Side::Theirs && self.role == Role::Primary {
                    let reason = self.disk_reason.clone().unwrap_or_else(|| "no local disk".into());
                    self.send(Message::TakeAuthority { reason }, out);
                }
                self.drive_all(out);
            }
            Plan::Sync(sync) => {
                self.superblock.seen_epoch = self.superblock.seen_epoch.max(peer.seen_epoch);
                match sync.source {
                    Side::Ours => {
                        let session = self.session.as_mut().expect("decided in a session");
                        if let Some(theirs) = session.theirs.as_mut().filter(|_| sync.demote) {
                            theirs.role = Role::Secondary;
                        }
                        self.begin_source(decision.rule, sync);
                    }
                    Side::Theirs => self.begin_target(sync, out),
                }
            }
        }
    }

    fn refused(&mut self, rule: Rule, out: &mut Vec<Effect>) {
        let sentence = (rule == Rule::Archive).then(|| self.archiver.failure().map(str::to_owned)).flatten();
        self.link_reason = Some(sentence.unwrap_or_else(|| refusal_sentence(rule, self.peer_name())));
        self.set_phase(Phase::Refused);
        self.drive_all(out);
    }
}

/// What a refusal means and what to do.
fn refusal_sentence(rule: Rule, peer: &str) -> String {
    match rule {
        Rule::Protocol => format!("{peer} runs another version of the protocol: run the same version on both"),
        Rule::Volume => format!("the disk of {peer} belongs to another volume: check cluster and volume name"),
        Rule::SameNode => "both daemons say they are the same node: start one with the other --node".into(),
        Rule::Clone => "both disks carry the same identity, one is a copy of the other: run replace-disk on one".into(),
        Rule::Mode => format!("{peer} is configured with another mode: use the same config on both"),
        Rule::Size => "a disk is smaller than the volume: give that node a larger disk with replace-disk".into(),
        Rule::NoDisk => "neither node has a disk: attach one".into(),
        Rule::BothDiscard => "both sides were given up: choose one with resync --source".into(),
        Rule::DiscardPrimary => "the side that was given up is primary: demote it first".into(),
        Rule::BothNew => format!(
            "both disks are new and not known to be zero, and neither's content counts yet: choose one with resync --source, \
             given on the node that is chosen, this one or {peer}"
        ),
        Rule::NoGoodSource => "the other disk is not up to date: choose one with resync --source".into(),
        Rule::Unrelated => "the two disks hold unrelated data: choose one with resync --source".into(),
        Rule::Fork => {
            "split brain: both nodes went on alone; nothing is overwritten until you choose one: `split-brain show` tells \
             what each has, `split-brain resolve --discard NODE` gives one up and archives what only it has"
                .into()
        }
        Rule::Archive => {
            format!("{peer} can't archive what only it has, so nothing of it is overwritten: its own status says why")
        }
        Rule::NewestInconsistent => "the newer copy is an unfinished one: choose a side with resync --source".into(),
        Rule::BothInconsistent => "both copies are unfinished: choose one with resync --source".into(),
        Rule::InconsistentPrimary | Rule::PrimaryWithoutMemory => {
            "a primary whose copy can't be the source: demote it, then choose a side with resync --source".into()
        }
        other => format!("refused by rule {}", other.name()),
    }
}
