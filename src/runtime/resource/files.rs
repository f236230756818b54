//! Configuration files that follow the group: copied to the other server whenever they change, put in place there before
//! the group's scripts and services start.
//!
//! ```text
//! here, group started                                   there
//!   inotify ─▶ settle ─▶ take up all of it ─▶ keep ──▶ transport ──▶ receive ─▶ keep
//!                                                                                 │ at its start
//!                                                         kept before it ◀─ put in place
//! ```
//! What is kept is one bundle with a version that rises with every change, whichever server made it. A start puts in place
//! what came from the other server and is newer than what was last in place here; before that, what it replaces is kept
//! beside it (`NAME.before`). Contents, permissions, owners and times are kept, symbolic links as links; extended
//! attributes are not.

use super::{Answer, Context, Events, Happened, Resource, State, Status, Trouble, What, left, span};
use crate::io::files::{self, FileError, Watcher};
use crate::wire::files::Bundle;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Paths of one resource.
const PATHS_MAX: usize = 64;
/// Largest `bytes_max`: what fits a bundle with everything around it.
const BYTES_MAX: u64 = 48 << 20;
/// Longest time one transfer to the peer may take.
const SEND_TIME_MAX: Duration = Duration::from_secs(20);
/// Pauses between two tries to reach the peer: the first, doubled each time up to the last.
const SEND_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Files of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// Name of the resource, unique in its group.
    pub name: String,
    /// Files and directories, with all that is below; absolute, the same on both servers.
    pub paths: Vec<PathBuf>,
    /// Most bytes they may have together; beyond it nothing is copied, and that is told.
    #[serde(default = "bytes_max")]
    pub bytes_max: u64,
    /// Time without a change after which they are copied: what belongs together travels together.
    #[serde(default = "settle", with = "span")]
    pub settle: Duration,
    /// Time between two looks at everything; changes are told by the kernel, this is for those missed.
    #[serde(default = "look_interval", with = "span")]
    pub look_interval: Duration,
}

impl FilesConfig {
    /// What is wrong with it whatever the server.
    pub fn check(&self) -> Result<(), Trouble> {
        let refuse = |reason: String, next: &str| Err(Trouble::config(&self.name, reason, next));
        if self.paths.is_empty() || self.paths.len() > PATHS_MAX {
            return refuse(format!("there are {} paths", self.paths.len()), "list from 1 to 64");
        }
        if !(1..=BYTES_MAX).contains(&self.bytes_max) {
            return refuse(
                format!("bytes_max is {}", self.bytes_max),
                "choose at most 48 MiB: this is for configuration",
            );
        }
        for (index, path) in self.paths.iter().enumerate() {
            let plain: PathBuf = path.components().collect();
            let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
            if !path.is_absolute() || plain.as_os_str() != path.as_os_str() || climbs || path.parent().is_none() {
                return refuse(
                    format!("{} is no plain absolute path", path.display()),
                    "write it from the root, without dots",
                );
            }
            let nested = |other: &PathBuf| other.starts_with(path) || path.starts_with(other);
            if let Some(other) = self.paths[index + 1..].iter().find(|other| nested(other)) {
                let reason = format!("{} and {} contain each other", path.display(), other.display());
                return refuse(reason, "list only the outer one");
            }
        }
        Ok(())
    }
}

/// Carries a bundle to the same resource on the other server, where [`SyncedFiles::receive`] takes it. Ends with success
/// when it was kept there; the error is a clause for people.
pub trait Transport {
    /// Sends the newest bundle of a resource.
    fn send<'a>(&'a self, resource: &'a str, bundle: Vec<u8>)
    -> Pin<Box<dyn Future<Output = Result<(), String>> + 'a>>;

    /// Bundles that may be in memory at a time to be sent, where resources share that.
    fn turns(&self) -> Option<Rc<Semaphore>> {
        None
    }
}

/// Files of a group on this server.
pub struct SyncedFiles {
    shared: Rc<Shared>,
    task: RefCell<Option<Task>>,
}

struct Shared {
    config: FilesConfig,
    /// Where bundles are kept.
    folder: PathBuf,
    /// Name of this server.
    node: String,
    transport: Rc<dyn Transport>,
    events: Events,
    /// Version of what is kept here.
    kept: Cell<u64>,
    /// Version the peer has, as far as known.
    sent: Cell<u64>,
    /// Why the last look failed, if it did.
    failing: RefCell<Option<Trouble>>,
    /// There is something to send.
    wake: Notify,
}

struct Task([JoinHandle<()>; 2]);

impl Drop for Task {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl SyncedFiles {
    /// Files of a group; bundles are kept below `folder`, which is this daemon's own.
    pub fn new(
        config: FilesConfig,
        folder: PathBuf,
        node: &str,
        transport: Rc<dyn Transport>,
        events: Events,
    ) -> SyncedFiles {
        let shared = Shared {
            config,
            folder,
            node: node.into(),
            transport,
            events,
            kept: Cell::new(0),
            sent: Cell::new(0),
            failing: RefCell::new(None),
            wake: Notify::new(),
        };
        SyncedFiles { shared: Rc::new(shared), task: RefCell::new(None) }
    }

    /// Takes a bundle that came from the other server, and keeps it for the next start here. Refused while the group is
    /// started here, and when it is older than what is kept.
    pub async fn receive(&self, bytes: Vec<u8>) -> Result<(), Trouble> {
        let shared = &self.shared;
        let name = &shared.config.name;
        let refuse = |reason: String, next: &str| Err(Trouble::transient(name, reason, next));
        if self.task.borrow().is_some() {
            let reason = "files came from the other server while the group is started here".to_string();
            return refuse(reason, "find out why both servers have the group started");
        }
        let (bytes, bundle) = blocking(move || {
            let bundle = Bundle::from_bytes(&bytes);
            (bytes, bundle)
        })
        .await;
        let bundle = match bundle {
            Ok(bundle) => bundle,
            Err(error) => {
                let reason = format!("what came from the other server is no bundle of files: {error}");
                return refuse(reason, "use the same release on both servers");
            }
        };
        shared.fits(&bundle)?;
        if let Some(kept) = shared.load().await?
            && (kept.version > bundle.version || kept.version == bundle.version && kept != bundle)
        {
            let reason =
                format!("version {} came, but version {} of {} is kept here", bundle.version, kept.version, kept.node);
            let next = format!(
                "both servers had the group by themselves: compare the files by hand; when {}'s are the right ones, remove \
                 {} on {}",
                bundle.node,
                shared.bundle_file().display(),
                shared.node
            );
            return refuse(reason, &next);
        }
        let (file, version) = (shared.bundle_file(), bundle.version);
        blocking(move || files::write_atomically(&file, &bytes)).await.map_err(|error| shared.unwritten(&error))?;
        shared.kept.set(version);
        Ok(())
    }

    fn check_now(&self) -> Result<(), Trouble> {
        let (config, folder) = (&self.shared.config, &self.shared.folder);
        config.check()?;
        if let Some(path) = config.paths.iter().find(|path| folder.starts_with(path)) {
            let reason = format!("{} contains the daemon's own files", path.display());
            return Err(Trouble::config(&config.name, reason, "list what belongs to the service alone"));
        }
        Ok(())
    }

    async fn start_now(&self, deadline: Instant) -> Result<(), Trouble> {
        self.check_now()?;
        let shared = &self.shared;
        if self.task.borrow().as_ref().is_some_and(|task| task.0.iter().all(|task| !task.is_finished())) {
            return Ok(());
        }
        self.task.borrow_mut().take();
        let prepare = async {
            shared.put_in_place().await?;
            shared.take_up().await
        };
        timeout_at(deadline, prepare).await.map_err(|_| shared.late())??;
        let looking = tokio::task::spawn_local(shared.clone().keep_looking());
        let sending = tokio::task::spawn_local(shared.clone().keep_sending());
        *self.task.borrow_mut() = Some(Task([looking, sending]));
        Ok(())
    }

    async fn stop_now(&self, deadline: Instant) -> Result<(), Trouble> {
        if self.task.borrow_mut().take().is_none() {
            return Ok(());
        }
        let shared = &self.shared;
        // The last change travels before the group does. That it can't is no reason to keep the group here.
        let last = async {
            shared.take_up().await.map_err(|trouble| trouble.reason)?;
            shared.send().await
        };
        let failed = match timeout(left(deadline), last).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(reason)) => reason,
            Err(_) => "there was no time left".into(),
        };
        shared.tell(What::Alarm(format!("the last version of the files is not on the other server: {failed}")));
        Ok(())
    }

    fn monitor_now(&self) -> Result<(), Trouble> {
        let shared = &self.shared;
        if let Some(trouble) = &*shared.failing.borrow() {
            return Err(trouble.clone());
        }
        match self.task.borrow().as_ref() {
            Some(task) if task.0.iter().all(|task| !task.is_finished()) => Ok(()),
            _ => Err(Trouble::transient(&shared.config.name, "nobody watches the files", "start the group again")),
        }
    }

    fn status_now(&self) -> Status {
        let shared = &self.shared;
        if self.task.borrow().is_none() {
            return Status::new(State::Stopped, format!("version {} is kept here", shared.kept.get()));
        }
        if let Some(trouble) = &*shared.failing.borrow() {
            return Status::new(State::Broken, trouble.to_string());
        }
        let (kept, sent) = (shared.kept.get(), shared.sent.get());
        let peer = if kept == sent { "the other server has it".into() } else { format!("the other server has {sent}") };
        Status::new(State::Started, format!("version {kept} is in place, {peer}"))
    }
}

impl Resource for SyncedFiles {
    fn name(&self) -> &str {
        &self.shared.config.name
    }

    fn check<'a>(&'a self, _: &'a Context, _: Instant) -> Answer<'a> {
        Box::pin(async { self.check_now() })
    }

    fn start<'a>(&'a self, _: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.start_now(deadline))
    }

    fn stop<'a>(&'a self, _: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.stop_now(deadline))
    }

    fn monitor<'a>(&'a self, _: &'a Context, _: Instant) -> Answer<'a> {
        Box::pin(async { self.monitor_now() })
    }

    fn status<'a>(&'a self, _: Instant) -> Answer<'a, Status> {
        Box::pin(async { Ok(self.status_now()) })
    }
}

impl Shared {
    fn file(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.config.name))
    }

    /// The newest bundle.
    fn bundle_file(&self) -> PathBuf {
        self.file("files")
    }

    /// What came from the other server, when it is newer than what was last in place here, is put there.
    async fn put_in_place(&self) -> Result<(), Trouble> {
        let Some(bundle) = self.load().await? else { return Ok(()) };
        self.fits(&bundle)?;
        self.kept.set(bundle.version);
        let placed = std::fs::read_to_string(self.file("placed")).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if bundle.node == self.node || placed.is_some_and(|placed| placed >= bundle.version) {
            return Ok(());
        }
        let (roots, most) = (self.config.paths.clone(), self.config.bytes_max);
        let (before, version) = (self.file("before"), bundle.version);
        let (own, mark) = (self.node.clone(), self.file("placed"));
        let done = blocking(move || {
            // What can't be taken up (it may not exist yet) can't be kept, either.
            if let Ok(entries) = files::capture(&roots, most) {
                let replaced = Bundle { version: 0, node: own, roots: names(&roots), entries };
                let written = files::write_atomically(&before, &replaced.to_bytes());
                written.map_err(|error| FileError { path: before, reason: error.to_string() })?;
            }
            let changed = files::apply(&roots, &bundle.entries)?;
            let written = files::write_atomically(&mark, version.to_string().as_bytes());
            written.map_err(|error| FileError { path: mark, reason: error.to_string() })?;
            Ok((changed, bundle.node))
        })
        .await;
        let (changed, node) = done.map_err(|error: FileError| self.file_trouble("put in place", &error))?;
        tracing::info!("{}: version {version} of {node} is in place, {changed} changes", self.config.name);
        Ok(())
    }

    /// Takes up the files as they are, and keeps them when they changed.
    async fn take_up(&self) -> Result<(), Trouble> {
        let (roots, most) = (self.config.paths.clone(), self.config.bytes_max);
        let kept = self.load().await?;
        let (file, mark, node) = (self.bundle_file(), self.file("placed"), self.node.clone());
        let done = blocking(move || {
            let entries = files::capture(&roots, most)?;
            let version = kept.as_ref().map_or(0, |kept| kept.version);
            if kept.is_some_and(|kept| kept.entries == entries) {
                return Ok(version);
            }
            let version = version + 1;
            let bytes = Bundle { version, node, roots: names(&roots), entries }.to_bytes();
            // The mark first: a crash between the two must not put an older version in place over this one.
            for (file, bytes) in [(mark, version.to_string().into_bytes()), (file, bytes)] {
                let written = files::write_atomically(&file, &bytes);
                written.map_err(|error| FileError { path: file, reason: error.to_string() })?;
            }
            Ok(version)
        })
        .await;
        let version = done.map_err(|error: FileError| self.file_trouble("copied", &error))?;
        if version != self.kept.replace(version) || self.sent.get() != version {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Sends what is kept, unless the peer has it.
    async fn send(&self) -> Result<(), String> {
        let version = self.kept.get();
        if self.sent.get() == version {
            return Ok(());
        }
        let turns = self.transport.turns();
        let _turn = match &turns {
            Some(turns) => Some(turns.acquire().await.expect("the semaphore is never closed")),
            None => None,
        };
        let file = self.bundle_file();
        let bytes = blocking(move || std::fs::read(file)).await.map_err(|error| error.to_string())?;
        let sent = timeout(SEND_TIME_MAX, self.transport.send(&self.config.name, bytes)).await;
        sent.unwrap_or_else(|_| Err("the other server did not answer in time".into()))?;
        self.sent.set(version);
        Ok(())
    }

    async fn keep_looking(self: Rc<Self>) {
        loop {
            // Opened before the look, so that no change between the two is missed.
            let watcher = Watcher::open(&self.config.paths).ok();
            match self.take_up().await {
                Ok(()) => {
                    if self.failing.borrow_mut().take().is_some() {
                        self.tell(What::Repaired("the files are copied again".into()));
                    }
                }
                Err(trouble) => {
                    // The service goes on with its files; what suffers is the next failover.
                    let before = self.failing.replace(Some(trouble.clone()));
                    if before.as_ref() != Some(&trouble) {
                        self.tell(What::Alarm(trouble.to_string()));
                    }
                }
            }
            let changed = async {
                match &watcher {
                    Some(watcher) if watcher.changed().await.is_ok() => {}
                    // Without the kernel's help the looks at intervals have to do.
                    _ => std::future::pending().await,
                }
            };
            if timeout(self.config.look_interval, changed).await.is_ok() {
                sleep(self.config.settle).await;
            }
        }
    }

    async fn keep_sending(self: Rc<Self>) {
        let mut pause = SEND_PAUSES.0;
        let mut told = false;
        loop {
            match self.send().await {
                Ok(()) => {
                    (pause, told) = (SEND_PAUSES.0, false);
                    self.wake.notified().await;
                }
                Err(reason) => {
                    if !told {
                        told = true;
                        let words = format!("the files could not be copied to the other server: {reason}; tried again");
                        self.tell(What::Alarm(words));
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(SEND_PAUSES.1);
                }
            }
        }
    }

    /// The newest bundle, if there is one. Not on this thread: it may be large, and its disk slow.
    async fn load(&self) -> Result<Option<Bundle>, Trouble> {
        let file = self.bundle_file();
        let read = blocking(move || std::fs::read(file).map(|bytes| Bundle::from_bytes(&bytes))).await;
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unwritten(&error)),
            Ok(Ok(bundle)) => Ok(Some(bundle)),
            Ok(Err(error)) => {
                let reason = format!("{} is damaged: {error}", self.bundle_file().display());
                let next = "remove it; the other server's copy, or the files as they are, take its place";
                Err(Trouble::environment(&self.config.name, reason, next))
            }
        }
    }

    /// Whether a bundle is of the same paths.
    fn fits(&self, bundle: &Bundle) -> Result<(), Trouble> {
        if bundle.roots == names(&self.config.paths) {
            return Ok(());
        }
        let reason = format!("{} lists other paths for it than this server", bundle.node);
        Err(Trouble::config(&self.config.name, reason, "use the same configuration on both servers"))
    }

    fn file_trouble(&self, what: &str, error: &FileError) -> Trouble {
        let reason = format!("the files can't be {what}: {}: {}", error.path.display(), error.reason);
        Trouble::environment(
            &self.config.name,
            reason,
            "see whether it exists, what it is, and whether the disk is full",
        )
    }

    fn unwritten(&self, error: &std::io::Error) -> Trouble {
        let reason = format!("{} can't be used: {error}", self.folder.display());
        Trouble::environment(&self.config.name, reason, "see whether its disk is full or read-only")
    }

    fn late(&self) -> Trouble {
        Trouble::transient(&self.config.name, "the files were not in place in time", "see whether their disk hangs")
    }

    fn tell(&self, what: What) {
        // Nobody listening any more means that the daemon ends.
        let _ = self.events.send(Happened { resource: self.config.name.clone(), what });
    }
}

fn names(paths: &[PathBuf]) -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    paths.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect()
}

/// Reads and writes files away from the daemon's main thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn bytes_max() -> u64 {
    16 << 20
}

fn settle() -> Duration {
    Duration::from_millis(200)
}

fn look_interval() -> Duration {
    Duration::from_secs(10)
}
