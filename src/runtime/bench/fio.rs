//! fio with its nbd engine, as a child process.

use super::loads::Load;
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::demo::ward::Ward;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Percentiles asked of fio, for the distribution.
const PERCENTILES: &str = "1:5:10:20:30:40:50:60:70:80:90:95:99:99.5:99.9:99.95";

/// Where a load goes.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// To a server.
    Nbd(String),
    /// To these files at once, past the page cache as the daemon goes. What is done on all of them counts once.
    Files(Vec<PathBuf>),
}

/// What a load yielded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// Requests per second.
    pub per_second: f64,
    /// Requests in all.
    pub operations: u64,
    /// Parts of a hundred of the requests, and the microseconds they took at most; rising.
    pub latency: Vec<(f64, f64)>,
}

impl Measured {
    /// The microseconds that this part of a hundred took at most.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        self.latency.iter().find(|(part, _)| *part >= percent).map(|(_, microseconds)| *microseconds)
    }
}

/// Fails when there is no fio with an nbd engine.
pub(super) fn check() -> Result<(), Failure> {
    let help = Command::new("fio").arg("--enghelp=nbd").stdin(Stdio::null()).output();
    let works = help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("uri"));
    if works {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "there is no fio with an nbd engine to measure with: install the package fio"))
}

/// Writes everything once, with data that is neither zero nor the same everywhere.
pub(super) fn fill(ward: &Ward, target: &Target, size_bytes: u64) -> Result<(), Failure> {
    let job = ["--rw=write", "--bs=1M", "--iodepth=8", "--refill_buffers"].map(str::to_owned);
    run_fio(ward, target, size_bytes, &job).map(|_| ())
}

/// Writes so many bytes here and there, each place once.
pub(super) fn scatter(ward: &Ward, target: &Target, size_bytes: u64, bytes: u64) -> Result<(), Failure> {
    let io_size = format!("--io_size={bytes}");
    let job = ["--rw=randwrite", "--bs=64k", "--iodepth=8", "--refill_buffers", &io_size].map(str::to_owned);
    run_fio(ward, target, size_bytes, &job).map(|_| ())
}

/// Puts a load on the target for some seconds.
pub(super) fn run(
    ward: &Ward,
    target: &Target,
    size_bytes: u64,
    load: &Load,
    seconds: u32,
) -> Result<Measured, Failure> {
    let mut job = vec![
        format!("--rw={}", load.rw),
        format!("--bs={}", load.block_bytes),
        format!("--iodepth={}", load.depth),
        "--norandommap".to_owned(),
        "--time_based".to_owned(),
        format!("--runtime={seconds}"),
    ];
    if load.is_mixed() {
        job.push("--rwmixread=70".to_owned());
    }
    if load.flushes {
        job.push("--fsync=1".to_owned());
    }
    let output = run_fio(ward, target, size_bytes, &job)?;
    let share = match target {
        Target::Nbd(_) => 1,
        Target::Files(files) => files.len(),
    };
    measured(&output, share).ok_or_else(|| Failure::new(Exit::Failed, "fio's report has not the fields it should have"))
}

fn run_fio(ward: &Ward, target: &Target, size_bytes: u64, job: &[String]) -> Result<Value, Failure> {
    let mut command = Command::new("fio");
    command.args(["--output-format=json", "--randrepeat=0", "--thread", "--group_reporting"]);
    command.arg(format!("--percentile_list={PERCENTILES}"));
    let places = match target {
        Target::Nbd(uri) => vec![vec!["--ioengine=nbd".to_owned(), format!("--uri={uri}")]],
        Target::Files(files) => {
            let file = |file: &PathBuf| {
                let named = format!("--filename={}", file.display());
                vec!["--ioengine=io_uring".to_owned(), "--direct=1".to_owned(), named]
            };
            files.iter().map(file).collect()
        }
    };
    for (number, place) in places.iter().enumerate() {
        // What stands after a job's name is that job's alone.
        command.arg(format!("--name=bench{number}")).arg(format!("--size={size_bytes}")).args(job).args(place);
    }
    let output =
        ward.run(&mut command).map_err(|error| Failure::new(Exit::Failed, format!("fio can't be run: {error}")))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(Exit::Failed, format!("fio failed on {target:?}: {}", words.trim())));
    }
    // Warnings may stand before the report.
    let text = String::from_utf8_lossy(&output.stdout);
    let report = text.find('{').and_then(|at| serde_json::from_str(&text[at..]).ok());
    report.ok_or_else(|| Failure::new(Exit::Failed, format!("fio's report can't be read: {}", text.trim())))
}

/// What a report says; what was done on `share` files at once counts once.
fn measured(report: &Value, share: usize) -> Option<Measured> {
    let job = report.get("jobs")?.get(0)?;
    if job.get("error")?.as_i64()? != 0 {
        return None;
    }
    let mut all = Measured::default();
    for side in ["read", "write"] {
        let side = job.get(side)?;
        let operations = side.get("total_ios")?.as_u64()?;
        if operations == 0 {
            continue;
        }
        all.operations += operations;
        all.per_second += side.get("iops")?.as_f64()? / share as f64;
        let percentiles = side.pointer("/clat_ns/percentile")?.as_object()?;
        let mut latency: Vec<(f64, f64)> =
            percentiles.iter().filter_map(|(name, at)| Some((name.parse().ok()?, at.as_f64()? / 1e3))).collect();
        latency.sort_by(|one, other| one.0.total_cmp(&other.0));
        // Of a mixed load, the slower side of each part.
        all.latency = match all.latency.is_empty() {
            true => latency,
            false => all.latency.iter().zip(&latency).map(|(one, other)| (one.0, one.1.max(other.1))).collect(),
        };
    }
    (all.operations > 0).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_is_read() {
        let clat = json!({"percentile": {"99.000000": 200_000, "50.000000": 90_000}});
        let write = json!({"iops": 5000.5, "total_ios": 20_002, "clat_ns": clat});
        let report = json!({"jobs": [{"error": 0, "write": write, "read": {"total_ios": 0}}]});
        let expected = Measured { per_second: 5000.5, operations: 20_002, latency: vec![(50.0, 90.0), (99.0, 200.0)] };
        assert_eq!(measured(&report, 1), Some(expected));
        assert_eq!(measured(&report, 2).unwrap().per_second, 2500.25);
        assert_eq!(measured(&report, 1).unwrap().percentile(90.0), Some(200.0));
        let failed = json!({"jobs": [{"error": 5, "write": write, "read": {"total_ios": 0}}]});
        assert_eq!(measured(&failed, 1), None);
        assert_eq!(measured(&json!({}), 1), None);
    }

    #[test]
    fn of_a_mixed_load_both_sides_count() {
        let side =
            |ios: u64, p50: u64| json!({"iops": 10.0, "total_ios": ios, "clat_ns": {"percentile": {"50.0": p50}}});
        let report = json!({"jobs": [{"error": 0, "write": side(3, 9000), "read": side(7, 4000)}]});
        let expected = Measured { per_second: 20.0, operations: 10, latency: vec![(50.0, 9.0)] };
        assert_eq!(measured(&report, 1), Some(expected));
    }
}
