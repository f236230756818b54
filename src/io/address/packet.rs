//! Packets of address resolution: ARP (RFC 826, 5227), neighbour discovery (RFC 4861, 4862) and ICMP echo, bytes to types
//! and back. Pure; never panics on bytes from outside.

use super::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ethernet type of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// Ethernet type of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Bytes of an ARP packet for IPv4 over Ethernet, without its Ethernet header.
const ARP_BYTES: usize = 28;
/// Bytes of an IPv6 header without extensions.
const IPV6_HEADER_BYTES: usize = 40;
/// Neighbour messages are only believed from the same link: no router passes this hop limit on.
const HOP_LIMIT: u8 = 255;
const NEXT_HEADER_ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE_MAC: u8 = 1;
const OPTION_TARGET_MAC: u8 = 2;
/// Advertisement flag: take this hardware address in place of the one you have.
const FLAG_OVERRIDE: u8 = 0x20;
/// Advertisement flag: sent by a router. Without it hosts drop a default route through us.
const FLAG_ROUTER: u8 = 0x80;

/// What an ARP packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpKind {
    /// Who has the target?
    Request,
    /// The sender has this hardware address.
    Reply,
}

/// ARP for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub kind: ArpKind,
    /// Hardware address of the sender.
    pub sender_mac: Mac,
    /// Address of the sender; unspecified in a probe.
    pub sender: Ipv4Addr,
    /// Hardware address of the target, zero while unknown.
    pub target_mac: Mac,
    /// Address that is asked for.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Asks whether anybody has `target`, without claiming it and without entering any cache (RFC 5227).
    pub fn probe(mac: Mac, target: Ipv4Addr) -> Arp {
        Arp { kind: ArpKind::Request, sender_mac: mac, sender: Ipv4Addr::UNSPECIFIED, target_mac: Mac::ZERO, target }
    }

    /// Tells everybody that `address` is at `mac`. Some switches and hosts heed only one of the two kinds.
    pub fn announcement(kind: ArpKind, mac: Mac, address: Ipv4Addr) -> Arp {
        let target_mac = if kind == ArpKind::Request { Mac::ZERO } else { Mac::BROADCAST };
        Arp { kind, sender_mac: mac, sender: address, target_mac, target: address }
    }

    /// The packet without its Ethernet header.
    pub fn to_bytes(self) -> Vec<u8> {
        let operation = if self.kind == ArpKind::Request { 1 } else { 2 };
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
        bytes.extend(self.sender_mac.0);
        bytes.extend(self.sender.octets());
        bytes.extend(self.target_mac.0);
        bytes.extend(self.target.octets());
        bytes
    }

    /// Reads a packet without its Ethernet header; anything but ARP for IPv4 over Ethernet is `None`.
    pub fn from_bytes(bytes: &[u8]) -> Option<Arp> {
        let bytes = bytes.get(..ARP_BYTES)?;
        let kind = match bytes[..8] {
            [0, 1, 8, 0, 6, 4, 0, 1] => ArpKind::Request,
            [0, 1, 8, 0, 6, 4, 0, 2] => ArpKind::Reply,
            _ => return None,
        };
        Some(Arp {
            kind,
            sender_mac: mac_at(bytes, 8)?,
            sender: v4_at(bytes, 14)?,
            target_mac: mac_at(bytes, 18)?,
            target: v4_at(bytes, 24)?,
        })
    }
}

/// A neighbour discovery message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Who has the target?
    Solicitation {
        /// Who asks; unspecified while it looks for duplicates.
        source: Ipv6Addr,
        /// Address that is asked for.
        target: Ipv6Addr,
        /// Hardware address of who asks, if told.
        mac: Option<Mac>,
    },
    /// The target is at this hardware address.
    Advertisement {
        /// Who says so.
        source: Ipv6Addr,
        /// Where it was sent to.
        destination: Ipv6Addr,
        /// Address that is told about.
        target: Ipv6Addr,
        /// Its hardware address, if told.
        mac: Option<Mac>,
        /// Whether the sender is a router.
        router: bool,
    },
}

/// All nodes of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The multicast group in which the owner of an address listens for solicitations.
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// The Ethernet address a multicast group is sent to.
pub fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

impl Neighbour {
    /// Asks whether anybody has `target`, as duplicate address detection does: from nobody, so no cache is touched.
    pub fn probe(target: Ipv6Addr) -> Neighbour {
        Neighbour::Solicitation { source: Ipv6Addr::UNSPECIFIED, target, mac: None }
    }

    /// Tells everybody that `address` is at `mac`.
    pub fn announcement(mac: Mac, address: Ipv6Addr, router: bool) -> Neighbour {
        Neighbour::Advertisement { source: address, destination: ALL_NODES, target: address, mac: Some(mac), router }
    }

    /// Where the message goes.
    pub fn destination(&self) -> Ipv6Addr {
        match *self {
            Neighbour::Solicitation { target, .. } => solicited_node(target),
            Neighbour::Advertisement { destination, .. } => destination,
        }
    }

    /// The message with its IPv6 header, without the Ethernet header.
    pub fn to_bytes(self) -> Vec<u8> {
        let (kind, flags, source, target, option) = match self {
            Neighbour::Solicitation { source, target, mac } => {
                (SOLICITATION, 0, source, target, mac.map(|mac| (OPTION_SOURCE_MAC, mac)))
            }
            Neighbour::Advertisement { source, target, mac, router, .. } => {
                let flags = FLAG_OVERRIDE | if router { FLAG_ROUTER } else { 0 };
                (ADVERTISEMENT, flags, source, target, mac.map(|mac| (OPTION_TARGET_MAC, mac)))
            }
        };
        let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        message.extend(target.octets());
        if let Some((option, mac)) = option {
            // A length of one counts eight bytes.
            message.extend([option, 1]);
            message.extend(mac.0);
        }
        let destination = self.destination();
        let sum = checksum_v6(source, destination, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((message.len() as u16).to_be_bytes());
        bytes.extend([NEXT_HEADER_ICMPV6, HOP_LIMIT]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.extend(message);
        bytes
    }

    /// Reads an IPv6 packet; anything but a whole, genuine neighbour message from this link is `None`.
    pub fn from_bytes(bytes: &[u8]) -> Option<Neighbour> {
        let header = bytes.get(..IPV6_HEADER_BYTES)?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if header[0] >> 4 != 6 || header[6] != NEXT_HEADER_ICMPV6 || header[7] != HOP_LIMIT {
            return None;
        }
        let message = bytes.get(IPV6_HEADER_BYTES..IPV6_HEADER_BYTES + length)?;
        let (source, destination) = (v6_at(bytes, 8)?, v6_at(bytes, 24)?);
        let target = v6_at(message, 8)?;
        if checksum_v6(source, destination, message) != 0 || message[1] != 0 {
            return None;
        }
        match message[0] {
            SOLICITATION => {
                Some(Neighbour::Solicitation { source, target, mac: option_mac(message, OPTION_SOURCE_MAC)? })
            }
            ADVERTISEMENT => Some(Neighbour::Advertisement {
                source,
                destination,
                target,
                mac: option_mac(message, OPTION_TARGET_MAC)?,
                router: message[4] & FLAG_ROUTER != 0,
            }),
            _ => None,
        }
    }
}

/// The hardware address in an option of a neighbour message, if there is one; `None` when the options are broken.
fn option_mac(message: &[u8], wanted: u8) -> Option<Option<Mac>> {
    let mut rest = message.get(24..)?;
    let mut found = None;
    while let [kind, eights, ..] = *rest {
        let length = usize::from(eights) * 8;
        if length == 0 || length > rest.len() {
            return None;
        }
        if kind == wanted && length == 8 {
            found = mac_at(rest, 2);
        }
        rest = &rest[length..];
    }
    rest.is_empty().then_some(found)
}

/// Bytes of the payload of an echo request.
pub const ECHO_PAYLOAD_BYTES: usize = 16;

/// An ICMP echo request for an ICMP socket: identifier and checksum are filled in by the kernel (IPv4: the checksum here
/// too, for raw sockets).
pub fn echo_request(to: IpAddr, identifier: u16, sequence: u16, cookie: [u8; ECHO_PAYLOAD_BYTES]) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(identifier.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(cookie);
    if to.is_ipv4() {
        let sum = finish(add(0, &bytes));
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Whether `bytes`, as an ICMP socket yields them, answer an echo request with this cookie. A raw IPv4 socket yields the
/// IP header, too; other sockets do not.
pub fn is_echo_reply(bytes: &[u8], v4: bool, cookie: &[u8; ECHO_PAYLOAD_BYTES]) -> bool {
    let message = match bytes.first() {
        Some(first) if v4 && first >> 4 == 4 => bytes.get(usize::from(first & 0xf) * 4..),
        _ => Some(bytes),
    };
    let reply = if v4 { 0 } else { 129 };
    message.is_some_and(|message| message.first() == Some(&reply) && message.get(8..) == Some(cookie.as_slice()))
}

fn checksum_v6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let mut sum = add(0, &source.octets());
    sum = add(sum, &destination.octets());
    sum += message.len() as u32 + u32::from(NEXT_HEADER_ICMPV6);
    finish(add(sum, message))
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(sum, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0)))
}

fn finish(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn mac_at(bytes: &[u8], at: usize) -> Option<Mac> {
    Some(Mac(bytes.get(at..at + 6)?.try_into().ok()?))
}

fn v4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

fn v6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    #[test]
    fn an_arp_probe_has_its_golden_bytes() {
        let bytes = Arp::probe(MAC, Ipv4Addr::new(10, 0, 0, 9)).to_bytes();
        let golden = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 9];
        assert_eq!(bytes, golden);
    }

    #[test]
    fn an_advertisement_has_its_golden_bytes() {
        let address: Ipv6Addr = "fd00::9".parse().unwrap();
        let bytes = Neighbour::announcement(MAC, address, false).to_bytes();
        assert_eq!(&bytes[..8], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(&bytes[24..40], ALL_NODES.octets());
        assert_eq!(&bytes[40..42], [136, 0]);
        assert_eq!(&bytes[44..48], [0x20, 0, 0, 0], "overrides what the neighbours remember");
        assert_eq!(&bytes[64..], [2, 1, 2, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn groups_are_those_of_the_standard() {
        let group = solicited_node("fd00::1:2:3:aabb:ccdd".parse().unwrap());
        assert_eq!(group, "ff02::1:ffbb:ccdd".parse::<Ipv6Addr>().unwrap());
        assert_eq!(multicast_mac(group), Mac([0x33, 0x33, 0xff, 0xbb, 0xcc, 0xdd]));
    }

    #[test]
    fn a_neighbour_message_with_a_flaw_is_no_message() {
        let good = Neighbour::announcement(MAC, "fd00::9".parse().unwrap(), true).to_bytes();
        assert!(Neighbour::from_bytes(&good).is_some());
        for at in 0..good.len() {
            // Traffic class and flow label are the only bits nobody minds.
            if (1..4).contains(&at) {
                continue;
            }
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(Neighbour::from_bytes(&bad), None, "byte {at}");
        }
        for cut in 0..good.len() {
            assert_eq!(Neighbour::from_bytes(&good[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn an_option_without_length_ends_the_reading() {
        let mut message = vec![0u8; 24];
        message.extend([OPTION_TARGET_MAC, 0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(option_mac(&message, OPTION_TARGET_MAC), None);
    }

    #[test]
    fn echoes_are_told_from_other_answers() {
        let cookie = [7; ECHO_PAYLOAD_BYTES];
        let to: IpAddr = "10.0.0.1".parse().unwrap();
        let request = echo_request(to, 1, 2, cookie);
        assert_eq!(finish(add(0, &request)), 0, "the checksum sums up");
        assert!(!is_echo_reply(&request, true, &cookie), "a request is no reply");
        let mut reply = request.clone();
        reply[0] = 0;
        assert!(is_echo_reply(&reply, true, &cookie));
        assert!(!is_echo_reply(&reply, true, &[8; ECHO_PAYLOAD_BYTES]));
        let mut with_header = vec![0x45; 20];
        with_header.extend(&reply);
        assert!(is_echo_reply(&with_header, true, &cookie));
        assert!(!is_echo_reply(&[], true, &cookie) && !is_echo_reply(&[0x4f], true, &cookie));
    }

    proptest! {
        #[test]
        fn arp_comes_back_as_it_went(mac: [u8; 6], other: [u8; 6], from: [u8; 4], to: [u8; 4], reply: bool) {
            let kind = if reply { ArpKind::Reply } else { ArpKind::Request };
            let packet = Arp {
                kind, sender_mac: Mac(mac), sender: from.into(), target_mac: Mac(other), target: to.into(),
            };
            let mut bytes = packet.to_bytes();
            prop_assert_eq!(Arp::from_bytes(&bytes), Some(packet));
            // Ethernet pads short frames.
            bytes.extend([0; 18]);
            prop_assert_eq!(Arp::from_bytes(&bytes), Some(packet));
            prop_assert_eq!(Arp::from_bytes(&bytes[..ARP_BYTES - 1]), None);
        }

        #[test]
        fn neighbour_messages_come_back_as_they_went(mac: [u8; 6], from: [u8; 16], to: [u8; 16], router: bool) {
            let solicitation = Neighbour::Solicitation { source: from.into(), target: to.into(), mac: Some(Mac(mac)) };
            prop_assert_eq!(Neighbour::from_bytes(&solicitation.to_bytes()), Some(solicitation));
            let advertisement = Neighbour::announcement(Mac(mac), to.into(), router);
            prop_assert_eq!(Neighbour::from_bytes(&advertisement.to_bytes()), Some(advertisement));
        }

        #[test]
        fn nonsense_never_panics(bytes: Vec<u8>, v4: bool) {
            let _ = Arp::from_bytes(&bytes);
            let _ = Neighbour::from_bytes(&bytes);
            let _ = is_echo_reply(&bytes, v4, &[0; ECHO_PAYLOAD_BYTES]);
        }
    }
}
