//! Medians of what was measured, as a table for people or as JSON.

use super::Options;
use super::fio::Measured;
use super::limits::LIMIT;
use super::loads::Load;
use super::peer::RIVAL;
use super::stages::Went;
use super::twins::Resynced;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};

const MIB: f64 = (1 << 20) as f64;

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    /// What counts: requests per second, or seconds.
    pub value: f64,
    pub unit: Unit,
    pub mebibytes_per_second: Option<f64>,
    /// Middle, 99th and 99.9th percentile, in microseconds.
    pub latency: Option<[f64; 3]>,
    /// Processor time of all daemons per request, in microseconds.
    pub processor: Option<f64>,
    /// The most memory a daemon had so far, in bytes.
    pub resident_bytes: Option<u64>,
    /// Part of a hundred that differed.
    pub difference: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    PerSecond,
    Seconds,
}

impl Figure {
    fn new(value: f64, unit: Unit) -> Figure {
        let (latency, processor, resident_bytes, difference) = (None, None, None, None);
        Figure { value, unit, mebibytes_per_second: None, latency, processor, resident_bytes, difference }
    }

    pub fn of_load(measured: &Measured, load: &Load, used_seconds: Option<f64>, resident_bytes: Option<u64>) -> Figure {
        let at = |percent| measured.percentile(percent).unwrap_or(f64::NAN);
        Figure {
            mebibytes_per_second: Some(measured.per_second * load.block_bytes as f64 / MIB),
            latency: (!measured.latency.is_empty()).then(|| [at(50.0), at(99.0), at(99.9)]),
            processor: used_seconds.map(|used| used * 1e6 / measured.operations.max(1) as f64),
            resident_bytes,
            ..Figure::new(measured.per_second, Unit::PerSecond)
        }
    }

    pub fn of_copy(seconds: f64, bytes: u64) -> Figure {
        let mebibytes_per_second = Some(bytes as f64 / MIB / seconds.max(1e-3));
        Figure { mebibytes_per_second, ..Figure::new(seconds, Unit::Seconds) }
    }

    pub fn of_resync(resynced: &Resynced, percent: u32) -> Figure {
        Figure { difference: Some(percent), ..Figure::of_copy(resynced.seconds, resynced.bytes) }
    }

    pub fn of_wait(seconds: f64) -> Figure {
        Figure::new(seconds, Unit::Seconds)
    }

    pub fn of_round_trip(microseconds: f64) -> Figure {
        let latency = Some([microseconds, f64::NAN, f64::NAN]);
        Figure { latency, ..Figure::new(1e6 / microseconds, Unit::PerSecond) }
    }

    pub fn of_stream(bytes_per_second: f64) -> Figure {
        let mebibytes_per_second = Some(bytes_per_second / MIB);
        Figure { mebibytes_per_second, ..Figure::new(bytes_per_second / MIB, Unit::PerSecond) }
    }
}

/// The rounds of one row and contender.
pub(super) struct Row {
    pub medium: &'static str,
    pub words: &'static str,
    pub contender: &'static str,
    /// What was put on it, if it is about a load.
    pub load: Option<Load>,
    rounds: Vec<Figure>,
    /// Of the last round: parts of a hundred of the requests, and the microseconds they took at most.
    pub distribution: Vec<(f64, f64)>,
    /// Of the last round.
    pub went: Vec<Went>,
}

impl Row {
    /// The middle of the rounds.
    pub fn median(&self, of: impl Fn(&Figure) -> Option<f64>) -> Option<f64> {
        let mut values: Vec<f64> = self.rounds.iter().filter_map(of).filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(values[middle]),
            _ => Some((values[middle - 1] + values[middle]) / 2.0),
        }
    }

    pub fn value(&self) -> f64 {
        self.median(|figure| Some(figure.value)).unwrap_or(f64::NAN)
    }

    /// Part of a hundred that differed before.
    pub fn difference(&self) -> Option<u32> {
        self.rounds[0].difference
    }

    fn unit(&self) -> Unit {
        self.rounds[0].unit
    }

    /// How much better this row is than another: above 1 is better, whatever the unit.
    fn better_than(&self, other: &Row) -> f64 {
        match self.unit() {
            Unit::PerSecond => self.value() / other.value(),
            Unit::Seconds => other.value() / self.value(),
        }
    }

    fn percentile(&self, index: usize) -> Option<f64> {
        self.median(|figure| figure.latency.map(|latency| latency[index]))
    }

    /// What the table says of it, but for the comparisons.
    pub fn cells(&self) -> [String; 7] {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
        let value = match self.unit() {
            Unit::PerSecond => format!("{:.0}", self.value()),
            Unit::Seconds => format!("{:.2} s", self.value()),
        };
        [
            value,
            number(self.median(|figure| figure.mebibytes_per_second)),
            number(self.percentile(0)),
            number(self.percentile(1)),
            number(self.percentile(2)),
            self.median(|figure| figure.processor).map_or("-".to_owned(), |value| format!("{value:.1}")),
            number(self.median(|figure| figure.resident_bytes.map(|bytes| bytes as f64 / MIB))),
        ]
    }
}

/// Headings of the cells of a row.
pub(super) const CELLS: [&str; 7] = ["per second", "MiB/s", "p50 µs", "p99 µs", "p99.9", "CPU µs", "MiB RAM"];

pub(super) struct Report {
    json: bool,
    pub rounds: u32,
    pub rows: Vec<Row>,
    pub warnings: Vec<String>,
}

impl Report {
    pub fn new(options: &Options) -> Report {
        Report { json: options.json, rounds: options.rounds, rows: Vec::new(), warnings: Vec::new() }
    }

    /// Notes what was not measured and why, or what else the reader should know.
    pub fn warn(&mut self, words: impl Into<String>) {
        self.warnings.push(words.into());
    }

    /// Says what is being done, where someone is watching.
    pub fn progress(&self, words: &str) {
        let mut errors = std::io::stderr();
        if errors.is_terminal() {
            // Overwrites the line before.
            let _ = write!(errors, "\r\x1b[K{words}");
            let _ = errors.flush();
        } else if !words.is_empty() {
            let _ = writeln!(errors, "{words}");
        }
    }

    pub fn add(&mut self, what: (&'static str, &'static str), contender: &'static str, figure: Figure) {
        self.row(what, contender, None).rounds.push(figure);
    }

    /// The same for a load, with the distribution of its latency and where its time went.
    pub fn add_load(
        &mut self,
        (medium, load): (&'static str, &Load),
        contender: &'static str,
        figure: Figure,
        distribution: Vec<(f64, f64)>,
        went: Vec<Went>,
    ) {
        let row = self.row((medium, load.words), contender, Some(*load));
        row.rounds.push(figure);
        (row.distribution, row.went) = (distribution, went);
    }

    fn row(&mut self, what: (&'static str, &'static str), contender: &'static str, load: Option<Load>) -> &mut Row {
        let (medium, words) = what;
        let same = |row: &Row| (row.medium, row.words, row.contender) == (medium, words, contender);
        let index = self.rows.iter().position(same).unwrap_or_else(|| {
            let (rounds, distribution, went) = (Vec::new(), Vec::new(), Vec::new());
            self.rows.push(Row { medium, words, contender, load, rounds, distribution, went });
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }

    /// What a full copy is limited by: the slower of the disk's stream and the link's.
    pub fn limit_copies(&mut self, medium: &'static str, words: &'static str, size_bytes: u64) {
        let limits = self.rows.iter().filter(|row| row.medium == medium && row.contender == LIMIT);
        let stream = |row: &&Row| match row.load {
            // Two disks were written at once; a copy writes one.
            Some(load) => load.rw == "write" && load.block_bytes == 1 << 20,
            None => row.words == "link: stream",
        };
        let rate = |row: &Row| {
            let disks = if row.load.is_some() { 2.0 } else { 1.0 };
            row.median(|figure| figure.mebibytes_per_second).map(|rate| rate * disks)
        };
        let rates: Vec<f64> = limits.filter(stream).filter_map(rate).collect();
        if let [one, other] = rates[..] {
            let seconds = size_bytes as f64 / MIB / one.min(other);
            self.add((medium, words), LIMIT, Figure::of_copy(seconds, size_bytes));
        }
    }

    pub fn print(&self) {
        if self.json {
            println!("{}", self.as_json());
        } else {
            print!("{}", self.as_table());
        }
    }

    /// How a row of ours compares with the same one of another.
    fn against(&self, row: &Row, other: &str) -> Option<f64> {
        let same = |found: &&Row| (found.medium, found.words, found.contender) == (row.medium, row.words, other);
        let ours = row.contender == "twinblock";
        self.rows.iter().find(same).filter(|_| ours).map(|other| row.better_than(other))
    }

    /// How a row compares with the limit and with the rival, in words.
    pub fn comparisons(&self, row: &Row) -> [String; 2] {
        [LIMIT, RIVAL].map(|other| self.against(row, other).map_or("-".to_owned(), |ratio| format!("{ratio:.2}")))
    }

    fn as_table(&self) -> String {
        let [rate, mebibytes, p50, p99, p999, processor, memory] = CELLS;
        let mut out = format!(
            "{:<6} {:<34} {:<20} {rate:>10} {mebibytes:>7} {p50:>8} {p99:>8} {p999:>8} {processor:>7} {memory:>7} \
             {:>8} {:>7}\n",
            "where", "what", "who", "of limit", "x qemu"
        );
        for row in &self.rows {
            let [rate, mebibytes, p50, p99, p999, processor, memory] = row.cells();
            let [limit, rival] = self.comparisons(row);
            out += &format!(
                "{:<6} {:<34} {:<20} {rate:>10} {mebibytes:>7} {p50:>8} {p99:>8} {p999:>8} {processor:>7} \
                 {memory:>7} {limit:>8} {rival:>7}\n",
                row.medium, row.words, row.contender,
            );
        }
        out += &format!(
            "\nMedians of {} rounds; CPU of all daemons per request; memory of the largest. \"limit\" is the machine without a \
             server:\nfiles like the servers' own, both for writes, and the loopback. Ratios above 1: twinblock is faster.\n",
            self.rounds
        );
        out += &self.stages();
        for warning in &self.warnings {
            out += &format!("Note: {warning}.\n");
        }
        out
    }

    /// Where the time went under the loads of depth 1.
    fn stages(&self) -> String {
        let mut out = String::new();
        for row in self.rows.iter().filter(|row| row.load.is_some_and(|load| load.depth == 1) && !row.went.is_empty()) {
            out += &format!("\nwhere the time went: {}, {} (median and p99 in µs)\n", row.medium, row.words);
            for went in &row.went {
                let stage = format!("{} {}", went.kind, went.stage);
                out += &format!("  {stage:<20} {:>9.1} {:>9.1}\n", went.p50, went.p99);
            }
        }
        if !out.is_empty() {
            out.push('\n');
        }
        out
    }

    fn as_json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(|row| self.row_as_json(row)).collect();
        json!({"rounds": self.rounds, "rows": rows, "warnings": self.warnings})
    }

    fn row_as_json(&self, row: &Row) -> Value {
        let values: Vec<f64> = row.rounds.iter().map(|figure| figure.value).collect();
        let went = row.went.iter().map(|went| {
            json!({"kind": went.kind, "stage": went.stage, "count": went.count, "p50": went.p50, "p99": went.p99})
        });
        json!({
            "medium": row.medium,
            "what": row.words,
            "who": row.contender,
            "unit": match row.unit() { Unit::PerSecond => "requests per second", Unit::Seconds => "seconds" },
            "median": row.value(),
            "rounds": values,
            "mebibytes_per_second": row.median(|figure| figure.mebibytes_per_second),
            "latency_microseconds_p50": row.percentile(0),
            "latency_microseconds_p99": row.percentile(1),
            "latency_microseconds_p999": row.percentile(2),
            "latency_microseconds": row.distribution,
            "processor_microseconds": row.median(|figure| figure.processor),
            "resident_bytes": row.median(|figure| figure.resident_bytes.map(|bytes| bytes as f64)),
            "differed_percent": row.difference(),
            "stages_microseconds": went.collect::<Vec<_>>(),
            "of_limit": self.against(row, LIMIT),
            "times_better": self.against(row, RIVAL),
        })
    }
}

/// A report of known figures.
#[cfg(test)]
pub(super) fn sample() -> Report {
    use super::loads::LOADS;
    use crate::base::latency::{Kind, Stage};
    let mut report = Report { json: false, rounds: 3, rows: Vec::new(), warnings: vec!["x: y".to_owned()] };
    let load = LOADS.iter().find(|load| load.words == "1 MiB writes, depth 4").unwrap();
    let latency = vec![(50.0, 5.0), (99.0, 9.0), (99.9, 20.0)];
    for value in [300.0, 100.0, 200.0] {
        let measured = Measured { per_second: value, operations: 10, latency: latency.clone() };
        let went = vec![Went { kind: Kind::Write, stage: Stage::LocalWrite, count: 10, p50: 3.0, p99: 4.0 }];
        let figure = Figure::of_load(&measured, load, Some(1e-4), Some(8 << 20));
        report.add_load(("disk", load), "twinblock", figure, latency.clone(), went);
        let limit = Measured { per_second: value * 2.0, ..measured };
        report.add_load(("disk", load), LIMIT, Figure::of_load(&limit, load, None, None), latency.clone(), Vec::new());
        report.add(("disk", "sync"), "twinblock", Figure::of_copy(value, 1 << 30));
        let resynced = Resynced { seconds: 0.1, bytes: 1 << 20 };
        report.add(("disk", "resync of 1 %"), "twinblock", Figure::of_resync(&resynced, 1));
    }
    report.add(("disk", "sync"), RIVAL, Figure::of_copy(400.0, 1 << 30));
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_rounds_counts_and_less_time_is_better() {
        let json = sample().as_json();
        let row = |what: &str, who: &str| {
            let found = json["rows"].as_array().unwrap().iter().find(|row| row["what"] == what && row["who"] == who);
            found.unwrap().clone()
        };
        let ours = row("1 MiB writes, depth 4", "twinblock");
        assert_eq!((&ours["median"], &ours["mebibytes_per_second"]), (&json!(200.0), &json!(200.0)));
        assert_eq!((&ours["times_better"], &ours["of_limit"]), (&Value::Null, &json!(0.5)));
        assert_eq!((&ours["processor_microseconds"], &ours["latency_microseconds_p999"]), (&json!(10.0), &json!(20.0)));
        assert_eq!(row("sync", "twinblock")["times_better"], 2.0);
        assert_eq!(row("sync", RIVAL)["times_better"], Value::Null);
        assert_eq!(row("resync of 1 %", "twinblock")["differed_percent"], 1);
    }

    #[test]
    fn the_table_says_what_is_missing_and_where_the_time_went() {
        let mut report = sample();
        let table = report.as_table();
        assert!(table.contains("Note: x: y.") && table.contains("200.00 s") && table.contains("2.00"), "{table}");
        assert!(!table.contains("where the time went"), "that is told of depth 1: {table}");
        report.rows[0].load.as_mut().unwrap().depth = 1;
        assert!(report.as_table().contains("  write local write          3.0       4.0\n"), "{}", report.as_table());
    }

    #[test]
    fn a_copy_is_limited_by_the_slower_of_disk_and_link() {
        let mut report = sample();
        report.limit_copies("disk", "sync", 1 << 30);
        assert!(report.rows.iter().all(|row| row.words != "sync" || row.contender != LIMIT), "the link is not known");
        report.add(("disk", "link: stream"), LIMIT, Figure::of_stream(2048.0 * MIB));
        report.limit_copies("disk", "sync", 1 << 30);
        let limit = report.rows.iter().find(|row| row.words == "sync" && row.contender == LIMIT).unwrap();
        assert_eq!(limit.value(), 1024.0 / 800.0, "two disks at 400 MiB/s each");
    }
}
