//! Tells everybody on the segment that an address is here now.

use super::packet::{ALL_NODES, Arp, ArpKind, Neighbour, multicast_mac};
use super::socket::LinkSocket;
use super::{Interface, Mac};
use std::io;
use std::net::IpAddr;

/// Announces one address on one interface.
#[derive(Debug)]
pub struct Announcer {
    /// Packets, each with where it goes.
    packets: Vec<(Vec<u8>, Mac)>,
    /// None on an interface without neighbours: nobody needs to be told.
    socket: Option<LinkSocket>,
}

impl Announcer {
    /// Prepares the announcements. The interface's hardware address is the one at this moment: open a new one when the
    /// link changed.
    pub fn open(interface: &Interface, address: IpAddr) -> io::Result<Announcer> {
        let Some(mac) = interface.mac.filter(|_| interface.neighbours) else {
            return Ok(Announcer { packets: Vec::new(), socket: None });
        };
        let packets = match address {
            // Both forms: switches and hosts differ in which one they heed.
            IpAddr::V4(v4) => [ArpKind::Request, ArpKind::Reply]
                .map(|kind| (Arp::announcement(kind, mac, v4).to_bytes(), Mac::BROADCAST))
                .to_vec(),
            IpAddr::V6(v6) => {
                let message = Neighbour::announcement(mac, v6, forwards(&interface.name));
                vec![(message.to_bytes(), multicast_mac(ALL_NODES))]
            }
        };
        Ok(Announcer { packets, socket: Some(LinkSocket::open(interface, address)?) })
    }

    /// Announces once.
    pub async fn send(&self) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        for (packet, to) in &self.packets {
            socket.send(packet, *to).await?;
        }
        Ok(())
    }
}

/// Whether this server routes IPv6 on the interface: hosts drop their routes through a router that says it is none.
fn forwards(interface: &str) -> bool {
    std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/forwarding"))
        .is_ok_and(|text| text.trim() != "0")
}
