//! Appends to an archive. What is answered for is durable; what a full disk cut short is taken back.

use super::reader::Reader;
use super::{ArchiveError, catalogue};
use crate::base::limits::ARCHIVE_BATCH_BYTES;
use crate::base::range::{BLOCK, ByteRange};
use crate::wire::archive::{self, Header, Kind, RECORD_BLOCKS_MAX, Record};
use roaring::RoaringBitmap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An archive that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    file: File,
    header: Header,
    /// Where the next record goes.
    end: u64,
    sequence: u64,
    /// Largest size of the file.
    bytes_max: u64,
    /// Blocks that are in it, durably.
    has: RoaringBitmap,
    /// Records that are not written yet, and their blocks.
    gathered: Vec<u8>,
    gathered_blocks: RoaringBitmap,
    gathered_sequence: u64,
}

impl Writer {
    /// Makes a new archive in `directory`, durably.
    pub(super) fn create(directory: &Path, header: Header, bytes_max: u64) -> Result<Writer, ArchiveError> {
        std::fs::create_dir_all(directory).map_err(|error| ArchiveError::of(directory, "made", &error))?;
        let (path, file) = catalogue::create(directory, &header)?;
        let unit = archive::encode_header(&header);
        let written = file.write_all_at(&unit, 0).and_then(|()| file.sync_all());
        let durable = written.and_then(|()| File::open(directory)?.sync_all());
        durable.map_err(|error| {
            // It is ours, and empty.
            let _ = std::fs::remove_file(&path);
            ArchiveError::of(&path, "made", &error)
        })?;
        Ok(Writer::at(path, file, header, unit.len() as u64, bytes_max))
    }

    /// Goes on with one that was interrupted. What a crash left of its last record is cut off: no block that it would have
    /// held was overwritten.
    pub(super) fn resume(path: &Path, bytes_max: u64) -> Result<Writer, ArchiveError> {
        let mut reader = Reader::open(path)?;
        if reader.damaged_bytes > 0 {
            return Err(ArchiveError::new(
                format!(
                    "the archive {} is damaged: {} bytes in the middle are no record, so what it has can't be told.",
                    path.display(),
                    reader.damaged_bytes
                ),
                "Copy the file away, then give the copy up with --no-archive.",
            ));
        }
        let failed = |error: io::Error| ArchiveError::of(path, "written", &error);
        let (mut end, mut sequence) = (reader.end, reader.sequence);
        if !reader.last_is_whole() {
            let (at, record) = reader.last.expect("what is not whole is there");
            (end, sequence) = (at, record.sequence - 1);
            truncate(path, end).map_err(failed)?;
            reader = Reader::open(path)?;
        }
        let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
        file.set_len(end).and_then(|()| file.sync_all()).map_err(failed)?;
        let whole = ByteRange::new(0, reader.header.size_bytes);
        let mut writer = Writer::at(path.into(), file, reader.header.clone(), end, bytes_max);
        for extent in reader.extents(whole, usize::MAX) {
            writer.has.insert_range(extent.range.blocks());
        }
        writer.sequence = sequence;
        writer.gathered_sequence = sequence;
        Ok(writer)
    }

    fn at(path: PathBuf, file: File, header: Header, end: u64, bytes_max: u64) -> Writer {
        Writer {
            path,
            file,
            header,
            end,
            sequence: 0,
            bytes_max,
            has: RoaringBitmap::new(),
            gathered: Vec::new(),
            gathered_blocks: RoaringBitmap::new(),
            gathered_sequence: 0,
        }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the volume that are in it.
    pub(super) fn bytes_held(&self) -> u64 {
        self.has.len() * BLOCK
    }

    /// The parts of a range that it has not, each at most a record long.
    pub(super) fn lacks(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut parts = Vec::new();
        let mut run: Option<std::ops::Range<u32>> = None;
        for block in range.blocks() {
            let known = self.has.contains(block) || self.gathered_blocks.contains(block);
            match &mut run {
                Some(run) if !known && run.end - run.start < RECORD_BLOCKS_MAX => run.end = block + 1,
                _ => {
                    parts.extend(run.take().map(ByteRange::of_blocks));
                    run = (!known).then_some(block..block + 1);
                }
            }
        }
        parts.extend(run.map(ByteRange::of_blocks));
        parts
    }

    /// Takes up what a part of the disk holds, or that it could not be read. In the file with [`Writer::commit`].
    pub(super) fn add(&mut self, range: ByteRange, data: Option<&[u8]>) -> Result<(), ArchiveError> {
        let blocks = range.blocks();
        let seconds = catalogue::seconds_now();
        let sequence = self.gathered_sequence + 1;
        let plain = |kind| Record {
            kind,
            sequence,
            first: blocks.start,
            blocks: blocks.end - blocks.start,
            checksums_crc: 0,
            seconds,
        };
        let nonce = self.header.nonce;
        let bytes = match data {
            None => plain(Kind::Unreadable).encode(nonce).to_vec(),
            Some(data) if data.iter().all(|byte| *byte == 0) => plain(Kind::Zeroes).encode(nonce).to_vec(),
            Some(data) => archive::data_record(nonce, sequence, blocks.start, data, seconds),
        };
        let size = self.end + (self.gathered.len() + bytes.len()) as u64;
        if size > self.bytes_max {
            return Err(ArchiveError::new(
                format!(
                    "the archive {} is full: it has {} bytes, and `archive_limit` is {}.",
                    self.path.display(),
                    self.end,
                    self.bytes_max
                ),
                "Raise `archive_limit` and restart, then give the copy up again; or give it up with --no-archive.",
            ));
        }
        self.gathered.extend(bytes);
        self.gathered_blocks.insert_range(blocks);
        self.gathered_sequence = sequence;
        Ok(())
    }

    /// Whether so much is gathered that it should be written now.
    pub(super) fn is_heavy(&self) -> bool {
        self.gathered.len() >= ARCHIVE_BATCH_BYTES
    }

    /// Writes what was taken up, durably. After an error it is as if it had not been taken up.
    pub(super) fn commit(&mut self) -> Result<(), ArchiveError> {
        let gathered = std::mem::take(&mut self.gathered);
        let blocks = std::mem::take(&mut self.gathered_blocks);
        if gathered.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.write_all_at(&gathered, self.end).and_then(|()| self.file.sync_data()) {
            self.gathered_sequence = self.sequence;
            // Should this fail too, a resume finds the end by itself.
            let _ = self.file.set_len(self.end);
            return Err(ArchiveError::of(&self.path, "written", &error));
        }
        self.end += gathered.len() as u64;
        self.sequence = self.gathered_sequence;
        self.has |= blocks;
        Ok(())
    }

    /// Says that nothing more comes. This much room is beyond the limit.
    pub(super) fn finish(mut self) -> Result<(), ArchiveError> {
        let sequence = self.sequence + 1;
        let end = Record {
            kind: Kind::End,
            sequence,
            first: 0,
            blocks: 0,
            checksums_crc: 0,
            seconds: catalogue::seconds_now(),
        };
        self.gathered.extend(end.encode(self.header.nonce));
        self.gathered_sequence = sequence;
        self.commit()
    }
}

fn truncate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC).open(path)?;
    file.set_len(bytes)?;
    file.sync_all()
}
