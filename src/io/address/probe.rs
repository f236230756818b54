//! Does anybody answer for an address? Duplicate detection before a claim, as RFC 5227 (ARP) and RFC 4862 (IPv6) have it,
//! but in a fraction of a second: the segment is a server's, not a radio link's.
//!
//! The kernel's own IPv6 detection is not used: it begins after a random delay, waits a second, and the address can't be
//! bound meanwhile. Optimistic detection would bind at once, but answers for the address only after that second.

use super::packet::{Arp, Neighbour, multicast_mac, solicited_node};
use super::socket::LinkSocket;
use super::{Interface, Mac};
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long and how often to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePlan {
    /// Questions asked.
    pub tries: u32,
    /// Time between two questions.
    pub interval: Duration,
    /// Time an answer to the last question may take.
    pub patience: Duration,
}

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Nobody answered.
    Free,
    /// Somebody has it, or is about to take it.
    Taken(Mac),
}

/// Asks on an interface whether anybody has `address`. Hardware addresses in `own` are this server's and don't count.
pub async fn probe(interface: &Interface, address: IpAddr, plan: ProbePlan, own: &[Mac]) -> io::Result<Probed> {
    let Some(mac) = interface.mac.filter(|_| interface.neighbours) else {
        // Nobody could answer on such an interface, and nobody could be in conflict.
        return Ok(Probed::Free);
    };
    let socket = LinkSocket::open(interface, address)?;
    let (question, to) = match address {
        IpAddr::V4(v4) => (Arp::probe(mac, v4).to_bytes(), Mac::BROADCAST),
        IpAddr::V6(v6) => {
            let group = multicast_mac(solicited_node(v6));
            // So as to hear another server that is asking, too.
            socket.join(group)?;
            (Neighbour::probe(v6).to_bytes(), group)
        }
    };
    for ask in 0..plan.tries.max(1) {
        socket.send(&question, to).await?;
        let last = ask + 1 >= plan.tries;
        let until = Instant::now() + if last { plan.patience } else { plan.interval };
        loop {
            let packet = tokio::select! {
                packet = socket.receive() => packet?,
                () = sleep_until(until) => break,
            };
            if let Some(other) = contender(&packet, address).filter(|other| *other != mac && !own.contains(other)) {
                return Ok(Probed::Taken(other));
            }
        }
    }
    Ok(Probed::Free)
}

/// Who shows by this packet that it has `address`, or wants it.
fn contender(packet: &[u8], address: IpAddr) -> Option<Mac> {
    match address {
        IpAddr::V4(v4) => {
            let arp = Arp::from_bytes(packet)?;
            let wants = arp.sender.is_unspecified() && arp.target == v4;
            (arp.sender == v4 || wants).then_some(arp.sender_mac)
        }
        IpAddr::V6(v6) => match Neighbour::from_bytes(packet)? {
            Neighbour::Advertisement { target, mac, .. } if target == v6 => Some(mac.unwrap_or(Mac::ZERO)),
            Neighbour::Solicitation { source, target, mac: None } if source.is_unspecified() && target == v6 => {
                Some(Mac::ZERO)
            }
            Neighbour::Solicitation { source, mac: Some(mac), .. } if source == v6 => Some(mac),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::ArpKind;
    use super::*;

    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);

    #[test]
    fn whoever_has_or_wants_the_address_is_a_contender() {
        let v4 = "10.0.0.9".parse().unwrap();
        let seen = |arp: Arp| contender(&arp.to_bytes(), IpAddr::V4(v4));
        assert_eq!(seen(Arp::announcement(ArpKind::Reply, OTHER, v4)), Some(OTHER));
        assert_eq!(seen(Arp::announcement(ArpKind::Request, OTHER, v4)), Some(OTHER));
        assert_eq!(seen(Arp::probe(OTHER, v4)), Some(OTHER), "a probe at the same time");
        let asks = Arp { sender: "10.0.0.1".parse().unwrap(), ..Arp::probe(OTHER, v4) };
        assert_eq!(seen(asks), None, "who merely looks for the address");
        assert_eq!(seen(Arp::probe(OTHER, "10.0.0.8".parse().unwrap())), None);

        let v6 = "fd00::9".parse().unwrap();
        let seen = |message: Neighbour| contender(&message.to_bytes(), IpAddr::V6(v6));
        assert_eq!(seen(Neighbour::announcement(OTHER, v6, false)), Some(OTHER));
        assert_eq!(seen(Neighbour::probe(v6)), Some(Mac::ZERO));
        let asks = Neighbour::Solicitation { source: "fd00::1".parse().unwrap(), target: v6, mac: Some(OTHER) };
        assert_eq!(seen(asks), None);
        assert_eq!(seen(Neighbour::announcement(OTHER, "fd00::8".parse().unwrap(), false)), None);
    }
}
