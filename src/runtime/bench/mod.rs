//! `twinblock bench`: how fast this machine mirrors, with two daemons and two files, beside what else is installed.
//!
//! ```text
//!  fio ── NBD, unix socket ──▶ daemon ── TCP, loopback ──▶ daemon        the pair under test
//!  fio ── NBD, unix socket ──▶ qemu-storage-daemon ──TCP──▶ qemu-nbd     write-blocking mirror, when installed
//! ```
//! Both pairs are up all the time and take turns row by row, so that a disturbance of the machine meets both; every
//! figure is the median of the rounds. What can't be measured here is left out, and said.

mod fio;
mod process;
mod report;

mod peer;
mod twins;

use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::demo::pair::Pair;
use crate::runtime::demo::ward::Ward;
use fio::Load;
use peer::PeerPair;
use report::{Figure, Report};
use std::path::{Path, PathBuf};
use twins::Twins;

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Times each row is measured.
    pub rounds: u32,
    /// Seconds each measurement takes.
    pub seconds: u32,
    /// Size of the volume, in bytes.
    pub size_bytes: u64,
    /// Directory on the disk to be measured.
    pub disk: PathBuf,
    /// Directory in memory, where the processor is the limit.
    pub memory: PathBuf,
    /// Print JSON instead of a table.
    pub json: bool,
}

/// The rows measured with fio.
const LOADS: [Load; 3] = [
    Load { words: "4 KiB random writes, depth 1", rw: "randwrite", block_bytes: 4 << 10, depth: 1 },
    Load { words: "4 KiB random writes, depth 32", rw: "randwrite", block_bytes: 4 << 10, depth: 32 },
    Load { words: "128 KiB writes, depth 8", rw: "write", block_bytes: 128 << 10, depth: 8 },
];

/// A mirrored volume somebody serves.
trait Contender {
    /// Who serves it, for the report.
    fn name(&self) -> &'static str;
    /// Where clients connect.
    fn uri(&self) -> String;
    /// Copies the whole volume to the other side again, and returns the seconds it took.
    fn sync(&mut self) -> Result<f64, Failure>;
    /// Processor seconds its processes have used.
    fn processor_seconds(&self) -> f64;
}

/// Measures, and prints what was found.
pub fn bench(options: &Options) -> Result<Exit, Failure> {
    fio::check()?;
    let mut report = Report::new(options);
    if cfg!(debug_assertions) {
        report.warn("this is a debug build, its figures mean little: cargo run --release -- bench");
    }
    let ward = Ward::default();
    ward.end_when_interrupted()?;
    let media = [("disk", &options.disk), ("tmpfs", &options.memory)];
    let result = media.into_iter().try_for_each(|(medium, directory)| {
        if let Err(reason) = process::check_room(medium, directory, options.size_bytes) {
            report.warn(format!("nothing was measured on {medium}: {reason}"));
            return Ok(());
        }
        let pair = Pair::new(directory, "bench", &ward)?;
        let measured = measure(medium, &pair, options, &ward, &mut report);
        pair.clean_up();
        measured
    });
    ward.close();
    report.progress("");
    result?;
    report.print();
    Ok(Exit::Done)
}

fn measure(
    medium: &'static str,
    pair: &Pair,
    options: &Options,
    ward: &Ward,
    report: &mut Report,
) -> Result<(), Failure> {
    report.progress(&format!("{medium}: starting in {}", pair.folder.display()));
    let mut contenders: Vec<Box<dyn Contender>> = vec![Box::new(Twins::start(pair.clone(), options.size_bytes)?)];
    match start_peer(&pair.folder, options, ward) {
        Ok(peer) => contenders.push(Box::new(peer)),
        Err(reason) => report.warn(format!("qemu-storage-daemon was not measured on {medium}: {reason}")),
    }
    for contender in &contenders {
        // Whole blocks everywhere, so that no round has to allocate what another did not.
        report.progress(&format!("{medium}: filling the volume of {}", contender.name()));
        fio::fill(ward, &contender.uri(), options.size_bytes)?;
    }
    for round in 1..=options.rounds {
        let rounds = format!("{medium}, round {round} of {}", options.rounds);
        for load in &LOADS {
            for contender in &contenders {
                report.progress(&format!("{rounds}: {}, {}", load.words, contender.name()));
                let before = contender.processor_seconds();
                let result = fio::run(ward, &contender.uri(), options.size_bytes, load, options.seconds)?;
                // Used since before the ramp, while the requests of the ramp are not counted.
                let part = f64::from(options.seconds) / f64::from(options.seconds + fio::RAMP_SECONDS);
                let used = (contender.processor_seconds() - before) * part;
                let processor = used * 1e6 / result.operations.max(1) as f64;
                report.add(medium, load.words, contender.name(), Figure::of_load(&result, load, processor));
            }
        }
        for contender in &mut contenders {
            report.progress(&format!("{rounds}: full sync, {}", contender.name()));
            let seconds = contender.sync()?;
            report.add(medium, "full sync", contender.name(), Figure::of_sync(seconds, options.size_bytes));
        }
    }
    Ok(())
}

fn start_peer(folder: &Path, options: &Options, ward: &Ward) -> Result<PeerPair, String> {
    peer::installed()?;
    PeerPair::start(folder, options.size_bytes, ward).map_err(|failure| failure.to_string())
}
