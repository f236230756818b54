//! `attach` and `replace-disk`: giving a running volume a disk. The configuration is read again for where it is.

use super::control::view;
use super::volume::{self, Volume};
use super::{Daemon, events::ANSWER_TIME_MAX, reload};
use crate::base::command::{Command, CommandOutcome, Refusal};
use crate::base::limits::DISK_CLOSE_TIME_MAX;
use crate::base::state::{DiskState, Role};
use crate::io::disk::{DiskSpec, InitOptions, InitialContent, init_disk};
use crate::runtime::config::{self, Depth, PlaceConfig};
use std::path::PathBuf;
use tokio::time::timeout;

/// Opens the configured disk of a volume that has none.
pub async fn attach(daemon: &Daemon, volume: &Volume) -> Result<String, Refusal> {
    let _one = one_at_a_time(volume)?;
    let place = configured_place(daemon, volume)?;
    if view(volume).await?.volume.disk != DiskState::Diskless {
        let name = &volume.name;
        return Err(Refusal::new(
            "has-disk",
            format!("Volume {name} has a disk already."),
            format!("Give it up with `detach {name}` first, or see `status`."),
        ));
    }
    closed(volume).await?;
    open_and_attach(daemon, volume, place).await
}

/// Gives up the disk of a volume, initialises the configured one as new, and attaches it.
pub async fn replace(daemon: &Daemon, volume: &Volume, meant: Option<PathBuf>) -> Result<String, Refusal> {
    let _one = one_at_a_time(volume)?;
    let place = configured_place(daemon, volume)?;
    if let Some(meant) = meant.filter(|meant| *meant != place.disk) {
        return Err(Refusal::new(
            "other-disk",
            format!(
                "The configuration has {} for volume {}, not {}.",
                place.disk.display(),
                volume.name,
                meant.display()
            ),
            format!("Write the new path into {} on both servers, then repeat it.", daemon.config.file.display()),
        ));
    }
    let before = view(volume).await?.volume;
    let peer = &daemon.config.peer_node().name;
    if before.disk == DiskState::UpToDate && before.peer_disk != Some(DiskState::UpToDate) {
        return Err(Refusal::new(
            "only-copy",
            format!("This disk holds the only good copy of {} that can be seen: {peer} has none.", volume.name),
            format!("Wait until {peer} is in sync (`status`), then repeat it."),
        ));
    }
    if before.role == Role::Primary {
        let name = &volume.name;
        return Err(Refusal::new(
            "primary",
            format!("This node is the primary of {name}: a new disk must be brought in sync before it may serve."),
            format!("`demote {name}` here and promote {peer}, then repeat it."),
        ));
    }
    if before.disk != DiskState::Diskless
        && let CommandOutcome::Refused(refusal) = volume.shard.command(Command::Detach).await
    {
        return Err(refusal);
    }
    closed(volume).await?;
    initialise(volume::spec(&daemon.config, &volume.name, &place)).await?;
    open_and_attach(daemon, volume, place).await
}

fn one_at_a_time(volume: &Volume) -> Result<tokio::sync::MutexGuard<'_, ()>, Refusal> {
    volume.disk_change.try_lock().map_err(|_| {
        Refusal::new("busy", format!("The disk of {} is being changed already.", volume.name), "Wait for it.")
    })
}

/// What the file says now of a volume on this node.
fn configured_place(daemon: &Daemon, volume: &Volume) -> Result<PlaceConfig, Refusal> {
    let node = &daemon.config.this_node().name;
    let config = config::load(&daemon.config.file, Some(node), Depth::File).map_err(|problems| {
        Refusal::new("configuration", format!("The configuration has problems: {problems}."), "Correct them.")
    })?;
    let found = config.volume(&volume.name).map(|found| found.place(config.node).clone());
    found.filter(|_| config.cluster == daemon.config.cluster && config.node == daemon.config.node).ok_or_else(|| {
        Refusal::new(
            "configuration",
            format!("The configuration has changed so that volume {} is not there any more.", volume.name),
            "Restart the daemon.",
        )
    })
}

/// Waits until the shard has closed the disk it gave up.
async fn closed(volume: &Volume) -> Result<(), Refusal> {
    let wait = async {
        while volume.disk_open.get() {
            volume.disk_closed.notified().await;
        }
    };
    timeout(DISK_CLOSE_TIME_MAX, wait).await.map_err(|_| {
        Refusal::new(
            "disk-busy",
            format!("An operation on the old disk of {} has not ended yet.", volume.name),
            "When the disk hangs for good, restart the daemon; then repeat it.",
        )
    })
}

/// Initialises a disk as new: what it holds is given up, the peer's copy will be written over it.
async fn initialise(spec: DiskSpec) -> Result<(), Refusal> {
    let options = InitOptions { content: InitialContent::Overwrite, ..InitOptions::default() };
    let volume = spec.volume.clone();
    let done = tokio::task::spawn_blocking(move || init_disk(&spec, options)).await;
    let report = done.map_err(|error| fault(&error.to_string()))?.map_err(|error| error.refusal)?;
    for sentence in report.sentences {
        tracing::info!(volume, "{sentence}");
    }
    Ok(())
}

async fn open_and_attach(daemon: &Daemon, volume: &Volume, place: PlaceConfig) -> Result<String, Refusal> {
    let spec = volume::spec(&daemon.config, &volume.name, &place);
    let path = place.disk.clone();
    let opened = tokio::task::spawn_blocking(move || volume::open(&spec)).await;
    let disk = opened.map_err(|error| fault(&error.to_string()))??;
    volume::warn_of(&volume.name, &disk);
    volume.disk_open.set(true);
    let attached = timeout(DISK_CLOSE_TIME_MAX.max(ANSWER_TIME_MAX), volume.shard.attach(disk)).await;
    match attached {
        Ok(CommandOutcome::Done(sentence)) => {
            take_place(daemon, &volume.name, &place);
            *volume.place.borrow_mut() = place;
            Ok(format!("{}: {sentence}", path.display()))
        }
        Ok(CommandOutcome::Refused(refusal)) => {
            // The shard closes what it does not take.
            volume.disk_open.set(false);
            Err(refusal)
        }
        Err(_) => Err(Refusal::new("stuck", "The volume's thread does not answer.", "Look at the log.")),
    }
}

/// The disk is the one of the file now.
fn take_place(daemon: &Daemon, volume: &str, place: &PlaceConfig) {
    let mut config = (*daemon.running()).clone();
    let here = usize::from(config.node.0);
    if let Some(volume) = config.volumes.iter_mut().find(|own| own.name == volume) {
        (volume.on[here].disk, volume.on[here].metadata) = (place.disk.clone(), place.metadata.clone());
    }
    reload::apply(daemon, config);
}

fn fault(error: &str) -> Refusal {
    Refusal::new("fault", format!("Opening the disk ended by a fault: {error}."), "Report it.")
}
