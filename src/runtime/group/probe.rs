//! The questions of mode best-effort: is this server's network alive, and is the peer silent on every address?
//!
//! | asked | how | counts as |
//! |---|---|---|
//! | the ping list | ICMP echo | the network is there when any answers |
//! | the peer's addresses | ICMP echo; ARP or neighbour discovery where it is on a network of this server's | there when any answers |
//! | the floating addresses | the same | there when any answers |
//!
//! A host that filters pings still answers for its address on the segment. A question that can't be asked counts as
//! answered by the peer: what is not known is no reason to take over.

use crate::io::address::netlink::Network;
use crate::io::address::ping::{PingPlan, ping};
use crate::io::address::probe::{ProbePlan, Probed, probe as ask};
use crate::io::address::{Assigned, Interface, Mac, same_network};
use futures_util::future::join_all;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Questions of one round to each address.
const TRIES: u32 = 2;

/// Who is asked, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeSpec {
    /// Hosts that show whether this server's network is alive.
    pub targets: Vec<IpAddr>,
    /// The peer's own addresses.
    pub peer: Vec<IpAddr>,
    /// The addresses that move.
    pub floating: Vec<IpAddr>,
    /// Longest wait for the answers.
    pub wait: Duration,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Somebody of the ping list.
    pub targets_answer: bool,
    /// The peer, or whoever has a floating address.
    pub peer_answers: bool,
}

/// Asks everybody at once.
pub async fn probe(spec: &ProbeSpec) -> Heard {
    let suspects: Vec<IpAddr> = spec.peer.iter().chain(&spec.floating).copied().collect();
    let (targets, pings, claims) =
        tokio::join!(echo(&spec.targets, spec.wait), echo(&suspects, spec.wait), claimed(&suspects, spec.wait));
    let known = |what: &str, asked: io::Result<bool>, unknown: bool| {
        asked.unwrap_or_else(|error| {
            tracing::error!(
                "{what} can't be asked: {error}; this needs CAP_NET_RAW, and keeps this server from taking over"
            );
            unknown
        })
    };
    Heard {
        targets_answer: known("the ping list", targets, false),
        peer_answers: known("the peer's addresses", pings, true) || known("the peer's segment", claims, true),
    }
}

/// Whether any of these answers a ping.
async fn echo(targets: &[IpAddr], wait: Duration) -> io::Result<bool> {
    let plan = PingPlan { tries: TRIES, wait: wait / TRIES, preload: 1 };
    let ask = async |from: IpAddr| {
        if targets.iter().any(|target| target.is_ipv4() == from.is_ipv4()) {
            return Ok(ping(from, 0, targets, plan).await?.is_some());
        }
        Ok::<bool, io::Error>(false)
    };
    let (v4, v6) = tokio::join!(ask(Ipv4Addr::UNSPECIFIED.into()), ask(Ipv6Addr::UNSPECIFIED.into()));
    Ok(v4? || v6?)
}

/// Whether anybody else has one of these addresses, on the networks this server is in.
async fn claimed(addresses: &[IpAddr], wait: Duration) -> io::Result<bool> {
    let network = Network::open()?;
    let (interfaces, assigned) = (network.interfaces().await?, network.addresses().await?);
    let own: Vec<Mac> = interfaces.iter().filter_map(|interface| interface.mac).collect();
    let plan = ProbePlan { tries: TRIES, interval: wait / TRIES, patience: wait / TRIES };
    let questions = addresses.iter().flat_map(|address| {
        near(*address, &interfaces, &assigned).into_iter().map(|interface| ask(interface, *address, plan, &own))
    });
    for answer in join_all(questions).await {
        match answer {
            Ok(Probed::Taken(_)) => return Ok(true),
            Ok(Probed::Free) => {}
            // A dead link: nobody can be heard on it. Whether the network is there, the ping list tells.
            Err(error) if is_dead_link(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The interfaces in whose networks an address lies.
fn near<'i>(address: IpAddr, interfaces: &'i [Interface], assigned: &[Assigned]) -> Vec<&'i Interface> {
    let here = |interface: &&Interface| {
        assigned
            .iter()
            .any(|own| own.index == interface.index && !own.ours && same_network(address, own.address, own.prefix))
    };
    interfaces.iter().filter(|interface| interface.neighbours).filter(here).collect()
}

fn is_dead_link(error: &io::Error) -> bool {
    [libc::ENETDOWN, libc::ENODEV, libc::ENXIO].iter().any(|errno| error.raw_os_error() == Some(*errno))
}
