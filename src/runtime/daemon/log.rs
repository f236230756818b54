//! The log: lines on standard error, where the service manager or the terminal takes them.

use crate::runtime::cli::exit::{Exit, Failure};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging what passes the filter.
pub fn start(filter: &str) -> Result<(), Failure> {
    let parsed = EnvFilter::try_new(filter).map_err(|error| {
        let message = format!("the log filter \"{filter}\" is not understood: {error}; write a level such as info");
        Failure::new(Exit::Usage, message)
    })?;
    // Under a service manager, every line gets its time there.
    let managed = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let started = if managed { lines.without_time().try_init() } else { lines.try_init() };
    started.map_err(|error| Failure::new(Exit::Failed, format!("logging can't be started: {error}")))
}
