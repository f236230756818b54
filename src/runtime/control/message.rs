//! Requests and answers of the control socket, as types and as lines of JSON.

use crate::base::command::{Command, CommandOutcome};
use crate::base::view::VolumeView;
use crate::runtime::device::DeviceView;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of everything in this file. A daemon of another version refuses, naming both numbers.
pub const CONTROL_VERSION: u32 = 1;
/// Longest request, in bytes with its newline.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Longest answer, in bytes with its newline: a list of [`DIRTY_RANGES_MAX`] ranges fits.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Ranges of the dirty map in one answer.
pub const DIRTY_RANGES_MAX: usize = 100_000;

/// A request as it travels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// [`CONTROL_VERSION`] of the sender.
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
}

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Ask {
    /// The state of every volume. Answered with [`Answer::Status`].
    Status,
    /// Where the time of requests goes, on every volume. Answered with [`Answer::Latency`].
    Latency,
    /// A command for the core of a volume. Answered with [`Answer::Outcome`], as are all below but `Dirty`.
    Command {
        /// Name of the volume.
        volume: String,
        /// The command.
        command: Command,
    },
    /// Open the configured disk of a volume that has none.
    Attach {
        /// Name of the volume.
        volume: String,
    },
    /// Give up the disk of a volume, initialise the configured one anew, and attach it.
    ReplaceDisk {
        /// Name of the volume.
        volume: String,
        /// The disk the operator means; must be the configured one.
        disk: Option<PathBuf>,
    },
    /// Try to reach the peer again.
    Connect {
        /// Name of the volume.
        volume: String,
    },
    /// End the session with the peer and stay apart.
    Disconnect {
        /// Name of the volume.
        volume: String,
    },
    /// Read the configuration again. Answered with [`Answer::Outcome`].
    Reload,
    /// Compare the settings with the peer's now. Answered with [`Answer::Compared`].
    Compare,
    /// The state of every group. Answered with [`Answer::Groups`].
    Groups,
    /// A command for a failover group.
    Group {
        /// Name of the group.
        group: String,
        /// The command.
        verb: GroupVerb,
    },
    /// What happened on this node. Answered with [`Answer::Events`].
    Events {
        /// To this group only.
        group: Option<String>,
        /// What came after this number; left out: the newest.
        after: Option<u64>,
        /// At most so many; never more than [`crate::base::limits::EVENTS_SHOWN_MAX`].
        most: usize,
        /// With a number: wait a while when there is nothing yet.
        wait: bool,
    },
    /// What would happen to a group if something died now. Answered with [`Answer::Explained`].
    Explain {
        /// Name of the group.
        group: String,
    },
    /// The blocks that differ or may differ. Answered with [`Answer::Dirty`].
    Dirty {
        /// Name of the volume.
        volume: String,
        /// At most so many ranges; never more than [`DIRTY_RANGES_MAX`].
        ranges_max: usize,
    },
}

/// What an operator may ask of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verb")]
pub enum GroupVerb {
    /// Start it here.
    Start {
        /// Although the peer may serve, or hold newer data.
        force: bool,
    },
    /// Stop it on both nodes.
    Stop,
    /// Move it in order.
    Move {
        /// To this node; left out: to the other one.
        to: Option<String>,
    },
    /// Return it to its home node.
    Fallback,
    /// Leave the failed state.
    Recover,
    /// Allow automatic changes of role.
    Enable,
    /// Forbid them.
    Disable,
    /// Take this node out.
    Deactivate,
    /// Put it back.
    Activate,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// To [`Ask::Status`]: a [`NodeStatus`] as JSON, which newer daemons may extend.
    Status {
        /// The status.
        status: serde_json::Value,
    },
    /// To [`Ask::Latency`]: a list of [`crate::base::latency::VolumeLatency`] as JSON, which newer daemons may extend.
    Latency {
        /// The list.
        volumes: serde_json::Value,
    },
    /// To [`Ask::Groups`]: a list of [`super::group::GroupReport`] as JSON, which newer daemons may extend.
    Groups {
        /// The list.
        groups: serde_json::Value,
    },
    /// To [`Ask::Events`].
    Events {
        /// Each a [`crate::runtime::events::Event`] as JSON, oldest first.
        events: Vec<serde_json::Value>,
        /// The number to ask after next.
        after: u64,
    },
    /// To [`Ask::Explain`]: a [`super::group::GroupExplanation`] as JSON, which newer daemons may extend.
    Explained {
        /// It.
        explanation: serde_json::Value,
    },
    /// To [`Ask::Compare`]: a [`crate::runtime::daemon::Compared`] as JSON, which newer daemons may extend.
    Compared {
        /// What is known.
        compared: serde_json::Value,
    },
    /// How a command ended.
    Outcome {
        /// Done or refused.
        result: CommandOutcome,
    },
    /// To [`Ask::Dirty`].
    Dirty {
        /// Offset and length in bytes, in order.
        ranges: Vec<(u64, u64)>,
        /// Whether there are more.
        truncated: bool,
    },
    /// The line was no request of this version.
    Misunderstood {
        /// What is wrong with it.
        reason: String,
    },
}

/// The state of a node: what `status --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Name of the node.
    pub node: String,
    /// Name of its peer.
    pub peer: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Version of the daemon.
    pub version: String,
    /// Process of the daemon.
    pub pid: u32,
    /// In the order of the configuration.
    pub volumes: Vec<VolumeStatus>,
}

/// The state of a volume on a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// What the mirror core shows; its fields stand beside those below.
    #[serde(flatten)]
    pub view: VolumeView,
    /// The connected clients.
    #[serde(default)]
    pub clients: Vec<serde_json::Value>,
    /// The configured disk.
    pub disk_path: PathBuf,
    /// Where the volume is served when this node is its primary.
    pub nbd: Vec<String>,
    /// Since when the servers are apart, as this one saw it, in seconds since 1970.
    #[serde(default)]
    pub apart_since: Option<u64>,
    /// Its block device on this node, if it is to have one.
    #[serde(default)]
    pub device: Option<DeviceView>,
}

/// A line for the wire.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("control messages have no type that JSON can't hold");
    line.push(b'\n');
    line
}

/// Reads a request. The error says what is wrong with it.
pub fn decode_request(line: &[u8]) -> Result<Ask, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    // The version goes first: a newer request may look different in everything else.
    let versioned: Versioned =
        serde_json::from_slice(line).map_err(|error| format!("this is no control request: {error}"))?;
    if versioned.version != CONTROL_VERSION {
        return Err(format!(
            "the request has version {}, the daemon speaks version {CONTROL_VERSION}: use the twinblock of the same \
             release as the running daemon",
            versioned.version
        ));
    }
    let request: Request =
        serde_json::from_slice(line).map_err(|error| format!("this is no control request: {error}"))?;
    Ok(request.ask)
}

/// A status with everything in it, for tests.
#[cfg(test)]
pub mod sample {
    use super::{NodeStatus, VolumeStatus};
    use crate::base::state::{DiskState, LinkState, Mode, ResyncKind, Role};
    use crate::base::view::{ResyncView, VolumeView};

    /// A view with everything in it.
    pub fn view() -> VolumeView {
        VolumeView {
            name: "vol0".into(),
            mode: Mode::Sync,
            role: Role::Primary,
            disk: DiskState::UpToDate,
            disk_reason: None,
            peer_role: Some(Role::Secondary),
            peer_disk: Some(DiskState::Inconsistent),
            link: LinkState::Resync,
            link_reason: None,
            rule: Some("ours-newer".into()),
            in_sync: false,
            serving: true,
            held_reason: None,
            size_bytes: 1 << 30,
            dirty_bytes: 64 << 20,
            suspect_bytes: 0,
            requests_in_flight: 0,
            unacknowledged_bytes: 0,
            generation: "3:00000000000000ff".into(),
            cache_epoch: 0,
            resync: Some(ResyncView {
                kind: ResyncKind::Differential,
                reason: "the peer was away".into(),
                source: true,
                paused: false,
                percent: 37.5,
                bytes_left: 40 << 20,
                bytes_total: 64 << 20,
                bytes_copied: 20 << 20,
                bytes_zeroed: 4 << 20,
                bytes_equal: 0,
                bytes_per_second: 10 << 20,
                seconds_left: Some(4),
            }),
            last_resync: None,
            verify: None,
            last_verify: None,
            split: None,
        }
    }

    /// A node with one volume.
    pub fn node(view: VolumeView) -> NodeStatus {
        NodeStatus {
            node: "alpha".into(),
            peer: "beta".into(),
            cluster: "lab".into(),
            version: "0".into(),
            pid: 1,
            volumes: vec![VolumeStatus {
                view,
                clients: vec![],
                disk_path: "/dev/sdb".into(),
                nbd: vec![],
                apart_since: None,
                device: None,
            }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_the_promised_fields() {
        let status = sample::node(sample::view());
        let json = serde_json::to_value(&status).unwrap();
        let volume = &json["volumes"][0];
        for key in ["name", "role", "disk", "peer_role", "peer_disk", "link", "in_sync", "size_bytes", "dirty_bytes"] {
            assert!(!volume[key].is_null(), "{key}");
        }
        for key in ["kind", "reason", "percent", "bytes_left", "bytes_per_second", "seconds_left"] {
            assert!(!volume["resync"][key].is_null(), "{key}");
        }
        assert_eq!(volume["disk"], "up-to-date");
        assert_eq!(volume["resync"]["kind"], "differential");
        assert_eq!(serde_json::from_value::<NodeStatus>(json).unwrap(), status);
    }

    #[test]
    fn requests_go_there_and_back() {
        let asks = [
            Ask::Status,
            Ask::Command { volume: "vol0".into(), command: Command::Promote { force: true } },
            Ask::Command { volume: "vol0".into(), command: Command::PauseResync },
            Ask::ReplaceDisk { volume: "vol0".into(), disk: Some("/dev/sdb".into()) },
            Ask::Dirty { volume: "vol0".into(), ranges_max: 7 },
        ];
        for ask in asks {
            let line = encode(&Request { version: CONTROL_VERSION, ask: ask.clone() });
            assert_eq!(decode_request(&line), Ok(ask));
        }
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        let refused = |line: &str| decode_request(line.as_bytes()).unwrap_err();
        assert!(refused("").contains("no control request"));
        assert!(refused("{}").contains("version"));
        assert!(refused("{\"version\":1,\"ask\":\"explode\"}").contains("explode"));
        assert!(refused("{\"version\":7,\"ask\":\"from the future\"}").contains("version 7"));
        assert!(refused("\u{0}\u{1}").contains("no control request"));
    }
}
