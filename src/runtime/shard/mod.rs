//! The thread of one volume: joins its core with its disk, its peer and its clients, and decides nothing itself.
//!
//! ```text
//!            ┌────────────────────────── one turn ──────────────────────────┐
//!  epoll ──▶ │ gather          handle        settle   carry out   give out  │ ──▶ epoll
//!            │ ring, link,     Mirror::      Mirror::  effects    one send  │
//!            │ clients, calls  handle (each) settle              per socket,│
//!            │                                                   one submit │
//!            └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing waits inside a turn, so while the kernel works on one turn's I/O the next one gathers what has come in
//! meanwhile: that is all the batching there is. Effects that are answered at once are answered in the next turn.
//!
//! | file | tells |
//! |---|---|
//! | `handle` | the rest of the daemon's face of a shard |
//! | `calls` | what the shard does when it is called |
//! | `effects` | what it does for the core |
//! | `disk`, `persist` | data and metadata through the ring |
//! | `archive` | what a copy that is given up had, through a thread of its own |
//! | `link`, `linger` | frames to and from the peer |
//! | `departures` | how long what is sent waits for its socket |
//! | `clients`, `host` | NBD connections, and the core as they see it |
//! | `device` | the block device of this kernel |

pub mod clients;
pub mod handle;

mod archive;
mod calls;
mod departures;
mod device;
mod disk;
mod effects;
mod host;
mod linger;
mod link;
mod persist;

#[cfg(test)]
mod tests;

pub use clients::{ClientView, NbdListener};
pub use handle::{ShardConfig, ShardEvent, ShardHandle, ShardView};

use crate::base::command::CommandOutcome;
use crate::base::ids::CommandId;
use crate::base::limits::{LINK_LINGERING_MAX, POOL_TRIM_AFTER, SHARD_STOP_TIME_MAX};
use crate::base::state::Exclusion;
use crate::base::time::Moment;
use crate::io::clock::now;
use crate::io::poller::{Event, Interest, Poller, Waker};
use crate::io::pool::Pool;
use crate::io::ring::{Completion, Ring};
use crate::logic::mirror::Mirror;
use crate::logic::mirror::interface::{Effect, Facts, Input, Serving};
use archive::Archives;
use clients::Clients;
use device::Device;
use disk::{Disk, Means};
use handle::Inbox;
use host::CoreHost;
use link::Link;
use persist::{METADATA_TOKEN, Persist};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Tokens of the poller.
const TOKEN_CALLS: u64 = 0;
const TOKEN_RING: u64 = 1;
const TOKEN_LINK: u64 = 2;
const TOKEN_DEVICE: u64 = 3;
const TOKENS_LINGERING: std::ops::Range<u64> = 16..16 + LINK_LINGERING_MAX as u64;
/// Clients' tokens are this and above.
const TOKEN_CLIENTS: u64 = 1 << 32;

/// One volume's thread, seen from inside.
struct Shard {
    name: String,
    events: mpsc::UnboundedSender<(String, ShardEvent)>,
    inbox: Arc<Inbox>,
    mirror: Mirror,
    poller: Poller,
    pool: Pool,
    ring: Ring,
    disk: Disk,
    persist: Persist,
    archives: Archives,
    /// The disk given up is not closed yet.
    closing_disk: bool,
    /// Why there was no disk at the start.
    disk_reason: Option<String>,
    link: Link,
    /// The operator wants no session.
    disconnected: bool,
    clients: Clients,
    device: Device,
    /// What is served, as the daemon was told last.
    served: Option<Serving>,
    /// This node's name and its peer's.
    node_names: [String; 2],
    /// A failover group decides who serves.
    in_group: bool,
    /// What it was last told.
    facts: Option<Facts>,
    /// Commands the core has not answered.
    commands: HashMap<CommandId, oneshot::Sender<CommandOutcome>>,
    next_command: u64,
    /// The disk that is being attached is given up again if the core refuses it.
    attaching: Option<CommandId>,
    /// Since the core said that it has stopped: when the thread ends at the latest.
    stopping: Option<Moment>,
    /// When the pool was in use last, its state then, and whether its memory was given back since.
    pool_used: (Moment, u64, bool),
    /// For the next turn of the core.
    inputs: Vec<Input>,
    /// Reused from turn to turn.
    effects: Vec<Effect>,
    ready: Vec<Event>,
    completions: Vec<Completion>,
}

/// Starts the thread and waits until it has what it needs.
fn spawn(config: ShardConfig) -> io::Result<Arc<Inbox>> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let name = config.settings.name.clone();
    let events = config.events.clone();
    std::thread::Builder::new().name(format!("shard-{name}")).spawn(move || {
        let mut shard = match Shard::new(config) {
            Ok(shard) => shard,
            Err(error) => return sender.send(Err(error)).unwrap_or(()),
        };
        let inbox = shard.inbox.clone();
        sender.send(Ok(inbox.clone())).unwrap_or(());
        let end = match catch_unwind(AssertUnwindSafe(|| shard.run())) {
            Ok(Ok(())) => ShardEvent::Stopped,
            Ok(Err(error)) => ShardEvent::Fatal(format!("the kernel failed the volume's thread: {error}")),
            Err(panic) => ShardEvent::Fatal(format!("a bug ended the volume's thread: {}", words_of(&*panic))),
        };
        inbox.end();
        // The files are closed and unlocked before anyone hears of the end.
        drop(shard);
        events.send((name, end)).unwrap_or(());
    })?;
    receiver.recv().unwrap_or_else(|_| Err(io::Error::other("the volume's thread ended while it was set up")))
}

/// What a panic said.
fn words_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words were left")
}

impl Shard {
    fn new(config: ShardConfig) -> io::Result<Shard> {
        let ShardConfig { settings, identity, disk: opened, disk_reason, .. } = config;
        let ShardConfig { listeners, client_times, events, disk_engine, archive, reserves_memory, .. } = config;
        let name = settings.name.clone();
        let in_group = settings.exclusion == Exclusion::Group;
        let mut node_names = settings.node_names.clone();
        node_names.rotate_left(usize::from(settings.node.0));
        let poller = Poller::new()?;
        let waker = Waker::new()?;
        poller.add(waker.as_fd(), TOKEN_CALLS, Interest::READ)?;
        let ring = Ring::new(disk_engine)?;
        if let Some(reason) = ring.fallback_reason() {
            tracing::warn!(volume = name, "disk operations go through threads instead of io_uring, slower: {reason}");
        }
        poller.add(ring.as_fd(), TOKEN_RING, Interest::READ)?;
        let clients = Clients::new(&name, listeners, client_times, TOKEN_CLIENTS, &poller)?;

        let mut pool = Pool::new()?;
        if reserves_memory {
            pool.reserve();
        }
        let (mut disk, mut persist) = (Disk::default(), Persist::default());
        let loaded = opened.map(|opened| calls::take_into_use(opened, &mut disk, &mut persist));
        let volume_uuid = settings.volume;
        let mirror = Mirror::new(settings, identity, loaded);
        let view = ShardView { volume: mirror.view(now()), clients: Vec::new() };
        let inbox = Arc::new(Inbox::new(waker, view));
        let archives = Archives::new(archive, &name, volume_uuid, node_names.clone(), inbox.clone());
        let shard = Shard {
            name,
            events,
            inbox,
            mirror,
            poller,
            pool,
            ring,
            disk,
            persist,
            archives,
            closing_disk: false,
            disk_reason,
            link: Link::new(TOKENS_LINGERING),
            disconnected: false,
            clients,
            device: Device::default(),
            served: None,
            node_names,
            in_group,
            facts: None,
            commands: HashMap::new(),
            next_command: 0,
            attaching: None,
            stopping: None,
            pool_used: (now(), 0, false),
            inputs: Vec::new(),
            effects: Vec::new(),
            ready: Vec::new(),
            completions: Vec::new(),
        };
        shard.tell(ShardEvent::LinkWanted { reconnect_now: true });
        Ok(shard)
    }

    fn run(&mut self) -> io::Result<()> {
        while !self.has_ended() {
            self.turn()?;
        }
        let view = self.view(now());
        self.inbox.set_last_view(view);
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let timeout = self.patience();
        self.poller.wait(&mut self.ready, timeout)?;
        let began = now();
        self.gather(began);
        // Looked at again: what a disk has read counts only if the permit to read outlived it.
        let now = now();
        let mut heard = false;
        for input in self.inputs.drain(..) {
            heard |= matches!(input, Input::Frame { .. });
            self.mirror.handle(now, input, &mut self.effects);
        }
        self.show_signs(now, heard);
        let mut host = CoreHost {
            mirror: &mut self.mirror,
            disk: &self.disk,
            now,
            effects: &mut self.effects,
            node_names: &self.node_names,
            stopping: self.stopping.is_some(),
        };
        self.clients.admit(&mut host, (began, now), &mut self.pool, &self.poller);
        if let Some(opening) = self.device.admit(&mut host, &mut self.pool, &self.poller) {
            self.tell(ShardEvent::DeviceEnded { opening });
        }
        if self.mirror.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.mirror.handle(now, Input::Tick, &mut self.effects);
        }
        self.mirror.settle(now, &mut self.effects);
        self.carry_out(now);
        self.clients.flush(now, &mut self.pool, &self.poller);
        self.device.flush()?;
        self.link.flush(&mut self.pool, &self.poller);
        self.note_ended_session();
        self.ring.submit()?;
        self.close_disk_if_idle();
        self.trim_pool_if_idle(now);
        Ok(())
    }

    /// Shows the failover group, if there is one, that this thread turns, and that the peer is heard.
    fn show_signs(&self, now: Moment, heard: bool) {
        if self.in_group {
            let signs = &self.inbox.signs;
            signs.turn.store(now.0, Ordering::Relaxed);
            if heard {
                signs.link.store(now.0, Ordering::Relaxed);
            }
        }
    }

    /// How long the next wait may last: not at all while something can be done without it.
    fn patience(&self) -> Option<Duration> {
        let work_left = !self.inputs.is_empty()
            || self.ring.has_finished()
            || self.link.has_more(&self.pool)
            || self.clients.has_more(self.mirror.can_admit(), &self.pool)
            || self.device.has_more(self.mirror.can_admit(), &self.pool);
        if work_left {
            return Some(Duration::ZERO);
        }
        if self.ring.wants_submit() {
            // The kernel was too busy to take it; ask again soon.
            return Some(Duration::from_millis(1));
        }
        let deadlines = [self.mirror.next_deadline(), self.link.deadline(), self.clients.deadline(), self.stopping];
        deadlines.into_iter().flatten().min().map(|deadline| deadline.since(now()))
    }

    /// Collects what has happened outside.
    fn gather(&mut self, now: Moment) {
        let mut called = false;
        let mut ready = std::mem::take(&mut self.ready);
        for event in ready.drain(..) {
            match event.token {
                TOKEN_CALLS => called = true,
                // Looked at in every turn: it costs nothing.
                TOKEN_RING | TOKEN_DEVICE => {}
                TOKEN_LINK => self.link.on_event(event),
                token if TOKENS_LINGERING.contains(&token) => {
                    self.link.on_linger_event(event, &mut self.pool, &self.poller);
                }
                _ => self.clients.on_event(event),
            }
        }
        self.ready = ready;
        self.reap();
        self.link.on_deadline(now, &mut self.pool);
        self.link.receive(self.mirror.epoch(), &mut self.pool, &self.poller, &mut self.inputs);
        self.note_ended_session();
        if called {
            self.take_calls(now);
        }
    }

    /// Takes the disk operations that have ended.
    fn reap(&mut self) {
        self.ring.reap(&mut self.pool, &mut self.completions);
        let mut means = Means { ring: &mut self.ring, pool: &mut self.pool, answers: &mut self.inputs };
        for completion in self.completions.drain(..) {
            if completion.token == METADATA_TOKEN {
                self.persist.finish(completion, &mut means);
            } else if let Some(answer) = self.disk.finish(completion, means.pool) {
                means.answers.push(answer);
            }
        }
        self.disk.resume(&mut means);
    }

    /// Tells the core and the daemon of a session that has ended.
    fn note_ended_session(&mut self) {
        if let Some(ended) = self.link.take_ended() {
            self.inputs.push(Input::LinkDown { session: ended.session, reason: ended.reason });
            if !self.disconnected && self.stopping.is_none() {
                self.tell(ShardEvent::LinkWanted { reconnect_now: ended.reconnect_now });
            }
        }
    }

    fn close_disk_if_idle(&mut self) {
        if self.closing_disk && self.disk.is_idle() && self.persist.is_idle() && self.archives.is_idle() {
            self.closing_disk = false;
            self.tell(ShardEvent::DiskClosed);
        }
    }

    /// Gives the pool's memory back when nothing has used it for long.
    fn trim_pool_if_idle(&mut self, now: Moment) {
        let (since, frees, trimmed) = self.pool_used;
        if frees != self.pool.frees() {
            self.pool_used = (now, self.pool.frees(), false);
        } else if !trimmed && now.since(since) >= POOL_TRIM_AFTER {
            self.pool.trim();
            self.pool_used.2 = true;
        }
    }

    /// Whether everything is done after the core has stopped, or there is no time left for it.
    fn has_ended(&self) -> bool {
        let quiet = self.link.is_quiet() && self.clients.is_quiet();
        self.stopping.is_some_and(|until| quiet || until <= now())
    }

    fn begin_stopping(&mut self, now: Moment) {
        self.stopping = Some(now + SHARD_STOP_TIME_MAX);
        self.clients.cut("the daemon stops", &mut self.pool, &self.poller);
        if let Some(session) = self.link.session() {
            let means = (&mut self.pool, &self.poller);
            self.link.disconnect(session, "the daemon stops".to_owned(), false, now, means);
        }
    }

    fn tell(&self, event: ShardEvent) {
        // Nobody listens any more only while the process ends.
        self.events.send((self.name.clone(), event)).unwrap_or(());
    }
}
