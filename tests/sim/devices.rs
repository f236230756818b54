//! A daemon's disk operations and records, carried out on the simulated devices.

use super::disk::Disk;
use super::node::{DiskOp, NAMES, Process};
use super::world::{Event, World};
use twinblock::base::error::DiskError;
use twinblock::base::ids::OpId;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::logic::mirror::interface::{Completion, DiskIo, Input};
use twinblock::wire::metadata::record::Record;

/// The blocks an operation reads, or changes on the disk.
fn touches(io: &DiskIo) -> Option<ByteRange> {
    match io {
        DiskIo::Read { range, .. }
        | DiskIo::ReadChunk { range }
        | DiskIo::Digest { range }
        | DiskIo::Write { range, .. }
        | DiskIo::Zero { range, .. } => Some(*range),
        DiskIo::Fill { range, .. } => Some(range.aligned_out()),
        DiskIo::Flush | DiskIo::Holes { .. } => None,
    }
}

/// The blocks an operation changes on the disk.
pub fn changed_by(io: &DiskIo) -> Option<ByteRange> {
    touches(io).filter(|_| changes(io))
}

fn changes(io: &DiskIo) -> bool {
    matches!(io, DiskIo::Write { .. } | DiskIo::Zero { .. })
}

impl World {
    /// The core hands out a disk operation.
    pub fn submit_disk(&mut self, node: usize, op: OpId, io: DiskIo) {
        self.check_disk_contract(node, &io);
        if changes(&io) {
            self.check_disk_write(node, &io);
            self.check_archived(node, &io);
        }
        let normal = if matches!(io, DiskIo::Flush) { self.config.flush_latency } else { self.config.disk_latency };
        let latency = self.span(normal);
        let now = self.now;
        let this = &mut self.nodes[node];
        let latency = this.latency(latency, now);
        let fails = match io {
            DiskIo::Flush => this.faults.next_flush.take(),
            DiskIo::Write { .. } | DiskIo::Zero { .. } => this.faults.next_write.take(),
            DiskIo::Holes { .. } => None,
            _ => this.faults.next_read.take(),
        };
        let flush_point = this.disk.flush_point();
        let process = this.process.as_mut().expect("alive");
        let checksum = match &io {
            DiskIo::Write { buffer, .. } => crc32fast::hash(process.buffers.get(*buffer)),
            _ => 0,
        };
        let life = process.life;
        let under_way = process.disk_ops.insert(op, DiskOp { io, fails, flush_point, checksum });
        assert!(under_way.is_none(), "{} uses {op:?} twice", NAMES[node]);
        self.after(latency, Event::DiskDone { node, life, op });
    }

    fn check_disk_contract(&self, node: usize, io: &DiskIo) {
        let process = self.nodes[node].process.as_ref().expect("alive");
        assert!(process.disk_open, "{} uses a disk it has closed: {io:?}", NAMES[node]);
        let again = matches!(io, DiskIo::Flush) && process.flush_failed;
        assert!(!again, "{}: a flush after a failed one on the same attachment (I17)", NAMES[node]);
        let two = matches!(io, DiskIo::Flush) && process.disk_ops.values().any(|op| matches!(op.io, DiskIo::Flush));
        assert!(!two, "{} has two flushes under way", NAMES[node]);
        let Some(range) = touches(io) else { return };
        assert!(range.is_aligned() && range.length > 0, "{io:?} is not aligned");
        assert!(range.end() <= self.nodes[node].disk.bytes_total(), "{io:?} lies beyond the end of the disk");
        for other in process.disk_ops.values() {
            let conflict = touches(&other.io).is_some_and(|other| other.overlaps(&range));
            let writes = changes(io) || changes(&other.io);
            assert!(
                !(conflict && writes),
                "{} has overlapping operations under way: {io:?}, {:?}",
                NAMES[node],
                other.io
            );
        }
        if let DiskIo::Write { range, buffer, .. } | DiskIo::Read { range, buffer } = io {
            assert_eq!(
                process.buffers.get(*buffer).len() as u64,
                range.length,
                "{io:?} has another size than its buffer"
            );
        }
    }

    /// A disk operation ends.
    pub fn disk_done(&mut self, node: usize, life: u64, op: OpId) {
        if !self.alive(node, life) {
            return;
        }
        let this = &mut self.nodes[node];
        let process = this.process.as_mut().expect("alive");
        let Some(DiskOp { io, fails, flush_point, checksum }) = process.disk_ops.remove(&op) else { return };
        let result = match fails {
            None => Ok(carry_out(&io, &mut this.disk, process, flush_point, checksum)),
            Some(error) => {
                match &io {
                    DiskIo::Flush => {
                        process.flush_failed = true;
                        let drops = std::mem::take(&mut this.faults.flush_drops);
                        this.disk.flush_failed(drops);
                        if drops {
                            this.cache_lost = self.now;
                            this.was_doomed = true;
                        }
                    }
                    DiskIo::Write { range, buffer, .. } => {
                        this.disk.write_in_part(range.offset, process.buffers.get(*buffer), &mut self.random);
                    }
                    _ => {}
                }
                Err(error)
            }
        };
        self.deliver(node, Input::DiskDone { op, result });
    }

    /// The core wants a record durable. Records are carried out one after the other.
    pub fn submit_persist(&mut self, node: usize, op: OpId, record: Record) {
        self.check_record(node, &record);
        let process = self.process_of(node);
        process.persists.push_back((op, record));
        if process.persists.len() == 1 {
            self.begin_persist(node);
        }
    }

    fn begin_persist(&mut self, node: usize) {
        let latency = self.span(self.config.metadata_latency);
        let latency = self.nodes[node].latency(latency, self.now);
        let this = &mut self.nodes[node];
        let process = this.process.as_mut().expect("alive");
        let (_, record) = process.persists.front().expect("something is to be written");
        process.plan = this.metadata.plan(record);
        let life = process.life;
        self.after(latency, Event::Persisted { node, life });
    }

    /// A record is durable, or could not be made so.
    pub fn persisted(&mut self, node: usize, life: u64) {
        if !self.alive(node, life) {
            return;
        }
        let this = &mut self.nodes[node];
        let process = this.process.as_mut().expect("alive");
        let Some((op, record)) = process.persists.pop_front() else { return };
        let more = !process.persists.is_empty();
        let result = match this.faults.next_persist.take() {
            Some(error) => {
                this.metadata.torn(&process.plan, &mut self.random);
                Err(error)
            }
            None => {
                this.metadata.store(record, std::mem::take(&mut process.plan));
                Ok(())
            }
        };
        self.check_after_persist(node, result);
        self.forced_in_doubt(node);
        self.fork_if_begun(node);
        if more {
            self.begin_persist(node);
        }
        self.deliver(node, Input::Persisted { op, result });
    }
}

/// What the disk does for a healthy operation.
fn carry_out(io: &DiskIo, disk: &mut Disk, process: &mut Process, flush_point: u64, checksum: u32) -> Completion {
    match io {
        DiskIo::Read { range, buffer } => {
            process.buffers.get_mut(*buffer).copy_from_slice(disk.read(*range));
            Completion::Done
        }
        DiskIo::Fill { range, buffer } => {
            fill_ends(*range, disk.read(range.aligned_out()), process.buffers.get_mut(*buffer));
            Completion::Done
        }
        DiskIo::ReadChunk { range } => {
            let bytes = disk.read(*range);
            let zero = bytes.iter().all(|byte| *byte == 0);
            Completion::Chunk { buffer: (!zero).then(|| process.buffers.insert(bytes.to_vec())) }
        }
        DiskIo::Write { range, buffer, fua } => {
            let bytes = process.buffers.get(*buffer);
            assert_eq!(crc32fast::hash(bytes), checksum, "the bytes of {io:?} changed under way (R14)");
            disk.write(range.offset, bytes, *fua);
            Completion::Done
        }
        DiskIo::Zero { range, unmap, fua } => {
            disk.zero(*range, *unmap, *fua);
            Completion::Done
        }
        DiskIo::Flush => {
            disk.flushed(flush_point);
            Completion::Done
        }
        DiskIo::Digest { range } => {
            let digest = |block: &[u8]| xxhash_rust::xxh3::xxh3_128(block);
            Completion::Digests(disk.read(*range).chunks(BLOCK as usize).map(digest).collect())
        }
        DiskIo::Holes { range } => Completion::Holes(disk.holes(*range)),
    }
}

/// Completes the blocks around an unaligned write.
fn fill_ends(range: ByteRange, old: &[u8], buffer: &mut [u8]) {
    let start = (range.offset % BLOCK) as usize;
    let end = start + range.length as usize;
    buffer[..start].copy_from_slice(&old[..start]);
    buffer[end..].copy_from_slice(&old[end..]);
}

/// Errors a disk may report.
pub const DISK_ERRORS: [DiskError; 3] = [DiskError::Failed(5), DiskError::NoSpace, DiskError::Short];
