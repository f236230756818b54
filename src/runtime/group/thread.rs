//! The thread of the groups, and the face of it towards the rest of the daemon.

use super::alarms::{tell_of_device, watch_refused};
use super::asked::{Asked, Fence};
use super::book::Book;
use super::doors::Doors;
use super::hands::{Hands, Slot};
use super::make::{Maker, Outgoing, Way};
use super::probe::ProbeSpec;
use super::remembered;
use super::task::{self, Call, Parts, ShardVolume, Sources, ended};
use crate::base::arbiter::{ArbiterError, ArbiterErrorKind};
use crate::base::command::CommandOutcome;
use crate::base::ids::NodeId;
use crate::base::time::Moment;
use crate::io::clock::calendar;
use crate::logic::failover::interface::{Identity, Input, Settings, Verb};
use crate::logic::mirror::interface::Facts;
use crate::logic::volumes::Volumes;
use crate::runtime::arbiter::ArbiterSpec;
use crate::runtime::arbiter::stored::Owner;
use crate::runtime::config::group::ResourceConfig;
use crate::runtime::control::group::{GroupExplanation, GroupReport};
use crate::runtime::events::Events;
use crate::runtime::fencing::{Fencing, FencingSpec, Names, Times};
use crate::runtime::heartbeat::{Event, HeartbeatSpec, Heartbeats};
use crate::runtime::resource::Context;
use crate::runtime::shard::ShardHandle;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::LocalSet;

/// One group, as the daemon describes it to the thread.
pub struct GroupSpec {
    /// What its core goes by.
    pub settings: Settings,
    /// Its volumes.
    pub volumes: Vec<(String, ShardHandle)>,
    /// Its resources, in the order of the settings.
    pub resources: Vec<ResourceConfig>,
    /// The arbiter, in the modes that have one, and how long a question may take.
    pub arbiter: Option<(ArbiterSpec, Owner, Duration)>,
    /// What switches the peer off, in the modes that do.
    pub fencing: Option<(FencingSpec, Names, Times)>,
    /// Who is asked in the mode that goes by pings alone.
    pub probe: ProbeSpec,
    /// What scripts and services are told.
    pub context: Context,
}

/// What may change of a group at work.
pub struct GroupChange {
    /// What its core goes by; see [`crate::logic::failover::Failover::reconfigure`] for what must be the same.
    pub settings: Settings,
    /// Its resources, the same ones in the same order.
    pub resources: Vec<ResourceConfig>,
    /// How long a question to the arbiter may take.
    pub arbiter_timeout: Option<Duration>,
    /// What switches the peer off.
    pub fencing: Option<(FencingSpec, Names, Times)>,
    /// Who is asked in the mode that goes by pings alone.
    pub probe: ProbeSpec,
}

/// All groups of the daemon.
pub struct GroupsSpec {
    /// Each of them, in the order of the heartbeats.
    pub groups: Vec<GroupSpec>,
    /// Who this process is.
    pub identity: Identity,
    /// This node.
    pub node: NodeId,
    /// Where each keeps what must outlast a restart.
    pub state_dir: PathBuf,
    /// The heartbeats.
    pub heartbeats: HeartbeatSpec,
    /// Where what happens is kept.
    pub events: Events,
    /// Where files for the other server go.
    pub files: mpsc::Sender<Outgoing>,
}

/// Calls the groups from any thread.
#[derive(Clone)]
pub struct Groups {
    calls: HashMap<String, mpsc::UnboundedSender<Call>>,
}

impl Groups {
    /// Starts the thread and every group. The error is a sentence.
    pub fn start(spec: GroupsSpec) -> Result<Groups, String> {
        let mut calls = HashMap::new();
        let mut receivers = Vec::new();
        for group in &spec.groups {
            let (sender, receiver) = mpsc::unbounded_channel();
            calls.insert(group.settings.group.clone(), sender);
            receivers.push(receiver);
        }
        let groups = Groups { calls };
        let own = groups.clone();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("group".into());
        thread
            .spawn(move || {
                let result = tokio::runtime::Builder::new_current_thread().enable_all().build();
                match result {
                    Ok(runtime) => LocalSet::new().block_on(&runtime, serve(spec, receivers, own, ready)),
                    Err(error) => ready.send(Err(words(&error))).unwrap_or(()),
                }
            })
            .map_err(|error| words(&error))?;
        started.recv().map_err(|_| "the groups' thread ended".to_string())??;
        Ok(groups)
    }

    /// What is known of a volume has changed.
    pub fn facts(&self, group: &str, volume: &str, facts: Facts) {
        self.call(group, Call::Facts { volume: volume.to_string(), facts });
    }

    /// A volume has carried out an order.
    pub fn order_done(&self, group: &str, volume: &str, id: u64, result: Result<(), String>) {
        self.call(group, Call::OrderDone { volume: volume.to_string(), id, result });
    }

    /// Files of a resource came from the other server. Whether they are kept; the error is a clause.
    pub async fn files(&self, group: &str, resource: String, bundle: Vec<u8>) -> Result<(), String> {
        let (answer, kept) = oneshot::channel();
        self.call(group, Call::Files { resource, bundle, answer });
        kept.await.unwrap_or_else(|_| Err("the group has stopped with its daemon".into()))
    }

    /// A group goes by other settings from here on.
    pub fn reconfigure(&self, group: &str, change: GroupChange) {
        self.call(group, Call::Reconfigure(Box::new(change)));
    }

    /// Every address of the peer refused a connection.
    pub fn peer_refused(&self) {
        for calls in self.calls.values() {
            calls.send(Call::PeerRefused).unwrap_or(());
        }
    }

    /// Carries out an operator's command.
    pub async fn command(&self, group: &str, verb: Verb) -> CommandOutcome {
        let (answer, outcome) = oneshot::channel();
        self.call(group, Call::Command { verb, answer });
        outcome.await.unwrap_or_else(|_| ended())
    }

    /// Everything that is shown of a group; `None` when it has ended.
    pub async fn status(&self, group: &str) -> Option<GroupReport> {
        let (answer, status) = oneshot::channel();
        self.call(group, Call::Status(answer));
        status.await.ok()
    }

    /// What would happen to a group if something died; `None` when it has ended.
    pub async fn explain(&self, group: &str) -> Option<GroupExplanation> {
        let (answer, explanation) = oneshot::channel();
        self.call(group, Call::Explain(answer));
        explanation.await.ok()
    }

    /// Hands over or stops every group, and waits for that.
    pub async fn stop(&self) {
        let mut waiting = Vec::new();
        for calls in self.calls.values() {
            let (stopped, wait) = oneshot::channel();
            if calls.send(Call::Stop(stopped)).is_ok() {
                waiting.push(wait);
            }
        }
        for wait in waiting {
            // A group whose task has ended has stopped.
            let _ = wait.await;
        }
    }

    fn call(&self, group: &str, call: Call) {
        if let Some(calls) = self.calls.get(group) {
            calls.send(call).unwrap_or(());
        }
    }
}

async fn serve(
    spec: GroupsSpec,
    receivers: Vec<mpsc::UnboundedReceiver<Call>>,
    groups: Groups,
    ready: std::sync::mpsc::Sender<Result<(), String>>,
) {
    match begin(spec, receivers) {
        Ok((tasks, events, names)) => {
            ready.send(Ok(())).unwrap_or(());
            tokio::task::spawn_local(distribute(events, names, groups));
            for task in tasks {
                // Each ends when its group has stopped.
                let _ = task.await;
            }
        }
        Err(reason) => ready.send(Err(reason)).unwrap_or(()),
    }
}

type Begun = (Vec<tokio::task::JoinHandle<()>>, mpsc::Receiver<Event>, Vec<String>);

fn begin(spec: GroupsSpec, receivers: Vec<mpsc::UnboundedReceiver<Call>>) -> Result<Begun, String> {
    let (heartbeats, events) = Heartbeats::start(spec.heartbeats).map_err(|error| words(&error))?;
    let heartbeats = Rc::new(heartbeats);
    tokio::task::spawn_local(watch_refused(heartbeats.clone(), spec.events.clone()));
    let names = spec.groups.iter().map(|group| group.settings.group.clone()).collect();
    let mut tasks = Vec::new();
    let turns = Rc::new(Semaphore::new(1));
    for (index, (group, calls)) in spec.groups.into_iter().zip(receivers).enumerate() {
        let identity = Identity { seed: spec.identity.seed.wrapping_add(index as u64), ..spec.identity };
        let name = group.settings.group.clone();
        let way = Rc::new(Way { group: name, out: spec.files.clone(), turns: turns.clone() });
        let common = (heartbeats.clone(), spec.events.clone());
        let (parts, sources) = prepare(group, index, identity, calls, common, &spec.state_dir, way)?;
        tasks.push(tokio::task::spawn_local(task::run(parts, sources)));
    }
    Ok((tasks, events, names))
}

fn prepare(
    spec: GroupSpec,
    index: usize,
    identity: Identity,
    calls: mpsc::UnboundedReceiver<Call>,
    (heartbeats, happenings): (Rc<Heartbeats>, Events),
    state_dir: &std::path::Path,
    way: Rc<Way>,
) -> Result<(Parts, Sources), String> {
    let name = spec.settings.group.clone();
    let memory_file = remembered::file(state_dir, &name);
    let memory = remembered::load(&memory_file)?;
    let (answers, answered) = mpsc::unbounded_channel();
    let (found, finds) = mpsc::unbounded_channel();
    let (events, happened) = mpsc::unbounded_channel();
    let arbiter = spec.arbiter.map(|(arbiter, owner, timeout)| {
        let seen = state_dir.join(format!("arbiter.{name}.json"));
        Asked::new(&arbiter, owner, timeout, seen).map(Rc::new)
    });
    let fencing = spec.fencing.map(|(fencing, names, times)| Fencing::new(fencing, names, times));
    let fencing = fencing.transpose()?.map(|fencing| Rc::new(Fence::new(fencing)));
    let arbiter = arbiter.transpose()?;
    if let Some(fence) = fencing.clone() {
        let (group, events) = (name.clone(), happenings.clone());
        tokio::task::spawn_local(async move {
            fence.watch(|trouble| tell_of_device(&events, &group, trouble)).await;
        });
    }
    if let Some(asked) = arbiter.clone() {
        let (group, answers) = (name.clone(), answers.clone());
        tokio::task::spawn_local(async move {
            let tell = |trouble: Option<ArbiterError>| {
                // Whether it answers is seen by the group's own questions, and at once.
                let answers_not = [ArbiterErrorKind::Unreachable, ArbiterErrorKind::TimedOut];
                let trouble = trouble.filter(|trouble| !answers_not.contains(&trouble.kind));
                answers.send(Input::ArbiterLooked { trouble }).unwrap_or(());
            };
            asked.watch(&group, tell).await;
        });
    }
    let folder = spec.context.state_dir.join(format!("files.{name}"));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{} can't be made: {error}", folder.display()))?;
    let maker = Maker { events, node: spec.context.node.clone(), folder, way };
    let hands = Hands {
        arbiter,
        fencing,
        book: Rc::new(RefCell::new(Book::new(spec.settings.resources.iter().map(|one| one.skip), calendar()))),
        slots: spec.resources.into_iter().map(|resource| Slot::new(resource, &maker)).collect(),
        probe: spec.probe,
        doors: Doors::new(spec.volumes.iter().map(|(_, shard)| shard.clone()).collect()),
        context: spec.context,
        maker,
        answers,
        found,
    };
    let volumes = spec.volumes.into_iter().map(|(name, shard)| ShardVolume { name, shard }).collect();
    let parts = Parts {
        name,
        index,
        settings: spec.settings,
        identity,
        memory,
        volumes: Volumes::new(volumes),
        hands,
        heartbeats,
        events: happenings,
        memory_file,
        link_heard: Moment(0),
        commands: HashMap::new(),
        next_command: 0,
        stopping: Vec::new(),
    };
    Ok((parts, Sources { calls, answers: answered, found: finds, happened }))
}

/// Hands what the heartbeats bring to the groups it concerns.
async fn distribute(mut events: mpsc::Receiver<Event>, names: Vec<String>, groups: Groups) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Heard { group, path, heartbeat, .. } => groups.call(&names[group], Call::Heard { path, heartbeat }),
            Event::Unheard { .. } => groups.peer_refused(),
        }
    }
}

fn words(error: &io::Error) -> String {
    format!("the kernel refuses what the groups need: {error}")
}
