//! What a version of the format may do that another doesn't know: the first bytes of the locator and the superblock.
//!
//! ```text
//!  0      2     8       16         24        32
//!  minor  zero  compat  ro_compat  incompat
//! ```
//! An unknown bit of `incompat` means that nothing here can be understood; one of `ro_compat` that nothing may be
//! written; one of `compat` can be ignored. Since every bit is refused by who doesn't know it, an older version can
//! never write over what a newer one relies on.

/// Minor version of the format: informative, what it changes has a feature bit.
pub(super) const MINOR_VERSION: u16 = 0;
/// Bytes of the prefix.
pub(super) const PREFIX_BYTES: usize = 32;

/// Feature bits of one locator or superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Features {
    /// May be ignored.
    pub compat: u64,
    /// Nothing may be written.
    pub ro_compat: u64,
    /// Nothing can be understood.
    pub incompat: u64,
}

/// Bits this version knows and may set. None yet.
pub(super) const KNOWN: Features = Features { compat: 0, ro_compat: 0, incompat: 0 };

/// Writes the prefix of this version.
pub(super) fn encode() -> [u8; PREFIX_BYTES] {
    let mut bytes = [0; PREFIX_BYTES];
    bytes[0..2].copy_from_slice(&MINOR_VERSION.to_le_bytes());
    bytes[8..16].copy_from_slice(&KNOWN.compat.to_le_bytes());
    bytes[16..24].copy_from_slice(&KNOWN.ro_compat.to_le_bytes());
    bytes[24..32].copy_from_slice(&KNOWN.incompat.to_le_bytes());
    bytes
}

/// Reads a prefix and yields what follows it; `None` when there is none.
pub(super) fn decode(payload: &[u8]) -> Option<(Features, &[u8])> {
    let (prefix, rest) = payload.split_at_checked(PREFIX_BYTES)?;
    let bits = |at: usize| u64::from_le_bytes(prefix[at..at + 8].try_into().expect("eight bytes"));
    Some((Features { compat: bits(8), ro_compat: bits(16), incompat: bits(24) }, rest))
}

impl Features {
    /// The bits of `incompat` and `ro_compat` this version doesn't know.
    pub(super) fn unknown(&self) -> (u64, u64) {
        (self.incompat & !KNOWN.incompat, self.ro_compat & !KNOWN.ro_compat)
    }
}
