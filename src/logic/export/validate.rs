//! The one place where a client's request is checked.
//!
//! | refused | with |
//! |---|---|
//! | unknown command, a flag that is not of this command, a range that wraps or ends past the end | `EINVAL` |
//! | writing or zeroing past the end | `ENOSPC` |
//! | any change of a read-only export | `EPERM` |
//! | a read larger than the largest payload | `EINVAL` |
//! | an unfragmented read that is not kept whole | `EOVERFLOW` |
//! | a fast zero that would have to write | `ENOTSUP` |
//! | a payload larger than the largest | `EINVAL`, then the connection ends |
//!
//! A payload is always consumed before its request is refused, so that the next request is found. A request of no
//! bytes is answered at once.

use super::contexts::Selection;
use super::offer::{Agreed, PAYLOAD_BYTES_MAX};
use super::split;
use crate::base::limits::NBD_READ_WINDOW_BYTES;
use crate::base::range::ByteRange;
use crate::wire::nbd::transmission::{
    HeaderStyle, RequestHeader, StatusPayload, WireError, command, command_flags as flag, status_payload_bytes,
};

/// A request that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Data from the volume.
    Read {
        /// Which bytes; at least one, at most a payload.
        range: ByteRange,
        /// All in one chunk.
        whole: bool,
    },
    /// Data to the volume; its payload follows.
    Write {
        /// Which bytes; at least one, at most a payload.
        range: ByteRange,
        /// Durable before it is answered.
        fua: bool,
    },
    /// The range reads as zeroes from here on.
    WriteZeroes {
        /// Which bytes; at least one.
        range: ByteRange,
        /// The space may be given back.
        unmap: bool,
        /// Durable before it is answered.
        fua: bool,
    },
    /// The range's content is no longer wanted.
    Trim {
        /// Which bytes; at least one.
        range: ByteRange,
        /// Durable before it is answered.
        fua: bool,
    },
    /// Every write that was answered becomes durable.
    Flush,
    /// What the contexts say of the range.
    Status {
        /// Which bytes; at least one.
        range: ByteRange,
        /// One descriptor only.
        one: bool,
        /// Which contexts; at least one.
        contexts: Selection,
    },
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The number the client gets.
    pub error: WireError,
    /// The sentence it gets where the reply has room for one.
    pub message: &'static str,
}

/// What to do with a request, once `payload` bytes that follow it are consumed (except a write's, which are its work).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Work(Work),
    /// Nothing is to be done: success.
    Nothing,
    /// A block status whose payload names the contexts: decide with [`status_by_payload`] when it is here.
    StatusPayload,
    /// Consume the payload, then answer the error.
    Refuse(Refused),
    /// Answer the error and end the connection: the payload is too large to consume.
    RefuseAndClose(Refused),
    /// The client is leaving.
    Disconnect,
}

const fn refused(error: WireError, message: &'static str) -> Refused {
    Refused { error, message }
}

const BAD_FLAG: Refused = refused(WireError::Invalid, "a flag that does not belong to this command");
const PAST_END: Refused = refused(WireError::Invalid, "the range ends past the end of the volume");
const NO_SPACE: Refused = refused(WireError::NoSpace, "the range ends past the end of the volume");
const READ_ONLY: Refused = refused(WireError::NotPermitted, "the export is read-only");
const NO_CONTEXT: Refused = refused(WireError::Invalid, "no meta context was chosen for this export");
const EMPTY_STATUS: Refused = refused(WireError::Invalid, "a block status of no bytes");
const BAD_STATUS_PAYLOAD: Refused =
    refused(WireError::Invalid, "a block status payload that does not name chosen contexts once each");

/// Bytes of payload that follow the request's head.
pub fn payload_bytes(agreed: &Agreed, request: &RequestHeader) -> u64 {
    // A client must set the flag on an extended write, and some (qemu 10) don't, but send the payload all the same.
    let by_flag = agreed.style == HeaderStyle::Extended && request.flags & flag::PAYLOAD_LEN != 0;
    if by_flag || request.command == command::WRITE { request.length } else { 0 }
}

/// Decides about a request.
pub fn validate(agreed: &Agreed, request: &RequestHeader) -> Verdict {
    if request.command == command::DISCONNECT {
        return Verdict::Disconnect;
    }
    if payload_bytes(agreed, request) > u64::from(PAYLOAD_BYTES_MAX) {
        return Verdict::RefuseAndClose(refused(WireError::Invalid, "the payload is larger than 32 MiB"));
    }
    check(agreed, request).unwrap_or_else(Verdict::Refuse)
}

/// Decides about a block status whose payload has come.
pub fn status_by_payload(agreed: &Agreed, request: &RequestHeader, payload: Option<StatusPayload>) -> Verdict {
    let narrowed = |payload: StatusPayload| {
        let contexts = agreed.contexts.narrowed(&payload.contexts).filter(|contexts| !contexts.is_empty());
        let contexts = contexts.ok_or(BAD_STATUS_PAYLOAD)?;
        status(agreed, request, payload.length, contexts)
    };
    payload.ok_or(BAD_STATUS_PAYLOAD).and_then(narrowed).unwrap_or_else(Verdict::Refuse)
}

fn check(agreed: &Agreed, request: &RequestHeader) -> Result<Verdict, Refused> {
    let extended = agreed.style == HeaderStyle::Extended;
    // FUA is accepted on every command, as the protocol demands of whoever announces it.
    let allowed = flag::FUA
        | match request.command {
            command::READ if agreed.style != HeaderStyle::Simple => flag::DF,
            command::WRITE if extended => flag::PAYLOAD_LEN,
            command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            command::BLOCK_STATUS if agreed.takes_status_payload() => flag::REQ_ONE | flag::PAYLOAD_LEN,
            command::BLOCK_STATUS => flag::REQ_ONE,
            _ => 0,
        };
    if request.flags & !allowed != 0 {
        return Err(BAD_FLAG);
    }
    let fua = request.flags & flag::FUA != 0;
    match request.command {
        command::READ => read(agreed, request),
        command::WRITE => {
            let range = change(agreed, request, NO_SPACE)?;
            Ok(range.map_or(Verdict::Nothing, |range| Verdict::Work(Work::Write { range, fua })))
        }
        command::WRITE_ZEROES => write_zeroes(agreed, request, fua),
        command::TRIM => {
            let range = change(agreed, request, PAST_END)?;
            Ok(range.map_or(Verdict::Nothing, |range| Verdict::Work(Work::Trim { range, fua })))
        }
        command::FLUSH => Ok(Verdict::Work(Work::Flush)),
        command::CACHE => within(agreed, request, request.length, PAST_END).map(|_| Verdict::Nothing),
        command::BLOCK_STATUS if request.flags & flag::PAYLOAD_LEN != 0 => {
            let longest = status_payload_bytes(super::contexts::CONTEXTS.len()) as u64;
            if request.length > longest { Err(BAD_STATUS_PAYLOAD) } else { Ok(Verdict::StatusPayload) }
        }
        command::BLOCK_STATUS if agreed.contexts.is_empty() => Err(NO_CONTEXT),
        command::BLOCK_STATUS => status(agreed, request, request.length, agreed.contexts),
        _ => Err(refused(WireError::Invalid, "an unknown command")),
    }
}

fn read(agreed: &Agreed, request: &RequestHeader) -> Result<Verdict, Refused> {
    let Some(range) = within(agreed, request, request.length, PAST_END)? else { return Ok(Verdict::Nothing) };
    if range.length > u64::from(PAYLOAD_BYTES_MAX) {
        return Err(refused(WireError::Invalid, "a read larger than 32 MiB"));
    }
    let whole = request.flags & flag::DF != 0;
    if whole && range.length > NBD_READ_WINDOW_BYTES {
        return Err(refused(WireError::Overflow, "an unfragmented read larger than 4 MiB"));
    }
    Ok(Verdict::Work(Work::Read { range, whole }))
}

fn write_zeroes(agreed: &Agreed, request: &RequestHeader, fua: bool) -> Result<Verdict, Refused> {
    let Some(range) = change(agreed, request, NO_SPACE)? else { return Ok(Verdict::Nothing) };
    let wants_fast = request.flags & flag::FAST_ZERO != 0;
    if wants_fast && !(agreed.terms.fast_zero && split::has_whole_block(range)) {
        return Err(refused(WireError::NotSupported, "zeroing this range would not be faster than writing it"));
    }
    Ok(Verdict::Work(Work::WriteZeroes { range, unmap: request.flags & flag::NO_HOLE == 0, fua }))
}

fn status(agreed: &Agreed, request: &RequestHeader, length: u64, contexts: Selection) -> Result<Verdict, Refused> {
    let range = within(agreed, request, length, PAST_END)?.ok_or(EMPTY_STATUS)?;
    Ok(Verdict::Work(Work::Status { range, one: request.flags & flag::REQ_ONE != 0, contexts }))
}

/// The range of a command that changes the volume.
fn change(agreed: &Agreed, request: &RequestHeader, past_end: Refused) -> Result<Option<ByteRange>, Refused> {
    if agreed.terms.read_only {
        return Err(READ_ONLY);
    }
    within(agreed, request, request.length, past_end)
}

/// The range, if it lies inside the volume; `None` when it has no bytes.
fn within(
    agreed: &Agreed,
    request: &RequestHeader,
    length: u64,
    past_end: Refused,
) -> Result<Option<ByteRange>, Refused> {
    match request.offset.checked_add(length) {
        Some(end) if end <= agreed.terms.size_bytes => Ok((length > 0).then(|| ByteRange::new(request.offset, length))),
        _ => Err(past_end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::export::offer::Terms;

    const SIZE: u64 = 1 << 30;

    fn agreed(style: HeaderStyle) -> Agreed {
        let contexts = if style == HeaderStyle::Simple { Selection::NONE } else { Selection::listed(&[]) };
        let terms = Terms { size_bytes: SIZE, cache_epoch: 1, read_only: false, fast_zero: true };
        Agreed { style, contexts, terms }
    }

    fn request(command: u16, flags: u16, offset: u64, length: u64) -> RequestHeader {
        RequestHeader { flags, command, cookie: 0, offset, length }
    }

    fn error(verdict: Verdict) -> Option<WireError> {
        match verdict {
            Verdict::Refuse(refused) => Some(refused.error),
            _ => None,
        }
    }

    const ALL: [u16; 7] = [
        command::READ,
        command::WRITE,
        command::FLUSH,
        command::TRIM,
        command::CACHE,
        command::WRITE_ZEROES,
        command::BLOCK_STATUS,
    ];

    /// The flags each command takes, with structured replies.
    fn allowed_flags(command: u16) -> u16 {
        flag::FUA
            | match command {
                command::READ => flag::DF,
                command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
                command::BLOCK_STATUS => flag::REQ_ONE,
                _ => 0,
            }
    }

    #[test]
    fn every_flag_is_taken_where_it_belongs_and_only_there() {
        let agreed = agreed(HeaderStyle::Structured);
        for command in ALL {
            for bit in 0..16 {
                let flag = 1 << bit;
                let verdict = validate(&agreed, &request(command, flag, 4096, 4096));
                let expected = if allowed_flags(command) & flag == 0 { Some(WireError::Invalid) } else { None };
                assert_eq!(error(verdict), expected, "command {command} flag {bit}");
            }
        }
    }

    #[test]
    fn without_structured_replies_there_is_no_df_and_no_status() {
        let agreed = agreed(HeaderStyle::Simple);
        assert_eq!(error(validate(&agreed, &request(command::READ, flag::DF, 0, 1))), Some(WireError::Invalid));
        assert_eq!(error(validate(&agreed, &request(command::BLOCK_STATUS, 0, 0, 1))), Some(WireError::Invalid));
    }

    #[test]
    fn ranges_past_the_end_have_the_error_of_their_command() {
        let agreed = agreed(HeaderStyle::Structured);
        let past = [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX, u64::from(u32::MAX)), (SIZE + 1, 0)];
        for (offset, length) in past {
            for command in ALL {
                let length = if command == command::WRITE { length.min(4096) } else { length };
                let expected = match command {
                    command::FLUSH => None,
                    command::WRITE | command::WRITE_ZEROES => Some(WireError::NoSpace),
                    _ => Some(WireError::Invalid),
                };
                let verdict = validate(&agreed, &request(command, 0, offset, length));
                assert_eq!(error(verdict), expected, "command {command} {offset}+{length}");
            }
        }
        let last = request(command::READ, 0, SIZE - 1, 1);
        let range = ByteRange::new(SIZE - 1, 1);
        assert_eq!(validate(&agreed, &last), Verdict::Work(Work::Read { range, whole: false }));
    }

    #[test]
    fn no_bytes_means_nothing_to_do_except_for_a_status() {
        let agreed = agreed(HeaderStyle::Structured);
        for command in [command::READ, command::WRITE, command::TRIM, command::CACHE, command::WRITE_ZEROES] {
            assert_eq!(validate(&agreed, &request(command, 0, SIZE, 0)), Verdict::Nothing);
        }
        assert_eq!(error(validate(&agreed, &request(command::BLOCK_STATUS, 0, 0, 0))), Some(WireError::Invalid));
    }

    #[test]
    fn a_read_only_export_refuses_every_change_and_nothing_else() {
        let mut agreed = agreed(HeaderStyle::Structured);
        agreed.terms.read_only = true;
        for command in ALL {
            let changes = matches!(command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
            let verdict = validate(&agreed, &request(command, 0, 0, 4096));
            assert_eq!(error(verdict), changes.then_some(WireError::NotPermitted), "command {command}");
        }
    }

    #[test]
    fn sizes_have_their_bounds() {
        let agreed = agreed(HeaderStyle::Structured);
        let most = u64::from(PAYLOAD_BYTES_MAX);
        assert_eq!(error(validate(&agreed, &request(command::READ, 0, 0, most))), None);
        assert_eq!(error(validate(&agreed, &request(command::READ, 0, 0, most + 1))), Some(WireError::Invalid));
        assert!(matches!(validate(&agreed, &request(command::WRITE, 0, 0, most)), Verdict::Work(_)));
        assert!(matches!(validate(&agreed, &request(command::WRITE, 0, 0, most + 1)), Verdict::RefuseAndClose(_)));
        let whole = |length| error(validate(&agreed, &request(command::READ, flag::DF, 0, length)));
        assert_eq!(whole(NBD_READ_WINDOW_BYTES), None);
        assert_eq!(whole(NBD_READ_WINDOW_BYTES + 1), Some(WireError::Overflow));
        for command in [command::TRIM, command::CACHE, command::WRITE_ZEROES, command::BLOCK_STATUS] {
            assert_eq!(error(validate(&agreed, &request(command, 0, 0, SIZE))), None, "command {command}");
        }
    }

    #[test]
    fn fast_zero_is_taken_only_where_it_is_fast() {
        let mut agreed = agreed(HeaderStyle::Structured);
        let fast = |agreed: &Agreed, offset, length| {
            error(validate(agreed, &request(command::WRITE_ZEROES, flag::FAST_ZERO, offset, length)))
        };
        assert_eq!(fast(&agreed, 0, 4096), None);
        assert_eq!(fast(&agreed, 1, 4096), Some(WireError::NotSupported));
        agreed.terms.fast_zero = false;
        assert_eq!(fast(&agreed, 0, 4096), Some(WireError::NotSupported));
        assert_eq!(error(validate(&agreed, &request(command::WRITE_ZEROES, 0, 0, 4096))), None);
    }

    #[test]
    fn extended_headers_tell_payloads_by_their_flag() {
        let agreed = agreed(HeaderStyle::Extended);
        let with = |command, length| request(command, flag::PAYLOAD_LEN, 0, length);
        assert_eq!(payload_bytes(&agreed, &with(command::TRIM, 9)), 9);
        assert_eq!(error(validate(&agreed, &with(command::TRIM, 9))), Some(WireError::Invalid));
        assert_eq!(payload_bytes(&agreed, &request(command::WRITE, 0, 0, 9)), 9, "as qemu sends it");
        assert!(matches!(validate(&agreed, &request(command::WRITE, 0, 0, 9)), Verdict::Work(_)));
        assert!(matches!(validate(&agreed, &with(command::WRITE, 9)), Verdict::Work(_)));
        assert!(matches!(validate(&agreed, &with(command::READ, 1 << 40)), Verdict::RefuseAndClose(_)));
        assert_eq!(validate(&agreed, &with(command::BLOCK_STATUS, 12)), Verdict::StatusPayload);
        assert_eq!(error(validate(&agreed, &with(command::BLOCK_STATUS, 17))), Some(WireError::Invalid));
    }

    #[test]
    fn a_status_payload_must_name_chosen_contexts_once() {
        let agreed = agreed(HeaderStyle::Extended);
        let head = request(command::BLOCK_STATUS, flag::PAYLOAD_LEN, 4096, 12);
        let by = |length, contexts: &[u32]| {
            status_by_payload(&agreed, &head, Some(StatusPayload { length, contexts: contexts.to_vec() }))
        };
        let range = ByteRange::new(4096, 512);
        let contexts = Selection::chosen(&["twinblock:dirty"]);
        assert_eq!(by(512, &[2]), Verdict::Work(Work::Status { range, one: false, contexts }));
        for (length, ids) in [(512, &[][..]), (512, &[1, 1]), (512, &[9]), (0, &[1]), (SIZE, &[1])] {
            assert_eq!(error(by(length, ids)), Some(WireError::Invalid), "{length} {ids:?}");
        }
        assert_eq!(error(status_by_payload(&agreed, &head, None)), Some(WireError::Invalid));
    }
}
