//! The operator: who may become primary when, and which side's data counts.
//!
//! | promote while | without force |
//! |---|---|
//! | joined, or this node is a resync's source | granted by the peer, which must be secondary |
//! | this node is a resync's target | refused until it is done |
//! | the handshake is not finished | refused with code `handshake`: ask again |
//! | no session, this node went on alone before | yes: the peer's copy is known to be older |
//! | no session, was joined, peer's daemon was gone right when the session ended | yes: it can't have gone on alone |
//! | no session otherwise | refused: the peer may be serving, or hold newer data |

use super::core::{After, Mirror, Op};
use super::door::Purpose;
use super::grow::Growth;
use super::interface::{Effect, Note, Order};
use super::leave::{Demotion, Stopping};
use super::session::Phase;
use crate::base::command::{Command, CommandOutcome, Refusal};
use crate::base::generation::{Generation, Lineage, Relation};
use crate::base::ids::{CommandId, Epoch};
use crate::base::state::{DiskState, Mode, ResyncKind, Role};
use crate::wire::message::{Continuity, Message};

/// What the operator asked for and is not done yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) resync_paused: bool,
    promotion: Option<Promotion>,
    pub(super) demotion: Option<Demotion>,
    pub(super) growth: Option<Growth>,
    pub(super) stopping: Option<Stopping>,
}

#[derive(Debug)]
struct Promotion {
    /// `None` by the group's order.
    id: Option<CommandId>,
    /// The epoch claimed from the peer; `None` for a takeover.
    claim: Option<Epoch>,
}

impl Pending {
    /// Whether a primary lets clients in: not while it is leaving, and not before its primacy is durable.
    pub(super) fn lets_clients_in(&self) -> bool {
        self.promotion.is_none() && self.demotion.is_none() && self.stopping.is_none()
    }

    /// Whether the node is past the point where a new session could still matter.
    pub(super) fn is_leaving(&self) -> bool {
        self.stopping.is_some() || self.demotion.as_ref().is_some_and(Demotion::is_flushing)
    }
}

impl Mirror {
    pub(super) fn command(&mut self, id: CommandId, command: Command, out: &mut Vec<Effect>) {
        if self.refused_stopping(id, out) {
            return;
        }
        match command {
            Command::Promote { force } => self.promote(Some(id), force, None, out),
            Command::Demote { force } => self.demote(id, force, out),
            Command::Resync { full, compare, discard_ours } => {
                let outcome = self.resync_wanted(full, compare, discard_ours, out);
                out.push(Effect::CommandDone { id, outcome });
            }
            Command::GiveUp { archive } => {
                let outcome = match self.disk {
                    DiskState::Diskless => {
                        let refusal = Refusal::new("no-disk", "This node has no disk.", "Attach one first.");
                        CommandOutcome::Refused(refusal)
                    }
                    _ => self.discard_ours(false, archive, out),
                };
                out.push(Effect::CommandDone { id, outcome });
            }
            Command::PauseResync => self.pause_wanted(id, true, out),
            Command::ResumeResync => self.pause_wanted(id, false, out),
            Command::Verify { repair } => self.start_verify(id, repair, out),
            Command::Detach => self.detach(id, out),
            Command::Resize { bytes } => self.grow(id, bytes, out),
        }
    }

    fn refused_stopping(&self, id: CommandId, out: &mut Vec<Effect>) -> bool {
        let stopping = self.pending.stopping.is_some();
        if stopping {
            let refusal = Refusal::new("stopping", "The daemon is stopping.", "Start it again first.");
            out.push(Effect::CommandDone { id, outcome: CommandOutcome::Refused(refusal) });
        }
        stopping
    }

    /// Becomes primary, for an operator or (without `id`) for the group, in its epoch.
    pub(super) fn promote(&mut self, id: Option<CommandId>, force: bool, epoch: Option<Epoch>, out: &mut Vec<Effect>) {
        if self.role == Role::Primary && !self.door.is_taking_over() {
            return self.promotion_ends(id, Ok("already primary"), out);
        }
        match self.promotion_way(force) {
            Err(refusal) => self.promotion_ends(id, Err(refusal), out),
            Ok(Way::Claim) => {
                let next = Epoch(self.superblock.seen_epoch.0 + 1);
                let epoch = epoch.map_or(next, |ordered| ordered.max(self.superblock.seen_epoch));
                self.pending.promotion = Some(Promotion { id, claim: Some(epoch) });
                self.send(Message::Claim { epoch }, out);
            }
            Ok(Way::Takeover) => {
                self.pending.promotion = Some(Promotion { id, claim: None });
                self.take_over(force, out);
            }
        }
    }

    /// Goes through the door to serve alone.
    pub(super) fn take_over(&mut self, forced: bool, out: &mut Vec<Effect>) {
        if self.session.is_some() {
            self.end_session("taking over", true, out);
            // Whatever the peer had begun here, nothing of it goes on.
            self.set_phase(Phase::Refused);
            self.forget_promises();
        }
        self.doubt_unstable();
        self.go_through(Purpose::Takeover { forced }, out);
    }

    /// Whoever wanted the promotion is told.
    fn promotion_ends(&mut self, id: Option<CommandId>, end: Result<&str, Refusal>, out: &mut Vec<Effect>) {
        match id {
            Some(id) => {
                let outcome = match end {
                    Ok(done) => CommandOutcome::Done(done.into()),
                    Err(refusal) => CommandOutcome::Refused(refusal),
                };
                out.push(Effect::CommandDone { id, outcome });
            }
            None => {
                let result = end.map(|_| ()).map_err(|refusal| refusal.reason);
                let promotes = |order| matches!(order, Order::Promote { .. });
                self.order_ended(promotes, result.as_ref().copied().map_err(String::as_str), out);
            }
        }
    }

    /// Why this node can't take over for the group, if it can't.
    pub(super) fn takeover_refusal(&self) -> Option<Refusal> {
        if self.pending.promotion.is_some() || self.door.is_opening() || self.is_changing() {
            return Some(Refusal::new("handshake", "A change of role is under way.", "Ask again in a moment."));
        }
        self.takeover_way(false).err()
    }

    /// Whether one is under way.
    pub(super) fn has_promotion(&self) -> bool {
        self.pending.promotion.is_some()
    }

    /// A promotion that was overtaken.
    pub(super) fn forget_promotion(&mut self) {
        self.pending.promotion = None;
    }

    /// How this node may become primary, or why not.
    fn promotion_way(&self, force: bool) -> Result<Way, Refusal> {
        let peer = self.peer_name().to_string();
        if self.pending.promotion.is_some() || self.door.is_opening() || self.is_changing() {
            return Err(Refusal::new("handshake", "A change of role is already under way.", "Ask again in a moment."));
        }
        if self.disk == DiskState::Diskless {
            let why = self.disk_reason.clone().unwrap_or_else(|| "none is attached".into());
            return Err(Refusal::new(
                "no-disk",
                format!("This node has no disk to serve from: {why}."),
                format!("Attach or replace the disk, or promote {peer}."),
            ));
        }
        let Some(session) = &self.session else { return self.takeover_way(force) };
        if self.peer().is_some_and(|peer| peer.role == Role::Primary) {
            return Err(Refusal::new(
                "peer-is-primary",
                format!("{peer} is primary and connected; two primaries would both write."),
                format!("Demote it first: twinblock demote, on {peer}."),
            ));
        }
        match &session.phase {
            Phase::Joined => Ok(Way::Claim),
            Phase::Source(source) if source.mirrors() => Ok(Way::Claim),
            Phase::Forwarding { .. } if self.disk == DiskState::UpToDate && self.holds_what_the_peer_held() => {
                Ok(Way::Claim)
            }
            Phase::Draining | Phase::Hello | Phase::Deciding | Phase::Source(_) => Err(Refusal::new(
                "handshake",
                format!("The handshake with {peer} is under way."),
                "Ask again in a moment.",
            )),
            _ if force => Ok(Way::Takeover),
            Phase::Forwarding { .. } => Err(Refusal::new(
                "newer-at-peer",
                format!(
                    "{peer} has no disk now, but the one it had holds newer writes than this node, or may hold them."
                ),
                format!(
                    "Attach the disk of {peer} again and let it resync, or force, which gives up what only that disk has."
                ),
            )),
            Phase::Target(target) => Err(Refusal::new(
                "resync-target",
                format!(
                    "This node is being brought in sync from {peer}: {} bytes are missing, its copy is a mixture of old and new.",
                    target.progress.left
                ),
                "Wait until it is done (status shows how far), or force, which serves the mixture and loses what is missing.",
            )),
            _ => Err(Refusal::new(
                "refused-session",
                format!(
                    "{peer} is connected but the two copies can't be brought together: {}.",
                    self.link_reason.as_deref().unwrap_or("see status")
                ),
                "Choose the good side with resync --source first, or force, which may set one side's writes against the other's.",
            )),
        }
    }

    /// Whether this disk holds every write that a peer without a disk has acknowledged.
    pub(super) fn holds_what_the_peer_held(&self) -> bool {
        let Some(theirs) = self.peer() else { return false };
        match self.superblock.lineage.relation(&theirs.lineage) {
            Relation::Equal => self.door.is_open() || self.continuity() == Continuity::SameProcess,
            Relation::OursNewerMarks | Relation::OursNewerHistory => true,
            // A daemon that started without a disk knows nothing of it.
            Relation::Unrelated => theirs.lineage.current == Generation::NONE && self.superblock.peer_outdated,
            Relation::TheirsNewerMarks | Relation::TheirsNewerHistory | Relation::Fork => false,
        }
    }

    fn takeover_way(&self, force: bool) -> Result<Way, Refusal> {
        let peer = self.peer_name().to_string();
        if force {
            return Ok(Way::Takeover);
        }
        if self.superblock.suspect || self.maps_unreadable {
            return Err(Refusal::new(
                "metadata-suspect",
                "The metadata of this disk was damaged, or made for another disk: what it holds can't be trusted to be the newest.",
                format!("Start {peer} and let it resync, or force."),
            ));
        }
        match self.disk {
            DiskState::UpToDate => {}
            DiskState::Inconsistent => {
                return Err(Refusal::new(
                    "inconsistent",
                    "This copy is an unfinished one, a mixture of old and new.",
                    format!("Start {peer} to finish the resync, or force, which serves the mixture."),
                ));
            }
            other => {
                return Err(Refusal::new(
                    "not-up-to-date",
                    format!("This disk is {other}."),
                    format!("Let it resync from {peer}, or force."),
                ));
            }
        }
        if self.superblock.peer_outdated || self.is_in_group() {
            // The group knows whether the peer is excluded, and is asked at the door.
            return Ok(Way::Takeover);
        }
        let behind = self.settings.mode == Mode::Async && !self.peer_left;
        if self.was_joined && self.peer_gone && self.continuity() == Continuity::SameProcess && !behind {
            return Ok(Way::Takeover);
        }
        Err(Refusal::new(
            "connecting",
            format!("{peer} can't be reached, and may be serving or hold newer writes: this node can't know."),
            format!("Start {peer}; or make sure that it is down and force, which gives up what only {peer} has."),
        ))
    }

    /// The peer wants to be primary.
    pub(super) fn claimed(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        let ours = self.pending.promotion.as_ref().is_some_and(|promotion| promotion.claim.is_some());
        let yields = !ours || self.settings.node.0 > 0;
        let quiet = !self.door.is_opening() && self.pending.stopping.is_none();
        let granted = self.role == Role::Secondary && yields && quiet && !self.is_promoting();
        if granted {
            self.superblock.seen_epoch = self.superblock.seen_epoch.max(epoch);
            self.verify_aborted(out);
        }
        self.send(Message::Claimed { epoch, granted }, out);
    }

    /// Whether a granted claim is being made durable.
    fn is_promoting(&self) -> bool {
        self.is_under_way(|op| matches!(op, Op::Superblock(After::Promoted)))
    }

    pub(super) fn claim_answered(&mut self, epoch: Epoch, granted: bool, out: &mut Vec<Effect>) {
        let claimed = self.pending.promotion.as_ref().and_then(|promotion| promotion.claim);
        if claimed != Some(epoch) {
            return;
        }
        if !granted {
            let reason = format!("{} did not agree: it is primary or becoming so", self.peer_name());
            self.promotion_failed(&reason, out);
            return;
        }
        self.become_primary(epoch, out);
    }

    /// The group's peer handed over and is gone: this node is primary, beside a peer that nobody has excluded yet.
    pub(super) fn promote_without_peer(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        self.pending.promotion = Some(Promotion { id: None, claim: Some(epoch) });
        self.become_primary(epoch.max(self.superblock.seen_epoch), out);
    }

    /// Makes it durable that this node is primary, with the peer's leave.
    fn become_primary(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        self.superblock.seen_epoch = self.superblock.seen_epoch.max(epoch);
        self.superblock.primary_epoch = epoch;
        self.role = Role::Primary;
        self.declare_cache_loss();
        if self.superblock.committed_bytes == 0 {
            self.commit_size(self.capacity_bytes);
        }
        self.persist(After::Promoted, out);
    }

    /// Primacy is durable.
    pub(super) fn promoted(&mut self, out: &mut Vec<Effect>) {
        if self.role != Role::Primary {
            // Overtaken by the group's order to be secondary.
            return;
        }
        let alone = self.pending.promotion.as_ref().is_some_and(|promotion| promotion.claim.is_none());
        let reason = match self.pending.promotion.as_ref().map(|promotion| promotion.id) {
            None | Some(None) => "by the group's order",
            Some(Some(_)) if alone => "took over by the operator's order",
            Some(Some(_)) => "by the operator's order",
        };
        self.note(Note::RoleChanged { role: Role::Primary, reason: reason.into() }, out);
        self.send(Message::RoleChanged { role: Role::Primary, epoch: self.superblock.seen_epoch }, out);
        let id = self.pending.promotion.take().and_then(|promotion| promotion.id);
        self.promotion_ends(id, Ok("primary"), out);
        self.begin_session_if_ready(out);
    }

    /// The promotion under way can't be carried out.
    pub(super) fn promotion_failed(&mut self, reason: &str, out: &mut Vec<Effect>) {
        if let Some(promotion) = self.pending.promotion.take() {
            let refusal =
                Refusal::new("handshake", format!("Not promoted: {reason}."), "Look at status and ask again.");
            self.promotion_ends(promotion.id, Err(refusal), out);
        }
    }

    /// The disk failed under the record that makes this node primary: nobody knows whether that reached it. Nothing was
    /// served from it, but when the disk is back, the generation that was begun may be there, too.
    pub(super) fn promotion_unknown(&mut self, out: &mut Vec<Effect>) {
        let Some(promotion) = self.pending.promotion.take() else { return };
        let peer = self.peer_name();
        let refusal = Refusal::new(
            "disk-failed",
            "Not promoted: the local disk failed while that was written, and it may have reached the disk all the same. \
             If so, this copy counts as the newer one when the disk is back.",
            format!(
                "Repair the disk and look at status. If {peer} is to go on instead, promote it before the disk is back."
            ),
        );
        self.promotion_ends(promotion.id, Err(refusal), out);
    }

    /// The session ended with a claim unanswered.
    pub(super) fn claims_ended(&mut self, out: &mut Vec<Effect>) {
        if self.pending.promotion.as_ref().is_some_and(|promotion| promotion.claim.is_some()) && !self.is_promoting() {
            self.promotion_failed("the link was lost before the peer answered", out);
        }
    }

    fn pause_wanted(&mut self, id: CommandId, paused: bool, out: &mut Vec<Effect>) {
        self.pause_resync(paused, out);
        if self.session.as_ref().is_some_and(|session| session.is_target()) {
            self.send(Message::PauseResync { paused }, out);
        }
        let word = if paused { "paused" } else { "resumed" };
        out.push(Effect::CommandDone { id, outcome: CommandOutcome::Done(format!("resync {word}")) });
    }

    fn resync_wanted(
        &mut self,
        full: bool,
        compare: bool,
        discard_ours: Option<bool>,
        out: &mut Vec<Effect>,
    ) -> CommandOutcome {
        if self.disk == DiskState::Diskless {
            return CommandOutcome::Refused(Refusal::new("no-disk", "This node has no disk.", "Attach one first."));
        }
        let both_new = self.disk == DiskState::New && self.peer().is_some_and(|peer| peer.disk == DiskState::New);
        match discard_ours {
            Some(chosen) if both_new => return self.choose_first(!chosen, full, out),
            Some(true) => return self.discard_ours(full, true, out),
            Some(false) => return self.discard_theirs(full, out),
            None => {}
        }
        let Some(session) = &self.session else {
            return CommandOutcome::Refused(Refusal::new(
                "connecting",
                format!("{} is not connected.", self.peer_name()),
                "The resync starts by itself when it is back.",
            ));
        };
        if full || compare {
            self.superblock.requested = Some(if full { ResyncKind::Full } else { ResyncKind::Compare });
            self.persist(After::Wish, out);
            return CommandOutcome::Done("the resync begins".into());
        }
        match &session.phase {
            Phase::Joined if self.marks.is_empty() => CommandOutcome::Done("already in sync".into()),
            Phase::Joined => {
                self.reconnect("a resync of what a verify found", out);
                CommandOutcome::Done("the resync begins".into())
            }
            Phase::Refused => CommandOutcome::Refused(Refusal::new(
                "refused-session",
                self.link_reason.clone().unwrap_or_else(|| "The handshake was refused.".into()),
                "Choose the good side: resync --source NODE.",
            )),
            _ => CommandOutcome::Done("a resync is under way already".into()),
        }
    }

    /// Both disks are new: what the chosen one holds, whatever it is, becomes the volume's data. It descends from the empty
    /// disk, as an adopted one does, so that a disk put in later is behind it and no stranger to it.
    fn choose_first(&mut self, ours: bool, full: bool, out: &mut Vec<Effect>) -> CommandOutcome {
        if !ours {
            let peer = self.peer_name();
            let reason = format!("Both disks are new, and only {peer} can say that its own holds the volume's data.");
            return CommandOutcome::Refused(Refusal::new(
                "both-new",
                reason,
                format!("Give the same command on {peer}."),
            ));
        }
        self.superblock.seen_epoch = self.superblock.seen_epoch.max(Epoch(1));
        let current = self.fresh_generation(self.superblock.seen_epoch);
        self.superblock.lineage = Lineage { history: vec![Generation::ZEROED], ..Lineage::starting_at(current) };
        self.cover = vec![current];
        self.disk = DiskState::UpToDate;
        self.superblock.discard = false;
        self.superblock.requested = full.then_some(ResyncKind::Full);
        self.persist(After::Wish, out);
        CommandOutcome::Done(format!(
            "this disk holds the volume's data from here on; it is copied to {}",
            self.peer_name()
        ))
    }

    /// The operator gives up this node's data.
    fn discard_ours(&mut self, full: bool, archive: bool, out: &mut Vec<Effect>) -> CommandOutcome {
        if self.role == Role::Primary {
            return CommandOutcome::Refused(Refusal::new(
                "primary",
                "This node is primary: its data can't be given up while it serves.",
                "Demote it first.",
            ));
        }
        self.archive_again(archive);
        self.superblock.discard = true;
        self.superblock.requested = full.then_some(ResyncKind::Full);
        self.persist(After::Wish, out);
        CommandOutcome::Done("this node's data is given up; the resync begins when both are connected".into())
    }

    /// The operator gives up the peer's data.
    fn discard_theirs(&mut self, full: bool, out: &mut Vec<Effect>) -> CommandOutcome {
        if self.peer().is_none() {
            return CommandOutcome::Refused(Refusal::new(
                "connecting",
                format!("{} is not connected and can't be told.", self.peer_name()),
                format!("Give the same command on {}.", self.peer_name()),
            ));
        }
        if self.peer().is_some_and(|peer| peer.role == Role::Primary) {
            return CommandOutcome::Refused(Refusal::new(
                "peer-is-primary",
                format!("{} is primary: its data can't be given up while it serves.", self.peer_name()),
                "Demote it first.",
            ));
        }
        self.send(Message::DiscardYours { full }, out);
        CommandOutcome::Done(format!("{} gives up its data; the resync begins", self.peer_name()))
    }

    /// The peer's operator gave up this node's data.
    pub(super) fn peer_wants_discard(&mut self, full: bool, out: &mut Vec<Effect>) {
        if self.disk != DiskState::Diskless {
            let _ = self.discard_ours(full, true, out);
        }
    }

    /// What follows a superblock that the lost disk can't take: what only needed to be tried, goes on.
    pub(super) fn after_lost_disk(&mut self, after: After, out: &mut Vec<Effect>) {
        match after {
            After::Demoted => self.demoted(out),
            After::SteppedDown => self.stepped_down(out),
            After::Stopped => self.stopped(out),
            After::Promoted => self.stop_serving("the local disk failed while this node became primary", out),
            _ => {}
        }
    }
}

/// How a node becomes primary.
enum Way {
    /// The peer grants it.
    Claim,
    /// Through the door.
    Takeover,
}
