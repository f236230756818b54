//! A file system on the volume: ext4 on a loop device over a FUSE view of the NBD export, as a machine without the nbd
//! module mounts it; then the server dies, and the other one's copy must be a sound file system with every file.

use crate::pair::{ALPHA, BETA, Pair, TIME_MAX};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// The volume as a loop device. Dropping it undoes everything.
struct LoopDevice {
    fuse: PathBuf,
    daemon: Child,
    device: String,
    mounted: Option<PathBuf>,
}

/// Runs a program; its output, or a panic with what it said.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

/// What is missing here to mount a volume, if anything is.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("mounting needs root".into());
    }
    if !Path::new("/dev/fuse").exists() || !Path::new("/dev/loop-control").exists() {
        return Some("this machine has no fuse or no loop devices".into());
    }
    let absent = |program: &&str| Command::new(program).arg("--version").output().is_err();
    ["nbdfuse", "losetup", "mkfs.ext4", "e2fsck", "fusermount3"]
        .iter()
        .find(|p| absent(p))
        .map(|p| format!("{p} is not installed"))
}

impl LoopDevice {
    fn attach(folder: &Path, export: SocketAddr) -> LoopDevice {
        let fuse = folder.join("fuse");
        std::fs::create_dir_all(&fuse).unwrap();
        let file = fuse.join("nbd");
        let mut daemon = Command::new("nbdfuse")
            .arg(&file)
            .arg(format!("nbd://{export}/vol0"))
            .stdin(Stdio::null())
            // It complains loudly when its server is killed, which is what this test does.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while !file.exists() {
            assert!(daemon.try_wait().unwrap().is_none(), "nbdfuse ended early");
            assert!(began.elapsed() < TIME_MAX, "nbdfuse shows no file");
            std::thread::yield_now();
        }
        let device = run("losetup", &["--direct-io=on", "--find", "--show", file.to_str().unwrap()]).trim().to_owned();
        LoopDevice { fuse, daemon, device, mounted: None }
    }

    fn mount(&mut self, at: PathBuf) -> PathBuf {
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &[&self.device, at.to_str().unwrap()]);
        self.mounted = Some(at.clone());
        at
    }

    fn unmount(&mut self) {
        if let Some(at) = self.mounted.take() {
            run("umount", &[at.to_str().unwrap()]);
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Some(at) = self.mounted.take() {
            let _ = Command::new("umount").arg("--lazy").arg(at).status();
        }
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
        let _ = Command::new("fusermount3").arg("-u").arg("-z").arg(&self.fuse).status();
        let _ = self.daemon.wait();
    }
}

/// A file's content, known from its number.
fn content(number: usize) -> Vec<u8> {
    format!("file {number} ").repeat(1 + number * 701).into_bytes()
}

fn assert_files(at: &Path, count: usize) {
    for number in 0..count {
        let bytes = std::fs::read(at.join(format!("file{number}"))).unwrap();
        assert!(bytes == content(number), "file{number} came back changed");
    }
}

#[test]
fn a_mounted_file_system_survives_the_loss_of_its_server() {
    if let Some(why) = missing() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let mut pair = Pair::running("", "128MiB");
    let folder = pair.folder.path().to_owned();
    let mut disk = LoopDevice::attach(&folder, pair.nbd(ALPHA));
    run("mkfs.ext4", &["-q", "-F", &disk.device]);
    let at = disk.mount(folder.join("mnt"));
    for number in 0..60 {
        std::fs::write(at.join(format!("file{number}")), content(number)).unwrap();
    }
    disk.unmount();
    run("e2fsck", &["-f", "-n", &disk.device]);
    // Mounted again, with files of which only their flush is certain when the server dies.
    disk.mount(folder.join("mnt"));
    for number in 60..80 {
        let file = std::fs::File::create(at.join(format!("file{number}"))).unwrap();
        std::io::Write::write_all(&mut &file, &content(number)).unwrap();
        file.sync_all().unwrap();
    }
    pair.kill9(ALPHA);
    drop(disk);

    pair.done(BETA, &["promote", "vol0"]);
    let mut disk = LoopDevice::attach(&folder, pair.nbd(BETA));
    // The journal is replayed, as after any crash; then nothing is left to mend.
    let at = disk.mount(folder.join("mnt"));
    assert_files(&at, 80);
    std::fs::remove_file(at.join("file0")).unwrap();
    std::fs::write(at.join("file0"), content(0)).unwrap();
    disk.unmount();
    run("e2fsck", &["-f", "-n", &disk.device]);
    drop(disk);

    pair.start(ALPHA);
    pair.wait_in_sync(BETA);
    pair.stop_identical([ALPHA, BETA]);
}
