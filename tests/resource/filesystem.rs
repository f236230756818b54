//! File systems on loop devices: mounted, checked, busy, damaged, of another kind.

use crate::or_skip;
use crate::world::{TIME_MAX, Told, until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::Instant;
use twinblock::io::mounts;
use twinblock::runtime::resource::filesystem::{CheckPolicy, FileSystem, FileSystemConfig, WhenBusy};
use twinblock::runtime::resource::{Context, Resource, State, Trouble, TroubleKind, Verb, run};

const VERB_TIME: Duration = Duration::from_secs(30);
/// Time of a stop that is to reach its last resort.
const SHORT: Duration = Duration::from_millis(600);
/// A file system's size: XFS wants at least 300 MiB. Sparse.
const BYTES: u64 = 320 << 20;

fn missing(kind: &str) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("mounting needs root".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("this machine has no loop devices".into());
    }
    let make = format!("mkfs.{kind}");
    let absent = |program: &&str| Command::new(program).arg("-V").output().is_err();
    ["losetup", &make].iter().find(|program| absent(program)).map(|program| format!("{program} is not installed"))
}

fn command(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
    said
}

/// A loop device with a file system, and a place to mount it at. Dropping it undoes everything.
struct Disk {
    folder: tempfile::TempDir,
    device: String,
}

impl Disk {
    fn new(kind: &str) -> Disk {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        std::fs::File::create(&file).unwrap().set_len(BYTES).unwrap();
        let device = command("losetup", &["--find", "--show", file.to_str().unwrap()]).trim().to_string();
        let force = if kind == "ext4" { "-F" } else { "-f" };
        command(&format!("mkfs.{kind}"), &["-q", force, &device]);
        Disk { folder, device }
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("new folder/mount")
    }

    fn config(&self, kind: &str) -> FileSystemConfig {
        let (device, mount_point) = (self.device.clone().into(), self.at());
        let (check, when_busy) = (CheckPolicy::Auto, WhenBusy::Fail);
        let (name, kind, options) = ("data".into(), kind.into(), "noatime".into());
        FileSystemConfig { name, device, mount_point, kind, options, check, when_busy }
    }

    /// A process that sits on the file system.
    fn sit(&self) -> Sitting {
        let child = Command::new("sleep").arg("1000").current_dir(self.at()).spawn().unwrap();
        Sitting(child)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        while mounts::mounted_at(&self.at()).unwrap().is_some() {
            if !Command::new("umount").arg("--lazy").arg(self.at()).status().unwrap().success() {
                break;
            }
        }
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

struct Sitting(Child);

impl Drop for Sitting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn on_daemon<T>(task: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { tokio::time::timeout(TIME_MAX * 4, task()).await.unwrap() })
}

async fn within(resource: &FileSystem, verb: Verb, time: Duration) -> Result<(), Trouble> {
    run(resource, verb, &Context::for_tests(), Instant::now() + time).await
}

async fn done(resource: &FileSystem, verb: Verb) {
    if let Err(trouble) = within(resource, verb, VERB_TIME).await {
        panic!("{verb}: {trouble}");
    }
}

async fn refused(config: FileSystemConfig, verb: Verb, words: &str) -> TroubleKind {
    let (sender, _told) = Told::channel();
    let trouble = within(&FileSystem::new(config, sender), verb, VERB_TIME).await.unwrap_err();
    assert!(trouble.to_string().contains(words), "{trouble}");
    trouble.kind
}

async fn state(resource: &FileSystem) -> State {
    resource.status(Instant::now() + VERB_TIME).await.unwrap().state
}

#[test]
fn it_is_mounted_and_unmounted_again_and_again() {
    for kind in ["ext4", "xfs"] {
        if let Some(why) = missing(kind) {
            eprintln!("SKIPPED: {why}");
            continue;
        }
        let disk = Disk::new(kind);
        for check in [CheckPolicy::Auto, CheckPolicy::Force, CheckPolicy::Never] {
            on_daemon(async || {
                let (sender, _told) = Told::channel();
                let data = FileSystem::new(FileSystemConfig { check, ..disk.config(kind) }, sender);
                done(&data, Verb::Check).await;
                assert_eq!(state(&data).await, State::Stopped);
                assert!(within(&data, Verb::Monitor, VERB_TIME).await.is_err());
                done(&data, Verb::Start).await;
                done(&data, Verb::Start).await;
                assert_eq!(state(&data).await, State::Started);
                assert_eq!(mounts::mounts().unwrap().iter().filter(|mount| mount.at == disk.at()).count(), 1);
                std::fs::write(disk.at().join("file"), "kept").unwrap();
                done(&data, Verb::Monitor).await;
                done(&data, Verb::Stop).await;
                done(&data, Verb::Stop).await;
                assert!(!disk.at().join("file").exists());
            });
        }
    }
}

#[test]
fn who_keeps_it_busy_is_named() {
    or_skip!(missing("ext4"));
    let disk = Disk::new("ext4");
    on_daemon(async || {
        let (sender, _told) = Told::channel();
        let data = FileSystem::new(disk.config("ext4"), sender);
        done(&data, Verb::Start).await;
        let sitting = disk.sit();
        let open = std::fs::File::create(disk.at().join("open file")).unwrap();
        let trouble = within(&data, Verb::Stop, SHORT).await.unwrap_err();
        assert_eq!(trouble.kind, TroubleKind::StopFailed);
        let sleeps = format!("sleep ({}) has its working directory on it", sitting.0.id());
        assert!(trouble.reason.contains(&sleeps), "{trouble}");
        let opens = format!("({}) has {} open", std::process::id(), disk.at().join("open file").display());
        assert!(trouble.reason.contains(&opens), "{trouble}");
        assert_eq!(state(&data).await, State::Started);
        drop(open);
        let below = disk.at().join("below");
        std::fs::create_dir(&below).unwrap();
        drop(sitting);
        command("mount", &["-t", "tmpfs", "none", below.to_str().unwrap()]);
        let trouble = within(&data, Verb::Stop, SHORT).await.unwrap_err();
        command("umount", &[below.to_str().unwrap()]);
        assert!(trouble.reason.contains("mounted below it"), "{trouble}");
        // A holder that leaves in time is waited for.
        let mut sitting = disk.sit();
        let leave = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            sitting.0.kill().unwrap();
            sitting.0.wait().unwrap();
        };
        tokio::join!(done(&data, Verb::Stop), leave);
    });
}

#[test]
fn what_stays_busy_is_killed_or_unmounted_lazily_as_configured() {
    or_skip!(missing("ext4"));
    let disk = Disk::new("ext4");
    on_daemon(async || {
        for when_busy in [WhenBusy::Kill, WhenBusy::Lazy] {
            let (sender, mut told) = Told::channel();
            let data = FileSystem::new(FileSystemConfig { when_busy, ..disk.config("ext4") }, sender);
            done(&data, Verb::Start).await;
            let mut sitting = disk.sit();
            let name = format!("sleep ({})", sitting.0.id());
            within(&data, Verb::Stop, SHORT).await.unwrap();
            let alarm = told.alarm("was still busy").await;
            assert!(alarm.contains(&name), "{alarm}");
            assert_eq!(state(&data).await, State::Stopped);
            let gone = when_busy == WhenBusy::Kill;
            if gone {
                until("it was killed", || sitting.0.try_wait().unwrap().is_some()).await;
            } else {
                assert!(sitting.0.try_wait().unwrap().is_none(), "it goes on out of sight");
            }
            drop(sitting);
            until("nobody has it any more", || {
                mounts::mounts().unwrap().iter().all(|mount| mount.source != Path::new(&disk.device))
            })
            .await;
        }
    });
}

#[test]
fn who_only_sees_it_in_a_namespace_of_its_own_is_not_killed() {
    or_skip!(missing("ext4"));
    let disk = Disk::new("ext4");
    on_daemon(async || {
        let (sender, mut told) = Told::channel();
        let data = FileSystem::new(FileSystemConfig { when_busy: WhenBusy::Kill, ..disk.config("ext4") }, sender);
        done(&data, Verb::Start).await;
        // As a service with a private /tmp: it has a copy of every mount, and uses none of them.
        let mut aside = Sitting(Command::new("unshare").args(["--mount", "sleep", "1000"]).spawn().unwrap());
        let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        let its = || std::fs::read_link(format!("/proc/{}/ns/mnt", aside.0.id())).unwrap();
        until("it is in a namespace of its own", || its() != own).await;
        let sitting = disk.sit();
        within(&data, Verb::Stop, SHORT).await.unwrap();
        let alarm = told.alarm("these processes were killed").await;
        assert!(alarm.contains(&sitting.0.id().to_string()) && !alarm.contains("namespace"), "{alarm}");
        assert!(aside.0.try_wait().unwrap().is_none(), "a bystander was killed");
    });
}

#[test]
fn a_damaged_one_is_mended_where_that_is_safe_and_else_refused() {
    or_skip!(missing("ext4"));
    let disk = Disk::new("ext4");
    on_daemon(async || {
        // Left without an unmount, with a count that is wrong: what preen is for.
        command("debugfs", &["-w", "-R", "set_super_value state 2", &disk.device]);
        command("debugfs", &["-w", "-R", "set_super_value free_blocks_count 1", &disk.device]);
        let (sender, mut told) = Told::channel();
        let data = FileSystem::new(disk.config("ext4"), sender);
        done(&data, Verb::Start).await;
        told.alarm("mended errors").await;
        done(&data, Verb::Stop).await;
        // A directory's own entry points nowhere: that wants a decision.
        command("debugfs", &["-w", "-R", "set_super_value state 2", &disk.device]);
        command("debugfs", &["-w", "-R", "clri <2>", &disk.device]);
        let kind = refused(disk.config("ext4"), Verb::Start, "run `e2fsck -f").await;
        assert_eq!(kind, TroubleKind::Environment);
        assert!(mounts::mounted_at(&disk.at()).unwrap().is_none());
    });
}

#[test]
fn a_device_of_another_kind_or_none_is_refused() {
    or_skip!(missing("xfs"));
    let disk = Disk::new("xfs");
    on_daemon(async || {
        assert_eq!(
            refused(disk.config("ext4"), Verb::Start, "holds a file system of kind xfs, not ext4").await,
            TroubleKind::Config
        );
        command("dd", &["if=/dev/zero", &format!("of={}", disk.device), "bs=1M", "count=1"]);
        refused(disk.config("ext4"), Verb::Start, "holds no ext4 file system; make one (`mkfs.ext4`)").await;
        let absent = FileSystemConfig { device: "/dev/nonexistent".into(), ..disk.config("ext4") };
        assert_eq!(
            refused(absent.clone(), Verb::Start, "start the volume it belongs to first").await,
            TroubleKind::Environment
        );
        let (sender, _told) = Told::channel();
        // Before the volume is here, that is no reason to complain.
        done(&FileSystem::new(absent, sender), Verb::Check).await;
        let file = FileSystemConfig { device: disk.folder.path().join("disk"), ..disk.config("ext4") };
        refused(file, Verb::Start, "is no block device").await;
    });
}

#[test]
fn a_busy_mount_point_and_a_device_mounted_elsewhere_are_refused() {
    or_skip!(missing("ext4"));
    let disk = Disk::new("ext4");
    std::fs::create_dir_all(disk.at()).unwrap();
    let at = disk.at();
    let at = at.to_str().unwrap();
    on_daemon(async || {
        command("mount", &["-t", "tmpfs", "other", at]);
        assert_eq!(
            refused(disk.config("ext4"), Verb::Start, "is busy: other is mounted there; unmount it").await,
            TroubleKind::Environment
        );
        // A stop does not take away what is not ours.
        let (sender, _told) = Told::channel();
        let data = FileSystem::new(disk.config("ext4"), sender);
        done(&data, Verb::Stop).await;
        assert_eq!(mounts::mounted_at(&disk.at()).unwrap().unwrap().source, Path::new("other"));
        assert_eq!(state(&data).await, State::Broken);
        command("umount", &[at]);
        let elsewhere = disk.folder.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        command("mount", &[&disk.device, elsewhere.to_str().unwrap()]);
        refused(disk.config("ext4"), Verb::Start, "is mounted at").await;
        command("umount", &[elsewhere.to_str().unwrap()]);
        refused(
            FileSystemConfig { options: "nonsense".into(), ..disk.config("ext4") },
            Verb::Start,
            "can't be mounted",
        )
        .await;
    });
}

#[test]
fn one_that_became_read_only_is_a_failure() {
    or_skip!(missing("ext4"));
    let disk = Disk::new("ext4");
    on_daemon(async || {
        let (sender, _told) = Told::channel();
        let data = FileSystem::new(disk.config("ext4"), sender);
        done(&data, Verb::Start).await;
        command("mount", &["-o", "remount,ro", disk.at().to_str().unwrap()]);
        let trouble = within(&data, Verb::Monitor, VERB_TIME).await.unwrap_err();
        assert!(trouble.reason.contains("is read-only"), "{trouble}");
        assert_eq!(state(&data).await, State::Broken);
        done(&data, Verb::Stop).await;
        let (sender, _told) = Told::channel();
        let wanted = FileSystem::new(FileSystemConfig { options: "ro".into(), ..disk.config("ext4") }, sender);
        done(&wanted, Verb::Start).await;
        done(&wanted, Verb::Monitor).await;
        done(&wanted, Verb::Stop).await;
    });
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    std::os::unix::fs::symlink("/tmp", folder.path().join("link")).unwrap();
    let good = FileSystemConfig {
        name: "data".into(),
        device: "/dev/tb0".into(),
        mount_point: folder.path().join("mount"),
        kind: "ext4".into(),
        options: String::new(),
        check: CheckPolicy::Never,
        when_busy: WhenBusy::Fail,
    };
    on_daemon(async || {
        let cases = [
            (FileSystemConfig { mount_point: "mnt".into(), ..good.clone() }, "must be absolute paths"),
            (FileSystemConfig { mount_point: "/".into(), ..good.clone() }, "is no plain path"),
            (FileSystemConfig { mount_point: "/mnt/../srv".into(), ..good.clone() }, "is no plain path"),
            (FileSystemConfig { mount_point: "/mnt/".into(), ..good.clone() }, "is no plain path"),
            (FileSystemConfig { mount_point: folder.path().join("link"), ..good.clone() }, "leads to /tmp"),
            (FileSystemConfig { mount_point: folder.path().join("file"), ..good.clone() }, "is no directory"),
            (FileSystemConfig { kind: "-a".into(), ..good.clone() }, "is no kind of file system"),
            (FileSystemConfig { kind: String::new(), ..good.clone() }, "is no kind of file system"),
            (FileSystemConfig { options: "ro noatime".into(), ..good.clone() }, "hold a space"),
        ];
        for (config, words) in cases {
            assert_eq!(refused(config, Verb::Check, words).await, TroubleKind::Config);
        }
    });
}

/// As after a takeover by the other server: the device is being removed under its mount, and only the link still tells whose
/// it is.
#[test]
fn what_is_mounted_from_a_device_that_goes_is_unmounted_by_its_link() {
    or_skip!(missing("ext4"));
    let disk = Disk::new("ext4");
    let (node, link) = (disk.folder.path().join("node"), disk.folder.path().join("vol0"));
    let number = std::os::unix::fs::MetadataExt::rdev(&std::fs::metadata(&disk.device).unwrap());
    let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
    nix::sys::stat::mknod(&node, nix::sys::stat::SFlag::S_IFBLK, mode, number).unwrap();
    std::os::unix::fs::symlink(&node, &link).unwrap();
    on_daemon(async || {
        let (sender, _told) = Told::channel();
        let file_system = FileSystem::new(FileSystemConfig { device: link, ..disk.config("ext4") }, sender);
        done(&file_system, Verb::Start).await;
        std::fs::remove_file(&node).unwrap();
        done(&file_system, Verb::Stop).await;
        assert_eq!(mounts::mounted_at(&disk.at()).unwrap(), None);
    });
}
