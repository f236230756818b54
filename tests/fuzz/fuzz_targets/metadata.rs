//! A disk's metadata with any bytes in it: units whose checksum is right and whose content is not, and none at all.
//!
//! The input is a list of patches: which unit, where in it, how many bytes, the bytes. Each patched unit's checksum is made
//! right again unless the patch says otherwise. Whatever is loaded must be within its bounds, and what the writer then
//! writes must load.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use twinblock::base::generation::{BASES_MAX, Generation, Lineage};
use twinblock::base::ids::{NodeId, Uuid};
use twinblock::base::limits::HISTORY_MAX;
use twinblock::base::state::{DiskState, Role};
use twinblock::wire::metadata::record::{Record, Superblock};
use twinblock::wire::metadata::{Expected, Layout, LoadError, Locator, Placement, Plan, Writer, load};

const UNIT: usize = 4096;
const DATA_BYTES: u64 = 64 << 20;
const VOLUME: Uuid = Uuid(1);
const DEVICE: Uuid = Uuid(2);

type Units = BTreeMap<u64, Vec<u8>>;

fn carry_out(units: &mut Units, plan: &Plan) {
    for (offset, bytes) in plan.steps.iter().flatten() {
        for (index, unit) in bytes.chunks(UNIT).enumerate() {
            units.insert(offset / UNIT as u64 + index as u64, unit.to_vec());
        }
    }
}

fn read(units: &Units, offset: u64, length: usize) -> Result<Vec<u8>, String> {
    let first = offset / UNIT as u64;
    let unit = |number| units.get(&number).cloned().unwrap_or_else(|| vec![0; UNIT]);
    Ok((first..first + (length / UNIT) as u64).flat_map(unit).collect())
}

fn expected() -> Expected {
    let file_bytes = Layout::external_bytes(DATA_BYTES);
    Expected { placement: Placement::External, file_bytes, volume: VOLUME, node: NodeId(0) }
}

/// A sound area with a snapshot, and the numbers of the units that hold something.
fn sound() -> &'static Units {
    static SOUND: OnceLock<Units> = OnceLock::new();
    SOUND.get_or_init(|| {
        let layout = Layout::external(DATA_BYTES, expected().file_bytes).expect("large enough");
        let blank = Superblock::blank(VOLUME, NodeId(0), DEVICE, layout.region_shift);
        let superblock = Superblock {
            role: Role::Primary,
            disk: DiskState::UpToDate,
            lineage: Lineage::starting_at(Generation::ZEROED),
            ..blank
        };
        let Expected { placement, file_bytes, .. } = expected();
        let locator = Locator::new(&layout, &superblock, ("lab", "vol0"), placement, file_bytes);
        let locator = Locator { data_bytes: DATA_BYTES, ..locator };
        let mut units = Units::new();
        let (mut writer, plan) = Writer::format(layout, locator, &superblock);
        carry_out(&mut units, &plan);
        let dirty = (0..9000).step_by(3).collect();
        let suspect = (100..2000).collect();
        carry_out(&mut units, &writer.plan(&Record::Snapshot { sequence: 1, dirty, suspect }));
        let named = Superblock { snapshot: Some(1), ..superblock };
        carry_out(&mut units, &writer.plan(&Record::Superblock(Box::new(named))));
        carry_out(&mut units, &writer.plan(&Record::Intents { page: 0, regions: vec![1, 2, 60] }));
        units
    })
}

fn patch(units: &mut Units, mut bytes: &[u8]) {
    let numbers: Vec<u64> = units.keys().copied().collect();
    while let Some((&[which, kind, at_low, at_high, length], rest)) = bytes.split_first_chunk::<5>() {
        let length = usize::from(length % 64).min(rest.len());
        let (content, rest) = rest.split_at(length);
        bytes = rest;
        let unit = units.get_mut(&numbers[usize::from(which) % numbers.len()]).expect("a unit of the area");
        let at = usize::from(u16::from_le_bytes([at_low, at_high])) % (UNIT - 64);
        unit[at..at + length].copy_from_slice(content);
        if kind % 4 != 0 {
            unit[40..44].fill(0);
            let crc = crc32fast::hash(unit);
            unit[40..44].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let whole = Expected { file_bytes: bytes.len() as u64, ..expected() };
    let raw: Units =
        bytes.chunks_exact(UNIT).map(<[u8]>::to_vec).enumerate().map(|(n, unit)| (n as u64, unit)).collect();
    let _ = load(&mut |offset, length| read(&raw, offset, length), &whole);

    let mut units = sound().clone();
    patch(&mut units, bytes);
    let (loaded, mut writer) = match load(&mut |offset, length| read(&units, offset, length), &expected()) {
        Ok(found) => found,
        Err(error) => {
            assert!(!matches!(error, LoadError::Unreadable(_)) && !error.to_string().is_empty());
            return;
        }
    };
    let layout = *writer.layout();
    assert!(loaded.intents.max().is_none_or(|region| region < layout.regions()));
    assert!(loaded.dirty.max().is_none_or(|block| u64::from(block) < layout.blocks()));
    assert!(loaded.suspect.max().is_none_or(|block| u64::from(block) < layout.blocks()));
    let lineage = &loaded.superblock.lineage;
    assert!(lineage.history.len() <= HISTORY_MAX && lineage.bases.len() <= BASES_MAX);
    assert_eq!((loaded.superblock.device, loaded.superblock.volume), (DEVICE, VOLUME));

    if let Some(repair) = writer.repair() {
        carry_out(&mut units, &repair);
        let (again, _) = load(&mut |offset, length| read(&units, offset, length), &expected()).expect("repaired");
        assert_eq!(again, loaded);
    }
    let regions = loaded.intents.iter().collect();
    carry_out(&mut units, &writer.plan(&Record::Intents { page: 0, regions }));
    let (dirty, suspect) = (loaded.dirty.clone(), loaded.suspect.clone());
    carry_out(&mut units, &writer.plan(&Record::Snapshot { sequence: 7, dirty, suspect }));
    let superblock = Superblock { snapshot: Some(7), ..loaded.superblock.clone() };
    carry_out(&mut units, &writer.plan(&Record::Superblock(Box::new(superblock))));
    let (again, _) = load(&mut |offset, length| read(&units, offset, length), &expected()).expect("just written");
    assert!(!again.maps_unreadable && !again.superblock_suspect);
    assert_eq!((&again.intents, &again.dirty, &again.suspect), (&loaded.intents, &loaded.dirty, &loaded.suspect));
});
