//! The client's side of an NBD handshake, before the kernel takes the socket over: the oldest option, whose answer is
//! size and flags and nothing else, because the kernel speaks plain replies only.

use crate::wire::nbd::handshake::{
    ClientOption, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, GREETING_BYTES, GREETING_MAGIC, OPTION_MAGIC,
};
use std::io::{self, Read, Write};

/// What was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Transmission flags.
    pub flags: u16,
}

/// Chooses an export. An error also when it is not served now: the connection is then closed from there.
pub(super) fn negotiate(stream: &mut (impl Read + Write), export: &str) -> io::Result<Export> {
    let mut greeting = [0; GREETING_BYTES];
    stream.read_exact(&mut greeting)?;
    let word = |at: usize| u64::from_be_bytes(greeting[at..at + 8].try_into().expect("eight bytes"));
    if word(0) != GREETING_MAGIC || word(8) != OPTION_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no NBD server answers"));
    }
    let mut hello = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes().to_vec();
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend(ClientOption::ExportName.code().to_be_bytes());
    hello.extend((export.len() as u32).to_be_bytes());
    hello.extend(export.as_bytes());
    stream.write_all(&hello)?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    Ok(Export {
        size_bytes: u64::from_be_bytes(answer[..8].try_into().expect("eight bytes")),
        flags: u16::from_be_bytes([answer[8], answer[9]]),
    })
}
