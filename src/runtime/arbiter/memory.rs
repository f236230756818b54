//! What this node has seen of the arbiter, so that one that went back in time is noticed.
//!
//! A store that was restored from a backup holds a record that was true once. Whoever believes it may take over without
//! the writes acknowledged since. So a node remembers the store's identity, how far its revision had come, and the
//! newest record; anything older is refused until an operator has looked. The caller keeps the memory across restarts
//! ([`Memory::save`], [`Memory::load`]); without it only what happens during this process's life is noticed.

use super::register::Seen;
use crate::base::arbiter::{ArbiterError, ArbiterErrorKind, Versioned};
use crate::base::ids::Epoch;
use crate::io::files::write_atomically;
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::path::Path;

/// Largest file of a memory, in bytes: one that is larger is not ours.
const FILE_BYTES_MAX: u64 = 4096;

/// What was seen. A new node has seen nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Identity of the store: etcd's cluster id, or the directory's own.
    pub store: Option<String>,
    /// Highest revision of the store as a whole.
    pub store_revision: u64,
    /// The newest record.
    pub record: Option<Versioned>,
    /// The highest epoch this node knows from anywhere, its own metadata included.
    pub epoch: Epoch,
}

impl Memory {
    /// Whether a store may be the one seen before.
    pub fn judge_store(&self, store: &str, revision: u64) -> Result<(), ArbiterError> {
        if let Some(known) = self.store.as_deref().filter(|known| *known != store) {
            return Err(went_back(format!(
                "the arbiter's store is another one than before ({store}, it was {known}): it was restored or replaced"
            )));
        }
        if revision < self.store_revision {
            return Err(went_back(format!(
                "the arbiter's store went back in time, to revision {revision} from {}: it was restored from a backup",
                self.store_revision
            )));
        }
        Ok(())
    }

    /// Whether what was found may follow what was seen; remembers it when it may.
    pub fn judge(&mut self, seen: &Seen, found: Option<Versioned>) -> Result<(), ArbiterError> {
        let with_found = |error: ArbiterError| ArbiterError { found, ..error };
        self.judge_store(&seen.store, seen.store_revision).map_err(with_found)?;
        let known = self.epoch;
        let Some(found) = found else {
            return match known.0 {
                0 => {
                    self.remember(seen, None);
                    Ok(())
                }
                _ => Err(went_back(format!("the record is gone from the arbiter; it was in epoch {}", known.0))),
            };
        };
        if found.record.epoch < known {
            return Err(with_found(went_back(format!(
                "the arbiter's record is of epoch {}, and epoch {} has been seen: it was restored from a backup",
                found.record.epoch.0, known.0
            ))));
        }
        if let Some(last) = self.record {
            let other = found.revision == last.revision && found.record != last.record;
            if found.revision < last.revision || other {
                return Err(with_found(went_back(format!(
                    "the arbiter's record stands at revision {}, and revision {} held another one: it was restored \
                     from a backup",
                    found.revision.0, last.revision.0
                ))));
            }
        }
        self.remember(seen, Some(found));
        Ok(())
    }

    /// Takes in what certainly stands there now.
    pub fn remember(&mut self, seen: &Seen, found: Option<Versioned>) {
        self.store = Some(seen.store.clone());
        self.store_revision = self.store_revision.max(seen.store_revision);
        if let Some(found) = found {
            self.epoch = self.epoch.max(found.record.epoch);
            self.record = Some(found);
        }
    }

    /// Takes in an epoch known from elsewhere: this node's metadata, or the peer.
    pub fn raise(&mut self, epoch: Epoch) {
        self.epoch = self.epoch.max(epoch);
    }

    /// An operator has looked: whatever store and record are there now are good. The epoch stays, for a new record
    /// must be above it.
    pub fn accept_store(&mut self) {
        *self = Memory { epoch: self.epoch, ..Memory::default() };
    }

    /// Reads a memory; one that was never saved is empty. The error is a sentence.
    pub fn load(path: &Path) -> Result<Memory, String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!("what was seen of the arbiter ({}) can't be read: {error}; remove it if it is lost", path.display())
        };
        let mut text = String::new();
        match std::fs::File::open(path) {
            Ok(file) => file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| failed(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Memory::default()),
            Err(error) => return Err(failed(&error)),
        };
        serde_json::from_str(&text).map_err(|error| failed(&error))
    }

    /// Saves it, durably and whole or not at all. Blocks on the disk: not for the task that answers heartbeats.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        write_atomically(path, &serde_json::to_vec(self).map_err(io::Error::other)?)
    }
}

fn went_back(detail: String) -> ArbiterError {
    ArbiterError::new(ArbiterErrorKind::WentBack, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::arbiter::{InSync, Record, Revision};
    use crate::base::generation::Generation;
    use crate::base::ids::NodeId;

    fn seen(store: &str, store_revision: u64) -> Seen {
        Seen { store: store.into(), store_revision, entry: None }
    }

    fn at(revision: u64, epoch: u64, nonce: u64) -> Versioned {
        let (primary, insync) = (NodeId(0), InSync::BOTH);
        let record = Record { epoch: Epoch(epoch), primary, insync, gen_hint: Generation::NONE, cache_epoch: 0, nonce };
        Versioned { record, revision: Revision(revision) }
    }

    fn after(found: Versioned) -> Memory {
        let mut memory = Memory::default();
        memory.judge(&seen("s", 9), Some(found)).unwrap();
        memory
    }

    #[test]
    fn forwards_is_allowed() {
        let mut memory = after(at(5, 3, 1));
        assert_eq!(memory.judge(&seen("s", 9), Some(at(5, 3, 1))), Ok(()), "the same again");
        assert_eq!(memory.judge(&seen("s", 10), Some(at(10, 3, 2))), Ok(()));
        assert_eq!(memory.judge(&seen("s", 12), Some(at(12, 4, 3))), Ok(()));
        assert_eq!(Memory::default().judge(&seen("s", 1), None), Ok(()), "a new cluster");
    }

    #[test]
    fn backwards_is_refused_and_says_what_is_there() {
        for (what, seen, found) in [
            ("other store", seen("t", 20), Some(at(20, 9, 7))),
            ("store's revision", seen("s", 8), Some(at(5, 3, 1))),
            ("epoch", seen("s", 20), Some(at(20, 2, 7))),
            ("record's revision", seen("s", 20), Some(at(4, 3, 7))),
            ("another record at the same revision", seen("s", 20), Some(at(5, 3, 7))),
            ("gone", seen("s", 20), None),
        ] {
            let mut memory = after(at(5, 3, 1));
            let before = memory.clone();
            let error = memory.judge(&seen, found).unwrap_err();
            assert_eq!((error.kind, error.found), (ArbiterErrorKind::WentBack, found), "{what}");
            assert_eq!(memory, before, "{what}: what is refused is not believed");
        }
    }

    #[test]
    fn an_operator_can_accept_another_store_but_the_epoch_stays() {
        let mut memory = after(at(5, 3, 1));
        memory.accept_store();
        assert!(memory.judge(&seen("t", 1), None).is_err(), "the record is still missing");
        assert!(memory.judge(&seen("t", 1), Some(at(1, 2, 8))).is_err());
        assert_eq!(memory.judge(&seen("t", 1), Some(at(1, 4, 8))), Ok(()));
    }

    #[test]
    fn an_epoch_from_elsewhere_counts() {
        let mut memory = Memory::default();
        memory.raise(Epoch(5));
        memory.raise(Epoch(4));
        assert!(memory.judge(&seen("s", 1), Some(at(1, 4, 1))).is_err());
    }

    #[test]
    fn it_is_kept_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.arbiter");
        assert_eq!(Memory::load(&path), Ok(Memory::default()));
        let memory = after(at(5, 3, u64::MAX));
        memory.save(&path).unwrap();
        memory.save(&path).unwrap();
        assert_eq!(Memory::load(&path), Ok(memory));
        std::fs::write(&path, "{").unwrap();
        assert!(Memory::load(&path).unwrap_err().contains("web.arbiter"));
    }
}
