//! The report as one page that needs nothing else: tables, and plots drawn as SVG.

use super::report::{CELLS, Report, Row};
use std::collections::BTreeSet;
use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
/// Room for the words beside the axes.
const MARGIN: f64 = 56.0;
const COLOURS: [&str; 6] = ["#0b6e99", "#c4551d", "#4c7d2a", "#8a3d8f", "#a67c00", "#555555"];
/// Loads whose latency is drawn.
const DISTRIBUTIONS: [&str; 4] = [
    "4 KiB random writes, depth 1",
    "4 KiB random writes, depth 32",
    "4 KiB random reads, depth 1",
    "4 KiB random reads, depth 32",
];

/// One line of a plot.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// The page.
pub(super) fn page(report: &Report) -> String {
    let mut out = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>twinblock bench</title><style>\
         body{font:15px/1.4 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em}\
         table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.15em .6em;text-align:right;\
         border-bottom:1px solid #ddd}td:nth-child(-n+3),th:nth-child(-n+3){text-align:left}\
         .ours td{font-weight:600}figure{display:inline-block;margin:1em}</style><h1>What mirroring costs here</h1>",
    );
    let _ = write!(
        out,
        "<p>Medians of {} rounds. CPU is that of all daemons for one request, memory that of the largest. \
        \u{201c}limit\u{201d} is the machine without a server: files like the servers' own, both for writes, and the loopback. \
        Ratios above 1: twinblock is faster.</p>",
        report.rounds
    );
    for warning in &report.warnings {
        let _ = write!(out, "<p><em>{}.</em></p>", escaped(warning));
    }
    table(report, &mut out);
    let media: BTreeSet<&str> = report.rows.iter().map(|row| row.medium).collect();
    for medium in media {
        let _ = write!(out, "<h2>On {}</h2>", escaped(medium));
        plots(report, medium, &mut out);
        stages(report, medium, &mut out);
    }
    out + "</html>\n"
}

fn table(report: &Report, out: &mut String) {
    out.push_str("<table><tr><th>where<th>what<th>who");
    for heading in CELLS.iter().chain(&["of limit", "x qemu"]) {
        let _ = write!(out, "<th>{heading}");
    }
    for row in &report.rows {
        let class = if row.contender == "twinblock" { " class=ours" } else { "" };
        let _ = write!(out, "<tr{class}><td>{}<td>{}<td>{}", row.medium, escaped(row.words), row.contender);
        for cell in row.cells().iter().chain(&report.comparisons(row)) {
            let _ = write!(out, "<td>{cell}");
        }
    }
    out.push_str("</table>");
}

fn plots(report: &Report, medium: &str, out: &mut String) {
    let rows = || report.rows.iter().filter(|row| row.medium == medium);
    for words in DISTRIBUTIONS {
        let lines = rows().filter(|row| row.words == words && !row.distribution.is_empty()).map(distribution);
        plot(&format!("Latency, {words}"), ("microseconds", true), "% of requests", lines.collect(), out);
    }
    for (rw, words) in [("randwrite", "writes"), ("randread", "reads")] {
        let title = format!("Throughput of 4 KiB random {words}");
        plot(&title, ("depth", true), "per second", against_depth(rows().collect(), rw), out);
    }
    let mut points: Vec<(f64, f64)> =
        rows().filter_map(|row| Some((f64::from(row.difference()?), row.value()))).collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    let line = Line { name: "twinblock".to_owned(), points };
    plot("Resync over difference", ("% that differs", false), "seconds", vec![line], out);
}

fn distribution(row: &Row) -> Line {
    Line { name: row.contender.to_owned(), points: row.distribution.iter().map(|(part, at)| (*at, *part)).collect() }
}

fn against_depth(rows: Vec<&Row>, rw: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let Some(load) = row.load.filter(|load| load.rw == rw && !load.flushes) else { continue };
        let point = (f64::from(load.depth), row.value());
        match lines.iter_mut().find(|line| line.name == row.contender) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name: row.contender.to_owned(), points: vec![point] }),
        }
    }
    lines
}

/// Draws lines over an axis that may be logarithmic; the other one begins at zero. Nothing where there is nothing to draw.
fn plot(title: &str, (x_words, logarithmic): (&str, bool), y_words: &str, lines: Vec<Line>, out: &mut String) {
    let lines: Vec<Line> = lines.into_iter().filter(|line| line.points.len() > 1).collect();
    let scaled = |x: f64| if logarithmic { x.max(0.1).log10() } else { x };
    let points = || lines.iter().flat_map(|line| &line.points);
    let (left, right) =
        points().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(scaled(*x)), high.max(scaled(*x))));
    let top = points().fold(0.0, |high: f64, (_, y)| high.max(*y));
    if lines.is_empty() || right <= left || top <= 0.0 {
        return;
    }
    let x_at = |x: f64| MARGIN + (scaled(x) - left) / (right - left) * (WIDTH - MARGIN - 12.0);
    let y_at = |y: f64| HEIGHT - MARGIN + 12.0 - y / top * (HEIGHT - MARGIN - 12.0);
    let _ = write!(
        out,
        "<figure><figcaption>{}</figcaption><svg width={WIDTH} height={HEIGHT} font-size=11 font-family=sans-serif>",
        escaped(title)
    );
    for step in 0..=4 {
        let (x, y) = (left + (right - left) * f64::from(step) / 4.0, top * f64::from(step) / 4.0);
        let shown = if logarithmic { 10_f64.powf(x) } else { x };
        let (at_x, at_y) = (x_at(shown), y_at(y));
        let _ = write!(
            out,
            "<path d=\"M{MARGIN} {at_y:.1}H{:.1}\" stroke=\"#ddd\"/><text x={:.1} y={:.1} text-anchor=end>{}</text>\
             <text x={at_x:.1} y={:.1} text-anchor=middle>{}</text>",
            WIDTH - 12.0,
            MARGIN - 4.0,
            at_y + 4.0,
            short(y),
            HEIGHT - MARGIN + 28.0,
            short(shown),
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let path: Vec<String> = line.points.iter().map(|(x, y)| format!("{:.1} {:.1}", x_at(*x), y_at(*y))).collect();
        let at = MARGIN + 8.0 + 140.0 * index as f64;
        let _ = write!(
            out,
            "<path d=\"M{}\" fill=none stroke=\"{colour}\" stroke-width=2 /><text x={at:.1} y={:.1} fill=\"{colour}\">{}</text>",
            path.join("L"),
            HEIGHT - 2.0,
            escaped(&line.name)
        );
    }
    let _ = write!(
        out,
        "<text x={:.1} y={:.1} text-anchor=end>{}</text><text x=4 y=11>{}</text></svg></figure>",
        WIDTH - 12.0,
        HEIGHT - MARGIN + 42.0,
        escaped(x_words),
        escaped(y_words)
    );
}

fn stages(report: &Report, medium: &str, out: &mut String) {
    for row in report.rows.iter().filter(|row| row.medium == medium && !row.went.is_empty()) {
        let _ = write!(
            out,
            "<details><summary>Where the time went: {}</summary><table><tr><th>request<th>stage<th><th>count<th>p50 µs<th>p99 µs",
            escaped(row.words)
        );
        for went in &row.went {
            let (kind, stage) = (went.kind, went.stage);
            let _ =
                write!(out, "<tr><td>{kind}<td>{stage}<td><td>{}<td>{:.1}<td>{:.1}", went.count, went.p50, went.p99);
        }
        out.push_str("</table></details>");
    }
}

/// A number in few characters.
fn short(number: f64) -> String {
    match number {
        big if big >= 10_000.0 => format!("{:.0}k", big / 1000.0),
        middle if middle >= 10.0 => format!("{middle:.0}"),
        small => format!("{small:.2}"),
    }
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::report::sample;
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_has_its_rows() {
        let mut report = sample();
        report.warn("a < b & c");
        let page = page(&report);
        assert!(page.contains("a &lt; b &amp; c.") && page.contains("<td>1 MiB writes, depth 4<td>limit"), "{page}");
        assert!(page.contains("Where the time went: 1 MiB writes, depth 4"), "{page}");
        assert!(!page.contains("http") && !page.contains("src=") && !page.contains("NaN"), "{page}");
        assert!(!page.contains("<svg"), "one point makes no line: {page}");
    }

    #[test]
    fn lines_are_drawn_inside_their_frame() {
        let mut out = String::new();
        let line = Line { name: "a".to_owned(), points: vec![(1.0, 10.0), (10.0, 40.0), (100.0, 20.0)] };
        plot("t", ("x", true), "y", vec![line], &mut out);
        assert!(out.contains(&format!("M{MARGIN:.1} ")) && out.contains(&format!("L{:.1} ", WIDTH - 12.0)), "{out}");
        assert!(out.contains("L302.0 24.0"), "the highest point is at the top: {out}");
        assert_eq!((short(12_345.0), short(44.4), short(1.234)), ("12k".into(), "44".into(), "1.23".into()));
    }
}
