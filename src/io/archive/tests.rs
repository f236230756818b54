use super::keeper::{Begin, Keeper, Place, Work};
use super::reader::{Held, Reader};
use super::{Entry, list};
use crate::base::generation::Generation;
use crate::base::ids::Uuid;
use crate::base::range::{BLOCK, ByteRange};
use crate::wire::archive::HEADER_BYTES;
use proptest::prelude::*;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;

const BLOCKS: u64 = 64;

/// A disk, and the thread that archives what it holds.
struct Bench {
    folder: TempDir,
    keeper: Keeper,
    answers: Receiver<(u64, Result<(), String>)>,
    asked: u64,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let disk = OpenOptions::new().write(true).create_new(true).open(folder.path().join("disk")).unwrap();
        for block in 0..BLOCKS {
            let byte = if block % 8 == 7 { 0 } else { block as u8 + 1 };
            disk.write_all_at(&[byte; BLOCK as usize], block * BLOCK).unwrap();
        }
        Bench::in_folder(folder, 1 << 30)
    }

    fn in_folder(folder: TempDir, bytes_max: u64) -> Bench {
        let (answered, answers) = channel();
        let place = Place { directory: folder.path().join("archive"), bytes_max };
        let answer = move |number, result| answered.send((number, result)).unwrap_or(());
        Bench { folder, keeper: Keeper::spawn("vol0", place, Box::new(answer)).unwrap(), answers, asked: 0 }
    }

    /// The daemon dies and starts again.
    fn restarted(self, bytes_max: u64) -> Bench {
        let Bench { folder, keeper, answers, .. } = self;
        drop(keeper);
        // Its thread is gone when nobody can answer any more.
        while answers.recv().is_ok() {}
        Bench::in_folder(folder, bytes_max)
    }

    fn ask(&mut self, work: Work) -> Result<(), String> {
        self.asked += 1;
        self.keeper.start(self.asked, work).unwrap();
        let (number, result) = self.answers.recv_timeout(Duration::from_secs(20)).expect("an answer");
        assert_eq!(number, self.asked);
        result
    }

    fn open(&mut self, resumed: bool) -> Result<(), String> {
        let disk = File::open(self.disk()).unwrap().into();
        self.ask(Work::Open(Box::new(Begin {
            disk,
            resumed,
            volume: "vol0".into(),
            volume_uuid: Uuid(1),
            device: Uuid(2),
            nodes: ["beta".into(), "alpha".into()],
            generations: [Generation { epoch: 2, nonce: 3 }, Generation { epoch: 2, nonce: 4 }],
            size_bytes: BLOCKS * BLOCK,
        })))
    }

    fn save(&mut self, blocks: std::ops::Range<u32>) -> Result<(), String> {
        self.ask(Work::Save { range: ByteRange::of_blocks(blocks), zeroes: false })
    }

    fn overwrite(&self, blocks: std::ops::Range<u32>) {
        let disk = OpenOptions::new().write(true).open(self.disk()).unwrap();
        for block in blocks {
            disk.write_all_at(&[0xee; BLOCK as usize], u64::from(block) * BLOCK).unwrap();
        }
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn entries(&self) -> Vec<Entry> {
        list(&self.folder.path().join("archive")).unwrap()
    }

    fn only(&self) -> Entry {
        let mut entries = self.entries();
        assert_eq!(entries.len(), 1);
        entries.remove(0)
    }

    /// The volume as it was: the archive over what the disk holds now.
    fn view(&self, reader: &Reader) -> std::io::Result<Vec<u8>> {
        let mut bytes = std::fs::read(self.disk()).unwrap();
        let whole = ByteRange::new(0, bytes.len() as u64);
        reader.overlay(whole, &mut bytes).map(|()| bytes)
    }
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn what_was_saved_first_is_what_is_shown() {
    let mut bench = Bench::new();
    let before = std::fs::read(bench.disk()).unwrap();
    bench.open(false).unwrap();
    bench.save(3..9).unwrap();
    bench.overwrite(3..9);
    // Once more over a part of it, and beyond.
    bench.save(5..12).unwrap();
    bench.overwrite(3..12);
    let unfinished = bench.only().reader.unwrap();
    assert_eq!((unfinished.finished, unfinished.bytes_held()), (None, 9 * BLOCK));
    bench.ask(Work::Finish).unwrap();
    let reader = bench.only().reader.unwrap();
    assert!(reader.finished.is_some() && reader.damaged_bytes == 0);
    assert_eq!(bench.view(&reader).unwrap(), before);
    let held: Vec<_> = reader.extents(ByteRange::of_blocks(8..64), 9).into_iter().map(|e| (e.range, e.held)).collect();
    assert_eq!(held, [(ByteRange::of_blocks(8..9), Held::Data), (ByteRange::of_blocks(9..12), Held::Data)]);
    assert_eq!(reader.header.node, "beta");
}

#[test]
fn zeroes_that_are_zeroed_are_not_saved_until_something_else_takes_their_place() {
    let mut bench = Bench::new();
    let before = std::fs::read(bench.disk()).unwrap();
    bench.open(false).unwrap();
    bench.ask(Work::Save { range: ByteRange::of_blocks(4..16), zeroes: true }).unwrap();
    bench.ask(Work::Save { range: ByteRange::of_blocks(7..8), zeroes: false }).unwrap();
    bench.overwrite(4..15);
    bench.ask(Work::Finish).unwrap();
    let reader = bench.only().reader.unwrap();
    assert_eq!(reader.bytes_held(), 11 * BLOCK, "block 15 is the one of zeroes that stayed");
    assert_eq!(bench.view(&reader).unwrap(), before);
}

#[test]
fn a_restart_goes_on_with_the_same_archive_and_a_finished_one_is_left_alone() {
    let mut bench = Bench::new();
    let before = std::fs::read(bench.disk()).unwrap();
    bench.open(false).unwrap();
    bench.save(0..8).unwrap();
    bench.overwrite(0..8);
    let mut bench = bench.restarted(1 << 30);
    bench.open(true).unwrap();
    bench.save(4..20).unwrap();
    bench.overwrite(4..20);
    bench.ask(Work::Finish).unwrap();
    assert_eq!(bench.view(&bench.only().reader.unwrap()).unwrap(), before);
    // That one is done: nothing but a new one may follow, and it must not pretend to be the old one.
    let refused = bench.open(true).unwrap_err();
    assert!(refused.contains("not in") && refused.contains("--no-archive"), "{refused}");
    bench.open(false).unwrap();
    assert_eq!(bench.entries().len(), 2);
}

#[test]
fn a_torn_end_is_cut_off_and_saved_again() {
    let mut bench = Bench::new();
    let before = std::fs::read(bench.disk()).unwrap();
    bench.open(false).unwrap();
    bench.save(0..4).unwrap();
    bench.overwrite(0..4);
    let whole = bench.only().bytes;
    bench.save(10..20).unwrap();
    let torn = bench.only().bytes;
    let path = bench.only().path;
    for (length, rotten) in [(torn - 5000, None), (whole + 30, None), (torn, Some(torn - 100)), (whole, None)] {
        let mut other = Bench::new();
        std::fs::create_dir(other.folder.path().join("archive")).unwrap();
        let copy = other.folder.path().join("archive/vol0-beta-x.archive");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(bench.disk(), other.disk()).unwrap();
        OpenOptions::new().write(true).open(&copy).unwrap().set_len(length).unwrap();
        rotten.into_iter().for_each(|at| flip(&copy, at));
        other.open(true).unwrap();
        other.save(10..20).unwrap();
        other.overwrite(10..20);
        other.ask(Work::Finish).unwrap();
        assert_eq!(other.view(&other.only().reader.unwrap()).unwrap(), before, "{length} {rotten:?}");
    }
}

#[test]
fn damage_costs_what_it_hit_and_a_damaged_archive_is_not_gone_on_with() {
    let mut bench = Bench::new();
    bench.open(false).unwrap();
    for first in [0, 8, 16] {
        bench.save(first..first + 6).unwrap();
        bench.overwrite(first..first + 6);
    }
    let Entry { path, bytes, .. } = bench.only();
    let record = (bytes - HEADER_BYTES as u64) / 3;
    // A rotten byte in the data: that block is an error, its neighbours are not.
    flip(&path, HEADER_BYTES as u64 + record - 1);
    let reader = Reader::open(&path).unwrap();
    let mut block = vec![0; BLOCK as usize];
    let error = reader.overlay(ByteRange::of_blocks(5..6), &mut block).unwrap_err();
    assert!(error.to_string().contains("block 5 is damaged"), "{error}");
    reader.overlay(ByteRange::of_blocks(4..5), &mut block).unwrap();
    assert_eq!(block, vec![5; BLOCK as usize]);
    // A rotten header: what is behind it is found again.
    flip(&path, HEADER_BYTES as u64 + record + 9);
    let reader = Reader::open(&path).unwrap();
    assert_eq!((reader.bytes_held(), reader.damaged_bytes), (12 * BLOCK, record));
    let mut bench = bench.restarted(1 << 30);
    let refused = bench.open(true).unwrap_err();
    assert!(refused.contains("is damaged"), "{refused}");
}

#[test]
fn a_full_archive_refuses_and_keeps_what_it_has() {
    let bench = Bench::new();
    let before = std::fs::read(bench.disk()).unwrap();
    let mut bench = bench.restarted(HEADER_BYTES as u64 + 8 * BLOCK);
    bench.open(false).unwrap();
    bench.save(0..6).unwrap();
    bench.overwrite(0..6);
    let refused = bench.save(8..14).unwrap_err();
    assert!(refused.contains("archive_limit") && refused.contains("--no-archive"), "{refused}");
    let mut bench = bench.restarted(1 << 30);
    bench.open(true).unwrap();
    bench.save(8..14).unwrap();
    bench.overwrite(8..14);
    bench.ask(Work::Finish).unwrap();
    assert_eq!(bench.view(&bench.only().reader.unwrap()).unwrap(), before);
}

#[test]
fn a_directory_that_cannot_be_is_named() {
    let bench = Bench::new();
    std::fs::write(bench.folder.path().join("archive"), b"a file").unwrap();
    let mut bench = bench.restarted(1 << 30);
    let refused = bench.open(false).unwrap_err();
    assert!(refused.contains("archive"), "{refused}");
}

#[test]
fn what_the_disk_cannot_read_is_noted_and_is_an_error_for_readers() {
    let mut bench = Bench::new();
    // Blocks behind its end: reading them fails as a bad sector would.
    OpenOptions::new().write(true).open(bench.disk()).unwrap().set_len(40 * BLOCK).unwrap();
    bench.open(false).unwrap();
    bench.save(38..42).unwrap();
    bench.ask(Work::Finish).unwrap();
    let reader = bench.only().reader.unwrap();
    assert_eq!((reader.bytes_held(), reader.bytes_unreadable()), (4 * BLOCK, 2 * BLOCK));
    let mut bytes = vec![0; 2 * BLOCK as usize];
    reader.overlay(ByteRange::of_blocks(38..40), &mut bytes).unwrap();
    assert!(reader.overlay(ByteRange::of_blocks(40..41), &mut bytes[..BLOCK as usize]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_make_a_reader_panic_or_show_what_was_never_there(
        patches in proptest::collection::vec((0u64..60_000, any::<u8>()), 1..40),
        length in 0u64..70_000,
    ) {
        let mut bench = Bench::new();
        bench.open(false).unwrap();
        for first in [0, 6, 30] {
            bench.save(first..first + 4).unwrap();
        }
        let before = std::fs::read(bench.disk()).unwrap();
        let Entry { path, .. } = bench.only();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for (at, byte) in patches {
            file.write_all_at(&[byte], at).unwrap();
        }
        file.set_len(length).unwrap();
        let Ok(reader) = Reader::open(&path) else { return Ok(()) };
        for block in 0..BLOCKS as u32 {
            let at = (u64::from(block) * BLOCK) as usize;
            let mut bytes = before[at..at + BLOCK as usize].to_vec();
            if reader.overlay(ByteRange::of_blocks(block..block + 1), &mut bytes).is_ok() {
                prop_assert_eq!(&bytes[..], &before[at..at + BLOCK as usize]);
            }
        }
    }
}
