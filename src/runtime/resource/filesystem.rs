//! A file system on the volume: looked at, checked, mounted; unmounted, with whoever keeps it busy named.
//!
//! mount, umount and the checkers are programs: those of util-linux and of the file system itself know every option and
//! helper, and one that hangs on a dead disk can be left behind. What is mounted is read from the kernel, never
//! remembered.

use super::program::{said, unstarted};
use super::{Answer, Context, Events, Happened, Resource, State, Status, Trouble, What, left};
use crate::io::mounts::{self, Holder, Mount};
use crate::io::process::{self, Finished, Program};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Time between two tries to unmount.
const TRY_INTERVAL: Duration = Duration::from_millis(50);
/// Time a volume's block device has to appear once the volume is served.
const DEVICE_TIME_MAX: Duration = Duration::from_secs(5);
/// Time between two looks whether it has.
const DEVICE_INTERVAL: Duration = Duration::from_millis(10);
/// Time before a stop's deadline at which `when_busy` is done, at most; half of the stop's time, at most.
const LAST_RESORT_BEFORE_MAX: Duration = Duration::from_secs(5);
/// Mounts on top of each other at one place that are taken off.
const STACKED_MAX: usize = 8;
/// Longest time the holders of a mount are looked for.
const HOLDERS_TIME_MAX: Duration = Duration::from_secs(1);
/// Holders named in a message; the others are counted.
const NAMED_MAX: usize = 6;

/// A file system of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSystemConfig {
    /// Name of the resource, unique in its group.
    pub name: String,
    /// The block device it is on: that of the volume.
    pub device: PathBuf,
    /// The directory it is mounted at; made when it is missing.
    pub mount_point: PathBuf,
    /// Kind of the file system, as `mount -t` has it. A device that holds another kind is refused.
    pub kind: String,
    /// Mount options, as `mount -o` has them.
    #[serde(default)]
    pub options: String,
    /// What is checked before it is mounted.
    #[serde(default)]
    pub check: CheckPolicy,
    /// What is done when it is still busy shortly before the stop's deadline.
    #[serde(default)]
    pub when_busy: WhenBusy,
}

/// What is checked before a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckPolicy {
    /// What the file system itself asks for after a crash, with the repairs that are safe (ext4: `e2fsck -p`); those that
    /// replay their journal at the mount (xfs, btrfs, f2fs) are not checked.
    #[default]
    Auto,
    /// Everything, each time, with the repairs that are safe (ext4: `e2fsck -f -p`); xfs and btrfs are only looked at.
    Force,
    /// Nothing.
    Never,
}

/// What is done when a file system stays busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenBusy {
    /// The processes that hold it are killed.
    #[default]
    Kill,
    /// The stop fails and names the holders.
    Fail,
    /// `umount --force`: gives up on a server or a disk that does not answer.
    Force,
    /// `umount --lazy`: out of sight at once; who has files open goes on with them until the volume is taken away.
    Lazy,
}

/// A file system of a group on this server.
pub struct FileSystem {
    config: FileSystemConfig,
    events: Events,
}

impl FileSystem {
    /// A file system; what happens to it is told to `events`.
    pub fn new(config: FileSystemConfig, events: Events) -> FileSystem {
        FileSystem { config, events }
    }

    fn name(&self) -> &str {
        &self.config.name
    }

    /// What can be known before the volume is here: the device may not exist yet.
    fn check_now(&self) -> Result<(), Trouble> {
        let config = &self.config;
        let refuse = |reason: String, next: &str| Err(Trouble::config(&config.name, reason, next));
        if !config.mount_point.is_absolute() || !config.device.is_absolute() {
            return refuse("device and mount point must be absolute paths".into(), "write them from the root");
        }
        let point = &config.mount_point;
        let plain: PathBuf = point.components().collect();
        let climbs = point.components().any(|part| part == std::path::Component::ParentDir);
        if plain.as_os_str() != point.as_os_str() || climbs || point.parent().is_none() {
            let reason = format!("{} is no plain path of a directory", point.display());
            return refuse(reason, "write it without a slash at its end, and without dots");
        }
        if let Ok(resolved) = point.canonicalize()
            && resolved != *point
        {
            let reason = format!("{} leads to {}", point.display(), resolved.display());
            return refuse(reason, "write the path it leads to");
        }
        if point.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
            return refuse(
                format!("{} is no directory", point.display()),
                "name a directory, or a path to make one at",
            );
        }
        let word =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !word(&config.kind) || config.kind.starts_with('-') {
            return refuse(
                format!("\"{}\" is no kind of file system", config.kind),
                "write it as in \"ext4\" or \"xfs\"",
            );
        }
        if config.options.chars().any(|c| c.is_whitespace() || c.is_control()) || config.options.starts_with('-') {
            return refuse("the mount options hold a space".into(), "separate them with commas alone");
        }
        for program in ["mount", "umount"].into_iter().chain(self.checker().map(|(program, _)| program)) {
            find(program).ok_or_else(|| self.lacks(program))?;
        }
        Ok(())
    }

    async fn start_now(&self, deadline: Instant) -> Result<(), Trouble> {
        self.check_now()?;
        let config = &self.config;
        let device = self.device_in_time(deadline).await?;
        let point = config.mount_point.display();
        if self.mounted()?.is_some_and(|mount| mounts::disk_has_gone(mount.device)) {
            self.stop_now(deadline).await?;
        }
        if let Some(mount) = self.mounted()? {
            return if mount.device == device && !self.lost_writing(&mount) {
                Ok(())
            } else if mount.device == device {
                Err(self.read_only())
            } else {
                let reason = format!("{point} is busy: {} is mounted there", mount.source.display());
                Err(Trouble::environment(&config.name, reason, format!("unmount it (`umount {point}`)")))
            };
        }
        let all = mounts::mounts().map_err(|error| self.unread(&error))?;
        if let Some(other) = all.iter().find(|mount| mount.device == device) {
            let reason = format!("{} is mounted at {} already", config.device.display(), other.at.display());
            return Err(Trouble::environment(
                &config.name,
                reason,
                format!("unmount it there: `umount {}`", other.at.display()),
            ));
        }
        self.right_kind(deadline).await?;
        self.make_mount_point()?;
        self.checked(deadline).await?;
        self.mount(deadline).await?;
        match self.mounted()? {
            Some(mount) if mount.device == device => Ok(()),
            _ => {
                let reason = format!("`mount` succeeded, but {} is not at {point}", config.device.display());
                Err(Trouble::environment(&config.name, reason, "look for what else mounts or unmounts there"))
            }
        }
    }

    async fn stop_now(&self, deadline: Instant) -> Result<(), Trouble> {
        let began = Instant::now();
        let last_resort = deadline - LAST_RESORT_BEFORE_MAX.min(deadline.saturating_duration_since(began) / 2);
        for _ in 0..STACKED_MAX {
            let Some(mount) = self.mounted()? else { return Ok(()) };
            if !self.is_ours(&mount) && !mounts::disk_has_gone(mount.device) {
                // Somebody else's mount on our mount point is not ours to take away. (What is left of one whose disk has gone
                // was ours, or is of use to nobody.)
                return Ok(());
            }
            self.unmount(&mount, last_resort, deadline).await?;
        }
        Err(self.busy(&self.config.mount_point, &[]))
    }

    /// Unmounts patiently, then as configured.
    async fn unmount(&self, mount: &Mount, last_resort: Instant, deadline: Instant) -> Result<(), Trouble> {
        loop {
            let patient = self.umount(&[], deadline).await?;
            if patient.is_ok() {
                return Ok(());
            }
            if Instant::now() + TRY_INTERVAL >= last_resort {
                break;
            }
            sleep(TRY_INTERVAL).await;
        }
        let holders = holders(mount).await;
        let words = format!("{} was still busy: {}", mount.at.display(), show(&holders));
        let option = match self.config.when_busy {
            WhenBusy::Fail => return Err(self.busy(&mount.at, &holders)),
            WhenBusy::Kill => {
                for id in holders.iter().filter_map(|holder| holder.process) {
                    process::kill_process(id);
                }
                self.alarm(format!("{words}; these processes were killed"));
                return self.unmount_after_kill(mount, deadline).await;
            }
            WhenBusy::Force => "--force",
            WhenBusy::Lazy => "--lazy",
        };
        match self.umount(&[option], deadline).await? {
            Ok(()) => {
                self.alarm(format!("{words}; it was unmounted with {option}"));
                Ok(())
            }
            Err(_) => Err(self.busy(&mount.at, &holders)),
        }
    }

    async fn unmount_after_kill(&self, mount: &Mount, deadline: Instant) -> Result<(), Trouble> {
        loop {
            if self.umount(&[], deadline).await?.is_ok() {
                return Ok(());
            }
            let holders = holders(mount).await;
            if Instant::now() + TRY_INTERVAL >= deadline {
                return Err(self.busy(&mount.at, &holders));
            }
            // Whoever came meanwhile.
            for id in holders.iter().filter_map(|holder| holder.process) {
                process::kill_process(id);
            }
            sleep(TRY_INTERVAL).await;
        }
    }

    fn monitor_now(&self) -> Result<(), Trouble> {
        let config = &self.config;
        let Some(mount) = self.mounted()? else {
            let reason = format!("nothing is mounted at {}", config.mount_point.display());
            return Err(Trouble::transient(&config.name, reason, "find out who unmounted it; start the group again"));
        };
        if !self.is_ours(&mount) {
            let reason = format!("{} covers {}", mount.source.display(), config.mount_point.display());
            return Err(Trouble::transient(&config.name, reason, "unmount what was mounted over it"));
        }
        if self.lost_writing(&mount) { Err(self.read_only()) } else { Ok(()) }
    }

    fn status_now(&self) -> Result<Status, Trouble> {
        let point = self.config.mount_point.display();
        Ok(match self.mounted()? {
            None => Status::new(State::Stopped, format!("nothing is mounted at {point}")),
            Some(mount) if !self.is_ours(&mount) => {
                Status::new(State::Broken, format!("{} is mounted at {point} instead", mount.source.display()))
            }
            Some(mount) if self.lost_writing(&mount) => Status::new(State::Broken, "the kernel made it read-only"),
            Some(mount) => {
                Status::new(State::Started, format!("{} ({}) is at {point}", mount.source.display(), mount.kind))
            }
        })
    }

    fn mounted(&self) -> Result<Option<Mount>, Trouble> {
        mounts::mounted_at(&self.config.mount_point).map_err(|error| self.unread(&error))
    }

    fn unread(&self, error: &std::io::Error) -> Trouble {
        let reason = format!("the kernel's list of mounts can't be read: {error}");
        Trouble::environment(self.name(), reason, "mount /proc")
    }

    /// Number of the configured device, which appears a moment after its volume is served here.
    async fn device_in_time(&self, deadline: Instant) -> Result<u64, Trouble> {
        let until = deadline.min(Instant::now() + DEVICE_TIME_MAX);
        while !self.config.device.exists() && Instant::now() < until {
            sleep(DEVICE_INTERVAL).await;
        }
        self.device()
    }

    /// Number of the configured device.
    fn device(&self) -> Result<u64, Trouble> {
        let path = &self.config.device;
        let metadata = std::fs::metadata(path).map_err(|error| {
            let reason = format!("the device {} can't be looked at: {error}", path.display());
            Trouble::environment(self.name(), reason, "start the volume it belongs to first, or correct the path")
        })?;
        if !metadata.file_type().is_block_device() {
            let reason = format!("{} is no block device", path.display());
            return Err(Trouble::config(self.name(), reason, "name the device the volume is served at"));
        }
        Ok(metadata.rdev())
    }

    /// Whether a mount is of our device. When the device has vanished, its path decides, or where that leads.
    fn is_ours(&self, mount: &Mount) -> bool {
        let path = &self.config.device;
        match self.device() {
            Ok(device) => mount.device == device,
            Err(_) => mount.source == *path || std::fs::read_link(path).is_ok_and(|to| to == mount.source),
        }
    }

    /// Whether the kernel took away writing, which was not asked for.
    fn lost_writing(&self, mount: &Mount) -> bool {
        mount.read_only && !self.config.options.split(',').any(|option| option == "ro")
    }

    fn read_only(&self) -> Trouble {
        let reason = format!("{} is read-only: the kernel found an error on it", self.config.mount_point.display());
        Trouble::transient(
            self.name(),
            reason,
            "look at the kernel's log; check the file system before it is used again",
        )
    }

    async fn right_kind(&self, deadline: Instant) -> Result<(), Trouble> {
        let config = &self.config;
        let device = config.device.clone();
        // Reading it may take for ever: the volume may hold its requests.
        let looked = away(deadline, move || mounts::kind_of(&device)).await;
        let found = looked.unwrap_or_else(|| Err(std::io::ErrorKind::TimedOut.into())).map_err(|error| {
            let reason = format!("{} can't be read: {error}", config.device.display());
            Trouble::environment(self.name(), reason, "see whether its volume is primary and serves here")
        })?;
        let family = |kind: &str| if ["ext2", "ext3"].contains(&kind) { "ext4".into() } else { kind.to_string() };
        match found {
            Some(found) if family(&config.kind) == found => Ok(()),
            Some(found) => {
                let reason =
                    format!("{} holds a file system of kind {found}, not {}", config.device.display(), config.kind);
                Err(Trouble::config(self.name(), reason, "correct `kind`, or see whether the device is the right one"))
            }
            // A kind we don't know may be one that mount knows.
            None if !["ext4", "xfs", "btrfs", "f2fs", "ntfs", "vfat"].contains(&family(&config.kind).as_str()) => {
                Ok(())
            }
            None => {
                let reason = format!("{} holds no {} file system", config.device.display(), config.kind);
                let next = format!("make one (`mkfs.{}`), or see whether the device is the right one", config.kind);
                Err(Trouble::config(self.name(), reason, next))
            }
        }
    }

    fn make_mount_point(&self) -> Result<(), Trouble> {
        let point = &self.config.mount_point;
        std::fs::create_dir_all(point).map_err(|error| {
            let reason = format!("the mount point {} can't be made: {error}", point.display());
            Trouble::environment(self.name(), reason, "make it by hand, on this server's own disk")
        })
    }

    /// The program that checks, with its arguments before the device; none where nothing is to be done.
    fn checker(&self) -> Option<(&'static str, Vec<&'static str>)> {
        let force = self.config.check == CheckPolicy::Force;
        if self.config.check == CheckPolicy::Never {
            return None;
        }
        match self.config.kind.as_str() {
            "ext2" | "ext3" | "ext4" if force => Some(("e2fsck", vec!["-f", "-p"])),
            "ext2" | "ext3" | "ext4" => Some(("e2fsck", vec!["-p"])),
            "xfs" if force => Some(("xfs_repair", vec!["-n"])),
            "btrfs" if force => Some(("btrfs", vec!["check", "--readonly"])),
            "xfs" | "btrfs" | "f2fs" => None,
            _ => Some(("fsck", vec!["-a"])),
        }
    }

    async fn checked(&self, deadline: Instant) -> Result<(), Trouble> {
        let Some((program, arguments)) = self.checker() else { return Ok(()) };
        if program == "xfs_repair" {
            // It refuses a journal that was not replayed, which a mount does.
            self.mount(deadline).await?;
            if let Err(said) = self.umount(&[], deadline).await? {
                let reason = format!("it can't be unmounted after its journal was replayed: {said}");
                return Err(Trouble::transient(self.name(), reason, "see who uses it"));
            }
        }
        let device = self.config.device.display().to_string();
        let words: Vec<String> = arguments.iter().map(|word| word.to_string()).chain([device.clone()]).collect();
        let Finished { status, output } = self.program(program, words, deadline).await?;
        let by_hand = match program {
            "e2fsck" => format!("run `e2fsck -f {device}` by hand and answer its questions"),
            "xfs_repair" => format!("run `xfs_repair {device}` by hand"),
            _ => format!("check {device} by hand"),
        };
        match status.and_then(|status| status.code()) {
            Some(0) => Ok(()),
            // Of e2fsck and fsck: errors were mended.
            Some(1 | 2) if ["e2fsck", "fsck"].contains(&program) => {
                self.alarm(format!("`{program}` mended errors on {device}{}", said(&output)));
                Ok(())
            }
            Some(code) => {
                let reason =
                    format!("the file system on {device} is damaged: `{program}` ended with {code}{}", said(&output));
                Err(Trouble::environment(self.name(), reason, by_hand))
            }
            None => {
                let reason = format!("`{program} {device}` was not done in its time{}", said(&output));
                Err(Trouble::transient(self.name(), reason, "give the start a longer time, or set `check` to never"))
            }
        }
    }

    async fn mount(&self, deadline: Instant) -> Result<(), Trouble> {
        let config = &self.config;
        let mut words = vec!["-t".to_string(), config.kind.clone()];
        if !config.options.is_empty() {
            words.extend(["-o".to_string(), config.options.clone()]);
        }
        let paths = [&config.device, &config.mount_point].map(|path| path.display().to_string());
        words.extend(["--".to_string()].into_iter().chain(paths));
        let Finished { status, output } = self.program("mount", words, deadline).await?;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(_) => {
                let reason = format!("{} can't be mounted{}", config.device.display(), said(&output));
                Err(Trouble::environment(self.name(), reason, "correct the options, or look at the kernel's log"))
            }
            None => {
                let reason = format!("mounting {} did not end in its time", config.device.display());
                Err(Trouble::transient(
                    self.name(),
                    reason,
                    "see whether its volume serves; give the start a longer time",
                ))
            }
        }
    }

    /// Unmounts once. What `umount` said, when it would not; a trouble, when it could not be run to its end.
    async fn umount(&self, options: &[&str], deadline: Instant) -> Result<Result<(), String>, Trouble> {
        let mut words: Vec<String> = options.iter().map(|word| word.to_string()).collect();
        words.extend(["--".to_string(), self.config.mount_point.display().to_string()]);
        // Even past its deadline a try is worth its moment.
        let deadline = deadline.max(Instant::now() + TRY_INTERVAL * 4);
        let Finished { status, output } = self.program("umount", words, deadline).await?;
        match status {
            Some(status) if status.success() => Ok(Ok(())),
            Some(_) => Ok(Err(output)),
            None => {
                let holders = match self.mounted()? {
                    Some(mount) => holders(&mount).await,
                    None => Vec::new(),
                };
                let reason = format!(
                    "unmounting {} hangs: what is not written yet does not reach the volume ({})",
                    self.config.mount_point.display(),
                    show(&holders)
                );
                Err(Trouble::transient(self.name(), reason, "see whether the volume serves; else fence this server"))
            }
        }
    }

    async fn program(&self, program: &str, arguments: Vec<String>, deadline: Instant) -> Result<Finished, Trouble> {
        let file = find(program).ok_or_else(|| self.lacks(program))?;
        if left(deadline).is_zero() {
            let reason = format!("there was no time left for `{program}`");
            return Err(Trouble::transient(self.name(), reason, "give it a longer time"));
        }
        let environment = vec![("LC_ALL".into(), "C".into())];
        let what = Program { file, arguments, environment, mark: format!("filesystem/{}", self.name()) };
        process::run(&what, deadline).await.map_err(|error| unstarted(self.name(), &what, &error))
    }

    fn lacks(&self, program: &str) -> Trouble {
        let package = match program {
            "e2fsck" => "e2fsprogs",
            "xfs_repair" => "xfsprogs",
            "btrfs" => "btrfs-progs",
            _ => "util-linux",
        };
        let reason = format!("the program {program} is not installed on this server");
        Trouble::environment(self.name(), reason, format!("install the package {package}"))
    }

    fn busy(&self, at: &Path, holders: &[Holder]) -> Trouble {
        let reason = format!("{} is still mounted and busy: {}", at.display(), show(holders));
        Trouble::transient(self.name(), reason, "end these, then `umount` it; or fence this server")
    }

    fn alarm(&self, words: String) {
        // Nobody listening any more means that the daemon ends.
        let _ = self.events.send(Happened { resource: self.config.name.clone(), what: What::Alarm(words) });
    }
}

impl Resource for FileSystem {
    fn name(&self) -> &str {
        &self.config.name
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
        Box::pin(async { self.status_now() })
    }
}

/// Who keeps a mount busy. Looking may hang where a disk or a server does; then nobody is named.
async fn holders(mount: &Mount) -> Vec<Holder> {
    let mount = mount.clone();
    away(Instant::now() + HOLDERS_TIME_MAX, move || mounts::holders(&mount)).await.unwrap_or_default()
}

/// Does something that may hang away from the daemon's main thread; `None` when it is not done in time.
async fn away<T: Send + 'static>(deadline: Instant, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match timeout_at(deadline, tokio::task::spawn_blocking(work)).await {
        Ok(done) => Some(done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))),
        Err(_) => None,
    }
}

fn show(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "nobody could be found who holds it".into();
    }
    let named: Vec<&str> = holders.iter().take(NAMED_MAX).map(|holder| holder.words.as_str()).collect();
    let more = holders.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{more}", named.join("; "))
}

/// A program of the system: in PATH, or where root's programs are.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
