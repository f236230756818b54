//! Where the time of a request goes: one histogram for each stage of each kind of request.
//!
//! ```text
//!  client read │            total: from the core's hands and back               │ reply
//!  ────────────┼── gate wait ── intent wait ─┬─ local write ───────────────────┬┼───────
//!              │                             └─ link out ─ peer receipt        ├┤
//!              │                              ─────────────────── peer write ──┘│
//! ```
//! Stages of both disks run beside each other, so they don't add up. A stage counts only those that went through it:
//! who waited for nothing is not in `gate wait` or `intent wait`.

use super::histogram::Histogram;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Bytes.
    Read,
    /// That bytes or zeroes are kept.
    Write,
    /// That what was written is durable.
    Flush,
}

/// A stage of a request, of whatever kind goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// From the wake-up that found the request's first byte until the core has the request.
    ClientRead,
    /// Waiting for a request under way at the same place, or (with receipt gating) for the peer's receipt.
    GateWait,
    /// Waiting until the intent to write there is durable.
    IntentWait,
    /// The local disk's write, of a client or, on a secondary, of the peer.
    LocalWrite,
    /// The local disk's read.
    LocalRead,
    /// The local disk's flush.
    LocalFlush,
    /// From the decision to send the data until the kernel has all of it.
    LinkOut,
    /// From that decision until the peer said that it has the data in memory; only where it does say so.
    PeerReceipt,
    /// From that decision until the peer said that it has written the data.
    PeerWrite,
    /// From the question until the peer's bytes were here.
    PeerRead,
    /// From the question until the peer had flushed.
    PeerFlush,
    /// From the core's having the request until it settled it.
    Total,
    /// From settling the request until the kernel has all of the answer.
    Reply,
}

/// Every stage there is, in the order it is shown.
pub const STAGES: [(Kind, Stage); 20] = [
    (Kind::Write, Stage::ClientRead),
    (Kind::Write, Stage::GateWait),
    (Kind::Write, Stage::IntentWait),
    (Kind::Write, Stage::LocalWrite),
    (Kind::Write, Stage::LinkOut),
    (Kind::Write, Stage::PeerReceipt),
    (Kind::Write, Stage::PeerWrite),
    (Kind::Write, Stage::Total),
    (Kind::Write, Stage::Reply),
    (Kind::Read, Stage::ClientRead),
    (Kind::Read, Stage::GateWait),
    (Kind::Read, Stage::LocalRead),
    (Kind::Read, Stage::PeerRead),
    (Kind::Read, Stage::Total),
    (Kind::Read, Stage::Reply),
    (Kind::Flush, Stage::ClientRead),
    (Kind::Flush, Stage::LocalFlush),
    (Kind::Flush, Stage::PeerFlush),
    (Kind::Flush, Stage::Total),
    (Kind::Flush, Stage::Reply),
];

/// Histograms of those stages that one part of the daemon sees.
#[derive(Debug)]
pub struct Latency {
    places: [Option<Box<Histogram>>; PLACES],
}

/// One for each stage of each kind, had or not.
const PLACES: usize = 3 * STAGE_COUNT;
const STAGE_COUNT: usize = Stage::Reply as usize + 1;

fn place_of(kind: Kind, stage: Stage) -> usize {
    kind as usize * STAGE_COUNT + stage as usize
}

impl Latency {
    /// Empty histograms of these stages, of every kind of request that has them.
    pub fn of(stages: &[Stage]) -> Latency {
        let mut places = [const { None }; PLACES];
        for (kind, stage) in STAGES.into_iter().filter(|(_, stage)| stages.contains(stage)) {
            places[place_of(kind, stage)] = Some(Box::default());
        }
        Latency { places }
    }

    /// Counts one span. A stage that a kind does not have, or that is not seen here, is a bug of the caller.
    pub fn record(&mut self, kind: Kind, stage: Stage, span: Duration) {
        self.record_many(kind, stage, span, 1);
    }

    /// Counts several that took the same time.
    pub fn record_many(&mut self, kind: Kind, stage: Stage, span: Duration, count: u64) {
        let histogram = self.places[place_of(kind, stage)].as_mut();
        histogram.expect("this kind has this stage, and it is seen here").record_many(span, count);
    }

    /// What was counted so far, in the order of [`STAGES`], stages seen elsewhere left out.
    pub fn view(&self) -> Vec<StageView> {
        let seen = |(kind, stage): (Kind, Stage)| {
            self.places[place_of(kind, stage)].as_ref().map(|histogram| StageView::new(kind, stage, histogram))
        };
        STAGES.into_iter().filter_map(seen).collect()
    }
}

/// One stage, for `status --latency`. Times in microseconds, since the daemon started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageView {
    /// Kind of request.
    pub kind: Kind,
    /// Stage.
    pub stage: Stage,
    /// Requests that went through it.
    pub count: u64,
    /// Average.
    pub mean: f64,
    /// Half took at most this.
    pub p50: f64,
    /// Nine in ten.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// What the above is from: upper end in nanoseconds and count of every bucket that is not empty.
    pub buckets: Vec<(u64, u64)>,
}

impl StageView {
    fn new(kind: Kind, stage: Stage, histogram: &Histogram) -> StageView {
        let microseconds = |span: Duration| span.as_nanos() as f64 / 1e3;
        let at = |part| microseconds(histogram.quantile(part));
        StageView {
            kind,
            stage,
            count: histogram.count(),
            mean: microseconds(histogram.mean()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: microseconds(histogram.max()),
            buckets: histogram.buckets().collect(),
        }
    }

    /// Its place in [`STAGES`].
    pub fn place(&self) -> usize {
        STAGES.iter().position(|known| *known == (self.kind, self.stage)).unwrap_or(STAGES.len())
    }
}

/// The stages of one volume on one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeLatency {
    /// Name of the volume.
    pub volume: String,
    /// Its stages, in the order of [`STAGES`].
    pub stages: Vec<StageView>,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Flush => "flush",
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::ClientRead => "client read",
            Stage::GateWait => "gate wait",
            Stage::IntentWait => "intent wait",
            Stage::LocalWrite => "local write",
            Stage::LocalRead => "local read",
            Stage::LocalFlush => "local flush",
            Stage::LinkOut => "link out",
            Stage::PeerReceipt => "peer receipt",
            Stage::PeerWrite => "peer write",
            Stage::PeerRead => "peer read",
            Stage::PeerFlush => "peer flush",
            Stage::Total => "total",
            Stage::Reply => "reply",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_counts_for_itself() {
        let mut latency = Latency::of(&[Stage::Total, Stage::GateWait]);
        latency.record(Kind::Read, Stage::Total, Duration::from_micros(100));
        latency.record_many(Kind::Write, Stage::GateWait, Duration::from_micros(7), 3);
        let view = latency.view();
        let counts: Vec<_> = view.iter().map(|stage| (stage.kind, stage.stage, stage.count)).collect();
        let expected = [
            (Kind::Write, Stage::GateWait, 3),
            (Kind::Write, Stage::Total, 0),
            (Kind::Read, Stage::GateWait, 0),
            (Kind::Read, Stage::Total, 1),
            (Kind::Flush, Stage::Total, 0),
        ];
        assert_eq!(counts, expected);
        assert_eq!((view[3].max, view[3].p50, view[0].mean), (100.0, 100.0, 7.0));
        assert!(view.is_sorted_by_key(StageView::place));
    }

    #[test]
    #[should_panic(expected = "it is seen here")]
    fn a_stage_that_is_seen_elsewhere_is_not_lost_in_silence() {
        Latency::of(&[Stage::Total]).record(Kind::Read, Stage::LocalRead, Duration::ZERO);
    }
}
