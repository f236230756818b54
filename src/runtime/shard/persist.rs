//! Makes the core's records durable: one record after the other, its writes in the order the plan says.

use super::disk::Means;
use crate::base::error::DiskError;
use crate::base::ids::OpId;
use crate::base::limits::PERSIST_WRITES_IN_FLIGHT_MAX;
use crate::io::aligned::AlignedBytes;
use crate::io::ring::{Action, Completion, DiskFile, Memory};
use crate::logic::mirror::interface::Input;
use crate::wire::metadata::Writer;
use crate::wire::metadata::record::Record;
use std::collections::VecDeque;
use std::sync::Arc;

/// Marks the tokens of metadata writes among those of the ring.
pub(super) const METADATA_TOKEN: u64 = 1 << 63;

/// The metadata of one volume's disk.
#[derive(Debug, Default)]
pub(super) struct Persist {
    open: Option<Open>,
    /// Records in order; the first is not begun yet.
    queue: VecDeque<(OpId, Record)>,
    current: Option<Current>,
}

#[derive(Debug)]
struct Open {
    file: Arc<DiskFile>,
    writer: Writer,
}

/// The record being written.
#[derive(Debug)]
struct Current {
    op: OpId,
    file: Arc<DiskFile>,
    /// Steps after the one under way.
    steps: VecDeque<Vec<(u64, Vec<u8>)>>,
    /// Writes of this step that are not started yet.
    writes: VecDeque<(u64, Vec<u8>)>,
    under_way: usize,
    failed: Option<DiskError>,
}

impl Persist {
    /// Takes the metadata of a disk into use.
    pub fn open(&mut self, file: Arc<DiskFile>, writer: Writer) {
        assert!(self.open.is_none(), "one disk at a time");
        self.open = Some(Open { file, writer });
    }

    /// Begins no further record; those that wait fail. The file is closed when the last write under way has ended.
    pub fn close(&mut self, answers: &mut Vec<Input>) {
        self.open = None;
        answers.extend(self.queue.drain(..).map(|(op, _)| Input::Persisted { op, result: Err(DiskError::NoDisk) }));
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    /// Queues a record.
    pub fn start(&mut self, op: OpId, record: Record, means: &mut Means<'_>) {
        if self.open.is_none() {
            return means.answers.push(Input::Persisted { op, result: Err(DiskError::NoDisk) });
        }
        self.queue.push_back((op, record));
        self.advance(means);
    }

    /// Takes a write of metadata that has ended.
    pub fn finish(&mut self, completion: Completion, means: &mut Means<'_>) {
        let current = self.current.as_mut().expect("a write that ends belongs to a record");
        current.under_way -= 1;
        if let Err(error) = completion.result {
            current.failed = current.failed.or(Some(error));
        }
        self.advance(means);
    }

    /// Starts what may be started; answers what has ended.
    fn advance(&mut self, means: &mut Means<'_>) {
        loop {
            if self.current.is_none() && !self.begin_next() {
                return;
            }
            let current = self.current.as_mut().expect("a record was just begun");
            if !current.advance(means) {
                return;
            }
            let result = current.failed.map_or(Ok(()), Err);
            means.answers.push(Input::Persisted { op: current.op, result });
            self.current = None;
        }
    }

    fn begin_next(&mut self) -> bool {
        let Some(open) = &mut self.open else { return false };
        let Some((op, record)) = self.queue.pop_front() else { return false };
        // Planned only now: the plan depends on what the records before it left on the disk.
        let steps = open.writer.plan(&record).steps.into();
        let file = open.file.clone();
        self.current = Some(Current { op, file, steps, writes: VecDeque::new(), under_way: 0, failed: None });
        true
    }
}

impl Current {
    /// Starts writes; whether everything is durable, or a write failed and the rest was left out.
    fn advance(&mut self, means: &mut Means<'_>) -> bool {
        if self.failed.is_some() {
            // A later step would rely on this one.
            self.writes.clear();
            self.steps.clear();
        }
        while self.writes.is_empty() && self.under_way == 0 {
            let Some(step) = self.steps.pop_front() else { return true };
            self.writes = step.into();
        }
        while self.under_way < PERSIST_WRITES_IN_FLIGHT_MAX {
            let Some((offset, bytes)) = self.writes.pop_front() else { break };
            let from = Memory::Own(AlignedBytes::copy_of(&bytes));
            let action = Action::Write { offset, length: bytes.len(), from, fua: true };
            means.ring.start(METADATA_TOKEN, &self.file, action, means.pool);
            self.under_way += 1;
        }
        false
    }
}
