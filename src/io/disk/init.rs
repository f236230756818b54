//! Makes a disk ours: checks what it holds, writes metadata. Never changes a disk whose content it wasn't told to give up.

use super::content::{self, Signature};
use super::device::Device;
use super::open::{carry_out, open_external};
use super::{DiskSpec, MetadataPlace, OpenError, access};
use crate::base::generation::{Generation, Lineage};
use crate::base::ids::{Epoch, Uuid};
use crate::base::limits::{METADATA_UNIT_BYTES, VOLUME_BYTES_MIN, ZERO_STEP_BYTES};
use crate::base::range::ByteRange;
use crate::base::state::DiskState;
use crate::wire::metadata::load::{Present, peek};
use crate::wire::metadata::record::Superblock;
use crate::wire::metadata::{Layout, Locator, Placement, TooSmall, Writer, begins_like_a_unit};
use std::io;
use std::path::{Path, PathBuf};

/// What the disk's content is worth from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InitialContent {
    /// It reads as zeroes throughout, which is checked. Two such disks need no copying.
    #[default]
    Blank,
    /// It is the good copy: kept where it is, and copied to the peer.
    Adopt,
    /// It is given up: the peer's copy will be written over it.
    Overwrite,
}

/// How to initialise.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct InitOptions {
    /// What is to become of the content.
    pub content: InitialContent,
    /// Metadata that is there already, whosever, may be replaced. Implied by [`InitialContent::Overwrite`].
    pub replace_metadata: bool,
    /// With [`InitialContent::Adopt`] and internal metadata: what lies in the disk's tail may be overwritten.
    pub tail_is_free: bool,
    /// Make the disk read as zeroes first, so that it counts as blank.
    pub zero: bool,
    /// Create the disk as a sparse file of so many bytes if nothing is there.
    pub create_bytes: Option<u64>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// Identity of the new metadata.
    pub device: Uuid,
    /// Size of the data disk, in bytes.
    pub disk_bytes: u64,
    /// Bytes of volume data it can hold.
    pub capacity_bytes: u64,
    /// Bytes set aside for metadata.
    pub metadata_bytes: u64,
    /// What the content is worth.
    pub disk: DiskState,
    /// Whether the content is known to be zeroes.
    pub zeroed: bool,
    /// What was done, as sentences.
    pub sentences: Vec<String>,
}

/// Hears how far a long step is: its name, bytes done, bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// Initialises a disk. Refuses one that holds data or metadata, unless the options say what is to become of it.
pub fn init_disk(spec: &DiskSpec, options: InitOptions) -> Result<InitReport, OpenError> {
    init_disk_with_progress(spec, options, &mut |_, _, _| ())
}

/// As [`init_disk`], for someone who watches: reading or zeroing a large disk takes long.
pub fn init_disk_with_progress(
    spec: &DiskSpec,
    options: InitOptions,
    progress: Progress<'_>,
) -> Result<InitReport, OpenError> {
    if options.zero && options.content == InitialContent::Adopt {
        return Err(OpenError::new(
            "options-conflict",
            "A disk can't be zeroed and its data kept.",
            "Use one of --zero and --adopt.",
        ));
    }
    let mut created = Vec::new();
    let done = initialise(spec, &options, progress, &mut created);
    if done.is_err() {
        // Refused: what was made on the way is not left behind.
        for path in &created {
            let _ = std::fs::remove_file(path);
        }
    }
    done
}

fn initialise(
    spec: &DiskSpec,
    options: &InitOptions,
    progress: Progress<'_>,
    created: &mut Vec<PathBuf>,
) -> Result<InitReport, OpenError> {
    let mut sentences = Vec::new();
    let data = open_or_create(spec, options, created, &mut sentences)?;
    let external = match &spec.metadata {
        MetadataPlace::Internal => None,
        MetadataPlace::External(path) => Some(external_place(&data, path, options, created, &mut sentences)?),
    };
    let layout = layout(&data, external.as_ref())?;
    check_metadata(&data, external.as_ref(), options)?;
    let zeroed = match options.content {
        InitialContent::Adopt => {
            check_adoptable(&data, external.is_none().then_some(layout), options)?;
            false
        }
        InitialContent::Blank | InitialContent::Overwrite if options.zero => {
            if options.content == InitialContent::Blank {
                refuse_signature(&data)?;
            }
            zero(&data, layout.capacity_bytes, progress)?;
            sentences.push(format!("Zeroed {} bytes.", layout.capacity_bytes));
            true
        }
        InitialContent::Blank => {
            check_blank(&data, layout.capacity_bytes, progress)?;
            if external.is_none() && has_metadata(&data, Placement::Internal).is_none() {
                check_free_tail(&data, layout)?;
            }
            true
        }
        InitialContent::Overwrite => false,
    };

    let device = Uuid(u128::from_le_bytes(random()?));
    let superblock = superblock(spec, &layout, device, options.content, zeroed)?;
    let place = external.as_ref().unwrap_or(&data);
    write(spec, &data, place, layout, &superblock)?;
    sentences.push(describe(&superblock, zeroed));
    Ok(InitReport {
        device,
        disk_bytes: data.bytes,
        capacity_bytes: layout.capacity_bytes,
        metadata_bytes: layout.area_bytes,
        disk: superblock.disk,
        zeroed,
        sentences,
    })
}

fn open_or_create(
    spec: &DiskSpec,
    options: &InitOptions,
    created: &mut Vec<PathBuf>,
    sentences: &mut Vec<String>,
) -> Result<Device, OpenError> {
    let Some(bytes) = options.create_bytes.filter(|_| !spec.disk.exists()) else {
        return Device::open(&spec.disk, "disk");
    };
    // Refused before it is made, so that nothing useless is left behind.
    match spec.metadata {
        MetadataPlace::Internal => Layout::internal(bytes).map_err(|small| too_small(&spec.disk, "disk", small))?,
        MetadataPlace::External(_) => external_layout(&spec.disk, bytes, Layout::external_bytes(bytes))?,
    };
    sentences.push(format!("Created {} with {bytes} bytes, sparse.", spec.disk.display()));
    let device = Device::create(&spec.disk, "disk", bytes)?;
    created.push(spec.disk.clone());
    Ok(device)
}

fn external_place(
    data: &Device,
    path: &Path,
    options: &InitOptions,
    created: &mut Vec<PathBuf>,
    sentences: &mut Vec<String>,
) -> Result<Device, OpenError> {
    let needs_bytes = Layout::external_bytes(data.bytes);
    if !path.exists() {
        sentences.push(format!("Created {} with {needs_bytes} bytes for the metadata.", path.display()));
        let device = Device::create(path, "metadata", needs_bytes)?;
        created.push(path.into());
        return Ok(device);
    }
    let mut device = open_external(data, path)?;
    let ours = has_metadata(&device, Placement::External).is_some();
    if !ours && options.content != InitialContent::Overwrite {
        let whole = ByteRange::new(0, device.bytes.min(needs_bytes) / 4096 * 4096);
        let used =
            content::first_nonzero(&device, whole, &mut |_, _| ()).map_err(|error| device.failed("read", &error))?;
        if let Some(offset) = used {
            return Err(OpenError::new(
                "metadata-holds-data",
                format!("{} was named for the metadata but holds something else (at byte {offset}).", path.display()),
                "Name a new file, or a device that may be overwritten and reads as zeroes.",
            ));
        }
    }
    if !device.is_block_device && device.bytes < needs_bytes {
        device.file.set_len(needs_bytes).map_err(|error| device.failed("extended", &error))?;
        device.bytes = needs_bytes;
    }
    Ok(device)
}

fn layout(data: &Device, external: Option<&Device>) -> Result<Layout, OpenError> {
    match external {
        None => Layout::internal(data.bytes).map_err(|small| too_small(&data.path, "disk", small)),
        Some(device) => external_layout(&data.path, data.bytes, device.bytes),
    }
}

fn external_layout(disk: &Path, data_bytes: u64, metadata_bytes: u64) -> Result<Layout, OpenError> {
    if data_bytes < VOLUME_BYTES_MIN {
        let small = TooSmall { has_bytes: data_bytes, needs_bytes: VOLUME_BYTES_MIN };
        return Err(too_small(disk, "disk", small));
    }
    Layout::external(data_bytes, metadata_bytes).map_err(|small| too_small(disk, "metadata device of the disk", small))
}

fn too_small(path: &Path, what: &str, small: TooSmall) -> OpenError {
    let TooSmall { has_bytes, needs_bytes } = small;
    OpenError::new(
        "disk-too-small",
        format!("The {what} {} is too small: it has {has_bytes} bytes and needs {needs_bytes}.", path.display()),
        format!("Use one of at least {needs_bytes} bytes."),
    )
}

fn has_metadata(device: &Device, placement: Placement) -> Option<Present> {
    peek(&mut |offset, length| device.read(offset, length), placement, device.bytes)
}

/// Metadata of ours or of anyone, on the disk itself or on the place named for it.
fn check_metadata(data: &Device, external: Option<&Device>, options: &InitOptions) -> Result<(), OpenError> {
    let places = [Some((data, Placement::Internal)), external.map(|device| (device, Placement::External))];
    for (device, placement) in places.into_iter().flatten() {
        let Some(present) = has_metadata(device, placement) else { continue };
        if options.replace_metadata || options.content == InitialContent::Overwrite {
            continue;
        }
        let whose = match present {
            Present::Known(locator) => {
                let Locator { volume_name, cluster, node, .. } = *locator;
                format!("of volume {volume_name:?} of cluster {cluster:?} already (node {node})")
            }
            Present::OtherVersion => "that another version of twinblock wrote".into(),
        };
        return Err(OpenError::new(
            "metadata-present",
            format!("{} holds metadata {whose}.", device.path.display()),
            "Start the daemon if it is this volume's; else use --overwrite to give up its data, or --adopt with \
             --replace-metadata to keep the data and forget what was known of it.",
        ));
    }
    Ok(())
}

fn refuse_signature(data: &Device) -> Result<(), OpenError> {
    match content::signature(data).map_err(|error| data.failed("read", &error))? {
        None => Ok(()),
        Some(found) => Err(holds_data(data, found.name)),
    }
}

fn check_blank(data: &Device, capacity_bytes: u64, progress: Progress<'_>) -> Result<(), OpenError> {
    refuse_signature(data)?;
    let range = ByteRange::new(0, capacity_bytes);
    let mut reading = |done, total| progress("reading the disk", done, total);
    match content::first_nonzero(data, range, &mut reading).map_err(|error| data.failed("read", &error))? {
        None => Ok(()),
        Some(offset) => Err(holds_data(data, &format!("something other than zeroes, first at byte {offset}"))),
    }
}

/// What internal metadata will overwrite, and is no metadata that may be replaced, reads as zeroes too. An earlier
/// initialisation that was cut short leaves units of ours and no locator: nothing was ever known by them.
fn check_free_tail(data: &Device, layout: Layout) -> Result<(), OpenError> {
    let unit_bytes = METADATA_UNIT_BYTES as u64;
    let end = layout.area_offset + layout.area_bytes;
    let mut from = layout.area_offset;
    let failed = |error: io::Error| data.failed("read", &error);
    while from < end {
        let rest = ByteRange::new(from, end - from);
        let Some(offset) = content::first_nonzero(data, rest, &mut |_, _| ()).map_err(failed)? else { break };
        let unit = offset / unit_bytes * unit_bytes;
        if !begins_like_a_unit(&data.read(unit, METADATA_UNIT_BYTES).map_err(failed)?) {
            return Err(holds_data(data, &format!("something other than zeroes near its end, at byte {offset}")));
        }
        from = unit + unit_bytes;
    }
    Ok(())
}

fn holds_data(data: &Device, what: &str) -> OpenError {
    OpenError::new(
        "disk-holds-data",
        format!("The disk {} holds {what}.", data.path.display()),
        "Use --adopt to keep this data as the good copy, --overwrite to give it up for the peer's copy, or --zero with \
         --overwrite to erase it.",
    )
}

/// A disk whose data stays: what internal metadata would overwrite must be free.
fn check_adoptable(data: &Device, internal: Option<Layout>, options: &InitOptions) -> Result<(), OpenError> {
    let Some(layout) = internal else { return Ok(()) };
    let ours = has_metadata(data, Placement::Internal).is_some();
    if options.tail_is_free || ours {
        return Ok(());
    }
    let area = ByteRange::new(layout.area_offset, layout.area_bytes);
    let occupied = |by: String| {
        OpenError::new(
            "disk-tail-in-use",
            format!(
                "The last {} bytes of the disk {} are wanted for the metadata but {by}.",
                area.length,
                data.path.display()
            ),
            format!(
                "Shrink what is on the disk to {} bytes, or keep the metadata on a file or device of its own \
                 (`metadata = \"/path\"`); --tail-is-free overwrites them.",
                area.offset
            ),
        )
    };
    match content::signature(data).map_err(|error| data.failed("read", &error))? {
        Some(Signature { name, uses_bytes: Some(bytes) }) => {
            if bytes > area.offset {
                return Err(occupied(format!("belong to {name} of {bytes} bytes")));
            }
            Ok(())
        }
        _ => match content::first_nonzero(data, area, &mut |_, _| ()).map_err(|error| data.failed("read", &error))? {
            Some(offset) => Err(occupied(format!("hold data (at byte {offset})"))),
            None => Ok(()),
        },
    }
}

fn zero(data: &Device, capacity_bytes: u64, progress: Progress<'_>) -> Result<(), OpenError> {
    let mut offset = 0;
    while offset < capacity_bytes {
        let length = ZERO_STEP_BYTES.min(capacity_bytes - offset);
        access::zero(&data.file, ByteRange::new(offset, length)).map_err(|error| data.failed("zeroed", &error))?;
        offset += length;
        progress("zeroing the disk", offset, capacity_bytes);
    }
    data.flush()
}

fn superblock(
    spec: &DiskSpec,
    layout: &Layout,
    device: Uuid,
    content: InitialContent,
    zeroed: bool,
) -> Result<Superblock, OpenError> {
    let (disk, lineage, committed_bytes) = match content {
        _ if zeroed => (DiskState::UpToDate, Lineage::starting_at(Generation::ZEROED), 0),
        InitialContent::Adopt => {
            let current = Generation { epoch: 1, nonce: u64::from_le_bytes(random()?) };
            // Everything descends from zeroes: a blank peer is then behind this one, not a stranger to it.
            let lineage = Lineage { current, bases: Vec::new(), history: vec![Generation::ZEROED] };
            (DiskState::UpToDate, lineage, layout.capacity_bytes)
        }
        InitialContent::Blank | InitialContent::Overwrite => (DiskState::New, Lineage::default(), 0),
    };
    let epoch = Epoch(lineage.current.epoch);
    let blank = Superblock::blank(spec.volume_uuid, spec.node, device, layout.region_shift);
    Ok(Superblock { committed_bytes, disk, lineage, seen_epoch: epoch, ..blank })
}

fn write(
    spec: &DiskSpec,
    data: &Device,
    place: &Device,
    layout: Layout,
    superblock: &Superblock,
) -> Result<(), OpenError> {
    let placement = if std::ptr::eq(data, place) { Placement::Internal } else { Placement::External };
    let names = (spec.cluster.as_str(), spec.volume.as_str());
    let locator = Locator {
        data_bytes: data.bytes,
        fingerprint: Some(data.fingerprint),
        ..Locator::new(&layout, superblock, names, placement, place.bytes)
    };
    if !place.is_block_device {
        // Metadata must not fail for want of space when the disk's file system is full.
        let area = ByteRange::new(layout.area_offset, layout.area_bytes);
        access::reserve(&place.file, area).map_err(|error| place.failed("given the space of its metadata", &error))?;
    }
    let (_, plan) = Writer::format(layout, locator, superblock);
    carry_out(place, &plan)?;
    place.file.sync_all().map_err(|error| place.failed("flushed", &error))
}

fn describe(superblock: &Superblock, zeroed: bool) -> String {
    match superblock.disk {
        _ if zeroed => {
            "The disk reads as zeroes: with a peer that was initialised so too, nothing needs copying.".into()
        }
        DiskState::UpToDate => {
            "The disk's data is kept as the good copy; the peer is compared or copied from it.".into()
        }
        _ => "The disk's data is given up: it is copied from the peer before it counts.".into(),
    }
}

fn random<const N: usize>() -> Result<[u8; N], OpenError> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(OpenError::new(
            "no-randomness",
            format!("The kernel gives no random numbers: {error}."),
            "Allow the getrandom system call.",
        )),
    }
}
