//! Known data: every block says which block it is and how often it was written, and the ledger knows what was
//! acknowledged. Whatever is read later is therefore right, old, foreign or torn, and which of these is told.

use std::collections::HashMap;
use std::ops::Range;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;

/// What a client was told of every block.
pub struct Ledger {
    /// Version acknowledged last; 0 for a block that was never written and reads as zeroes.
    acknowledged: Vec<u32>,
    /// Versions sent and never answered, because the connection broke: any of them may be there, or not.
    unanswered: HashMap<usize, Vec<u32>>,
    next_version: u32,
}

impl Ledger {
    /// A ledger of a blank volume.
    pub fn new(volume_bytes: u64) -> Ledger {
        let blocks = (volume_bytes / BLOCK_BYTES as u64) as usize;
        Ledger { acknowledged: vec![0; blocks], unanswered: HashMap::new(), next_version: 1 }
    }

    /// Number of blocks of the volume.
    pub fn blocks(&self) -> usize {
        self.acknowledged.len()
    }

    /// Bytes that were ever acknowledged as written.
    pub fn bytes_known(&self) -> u64 {
        self.acknowledged.iter().filter(|version| **version != 0).count() as u64 * BLOCK_BYTES as u64
    }

    /// New content for these blocks, to be sent; [`Ledger::acknowledge`] follows when it was answered.
    pub fn compose(&mut self, blocks: Range<usize>) -> (u32, Vec<u8>) {
        let version = self.next_version;
        self.next_version += 1;
        for block in blocks.clone() {
            self.unanswered.entry(block).or_default().push(version);
        }
        (version, blocks.flat_map(|block| content(block, version)).collect())
    }

    /// The write of these blocks was answered: from here on nothing older may be read.
    pub fn acknowledge(&mut self, blocks: Range<usize>, version: u32) {
        for block in blocks {
            self.acknowledged[block] = version;
            self.unanswered.remove(&block);
        }
    }

    /// Checks what was read from `first` on. The error names the block and what is wrong with it.
    ///
    /// A block with unanswered writes may hold any of them; what it holds is settled by this read.
    pub fn check(&mut self, first: usize, data: &[u8]) -> Result<(), String> {
        for (index, found) in data.chunks(BLOCK_BYTES).enumerate() {
            let block = first + index;
            let known = self.acknowledged[block];
            let unanswered = self.unanswered.get(&block).map(Vec::as_slice).unwrap_or_default();
            let held = std::iter::once(known).chain(unanswered.iter().copied()).find(|v| found == content(block, *v));
            match held {
                Some(version) => {
                    self.acknowledged[block] = version;
                    self.unanswered.remove(&block);
                }
                None => return Err(format!("block {block}: version {known} was acknowledged, {}", describe(found))),
            }
        }
        Ok(())
    }
}

/// What a block of that version looks like, down to the last byte.
pub fn content(block: usize, version: u32) -> Vec<u8> {
    if version == 0 {
        return vec![0; BLOCK_BYTES];
    }
    let mut bytes = Vec::with_capacity(BLOCK_BYTES);
    bytes.extend((block as u64).to_le_bytes());
    bytes.extend(u64::from(version).to_le_bytes());
    let mut state = (block as u64) << 32 | u64::from(version);
    while bytes.len() < BLOCK_BYTES {
        // Splitmix: every word depends on block and version, so that a torn block can't pass.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((word ^ (word >> 31)).to_le_bytes());
    }
    bytes
}

fn describe(found: &[u8]) -> String {
    if found.iter().all(|byte| *byte == 0) {
        return "but it reads as zeroes".into();
    }
    let word =
        |at: usize| found.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    match (word(0), word(8)) {
        (Some(block), Some(version)) if found == content(block as usize, version as u32) => {
            format!("but it holds version {version} of block {block}")
        }
        _ => "but it holds something torn or foreign".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(ledger: &mut Ledger, blocks: Range<usize>) -> Vec<u8> {
        let (version, data) = ledger.compose(blocks.clone());
        ledger.acknowledge(blocks, version);
        data
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let mut ledger = Ledger::new(16 * BLOCK_BYTES as u64);
        let old = written(&mut ledger, 2..4);
        let new = written(&mut ledger, 2..4);
        assert_eq!(ledger.check(2, &new), Ok(()));
        assert!(ledger.check(2, &old).unwrap_err().contains("version 2 was acknowledged, but it holds version 1 of"));
        assert!(
            ledger
                .check(4, &new)
                .unwrap_err()
                .contains("version 0 was acknowledged, but it holds version 2 of block 2")
        );
        assert!(ledger.check(2, &vec![0; BLOCK_BYTES]).unwrap_err().contains("reads as zeroes"));
        let torn = [&new[..2048], &old[2048..4096]].concat();
        assert!(ledger.check(2, &torn).unwrap_err().contains("torn"));
        assert_eq!(ledger.bytes_known(), 2 * BLOCK_BYTES as u64);
    }

    #[test]
    fn an_unanswered_write_may_be_there_or_not_until_it_was_read() {
        let mut ledger = Ledger::new(16 * BLOCK_BYTES as u64);
        let old = written(&mut ledger, 0..1);
        let (_, new) = ledger.compose(0..1);
        assert_eq!(ledger.check(0, &new), Ok(()));
        assert!(ledger.check(0, &old).is_err(), "once seen, it must not vanish");
        let (_, newer) = ledger.compose(0..1);
        assert_eq!(ledger.check(0, &new), Ok(()));
        assert!(ledger.check(0, &newer).is_err(), "once seen as not there, it must not appear");
    }
}
