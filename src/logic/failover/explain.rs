//! What would happen if this server, the peer, a path, the link, the disk or the arbiter died now?
//!
//! There is no second set of rules: a copy of the core, with its live state, is let run against an obliging world, in which
//! everything that did not die answers at once and well. The notes it makes on the way are the answer.

use super::core::Failover;
use super::detector::{Detector, Level};
use super::interface::{ArbiterCall, Effect, Identity, Input, MirrorFacts, MirrorOrder, Note};
use super::state::Phase;
use crate::base::arbiter::{ArbiterError, ArbiterErrorKind, CasOutcome, ReadOutcome, Record, Revision, Versioned};
use crate::base::group::{GroupRole, Memory};
use crate::base::heartbeat::{Answer, Heard, Heartbeat, Promise};
use crate::base::ids::{Incarnation, NodeId};
use crate::base::limits::{EXPLAIN_INPUTS_MAX, EXPLAIN_NOTES_MAX, EXPLAIN_TIME};
use crate::base::state::{DiskState, Role};
use crate::base::time::Moment;
use crate::wire::message::Continuity;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// This server, without a word.
    ThisServer,
    /// The other one.
    Peer,
    /// One heartbeat path.
    Path(usize),
    /// The replication link.
    Link,
    /// Every path and the link.
    Network,
    /// The disk of this server.
    Disk,
    /// The arbiter.
    Arbiter,
    /// A resource, for good.
    Resource(usize),
}

/// What would happen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// If this died.
    pub loss: Loss,
    /// Who would serve in the end; `None`: nobody.
    pub serves: Option<NodeId>,
    /// How long until then nothing, or not everything, would be served.
    pub interrupted: Duration,
    /// Why nobody would, or what would be wrong all the same.
    pub why: Option<String>,
    /// What would be told on the way, and when.
    pub timeline: Vec<(Duration, Note)>,
    /// What was taken for granted.
    pub assumed: &'static str,
}

const ASSUMED: &str =
    "everything that did not die answers at once: disks, resources, the fencing agent, the ping targets";
/// How long an obliging world takes for anything.
const ANSWER_TIME: Duration = Duration::from_millis(5);

impl Failover {
    /// What would happen if this died now.
    pub fn explain(&self, loss: Loss) -> Explanation {
        let (core, seen) = match loss {
            Loss::ThisServer => match self.peers_core() {
                Some(core) => (core, Loss::Peer),
                None => return self.unheard(loss),
            },
            _ => (self.clone(), loss),
        };
        let mut rehearsal = Rehearsal::new(core, seen);
        rehearsal.run();
        rehearsal.explanation(loss)
    }

    fn unheard(&self, loss: Loss) -> Explanation {
        Explanation {
            loss,
            serves: None,
            interrupted: Duration::ZERO,
            why: Some("the other server is not heard: what it would do is not known".into()),
            timeline: Vec::new(),
            assumed: ASSUMED,
        }
    }

    /// The peer's core as its heartbeats show it.
    fn peers_core(&self) -> Option<Failover> {
        let peer = self.peer.filter(|_| self.hears_peer())?;
        let mut settings = self.settings.clone();
        settings.node = settings.node.peer();
        let facts = MirrorFacts {
            role: peer.volume.role,
            mixed: false,
            disk: peer.volume.disk,
            connected: self.mirror.connected,
            session_with: Some(self.identity.incarnation),
            in_sync: peer.volume.in_sync,
            lossy: self.mirror.lossy,
            source: false,
            wants_solo: false,
            peer_slow: false,
            wants_qualify: false,
            wants_peer_only: false,
            peer_outdated: false,
            memory: if peer.volume.in_sync { Continuity::SameProcess } else { Continuity::SameBoot },
            suspect: !peer.volume.fit && peer.volume.disk == DiskState::UpToDate,
            split: self.mirror.split,
            generation: peer.volume.generation,
            seen_epoch: peer.epoch,
            cache_epoch: self.mirror.cache_epoch,
        };
        let memory = Memory { wish: self.memory.wish, deactivated: peer.deactivated, ..Memory::default() };
        let identity = Identity { incarnation: peer.incarnation, boot: peer.boot, seed: self.random };
        let began = Moment(self.now.0.saturating_sub(settings.dead_after.as_nanos() as u64));
        let mut core = Failover::new(settings, identity, memory, facts, began);
        core.now = self.now;
        core.cleaning = false;
        core.plan.forget();
        core.register = self.register.clone();
        core.register.belongs_to(core.settings.node);
        core.state.epoch = peer.epoch;
        core.state.phase = if peer.role == GroupRole::Owner { Phase::Owner } else { Phase::Standby };
        let mut mirrored = core.next_words(self);
        mirrored.sequence = 1;
        core.detector = Detector::new(&core.settings, self.now);
        core.detector.heard(self.now, 0, &mirrored);
        core.peer = Some(mirrored);
        core.promises.give(self.now, &mirrored, core.settings.dead_after);
        Some(core)
    }

    /// What the owner of `other` would say to this core.
    fn next_words(&self, other: &Failover) -> Heartbeat {
        other.clone().next_heartbeat()
    }
}

/// A core and an obliging world.
struct Rehearsal {
    core: Failover,
    loss: Loss,
    began: Moment,
    queue: BTreeMap<(Moment, u64), Input>,
    order: u64,
    facts: MirrorFacts,
    standing: Option<Versioned>,
    arbiter: bool,
    peer: Option<Heartbeat>,
    timeline: Vec<(Duration, Note)>,
    /// So much happened that it does not come to an end.
    restless: bool,
    /// When the last thing happened that gave or took service.
    last_change: Moment,
}

/// The record as it stands, as far as both nodes know: the owner's word is newer than a standby's last look.
fn standing(core: &Failover) -> Option<Versioned> {
    let known = core.register.standing();
    let owner = core.peer.filter(|peer| peer.role == GroupRole::Owner && !peer.insync.is_empty() && core.hears_peer());
    let Some(owner) = owner else { return known };
    let record = Record {
        epoch: owner.epoch,
        primary: owner.node,
        insync: owner.insync,
        gen_hint: owner.volume.generation,
        cache_epoch: core.mirror.cache_epoch,
        nonce: 0,
    };
    let revision = Revision(known.map_or(0, |known| known.revision.0) + 1);
    known
        .filter(|known| known.record.epoch >= owner.epoch && known.record.insync == owner.insync)
        .or(Some(Versioned { record, revision }))
}

impl Rehearsal {
    fn new(core: Failover, loss: Loss) -> Rehearsal {
        let mut rehearsal = Rehearsal {
            began: core.now,
            facts: core.mirror,
            standing: standing(&core),
            arbiter: loss != Loss::Arbiter && core.register.trouble().is_none(),
            peer: core.peer.filter(|_| core.hears_peer() && !matches!(loss, Loss::Peer | Loss::Network)),
            queue: BTreeMap::new(),
            order: 0,
            timeline: Vec::new(),
            restless: false,
            last_change: core.now,
            core,
            loss,
        };
        rehearsal.begin();
        rehearsal
    }

    /// The loss itself.
    fn begin(&mut self) {
        let settings = &self.core.settings;
        let noticed = if self.loss == Loss::Link { ANSWER_TIME } else { settings.suspect_after };
        if matches!(self.loss, Loss::Peer | Loss::Network | Loss::Link) {
            // Clients write: an owner has writes that wait for the peer as soon as the link is found broken.
            let waits = self.facts.role == Role::Primary && self.facts.connected;
            let broken = MirrorFacts {
                connected: false,
                session_with: None,
                in_sync: false,
                wants_solo: waits,
                wants_qualify: false,
                source: false,
                ..self.facts
            };
            self.facts = broken;
            self.later(noticed, Input::Mirror(broken));
        }
        match self.loss {
            Loss::Disk => {
                self.facts.disk = DiskState::Diskless;
                self.facts.wants_peer_only = self.facts.role == Role::Primary && self.facts.connected;
                self.facts.in_sync = false;
                self.later(Duration::ZERO, Input::Mirror(self.facts));
            }
            Loss::Resource(index) => {
                let trouble = Some("it died, in this rehearsal".into());
                self.later(Duration::ZERO, Input::Resource { index, trouble });
            }
            _ => {}
        }
        self.later(Duration::ZERO, Input::Tick);
    }

    fn later(&mut self, span: Duration, input: Input) {
        self.order += 1;
        self.queue.insert((self.core.now + span, self.order), input);
    }

    fn run(&mut self) {
        let end = self.began + EXPLAIN_TIME;
        for _ in 0..EXPLAIN_INPUTS_MAX {
            if self.timeline.len() >= EXPLAIN_NOTES_MAX {
                self.restless = true;
                return;
            }
            let planned = self.queue.first_key_value().map(|((at, _), _)| *at);
            let deadline = self.core.next_deadline();
            let Some(at) = [planned, deadline].into_iter().flatten().min().filter(|at| *at <= end) else { return };
            let due = planned.is_some_and(|planned| planned <= at);
            let input = if due { self.queue.pop_first().map(|(_, input)| input) } else { None };
            let mut out = Vec::new();
            let at = at.max(self.core.now);
            self.core.handle(at, input.unwrap_or(Input::Tick), &mut out);
            self.core.settle(at, &mut out);
            for effect in out {
                self.oblige(effect);
            }
        }
    }

    /// Carries out what is wanted, well and soon.
    fn oblige(&mut self, effect: Effect) {
        match effect {
            Effect::Heartbeat { path, heartbeat } => {
                if self.facts.connected && self.peer.is_some() {
                    self.later(Duration::from_millis(1), Input::LinkHeard);
                }
                self.echo(path, &heartbeat);
            }
            Effect::Mirror { id, order } => {
                self.obey(order);
                self.later(ANSWER_TIME, Input::Mirror(self.facts));
                self.later(ANSWER_TIME, Input::MirrorDone { id, result: Ok(()) });
            }
            Effect::Arbiter { id, call } => {
                let answer = self.arbitrate(id, call);
                self.later(ANSWER_TIME, answer);
            }
            Effect::Fence { id } => self.later(Duration::from_secs(1), Input::Fenced { id, result: Ok(()) }),
            Effect::Probe { id } => {
                let peer_answers = self.peer.is_some();
                self.later(ANSWER_TIME, Input::Probed { id, targets_answer: true, peer_answers });
            }
            Effect::Step { id, .. } => self.later(ANSWER_TIME, Input::StepDone { id, result: Ok(()) }),
            Effect::Note(note) => {
                let changes = matches!(note, Note::Held { .. } | Note::Alone { .. } | Note::Ended { .. });
                if changes {
                    self.last_change = self.core.now;
                }
                self.timeline.push((self.core.now.since(self.began), note));
            }
            Effect::Gate(_)
            | Effect::Remember(_)
            | Effect::CommandDone { .. }
            | Effect::Abort { .. }
            | Effect::Stopped => {}
        }
    }

    fn obey(&mut self, order: MirrorOrder) {
        match order {
            MirrorOrder::OpenSolo { .. } => {
                self.facts.peer_outdated = true;
                self.facts.wants_solo = false;
            }
            MirrorOrder::Promote { .. } => self.facts.role = Role::Primary,
            MirrorOrder::Quiesce | MirrorOrder::Demote => {
                self.facts.role = Role::Secondary;
                self.facts.wants_solo = false;
            }
            MirrorOrder::Outdate => self.facts.disk = DiskState::Outdated,
            MirrorOrder::Qualify => self.facts.wants_qualify = false,
            MirrorOrder::AllowPeerOnly => self.facts.wants_peer_only = false,
            MirrorOrder::PrepareSolo | MirrorOrder::PrepareTakeover => {
                // The session ends; that a new one is begun is not rehearsed.
                (self.facts.connected, self.facts.in_sync, self.facts.session_with) = (false, false, None);
            }
            MirrorOrder::CloseDoor => {}
        }
    }

    fn arbitrate(&mut self, id: u64, call: ArbiterCall) -> Input {
        let error = || ArbiterError::new(ArbiterErrorKind::Unreachable, "it died, in this rehearsal");
        match call {
            ArbiterCall::Read if !self.arbiter => Input::ArbiterRead { id, outcome: ReadOutcome::Failed(error()) },
            ArbiterCall::Cas { .. } if !self.arbiter => Input::ArbiterCas { id, outcome: CasOutcome::Refused(error()) },
            ArbiterCall::Read => {
                let outcome = self.standing.map_or(ReadOutcome::Absent, ReadOutcome::Found);
                Input::ArbiterRead { id, outcome }
            }
            ArbiterCall::Cas { expected, .. } if expected != self.standing => {
                Input::ArbiterCas { id, outcome: CasOutcome::Lost(self.standing) }
            }
            ArbiterCall::Cas { new, .. } => {
                let revision = Revision(self.standing.map_or(0, |standing| standing.revision.0) + 1);
                self.standing = Some(Versioned { record: new, revision });
                Input::ArbiterCas { id, outcome: CasOutcome::Won(revision) }
            }
        }
    }

    /// A peer that lives answers each heartbeat on its path: as standby it promises and agrees.
    fn echo(&mut self, path: usize, said: &Heartbeat) {
        let cut = self.loss == Loss::Path(path);
        let Some(peer) = self.peer.as_mut().filter(|_| !cut) else { return };
        peer.sequence += 1;
        peer.heard[path] = Some(Heard { sequence: said.sequence, age: Duration::ZERO });
        peer.epoch = peer.epoch.max(said.epoch);
        let stands_by = peer.role == GroupRole::Standby;
        let span = self.core.settings.dead_after;
        let (to, epoch, sent): (Incarnation, _, _) = (said.incarnation, said.epoch, said.sent);
        peer.promise = (stands_by && said.wants_promise).then_some(Promise { to, epoch, sent, span });
        let agrees = |id| Answer { id, agreed: stands_by, epoch };
        peer.answer = said.ask.map(|ask| agrees(ask.id));
        if said.ask.is_some_and(|ask| matches!(ask.what, crate::base::heartbeat::Question::Handover { .. })) {
            peer.role = GroupRole::Owner;
        }
        let heartbeat = Box::new(*peer);
        self.later(Duration::from_millis(1), Input::Heartbeat { path, heartbeat });
    }

    fn explanation(self, loss: Loss) -> Explanation {
        let core = &self.core;
        let here = core.state.owns() && core.gate.allows(core.now) && core.state.door.is_none();
        let there =
            self.peer.is_some_and(|peer| peer.role == GroupRole::Owner) && core.detector.level() == Level::Alive;
        let serves = match (here, there) {
            (true, _) => Some(core.settings.node),
            (false, true) => Some(core.settings.node.peer()),
            (false, false) => None,
        };
        let (_, reason) = core.node_state();
        let block = core.takeover_block().filter(|_| !core.state.owns());
        let why = match (serves, core.state.failed) {
            _ if self.restless => Some("the two do not come to rest: see how it would come about".to_string()),
            (_, Some(reason)) => Some(reason.word().to_string()),
            (Some(_), None) => None,
            (None, None) => Some(block.map_or_else(|| reason.word().to_string(), str::to_string)),
        };
        let interrupted = self.last_change.since(self.began);
        Explanation { loss, serves, interrupted, why, timeline: self.timeline, assumed: ASSUMED }
    }
}
