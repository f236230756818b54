//! fio with its nbd engine, as a child process.

use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::demo::ward::Ward;
use serde_json::Value;
use std::process::{Command, Stdio};

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// What a reader calls it.
    pub words: &'static str,
    /// fio's word for it.
    pub rw: &'static str,
    /// Bytes of one request.
    pub block_bytes: u64,
    /// Requests under way.
    pub depth: u32,
}

/// Seconds a load runs before it is measured.
pub(super) const RAMP_SECONDS: u32 = 1;

/// What a load yielded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    /// Requests per second.
    pub per_second: f64,
    /// Requests in all.
    pub operations: u64,
    /// Middle and 99th percentile of the time of one request, in microseconds.
    pub latency: (f64, f64),
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

/// Writes the whole volume once, with data that is neither zero nor the same everywhere.
pub(super) fn fill(ward: &Ward, uri: &str, size_bytes: u64) -> Result<(), Failure> {
    let job = ["--rw=write", "--bs=1M", "--iodepth=8", "--refill_buffers"].map(str::to_owned);
    run_fio(ward, uri, size_bytes, job).map(|_| ())
}

/// Puts a load on the volume for some seconds.
pub(super) fn run(ward: &Ward, uri: &str, size_bytes: u64, load: &Load, seconds: u32) -> Result<Measured, Failure> {
    let job = [
        format!("--rw={}", load.rw),
        format!("--bs={}", load.block_bytes),
        format!("--iodepth={}", load.depth),
        "--time_based".to_owned(),
        format!("--ramp_time={RAMP_SECONDS}"),
        format!("--runtime={seconds}"),
    ];
    let output = run_fio(ward, uri, size_bytes, job)?;
    measured(&output).ok_or_else(|| Failure::new(Exit::Failed, "fio's report has not the fields it should have"))
}

fn run_fio(ward: &Ward, uri: &str, size_bytes: u64, job: impl IntoIterator<Item = String>) -> Result<Value, Failure> {
    let mut command = Command::new("fio");
    command.args(["--name=bench", "--ioengine=nbd", "--output-format=json", "--randrepeat=0", "--norandommap"]);
    command.arg(format!("--uri={uri}")).arg(format!("--size={size_bytes}")).args(job);
    let output =
        ward.run(&mut command).map_err(|error| Failure::new(Exit::Failed, format!("fio can't be run: {error}")))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(Exit::Failed, format!("fio failed on {uri}: {}", words.trim())));
    }
    // Warnings may stand before the report.
    let text = String::from_utf8_lossy(&output.stdout);
    let report = text.find('{').and_then(|at| serde_json::from_str(&text[at..]).ok());
    report.ok_or_else(|| Failure::new(Exit::Failed, format!("fio's report can't be read: {}", text.trim())))
}

fn measured(report: &Value) -> Option<Measured> {
    let job = report.get("jobs")?.get(0)?;
    if job.get("error")?.as_i64()? != 0 {
        return None;
    }
    let write = job.get("write")?;
    let percentile = |name: &str| write.pointer(&format!("/clat_ns/percentile/{name}")).and_then(Value::as_f64);
    Some(Measured {
        per_second: write.get("iops")?.as_f64()?,
        operations: write.get("total_ios")?.as_u64()?,
        latency: (percentile("50.000000")? / 1e3, percentile("99.000000")? / 1e3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_is_read() {
        let clat = json!({"percentile": {"50.000000": 90_000, "99.000000": 200_000}});
        let write = json!({"iops": 5000.5, "total_ios": 20_002, "clat_ns": clat});
        let report = json!({"jobs": [{"error": 0, "write": write}]});
        let expected = Measured { per_second: 5000.5, operations: 20_002, latency: (90.0, 200.0) };
        assert_eq!(measured(&report), Some(expected));
        let failed = json!({"jobs": [{"error": 5, "write": write}]});
        assert_eq!(measured(&failed), None);
        assert_eq!(measured(&json!({})), None);
    }
}
