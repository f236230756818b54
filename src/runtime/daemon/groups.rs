//! The failover groups of the configuration, as the groups' thread takes them.

use super::volume::Volume;
use crate::logic::failover::interface::{Identity, ResourceSettings, Settings};
use crate::logic::mirror::interface;
use crate::runtime::arbiter::ArbiterSpec;
use crate::runtime::arbiter::stored::Owner;
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::config::Config;
use crate::runtime::config::failover::{ArbiterConfig, shared_spec};
use crate::runtime::config::group::{GroupConfig, Start};
use crate::runtime::config::settings::PINGS_PER_TIMEOUT;
use crate::runtime::events::Events;
use crate::runtime::fencing::agent::AgentSpec;
use crate::runtime::fencing::script::ScriptSpec;
use crate::runtime::fencing::{Fencing, FencingSpec, Names, Times};
use crate::runtime::group::{GroupChange, GroupSpec, Groups, GroupsSpec, Outgoing, ProbeSpec};
use crate::runtime::heartbeat::{HeartbeatSpec, PathSpec};
use crate::runtime::resource::{Context, DiskOutcome, Place, Reason, address};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest time one read of a server's power may take.
const POWER_STATUS_TIME: Duration = Duration::from_secs(5);

/// Starts the groups, if there are any.
pub fn start(
    config: &Config,
    volumes: &[Rc<Volume>],
    identity: interface::Identity,
    seed: u64,
    events: Events,
    files: mpsc::Sender<Outgoing>,
) -> Result<Option<Groups>, Failure> {
    if config.groups.is_empty() {
        return Ok(None);
    }
    let identity = Identity { incarnation: identity.incarnation, boot: identity.boot, seed };
    let groups = config.groups.iter().map(|group| describe(config, group, volumes, identity)).collect();
    let secret = config.secret.clone().expect("a daemon reads the secret");
    let spec = GroupsSpec {
        groups,
        identity,
        node: config.node,
        state_dir: config.this_node().state_dir.clone(),
        events,
        files,
        heartbeats: HeartbeatSpec {
            cluster: config.cluster.clone(),
            secret,
            node: config.node,
            names: [config.nodes[0].name.clone(), config.nodes[1].name.clone()],
            incarnation: identity.incarnation,
            groups: config.groups.iter().map(|group| group.name.clone()).collect(),
            paths: paths(config),
        },
    };
    Groups::start(spec).map(Some).map_err(|reason| Failure::new(Exit::Failed, reason))
}

/// The heartbeat's paths: the addresses of both nodes, in the order of the file.
fn paths(config: &Config) -> Vec<PathSpec> {
    let pairs = config.this_node().heartbeat.iter().zip(&config.peer_node().heartbeat);
    pairs.map(|(local, peer)| PathSpec { name: format!("{local} to {peer}"), local: *local, peer: *peer }).collect()
}

fn describe(config: &Config, group: &GroupConfig, volumes: &[Rc<Volume>], identity: Identity) -> GroupSpec {
    let own = volumes.iter().filter(|volume| group.volumes.contains(&volume.name));
    GroupSpec {
        settings: settings(config, group),
        volumes: own.map(|volume| (volume.name.clone(), volume.shard.clone())).collect(),
        resources: group.resources.clone(),
        arbiter: config.arbiter.as_ref().filter(|_| config.failover.mode.has_arbiter()).map(|arbiter| {
            let owner = Owner {
                cluster: config.cluster.clone(),
                group: group.name.clone(),
                nodes: [config.nodes[0].name.clone(), config.nodes[1].name.clone()],
            };
            match arbiter {
                ArbiterConfig::Etcd { spec, timeout } => (ArbiterSpec::Etcd(spec.clone()), owner, *timeout),
                ArbiterConfig::File { directory, timeout } => {
                    let spec = shared_spec(directory.clone(), config.node, identity.incarnation);
                    (ArbiterSpec::Shared(spec), owner, *timeout)
                }
            }
        }),
        fencing: fencing(config),
        probe: probe(config, group),
        context: context(config, group),
    }
}

/// Removes the floating addresses that a daemon which was killed left here. Nobody may find this server by them before it is
/// known who owns the group.
pub async fn remove_left_behind(config: &Config) {
    let floating: Vec<_> = config.groups.iter().flat_map(GroupConfig::addresses).collect();
    if floating.is_empty() {
        return;
    }
    match address::remove_left_behind(&floating).await {
        Ok(removed) => {
            for own in removed {
                tracing::warn!(
                    "the floating address {}, which an earlier daemon left behind, was removed",
                    own.address
                );
            }
        }
        Err(error) => tracing::error!(
            "floating addresses that an earlier daemon may have left behind can't be looked for: {error}; look with \
             `ip address show`, and remove them by hand if the other server serves"
        ),
    }
}

/// What a group at work takes over of a configuration.
pub fn changed(config: &Config, group: &GroupConfig) -> GroupChange {
    let arbiter = config.arbiter.as_ref().map(|arbiter| match arbiter {
        ArbiterConfig::Etcd { timeout, .. } | ArbiterConfig::File { timeout, .. } => *timeout,
    });
    GroupChange {
        settings: settings(config, group),
        resources: group.resources.clone(),
        arbiter_timeout: arbiter,
        fencing: fencing(config),
        probe: probe(config, group),
    }
}

/// Who is asked in the mode that goes by pings alone.
fn probe(config: &Config, group: &GroupConfig) -> ProbeSpec {
    let peer = config.peer_node();
    let mut addresses: Vec<IpAddr> = peer.heartbeat.iter().chain(&peer.mirror).map(SocketAddr::ip).collect();
    addresses.sort();
    addresses.dedup();
    ProbeSpec {
        targets: config.failover.ping.0.clone(),
        peer: addresses,
        floating: group.addresses().collect(),
        wait: config.failover.probe_wait,
    }
}

/// Whether the peer could be switched off as configured, as far as can be said without doing it.
pub fn check_fencing(config: &Config) -> Result<(), String> {
    let Some((spec, names, times)) = fencing(config) else { return Ok(()) };
    Fencing::new(spec, names, times).map(drop)
}

/// How the peer is switched off.
fn fencing(config: &Config) -> Option<(FencingSpec, Names, Times)> {
    let device = config.fencing[usize::from(config.node.peer().0)].as_ref()?;
    if !config.failover.mode.has_fencing() {
        return None;
    }
    let spec = if device.is_agent {
        FencingSpec::Agent(AgentSpec {
            file: device.program.clone(),
            options: device.options.clone(),
            secrets: device.secret_options.clone(),
        })
    } else {
        FencingSpec::Script(ScriptSpec { file: device.program.clone() })
    };
    let names = Names {
        cluster: config.cluster.clone(),
        victim: config.peer_node().name.clone(),
        by: config.this_node().name.clone(),
    };
    let times = Times { deadline: device.timeout, status: POWER_STATUS_TIME.min(device.timeout) };
    Some((spec, names, times))
}

fn context(config: &Config, group: &GroupConfig) -> Context {
    let state_dir = &config.this_node().state_dir;
    Context {
        cluster: config.cluster.clone(),
        group: group.name.clone(),
        node: config.this_node().name.clone(),
        state_dir: state_dir.canonicalize().unwrap_or_else(|_| state_dir.clone()),
        peer: config.peer_node().name.clone(),
        reason: Reason::Start,
        place: if group.home == config.node { Place::Home } else { Place::Other },
        disk: DiskOutcome::Success,
        volumes: group.volumes.clone(),
        addresses: group.addresses().collect(),
    }
}

fn settings(config: &Config, group: &GroupConfig) -> Settings {
    let failover = &config.failover;
    let resources = group.resources.iter().map(|resource| ResourceSettings {
        name: resource.name.clone(),
        needs: resource.needs.clone(),
        critical: resource.times.critical,
        skip: resource.skip,
        start_timeout: resource.times.start_timeout,
        stop_timeout: resource.times.stop_timeout,
    });
    Settings {
        group: group.name.clone(),
        node: config.node,
        home: group.home,
        node_names: [config.nodes[0].name.clone(), config.nodes[1].name.clone()],
        mode: failover.mode,
        paths: paths(config).into_iter().map(|path| path.name).collect(),
        heartbeat_interval: failover.heartbeat_interval,
        suspect_after: failover.suspect_after,
        dead_after: failover.dead_after,
        link_silence: failover.dead_after.max(longest_ping(config, group) * PINGS_PER_TIMEOUT),
        init_dead_after: failover.init_dead_after,
        clock_rate_per_mille: failover.clock_rate_per_mille,
        permit_margin: failover.permit_margin,
        arbiter_interval: failover.arbiter_interval,
        retry_interval: failover.retry_interval,
        fence_delay: failover.fence_delay,
        quiet_time: failover.quiet_time,
        unclean_takeover: failover.unclean_takeover,
        peer_wait: failover.peer_wait,
        fallback_after: group.settings.fallback.0,
        flap_guard: failover.flap_guard,
        critical_delay_storage: failover.critical_delay_storage,
        critical_delay_service: failover.critical_delay_service,
        stall_after: failover.stall_after,
        mirror_timeout: failover.mirror_timeout,
        handover_timeout: failover.handover_timeout,
        auto_start: group.settings.start == Start::Auto,
        resources: resources.collect(),
        config: config.digest,
        version: version(),
    }
}

/// The longest time between two pings on any of the group's links.
fn longest_ping(config: &Config, group: &GroupConfig) -> Duration {
    let volumes = config.volumes.iter().filter(|volume| group.volumes.contains(&volume.name));
    volumes.map(|volume| volume.settings.ping_interval).max().unwrap_or_default()
}

/// Version of this software.
pub fn version() -> [u16; 3] {
    let number = |text: &str| text.parse().expect("the package's version is three numbers");
    [
        number(env!("CARGO_PKG_VERSION_MAJOR")),
        number(env!("CARGO_PKG_VERSION_MINOR")),
        number(env!("CARGO_PKG_VERSION_PATCH")),
    ]
}
