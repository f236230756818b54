//! Opens a volume's disk that was initialised before, and reads its metadata.

use super::device::Device;
use super::{DiskSpec, MetadataFile, MetadataPlace, OpenError, OpenedVolume, access};
use crate::base::generation::Lineage;
use crate::base::limits::{LOCATOR_SEARCH_TIME, METADATA_UNIT_BYTES};
use crate::base::state::DiskState;
use crate::wire::metadata::Placement;
use crate::wire::metadata::load::{Expected, LoadError, load, locator_at};
use crate::wire::metadata::locator::Locator;
use crate::wire::metadata::record::Loaded;
use crate::wire::metadata::writer::{Plan, Writer};
use roaring::RoaringBitmap;
use std::io;
use std::path::Path;
use std::time::Instant;

/// Opens, locks and reads a disk. Nothing is written but copies of metadata that a crash or rot left behind their twin.
pub fn open_volume(spec: &DiskSpec) -> Result<OpenedVolume, OpenError> {
    let data = Device::open(&spec.disk, "disk")?;
    let external = match &spec.metadata {
        MetadataPlace::Internal => None,
        MetadataPlace::External(path) => Some(open_external(&data, path)?),
    };
    let place = external.as_ref().unwrap_or(&data);

    // What is read below is acted upon: it must not be lost from a volatile cache afterwards (kernel-notes/0002).
    data.flush()?;
    place.flush()?;
    let expected = Expected {
        placement: if external.is_some() { Placement::External } else { Placement::Internal },
        file_bytes: place.bytes,
        volume: spec.volume_uuid,
        node: spec.node,
    };
    let (mut loaded, mut writer) = load(&mut |offset, length| place.read(offset, length), &expected)
        .map_err(|error| refusal(spec, place, &expected, error))?;

    let mut warnings = Vec::new();
    if loaded.superblock_suspect {
        warnings.push(damaged(spec));
    }
    if loaded.maps_unreadable {
        let volume = &spec.volume;
        warnings.push(format!("The change maps of volume {volume} can't be read: both disks will be compared."));
    }
    check_size(spec, &data, &writer)?;
    if let Some(warning) = distrust_swapped(spec, &data, &mut loaded, &mut writer) {
        warnings.push(warning);
    }
    if let Some(repair) = writer.repair() {
        carry_out(place, &repair)?;
        warnings.push(format!("Copies of metadata on {} that a crash left behind were renewed.", place.path.display()));
    }
    finish(data, external, loaded, writer, warnings)
}

fn finish(
    data: Device,
    external: Option<Device>,
    loaded: Loaded,
    writer: Writer,
    mut warnings: Vec<String>,
) -> Result<OpenedVolume, OpenError> {
    for device in std::iter::once(&data).chain(&external) {
        if let Some(why) = &device.not_direct {
            warnings.push(format!("No direct I/O on {}, the page cache is used: {why}.", device.path.display()));
        }
    }
    let metadata_direct = external.as_ref().unwrap_or(&data).not_direct.is_none();
    let metadata_file = match external {
        Some(device) => device.file,
        None => data.file.try_clone().map_err(|error| data.failed("opened twice", &error))?,
    };
    Ok(OpenedVolume {
        is_block_device: data.is_block_device,
        direct: data.not_direct.is_none(),
        data: data.file.into(),
        metadata: MetadataFile { fd: metadata_file.into(), direct: metadata_direct, writer },
        loaded,
        warnings,
    })
}

/// Opens an external metadata device, which must be another one than the data disk.
pub(super) fn open_external(data: &Device, path: &Path) -> Result<Device, OpenError> {
    let same =
        std::fs::canonicalize(path).ok().is_some_and(|path| std::fs::canonicalize(&data.path).ok() == Some(path));
    if same {
        return Err(OpenError::new(
            "metadata-is-disk",
            format!("Disk and metadata are both {}.", path.display()),
            "Name another file or device for the metadata, or make it internal.",
        ));
    }
    Device::open(path, "metadata")
}

/// Carries out a plan without a ring: for the few writes before the shard runs.
pub(super) fn carry_out(device: &Device, plan: &Plan) -> Result<(), OpenError> {
    for step in &plan.steps {
        for (offset, bytes) in step {
            access::write_at(&device.file, *offset, bytes).map_err(|error| device.failed("written", &error))?;
        }
        device.flush()?;
    }
    Ok(())
}

fn damaged(spec: &DiskSpec) -> String {
    format!(
        "Both copies of one generation of the superblock of volume {} are damaged: what is left may be older. The disk is \
         not promoted without force until it is in sync again.",
        spec.volume
    )
}

/// Whether the data disk still holds what was promised of it. (If internal, the loader has compared the size already.)
fn check_size(spec: &DiskSpec, data: &Device, writer: &Writer) -> Result<(), OpenError> {
    let capacity_bytes = writer.layout().capacity_bytes;
    if data.bytes >= capacity_bytes {
        return Ok(());
    }
    Err(OpenError::new(
        "disk-resized",
        format!(
            "The disk {} shrank since its metadata was made: it holds {} bytes, volume {} was made for {capacity_bytes}.",
            data.path.display(),
            data.bytes,
            spec.volume,
        ),
        "Give it its size back; if the data is lost, use replace-disk, and it is copied from the peer.",
    ))
}

/// A disk that is not the one its metadata was made for is never taken for a good copy.
fn distrust_swapped(spec: &DiskSpec, data: &Device, loaded: &mut Loaded, writer: &mut Writer) -> Option<String> {
    let made_for = writer.locator().fingerprint;
    if made_for.is_none_or(|made_for| made_for == data.fingerprint) {
        return None;
    }
    writer.take_over_data_disk(Some(data.fingerprint));
    loaded.superblock.suspect = true;
    loaded.superblock_suspect = true;
    loaded.maps_unreadable = true;
    let (disk, volume) = (data.path.display(), &spec.volume);
    if writer.locator().placement == Placement::External {
        let superblock = &mut loaded.superblock;
        superblock.disk = DiskState::New;
        superblock.lineage = Lineage::default();
        (superblock.join, superblock.snapshot, superblock.unfinished) = (None, None, None);
        superblock.clean = false;
        (loaded.dirty, loaded.suspect) = (RoaringBitmap::new(), RoaringBitmap::new());
        return Some(format!(
            "The disk {disk} is not the one that the metadata of volume {volume} was made for (another device, or another \
             file at its path). Its content counts as unknown until it was resynced from the peer."
        ));
    }
    Some(format!(
        "The disk {disk} of volume {volume} was moved or is a clone: metadata and data are on another device, or in another \
         file, than when they were made. It may be an older state, so it is compared with the peer, and not promoted \
         without force before."
    ))
}

fn refusal(spec: &DiskSpec, place: &Device, expected: &Expected, error: LoadError) -> OpenError {
    let error = match error {
        LoadError::None => search_elsewhere(place, expected).unwrap_or(LoadError::None),
        other => other,
    };
    let volume = &spec.volume;
    let (code, next) = match &error {
        LoadError::None => (
            "disk-no-metadata",
            format!("Run init-disk {volume} (with --adopt if the disk holds data to be kept), or correct the path."),
        ),
        LoadError::Unreadable(_) => {
            ("disk-io", "Look into the kernel's log for the disk's own errors, and repair or replace it.".to_string())
        }
        LoadError::Version { .. } | LoadError::UnknownIncompat(_) | LoadError::UnknownReadOnly(_) => (
            "metadata-version",
            "Run the version of twinblock that wrote it; only if this copy may be given up, init-disk --overwrite."
                .into(),
        ),
        LoadError::LocatorsDisagree => (
            "metadata-disagrees",
            format!("Check the path; if this copy may be given up, run init-disk {volume} --overwrite."),
        ),
        LoadError::Resized { was_bytes, .. } => (
            "disk-resized",
            format!(
                "Give it its size of {was_bytes} bytes back (growing a volume in place is not supported); if this copy may \
                 be given up, run init-disk {volume} --overwrite, and it is copied from the peer."
            ),
        ),
        LoadError::Placement(_) => ("metadata-placement", format!("Correct `metadata` of volume {volume}.")),
        LoadError::OtherVolume { .. } => (
            "metadata-other-volume",
            format!("Correct the path of volume {volume}, or its name or that of the cluster."),
        ),
        LoadError::OtherNode(_) => (
            "metadata-other-node",
            format!(
                "Correct the path of volume {volume}: this disk belongs to the other node, or is a copy of its disk."
            ),
        ),
        LoadError::NoSuperblock => (
            "metadata-damaged",
            format!(
                "If the peer has a good copy, run init-disk {volume} --overwrite and let it be copied; if this is the last \
                 copy, run init-disk {volume} --adopt --replace-metadata."
            ),
        ),
    };
    OpenError::new(code, format!("The disk {} of volume {volume} is refused: {error}.", place.path.display()), next)
}

/// Internal metadata is found from the end of the disk. If there is none, the end may have moved: looks for a locator at the
/// places where one can begin, backwards, for a bounded time.
fn search_elsewhere(place: &Device, expected: &Expected) -> Option<LoadError> {
    const MIB: u64 = 1 << 20;
    if expected.placement == Placement::External {
        return None;
    }
    let since = Instant::now();
    let mut read = |offset: u64, length: usize| -> io::Result<Vec<u8>> { place.read(offset, length) };
    let mut offset = place.bytes.checked_sub(METADATA_UNIT_BYTES as u64)? / MIB * MIB;
    while offset > 0 && since.elapsed() < LOCATOR_SEARCH_TIME {
        let found = locator_at(&mut read, offset)
            .filter(|found: &Locator| found.area_offset == offset && found.volume == expected.volume);
        if let Some(found) = found {
            return Some(LoadError::Resized { was_bytes: found.file_bytes, is_bytes: place.bytes });
        }
        offset -= MIB;
    }
    None
}
