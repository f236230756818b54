//! `group …`, `deactivate`, `activate`: the verbs of failover groups.

use super::exit::{Exit, Failure};
use super::group_status;
use super::session::Session;
use crate::runtime::config::Config;
use crate::runtime::config::group::GroupConfig;
use crate::runtime::control::message::{Ask, GroupVerb};
use clap::Subcommand;

/// What may be asked of a group.
#[derive(Subcommand, Clone, Debug, PartialEq)]
pub enum GroupCommand {
    /// Who owns it, who could take over, and what to do next.
    Status {
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// Start it on this node.
    Start {
        /// Name of the group; may be left out when there is only one.
        group: Option<String>,
        /// Although the other node may be serving, or hold newer data.
        #[arg(long)]
        force: bool,
    },
    /// Stop it, on both nodes.
    Stop {
        /// Name of the group.
        group: Option<String>,
    },
    /// Move it in order.
    Move {
        /// Name of the group.
        group: Option<String>,
        /// To this node. Default: to the other one.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
    },
    /// Return it to its home node in order.
    Fallback {
        /// Name of the group.
        group: Option<String>,
    },
    /// Leave the failed state: stop what is half done, and start anew.
    Recover {
        /// Name of the group.
        group: Option<String>,
    },
    /// Allow automatic changes of role, if the pair is fit for them.
    Enable {
        /// Name of the group.
        group: Option<String>,
    },
    /// Forbid automatic changes of role.
    Disable {
        /// Name of the group.
        group: Option<String>,
    },
}

/// Carries out a verb of `group`.
pub fn group(config: &Config, command: &GroupCommand) -> Result<Exit, Failure> {
    let (group, verb) = match command {
        GroupCommand::Status { json } => return group_status::status(config, *json),
        GroupCommand::Start { group, force } => (group, GroupVerb::Start { force: *force }),
        GroupCommand::Stop { group } => (group, GroupVerb::Stop),
        GroupCommand::Move { group, to } => (group, GroupVerb::Move { to: to.clone() }),
        GroupCommand::Fallback { group } => (group, GroupVerb::Fallback),
        GroupCommand::Recover { group } => (group, GroupVerb::Recover),
        GroupCommand::Enable { group } => (group, GroupVerb::Enable),
        GroupCommand::Disable { group } => (group, GroupVerb::Disable),
    };
    one(config, group.as_deref(), verb)
}

/// `deactivate` and `activate`: every group of this node.
pub fn every(config: &Config, verb: &GroupVerb) -> Result<Exit, Failure> {
    known(config, None)?;
    let mut worst = Exit::Done;
    for group in &config.groups {
        if !matches!(one(config, Some(&group.name), verb.clone())?, Exit::Done) {
            worst = Exit::Refused;
        }
    }
    Ok(worst)
}

fn one(config: &Config, name: Option<&str>, verb: GroupVerb) -> Result<Exit, Failure> {
    let group = known(config, name)?;
    let outcome = Session::open(config)?.outcome(Ask::Group { group: group.name.clone(), verb })?;
    match outcome {
        Ok(sentence) => {
            say!("{}: {sentence}", group.name);
            Ok(Exit::Done)
        }
        Err(refusal) => {
            Err(Failure::new(Exit::Refused, format!("refused ({}): {} {}", refusal.code, refusal.reason, refusal.next)))
        }
    }
}

pub(super) fn known<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c GroupConfig, Failure> {
    let names = || config.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, config.groups.as_slice()) {
        (_, []) => {
            Err(Failure::new(Exit::Usage, "the configuration has no group; describe one in a [[group]] section"))
        }
        (None, [only]) => Ok(only),
        (None, _) => Err(Failure::new(Exit::Usage, format!("which group? There are {}", names()))),
        (Some(name), groups) => groups.iter().find(|group| group.name == name).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("the configuration has no group \"{name}\"; there are {}", names()))
        }),
    }
}
