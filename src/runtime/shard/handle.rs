//! The face of a shard towards the rest of the daemon: calls go in through a queue and an eventfd, answers and events
//! come back through channels. Nothing of this is on the path of a request.

use super::clients::{ClientTimes, ClientView, NbdListener};
use crate::base::command::{Command, CommandOutcome, Refusal};
use crate::base::ids::SessionId;
use crate::base::latency::StageView;
use crate::base::time::Moment;
use crate::base::view::VolumeView;
use crate::io::archive::Place;
use crate::io::disk::OpenedVolume;
use crate::io::poller::Waker;
use crate::io::ring::Choice;
use crate::logic::mirror::interface::{Facts, Identity, Note, Order, Serving, Settings};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, oneshot};

/// Everything one shard thread needs; built by the daemon.
#[derive(Debug)]
pub struct ShardConfig {
    /// The volume's settings.
    pub settings: Settings,
    /// This process.
    pub identity: Identity,
    /// The local disk. `None`: start without one, for the reason below.
    pub disk: Option<OpenedVolume>,
    /// Why there is no disk.
    pub disk_reason: Option<String>,
    /// Where clients connect, bound already.
    pub listeners: Vec<NbdListener>,
    /// How long they are waited for.
    pub client_times: ClientTimes,
    /// Where the shard's events go, each with the volume's name.
    pub events: mpsc::UnboundedSender<(String, ShardEvent)>,
    /// How disk operations are carried out.
    pub disk_engine: Choice,
    /// Where what only this node has goes when it is given up.
    pub archive: Place,
    /// All buffers are in memory from the start and stay there: this kernel may write to us to free memory.
    pub reserves_memory: bool,
}

/// What a shard tells the daemon.
#[derive(Debug)]
pub enum ShardEvent {
    /// There is no session: dial or accept, after a back-off unless `reconnect_now`.
    LinkWanted {
        /// At once.
        reconnect_now: bool,
    },
    /// Look whether anyone listens at the peer's addresses; answer with [`ShardHandle::probed`].
    ProbeWanted,
    /// What a failover group must know has changed. Comes before the end of an order that changed it.
    Facts(Facts),
    /// An order of the failover group was carried out, or can't be.
    OrderDone {
        /// Which.
        id: u64,
        /// How it ended.
        result: Result<(), String>,
    },
    /// The disk given up is closed, a new one may be attached.
    DiskClosed,
    /// What is served has changed: `None` is nothing.
    Serving(Option<Serving>),
    /// The block device of this opening is closed: it was stopped.
    DeviceEnded {
        /// As [`ShardHandle::open_device`] named it.
        opening: u64,
    },
    /// For the log.
    Note(Note),
    /// After [`ShardHandle::stop`]: flushed and persisted, the thread ends.
    Stopped,
    /// The thread ended by a bug or because the kernel refused what it can't do without; it must not be restarted in
    /// this process.
    Fatal(String),
}

/// What a volume and its clients look like right now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardView {
    /// The volume.
    pub volume: VolumeView,
    /// Its clients on this node.
    pub clients: Vec<ClientView>,
}

/// A call into the shard thread.
#[derive(Debug)]
pub(super) enum Call {
    Command(Command, oneshot::Sender<CommandOutcome>),
    View(oneshot::Sender<ShardView>),
    Latency(oneshot::Sender<Vec<StageView>>),
    Dirty(usize, oneshot::Sender<Vec<(u64, u64)>>),
    Attach(Box<OpenedVolume>, oneshot::Sender<CommandOutcome>),
    OfferLink { stream: TcpStream, session: SessionId, peer: String },
    SetDisconnected(bool),
    Probed { refused: bool },
    Order { id: u64, order: Order },
    Permit { until: Option<Moment> },
    Archived { number: u64, result: Result<(), String> },
    Address { address: IpAddr, here: bool, done: oneshot::Sender<()> },
    Reconfigure(Box<Settings>, ClientTimes),
    AdoptDevice(UnixStream),
    CloseDevice,
    OpenDevice { server_side: OwnedFd, cache_epoch: u64, asker: std::sync::mpsc::SyncSender<io::Result<u64>> },
    Stop,
}

/// What a shard shows without being asked, in nanoseconds of its clock.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// When it last began a turn.
    pub turn: AtomicU64,
    /// When the link last carried something from the peer.
    pub link: AtomicU64,
}

/// Calls on their way to the shard.
#[derive(Debug)]
pub(super) struct Inbox {
    pub signs: Signs,
    waker: Waker,
    state: Mutex<InboxState>,
}

#[derive(Debug)]
struct InboxState {
    calls: VecDeque<Call>,
    /// What the volume looked like when the shard ended; calls are not taken any more.
    ended: bool,
    last_view: ShardView,
}

impl Inbox {
    pub fn new(waker: Waker, view: ShardView) -> Inbox {
        Inbox {
            signs: Signs::default(),
            waker,
            state: Mutex::new(InboxState { calls: VecDeque::new(), ended: false, last_view: view }),
        }
    }

    /// Takes the calls that came in.
    pub fn take(&self) -> VecDeque<Call> {
        self.waker.take();
        std::mem::take(&mut self.lock().calls)
    }

    /// Keeps a view for those who ask later.
    pub fn set_last_view(&self, view: ShardView) {
        self.lock().last_view = view;
    }

    /// The thread ends: calls are refused from here on, those waiting too.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.calls.clear();
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        // A poisoned lock only means that a caller panicked between two statements that leave the state sound.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn call(&self, call: Call) {
        let mut state = self.lock();
        if !state.ended {
            state.calls.push_back(call);
            drop(state);
            self.waker.wake();
        }
    }
}

/// Calls a shard from any thread. Every call wakes the shard.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    inbox: Arc<Inbox>,
}

impl ShardHandle {
    /// Starts the shard's thread. Fails when the kernel refuses what the thread can't do without.
    pub fn spawn(config: ShardConfig) -> io::Result<ShardHandle> {
        super::spawn(config).map(|inbox| ShardHandle { inbox })
    }

    /// Carries out an operator's command. Demoting is refused while clients are connected, unless forced.
    pub async fn command(&self, command: Command) -> CommandOutcome {
        let (sender, receiver) = oneshot::channel();
        self.inbox.call(Call::Command(command, sender));
        receiver.await.unwrap_or_else(|_| ended())
    }

    /// The volume as it is now; as it was last when the shard has ended.
    pub async fn view(&self) -> ShardView {
        let (sender, receiver) = oneshot::channel();
        self.inbox.call(Call::View(sender));
        match receiver.await {
            Ok(view) => view,
            Err(_) => self.inbox.lock().last_view.clone(),
        }
    }

    /// Where the time of requests went so far; nothing when the shard has ended.
    pub async fn latency(&self) -> Vec<StageView> {
        let (sender, receiver) = oneshot::channel();
        self.inbox.call(Call::Latency(sender));
        receiver.await.unwrap_or_default()
    }

    /// What differs or may differ from the peer, as offset and length in bytes, in order; at most `max_ranges`.
    pub async fn dirty(&self, max_ranges: usize) -> Vec<(u64, u64)> {
        let (sender, receiver) = oneshot::channel();
        self.inbox.call(Call::Dirty(max_ranges, sender));
        receiver.await.unwrap_or_default()
    }

    /// Gives the volume a disk. Refused while it has one.
    pub async fn attach(&self, disk: OpenedVolume) -> CommandOutcome {
        let (sender, receiver) = oneshot::channel();
        self.inbox.call(Call::Attach(Box::new(disk), sender));
        receiver.await.unwrap_or_else(|_| ended())
    }

    /// Hands over an authenticated connection; the next byte on it is the first frame. It replaces the session there
    /// is, if any. `peer` names the other end for the log.
    pub fn offer_link(&self, stream: TcpStream, session: SessionId, peer: String) {
        self.inbox.call(Call::OfferLink { stream, session, peer });
    }

    /// The operator's disconnect and connect. While disconnected there is no session, and none is wanted.
    pub fn set_disconnected(&self, disconnected: bool) {
        self.inbox.call(Call::SetDisconnected(disconnected));
    }

    /// Answers [`ShardEvent::ProbeWanted`]: whether every address of the peer refused the connection.
    pub fn probed(&self, refused: bool) {
        self.inbox.call(Call::Probed { refused });
    }

    /// An order of the failover group; answered by [`ShardEvent::OrderDone`].
    pub fn order(&self, id: u64, order: Order) {
        self.inbox.call(Call::Order { id, order });
    }

    /// The failover group's permit to serve reads; `None` when none is needed.
    pub fn permit(&self, until: Option<Moment>) {
        self.inbox.call(Call::Permit { until });
    }

    /// A floating address is here, or is about to leave this node: then clients that came to it are cut, and others turned
    /// away until it is here again. Returns when that is so.
    pub async fn set_address(&self, address: IpAddr, here: bool) {
        let (done, is_done) = oneshot::channel();
        self.inbox.call(Call::Address { address, here, done });
        // A shard that has ended has no clients.
        let _ = is_done.await;
    }

    /// Goes by other settings from here on; see [`crate::logic::mirror::Mirror::reconfigure`] for what may change.
    pub fn reconfigure(&self, settings: Settings, client_times: ClientTimes) {
        self.inbox.call(Call::Reconfigure(Box::new(settings), client_times));
    }

    /// When the shard last made a turn, and when the link last carried something from the peer.
    pub fn signs(&self) -> (Moment, Moment) {
        let read = |sign: &AtomicU64| Moment(sign.load(Ordering::Relaxed));
        (read(&self.inbox.signs.turn), read(&self.inbox.signs.link))
    }

    /// Serves a block device of this kernel from the shard's thread on, whose server's side this is; its users know the
    /// volume's cache by that epoch. Blocks until it is served. The opening's number, which [`ShardEvent::DeviceEnded`]
    /// names when the device was stopped.
    pub fn open_device(&self, server_side: OwnedFd, cache_epoch: u64) -> io::Result<u64> {
        let (asker, answer) = std::sync::mpsc::sync_channel(1);
        self.inbox.call(Call::OpenDevice { server_side, cache_epoch, asker });
        answer.recv().unwrap_or_else(|_| Err(io::Error::other("the volume's thread has ended")))
    }

    /// Serves one connection of this kernel's own NBD client, from the handshake on.
    pub fn adopt_device(&self, stream: UnixStream) {
        self.inbox.call(Call::AdoptDevice(stream));
    }

    /// Closes the block device that was handed over, whatever it has under way. Only after it was stopped in vain.
    pub fn close_device(&self) {
        self.inbox.call(Call::CloseDevice);
    }

    /// [`ShardHandle::command`] for a thread without a runtime.
    pub fn command_blocking(&self, command: Command) -> CommandOutcome {
        let (sender, receiver) = oneshot::channel();
        self.inbox.call(Call::Command(command, sender));
        receiver.blocking_recv().unwrap_or_else(|_| ended())
    }

    /// [`ShardHandle::view`] for a thread without a runtime.
    pub fn view_blocking(&self) -> ShardView {
        let (sender, receiver) = oneshot::channel();
        self.inbox.call(Call::View(sender));
        receiver.blocking_recv().unwrap_or_else(|_| self.inbox.lock().last_view.clone())
    }

    /// Flushes, persists and ends; [`ShardEvent::Stopped`] follows.
    pub fn stop(&self) {
        self.inbox.call(Call::Stop);
    }
}

fn ended() -> CommandOutcome {
    CommandOutcome::Refused(Refusal::new(
        "stopping",
        "The volume's thread has ended, so the command was not carried out.",
        "Start the daemon again and repeat it.",
    ))
}
