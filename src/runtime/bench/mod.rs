//! `twinblock bench`: what mirroring costs on this machine, and where the time goes.
//!
//! ```text
//!  fio ── NBD, unix socket ──▶ daemon ── TCP, loopback ──▶ daemon        the pair under test
//!  fio ───────────────────────────────────────▶ two files like theirs    the limit of the disk
//!  fio ── NBD, unix socket ──▶ qemu-storage-daemon ──TCP──▶ qemu-nbd     write-blocking mirror, when installed
//! ```
//! All are up all the time and take turns row by row, so that a disturbance of the machine meets all; every figure is the
//! median of the rounds. What can't be measured here is left out, and said. A volume that is in use is only read, unless
//! its owner says that it may be overwritten.

mod loads;

mod fio;
mod process;

mod html;
mod limits;
mod report;
mod stages;

mod peer;
mod running;
mod twins;

pub use running::Running;

use crate::base::latency::StageView;
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::demo::pair::Pair;
use crate::runtime::demo::ward::Ward;
use fio::Target;
use limits::{LIMIT, RawDisk};
use loads::{LOADS, Load};
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
    /// Only the pair and the limits, on disk, in one short round.
    pub quick: bool,
    /// Only rows whose words contain one of these; all, when there are none.
    pub only: Vec<String>,
    /// Print JSON instead of a table.
    pub json: bool,
    /// Write a report with plots there.
    pub html: Option<PathBuf>,
}

/// Seconds and size of a quick run.
const QUICK_SECONDS: u32 = 1;
const QUICK_BYTES: u64 = 256 << 20;
/// Parts of a hundred that differ before a resync.
const DIFFERENCES: [(u32, &str); 4] =
    [(0, "resync of nothing"), (1, "resync of 1 %"), (5, "resync of 5 %"), (20, "resync of 20 %")];
const FULL_COPY: &str = "full copy of data";

impl Options {
    /// The same, for a quick run where that is wanted.
    pub fn made_quick(self) -> Options {
        if !self.quick {
            return self;
        }
        Options { rounds: 1, seconds: QUICK_SECONDS, size_bytes: self.size_bytes.min(QUICK_BYTES), ..self }
    }

    fn wants(&self, words: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| words.contains(only))
    }
}

/// Something that can be put under load.
trait Contender {
    /// Who it is, for the report.
    fn name(&self) -> &'static str;
    /// Where a load goes, one that writes or one that doesn't.
    fn target(&self, writes: bool) -> Target;
    /// Copies the whole volume to the other side again, and returns the seconds it took; `None` where there is no other.
    fn sync(&mut self) -> Option<Result<f64, Failure>> {
        None
    }
    /// Processor seconds its processes have used.
    fn processor_seconds(&self) -> Option<f64> {
        None
    }
    /// The most memory one of its processes has ever had, in bytes.
    fn resident_bytes(&self) -> Option<u64> {
        None
    }
    /// Where its time went since it started, if it tells.
    fn stages(&self) -> Vec<StageView> {
        Vec::new()
    }
}

/// Measures throw-away pairs, and prints what was found.
pub fn bench(options: &Options) -> Result<Exit, Failure> {
    fio::check()?;
    let mut report = begin(options);
    let ward = Ward::default();
    ward.end_when_interrupted()?;
    let media = [("disk", &options.disk), ("tmpfs", &options.memory)];
    let media = &media[..if options.quick { 1 } else { 2 }];
    let result = media.iter().try_for_each(|(medium, directory)| {
        if let Err(reason) = process::check_room(medium, directory, options.size_bytes) {
            report.warn(format!("nothing was measured on {medium}: {reason}"));
            return Ok(());
        }
        let pair = Pair::new(directory, "bench", &ward)?;
        let measured = measure_pair(medium, &pair, options, &ward, &mut report);
        pair.clean_up();
        measured
    });
    ward.close();
    report.progress("");
    result?;
    end(&report, options)
}

/// Measures a volume that is in use, and prints what was found.
pub fn bench_running(volume: Running<'_>, options: &Options) -> Result<Exit, Failure> {
    fio::check()?;
    let mut report = begin(options);
    let ward = Ward::default();
    ward.end_when_interrupted()?;
    if !volume.overwrite {
        report.warn("the volume was only read: --overwrite measures writes too, and destroys what is on it");
    }
    report.warn("CPU and memory are those of the daemon on this server; the limits of disk and link belong to the volume and were not measured");
    let (size_bytes, writes) = (volume.size_bytes(), volume.overwrite);
    let mut contenders: Vec<Box<dyn Contender + '_>> = vec![Box::new(volume)];
    let loads: Vec<&Load> = LOADS.iter().filter(|load| writes || !load.writes()).collect();
    let options = Options { size_bytes, ..options.clone() };
    let result = (1..=options.rounds)
        .try_for_each(|round| put_under(&loads, ("volume", round), &mut contenders, &options, &ward, &mut report));
    ward.close();
    report.progress("");
    result?;
    end(&report, &options)
}

fn begin(options: &Options) -> Report {
    let mut report = Report::new(options);
    if cfg!(debug_assertions) {
        report.warn("this is a debug build, its figures mean little: cargo run --release -- bench");
    }
    report
}

fn end(report: &Report, options: &Options) -> Result<Exit, Failure> {
    if let Some(path) = &options.html {
        std::fs::write(path, html::page(report)).map_err(|error| {
            Failure::new(Exit::Failed, format!("the report can't be written to {}: {error}", path.display()))
        })?;
    }
    report.print();
    Ok(Exit::Done)
}

fn measure_pair(
    medium: &'static str,
    pair: &Pair,
    options: &Options,
    ward: &Ward,
    report: &mut Report,
) -> Result<(), Failure> {
    report.progress(&format!("{medium}: starting in {}", pair.folder.display()));
    let mut twins = Twins::start(pair.clone(), options.size_bytes)?;
    let zeroes = "full copy of zeroes";
    if options.wants(zeroes)
        && let Some(seconds) = twins.sync()
    {
        report.add((medium, zeroes), twins.name(), Figure::of_copy(seconds?, options.size_bytes));
    }
    let mut contenders: Vec<Box<dyn Contender>> =
        vec![Box::new(twins), Box::new(RawDisk::new(&pair.folder, options.size_bytes)?)];
    if !options.quick {
        match start_peer(&pair.folder, options, ward) {
            Ok(peer) => contenders.push(Box::new(peer)),
            Err(reason) => report.warn(format!("qemu-storage-daemon was not measured on {medium}: {reason}")),
        }
    }
    for contender in &contenders {
        // Whole blocks everywhere, so that no round has to allocate what another did not.
        report.progress(&format!("{medium}: filling the volume of {}", contender.name()));
        fio::fill(ward, &contender.target(true), options.size_bytes)?;
    }
    let loads: Vec<&Load> = LOADS.iter().collect();
    for round in 1..=options.rounds {
        measure_link(medium, report);
        put_under(&loads, (medium, round), &mut contenders, options, ward, report)?;
        for contender in contenders.iter_mut().filter(|_| options.wants(FULL_COPY)) {
            report.progress(&format!(
                "{medium}, round {round} of {}: {FULL_COPY}, {}",
                options.rounds,
                contender.name()
            ));
            if let Some(seconds) = contender.sync() {
                let figure = Figure::of_copy(seconds?, options.size_bytes);
                report.add((medium, FULL_COPY), contender.name(), figure);
            }
        }
    }
    report.limit_copies(medium, FULL_COPY, options.size_bytes);
    // The pair alone again, on the same daemons.
    drop(contenders);
    let twins = Twins::adopt(pair.clone(), options.size_bytes);
    tell_stories(medium, &twins, options, ward, report)
}

/// What happens to a pair, rather than what is put on it.
fn tell_stories(
    medium: &'static str,
    twins: &Twins,
    options: &Options,
    ward: &Ward,
    report: &mut Report,
) -> Result<(), Failure> {
    for round in 1..=options.rounds {
        let rounds = format!("{medium}, round {round} of {}", options.rounds);
        for (percent, words) in DIFFERENCES.into_iter().filter(|(_, words)| options.wants(words)) {
            report.progress(&format!("{rounds}: {words}"));
            let resynced = twins.differ(percent, ward)?;
            report.add((medium, words), twins.name(), Figure::of_resync(&resynced, percent));
        }
        let moved = "move to the other server, by hand";
        if options.wants(moved) {
            report.progress(&format!("{rounds}: {moved}"));
            report.add((medium, moved), twins.name(), Figure::of_wait(twins.move_in_order()?));
        }
        let crashed = "promotion after a crash, by hand";
        if options.wants(crashed) {
            report.progress(&format!("{rounds}: {crashed}"));
            report.add((medium, crashed), twins.name(), Figure::of_wait(twins.crash()?));
        }
    }
    Ok(())
}

/// Puts every load on every contender in turn.
fn put_under(
    loads: &[&Load],
    (medium, round): (&'static str, u32),
    contenders: &mut [Box<dyn Contender + '_>],
    options: &Options,
    ward: &Ward,
    report: &mut Report,
) -> Result<(), Failure> {
    for load in loads.iter().filter(|load| options.wants(load.words)) {
        for contender in contenders.iter() {
            // Reads from one disk and writes to two have no common limit.
            if contender.name() == LIMIT && load.is_mixed() {
                continue;
            }
            report.progress(&format!(
                "{medium}, round {round} of {}: {}, {}",
                options.rounds,
                load.words,
                contender.name()
            ));
            let (stages, before) = (contender.stages(), contender.processor_seconds());
            let target = contender.target(load.writes());
            let measured = fio::run(ward, &target, options.size_bytes, load, options.seconds)?;
            let used = contender.processor_seconds().zip(before).map(|(after, before)| after - before);
            let went = stages::between(&stages, &contender.stages());
            let figure = Figure::of_load(&measured, load, used, contender.resident_bytes());
            report.add_load((medium, load), contender.name(), figure, measured.latency, went);
        }
    }
    Ok(())
}

fn measure_link(medium: &'static str, report: &mut Report) {
    report.progress(&format!("{medium}: measuring the link"));
    match limits::measure_link() {
        Ok(link) => {
            report.add(
                (medium, "link: 4 KiB there and back"),
                LIMIT,
                Figure::of_round_trip(link.round_trip_microseconds),
            );
            report.add((medium, "link: stream"), LIMIT, Figure::of_stream(link.bytes_per_second));
        }
        Err(error) => report.warn(format!("the link was not measured: {error}")),
    }
}

fn start_peer(folder: &Path, options: &Options, ward: &Ward) -> Result<PeerPair, String> {
    peer::installed()?;
    PeerPair::start(folder, options.size_bytes, ward).map_err(|failure| failure.to_string())
}
