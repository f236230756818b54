//! Keeps a volume's block device as what is served wants it.

use super::kind::{Condition, Kind, Left};
use super::nbd::Nbd;
use super::ublk::Ublk;
use super::{DeviceState, DeviceView, FrontEnd, in_words, link, users_of};
use crate::base::command::{Command, CommandOutcome};
use crate::base::limits::{DEVICE_RETRY_MAX, DEVICE_RETRY_MIN};
use crate::base::state::Role;
use crate::logic::mirror::interface::Serving;
use crate::runtime::shard::ShardHandle;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;

/// Time between two looks at a device, and at what keeps a parked one from being served.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a keeper is made of.
#[derive(Debug)]
pub struct KeeperConfig {
    /// The volume's name.
    pub volume: String,
    /// What tells its device on this node from every other: cluster, volume, node.
    pub identity: String,
    /// By what it is served; a block device of some kind.
    pub front_end: FrontEnd,
    /// Where the stable link belongs.
    pub link: PathBuf,
    /// A failover group decides who serves.
    pub in_group: bool,
    /// The volume's thread.
    pub shard: ShardHandle,
}

/// A keeper's face towards the daemon.
#[derive(Debug)]
pub struct Keeper {
    orders: Sender<Order>,
    shown: Arc<Mutex<DeviceView>>,
}

#[derive(Debug)]
enum Order {
    Serving(Option<Serving>),
    Ended { opening: u64 },
    Leave(oneshot::Sender<()>),
}

impl Keeper {
    /// Starts the thread.
    pub fn start(config: KeeperConfig) -> std::io::Result<Keeper> {
        let (orders, receiver) = channel();
        let view = DeviceView { state: DeviceState::Absent, link: config.link.clone(), device: None, trouble: None };
        let shown = Arc::new(Mutex::new(view));
        let name = format!("device-{}", config.volume);
        let worker = Worker {
            config,
            orders: receiver,
            shown: shown.clone(),
            wanted: None,
            live: None,
            parked: None,
            leaving: None,
            retry: DEVICE_RETRY_MIN,
            told: None,
        };
        std::thread::Builder::new().name(name).spawn(move || worker.run())?;
        Ok(Keeper { orders, shown })
    }

    /// What is served has changed.
    pub fn serving(&self, serving: Option<Serving>) {
        self.order(Order::Serving(serving));
    }

    /// The shard has closed the device of that opening.
    pub fn ended(&self, opening: u64) {
        self.order(Order::Ended { opening });
    }

    /// The device as it is.
    pub fn view(&self) -> DeviceView {
        lock(&self.shown).clone()
    }

    /// The daemon stops: a device nobody uses is removed; one in use stays, parked for the next daemon. Returns when
    /// that is done.
    pub async fn leave(&self) {
        let (asker, answer) = oneshot::channel();
        self.order(Order::Leave(asker));
        // An error means that the thread has ended already.
        answer.await.unwrap_or(());
    }

    fn order(&self, order: Order) {
        // The thread ends only after `leave`.
        self.orders.send(order).unwrap_or(());
    }
}

/// The device there is.
struct Live {
    kind: Box<dyn Kind>,
    id: u32,
    serving: Serving,
}

impl Live {
    fn path(&self) -> PathBuf {
        self.kind.path(self.id)
    }
}

struct Worker {
    config: KeeperConfig,
    orders: Receiver<Order>,
    shown: Arc<Mutex<DeviceView>>,
    wanted: Option<Serving>,
    live: Option<Live>,
    /// A device of an earlier daemon whose users wait.
    parked: Option<(Box<dyn Kind>, u32)>,
    leaving: Option<oneshot::Sender<()>>,
    /// Wait before the next try after a failure.
    retry: Duration,
    /// Trouble that is in the log already.
    told: Option<String>,
}

impl Worker {
    fn run(mut self) {
        self.find_parked();
        loop {
            let failed = self.wanted.is_some() && self.live.is_none();
            let wait = match () {
                () if failed => self.retry,
                () if self.parked.is_some() || self.live.is_some() => LOOK_INTERVAL,
                () => Duration::MAX,
            };
            // A moment too far away for the channel to wait for is none.
            let order = match wait {
                Duration::MAX => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                wait => self.orders.recv_timeout(wait),
            };
            match order {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Some(asker) = self.leaving.take() {
                self.leave();
                return asker.send(()).unwrap_or(());
            }
            match self.reconcile() {
                Ok(()) => self.retry = DEVICE_RETRY_MIN,
                Err(trouble) => {
                    self.show_trouble(trouble);
                    self.retry = (self.retry * 2).min(DEVICE_RETRY_MAX);
                }
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Serving(serving) => {
                self.wanted = serving;
                self.retry = DEVICE_RETRY_MIN;
            }
            // What we ended ourselves is not there any more, or another one is.
            Order::Ended { opening } => {
                if let Some(live) = self.live.take_if(|live| live.kind.opening() == Some(opening)) {
                    self.ended(live);
                }
            }
            Order::Leave(asker) => self.leaving = Some(asker),
        }
    }

    /// Looks at the device, for what nobody tells.
    fn look(&mut self) {
        let Some(mut live) = self.live.take() else { return };
        let device = live.path();
        match live.kind.condition(live.id) {
            Condition::Served => {}
            Condition::Ended => return self.ended(live),
            Condition::Severed => match live.kind.take_over(live.id, live.serving) {
                Ok(true) => {
                    tracing::warn!(volume = self.config.volume, "{} was cut off, and goes on", device.display());
                    self.told = None;
                    self.show(DeviceState::Live, Some(device));
                }
                Ok(false) => return self.ended(live),
                Err(trouble) => self.show_trouble(format!("{} is cut off: {trouble}", device.display())),
            },
        }
        self.live = Some(live);
    }

    /// Somebody used the driver's own tools.
    fn ended(&mut self, live: Live) {
        tracing::error!(volume = self.config.volume, "{} was stopped by somebody else", live.path().display());
        self.end(live);
    }

    fn reconcile(&mut self) -> Result<(), String> {
        let life = |serving: &Serving| serving.cache_epoch;
        match (self.live.take(), self.wanted) {
            (None, None) => {
                self.tend_parked();
                Ok(())
            }
            (None, Some(serving)) => self.make(serving),
            (Some(mut live), Some(serving)) if life(&live.serving) == life(&serving) => {
                let resized = match live.serving.size_bytes == serving.size_bytes {
                    true => Ok(()),
                    false => live.kind.resize(live.id, serving.size_bytes),
                };
                live.serving = serving;
                self.live = Some(live);
                resized
            }
            (Some(live), wanted) => {
                self.end(live);
                wanted.map_or(Ok(()), |serving| self.make(serving))
            }
        }
    }

    /// The kinds of device to try, the best first; an error says why one can't be had.
    fn kinds(&self) -> Vec<Result<Box<dyn Kind>, String>> {
        match self.config.front_end {
            FrontEnd::Ublk => vec![self.ublk(true)],
            FrontEnd::NbdDevice => vec![self.nbd(true)],
            _ => match Ublk::open(true, &self.config.identity, &self.config.shard) {
                Ok(ublk) if ublk.survives_kills() => vec![Ok(Box::new(ublk))],
                Ok(ublk) => vec![self.nbd(true), Ok(Box::new(ublk))],
                Err(trouble) => vec![self.nbd(true), Err(trouble)],
            },
        }
    }

    fn ublk(&self, load: bool) -> Result<Box<dyn Kind>, String> {
        Ok(Box::new(Ublk::open(load, &self.config.identity, &self.config.shard)?))
    }

    fn nbd(&self, load: bool) -> Result<Box<dyn Kind>, String> {
        Ok(Box::new(Nbd::open(load, &self.config.identity, &self.config.volume, &self.config.shard)?))
    }

    /// Looks for a device that an earlier daemon of this node left.
    fn find_parked(&mut self) {
        // Of either kind: the choice may have been another one then. Without its module a kind has none.
        for mut kind in [self.ublk(false), self.nbd(false)].into_iter().flatten() {
            let left = kind.left();
            let parked = left.iter().find(|left| left.is_used && self.parked.is_none()).copied();
            for Left { id, .. } in left.into_iter().filter(|left| Some(*left) != parked) {
                let path = kind.path(id);
                tracing::info!(volume = self.config.volume, "{} is left over and is removed", path.display());
                self.remove(&mut *kind, id);
            }
            if let Some(Left { id, .. }) = parked {
                let path = kind.path(id);
                tracing::warn!(
                    volume = self.config.volume,
                    "{} is parked: its users wait until the volume is served here again",
                    path.display()
                );
                self.show(DeviceState::Parked, Some(path));
                self.parked = Some((kind, id));
            }
        }
    }

    /// A parked device waits for the volume to be served here; when the other server serves it, its users hear that.
    fn tend_parked(&mut self) {
        let Some((kind, id)) = &mut self.parked else { return };
        let path = kind.path(*id);
        let view = self.config.shard.view_blocking().volume;
        if view.peer_role == Some(Role::Primary) {
            tracing::error!(
                volume = self.config.volume,
                "the other server has taken over: {} is removed, its users get errors",
                path.display()
            );
            if let Some((mut kind, id)) = self.parked.take() {
                self.remove(&mut *kind, id);
            }
            return self.show(DeviceState::Absent, None);
        }
        if self.config.in_group {
            return;
        }
        // This node served it when the daemon ended, so it goes on unless something speaks against it.
        match self.config.shard.command_blocking(Command::Promote { force: false }) {
            CommandOutcome::Done(_) => {
                tracing::warn!(volume = self.config.volume, "primary again, for the users of {}", path.display());
            }
            CommandOutcome::Refused(refusal) => {
                self.show_trouble(format!("its users wait: {refusal}"));
                lock(&self.shown).state = DeviceState::Parked;
            }
        }
    }

    fn make(&mut self, serving: Serving) -> Result<(), String> {
        self.show(DeviceState::Starting, None);
        link::check(&self.config.link)?;
        if let Some((mut kind, id)) = self.parked.take() {
            let path = kind.path(id);
            match kind.take_over(id, serving) {
                Ok(true) => {
                    tracing::warn!(volume = self.config.volume, "{} goes on", path.display());
                    return self.began(kind, id, serving);
                }
                Ok(false) => tracing::error!(
                    volume = self.config.volume,
                    "writes that the users of {} never flushed may be lost: it does not go on, they get errors",
                    path.display()
                ),
                Err(trouble) => {
                    self.parked = Some((kind, id));
                    return Err(format!("{} can't go on: {trouble}", path.display()));
                }
            }
            self.remove(&mut *kind, id);
        }
        let mut troubles = Vec::new();
        for kind in self.kinds() {
            match kind.and_then(|mut kind| kind.make(serving).map(|id| (kind, id))) {
                Ok((kind, id)) => return self.began(kind, id, serving),
                Err(trouble) => troubles.push(trouble),
            }
        }
        Err(format!("{}; or serve it otherwise: front_end = \"nbd-export\"", troubles.join("; ")))
    }

    fn began(&mut self, kind: Box<dyn Kind>, id: u32, serving: Serving) -> Result<(), String> {
        let device = kind.path(id);
        self.live = Some(Live { kind, id, serving });
        link::set(&self.config.link, &device)?;
        tracing::info!(volume = self.config.volume, "served as {} -> {}", self.config.link.display(), device.display());
        self.told = None;
        self.show(DeviceState::Live, Some(device));
        Ok(())
    }

    /// Ends the device; whoever uses it gets errors.
    fn end(&mut self, mut live: Live) {
        let device = live.path();
        for user in users_of(&device) {
            tracing::error!(volume = self.config.volume, "{} is removed while it is {user}", device.display());
        }
        self.show(DeviceState::Stopping, Some(device));
        if self.remove(&mut *live.kind, live.id) {
            self.show(DeviceState::Absent, None);
        }
    }

    fn remove(&mut self, kind: &mut dyn Kind, id: u32) -> bool {
        let device = kind.path(id);
        let removed = kind.remove(id);
        // As long as the device is there, the link tells whose it is: a file system on it is unmounted by that.
        link::remove(&self.config.link, &device);
        if let Err(trouble) = &removed {
            self.show_trouble(format!("{} stays: {trouble}", device.display()));
        }
        removed.is_ok()
    }

    fn leave(&mut self) {
        let Some(live) = self.live.take() else { return };
        let device = live.path();
        let users = users_of(&device);
        if users.is_empty() {
            return self.end(live);
        }
        tracing::warn!(
            volume = self.config.volume,
            "{} is {}: it stays, and its users wait for the next start of the daemon",
            device.display(),
            in_words(&users)
        );
        self.show(DeviceState::Parked, Some(device));
    }

    fn show(&mut self, state: DeviceState, device: Option<PathBuf>) {
        let mut shown = lock(&self.shown);
        shown.state = state;
        shown.device = device;
        shown.trouble = None;
    }

    fn show_trouble(&mut self, trouble: String) {
        let mut shown = lock(&self.shown);
        shown.state = DeviceState::Failed;
        shown.trouble = Some(trouble.clone());
        drop(shown);
        if self.told.as_ref() != Some(&trouble) {
            tracing::error!(volume = self.config.volume, "the block device: {trouble}");
            self.told = Some(trouble);
        }
    }
}

fn lock(shown: &Mutex<DeviceView>) -> MutexGuard<'_, DeviceView> {
    // A poisoned lock only means that a reader panicked.
    shown.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::super::kind::Left;
    use super::*;
    use crate::base::ids::{BootId, Incarnation, NodeId};
    use crate::io::archive::Place;
    use crate::io::disk::volume_uuid;
    use crate::io::ring::Choice;
    use crate::logic::mirror::interface::{Identity, Settings};
    use crate::runtime::config::settings::VolumeSettings;
    use crate::runtime::shard::ShardConfig;
    use std::path::Path;

    type Asked = Arc<Mutex<Vec<&'static str>>>;

    /// A device that only remembers what was asked of it.
    struct Pretended {
        opening: u64,
        asked: Asked,
    }

    impl Kind for Pretended {
        fn path(&self, id: u32) -> PathBuf {
            format!("/dev/no-such-device-{id}").into()
        }

        fn left(&mut self) -> Vec<Left> {
            Vec::new()
        }

        fn make(&mut self, _: Serving) -> Result<u32, String> {
            Err("not asked for".into())
        }

        fn take_over(&mut self, _: u32, _: Serving) -> Result<bool, String> {
            Ok(false)
        }

        fn opening(&self) -> Option<u64> {
            Some(self.opening)
        }

        fn resize(&mut self, _: u32, _: u64) -> Result<(), String> {
            self.asked.lock().unwrap().push("resize");
            Ok(())
        }

        fn remove(&mut self, _: u32) -> Result<(), String> {
            self.asked.lock().unwrap().push("remove");
            Ok(())
        }
    }

    const SERVING: Serving = Serving { size_bytes: 1 << 20, cache_epoch: 7 };

    /// A keeper's worker whose device was opened for the `opening`th time.
    fn worker(folder: &Path, opening: u64) -> (Worker, Asked) {
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        let shard = ShardHandle::spawn(ShardConfig {
            settings: Settings::usual(NodeId(0), volume_uuid("lab", "vol0")),
            identity: Identity { incarnation: Incarnation(1), boot: BootId(1), seed: 1 },
            disk: None,
            disk_reason: Some("left out by the test".into()),
            listeners: Vec::new(),
            client_times: VolumeSettings::default().client_times(),
            events,
            disk_engine: Choice::Automatic,
            archive: Place { directory: folder.join("archive"), bytes_max: 1 << 20 },
            reserves_memory: false,
        });
        let link = folder.join("vol0");
        let config = KeeperConfig {
            volume: "vol0".into(),
            identity: "lab/vol0/0".into(),
            front_end: FrontEnd::Ublk,
            link: link.clone(),
            in_group: false,
            shard: shard.unwrap(),
        };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kind = Box::new(Pretended { opening, asked: asked.clone() });
        let view = DeviceView { state: DeviceState::Live, link, device: None, trouble: None };
        let worker = Worker {
            config,
            orders: channel().1,
            shown: Arc::new(Mutex::new(view)),
            wanted: Some(SERVING),
            live: Some(Live { kind, id: 0, serving: SERVING }),
            parked: None,
            leaving: None,
            retry: DEVICE_RETRY_MIN,
            told: None,
        };
        (worker, asked)
    }

    #[test]
    fn the_late_end_of_a_device_does_not_take_down_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let (mut worker, asked) = worker(folder.path(), 2);
        worker.take(Order::Ended { opening: 1 });
        assert!(worker.live.is_some() && asked.lock().unwrap().is_empty());
        worker.take(Order::Ended { opening: 2 });
        assert!(worker.live.is_none());
        assert_eq!(*asked.lock().unwrap(), ["remove"]);
        worker.config.shard.stop();
    }

    #[test]
    fn a_volume_that_has_grown_keeps_its_device() {
        let folder = tempfile::tempdir().unwrap();
        let (mut worker, asked) = worker(folder.path(), 1);
        worker.take(Order::Serving(Some(SERVING)));
        worker.reconcile().unwrap();
        assert!(asked.lock().unwrap().is_empty());
        worker.take(Order::Serving(Some(Serving { size_bytes: 2 << 20, ..SERVING })));
        worker.reconcile().unwrap();
        assert_eq!(*asked.lock().unwrap(), ["resize"]);
        assert!(worker.live.is_some());
        worker.config.shard.stop();
    }
}
