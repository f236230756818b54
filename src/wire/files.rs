//! Files that follow a group, as they travel to the peer and are kept there: all of them, at one moment, in one piece.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// First bytes of a bundle; the digit is its format.
const MAGIC: [u8; 8] = *b"TWINFIL1";
const HEAD_BYTES: usize = MAGIC.len() + 16;
/// Bytes of a whole bundle: files that follow a group are configuration, not data.
pub const BUNDLE_BYTES_MAX: usize = 64 << 20;
/// Entries of a bundle.
pub const ENTRIES_MAX: usize = 4096;
/// Bytes of one path: the kernel's limit.
pub const PATH_BYTES_MAX: usize = 4096;

/// All files of one resource at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Rises with every change, on whichever server it happened.
    pub version: u64,
    /// Name of the server where they were so.
    pub node: String,
    /// The configured paths, absolute. Both servers must have the same.
    pub roots: Vec<Vec<u8>>,
    /// What is there, sorted by root and path: a directory comes before what is in it.
    pub entries: Vec<Entry>,
}

/// A file, a directory or a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Index of the configured path it belongs to.
    pub root: u16,
    /// Its path below that, empty for the configured path itself; parts are separated by slashes.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Time of its last change, seconds and nanoseconds since 1970. Zero for all but files, where it means little.
    pub modified: (i64, u32),
    /// What it is.
    pub content: Content,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A directory; what it holds are entries of their own.
    Directory,
    /// A regular file with these bytes.
    File(Vec<u8>),
    /// A symbolic link to this.
    Link(Vec<u8>),
}

impl Bundle {
    /// The bundle's bytes, with their checksum.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = bincode::serde::encode_to_vec(self, bincode::config::standard())
            .expect("a bundle has no type that bincode can't encode");
        let mut bytes = MAGIC.to_vec();
        bytes.extend(xxh3_128(&body).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    /// Reads a bundle; the error says what is wrong with it. What is read can be put in place without leaving the
    /// configured paths.
    pub fn from_bytes(bytes: &[u8]) -> Result<Bundle, String> {
        if bytes.len() > BUNDLE_BYTES_MAX {
            return Err(format!("it has {} bytes", bytes.len()));
        }
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or("it is cut short")?;
        let (magic, sum) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err("it is no bundle of files, or one of another format".into());
        }
        if sum != xxh3_128(body).to_le_bytes() {
            return Err("its checksum is wrong".into());
        }
        let config = bincode::config::standard().with_limit::<BUNDLE_BYTES_MAX>();
        let (bundle, read): (Bundle, usize) =
            bincode::serde::decode_from_slice(body, config).map_err(|error| error.to_string())?;
        if read != body.len() {
            return Err("something follows it".into());
        }
        bundle.check()?;
        Ok(bundle)
    }

    /// Whether every entry lies in a directory that is an entry itself, below a configured path.
    fn check(&self) -> Result<(), String> {
        if self.entries.len() > ENTRIES_MAX {
            return Err(format!("it has {} entries", self.entries.len()));
        }
        let mut folders: Vec<(u16, &[u8])> = Vec::new();
        let mut last: Option<(u16, &[u8])> = None;
        for entry in &self.entries {
            let place = (entry.root, entry.path.as_slice());
            if usize::from(entry.root) >= self.roots.len() || entry.path.len() > PATH_BYTES_MAX {
                return Err("an entry belongs to no configured path".into());
            }
            if last.is_some_and(|last| !before(last, place)) {
                return Err("its entries are not in order".into());
            }
            last = Some(place);
            if !entry.path.is_empty() {
                let mut parts = entry.path.split(|byte| *byte == b'/');
                if parts.any(|part| part.is_empty() || part == b"." || part == b".." || part.contains(&0)) {
                    return Err("a path is none".into());
                }
                let end = entry.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                if !folders.contains(&(entry.root, &entry.path[..end])) {
                    return Err("an entry lies in no directory of the bundle".into());
                }
            }
            if entry.content == Content::Directory {
                folders.push(place);
            }
        }
        Ok(())
    }
}

/// The order of entries: by configured path, then part by part.
pub fn before(one: (u16, &[u8]), other: (u16, &[u8])) -> bool {
    let parts = |path: &[u8]| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    (one.0, parts(one.1)) < (other.0, parts(other.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(root: u16, path: &str, content: Content) -> Entry {
        Entry { root, path: path.into(), mode: 0o644, user: 1, group: 2, modified: (3, 4), content }
    }

    fn bundle(entries: Vec<Entry>) -> Bundle {
        Bundle { version: 7, node: "alpha".into(), roots: vec![b"/etc/a".to_vec(), b"/etc/b".to_vec()], entries }
    }

    #[test]
    fn a_bundle_comes_back_as_it_went() {
        let bundle = bundle(vec![
            entry(0, "", Content::File(b"text".to_vec())),
            entry(1, "", Content::Directory),
            entry(1, "d", Content::Directory),
            entry(1, "d/f", Content::File(vec![0; 9])),
            entry(1, "d-f", Content::Link(b"../x".to_vec())),
        ]);
        let bytes = bundle.to_bytes();
        assert_eq!(Bundle::from_bytes(&bytes), Ok(bundle));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(Bundle::from_bytes(&bad).is_err(), "byte {at}");
            assert!(Bundle::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn no_entry_leads_out_of_its_configured_path() {
        let refused = |entries: Vec<Entry>, words: &str| {
            let error = Bundle::from_bytes(&bundle(entries).to_bytes()).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        let folder = || entry(0, "", Content::Directory);
        let file = || Content::File(Vec::new());
        for path in ["..", "../x", "./x", "/x", "x//y", "x/", "x\0y"] {
            refused(vec![folder(), entry(0, path, file())], "a path is none");
        }
        refused(vec![entry(2, "", file())], "belongs to no configured path");
        refused(vec![entry(0, "x", file())], "lies in no directory");
        refused(vec![entry(0, "", Content::Link(b"/".to_vec())), entry(0, "etc", file())], "lies in no directory");
        refused(vec![folder(), entry(0, "d/f", file())], "lies in no directory");
        refused(vec![folder(), entry(0, "b", file()), entry(0, "a", file())], "not in order");
        refused(vec![folder(), folder()], "not in order");
        refused(vec![entry(0, "", file()); ENTRIES_MAX + 1], "entries");
    }

    proptest! {
        #[test]
        fn nonsense_never_panics(body: Vec<u8>) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(xxh3_128(&body).to_le_bytes());
            bytes.extend(&body);
            let _ = Bundle::from_bytes(&bytes);
            let _ = Bundle::from_bytes(&body);
        }
    }
}
