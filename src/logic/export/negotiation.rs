//! The handshake of one client, from the greeting to an agreed export.
//!
//! | client sends | answered |
//! |---|---|
//! | flags beyond ours, wrong magic, a huge option | closed |
//! | an unknown option | `ERR_UNSUP`, its data skipped |
//! | a known option that is malformed, out of order or too big | `ERR_INVALID`, `ERR_TOO_BIG`; goes on |
//! | `INFO`, `GO` where the volume is not served | `ERR_POLICY` and why |
//! | anything but `ABORT` while stopping | `ERR_SHUTDOWN` |
//!
//! Takes bytes as they come and keeps none: what is not consumed is handed in again with more behind it.

use super::contexts::Selection;
use super::offer::{Agreed, Availability, BLOCK_BYTES_MIN, BLOCK_BYTES_PREFERRED, Offer, PAYLOAD_BYTES_MAX, Terms};
use crate::base::limits::{NBD_OPTION_BYTES_MAX, NBD_OPTION_SKIP_BYTES_MAX};
use crate::wire::nbd::handshake::{self as wire, ClientOption, OptionError, OptionReply, info};
use crate::wire::nbd::transmission::HeaderStyle;

/// Bytes the caller must be able to hand in at once: an option with the most data that is read.
pub const INPUT_BYTES_MAX: usize = wire::OPTION_HEADER_BYTES + NBD_OPTION_BYTES_MAX;

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more can be done with these bytes.
    More,
    /// One item was handled; there may be another behind it.
    Again,
    /// The export is chosen; transmission begins with the byte after those consumed.
    Agreed(Agreed),
    /// The connection ends once what was answered is sent. The reason is for the log.
    Close(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waiting for the client's flags.
    ClientFlags,
    /// Waiting for an option.
    Option,
    /// Dropping the rest of an option's data; its answer follows when it is gone.
    Skipping { left: usize, option: ClientOption, reply: OptionReply, message: &'static str },
}

/// The handshake of one client.
#[derive(Clone, Debug)]
pub struct Negotiation {
    phase: Phase,
    /// The client does without the padding after `EXPORT_NAME`.
    no_zeroes: bool,
    style: HeaderStyle,
    /// Chosen contexts. There is one export, so they are always for the one chosen later.
    contexts: Selection,
}

impl Default for Negotiation {
    fn default() -> Negotiation {
        Negotiation::new()
    }
}

impl Negotiation {
    /// A client that was not greeted yet.
    pub fn new() -> Negotiation {
        Negotiation {
            phase: Phase::ClientFlags,
            no_zeroes: false,
            style: HeaderStyle::Simple,
            contexts: Selection::NONE,
        }
    }

    /// What the server says first.
    pub fn greeting() -> [u8; wire::GREETING_BYTES] {
        wire::encode_greeting(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES)
    }

    /// Takes received bytes, appends answers to `out`; returns how many bytes were consumed and what comes next.
    pub fn handle(&mut self, offer: &Offer, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        match self.phase {
            Phase::ClientFlags => self.client_flags(input),
            Phase::Option => self.option(offer, input, out),
            Phase::Skipping { left, option, reply, message } => {
                let dropped = left.min(input.len());
                if dropped < left {
                    self.phase = Phase::Skipping { left: left - dropped, option, reply, message };
                    return (dropped, Step::More);
                }
                self.phase = Phase::Option;
                wire::encode_option_reply(out, option, reply, message.as_bytes());
                (dropped, Step::Again)
            }
        }
    }

    fn client_flags(&mut self, input: &[u8]) -> (usize, Step) {
        let Some(bytes) = input.first_chunk::<{ wire::CLIENT_FLAGS_BYTES }>() else { return (0, Step::More) };
        let flags = u32::from_be_bytes(*bytes);
        let known = u32::from(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        if flags & !known != 0 {
            return (bytes.len(), Step::Close("the client set handshake flags that were not offered"));
        }
        self.no_zeroes = flags & u32::from(wire::FLAG_NO_ZEROES) != 0;
        self.phase = Phase::Option;
        (bytes.len(), Step::Again)
    }

    fn option(&mut self, offer: &Offer, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let Some(bytes) = input.first_chunk::<{ wire::OPTION_HEADER_BYTES }>() else { return (0, Step::More) };
        let Ok(header) = wire::decode_option_header(bytes) else {
            return (bytes.len(), Step::Close("the client sent bytes that are no option"));
        };
        let (option, length) = (header.option, header.length as usize);
        if length > NBD_OPTION_SKIP_BYTES_MAX {
            return (bytes.len(), Step::Close("the client announced an option too large even to skip"));
        }
        let unsupported = match option {
            ClientOption::Unknown(_) => Some("this option is not known here"),
            ClientOption::PeekExport => Some("this option was withdrawn from the protocol"),
            _ => None,
        };
        if let Some(message) = unsupported {
            self.phase = Phase::Skipping { left: length, option, reply: OptionReply::ErrUnsupported, message };
            return (bytes.len(), Step::Again);
        }
        if length > NBD_OPTION_BYTES_MAX {
            if option == ClientOption::ExportName {
                return (bytes.len(), Step::Close("the client asked for an export with a name too long"));
            }
            let message = "the option carries more than 65536 bytes";
            self.phase = Phase::Skipping { left: length, option, reply: OptionReply::ErrTooBig, message };
            return (bytes.len(), Step::Again);
        }
        let Some(data) = input.get(bytes.len()..bytes.len() + length) else { return (0, Step::More) };
        (bytes.len() + length, self.known_option(offer, option, data, out))
    }

    fn known_option(&mut self, offer: &Offer, option: ClientOption, data: &[u8], out: &mut Vec<u8>) -> Step {
        let stopping = offer.availability == Availability::Stopping;
        let answer = match option {
            ClientOption::Abort => {
                wire::encode_option_reply(out, option, OptionReply::Ack, b"");
                return Step::Close("the client gave up the handshake");
            }
            ClientOption::ExportName => return self.export_name(offer, data, out),
            _ if stopping => Err(Refusal::new(OptionReply::ErrShutdown, "the server is stopping")),
            ClientOption::List => list(offer, data, out),
            ClientOption::StartTls if data.is_empty() => {
                Err(Refusal::new(OptionReply::ErrPolicy, "TLS is not configured on this server"))
            }
            ClientOption::StartTls => Err(Refusal::unwanted_data()),
            ClientOption::StructuredReply => self.structured_reply(data),
            ClientOption::ExtendedHeaders => self.extended_headers(data),
            ClientOption::ListMetaContext => list_contexts(offer, data, out),
            ClientOption::SetMetaContext => self.set_contexts(offer, data, out),
            ClientOption::Info => self.info(offer, option, data, out).map(|_| ()),
            ClientOption::Go => match self.info(offer, option, data, out) {
                Ok(agreed) => {
                    wire::encode_option_reply(out, option, OptionReply::Ack, b"");
                    return Step::Agreed(agreed);
                }
                Err(refusal) => Err(refusal),
            },
            ClientOption::PeekExport | ClientOption::Unknown(_) => unreachable!("answered before its data is read"),
        };
        match answer {
            Ok(()) => wire::encode_option_reply(out, option, OptionReply::Ack, b""),
            Err(refusal) => wire::encode_option_reply(out, option, refusal.reply, refusal.message.as_bytes()),
        }
        Step::Again
    }

    fn export_name(&mut self, offer: &Offer, data: &[u8], out: &mut Vec<u8>) -> Step {
        if self.style == HeaderStyle::Extended {
            return Step::Close("the client used EXPORT_NAME after extended headers, which the protocol forbids");
        }
        let known = wire::decode_string(data).is_ok_and(|name| is_ours(offer, name));
        if !known {
            return Step::Close("the client asked for an export that does not exist");
        }
        let Availability::Serving(terms) = &offer.availability else {
            return Step::Close("the client asked for an export that is not served here");
        };
        let agreed = self.agreed(*terms);
        out.extend_from_slice(&terms.size_bytes.to_be_bytes());
        out.extend_from_slice(&agreed.transmission_flags().to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; wire::EXPORT_NAME_PADDING_BYTES]);
        }
        Step::Agreed(agreed)
    }

    fn structured_reply(&mut self, data: &[u8]) -> Result<(), Refusal> {
        match self.style {
            _ if !data.is_empty() => Err(Refusal::unwanted_data()),
            HeaderStyle::Simple => {
                self.style = HeaderStyle::Structured;
                Ok(())
            }
            HeaderStyle::Structured => {
                Err(Refusal::new(OptionReply::ErrInvalid, "structured replies were agreed on before"))
            }
            HeaderStyle::Extended => {
                Err(Refusal::new(OptionReply::ErrExtendedHeadersRequired, "extended headers were agreed on before"))
            }
        }
    }

    fn extended_headers(&mut self, data: &[u8]) -> Result<(), Refusal> {
        if !data.is_empty() {
            return Err(Refusal::unwanted_data());
        }
        if self.style == HeaderStyle::Extended {
            return Err(Refusal::new(OptionReply::ErrInvalid, "extended headers were agreed on before"));
        }
        self.style = HeaderStyle::Extended;
        Ok(())
    }

    fn set_contexts(&mut self, offer: &Offer, data: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        // The earlier choice is gone even if this one fails.
        self.contexts = Selection::NONE;
        if self.style == HeaderStyle::Simple {
            return Err(Refusal::new(OptionReply::ErrInvalid, "meta contexts need structured replies first"));
        }
        let request = wire::decode_meta_request(data)?;
        require_ours(offer, request.name)?;
        self.contexts = Selection::chosen(&request.queries);
        for context in self.contexts.iter() {
            let data = wire::meta_context_data(context.id(), context.name());
            wire::encode_option_reply(out, ClientOption::SetMetaContext, OptionReply::MetaContext, &data);
        }
        Ok(())
    }

    fn info(&self, offer: &Offer, option: ClientOption, data: &[u8], out: &mut Vec<u8>) -> Result<Agreed, Refusal> {
        let request = wire::decode_info_request(data)?;
        require_ours(offer, request.name)?;
        let terms = match &offer.availability {
            Availability::Serving(terms) => *terms,
            Availability::Refused(why) => {
                return Err(Refusal { reply: OptionReply::ErrPolicy, message: bounded(why).to_owned() });
            }
            Availability::Stopping => unreachable!("answered before its data is looked at"),
        };
        let agreed = self.agreed(terms);
        let mut say = |data: &[u8]| wire::encode_option_reply(out, option, OptionReply::Info, data);
        say(&wire::info_export(terms.size_bytes, agreed.transmission_flags()));
        if request.wants_name {
            say(&wire::info_text(info::NAME, &offer.name));
        }
        if request.wants_description {
            say(&wire::info_text(info::DESCRIPTION, bounded(&offer.description)));
        }
        say(&wire::info_block_size(BLOCK_BYTES_MIN, BLOCK_BYTES_PREFERRED, PAYLOAD_BYTES_MAX));
        Ok(agreed)
    }

    fn agreed(&self, terms: Terms) -> Agreed {
        Agreed { style: self.style, contexts: self.contexts, terms }
    }
}

/// Why an option is refused.
struct Refusal {
    reply: OptionReply,
    message: String,
}

impl Refusal {
    fn unwanted_data() -> Refusal {
        Refusal::new(OptionReply::ErrInvalid, "this option carries no data")
    }

    fn new(reply: OptionReply, message: &str) -> Refusal {
        Refusal { reply, message: message.to_owned() }
    }
}

impl From<OptionError> for Refusal {
    fn from(error: OptionError) -> Refusal {
        match error {
            OptionError::Malformed(message) => Refusal::new(OptionReply::ErrInvalid, message),
            OptionError::TooBig(message) => Refusal::new(OptionReply::ErrTooBig, message),
        }
    }
}

fn list(offer: &Offer, data: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    if !data.is_empty() {
        return Err(Refusal::unwanted_data());
    }
    let data = wire::server_data(&offer.name, bounded(&offer.description));
    wire::encode_option_reply(out, ClientOption::List, OptionReply::Server, &data);
    Ok(())
}

fn list_contexts(offer: &Offer, data: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    let request = wire::decode_meta_request(data)?;
    require_ours(offer, request.name)?;
    for context in Selection::listed(&request.queries).iter() {
        // Numbers mean something only once a context is chosen.
        let data = wire::meta_context_data(0, context.name());
        wire::encode_option_reply(out, ClientOption::ListMetaContext, OptionReply::MetaContext, &data);
    }
    Ok(())
}

fn is_ours(offer: &Offer, name: &str) -> bool {
    name.is_empty() || name == offer.name
}

fn require_ours(offer: &Offer, name: &str) -> Result<(), Refusal> {
    if is_ours(offer, name) {
        return Ok(());
    }
    let message = format!("there is no export of this name here; this server exports {}", offer.name);
    Err(Refusal { reply: OptionReply::ErrUnknown, message })
}

/// The beginning of a text that fits the protocol's strings.
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(wire::STRING_BYTES_MAX)]
}

#[cfg(test)]
mod tests;
