//! Medians of what was measured, as a table for people or as JSON.

use super::Options;
use super::fio::{Load, Measured};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    /// What counts: requests per second, or seconds.
    value: f64,
    unit: Unit,
    mebibytes_per_second: f64,
    /// Middle and 99th percentile, in microseconds.
    latency: Option<(f64, f64)>,
    /// Processor time of both daemons per request, in microseconds.
    processor: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    PerSecond,
    Seconds,
}

impl Figure {
    pub fn of_load(measured: &Measured, load: &Load, processor: f64) -> Figure {
        Figure {
            value: measured.per_second,
            unit: Unit::PerSecond,
            mebibytes_per_second: measured.per_second * load.block_bytes as f64 / f64::from(1 << 20),
            latency: Some(measured.latency),
            processor: Some(processor),
        }
    }

    pub fn of_sync(seconds: f64, bytes: u64) -> Figure {
        let mebibytes_per_second = bytes as f64 / f64::from(1 << 20) / seconds.max(1e-3);
        Figure { value: seconds, unit: Unit::Seconds, mebibytes_per_second, latency: None, processor: None }
    }
}

/// The rounds of one row and contender.
struct Row {
    medium: &'static str,
    words: &'static str,
    contender: &'static str,
    rounds: Vec<Figure>,
}

impl Row {
    fn median(&self, of: impl Fn(&Figure) -> Option<f64>) -> Option<f64> {
        let mut values: Vec<f64> = self.rounds.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(values[middle]),
            _ => Some((values[middle - 1] + values[middle]) / 2.0),
        }
    }

    fn value(&self) -> f64 {
        self.median(|figure| Some(figure.value)).unwrap_or(f64::NAN)
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
}

pub(super) struct Report {
    json: bool,
    rounds: u32,
    rows: Vec<Row>,
    warnings: Vec<String>,
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

    pub fn add(&mut self, medium: &'static str, words: &'static str, contender: &'static str, figure: Figure) {
        let same = |row: &&mut Row| row.medium == medium && row.words == words && row.contender == contender;
        match self.rows.iter_mut().find(same) {
            Some(row) => row.rounds.push(figure),
            None => self.rows.push(Row { medium, words, contender, rounds: vec![figure] }),
        }
    }

    pub fn print(&self) {
        if self.json {
            println!("{}", self.as_json());
        } else {
            print!("{}", self.as_table());
        }
    }

    /// The row of the other contender.
    fn rival(&self, row: &Row) -> Option<&Row> {
        let others =
            |other: &&Row| other.medium == row.medium && other.words == row.words && other.contender != row.contender;
        self.rows.iter().find(others)
    }

    fn as_table(&self) -> String {
        let mut out = format!(
            "{:<6} {:<30} {:<20} {:>10} {:>9} {:>8} {:>8} {:>8} {:>7}\n",
            "where", "what", "who", "per second", "MiB/s", "p50 µs", "p99 µs", "CPU µs", "ratio"
        );
        for row in &self.rows {
            let value = match row.unit() {
                Unit::PerSecond => format!("{:.0}", row.value()),
                Unit::Seconds => format!("{:.2} s", row.value()),
            };
            let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
            let ratio = match self.rival(row) {
                Some(rival) if row.contender == "twinblock" => format!("{:.2}", row.better_than(rival)),
                _ => "-".to_owned(),
            };
            out += &format!(
                "{:<6} {:<30} {:<20} {:>10} {:>9} {:>8} {:>8} {:>8} {:>7}\n",
                row.medium,
                row.words,
                row.contender,
                value,
                number(row.median(|figure| Some(figure.mebibytes_per_second))),
                number(row.median(|figure| figure.latency.map(|latency| latency.0))),
                number(row.median(|figure| figure.latency.map(|latency| latency.1))),
                row.median(|figure| figure.processor).map_or("-".to_owned(), |value| format!("{value:.1}")),
                ratio,
            );
        }
        out += &format!(
            "Medians of {} rounds; CPU of both daemons per request; ratio above 1: twinblock is faster.\n",
            self.rounds
        );
        for warning in &self.warnings {
            out += &format!("Note: {warning}.\n");
        }
        out
    }

    fn as_json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(|row| self.row_as_json(row)).collect();
        json!({"rounds": self.rounds, "rows": rows, "warnings": self.warnings})
    }

    fn row_as_json(&self, row: &Row) -> Value {
        let values: Vec<f64> = row.rounds.iter().map(|figure| figure.value).collect();
        json!({
            "medium": row.medium,
            "what": row.words,
            "who": row.contender,
            "unit": match row.unit() { Unit::PerSecond => "requests per second", Unit::Seconds => "seconds" },
            "median": row.value(),
            "rounds": values,
            "mebibytes_per_second": row.median(|figure| Some(figure.mebibytes_per_second)),
            "latency_microseconds_p50": row.median(|figure| figure.latency.map(|latency| latency.0)),
            "latency_microseconds_p99": row.median(|figure| figure.latency.map(|latency| latency.1)),
            "processor_microseconds": row.median(|figure| figure.processor),
            "times_better": self.rival(row).map(|rival| row.better_than(rival)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report { json: false, rounds: 3, rows: Vec::new(), warnings: vec!["x: y".to_owned()] };
        for value in [300.0, 100.0, 200.0] {
            let measured = Measured { per_second: value, operations: 10, latency: (5.0, 9.0) };
            let load = Load { words: "load", rw: "write", block_bytes: 1 << 20, depth: 1 };
            report.add("disk", "load", "twinblock", Figure::of_load(&measured, &load, 1.0));
            report.add("disk", "sync", "twinblock", Figure::of_sync(value, 1 << 30));
        }
        report.add("disk", "sync", "other", Figure::of_sync(400.0, 1 << 30));
        report
    }

    #[test]
    fn the_middle_of_the_rounds_counts_and_less_time_is_better() {
        let json = report().as_json();
        assert_eq!(json["rows"][0]["median"], 200.0);
        assert_eq!(json["rows"][0]["mebibytes_per_second"], 200.0);
        assert_eq!(json["rows"][0]["times_better"], Value::Null);
        assert_eq!((&json["rows"][1]["median"], &json["rows"][1]["times_better"]), (&json!(200.0), &json!(2.0)));
        assert_eq!(json["rows"][2]["times_better"], 0.5);
    }

    #[test]
    fn the_table_says_what_is_missing() {
        let table = report().as_table();
        assert!(table.contains("Note: x: y.") && table.contains("200.00 s") && table.contains("2.00"), "{table}");
    }
}
