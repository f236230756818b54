//! Finds what an archive's file has. Takes hostile bytes: whatever is damaged costs what it held, and is counted.

use super::ArchiveError;
use crate::base::range::{BLOCK, BLOCK_SHIFT, ByteRange};
use crate::wire::archive::{self, Bad, HEADER_BYTES, Header, Kind, RECORD_BYTES, Record};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes looked through at a time for the next record behind damage.
const SEARCH_BYTES: usize = 1 << 20;

/// An archive that is open for reading.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    /// What it is of.
    pub header: Header,
    /// Parts of the volume it has something on, by first block. Disjoint.
    parts: BTreeMap<u32, Part>,
    /// When it was finished, in seconds since 1970.
    pub finished: Option<u64>,
    /// Bytes of the file that are no record, with sound ones behind them.
    pub damaged_bytes: u64,
    /// Where the last sound record ends.
    pub(super) end: u64,
    /// The last record's number.
    pub(super) sequence: u64,
    /// Where the last record begins, and what it is.
    pub(super) last: Option<(u64, Record)>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    blocks: u32,
    /// Where the record begins in the file, its header, and which of its blocks is the first here.
    at: u64,
    record: Record,
    skipped: u32,
}

/// What an archive has of a part of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where.
    pub range: ByteRange,
    /// What.
    pub held: Held,
}

/// What an archive has of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Its bytes.
    Data,
    /// Zeroes.
    Zeroes,
    /// Nothing but that the disk could not read it.
    Unreadable,
}

impl Reader {
    /// Opens a file and finds its records. Reads their headers, not what they hold.
    pub fn open(path: &Path) -> Result<Reader, ArchiveError> {
        let failed = |error: io::Error| ArchiveError::of(path, "read", &error);
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut unit = vec![0; HEADER_BYTES.min(bytes as usize)];
        file.read_exact_at(&mut unit, 0).map_err(failed)?;
        let header = archive::decode_header(&unit).map_err(|bad| no_header(path, bad))?;
        let mut reader = Reader {
            path: path.into(),
            file,
            header,
            parts: BTreeMap::new(),
            finished: None,
            damaged_bytes: 0,
            end: HEADER_BYTES as u64,
            sequence: 0,
            last: None,
        };
        reader.scan(bytes).map_err(failed)?;
        Ok(reader)
    }

    /// Takes up what was appended since, while the archive is still being written.
    pub fn refresh(&mut self) -> io::Result<()> {
        if self.finished.is_some() {
            return Ok(());
        }
        let bytes = self.file.metadata()?.len();
        if bytes > self.end { self.scan(bytes) } else { Ok(()) }
    }

    fn scan(&mut self, bytes: u64) -> io::Result<()> {
        let mut at = self.end;
        while let Some((found, record)) = self.next_record(at, bytes)? {
            self.damaged_bytes += found - at;
            self.take(found, record);
            at = found + record.bytes();
            self.end = at;
        }
        Ok(())
    }

    /// The next whole record at or behind `at`.
    fn next_record(&self, at: u64, bytes: u64) -> io::Result<Option<(u64, Record)>> {
        let mut window_at = at;
        let mut window = vec![0; RECORD_BYTES];
        // Nearly always it is right here; only damage makes the search wide.
        while window_at + RECORD_BYTES as u64 <= bytes {
            let length = window.len().min((bytes - window_at) as usize) / RECORD_BYTES * RECORD_BYTES;
            self.file.read_exact_at(&mut window[..length], window_at)?;
            for (index, piece) in window[..length].chunks_exact(RECORD_BYTES).enumerate() {
                let found = window_at + (index * RECORD_BYTES) as u64;
                let record = Record::decode(piece, &self.header).filter(|record| record.sequence > self.sequence);
                if let Some(record) = record.filter(|record| found + record.bytes() <= bytes) {
                    return Ok(Some((found, record)));
                }
            }
            window_at += length as u64;
            window.resize(SEARCH_BYTES, 0);
        }
        Ok(None)
    }

    fn take(&mut self, at: u64, record: Record) {
        self.sequence = record.sequence;
        self.last = Some((at, record));
        if record.kind == Kind::End {
            self.finished = Some(record.seconds);
            return;
        }
        // What a block held first is what it held when the copy was given up.
        let (mut from, end) = (record.first, record.first + record.blocks);
        while from < end {
            let covered = self.parts.range(..=from).next_back().map_or(from, |(first, part)| first + part.blocks);
            from = from.max(covered);
            let next = self.parts.range(from..).next().map_or(end, |(first, _)| *first).min(end);
            if from < next {
                let part = Part { blocks: next - from, at, record, skipped: from - record.first };
                self.parts.insert(from, part);
            }
            from = next.max(from + 1);
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it has inside `range`, in order, at most `most` parts.
    pub fn extents(&self, range: ByteRange, most: usize) -> Vec<Extent> {
        let blocks = range.blocks();
        let before = self.parts.range(..blocks.start).next_back().map(|(first, _)| *first);
        let parts = self.parts.range(before.unwrap_or(blocks.start)..blocks.end);
        let inside = parts.filter_map(|(first, part)| {
            let (from, to) = ((*first).max(blocks.start), (first + part.blocks).min(blocks.end));
            (from < to).then(|| Extent { range: ByteRange::of_blocks(from..to), held: part.held() })
        });
        inside.take(most).collect()
    }

    /// Bytes of the volume it has something on.
    pub fn bytes_held(&self) -> u64 {
        self.parts.values().map(|part| u64::from(part.blocks) * BLOCK).sum()
    }

    /// Bytes of the volume that could not be read when they were to be saved.
    pub fn bytes_unreadable(&self) -> u64 {
        let lost = self.parts.values().filter(|part| part.record.kind == Kind::Unreadable);
        lost.map(|part| u64::from(part.blocks) * BLOCK).sum()
    }

    /// Lays what it has inside the block-aligned `range` over `bytes`, which hold what the volume holds there.
    /// An error when a block of it is rotten, or was unreadable from the start.
    pub fn overlay(&self, range: ByteRange, bytes: &mut [u8]) -> io::Result<()> {
        assert!(range.is_aligned() && bytes.len() as u64 == range.length, "whole blocks, and room for them");
        for extent in self.extents(range, usize::MAX) {
            let at = (extent.range.offset - range.offset) as usize;
            let place = &mut bytes[at..at + extent.range.length as usize];
            match extent.held {
                Held::Zeroes => place.fill(0),
                Held::Unreadable => {
                    let lost = format!("{} was unreadable on the disk that was given up", extent.range);
                    return Err(io::Error::other(lost));
                }
                Held::Data => self.read_data(extent.range, place)?,
            }
        }
        Ok(())
    }

    /// Reads blocks of one part and checks them.
    fn read_data(&self, range: ByteRange, place: &mut [u8]) -> io::Result<()> {
        let blocks = range.blocks();
        let (first, part) = self.parts.range(..=blocks.start).next_back().expect("an extent is of a part");
        let sums = self.checksums(part)?;
        let skipped = (part.skipped + blocks.start - first) as usize;
        let at = part.at + part.record.data_at() + ((skipped as u64) << BLOCK_SHIFT);
        self.file.read_exact_at(place, at)?;
        for (index, block) in place.chunks_exact(BLOCK as usize).enumerate() {
            if crc32fast::hash(block) != sums[skipped + index] {
                let number = blocks.start + index as u32;
                return Err(io::Error::other(format!("block {number} is damaged in {}", self.path.display())));
            }
        }
        Ok(())
    }

    fn checksums(&self, part: &Part) -> io::Result<Vec<u32>> {
        let mut bytes = vec![0; (part.record.data_at() - RECORD_BYTES as u64) as usize];
        self.file.read_exact_at(&mut bytes, part.at + RECORD_BYTES as u64)?;
        archive::checksums(&part.record, &bytes)
            .ok_or_else(|| io::Error::other(format!("checksums are damaged in {}", self.path.display())))
    }

    /// Whether every byte of the last record is as it was written: else a crash cut it short.
    pub(super) fn last_is_whole(&self) -> bool {
        let Some((at, record)) = self.last.filter(|(_, record)| record.kind == Kind::Data) else { return true };
        let part = Part { blocks: record.blocks, at, record, skipped: 0 };
        let mut data = vec![0; (u64::from(record.blocks) * BLOCK) as usize];
        let Ok(sums) = self.checksums(&part) else { return false };
        let read = self.file.read_exact_at(&mut data, at + record.data_at());
        read.is_ok() && data.chunks_exact(BLOCK as usize).map(crc32fast::hash).eq(sums)
    }
}

impl Part {
    fn held(&self) -> Held {
        match self.record.kind {
            Kind::Data => Held::Data,
            Kind::Zeroes => Held::Zeroes,
            Kind::Unreadable => Held::Unreadable,
            Kind::End => unreachable!("the end has no blocks"),
        }
    }
}

fn no_header(path: &Path, bad: Bad) -> ArchiveError {
    let path = path.display();
    match bad {
        Bad::NoArchive => ArchiveError::new(format!("{path} is no archive."), "Name one that `archive list` shows."),
        Bad::Version(version) => ArchiveError::new(
            format!(
                "{path} is an archive of version {version}, this program reads version {}.",
                archive::ARCHIVE_VERSION
            ),
            "Use the release it was written by.",
        ),
        Bad::Damaged => ArchiveError::new(
            format!("{path} is an archive whose first 4096 bytes are damaged."),
            "Restore the file from a backup; nothing of it can be attributed to a volume without them.",
        ),
    }
}
