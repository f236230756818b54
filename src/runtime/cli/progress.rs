//! Progress of long work: a bar at a terminal, a line now and then elsewhere.

use crate::runtime::config::units::{show_size, show_time};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Cells of the bar.
const BAR_CELLS: usize = 28;
/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// How far something is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// What is going on, in a word or two.
    pub what: String,
    /// Done, 0 to 100.
    pub percent: f64,
    /// Bytes done and in all.
    pub bytes: Option<(u64, u64)>,
    /// Recent rate.
    pub bytes_per_second: u64,
    /// Time left at that rate.
    pub seconds_left: Option<u64>,
}

/// Shows progress on standard error.
pub struct Display {
    terminal: bool,
    open: bool,
    last_line: Option<(Instant, String)>,
}

impl Display {
    /// A display that has shown nothing yet.
    pub fn new() -> Display {
        Display { terminal: std::io::stderr().is_terminal(), open: false, last_line: None }
    }

    /// Shows how far it is.
    pub fn show(&mut self, progress: &Progress) {
        if self.terminal {
            eprint!("\r\x1b[K{}", bar(progress));
            self.open = true;
            let _ = std::io::stderr().flush();
        } else {
            self.line(&bar(progress));
        }
    }

    /// Shows a word on what is waited for.
    pub fn say(&mut self, words: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{words}");
            self.open = true;
            let _ = std::io::stderr().flush();
        } else {
            self.line(words);
        }
    }

    /// Ends the display; what is printed next begins a line.
    pub fn end(&mut self) {
        if self.open {
            eprintln!();
            self.open = false;
        }
    }

    fn line(&mut self, text: &str) {
        let due = match &self.last_line {
            None => true,
            Some((when, last)) => last != text && when.elapsed() >= LINE_INTERVAL,
        };
        if due {
            eprintln!("{text}");
            self.last_line = Some((Instant::now(), text.to_string()));
        }
    }
}

/// One line: `differential [####......]  42.0 %  27.0 MiB of 64.0 MiB  300 MiB/s  1 s left`.
pub fn bar(progress: &Progress) -> String {
    let percent = progress.percent.clamp(0.0, 100.0);
    let full = (percent / 100.0 * BAR_CELLS as f64) as usize;
    let mut line = format!("{} [{}{}] {percent:5.1} %", progress.what, "#".repeat(full), ".".repeat(BAR_CELLS - full));
    if let Some((done, total)) = progress.bytes {
        line.push_str(&format!("  {} of {}", show_size(done), show_size(total)));
    }
    line.push_str(&format!("  {}/s", show_size(progress.bytes_per_second)));
    if let Some(seconds) = progress.seconds_left {
        line.push_str(&format!("  {} left", show_time(Duration::from_secs(seconds.max(1)))));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_percent_bytes_rate_and_time_left() {
        let progress = Progress {
            what: "differential".into(),
            percent: 50.0,
            bytes: Some((32 << 20, 64 << 20)),
            bytes_per_second: 16 << 20,
            seconds_left: Some(2),
        };
        assert_eq!(
            bar(&progress),
            "differential [##############..............]  50.0 %  32.0 MiB of 64.0 MiB  16.0 MiB/s  2 s left"
        );
        let wild = Progress { percent: f64::NAN, seconds_left: None, bytes: None, ..progress };
        assert!(bar(&wild).contains('%'), "nonsense from a daemon is shown, not a panic");
    }
}
