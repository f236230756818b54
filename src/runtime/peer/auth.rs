//! The authenticated beginning of a connection, on both sides: Noise NNpsk0 over the bytes of [`crate::wire::hello`].
//!
//! Both ends prove that they hold the shared secret, agree on a session nobody else can predict, and tell each other
//! who they are. What goes wrong has a sentence of its own on both sides.

use crate::base::ids::SessionId;
use crate::runtime::config::secret::Secret;
use crate::wire::hello::{
    self, HANDSHAKE_MESSAGE_BYTES_MAX, Hello, PREAMBLE_HEAD_BYTES, Preamble, Refused, Reply, VERDICT_HEAD_BYTES,
    Verdict,
};
use crate::wire::message::PROTOCOL_VERSION;
use snow::TransportState;
use std::fmt;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Key exchange without static keys, bound to the shared secret from its first message on.
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// Bytes read from a refused peer until it closes: more than a handshake has.
const PART_BYTES_MAX: usize = 2 * HANDSHAKE_MESSAGE_BYTES_MAX;

/// What both ends must have in common.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Version and cluster of this side.
    pub preamble: Preamble,
    /// The shared secret.
    pub secret: Secret,
}

/// An authenticated connection; the next byte is the first frame's.
#[derive(Debug)]
pub struct Authenticated {
    /// Both ends have the same.
    pub session: SessionId,
    /// What the peer told of itself.
    pub peer: Hello,
    /// The keys for what follows, where it is encrypted; the confirmation was the first message.
    pub transport: TransportState,
}

/// Why a connection did not become a session.
#[derive(Debug)]
pub enum AuthError {
    /// The other side connected and closed without a word: someone looked whether we listen.
    Probe,
    /// What came is not this protocol.
    Foreign,
    /// The peer speaks another version.
    OtherVersion(u32),
    /// The peer belongs to another cluster.
    OtherCluster(String),
    /// The secrets differ.
    WrongSecret,
    /// This side refused the peer.
    Refused(Refused),
    /// The peer refused this side.
    RefusedByPeer(Refused),
    /// The connection broke in the middle.
    Broken(io::Error),
    /// It took too long.
    TooSlow,
}

impl AuthError {
    /// Whether the same will happen again until someone changes something.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, AuthError::Probe | AuthError::Broken(_) | AuthError::TooSlow)
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthError::Probe => write!(f, "the connection was closed without a word"),
            AuthError::Foreign => {
                write!(f, "what answered there is no twinblock daemon; check the mirror addresses in the configuration")
            }
            AuthError::OtherVersion(theirs) => write!(
                f,
                "the peer speaks link protocol version {theirs}, this daemon version {PROTOCOL_VERSION}; install the \
                 same release on both servers"
            ),
            AuthError::OtherCluster(theirs) => write!(
                f,
                "the peer belongs to cluster \"{theirs}\", not to ours; use the same configuration on both servers"
            ),
            AuthError::WrongSecret => {
                write!(f, "the peer does not hold the same secret; copy the secret file from one server to the other")
            }
            AuthError::Refused(refused) => write!(f, "refused the peer ({}): {}", refused.code, refused.reason),
            AuthError::RefusedByPeer(refused) => {
                write!(f, "the peer refused ({}): {}", refused.code, hello::printable(refused.reason.as_bytes()))
            }
            AuthError::Broken(error) => write!(f, "the connection broke during the handshake: {error}"),
            AuthError::TooSlow => write!(f, "the handshake did not end in time"),
        }
    }
}

impl From<io::Error> for AuthError {
    fn from(error: io::Error) -> AuthError {
        AuthError::Broken(error)
    }
}

/// Dials: sends `hello`, and takes the reply. `judge` looks at the peer's hello.
pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
    hello: &Hello,
    judge: impl FnOnce(&Hello) -> Result<(), Refused>,
) -> Result<Authenticated, AuthError> {
    let prologue = hello::encode_preamble(&credentials.preamble);
    let mut noise = builder(&prologue, credentials).build_initiator().expect("the parameters are complete");
    let mut first = prologue.clone();
    push_message(&mut first, |buffer| noise.write_message(&hello::encode(hello), buffer));
    stream.write_all(&first).await?;

    read_verdict(stream).await?;
    let reply = read_message(stream, |message, payload| noise.read_message(message, payload)).await?;
    let peer = match hello::decode(&reply).ok_or(AuthError::Foreign)? {
        Reply::Refused(refused) => return Err(AuthError::RefusedByPeer(refused)),
        Reply::Welcome(peer) => peer,
    };
    judge(&peer).map_err(AuthError::Refused)?;
    let session = session_of(noise.get_handshake_hash());
    let mut transport = noise.into_transport_mode().map_err(|_| AuthError::Foreign)?;
    let mut confirmation = Vec::new();
    push_message(&mut confirmation, |buffer| transport.write_message(&[], buffer));
    stream.write_all(&confirmation).await?;
    Ok(Authenticated { session, peer, transport })
}

/// Accepts: takes a hello, has it judged, and answers with this side's hello or the refusal.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
    judge: impl FnOnce(&Hello) -> Result<Hello, Refused>,
) -> Result<Authenticated, AuthError> {
    let ours = &credentials.preamble;
    let theirs = read_preamble(stream).await?;
    if theirs.protocol != ours.protocol {
        part(stream, &hello::encode_verdict(Verdict::OtherVersion, ours)).await?;
        return Err(AuthError::OtherVersion(theirs.protocol));
    }
    if theirs.cluster != ours.cluster {
        part(stream, &hello::encode_verdict(Verdict::OtherCluster, ours)).await?;
        return Err(AuthError::OtherCluster(theirs.cluster));
    }
    let prologue = hello::encode_preamble(ours);
    let mut noise = builder(&prologue, credentials).build_responder().expect("the parameters are complete");
    let first = match read_message(stream, |message, payload| noise.read_message(message, payload)).await {
        Err(AuthError::WrongSecret) => {
            part(stream, &hello::encode_verdict(Verdict::NotAuthenticated, ours)).await?;
            return Err(AuthError::WrongSecret);
        }
        first => first?,
    };
    let peer: Hello = hello::decode(&first).ok_or(AuthError::Foreign)?;
    let judged = judge(&peer);
    let reply = match &judged {
        Ok(hello) => Reply::Welcome(hello.clone()),
        Err(refused) => Reply::Refused(refused.clone()),
    };
    let mut answer = hello::encode_verdict(Verdict::Proceed, ours);
    push_message(&mut answer, |buffer| noise.write_message(&hello::encode(&reply), buffer));
    if let Err(refused) = judged {
        part(stream, &answer).await?;
        return Err(AuthError::Refused(refused));
    }
    stream.write_all(&answer).await?;
    let session = session_of(noise.get_handshake_hash());
    let mut transport = noise.into_transport_mode().map_err(|_| AuthError::Foreign)?;
    let confirmation = read_message(stream, |message, payload| transport.read_message(message, payload)).await?;
    if !confirmation.is_empty() {
        return Err(AuthError::Foreign);
    }
    Ok(Authenticated { session, peer, transport })
}

/// Sends the last word of a refused connection. What the other side still sends is read and thrown away until it
/// closes: closing with unread bytes would reset the connection and could take the last word with it.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, last_word: &[u8]) -> io::Result<()> {
    stream.write_all(last_word).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    let mut left = PART_BYTES_MAX;
    while left > 0 {
        match stream.read(&mut rest).await {
            Ok(0) | Err(_) => break,
            Ok(length) => left = left.saturating_sub(length),
        }
    }
    Ok(())
}

fn builder<'b>(prologue: &'b [u8], credentials: &'b Credentials) -> snow::Builder<'b> {
    snow::Builder::new(PATTERN.parse().expect("the pattern is well formed"))
        .psk(0, &credentials.secret.0)
        .and_then(|builder| builder.prologue(prologue))
        .expect("key and prologue are set once")
}

/// The session's name: the first bytes of the hash over the whole key exchange.
fn session_of(hash: &[u8]) -> SessionId {
    SessionId(u64::from_le_bytes(hash[..8].try_into().expect("a hash has 32 bytes")))
}

async fn read_preamble<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Preamble, AuthError> {
    let mut head = [0; PREAMBLE_HEAD_BYTES];
    let length = stream.read(&mut head).await;
    match length {
        // A connection that is closed or reset before its first byte only wanted to know that we listen.
        Ok(0) => return Err(AuthError::Probe),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(AuthError::Probe),
        length => drop(stream.read_exact(&mut head[length?..]).await.map_err(foreign_if_short)?),
    }
    let (protocol, length) = hello::decode_preamble_head(&head).ok_or(AuthError::Foreign)?;
    let mut name = vec![0; length];
    stream.read_exact(&mut name).await?;
    Ok(Preamble { protocol, cluster: hello::printable(&name) })
}

async fn read_verdict<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(), AuthError> {
    let mut head = [0; VERDICT_HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let (verdict, protocol, length) = hello::decode_verdict_head(&head).ok_or(AuthError::Foreign)?;
    let mut name = vec![0; length];
    stream.read_exact(&mut name).await?;
    match verdict {
        Verdict::Proceed => Ok(()),
        Verdict::OtherVersion => Err(AuthError::OtherVersion(protocol)),
        Verdict::OtherCluster => Err(AuthError::OtherCluster(hello::printable(&name))),
        Verdict::NotAuthenticated => Err(AuthError::WrongSecret),
    }
}

/// Appends one Noise message, its length before it.
fn push_message(bytes: &mut Vec<u8>, write: impl FnOnce(&mut [u8]) -> Result<usize, snow::Error>) {
    let mut buffer = [0; HANDSHAKE_MESSAGE_BYTES_MAX];
    let length = write(&mut buffer).expect("a hello fits, and it is this side's turn");
    bytes.extend((length as u16).to_be_bytes());
    bytes.extend(&buffer[..length]);
}

/// Reads one Noise message; one that was not made with the same secret is [`AuthError::WrongSecret`].
async fn read_message<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: impl FnOnce(&[u8], &mut [u8]) -> Result<usize, snow::Error>,
) -> Result<Vec<u8>, AuthError> {
    let length = usize::from(stream.read_u16().await?);
    if length > HANDSHAKE_MESSAGE_BYTES_MAX {
        return Err(AuthError::Foreign);
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    let mut payload = vec![0; HANDSHAKE_MESSAGE_BYTES_MAX];
    let length = read(&message, &mut payload).map_err(|_| AuthError::WrongSecret)?;
    payload.truncate(length);
    Ok(payload)
}

fn foreign_if_short(error: io::Error) -> AuthError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => AuthError::Foreign,
        _ => AuthError::Broken(error),
    }
}
