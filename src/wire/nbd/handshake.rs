//! The handshake: fixed newstyle greeting, options, option replies.
//!
//! ```text
//! server  NBDMAGIC IHAVEOPT flags:16
//! client  flags:32
//! client  IHAVEOPT option:32 length:32 data      repeated until an export is chosen
//! server  0x3e889045565a9 option:32 type:32 length:32 data
//! ```

use super::Fields;

/// First eight bytes a server sends.
pub const GREETING_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Announces the newstyle handshake, and begins every option.
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Begins every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Bytes of the greeting.
pub const GREETING_BYTES: usize = 18;
/// Bytes of the client's flags.
pub const CLIENT_FLAGS_BYTES: usize = 4;
/// Bytes before an option's data.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes before an option reply's data.
pub const OPTION_REPLY_HEADER_BYTES: usize = 20;
/// Zero bytes that follow the answer to `EXPORT_NAME` unless the client waived them.
pub const EXPORT_NAME_PADDING_BYTES: usize = 124;
/// Longest string of the protocol (export name, query, description), in bytes.
pub const STRING_BYTES_MAX: usize = 4096;
/// Queries of one meta context option that are read; more are refused.
pub const META_QUERIES_MAX: usize = 64;

/// Both sides speak fixed newstyle: unknown options are answered, not fatal. Same bit in both flag words.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// The 124 zero bytes after `EXPORT_NAME` are not sent. Same bit in both flag words.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// What an export can do; sent when it is chosen.
pub mod transmission_flags {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Every write fails with `EPERM`.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH` works.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag works, on every command.
    pub const SEND_FUA: u16 = 1 << 3;
    /// `TRIM` works.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` and its `NO_HOLE` flag work.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The `DF` flag of `READ` works.
    pub const SEND_DF: u16 = 1 << 7;
    /// Several connections see one another's writes, and a flush on one covers all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `CACHE` works.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The `FAST_ZERO` flag of `WRITE_ZEROES` works.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// `BLOCK_STATUS` takes a payload that names contexts.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// An option a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOption {
    /// Choose an export; no error can be answered.
    ExportName,
    /// Give up.
    Abort,
    /// Name the exports.
    List,
    /// Withdrawn from the protocol.
    PeekExport,
    /// Begin TLS.
    StartTls,
    /// Tell about an export.
    Info,
    /// Choose an export.
    Go,
    /// Use structured replies.
    StructuredReply,
    /// Name the meta contexts that match.
    ListMetaContext,
    /// Choose meta contexts.
    SetMetaContext,
    /// Use extended headers.
    ExtendedHeaders,
    /// Anything else.
    Unknown(u32),
}

impl ClientOption {
    /// The option of this number.
    pub fn from_code(code: u32) -> ClientOption {
        match code {
            1 => ClientOption::ExportName,
            2 => ClientOption::Abort,
            3 => ClientOption::List,
            4 => ClientOption::PeekExport,
            5 => ClientOption::StartTls,
            6 => ClientOption::Info,
            7 => ClientOption::Go,
            8 => ClientOption::StructuredReply,
            9 => ClientOption::ListMetaContext,
            10 => ClientOption::SetMetaContext,
            11 => ClientOption::ExtendedHeaders,
            other => ClientOption::Unknown(other),
        }
    }

    /// The number of this option.
    pub fn code(self) -> u32 {
        match self {
            ClientOption::ExportName => 1,
            ClientOption::Abort => 2,
            ClientOption::List => 3,
            ClientOption::PeekExport => 4,
            ClientOption::StartTls => 5,
            ClientOption::Info => 6,
            ClientOption::Go => 7,
            ClientOption::StructuredReply => 8,
            ClientOption::ListMetaContext => 9,
            ClientOption::SetMetaContext => 10,
            ClientOption::ExtendedHeaders => 11,
            ClientOption::Unknown(code) => code,
        }
    }
}

/// What an option reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OptionReply {
    /// The option is done.
    Ack = 1,
    /// One export.
    Server = 2,
    /// One piece of information about an export.
    Info = 3,
    /// One meta context.
    MetaContext = 4,
    /// The option is unknown.
    ErrUnsupported = 0x8000_0001,
    /// Known and well-formed, and forbidden here and now.
    ErrPolicy = 0x8000_0002,
    /// Malformed, or out of order.
    ErrInvalid = 0x8000_0003,
    /// No such export.
    ErrUnknown = 0x8000_0006,
    /// The server is stopping.
    ErrShutdown = 0x8000_0007,
    /// Larger than the server takes.
    ErrTooBig = 0x8000_0009,
    /// Extended headers were agreed on, which excludes this.
    ErrExtendedHeadersRequired = 0x8000_000a,
}

/// The greeting, with the given handshake flags.
pub fn encode_greeting(flags: u16) -> [u8; GREETING_BYTES] {
    let mut out = [0; GREETING_BYTES];
    out[..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
    out[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    out[16..].copy_from_slice(&flags.to_be_bytes());
    out
}

/// An option's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option.
    pub option: ClientOption,
    /// Bytes of data that follow.
    pub length: u32,
}

/// Bytes that are no option: the connection must end, since what follows can't be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMagic;

/// Decodes an option's head.
pub fn decode_option_header(bytes: &[u8; OPTION_HEADER_BYTES]) -> Result<OptionHeader, BadMagic> {
    let mut fields = Fields::new(bytes);
    match (fields.u64(), fields.u32(), fields.u32()) {
        (Some(OPTION_MAGIC), Some(code), Some(length)) => {
            Ok(OptionHeader { option: ClientOption::from_code(code), length })
        }
        _ => Err(BadMagic),
    }
}

/// Encodes an option as a client sends it.
pub fn encode_option(out: &mut Vec<u8>, option: ClientOption, data: &[u8]) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.code().to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// Appends an option reply.
pub fn encode_option_reply(out: &mut Vec<u8>, option: ClientOption, reply: OptionReply, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.code().to_be_bytes());
    out.extend_from_slice(&(reply as u32).to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// The data of [`OptionReply::Server`].
pub fn server_data(name: &str, description: &str) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(description.as_bytes());
    data
}

/// The data of [`OptionReply::MetaContext`].
pub fn meta_context_data(id: u32, name: &str) -> Vec<u8> {
    let mut data = id.to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data
}

/// Numbers of the information a client may ask for.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The export's own name.
    pub const NAME: u16 = 1;
    /// The export's description.
    pub const DESCRIPTION: u16 = 2;
    /// Smallest, preferred and largest block.
    pub const BLOCK_SIZE: u16 = 3;
}

/// The data of [`OptionReply::Info`] for [`info::EXPORT`].
pub fn info_export(size_bytes: u64, flags: u16) -> [u8; 12] {
    let mut data = [0; 12];
    data[..2].copy_from_slice(&info::EXPORT.to_be_bytes());
    data[2..10].copy_from_slice(&size_bytes.to_be_bytes());
    data[10..].copy_from_slice(&flags.to_be_bytes());
    data
}

/// The data of [`OptionReply::Info`] for [`info::NAME`] or [`info::DESCRIPTION`].
pub fn info_text(kind: u16, text: &str) -> Vec<u8> {
    let mut data = kind.to_be_bytes().to_vec();
    data.extend_from_slice(text.as_bytes());
    data
}

/// The data of [`OptionReply::Info`] for [`info::BLOCK_SIZE`], in bytes.
pub fn info_block_size(smallest: u32, preferred: u32, payload_max: u32) -> [u8; 14] {
    let mut data = [0; 14];
    data[..2].copy_from_slice(&info::BLOCK_SIZE.to_be_bytes());
    data[2..6].copy_from_slice(&smallest.to_be_bytes());
    data[6..10].copy_from_slice(&preferred.to_be_bytes());
    data[10..].copy_from_slice(&payload_max.to_be_bytes());
    data
}

/// Why an option's data is refused. The sentence goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// Lengths that don't add up, or bytes that are no text.
    Malformed(&'static str),
    /// More than is read.
    TooBig(&'static str),
}

/// A string as the protocol allows it: UTF-8 without NUL, at most [`STRING_BYTES_MAX`] bytes.
pub fn decode_string(bytes: &[u8]) -> Result<&str, OptionError> {
    if bytes.len() > STRING_BYTES_MAX {
        return Err(OptionError::TooBig("a string is longer than 4096 bytes"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(OptionError::Malformed("a string is not UTF-8 without NUL")),
    }
}

/// The data of `INFO` and `GO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// Export asked for; empty for the default one.
    pub name: &'a str,
    /// Asked for [`info::NAME`].
    pub wants_name: bool,
    /// Asked for [`info::DESCRIPTION`].
    pub wants_description: bool,
}

/// Decodes the data of `INFO` and `GO`. Unknown numbers are ignored, as the protocol demands.
pub fn decode_info_request(data: &[u8]) -> Result<InfoRequest<'_>, OptionError> {
    const SHORT: OptionError = OptionError::Malformed("the lengths inside the option do not add up");
    let mut fields = Fields::new(data);
    let name_bytes = fields.u32().ok_or(SHORT)? as usize;
    let name = fields.bytes(name_bytes).ok_or(SHORT)?;
    let count = fields.u16().ok_or(SHORT)?;
    let numbers = fields.bytes(usize::from(count) * 2).ok_or(SHORT)?;
    if !fields.is_empty() {
        return Err(SHORT);
    }
    let asked = |kind: u16| numbers.chunks_exact(2).any(|number| number == kind.to_be_bytes());
    Ok(InfoRequest {
        name: decode_string(name)?,
        wants_name: asked(info::NAME),
        wants_description: asked(info::DESCRIPTION),
    })
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaRequest<'a> {
    /// Export asked about; empty for the default one.
    pub name: &'a str,
    /// At most [`META_QUERIES_MAX`].
    pub queries: Vec<&'a str>,
}

/// Decodes the data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
pub fn decode_meta_request(data: &[u8]) -> Result<MetaRequest<'_>, OptionError> {
    const SHORT: OptionError = OptionError::Malformed("the lengths inside the option do not add up");
    let mut fields = Fields::new(data);
    let name_bytes = fields.u32().ok_or(SHORT)? as usize;
    let name = fields.bytes(name_bytes).ok_or(SHORT)?;
    let count = fields.u32().ok_or(SHORT)? as usize;
    let mut queries = Vec::new();
    let mut malformed = None;
    for _ in 0..count.min(META_QUERIES_MAX) {
        let bytes = fields.u32().ok_or(SHORT)? as usize;
        match decode_string(fields.bytes(bytes).ok_or(SHORT)?) {
            Ok(query) => queries.push(query),
            Err(error) => malformed = Some(error),
        }
    }
    if count > META_QUERIES_MAX {
        return Err(OptionError::TooBig("more than 64 meta context queries in one option"));
    }
    if !fields.is_empty() {
        return Err(SHORT);
    }
    match malformed {
        Some(error) => Err(error),
        None => Ok(MetaRequest { name: decode_string(name)?, queries }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn greeting_and_option_heads_have_their_bytes() {
        assert_eq!(
            hex(&encode_greeting(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)),
            "4e42444d41474943".to_owned() + "49484156454f5054" + "0003"
        );
        let mut option = Vec::new();
        encode_option(&mut option, ClientOption::Go, b"xyz");
        assert_eq!(hex(&option), "49484156454f5054".to_owned() + "00000007" + "00000003" + "78797a");
        let head: [u8; OPTION_HEADER_BYTES] = option[..16].try_into().unwrap();
        assert_eq!(decode_option_header(&head), Ok(OptionHeader { option: ClientOption::Go, length: 3 }));
        let mut broken = head;
        broken[7] ^= 1;
        assert_eq!(decode_option_header(&broken), Err(BadMagic));
    }

    #[test]
    fn option_replies_have_their_bytes() {
        let mut out = Vec::new();
        encode_option_reply(&mut out, ClientOption::List, OptionReply::Server, &server_data("ab", "c"));
        assert_eq!(hex(&out), "0003e889045565a9".to_owned() + "00000003" + "00000002" + "00000007" + "00000002616263");
        out.clear();
        encode_option_reply(&mut out, ClientOption::Unknown(99), OptionReply::ErrUnsupported, b"");
        assert_eq!(hex(&out), "0003e889045565a9".to_owned() + "00000063" + "80000001" + "00000000");
        assert_eq!(hex(&info_export(0x1234, 0x0ded)), "000000000000000012340ded");
        assert_eq!(hex(&info_block_size(1, 4096, 32 << 20)), "0003000000010000100002000000");
        assert_eq!(hex(&info_text(info::NAME, "v")), "000176");
        assert_eq!(hex(&meta_context_data(2, "b:a")), "00000002623a61");
    }

    #[test]
    fn every_option_number_survives_both_ways() {
        for code in 0..64 {
            assert_eq!(ClientOption::from_code(code).code(), code);
        }
        assert_eq!(ClientOption::from_code(u32::MAX), ClientOption::Unknown(u32::MAX));
    }

    #[test]
    fn info_requests_are_read_and_their_lies_refused() {
        let good = b"\0\0\0\x04vol0\0\x03\0\x03\0\x01\x7f\xff";
        let request = decode_info_request(good).unwrap();
        assert_eq!(request, InfoRequest { name: "vol0", wants_name: true, wants_description: false });
        for cut in 0..good.len() {
            assert!(decode_info_request(&good[..cut]).is_err(), "a request cut at {cut} was taken");
        }
        let mut long = good.to_vec();
        long.push(0);
        assert!(decode_info_request(&long).is_err());
        assert!(decode_info_request(b"\xff\xff\xff\xff\0\0").is_err());
        assert!(matches!(decode_info_request(b"\0\0\0\x01\xff\0\0"), Err(OptionError::Malformed(_))));
        assert!(matches!(decode_info_request(b"\0\0\0\x01\0\0\0"), Err(OptionError::Malformed(_))));
        let mut huge = 4097u32.to_be_bytes().to_vec();
        huge.extend_from_slice(&[b'a'; 4097]);
        huge.extend_from_slice(&[0, 0]);
        assert!(matches!(decode_info_request(&huge), Err(OptionError::TooBig(_))));
    }

    #[test]
    fn meta_requests_are_read_and_their_lies_refused() {
        let good = b"\0\0\0\x01v\0\0\0\x02\0\0\0\x05base:\0\0\0\x02x:";
        assert_eq!(decode_meta_request(good).unwrap(), MetaRequest { name: "v", queries: vec!["base:", "x:"] });
        for cut in 0..good.len() {
            assert!(decode_meta_request(&good[..cut]).is_err(), "a request cut at {cut} was taken");
        }
        assert!(decode_meta_request(b"\0\0\0\0\xff\xff\xff\xff").is_err());
        assert!(decode_meta_request(b"\0\0\0\0\0\0\0\0x").is_err());
        let mut many = b"\0\0\0\0\0\0\0\x41".to_vec();
        many.extend_from_slice(&[0; 65 * 4]);
        assert!(matches!(decode_meta_request(&many), Err(OptionError::TooBig(_))));
    }
}
