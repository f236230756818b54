//! A node's metadata device: the product's own writer and loader on simulated units. A record is written step by step; a
//! crash in the middle leaves any part of the step under way, sector by sector.

use super::content::SECTOR;
use super::random::Random;
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use twinblock::base::generation::{Generation, Lineage};
use twinblock::base::ids::{NodeId, Uuid};
use twinblock::base::limits::METADATA_UNIT_BYTES;
use twinblock::base::range::BLOCK;
use twinblock::base::state::DiskState;
use twinblock::wire::metadata::record::{Loaded, REGIONS_PER_PAGE, Record, Superblock};
use twinblock::wire::metadata::{Expected, Layout, Locator, Placement, Plan, Writer, load};

/// The volume's identity, the same on both nodes.
pub const VOLUME: Uuid = Uuid(0x7477_696e);

/// What is durable on a metadata device.
pub struct Metadata {
    units: BTreeMap<u64, Vec<u8>>,
    expected: Expected,
    /// Where the newest superblock lies, if that is known.
    newest: Vec<u64>,
    /// Of the running daemon.
    writer: Writer,
    /// What a start would find now: the god's eye.
    found: Loaded,
    /// Snapshots made durable, not all of them named by the superblock.
    snapshots: Vec<(u64, RoaringBitmap, RoaringBitmap)>,
    /// Where each lies.
    snapshot_offsets: BTreeMap<u64, Vec<u64>>,
    /// Those that can't be read any more.
    rotten: BTreeSet<u64>,
}

/// A superblock as `init-disk` leaves it.
pub fn fresh_superblock(node: usize, device: Uuid, region_shift: u32, disk: DiskState) -> Superblock {
    let current = if disk == DiskState::New { Generation::NONE } else { Generation::ZEROED };
    let blank = Superblock::blank(VOLUME, NodeId(node as u8), device, region_shift);
    Superblock { disk, lineage: Lineage::starting_at(current), ..blank }
}

impl Metadata {
    /// A freshly made device for a disk of this capacity.
    pub fn new(superblock: &Superblock, capacity_bytes: u64) -> Metadata {
        let file_bytes = Layout::external_bytes(capacity_bytes);
        let layout = Layout::external(capacity_bytes, file_bytes).expect("made to fit");
        let layout = layout.with_region_shift(superblock.region_shift).expect("small volumes have one page of intents");
        let locator = Locator::new(&layout, superblock, ("sim", "vol0"), Placement::External, file_bytes);
        let locator = Locator { data_bytes: capacity_bytes, ..locator };
        let expected = Expected { placement: Placement::External, file_bytes, volume: VOLUME, node: superblock.node };
        let (writer, plan) = Writer::format(layout, locator, superblock);
        let mut units = BTreeMap::new();
        for (offset, bytes) in plan.steps.into_iter().flatten() {
            write_units(&mut units, offset, &bytes);
        }
        let found = read_all(&units, &expected).0;
        Metadata {
            units,
            expected,
            newest: Vec::new(),
            writer,
            found,
            snapshots: Vec::new(),
            snapshot_offsets: BTreeMap::new(),
            rotten: BTreeSet::new(),
        }
    }

    /// A copy of the whole device, as a clone of its disk would be.
    pub fn image(&self) -> Metadata {
        let (found, writer) = read_all(&self.units, &self.expected);
        Metadata {
            units: self.units.clone(),
            expected: self.expected,
            newest: self.newest.clone(),
            writer,
            found,
            snapshots: self.snapshots.clone(),
            snapshot_offsets: self.snapshot_offsets.clone(),
            rotten: self.rotten.clone(),
        }
    }

    /// A daemon opens it: what it finds, after what was torn is repaired.
    pub fn open(&mut self) -> Loaded {
        let (found, mut writer) = read_all(&self.units, &self.expected);
        for (offset, bytes) in writer.repair().into_iter().flat_map(|plan| plan.steps).flatten() {
            write_units(&mut self.units, offset, &bytes);
        }
        let (again, _) = read_all(&self.units, &self.expected);
        assert_eq!(
            Loaded { superblock_suspect: found.superblock_suspect, ..again },
            found,
            "a repair changed what is found"
        );
        self.writer = writer;
        self.found = found.clone();
        let named = found.superblock.snapshot;
        self.snapshots = named.map(|name| (name, found.dirty.clone(), found.suspect.clone())).into_iter().collect();
        found
    }

    /// What is to be written for a record.
    pub fn plan(&mut self, record: &Record) -> Plan {
        self.writer.plan(record)
    }

    /// The superblock in effect.
    pub fn superblock(&self) -> &Superblock {
        &self.found.superblock
    }

    /// A record is durable in all its parts.
    pub fn store(&mut self, record: Record, plan: Plan) {
        let offsets: Vec<u64> = plan.steps.iter().flatten().map(|(offset, _)| *offset).collect();
        for (offset, bytes) in plan.steps.into_iter().flatten() {
            write_units(&mut self.units, offset, &bytes);
        }
        if matches!(record, Record::Superblock(_)) {
            self.newest = offsets[offsets.len() - 2..].to_vec();
        }
        match record {
            Record::Superblock(new) => {
                self.found.superblock = *new;
                self.found.superblock_suspect = false;
                self.take_named_snapshot();
            }
            Record::Intents { page, regions } => {
                let first = page * REGIONS_PER_PAGE;
                self.found.intents.remove_range(first..first + REGIONS_PER_PAGE);
                self.found.intents.extend(regions);
            }
            Record::Snapshot { sequence, dirty, suspect } => {
                self.snapshots.retain(|(other, ..)| *other != sequence);
                self.snapshot_offsets.insert(sequence, offsets);
                self.rotten.remove(&sequence);
                self.snapshots.push((sequence, dirty, suspect));
            }
        }
    }

    fn take_named_snapshot(&mut self) {
        let named = self.found.superblock.snapshot;
        let found = named.and_then(|name| self.snapshots.iter().find(|(sequence, ..)| *sequence == name));
        assert!(
            named.is_none() || found.is_some(),
            "the superblock names snapshot {named:?}, which is not on the disk"
        );
        (self.found.dirty, self.found.suspect) = match found {
            Some((_, dirty, suspect)) => (dirty.clone(), suspect.clone()),
            None => Default::default(),
        };
        self.found.maps_unreadable = named.is_some_and(|named| self.rotten.contains(&named));
        self.snapshots.retain(|(sequence, ..)| named.is_none_or(|named| *sequence >= named));
    }

    /// A plan ended in the middle: some steps were carried out, of the next one any sectors.
    pub fn torn(&mut self, plan: &Plan, random: &mut Random) {
        let whole = random.below(plan.steps.len() as u64 + 1) as usize;
        for (offset, bytes) in plan.steps[..whole].iter().flatten() {
            write_units(&mut self.units, *offset, bytes);
        }
        for (offset, bytes) in plan.steps.get(whole).into_iter().flatten() {
            let mut mixed = read_units(&self.units, *offset, bytes.len());
            for (sector, new) in bytes.chunks(SECTOR).enumerate() {
                if random.chance(0.5) {
                    mixed[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(new);
                }
            }
            write_units(&mut self.units, *offset, &mixed);
        }
        self.found = read_all(&self.units, &self.expected).0;
        self.newest.clear();
    }

    /// Rot takes both copies of the newest superblock.
    pub fn rot_newest_superblock(&mut self) {
        for offset in std::mem::take(&mut self.newest) {
            let mut unit = read_units(&self.units, offset, METADATA_UNIT_BYTES);
            unit[100] ^= 1;
            write_units(&mut self.units, offset, &unit);
            self.found = read_all(&self.units, &self.expected).0;
        }
    }

    /// Rot takes the snapshot of the maps that the superblock names, if there is one.
    pub fn rot_snapshot(&mut self) {
        let Some(named) = self.found.superblock.snapshot.filter(|named| !self.rotten.contains(named)) else { return };
        for offset in self.snapshot_offsets.get(&named).into_iter().flatten() {
            let mut unit = read_units(&self.units, *offset, METADATA_UNIT_BYTES);
            unit[100] ^= 1;
            write_units(&mut self.units, *offset, &unit);
        }
        self.found = read_all(&self.units, &self.expected).0;
        assert!(self.found.maps_unreadable, "a rotten snapshot is not believed");
        self.rotten.insert(named);
    }

    /// Whether the superblock or the maps can't be trusted.
    pub fn is_suspect(&self) -> bool {
        self.found.superblock_suspect || self.found.maps_unreadable
    }

    /// Whether a durable mark covers this block.
    pub fn marks(&self, block: u32) -> bool {
        self.found.dirty.contains(block) || self.found.suspect.contains(block) || self.intended(block)
    }

    /// Whether the block's region has its durable intent bit set.
    pub fn intended(&self, block: u32) -> bool {
        let region = (block as u64 * BLOCK) >> self.found.superblock.region_shift;
        self.found.intents.contains(region as u32)
    }

    /// Whether any region has its durable intent bit set.
    pub fn intends_anything(&self) -> bool {
        !self.found.intents.is_empty()
    }
}

fn write_units(units: &mut BTreeMap<u64, Vec<u8>>, offset: u64, bytes: &[u8]) {
    let first = offset / METADATA_UNIT_BYTES as u64;
    for (index, unit) in bytes.chunks(METADATA_UNIT_BYTES).enumerate() {
        units.insert(first + index as u64, unit.to_vec());
    }
}

fn read_units(units: &BTreeMap<u64, Vec<u8>>, offset: u64, length: usize) -> Vec<u8> {
    let first = offset / METADATA_UNIT_BYTES as u64;
    let absent = vec![0; METADATA_UNIT_BYTES];
    let wanted = first..first + (length / METADATA_UNIT_BYTES) as u64;
    wanted.flat_map(|unit| units.get(&unit).unwrap_or(&absent).clone()).collect()
}

fn read_all(units: &BTreeMap<u64, Vec<u8>>, expected: &Expected) -> (Loaded, Writer) {
    let mut read = |offset, length| Ok::<_, Infallible>(read_units(units, offset, length));
    load(&mut read, expected).unwrap_or_else(|error| panic!("the metadata can't be loaded any more: {error}"))
}
