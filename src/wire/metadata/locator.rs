//! The locator: whose metadata this is, where its area lies, and for which disk it was made.
//!
//! Two copies, at the start and at the very end of the area. They are written at format time, last of all, so a format
//! that was cut short leaves no metadata rather than half of it; and later only when a swapped data disk was taken over.
//! Two sound copies of one device may then differ for a moment: the higher sequence holds. Two sound copies of
//! different devices never come from us and are refused.

use crate::base::ids::{NodeId, Uuid};
use crate::wire::metadata::features::{self, Features};
use crate::wire::metadata::layout::{Layout, Placement};
use crate::wire::metadata::record::Superblock;
use crate::wire::metadata::unit::{self, Bad, Kind, Label};
use crate::wire::metadata::{decode_exactly, encode_plainly};
use serde::{Deserialize, Serialize};

/// Whose metadata it is, where it lies and for which disk it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locator {
    /// Rises by one per write of the locator.
    #[serde(skip)]
    pub sequence: u64,
    /// Identity of this metadata, drawn when it was made; in the header of every unit.
    #[serde(skip)]
    pub device: Uuid,
    /// Name of the cluster, for messages; at most [`NAME_BYTES_MAX`].
    pub cluster: String,
    /// Name of the volume, for messages; at most [`NAME_BYTES_MAX`].
    pub volume_name: String,
    /// Identity of the volume.
    pub volume: Uuid,
    /// Node the disk belongs to.
    pub node: NodeId,
    /// Where the metadata is.
    pub placement: Placement,
    /// Size of the file or device that holds the metadata, when it was made. Bytes.
    pub file_bytes: u64,
    /// Size of the data disk when the metadata was made (the same as `file_bytes` if internal). Bytes.
    pub data_bytes: u64,
    /// Hash of what identifies the data disk (serial, WWN, inode), if anything does.
    pub fingerprint: Option<u128>,
    /// Where the area begins.
    pub area_offset: u64,
    /// Size of the area, in bytes.
    pub area_bytes: u64,
    /// Bytes of volume data the disk can hold.
    pub capacity_bytes: u64,
    /// log2 of the bytes of an intent region.
    pub region_shift: u32,
}

/// Longest name of a cluster or volume in a locator, in bytes: both fit one unit with room to spare.
pub const NAME_BYTES_MAX: usize = 512;

impl Locator {
    /// Of metadata that is made now for the disk of this superblock, in a file or device of `file_bytes`. The names are
    /// those of cluster and volume. The data is taken to lie in that same file, which nothing identifies.
    pub fn new(
        layout: &Layout,
        superblock: &Superblock,
        names: (&str, &str),
        placement: Placement,
        file_bytes: u64,
    ) -> Locator {
        Locator {
            sequence: 1,
            device: superblock.device,
            cluster: names.0.into(),
            volume_name: names.1.into(),
            volume: superblock.volume,
            node: superblock.node,
            placement,
            file_bytes,
            data_bytes: file_bytes,
            fingerprint: None,
            area_offset: layout.area_offset,
            area_bytes: layout.area_bytes,
            capacity_bytes: layout.capacity_bytes,
            region_shift: superblock.region_shift,
        }
    }

    /// The layout this locator describes, if it describes a possible one.
    pub(super) fn layout(&self) -> Option<Layout> {
        let layout = match self.placement {
            Placement::Internal => Layout::internal(self.file_bytes).ok()?,
            Placement::External => Layout::external(self.data_bytes, self.file_bytes).ok()?,
        };
        let same = (layout.area_offset, layout.area_bytes, layout.capacity_bytes)
            == (self.area_offset, self.area_bytes, self.capacity_bytes);
        if same { layout.with_region_shift(self.region_shift) } else { None }
    }

    /// Whether every field is one that a writer can have written.
    fn is_possible(&self) -> bool {
        let names_fit = self.cluster.len() <= NAME_BYTES_MAX && self.volume_name.len() <= NAME_BYTES_MAX;
        names_fit && self.node.0 <= 1 && self.layout().is_some()
    }

    /// The unit of one copy (0 or 1).
    pub(super) fn encode(&self, copy: u32) -> Vec<u8> {
        assert!(self.cluster.len() <= NAME_BYTES_MAX && self.volume_name.len() <= NAME_BYTES_MAX, "names are bounded");
        let mut payload = features::encode().to_vec();
        encode_plainly(self, &mut payload);
        let label = Label { kind: Kind::Locator, index: copy, sequence: self.sequence, device: self.device };
        unit::encode(label, &payload)
    }

    /// Reads one copy. Its features come along even where the rest is of a later version and can't be read.
    pub(super) fn decode(bytes: &[u8], copy: u32) -> Result<(Features, Option<Locator>), Bad> {
        let unit = unit::decode(bytes, Kind::Locator, copy, None)?;
        let (features, rest) = features::decode(unit.payload).ok_or(Bad::Rotten)?;
        let locator = decode_exactly::<Locator>(rest).map(|mut locator| {
            locator.sequence = unit.sequence;
            locator.device = unit.device;
            locator
        });
        Ok((features, locator.filter(Locator::is_possible)))
    }
}
