//! The record as it is stored: one line of JSON that a person can read.
//!
//! ```json
//! {"format":1,"cluster":"lab","group":"web","epoch":7,"primary":"alpha","insync":["alpha","beta"],
//!  "gen_hint":"7:00c0ffee00c0ffee","cache_epoch":0,"nonce":"1f2e3d4c5b6a7988"}
//! ```
//! Nodes are stored by name, so that two servers whose configurations list them in a different order do not take each
//! other's place. Cluster and group are stored to tell a key or directory that two clusters use.

use crate::base::arbiter::{ArbiterError, ArbiterErrorKind, InSync, Record};
use crate::base::generation::Generation;
use crate::base::ids::{Epoch, NodeId};
use crate::base::limits::ARBITER_RECORD_BYTES_MAX;
use crate::wire::hello::printable;
use serde::{Deserialize, Serialize};

/// The form written here. A higher one is refused: it may hold what this version does not know to keep.
const FORMAT: u32 = 1;
/// Bytes of a record that is not ours shown in the message.
const SHOWN_BYTES_MAX: usize = 80;

/// Whose record it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the group.
    pub group: String,
    /// Names of the two nodes, in the order of the configuration.
    pub nodes: [String; 2],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    cluster: String,
    group: String,
    epoch: u64,
    primary: String,
    insync: Vec<String>,
    gen_hint: String,
    cache_epoch: u64,
    nonce: String,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Owner {
    /// The record's bytes. Always the same for the same record.
    pub fn encode(&self, record: &Record) -> Vec<u8> {
        let name = |node: NodeId| self.nodes[usize::from(node.0)].clone();
        let stored = Stored {
            format: FORMAT,
            cluster: self.cluster.clone(),
            group: self.group.clone(),
            epoch: record.epoch.0,
            primary: name(record.primary),
            insync: record.insync.members().map(name).collect(),
            gen_hint: record.gen_hint.to_string(),
            cache_epoch: record.cache_epoch,
            nonce: format!("{:016x}", record.nonce),
        };
        let bytes = serde_json::to_vec(&stored).expect("a record has no type that JSON can't hold");
        assert!(bytes.len() <= ARBITER_RECORD_BYTES_MAX, "names are checked with the configuration");
        bytes
    }

    /// The record of these bytes; `place` names where they stand, for the message.
    pub fn decode(&self, bytes: &[u8], place: &str) -> Result<Record, ArbiterError> {
        let foreign = |what: String| ArbiterError::new(ArbiterErrorKind::Foreign, format!("{place} {what}"));
        if bytes.len() > ARBITER_RECORD_BYTES_MAX {
            return Err(foreign(format!("holds {} bytes, more than any record", bytes.len())));
        }
        let unreadable = |error: serde_json::Error| {
            let shown = printable(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]);
            foreign(format!("holds no record of twinblock ({error}): {shown:?}"))
        };
        let Format { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format != FORMAT {
            return Err(foreign(format!("holds a record of format {format}, and this version knows format {FORMAT}")));
        }
        let stored: Stored = serde_json::from_slice(bytes).map_err(unreadable)?;
        if (&stored.cluster, &stored.group) != (&self.cluster, &self.group) {
            let (cluster, group) = (printable(stored.cluster.as_bytes()), printable(stored.group.as_bytes()));
            return Err(foreign(format!("holds the record of group {group} of cluster {cluster}")));
        }
        self.record(&stored).map_err(|what| foreign(format!("holds a record that can't be: {what}")))
    }

    fn record(&self, stored: &Stored) -> Result<Record, String> {
        let mut insync = InSync::NONE;
        for name in &stored.insync {
            insync = insync.with(self.node(name)?);
        }
        let record = Record {
            epoch: Epoch(stored.epoch),
            primary: self.node(&stored.primary)?,
            insync,
            gen_hint: generation(&stored.gen_hint).ok_or("its generation is none")?,
            cache_epoch: stored.cache_epoch,
            nonce: hexadecimal(&stored.nonce).ok_or("its nonce is no number")?,
        };
        record.fault().map_or(Ok(record), |fault| Err(fault.to_string()))
    }

    fn node(&self, name: &str) -> Result<NodeId, String> {
        let index = self.nodes.iter().position(|node| node == name);
        let index = index.ok_or_else(|| format!("{:?} is no node of this cluster", printable(name.as_bytes())))?;
        Ok(NodeId(index as u8))
    }
}

fn generation(text: &str) -> Option<Generation> {
    let (epoch, nonce) = text.split_once(':')?;
    Some(Generation { epoch: epoch.parse().ok()?, nonce: hexadecimal(nonce)? })
}

fn hexadecimal(text: &str) -> Option<u64> {
    let plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner() -> Owner {
        Owner { cluster: "lab".into(), group: "web".into(), nodes: ["alpha".into(), "beta".into()] }
    }

    fn record() -> Record {
        Record {
            epoch: Epoch(7),
            primary: NodeId(1),
            insync: InSync::BOTH,
            gen_hint: Generation { epoch: 7, nonce: 0xc0ffee },
            cache_epoch: 2,
            nonce: 0x1f2e3d4c5b6a7988,
        }
    }

    #[test]
    fn a_person_can_read_it() {
        let text = String::from_utf8(owner().encode(&record())).unwrap();
        assert_eq!(
            text,
            "{\"format\":1,\"cluster\":\"lab\",\"group\":\"web\",\"epoch\":7,\"primary\":\"beta\",\
             \"insync\":[\"alpha\",\"beta\"],\"gen_hint\":\"7:0000000000c0ffee\",\"cache_epoch\":2,\
             \"nonce\":\"1f2e3d4c5b6a7988\"}"
        );
        assert_eq!(owner().decode(text.as_bytes(), "it"), Ok(record()));
        // As an editor leaves it.
        assert_eq!(owner().decode(format!("{text}\n").as_bytes(), "it"), Ok(record()));
    }

    #[test]
    fn what_is_not_ours_is_refused_by_name() {
        let text = String::from_utf8(owner().encode(&record())).unwrap();
        let said = |text: &str| owner().decode(text.as_bytes(), "the key /k").unwrap_err();
        for (from, to, word) in [
            ("\"lab\"", "\"prod\"", "cluster prod"),
            ("\"web\"", "\"mail\"", "group mail"),
            ("\"format\":1", "\"format\":2", "format 2"),
            ("\"primary\":\"beta\"", "\"primary\":\"gamma\"", "gamma"),
            ("[\"alpha\",\"beta\"]", "[]", "nobody is in sync"),
            ("\"epoch\":7", "\"epoch\":0", "epoch is 0"),
            ("1f2e3d4c5b6a7988", "+f2e3d4c5b6a7988", "nonce"),
            ("7:0000000000c0ffee", "7", "generation"),
            ("\"cache_epoch\":2", "\"cache_epoch\":2,\"more\":3", "more"),
            ("{\"format\"", "format", "no record"),
        ] {
            let error = said(&text.replace(from, to));
            assert_eq!(error.kind, ArbiterErrorKind::Foreign);
            assert!(error.detail.contains(word) && error.detail.starts_with("the key /k"), "{}", error.detail);
        }
        assert!(said(&" ".repeat(ARBITER_RECORD_BYTES_MAX + 1)).detail.contains("more than any record"));
    }

    #[test]
    fn nodes_in_another_order_keep_their_names() {
        let mut turned = owner();
        turned.nodes.reverse();
        let decoded = turned.decode(&owner().encode(&record()), "it").unwrap();
        assert_eq!((decoded.primary, decoded.insync), (NodeId(0), InSync::BOTH));
    }

    proptest! {
        #[test]
        fn nothing_from_outside_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = owner().decode(&bytes, "it");
        }

        #[test]
        fn every_record_goes_there_and_back(
            epoch in 1..u64::MAX, primary in 0..2u8, members in 1..4u8, generation: (u64, u64), cache_epoch: u64, nonce: u64
        ) {
            let mut insync = InSync::NONE;
            for node in (0..2).filter(|node| members & (1 << node) != 0) {
                insync = insync.with(NodeId(node));
            }
            let gen_hint = Generation { epoch: generation.0, nonce: generation.1 };
            let record = Record { epoch: Epoch(epoch), primary: NodeId(primary), insync, gen_hint, cache_epoch, nonce };
            prop_assert_eq!(owner().decode(&owner().encode(&record), "it"), Ok(record));
        }
    }
}
