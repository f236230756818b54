//! The verbs that ask the running daemon for something.

use super::arguments::{ReplaceDisk, Resync};
use super::confirm::confirm;
use super::exit::{Exit, Failure};
use super::follow;
use super::session::{Outcome, Session, known_volume, refused, report};
use crate::base::command::Command;
use crate::base::state::{DiskState, LinkState, Role};
use crate::base::view::VolumeView;
use crate::runtime::config::Config;
use crate::runtime::config::units::show_size;
use crate::runtime::control::message::{Answer, Ask, DIRTY_RANGES_MAX, VolumeStatus};
use std::time::{Duration, Instant};

/// Longest wait of `resync` and `verify` while the servers are connecting.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Time between two tries while the servers are connecting.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Verbs without options.
#[derive(Clone, Copy)]
pub enum Plain {
    /// Hold the resync.
    PauseResync,
    /// Let it go on.
    ResumeResync,
    /// Bring the link back.
    Connect,
    /// End the link.
    Disconnect,
    /// Open the disk.
    Attach,
    /// Give it up.
    Detach,
}

/// A verb without options.
pub fn plain(config: &Config, verb: Plain, name: &str) -> Result<Exit, Failure> {
    let volume = known_volume(config, name)?.name.clone();
    let command = |command| Ask::Command { volume: volume.clone(), command };
    let ask = match verb {
        Plain::PauseResync => command(Command::PauseResync),
        Plain::ResumeResync => command(Command::ResumeResync),
        Plain::Detach => command(Command::Detach),
        Plain::Connect => Ask::Connect { volume: volume.clone() },
        Plain::Disconnect => Ask::Disconnect { volume: volume.clone() },
        Plain::Attach => Ask::Attach { volume: volume.clone() },
    };
    report(config, name, Session::open(config)?.outcome(ask)?)
}

/// `promote`: waits while the servers are still connecting, since the answer may be another in a moment.
pub fn promote(config: &Config, name: &str, force: bool, yes: bool, timeout: Duration) -> Result<Exit, Failure> {
    known_volume(config, name)?;
    let mut session = Session::open(config)?;
    if force {
        let status = session.volume(name)?;
        confirm(&lost_by_forced_promotion(config, &status.view), yes)?;
    }
    let outcome = command_when_connected(&mut session, name, Command::Promote { force }, timeout)?;
    report(config, name, outcome)
}

/// `demote`.
pub fn demote(config: &Config, name: &str, force: bool, yes: bool) -> Result<Exit, Failure> {
    known_volume(config, name)?;
    let mut session = Session::open(config)?;
    if force {
        let status = session.volume(name)?;
        if status.view.role == Role::Primary {
            let words = format!(
                "{} clients are connected to {name} on {}: they are cut, and their {} unfinished requests fail.",
                status.clients.len(),
                config.this_node().name,
                status.view.requests_in_flight
            );
            confirm(&words, yes)?;
        }
    }
    report(config, name, session.command(name, Command::Demote { force })?)
}

/// `resync`.
pub fn resync(config: &Config, options: &Resync, yes: bool) -> Result<Exit, Failure> {
    let name = &options.volume;
    known_volume(config, name)?;
    let here = &config.this_node().name;
    let discard_ours = match options.source.as_deref() {
        None => None,
        Some(source) if source == here => Some(false),
        Some(source) if source == config.peer_node().name => Some(true),
        Some(source) => {
            let message = format!("there is no node {source}; --source is {here} or {}", config.peer_node().name);
            return Err(Failure::new(Exit::Usage, message));
        }
    };
    let mut session = Session::open(config)?;
    let before = session.volume(name)?.view;
    if let Some(ours) = discard_ours {
        confirm(&lost_by_choosing(config, &before, ours), yes)?;
    }
    let command = Command::Resync { full: options.full, compare: options.compare, discard_ours };
    let outcome = command_when_connected(&mut session, name, command, CONNECT_TIME_MAX)?;
    // A resync of what differs starts by itself as soon as the peer is there: that can be waited for.
    let by_itself = !options.full && !options.compare && discard_ours.is_none();
    let now = session.volume(name)?.view;
    if by_itself && now.in_sync && now.resync.is_none() {
        return report(config, name, outcome);
    }
    match &outcome {
        Ok(_) if options.wait => follow::resync(&mut session, &before),
        Err(refusal) if options.wait && by_itself && may_pass(&refusal.code) => follow::resync(&mut session, &before),
        _ => report(config, name, outcome),
    }
}

/// `replace-disk`.
pub fn replace_disk(config: &Config, options: &ReplaceDisk, yes: bool) -> Result<Exit, Failure> {
    let name = &options.volume;
    let volume = known_volume(config, name)?;
    let disk = &volume.place(config.node).disk;
    let mut session = Session::open(config)?;
    let before = session.volume(name)?.view;
    let words = format!(
        "{} on {} is initialised anew for volume {name}: what it holds is lost, and copied again from {}.",
        disk.display(),
        config.this_node().name,
        config.peer_node().name
    );
    confirm(&words, yes)?;
    let outcome = session.outcome(Ask::ReplaceDisk { volume: name.clone(), disk: options.disk.clone() })?;
    match outcome {
        Err(refusal) => Err(refused(&refusal)),
        Ok(sentence) => {
            say!("{sentence}");
            if options.wait { follow::resync(&mut session, &before) } else { Ok(Exit::Done) }
        }
    }
}

/// `resize`.
pub fn resize(config: &Config, name: &str, bytes: Option<u64>) -> Result<Exit, Failure> {
    known_volume(config, name)?;
    let mut session = Session::open(config)?;
    let outcome = command_when_connected(&mut session, name, Command::Resize { bytes }, CONNECT_TIME_MAX)?;
    report(config, name, outcome)
}

/// `verify`.
pub fn verify(config: &Config, name: &str, repair: bool, wait: bool) -> Result<Exit, Failure> {
    known_volume(config, name)?;
    let mut session = Session::open(config)?;
    let before = session.volume(name)?.view;
    let outcome = command_when_connected(&mut session, name, Command::Verify { repair }, CONNECT_TIME_MAX)?;
    if !wait || outcome.is_err() {
        return report(config, name, outcome);
    }
    follow::verify(&mut session, &before)
}

/// `dirty`.
pub fn dirty(config: &Config, name: &str, json: bool) -> Result<Exit, Failure> {
    known_volume(config, name)?;
    let mut session = Session::open(config)?;
    let answer = session.ask(Ask::Dirty { volume: name.into(), ranges_max: DIRTY_RANGES_MAX })?;
    let (ranges, truncated) = match answer {
        Answer::Dirty { ranges, truncated } => (ranges, truncated),
        Answer::Outcome { result: crate::base::command::CommandOutcome::Refused(refusal) } => {
            return Err(refused(&refusal));
        }
        _ => return Err(Failure::new(Exit::Failed, "the daemon gave an answer to another question")),
    };
    let bytes: u64 = ranges.iter().map(|(_, length)| length).sum();
    if json {
        say!("{}", serde_json::json!({ "volume": name, "bytes": bytes, "ranges": ranges, "truncated": truncated }));
        return Ok(Exit::Done);
    }
    for (offset, length) in &ranges {
        say!("{offset} {length}");
    }
    let more = if truncated { ", and more that is not listed" } else { "" };
    eprintln!("{name}: {} in {} ranges differ or may differ{more}", show_size(bytes), ranges.len());
    Ok(Exit::Done)
}

/// Gives a command; again while the servers are still connecting, for so long.
fn command_when_connected(
    session: &mut Session<'_>,
    volume: &str,
    command: Command,
    longest: Duration,
) -> Result<Outcome, Failure> {
    let deadline = Instant::now() + longest;
    loop {
        match session.command(volume, command.clone())? {
            Err(refusal) if may_pass(&refusal.code) && Instant::now() < deadline => {
                std::thread::sleep(RETRY_INTERVAL);
            }
            outcome => return Ok(outcome),
        }
    }
}

/// Refusals that a moment may change.
fn may_pass(code: &str) -> bool {
    matches!(code, "connecting" | "handshake")
}

fn lost_by_forced_promotion(config: &Config, view: &VolumeView) -> String {
    let (name, here, peer) = (&view.name, &config.this_node().name, &config.peer_node().name);
    let mut words = vec![format!("{here} is made the primary of {name} by force.")];
    match view.disk {
        DiskState::Outdated => words.push(format!(
            "Its copy is known to be older than that of {peer}: every write acknowledged since is lost."
        )),
        DiskState::Inconsistent => words.push(format!(
            "Its copy is the target of an unfinished resync, a mixture of two points in time: {} are not copied yet, \
             and a file system on it may be damaged.",
            show_size(view.dirty_bytes.max(view.resync.as_ref().map_or(0, |resync| resync.bytes_left)))
        )),
        DiskState::New => words.push("Its disk never held the volume's data: whatever it holds is served.".into()),
        DiskState::Diskless => words.push("It has no disk.".into()),
        DiskState::UpToDate => {}
    }
    match view.link {
        LinkState::Down | LinkState::Disconnected => words.push(format!(
            "{peer} can't be seen: if it still serves {name}, both go on alone, and the writes of one of them are lost \
             in the end (split brain)."
        )),
        LinkState::Refused => {
            words.push(format!("The writes that only {peer} has are lost once you resync from here."))
        }
        _ => {}
    }
    words.join(" ")
}

fn lost_by_choosing(config: &Config, view: &VolumeView, ours: bool) -> String {
    let (here, peer) = (&config.this_node().name, &config.peer_node().name);
    let (good, given_up) = if ours { (peer, here) } else { (here, peer) };
    let mut words = format!(
        "The copy of {} on {good} becomes the good one. Everything that was written on {given_up} and that {good} does \
         not have is lost to the volume{}.",
        view.name,
        if view.split.is_some() { format!(", and kept in an archive on {given_up}") } else { String::new() }
    );
    if ours && view.dirty_bytes > 0 {
        words.push_str(&format!(" That is up to {}.", show_size(view.dirty_bytes)));
    }
    words
}

/// The clients of a volume, in words.
pub fn clients_word(status: &VolumeStatus) -> String {
    match status.clients.len() {
        0 => "-".into(),
        n => n.to_string(),
    }
}
