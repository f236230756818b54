//! The thread that saves what a disk holds before it is overwritten: it reads the blocks, appends them to the archive, makes
//! that durable, and only then answers. What has gathered while it was busy shares one sync.

use super::reader::Reader;
use super::writer::Writer;
use super::{ArchiveError, catalogue};
use crate::base::generation::Generation;
use crate::base::ids::Uuid;
use crate::base::range::{BLOCK, ByteRange};
use crate::io::aligned::AlignedBytes;
use crate::io::disk::holes;
use crate::wire::archive::Header;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Where archives of a volume go, and how large one may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory; made when it is missing.
    pub directory: PathBuf,
    /// Largest file, in bytes.
    pub bytes_max: u64,
}

/// What a new archive is of.
#[derive(Debug)]
pub struct Begin {
    /// A descriptor of the disk of its own.
    pub disk: OwnedFd,
    /// One was begun, and its blocks may be overwritten already: nothing but that one will do.
    pub resumed: bool,
    /// Name of the volume.
    pub volume: String,
    /// Identity of the volume.
    pub volume_uuid: Uuid,
    /// Identity of the disk.
    pub device: Uuid,
    /// This node and its peer.
    pub nodes: [String; 2],
    /// What is given up, and what takes its place.
    pub generations: [Generation; 2],
    /// Of the volume, in bytes.
    pub size_bytes: u64,
}

/// Something to do. Done in order; answered each with its number.
#[derive(Debug)]
pub enum Work {
    /// Have an archive ready.
    Open(Box<Begin>),
    /// Save what the disk holds there. What is saved already stays as it is.
    Save {
        /// Block-aligned.
        range: ByteRange,
        /// Zeroes take its place: blocks of zeroes are left out.
        zeroes: bool,
    },
    /// Nothing more comes.
    Finish,
    /// Let go of disk and archive, which may go on later.
    Close,
}

/// Hears how something ended: its number, and the sentence for an error.
pub type Answer = Box<dyn Fn(u64, Result<(), String>) + Send>;

/// The thread, seen from the shard. It ends when this is dropped.
#[derive(Debug)]
pub struct Keeper {
    work: Sender<(u64, Work)>,
}

impl Keeper {
    /// Starts the thread; `answer` is called on it.
    pub fn spawn(name: &str, place: Place, answer: Answer) -> io::Result<Keeper> {
        let (work, received) = channel();
        let thread = Thread { place, answer, open: None };
        std::thread::Builder::new().name(format!("archive-{name}")).spawn(move || thread.run(&received))?;
        Ok(Keeper { work })
    }

    /// Gives it something to do. An error when the thread has died, which only a bug can do: then there is no answer.
    pub fn start(&self, number: u64, work: Work) -> Result<(), String> {
        let sent = self.work.send((number, work));
        sent.map_err(|_| "the archive's thread has ended by a bug. Restart the daemon, and report the log.".to_owned())
    }
}

struct Thread {
    place: Place,
    answer: Answer,
    open: Option<(Writer, File)>,
}

impl Thread {
    fn run(mut self, received: &Receiver<(u64, Work)>) {
        while let Ok(first) = received.recv() {
            // Answers that wait for one sync.
            let mut saved = Vec::new();
            let mut next = Some(first);
            while let Some((number, work)) = next.take() {
                if let Work::Save { range, zeroes } = work {
                    match self.gather(range, zeroes, &mut saved) {
                        Ok(()) => saved.push(number),
                        Err(error) => (self.answer)(number, Err(error.to_string())),
                    }
                } else {
                    self.settle(&mut saved);
                    let result = self.carry_out(work).map_err(|error| error.to_string());
                    (self.answer)(number, result);
                }
                if self.open.as_ref().is_some_and(|(writer, _)| writer.is_heavy()) {
                    self.settle(&mut saved);
                }
                next = received.try_recv().ok();
            }
            self.settle(&mut saved);
        }
    }

    fn carry_out(&mut self, work: Work) -> Result<(), ArchiveError> {
        match work {
            Work::Open(begin) => self.begin(*begin),
            Work::Save { .. } => unreachable!("gathered"),
            Work::Close => {
                self.open = None;
                Ok(())
            }
            Work::Finish => match self.open.take() {
                Some((writer, _)) => {
                    let (path, bytes) = (writer.path().to_owned(), writer.bytes_held());
                    writer.finish()?;
                    tracing::info!("the archive {} is whole: {bytes} bytes that only this node had", path.display());
                    Ok(())
                }
                None => Ok(()),
            },
        }
    }

    fn begin(&mut self, begin: Begin) -> Result<(), ArchiveError> {
        let directory = &self.place.directory;
        let before = catalogue::unfinished(directory, begin.volume_uuid, begin.device)?;
        let writer = match before {
            Some(before) if begin.resumed || before.bytes_held() == 0 => self.resume(&before, &begin)?,
            None if begin.resumed => {
                return Err(ArchiveError::new(
                    format!(
                        "the archive of {} that was begun is not in {} any more, and a new one would lack what is overwritten \
                         already.",
                        begin.volume,
                        directory.display()
                    ),
                    "Bring it back (is the file system mounted?), then give the copy up again; or do so with --no-archive.",
                ));
            }
            before => {
                if let Some(before) = before {
                    // Its resync ended, and the node right after it.
                    self.resume(&before, &begin)?.finish()?;
                }
                self.create(&begin)?
            }
        };
        tracing::info!("what only this node has of {} goes to {}", begin.volume, writer.path().display());
        self.open = Some((writer, File::from(begin.disk)));
        Ok(())
    }

    fn resume(&self, before: &Reader, begin: &Begin) -> Result<Writer, ArchiveError> {
        if before.header.size_bytes != begin.size_bytes && begin.resumed {
            tracing::warn!("the size of {} has changed since its archive was begun", begin.volume);
        }
        Writer::resume(before.path(), self.place.bytes_max)
    }

    fn create(&self, begin: &Begin) -> Result<Writer, ArchiveError> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| {
            ArchiveError::new(format!("the kernel has no random number for the archive: {error}."), "Try again.")
        })?;
        let [node, peer] = begin.nodes.clone();
        let [ours, theirs] = begin.generations;
        let header = Header {
            nonce: u64::from_le_bytes(nonce),
            volume: begin.volume.clone(),
            volume_uuid: begin.volume_uuid,
            device: begin.device,
            node,
            peer,
            ours,
            theirs,
            size_bytes: begin.size_bytes,
            began: catalogue::seconds_now(),
        };
        Writer::create(&self.place.directory, header, self.place.bytes_max)
    }

    /// Takes up what the disk holds in a range, as far as the archive lacks it.
    fn gather(&mut self, range: ByteRange, zeroes: bool, saved: &mut Vec<u64>) -> Result<(), ArchiveError> {
        let closed = || ArchiveError::new("no archive is open.", "Give the copy up again.");
        let (writer, disk) = self.open.as_ref().ok_or_else(closed)?;
        let mut lacking = writer.lacks(range);
        if zeroes {
            // Nearly all of a zeroed range is a hole here, too: not worth reading.
            let holes = holes(disk, range).unwrap_or_default();
            lacking.retain(|part| !holes.iter().any(|hole| hole.contains(part)));
        }
        for part in lacking {
            let (writer, disk) = self.open.as_mut().ok_or_else(closed)?;
            let mut bytes = AlignedBytes::zeroed(part.length as usize);
            if disk.read_exact_at(&mut bytes, part.offset).is_err() {
                add_block_by_block(writer, disk, part)?;
            } else if zeroes {
                for run in runs_of_data(part, &bytes) {
                    let at = (run.offset - part.offset) as usize;
                    writer.add(run, Some(&bytes[at..at + run.length as usize]))?;
                }
            } else {
                writer.add(part, Some(&bytes))?;
            }
            if writer.is_heavy() {
                self.commit(saved)?;
            }
        }
        Ok(())
    }

    /// Makes what was taken up durable and answers for all of it.
    fn commit(&mut self, saved: &mut Vec<u64>) -> Result<(), ArchiveError> {
        let Some((writer, _)) = &mut self.open else { return Ok(()) };
        let result = writer.commit();
        for number in saved.drain(..) {
            (self.answer)(number, result.clone().map_err(|error| error.to_string()));
        }
        result
    }

    /// The same where nobody else waits for it.
    fn settle(&mut self, saved: &mut Vec<u64>) {
        if let Err(error) = self.commit(saved) {
            tracing::error!("{error}");
        }
    }
}

/// What can't be read is noted as such: the peer's content will take its place, and nobody knows what was there.
fn add_block_by_block(writer: &mut Writer, disk: &File, part: ByteRange) -> Result<(), ArchiveError> {
    let mut bytes = AlignedBytes::zeroed(BLOCK as usize);
    for block in part.blocks() {
        let place = ByteRange::of_blocks(block..block + 1);
        match disk.read_exact_at(&mut bytes, place.offset) {
            Ok(()) => writer.add(place, Some(&bytes))?,
            Err(error) => {
                tracing::warn!("block {block} can't be read and is archived as unreadable: {error}");
                writer.add(place, None)?;
            }
        }
    }
    Ok(())
}

/// The parts of what was read that are not zeroes.
fn runs_of_data(part: ByteRange, bytes: &[u8]) -> Vec<ByteRange> {
    let mut runs: Vec<ByteRange> = Vec::new();
    for (block, bytes) in part.blocks().zip(bytes.chunks_exact(BLOCK as usize)) {
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        let place = ByteRange::of_blocks(block..block + 1);
        match runs.last_mut() {
            Some(run) if run.end() == place.offset => run.length += BLOCK,
            _ => runs.push(place),
        }
    }
    runs
}
