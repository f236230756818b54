//! What the arbiter stores for a group, and what it may answer.
//!
//! The arbiter is one compare-and-set register per group, no lease service: who changes the record from the revision he
//! has seen has won, everyone else sees the winner's record. Time plays no part in it.
//!
//! | answer to a compare-and-set | was it carried out? | what to do |
//! |---|---|---|
//! | [`CasOutcome::Won`] | yes | go on |
//! | [`CasOutcome::Lost`] | no, and it never will be | look at the record that stands there |
//! | [`CasOutcome::Refused`] | no, and it never will be | say why, try again later |
//! | [`CasOutcome::Unknown`] | perhaps; perhaps only later | stay as you are, read, and let [`settle`] judge |

use super::generation::Generation;
use super::ids::{Epoch, NodeId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The record of one group: who owns it, in which epoch, and who holds every acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Rises with every change of the owner and never falls; the fencing token in every frame.
    pub epoch: Epoch,
    /// The node that owns the group.
    pub primary: NodeId,
    /// Nodes that hold every acknowledged write. The owner is missing only while it forwards without a disk.
    pub insync: InSync,
    /// Generation of the owner's data when the record was written; for messages, nothing is decided by it.
    pub gen_hint: Generation,
    /// Rises when acknowledged, unflushed writes may have been lost by a declared takeover.
    pub cache_epoch: u64,
    /// Drawn at random by the proposer for each new record; tells after an ambiguous answer whose record stands there.
    pub nonce: u64,
}

/// A set of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(into = "Vec<NodeId>", try_from = "Vec<NodeId>")]
pub struct InSync(u8);

/// Position of a record in the order of the register's changes. It rises with every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// A record and where it stands: what the next compare-and-set expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Versioned {
    /// The record.
    pub record: Record,
    /// Its revision.
    pub revision: Revision,
}

/// The outcome of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// A record stands there.
    Found(Versioned),
    /// Nothing was ever stored, as far as this node knows.
    Absent,
    /// Nothing is known.
    Failed(ArbiterError),
}

/// The outcome of a compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CasOutcome {
    /// The new record stands there, at this revision.
    Won(Revision),
    /// Another record stands there, or none although one was expected.
    Lost(Option<Versioned>),
    /// It certainly was not carried out and will not be: the arbiter could not be asked, or said no.
    Refused(ArbiterError),
    /// It was or will be carried out, or not: the answer is missing.
    Unknown(ArbiterError),
}

/// Why the arbiter gave no good answer: a kind to decide by, and the sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArbiterError {
    /// What is wrong.
    pub kind: ArbiterErrorKind,
    /// What happened, where: names the endpoint or file and the reason. Holds no secret.
    pub detail: String,
    /// What stands there, where that was the trouble ([`ArbiterErrorKind::WentBack`]): what an operator's overwrite
    /// expects to find.
    pub found: Option<Versioned>,
}

/// What is wrong with the arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArbiterErrorKind {
    /// No endpoint answers, or the directory is not there.
    Unreachable,
    /// Asked, and no answer in time.
    TimedOut,
    /// The server's certificate is not one the configured authority signed for this name, or it does not take ours.
    Certificate,
    /// User and password are refused.
    Credentials,
    /// Known, but not allowed to read or write there.
    Permission,
    /// Nothing can be written now: no leader, no quorum, no space.
    ReadOnly,
    /// The revision asked for is not kept any more.
    Compacted,
    /// What stands there was not written by this cluster, for this group, in a form known here.
    Foreign,
    /// The record is older than one seen before, or gone: the store was restored from a backup, replaced or cleared.
    WentBack,
    /// The directory is not the same one on both servers, or it does not keep what shared storage must keep.
    NotShared,
    /// The server answered something that is no answer.
    Protocol,
}

/// What a read says about an earlier compare-and-set whose answer was missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It was carried out.
    Won(Revision),
    /// It was not and will not be, or has been replaced since.
    Lost(Option<Versioned>),
    /// Nothing has changed: it may still be on its way. Only another change of the register ends that, for example the
    /// same compare-and-set, with the same nonce, once more.
    Open,
}

/// Judges an ambiguous compare-and-set from `expected` to `new` by what a later read found.
pub fn settle(expected: Option<&Versioned>, new: &Record, found: Option<&Versioned>) -> Settled {
    match found {
        Some(found) if found.record.nonce == new.nonce && found.record == *new => Settled::Won(found.revision),
        _ if found == expected => Settled::Open,
        _ => Settled::Lost(found.copied()),
    }
}

impl Record {
    /// Whether this may be stored at all; the reason when not.
    pub fn fault(&self) -> Option<&'static str> {
        if self.epoch.0 == 0 {
            Some("its epoch is 0")
        } else if self.primary.0 > 1 {
            Some("its primary is no node of the pair")
        } else if self.insync.is_empty() {
            Some("nobody is in sync in it")
        } else {
            None
        }
    }

    /// Whether this may replace `earlier`: the epoch never falls, and rises when the owner changes.
    pub fn may_follow(&self, earlier: &Record) -> bool {
        let same_owner = self.primary == earlier.primary;
        let risen = self.epoch > earlier.epoch || same_owner && self.epoch == earlier.epoch;
        risen && self.cache_epoch >= earlier.cache_epoch && self.nonce != earlier.nonce
    }
}

impl InSync {
    /// No node.
    pub const NONE: InSync = InSync(0);
    /// Both nodes.
    pub const BOTH: InSync = InSync(0b11);

    /// Only this node.
    pub fn only(node: NodeId) -> InSync {
        assert!(node.0 <= 1, "a pair has two nodes");
        InSync(1 << node.0)
    }

    /// Whether the node is a member.
    pub fn contains(self, node: NodeId) -> bool {
        node.0 <= 1 && self.0 & 1 << node.0 != 0
    }

    /// The same with this node.
    pub fn with(self, node: NodeId) -> InSync {
        InSync(self.0 | InSync::only(node).0)
    }

    /// The same without this node.
    pub fn without(self, node: NodeId) -> InSync {
        InSync(self.0 & !InSync::only(node).0)
    }

    /// Whether there is no member.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, in order.
    pub fn members(self) -> impl Iterator<Item = NodeId> {
        (0..2).map(NodeId).filter(move |node| self.contains(*node))
    }
}

impl From<InSync> for Vec<NodeId> {
    fn from(set: InSync) -> Vec<NodeId> {
        set.members().collect()
    }
}

impl TryFrom<Vec<NodeId>> for InSync {
    type Error = String;
    fn try_from(nodes: Vec<NodeId>) -> Result<InSync, String> {
        match nodes.iter().find(|node| node.0 > 1) {
            Some(node) => Err(format!("there is no node {node}")),
            None => Ok(nodes.into_iter().fold(InSync::NONE, InSync::with)),
        }
    }
}

impl fmt::Debug for InSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.members().map(|node| node.0)).finish()
    }
}

impl ArbiterError {
    /// An error of a kind, with the sentence for people.
    pub fn new(kind: ArbiterErrorKind, detail: impl Into<String>) -> ArbiterError {
        ArbiterError { kind, detail: detail.into(), found: None }
    }

    /// Whether another try may help without anybody doing something.
    pub fn is_passing(&self) -> bool {
        use ArbiterErrorKind as Kind;
        matches!(self.kind, Kind::Unreachable | Kind::TimedOut | Kind::ReadOnly | Kind::Compacted)
    }

    /// What an operator does about it, one sentence.
    pub fn next(&self) -> &'static str {
        use ArbiterErrorKind as Kind;
        match self.kind {
            Kind::Unreachable => "check that the arbiter runs, its address in the configuration, and the network to it",
            Kind::TimedOut => "look at the arbiter's load and at the network to it",
            Kind::Certificate => {
                "check `ca`, `certificate` and `key` of the arbiter, their dates and the server's names"
            }
            Kind::Credentials => "check the user and the password file of the arbiter",
            Kind::Permission => "give this user the right to read and write the group's record",
            Kind::ReadOnly => {
                "bring the arbiter back to a quorum with free space (etcd: `endpoint status`, `alarm list`)"
            }
            Kind::Compacted => "nothing: the record is read anew",
            Kind::Foreign => "check that no other cluster or program uses this key or directory",
            Kind::WentBack => {
                "find out which server holds the newest data, then run `group recover`, which writes a newer record"
            }
            Kind::NotShared => "put the directory on storage that both servers share and that keeps locks and renames",
            Kind::Protocol => "check that the address is that of the arbiter, and its version",
        }
    }
}

impl fmt::Display for ArbiterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.detail, self.next())
    }
}

impl fmt::Display for ArbiterErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArbiterErrorKind::Unreachable => "unreachable",
            ArbiterErrorKind::TimedOut => "timed-out",
            ArbiterErrorKind::Certificate => "certificate",
            ArbiterErrorKind::Credentials => "credentials",
            ArbiterErrorKind::Permission => "permission",
            ArbiterErrorKind::ReadOnly => "read-only",
            ArbiterErrorKind::Compacted => "compacted",
            ArbiterErrorKind::Foreign => "foreign",
            ArbiterErrorKind::WentBack => "went-back",
            ArbiterErrorKind::NotShared => "not-shared",
            ArbiterErrorKind::Protocol => "protocol",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(0);
    const B: NodeId = NodeId(1);

    fn record(epoch: u64, primary: NodeId, insync: InSync, nonce: u64) -> Record {
        Record { epoch: Epoch(epoch), primary, insync, gen_hint: Generation::NONE, cache_epoch: 0, nonce }
    }

    fn at(record: Record, revision: u64) -> Versioned {
        Versioned { record, revision: Revision(revision) }
    }

    #[test]
    fn an_ambiguous_answer_is_settled_by_the_nonce_alone() {
        let old = at(record(1, A, InSync::BOTH, 10), 5);
        let mine = record(2, B, InSync::only(B), 11);
        assert_eq!(settle(Some(&old), &mine, Some(&at(mine, 6))), Settled::Won(Revision(6)));
        assert_eq!(settle(Some(&old), &mine, Some(&old)), Settled::Open, "it may still arrive");
        // The other node proposed the very same content.
        let theirs = at(Record { nonce: 12, ..mine }, 6);
        assert_eq!(settle(Some(&old), &mine, Some(&theirs)), Settled::Lost(Some(theirs)));
        assert_eq!(settle(Some(&old), &mine, None), Settled::Lost(None));
        assert_eq!(settle(None, &mine, None), Settled::Open);
        assert_eq!(settle(None, &mine, Some(&at(mine, 1))), Settled::Won(Revision(1)));
        // A store that was restored may give the old revision to another record.
        let restored = at(record(1, A, InSync::only(A), 9), 5);
        assert_eq!(settle(Some(&old), &mine, Some(&restored)), Settled::Lost(Some(restored)));
    }

    #[test]
    fn a_record_follows_another_only_forwards() {
        let old = record(3, A, InSync::BOTH, 1);
        assert!(record(3, A, InSync::only(A), 2).may_follow(&old));
        assert!(record(4, B, InSync::only(B), 2).may_follow(&old));
        assert!(!record(3, B, InSync::only(B), 2).may_follow(&old), "the owner changes only with the epoch");
        assert!(!record(2, A, InSync::BOTH, 2).may_follow(&old));
        assert!(!record(3, A, InSync::BOTH, 1).may_follow(&old), "each proposal has a nonce of its own");
        let lossy = Record { cache_epoch: 1, ..old };
        assert!(!record(4, A, InSync::BOTH, 2).may_follow(&lossy));
    }

    #[test]
    fn what_may_not_be_stored_is_named() {
        assert_eq!(record(1, A, InSync::only(B), 1).fault(), None, "forwarding without a disk");
        assert!(record(0, A, InSync::BOTH, 1).fault().is_some());
        assert!(record(1, NodeId(2), InSync::BOTH, 1).fault().is_some());
        assert!(record(1, A, InSync::NONE, 1).fault().is_some());
    }

    #[test]
    fn a_set_of_nodes_is_one() {
        for (set, members) in
            [(InSync::NONE, vec![]), (InSync::only(A), vec![A]), (InSync::only(B), vec![B]), (InSync::BOTH, vec![A, B])]
        {
            assert_eq!(set.members().collect::<Vec<_>>(), members);
            assert_eq!(InSync::try_from(members.clone()), Ok(set));
            assert!(!set.with(A).without(A).contains(A));
            assert_eq!(set.without(A).with(A).without(B), InSync::only(A));
            assert_eq!(set.is_empty(), members.is_empty());
        }
        assert!(InSync::try_from(vec![NodeId(2)]).is_err());
        assert!(!InSync::BOTH.contains(NodeId(2)));
    }
}
