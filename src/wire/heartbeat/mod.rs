//! The datagram of a heartbeat: one group's word on one path, authenticated.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `TWINBEAT` |
//! | 1 | version |
//! | 1 + n | name of the cluster |
//! | 1 + n | name of the group |
//! | 1, 1 | node that sends, path it sends on |
//! | 8 | life of its daemon |
//! | 8 | sequence on this path in this life |
//! | 8 | its challenge to the receiver |
//! | 8 | the receiver's challenge, as last heard |
//! | 2 + n | the heartbeat, by bincode |
//! | 16 | HMAC-SHA256 of everything before, cut short |
//!
//! Numbers are little-endian. Each node has a key of its own, so that its datagrams can't be sent back to it. No wall
//! clock plays a part: what is old is told by [`guard`].

pub mod guard;

use crate::base::heartbeat::Heartbeat;
use crate::base::ids::{Incarnation, NodeId};
use crate::base::limits::{HEARTBEAT_BYTES_MAX, HEARTBEAT_PATHS_MAX};
use crate::wire::hello::{CLUSTER_BYTES_MAX, printable};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;

/// First bytes of each datagram.
pub const MAGIC: [u8; 8] = *b"TWINBEAT";
/// Version of the datagram and of the heartbeat in it.
pub const VERSION: u8 = 1;
/// Bytes of the checksum at the end.
const MAC_BYTES: usize = 16;
/// Longest name of a group, in bytes.
const GROUP_BYTES_MAX: usize = CLUSTER_BYTES_MAX;
/// Keeps the keys of heartbeats apart from all others that are made of the secret.
const PURPOSE: &[u8] = b"twinblock heartbeat 1";

/// What stands around a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The group it is about.
    pub group: String,
    /// Who sends.
    pub node: NodeId,
    /// Index of the path in the configuration.
    pub path: u8,
    /// The life of the sender's daemon.
    pub incarnation: Incarnation,
    /// Rises with each datagram of this life on this path.
    pub sequence: u64,
    /// What the receiver has to echo to be believed.
    pub challenge: u64,
    /// The receiver's challenge as last heard; 0 when none was heard.
    pub echo: u64,
}

/// Why a datagram is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not begin as ours do.
    NotOurs,
    /// Shorter than it says.
    Truncated,
    /// Longer than any of ours, or than it says.
    Oversized,
    /// Of a version not known here.
    OtherVersion(u8),
    /// Of another cluster.
    OtherCluster(String),
    /// Not made with the same secret, or changed on the way.
    WrongKey,
    /// Made by this node.
    Reflected,
    /// Authentic, and yet no heartbeat that could be.
    Malformed,
    /// About a group that is not in this configuration.
    OtherGroup(String),
    /// Sent on another path than it came on.
    OtherPath(u8),
    /// The sender has not shown that it hears this life of this node, so it may be a recording.
    Unproven,
    /// Its sequence was heard before, or is too far behind.
    Replayed,
}

impl Refusal {
    /// Kinds of refusals, as names of counters, in the order of [`Refusal::index`].
    pub const KINDS: [&'static str; 12] = [
        "not-ours",
        "truncated",
        "oversized",
        "other-version",
        "other-cluster",
        "wrong-key",
        "reflected",
        "malformed",
        "other-group",
        "other-path",
        "unproven",
        "replayed",
    ];

    /// Index of its kind in [`Refusal::KINDS`].
    pub fn index(&self) -> usize {
        match self {
            Refusal::NotOurs => 0,
            Refusal::Truncated => 1,
            Refusal::Oversized => 2,
            Refusal::OtherVersion(_) => 3,
            Refusal::OtherCluster(_) => 4,
            Refusal::WrongKey => 5,
            Refusal::Reflected => 6,
            Refusal::Malformed => 7,
            Refusal::OtherGroup(_) => 8,
            Refusal::OtherPath(_) => 9,
            Refusal::Unproven => 10,
            Refusal::Replayed => 11,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotOurs => f.write_str("it is no heartbeat; give the heartbeat a port that no other program sends to"),
            Refusal::Truncated => f.write_str("it is cut short; look for what cuts datagrams on this network"),
            Refusal::Oversized => f.write_str("it is longer than a heartbeat can be; give the heartbeat a port that no other program sends to"),
            Refusal::OtherVersion(version) => {
                write!(
                    f,
                    "it is of version {version}, this is version {VERSION}; use the same software on both servers"
                )
            }
            Refusal::OtherCluster(cluster) => {
                write!(f, "it is of cluster {cluster}; give each cluster addresses and ports of its own")
            }
            Refusal::WrongKey => f.write_str("it was not made with the same secret; use the same file on both servers"),
            Refusal::Reflected => f.write_str("it is this node's own; correct the peer's address of this path, or look for what sends it back"),
            Refusal::Malformed => f.write_str("it is authentic but makes no sense, which is a bug in the sender; use the same release on both, and report it"),
            Refusal::OtherGroup(group) => {
                write!(f, "it is about group {group}, which is not configured here; use the same configuration on both")
            }
            Refusal::OtherPath(path) => {
                write!(f, "it was sent on path {}; list the paths in the same order on both servers", path + 1)
            }
            Refusal::Unproven => f.write_str("the peer is heard but does not hear this node, or it is a recording; check network and firewall the other way"),
            Refusal::Replayed => f.write_str("it was heard before: it was doubled on the way, or is a recording; it has no effect, look for who sends it"),
        }
    }
}

/// The keys of one node, for both directions. Never shown.
#[derive(Clone)]
pub struct Keys {
    node: NodeId,
    cluster: String,
    /// By node.
    keys: [Hmac<Sha256>; 2],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys(node {}, ..)", self.node)
    }
}

impl Keys {
    /// The keys of `node`, from the secret of its cluster.
    pub fn new(secret: &[u8; 32], cluster: &str, node: NodeId) -> Keys {
        assert!(cluster.len() <= CLUSTER_BYTES_MAX, "names are checked with the configuration");
        let key = |sender: u8| {
            let mut info = cluster.as_bytes().to_vec();
            info.extend([0, sender]);
            keyed(&derive(PURPOSE, secret, &info))
        };
        Keys { node, cluster: cluster.into(), keys: [key(0), key(1)] }
    }

    /// The datagram of a heartbeat.
    pub fn seal(&self, envelope: &Envelope, heartbeat: &Heartbeat) -> Vec<u8> {
        self.seal_body(envelope, &encode(heartbeat))
    }

    fn seal_body(&self, envelope: &Envelope, body: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        push_name(&mut bytes, &self.cluster);
        push_name(&mut bytes, &envelope.group);
        bytes.extend([envelope.node.0, envelope.path]);
        for number in [envelope.incarnation.0, envelope.sequence, envelope.challenge, envelope.echo] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(u16::try_from(body.len()).expect("a heartbeat is far shorter").to_le_bytes());
        bytes.extend(body);
        let mac = self.keys[usize::from(envelope.node.0)].clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend(&mac[..MAC_BYTES]);
        assert!(bytes.len() <= HEARTBEAT_BYTES_MAX, "a heartbeat fits into one datagram");
        bytes
    }

    /// Opens a datagram of the peer. Whether it is a recording is for [`guard::Guard`] to say.
    pub fn open(&self, bytes: &[u8]) -> Result<(Envelope, Heartbeat), Refusal> {
        if bytes.len() > HEARTBEAT_BYTES_MAX {
            return Err(Refusal::Oversized);
        }
        let mut parts = Parts(bytes);
        if parts.take(MAGIC.len()).ok() != Some(&MAGIC[..]) {
            return Err(Refusal::NotOurs);
        }
        let version = parts.byte()?;
        if version != VERSION {
            return Err(Refusal::OtherVersion(version));
        }
        let cluster = parts.name()?;
        if cluster != self.cluster.as_bytes() {
            return Err(Refusal::OtherCluster(printable(cluster)));
        }
        let (envelope, body) = parts.rest()?;
        if envelope.node.0 > 1 {
            return Err(Refusal::Malformed);
        }
        let (signed, mac) = bytes.split_at(bytes.len() - MAC_BYTES);
        let key = self.keys[usize::from(envelope.node.0)].clone().chain_update(signed);
        key.verify_truncated_left(mac).map_err(|_| Refusal::WrongKey)?;
        if envelope.node == self.node {
            return Err(Refusal::Reflected);
        }
        let heartbeat = decode(body).ok_or(Refusal::Malformed)?;
        let one_sender = heartbeat.node == envelope.node && heartbeat.incarnation == envelope.incarnation;
        if !one_sender || usize::from(envelope.path) >= HEARTBEAT_PATHS_MAX {
            return Err(Refusal::Malformed);
        }
        Ok((envelope, heartbeat))
    }
}

/// Encodes a heartbeat.
pub fn encode(heartbeat: &Heartbeat) -> Vec<u8> {
    bincode::serde::encode_to_vec(heartbeat, bincode::config::standard())
        .expect("a heartbeat has no type that bincode can't encode")
}

/// Decodes a heartbeat; `None` for anything that is not exactly one.
pub fn decode(bytes: &[u8]) -> Option<Heartbeat> {
    let config = bincode::config::standard().with_limit::<HEARTBEAT_BYTES_MAX>();
    match bincode::serde::decode_from_slice(bytes, config) {
        Ok((heartbeat, used)) if used == bytes.len() => Some(heartbeat),
        _ => None,
    }
}

fn push_name(bytes: &mut Vec<u8>, name: &str) {
    assert!(name.len() <= GROUP_BYTES_MAX, "names are checked with the configuration");
    bytes.push(name.len() as u8);
    bytes.extend(name.as_bytes());
}

/// A key of 32 bytes: HKDF with SHA-256 (RFC 5869), of which one block is needed.
fn derive(salt: &[u8], secret: &[u8], info: &[u8]) -> [u8; 32] {
    let extracted = keyed(salt).chain_update(secret).finalize().into_bytes();
    keyed(&extracted).chain_update(info).chain_update([1]).finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length will do")
}

/// What is left of a datagram.
struct Parts<'b>(&'b [u8]);

impl<'b> Parts<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], Refusal> {
        let (taken, left) = self.0.split_at_checked(count).ok_or(Refusal::Truncated)?;
        self.0 = left;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Refusal> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, Refusal> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    fn name(&mut self) -> Result<&'b [u8], Refusal> {
        let length = self.byte()?;
        self.take(usize::from(length))
    }

    /// Everything behind the cluster's name, but for the checksum.
    fn rest(mut self) -> Result<(Envelope, &'b [u8]), Refusal> {
        let group = printable(self.name()?);
        let (node, path) = (NodeId(self.byte()?), self.byte()?);
        let incarnation = Incarnation(self.number()?);
        let (sequence, challenge, echo) = (self.number()?, self.number()?, self.number()?);
        let length = u16::from_le_bytes(self.take(2)?.try_into().expect("two bytes"));
        let body = self.take(usize::from(length))?;
        match self.0.len() {
            MAC_BYTES => Ok((Envelope { group, node, path, incarnation, sequence, challenge, echo }, body)),
            0..MAC_BYTES => Err(Refusal::Truncated),
            _ => Err(Refusal::Oversized),
        }
    }
}

#[cfg(test)]
mod tests;
