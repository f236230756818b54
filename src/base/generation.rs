//! Generations: which content a disk holds, and how two disks' contents relate.
//!
//! A generation changes when authority changes, never per write. Two disks with the same current generation differ at
//! most in blocks that a mark (dirty, intent, unstable) covers.

use super::limits::HISTORY_MAX;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Names one line of content. The random nonce tells concurrent bumps and unrelated data apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Generation {
    /// The epoch in which it began.
    pub epoch: u64,
    /// Drawn at random at every bump.
    pub nonce: u64,
}

impl Generation {
    /// The content of a disk nobody has initialised: equal to nothing, not even to itself in the handshake.
    pub const NONE: Generation = Generation { epoch: 0, nonce: 0 };
    /// The content of a freshly initialised disk that reads as zeroes throughout.
    pub const ZEROED: Generation = Generation { epoch: 0, nonce: 1 };
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}", self.epoch, self.nonce)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A disk's current generation, the peer generations its marks are relative to, and its ancestors.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// The content this disk holds, up to marked blocks.
    pub current: Generation,
    /// Generations a peer may hold such that our marks cover every difference to it; at most [`BASES_MAX`].
    pub bases: Vec<Generation>,
    /// Earlier generations, newest first; at most [`HISTORY_MAX`].
    pub history: Vec<Generation>,
}

/// A broken finalize leaves the peer on either of two generations, and a restart forgets which; beyond this many the
/// disks are compared instead.
pub const BASES_MAX: usize = 4;

/// How the contents of two disks, `ours` and `theirs`, relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Relation {
    /// Same generation.
    Equal,
    /// Ours is newer and our marks are relative to exactly theirs.
    OursNewerMarks,
    /// Theirs is newer and their marks are relative to exactly ours.
    TheirsNewerMarks,
    /// Ours descends from theirs, but our marks are not relative to theirs.
    OursNewerHistory,
    /// Theirs descends from ours, but their marks are not relative to ours.
    TheirsNewerHistory,
    /// Both went on alone from a common ancestor.
    Fork,
    /// No generation in common.
    Unrelated,
}

impl Relation {
    /// The same relation seen from the other side.
    pub fn mirrored(self) -> Relation {
        match self {
            Relation::OursNewerMarks => Relation::TheirsNewerMarks,
            Relation::TheirsNewerMarks => Relation::OursNewerMarks,
            Relation::OursNewerHistory => Relation::TheirsNewerHistory,
            Relation::TheirsNewerHistory => Relation::OursNewerHistory,
            other => other,
        }
    }
}

impl Lineage {
    /// The lineage of a disk whose content is `current` and that has no past.
    pub fn starting_at(current: Generation) -> Lineage {
        Lineage { current, bases: Vec::new(), history: Vec::new() }
    }

    /// Begins a new generation, with marks relative to `bases`: what the peer may hold. The old one joins the history if it
    /// is among them; else no other disk can hold it, and nobody will ever ask for it.
    pub fn bump(&mut self, new: Generation, mut bases: Vec<Generation>) {
        if bases.contains(&self.current) || bases.is_empty() && self.current != Generation::NONE {
            self.history.insert(0, self.current);
        }
        self.history.dedup();
        // The peer may hold one of these all the same: it is older then, and the disks are compared.
        for base in bases.drain(BASES_MAX.min(bases.len())..) {
            if !self.history.contains(&base) {
                self.history.insert(1.min(self.history.len()), base);
            }
        }
        self.history.truncate(HISTORY_MAX);
        self.current = new;
        self.bases = bases;
    }

    /// Both disks hold this content: forgets what no disk of the pair can hold any more, to leave room.
    pub fn joined(&mut self) {
        self.bases.clear();
        self.history.truncate(HISTORY_MAX / 2);
    }

    /// Whether `generation` is this disk's content or an ancestor of it.
    pub fn descends_from(&self, generation: Generation) -> bool {
        self.history.contains(&generation)
    }

    /// How this disk's content relates to `theirs`. Mirror-symmetric.
    pub fn relation(&self, theirs: &Lineage) -> Relation {
        if self.current == Generation::NONE || theirs.current == Generation::NONE {
            return Relation::Unrelated;
        }
        if self.current == theirs.current {
            return Relation::Equal;
        }
        let ours_covers = self.bases.contains(&theirs.current);
        let theirs_covers = theirs.bases.contains(&self.current);
        let ours_newer = ours_covers || self.descends_from(theirs.current);
        let theirs_newer = theirs_covers || theirs.descends_from(self.current);
        match (ours_newer, theirs_newer) {
            // Each in the other's past: a loop that no legal schedule makes; treat it as the conflict it is.
            (true, true) => Relation::Fork,
            (true, false) if ours_covers => Relation::OursNewerMarks,
            (true, false) => Relation::OursNewerHistory,
            (false, true) if theirs_covers => Relation::TheirsNewerMarks,
            (false, true) => Relation::TheirsNewerHistory,
            (false, false) => {
                let common = self
                    .history
                    .iter()
                    .chain(&self.bases)
                    .any(|g| *g != Generation::NONE && (theirs.history.contains(g) || theirs.bases.contains(g)));
                if common { Relation::Fork } else { Relation::Unrelated }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(n: u64) -> Generation {
        Generation { epoch: n, nonce: 100 + n }
    }

    #[test]
    fn a_bump_alone_is_newer_by_marks_and_two_bumps_fork() {
        let common = Lineage::starting_at(generation(1));
        let mut left = common.clone();
        left.bump(generation(2), vec![generation(1)]);
        assert_eq!(left.relation(&common), Relation::OursNewerMarks);
        assert_eq!(common.relation(&left), Relation::TheirsNewerMarks);

        let mut right = common.clone();
        right.bump(generation(3), vec![generation(1)]);
        assert_eq!(left.relation(&right), Relation::Fork);

        left.bump(generation(4), vec![generation(2)]);
        assert_eq!(left.relation(&common), Relation::OursNewerHistory);
        assert_eq!(left.relation(&left.clone()), Relation::Equal);
        assert_eq!(left.relation(&Lineage::starting_at(generation(9))), Relation::Unrelated);
    }

    #[test]
    fn uninitialised_is_unrelated_even_to_itself() {
        let none = Lineage::default();
        assert_eq!(none.relation(&none.clone()), Relation::Unrelated);
    }

    #[test]
    fn history_is_bounded() {
        let mut lineage = Lineage::starting_at(generation(1));
        for n in 2..100 {
            let old = lineage.current;
            lineage.bump(generation(n), vec![old]);
        }
        assert_eq!(lineage.history.len(), HISTORY_MAX);
        assert_eq!(lineage.history[0], generation(98));
    }
}
