//! A client that sends exactly what it is told to, right or wrong.

use crate::server::Server;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use twinblock::wire::nbd::handshake as hs;
use twinblock::wire::nbd::handshake::{ClientOption, OptionReply, encode_option};
use twinblock::wire::nbd::transmission::{self as tr, HeaderStyle, RequestHeader, encode_request};

/// Longest wait for the server to say or take something.
const PATIENCE: Duration = Duration::from_secs(20);

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A raw client.
pub struct Raw {
    socket: Socket,
    /// Headers agreed on.
    pub style: HeaderStyle,
    next_cookie: u64,
}

/// An option reply: type and data.
pub type OptionAnswer = (u32, Vec<u8>);

/// One reply or chunk.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// Error number and cookie; data, if any, is read by the caller.
    Simple(u32, u64),
    /// A chunk.
    Chunk {
        /// Last of its reply.
        done: bool,
        /// Which.
        kind: u16,
        /// The request's.
        cookie: u64,
        /// Its payload.
        payload: Vec<u8>,
    },
}

impl Raw {
    /// Connects to the unix socket and reads the greeting.
    pub fn connect(server: &Server) -> Raw {
        Raw::greeted(Socket::Unix(UnixStream::connect(server.socket()).unwrap()))
    }

    /// Connects over the network and reads the greeting.
    pub fn connect_tcp(server: &Server) -> Raw {
        Raw::greeted(Socket::Tcp(TcpStream::connect(server.address).unwrap()))
    }

    /// Uses a connected socket and reads the greeting.
    pub fn over(stream: UnixStream) -> Raw {
        Raw::greeted(Socket::Unix(stream))
    }

    fn greeted(socket: Socket) -> Raw {
        match &socket {
            Socket::Unix(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
            }
            Socket::Tcp(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
            }
        }
        let mut raw = Raw { socket, style: HeaderStyle::Simple, next_cookie: 1000 };
        assert_eq!(raw.receive(18), b"NBDMAGICIHAVEOPT\0\x03");
        raw
    }

    /// A client in transmission, with both contexts where the style has any.
    pub fn ready(server: &Server, style: HeaderStyle) -> Raw {
        let mut raw = Raw::connect(server);
        raw.negotiate(style);
        raw
    }

    /// From the greeting to transmission.
    pub fn negotiate(&mut self, style: HeaderStyle) {
        self.send(&3u32.to_be_bytes());
        let option = match style {
            HeaderStyle::Simple => None,
            HeaderStyle::Structured => Some(ClientOption::StructuredReply),
            HeaderStyle::Extended => Some(ClientOption::ExtendedHeaders),
        };
        if let Some(option) = option {
            assert_eq!(self.option(option, b""), (OptionReply::Ack as u32, vec![]));
            self.send_option(ClientOption::SetMetaContext, &meta("vol0", &["base:allocation", "twinblock:dirty"]));
            while self.option_answer(ClientOption::SetMetaContext).0 != OptionReply::Ack as u32 {}
        }
        self.send_option(ClientOption::Go, &info("vol0"));
        while self.option_answer(ClientOption::Go).0 != OptionReply::Ack as u32 {}
        self.style = style;
    }

    /// Sends bytes; what the server does not want to hear is dropped.
    pub fn send(&mut self, bytes: &[u8]) {
        let sent = match &mut self.socket {
            Socket::Unix(stream) => stream.write_all(bytes),
            Socket::Tcp(stream) => stream.write_all(bytes),
        };
        if let Err(error) = sent {
            let kind = error.kind();
            use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
            assert!(matches!(kind, BrokenPipe | ConnectionReset), "sending failed: {error}");
        }
    }

    /// Receives exactly so many bytes.
    pub fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        match &mut self.socket {
            Socket::Unix(stream) => stream.read_exact(&mut bytes).unwrap(),
            Socket::Tcp(stream) => stream.read_exact(&mut bytes).unwrap(),
        }
        bytes
    }

    /// Receives until the server closes.
    pub fn receive_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = match &mut self.socket {
            Socket::Unix(stream) => stream.read_to_end(&mut bytes),
            Socket::Tcp(stream) => stream.read_to_end(&mut bytes),
        };
        read.expect("it ends in time");
        bytes
    }

    /// Asserts that the server has closed, having said nothing more.
    pub fn assert_closed(&mut self) {
        let mut byte = [0];
        let read = match &mut self.socket {
            Socket::Unix(stream) => stream.read(&mut byte),
            Socket::Tcp(stream) => stream.read(&mut byte),
        };
        match read {
            Ok(0) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("the connection is still there: {other:?} {byte:?}"),
        }
    }

    /// Sends nothing more, and goes on listening.
    pub fn half_close(&mut self) {
        match &self.socket {
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// Sends an option.
    pub fn send_option(&mut self, option: ClientOption, data: &[u8]) {
        let mut bytes = Vec::new();
        encode_option(&mut bytes, option, data);
        self.send(&bytes);
    }

    /// Receives one option reply, which must be for this option.
    pub fn option_answer(&mut self, option: ClientOption) -> OptionAnswer {
        let head = self.receive(hs::OPTION_REPLY_HEADER_BYTES);
        assert_eq!(head[..8], hs::OPTION_REPLY_MAGIC.to_be_bytes());
        assert_eq!(head[8..12], option.code().to_be_bytes());
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        (number(12), self.receive(number(16) as usize))
    }

    /// Sends an option and receives one reply.
    pub fn option(&mut self, option: ClientOption, data: &[u8]) -> OptionAnswer {
        self.send_option(option, data);
        self.option_answer(option)
    }

    /// The number of the one reply an option gets.
    pub fn option_code(&mut self, option: ClientOption, data: &[u8]) -> u32 {
        self.option(option, data).0
    }

    /// Sends a request with its payload; returns its cookie.
    pub fn request(&mut self, command: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> u64 {
        self.next_cookie += 1;
        let cookie = self.next_cookie;
        self.request_with(&RequestHeader { flags, command, cookie, offset, length }, payload);
        cookie
    }

    /// Sends a request as it is.
    pub fn request_with(&mut self, request: &RequestHeader, payload: &[u8]) {
        let mut bytes = Vec::with_capacity(32 + payload.len());
        encode_request(&mut bytes, self.style, request);
        bytes.extend_from_slice(payload);
        self.send(&bytes);
    }

    /// Receives a reply or chunk.
    pub fn reply(&mut self) -> Reply {
        let magic = u32::from_be_bytes(self.receive(4).try_into().unwrap());
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        match magic {
            tr::SIMPLE_REPLY_MAGIC => {
                assert_ne!(self.style, HeaderStyle::Extended, "extended headers know no simple replies");
                let rest = self.receive(12);
                Reply::Simple(number(&rest[..4]) as u32, number(&rest[4..]))
            }
            tr::CHUNK_MAGIC => {
                assert_eq!(self.style, HeaderStyle::Structured);
                let rest = self.receive(16);
                self.chunk(&rest, number(&rest[12..]))
            }
            tr::EXTENDED_CHUNK_MAGIC => {
                assert_eq!(self.style, HeaderStyle::Extended);
                let rest = self.receive(28);
                self.chunk(&rest, number(&rest[20..]))
            }
            other => panic!("{other:08x} is no reply"),
        }
    }

    fn chunk(&mut self, rest: &[u8], length: u64) -> Reply {
        let flags = u16::from_be_bytes([rest[0], rest[1]]);
        assert!(flags <= 1, "unknown chunk flags {flags}");
        Reply::Chunk {
            done: flags == 1,
            kind: u16::from_be_bytes([rest[2], rest[3]]),
            cookie: u64::from_be_bytes(rest[4..12].try_into().unwrap()),
            payload: self.receive(length as usize),
        }
    }

    /// Receives the whole reply to a request that brings no data: its error number, 0 for success.
    pub fn outcome(&mut self, cookie: u64) -> u32 {
        match self.reply() {
            Reply::Simple(error, echoed) => {
                assert_eq!(echoed, cookie);
                error
            }
            Reply::Chunk { done, kind, cookie: echoed, payload } => {
                assert_eq!((done, echoed), (true, cookie));
                match kind {
                    tr::chunk::NONE => 0,
                    tr::chunk::ERROR | tr::chunk::ERROR_OFFSET => {
                        let message_bytes = usize::from(u16::from_be_bytes([payload[4], payload[5]]));
                        let tail = if kind == tr::chunk::ERROR { 0 } else { 8 };
                        assert_eq!(payload.len(), 6 + message_bytes + tail, "an error adds up");
                        assert!(message_bytes > 0, "an error says why");
                        u32::from_be_bytes(payload[..4].try_into().unwrap())
                    }
                    other => panic!("chunk {other:#x} where none with content is due"),
                }
            }
        }
    }

    /// A request without data in its reply, and its error number.
    pub fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> u32 {
        let cookie = self.request(command, flags, offset, length, payload);
        self.outcome(cookie)
    }

    /// Writes, as the style demands it.
    pub fn write(&mut self, flags: u16, offset: u64, bytes: &[u8]) -> u32 {
        let flags = flags | if self.style == HeaderStyle::Extended { tr::command_flags::PAYLOAD_LEN } else { 0 };
        self.ask(tr::command::WRITE, flags, offset, bytes.len() as u64, bytes)
    }

    /// Reads; the data or the error number.
    pub fn read(&mut self, flags: u16, offset: u64, length: u64) -> Result<Vec<u8>, u32> {
        let cookie = self.request(tr::command::READ, flags, offset, length, b"");
        self.data_of(cookie, offset, length).map(|(data, _)| data)
    }

    /// Receives the reply to a read: the data and the kinds of chunks it came in, or the error number.
    pub fn data_of(&mut self, cookie: u64, offset: u64, length: u64) -> Result<(Vec<u8>, Vec<u16>), u32> {
        let mut data = vec![0xee; length as usize];
        let mut kinds = Vec::new();
        let mut covered = 0;
        loop {
            let (done, kind, payload) = match self.reply() {
                Reply::Simple(0, echoed) => {
                    assert_eq!(echoed, cookie);
                    assert_eq!(self.style, HeaderStyle::Simple, "a structured read has no simple reply");
                    return Ok((self.receive(length as usize), kinds));
                }
                Reply::Simple(error, echoed) => {
                    assert_eq!(echoed, cookie);
                    assert_eq!(self.style, HeaderStyle::Simple, "a structured read has no simple reply");
                    return Err(error);
                }
                Reply::Chunk { done, kind, cookie: echoed, payload } => {
                    assert_eq!(echoed, cookie);
                    (done, kind, payload)
                }
            };
            kinds.push(kind);
            let at = || (u64::from_be_bytes(payload[..8].try_into().unwrap()) - offset) as usize;
            match kind {
                tr::chunk::NONE => {}
                tr::chunk::OFFSET_DATA => {
                    data[at()..at() + payload.len() - 8].copy_from_slice(&payload[8..]);
                    covered += payload.len() as u64 - 8;
                }
                tr::chunk::OFFSET_HOLE => {
                    let zeroes = u32::from_be_bytes(payload[8..12].try_into().unwrap());
                    data[at()..at() + zeroes as usize].fill(0);
                    covered += u64::from(zeroes);
                }
                tr::chunk::ERROR | tr::chunk::ERROR_OFFSET => {
                    assert!(done, "nothing follows an error here");
                    return Err(u32::from_be_bytes(payload[..4].try_into().unwrap()));
                }
                other => panic!("chunk {other:#x} in a read"),
            }
            if done {
                assert_eq!(covered, length, "every byte is told once");
                return Ok((data, kinds));
            }
        }
    }
}

/// The data of INFO and GO, with every information asked for.
pub fn info(name: &str) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&[0, 3, 0, 1, 0, 2, 0, 3]);
    data
}

/// The data of the meta context options.
pub fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend_from_slice(&(query.len() as u32).to_be_bytes());
        data.extend_from_slice(query.as_bytes());
    }
    data
}
