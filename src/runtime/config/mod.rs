//! The configuration: one TOML file, the same on both servers.
//!
//! ```text
//! text ─ document ─▶ sections ─ read ─▶ Config ─ check ─▶ Config     settings: the table of tunables
//!          every problem is gathered, with its line            reference: that table for people
//! ```
//! Relative paths are relative to the file. `--node` or the host name says which of the two nodes this one is.

mod document;

pub mod address;
pub mod problem;
pub mod reference;
pub mod secret;
pub mod settings;
pub mod units;

pub mod failover;
pub mod group;

pub mod change;
pub mod form;

mod check;
mod claims;
mod kinds;
mod order;
mod read;

#[cfg(test)]
mod tests;

use self::address::NbdAddress;
use self::failover::{ArbiterConfig, FailoverSettings, FencingConfig};
use self::form::Form;
use self::group::GroupConfig;
use self::problem::{Problem, Problems};
use self::secret::Secret;
use self::settings::{DaemonSettings, VolumeSettings};
use crate::base::ids::{NodeId, Uuid};
use crate::base::state::Exclusion;
use crate::logic::mirror::interface::Settings;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where the configuration is looked for without `-c`.
pub const DEFAULT_FILE: &str = "/etc/twinblock/twinblock.toml";
/// Largest configuration file, in bytes: one that is larger was named by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest name of a cluster, node or volume, in bytes: fits file names, NBD exports and one line of `status`.
pub const NAME_BYTES_MAX: usize = 64;
/// Volumes of one cluster: each is a thread and a connection.
pub const VOLUMES_MAX: usize = 256;
/// Addresses of one kind on one node or volume.
pub const ADDRESSES_MAX: usize = 16;

/// A configuration without problems.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// Name of the cluster.
    pub cluster: String,
    /// The file that holds the shared secret.
    pub secret_file: PathBuf,
    /// The key, when it was asked for.
    pub secret: Option<Secret>,
    /// Settings of the daemon.
    pub daemon: DaemonSettings,
    /// The two servers; their order is the same on both.
    pub nodes: [NodeConfig; 2],
    /// Which of them this is.
    pub node: NodeId,
    /// The volumes, in the order of the file.
    pub volumes: Vec<VolumeConfig>,
    /// Who decides that a server is lost, and how soon.
    pub failover: FailoverSettings,
    /// The arbiter, if there is one.
    pub arbiter: Option<ArbiterConfig>,
    /// How each node is switched off, by node.
    pub fencing: [Option<FencingConfig>; 2],
    /// What moves together.
    pub groups: Vec<GroupConfig>,
    /// Digest of [`form`](Config::form): tells the two servers whether their settings are the same.
    pub digest: u64,
    /// What is allowed but unwise.
    pub warnings: Vec<String>,
}

/// One server.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Name, unique.
    pub name: String,
    /// Addresses of the replication link, tried in turn.
    pub mirror: Vec<SocketAddr>,
    /// Addresses of the heartbeat.
    pub heartbeat: Vec<SocketAddr>,
    /// The control socket.
    pub control: PathBuf,
    /// Where the daemon keeps its lock.
    pub state_dir: PathBuf,
    /// Where archives go.
    pub archive_dir: PathBuf,
    /// Where the links to the volumes' block devices are.
    pub device_dir: PathBuf,
}

/// One volume.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// Name, unique; also the name of the NBD export.
    pub name: String,
    /// Its settings.
    pub settings: VolumeSettings,
    /// What it is made of on each node.
    pub on: [PlaceConfig; 2],
}

/// A volume on one node.
#[derive(Clone, Debug)]
pub struct PlaceConfig {
    /// The disk that holds the data: a block device or a regular file.
    pub disk: PathBuf,
    /// Where the metadata is: at the end of the disk (`None`), or on a device or file of its own.
    pub metadata: Option<PathBuf>,
    /// Where the volume is served.
    pub nbd: Vec<NbdAddress>,
}

/// How much of the world a load looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Only the file: enough to talk to the running daemon.
    File,
    /// The secret too: what the daemon needs.
    Secret,
}

/// Reads and checks a configuration. `node` names this node; without it the host name must be one of the two.
pub fn load(file: &Path, node: Option<&str>, depth: Depth) -> Result<Config, Problems> {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let text = read_text(file)?;
    parse(file, &text, node, &host, depth)
}

/// Checks the text of a configuration; `host` stands in for the host name.
pub fn parse(file: &Path, text: &str, node: Option<&str>, host: &str, depth: Depth) -> Result<Config, Problems> {
    read::read(file, text, read::Reader { node, host, depth })
}

impl Config {
    /// This node.
    pub fn this_node(&self) -> &NodeConfig {
        &self.nodes[usize::from(self.node.0)]
    }

    /// The other node.
    pub fn peer_node(&self) -> &NodeConfig {
        &self.nodes[usize::from(self.node.peer().0)]
    }

    /// Every setting in one form, whichever way it was written.
    pub fn form(&self) -> Form {
        form::of(self)
    }

    /// The volume of that name.
    pub fn volume(&self, name: &str) -> Option<&VolumeConfig> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    /// The group a volume belongs to.
    pub fn group_of(&self, volume: &str) -> Option<&GroupConfig> {
        self.groups.iter().find(|group| group.volumes.iter().any(|name| name == volume))
    }

    /// Identity of a volume: the same on both nodes, different in every cluster.
    pub fn volume_uuid(&self, volume: &str) -> Uuid {
        crate::io::disk::volume_uuid(&self.cluster, volume)
    }

    /// What the mirror core is given for a volume.
    pub fn core_settings(&self, volume: &VolumeConfig) -> Settings {
        let settings = &volume.settings;
        Settings {
            name: volume.name.clone(),
            node: self.node,
            node_names: [self.nodes[0].name.clone(), self.nodes[1].name.clone()],
            volume: self.volume_uuid(&volume.name),
            exclusion: if self.group_of(&volume.name).is_some() { Exclusion::Group } else { Exclusion::Operator },
            mode: settings.mode,
            overflow: settings.overflow,
            async_bytes_max: settings.async_bytes_max.0,
            async_age_max: settings.async_age_max,
            receipt_gating: settings.receipt_gating,
            exact_recovery: settings.exact_recovery,
            remote_io_timeout: settings.remote_io_timeout,
            link_timeout: settings.link_timeout,
            disk_timeout: settings.disk_timeout,
            suspend_max: settings.suspend_max,
            ping_interval: settings.ping_interval,
            flush_interval: settings.flush_interval,
            snapshot_interval: settings.snapshot_interval,
            intent_idle: settings.intent_idle,
            intent_sweep_interval: settings.intent_sweep_interval,
            unreadable_retry: settings.unreadable_retry,
            resync_rate_max: settings.resync_rate_max.0,
            resync_rate_min: settings.resync_rate_min.0,
            archive: settings.archive,
            split_brain: settings.split_brain,
            latency_allowance: settings.latency_allowance,
        }
    }
}

impl VolumeConfig {
    /// What the volume is made of on a node.
    pub fn place(&self, node: NodeId) -> &PlaceConfig {
        &self.on[usize::from(node.0)]
    }
}

fn read_text(file: &Path) -> Result<String, Problems> {
    let problem = |reason: String, next: &str| Problems {
        file: file.to_path_buf(),
        list: vec![Problem { line: None, key: String::new(), reason, next: next.into() }],
    };
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            problem("the configuration file does not exist".into(), "name another with -c FILE, or write it")
        }
        std::io::ErrorKind::InvalidData => {
            problem("the configuration file is not UTF-8 text".into(), "check that this is the right file")
        }
        _ => problem(format!("the configuration file can't be read: {error}"), "check its path and its permissions"),
    };
    let opened = std::fs::File::open(file).map_err(failed)?;
    let mut text = String::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let reason = format!("the configuration file has more than {FILE_BYTES_MAX} bytes");
        return Err(problem(reason, "check that this is the right file"));
    }
    Ok(text)
}
