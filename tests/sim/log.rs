//! The timeline of a run. Kept only when a failing run is repeated for its report: saying nothing is fast.

use std::collections::VecDeque;
use twinblock::base::time::Moment;

/// Lines of a run.
pub struct Log {
    keeps: usize,
    lines: VecDeque<String>,
    /// The simulated time.
    pub now: Moment,
}

impl Log {
    /// Keeps the last lines, that many.
    pub fn keeping(keeps: usize) -> Log {
        Log { keeps, lines: VecDeque::new(), now: Moment(0) }
    }

    /// Adds a line.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if self.keeps == 0 {
            return;
        }
        if self.lines.len() == self.keeps {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>14.6} ms  {}", self.now.0 as f64 / 1e6, line()));
    }

    /// All lines kept.
    pub fn text(&self) -> String {
        self.lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}
