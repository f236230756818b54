//! How a connection between the two daemons begins, before the first frame.
//!
//! ```text
//! dialling side                                         accepting side
//!   preamble (clear): magic, version, cluster  ─────▶
//!   Noise message 1: hello                     ─────▶
//!                                              ◀─────   verdict (clear): magic, version, code, cluster
//!                                              ◀─────   Noise message 2: reply (welcome with a hello, or a refusal)
//!   Noise transport message: confirmation      ─────▶
//! ```
//! The preamble is the prologue of the key exchange, so nobody on the way can change it unnoticed. What stands in the
//! clear only decides what is logged. The confirmation proves to the accepting side that the hello is no recording.

use crate::base::ids::{Incarnation, NodeId, Uuid};
use serde::{Deserialize, Serialize};

/// First bytes of the preamble and of the verdict.
pub const MAGIC: [u8; 8] = *b"TWINLINK";
/// Bytes of the preamble before the cluster's name: magic, version, length of the name.
pub const PREAMBLE_HEAD_BYTES: usize = 8 + 4 + 1;
/// Bytes of the verdict before the cluster's name: magic, version, code, length of the name.
pub const VERDICT_HEAD_BYTES: usize = 8 + 4 + 1 + 1;
/// Longest name of a cluster, in bytes.
pub const CLUSTER_BYTES_MAX: usize = 64;
/// Longest Noise message of the handshake, in bytes: a hello is a few hundred.
pub const HANDSHAKE_MESSAGE_BYTES_MAX: usize = 4096;
/// Longest sentence of a refusal, in bytes; longer ones are cut.
pub const SENTENCE_BYTES_MAX: usize = 512;

/// What a node tells of itself before a session. Encrypted and authenticated by the shared secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Name of the volume this connection is for.
    pub volume: String,
    /// Its identity.
    pub volume_uuid: Uuid,
    /// Index of the sender in its configuration.
    pub node: NodeId,
    /// Name of the sender.
    pub node_name: String,
    /// Optional behaviours the sender can do; the session uses the intersection.
    pub features: u64,
    /// What the sender wants for the frames that follow.
    pub requested_encryption: Encryption,
    /// The sender's process.
    pub incarnation: Incarnation,
    /// Digest of the sender's configuration file.
    pub config_digest: u64,
}

/// How the frames after the handshake are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// Not at all: checksums only.
    None,
}

/// The accepting side's answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The session begins with the confirmation.
    Welcome(Hello),
    /// There is no session.
    Refused(Refused),
}

/// Why an authenticated peer is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// A stable word: `unknown-volume`, `same-node`, `other-node`, `disconnected`, `encryption`.
    pub code: String,
    /// What is wrong, one sentence, as the accepting side sees it.
    pub reason: String,
}

/// The accepting side's word before authentication; only good for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Noise message 2 follows.
    Proceed,
    /// Another protocol version.
    OtherVersion,
    /// Another cluster.
    OtherCluster,
    /// Message 1 was not made with the same secret.
    NotAuthenticated,
}

/// A decoded preamble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// Protocol version of the sender.
    pub protocol: u32,
    /// Its cluster.
    pub cluster: String,
}

/// Encodes a preamble.
pub fn encode_preamble(preamble: &Preamble) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(preamble.protocol.to_le_bytes());
    push_name(&mut bytes, &preamble.cluster);
    bytes
}

/// Reads the head of a preamble: the version, and how many bytes of name follow. `None` for what is not ours.
pub fn decode_preamble_head(head: &[u8; PREAMBLE_HEAD_BYTES]) -> Option<(u32, usize)> {
    let protocol = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
    let length = usize::from(head[12]);
    (head[..8] == MAGIC && length <= CLUSTER_BYTES_MAX).then_some((protocol, length))
}

/// Encodes a verdict with the version and cluster of who gives it.
pub fn encode_verdict(verdict: Verdict, from: &Preamble) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(from.protocol.to_le_bytes());
    bytes.push(match verdict {
        Verdict::Proceed => 0,
        Verdict::OtherVersion => 1,
        Verdict::OtherCluster => 2,
        Verdict::NotAuthenticated => 3,
    });
    push_name(&mut bytes, &from.cluster);
    bytes
}

/// Reads the head of a verdict: code, version, and how many bytes of name follow. `None` for what is not ours.
pub fn decode_verdict_head(head: &[u8; VERDICT_HEAD_BYTES]) -> Option<(Verdict, u32, usize)> {
    let protocol = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
    let verdict = match head[12] {
        0 => Verdict::Proceed,
        1 => Verdict::OtherVersion,
        2 => Verdict::OtherCluster,
        3 => Verdict::NotAuthenticated,
        _ => return None,
    };
    let length = usize::from(head[13]);
    (head[..8] == MAGIC && length <= CLUSTER_BYTES_MAX).then_some((verdict, protocol, length))
}

/// A name from outside, fit for a log line.
pub fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .take(SENTENCE_BYTES_MAX)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Encodes a hello or reply.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(message, bincode::config::standard())
        .expect("a handshake message has no type that bincode can't encode")
}

/// Decodes a hello or reply; `None` for anything that is not exactly one.
pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let config = bincode::config::standard().with_limit::<HANDSHAKE_MESSAGE_BYTES_MAX>();
    match bincode::serde::decode_from_slice(bytes, config) {
        Ok((message, used)) if used == bytes.len() => Some(message),
        _ => None,
    }
}

fn push_name(bytes: &mut Vec<u8>, name: &str) {
    assert!(name.len() <= CLUSTER_BYTES_MAX, "names are checked with the configuration");
    bytes.push(name.len() as u8);
    bytes.extend(name.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            volume: "vol0".into(),
            volume_uuid: Uuid(7),
            node: NodeId(0),
            node_name: "alpha".into(),
            features: 0,
            requested_encryption: Encryption::None,
            incarnation: Incarnation(9),
            config_digest: 11,
        }
    }

    #[test]
    fn the_preamble_has_these_bytes() {
        let bytes = encode_preamble(&Preamble { protocol: 1, cluster: "lab".into() });
        assert_eq!(bytes, b"TWINLINK\x01\0\0\0\x03lab");
        assert_eq!(decode_preamble_head(bytes[..PREAMBLE_HEAD_BYTES].try_into().unwrap()), Some((1, 3)));
        let verdict = encode_verdict(Verdict::OtherCluster, &Preamble { protocol: 2, cluster: "prod".into() });
        assert_eq!(verdict, b"TWINLINK\x02\0\0\0\x02\x04prod");
        let head = verdict[..VERDICT_HEAD_BYTES].try_into().unwrap();
        assert_eq!(decode_verdict_head(head), Some((Verdict::OtherCluster, 2, 4)));
    }

    #[test]
    fn hello_and_reply_go_there_and_back() {
        assert_eq!(decode::<Hello>(&encode(&hello())), Some(hello()));
        let reply = Reply::Refused(Refused { code: "unknown-volume".into(), reason: "no".into() });
        assert_eq!(decode::<Reply>(&encode(&reply)), Some(reply));
        let mut longer = encode(&hello());
        longer.push(0);
        assert_eq!(decode::<Hello>(&longer), None, "a byte too many is no hello");
    }

    proptest! {
        #[test]
        fn nothing_from_outside_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode::<Hello>(&bytes);
            let _ = decode::<Reply>(&bytes);
            if let Some(head) = bytes.first_chunk() {
                let _ = decode_preamble_head(head);
            }
            if let Some(head) = bytes.first_chunk() {
                let _ = decode_verdict_head(head);
            }
            prop_assert!(!printable(&bytes).contains(char::is_control));
        }
    }
}
