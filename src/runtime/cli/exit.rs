//! Exit codes: what a script can rely on.

use std::fmt;
use std::process::ExitCode;

/// How a command ended. The numbers are documented in `--help` and in the README and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The state of the volume does not allow it; nothing was changed.
    Refused = 3,
    /// The daemon of this node could not be reached.
    NotReachable = 4,
    /// It did not end in the time given.
    TimedOut = 5,
    /// It was not confirmed; nothing was changed.
    NotConfirmed = 6,
    /// `verify --wait` found differences that are still there, or `check --peer` settings that differ.
    Differs = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// What `--help` says of the exit codes.
pub const HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line or the configuration is wrong
  3  refused: the state of the volume does not allow it, nothing was changed
  4  the daemon of this node could not be reached
  5  it did not end in the time given
  6  not confirmed: nothing was changed
  7  verify --wait found differences that were not repaired, or check --peer differing settings";

/// Why a command ends otherwise than done: a message for people, and the code.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What happened, why, and what next.
    pub message: String,
}

impl Failure {
    /// A failure with its message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_readme_name_every_code() {
        let readme = include_str!("../../../README.md");
        let lines: Vec<&str> = HELP.lines().skip(1).collect();
        assert_eq!(lines.len(), Exit::Differs as usize + 1);
        for (code, line) in lines.iter().enumerate() {
            let words = line.trim_start().strip_prefix(&format!("{code}  ")).expect("codes in order");
            assert!(readme.contains(&format!("| {code} | {words} |")), "the README has {code}: {words}");
        }
    }

    #[test]
    fn the_readme_names_every_verb() {
        use clap::CommandFactory;
        let readme = include_str!("../../../README.md");
        let arguments = super::super::arguments::Arguments::command();
        for verb in arguments.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            assert!(readme.contains(&format!("`{}", verb.get_name())), "the README tells of {}", verb.get_name());
        }
    }
}
