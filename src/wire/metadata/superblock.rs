//! The superblock's bytes, and the choice among its four slots.
//!
//! Two pairs of two copies. A write goes to the pair that does not hold the newest content: copy 0, durable, then
//! copy 1, durable; only then is it in effect. So while writing, a pair goes through exactly these states (o: old
//! content, n: new, x: torn):
//!
//! ```text
//!  (o,o)  (x,o)  (n,o)  (n,x)  (n,n)      the other pair stays whole and holds the content before
//! ```
//!
//! A crash therefore never leaves a pair without a sound copy. Such a pair has rotted, and it may have been the newer
//! one: the content of the other pair is taken, but as *suspect* ([`Chosen::suspect`]), since silently going back to an
//! older state would forget an acknowledged promotion or the loss of the peer. In every other case the newest sound copy
//! is right: `n` may be taken although its write never ended, since nobody acted on the old one after asking for it.
//!
//! What was taken must not vanish later. So at start the twin of the newest copy is made equal before anyone acts on it
//! ([`Chosen::repairs`]); without this, rot of a single copy would lead back to older content unseen. The reader flushes
//! the device before it reads, so that what it read from a volatile cache stays.

use crate::base::generation::BASES_MAX;
use crate::base::limits::HISTORY_MAX;
use crate::base::state::{Archiving, DiskState};
use crate::wire::metadata::features::{self, Features};
use crate::wire::metadata::locator::Locator;
use crate::wire::metadata::record::Superblock;
use crate::wire::metadata::unit::{self, Bad, Kind, Label};
use crate::wire::metadata::{decode_exactly, encode_plainly};
use serde::{Deserialize, Serialize};

/// Pairs of copies.
pub(super) const PAIRS: usize = 2;
/// Copies of a pair.
pub(super) const COPIES: usize = 2;

/// What the byte behind a superblock says, from 1.
const ARCHIVING: [Archiving; 2] = [Archiving::Running, Archiving::Declined];

/// The slot of the snapshot a superblock names, and the digest of everything in it: another content of that slot is
/// never taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamedSnapshot {
    pub(super) slot: u8,
    pub(super) digest: u128,
}

/// What a superblock unit holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) named: Option<NamedSnapshot>,
    pub(super) superblock: Superblock,
}

impl Stored {
    /// The unit of one copy of one pair.
    pub(super) fn encode(&self, pair: usize, copy: usize) -> Vec<u8> {
        let superblock = &self.superblock;
        let mut payload = features::encode().to_vec();
        encode_plainly(self, &mut payload);
        // Behind the rest and only where there is something to say: disks that never saw a split stay as they were.
        payload.extend(ARCHIVING.iter().position(|word| *word == superblock.archiving).map(|index| index as u8 + 1));
        let label = Label {
            kind: Kind::Superblock,
            index: index(pair, copy),
            sequence: superblock.sequence,
            device: superblock.device,
        };
        unit::encode(label, &payload)
    }

    /// Reads one copy. Its features come along even where the rest is of a later version and can't be read.
    pub(super) fn decode(
        bytes: &[u8],
        pair: usize,
        copy: usize,
        locator: &Locator,
    ) -> Result<(Features, Option<Stored>), Bad> {
        let unit = unit::decode(bytes, Kind::Superblock, index(pair, copy), Some(locator.device))?;
        let (features, rest) = features::decode(unit.payload).ok_or(Bad::Rotten)?;
        let stored = decode_exactly::<Stored>(rest)
            .or_else(|| {
                let (last, rest) = rest.split_last()?;
                let mut stored = decode_exactly::<Stored>(rest)?;
                stored.superblock.archiving = *ARCHIVING.get(usize::from(*last).checked_sub(1)?)?;
                Some(stored)
            })
            .filter(|stored| stored.superblock.sequence == unit.sequence)
            .filter(|stored| is_possible(&stored.superblock, locator));
        Ok((features, stored))
    }
}

fn index(pair: usize, copy: usize) -> u32 {
    (pair * COPIES + copy) as u32
}

/// Whether it is of the disk the locator describes and keeps the bounds that the core relies on.
fn is_possible(superblock: &Superblock, locator: &Locator) -> bool {
    (superblock.device, superblock.volume, superblock.node) == (locator.device, locator.volume, locator.node)
        && superblock.region_shift == locator.region_shift
        && superblock.lineage.bases.len() <= BASES_MAX
        && superblock.lineage.history.len() <= HISTORY_MAX
        && superblock.disk != DiskState::Diskless
}

/// The sound copies found, by pair and copy.
pub(super) type Copies = [[Option<Stored>; COPIES]; PAIRS];

/// What the four slots amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// The content to go on with.
    pub(super) stored: Stored,
    /// A pair without a sound copy may have held newer content.
    pub(super) suspect: bool,
    /// The pair the next write goes to.
    pub(super) next_pair: usize,
    /// Copies to be made equal to their newer or only sound twin, as pair, copy and content.
    pub(super) repairs: Vec<(usize, usize, Stored)>,
}

/// Chooses; `None` when no copy is sound.
pub(super) fn choose(copies: &Copies) -> Option<Chosen> {
    let newest_of = |pair: usize| copies[pair].iter().flatten().max_by_key(|stored| stored.superblock.sequence);
    let (pair, stored) = match (newest_of(0), newest_of(1)) {
        (None, None) => return None,
        (Some(stored), None) => (0, stored),
        (None, Some(stored)) => (1, stored),
        (Some(zero), Some(one)) if zero.superblock.sequence >= one.superblock.sequence => (0, zero),
        (Some(_), Some(one)) => (1, one),
    };
    let mut repairs = Vec::new();
    for (pair, of_pair) in copies.iter().enumerate() {
        let Some(good) = newest_of(pair) else { continue };
        for (copy, found) in of_pair.iter().enumerate() {
            if found.as_ref() != Some(good) {
                repairs.push((pair, copy, good.clone()));
            }
        }
    }
    Some(Chosen { stored: stored.clone(), suspect: newest_of(1 - pair).is_none(), next_pair: 1 - pair, repairs })
}
