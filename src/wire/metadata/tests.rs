//! Crash, rot and hostile bytes, over a disk that is a table of units.

use super::record::{Join, Loaded, REGIONS_PER_PAGE, Record, Superblock};
use super::*;
use crate::base::generation::{Generation, Lineage};
use crate::base::ids::{BootId, Epoch, Incarnation, NodeId, SessionId, Uuid};
use crate::base::state::{Archiving, DiskState, ResyncKind, Role};
use proptest::prelude::*;
use roaring::RoaringBitmap;
use std::collections::BTreeMap;

const UNIT: usize = METADATA_UNIT_BYTES;
const GIB: u64 = 1 << 30;
const VOLUME: Uuid = Uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
const DEVICE: Uuid = Uuid(0xfeed_0000_0000_0000_0000_0000_0000_0001);

/// A metadata device: units by number; absent ones read as zeroes. Unreadable ones fail.
#[derive(Clone, Default)]
struct Disk {
    units: BTreeMap<u64, Vec<u8>>,
    unreadable: Vec<u64>,
    bytes: u64,
}

impl Disk {
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let first = offset / UNIT as u64;
        let mut bytes = Vec::new();
        for unit in first..first + (length / UNIT) as u64 {
            if self.unreadable.contains(&unit) {
                return Err("input/output error".into());
            }
            bytes.extend(self.units.get(&unit).cloned().unwrap_or_else(|| vec![0; UNIT]));
        }
        Ok(bytes)
    }

    fn unit_at(&self, offset: u64) -> Vec<u8> {
        self.read(offset, UNIT).unwrap()
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert!(offset.is_multiple_of(UNIT as u64) && bytes.len().is_multiple_of(UNIT));
        assert!(offset + bytes.len() as u64 <= self.bytes);
        for (index, unit) in bytes.chunks(UNIT).enumerate() {
            self.units.insert(offset / UNIT as u64 + index as u64, unit.to_vec());
        }
    }

    /// The first `arrived` bytes of every unit arrive, the rest stays.
    fn tear(&mut self, offset: u64, bytes: &[u8], arrived: usize) {
        for (index, unit) in bytes.chunks(UNIT).enumerate() {
            let at = offset + (index * UNIT) as u64;
            let mut mixed = self.units.get(&(at / UNIT as u64)).cloned().unwrap_or_else(|| vec![0; UNIT]);
            mixed[..arrived].copy_from_slice(&unit[..arrived]);
            self.write(at, &mixed);
        }
    }

    fn rot(&mut self, offset: u64) {
        let mut bytes = self.unit_at(offset);
        bytes[100] ^= 0x10;
        self.write(offset, &bytes);
    }

    fn carry_out(&mut self, plan: &Plan) {
        for (offset, bytes) in plan.steps.iter().flatten() {
            self.write(*offset, bytes);
        }
    }

    fn expected(&self) -> Expected {
        Expected { placement: Placement::External, file_bytes: self.bytes, volume: VOLUME, node: NodeId(1) }
    }

    fn load(&self) -> Result<(Loaded, Writer), LoadError> {
        load(&mut |offset, length| self.read(offset, length), &self.expected())
    }
}

/// Bytes that arrive of one write of the step that a crash cut short: none, the header (so the checksum belongs to the new
/// content and the rest to the old), or all.
const ENDINGS: [usize; 3] = [0, 64, UNIT];

/// Every state a crash during `plan` can leave.
fn crashes(before: &Disk, plan: &Plan) -> Vec<Disk> {
    let mut states = Vec::new();
    let mut disk = before.clone();
    for step in &plan.steps {
        for choice in 0..ENDINGS.len().pow(step.len() as u32) {
            let mut state = disk.clone();
            for (index, (offset, bytes)) in step.iter().enumerate() {
                state.tear(*offset, bytes, ENDINGS[choice / ENDINGS.len().pow(index as u32) % ENDINGS.len()]);
            }
            states.push(state);
        }
        for (offset, bytes) in step {
            disk.write(*offset, bytes);
        }
    }
    states
}

fn locator(data_bytes: u64, file_bytes: u64) -> (Layout, Locator) {
    let layout = Layout::external(data_bytes, file_bytes).unwrap();
    let superblock = superblock(layout.region_shift);
    let locator = Locator {
        data_bytes,
        fingerprint: Some(77),
        ..Locator::new(&layout, &superblock, ("lab", "vol0"), Placement::External, file_bytes)
    };
    (layout, locator)
}

fn superblock(region_shift: u32) -> Superblock {
    Superblock {
        sequence: 0,
        volume: VOLUME,
        device: DEVICE,
        peer_device: Some(Uuid(5)),
        node: NodeId(1),
        committed_bytes: GIB,
        region_shift,
        role: Role::Primary,
        disk: DiskState::UpToDate,
        lineage: Lineage {
            current: Generation { epoch: 3, nonce: 33 },
            bases: vec![Generation { epoch: 2, nonce: 22 }],
            history: vec![Generation { epoch: 2, nonce: 22 }, Generation::ZEROED],
        },
        primary_epoch: Epoch(3),
        seen_epoch: Epoch(4),
        cache_epoch: 6,
        join: Some(Join {
            incarnation: Incarnation(1),
            boot: BootId(2),
            peer_incarnation: Incarnation(3),
            peer_boot: BootId(4),
            session: SessionId(5),
            gated: true,
        }),
        unfinished: Some(ResyncKind::Compare),
        snapshot: None,
        clean: false,
        peer_outdated: true,
        discard: false,
        requested: None,
        suspect: false,
        archiving: Archiving::Off,
    }
}

/// A formatted disk for a volume of 1 GiB, and its writer.
fn formatted() -> (Disk, Writer, Superblock) {
    let bytes = Layout::external_bytes(GIB);
    let (layout, locator) = locator(GIB, bytes);
    let superblock = superblock(layout.region_shift);
    let (writer, plan) = Writer::format(layout, locator, &superblock);
    let mut disk = Disk { bytes, ..Disk::default() };
    disk.carry_out(&plan);
    (disk, writer, superblock)
}

/// The content is told apart by its cache epoch.
fn numbered(superblock: &Superblock, number: u64) -> Record {
    Record::Superblock(Box::new(Superblock { cache_epoch: number, ..superblock.clone() }))
}

fn number(loaded: &Loaded) -> u64 {
    loaded.superblock.cache_epoch
}

fn all_superblocks(writer: &Writer) -> [u64; 4] {
    [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(pair, copy)| writer.layout().superblock(pair, copy))
}

#[test]
fn a_format_cut_short_leaves_no_metadata_or_all_of_it() {
    let (disk, writer, superblock) = formatted();
    let (_, plan) = Writer::format(*writer.layout(), writer.locator().clone(), &superblock);
    let last = plan.steps.last().unwrap();
    let content = |state: &Disk| match state.load() {
        Ok((loaded, _)) => {
            assert!(!loaded.superblock_suspect && loaded.intents.is_empty());
            true
        }
        Err(error) => {
            assert_eq!(error, LoadError::None);
            false
        }
    };
    let mut before_last = Disk { bytes: disk.bytes, ..Disk::default() };
    for step in &plan.steps[..plan.steps.len() - 1] {
        for (offset, bytes) in step {
            before_last.write(*offset, bytes);
            assert!(!content(&before_last));
        }
    }
    let states = crashes(&before_last, &Plan { steps: vec![last.clone()] });
    let whole = states.iter().filter(|state| content(state)).count();
    assert_eq!((states.len(), whole), (9, 5), "one sound locator is enough");
}

#[test]
fn a_crash_in_any_superblock_write_yields_the_old_or_the_new_one() {
    let (mut disk, mut writer, superblock) = formatted();
    for round in 10..14 {
        let plan = writer.plan(&numbered(&superblock, round));
        assert_eq!(plan.steps.len(), 2);
        for state in crashes(&disk, &plan) {
            let (loaded, mut after) = state.load().unwrap();
            assert!(!loaded.superblock_suspect);
            let found = number(&loaded);
            assert!(found == round || found == if round == 10 { 6 } else { round - 1 });

            // Whatever was found stays found: through a crash of the repair, and through rot of one copy after it.
            let mut repaired = state.clone();
            if let Some(repair) = after.repair() {
                for state in crashes(&state, &repair) {
                    assert_eq!(number(&state.load().unwrap().0), found);
                }
                repaired.carry_out(&repair);
            }
            for offset in all_superblocks(&writer) {
                let mut rotten = repaired.clone();
                rotten.rot(offset);
                let (loaded, _) = rotten.load().unwrap();
                assert_eq!((number(&loaded), loaded.superblock_suspect), (found, false));
            }
            // Rot of one copy at that very moment may leave it open which of the two it was, but leads no further back.
            for offset in all_superblocks(&writer) {
                let mut rotten = state.clone();
                rotten.rot(offset);
                let (loaded, _) = rotten.load().unwrap();
                assert!(number(&loaded) == round || number(&loaded) == if round == 10 { 6 } else { round - 1 });
            }
            // And the next write is as safe as this one.
            let next = after.plan(&numbered(&superblock, 99));
            for state in crashes(&repaired, &next) {
                let (loaded, _) = state.load().unwrap();
                assert!(!loaded.superblock_suspect && [found, 99].contains(&number(&loaded)));
            }
        }
        disk.carry_out(&plan);
    }
}

#[test]
fn a_pair_that_rotted_whole_makes_the_other_one_suspect_until_it_is_written() {
    let (mut disk, mut writer, superblock) = formatted();
    for round in 10..13 {
        disk.carry_out(&writer.plan(&numbered(&superblock, round)));
    }
    let offsets = all_superblocks(&writer);
    for pair in 0..2 {
        for unreadable in [false, true] {
            let mut rotten = disk.clone();
            for offset in &offsets[2 * pair..2 * pair + 2] {
                if unreadable { rotten.unreadable.push(offset / UNIT as u64) } else { rotten.rot(*offset) }
            }
            let (loaded, mut after) = rotten.load().unwrap();
            assert!(loaded.superblock_suspect && loaded.superblock.suspect);
            assert!(after.repair().is_none(), "suspicion is not repaired away");
            // The write that records the suspicion goes to the rotten pair; until it is there, the suspicion stays.
            let plan = after.plan(&numbered(&loaded.superblock, 50));
            for steps in 1..=2 {
                let mut readable_again = disk.clone();
                readable_again.carry_out(&Plan { steps: plan.steps[..steps].to_vec() });
                assert_eq!(number(&readable_again.load().unwrap().0), 50, "an old copy that returns is never newer");
            }
            for state in crashes(&rotten, &plan) {
                let (loaded, _) = state.load().unwrap();
                assert!(loaded.superblock.suspect);
            }
        }
    }
    let mut lost = disk.clone();
    offsets.iter().for_each(|offset| lost.rot(*offset));
    assert_eq!(lost.load().unwrap_err(), LoadError::NoSuperblock);
}

#[test]
fn the_choice_among_all_combinations_of_slots() {
    use super::superblock::{Copies, Stored, choose};
    let content = |sequence: u64| Stored { named: None, superblock: Superblock { sequence, ..superblock(20) } };
    for combination in 0..5u64.pow(4) {
        let sequences = [0, 1, 2, 3].map(|slot| combination / 5u64.pow(slot) % 5);
        let slot = |slot: usize| (sequences[slot] > 0).then(|| content(sequences[slot]));
        let copies: Copies = [[slot(0), slot(1)], [slot(2), slot(3)]];
        let newest = *sequences.iter().max().unwrap();
        let Some(chosen) = choose(&copies) else {
            assert_eq!(newest, 0);
            continue;
        };
        let best = [sequences[0].max(sequences[1]), sequences[2].max(sequences[3])];
        assert_eq!(chosen.stored.superblock.sequence, newest);
        assert_eq!(chosen.suspect, best.contains(&0));
        assert_eq!(best[1 - chosen.next_pair], newest, "the newest pair is never written over");
        for (pair, best) in best.into_iter().enumerate() {
            for copy in 0..2 {
                let repair = chosen.repairs.iter().find(|repair| (repair.0, repair.1) == (pair, copy));
                let wanted = best > 0 && sequences[2 * pair + copy] != best;
                assert_eq!(repair.map(|repair| repair.2.superblock.sequence), wanted.then_some(best));
            }
        }
    }
}

#[test]
fn a_crash_in_an_intent_write_yields_old_new_or_everything() {
    let (mut disk, mut writer, _) = formatted();
    let old: RoaringBitmap = [1u32, 5, 900].into_iter().collect();
    let new: RoaringBitmap = [1u32, 7].into_iter().collect();
    let record = |regions: &RoaringBitmap| Record::Intents { page: 0, regions: regions.iter().collect() };
    disk.carry_out(&writer.plan(&record(&old)));
    let all: RoaringBitmap = (0..writer.layout().regions()).collect();
    let plan = writer.plan(&record(&new));
    let mut everything = 0;
    for state in crashes(&disk, &plan) {
        let (loaded, mut after) = state.load().unwrap();
        assert!(loaded.intents == old || loaded.intents == new || loaded.intents == all);
        everything += usize::from(loaded.intents == all);
        let mut repaired = state.clone();
        if let Some(repair) = after.repair() {
            repaired.carry_out(&repair);
        }
        for copy in 0..2 {
            let mut rotten = repaired.clone();
            rotten.rot(writer.layout().intent_page(0, copy));
            assert!(rotten.load().unwrap().0.intents.is_superset(&loaded.intents));
        }
    }
    assert_eq!(everything, 1, "only when both copies are torn");
}

#[test]
fn an_unreadable_page_is_set_throughout_and_an_old_copy_never_comes_back() {
    let (mut disk, mut writer, _) = formatted();
    let record = |regions: &[u32]| Record::Intents { page: 0, regions: regions.to_vec() };
    for round in 0..5 {
        disk.carry_out(&writer.plan(&record(&[round])));
    }
    let mut broken = disk.clone();
    broken.unreadable = [0, 1].map(|copy| writer.layout().intent_page(0, copy) / UNIT as u64).to_vec();
    let (loaded, mut after) = broken.load().unwrap();
    assert_eq!(loaded.intents.len(), u64::from(writer.layout().regions()));
    let plan = after.plan(&record(&[8, 9]));
    // One copy reaches the disk, and the other one is readable again with what it held.
    let (offset, bytes) = &plan.steps[0][1];
    disk.write(*offset, bytes);
    assert_eq!(disk.load().unwrap().0.intents, [8u32, 9].into_iter().collect());
}

fn snapshot_record(sequence: u64, dirty: &[u32], suspect: std::ops::Range<u32>) -> Record {
    let mut suspected = RoaringBitmap::new();
    suspected.insert_range(suspect);
    Record::Snapshot { sequence, dirty: dirty.iter().copied().collect(), suspect: suspected }
}

fn naming(superblock: &Superblock, snapshot: Option<u64>) -> Record {
    Record::Superblock(Box::new(Superblock { snapshot, ..superblock.clone() }))
}

#[test]
fn a_named_snapshot_survives_a_crash_in_the_writing_of_the_next() {
    let (mut disk, mut writer, superblock) = formatted();
    for sequence in 1..6u64 {
        let before = disk.load().unwrap().0;
        let record = snapshot_record(sequence, &[sequence as u32, 77], 1000..200_000);
        let plan = writer.plan(&record);
        for state in crashes(&disk, &plan) {
            let (loaded, _) = state.load().unwrap();
            assert!(!loaded.maps_unreadable);
            assert_eq!((&loaded.dirty, &loaded.suspect), (&before.dirty, &before.suspect));
        }
        disk.carry_out(&plan);
        let plan = writer.plan(&naming(&superblock, Some(sequence)));
        for state in crashes(&disk, &plan) {
            let (loaded, _) = state.load().unwrap();
            assert!(!loaded.maps_unreadable);
            let newer = loaded.superblock.snapshot == Some(sequence);
            assert_eq!(loaded.dirty.contains(sequence as u32), newer);
        }
        disk.carry_out(&plan);
    }
}

#[test]
fn rot_in_a_named_snapshot_is_seen_and_a_stale_one_is_never_taken_for_it() {
    let (mut disk, mut writer, superblock) = formatted();
    let dirty: Vec<u32> = (0..200_000).step_by(2).collect();
    disk.carry_out(&writer.plan(&snapshot_record(1, &dirty, 0..0)));
    disk.carry_out(&writer.plan(&naming(&superblock, Some(1))));
    assert_eq!(disk.load().unwrap().0.dirty.len(), 100_000);
    let header = writer.layout().snapshot(0);
    for unit in 0..7 {
        let mut rotten = disk.clone();
        rotten.rot(header + unit * UNIT as u64);
        let (loaded, mut after) = rotten.load().unwrap();
        assert!(loaded.maps_unreadable && loaded.dirty.is_empty() && !loaded.superblock_suspect);
        // Still unreadable after the core has written a superblock that names it.
        rotten.carry_out(&after.plan(&naming(&superblock, Some(1))));
        assert!(rotten.load().unwrap().0.maps_unreadable);
        // And readable again with the next snapshot.
        rotten.carry_out(&after.plan(&snapshot_record(2, &[4], 0..0)));
        rotten.carry_out(&after.plan(&naming(&superblock, Some(2))));
        assert_eq!(rotten.load().unwrap().0.dirty.len(), 1);
    }

    // The same number again, in the other slot, with other content that rots: the old slot is not taken instead.
    disk.carry_out(&writer.plan(&snapshot_record(1, &[1, 2], 0..0)));
    disk.carry_out(&writer.plan(&naming(&superblock, Some(1))));
    assert_eq!(disk.load().unwrap().0.dirty.len(), 2);
    let mut rotten = disk.clone();
    rotten.rot(writer.layout().snapshot(1) + UNIT as u64);
    assert!(rotten.load().unwrap().0.maps_unreadable);

    // And once more, where one write of the data never reached the disk.
    let plan = writer.plan(&snapshot_record(1, &[5, 6, 7], 0..0));
    let named = writer.plan(&naming(&superblock, Some(1)));
    let mut lost = disk.clone();
    lost.carry_out(&Plan { steps: plan.steps[1..].to_vec() });
    lost.carry_out(&named);
    assert!(lost.load().unwrap().0.maps_unreadable);
    disk.carry_out(&plan);
    disk.carry_out(&named);
    assert_eq!(disk.load().unwrap().0.dirty.len(), 3);
    for (dirty, reaches) in [([8, 9, 10], true), ([5, 6, 8], false)] {
        let plan = writer.plan(&snapshot_record(1, &dirty, 0..0));
        disk.carry_out(&Plan { steps: plan.steps[usize::from(!reaches)..].to_vec() });
        disk.carry_out(&writer.plan(&naming(&superblock, Some(1))));
        assert_eq!(disk.load().unwrap().0.maps_unreadable, !reaches);
    }

    // No marks: none are read.
    disk.carry_out(&writer.plan(&naming(&superblock, None)));
    let (loaded, _) = disk.load().unwrap();
    assert!(!loaded.maps_unreadable && loaded.dirty.is_empty());
}

#[test]
fn the_densest_maps_fit_a_slot() {
    let (mut disk, mut writer, superblock) = formatted();
    let blocks = writer.layout().blocks() as u32;
    let ragged: RoaringBitmap = (0..blocks).filter(|block| block % 3 == 0).collect();
    let mut optimised = ragged.clone();
    optimised.optimize();
    let record = Record::Snapshot { sequence: 1, dirty: ragged.clone(), suspect: optimised };
    disk.carry_out(&writer.plan(&record));
    disk.carry_out(&writer.plan(&naming(&superblock, Some(1))));
    let (loaded, _) = disk.load().unwrap();
    assert_eq!((&loaded.dirty, &loaded.suspect), (&ragged, &ragged));
}

#[test]
fn one_sound_locator_is_enough_and_the_other_is_repaired() {
    let (disk, writer, _) = formatted();
    for offset in writer.layout().locators() {
        let mut rotten = disk.clone();
        rotten.rot(offset);
        let (_, mut after) = rotten.load().unwrap();
        rotten.carry_out(&after.repair().unwrap());
        assert_eq!(rotten.units, disk.units);
        assert!(rotten.load().unwrap().1.repair().is_none());
    }
    let mut none = disk.clone();
    writer.layout().locators().iter().for_each(|offset| none.rot(*offset));
    assert_eq!(none.load().unwrap_err(), LoadError::None);
    none.unreadable = vec![0];
    assert_eq!(none.load().unwrap_err(), LoadError::Unreadable("input/output error".into()));
}

#[test]
fn a_swapped_data_disk_is_recorded_after_the_superblock_that_knows_it() {
    let (disk, mut writer, superblock) = formatted();
    writer.take_over_data_disk(Some(88));
    let plan = writer.plan(&numbered(&superblock, 50));
    for state in crashes(&disk, &plan) {
        let (loaded, after) = state.load().unwrap();
        if after.locator().fingerprint == Some(88) {
            assert_eq!(number(&loaded), 50);
        }
    }
    let mut done = disk.clone();
    done.carry_out(&plan);
    assert_eq!(done.load().unwrap().1.locator().fingerprint, Some(88));
}

#[test]
fn what_is_not_ours_is_told_apart() {
    let (disk, writer, superblock) = formatted();
    let read = |disk: &Disk, expected: Expected| {
        load(&mut |offset, length| disk.read(offset, length), &expected).map(|_| ()).unwrap_err()
    };
    let expected = disk.expected();
    assert_eq!(read(&Disk { bytes: disk.bytes, ..Disk::default() }, expected), LoadError::None);
    assert_eq!(
        read(&disk, Expected { volume: Uuid(1), ..expected }),
        LoadError::OtherVolume { cluster: "lab".into(), volume: "vol0".into() }
    );
    assert_eq!(read(&disk, Expected { node: NodeId(0), ..expected }), LoadError::OtherNode(NodeId(1)));
    let shrunk = Expected { file_bytes: disk.bytes - UNIT as u64, ..expected };
    assert!(matches!(read(&disk, shrunk), LoadError::Resized { .. }));

    let mut joined = disk.clone();
    let other = Locator { device: Uuid(9), ..writer.locator().clone() };
    joined.write(writer.layout().locators()[1], &other.encode(1));
    assert_eq!(read(&joined, expected), LoadError::LocatorsDisagree);

    // Units of an earlier life of the same place say nothing.
    let reborn = Locator { device: Uuid(9), ..writer.locator().clone() };
    let mut old = disk.clone();
    for (copy, offset) in writer.layout().locators().into_iter().enumerate() {
        old.write(offset, &reborn.encode(copy as u32));
    }
    assert_eq!(read(&old, expected), LoadError::NoSuperblock);
    let _ = superblock;
}

/// Changes bytes of a unit and makes its checksum right again.
fn forge(disk: &mut Disk, offset: u64, at: usize, bytes: &[u8]) {
    let mut unit = disk.unit_at(offset);
    unit[at..at + bytes.len()].copy_from_slice(bytes);
    unit[40..44].fill(0);
    let crc = crc32fast::hash(&unit);
    unit[40..44].copy_from_slice(&crc.to_le_bytes());
    disk.write(offset, &unit);
}

#[test]
fn other_versions_and_unknown_features_are_refused_by_name() {
    let (disk, writer, _) = formatted();
    let places = [writer.layout().locators().to_vec(), all_superblocks(&writer).to_vec()];
    for offset in places.into_iter().flatten() {
        let refused = |at: usize, bytes: &[u8]| {
            let mut forged = disk.clone();
            forge(&mut forged, offset, at, bytes);
            forged.load().map(|_| ()).unwrap_err()
        };
        assert_eq!(refused(6, &[2, 0]), LoadError::Version { found: 2, supported: 1 });
        assert!(refused(6, &[2, 0]).to_string().contains("version 2, newer than version 1"));
        assert!(refused(6, &[0, 0]).to_string().contains("version 0, older than version 1"));
        assert_eq!(refused(64 + 24, &[4]), LoadError::UnknownIncompat(4));
        assert_eq!(refused(64 + 16, &[2]), LoadError::UnknownReadOnly(2));
        let mut compatible = disk.clone();
        forge(&mut compatible, offset, 64 + 8, &[0xff]);
        assert!(compatible.load().is_ok());
    }
}

#[test]
fn the_format_is_frozen() {
    let (disk, mut writer, superblock) = formatted();
    let plan = writer.plan(&naming(&superblock, None));
    let (offset, unit) = &plan.steps[0][0];
    assert_eq!(*offset, 65_536);
    let digest = |bytes: &[u8]| format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes));
    let head: String = unit[..64].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(head, GOLDEN_HEAD);
    let body: String = unit[64..64 + 284].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(body, GOLDEN_BODY);
    assert!(unit[64 + 284..].iter().all(|byte| *byte == 0));
    assert_eq!(digest(&disk.unit_at(0)), GOLDEN_LOCATOR);
    let intents = writer.plan(&Record::Intents { page: 0, regions: vec![0, 9, 1023] });
    assert_eq!(digest(&intents.steps[0][0].1), GOLDEN_INTENTS);
    let snapshot = writer.plan(&snapshot_record(1, &[3, 70_000], 9..12));
    assert_eq!(snapshot.steps.iter().map(|step| digest(&step[0].1)).collect::<Vec<_>>(), GOLDEN_SNAPSHOT);
}

const GOLDEN_HEAD: &str = "5457424d02000100000000001c01000003000000000000000100000000000000000000000000edfe0e5aa9130000000000000000000000000000000000000000";
const GOLDEN_BODY: &str = "0000000000000000000000000000000000000000000000000000000000000000000300000000000000efcdab8967452301efcdab89674523010100000000000000000000000000edfe01050000000000000000000000000000000100000040000000001400000000000000040000000300000000000000210000000000000001000000000000000200000000000000160000000000000002000000000000000200000000000000160000000000000000000000000000000100000000000000030000000000000004000000000000000600000000000000010100000000000000020000000000000000000000000000000300000000000000040000000000000000000000000000000500000000000000010101000000000001000000";
const GOLDEN_LOCATOR: &str = "03b7e26c83770ca1c4173ed98ee4a42d";
const GOLDEN_INTENTS: &str = "f5b9a79a8c11555232be893a38e03c37";
const GOLDEN_SNAPSHOT: [&str; 2] = ["1796a916c4648de5ed192def38deec0f", "a23669c6cc827384fb0e017757ddd955"];

fn any_superblock() -> impl Strategy<Value = Superblock> {
    let generation = (any::<u64>(), any::<u64>()).prop_map(|(epoch, nonce)| Generation { epoch, nonce });
    let lineage = (
        generation.clone(),
        proptest::collection::vec(generation.clone(), 0..=2),
        proptest::collection::vec(generation, 0..=16),
    )
        .prop_map(|(current, bases, history)| Lineage { current, bases, history });
    let words = proptest::array::uniform8(any::<u64>());
    (lineage, words, any::<u128>(), 0u8..4, 0u8..4, any::<[bool; 8]>()).prop_map(
        |(lineage, words, wide, disk, kind, flags)| {
            let kinds = [None, Some(ResyncKind::Full), Some(ResyncKind::Compare), Some(ResyncKind::Differential)];
            let disks = [DiskState::New, DiskState::Inconsistent, DiskState::Outdated, DiskState::UpToDate];
            Superblock {
                archiving: [Archiving::Off, Archiving::Running, Archiving::Declined][usize::from(kind % 3)],
                peer_device: flags[0].then_some(Uuid(wide)),
                committed_bytes: words[0],
                role: if flags[1] { Role::Primary } else { Role::Secondary },
                disk: disks[usize::from(disk)],
                lineage,
                primary_epoch: Epoch(words[1]),
                seen_epoch: Epoch(words[2]),
                cache_epoch: words[3],
                join: flags[2].then_some(Join {
                    incarnation: Incarnation(words[4]),
                    boot: BootId(wide),
                    peer_incarnation: Incarnation(words[5]),
                    peer_boot: BootId(!wide),
                    session: SessionId(words[6]),
                    gated: flags[3],
                }),
                unfinished: kinds[usize::from(kind)],
                requested: kinds[3 - usize::from(kind)],
                clean: flags[4],
                peer_outdated: flags[5],
                discard: flags[6],
                suspect: flags[7],
                ..superblock(20)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_superblock_comes_back(content in any_superblock()) {
        let (mut disk, mut writer, _) = formatted();
        disk.carry_out(&writer.plan(&Record::Superblock(Box::new(content.clone()))));
        let (loaded, _) = disk.load().unwrap();
        let sequence = loaded.superblock.sequence;
        prop_assert_eq!(loaded.superblock, Superblock { sequence, ..content });
    }

    #[test]
    fn any_records_come_back(
        pages in proptest::collection::vec(proptest::collection::btree_set(0u32..1024, 0..40), 1..6),
        dirty in proptest::collection::btree_set(0u32..262_144, 0..500),
        suspect in proptest::collection::btree_set(0u32..262_144, 0..500),
    ) {
        let (mut disk, mut writer, superblock) = formatted();
        for page in &pages {
            disk.carry_out(&writer.plan(&Record::Intents { page: 0, regions: page.iter().copied().collect() }));
        }
        let (dirty, suspect): (RoaringBitmap, RoaringBitmap) = (dirty.into_iter().collect(), suspect.into_iter().collect());
        disk.carry_out(&writer.plan(&Record::Snapshot { sequence: 4, dirty: dirty.clone(), suspect: suspect.clone() }));
        disk.carry_out(&writer.plan(&naming(&superblock, Some(4))));
        let (loaded, mut after) = disk.load().unwrap();
        prop_assert_eq!((loaded.dirty, loaded.suspect), (dirty, suspect));
        prop_assert_eq!(loaded.intents, pages.last().unwrap().iter().copied().collect());
        prop_assert!(after.repair().is_none());
    }

    /// A life of crashes and single rot: what was in effect is never forgotten in silence.
    #[test]
    fn no_life_forgets_in_silence(events in proptest::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..40)) {
        let (mut disk, mut writer, superblock) = formatted();
        let mut in_effect = 6;
        for (number_next, (event, index)) in (100..).zip(events) {
            let plan = writer.plan(&numbered(&superblock, number_next));
            match event {
                0 | 1 => {
                    disk.carry_out(&plan);
                    in_effect = number_next;
                }
                2 => {
                    let states = crashes(&disk, &plan);
                    disk = index.get(&states).clone();
                }
                _ => {
                    disk.carry_out(&plan);
                    in_effect = number_next;
                    disk.rot(*index.get(&all_superblocks(&writer)));
                }
            }
            if event >= 2 {
                let (loaded, after) = disk.load().unwrap();
                prop_assert!(!loaded.superblock_suspect);
                prop_assert!([in_effect, number_next].contains(&number(&loaded)));
                in_effect = number(&loaded);
                writer = after;
                if let Some(repair) = writer.repair() {
                    disk.carry_out(&repair);
                }
            }
        }
    }

    #[test]
    fn forged_units_never_panic(
        place in 0usize..9, at in 0usize..1200, bytes in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let (mut disk, mut writer, superblock) = formatted();
        disk.carry_out(&writer.plan(&snapshot_record(1, &[1, 2, 3], 0..70_000)));
        disk.carry_out(&writer.plan(&naming(&superblock, Some(1))));
        let mut places = all_superblocks(&writer).to_vec();
        places.extend(writer.layout().locators());
        places.extend([writer.layout().intent_page(0, 0), writer.layout().snapshot(0), writer.layout().snapshot(0) + UNIT as u64]);
        forge(&mut disk, places[place], at, &bytes);
        if let Ok((loaded, mut writer)) = disk.load() {
            let regions: Vec<u32> = loaded.intents.iter().collect();
            prop_assert!(regions.iter().all(|region| *region < REGIONS_PER_PAGE));
            disk.carry_out(&writer.plan(&Record::Superblock(Box::new(loaded.superblock.clone()))));
            disk.carry_out(&writer.plan(&Record::Intents { page: 0, regions }));
            disk.carry_out(&writer.plan(&Record::Snapshot { sequence: 2, dirty: loaded.dirty, suspect: loaded.suspect }));
            prop_assert!(disk.load().is_ok());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(seed in any::<u64>(), file_bytes in 0u64..1 << 46, internal in any::<bool>()) {
        let placement = if internal { Placement::Internal } else { Placement::External };
        let expected = Expected { placement, file_bytes, volume: VOLUME, node: NodeId(0) };
        let mut read = |offset: u64, length: usize| -> Result<Vec<u8>, String> {
            Ok((0..length as u64).map(|at| (offset.wrapping_add(at).wrapping_mul(seed) >> 32) as u8).collect())
        };
        prop_assert_eq!(load(&mut read, &expected).map(|_| ()).unwrap_err(), LoadError::None);
    }
}
