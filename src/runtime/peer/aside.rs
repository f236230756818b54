//! Questions to the other daemon beside the replication, each on a connection of its own that is authenticated like a link
//! and encrypted. Nothing of it is on the way of a volume's data; what it takes in memory and time is bounded.

use super::auth::{self, Authenticated};
use super::{Local, auth::AuthError};
use crate::base::ids::Uuid;
use crate::wire::aside::{self, ASIDE, Answer, HEAD_BYTES_MAX, PIECE_BYTES_MAX, Question};
use crate::wire::hello::{Encryption, Hello};
use snow::TransportState;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest time one question may take from its connection to its answer: a bundle of 64 MiB over a slow network.
const ASK_TIME_MAX: Duration = Duration::from_secs(20);
/// Questions of the peer that are answered at a time; more are closed at once.
const ASIDES_MAX: usize = 4;
/// Bytes that are added to each Noise message.
const TAG_BYTES: usize = 16;

/// Answers what the peer asks; the bytes are the question's body and the answer's.
pub type Answerer = Box<dyn Fn(Question, Vec<u8>) -> Pin<Box<dyn Future<Output = (Answer, Vec<u8>)>>>>;

/// The answering side.
pub struct Asides {
    answer: Answerer,
    places: Semaphore,
    /// One question with a large body at a time.
    large: Semaphore,
}

impl Asides {
    /// Questions are answered by this.
    pub fn new(answer: Answerer) -> Asides {
        Asides { answer, places: Semaphore::new(ASIDES_MAX), large: Semaphore::new(1) }
    }
}

/// What this node tells of itself.
pub fn hello(local: &Local) -> Hello {
    Hello {
        volume: ASIDE.into(),
        volume_uuid: Uuid(0),
        node: local.node,
        node_name: local.name().into(),
        features: 0,
        requested_encryption: Encryption::None,
        incarnation: local.incarnation,
        config_digest: local.config_digest.get(),
    }
}

/// Asks the peer at each of its addresses in turn. The error is a clause for people.
pub async fn ask(local: &Local, question: &Question, body: &[u8]) -> Result<(Answer, Vec<u8>), String> {
    let asked = async {
        let mut troubles = Vec::new();
        for address in &local.peer_addresses {
            match ask_at(local, *address, question, body).await {
                Ok(answer) => return Ok(answer),
                Err(error) => troubles.push(format!("{} at {address}: {error}", local.peer_name())),
            }
        }
        Err(troubles.join("; "))
    };
    let late = || Err(format!("{} did not answer within {} s", local.peer_name(), ASK_TIME_MAX.as_secs()));
    timeout(ASK_TIME_MAX, asked).await.unwrap_or_else(|_| late())
}

async fn ask_at(
    local: &Local,
    address: SocketAddr,
    question: &Question,
    body: &[u8],
) -> Result<(Answer, Vec<u8>), AuthError> {
    let settings = local.settings();
    let connected = timeout(settings.connect_timeout, TcpStream::connect(address)).await;
    let mut stream = connected.map_err(|_| AuthError::TooSlow)??;
    let hello = hello(local);
    let handshake = auth::dial(&mut stream, &local.credentials, &hello, |peer| local.judge(peer));
    let authenticated = timeout(settings.handshake_timeout, handshake).await.map_err(|_| AuthError::TooSlow)??;
    let mut channel = Channel::new(stream, authenticated);
    channel.send(&aside::encode(question)).await?;
    channel.send_body(body).await?;
    let answer: Answer = aside::decode(&channel.receive(HEAD_BYTES_MAX).await?).ok_or(AuthError::Foreign)?;
    let length = answer.body_bytes().ok_or(AuthError::Foreign)?;
    let body = channel.receive_body(length).await?;
    Ok((answer, body))
}

/// Answers one question on an authenticated connection. The error is for the log.
pub async fn serve(local: &Local, stream: TcpStream, authenticated: Authenticated) -> Result<(), String> {
    let Some(asides) = local.asides.get() else { return Err("this daemon is not ready for it yet".into()) };
    let Ok(_place) = asides.places.try_acquire() else { return Err("too many are asked at once".into()) };
    let served = async {
        let mut channel = Channel::new(stream, authenticated);
        let question: Question = aside::decode(&channel.receive(HEAD_BYTES_MAX).await?).ok_or(AuthError::Foreign)?;
        let length = question.body_bytes().ok_or(AuthError::Foreign)?;
        let _large = match length {
            0 => None,
            _ => Some(asides.large.acquire().await.expect("the semaphore is never closed")),
        };
        let body = channel.receive_body(length).await?;
        let (answer, body) = (asides.answer)(question, body).await;
        channel.send(&aside::encode(&answer)).await?;
        channel.send_body(&body).await
    };
    match timeout(ASK_TIME_MAX, served).await {
        Ok(served) => served.map_err(|error: AuthError| error.to_string()),
        Err(_) => Err("it took too long".into()),
    }
}

/// Bytes in Noise messages, each with its length before it.
struct Channel {
    stream: TcpStream,
    noise: TransportState,
}

impl Channel {
    fn new(stream: TcpStream, authenticated: Authenticated) -> Channel {
        Channel { stream, noise: authenticated.transport }
    }

    async fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut message = vec![0; 2 + piece.len() + TAG_BYTES];
        let length = self.noise.write_message(piece, &mut message[2..]).map_err(io::Error::other)?;
        message[..2].copy_from_slice(&(length as u16).to_be_bytes());
        self.stream.write_all(&message[..2 + length]).await
    }

    async fn send_body(&mut self, body: &[u8]) -> Result<(), AuthError> {
        for piece in body.chunks(PIECE_BYTES_MAX) {
            self.send(piece).await?;
        }
        Ok(())
    }

    async fn receive(&mut self, most: usize) -> Result<Vec<u8>, AuthError> {
        let length = usize::from(self.stream.read_u16().await?);
        if length > most + TAG_BYTES {
            return Err(AuthError::Foreign);
        }
        let mut message = vec![0; length];
        self.stream.read_exact(&mut message).await?;
        let mut piece = vec![0; length];
        let length = self.noise.read_message(&message, &mut piece).map_err(|_| AuthError::WrongSecret)?;
        piece.truncate(length);
        Ok(piece)
    }

    /// Memory grows with what has come, not with what was announced.
    async fn receive_body(&mut self, length: usize) -> Result<Vec<u8>, AuthError> {
        let mut body = Vec::new();
        while body.len() < length {
            let piece = self.receive(PIECE_BYTES_MAX.min(length - body.len())).await?;
            if piece.is_empty() {
                return Err(AuthError::Foreign);
            }
            body.extend(piece);
        }
        Ok(body)
    }
}
