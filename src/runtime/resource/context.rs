//! Why a group is being started or stopped, and where: what its scripts and services are told.
//!
//! Each fact is an environment variable of ours; those that scripts written for CLUSTERPRO know are set under their old
//! names as well, so that such a script runs unchanged.
//!
//! | ours | values | CLUSTERPRO |
//! |---|---|---|
//! | `TWINBLOCK_VERB` | `check`, `start`, `stop`, `monitor` | |
//! | `TWINBLOCK_EVENT` | `start`, `stop`, `move`, `failover`, `fallback`, `recover` | `ARMS_EVENT`, `CLP_EVENT`: `START`, `FAILOVER`, `RECOVER` |
//! | `TWINBLOCK_SERVER` | `home`, `other` | `ARMS_SERVER`, `CLP_SERVER`: `HOME`, `OTHER` |
//! | `TWINBLOCK_DISK` | `success`, `failure` | `ARMS_DISK`, `CLP_DISK`: `SUCCESS`, `FAILURE` |
//! | `TWINBLOCK_CLUSTER`, `TWINBLOCK_GROUP`, `TWINBLOCK_NODE`, `TWINBLOCK_PEER` | names | |
//! | `TWINBLOCK_RESOURCE` | name of the script or service | |
//! | `TWINBLOCK_VOLUMES` | names, separated by spaces | |
//! | `TWINBLOCK_ADDRESSES` | floating addresses, separated by spaces | |

use super::Verb;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// Why the group changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The server or the group was started.
    Start,
    /// The group was stopped by an operator, or the server stops.
    Stop,
    /// An operator moved it here or away.
    Move,
    /// The other server, or something on it, failed.
    Failover,
    /// It returned to its home server.
    Fallback,
    /// It is started again after both failed, or after something failed here.
    Recover,
}

/// Whether the group is on the server it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Its home server.
    Home,
    /// The other one.
    Other,
}

/// Whether the group's volumes came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskOutcome {
    /// All of them, or the group has none.
    Success,
    /// At least one did not.
    Failure,
}

/// What a verb is run for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the group.
    pub group: String,
    /// Name of this server.
    pub node: String,
    /// The daemon's own directory: tells its programs from those of another daemon on the same machine.
    pub state_dir: PathBuf,
    /// Name of the other server.
    pub peer: String,
    /// Why.
    pub reason: Reason,
    /// Where.
    pub place: Place,
    /// Whether the volumes came up.
    pub disk: DiskOutcome,
    /// The group's volumes.
    pub volumes: Vec<String>,
    /// The group's floating addresses.
    pub addresses: Vec<IpAddr>,
}

impl Context {
    /// The environment of a program that is run for `verb` of `resource`.
    pub fn environment(&self, resource: &str, verb: Verb) -> Vec<(String, String)> {
        let (event, ancestor_event) = match self.reason {
            Reason::Start => ("start", "START"),
            Reason::Stop => ("stop", "START"),
            // To the ancestor a group that comes from the other server has failed over, by hand or not.
            Reason::Move => ("move", "FAILOVER"),
            Reason::Failover => ("failover", "FAILOVER"),
            Reason::Fallback => ("fallback", "FAILOVER"),
            Reason::Recover => ("recover", "RECOVER"),
        };
        let (server, ancestor_server) = match self.place {
            Place::Home => ("home", "HOME"),
            Place::Other => ("other", "OTHER"),
        };
        let (disk, ancestor_disk) = match self.disk {
            DiskOutcome::Success => ("success", "SUCCESS"),
            DiskOutcome::Failure => ("failure", "FAILURE"),
        };
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        let verb = verb.to_string();
        let mut environment: Vec<(String, String)> = [
            ("TWINBLOCK_VERB", verb.as_str()),
            ("TWINBLOCK_EVENT", event),
            ("TWINBLOCK_SERVER", server),
            ("TWINBLOCK_DISK", disk),
            ("TWINBLOCK_CLUSTER", &self.cluster),
            ("TWINBLOCK_GROUP", &self.group),
            ("TWINBLOCK_NODE", &self.node),
            ("TWINBLOCK_PEER", &self.peer),
            ("TWINBLOCK_RESOURCE", resource),
            ("TWINBLOCK_VOLUMES", &self.volumes.join(" ")),
            ("TWINBLOCK_ADDRESSES", &addresses.join(" ")),
        ]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .to_vec();
        for prefix in ["ARMS", "CLP"] {
            for (name, value) in [("EVENT", ancestor_event), ("SERVER", ancestor_server), ("DISK", ancestor_disk)] {
                environment.push((format!("{prefix}_{name}"), value.to_string()));
            }
        }
        environment
    }

    /// A context with plain values, for tests of resources.
    pub fn for_tests() -> Context {
        Context {
            cluster: "tests".into(),
            group: "group".into(),
            node: "alpha".into(),
            state_dir: "/var/lib/twinblock/alpha".into(),
            peer: "beta".into(),
            reason: Reason::Start,
            place: Place::Home,
            disk: DiskOutcome::Success,
            volumes: vec!["vol0".into()],
            addresses: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_told_by_both_names() {
        let context = Context {
            reason: Reason::Failover,
            place: Place::Other,
            disk: DiskOutcome::Failure,
            volumes: vec!["a".into(), "b".into()],
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            ..Context::for_tests()
        };
        let environment = context.environment("web", Verb::Start);
        let value = |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!(value("TWINBLOCK_EVENT"), Some("failover"));
        assert_eq!(value("ARMS_EVENT"), Some("FAILOVER"));
        assert_eq!(value("ARMS_SERVER"), Some("OTHER"));
        assert_eq!(value("ARMS_DISK"), Some("FAILURE"));
        assert_eq!(value("CLP_EVENT"), Some("FAILOVER"));
        assert_eq!(value("TWINBLOCK_VOLUMES"), Some("a b"));
        assert_eq!(value("TWINBLOCK_ADDRESSES"), Some("10.0.0.1 fd00::1"));
        assert_eq!(value("TWINBLOCK_VERB"), Some("start"));
        assert_eq!(value("TWINBLOCK_RESOURCE"), Some("web"));
    }
}
