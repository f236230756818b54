//! Reads a metadata area and says what to believe of it.
//!
//! The caller makes the device durable (a flush) before it calls [`load()`]: what is read here is acted upon, so it must
//! not be lost from a volatile cache afterwards. A unit that can't be read counts like a rotten one.

use crate::base::ids::{NodeId, Uuid};
use crate::base::limits::METADATA_UNIT_BYTES;
use crate::wire::metadata::features::Features;
use crate::wire::metadata::layout::{Layout, Placement};
use crate::wire::metadata::locator::Locator;
use crate::wire::metadata::record::{Loaded, REGIONS_PER_PAGE};
use crate::wire::metadata::superblock::{COPIES, Chosen, Copies, PAIRS, Stored};
use crate::wire::metadata::unit::{Bad, FORMAT_VERSION};
use crate::wire::metadata::writer::Writer;
use crate::wire::metadata::{intents, snapshot, superblock};
use roaring::RoaringBitmap;
use std::fmt;

/// Sequences left out after a start: a write of the life before may have been under way with the next one.
const SEQUENCES_SKIPPED: u64 = 1;
/// Sequences left out when a pair of superblocks was rotten: it may have held several newer ones, and be readable again.
const SEQUENCES_SKIPPED_SUSPECT: u64 = 16;
/// Sequences left out when a copy of an intent page was unreadable, for the same reason.
const PAGE_SEQUENCES_SKIPPED: u64 = 1 << 32;

/// Whose metadata is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Where it should be.
    pub placement: Placement,
    /// Size of the file or device it is on, in bytes.
    pub file_bytes: u64,
    /// The volume.
    pub volume: Uuid,
    /// The node.
    pub node: NodeId,
}

/// Why there is nothing to go on with. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// No metadata of ours.
    None,
    /// The places where it would be can't be read.
    Unreadable(String),
    /// Made by another version of the format.
    Version {
        /// The version found.
        found: u16,
        /// The version this program reads and writes.
        supported: u16,
    },
    /// Uses features this program doesn't know, without which nothing can be understood.
    UnknownIncompat(u64),
    /// Uses features this program doesn't know, under which nothing may be written.
    UnknownReadOnly(u64),
    /// Both copies of the locator are sound, but of different metadata.
    LocatorsDisagree,
    /// The file or device had another size when the metadata was made.
    Resized {
        /// Then, in bytes.
        was_bytes: u64,
        /// Now, in bytes.
        is_bytes: u64,
    },
    /// Made for another place (internal or external).
    Placement(Placement),
    /// Of another volume or cluster.
    OtherVolume {
        /// Cluster it belongs to.
        cluster: String,
        /// Volume it belongs to.
        volume: String,
    },
    /// Of the other node.
    OtherNode(NodeId),
    /// No sound superblock is left.
    NoSuperblock,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::None => f.write_str("it holds no twinblock metadata"),
            LoadError::Unreadable(error) => write!(f, "its metadata can't be read: {error}"),
            LoadError::Version { found, supported } => {
                let age = if found > supported { "newer" } else { "older" };
                write!(f, "its metadata has format version {found}, {age} than version {supported} of this program")
            }
            LoadError::UnknownIncompat(bits) => {
                write!(f, "its metadata uses features this program doesn't know (incompat bits {bits:#x})")
            }
            LoadError::UnknownReadOnly(bits) => write!(
                f,
                "its metadata uses features under which this program may read but not write it (ro_compat bits {bits:#x})"
            ),
            LoadError::LocatorsDisagree => f.write_str(
                "the first and the last unit of its metadata are both sound but belong to different metadata: a part of \
                 the disk was copied from elsewhere, or two disks were joined",
            ),
            LoadError::Resized { was_bytes, is_bytes } => {
                let how = if is_bytes > was_bytes { "grew" } else { "shrank" };
                write!(f, "it {how} since its metadata was made: {was_bytes} bytes then, {is_bytes} bytes now")
            }
            LoadError::Placement(Placement::Internal) => {
                f.write_str("its metadata was made as internal metadata, not as external")
            }
            LoadError::Placement(Placement::External) => {
                f.write_str("its metadata was made as external metadata of another disk, not as internal")
            }
            LoadError::OtherVolume { cluster, volume } => {
                write!(f, "it holds metadata of volume {volume:?} of cluster {cluster:?}")
            }
            LoadError::OtherNode(node) => {
                let place = if node.0 == 0 { "first" } else { "second" };
                write!(f, "it holds this volume's metadata of the other server, the {place} [[node]] of the configuration")
            }
            LoadError::NoSuperblock => {
                f.write_str("none of the four copies of its superblock is sound: its metadata is damaged")
            }
        }
    }
}

/// Reads bytes of the area: offset, and a length that is a multiple of 4096.
pub type Read<'a, E> = &'a mut dyn FnMut(u64, usize) -> Result<Vec<u8>, E>;

/// Reads the whole area and yields what it says, and the writer that goes on from there.
///
/// [`Writer::repair`] is to be carried out before anyone acts on the result.
pub fn load<E: fmt::Display>(read: Read<'_, E>, expected: &Expected) -> Result<(Loaded, Writer), LoadError> {
    let mut area = Area { read, last_error: None };
    let (locator, layout, locator_repairs) = find_locator(&mut area, expected)?;
    check_identity(&locator, expected)?;
    let chosen = find_superblock(&mut area, &layout, &locator)?.ok_or(LoadError::NoSuperblock)?;

    let mut writer = Writer::new(layout, locator);
    writer.repairs = locator_repairs;
    take_superblock(&mut writer, &chosen);
    let intents = find_intents(&mut area, &mut writer);
    let Chosen { stored, suspect, .. } = chosen;
    let maps = find_maps(&mut area, &writer, &stored);
    let maps_unreadable = maps.is_none();
    let (dirty, suspected) = maps.unwrap_or_default();

    let mut superblock = stored.superblock;
    superblock.suspect |= suspect;
    let loaded = Loaded {
        superblock,
        capacity_bytes: layout.capacity_bytes,
        intents,
        dirty,
        suspect: suspected,
        maps_unreadable,
        superblock_suspect: suspect,
    };
    Ok((loaded, writer))
}

/// Metadata that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Present {
    /// Whose it is.
    Known(Box<Locator>),
    /// It is ours, of another version of the format: whose can't be understood.
    OtherVersion,
}

/// The metadata on a file or device of `file_bytes`, whatever it belongs to: for messages about what is in the way. `None`
/// when there is none.
pub fn peek<E: fmt::Display>(read: Read<'_, E>, placement: Placement, file_bytes: u64) -> Option<Present> {
    let mut area = Area { read, last_error: None };
    locator_places(placement, file_bytes).into_iter().enumerate().find_map(|(copy, offset)| {
        let bytes = area.unit(offset?)?;
        match Locator::decode(&bytes, copy as u32) {
            Ok((_, Some(locator))) => Some(Present::Known(Box::new(locator))),
            Ok((_, None)) | Err(Bad::Version(_)) => Some(Present::OtherVersion),
            Err(Bad::Rotten | Bad::Misplaced) => None,
        }
    })
}

/// The locator that lies at `offset` as the first unit of an area, if one does.
pub fn locator_at<E: fmt::Display>(read: Read<'_, E>, offset: u64) -> Option<Locator> {
    let bytes = read(offset, METADATA_UNIT_BYTES).ok()?;
    Locator::decode(&bytes, 0).ok()?.1
}

struct Area<'a, E> {
    read: Read<'a, E>,
    last_error: Option<String>,
}

impl<E: fmt::Display> Area<'_, E> {
    fn bytes(&mut self, offset: u64, length: usize) -> Option<Vec<u8>> {
        match (self.read)(offset, length) {
            Ok(bytes) => (bytes.len() == length).then_some(bytes),
            Err(error) => {
                self.last_error = Some(error.to_string());
                None
            }
        }
    }

    fn unit(&mut self, offset: u64) -> Option<Vec<u8>> {
        self.bytes(offset, METADATA_UNIT_BYTES)
    }
}

/// Where the first locator and its copy are on a file or device of this size, if it has room.
fn locator_places(placement: Placement, file_bytes: u64) -> [Option<u64>; 2] {
    let first = match placement {
        Placement::Internal => Layout::internal(file_bytes).ok().map(|layout| layout.area_offset),
        Placement::External => (file_bytes >= METADATA_UNIT_BYTES as u64).then_some(0),
    };
    [first, Layout::locator_copy_offset(file_bytes)]
}

type Repairs = Vec<(u64, Vec<u8>)>;

fn find_locator<E: fmt::Display>(
    area: &mut Area<'_, E>,
    expected: &Expected,
) -> Result<(Locator, Layout, Repairs), LoadError> {
    let mut found: [Option<Locator>; 2] = [None, None];
    for (copy, offset) in locator_places(expected.placement, expected.file_bytes).into_iter().enumerate() {
        let Some(bytes) = offset.and_then(|offset| area.unit(offset)) else { continue };
        match Locator::decode(&bytes, copy as u32) {
            Ok((features, locator)) => {
                check_features(features)?;
                found[copy] = locator;
            }
            Err(Bad::Version(found)) => return Err(LoadError::Version { found, supported: FORMAT_VERSION }),
            Err(Bad::Rotten | Bad::Misplaced) => {}
        }
    }
    let newest = match &found {
        [Some(first), Some(copy)] if first.device != copy.device => return Err(LoadError::LocatorsDisagree),
        [Some(first), Some(copy)] if first.sequence < copy.sequence => copy.clone(),
        [Some(one), _] | [None, Some(one)] => one.clone(),
        [None, None] => return Err(area.last_error.take().map_or(LoadError::None, LoadError::Unreadable)),
    };
    if newest.placement != expected.placement {
        return Err(LoadError::Placement(newest.placement));
    }
    // A metadata device of its own may have grown: the area stays where it was.
    let grown_apart = newest.placement == Placement::External && expected.file_bytes > newest.file_bytes;
    if newest.file_bytes != expected.file_bytes && !grown_apart {
        return Err(LoadError::Resized { was_bytes: newest.file_bytes, is_bytes: expected.file_bytes });
    }
    let layout = newest.layout().ok_or(LoadError::None)?;
    let mut repairs = Vec::new();
    for (copy, offset) in layout.locators().into_iter().enumerate() {
        if found[copy].as_ref() != Some(&newest) {
            repairs.push((offset, newest.encode(copy as u32)));
        }
    }
    Ok((newest, layout, repairs))
}

fn check_features(features: Features) -> Result<(), LoadError> {
    match features.unknown() {
        (0, 0) => Ok(()),
        (0, ro_compat) => Err(LoadError::UnknownReadOnly(ro_compat)),
        (incompat, _) => Err(LoadError::UnknownIncompat(incompat)),
    }
}

fn check_identity(locator: &Locator, expected: &Expected) -> Result<(), LoadError> {
    if locator.volume != expected.volume {
        let (cluster, volume) = (locator.cluster.clone(), locator.volume_name.clone());
        return Err(LoadError::OtherVolume { cluster, volume });
    }
    if locator.node != expected.node {
        return Err(LoadError::OtherNode(locator.node));
    }
    Ok(())
}

fn find_superblock<E: fmt::Display>(
    area: &mut Area<'_, E>,
    layout: &Layout,
    locator: &Locator,
) -> Result<Option<Chosen>, LoadError> {
    let mut copies: Copies = Default::default();
    for (pair, copies) in copies.iter_mut().enumerate().take(PAIRS) {
        for (copy, place) in copies.iter_mut().enumerate().take(COPIES) {
            let Some(bytes) = area.unit(layout.superblock(pair, copy)) else { continue };
            match Stored::decode(&bytes, pair, copy, locator) {
                Ok((features, stored)) => {
                    check_features(features)?;
                    *place = stored;
                }
                Err(Bad::Version(found)) => return Err(LoadError::Version { found, supported: FORMAT_VERSION }),
                Err(Bad::Rotten | Bad::Misplaced) => {}
            }
        }
    }
    Ok(superblock::choose(&copies))
}

fn take_superblock(writer: &mut Writer, chosen: &Chosen) {
    let Stored { named, superblock } = &chosen.stored;
    let skipped = if chosen.suspect { SEQUENCES_SKIPPED_SUSPECT } else { SEQUENCES_SKIPPED };
    writer.sequence = superblock.sequence.saturating_add(skipped);
    writer.next_pair = chosen.next_pair;
    if let (Some(sequence), Some(named)) = (superblock.snapshot, named.filter(|named| named.slot < 2)) {
        // Also when the slot turns out to be unreadable: it stays named, with the digest it doesn't have.
        writer.slots[usize::from(named.slot)] = Some((sequence, named.digest));
        writer.named_slot = Some(named.slot);
    }
    let layout = *writer.layout();
    writer.repairs.extend(
        chosen.repairs.iter().map(|(pair, copy, good)| (layout.superblock(*pair, *copy), good.encode(*pair, *copy))),
    );
}

fn find_intents<E: fmt::Display>(area: &mut Area<'_, E>, writer: &mut Writer) -> RoaringBitmap {
    let (layout, device) = (*writer.layout(), writer.locator().device);
    let mut set = RoaringBitmap::new();
    for page in 0..layout.intent_pages {
        let mut read = |copy: u32| {
            let bytes = area.unit(layout.intent_page(page, copy as usize))?;
            intents::decode(&bytes, page, copy, device, layout.regions()).ok()
        };
        let copies = [read(0), read(1)];
        let newest = copies.iter().flatten().max_by_key(|(sequence, _)| *sequence).cloned();
        let skipped = if copies.iter().all(Option::is_some) { SEQUENCES_SKIPPED } else { PAGE_SEQUENCES_SKIPPED };
        let (sequence, regions) = newest.unwrap_or_else(|| {
            let first = page * REGIONS_PER_PAGE;
            (0, (first..layout.regions().min(first + REGIONS_PER_PAGE)).collect())
        });
        writer.page_sequences[page as usize] = sequence.saturating_add(skipped);
        if copies.iter().any(Option::is_some) {
            for (copy, found) in copies.iter().enumerate() {
                if found.as_ref().map(|(sequence, _)| *sequence) != Some(sequence) {
                    let unit = intents::encode(page, copy as u32, sequence, device, &regions);
                    writer.repairs.push((layout.intent_page(page, copy), unit));
                }
            }
        }
        set.extend(regions);
    }
    set
}

/// Both maps of the snapshot the superblock names; empty ones when it names none; `None` when it can't be read.
fn find_maps<E: fmt::Display>(
    area: &mut Area<'_, E>,
    writer: &Writer,
    stored: &Stored,
) -> Option<(RoaringBitmap, RoaringBitmap)> {
    let Some(sequence) = stored.superblock.snapshot else { return Some(Default::default()) };
    let mut read = |offset, length| area.bytes(offset, length);
    snapshot::load(writer.layout(), writer.locator().device, sequence, stored.named?, &mut read)
}
