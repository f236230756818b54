//! The demo's own NBD client: fixed newstyle, GO, simple replies, one request at a time. It shares no code with the
//! server, so that a misunderstanding shows.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for any answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// Longest option reply taken, in bytes.
const OPTION_REPLY_BYTES_MAX: u32 = 64 << 10;

const INIT_PASSWORD: u64 = 0x4e42444d41474943;
const OPTION_MAGIC: u64 = 0x49484156454f5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const FLAGS_FIXED_NEWSTYLE_NO_ZEROES: u32 = 3;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_ERROR_BIT: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const COMMAND_READ: u16 = 0;
const COMMAND_WRITE: u16 = 1;
const COMMAND_DISCONNECT: u16 = 2;
const COMMAND_FLUSH: u16 = 3;

/// A connection to an export.
pub struct NbdClient {
    stream: TcpStream,
    /// Size of the export, in bytes.
    pub size_bytes: u64,
    next_cookie: u64,
}

impl NbdClient {
    /// Connects to an export.
    pub fn connect(address: SocketAddr, export: &str) -> io::Result<NbdClient> {
        NbdClient::connect_within(address, export, ANSWER_TIME_MAX, ANSWER_TIME_MAX)
    }

    /// The same with this much patience for the connection to come about, and for each answer on it.
    pub fn connect_within(
        address: SocketAddr,
        export: &str,
        connecting: Duration,
        answering: Duration,
    ) -> io::Result<NbdClient> {
        let stream = TcpStream::connect_timeout(&address, connecting)?;
        stream.set_read_timeout(Some(answering))?;
        stream.set_write_timeout(Some(answering))?;
        stream.set_nodelay(true)?;
        let mut client = NbdClient { stream, size_bytes: 0, next_cookie: 1 };
        client.negotiate(export)?;
        Ok(client)
    }

    /// Reads `buffer.len()` bytes from `offset`.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let cookie = self.request(COMMAND_READ, offset, buffer.len(), &[])?;
        self.reply(cookie)?;
        self.stream.read_exact(buffer)
    }

    /// Writes `data` at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let cookie = self.request(COMMAND_WRITE, offset, data.len(), data)?;
        self.reply(cookie)
    }

    /// Makes everything written durable.
    pub fn flush(&mut self) -> io::Result<()> {
        let cookie = self.request(COMMAND_FLUSH, 0, 0, &[])?;
        self.reply(cookie)
    }

    /// Ends the connection in order.
    pub fn disconnect(mut self) {
        let _ = self.request(COMMAND_DISCONNECT, 0, 0, &[]);
    }

    fn negotiate(&mut self, export: &str) -> io::Result<()> {
        let mut greeting = [0; 18];
        self.stream.read_exact(&mut greeting)?;
        if greeting[..8] != INIT_PASSWORD.to_be_bytes() || greeting[8..16] != OPTION_MAGIC.to_be_bytes() {
            return Err(nonsense("no NBD server answered"));
        }
        let mut hello = FLAGS_FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes().to_vec();
        let data_bytes = 4 + export.len() + 2;
        hello.extend(OPTION_MAGIC.to_be_bytes());
        hello.extend(OPTION_GO.to_be_bytes());
        hello.extend((data_bytes as u32).to_be_bytes());
        hello.extend((export.len() as u32).to_be_bytes());
        hello.extend(export.as_bytes());
        hello.extend(0u16.to_be_bytes());
        self.stream.write_all(&hello)?;
        loop {
            let mut head = [0; 20];
            self.stream.read_exact(&mut head)?;
            let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
            if head[..8] != OPTION_REPLY_MAGIC.to_be_bytes() || word(16) > OPTION_REPLY_BYTES_MAX {
                return Err(nonsense("an option's reply makes no sense"));
            }
            let mut data = vec![0; word(16) as usize];
            self.stream.read_exact(&mut data)?;
            match word(12) {
                REPLY_ACK => return Ok(()),
                REPLY_INFO if data.len() >= 10 && data[..2] == INFO_EXPORT.to_be_bytes() => {
                    self.size_bytes = u64::from_be_bytes(data[2..10].try_into().expect("eight bytes"));
                }
                REPLY_INFO => {}
                kind if kind & REPLY_ERROR_BIT != 0 => {
                    return Err(io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        format!("the export is refused: {}", String::from_utf8_lossy(&data)),
                    ));
                }
                _ => return Err(nonsense("an option's reply is unknown")),
            }
        }
    }

    fn request(&mut self, command: u16, offset: u64, length: usize, payload: &[u8]) -> io::Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut bytes = Vec::with_capacity(28 + payload.len());
        bytes.extend(REQUEST_MAGIC.to_be_bytes());
        bytes.extend(0u16.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend(payload);
        self.stream.write_all(&bytes)?;
        Ok(cookie)
    }

    fn reply(&mut self, cookie: u64) -> io::Result<()> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let error = u32::from_be_bytes(head[4..8].try_into().expect("four bytes"));
        if head[..4] != SIMPLE_REPLY_MAGIC.to_be_bytes() || head[8..] != cookie.to_be_bytes() {
            return Err(nonsense("a reply makes no sense"));
        }
        match error {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno as i32)),
        }
    }
}

fn nonsense(words: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words.to_string())
}
