//! What is wrong with a configuration: each problem names file, line, key, reason and next step.

use std::fmt;
use std::path::PathBuf;

/// Problems shown at once; beyond it only their number is told. A file that is wrong throughout stays readable.
const PROBLEMS_SHOWN_MAX: usize = 20;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1, where one can be named.
    pub line: Option<usize>,
    /// The key as a dotted path, such as `node.alpha.mirror`; empty when the file as a whole is meant.
    pub key: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub next: String,
}

/// Everything that is wrong with one file; at least one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The configuration file.
    pub file: PathBuf,
    /// In the order of the file where lines are known.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().take(PROBLEMS_SHOWN_MAX).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.file.display())?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            if !problem.key.is_empty() {
                write!(f, ": {}", problem.key)?;
            }
            write!(f, ": {}; {}", problem.reason, problem.next)?;
        }
        if self.list.len() > PROBLEMS_SHOWN_MAX {
            write!(f, "\n... and {} more problems", self.list.len() - PROBLEMS_SHOWN_MAX)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
