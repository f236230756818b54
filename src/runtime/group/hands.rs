//! What a group's core wants done outside of the volumes, done: each thing in a task of its own, answered by an input.

use super::watch::{Found, Rhythm, Watch};
use crate::base::group::{Reason, StepVerb};
use crate::base::time::Moment;
use crate::io::clock::now;
use crate::logic::failover::interface::{ArbiterCall, Gate, Input};
use crate::runtime::arbiter::memory::Memory;
use crate::runtime::arbiter::stored::Owner;
use crate::runtime::arbiter::{Arbiter, ArbiterSpec};
use crate::runtime::fencing::Fencing;
use crate::runtime::resource::service::end_left_behind;
use crate::runtime::resource::{self, Context, Resource, Verb, run};
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

/// Time between two looks at the arbiter's health.
const HEALTH_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time for taking off an address that must not stay, and for putting it back.
const ADDRESS_TIME_MAX: Duration = Duration::from_secs(2);

/// A resource with what is known of it here.
pub struct Slot {
    /// It.
    pub resource: Rc<dyn Resource>,
    /// It is a floating address: it goes when nothing may leave for clients, whatever the plan says.
    pub is_address: bool,
    /// How often it is looked at.
    pub rhythm: Rhythm,
    /// One verb at a time.
    turn: Rc<Mutex<()>>,
    /// The plan has started it, and not stopped it since.
    started: Rc<Cell<bool>>,
    /// The gate has closed on it meanwhile.
    suspended: Cell<bool>,
    watch: Option<Watch>,
}

impl Slot {
    /// A resource that is not started.
    pub fn new(resource: Rc<dyn Resource>, is_address: bool, rhythm: Rhythm) -> Slot {
        let (turn, started) = (Rc::default(), Rc::default());
        Slot { resource, is_address, rhythm, turn, started, suspended: Cell::new(false), watch: None }
    }
}

/// An arbiter, and what was seen of it, which must outlast a restart.
pub struct Asked {
    /// It.
    pub arbiter: Arbiter,
    /// Where what was seen is kept.
    file: PathBuf,
    saved: Mutex<Memory>,
    /// When the peer was last heard.
    peer_heard: Cell<Moment>,
}

impl Asked {
    /// An arbiter whose memory is what the file holds.
    pub fn new(spec: &ArbiterSpec, owner: Owner, timeout: Duration, file: PathBuf) -> Result<Asked, String> {
        let memory = Memory::load(&file)?;
        let arbiter = Arbiter::new(spec, owner, timeout, memory.clone()).map_err(|error| error.to_string())?;
        Ok(Asked { arbiter, file, saved: Mutex::new(memory), peer_heard: Cell::new(Moment(0)) })
    }

    /// The peer's daemon is heard.
    pub fn hear_peer(&self) {
        self.peer_heard.set(now());
    }

    /// Makes durable what was seen, if it is new. Not on this thread: a disk may be slow, a permit must not.
    async fn save(&self) {
        let mut saved = self.saved.lock().await;
        let memory = self.arbiter.memory();
        if memory == *saved {
            return;
        }
        saved.clone_from(&memory);
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || memory.save(&file).map_err(|error| (file, error))).await;
        if let Ok(Err((file, error))) = written {
            let file = file.display();
            tracing::error!(
                "{file} can't be written: {error}; after a restart an arbiter that went back is not noticed"
            );
        }
    }

    /// Looks at the arbiter's health now and then, and says when it changes.
    pub async fn watch(&self, group: &str) {
        let mut told = None;
        loop {
            tokio::time::sleep(HEALTH_INTERVAL).await;
            let peer_alive = now().since(self.peer_heard.get()) < HEALTH_INTERVAL;
            let trouble = self.arbiter.check(peer_alive).await.trouble.map(|error| error.to_string());
            if trouble != told {
                match &trouble {
                    Some(trouble) => tracing::error!(group, "the arbiter is not as it should be: {trouble}"),
                    None => tracing::info!(group, "the arbiter is well again"),
                }
                told = trouble;
            }
        }
    }
}

/// Everything a group's core can have done.
pub struct Hands {
    /// The record, in the modes that have one.
    pub arbiter: Option<Rc<Asked>>,
    /// What switches the peer off, in the modes that do.
    pub fencing: Option<Rc<Fencing>>,
    /// The resources, in the order of the core's settings.
    pub slots: Vec<Slot>,
    /// What scripts and services are told, but for the reason.
    pub context: Context,
    /// Where answers go.
    pub answers: mpsc::UnboundedSender<Input>,
    /// Where monitors tell.
    pub found: mpsc::UnboundedSender<Found>,
}

impl Hands {
    /// Ends what scripts and services of an earlier life of the daemon left running here.
    pub fn end_left_behind(&self) {
        for slot in self.slots.iter().filter(|slot| !slot.is_address) {
            let name = slot.resource.name();
            let ended = end_left_behind(&self.context, name);
            if ended > 0 {
                tracing::warn!("{name}: {ended} processes that an earlier daemon left running were ended");
            }
        }
    }

    /// Asks the arbiter.
    pub fn arbiter(&self, id: u64, call: ArbiterCall) {
        let arbiter = self.arbiter.clone().expect("only a mode with an arbiter asks one");
        let answers = self.answers.clone();
        tokio::task::spawn_local(async move {
            let input = match call {
                ArbiterCall::Read => Input::ArbiterRead { id, outcome: arbiter.arbiter.read().await },
                ArbiterCall::Cas { expected, new } => {
                    let outcome = arbiter.arbiter.compare_and_set(expected.as_ref(), &new).await;
                    Input::ArbiterCas { id, outcome }
                }
            };
            tell(&answers, input);
            arbiter.save().await;
        });
    }

    /// Has the peer switched off.
    pub fn fence(&self, id: u64) {
        let fencing = self.fencing.clone().expect("only a mode with fencing fences");
        let answers = self.answers.clone();
        tokio::task::spawn_local(async move {
            let result = fencing.off().await.into_result();
            tell(&answers, Input::Fenced { id, result });
        });
    }

    /// Starts or stops a resource.
    pub fn step(&mut self, id: u64, index: usize, verb: StepVerb, deadline: Moment, reason: Reason) {
        let slot = &mut self.slots[index];
        slot.watch = None;
        slot.suspended.set(false);
        if verb == StepVerb::Stop {
            slot.started.set(false);
        }
        let (resource, turn, started) = (slot.resource.clone(), slot.turn.clone(), slot.started.clone());
        let context = Context { reason: told(reason, verb), ..self.context.clone() };
        let (answers, deadline) = (self.answers.clone(), Instant::now() + deadline.since(now()));
        tokio::task::spawn_local(async move {
            let _turn = turn.lock().await;
            let result = match verb {
                StepVerb::Start => run(&*resource, Verb::Start, &context, deadline).await,
                StepVerb::Stop => run(&*resource, Verb::Stop, &context, deadline).await,
            };
            started.set(verb == StepVerb::Start && result.is_ok());
            tell(&answers, Input::StepDone { id, result: result.map_err(|trouble| trouble.to_string()) });
        });
    }

    /// A step has ended well: what was started is watched from here on.
    pub fn watch_started(&mut self) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.started.get() && !slot.suspended.get() && slot.watch.is_none() {
                let (resource, context) = (slot.resource.clone(), self.context.clone());
                slot.watch = Some(Watch::begin(index, resource, context, slot.rhythm, self.found.clone()));
            }
        }
    }

    /// Floating addresses follow the gate: they are off while nothing may leave for clients.
    pub fn gate(&mut self, gate: Gate) {
        let open = gate.allows(now());
        for slot in self.slots.iter_mut().filter(|slot| slot.is_address && slot.started.get()) {
            if open != slot.suspended.get() {
                continue;
            }
            slot.suspended.set(!open);
            slot.watch = None;
            let (resource, turn, context) = (slot.resource.clone(), slot.turn.clone(), self.context.clone());
            tokio::task::spawn_local(async move {
                let _turn = turn.lock().await;
                let verb = if open { Verb::Start } else { Verb::Stop };
                if let Err(trouble) = run(&*resource, verb, &context, Instant::now() + ADDRESS_TIME_MAX).await {
                    tracing::error!("{trouble}");
                }
            });
        }
        if open {
            self.watch_started();
        }
    }
}

/// Answers; the group's task may have ended.
fn tell(answers: &mpsc::UnboundedSender<Input>, input: Input) {
    answers.send(input).unwrap_or(());
}

/// The reason as scripts are told.
fn told(reason: Reason, verb: StepVerb) -> resource::Reason {
    match reason {
        Reason::AdminRequest if verb == StepVerb::Start => resource::Reason::Move,
        Reason::AdminRequest => resource::Reason::Stop,
        Reason::AutoFallback => resource::Reason::Fallback,
        Reason::Normal | Reason::Initialization => resource::Reason::Start,
        Reason::CriticalServiceStartFailed | Reason::StopFailed | Reason::TakeoverFailed | Reason::TakebackFailed => {
            resource::Reason::Recover
        }
        _ => resource::Reason::Failover,
    }
}
