//! Who else speaks for addresses of ours?

use super::packet::{Arp, Neighbour};
use super::socket::LinkSocket;
use super::{Interface, Mac};
use std::io;
use std::net::IpAddr;

/// Hears on one interface who claims which address, by ARP or by neighbour discovery.
#[derive(Debug)]
pub struct Listener {
    socket: Option<LinkSocket>,
    v4: bool,
}

impl Listener {
    /// Listens for claims of addresses of this family.
    pub fn open(interface: &Interface, family: IpAddr) -> io::Result<Listener> {
        let socket = if interface.neighbours { Some(LinkSocket::open(interface, family)?) } else { None };
        Ok(Listener { socket, v4: family.is_ipv4() })
    }

    /// The next claim of any address. Waits for ever on an interface without neighbours.
    pub async fn next(&self) -> io::Result<(IpAddr, Mac)> {
        let Some(socket) = &self.socket else { return std::future::pending().await };
        loop {
            let packet = socket.receive().await?;
            if let Some(claim) = self.claim(&packet) {
                return Ok(claim);
            }
        }
    }

    fn claim(&self, packet: &[u8]) -> Option<(IpAddr, Mac)> {
        if self.v4 {
            let arp = Arp::from_bytes(packet).filter(|arp| !arp.sender.is_unspecified())?;
            return Some((arp.sender.into(), arp.sender_mac));
        }
        match Neighbour::from_bytes(packet)? {
            Neighbour::Advertisement { target, mac: Some(mac), .. } => Some((target.into(), mac)),
            Neighbour::Solicitation { source, mac: Some(mac), .. } if !source.is_unspecified() => {
                Some((source.into(), mac))
            }
            _ => None,
        }
    }
}
