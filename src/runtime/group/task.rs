//! One group's task: inputs in, one decision of the core, effects out.

use super::hands::Hands;
use super::report::{self, Known};
use super::thread::GroupChange;
use super::watch::Found;
use super::{explained, notes, remembered};
use crate::base::command::{CommandOutcome, Refusal};
use crate::base::group::Memory;
use crate::base::heartbeat::Heartbeat;
use crate::base::ids::CommandId;
use crate::base::time::Moment;
use crate::base::time::utc;
use crate::io::clock::{calendar, now};
use crate::logic::failover::Failover;
use crate::logic::failover::detector::Level;
use crate::logic::failover::interface::{Effect, Gate, Identity, Input, MirrorFacts, Note, Settings, Verb};
use crate::logic::mirror::interface::{Facts, Order};
use crate::logic::volumes::{Volume, Volumes};
use crate::runtime::control::group::{ChangeEvidence, GroupExplanation, GroupReport};
use crate::runtime::events::{Events, New, Severity, kind};
use crate::runtime::fencing::Fencing;
use crate::runtime::heartbeat::Heartbeats;
use crate::runtime::resource::{Happened, What};
use crate::runtime::shard::ShardHandle;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// A call into a group's task.
pub(super) enum Call {
    /// The peer was heard on a path.
    Heard { path: usize, heartbeat: Box<Heartbeat> },
    /// The peer's host lives, its daemon doesn't.
    PeerRefused,
    /// What is known of a volume has changed.
    Facts { volume: String, facts: Facts },
    /// A volume has carried out an order.
    OrderDone { volume: String, id: u64, result: Result<(), String> },
    /// An operator's command.
    Command { verb: Verb, answer: oneshot::Sender<CommandOutcome> },
    /// Files of a resource came from the other server.
    Files { resource: String, bundle: Vec<u8>, answer: oneshot::Sender<Result<(), String>> },
    /// Other settings.
    Reconfigure(Box<GroupChange>),
    /// Everything that is shown.
    Status(oneshot::Sender<GroupReport>),
    /// What would happen if something died.
    Explain(oneshot::Sender<GroupExplanation>),
    /// The daemon stops.
    Stop(oneshot::Sender<()>),
}

/// A volume's shard, as the group uses it.
#[derive(Debug)]
pub(super) struct ShardVolume {
    /// Its name.
    pub name: String,
    /// Its shard.
    pub shard: ShardHandle,
}

impl Volume for ShardVolume {
    fn name(&self) -> &str {
        &self.name
    }

    fn order(&self, id: u64, order: Order) {
        self.shard.order(id, order);
    }
}

/// Where things come in from.
pub(super) struct Sources {
    /// From the rest of the daemon.
    pub calls: mpsc::UnboundedReceiver<Call>,
    /// From what was begun for the core.
    pub answers: mpsc::UnboundedReceiver<Input>,
    /// From monitors.
    pub found: mpsc::UnboundedReceiver<Found>,
    /// From resources, by themselves.
    pub happened: mpsc::UnboundedReceiver<Happened>,
}

/// One group on this node.
struct Task {
    core: Failover,
    /// The last change of role.
    last_change: Option<ChangeEvidence>,
    own: Parts,
}

/// Everything of a group but its core, which begins when every volume has told what it is.
pub(super) struct Parts {
    /// Its name.
    pub name: String,
    /// Its number in the heartbeats.
    pub index: usize,
    /// What its core goes by.
    pub settings: Settings,
    /// Who this process is.
    pub identity: Identity,
    /// What an earlier life of the daemon knew.
    pub memory: Memory,
    /// Its volumes.
    pub volumes: Volumes<ShardVolume>,
    /// What is done for the core.
    pub hands: Hands,
    /// Sends its heartbeats.
    pub heartbeats: Rc<Heartbeats>,
    /// Keeps what happened.
    pub events: Events,
    /// What must outlast a restart.
    pub memory_file: PathBuf,
    /// When the link was last known to carry something.
    pub link_heard: Moment,
    /// Commands the core has not answered.
    pub commands: HashMap<CommandId, oneshot::Sender<CommandOutcome>>,
    /// The last command's number.
    pub next_command: u64,
    /// Who waits for the end.
    pub stopping: Vec<oneshot::Sender<()>>,
}

/// Runs a group until its core says that it has stopped.
pub(super) async fn run(mut own: Parts, mut sources: Sources) {
    let Some((facts, early)) = first_facts(&mut own.volumes, &mut sources.calls).await else { return };
    own.hands.end_left_behind();
    own.hands.shut_doors().await;
    let core = Failover::new(own.settings.clone(), own.identity, own.memory, facts, now());
    Task { core, last_change: None, own }.run(early, sources).await;
}

/// What the volumes are, as soon as all have told; and what else was asked meanwhile. `None` when the daemon has ended.
async fn first_facts(
    volumes: &mut Volumes<ShardVolume>,
    calls: &mut mpsc::UnboundedReceiver<Call>,
) -> Option<(MirrorFacts, Vec<Call>)> {
    let mut early = Vec::new();
    loop {
        match calls.recv().await? {
            Call::Facts { volume, facts } => {
                if let Some(all) = volumes.learn(&volume, facts) {
                    return Some((all, early));
                }
            }
            other => early.push(other),
        }
    }
}

impl Task {
    async fn run(mut self, early: Vec<Call>, mut sources: Sources) {
        let mut inputs = Vec::new();
        let mut effects = Vec::new();
        early.into_iter().for_each(|call| self.take(call, &mut inputs));
        loop {
            self.wait(&mut sources, &mut inputs).await;
            self.look_at_volumes(&mut inputs);
            let at = now();
            for input in inputs.drain(..) {
                self.core.handle(at, input, &mut effects);
            }
            self.core.settle(at, &mut effects);
            let mut over = false;
            for effect in effects.drain(..) {
                over |= self.carry_out(effect);
            }
            self.own.hands.watch_all();
            if over {
                self.own.stopping.drain(..).for_each(|waiting| waiting.send(()).unwrap_or(()));
                return;
            }
        }
    }

    /// Waits for something to happen, and takes everything that has.
    async fn wait(&mut self, sources: &mut Sources, inputs: &mut Vec<Input>) {
        let deadline = self.core.next_deadline().map(|deadline| Instant::now() + deadline.since(now()));
        let timer = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(call) = sources.calls.recv() => self.take(call, inputs),
            Some(answer) = sources.answers.recv() => inputs.push(answer),
            Some(found) = sources.found.recv() => self.found(found, inputs),
            Some(happened) = sources.happened.recv() => self.happened(happened, inputs),
            () = timer => inputs.push(Input::Tick),
        }
        while let Ok(call) = sources.calls.try_recv() {
            self.take(call, inputs);
        }
        while let Ok(answer) = sources.answers.try_recv() {
            inputs.push(answer);
        }
    }

    /// What the shards show without being asked: that they turn, and that the link carries something.
    fn look_at_volumes(&mut self, inputs: &mut Vec<Input>) {
        let signs = self.own.volumes.iter().map(|volume| volume.shard.signs());
        let (mut turned, mut heard) = (Moment(u64::MAX), Moment(0));
        for (turn, link) in signs {
            turned = turned.min(turn);
            heard = heard.max(link);
        }
        inputs.push(Input::TurnAge(now().since(turned)));
        if heard > self.own.link_heard {
            self.own.link_heard = heard;
            inputs.push(Input::LinkHeard);
        }
    }

    fn take(&mut self, call: Call, inputs: &mut Vec<Input>) {
        match call {
            Call::Heard { path, heartbeat } => {
                if let Some(asked) = &self.own.hands.arbiter {
                    asked.hear_peer();
                }
                inputs.push(Input::Heartbeat { path, heartbeat });
            }
            Call::PeerRefused => inputs.push(Input::PeerRefused),
            Call::Facts { volume, facts } => inputs.extend(self.own.volumes.learn(&volume, facts).map(Input::Mirror)),
            Call::OrderDone { volume, id, result } => {
                let done = self.own.volumes.order_done(&volume, id, result);
                inputs.extend(done.map(|result| Input::MirrorDone { id, result }));
            }
            Call::Command { verb, answer } => {
                if let (Verb::Recover, Some(asked)) = (verb, &self.own.hands.arbiter) {
                    // An operator has looked: a store that was restored or replaced is taken as it is.
                    asked.arbiter.accept_store();
                }
                self.own.next_command += 1;
                let id = CommandId(self.own.next_command);
                self.own.commands.insert(id, answer);
                inputs.push(Input::Command { id, verb });
            }
            Call::Files { resource, bundle, answer } => self.own.hands.files(&resource, bundle, answer),
            Call::Reconfigure(change) => self.reconfigure(*change),
            Call::Status(answer) => self.status(answer),
            Call::Explain(answer) => {
                let core = self.core.clone();
                tokio::task::spawn_blocking(move || answer.send(explained::explain(&core)).unwrap_or(()));
            }
            Call::Stop(waiting) => {
                self.own.stopping.push(waiting);
                inputs.push(Input::Stop);
            }
        }
    }

    fn reconfigure(&mut self, change: GroupChange) {
        let hands = &mut self.own.hands;
        if let (Some(asked), Some(timeout)) = (&hands.arbiter, change.arbiter_timeout) {
            asked.set_timeout(timeout);
        }
        if let (Some(fence), Some((spec, names, times))) = (&hands.fencing, change.fencing) {
            match Fencing::new(spec, names, times) {
                Ok(fencing) => fence.replace(fencing),
                Err(reason) => tracing::error!(group = self.own.name, "fencing stays as it was: {reason}"),
            }
        }
        hands.probe = change.probe;
        hands.reconfigure(change.resources);
        self.core.reconfigure(change.settings);
    }

    /// A look at a resource has found something.
    fn found(&mut self, found: Found, inputs: &mut Vec<Input>) {
        let hands = &self.own.hands;
        if !hands.is_current(&found) {
            return;
        }
        let name = hands.slots[found.index].resource.name().to_string();
        let mut book = hands.book.borrow_mut();
        match found.stopped {
            true => book.checked(found.index, found.trouble.as_ref()),
            false => book.found(found.index, found.trouble.as_ref(), calendar()),
        }
        drop(book);
        let (kind, severity, words) = match &found.trouble {
            Some(trouble) if found.stopped => {
                let words = format!("{name} could not be started on this server: {}; {}", trouble.reason, trouble.next);
                (kind::RESOURCE_FAILED, Severity::Error, words)
            }
            Some(trouble) => (kind::RESOURCE_FAILED, Severity::Error, trouble.to_string()),
            None => (kind::RESOURCE_WELL, Severity::Info, format!("{name}: it is well again")),
        };
        match found.trouble {
            Some(_) => tracing::error!(group = self.own.name, "{words}"),
            None => tracing::info!(group = self.own.name, "{words}"),
        }
        self.tell(&name, kind, severity, &words);
        inputs.push(found.into());
    }

    fn happened(&self, happened: Happened, inputs: &mut Vec<Input>) {
        let Happened { resource, what } = happened;
        let index = self.own.hands.slots.iter().position(|slot| slot.resource.name() == resource);
        match (what, index) {
            (What::Repaired(words), index) => {
                tracing::warn!(group = self.own.name, "{resource}: {words}");
                self.tell(&resource, kind::RESOURCE_REPAIRED, Severity::Warning, &words);
                if let Some(index) = index {
                    self.own.hands.book.borrow_mut().repaired(index, words);
                }
            }
            (What::Alarm(words), _) => {
                tracing::error!(group = self.own.name, "{resource}: {words}");
                self.tell(&resource, kind::RESOURCE_ALARM, Severity::Error, &words);
            }
            (What::Failed(trouble) | What::StopServing(trouble), Some(index)) => {
                self.tell(&resource, kind::RESOURCE_FAILED, Severity::Error, &trouble.to_string());
                self.own.hands.book.borrow_mut().found(index, Some(&trouble), calendar());
                inputs.push(Input::Resource { index, trouble: Some(trouble.to_string()) });
            }
            (What::Failed(_) | What::StopServing(_), None) => unreachable!("only our resources tell"),
        }
    }

    /// Carries out one effect. True when the core has stopped.
    fn carry_out(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Heartbeat { path, heartbeat } => self.own.heartbeats.send(path, self.own.index, &heartbeat),
            Effect::Gate(gate) => {
                let until = match gate {
                    Gate::Closed => Some(Moment(0)),
                    Gate::Until(end) => Some(end),
                    Gate::Open => None,
                };
                self.own.volumes.iter().for_each(|volume| volume.shard.permit(until));
                self.own.hands.gate(gate);
            }
            Effect::Mirror { id, order } => {
                self.own.hands.doors.ordered(order);
                if let Some(result) = self.own.volumes.order(id, order) {
                    let _ = self.own.hands.answers.send(Input::MirrorDone { id, result });
                }
            }
            Effect::Arbiter { id, call } => self.own.hands.arbiter(id, call),
            Effect::Fence { id } => self.own.hands.fence(id),
            Effect::Probe { id } => self.own.hands.probe(id),
            Effect::Step { id, index, verb, deadline, reason } => {
                self.own.hands.step(id, index, verb, deadline, reason)
            }
            Effect::Remember(memory) => {
                if let Err(error) = remembered::save(&self.own.memory_file, &memory) {
                    let file = self.own.memory_file.display();
                    tracing::error!(
                        group = self.own.name,
                        "{file} can't be written: {error}; a restart will not know it"
                    );
                }
            }
            Effect::CommandDone { id, outcome } => {
                if let Some(answer) = self.own.commands.remove(&id) {
                    answer.send(outcome).unwrap_or(());
                }
            }
            Effect::Abort { reason } => {
                tracing::error!(
                    group = self.own.name,
                    "this process ends at once, so that the peer can take over: {reason}"
                );
                std::process::abort();
            }
            Effect::Stopped => return true,
            Effect::Note(note) => {
                let settings = self.core.settings();
                notes::log(&self.own.name, settings, &note);
                let rule = self.last_change.as_ref().map(|change| change.rule.as_str());
                self.own.events.record(notes::event(settings, &note, rule));
                self.note_change(&note);
            }
        }
        false
    }

    /// Records what happened to a resource.
    fn tell(&self, resource: &str, kind: &str, severity: Severity, words: &str) {
        // Most troubles begin with the resource's name.
        let words = if words.starts_with(resource) { words.to_string() } else { format!("{resource}: {words}") };
        let (group, detail) = (Some(self.own.name.clone()), serde_json::json!({ "resource": resource }));
        self.own.events.record(New { group, kind: kind.into(), severity, words, detail });
    }

    fn note_change(&mut self, note: &Note) {
        match note {
            Note::Peer { level: Level::Alive, .. } | Note::Paired => {
                self.own.hands.slots.iter().for_each(|slot| slot.resource.announce());
            }
            Note::Began { change, reason, rule } => {
                self.last_change = Some(ChangeEvidence {
                    change: report::word(change),
                    reason: report::word(reason),
                    rule: rule.to_string(),
                    began: utc(calendar()),
                    done: None,
                });
            }
            Note::Ended { done, .. } => {
                if let Some(last) = &mut self.last_change {
                    last.done = Some(*done);
                }
            }
            _ => {}
        }
    }

    /// Puts everything together that is shown. What takes time is done beside the task.
    fn status(&self, answer: oneshot::Sender<GroupReport>) {
        let hands = &self.own.hands;
        let mut report = report::report(Known {
            view: &self.core.view(),
            settings: self.core.settings(),
            hands,
            paths: self.own.heartbeats.report(),
            last_change: self.last_change.clone(),
        });
        let resources = report::looked_at(&hands.slots);
        tokio::task::spawn_local(async move {
            report::look(&mut report, resources).await;
            answer.send(report).unwrap_or(());
        });
    }
}

impl From<Found> for Input {
    fn from(found: Found) -> Input {
        Input::Resource { index: found.index, trouble: found.trouble.map(|trouble| trouble.to_string()) }
    }
}

/// What is answered when the group's task has ended.
pub(super) fn ended() -> CommandOutcome {
    CommandOutcome::Refused(Refusal::new(
        "stopping",
        "The group has stopped with its daemon, so the command was not carried out.",
        "Start the daemon again and repeat it.",
    ))
}
