//! What comes in from the shards and from outside while the daemon runs, and its orderly end.

use super::reload::reload;
use super::{Daemon, Events, notify, remembered, volume::Volume};
use crate::base::limits::{EVENTS_STOP_TIME_MAX, SECOND_SIGNAL_AFTER};
use crate::logic::mirror::interface::Note;
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::config::Config;
use crate::runtime::config::settings::CommandLine;
use crate::runtime::events::{self as happenings, EventsSpec, HookSpec, Hooks, New, Severity};
use crate::runtime::shard::ShardEvent;
use crate::runtime::{notes, peer};
use std::rc::Rc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// The signals the daemon listens to.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From here on these signals don't end the process any more.
    pub fn new() -> Result<Signals, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("signals can't be listened to: {error}")))
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }
}

/// Starts what keeps and announces events.
pub fn start(config: &Config) -> Result<happenings::Events, Failure> {
    let spec = EventsSpec {
        node: config.this_node().name.clone(),
        cluster: config.cluster.clone(),
        state_dir: config.this_node().state_dir.clone(),
        hooks: hooks(config),
    };
    let events = happenings::Events::start(spec).map_err(|reason| Failure::new(Exit::Failed, reason))?;
    events.record(New::of_daemon(
        Severity::Info,
        format!("the daemon has started, version {}", env!("CARGO_PKG_VERSION")),
    ));
    Ok(events)
}

/// The programs a configuration wants to be told.
pub fn hooks(config: &Config) -> Hooks {
    let timeout = config.failover.hook_timeout;
    let hook = |line: &CommandLine| match line.0.as_slice() {
        [] => None,
        command => Some(HookSpec { command: command.to_vec(), timeout }),
    };
    let own = config.groups.iter().filter_map(|group| Some((group.name.clone(), hook(&group.settings.hook)?)));
    Hooks { all: hook(&config.failover.hook), groups: own.collect() }
}

/// Serves events until a signal or a broken shard ends the daemon, then stops every volume in order.
pub async fn until_stopped(daemon: &Rc<Daemon>, mut events: Events, mut signals: Signals) -> Result<Exit, Failure> {
    let broken = loop {
        tokio::select! {
            Some((name, event)) = events.recv() => {
                if let Some(broken) = on_event(daemon, &name, event) {
                    break Some(broken);
                }
            }
            _ = signals.terminate.recv() => break None,
            _ = signals.interrupt.recv() => break None,
            _ = signals.hang_up.recv() => reload_by_signal(daemon),
        }
    };
    notify::tell("STOPPING=1");
    let longest = daemon.running().daemon.stop_timeout;
    tracing::info!("stopping: flushing every volume, for at most {} s", longest.as_secs_f64());
    let deadline = Instant::now() + longest;
    let groups = async {
        if let Some(groups) = &daemon.groups {
            groups.stop().await;
        }
    };
    meanwhile(daemon, &mut events, &mut signals, deadline, groups).await;
    meanwhile(daemon, &mut events, &mut signals, deadline, leave_devices(daemon)).await;
    for volume in &daemon.volumes {
        volume.shard.stop();
    }
    let stopped = stop_in_order(daemon, &mut events, &mut signals, deadline).await;
    let severity = if stopped.is_ok() { Severity::Info } else { Severity::Error };
    daemon.happenings.record(New::of_daemon(severity, "the daemon has stopped"));
    daemon.happenings.flush(EVENTS_STOP_TIME_MAX).await;
    match (broken, stopped) {
        (Some(reason), _) => Err(Failure::new(Exit::Failed, reason)),
        (None, Ok(())) => {
            tracing::info!("stopped in order");
            Ok(Exit::Done)
        }
        (None, Err(reason)) => Err(Failure::new(Exit::Failed, reason)),
    }
}

/// Block devices that nobody uses are removed; the others wait for the next start.
async fn leave_devices(daemon: &Rc<Daemon>) {
    for device in daemon.volumes.iter().filter_map(|volume| volume.device.as_ref()) {
        device.leave().await;
    }
}

/// Does a part of the end while the volumes still serve. (The groups go first: each is handed over or stopped.)
async fn meanwhile(
    daemon: &Rc<Daemon>,
    events: &mut Events,
    signals: &mut Signals,
    deadline: Instant,
    part: impl Future<Output = ()>,
) {
    let mut part = std::pin::pin!(part);
    loop {
        tokio::select! {
            () = &mut part => return,
            Some((name, event)) = events.recv() => drop(on_event(daemon, &name, event)),
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = tokio::time::sleep_until(deadline) => return,
        }
    }
}

async fn stop_in_order(
    daemon: &Rc<Daemon>,
    events: &mut Events,
    signals: &mut Signals,
    deadline: Instant,
) -> Result<(), String> {
    let still_running = || -> Vec<&str> {
        let running = daemon.volumes.iter().filter(|volume| !volume.ended.get());
        running.map(|volume| volume.name.as_str()).collect()
    };
    let began = Instant::now();
    while !still_running().is_empty() {
        let again = tokio::select! {
            Some((name, event)) = events.recv() => {
                on_event(daemon, &name, event);
                false
            }
            _ = signals.terminate.recv() => true,
            _ = signals.interrupt.recv() => true,
            _ = tokio::time::sleep_until(deadline) => break,
        };
        // Some send the same signal to the process and to its group; one who is impatient sends it later.
        if again && began.elapsed() >= SECOND_SIGNAL_AFTER {
            break;
        }
    }
    match still_running() {
        running if running.is_empty() => Ok(()),
        running => Err(format!(
            "not stopped in order: {} did not end in time; nothing acknowledged is lost, and the next start resyncs \
             what was under way",
            running.join(", ")
        )),
    }
}

/// Handles one event. `Some` when the daemon can't go on, with what happened.
fn on_event(daemon: &Rc<Daemon>, name: &str, event: ShardEvent) -> Option<String> {
    let volume = daemon.volumes.iter().find(|volume| volume.name == name)?;
    match event {
        ShardEvent::LinkWanted { reconnect_now } => volume.link.want(reconnect_now),
        ShardEvent::ProbeWanted => probe(daemon, volume),
        ShardEvent::DiskClosed => {
            volume.disk_open.set(false);
            volume.disk_closed.notify_one();
        }
        ShardEvent::Facts(facts) => {
            if let (Some(groups), Some(group)) = (&daemon.groups, daemon.config.group_of(name)) {
                groups.facts(&group.name, name, facts);
            }
        }
        ShardEvent::OrderDone { id, result } => {
            if let (Some(groups), Some(group)) = (&daemon.groups, daemon.config.group_of(name)) {
                groups.order_done(&group.name, name, id, result);
            }
        }
        ShardEvent::Note(note) => {
            notes::log(name, &note);
            let group = daemon.config.group_of(name).map(|group| group.name.as_str());
            notes::event(name, group, &note).into_iter().for_each(|new| daemon.happenings.record(new));
            remember_apart(daemon, name, &note);
        }
        ShardEvent::Serving(serving) => {
            if let Some(device) = &volume.device {
                device.serving(serving);
            }
        }
        ShardEvent::DeviceEnded { opening } => {
            if let Some(device) = &volume.device {
                device.ended(opening);
            }
        }
        ShardEvent::Stopped => volume.ended.set(true),
        ShardEvent::Fatal(reason) => {
            volume.ended.set(true);
            tracing::error!(volume = name, "the volume's thread ended by a fault: {reason}");
            return Some(format!(
                "volume {name}: the thread ended by a fault: {reason}; start the daemon again, and report it"
            ));
        }
    }
    None
}

/// Since when the servers are apart is what an operator asks first who has to choose between two copies.
fn remember_apart(daemon: &Daemon, volume: &str, note: &Note) {
    let state_dir = &daemon.config.this_node().state_dir;
    let done = match note {
        Note::SessionEnded { .. } => remembered::set_apart(state_dir, volume),
        Note::Joined { .. } => remembered::clear_apart(state_dir, volume),
        _ => return,
    };
    if let Err(error) = done {
        tracing::warn!(volume, "since when the servers are apart can't be noted in {}: {error}", state_dir.display());
    }
}

fn probe(daemon: &Rc<Daemon>, volume: &Rc<Volume>) {
    let (daemon, volume) = (daemon.clone(), volume.clone());
    tokio::task::spawn_local(async move {
        let refused = peer::dial::peer_refuses(&daemon.local).await;
        tracing::debug!(volume = %volume.name, refused, "looked whether the peer's daemon runs");
        volume.shard.probed(refused);
    });
}

/// SIGHUP: as `reload`; there is only the log to say what came of it.
fn reload_by_signal(daemon: &Daemon) {
    match reload(daemon) {
        Ok(words) => words.lines().for_each(|line| tracing::info!("reload: {line}")),
        Err(refusal) => tracing::error!("reload: {refusal}"),
    }
}

/// Longest wait for a shard that should answer at once.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
