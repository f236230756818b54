//! Sockets for packets of address resolution and for ICMP echo, on a tokio runtime.

use super::packet::{ETHERTYPE_ARP, ETHERTYPE_IPV6};
use super::{Interface, Mac};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use tokio::io::unix::AsyncFd;

/// Bytes taken of one packet: more than any the two protocols have.
const PACKET_BYTES_MAX: usize = 1514;

/// A raw socket on one interface for ARP, or for neighbour discovery. Needs CAP_NET_RAW.
#[derive(Debug)]
pub struct LinkSocket {
    fd: AsyncFd<OwnedFd>,
    index: u32,
    ethertype: u16,
}

impl LinkSocket {
    /// A socket for the protocol that resolves addresses of this family. Its own outgoing packets are not received.
    pub fn open(interface: &Interface, family: IpAddr) -> io::Result<LinkSocket> {
        let ethertype = if family.is_ipv4() { ETHERTYPE_ARP } else { ETHERTYPE_IPV6 };
        let flags = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // Protocol 0 receives nothing until the socket is bound, so that no packet of another interface slips in.
        let fd = open(libc::AF_PACKET, flags, 0)?;
        if ethertype == ETHERTYPE_IPV6 {
            only_neighbour_messages(&fd)?;
        }
        let address = link_address(interface.index, ethertype, Mac::ZERO);
        // SAFETY: the address lives on this stack frame and its exact size is given.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) })?;
        Ok(LinkSocket { fd: watched(fd)?, index: interface.index, ethertype })
    }

    /// Receives what is sent to a multicast group of the link, too.
    pub fn join(&self, group: Mac) -> io::Result<()> {
        let mut address = [0; 8];
        address[..6].copy_from_slice(&group.0);
        let request = libc::packet_mreq {
            mr_ifindex: self.index as i32,
            mr_type: libc::PACKET_MR_MULTICAST as u16,
            mr_alen: 6,
            mr_address: address,
        };
        set(self.fd.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }

    /// Sends one packet, without its Ethernet header, to a hardware address.
    pub async fn send(&self, bytes: &[u8], to: Mac) -> io::Result<()> {
        let address = link_address(self.index, self.ethertype, to);
        let length = size_of_val(&address) as u32;
        loop {
            let mut ready = self.fd.writable().await?;
            let sent = ready.try_io(|fd| {
                // SAFETY: bytes and address are readable for the lengths given and outlive the call.
                let sent = unsafe {
                    let to = (&raw const address).cast();
                    libc::sendto(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, to, length)
                };
                if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
            if let Ok(result) = sent {
                return result;
            }
        }
    }

    /// The next packet, without its Ethernet header.
    pub async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; PACKET_BYTES_MAX];
        loop {
            let mut ready = self.fd.readable().await?;
            if let Ok(result) = ready.try_io(|fd| receive(fd.as_raw_fd(), &mut bytes)) {
                bytes.truncate(result?.0);
                return Ok(bytes);
            }
        }
    }
}

/// A socket for ICMP echo requests from one address.
#[derive(Debug)]
pub struct EchoSocket {
    fd: AsyncFd<OwnedFd>,
}

impl EchoSocket {
    /// A socket bound to `from`, which must be an address of this server; `index` is the interface for link-local targets.
    /// Uses the unprivileged kind where the kernel allows it, else a raw one (needs CAP_NET_RAW).
    pub fn open(from: IpAddr, index: u32) -> io::Result<EchoSocket> {
        let (family, protocol) =
            if from.is_ipv4() { (libc::AF_INET, libc::IPPROTO_ICMP) } else { (libc::AF_INET6, libc::IPPROTO_ICMPV6) };
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let fd = match open(family, libc::SOCK_DGRAM | flags, protocol) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                open(family, libc::SOCK_RAW | flags, protocol)
            }
            other => other,
        }?;
        if from.is_ipv4() {
            set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BROADCAST, &1i32)?;
        }
        let address = storage(from, index);
        // SAFETY: the address is valid for the length it tells, and outlives the call.
        check(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr(), address.len()) })?;
        Ok(EchoSocket { fd: watched(fd)? })
    }

    /// Sends one ICMP message.
    pub async fn send(&self, bytes: &[u8], to: IpAddr, index: u32) -> io::Result<()> {
        let address = storage(to, index);
        loop {
            let mut ready = self.fd.writable().await?;
            let sent = ready.try_io(|fd| {
                // SAFETY: bytes and address are readable for the lengths given and outlive the call.
                let sent = unsafe {
                    let (bytes, count) = (bytes.as_ptr().cast(), bytes.len());
                    libc::sendto(fd.as_raw_fd(), bytes, count, 0, address.as_ptr(), address.len())
                };
                if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
            if let Ok(result) = sent {
                return result;
            }
        }
    }

    /// The next message, and who sent it.
    pub async fn receive(&self) -> io::Result<(Vec<u8>, IpAddr)> {
        let mut bytes = vec![0; PACKET_BYTES_MAX];
        loop {
            let mut ready = self.fd.readable().await?;
            let Ok(result) = ready.try_io(|fd| receive(fd.as_raw_fd(), &mut bytes)) else { continue };
            let (count, from) = result?;
            if let Some(from) = from {
                bytes.truncate(count);
                return Ok((bytes, from));
            }
        }
    }
}

/// Lets only neighbour solicitations and advertisements through: a busy server has other IPv6 traffic.
fn only_neighbour_messages(fd: &OwnedFd) -> io::Result<()> {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        // The next header is ICMPv6 and the message's type is 135 or 136.
        step(LOAD_BYTE, 0, 0, 6),
        step(JUMP_IF_EQUAL, 0, 4, 58),
        step(LOAD_BYTE, 0, 0, 40),
        step(JUMP_IF_EQUAL, 1, 0, 135),
        step(JUMP_IF_EQUAL, 0, 1, 136),
        step(RETURN, 0, 0, PACKET_BYTES_MAX as u32),
        step(RETURN, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

fn open(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket takes no pointers.
    let fd = check(unsafe { libc::socket(family, kind, protocol) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Watches a socket for the runtime.
fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always yields the same descriptor, and keeps it open until it is dropped.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

fn set<T>(fd: RawFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value is readable for its size and outlives the call; what it points to (a filter's program) does, too.
    check(unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), size_of::<T>() as u32) })?;
    Ok(())
}

fn link_address(index: u32, ethertype: u16, mac: Mac) -> libc::sockaddr_ll {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&mac.0);
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: address,
    }
}

/// A socket address for ICMP; link-local ones belong to the interface.
fn storage(address: IpAddr, index: u32) -> SockaddrStorage {
    match SocketAddr::new(address, 0) {
        SocketAddr::V6(mut v6) => {
            if v6.ip().is_unicast_link_local() || v6.ip().is_multicast() {
                v6.set_scope_id(index);
            }
            v6.into()
        }
        v4 => v4.into(),
    }
}

fn receive(fd: RawFd, bytes: &mut [u8]) -> io::Result<(usize, Option<IpAddr>)> {
    let (count, from) = nix::sys::socket::recvfrom::<SockaddrStorage>(fd, bytes)?;
    let from = from.and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| from.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok((count, from))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
