//! The reader of archives: whatever a file holds, nothing panics, what it shows lies inside the volume and overlaps nothing,
//! and a block it shows is one that was written under its checksum.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use twinblock::base::generation::Generation;
use twinblock::base::ids::Uuid;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::io::archive::{Held, Reader};
use twinblock::wire::archive::{self, Header, Kind, Record};

const BLOCKS: u32 = 64;
const NONCE: u64 = 77;

fn header() -> Header {
    Header {
        nonce: NONCE,
        volume: "vol0".into(),
        volume_uuid: Uuid(1),
        device: Uuid(2),
        node: "beta".into(),
        peer: "alpha".into(),
        ours: Generation { epoch: 3, nonce: 33 },
        theirs: Generation { epoch: 2, nonce: 22 },
        size_bytes: u64::from(BLOCKS) * BLOCK,
        began: 1_700_000_000,
    }
}

/// Every block of a sound record holds its own number, over and over.
fn content(block: u32) -> Vec<u8> {
    vec![block as u8 | 0x80; BLOCK as usize]
}

/// A file of records, as the input says, some with bytes between them or cut short.
fn built(mut bytes: &[u8]) -> Vec<u8> {
    let mut file = archive::encode_header(&header());
    let mut sequence = 1u64;
    while let Some((&[what, first, blocks, noise], rest)) = bytes.split_first_chunk::<4>() {
        bytes = rest;
        let first = u32::from(first) % BLOCKS;
        let blocks = (u32::from(blocks) % 8 + 1).min(BLOCKS - first);
        let plain = |kind, blocks| Record { kind, sequence, first, blocks, checksums_crc: 0, seconds: 5 }.encode(NONCE);
        match what % 6 {
            0 | 1 => {
                let data: Vec<u8> = (first..first + blocks).flat_map(content).collect();
                file.extend(archive::data_record(NONCE, sequence, first, &data, 5));
            }
            2 => file.extend(plain(Kind::Zeroes, blocks)),
            3 => file.extend(plain(Kind::Unreadable, blocks)),
            4 => file.extend(plain(Kind::End, 0)),
            _ => file.extend(std::iter::repeat_n(noise, usize::from(noise))),
        }
        sequence += u64::from(what) / 128 + u64::from(what % 7 != 6);
        let damaged = usize::from(noise) * file.len() / 256;
        if noise % 5 == 4 {
            file[damaged] ^= noise;
        }
        if file.len() > 1 << 20 {
            break;
        }
    }
    file
}

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, rest)) = bytes.split_first() else { return };
    let file = if *mode == 0 { rest.to_vec() } else { built(rest) };
    let path: PathBuf = std::env::temp_dir().join(format!("twinblock-fuzz-archive-{}", std::process::id()));
    std::fs::write(&path, file).expect("room for a small file");
    let opened = Reader::open(&path);
    std::fs::remove_file(&path).expect("it was there");
    let Ok(mut reader) = opened else { return };
    reader.refresh().expect("nothing was appended");
    let whole = ByteRange::new(0, reader.header.size_bytes.min(1 << 30));
    let mut end = 0;
    for extent in reader.extents(whole, usize::MAX) {
        assert!(
            extent.range.offset >= end && extent.range.length > 0 && extent.range.end() <= reader.header.size_bytes
        );
        end = extent.range.end();
        if *mode == 0 || reader.header != header() {
            continue;
        }
        for block in extent.range.blocks() {
            let mut bytes = vec![1; BLOCK as usize];
            let shown = reader.overlay(ByteRange::of_blocks(block..block + 1), &mut bytes);
            match extent.held {
                Held::Data => assert!(shown.is_err() || bytes == content(block)),
                Held::Zeroes => assert!(shown.is_ok() && bytes == vec![0; BLOCK as usize]),
                Held::Unreadable => assert!(shown.is_err()),
            }
        }
    }
});
