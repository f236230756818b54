//! The connect handshake: one pure, total, mirror-symmetric function of two descriptors.
//!
//! Both nodes exchange descriptors, both call [`decide`], both send the result as codes, and unless the codes are each
//! other's mirror image nothing happens. A decision is a rule (why) and a plan (what). No decision moves data by itself and
//! none drops a mark: "nothing to copy" is a resync of zero blocks that ends with the same flushes (rules R3, R7).
//!
//! | rule | condition, first match counts | plan |
//! |---|---|---|
//! | Protocol, Volume, SameNode, Clone, Mode | not a pair | refuse |
//! | Size | a disk is smaller than the volume | refuse |
//! | NoDisk, OneDisk | a side without a disk | refuse; forward |
//! | BothDiscard, Discard | the operator gave up one side | refuse; that side is the target |
//! | BothNew, OneNew | content unknown | refuse; the other is the source |
//! | Unrelated, Fork | no common past; both went on alone | refuse |
//! | SplitPolicy | both went on alone, and the policy of both names the one to give up | that side is the target |
//! | Archive | the target of any of these has what it could not archive | refuse |
//! | Newer | one side's content descends from the other's | the newer is the source, by its marks where they fit |
//! | NewestInconsistent | the newer side is half a copy | refuse |
//! | BothInconsistent, OneInconsistent | equal generations | refuse; the whole one is the source |
//! | BothPrimary | equal generations | the lower epoch demotes |
//! | Primary, PrimaryWithoutMemory | equal, one primary | it is the source; refuse |
//! | Survivor | equal, both secondary | who remembers most is the source (rule R6) |

use super::mutation::{Mutation, Rules};
use crate::base::generation::{Generation, Relation};
use crate::base::state::{DiskState, Mode, ResyncKind, Role};
use crate::wire::message::{
    Continuity, Descriptor, FEATURE_ARCHIVE_FAILED, FEATURE_DISCARD_LEAST, FEATURE_DISCARD_OLDER,
    FEATURE_DISCARD_YOUNGER, FEATURE_DISCARD_ZERO_CHANGES,
};
use std::cmp::Ordering;

/// One of the two nodes, seen from the one that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The node that decides.
    Ours,
    /// Its peer.
    Theirs,
}

impl Side {
    /// The other side.
    pub fn other(self) -> Side {
        match self {
            Side::Ours => Side::Theirs,
            Side::Theirs => Side::Ours,
        }
    }
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the table above names each")]
#[repr(u16)]
pub enum Rule {
    Protocol = 1,
    Volume,
    SameNode,
    Clone,
    Mode,
    Size,
    NoDisk,
    OneDisk,
    BothDiscard,
    DiscardPrimary,
    Discard,
    BothNew,
    OneNew,
    NoGoodSource,
    Unrelated,
    Fork,
    Newer,
    NewestInconsistent,
    BothInconsistent,
    OneInconsistent,
    InconsistentPrimary,
    BothPrimary,
    Primary,
    PrimaryWithoutMemory,
    Survivor,
    SplitPolicy,
    Archive,
}

impl Rule {
    /// The rule's name in logs and status.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Protocol => "protocol-differs",
            Rule::Volume => "another-volume",
            Rule::SameNode => "same-node",
            Rule::Clone => "cloned-disk",
            Rule::Mode => "mode-differs",
            Rule::Size => "disk-too-small",
            Rule::NoDisk => "no-disk-anywhere",
            Rule::OneDisk => "one-disk",
            Rule::BothDiscard => "both-given-up",
            Rule::DiscardPrimary => "given-up-side-is-primary",
            Rule::Discard => "given-up-by-operator",
            Rule::BothNew => "both-new",
            Rule::OneNew => "new-disk",
            Rule::NoGoodSource => "no-good-source",
            Rule::Unrelated => "unrelated-data",
            Rule::Fork => "split-brain",
            Rule::Newer => "newer-generation",
            Rule::NewestInconsistent => "newest-is-inconsistent",
            Rule::BothInconsistent => "both-inconsistent",
            Rule::OneInconsistent => "unfinished-resync",
            Rule::InconsistentPrimary => "inconsistent-primary",
            Rule::BothPrimary => "both-primary",
            Rule::Primary => "primary-is-source",
            Rule::PrimaryWithoutMemory => "primary-without-memory",
            Rule::Survivor => "survivor-is-source",
            Rule::SplitPolicy => "split-brain-by-policy",
            Rule::Archive => "archive-failed",
        }
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plan {
    /// No data moves until an operator acts.
    Refuse,
    /// One side has no disk; it may only forward to the other.
    Forward {
        /// The side with the disk.
        disk: Side,
    },
    /// This side demotes and both connect again.
    Demote {
        /// The side that demotes.
        side: Side,
    },
    /// The source brings the target in sync.
    Sync(Sync),
}

/// How a sync is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sync {
    /// Whose data counts.
    pub source: Side,
    /// How it finds out what to copy; `None` when nothing is marked on either side.
    pub kind: Option<ResyncKind>,
    /// The target is a stale primary that never acknowledged alone: it demotes first.
    pub demote: bool,
    /// The target's generation is not one that the source's marks are relative to: it gets one for the time of the copy.
    pub tag: bool,
    /// The target's disk is known to read as zeroes: zeroes need not be sent.
    pub zeroed: bool,
    /// The write-intents of a life that ended need not be looked at (rule R11).
    pub skip_intents: bool,
}

/// A rule and its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Why.
    pub rule: Rule,
    /// What.
    pub plan: Plan,
}

impl Plan {
    /// The same plan seen from the other side.
    pub fn mirrored(self) -> Plan {
        match self {
            Plan::Refuse => Plan::Refuse,
            Plan::Forward { disk } => Plan::Forward { disk: disk.other() },
            Plan::Demote { side } => Plan::Demote { side: side.other() },
            Plan::Sync(sync) => Plan::Sync(Sync { source: sync.source.other(), ..sync }),
        }
    }

    /// A code for the wire. Equal plans and only they have equal codes.
    pub fn code(self) -> u16 {
        let side = |side| match side {
            Side::Ours => 0,
            Side::Theirs => 1,
        };
        match self {
            Plan::Refuse => 0,
            Plan::Forward { disk } => 2 + side(disk),
            Plan::Demote { side: who } => 4 + side(who),
            Plan::Sync(sync) => {
                let kind = match sync.kind {
                    None => 0,
                    Some(ResyncKind::Differential) => 1,
                    Some(ResyncKind::Compare) => 2,
                    Some(ResyncKind::Full) => 3,
                };
                let flag = |flag: bool, bit: u16| if flag { 1 << bit } else { 0 };
                0x100
                    | side(sync.source)
                    | kind << 1
                    | flag(sync.demote, 3)
                    | flag(sync.tag, 4)
                    | flag(sync.zeroed, 5)
                    | flag(sync.skip_intents, 6)
            }
        }
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Plan::Refuse => f.write_str("no data moves until an operator acts"),
            Plan::Forward { disk: Side::Ours } => f.write_str("the peer has no disk; this node's serves"),
            Plan::Forward { disk: Side::Theirs } => f.write_str("this node has no disk; the peer's serves"),
            Plan::Demote { side: Side::Ours } => f.write_str("this node steps down"),
            Plan::Demote { side: Side::Theirs } => f.write_str("the peer steps down"),
            Plan::Sync(sync) => {
                let way = match sync.source {
                    Side::Ours => "from this node to the peer",
                    Side::Theirs => "from the peer to this node",
                };
                match sync.kind {
                    None => write!(f, "nothing to copy {way}")?,
                    Some(kind) => write!(f, "{kind} resync {way}")?,
                }
                if sync.demote { f.write_str(", which steps down") } else { Ok(()) }
            }
        }
    }
}

/// Decides how two nodes that just met go on. `decide(a, b)` is the mirror image of `decide(b, a)`.
pub fn decide(ours: &Descriptor, theirs: &Descriptor) -> Decision {
    decide_by(Rules::default(), ours, theirs)
}

/// [`decide`] under the given rules.
pub(super) fn decide_by(rules: Rules, ours: &Descriptor, theirs: &Descriptor) -> Decision {
    let case = Case { rules, ours, theirs, relation: ours.lineage.relation(&theirs.lineage) };
    case.misfit()
        .or_else(|| case.without_disk())
        .or_else(|| case.given_up())
        .or_else(|| case.content_unknown())
        .unwrap_or_else(|| match case.relation {
            Relation::Equal => case.equal(),
            Relation::Unrelated => refuse(Rule::Unrelated),
            Relation::Fork => case.fork(),
            Relation::OursNewerMarks => case.newer(Side::Ours, true),
            Relation::OursNewerHistory => case.newer(Side::Ours, false),
            Relation::TheirsNewerMarks => case.newer(Side::Theirs, true),
            Relation::TheirsNewerHistory => case.newer(Side::Theirs, false),
        })
}

/// Whether `node`'s marks are all it changed since both held the same: they are relative to a generation the other had.
pub(super) fn changes_are_known(node: &Descriptor, other: &Descriptor) -> bool {
    let had = |base| other.lineage.bases.contains(base) || other.lineage.history.contains(base);
    node.maps_readable && node.lineage.bases.iter().any(had)
}

/// The features by which a fork is settled unasked. A side that changed nothing gives way by each of them.
const POLICIES: u64 =
    FEATURE_DISCARD_ZERO_CHANGES | FEATURE_DISCARD_LEAST | FEATURE_DISCARD_YOUNGER | FEATURE_DISCARD_OLDER;

fn refuse(rule: Rule) -> Decision {
    Decision { rule, plan: Plan::Refuse }
}

struct Case<'a> {
    rules: Rules,
    ours: &'a Descriptor,
    theirs: &'a Descriptor,
    relation: Relation,
}

impl Case<'_> {
    fn node(&self, side: Side) -> &Descriptor {
        match side {
            Side::Ours => self.ours,
            Side::Theirs => self.theirs,
        }
    }

    fn either(&self, holds: impl Fn(&Descriptor) -> bool) -> bool {
        holds(self.ours) || holds(self.theirs)
    }

    fn both(&self, holds: impl Fn(&Descriptor) -> bool) -> bool {
        holds(self.ours) && holds(self.theirs)
    }

    fn the_one(&self, holds: impl Fn(&Descriptor) -> bool) -> Side {
        if holds(self.ours) { Side::Ours } else { Side::Theirs }
    }

    /// Not a pair at all.
    fn misfit(&self) -> Option<Decision> {
        let (a, b) = (self.ours, self.theirs);
        if a.protocol != b.protocol {
            return Some(refuse(Rule::Protocol));
        }
        if a.volume != b.volume {
            return Some(refuse(Rule::Volume));
        }
        if a.node == b.node {
            return Some(refuse(Rule::SameNode));
        }
        if a.mode != b.mode {
            return Some(refuse(Rule::Mode));
        }
        let has_disk = |n: &Descriptor| n.disk != DiskState::Diskless;
        if self.both(has_disk) && a.device == b.device {
            return Some(refuse(Rule::Clone));
        }
        let committed = a.committed_bytes.max(b.committed_bytes);
        if self.either(|n| has_disk(n) && n.capacity_bytes < committed) {
            return Some(refuse(Rule::Size));
        }
        None
    }

    fn without_disk(&self) -> Option<Decision> {
        let diskless = |n: &Descriptor| n.disk == DiskState::Diskless;
        if self.both(diskless) {
            return Some(refuse(Rule::NoDisk));
        }
        if self.either(diskless) {
            let disk = self.the_one(diskless).other();
            return Some(Decision { rule: Rule::OneDisk, plan: Plan::Forward { disk } });
        }
        None
    }

    /// The operator chose the victim: rows that refuse become a compare from the other side.
    fn given_up(&self) -> Option<Decision> {
        let discards = |n: &Descriptor| n.discard;
        if self.both(discards) {
            return Some(refuse(Rule::BothDiscard));
        }
        if !self.either(discards) {
            return None;
        }
        let victim = self.the_one(discards);
        if self.node(victim).role == Role::Primary {
            return Some(refuse(Rule::DiscardPrimary));
        }
        if !matches!(self.node(victim.other()).disk, DiskState::UpToDate | DiskState::Outdated) {
            return Some(refuse(Rule::NoGoodSource));
        }
        Some(self.sync(Rule::Discard, victim.other(), Basis::None))
    }

    fn content_unknown(&self) -> Option<Decision> {
        let new = |n: &Descriptor| n.disk == DiskState::New;
        if self.both(new) {
            return Some(refuse(Rule::BothNew));
        }
        if !self.either(new) {
            return None;
        }
        let source = self.the_one(new).other();
        if self.node(source).disk != DiskState::UpToDate {
            return Some(refuse(Rule::NoGoodSource));
        }
        if self.node(source.other()).role == Role::Primary {
            return Some(refuse(Rule::InconsistentPrimary));
        }
        Some(self.sync(Rule::OneNew, source, Basis::None))
    }

    /// Both went on alone. A policy chooses only where what each has changed is known, and the same on both.
    fn fork(&self) -> Decision {
        let victim = if self.changes_are_known() { self.victim_by_policy() } else { None };
        victim.map_or(refuse(Rule::Fork), |victim| self.sync(Rule::SplitPolicy, victim.other(), Basis::None))
    }

    /// Whether the marks of each are relative to a generation that both have had: then no marks mean no changes.
    fn changes_are_known(&self) -> bool {
        self.both(|n| n.disk == DiskState::UpToDate)
            && changes_are_known(self.ours, self.theirs)
            && changes_are_known(self.theirs, self.ours)
    }

    fn victim_by_policy(&self) -> Option<Side> {
        let agreed = self.ours.features & self.theirs.features;
        let changed = |n: &Descriptor| n.marked || n.intents_marked;
        if agreed & POLICIES != 0 && !self.both(changed) {
            if self.either(changed) {
                return Some(self.the_one(changed).other());
            }
            // Neither has anything to lose: the one that was primary last is kept, as its clients know it.
            let rank = |n: &Descriptor| (n.role == Role::Primary, n.primary_epoch, std::cmp::Reverse(n.node));
            return Some(if rank(self.ours) < rank(self.theirs) { Side::Ours } else { Side::Theirs });
        }
        let by_epoch = self.ours.primary_epoch.cmp(&self.theirs.primary_epoch);
        let order = match agreed & POLICIES {
            FEATURE_DISCARD_LEAST => self.ours.marked_bytes.cmp(&self.theirs.marked_bytes),
            FEATURE_DISCARD_OLDER => by_epoch,
            FEATURE_DISCARD_YOUNGER => by_epoch.reverse(),
            _ => return None,
        };
        let victim = match order {
            Ordering::Less => Side::Ours,
            Ordering::Greater => Side::Theirs,
            Ordering::Equal => return None,
        };
        // Its clients saw their writes acknowledged: they are not cut without an operator.
        (self.node(victim).role == Role::Secondary).then_some(victim)
    }

    fn newer(&self, source: Side, marks_fit: bool) -> Decision {
        if self.node(source).disk == DiskState::Inconsistent {
            return refuse(Rule::NewestInconsistent);
        }
        self.sync(Rule::Newer, source, if marks_fit { Basis::SourceMarks } else { Basis::None })
    }

    fn equal(&self) -> Decision {
        let inconsistent = |n: &Descriptor| n.disk == DiskState::Inconsistent;
        let primary = |n: &Descriptor| n.role == Role::Primary;
        if self.both(inconsistent) {
            return refuse(Rule::BothInconsistent);
        }
        if self.either(inconsistent) {
            let target = self.the_one(inconsistent);
            if primary(self.node(target)) {
                return refuse(Rule::InconsistentPrimary);
            }
            return self.sync(Rule::OneInconsistent, target.other(), Basis::AllMarks);
        }
        if self.both(primary) {
            let ours_lower = (self.ours.primary_epoch, std::cmp::Reverse(self.ours.node))
                < (self.theirs.primary_epoch, std::cmp::Reverse(self.theirs.node));
            let side = if ours_lower { Side::Ours } else { Side::Theirs };
            return Decision { rule: Rule::BothPrimary, plan: Plan::Demote { side } };
        }
        if self.either(primary) {
            let source = self.the_one(primary);
            // Serving alone after a restart begins a new generation, so an equal one means that something is wrong.
            if self.node(source).continuity != Continuity::SameProcess {
                return refuse(Rule::PrimaryWithoutMemory);
            }
            return self.sync(Rule::Primary, source, Basis::AllMarks);
        }
        self.sync(Rule::Survivor, self.survivor(), Basis::AllMarks)
    }

    /// Rule R6: who kept memory since the last join, then who kept the disk's cache, then the better disk, then the last
    /// primary, then the lower node id. A primary that came back quickly is not the source just because it was primary.
    fn survivor(&self) -> Side {
        let (a, b) = (self.ours, self.theirs);
        let by_memory = self.memory(a).cmp(&self.memory(b));
        let by_disk = (a.disk == DiskState::UpToDate).cmp(&(b.disk == DiskState::UpToDate));
        let by_epoch = a.primary_epoch.cmp(&b.primary_epoch);
        let by_node = b.node.cmp(&a.node);
        let order = if self.rules.broken(Mutation::R6) {
            by_epoch.then(by_node)
        } else {
            by_memory.then(by_disk).then(by_epoch).then(by_node)
        };
        if order == Ordering::Greater { Side::Ours } else { Side::Theirs }
    }

    /// What a node's continuity is worth in the volume's mode. A memory-synchronous secondary promised what only its
    /// process held; an asynchronous one never promised anything, so there the last primary counts.
    fn memory(&self, node: &Descriptor) -> Continuity {
        match (node.mode, node.continuity) {
            (Mode::Async, _) => Continuity::Rebooted,
            (Mode::Memory, Continuity::SameBoot) => Continuity::Rebooted,
            (_, continuity) => continuity,
        }
    }

    fn sync(&self, rule: Rule, source: Side, basis: Basis) -> Decision {
        let (s, t) = (self.node(source), self.node(source.other()));
        if t.features & FEATURE_ARCHIVE_FAILED != 0 {
            return refuse(Rule::Archive);
        }
        let readable = self.both(|n| n.maps_readable) || self.rules.broken(Mutation::R12);
        let exact = self.both(|n| n.exact)
            && (self.both(|n| n.gated_since_join) || self.rules.broken(Mutation::R11))
            && s.continuity == Continuity::SameProcess
            && matches!(basis, Basis::AllMarks);
        let untouched = t.disk == DiskState::UpToDate && !t.marked && !t.intents_marked;
        let zeroed = t.lineage.current == Generation::ZEROED && untouched && matches!(basis, Basis::None);
        let requested = match (self.ours.requested, self.theirs.requested) {
            (Some(ResyncKind::Full), _) | (_, Some(ResyncKind::Full)) => Some(ResyncKind::Full),
            (Some(_), _) | (_, Some(_)) => Some(ResyncKind::Compare),
            (None, None) => None,
        };
        let by_content = match basis {
            // Nothing to compare with on a disk of zeroes: what isn't zero here is what differs.
            Basis::None if zeroed => Some(ResyncKind::Full),
            Basis::None => Some(ResyncKind::Compare),
            _ if !readable => Some(ResyncKind::Compare),
            Basis::SourceMarks => Some(ResyncKind::Differential),
            Basis::AllMarks => {
                let marked =
                    self.either(|n| n.marked || (n.intents_marked && !exact)) || t.disk == DiskState::Inconsistent;
                marked.then_some(ResyncKind::Differential)
            }
        };
        Decision {
            rule,
            plan: Plan::Sync(Sync {
                source,
                kind: requested.or(by_content),
                demote: t.role == Role::Primary,
                tag: matches!(basis, Basis::None),
                zeroed,
                skip_intents: exact,
            }),
        }
    }
}

/// What the source's and target's marks are worth.
#[derive(Clone, Copy)]
enum Basis {
    /// Nothing: they are not relative to each other's content.
    None,
    /// The source's marks are relative to the target's generation; the target's come on top.
    SourceMarks,
    /// Equal generations: the marks of both together cover every difference.
    AllMarks,
}
