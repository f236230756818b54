//! The core's operations on the data disk, as operations of the ring.
//!
//! Most are one to one. A fill reads the first and last block around an unaligned write; a chunk or digest needs a
//! buffer of its own and waits for one while the pool has none. Whatever happens, each operation of the core is
//! answered exactly once; without a disk it is answered at once, with [`DiskError::NoDisk`].

use crate::base::error::DiskError;
use crate::base::ids::{BufferId, OpId};
use crate::base::range::{BLOCK, ByteRange};
use crate::io::aligned::AlignedBytes;
use crate::io::disk::holes;
use crate::io::pool::{Class, Pool};
use crate::io::ring::{Action, Completion as RingCompletion, DiskFile, Memory, Ring};
use crate::logic::mirror::interface::{Completion, DiskIo, Input};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// What a disk operation needs beside the disk.
pub(super) struct Means<'a> {
    pub ring: &'a mut Ring,
    pub pool: &'a mut Pool,
    /// Where answers go that need no waiting.
    pub answers: &'a mut Vec<Input>,
}

/// The data disk of one volume.
#[derive(Debug, Default)]
pub(super) struct Disk {
    open: Option<Open>,
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    /// Operations that wait for a buffer, in order.
    waiting: VecDeque<(OpId, ByteRange, Want)>,
    /// State of the pool when the first of them was refused.
    refused_at: u64,
}

#[derive(Debug)]
struct Open {
    file: Arc<DiskFile>,
    /// Bytes that belong to the volume; what follows may be metadata.
    capacity_bytes: u64,
}

/// A core's operation under way.
#[derive(Debug)]
struct Job {
    op: OpId,
    work: Work,
    parts_left: u32,
    failed: Option<DiskError>,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Plain,
    Fill { range: ByteRange, buffer: BufferId },
    Own { want: Want, buffer: BufferId },
}

/// What is wanted of bytes read into a buffer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Chunk,
    Digest,
}

/// Parts of a job, in the lowest bit of a ring token: the first block, or the last.
const PART_HEAD: u64 = 0;
const PART_TAIL: u64 = 1;

impl Disk {
    /// Takes a disk into use. The one before must be closed.
    pub fn open(&mut self, file: Arc<DiskFile>, capacity_bytes: u64) {
        assert!(self.open.is_none(), "one disk at a time");
        self.open = Some(Open { file, capacity_bytes });
    }

    /// Whether a disk is in use.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Another descriptor of the disk.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        let open = self.open.as_ref().ok_or_else(|| io::Error::other("there is none"))?;
        open.file.as_fd().try_clone_to_owned()
    }

    /// Parts of the range that read as zeroes without a read. Where the disk can't tell, or there is none, no parts.
    pub fn holes(&self, range: ByteRange) -> Vec<ByteRange> {
        self.open.as_ref().map_or(Vec::new(), |open| holes(open.file.as_fd(), range).unwrap_or_default())
    }

    /// Whether zeroing costs no writing of zeroes, as far as is known.
    pub fn zeroes_fast(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.file.zeroes_fast())
    }

    /// Starts no further operation. The file is closed when the last one under way has ended.
    pub fn close(&mut self, answers: &mut Vec<Input>) {
        self.open = None;
        answers.extend(self.waiting.drain(..).map(|(op, ..)| failed(op, DiskError::NoDisk)));
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.jobs.len() == self.free.len()
    }

    /// Starts an operation of the core.
    pub fn start(&mut self, op: OpId, io: DiskIo, means: &mut Means<'_>) {
        let Some(open) = &self.open else {
            return means.answers.push(failed(op, DiskError::NoDisk));
        };
        if range_of(&io).is_some_and(|range| range.end() > open.capacity_bytes) {
            // Behind the volume lies metadata: whoever asked for this, it never reaches the disk.
            return means.answers.push(failed(op, DiskError::Failed(libc::EINVAL)));
        }
        let file = open.file.clone();
        match io {
            DiskIo::Read { range, buffer } => {
                let (offset, length) = (range.offset, range.length as usize);
                let action = Action::Read { offset, length, into: Memory::Buffer(buffer) };
                self.start_plain(op, &file, action, means);
            }
            DiskIo::Write { range, buffer, fua } => {
                let (offset, length) = (range.offset, range.length as usize);
                let action = Action::Write { offset, length, from: Memory::Buffer(buffer), fua };
                self.start_plain(op, &file, action, means);
            }
            DiskIo::Zero { range, unmap, fua } => {
                self.start_plain(op, &file, Action::Zero { range, unmap, fua }, means);
            }
            DiskIo::Flush => self.start_plain(op, &file, Action::Sync, means),
            DiskIo::Fill { range, buffer } => self.start_fill(op, &file, range, buffer, means),
            DiskIo::ReadChunk { range } => self.start_own(op, range, Want::Chunk, means),
            DiskIo::Digest { range } => self.start_own(op, range, Want::Digest, means),
            DiskIo::Holes { range } => {
                let result = Ok(Completion::Holes(self.holes(range)));
                means.answers.push(Input::DiskDone { op, result });
            }
        }
    }

    fn start_plain(&mut self, op: OpId, file: &Arc<DiskFile>, action: Action, means: &mut Means<'_>) {
        let job = self.add(Job { op, work: Work::Plain, parts_left: 1, failed: None });
        means.ring.start(token(job, PART_HEAD), file, action, means.pool);
    }

    /// Reads the blocks at the ends that the range covers only in part.
    fn start_fill(
        &mut self,
        op: OpId,
        file: &Arc<DiskFile>,
        range: ByteRange,
        buffer: BufferId,
        means: &mut Means<'_>,
    ) {
        let aligned = range.aligned_out();
        let head = range.offset != aligned.offset;
        let tail = range.end() != aligned.end() && !(head && aligned.length == BLOCK);
        let mut parts = Vec::with_capacity(2);
        if head {
            parts.push((PART_HEAD, aligned.offset));
        }
        if tail {
            parts.push((PART_TAIL, aligned.end() - BLOCK));
        }
        if parts.is_empty() {
            return means.answers.push(Input::DiskDone { op, result: Ok(Completion::Done) });
        }
        // The ring holds what it works on itself, and that is a scratch block here.
        means.pool.hold(buffer);
        let work = Work::Fill { range, buffer };
        let job = self.add(Job { op, work, parts_left: parts.len() as u32, failed: None });
        for (part, offset) in parts {
            let into = Memory::Own(AlignedBytes::zeroed(BLOCK as usize));
            let action = Action::Read { offset, length: BLOCK as usize, into };
            means.ring.start(token(job, part), file, action, means.pool);
        }
    }

    /// Reads into a buffer of our own, now or when there is one.
    fn start_own(&mut self, op: OpId, range: ByteRange, want: Want, means: &mut Means<'_>) {
        self.waiting.push_back((op, range, want));
        if self.waiting.len() == 1 {
            self.start_waiting(means);
        }
    }

    /// Goes on with what waits for buffers, if the pool had any freed since. To be called once per turn.
    pub fn resume(&mut self, means: &mut Means<'_>) {
        if !self.waiting.is_empty() && means.pool.frees() != self.refused_at {
            self.start_waiting(means);
        }
    }

    fn start_waiting(&mut self, means: &mut Means<'_>) {
        let file = self.open.as_ref().expect("without a disk nothing waits").file.clone();
        while let Some(&(op, range, want)) = self.waiting.front() {
            let length = range.length as usize;
            let Some(buffer) = means.pool.allocate(length, Class::Resync) else {
                self.refused_at = means.pool.frees();
                return;
            };
            self.waiting.pop_front();
            let job = self.add(Job { op, work: Work::Own { want, buffer }, parts_left: 1, failed: None });
            let action = Action::Read { offset: range.offset, length, into: Memory::Buffer(buffer) };
            means.ring.start(token(job, PART_HEAD), &file, action, means.pool);
        }
    }

    /// Takes an operation of the ring that has ended, and the answer to the core if that was the last part.
    pub fn finish(&mut self, completion: RingCompletion, pool: &mut Pool) -> Option<Input> {
        let index = (completion.token >> 1) as usize;
        let job = self.jobs[index].as_mut().expect("an operation that ends was started");
        match completion.result {
            Err(error) => job.failed = job.failed.or(Some(error)),
            Ok(()) => {
                if let (Work::Fill { range, buffer }, Memory::Own(block)) = (job.work, &completion.memory) {
                    fill_part(pool.slice_mut(buffer), range, completion.token & 1, block);
                }
            }
        }
        job.parts_left -= 1;
        if job.parts_left > 0 {
            return None;
        }
        let job = self.jobs[index].take().expect("the job is there");
        self.free.push(index);
        if let Work::Fill { buffer, .. } = job.work {
            pool.unhold(buffer);
        }
        Some(Input::DiskDone { op: job.op, result: outcome(&job, pool) })
    }

    fn add(&mut self, job: Job) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(None);
            self.jobs.len() - 1
        });
        self.jobs[index] = Some(job);
        index
    }
}

fn token(job: usize, part: u64) -> u64 {
    (job as u64) << 1 | part
}

fn failed(op: OpId, error: DiskError) -> Input {
    Input::DiskDone { op, result: Err(error) }
}

/// The whole blocks an operation touches.
fn range_of(io: &DiskIo) -> Option<ByteRange> {
    match io {
        DiskIo::Read { range, .. }
        | DiskIo::Fill { range, .. }
        | DiskIo::ReadChunk { range }
        | DiskIo::Write { range, .. }
        | DiskIo::Zero { range, .. }
        | DiskIo::Digest { range }
        | DiskIo::Holes { range } => Some(range.aligned_out()),
        DiskIo::Flush => None,
    }
}

/// Copies into the buffer of an unaligned write what its first or last block holds outside the write.
fn fill_part(buffer: &mut [u8], range: ByteRange, part: u64, block: &[u8]) {
    let before = (range.offset % BLOCK) as usize;
    let end = before + range.length as usize;
    let length = buffer.len();
    let last = length - BLOCK as usize;
    if part == PART_HEAD {
        buffer[..before].copy_from_slice(&block[..before]);
    }
    // One block may hold both ends; then it is read once, as the head.
    if part == PART_TAIL || last == 0 {
        buffer[end..].copy_from_slice(&block[end - last..]);
    }
}

/// What a job whose parts have all ended yields.
fn outcome(job: &Job, pool: &mut Pool) -> Result<Completion, DiskError> {
    let Work::Own { want, buffer } = job.work else {
        return job.failed.map_or(Ok(Completion::Done), Err);
    };
    if let Some(error) = job.failed {
        pool.release(buffer);
        return Err(error);
    }
    let bytes = pool.slice(buffer);
    let completion = match want {
        Want::Chunk if !is_zero(bytes) => return Ok(Completion::Chunk { buffer: Some(buffer) }),
        Want::Chunk => Completion::Chunk { buffer: None },
        Want::Digest => {
            Completion::Digests(bytes.chunks_exact(BLOCK as usize).map(xxhash_rust::xxh3::xxh3_128).collect())
        }
    };
    pool.release(buffer);
    Ok(completion)
}

/// Whether every byte is zero; stops at the first block that is not.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(BLOCK as usize).all(|block| block.iter().fold(0, |any, byte| any | byte) == 0)
}
