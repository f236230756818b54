//! `status --latency`: where the time of requests goes, stage by stage.

use super::exit::{Exit, Failure};
use super::status::align;
use crate::base::latency::{Kind, StageView, VolumeLatency};
use serde_json::Value;

/// The table for people, of the daemon's answer. Stages nothing went through are left out.
pub fn table(volumes: &Value) -> Result<String, Failure> {
    let volumes: Vec<VolumeLatency> = serde_json::from_value(volumes.clone()).map_err(|error| {
        let words = format!(
            "the latencies of the daemon can't be read ({error}): use the twinblock of the same release as the running \
             daemon"
        );
        Failure::new(Exit::Failed, words)
    })?;
    Ok(volumes.iter().map(of_volume).collect::<Vec<_>>().join("\n"))
}

fn of_volume(volume: &VolumeLatency) -> String {
    let headings = ["REQUEST", "STAGE", "COUNT", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"];
    let mut rows = vec![headings.map(String::from).to_vec()];
    let mut kind_before = None;
    for stage in volume.stages.iter().filter(|stage| stage.count > 0) {
        rows.push(row(stage, kind_before));
        kind_before = Some(stage.kind);
    }
    let mut out = format!("{}, in microseconds, since the daemon started\n\n", volume.volume);
    if rows.len() == 1 {
        return out + "no requests yet\n";
    }
    align(&rows).iter().for_each(|line| out.push_str(line));
    out
}

fn row(stage: &StageView, kind_before: Option<Kind>) -> Vec<String> {
    let kind = if kind_before == Some(stage.kind) { String::new() } else { stage.kind.to_string() };
    let times = [stage.mean, stage.p50, stage.p90, stage.p99, stage.p999, stage.max];
    let mut row = vec![kind, stage.stage.to_string(), stage.count.to_string()];
    row.extend(times.map(|time| if time < 100.0 { format!("{time:.1}") } else { format!("{time:.0}") }));
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::latency::{Latency, Stage};
    use std::time::Duration;

    #[test]
    fn stages_are_shown_with_their_percentiles() {
        let mut latency = Latency::of(&[Stage::Total, Stage::LocalWrite]);
        for microseconds in 1..=1000 {
            latency.record(Kind::Write, Stage::LocalWrite, Duration::from_micros(microseconds));
        }
        latency.record(Kind::Write, Stage::Total, Duration::from_micros(99));
        latency.record(Kind::Read, Stage::Total, Duration::from_micros(5));
        let volumes = vec![VolumeLatency { volume: "vol0".into(), stages: latency.view() }];
        let text = table(&serde_json::to_value(volumes).unwrap()).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["REQUEST", "STAGE", "COUNT", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"]);
        assert_eq!(lines[3][..5], ["write", "local", "write", "1000", "500"], "{text}");
        assert_eq!(lines[3][9], "1000");
        assert_eq!(lines[4], ["total", "1", "99.0", "99.0", "99.0", "99.0", "99.0", "99.0"]);
        assert_eq!(lines[5][..3], ["read", "total", "1"]);
        assert_eq!(lines.len(), 6, "flushes are left out, there were none");
    }

    #[test]
    fn without_requests_that_is_said() {
        let volumes = vec![VolumeLatency { volume: "vol0".into(), stages: Latency::of(&[Stage::Total]).view() }];
        assert!(table(&serde_json::to_value(volumes).unwrap()).unwrap().ends_with("no requests yet\n"));
        assert!(table(&serde_json::json!({"a": 1})).is_err());
    }
}
