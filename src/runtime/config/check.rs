//! Checks across sections: names and addresses that must differ.

use super::address::NbdAddress;
use super::document::Document;
use super::group::GroupConfig;
use super::read::{Address, Placed};
use super::{NodeConfig, VolumeConfig};
use crate::base::group::FailoverMode;
use crate::base::state::SplitBrain;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Reports nodes of the same name, and an address of the link or heartbeat that is used twice.
pub fn nodes(document: &Document<'_>, nodes: &[Placed<NodeConfig>]) {
    let mut seen = HashMap::new();
    for node in nodes {
        let name = &node.value.name;
        if let Some(line) = seen.insert(name.clone(), document.line(node.span.start)) {
            let reason = format!("the node {name:?} is described twice, first in line {line}");
            document.problem(Some(node.span.clone()), "node.name", reason, "give each node a name of its own");
        }
    }
    let mut seen: HashMap<SocketAddr, (String, usize)> = HashMap::new();
    for (key, span, address) in nodes.iter().flat_map(|node| &node.addresses) {
        let Address::Peer(socket) = address else { continue };
        let line = document.line(span.start);
        if let Some((other, other_line)) = seen.insert(*socket, (key.clone(), line)) {
            let reason = format!("the address {socket} is also in {other} (line {other_line})");
            let next = "give each server, and each use on a server, an address and port of its own";
            document.problem(Some(span.clone()), key, reason, next);
        }
    }
}

/// Reports volumes of the same name, and disks, metadata or sockets that are used twice on one node.
pub fn volumes(document: &Document<'_>, nodes: &[Placed<NodeConfig>], volumes: &[Placed<VolumeConfig>]) {
    let mut seen = HashMap::new();
    for volume in volumes {
        let name = &volume.value.name;
        if let Some(line) = seen.insert(name.clone(), document.line(volume.span.start)) {
            let reason = format!("the volume {name:?} is described twice, first in line {line}");
            document.problem(Some(volume.span.clone()), "volume.name", reason, "give each volume a name of its own");
        }
    }
    for (index, node) in nodes.iter().enumerate().take(2) {
        paths(document, index, &node.value, volumes);
    }
}

/// Every path of one node has one use.
fn paths(document: &Document<'_>, index: usize, node: &NodeConfig, volumes: &[Placed<VolumeConfig>]) {
    let mut seen: HashMap<PathBuf, String> = HashMap::new();
    seen.insert(node.control.clone(), format!("node.{}.control", node.name));
    for volume in volumes {
        let place = &volume.value.on[index];
        let prefix = format!("volume.{}.on.{}", volume.value.name, node.name);
        let mut uses = vec![("disk", place.disk.clone())];
        uses.extend(place.metadata.clone().map(|path| ("metadata", path)));
        for address in &place.nbd {
            if let NbdAddress::Unix(path) = address {
                uses.push(("nbd", path.clone()));
            }
        }
        for (key, path) in uses {
            let key = format!("{prefix}.{key}");
            if let Some(other) = seen.insert(path.clone(), key.clone()) {
                let reason = format!("{} is also used by {other}", path.display());
                document.problem(Some(volume.span.clone()), &key, reason, "give each use a path of its own");
            }
        }
    }
}

/// A split brain is settled by the arbiter's record only where there is one.
pub fn split_brains(
    document: &Document<'_>,
    volumes: &[Placed<VolumeConfig>],
    groups: &[Placed<GroupConfig>],
    mode: FailoverMode,
) {
    for volume in volumes.iter().filter(|v| v.value.settings.split_brain == SplitBrain::PreferArbiterPrimary) {
        let name = &volume.value.name;
        let in_group = groups.iter().any(|group| group.value.volumes.contains(name));
        if !in_group || !mode.has_arbiter() {
            let reason = "no arbiter knows which server owns this volume".to_string();
            let next = "put it into a [[group]] in a `mode` with an arbiter, or choose another policy";
            document.problem(Some(volume.span.clone()), &format!("volume.{name}.split_brain"), reason, next);
        }
    }
}

/// Every TCP port has one use on one node. A server's own address is not served by the other; a floating one is, by the
/// volumes of its group alone. Returns what is allowed but unwise.
pub fn nbd(
    document: &Document<'_>,
    nodes: &[Placed<NodeConfig>],
    volumes: &[Placed<VolumeConfig>],
    groups: &[Placed<GroupConfig>],
) -> Vec<String> {
    let mut seen: HashMap<(usize, SocketAddr), (String, usize)> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for (key, span, address) in &node.addresses {
            if let Address::Peer(socket) = address {
                seen.insert((index, *socket), (key.clone(), document.line(span.start)));
            }
        }
    }
    let mut warnings = Vec::new();
    for volume in volumes {
        for (key, span, address) in &volume.addresses {
            let Address::Nbd(NbdAddress::Tcp(socket)) = address else { continue };
            let on_node = |node: &Placed<NodeConfig>| key.ends_with(&format!(".on.{}.nbd", node.value.name));
            let Some(index) = nodes.iter().position(on_node) else { continue };
            let line = document.line(span.start);
            let group = groups.iter().find(|group| group.value.addresses().any(|floating| floating == socket.ip()));
            // Both servers may serve on their loopback or on all their addresses, and on one that moves between them.
            let shared = socket.ip().is_loopback() || socket.ip().is_unspecified() || group.is_some();
            let other = if shared { None } else { seen.get(&(1 - index.min(1), *socket)).cloned() };
            let here = seen.insert((index, *socket), (key.clone(), line));
            if let Some((other, other_line)) = here.or(other) {
                let reason = format!("the address {socket} is also in {other} (line {other_line})");
                let next = "give each use an address and port of its own";
                document.problem(Some(span.clone()), key, reason, next);
            }
            if let Some(group) = group {
                warnings.extend(floating(document, volume, group, (key, span.clone(), *socket), nodes));
            }
        }
    }
    warnings
}

/// A volume served on a floating address moves with it, and is served there by both servers.
fn floating(
    document: &Document<'_>,
    volume: &Placed<VolumeConfig>,
    group: &Placed<GroupConfig>,
    (key, span, socket): (&str, std::ops::Range<usize>, SocketAddr),
    nodes: &[Placed<NodeConfig>],
) -> Option<String> {
    let (name, group) = (&volume.value.name, &group.value);
    if !group.volumes.contains(name) {
        let reason = format!(
            "{} floats with the group \"{}\", to which the volume \"{name}\" does not belong",
            socket.ip(),
            group.name
        );
        document.problem(
            Some(span),
            key,
            reason,
            format!("add \"{name}\" to that group's `volumes`, or choose another address"),
        );
        return None;
    }
    let served = |place: &&super::PlaceConfig| place.nbd.contains(&NbdAddress::Tcp(socket));
    let without = volume.value.on.iter().position(|place| !served(&place))?;
    let node = &nodes.get(without)?.value.name;
    Some(format!(
        "{key}: while the group \"{}\" is on {node}, clients of {socket} find nobody; write \"tcp:{socket}\" in \
         [volume.on.{node}], too",
        group.name
    ))
}
