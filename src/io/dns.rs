//! A host's addresses in the DNS: replaced by an update (RFC 2136), signed where a key is given (RFC 8945), and looked up.
//!
//! Always over TCP, to the zone's primary server itself: no answer is cut short, and none of a stranger is taken for its.

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, MessageBuilder, QuestionBuilder};
use domain::base::{Message, Name, StreamTarget, Ttl, UnknownRecordData};
use domain::rdata::tsig::Time48;
use domain::rdata::{A, Aaaa};
use domain::tsig::{Algorithm, ClientTransaction, Key, KeyName, ValidationError};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of an answer that are taken: one host's addresses and a signature are far less.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// A key shared with a name server.
pub type DnsKey = Arc<Key>;

/// A name of the DNS.
pub type DnsName = Name<Vec<u8>>;

/// Whose addresses are meant, and where.
#[derive(Clone, Debug)]
pub struct Target {
    /// The zone's primary server.
    pub server: SocketAddr,
    /// The zone.
    pub zone: DnsName,
    /// The host, a name in the zone.
    pub host: DnsName,
    /// The key updates are signed with.
    pub key: Option<DnsKey>,
}

/// Why an exchange failed.
#[derive(Debug)]
pub enum DnsError {
    /// The server can't be reached, or hung up.
    Unreachable(io::Error),
    /// It answered with this code.
    Refused(Rcode),
    /// It does not know the key, or has another secret for it.
    WrongKey(String),
    /// The two servers' clocks differ by more than a signature allows.
    WrongTime,
    /// What it answered is no answer to what was asked.
    Nonsense(String),
}

/// Reads a name.
pub fn name(text: &str) -> Result<DnsName, String> {
    if text.is_empty() || !text.is_ascii() {
        return Err("it is empty, or has letters beyond ASCII".into());
    }
    Name::from_str(text).map_err(|error| error.to_string())
}

/// A key from its parts; the secret is written in base64, as in the server's configuration.
pub fn key(algorithm: &str, key_name: &str, secret: &str) -> Result<DnsKey, String> {
    let algorithm = Algorithm::from_str(algorithm)
        .map_err(|_| format!("\"{algorithm}\" is no algorithm (hmac-sha256, hmac-sha384, hmac-sha512, hmac-sha1)"))?;
    let key_name =
        KeyName::from_str(key_name).map_err(|error| format!("\"{key_name}\" is no name of a key: {error}"))?;
    let secret: Vec<u8> = domain::utils::base64::decode(secret.trim()).map_err(|_| "the secret is not in base64")?;
    if secret.is_empty() {
        return Err("the secret is empty".into());
    }
    Key::new(algorithm, &secret, key_name, None, None).map(Arc::new).map_err(|error| error.to_string())
}

/// Replaces all addresses of the host by these, in one step; none of them removes it.
pub async fn replace(target: &Target, addresses: &[IpAddr], seconds: u32) -> Result<(), DnsError> {
    let (mut question, id) = begin(Opcode::UPDATE)?;
    question.push((&target.zone, Rtype::SOA)).map_err(too_long)?;
    let mut update = question.authority();
    for kind in [Rtype::A, Rtype::AAAA] {
        let nothing = UnknownRecordData::from_octets(kind, [0u8; 0]).map_err(too_long)?;
        update.push((&target.host, Class::ANY, Ttl::ZERO, nothing)).map_err(too_long)?;
    }
    let ttl = Ttl::from_secs(seconds);
    for address in addresses {
        match address {
            IpAddr::V4(v4) => update.push((&target.host, Class::IN, ttl, A::new(*v4))),
            IpAddr::V6(v6) => update.push((&target.host, Class::IN, ttl, Aaaa::new(*v6))),
        }
        .map_err(too_long)?;
    }
    let mut message = update.additional();
    let signed = match &target.key {
        None => None,
        Some(key) => {
            let now = Time48::now();
            Some(ClientTransaction::request(key.clone(), &mut message, now).map_err(too_long)?)
        }
    };
    let mut answer = exchange(target, message, id, Opcode::UPDATE).await?;
    if let Some(signed) = signed {
        let code = answer.header().rcode();
        signed.answer(&mut answer, Time48::now()).map_err(|error| distrusted(error, code))?;
    }
    match answer.header().rcode() {
        Rcode::NOERROR => Ok(()),
        code => Err(DnsError::Refused(code)),
    }
}

/// The host's addresses, as the server has them now.
pub async fn look_up(target: &Target) -> Result<Vec<IpAddr>, DnsError> {
    let mut found = Vec::new();
    for kind in [Rtype::A, Rtype::AAAA] {
        let (mut question, id) = begin(Opcode::QUERY)?;
        question.push((&target.host, kind)).map_err(too_long)?;
        let answer = exchange(target, question.additional(), id, Opcode::QUERY).await?;
        match answer.header().rcode() {
            Rcode::NOERROR => {}
            Rcode::NXDOMAIN => return Ok(Vec::new()),
            code => return Err(DnsError::Refused(code)),
        }
        let section = answer.answer().map_err(nonsense)?;
        for record in section.limit_to_in::<A>() {
            found.push(IpAddr::V4(record.map_err(nonsense)?.data().addr()));
        }
        let section = answer.answer().map_err(nonsense)?;
        for record in section.limit_to_in::<Aaaa>() {
            found.push(IpAddr::V6(record.map_err(nonsense)?.data().addr()));
        }
    }
    Ok(found)
}

type Target16 = StreamTarget<Vec<u8>>;

/// A message with a random id, at its question.
fn begin(opcode: Opcode) -> Result<(QuestionBuilder<Target16>, u16), DnsError> {
    let mut random = [0; 2];
    getrandom::fill(&mut random).map_err(|error| DnsError::Unreachable(io::Error::other(error.to_string())))?;
    let id = u16::from_be_bytes(random);
    let mut message = MessageBuilder::from_target(StreamTarget::new_vec()).map_err(too_long)?;
    message.header_mut().set_id(id);
    message.header_mut().set_opcode(opcode);
    Ok((message.question(), id))
}

/// Sends a message and reads the answer to it.
async fn exchange(
    target: &Target,
    message: AdditionalBuilder<Target16>,
    id: u16,
    opcode: Opcode,
) -> Result<Message<Vec<u8>>, DnsError> {
    let message = message.finish();
    let mut stream = TcpStream::connect(target.server).await.map_err(DnsError::Unreachable)?;
    stream.write_all(message.as_stream_slice()).await.map_err(DnsError::Unreachable)?;
    let length = usize::from(stream.read_u16().await.map_err(DnsError::Unreachable)?);
    if length > ANSWER_BYTES_MAX {
        return Err(DnsError::Nonsense(format!("it has {length} bytes")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(DnsError::Unreachable)?;
    let answer = Message::from_octets(bytes).map_err(|_| DnsError::Nonsense("it is too short".into()))?;
    let header = answer.header();
    if !header.qr() || header.id() != id || header.opcode() != opcode {
        return Err(DnsError::Nonsense("it belongs to another question".into()));
    }
    Ok(answer)
}

fn distrusted(error: ValidationError, code: Rcode) -> DnsError {
    match error {
        ValidationError::ServerBadTime { .. } | ValidationError::BadTime => DnsError::WrongTime,
        // Who refuses for another reason need not sign that.
        ValidationError::ServerUnsigned if code != Rcode::NOERROR => DnsError::Refused(code),
        other => DnsError::WrongKey(other.to_string()),
    }
}

fn too_long(error: impl std::fmt::Display) -> DnsError {
    DnsError::Nonsense(format!("the question can't be written: {error}"))
}

fn nonsense(error: impl std::fmt::Display) -> DnsError {
    DnsError::Nonsense(error.to_string())
}
