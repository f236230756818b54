//! `run`: the daemon of one node.
//!
//! ```text
//! main thread (one tokio runtime)                     one thread per volume
//!   control socket ─▶ control ─┐ command, view, …       shard: core, disk, clients, link
//!   peer: dial / listen ───────┼──────────────────▶     │
//!   signals ─▶ stop            │                        │
//!   events ◀───────────────────┴─── notes, link wanted ─┘
//! ```
//! Nothing on this thread is on the path of a request. A volume whose disk can't be opened starts without one, and the
//! daemon goes on.

mod instance;
mod log;
mod notify;
mod remembered;
mod sockets;

mod volume;

mod groups;

mod compare;
mod control;
mod events;
mod files;
mod reload;
mod replace;

pub use self::compare::{Compared, Comparison};
use self::instance::Instance;
pub use self::instance::die_with_parent;
use self::volume::Volume;
pub use self::volume::spec as disk_spec;
use crate::base::ids::{BootId, Incarnation};
use crate::io::memory;
use crate::logic::mirror::interface::Identity;
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::config::Config;
use crate::runtime::config::form::Difference;
use crate::runtime::control::server;
use crate::runtime::events as happenings;
use crate::runtime::group::Groups;
use crate::runtime::peer::{self, Links, Local};
use crate::runtime::shard::ShardEvent;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::sync::mpsc;

/// What the command line says about a run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Log filter; goes before the configuration's.
    pub log: Option<String>,
    /// End at once when the parent process ends.
    pub die_with_parent: bool,
}

/// Everything the tasks of the daemon share.
pub struct Daemon {
    /// The configuration it was started with: what a reload can't change is looked up here.
    pub config: Config,
    /// The one it runs with now.
    running: RefCell<Rc<Config>>,
    /// What the file has had since the last reload and only a restart brings.
    waiting: RefCell<Vec<Difference>>,
    /// How the peer's configuration differs.
    pub comparison: Comparison,
    /// The log's filter is the command line's.
    log_is_fixed: bool,
    /// In the order of the configuration.
    pub volumes: Vec<Rc<Volume>>,
    /// The link's side of this node.
    pub local: Rc<Local>,
    /// The failover groups, if there are any.
    pub groups: Option<Groups>,
    /// What happened, kept and announced.
    pub happenings: happenings::Events,
}

impl Daemon {
    /// The configuration it runs with now, with what was reloaded.
    pub fn running(&self) -> Rc<Config> {
        self.running.borrow().clone()
    }
}

type Events = mpsc::UnboundedReceiver<(String, ShardEvent)>;

/// Runs the daemon until it is told to stop.
pub fn run(config: Config, options: &RunOptions) -> Result<Exit, Failure> {
    if options.die_with_parent {
        instance::die_with_parent()?;
    }
    log::start(options.log.as_deref().unwrap_or(&config.daemon.log))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if config.volumes.iter().any(|volume| volume::has_device(&config, volume)) {
        be_safe_in_shortage();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("the kernel refuses what the daemon needs: {error}")))?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, run_on_runtime(config, options.log.is_some()))
}

/// The kernel may write to our devices in order to free memory. Without these it works all the same, until memory is short.
fn be_safe_in_shortage() {
    if let Err(error) = memory::become_io_flusher() {
        tracing::warn!(
            "not marked as needed for write-back ({error}): when memory is short, the volumes' block devices may hang; run \
             the daemon with CAP_SYS_RESOURCE"
        );
    }
    if let Err(error) = memory::lock_memory() {
        tracing::warn!(
            "memory can't be locked ({error}): when memory is short, the volumes' block devices may hang; run the daemon \
             with CAP_IPC_LOCK"
        );
    }
}

async fn run_on_runtime(config: Config, log_is_fixed: bool) -> Result<Exit, Failure> {
    let instance = Instance::begin(config.this_node())?;
    groups::remove_left_behind(&config).await;
    // From here on a stale socket can only be that of a dead daemon: this one holds the lock.
    let mut bound = sockets::bind_all(&config)?;
    let signals = events::Signals::new()?;
    let identity = identity()?;
    let local = Rc::new(Local::new(&config, identity.incarnation));
    let (sender, events) = mpsc::unbounded_channel();
    let mut volumes = Vec::new();
    for volume in &config.volumes {
        let listeners = bound.nbd.remove(&volume.name).unwrap_or_default();
        volumes.push(Rc::new(Volume::start(&config, volume, identity, listeners, sender.clone())?));
    }
    let seed = volume::random().map_err(|error| Failure::new(Exit::Failed, error))?;
    let happenings = events::start(&config)?;
    let (out, files) = mpsc::channel(1);
    let groups = groups::start(&config, &volumes, identity, seed, happenings.clone(), out)?;
    let (running, waiting) = (RefCell::new(Rc::new(config.clone())), RefCell::default());
    let daemon = Rc::new(Daemon {
        config,
        running,
        waiting,
        comparison: Comparison::default(),
        log_is_fixed,
        volumes,
        local,
        groups,
        happenings,
    });
    compare::answer_peer(&daemon, &daemon.local);
    serve_peer(&daemon, bound.peer);
    tokio::task::spawn_local(compare::keep_comparing(daemon.clone()));
    tokio::task::spawn_local(files::keep_carrying(daemon.clone(), files));
    serve_control(&daemon, bound.control);
    say!(
        "twinblock: node {} of cluster {} is ready, {}",
        daemon.config.this_node().name,
        daemon.config.cluster,
        match daemon.volumes.len() {
            1 => "1 volume".to_string(),
            n => format!("{n} volumes"),
        }
    );
    notify::tell("READY=1");
    let exit = events::until_stopped(&daemon, events, signals).await;
    for path in bound.made {
        let _ = std::fs::remove_file(path);
    }
    drop(instance);
    exit
}

fn serve_peer(daemon: &Daemon, listeners: Vec<tokio::net::TcpListener>) {
    let links: Links = Rc::new(daemon.volumes.iter().map(|volume| volume.link.clone()).collect());
    let places = Rc::new(peer::listen::Places::new(&daemon.local));
    for listener in listeners {
        tokio::task::spawn_local(peer::listen::serve(listener, daemon.local.clone(), links.clone(), places.clone()));
    }
    // The first node dials, the second waits for it.
    if daemon.local.node.0 == 0 {
        for link in links.iter() {
            let (local, link) = (daemon.local.clone(), link.clone());
            tokio::task::spawn_local(async move { peer::dial::keep_connected(&local, &link).await });
        }
    }
}

fn serve_control(daemon: &Rc<Daemon>, listener: tokio::net::UnixListener) {
    let (daemon, timed) = (daemon.clone(), daemon.clone());
    let idle_max = move || timed.running().daemon.control_idle_max;
    tokio::task::spawn_local(server::serve(listener, idle_max, move |ask| {
        let daemon = daemon.clone();
        async move { control::answer(&daemon, ask).await }
    }));
}

/// Who this process is. The seed of the core's own numbers is drawn for each volume anew.
fn identity() -> Result<Identity, Failure> {
    let failed = |what: &str, error: String| Failure::new(Exit::Failed, format!("{what} can't be read: {error}"));
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(|error| failed(path, error.to_string()))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let boot = u128::from_str_radix(&digits, 16).map_err(|error| failed(path, error.to_string()))?;
    let incarnation = volume::random().map_err(|error| failed("the kernel's random numbers", error))?;
    Ok(Identity { incarnation: Incarnation(incarnation), boot: BootId(boot), seed: 0 })
}

/// The configured place of a volume's disk, which may have changed since the daemon started.
type Place = RefCell<crate::runtime::config::PlaceConfig>;
