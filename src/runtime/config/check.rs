//! Checks across sections: names and addresses that must differ.

use super::address::NbdAddress;
use super::document::Document;
use super::read::{Address, Placed};
use super::{NodeConfig, VolumeConfig};
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

/// Reports volumes of the same name, and disks, metadata or NBD addresses that are used twice on one node.
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
    nbd_ports(document, nodes, volumes);
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

/// Every TCP port has one use on one node, and a server's own address is not served by the other.
fn nbd_ports(document: &Document<'_>, nodes: &[Placed<NodeConfig>], volumes: &[Placed<VolumeConfig>]) {
    let mut seen: HashMap<(usize, SocketAddr), (String, usize)> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for (key, span, address) in &node.addresses {
            if let Address::Peer(socket) = address {
                seen.insert((index, *socket), (key.clone(), document.line(span.start)));
            }
        }
    }
    for (key, span, address) in volumes.iter().flat_map(|volume| &volume.addresses) {
        let Address::Nbd(NbdAddress::Tcp(socket)) = address else { continue };
        let Some(index) = nodes.iter().position(|node| key.ends_with(&format!(".on.{}.nbd", node.value.name))) else {
            continue;
        };
        let line = document.line(span.start);
        // Both servers may serve on their loopback or on all their addresses; any other address is one server's own.
        let everywhere = socket.ip().is_loopback() || socket.ip().is_unspecified();
        let other = if everywhere { None } else { seen.get(&(1 - index.min(1), *socket)).cloned() };
        let here = seen.insert((index, *socket), (key.clone(), line));
        if let Some((other, other_line)) = here.or(other) {
            let reason = format!("the address {socket} is also in {other} (line {other_line})");
            document.problem(Some(span.clone()), key, reason, "give each use an address and port of its own");
        }
    }
}
