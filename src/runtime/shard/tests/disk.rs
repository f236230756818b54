use super::{Bench, MIB};
use crate::base::error::DiskError;
use crate::base::ids::{BufferId, OpId};
use crate::base::range::ByteRange;
use crate::io::pool::Class;
use crate::logic::mirror::interface::{Completion, DiskIo, Input};
use crate::runtime::shard::disk::Disk;
use proptest::prelude::*;
use std::os::unix::fs::FileExt;

const VOLUME: u64 = 4 << 20;

fn bench() -> (Bench, Disk) {
    // Longer than the volume: what lies behind is not the volume's.
    let bench = Bench::new(VOLUME + (1 << 20));
    let mut disk = Disk::default();
    disk.open(bench.file.clone(), VOLUME);
    (bench, disk)
}

fn done(input: &Input) -> (u64, Result<Completion, DiskError>) {
    match input {
        Input::DiskDone { op, result } => (op.0, result.clone()),
        other => panic!("not the answer of a disk: {other:?}"),
    }
}

fn run(bench: &mut Bench, disk: &mut Disk, io: DiskIo) -> Result<Completion, DiskError> {
    disk.start(OpId(7), io, &mut bench.means());
    let answers = bench.answers_of(disk, 1);
    assert_eq!((answers.len(), done(&answers[0]).0, disk.is_idle()), (1, 7, true));
    done(&answers[0]).1
}

fn buffer_of(bench: &mut Bench, bytes: &[u8]) -> BufferId {
    let buffer = bench.pool.allocate(bytes.len(), Class::Client).unwrap();
    bench.pool.slice_mut(buffer).copy_from_slice(bytes);
    buffer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Filled around any unaligned range, the buffer holds the disk's bytes outside it and its own inside.
    #[test]
    fn a_fill_completes_the_blocks_around(offset in 0..20_000u64, length in 1..30_000u64) {
        let (mut bench, mut disk) = bench();
        let old: Vec<u8> = (0..VOLUME as usize).map(|at| (at % 251) as u8).collect();
        bench.plain.write_all_at(&old, 0).unwrap();
        let range = ByteRange::new(offset, length);
        let aligned = range.aligned_out();
        let at = (offset - aligned.offset) as usize;
        let buffer = bench.pool.allocate(aligned.length as usize, Class::Client).unwrap();
        // What the ends hold before must not matter.
        bench.pool.slice_mut(buffer).fill(254);
        bench.pool.slice_mut(buffer)[at..at + length as usize].fill(255);
        prop_assert_eq!(run(&mut bench, &mut disk, DiskIo::Fill { range, buffer }), Ok(Completion::Done));
        let mut expected = old[aligned.offset as usize..aligned.end() as usize].to_vec();
        expected[at..at + length as usize].fill(255);
        prop_assert!(bench.pool.slice(buffer) == expected);
    }
}

#[test]
fn writes_and_reads_move_the_buffer() {
    let (mut bench, mut disk) = bench();
    let bytes: Vec<u8> = (0..MIB).map(|at| (at % 253) as u8).collect();
    let buffer = buffer_of(&mut bench, &bytes);
    let range = ByteRange::new(8192, MIB as u64);
    for fua in [false, true] {
        assert_eq!(run(&mut bench, &mut disk, DiskIo::Write { range, buffer, fua }), Ok(Completion::Done));
    }
    bench.pool.slice_mut(buffer).fill(0);
    assert_eq!(run(&mut bench, &mut disk, DiskIo::Read { range, buffer }), Ok(Completion::Done));
    assert!(bench.pool.slice(buffer) == bytes);
    assert_eq!(run(&mut bench, &mut disk, DiskIo::Flush), Ok(Completion::Done));
}

#[test]
fn chunks_of_zeroes_come_without_a_buffer() {
    let (mut bench, mut disk) = bench();
    bench.plain.write_all_at(&[1], (1 << 20) + 70_000).unwrap();
    let zeroes = ByteRange::new(0, 1 << 20);
    let data = ByteRange::new(1 << 20, 1 << 20);
    assert_eq!(run(&mut bench, &mut disk, DiskIo::ReadChunk { range: zeroes }), Ok(Completion::Chunk { buffer: None }));
    assert_eq!(bench.pool.in_use(), 0);
    let Ok(Completion::Chunk { buffer: Some(buffer) }) = run(&mut bench, &mut disk, DiskIo::ReadChunk { range: data })
    else {
        panic!("a chunk with data")
    };
    assert_eq!(bench.pool.slice(buffer)[70_000], 1);
    bench.pool.release(buffer);

    let Ok(Completion::Digests(digests)) = run(&mut bench, &mut disk, DiskIo::Digest { range: data }) else {
        panic!("digests")
    };
    let zero = xxhash_rust::xxh3::xxh3_128(&[0; 4096]);
    let different: Vec<usize> = (0..digests.len()).filter(|at| digests[*at] != zero).collect();
    assert_eq!((digests.len(), different), (256, vec![70_000 / 4096]));
    assert_eq!(bench.pool.in_use(), 0, "a digest gives its buffer back");
}

#[test]
fn chunks_wait_for_buffers_in_order() {
    let (mut bench, mut disk) = bench();
    bench.plain.write_all_at(&vec![1; VOLUME as usize], 0).unwrap();
    let taken: Vec<BufferId> = std::iter::from_fn(|| bench.pool.allocate(MIB, Class::Resync)).collect();
    for op in 0..4 {
        let range = ByteRange::new(op << 20, 1 << 20);
        disk.start(OpId(op), DiskIo::ReadChunk { range }, &mut bench.means());
    }
    disk.resume(&mut bench.means());
    assert!(disk.is_idle() && bench.answers.is_empty(), "nothing is read without a buffer");
    // One buffer is freed; each chunk then goes on with the one of the chunk before.
    bench.pool.release(taken[0]);
    for number in 0..4 {
        disk.resume(&mut bench.means());
        let answers = bench.answers_of(&mut disk, 1);
        assert_eq!(answers.len(), 1);
        let (op, Ok(Completion::Chunk { buffer: Some(buffer) })) = done(&answers[0]) else { panic!("a chunk") };
        assert_eq!(op, number);
        bench.pool.release(buffer);
    }
}

#[test]
fn what_lies_behind_the_volume_is_out_of_reach() {
    let (mut bench, mut disk) = bench();
    let buffer = buffer_of(&mut bench, &[1; 8192]);
    let range = ByteRange::new(VOLUME - 4096, 8192);
    for io in [
        DiskIo::Write { range, buffer, fua: false },
        DiskIo::Read { range, buffer },
        DiskIo::Zero { range, unmap: true, fua: false },
        DiskIo::Fill { range: ByteRange::new(VOLUME - 10, 20), buffer },
    ] {
        assert_eq!(run(&mut bench, &mut disk, io), Err(DiskError::Failed(libc::EINVAL)));
    }
    let mut bytes = [0; 8192];
    bench.plain.read_exact_at(&mut bytes, VOLUME - 4096).unwrap();
    assert_eq!(bytes, [0; 8192]);
}

#[test]
fn a_closed_disk_answers_everything_and_is_let_go_with_its_last_operation() {
    let (mut bench, mut disk) = bench();
    let taken: Vec<BufferId> = std::iter::from_fn(|| bench.pool.allocate(MIB, Class::Resync)).collect();
    let buffer = buffer_of(&mut bench, &[1; 4096]);
    let range = ByteRange::new(0, 4096);
    disk.start(OpId(1), DiskIo::Write { range, buffer, fua: true }, &mut bench.means());
    disk.start(OpId(2), DiskIo::ReadChunk { range }, &mut bench.means());
    let file = std::sync::Arc::downgrade(&std::mem::replace(
        &mut bench.file,
        std::sync::Arc::new(crate::io::ring::DiskFile::new(tempfile::tempfile().unwrap().into())),
    ));
    disk.close(&mut bench.answers);
    disk.start(OpId(3), DiskIo::Flush, &mut bench.means());
    assert!(file.upgrade().is_some() && !disk.is_idle() && !disk.is_open());
    let answers = bench.answers_of(&mut disk, 3);
    let mut answered: Vec<_> = answers.iter().map(done).collect();
    answered.sort_by_key(|(op, _)| *op);
    let no_disk = Err(DiskError::NoDisk);
    assert_eq!(answered, [(1, Ok(Completion::Done)), (2, no_disk.clone()), (3, no_disk)]);
    assert!(disk.is_idle() && file.upgrade().is_none());
    taken.into_iter().for_each(|buffer| bench.pool.release(buffer));
}

#[test]
fn a_fill_keeps_its_buffer_although_nobody_waits_for_it_any_more() {
    let (mut bench, mut disk) = bench();
    let buffer = buffer_of(&mut bench, &[1; 8192]);
    disk.start(OpId(1), DiskIo::Fill { range: ByteRange::new(5, 8000), buffer }, &mut bench.means());
    bench.pool.release(buffer);
    assert_eq!(bench.pool.in_use(), 1);
    let answers = bench.answers_of(&mut disk, 1);
    assert_eq!((done(&answers[0]), bench.pool.in_use()), ((1, Ok(Completion::Done)), 0));
}

#[test]
fn a_failed_read_gives_its_buffer_back() {
    let (mut bench, _) = bench();
    let directory = std::fs::File::open("/").unwrap();
    let mut disk = Disk::default();
    disk.open(std::sync::Arc::new(crate::io::ring::DiskFile::new(directory.into())), VOLUME);
    let range = ByteRange::new(0, 4096);
    for io in [DiskIo::ReadChunk { range }, DiskIo::Digest { range }] {
        assert_eq!(run(&mut bench, &mut disk, io), Err(DiskError::Failed(libc::EISDIR)));
        assert_eq!(bench.pool.in_use(), 0);
    }
    let buffer = buffer_of(&mut bench, &[1; 8192]);
    let io = DiskIo::Fill { range: ByteRange::new(5, 8000), buffer };
    assert_eq!(run(&mut bench, &mut disk, io), Err(DiskError::Failed(libc::EISDIR)));
}
