//! What the two daemons ask each other beside the replication: on a connection of its own, one question and its answer.
//!
//! ```text
//! handshake of [`super::hello`], for no volume
//! Noise messages: head of the question ─▶ its body, in pieces ─▶
//!                              ◀─ head of the answer ◀─ its body, in pieces
//! ```
//! A head says how long its body is. Everything is encrypted: files that follow a group are secrets often enough.

use serde::{Deserialize, Serialize};

/// What a hello names instead of a volume. No volume has a name with a slash.
pub const ASIDE: &str = "/aside";
/// Longest head, in bytes: a few names and a sentence.
pub const HEAD_BYTES_MAX: usize = 4096;
/// Bytes of a body in one Noise message, which has at most 65535 with its tag.
pub const PIECE_BYTES_MAX: usize = 60 << 10;
/// Longest form of a configuration, in bytes: that of the largest one which can be written.
pub const FORM_BYTES_MAX: usize = 8 << 20;

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// "Which settings do you have?" No body.
    Config {
        /// Digest of the asker's.
        digest: u64,
    },
    /// "Keep these files": the body is a bundle ([`super::files`]).
    Files {
        /// Name of the group.
        group: String,
        /// Name of its resource.
        resource: String,
        /// Bytes of the bundle.
        bytes: u32,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Question::Config`]. The body is the form as JSON, or nothing when both digests are the same.
    Config {
        /// The software's version.
        version: [u16; 3],
        /// Digest of the settings.
        digest: u64,
        /// Bytes of the form.
        bytes: u32,
        /// What the calendar says there, in milliseconds: shown, never gone by.
        calendar: u64,
    },
    /// The files are kept.
    Kept,
    /// It was not done, for this reason.
    Refused(String),
}

impl Question {
    /// Bytes of the body that follows; `None` when it may not be so long.
    pub fn body_bytes(&self) -> Option<usize> {
        match self {
            Question::Config { .. } => Some(0),
            Question::Files { bytes, .. } => {
                Some(*bytes as usize).filter(|bytes| *bytes <= super::files::BUNDLE_BYTES_MAX)
            }
        }
    }
}

impl Answer {
    /// Bytes of the body that follows; `None` when it may not be so long.
    pub fn body_bytes(&self) -> Option<usize> {
        match self {
            Answer::Config { bytes, .. } => Some(*bytes as usize).filter(|bytes| *bytes <= FORM_BYTES_MAX),
            Answer::Kept | Answer::Refused(_) => Some(0),
        }
    }
}

/// Encodes a head.
pub fn encode<T: Serialize>(head: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(head, bincode::config::standard())
        .expect("a head has no type that bincode can't encode")
}

/// Decodes a head; `None` for anything that is not exactly one.
pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let config = bincode::config::standard().with_limit::<HEAD_BYTES_MAX>();
    match bincode::serde::decode_from_slice(bytes, config) {
        Ok((head, used)) if used == bytes.len() => Some(head),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn heads_go_there_and_back_and_no_body_is_too_long() {
        let question = Question::Files { group: "db".into(), resource: "etc".into(), bytes: 7 };
        assert_eq!(encode(&question), [1, 2, b'd', b'b', 3, b'e', b't', b'c', 7]);
        assert_eq!(decode(&encode(&question)), Some(question.clone()));
        assert_eq!(question.body_bytes(), Some(7));
        let answer = Answer::Config { version: [1, 2, 3], digest: 4, bytes: 5, calendar: 6 };
        assert_eq!(encode(&answer), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(decode(&encode(&answer)), Some(answer));
        let long = Question::Files { group: String::new(), resource: String::new(), bytes: (64 << 20) + 1 };
        assert_eq!(long.body_bytes(), None);
        assert_eq!(Answer::Config { version: [0; 3], digest: 0, bytes: u32::MAX, calendar: 0 }.body_bytes(), None);
        let mut longer = encode(&question);
        longer.push(0);
        assert_eq!(decode::<Question>(&longer), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(question) = decode::<Question>(&bytes) {
                prop_assert!(question.body_bytes().is_none_or(|bytes| bytes <= super::super::files::BUNDLE_BYTES_MAX));
            }
            let _ = decode::<Answer>(&bytes);
        }
    }
}
