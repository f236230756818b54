//! The archive of what only a copy that is given up has, and a god's eye on it: no block of that copy is overwritten
//! before the archive has what it held when it was given up.

use super::node::NAMES;
use super::world::{Event, World};
use std::collections::BTreeMap;
use std::time::Duration;
use twinblock::base::ids::OpId;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::state::{Archiving, Role};
use twinblock::logic::mirror::interface::{Archive, DiskIo, Input};

/// Time an operation of the archive takes.
const LATENCY: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(5));

/// What one node's archive holds. It is on a disk of its own, which loses nothing that was answered for.
#[derive(Default)]
pub struct Vault {
    /// Begun and not finished.
    pub open: bool,
    /// First saved content of each block.
    pub blocks: BTreeMap<u32, Vec<u8>>,
    /// The whole copy when it was given up; `None` once something else than the resync may have changed it.
    pub before: Option<Vec<u8>>,
    /// Archives that were finished.
    pub finished: u64,
    /// The next block that is to be saved can't be.
    pub fails_next: bool,
    /// Blocks that could not be.
    pub failures: u64,
}

impl World {
    /// Begins an operation of a node's archive; they are carried out one after the other.
    pub fn submit_archive(&mut self, node: usize, op: OpId, work: Archive) {
        let delay = self.span(LATENCY);
        let process = self.process_of(node);
        process.archive_ops.push_back((op, work));
        let life = process.life;
        if process.archive_ops.len() == 1 {
            self.after(delay, Event::Archived { node, life });
        }
    }

    /// The first operation of a node's archive ends.
    pub fn archived(&mut self, node: usize, life: u64) {
        if !self.alive(node, life) {
            return;
        }
        let process = self.process_of(node);
        let (op, work) = process.archive_ops.pop_front().expect("one is under way");
        if !process.archive_ops.is_empty() {
            let delay = self.span(LATENCY);
            self.after(delay, Event::Archived { node, life });
        }
        let result = self.archive_does(node, &work);
        self.deliver(node, Input::Archived { op, result });
    }

    fn archive_does(&mut self, node: usize, work: &Archive) -> Result<(), String> {
        let volume = ByteRange::new(0, self.config.volume_bytes());
        let this = &mut self.nodes[node];
        match work {
            Archive::Open { resumed, .. } => {
                assert!(!resumed || this.vault.open, "{} goes on with an archive that was never begun", NAMES[node]);
                if !resumed {
                    let Vault { finished, failures, fails_next, .. } = this.vault;
                    let before = Some(this.disk.read(volume).to_vec());
                    this.vault = Vault { open: true, finished, failures, fails_next, before, ..Vault::default() };
                }
            }
            Archive::Save { range, zeroes } => {
                assert!(this.vault.open, "{} saves without an archive", NAMES[node]);
                if std::mem::take(&mut this.vault.fails_next) {
                    this.vault.failures += 1;
                    return Err("no space left in the archive".into());
                }
                for block in range.blocks() {
                    let bytes = this.disk.read(ByteRange::of_blocks(block..block + 1)).to_vec();
                    if !zeroes || bytes.iter().any(|byte| *byte != 0) {
                        this.vault.blocks.entry(block).or_insert(bytes);
                    }
                }
            }
            Archive::Finish => {
                this.vault.open = false;
                this.vault.finished += 1;
            }
        }
        Ok(())
    }

    /// Before the disk is changed: what a copy that is given up held there is in the archive.
    pub fn check_archived(&mut self, node: usize, io: &DiskIo) {
        let (DiskIo::Write { range, .. } | DiskIo::Zero { range, .. }) = io else { return };
        let this = &mut self.nodes[node];
        let role = this.process.as_ref().map(|process| process.mirror.is_primary());
        if role == Some(true) || this.durable().role == Role::Primary {
            // It was promoted by force after all: its copy goes on from here.
            this.vault.before = None;
            return;
        }
        if this.durable().archiving != Archiving::Running {
            return;
        }
        for block in range.blocks() {
            let old = this.disk.read(ByteRange::of_blocks(block..block + 1));
            if matches!(io, DiskIo::Zero { .. }) && old.iter().all(|byte| *byte == 0) {
                continue;
            }
            let saved = this.vault.blocks.get(&block);
            let saved = saved.unwrap_or_else(|| panic!("{} overwrites block {block} unsaved (E8)", NAMES[node]));
            if let Some(before) = &this.vault.before {
                let at = (u64::from(block) * BLOCK) as usize;
                let same = saved[..] == before[at..at + BLOCK as usize];
                assert!(same, "the archive of {} has block {block} as it was later (E8)", NAMES[node]);
            }
        }
    }
}
