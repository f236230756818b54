//! What a resource has for itself: nothing else may have it too, whether in the same group or in another.

use super::document::Document;
use super::group::{GroupConfig, ResourceConfig, What};
use super::read::Placed;
use std::path::PathBuf;

/// Something that only one resource may have.
#[derive(Clone, Debug, PartialEq)]
enum Claim {
    Address(std::net::IpAddr),
    Device(PathBuf),
    MountPoint(PathBuf),
    Unit(String),
    File(PathBuf),
    Host(String),
}

impl Claim {
    fn words(&self) -> String {
        match self {
            Claim::Address(address) => format!("the address {address}"),
            Claim::Device(path) => format!("the device {}", path.display()),
            Claim::MountPoint(path) => format!("the mount point {}", path.display()),
            Claim::Unit(unit) => format!("the unit {unit}"),
            Claim::File(path) => format!("the file {}", path.display()),
            Claim::Host(host) => format!("the host name {host}"),
        }
    }

    /// Both can't be. A file is also what a directory holds.
    fn collides(&self, other: &Claim) -> bool {
        match (self, other) {
            (Claim::File(one), Claim::File(other)) => one.starts_with(other) || other.starts_with(one),
            _ => self == other,
        }
    }
}

fn claims(resource: &ResourceConfig) -> Vec<Claim> {
    match &resource.what {
        What::FileSystem(config) => {
            vec![Claim::Device(config.device.clone()), Claim::MountPoint(config.mount_point.clone())]
        }
        What::Files(config) => config.paths.iter().cloned().map(Claim::File).collect(),
        What::Address(config) => vec![Claim::Address(config.address)],
        What::Dns(config) => vec![Claim::Host(config.host.trim_end_matches('.').to_ascii_lowercase())],
        What::Script(_) => Vec::new(),
        What::Service(config) => config.unit.iter().cloned().map(Claim::Unit).collect(),
    }
}

/// Reports what two resources have, naming both places.
pub fn check(document: &Document<'_>, groups: &[Placed<GroupConfig>]) {
    let mut taken: Vec<(Claim, &str, &ResourceConfig)> = Vec::new();
    for group in groups {
        for resource in &group.value.resources {
            for claim in claims(resource) {
                // Paths of one resource are looked at by the resource itself.
                let other = taken.iter().find(|(other, _, owner)| claim.collides(other) && meet(owner, resource));
                if let Some((_, name, other)) = other {
                    let reason = format!(
                        "{} belongs to {} \"{}\" of group \"{name}\" already (line {})",
                        claim.words(),
                        other.what.kind(),
                        other.name,
                        other.line
                    );
                    let key = format!("group.{}.{}.{}", group.value.name, resource.what.kind(), resource.name);
                    document.problem_at(resource.line, &key, reason, "remove one of both");
                }
                taken.push((claim, &group.value.name, resource));
            }
        }
    }
}

/// Whether both may be on one server; not when each is left out where the other is.
fn meet(one: &ResourceConfig, other: &ResourceConfig) -> bool {
    !std::ptr::eq(one, other) && one.skip_on.iter().zip(other.skip_on).any(|(one, other)| !one && !other)
}
