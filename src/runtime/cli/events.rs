//! `events`: what happened on this server, once or as it happens.

use super::exit::{Exit, Failure};
use super::group::known;
use super::session::Session;
use crate::base::limits::EVENTS_SHOWN_MAX;
use crate::runtime::config::Config;
use crate::runtime::control::message::{Answer, Ask};
use crate::runtime::events::{Event, Severity};
use serde_json::Value;
use std::io::Write;
use std::time::Duration;

/// Time between two tries to reach a daemon that went away while its events were followed.
const AGAIN_INTERVAL: Duration = Duration::from_millis(500);

/// What is to be shown.
pub struct Wanted<'w> {
    /// Of this group only.
    pub group: Option<&'w str>,
    /// And what happens from now on.
    pub follow: bool,
    /// At most so many of the past.
    pub last: usize,
    /// For machines.
    pub json: bool,
}

/// Shows events.
pub fn events(config: &Config, wanted: &Wanted<'_>) -> Result<Exit, Failure> {
    if let Some(group) = wanted.group {
        known(config, Some(group))?;
    }
    let mut session = Session::open(config)?;
    let (past, mut after) = ask(&mut session, wanted, None)?;
    if !show(&past, wanted.json) || !wanted.follow {
        return Ok(Exit::Done);
    }
    loop {
        match ask(&mut session, wanted, Some(after)) {
            Ok((events, next)) => {
                after = next;
                if !show(&events, wanted.json) {
                    return Ok(Exit::Done);
                }
            }
            Err(failure) => {
                eprintln!("twinblock: {failure}; waiting for the daemon");
                session = again(config);
            }
        }
    }
}

/// Connects to the daemon as soon as it is back; numbers go on over its restart.
fn again(config: &Config) -> Session<'_> {
    loop {
        std::thread::sleep(AGAIN_INTERVAL);
        if let Ok(session) = Session::open(config) {
            return session;
        }
    }
}

fn ask(session: &mut Session<'_>, wanted: &Wanted<'_>, after: Option<u64>) -> Result<(Vec<Value>, u64), Failure> {
    let most = if after.is_none() { wanted.last } else { EVENTS_SHOWN_MAX };
    let group = wanted.group.map(str::to_string);
    match session.ask(Ask::Events { group, after, most, wait: after.is_some() })? {
        Answer::Events { events, after } => Ok((events, after)),
        _ => Err(Failure::new(Exit::Failed, "the daemon gave an answer to another question")),
    }
}

/// Whether somebody still reads.
fn show(events: &[Value], json: bool) -> bool {
    let mut out = std::io::stdout().lock();
    let written = events.iter().try_for_each(|event| match serde_json::from_value::<Event>(event.clone()) {
        Ok(known) if !json => writeln!(out, "{}", line(&known)),
        // Of a newer daemon, or for machines: as it came.
        _ => writeln!(out, "{event}"),
    });
    written.and_then(|()| out.flush()).is_ok()
}

fn line(event: &Event) -> String {
    let severity = match event.severity {
        Severity::Info => "",
        Severity::Warning => "warning: ",
        Severity::Error => "ERROR: ",
    };
    let group = event.group.as_ref().map(|group| format!("{group}: ")).unwrap_or_default();
    format!("{} {} {group}{severity}{} [{}]", event.time, event.node, event.words, event.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_where_and_what() {
        let event = Event {
            number: 7,
            time: "2026-11-20T15:52:32.007Z".into(),
            node: "alpha".into(),
            group: Some("db".into()),
            kind: "held".into(),
            severity: Severity::Error,
            words: "nothing is served".into(),
            detail: Value::Null,
        };
        assert_eq!(line(&event), "2026-11-20T15:52:32.007Z alpha db: ERROR: nothing is served [held]");
    }
}
