//! One volume of the daemon: its shard, its link, and the disk it is configured to have.

use super::{Place, remembered};
use crate::base::command::Refusal;
use crate::io::archive::Place as ArchivePlace;
use crate::io::disk::{DiskSpec, MetadataPlace, OpenedVolume, open_volume};
use crate::logic::mirror::interface::Identity;
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::config::{Config, PlaceConfig, VolumeConfig};
use crate::runtime::device::{FrontEnd, Keeper, KeeperConfig};
use crate::runtime::peer::{Offer, VolumeLink};
use crate::runtime::shard::{NbdListener, ShardConfig, ShardEvent, ShardHandle};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::sync::{Mutex, Notify, mpsc};

/// A volume while the daemon runs.
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Calls into its thread.
    pub shard: ShardHandle,
    /// Its link to the peer.
    pub link: Rc<VolumeLink>,
    /// Its block device, if it is to have one.
    pub device: Option<Keeper>,
    /// What it is made of on this node.
    pub place: Place,
    /// Whether the shard may still have a disk open.
    pub disk_open: Cell<bool>,
    /// The shard closed its disk.
    pub disk_closed: Notify,
    /// Held by whoever changes the disk; one at a time.
    pub disk_change: Mutex<()>,
    /// The shard's thread has ended.
    pub ended: Cell<bool>,
}

impl Volume {
    /// Opens the disk and starts the shard. A disk that can't be opened is a reason to start without one.
    pub fn start(
        config: &Config,
        volume: &VolumeConfig,
        identity: Identity,
        listeners: Vec<NbdListener>,
        events: mpsc::UnboundedSender<(String, ShardEvent)>,
    ) -> Result<Volume, Failure> {
        let failed = |error: String| {
            let message = format!("volume {} can't be started: {error}", volume.name);
            Failure::new(Exit::Failed, message)
        };
        let place = volume.place(config.node).clone();
        let (disk, disk_reason) = match open(&spec(config, &volume.name, &place)) {
            Ok(disk) => (Some(disk), None),
            Err(refusal) => {
                tracing::error!(volume = %volume.name, "starting without a disk: {refusal}");
                (None, Some(refusal.to_string()))
            }
        };
        if let Some(disk) = &disk {
            warn_of(&volume.name, disk);
        }
        let disk_open = disk.is_some();
        let seed = random().map_err(&failed)?;
        let shard = ShardHandle::spawn(ShardConfig {
            settings: config.core_settings(volume),
            identity: Identity { seed, ..identity },
            disk,
            disk_reason,
            listeners,
            client_times: volume.settings.client_times(),
            events,
            disk_engine: config.daemon.disk_engine,
            archive: ArchivePlace {
                directory: config.this_node().archive_dir.clone(),
                bytes_max: volume.settings.archive_limit.0,
            },
            reserves_memory: has_device(config, volume),
        })
        .map_err(|error| failed(error.to_string()))?;
        let offered = shard.clone();
        let offer: Offer = Box::new(move |stream, session, peer| offered.offer_link(stream, session, peer));
        let device = keeper(config, volume, &shard).map_err(|error| failed(error.to_string()))?;
        let link = Rc::new(VolumeLink::new(&volume.name, config.volume_uuid(&volume.name), offer));
        let started = Volume {
            name: volume.name.clone(),
            shard,
            link,
            device,
            place: RefCell::new(place),
            disk_open: Cell::new(disk_open),
            disk_closed: Notify::new(),
            disk_change: Mutex::new(()),
            ended: Cell::new(false),
        };
        if remembered::is_disconnected(&config.this_node().state_dir, &volume.name) {
            tracing::warn!(volume = %volume.name, "still disconnected by the operator; bring the link back with `connect`");
            started.set_disconnected(true);
        }
        Ok(started)
    }

    /// The operator's `disconnect` and `connect`, for link and shard.
    pub fn set_disconnected(&self, disconnected: bool) {
        self.link.set_disconnected(disconnected);
        self.shard.set_disconnected(disconnected);
    }
}

/// What keeps the volume's block device, if it is to have one.
fn keeper(config: &Config, volume: &VolumeConfig, shard: &ShardHandle) -> std::io::Result<Option<Keeper>> {
    let keep = || {
        Keeper::start(KeeperConfig {
            volume: volume.name.clone(),
            identity: format!("{}/{}/{}", config.cluster, config.volume_uuid(&volume.name), config.node.0),
            front_end: volume.settings.front_end,
            link: config.this_node().device_dir.join(&volume.name),
            in_group: config.group_of(&volume.name).is_some(),
            shard: shard.clone(),
        })
    };
    has_device(config, volume).then(keep).transpose()
}

/// Whether the volume is to be a block device of this kernel.
pub fn has_device(config: &Config, volume: &VolumeConfig) -> bool {
    match volume.settings.front_end {
        FrontEnd::Ublk | FrontEnd::NbdDevice => true,
        FrontEnd::Auto => volume.place(config.node).nbd.is_empty(),
        FrontEnd::NbdExport | FrontEnd::None => false,
    }
}

/// Which disk a volume has on this node.
pub fn spec(config: &Config, volume: &str, place: &PlaceConfig) -> DiskSpec {
    DiskSpec {
        volume: volume.into(),
        cluster: config.cluster.clone(),
        node: config.node,
        volume_uuid: config.volume_uuid(volume),
        disk: place.disk.clone(),
        metadata: match &place.metadata {
            None => MetadataPlace::Internal,
            Some(path) => MetadataPlace::External(path.clone()),
        },
    }
}

/// Opens a disk.
pub fn open(spec: &DiskSpec) -> Result<OpenedVolume, Refusal> {
    open_volume(spec).map_err(|error| error.refusal)
}

/// Logs what the operator should know of a disk.
pub fn warn_of(volume: &str, disk: &OpenedVolume) {
    for warning in &disk.warnings {
        tracing::warn!(volume, "{warning}");
    }
}

/// A random number of the kernel.
pub fn random() -> Result<u64, String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(u64::from_le_bytes(bytes))
}
