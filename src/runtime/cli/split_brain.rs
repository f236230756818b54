//! `split-brain`: what two servers have that both went on alone, and giving up one of the copies.

use super::confirm::confirm;
use super::exit::{Exit, Failure};
use super::follow;
use super::session::{Session, known_volume, refused, report};
use crate::base::command::{Command, Refusal};
use crate::base::state::Role;
use crate::base::view::{SplitSide, SplitView, VolumeView};
use crate::io::archive::catalogue::show_moment;
use crate::runtime::config::Config;
use crate::runtime::config::units::show_size;
use crate::runtime::control::message::VolumeStatus;
use clap::Subcommand;
use std::time::{Duration, Instant};

/// Longest wait for a node that was demoted to meet its peer again.
const MEET_TIME_MAX: Duration = Duration::from_secs(5);
/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What to do about a split brain.
#[derive(Debug, Subcommand)]
pub enum SplitBrainCommand {
    /// What each server has that the other lacks, since when, and what either choice keeps and loses.
    Show {
        /// Name of the volume; left out: all of them.
        volume: Option<String>,
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// Give up one server's copy: what only it has is archived there, then overwritten from the other.
    Resolve {
        /// Name of the volume.
        volume: String,
        /// The node whose copy is given up.
        #[arg(long, value_name = "NODE")]
        discard: String,
        /// Archive nothing: what only that node has is lost for good. Run it on that node.
        #[arg(long)]
        no_archive: bool,
        /// Follow the resync to its end.
        #[arg(long)]
        wait: bool,
    },
}

/// Carries it out.
pub fn split_brain(config: &Config, command: &SplitBrainCommand, yes: bool) -> Result<Exit, Failure> {
    match command {
        SplitBrainCommand::Show { volume, json } => show(config, volume.as_deref(), *json),
        SplitBrainCommand::Resolve { volume, discard, no_archive, wait } => {
            let resolve = Resolve { volume, discard, archive: !no_archive, wait: *wait };
            resolve.run(config, yes)
        }
    }
}

fn show(config: &Config, volume: Option<&str>, json: bool) -> Result<Exit, Failure> {
    if let Some(name) = volume {
        known_volume(config, name)?;
    }
    let status = Session::open(config)?.status()?;
    let wanted = |one: &&VolumeStatus| volume.is_none_or(|name| one.view.name == name);
    let volumes: Vec<&VolumeStatus> = status.volumes.iter().filter(wanted).collect();
    if json {
        let list: Vec<serde_json::Value> = volumes.iter().map(|one| as_json(config, one)).collect();
        say!("{}", serde_json::Value::Array(list));
        return Ok(Exit::Done);
    }
    for one in volumes {
        match &one.view.split {
            None => say!("{}: no split brain ({})", one.view.name, why_none(&one.view)),
            Some(split) => show_one(config, one, split),
        }
    }
    Ok(Exit::Done)
}

/// What is so instead.
fn why_none(view: &VolumeView) -> String {
    match &view.link_reason {
        Some(reason) => format!("the link is {}: {reason}", view.link),
        None => format!("the link is {}", view.link),
    }
}

fn show_one(config: &Config, status: &VolumeStatus, split: &SplitView) {
    let (name, here, peer) = (&status.view.name, &config.this_node().name, &config.peer_node().name);
    say!("{name}: {here} and {peer} both have what the other lacks; nothing is copied until one copy is given up");
    if let Some(reason) =
        status.view.link_reason.as_ref().filter(|_| status.view.rule.as_deref() != Some("split-brain"))
    {
        say!("  {reason}");
    }
    match status.apart_since {
        Some(since) => say!("  apart since {} (as {here} saw it)", show_moment(since)),
        None => say!("  since when they are apart is not known on {here}; ask on {peer}"),
    }
    say!("  {:<16} {:<10} {:<13} {:<24} changed by itself", "", "role", "disk", "generation");
    for (node, side) in [(here, &split.ours), (peer, &split.theirs)] {
        let (role, disk) = (side.role.to_string(), side.disk.to_string());
        say!("  {node:<16} {role:<10} {disk:<13} {:<24} {}", side.generation, changed(side));
    }
    for (kept, lost, side) in [(here, peer, &split.theirs), (peer, here, &split.ours)] {
        say!(
            "  keep {kept}: `split-brain resolve {name} --discard {lost}` archives on {lost} what only {lost} has ({})",
            changed(side)
        );
    }
    say!("  recommended: {}", recommendation(config, name, split));
}

fn changed(side: &SplitSide) -> String {
    match side.changed_bytes {
        Some(0) => "nothing".into(),
        Some(bytes) => format!("at most {}", show_size(bytes)),
        None => "not known".into(),
    }
}

/// What is probably right; it is the operator who knows.
fn recommendation(config: &Config, name: &str, split: &SplitView) -> String {
    let (here, peer) = (&config.this_node().name, &config.peer_node().name);
    let give_up = |node: &str| format!("`split-brain resolve {name} --discard {node}`");
    match (split.ours.changed_bytes, split.theirs.changed_bytes) {
        (Some(0), Some(theirs)) if theirs > 0 => return format!("{here} changed nothing: {}", give_up(here)),
        (Some(ours), Some(0)) if ours > 0 => return format!("{peer} changed nothing: {}", give_up(peer)),
        _ => {}
    }
    match (split.ours.role, split.theirs.role) {
        (Role::Primary, Role::Secondary) => {
            format!(
                "{here} serves, so its clients go on undisturbed: {}; look into the archive afterwards",
                give_up(peer)
            )
        }
        (Role::Secondary, Role::Primary) => {
            format!(
                "{peer} serves, so its clients go on undisturbed: {}; look into the archive afterwards",
                give_up(here)
            )
        }
        _ => format!(
            "look at both first; give up the one with less of worth (neither choice is final while its archive is kept), \
             after `demote {name}` there"
        ),
    }
}

fn as_json(config: &Config, status: &VolumeStatus) -> serde_json::Value {
    let view = &status.view;
    let Some(split) = &view.split else {
        return serde_json::json!({ "volume": view.name, "split_brain": false, "link": view.link });
    };
    let (here, peer) = (&config.this_node().name, &config.peer_node().name);
    serde_json::json!({
        "volume": view.name,
        "split_brain": true,
        "rule": view.rule,
        "reason": view.link_reason,
        "apart_since": status.apart_since,
        "sides": { here: split.ours, peer: split.theirs },
        "recommended": recommendation(config, &view.name, split),
    })
}

/// Giving up a copy.
struct Resolve<'a> {
    volume: &'a str,
    discard: &'a str,
    archive: bool,
    wait: bool,
}

impl Resolve<'_> {
    fn run(&self, config: &Config, yes: bool) -> Result<Exit, Failure> {
        let name = self.volume;
        known_volume(config, name)?;
        let (here, peer) = (&config.this_node().name, &config.peer_node().name);
        if self.discard != here && self.discard != peer {
            let message = format!("there is no node {}; --discard is {here} or {peer}", self.discard);
            return Err(Failure::new(Exit::Usage, message));
        }
        let ours = self.discard == here;
        let mut session = Session::open(config)?;
        let before = session.volume(name)?.view;
        let Some(split) = &before.split else {
            return Err(refused(&Refusal::new(
                "no-split",
                format!("{name} has no split brain now: {}.", why_none(&before)),
                format!("To give up a copy all the same: `resync {name} --source NODE`."),
            )));
        };
        if !ours {
            self.check_remote(config, split)?;
        }
        confirm(&self.what_is_lost(config, if ours { &split.ours } else { &split.theirs }), yes)?;
        if ours && before.role == Role::Primary {
            self.demote(config, &mut session)?;
        }
        let command = match ours {
            true => Command::GiveUp { archive: self.archive },
            false => Command::Resync { full: false, compare: false, discard_ours: Some(false) },
        };
        let outcome = session.command(name, command)?;
        if self.wait && outcome.is_ok() { follow::resync(&mut session, &before) } else { report(config, name, outcome) }
    }

    /// What can't be done from here.
    fn check_remote(&self, config: &Config, split: &SplitView) -> Result<(), Failure> {
        let (name, peer) = (self.volume, &config.peer_node().name);
        let there = |rest: &str| format!("Run it on {peer}: `split-brain resolve {name} --discard {peer}{rest}`.");
        if split.theirs.role == Role::Primary {
            let reason =
                format!("{peer} is primary of {name}, and only its own daemon knows whether clients are connected.");
            return Err(refused(&Refusal::new("peer-is-primary", reason, there(""))));
        }
        if !self.archive {
            let reason = format!("Giving up the copy on {peer} for good is decided on {peer} alone.");
            return Err(refused(&Refusal::new("not-from-here", reason, there(" --no-archive"))));
        }
        Ok(())
    }

    /// A primary whose copy is given up serves no more; refused while clients are connected.
    fn demote(&self, config: &Config, session: &mut Session<'_>) -> Result<(), Failure> {
        let name = self.volume;
        if let Some(group) = config.group_of(name) {
            let reason = format!("{name} is served here by the group {}.", group.name);
            let (name, peer) = (&group.name, &config.peer_node().name);
            let next = format!(
                "Stop it first, which stops it on both servers: `group stop {name}`; repeat this; then `group start {name}` \
                 on {peer}."
            );
            return Err(refused(&Refusal::new("group", reason, next)));
        }
        session.command(name, Command::Demote { force: false })?.map_err(|refusal| refused(&refusal))?;
        // The two meet again as what they are now.
        let deadline = Instant::now() + MEET_TIME_MAX;
        while session.volume(name)?.view.split.is_none() && Instant::now() < deadline {
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    fn what_is_lost(&self, config: &Config, side: &SplitSide) -> String {
        let (name, node) = (self.volume, self.discard);
        let winner = [config.this_node(), config.peer_node()].into_iter().find(|other| other.name != node);
        let winner = winner.map_or("the other server", |winner| winner.name.as_str());
        let what = match side.changed_bytes {
            Some(bytes) => format!("What only {node} has of {name} (at most {})", show_size(bytes)),
            None => format!("What only {node} has of {name} (nobody knows how much)"),
        };
        let kept = match self.archive {
            true => {
                format!("is archived on {node}, then the copy of {winner} takes its place: see `archive list` there.")
            }
            false => format!("is lost for good: the copy of {winner} takes its place, and nothing is archived."),
        };
        format!("{what} {kept}")
    }
}
