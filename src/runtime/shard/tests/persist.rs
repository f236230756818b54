use super::{Bench, PATIENCE};
use crate::base::error::DiskError;
use crate::base::ids::{Epoch, NodeId, OpId};
use crate::io::disk::{DiskSpec, InitOptions, MetadataPlace, OpenedVolume, init_disk, open_volume, volume_uuid};
use crate::io::ring::DiskFile;
use crate::logic::mirror::interface::Input;
use crate::runtime::shard::persist::{METADATA_TOKEN, Persist};
use crate::wire::metadata::record::{Loaded, Record, Superblock};
use roaring::RoaringBitmap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// Operations in the order of their answers.
type Answers = Vec<(u64, Result<(), DiskError>)>;

fn spec(directory: &tempfile::TempDir) -> DiskSpec {
    DiskSpec {
        volume: "vol0".to_owned(),
        cluster: "lab".to_owned(),
        node: NodeId(0),
        volume_uuid: volume_uuid("lab", "vol0"),
        disk: directory.path().join("disk"),
        metadata: MetadataPlace::Internal,
    }
}

/// A fresh disk, its metadata in use.
fn opened(directory: &tempfile::TempDir) -> (Bench, Persist, Loaded) {
    let spec = spec(directory);
    init_disk(&spec, InitOptions { create_bytes: Some(64 << 20), ..InitOptions::default() }).unwrap();
    let OpenedVolume { metadata, loaded, .. } = open_volume(&spec).unwrap();
    let mut persist = Persist::default();
    persist.open(Arc::new(DiskFile::new(metadata.fd)), metadata.writer);
    (Bench::new(1 << 20), persist, loaded)
}

/// Works as the shard does until everything is answered: the operations in the order of their answers.
fn answers(bench: &mut Bench, persist: &mut Persist, count: usize) -> Answers {
    answers_and_writes(bench, persist, count).0
}

/// The same, and how many writes that took.
fn answers_and_writes(bench: &mut Bench, persist: &mut Persist, count: usize) -> (Answers, usize) {
    let started = Instant::now();
    let mut writes = 0;
    while bench.answers.len() < count {
        for completion in bench.completions() {
            assert_eq!(completion.token, METADATA_TOKEN);
            writes += 1;
            persist.finish(completion, &mut bench.means());
        }
        assert!(started.elapsed() < PATIENCE);
    }
    let answer = |input| match input {
        Input::Persisted { op, result } => (op.0, result),
        other => panic!("not the answer to a record: {other:?}"),
    };
    (std::mem::take(&mut bench.answers).into_iter().map(answer).collect(), writes)
}

fn superblock(loaded: &Loaded, epoch: u64) -> Record {
    let superblock = Superblock { seen_epoch: Epoch(epoch), ..loaded.superblock.clone() };
    Record::Superblock(Box::new(superblock))
}

#[test]
fn records_are_durable_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bench, mut persist, loaded) = opened(&directory);
    let dirty: RoaringBitmap = (0..10_000).step_by(3).collect();
    let snapshot = Record::Snapshot { sequence: 1, dirty: dirty.clone(), suspect: RoaringBitmap::new() };
    let named = Superblock { snapshot: Some(1), seen_epoch: Epoch(8), ..loaded.superblock.clone() };
    let records = [
        superblock(&loaded, 7),
        Record::Intents { page: 0, regions: vec![0, 5, 9] },
        snapshot,
        Record::Superblock(Box::new(named)),
    ];
    let count = records.len();
    for (op, record) in (0..).zip(records) {
        persist.start(OpId(op), record, &mut bench.means());
    }
    assert_eq!(answers(&mut bench, &mut persist, count), [(0, Ok(())), (1, Ok(())), (2, Ok(())), (3, Ok(()))]);
    assert!(persist.is_idle());
    persist.close(&mut bench.answers);
    let again = open_volume(&spec(&directory)).unwrap().loaded;
    assert_eq!(again.superblock.seen_epoch, Epoch(8));
    assert_eq!((again.intents.iter().collect::<Vec<_>>(), again.dirty), (vec![0, 5, 9], dirty));
}

#[test]
fn a_failed_write_fails_its_record_and_not_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bench, mut persist, loaded) = opened(&directory);
    let writer = open_writer(&directory, &mut persist, &mut bench);
    // Read-only: every write fails.
    let file: OwnedFd = std::fs::File::open(spec(&directory).disk).unwrap().into();
    persist.open(Arc::new(DiskFile::new(file)), writer);
    for op in 0..2 {
        persist.start(OpId(op), superblock(&loaded, 7), &mut bench.means());
    }
    let failed = Err(DiskError::Failed(libc::EBADF));
    // Each has two steps; the second relies on the first and is left out.
    assert_eq!(answers_and_writes(&mut bench, &mut persist, 2), (vec![(0, failed), (1, failed)], 2));
    assert!(persist.is_idle());
}

/// Closes the metadata, and hands out what plans its writes.
fn open_writer(
    directory: &tempfile::TempDir,
    persist: &mut Persist,
    bench: &mut Bench,
) -> crate::wire::metadata::Writer {
    persist.close(&mut bench.answers);
    open_volume(&spec(directory)).unwrap().metadata.writer
}

#[test]
fn what_waits_when_the_disk_is_given_up_fails_and_what_is_under_way_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bench, mut persist, loaded) = opened(&directory);
    for op in 0..3 {
        persist.start(OpId(op), superblock(&loaded, 7), &mut bench.means());
    }
    persist.close(&mut bench.answers);
    persist.start(OpId(3), superblock(&loaded, 8), &mut bench.means());
    assert!(!persist.is_idle());
    let no_disk = Err(DiskError::NoDisk);
    assert_eq!(answers(&mut bench, &mut persist, 4), [(1, no_disk), (2, no_disk), (3, no_disk), (0, Ok(()))]);
    assert!(persist.is_idle());
    assert_eq!(open_volume(&spec(&directory)).unwrap().loaded.superblock.seen_epoch, Epoch(7));
}
