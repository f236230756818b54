//! Addresses of this server's interfaces: asked about, claimed, announced, watched. Decides nothing.
//!
//! ```text
//!   netlink   which interfaces and addresses there are; add, remove; what changes (kernel's notices)
//!   packet    ARP, neighbour discovery and ICMP echo, bytes to types and back (pure)
//!   socket    the sockets they travel by: raw on one interface, ICMP bound to one address
//!   probe     does anybody answer for an address?        announce  tell everybody that we do
//!   listen    who else speaks for an address of ours?    ping      is the network there, seen from an address?
//! ```
//! Everything happens in the network namespace of the thread that opens the sockets.

pub mod netlink;

pub mod packet;

pub mod socket;

pub mod announce;
pub mod listen;
pub mod ping;
pub mod probe;

use std::fmt;
use std::net::IpAddr;

/// A hardware address of an Ethernet-like interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody on the segment.
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// Nobody yet.
    pub const ZERO: Mac = Mac([0; 6]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An interface as its users need it: where packets go out, and whether they can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number; another interface of the same name has another one.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, where it is Ethernet-like.
    pub mac: Option<Mac>,
    /// Switched on (`ip link set up`).
    pub up: bool,
    /// Switched on, and there is a carrier.
    pub running: bool,
    /// Whether it resolves neighbours (not loopback, no point-to-point link).
    pub neighbours: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Number of the interface.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its network's prefix, in bits.
    pub prefix: u8,
    /// Whether one of our daemons put it there.
    pub ours: bool,
    /// The kernel found it in use elsewhere, or has not finished looking (IPv6): it can't be used.
    pub unusable: bool,
}

/// Whether two addresses lie in the same network of `prefix` bits; never across families.
pub fn same_network(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let (bits, difference) = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (32, u128::from(u32::from(one) ^ u32::from(other)) << 96),
        (IpAddr::V6(one), IpAddr::V6(other)) => (128, u128::from(one) ^ u128::from(other)),
        _ => return false,
    };
    prefix <= bits && (prefix == 0 || difference >> (128 - u32::from(prefix)) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_compared_by_their_prefix() {
        let same = |one: &str, other: &str, prefix| same_network(one.parse().unwrap(), other.parse().unwrap(), prefix);
        assert!(same("10.1.2.3", "10.1.2.200", 24));
        assert!(!same("10.1.2.3", "10.1.3.3", 24));
        assert!(same("10.1.2.3", "10.1.3.3", 23));
        assert!(same("10.1.2.3", "200.1.3.3", 0));
        assert!(same("10.1.2.3", "10.1.2.3", 32) && !same("10.1.2.3", "10.1.2.2", 32));
        assert!(!same("10.1.2.3", "10.1.2.3", 33), "a prefix longer than the address fits nothing");
        assert!(same("fd00::1", "fd00::ffff:1", 64) && !same("fd00::1", "fd00:0:0:1::1", 64));
        assert!(same("fd00::1", "fd00::1", 128) && !same("fd00::1", "fd00::2", 128));
        assert!(!same("0.0.0.0", "::", 0));
    }
}
