//! What a disk holds already: known signatures by name, and the first byte that isn't zero.

use super::access;
use super::device::Device;
use crate::base::limits::PIECE_BYTES_MAX;
use crate::base::range::ByteRange;
use std::io;

/// Something recognised on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    /// Its name, with an article.
    pub(super) name: &'static str,
    /// Bytes of the disk it uses, where that can be read from it.
    pub(super) uses_bytes: Option<u64>,
}

/// Where a signature's bytes are: so many bytes from the start, or before the end.
enum At {
    Start(usize),
    End(usize),
}

/// Signatures with their place. The more specific one comes first.
const SIGNATURES: [(&str, At, &[u8]); 21] = [
    ("an ext2, ext3 or ext4 file system", At::Start(1024 + 0x38), &[0x53, 0xef]),
    ("an XFS file system", At::Start(0), b"XFSB"),
    ("a Btrfs file system", At::Start(65_536 + 64), b"_BHRfS_M"),
    ("an F2FS file system", At::Start(1024), &[0x10, 0x20, 0xf5, 0xf2]),
    ("a LUKS container", At::Start(0), b"LUKS\xba\xbe"),
    ("an LVM physical volume", At::Start(512), b"LABELONE"),
    ("an LVM physical volume", At::Start(0), b"LABELONE"),
    ("a member of an md array", At::Start(4096), &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a member of an md array", At::Start(0), &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a member of an md array", At::End(8192), &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a GPT partition table", At::Start(512), b"EFI PART"),
    ("a GPT partition table", At::Start(4096), b"EFI PART"),
    ("the second copy of a GPT partition table", At::End(512), b"EFI PART"),
    ("the second copy of a GPT partition table", At::End(4096), b"EFI PART"),
    ("swap space", At::Start(4086), b"SWAPSPACE2"),
    ("an NTFS file system", At::Start(3), b"NTFS    "),
    ("a FAT file system", At::Start(54), b"FAT"),
    ("a FAT file system", At::Start(82), b"FAT32"),
    ("a qcow2 image (its format is not read: only raw images can be used)", At::Start(0), b"QFI\xfb"),
    ("a VMDK image (its format is not read: only raw images can be used)", At::Start(0), b"KDMV"),
    ("a partition table", At::Start(510), &[0x55, 0xaa]),
];

/// Bytes looked at on either end.
const ENDS_BYTES: u64 = 1 << 20;

/// Looks for a known signature on either end of the disk.
pub(super) fn signature(device: &Device) -> io::Result<Option<Signature>> {
    // Whole units only: a file's last bytes beyond them can't be read past the page cache.
    let whole = device.bytes / 4096 * 4096;
    let length = ENDS_BYTES.min(whole);
    if length == 0 {
        return Ok(None);
    }
    let head = device.read(0, length as usize)?;
    let tail = device.read(whole - length, length as usize)?;
    Ok(recognise(&head, &tail))
}

fn recognise(head: &[u8], tail: &[u8]) -> Option<Signature> {
    let found = SIGNATURES.iter().find(|(_, at, magic)| {
        let bytes = match at {
            At::Start(offset) => head.get(*offset..offset + magic.len()),
            At::End(back) => tail.len().checked_sub(*back).and_then(|start| tail.get(start..start + magic.len())),
        };
        bytes == Some(*magic)
    })?;
    Some(Signature { name: found.0, uses_bytes: uses_bytes(found.0, head) })
}

/// Size of a file system, from its own superblock.
fn uses_bytes(name: &str, head: &[u8]) -> Option<u64> {
    let little = |at: usize| Some(u64::from(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?)));
    if name.starts_with("an ext") {
        let block_bytes = 1024u64.checked_shl(little(1024 + 0x18)? as u32).filter(|bytes| *bytes <= 1 << 16)?;
        let wide = little(1024 + 0x60)? & 0x80 != 0;
        let high = if wide { little(1024 + 0x150)? } else { 0 };
        return (little(1024 + 4)? | high << 32).checked_mul(block_bytes);
    }
    if name.starts_with("an XFS") {
        let block_bytes = u64::from(u32::from_be_bytes(head.get(4..8)?.try_into().ok()?));
        return u64::from_be_bytes(head.get(8..16)?.try_into().ok()?).checked_mul(block_bytes);
    }
    None
}

/// The first byte of `range` that isn't zero. Holes are not read. `progress` hears of bytes done and in all.
pub(super) fn first_nonzero(
    device: &Device,
    range: ByteRange,
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<Option<u64>> {
    let extents = match device.is_block_device {
        true => vec![range],
        false => access::extents(&device.file, range)?,
    };
    let total = extents.iter().map(|extent| extent.length).sum();
    let mut done = 0;
    for extent in extents.iter().map(ByteRange::aligned_out) {
        let mut offset = extent.offset;
        while offset < extent.end().min(range.end()) {
            let length = PIECE_BYTES_MAX.min(extent.end().min(range.end()) - offset);
            let bytes = access::read_at(&device.file, offset, length as usize)?;
            if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
                return Ok(Some(offset + at as u64));
            }
            offset += length;
            done += length;
            progress(done.min(total), total);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_recognised_in_nothing() {
        assert_eq!(recognise(&[0; 1 << 20], &[0; 1 << 20]), None);
        assert_eq!(recognise(&[], &[]), None);
        assert_eq!(recognise(&[0xff; 100], &[0xff; 100]), None);
    }

    #[test]
    fn every_signature_is_found_at_its_place() {
        for (name, at, magic) in &SIGNATURES {
            let mut ends = [vec![0; 1 << 20], vec![0; 1 << 20]];
            let (end, offset) = match at {
                At::Start(offset) => (0, *offset),
                At::End(back) => (1, (1 << 20) - back),
            };
            ends[end][offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(recognise(&ends[0], &ends[1]).map(|found| found.name), Some(*name));
        }
    }

    #[test]
    fn absurd_sizes_are_no_sizes() {
        let mut head = vec![0; 4096];
        head[1024 + 0x18..1024 + 0x1c].fill(0xff);
        assert_eq!(uses_bytes("an ext4 file system", &head), None);
        head.fill(0xff);
        assert_eq!(uses_bytes("an XFS file system", &head), None);
        assert_eq!(uses_bytes("an XFS file system", &[]), None);
    }
}
