//! The loads that are put on a volume.

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// What a reader calls it.
    pub words: &'static str,
    /// fio's word for it.
    pub rw: &'static str,
    /// Bytes of one request.
    pub block_bytes: u64,
    /// Requests under way.
    pub depth: u32,
    /// Each write is followed by a flush.
    pub flushes: bool,
}

const fn load(words: &'static str, rw: &'static str, kibibytes: u64, depth: u32) -> Load {
    Load { words, rw, block_bytes: kibibytes << 10, depth, flushes: false }
}

/// Every load, in the order it is measured.
pub(super) const LOADS: [Load; 14] = [
    load("4 KiB random writes, depth 1", "randwrite", 4, 1),
    load("4 KiB random writes, depth 8", "randwrite", 4, 8),
    load("4 KiB random writes, depth 32", "randwrite", 4, 32),
    load("4 KiB random writes, depth 128", "randwrite", 4, 128),
    Load { flushes: true, ..load("4 KiB random writes, each flushed", "randwrite", 4, 1) },
    load("128 KiB writes, depth 8", "write", 128, 8),
    load("1 MiB writes, depth 4", "write", 1024, 4),
    load("4 KiB random reads, depth 1", "randread", 4, 1),
    load("4 KiB random reads, depth 8", "randread", 4, 8),
    load("4 KiB random reads, depth 32", "randread", 4, 32),
    load("4 KiB random reads, depth 128", "randread", 4, 128),
    load("128 KiB reads, depth 8", "read", 128, 8),
    load("1 MiB reads, depth 4", "read", 1024, 4),
    load("4 KiB, 70 % reads, depth 32", "randrw", 4, 32),
];

impl Load {
    /// Whether it changes the volume.
    pub fn writes(&self) -> bool {
        !self.rw.ends_with("read")
    }

    /// Whether it reads as well as writes.
    pub fn is_mixed(&self) -> bool {
        self.rw == "randrw"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_have_names_of_their_own_and_reads_change_nothing() {
        for (index, load) in LOADS.iter().enumerate() {
            assert!(LOADS[..index].iter().all(|other| other.words != load.words), "{}", load.words);
            assert_eq!(load.writes(), !load.words.contains(" reads, depth") || load.is_mixed(), "{}", load.words);
        }
    }
}
