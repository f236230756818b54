//! What a group's core wants done outside of the volumes, done: each thing in a task of its own, answered by an input.

use super::asked::{Asked, Fence};
use super::book::Book;
use super::doors::Doors;
use super::make::{Made, Maker, settings, watches};
use super::probe::{ProbeSpec, probe};
use super::watch::{Found, Rhythm, Watch};
use crate::base::group::{Reason, ResourceState, StepVerb};
use crate::base::time::Moment;
use crate::io::clock::{calendar, now};
use crate::logic::failover::interface::{ArbiterCall, Gate, Input};
use crate::runtime::config::group::{ResourceConfig, What};
use crate::runtime::resource::files::SyncedFiles;
use crate::runtime::resource::service::end_left_behind;
use crate::runtime::resource::{self, Context, Resource, Verb, run};
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

/// Longest time for taking off an address that must not stay, and for putting it back.
const ADDRESS_TIME_MAX: Duration = Duration::from_secs(2);

/// Longest time for finding again what was started before the settings changed.
const TAKE_OVER_TIME_MAX: Duration = Duration::from_secs(10);

/// A resource with what is known of it here.
pub struct Slot {
    /// It.
    pub resource: Rc<dyn Resource>,
    /// The same, when it takes files from the other server.
    files: Option<Rc<SyncedFiles>>,
    /// Its settings.
    what: What,
    /// The floating address it is: that goes when nothing may leave for clients, whatever the plan says.
    pub address: Option<IpAddr>,
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
    pub fn new(config: ResourceConfig, maker: &Maker) -> Slot {
        let Made { resource, files } = maker.make(&config.what);
        let (turn, started) = (Rc::default(), Rc::default());
        Slot {
            resource,
            files,
            address: match &config.what {
                What::Address(address) => Some(address.address),
                _ => None,
            },
            rhythm: rhythm(&config),
            what: config.what,
            turn,
            started,
            suspended: Cell::new(false),
            watch: None,
        }
    }

    /// What kind of thing it is, as its section in the configuration is called.
    pub fn kind(&self) -> &'static str {
        self.what.kind()
    }

    /// Whether no verb is under way.
    pub fn is_at_rest(&self) -> bool {
        self.turn.try_lock().is_ok()
    }
}

/// Everything a group's core can have done.
pub struct Hands {
    /// The record, in the modes that have one.
    pub arbiter: Option<Rc<Asked>>,
    /// What switches the peer off, in the modes that do.
    pub fencing: Option<Rc<Fence>>,
    /// Who is asked in the mode that goes by pings alone.
    pub probe: ProbeSpec,
    /// The resources, in the order of the core's settings.
    pub slots: Vec<Slot>,
    /// Where clients of the floating addresses come in.
    pub doors: Doors,
    /// What is known of each of them.
    pub book: Rc<RefCell<Book>>,
    /// What scripts and services are told, but for the reason.
    pub context: Context,
    /// Makes resources whose settings changed.
    pub maker: Maker,
    /// Where answers go.
    pub answers: mpsc::UnboundedSender<Input>,
    /// Where monitors tell.
    pub found: mpsc::UnboundedSender<Found>,
}

impl Hands {
    /// Ends what scripts and services of an earlier life of the daemon left running here.
    pub fn end_left_behind(&self) {
        for slot in self.slots.iter().filter(|slot| slot.address.is_none()) {
            let name = slot.resource.name();
            let ended = end_left_behind(&self.context, name);
            if ended > 0 {
                tracing::warn!("{name}: {ended} processes that an earlier daemon left running were ended");
            }
        }
    }

    /// No floating address is here yet.
    pub async fn shut_doors(&self) {
        for slot in &self.slots {
            self.doors.set(slot.address, false).await;
        }
    }

    /// Files came from the other server; they are kept when no verb is under way.
    pub fn files(&self, resource: &str, bundle: Vec<u8>, answer: oneshot::Sender<Result<(), String>>) {
        let slot = self.slots.iter().find(|slot| slot.resource.name() == resource);
        let Some((files, turn)) = slot.and_then(|slot| Some((slot.files.clone()?, slot.turn.clone()))) else {
            let reason = format!("{} has no files {resource} in the group {}", self.context.node, self.context.group);
            return answer.send(Err(format!("{reason}; use the same configuration on both servers"))).unwrap_or(());
        };
        tokio::task::spawn_local(async move {
            let _turn = turn.lock().await;
            let kept = files.receive(bundle).await.map_err(|trouble| trouble.to_string());
            answer.send(kept).unwrap_or(());
        });
    }

    /// Goes by other settings of the same resources from here on; a step under way ends by the old ones.
    pub fn reconfigure(&mut self, resources: Vec<ResourceConfig>) {
        for (slot, new) in self.slots.iter_mut().zip(resources) {
            slot.rhythm = rhythm(&new);
            slot.watch = None;
            if slot.what == new.what {
                continue;
            }
            if !slot.resource.reconfigure(settings(&new.what)) {
                Made { resource: slot.resource, files: slot.files } = self.maker.make(&new.what);
                if watches(&new.what) && slot.started.get() && !slot.suspended.get() {
                    take_over(slot, &self.context);
                }
            }
            slot.what = new.what;
        }
        self.watch_all();
    }

    /// Asks the arbiter.
    pub fn arbiter(&self, id: u64, call: ArbiterCall) {
        let arbiter = self.arbiter.clone().expect("only a mode with an arbiter asks one");
        let answers = self.answers.clone();
        tokio::task::spawn_local(async move {
            tell(&answers, arbiter.ask(id, call).await);
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

    /// Asks whether the network is there, and whether the peer still is.
    pub fn probe(&self, id: u64) {
        let (answers, spec) = (self.answers.clone(), self.probe.clone());
        tokio::task::spawn_local(async move {
            let heard = probe(&spec).await;
            let (targets_answer, peer_answers) = (heard.targets_answer, heard.peer_answers);
            tell(&answers, Input::Probed { id, targets_answer, peer_answers });
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
        self.book.borrow_mut().began(index, verb, calendar());
        let book = self.book.clone();
        let (doors, address) = (self.doors.clone(), slot.address);
        tokio::task::spawn_local(async move {
            let _turn = turn.lock().await;
            // Open before the first client can come, shut while the last one can still be told.
            doors.set(address, verb == StepVerb::Start).await;
            let result = match verb {
                StepVerb::Start => run(&*resource, Verb::Start, &context, deadline).await,
                StepVerb::Stop => run(&*resource, Verb::Stop, &context, deadline).await,
            };
            if result.is_err() {
                doors.set(address, false).await;
            }
            started.set(verb == StepVerb::Start && result.is_ok());
            book.borrow_mut().ended(index, verb, result.clone(), calendar());
            tell(&answers, Input::StepDone { id, result: result.map_err(|trouble| trouble.to_string()) });
        });
    }

    /// A step has ended: what was started is watched from here on; what was not is looked at whether it could be.
    pub fn watch_all(&mut self) {
        let mounts: Vec<PathBuf> = self.slots.iter().filter_map(|slot| slot.what.mount_point().cloned()).collect();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.watch.is_some() || slot.suspended.get() || !slot.is_at_rest() {
                continue;
            }
            let stopped = !slot.started.get();
            // A program on the group's own file system can't be there before that is mounted.
            let absent = slot.what.programs().iter().any(|file| mounts.iter().any(|mount| file.starts_with(mount)));
            let skipped = self.book.borrow().entries()[index].state == ResourceState::Skipped;
            if stopped && (absent || skipped) {
                continue;
            }
            let (resource, context) = (slot.resource.clone(), self.context.clone());
            slot.watch = Some(Watch::begin(index, resource, context, slot.rhythm, stopped, self.found.clone()));
        }
    }

    /// Whether what a look has found still says something: a step may have begun since.
    pub fn is_current(&self, found: &Found) -> bool {
        let slot = &self.slots[found.index];
        slot.is_at_rest() && slot.started.get() != found.stopped
    }

    /// Floating addresses follow the gate: they are off while nothing may leave for clients.
    pub fn gate(&mut self, gate: Gate) {
        let open = gate.allows(now());
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.address.is_none() || !slot.started.get() {
                continue;
            }
            if open != slot.suspended.get() {
                continue;
            }
            slot.suspended.set(!open);
            slot.watch = None;
            self.book.borrow_mut().suspended(index, !open, calendar());
            let (resource, turn, context) = (slot.resource.clone(), slot.turn.clone(), self.context.clone());
            let book = self.book.clone();
            let (doors, address) = (self.doors.clone(), slot.address);
            tokio::task::spawn_local(async move {
                let _turn = turn.lock().await;
                if !open {
                    doors.suspend(address).await;
                }
                let verb = if open { Verb::Start } else { Verb::Stop };
                if let Err(trouble) = run(&*resource, verb, &context, Instant::now() + ADDRESS_TIME_MAX).await {
                    tracing::error!("{trouble}");
                    book.borrow_mut().found(index, Some(&trouble), calendar());
                }
            });
        }
        if open {
            self.watch_all();
        }
    }
}

/// A resource that was made anew finds what the one before it had started.
fn take_over(slot: &Slot, context: &Context) {
    let (resource, turn, started, context) =
        (slot.resource.clone(), slot.turn.clone(), slot.started.clone(), context.clone());
    tokio::task::spawn_local(async move {
        let _turn = turn.lock().await;
        // A stop that came between had the last word.
        if started.get()
            && let Err(trouble) = run(&*resource, Verb::Start, &context, Instant::now() + TAKE_OVER_TIME_MAX).await
        {
            tracing::error!("{trouble}");
        }
    });
}

fn rhythm(config: &ResourceConfig) -> Rhythm {
    Rhythm { interval: config.times.monitor_interval, timeout: config.times.monitor_timeout }
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
