//! The archive of what only a copy that was given up has: the blocks it held, before they were overwritten.
//!
//! ```text
//!  0                  4096
//!  header unit        record, record, ... record [end]      each starts at a multiple of 64 bytes
//!
//!  record:  0      4     8      16        24     32      36         40       48    60      64
//!           magic  kind  nonce  sequence  first  blocks  checksums  seconds  zero  header  checksums | data
//!                                         block          crc32      (unix)         crc32   4 a block | 4096 a block
//! ```
//! All little-endian. Only `data` records have what follows the header. Every block has a CRC of its own, so that a rotten
//! bit costs one block. The nonce is the file's: a record of another archive inside this one's data is never taken for one of
//! its own. A torn end is no damage: nothing was overwritten before its record was durable.

use crate::base::generation::Generation;
use crate::base::ids::Uuid;
use crate::base::limits::PIECE_BYTES_MAX;
use crate::base::range::BLOCK;
use serde::{Deserialize, Serialize};

/// Version of everything in this file.
pub const ARCHIVE_VERSION: u32 = 1;
/// Bytes of the header unit.
pub const HEADER_BYTES: usize = 4096;
/// Bytes of a record's header, and what records begin at multiples of.
pub const RECORD_BYTES: usize = 64;
/// Blocks of one record: a piece.
pub const RECORD_BLOCKS_MAX: u32 = (PIECE_BYTES_MAX / BLOCK) as u32;

const MAGIC: [u8; 8] = *b"TWBARCHV";
const RECORD_MAGIC: [u8; 4] = *b"TWBR";
/// Where the payload of the header unit begins: magic, version, length, CRC.
const PAYLOAD_AT: usize = 20;
/// Bytes of the CRC of one block.
const CHECKSUM_BYTES: u64 = 4;

/// What an archive is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Drawn for this file.
    pub nonce: u64,
    /// Name of the volume.
    pub volume: String,
    /// Identity of the volume.
    pub volume_uuid: Uuid,
    /// Identity of the disk that was given up.
    pub device: Uuid,
    /// The node whose copy it was.
    pub node: String,
    /// The node whose copy took its place.
    pub peer: String,
    /// The generation that was given up.
    pub ours: Generation,
    /// The generation that took its place.
    pub theirs: Generation,
    /// Of the volume, in bytes.
    pub size_bytes: u64,
    /// When it was begun, in seconds since 1970.
    pub began: u64,
}

/// What a record says of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They held this.
    Data,
    /// They read as zeroes.
    Zeroes,
    /// The disk could not read them.
    Unreadable,
    /// No blocks: the resync is done, nothing more comes.
    End,
}

/// One record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub kind: Kind,
    /// From 1, without gaps.
    pub sequence: u64,
    /// The first block of the volume it is about.
    pub first: u32,
    /// How many; at most [`RECORD_BLOCKS_MAX`], and none for the end.
    pub blocks: u32,
    /// CRC of the blocks' checksums.
    pub checksums_crc: u32,
    /// When, in seconds since 1970.
    pub seconds: u64,
}

/// Why a header unit is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It is no archive.
    NoArchive,
    /// It is one of another version.
    Version(u32),
    /// It was one, and is damaged.
    Damaged,
}

impl Record {
    /// Bytes of the checksums, with what fills them up to a multiple of 64.
    fn checksums_bytes(&self) -> u64 {
        match self.kind {
            Kind::Data => (u64::from(self.blocks) * CHECKSUM_BYTES).next_multiple_of(RECORD_BYTES as u64),
            _ => 0,
        }
    }

    /// Where the data begin, counted from the record's first byte.
    pub fn data_at(&self) -> u64 {
        RECORD_BYTES as u64 + self.checksums_bytes()
    }

    /// Bytes of the whole record.
    pub fn bytes(&self) -> u64 {
        let data = if self.kind == Kind::Data { u64::from(self.blocks) * BLOCK } else { 0 };
        self.data_at() + data
    }

    /// The record's header as bytes.
    pub fn encode(&self, nonce: u64) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..4].copy_from_slice(&RECORD_MAGIC);
        bytes[4] = match self.kind {
            Kind::Data => 1,
            Kind::Zeroes => 2,
            Kind::Unreadable => 3,
            Kind::End => 4,
        };
        bytes[8..16].copy_from_slice(&nonce.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&u64::from(self.first).to_le_bytes());
        bytes[32..36].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.checksums_crc.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.seconds.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a record's header; `None` for anything that is not one of this archive's.
    pub fn decode(bytes: &[u8], header: &Header) -> Option<Record> {
        let bytes: &[u8; RECORD_BYTES] = bytes.get(..RECORD_BYTES)?.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let sound = bytes[..4] == RECORD_MAGIC && long(8) == header.nonce && word(60) == crc32fast::hash(&bytes[..60]);
        let kind = match bytes[4] {
            1 => Kind::Data,
            2 => Kind::Zeroes,
            3 => Kind::Unreadable,
            4 => Kind::End,
            _ => return None,
        };
        let first = u32::try_from(long(24)).ok()?;
        let record =
            Record { kind, sequence: long(16), first, blocks: word(32), checksums_crc: word(36), seconds: long(40) };
        let most = if kind == Kind::End { 0 } else { RECORD_BLOCKS_MAX };
        let inside = u64::from(first) + u64::from(record.blocks) <= header.size_bytes / BLOCK;
        let some = record.blocks > 0 || kind == Kind::End;
        (sound && inside && some && record.blocks <= most).then_some(record)
    }
}

/// A data record for whole blocks from `first` on, as bytes; at most [`RECORD_BLOCKS_MAX`] of them.
pub fn data_record(nonce: u64, sequence: u64, first: u32, data: &[u8], seconds: u64) -> Vec<u8> {
    let blocks = (data.len() as u64 / BLOCK) as u32;
    assert!(data.len() as u64 == u64::from(blocks) * BLOCK && blocks <= RECORD_BLOCKS_MAX, "whole blocks of one piece");
    let mut checksums = Vec::with_capacity(blocks as usize * CHECKSUM_BYTES as usize);
    for block in data.chunks_exact(BLOCK as usize) {
        checksums.extend(crc32fast::hash(block).to_le_bytes());
    }
    let checksums_crc = crc32fast::hash(&checksums);
    let record = Record { kind: Kind::Data, sequence, first, blocks, checksums_crc, seconds };
    let mut bytes = record.encode(nonce).to_vec();
    bytes.extend(checksums);
    bytes.resize(record.data_at() as usize, 0);
    bytes.extend(data);
    bytes
}

/// The checksums of a data record's blocks from the bytes behind its header; `None` when they are damaged.
pub fn checksums(record: &Record, bytes: &[u8]) -> Option<Vec<u32>> {
    let bytes = bytes.get(..record.blocks as usize * CHECKSUM_BYTES as usize)?;
    let sound = crc32fast::hash(bytes) == record.checksums_crc;
    let word = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    sound.then(|| bytes.chunks_exact(CHECKSUM_BYTES as usize).map(word).collect())
}

/// The header unit.
pub fn encode_header(header: &Header) -> Vec<u8> {
    let payload = bincode::serde::encode_to_vec(header, bincode::config::standard())
        .expect("a header has no type that bincode can't encode");
    assert!(payload.len() <= HEADER_BYTES - PAYLOAD_AT, "names are short");
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(ARCHIVE_VERSION.to_le_bytes());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(&payload).to_le_bytes());
    bytes.extend(payload);
    bytes.resize(HEADER_BYTES, 0);
    bytes
}

/// Reads a header unit.
pub fn decode_header(bytes: &[u8]) -> Result<Header, Bad> {
    let word = |at: usize| {
        let four = bytes.get(at..at + 4).ok_or(Bad::NoArchive)?;
        Ok(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
    };
    if !bytes.starts_with(&MAGIC) {
        return Err(Bad::NoArchive);
    }
    let version = word(8)?;
    if version != ARCHIVE_VERSION {
        return Err(Bad::Version(version));
    }
    let (length, crc) = (word(12)? as usize, word(16)?);
    let payload = bytes.get(PAYLOAD_AT..PAYLOAD_AT.saturating_add(length)).ok_or(Bad::Damaged)?;
    if length > HEADER_BYTES - PAYLOAD_AT || crc32fast::hash(payload) != crc {
        return Err(Bad::Damaged);
    }
    let config = bincode::config::standard().with_limit::<HEADER_BYTES>();
    match bincode::serde::decode_from_slice::<Header, _>(payload, config) {
        Ok((header, used)) if used == length => Ok(header),
        _ => Err(Bad::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            nonce: 77,
            volume: "vol0".into(),
            volume_uuid: Uuid(1),
            device: Uuid(2),
            node: "beta".into(),
            peer: "alpha".into(),
            ours: Generation { epoch: 3, nonce: 33 },
            theirs: Generation { epoch: 2, nonce: 22 },
            size_bytes: 1 << 20,
            began: 1_700_000_000,
        }
    }

    #[test]
    fn headers_come_back_and_damage_is_seen() {
        let bytes = encode_header(&header());
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(decode_header(&bytes), Ok(header()));
        assert_eq!(decode_header(b"something else entirely"), Err(Bad::NoArchive));
        assert_eq!(decode_header(&bytes[..30]), Err(Bad::Damaged));
        let used = PAYLOAD_AT + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        for bit in 0..used * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(&rotten).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn records_come_back_and_every_flipped_bit_is_seen() {
        let data = vec![7; 3 * BLOCK as usize];
        let bytes = data_record(77, 5, 9, &data, 11);
        let record = Record::decode(&bytes, &header()).unwrap();
        assert_eq!((record.kind, record.sequence, record.first, record.blocks), (Kind::Data, 5, 9, 3));
        assert_eq!((record.bytes(), record.seconds), (bytes.len() as u64, 11));
        assert_eq!(&bytes[record.data_at() as usize..], &data);
        let sums = checksums(&record, &bytes[RECORD_BYTES..]).unwrap();
        assert_eq!(sums, vec![crc32fast::hash(&data[..BLOCK as usize]); 3]);
        for bit in 0..RECORD_BYTES * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&rotten, &header()), None, "bit {bit}");
        }
        let mut rotten = bytes.clone();
        rotten[RECORD_BYTES] ^= 1;
        assert_eq!(checksums(&record, &rotten[RECORD_BYTES..]), None);
        assert_eq!(checksums(&record, &bytes[RECORD_BYTES..RECORD_BYTES + 4]), None);
    }

    #[test]
    fn a_record_of_another_archive_or_beyond_the_volume_is_none() {
        let bytes = data_record(77, 1, 9, &[7; BLOCK as usize], 0);
        assert_eq!(Record::decode(&bytes, &Header { nonce: 78, ..header() }), None);
        assert_eq!(Record::decode(&bytes, &Header { size_bytes: 9 * BLOCK, ..header() }), None);
        assert!(Record::decode(&bytes, &Header { size_bytes: 10 * BLOCK, ..header() }).is_some());
        let end = Record { kind: Kind::End, sequence: 2, first: 0, blocks: 0, checksums_crc: 0, seconds: 4 };
        assert_eq!(Record::decode(&end.encode(77), &header()), Some(end));
        let empty = Record { kind: Kind::Zeroes, ..end };
        assert_eq!(Record::decode(&empty.encode(77), &header()), None);
    }
}
