//! What the control socket is asked, answered by the volumes.

use super::events::ANSWER_TIME_MAX;
use super::{Daemon, compare, reload, remembered, replace, volume::Volume};
use crate::base::command::{Command, CommandOutcome, Refusal};
use crate::base::ids::NodeId;
use crate::base::latency::VolumeLatency;
use crate::base::limits::{EVENTS_SHOWN_MAX, EVENTS_WAIT_MAX};
use crate::base::state::LinkState;
use crate::logic::failover::interface::Verb;
use crate::runtime::control::message::{Answer, Ask, DIRTY_RANGES_MAX, GroupVerb, NodeStatus, VolumeStatus};
use crate::runtime::device::{Keeper, User, in_words, users_of};
use crate::runtime::group::Groups;
use crate::runtime::shard::ShardView;
use std::path::PathBuf;
use std::rc::Rc;
use tokio::time::timeout;

/// Answers one request.
pub async fn answer(daemon: &Rc<Daemon>, ask: Ask) -> Answer {
    let result = match ask {
        Ask::Status => match status(daemon).await {
            Ok(status) => return Answer::Status { status },
            Err(refusal) => Err(refusal),
        },
        Ask::Latency => match latency(daemon).await {
            Ok(volumes) => return Answer::Latency { volumes },
            Err(refusal) => Err(refusal),
        },
        Ask::Dirty { volume, ranges_max } => match dirty(daemon, &volume, ranges_max).await {
            Ok(answer) => return answer,
            Err(refusal) => Err(refusal),
        },
        Ask::Reload => reload::reload(daemon),
        Ask::Compare => return Answer::Compared { compared: as_json(&compare::look(daemon).await) },
        Ask::Groups => return Answer::Groups { groups: groups(daemon).await },
        Ask::Events { group, after, most, wait } => {
            return happened(daemon, group.as_deref(), after, most.min(EVENTS_SHOWN_MAX), wait).await;
        }
        Ask::Explain { group } => match known_group(daemon, &group) {
            Ok(groups) => match groups.explain(&group).await {
                Some(explanation) => return Answer::Explained { explanation: as_json(&explanation) },
                None => Err(Refusal::new("stopping", "The group has stopped with its daemon.", "Start it again.")),
            },
            Err(refusal) => Err(refusal),
        },
        Ask::Group { group, verb } => match group_verb(daemon, &group, verb).await {
            Ok(result) => return Answer::Outcome { result },
            Err(refusal) => Err(refusal),
        },
        Ask::Command { volume, command } => match find(daemon, &volume) {
            Ok(volume) => match by_hand(daemon, &volume, &command) {
                None => return Answer::Outcome { result: volume.shard.command(command).await },
                Some(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        },
        Ask::Attach { volume } => match find(daemon, &volume) {
            Ok(volume) => replace::attach(daemon, &volume).await,
            Err(refusal) => Err(refusal),
        },
        Ask::ReplaceDisk { volume, disk } => match find(daemon, &volume) {
            Ok(volume) => replace::replace(daemon, &volume, disk).await,
            Err(refusal) => Err(refusal),
        },
        Ask::Connect { volume } => find(daemon, &volume).and_then(|volume| set_disconnected(daemon, &volume, false)),
        Ask::Disconnect { volume } => find(daemon, &volume).and_then(|volume| set_disconnected(daemon, &volume, true)),
    };
    let result = match result {
        Ok(sentence) => CommandOutcome::Done(sentence),
        Err(refusal) => CommandOutcome::Refused(refusal),
    };
    Answer::Outcome { result }
}

/// The view of a volume's shard, in bounded time.
pub async fn view(volume: &Volume) -> Result<ShardView, Refusal> {
    timeout(ANSWER_TIME_MAX, volume.shard.view()).await.map_err(|_| stuck(volume))
}

fn stuck(volume: &Volume) -> Refusal {
    Refusal::new(
        "stuck",
        format!("The thread of volume {} does not answer.", volume.name),
        "Look at the log and at the state of its disk.",
    )
}

fn find(daemon: &Daemon, name: &str) -> Result<Rc<Volume>, Refusal> {
    daemon.volumes.iter().find(|volume| volume.name == name).cloned().ok_or_else(|| {
        Refusal::new(
            "unknown-volume",
            format!("The running daemon knows no volume {name:?}."),
            "If the configuration names it, restart the daemon.",
        )
    })
}

async fn status(daemon: &Daemon) -> Result<serde_json::Value, Refusal> {
    let mut volumes = Vec::new();
    for volume in &daemon.volumes {
        let ShardView { volume: mut view, clients } = view(volume).await?;
        // What keeps the link from coming up is known here, not in the core.
        if matches!(view.link, LinkState::Down | LinkState::Disconnected) {
            view.link_reason = volume.link.trouble().or(view.link_reason);
        }
        let place = volume.place.borrow();
        volumes.push(VolumeStatus {
            view,
            clients: clients.iter().map(as_json).collect(),
            disk_path: place.disk.clone(),
            nbd: place.nbd.iter().map(ToString::to_string).collect(),
            apart_since: remembered::apart_since(&daemon.config.this_node().state_dir, &volume.name),
            device: volume.device.as_ref().map(Keeper::view),
        });
    }
    Ok(as_json(&NodeStatus {
        node: daemon.config.this_node().name.clone(),
        peer: daemon.config.peer_node().name.clone(),
        cluster: daemon.config.cluster.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        volumes,
    }))
}

/// Where the time of requests went, volume by volume.
async fn latency(daemon: &Daemon) -> Result<serde_json::Value, Refusal> {
    let mut volumes = Vec::new();
    for volume in &daemon.volumes {
        let asked = timeout(ANSWER_TIME_MAX, volume.shard.latency()).await;
        let stages = asked.map_err(|_| stuck(volume))?;
        volumes.push(VolumeLatency { volume: volume.name.clone(), stages });
    }
    Ok(as_json(&volumes))
}

/// Why a role is not changed by hand: a group decides.
fn by_hand(daemon: &Daemon, volume: &Volume, command: &Command) -> Option<Refusal> {
    let Some(group) = daemon.config.group_of(&volume.name) else {
        return (*command == Command::Demote { force: false }).then(|| in_use(volume)).flatten();
    };
    let volume = &volume.name;
    let (what, next) = match command {
        Command::Promote { .. } => ("promoted", format!("Move it: twinblock group move {}.", group.name)),
        Command::Demote { .. } => ("demoted", format!("Move or stop it: twinblock group move {}.", group.name)),
        _ => return None,
    };
    let reason = format!("{volume} is not {what} by hand: it belongs to the group {}, which moves as one.", group.name);
    Some(Refusal::new("in-group", reason, next))
}

/// Why a volume is not demoted: its block device is in use.
fn in_use(volume: &Volume) -> Option<Refusal> {
    let device = volume.device.as_ref()?.view().device?;
    let users = users_of(&device);
    if users.is_empty() {
        return None;
    }
    Some(Refusal::new(
        "device-in-use",
        format!("{} stays primary: {} is {}.", volume.name, device.display(), in_words(&users)),
        "Unmount or close it first, or use --force: its users then get errors.",
    ))
}

async fn groups(daemon: &Daemon) -> serde_json::Value {
    let mut list = Vec::new();
    if let Some(groups) = &daemon.groups {
        for group in &daemon.config.groups {
            let Some(mut status) = groups.status(&group.name).await else { continue };
            status.notices.extend(compare::notices(daemon));
            list.push(as_json(&status));
        }
    }
    serde_json::Value::Array(list)
}

async fn happened(daemon: &Daemon, group: Option<&str>, after: Option<u64>, most: usize, wait: bool) -> Answer {
    let mut shown = daemon.happenings.show(group, after, most);
    if wait && shown.events.is_empty() {
        daemon.happenings.wait(shown.after, EVENTS_WAIT_MAX).await;
        shown = daemon.happenings.show(group, Some(shown.after), most);
    }
    Answer::Events { events: shown.events.iter().map(as_json).collect(), after: shown.after }
}

fn known_group<'d>(daemon: &'d Daemon, group: &str) -> Result<&'d Groups, Refusal> {
    let known = daemon.config.groups.iter().any(|known| known.name == group);
    daemon.groups.as_ref().filter(|_| known).ok_or_else(|| {
        Refusal::new(
            "unknown-group",
            format!("The running daemon knows no group {group:?}."),
            "If the configuration names it, restart the daemon.",
        )
    })
}

/// Why a group can't leave this node in order: a block device of it is held by something that none of its resources ends.
/// (Processes are not counted: its services may have it open.)
fn held(daemon: &Daemon, group: &str) -> Option<Refusal> {
    let config = daemon.config.groups.iter().find(|known| known.name == group)?;
    let is_ours = |at: &PathBuf| config.resources.iter().any(|resource| resource.what.mount_point() == Some(at));
    daemon.volumes.iter().filter(|volume| config.volumes.contains(&volume.name)).find_map(|volume| {
        let device = volume.device.as_ref()?.view().device?;
        let mut users = users_of(&device);
        users.retain(|user| match user {
            User::Mounted(at) => !is_ours(at),
            User::Under(_) | User::Swap => true,
            User::Open(_) => false,
        });
        let reason =
            format!("{group} stays: {}, its volume {}, is {}.", device.display(), volume.name, in_words(&users));
        let next =
            "Unmount or close it first (`umount --lazy` cuts its users off), or make it a resource of the group.";
        (!users.is_empty()).then(|| Refusal::new("device-in-use", reason, next))
    })
}

async fn group_verb(daemon: &Daemon, group: &str, verb: GroupVerb) -> Result<CommandOutcome, Refusal> {
    let groups = known_group(daemon, group)?;
    if matches!(verb, GroupVerb::Stop | GroupVerb::Move { .. } | GroupVerb::Fallback)
        && let Some(refusal) = held(daemon, group)
    {
        return Err(refusal);
    }
    let verb = match verb {
        GroupVerb::Start { force } => Verb::Start { force },
        GroupVerb::Stop => Verb::StopGroup,
        GroupVerb::Move { to: None } => Verb::Move { to: None },
        GroupVerb::Move { to: Some(name) } => {
            let index = daemon.config.nodes.iter().position(|node| node.name == name).ok_or_else(|| {
                let names = format!("Name {} or {}.", daemon.config.nodes[0].name, daemon.config.nodes[1].name);
                Refusal::new("unknown-node", format!("There is no node {name:?}."), names)
            })?;
            Verb::Move { to: Some(NodeId(index as u8)) }
        }
        GroupVerb::Fallback => Verb::Fallback,
        GroupVerb::Recover => Verb::Recover,
        GroupVerb::Enable => Verb::Enable,
        GroupVerb::Disable => Verb::Disable,
        GroupVerb::Deactivate => Verb::Deactivate,
        GroupVerb::Activate => Verb::Activate,
    };
    let outcome = groups.command(group, verb).await;
    Ok(match outcome {
        CommandOutcome::Refused(refusal) if verb == Verb::Enable && ["version", "config"].contains(&&*refusal.code) => {
            CommandOutcome::Refused(compare::named(&compare::look(daemon).await, refusal))
        }
        other => other,
    })
}

async fn dirty(daemon: &Daemon, volume: &str, ranges_max: usize) -> Result<Answer, Refusal> {
    let volume = find(daemon, volume)?;
    let most = ranges_max.min(DIRTY_RANGES_MAX);
    // One more than asked for tells whether there is more.
    let asked = timeout(ANSWER_TIME_MAX, volume.shard.dirty(most + 1)).await;
    let mut ranges =
        asked.map_err(|_| Refusal::new("stuck", "The volume's thread does not answer.", "See the log."))?;
    let truncated = ranges.len() > most;
    ranges.truncate(most);
    Ok(Answer::Dirty { ranges, truncated })
}

fn set_disconnected(daemon: &Daemon, volume: &Volume, disconnected: bool) -> Result<String, Refusal> {
    let (name, state_dir) = (&volume.name, &daemon.config.this_node().state_dir);
    remembered::set_disconnected(state_dir, name, disconnected).map_err(|error| {
        Refusal::new(
            "not-remembered",
            format!("Nothing was changed: it can't be remembered in {}: {error}.", state_dir.display()),
            "Make room there, or correct its permissions.",
        )
    })?;
    volume.set_disconnected(disconnected);
    Ok(match disconnected {
        true => format!(
            "disconnected from the peer until `connect {name}`, restarts of the daemon included; what is written \
             meanwhile is resynced then"
        ),
        false => "connecting to the peer".into(),
    })
}

fn as_json<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).expect("status has no type that JSON can't hold")
}
