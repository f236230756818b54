//! The kernel's own NBD client (`nbd.ko`) by generic netlink: sockets in, block device out.
//!
//! What was measured of it is in kernel-notes: a timeout of zero never gives a request up, sockets that die are waited
//! for as long as the dead-connection time says, and only new sockets for dead ones with the right backend identifier are
//! taken.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

const FAMILY_NAME: &[u8] = b"nbd\0";
const CONTROLLER: u16 = 16;
const CONTROLLER_GET_FAMILY: u8 = 3;
const CONTROLLER_ID: u16 = 1;
const CONTROLLER_NAME: u16 = 2;

const VERSION: u8 = 1;
const COMMAND_CONNECT: u8 = 1;
const COMMAND_DISCONNECT: u8 = 2;
const COMMAND_RECONFIGURE: u8 = 3;
const ATTRIBUTE_INDEX: u16 = 1;
const ATTRIBUTE_SIZE: u16 = 2;
const ATTRIBUTE_BLOCK_SIZE: u16 = 3;
const ATTRIBUTE_TIMEOUT: u16 = 4;
const ATTRIBUTE_SERVER_FLAGS: u16 = 5;
const ATTRIBUTE_SOCKETS: u16 = 7;
const ATTRIBUTE_DEAD_CONNECTION: u16 = 8;
const ATTRIBUTE_BACKEND: u16 = 10;
const SOCKET_ITEM: u16 = 1;
const SOCKET_FD: u16 = 1;
const NESTED: u16 = 1 << 15;

/// Bytes of a generic header: command, version, and two of no use.
const HEADER_BYTES: usize = 4;

/// What a device is to look like.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Smallest request, in bytes: 512 to 4096.
    pub block_bytes: u64,
    /// The server's transmission flags.
    pub flags: u16,
    /// How long dead sockets are waited for before requests fail.
    pub dead_connection: Duration,
    /// Whose device it is; only who knows it may give it new sockets.
    pub backend: &'a str,
}

/// The driver.
#[derive(Debug)]
pub struct NbdDriver {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl NbdDriver {
    /// Finds it. `NotFound`: the module is not loaded.
    pub fn open() -> io::Result<NbdDriver> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut driver = NbdDriver { socket, family: CONTROLLER, sequence: 0 };
        let mut name = Attributes::default();
        name.add(CONTROLLER_NAME, FAMILY_NAME);
        let found = driver.call(CONTROLLER_GET_FAMILY, name)?;
        let family = attribute(&found, CONTROLLER_ID).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
        driver.family = family.ok_or_else(|| io::Error::other("the kernel names no number of its NBD interface"))?;
        Ok(driver)
    }

    /// Makes a free device of a connected, negotiated socket; its number. The socket may be closed here afterwards.
    ///
    /// One only: with more, the client gives a connection up whose server is slow for once, and asks again on the next
    /// one what the server still has (kernel-notes/0011).
    pub fn connect(&mut self, shape: &Shape<'_>, socket: BorrowedFd<'_>) -> io::Result<u32> {
        let mut attributes = Attributes::default();
        attributes.add(ATTRIBUTE_SIZE, &shape.size_bytes.to_ne_bytes());
        attributes.add(ATTRIBUTE_BLOCK_SIZE, &shape.block_bytes.to_ne_bytes());
        // With any other timeout a server that is slow for once costs its users their data.
        attributes.add(ATTRIBUTE_TIMEOUT, &0u64.to_ne_bytes());
        attributes.add(ATTRIBUTE_SERVER_FLAGS, &u64::from(shape.flags).to_ne_bytes());
        attributes.add(ATTRIBUTE_DEAD_CONNECTION, &shape.dead_connection.as_secs().max(1).to_ne_bytes());
        attributes.backend(shape.backend);
        attributes.socket(socket);
        let answer = self.call(COMMAND_CONNECT, attributes)?;
        let index = attribute(&answer, ATTRIBUTE_INDEX).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        index.ok_or_else(|| io::Error::other("the kernel names no number of the device"))
    }

    /// Gives a device a new socket for its dead one. `InvalidInput`: it belongs to another backend.
    pub fn reconnect(&mut self, index: u32, shape: &Shape<'_>, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut attributes = Attributes::default();
        attributes.add(ATTRIBUTE_INDEX, &index.to_ne_bytes());
        attributes.add(ATTRIBUTE_SIZE, &shape.size_bytes.to_ne_bytes());
        attributes.add(ATTRIBUTE_DEAD_CONNECTION, &shape.dead_connection.as_secs().max(1).to_ne_bytes());
        attributes.backend(shape.backend);
        if let Some(socket) = socket {
            attributes.socket(socket);
        }
        self.call(COMMAND_RECONFIGURE, attributes).map(drop)
    }

    /// Ends a device: its users get errors. It is free again when [`is_connected`] says no.
    pub fn disconnect(&mut self, index: u32) -> io::Result<()> {
        let mut attributes = Attributes::default();
        attributes.add(ATTRIBUTE_INDEX, &index.to_ne_bytes());
        self.call(COMMAND_DISCONNECT, attributes).map(drop)
    }

    /// One command, until the kernel has acknowledged it. The attributes it answered with.
    fn call(&mut self, command: u8, attributes: Attributes) -> io::Result<Vec<u8>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        header.sequence_number = self.sequence;
        let payload = Message { family: self.family, command, attributes: attributes.bytes };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answer = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while rest.len() >= 16 {
                let message = NetlinkMessage::<Message>::deserialize(rest).map_err(io::Error::other)?;
                let length = (message.header.length as usize).next_multiple_of(4).clamp(16, rest.len());
                rest = &rest[length..];
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(end) => {
                        return match end.code {
                            None => Ok(answer),
                            Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                        };
                    }
                    NetlinkPayload::InnerMessage(message) => answer = message.attributes,
                    _ => {}
                }
            }
        }
    }
}

/// A device's path.
pub fn device_path(index: u32) -> PathBuf {
    format!("/dev/nbd{index}").into()
}

/// Sets the time after which the client looks whether a request was lost with its connection.
pub fn look_for_lost_after(index: u32, time: Duration) -> io::Result<()> {
    std::fs::write(format!("/sys/block/nbd{index}/queue/io_timeout"), time.as_millis().to_string())
}

/// Whether the other end of a socket has gone.
pub fn is_severed(socket: BorrowedFd<'_>) -> bool {
    let mut watched = [PollFd::new(socket, PollFlags::empty())];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        && watched[0].revents().is_some_and(|seen| seen.intersects(gone))
}

/// Whether a device has a client.
pub fn is_connected(index: u32) -> bool {
    PathBuf::from(format!("/sys/block/nbd{index}/pid")).exists()
}

/// Whose device it is, as its shape said.
pub fn backend_of(index: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/sys/block/nbd{index}/backend")).ok()?;
    Some(text.trim_end().to_owned())
}

/// Devices whose backend is wanted.
pub fn devices_of(wanted: impl Fn(&str) -> bool) -> Vec<u32> {
    let listed = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let indexes = listed.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("nbd")?.parse().ok());
    let mut found: Vec<u32> = indexes.filter(|index| backend_of(*index).is_some_and(|text| wanted(&text))).collect();
    found.sort_unstable();
    found
}

/// Attributes as they stand in a message: length, type, content, each at a multiple of four bytes.
#[derive(Debug, Default)]
struct Attributes {
    bytes: Vec<u8>,
}

impl Attributes {
    fn add(&mut self, kind: u16, content: &[u8]) {
        let length = (HEADER_BYTES + content.len()) as u16;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn backend(&mut self, backend: &str) {
        self.add(ATTRIBUTE_BACKEND, &[backend.as_bytes(), &[0]].concat());
    }

    fn socket(&mut self, socket: BorrowedFd<'_>) {
        let (mut item, mut items) = (Attributes::default(), Attributes::default());
        item.add(SOCKET_FD, &(socket.as_raw_fd() as u32).to_ne_bytes());
        items.add(SOCKET_ITEM | NESTED, &item.bytes);
        self.add(ATTRIBUTE_SOCKETS | NESTED, &items.bytes);
    }
}

/// The content of an attribute.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while bytes.len() >= HEADER_BYTES {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let content = bytes.get(HEADER_BYTES..length)?;
        if u16::from_ne_bytes([bytes[2], bytes[3]]) & !NESTED == kind {
            return Some(content);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// A generic message of any family.
#[derive(Debug)]
struct Message {
    family: u16,
    command: u8,
    attributes: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER_BYTES + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..HEADER_BYTES].copy_from_slice(&[self.command, VERSION, 0, 0]);
        buffer[HEADER_BYTES..].copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = io::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> io::Result<Message> {
        let (head, attributes) = payload
            .split_at_checked(HEADER_BYTES)
            .ok_or_else(|| io::Error::other("an answer of the kernel is too short"))?;
        Ok(Message { family: header.message_type, command: head[0], attributes: attributes.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_again_and_a_cut_one_is_not() {
        let mut attributes = Attributes::default();
        attributes.backend("abc");
        attributes.add(ATTRIBUTE_INDEX, &7u32.to_ne_bytes());
        assert_eq!(attribute(&attributes.bytes, ATTRIBUTE_INDEX), Some(7u32.to_ne_bytes().as_slice()));
        assert_eq!(attribute(&attributes.bytes, ATTRIBUTE_BACKEND), Some(b"abc\0".as_slice()));
        assert_eq!(attribute(&attributes.bytes, ATTRIBUTE_SIZE), None);
        for cut in 0..attributes.bytes.len() {
            assert_eq!(attribute(&attributes.bytes[..cut], ATTRIBUTE_INDEX), None);
        }
    }

    #[test]
    fn a_socket_is_severed_once_its_other_end_is_closed() {
        use std::os::fd::AsFd;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!is_severed(ours.as_fd()));
        drop(theirs);
        assert!(is_severed(ours.as_fd()));
    }

    #[test]
    fn a_kernel_without_the_module_says_so() {
        if !std::path::Path::new("/sys/module/nbd").exists() {
            assert_eq!(NbdDriver::open().unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
