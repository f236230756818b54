//! Plans the writes that make a record durable: which bytes go where, in which order.
//!
//! The plan's order is what makes every crash point safe; why is said beside each kind of record: `superblock`,
//! `intents`, `snapshot`. A plan that fails at some step is left there. The next one may be planned all
//! the same: a superblock always goes to the pair that does not hold the newest complete one, and its second copy is
//! written only when the first is durable, so neither pair ever loses its last sound copy to a failure.

use crate::base::limits::METADATA_UNIT_BYTES;
use crate::wire::metadata::layout::Layout;
use crate::wire::metadata::locator::Locator;
use crate::wire::metadata::record::{Record, Superblock};
use crate::wire::metadata::superblock::{COPIES, NamedSnapshot, PAIRS, Stored};
use crate::wire::metadata::{intents, snapshot};
use roaring::RoaringBitmap;

/// Writes in steps: those of one step run concurrently and each is durable (as `RWF_DSYNC` makes it) before the next
/// step begins. Done after the last.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// Offset in the metadata file or device, and bytes: both multiples of 4096.
    pub steps: Vec<Vec<(u64, Vec<u8>)>>,
}

/// Turns records into plans for one metadata area. Records are planned and carried out one after the other.
#[derive(Debug)]
pub struct Writer {
    layout: Layout,
    locator: Locator,
    /// Sequence of the newest superblock planned or found.
    pub(super) sequence: u64,
    /// Pair the next superblock goes to.
    pub(super) next_pair: usize,
    /// Newest sequence of each intent page.
    pub(super) page_sequences: Vec<u64>,
    /// What the snapshot slots hold, where this process knows: sequence and digest.
    pub(super) slots: [Option<(u64, u128)>; 2],
    /// Slot the newest superblock names; never written over.
    pub(super) named_slot: Option<u8>,
    /// Repairs found at load, not yet handed out.
    pub(super) repairs: Vec<(u64, Vec<u8>)>,
    /// The data disk to be recorded with the next superblock, in place of the one the metadata was made for.
    new_data_disk: Option<Option<u128>>,
}

impl Writer {
    pub(super) fn new(layout: Layout, locator: Locator) -> Writer {
        Writer {
            locator,
            sequence: 0,
            next_pair: 0,
            page_sequences: vec![0; layout.intent_pages as usize],
            slots: [None; 2],
            named_slot: None,
            repairs: Vec::new(),
            new_data_disk: None,
            layout,
        }
    }

    /// Plans a whole new area. `locator` must describe the layout (see [`Layout`]); `superblock.snapshot` must be `None`.
    ///
    /// The locators are voided first and written last: cut short, it leaves no metadata.
    pub fn format(layout: Layout, locator: Locator, superblock: &Superblock) -> (Writer, Plan) {
        assert_eq!(locator.layout(), Some(layout), "the locator describes the layout");
        assert!(superblock.snapshot.is_none(), "a new area has no snapshot");
        assert_eq!(superblock.device, locator.device, "one area has one device identity");
        let mut writer = Writer::new(layout, locator);
        let empty = || vec![0; METADATA_UNIT_BYTES];
        let voided = layout.locators().map(|offset| (offset, empty())).to_vec();

        let mut content = Vec::new();
        // Both pairs hold something sound from the start, so a pair without a sound copy is always rot.
        for pair in 0..PAIRS {
            writer.sequence += 1;
            for (offset, bytes) in writer.superblock_copies(pair, superblock) {
                content.push((offset, bytes));
            }
        }
        for page in 0..layout.intent_pages {
            content.extend(writer.intent_copies(page, &[]));
        }
        content.extend((0..2).map(|slot| (layout.snapshot(slot), empty())));

        let locators = writer.locator_copies();
        let plan = Plan { steps: vec![voided, content, locators.to_vec()] };
        (writer, plan)
    }

    /// Plans one record.
    pub fn plan(&mut self, record: &Record) -> Plan {
        let mut steps = self.repair().map(|plan| plan.steps).unwrap_or_default();
        match record {
            Record::Superblock(superblock) => self.plan_superblock(superblock, &mut steps),
            Record::Intents { page, regions } => steps.push(self.intent_copies(*page, regions)),
            Record::Snapshot { sequence, dirty, suspect } => {
                self.plan_snapshot(*sequence, (dirty, suspect), &mut steps);
            }
        }
        Plan { steps }
    }

    /// What load found to be repaired, if anything and if not planned yet: to be carried out before anyone acts on what
    /// was loaded. (Otherwise it comes with the next plan.)
    pub fn repair(&mut self) -> Option<Plan> {
        // One write per step: a repair that is torn must not meet another one beside it.
        let steps: Vec<_> = std::mem::take(&mut self.repairs).into_iter().map(|write| vec![write]).collect();
        (!steps.is_empty()).then_some(Plan { steps })
    }

    /// The next superblock, once durable, is followed by a locator that names another data disk: one that was swapped
    /// in and is known to the core as such.
    pub fn take_over_data_disk(&mut self, fingerprint: Option<u128>) {
        self.new_data_disk = Some(fingerprint);
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whose metadata it is.
    pub fn locator(&self) -> &Locator {
        &self.locator
    }

    fn plan_superblock(&mut self, superblock: &Superblock, steps: &mut Vec<Vec<(u64, Vec<u8>)>>) {
        self.sequence += 1;
        let pair = self.next_pair;
        self.named_slot = superblock.snapshot.and_then(|named| self.slot_of(named));
        steps.extend(self.superblock_copies(pair, superblock).map(|write| vec![write]));
        self.next_pair = 1 - pair;
        if let Some(fingerprint) = self.new_data_disk.take() {
            self.locator.fingerprint = fingerprint;
            self.locator.sequence += 1;
            steps.extend(self.locator_copies().map(|write| vec![write]));
        }
    }

    fn plan_snapshot(
        &mut self,
        sequence: u64,
        maps: (&RoaringBitmap, &RoaringBitmap),
        steps: &mut Vec<Vec<(u64, Vec<u8>)>>,
    ) {
        let slot = if self.named_slot == Some(0) { 1 } else { 0 };
        let encoded = snapshot::encode(&self.layout, self.locator.device, slot, sequence, maps);
        self.slots[usize::from(slot)] = Some((sequence, encoded.digest));
        steps.push(encoded.data);
        steps.push(vec![encoded.header]);
    }

    fn superblock_copies(&self, pair: usize, superblock: &Superblock) -> [(u64, Vec<u8>); COPIES] {
        assert_eq!(superblock.device, self.locator.device, "a superblock goes to its own device");
        let named = self
            .named_slot
            .and_then(|slot| self.slots[usize::from(slot)].map(|(_, digest)| NamedSnapshot { slot, digest }));
        let superblock = Superblock { sequence: self.sequence, ..superblock.clone() };
        let stored = Stored { named, superblock };
        [0, 1].map(|copy| (self.layout.superblock(pair, copy), stored.encode(pair, copy)))
    }

    fn intent_copies(&mut self, page: u32, regions: &[u32]) -> Vec<(u64, Vec<u8>)> {
        assert!(page < self.layout.intent_pages, "intent page {page} is beyond the volume");
        let sequence = &mut self.page_sequences[page as usize];
        *sequence += 1;
        let unit = |copy: u32| intents::encode(page, copy, *sequence, self.locator.device, regions);
        [0, 1].map(|copy| (self.layout.intent_page(page, copy as usize), unit(copy))).to_vec()
    }

    fn locator_copies(&self) -> [(u64, Vec<u8>); 2] {
        let offsets = self.layout.locators();
        [0, 1].map(|copy| (offsets[copy], self.locator.encode(copy as u32)))
    }

    fn slot_of(&self, sequence: u64) -> Option<u8> {
        let holds = |slot: &u8| self.slots[usize::from(*slot)].is_some_and(|(held, _)| held == sequence);
        // The slot last named comes second: where both hold this sequence, the other one is newer.
        let order = if self.named_slot == Some(0) { [1, 0] } else { [0, 1] };
        order.into_iter().find(holds)
    }
}
