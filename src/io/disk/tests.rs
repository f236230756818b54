//! Disks as files in a temporary directory, and as loop devices where those may be made.

use super::*;
use crate::base::generation::{Generation, Lineage};
use crate::base::range::ByteRange;
use crate::base::state::DiskState;
use crate::wire::metadata::Layout;
use crate::wire::metadata::record::{Record, Superblock};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn spec(disk: &Path) -> DiskSpec {
    DiskSpec {
        volume: "vol0".into(),
        cluster: "lab".into(),
        node: NodeId(0),
        volume_uuid: volume_uuid("lab", "vol0"),
        disk: disk.into(),
        metadata: MetadataPlace::Internal,
    }
}

fn external(disk: &Path, metadata: &Path) -> DiskSpec {
    DiskSpec { metadata: MetadataPlace::External(metadata.into()), ..spec(disk) }
}

/// A sparse file of so many MiB.
fn file(directory: &TempDir, name: &str, mebibytes: u64) -> std::path::PathBuf {
    let path = directory.path().join(name);
    File::create(&path).unwrap().set_len(mebibytes * MIB).unwrap();
    path
}

fn poke(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

fn code<T: std::fmt::Debug>(result: Result<T, OpenError>) -> String {
    let refusal = result.unwrap_err().refusal;
    assert!(refusal.reason.ends_with('.') && !refusal.next.is_empty(), "{refusal:?}");
    refusal.code
}

fn with(content: InitialContent) -> InitOptions {
    InitOptions { content, ..InitOptions::default() }
}

/// Persists a superblock as the shard would.
fn persist(opened: &mut OpenedVolume, superblock: &Superblock) {
    let plan = opened.metadata.writer.plan(&Record::Superblock(Box::new(superblock.clone())));
    let file = File::from(opened.metadata.fd.try_clone().unwrap());
    for (offset, bytes) in plan.steps.iter().flatten() {
        access::write_at(&file, *offset, bytes).unwrap();
    }
}

#[test]
fn a_blank_file_is_initialised_and_opened() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "disk", 64);
    assert_eq!(code(open_volume(&spec(&path))), "disk-no-metadata");
    let report = init_disk(&spec(&path), InitOptions::default()).unwrap();
    assert!(report.zeroed && report.disk == DiskState::UpToDate);
    assert_eq!(report.capacity_bytes, Layout::internal(64 * MIB).unwrap().capacity_bytes);

    let opened = open_volume(&spec(&path)).unwrap();
    let superblock = &opened.loaded.superblock;
    assert_eq!(superblock.lineage, Lineage::starting_at(Generation::ZEROED));
    assert_eq!((superblock.device, superblock.committed_bytes), (report.device, 0));
    assert_eq!(opened.loaded.capacity_bytes, report.capacity_bytes);
    assert!(!opened.is_block_device && !opened.loaded.superblock_suspect && opened.loaded.intents.is_empty());
    assert!(opened.warnings.iter().all(|warning| warning.starts_with("No direct I/O")), "{:?}", opened.warnings);
}

#[test]
fn a_second_opener_is_refused_and_told_by_whom() {
    let directory = TempDir::new().unwrap();
    let (path, metadata) = (file(&directory, "disk", 64), directory.path().join("metadata"));
    init_disk(&external(&path, &metadata), InitOptions::default()).unwrap();
    let opened = open_volume(&external(&path, &metadata)).unwrap();
    let refusal = open_volume(&external(&path, &metadata)).unwrap_err().refusal;
    assert_eq!(refusal.code, "disk-in-use");
    assert!(refusal.reason.contains(&format!("process {}", std::process::id())), "{}", refusal.reason);
    let other = file(&directory, "other", 64);
    assert_eq!(code(open_volume(&external(&other, &metadata))), "disk-in-use");
    assert_eq!(code(init_disk(&spec(&path), with(InitialContent::Overwrite))), "disk-in-use");
    drop(opened);
    open_volume(&external(&path, &metadata)).unwrap();
}

#[test]
fn what_is_no_disk_is_refused() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("missing");
    assert_eq!(code(open_volume(&spec(&missing))), "disk-missing");
    assert_eq!(code(init_disk(&spec(&missing), InitOptions::default())), "disk-missing");
    assert_eq!(code(open_volume(&spec(directory.path()))), "disk-is-directory");
    assert_eq!(code(open_volume(&spec(Path::new("/dev/null")))), "disk-kind");
    let nowhere = directory.path().join("missing/disk");
    let create = InitOptions { create_bytes: Some(64 * MIB), ..InitOptions::default() };
    assert_eq!(code(init_disk(&spec(&nowhere), create)), "disk-missing");
    let small = file(&directory, "small", 1);
    assert_eq!(code(init_disk(&spec(&small), InitOptions::default())), "disk-too-small");
    assert_eq!(code(open_volume(&spec(&small))), "disk-no-metadata");
    let same = file(&directory, "same", 64);
    assert_eq!(code(init_disk(&external(&same, &same), InitOptions::default())), "metadata-is-disk");
}

#[test]
fn a_missing_file_is_created_when_a_size_is_given() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    let options = |bytes| InitOptions { create_bytes: Some(bytes), ..InitOptions::default() };
    assert_eq!(code(init_disk(&spec(&path), options(MIB))), "disk-too-small");
    assert!(!path.exists(), "a refused file is not left behind");
    let report = init_disk(&spec(&path), options(64 * MIB)).unwrap();
    assert_eq!((report.disk_bytes, fs::metadata(&path).unwrap().len()), (64 * MIB, 64 * MIB));
    open_volume(&spec(&path)).unwrap();
}

#[test]
fn data_is_never_taken_for_blank() {
    let directory = TempDir::new().unwrap();
    for offset in [0, 20 * MIB + 12_345, 61 * MIB - 1] {
        let path = file(&directory, "disk", 64);
        poke(&path, offset, b"x");
        let refusal = init_disk(&spec(&path), InitOptions::default()).unwrap_err().refusal;
        assert_eq!(refusal.code, "disk-holds-data");
        assert!(refusal.reason.contains(&offset.to_string()), "{}", refusal.reason);
    }
    let path = file(&directory, "ext4", 64);
    poke(&path, 1024 + 0x38, &[0x53, 0xef]);
    let refusal = init_disk(&spec(&path), InitOptions { zero: true, ..InitOptions::default() }).unwrap_err().refusal;
    assert!(refusal.reason.contains("ext4"), "{}", refusal.reason);
    // Written zeroes are zeroes.
    let path = file(&directory, "zeroes", 64);
    poke(&path, 5 * MIB, &vec![0; 3 << 20]);
    assert!(init_disk(&spec(&path), InitOptions::default()).unwrap().zeroed);
}

#[test]
fn data_is_adopted_where_the_tail_is_free() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "disk", 64);
    poke(&path, 12_345, b"precious");
    let report = init_disk(&spec(&path), with(InitialContent::Adopt)).unwrap();
    let opened = open_volume(&spec(&path)).unwrap();
    let superblock = &opened.loaded.superblock;
    assert_eq!((superblock.disk, superblock.committed_bytes), (DiskState::UpToDate, report.capacity_bytes));
    assert_eq!((superblock.lineage.current.epoch, &superblock.lineage.history[..]), (1, &[Generation::ZEROED][..]));
    let mut read = [0; 8];
    File::open(&path).unwrap().read_exact_at(&mut read, 12_345).unwrap();
    assert_eq!(&read, b"precious");
    drop(opened);

    let full = file(&directory, "full", 64);
    poke(&full, 64 * MIB - 5000, b"precious");
    assert_eq!(code(init_disk(&spec(&full), with(InitialContent::Adopt))), "disk-tail-in-use");
    let metadata = directory.path().join("metadata");
    init_disk(&external(&full, &metadata), with(InitialContent::Adopt)).unwrap();
    assert_eq!(open_volume(&external(&full, &metadata)).unwrap().loaded.capacity_bytes, 64 * MIB);
    init_disk(&spec(&full), InitOptions { tail_is_free: true, ..with(InitialContent::Adopt) }).unwrap();
}

#[test]
fn a_file_system_is_adopted_only_when_it_ends_before_the_metadata() {
    let directory = TempDir::new().unwrap();
    for (shrunk, tools) in [("60M", "mkfs.ext4"), ("64M", "mkfs.ext4")] {
        let path = file(&directory, shrunk, 64);
        let made = Command::new(tools).args(["-q", "-F", path.to_str().unwrap(), shrunk]).output();
        let Ok(made) = made else {
            eprintln!("SKIPPED: {tools} is not installed");
            return;
        };
        assert!(made.status.success());
        let adopted = init_disk(&spec(&path), with(InitialContent::Adopt));
        match shrunk {
            "60M" => assert_eq!(adopted.unwrap().disk, DiskState::UpToDate),
            _ => {
                let refusal = adopted.unwrap_err().refusal;
                assert_eq!(refusal.code, "disk-tail-in-use");
                assert!(refusal.reason.contains("67108864"), "{}", refusal.reason);
            }
        }
    }
}

#[test]
fn what_is_there_is_replaced_only_when_told() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "disk", 64);
    let first = init_disk(&spec(&path), InitOptions::default()).unwrap();
    assert_eq!(code(init_disk(&spec(&path), InitOptions::default())), "metadata-present");
    assert_eq!(code(init_disk(&spec(&path), with(InitialContent::Adopt))), "metadata-present");
    poke(&path, 0, b"old");
    let report = init_disk(&spec(&path), with(InitialContent::Overwrite)).unwrap();
    assert_ne!(report.device, first.device);
    let opened = open_volume(&spec(&path)).unwrap();
    assert_eq!(
        (opened.loaded.superblock.disk, &opened.loaded.superblock.lineage),
        (DiskState::New, &Lineage::default())
    );
    drop(opened);
    let zeroed = InitOptions { zero: true, ..with(InitialContent::Overwrite) };
    assert!(init_disk(&spec(&path), zeroed).unwrap().zeroed);
    let opened = open_volume(&spec(&path)).unwrap();
    assert_eq!(holes(&opened.data, ByteRange::new(0, MIB)).unwrap(), [ByteRange::new(0, MIB)]);
    drop(opened);
    init_disk(&spec(&path), InitOptions { replace_metadata: true, ..InitOptions::default() }).unwrap();
    let conflict = InitOptions { zero: true, ..with(InitialContent::Adopt) };
    assert_eq!(code(init_disk(&spec(&path), conflict)), "options-conflict");
}

#[test]
fn metadata_of_another_version_and_remains_at_the_end_are_not_taken_for_blank() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "disk", 64);
    init_disk(&spec(&path), InitOptions::default()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    for unit in bytes.chunks_mut(4096).filter(|unit| unit.starts_with(b"TWBM")) {
        unit[6] = 2;
        unit[40..44].fill(0);
        let crc = crc32fast::hash(unit);
        unit[40..44].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(&path, &bytes).unwrap();
    assert_eq!(code(open_volume(&spec(&path))), "metadata-version");
    let refusal = init_disk(&spec(&path), InitOptions::default()).unwrap_err().refusal;
    assert_eq!(refusal.code, "metadata-present");
    assert!(refusal.reason.contains("another version of twinblock"), "{}", refusal.reason);
    // Broken metadata may be all that is left to tell that the disk was in use.
    bytes.iter_mut().skip(62 << 20).step_by(512).for_each(|byte| *byte ^= 0x55);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(code(init_disk(&spec(&path), InitOptions::default())), "disk-holds-data");
    init_disk(&spec(&path), with(InitialContent::Overwrite)).unwrap();
    open_volume(&spec(&path)).unwrap();
}

#[test]
fn an_initialisation_that_was_cut_short_is_done_again() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "disk", 64);
    init_disk(&spec(&path), InitOptions::default()).unwrap();
    // The locators are written last.
    let layout = Layout::internal(64 * MIB).unwrap();
    for offset in [layout.area_offset, layout.area_offset + layout.area_bytes - 4096] {
        poke(&path, offset, &[0; 4096]);
    }
    assert_eq!(code(open_volume(&spec(&path))), "disk-no-metadata");
    assert!(init_disk(&spec(&path), InitOptions::default()).unwrap().zeroed);
    open_volume(&spec(&path)).unwrap();
}

#[test]
fn a_file_larger_than_any_is_not_made() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    let create_bytes = Some(1 << 62);
    assert_eq!(code(init_disk(&spec(&path), InitOptions { create_bytes, ..InitOptions::default() })), "disk-too-large");
    assert!(!path.exists());
}

#[test]
fn metadata_of_someone_else_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "disk", 64);
    init_disk(&spec(&path), InitOptions::default()).unwrap();
    let other_cluster = DiskSpec { cluster: "prod".into(), volume_uuid: volume_uuid("prod", "vol0"), ..spec(&path) };
    let refusal = open_volume(&other_cluster).unwrap_err().refusal;
    assert_eq!(refusal.code, "metadata-other-volume");
    assert!(refusal.reason.contains("\"vol0\" of cluster \"lab\""), "{}", refusal.reason);
    assert_eq!(code(open_volume(&DiskSpec { node: NodeId(1), ..spec(&path) })), "metadata-other-node");
}

#[test]
fn a_disk_of_another_size_is_refused_with_both_sizes() {
    let directory = TempDir::new().unwrap();
    for size in [65, 66, 96, 63] {
        let path = file(&directory, "disk", 64);
        init_disk(&spec(&path), InitOptions::default()).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(size * MIB).unwrap();
        let refusal = open_volume(&spec(&path)).unwrap_err().refusal;
        assert_eq!(refusal.code, "disk-resized", "{size}: {}", refusal.reason);
        assert!(refusal.reason.contains("67108864") && refusal.reason.contains(&(size * MIB).to_string()));
    }
    let (path, metadata) = (file(&directory, "data", 64), directory.path().join("metadata"));
    init_disk(&external(&path, &metadata), InitOptions::default()).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(63 * MIB).unwrap();
    assert_eq!(code(open_volume(&external(&path, &metadata))), "disk-resized");
    OpenOptions::new().write(true).open(&path).unwrap().set_len(80 * MIB).unwrap();
    assert_eq!(open_volume(&external(&path, &metadata)).unwrap().loaded.capacity_bytes, 64 * MIB);
}

#[test]
fn f118_another_disk_or_a_clone_in_the_place_of_the_disk_is_never_trusted() {
    let directory = TempDir::new().unwrap();
    let (path, metadata) = (file(&directory, "disk", 64), directory.path().join("metadata"));
    init_disk(&external(&path, &metadata), InitOptions::default()).unwrap();
    fs::rename(&path, directory.path().join("original")).unwrap();
    fs::copy(directory.path().join("original"), &path).unwrap();
    let mut opened = open_volume(&external(&path, &metadata)).unwrap();
    assert_eq!((opened.loaded.superblock.disk, opened.loaded.superblock_suspect), (DiskState::New, true));
    assert!(opened.loaded.maps_unreadable && opened.warnings[0].contains("is not the one"));

    // Once the core has written that down, it is the disk.
    let superblock = opened.loaded.superblock.clone();
    persist(&mut opened, &superblock);
    drop(opened);
    let opened = open_volume(&external(&path, &metadata)).unwrap();
    assert_eq!((opened.loaded.superblock.disk, opened.loaded.superblock_suspect), (DiskState::New, false));
    drop(opened);

    let internal = file(&directory, "internal", 64);
    init_disk(&spec(&internal), InitOptions::default()).unwrap();
    let moved = directory.path().join("moved");
    fs::copy(&internal, &moved).unwrap();
    let opened = open_volume(&spec(&moved)).unwrap();
    assert_eq!((opened.loaded.superblock.disk, opened.loaded.superblock_suspect), (DiskState::UpToDate, true));
    assert!(opened.loaded.maps_unreadable);
    drop(opened);
    assert!(!open_volume(&spec(&internal)).unwrap().loaded.superblock_suspect);
}

#[test]
fn what_a_crash_left_behind_is_renewed_at_open() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "disk", 64);
    init_disk(&spec(&path), InitOptions::default()).unwrap();
    let mut opened = open_volume(&spec(&path)).unwrap();
    let superblock = Superblock { cache_epoch: 5, ..opened.loaded.superblock.clone() };
    let plan = opened.metadata.writer.plan(&Record::Superblock(Box::new(superblock)));
    drop(opened);
    let (offset, bytes) = &plan.steps[0][0];
    poke(&path, *offset, bytes);
    let (offset, _) = plan.steps[1][0];
    let before = fs::read(&path).unwrap();
    let opened = open_volume(&spec(&path)).unwrap();
    assert_eq!(opened.loaded.superblock.cache_epoch, 5);
    drop(opened);
    let after = fs::read(&path).unwrap();
    assert_ne!(before[offset as usize..][..4096], after[offset as usize..][..4096]);
    assert!(open_volume(&spec(&path)).unwrap().warnings.iter().all(|warning| !warning.contains("renewed")));
}

#[test]
fn damaged_metadata_says_so() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "disk", 64);
    init_disk(&spec(&path), InitOptions::default()).unwrap();
    let area = Layout::internal(64 * MIB).unwrap().area_offset;
    for copy in 0..2 {
        poke(&path, area + 65_536 * (1 + copy), &[7; 4096]);
    }
    let opened = open_volume(&spec(&path)).unwrap();
    assert!(opened.loaded.superblock_suspect && opened.loaded.superblock.suspect);
    assert!(opened.warnings[0].contains("damaged"));
    drop(opened);
    for copy in 0..4 {
        poke(&path, area + 65_536 * (1 + copy), &[7; 4096]);
    }
    assert_eq!(code(open_volume(&spec(&path))), "metadata-damaged");
    init_disk(&spec(&path), InitOptions { replace_metadata: true, ..with(InitialContent::Adopt) }).unwrap();
    open_volume(&spec(&path)).unwrap();
}

#[test]
fn a_full_file_system_is_named_before_anything_is_written() {
    let directory = TempDir::new().unwrap();
    let mount = directory.path().join("small");
    fs::create_dir(&mount).unwrap();
    let mount = mount.to_str().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    if !run("mount", &["-t", "tmpfs", "-o", "size=1M", "none", mount]) {
        eprintln!("SKIPPED: nothing can be mounted here");
        return;
    }
    let path = Path::new(mount).join("disk");
    let created = init_disk(&spec(&path), InitOptions { create_bytes: Some(64 * MIB), ..InitOptions::default() });
    let left = path.exists();
    assert!(run("umount", &[mount]));
    assert!(!left, "a refused file is not left behind");
    let refusal = created.unwrap_err().refusal;
    assert_eq!(refusal.code, "disk-full", "{refusal}");
}

#[test]
fn holes_are_whole_blocks_inside_the_range() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "disk", 64);
    poke(&path, 10 * MIB + 100, b"data");
    poke(&path, 20 * MIB, &[1; 8192]);
    let file = File::open(&path).unwrap();
    let range = ByteRange::new(4096, 40 * MIB);
    let found = holes(&file, range).unwrap();
    let covered = |byte: u64| found.iter().any(|hole| (hole.offset..hole.end()).contains(&byte));
    assert!(found.iter().all(|hole| hole.is_aligned() && range.contains(hole)), "{found:?}");
    assert!(!covered(10 * MIB + 100) && !covered(20 * MIB) && !covered(20 * MIB + 8191));
    assert!(covered(4096) && covered(15 * MIB) && covered(30 * MIB), "{found:?}");
    assert_eq!(holes(&file, ByteRange::new(20 * MIB, 8192)).unwrap(), []);
    assert_eq!(holes(&file, ByteRange::new(60 * MIB, 4 * MIB)).unwrap(), [ByteRange::new(60 * MIB, 4 * MIB)]);
}

#[test]
fn a_volume_has_one_identity_from_its_names() {
    assert_eq!(volume_uuid("lab", "vol0"), Uuid(0x1454_21b5_8f52_1272_cb31_5f50_0b2f_40e8));
    assert_ne!(volume_uuid("lab", "vol1"), volume_uuid("lab", "vol0"));
    assert_ne!(volume_uuid("labv", "ol0"), volume_uuid("lab", "vol0"));
}

/// A loop device over a file, detached when dropped.
struct Loop(String);

impl Loop {
    /// `None`, visibly, where loop devices may not be made.
    fn over(path: &Path) -> Option<Loop> {
        let made = Command::new("losetup").args(["-f", "--show", path.to_str().unwrap()]).output();
        match made {
            Ok(made) if made.status.success() => Some(Loop(String::from_utf8(made.stdout).unwrap().trim().into())),
            other => {
                eprintln!("SKIPPED: no loop device can be made here: {other:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_initialised_locked_and_opened() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "disk", 64);
    let Some(device) = Loop::over(&path) else { return };
    let disk = Path::new(&device.0);
    let report = init_disk(&spec(disk), InitOptions::default()).unwrap();
    assert!(report.zeroed && report.disk_bytes == 64 * MIB);
    let opened = open_volume(&spec(disk)).unwrap();
    assert!(opened.is_block_device && opened.direct);
    assert_eq!(holes(&opened.data, ByteRange::new(0, MIB)).unwrap(), []);
    assert_eq!(code(open_volume(&spec(disk))), "disk-in-use");
    // The file under a loop device is not free either.
    let refusal = open_volume(&spec(&path)).unwrap_err().refusal;
    assert!(refusal.reason.contains(&format!("back end of {}", device.0)), "{}", refusal.reason);
    drop(opened);
    open_volume(&spec(disk)).unwrap();
    poke(disk, 30 * MIB, &[1; 4096]);
    let again = InitOptions { replace_metadata: true, ..InitOptions::default() };
    assert_eq!(code(init_disk(&spec(disk), again)), "disk-holds-data");
    let zeroed = InitOptions { zero: true, ..with(InitialContent::Overwrite) };
    assert!(init_disk(&spec(disk), zeroed).unwrap().zeroed);
    let mut read = vec![1; 4096];
    File::open(disk).unwrap().read_exact_at(&mut read, 30 * MIB).unwrap();
    assert_eq!(read, vec![0; 4096]);
}

#[test]
fn a_mounted_device_is_refused_with_its_mount_point() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "disk", 64);
    let Some(device) = Loop::over(&path) else { return };
    let mount = directory.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let mount = mount.to_str().unwrap();
    if !run("mkfs.ext4", &["-q", "-F", &device.0]) || !run("mount", &[&device.0, mount]) {
        eprintln!("SKIPPED: nothing can be mounted here");
        return;
    }
    let refused = init_disk(&spec(Path::new(&device.0)), with(InitialContent::Overwrite));
    assert!(run("umount", &[mount]));
    let refusal = refused.unwrap_err().refusal;
    assert_eq!(refusal.code, "disk-in-use");
    assert!(refusal.reason.contains(&format!("mounted on {mount}")), "{}", refusal.reason);
}
