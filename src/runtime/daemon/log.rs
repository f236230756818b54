//! The log: lines on standard error, where the service manager or the terminal takes them.

use crate::runtime::cli::exit::{Exit, Failure};
use std::io::IsTerminal;
use std::sync::OnceLock;
use tracing_subscriber::EnvFilter;

/// Sets another filter; there once logging has started.
static CHANGE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Reads a filter. The error is a clause with a next step.
pub fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter)
        .map_err(|error| format!("the log filter \"{filter}\" is not understood: {error}; write a level such as info"))
}

/// From here on what passes this filter is logged.
pub fn change(filter: EnvFilter) {
    if let Some(change) = CHANGE.get() {
        change(filter);
    }
}

/// Starts logging what passes the filter.
pub fn start(filter: &str) -> Result<(), Failure> {
    let parsed = parse(filter).map_err(|message| Failure::new(Exit::Usage, message))?;
    // Under a service manager, every line gets its time there.
    let managed = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let started = if managed {
        let lines = lines.without_time().with_filter_reloading();
        let handle = lines.reload_handle();
        keep(move |filter| handle.reload(filter).is_ok());
        lines.try_init()
    } else {
        let lines = lines.with_filter_reloading();
        let handle = lines.reload_handle();
        keep(move |filter| handle.reload(filter).is_ok());
        lines.try_init()
    };
    started.map_err(|error| Failure::new(Exit::Failed, format!("logging can't be started: {error}")))
}

/// Keeps the way to set another filter. It fails only when nothing is logged any more.
fn keep(set: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) {
    let change = move |filter| {
        if !set(filter) {
            eprintln!("twinblock: the log is over, its filter can't be changed");
        }
    };
    let _ = CHANGE.set(Box::new(change));
}
