//! Interfaces, addresses and routes of this server by rtnetlink, and the kernel's notices of their changes.
//!
//! Addresses we add carry our number in the kernel's "who put it there" field (kernel-notes/0008), so that a daemon that
//! starts after a crash knows its own.

use super::{Assigned, Interface, Mac, same_network};
use futures_util::StreamExt;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::task::JoinHandle;

/// Our number among those who add addresses (`IFA_PROTO`) and routes. Chosen free of those in use by the kernel and by
/// the routing daemons listed in rt_protos.
pub const OUR_PROTOCOL: u8 = 0x7b;

/// A connection to the kernel's routing tables, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Network {
    handle: Handle,
    connection: JoinHandle<()>,
}

/// Something changed; look again at what it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface came, went, or changed its state.
    Link(u32),
    /// An address came or went on an interface.
    Address(u32, IpAddr),
    /// Notices were lost: anything may have changed.
    Everything,
}

/// The kernel's notices of changes. Keep reading it: what is not read is kept in memory.
pub struct Changes {
    notices: Notices,
    connection: JoinHandle<()>,
}

type Notices =
    futures_util::stream::LocalBoxStream<'static, (NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>;

/// What happened when something was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was not there.
    New,
    /// It was there already.
    Present,
}

impl Network {
    /// Opens the connection. Must be called on a tokio runtime.
    pub fn open() -> io::Result<Network> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Network { handle, connection: tokio::spawn(connection) })
    }

    /// Every interface.
    pub async fn interfaces(&self) -> io::Result<Vec<Interface>> {
        let mut found = Vec::new();
        let mut links = std::pin::pin!(self.handle.link().get().execute());
        while let Some(link) = links.next().await {
            found.push(interface(&link.map_err(io_error)?));
        }
        Ok(found)
    }

    /// The interface of that name, if there is one.
    pub async fn interface(&self, name: &str) -> io::Result<Option<Interface>> {
        let mut links = std::pin::pin!(self.handle.link().get().match_name(name.to_string()).execute());
        match links.next().await {
            None => Ok(None),
            Some(Ok(link)) => Ok(Some(interface(&link))),
            Some(Err(error)) => {
                let error = io_error(error);
                let absent = [libc::ENODEV, libc::ENOENT, libc::ERANGE, libc::EINVAL];
                if absent.iter().any(|errno| error.raw_os_error() == Some(*errno)) { Ok(None) } else { Err(error) }
            }
        }
    }

    /// Every address of every interface.
    pub async fn addresses(&self) -> io::Result<Vec<Assigned>> {
        let mut found = Vec::new();
        let mut addresses = std::pin::pin!(self.handle.address().get().execute());
        while let Some(address) = addresses.next().await {
            found.extend(assigned(&address.map_err(io_error)?));
        }
        Ok(found)
    }

    /// Puts an address on an interface, marked as ours. IPv6: without the kernel's duplicate detection, which takes more
    /// than a second during which the address can't be used; probe for it first. With `source` false, IPv6 does not
    /// choose it as the source of outgoing connections (IPv4 doesn't anyway).
    pub async fn add_address(&self, index: u32, address: IpAddr, prefix: u8, source: bool) -> io::Result<Added> {
        let mut request = self.handle.address().add(index, address, prefix);
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(OUR_PROTOCOL)));
        if address.is_ipv6() {
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            if !source {
                let mut lifetime = CacheInfo::default();
                (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
                attributes.push(AddressAttribute::CacheInfo(lifetime));
            }
        }
        added(request.execute().await)
    }

    /// Takes an address off an interface. `false` when it was not there.
    pub async fn remove_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<bool> {
        let message = match address {
            IpAddr::V4(v4) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(v4, prefix).build(),
            IpAddr::V6(v6) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(v6, prefix).build(),
        };
        match self.handle.address().del(message).execute().await.map_err(io_error) {
            Ok(()) => Ok(true),
            Err(error) if [Some(libc::EADDRNOTAVAIL), Some(libc::ENODEV)].contains(&error.raw_os_error()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Switches an interface on.
    pub async fn set_up(&self, index: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().change(message).execute().await.map_err(io_error)
    }

    /// Makes outgoing traffic of an interface use `source`, which must be an address of it: for its network, and for
    /// everything that goes through a gateway in that network. The existing routes stay as they are; each gets two routes
    /// for its halves, which are more specific and name the source. The kernel removes them with the address, so that
    /// after a crash nothing of the operator's is missing. Returns how many routes lead out by that source now.
    pub async fn prefer_source(&self, index: u32, source: Ipv4Addr, prefix: u8) -> io::Result<usize> {
        let mut present = 0;
        for route in self.routes(index).await? {
            let in_network = |address: Ipv4Addr| same_network(address.into(), source.into(), prefix);
            let ours = route.gateway.map_or(route.prefix == prefix && in_network(route.to), in_network);
            if route.protocol == OUR_PROTOCOL || !ours || route.prefix >= 32 {
                continue;
            }
            let half = 1u32 << (31 - route.prefix);
            for to in [u32::from(route.to), u32::from(route.to) | half] {
                let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(to.into(), route.prefix + 1)
                    .output_interface(index)
                    .pref_source(source)
                    .protocol(RouteProtocol::from(OUR_PROTOCOL))
                    .scope(if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link });
                if let Some(gateway) = route.gateway {
                    message = message.gateway(gateway);
                }
                added(self.handle.route().add(message.build()).execute().await)?;
                present += 1;
            }
        }
        Ok(present)
    }

    /// Takes back what [`Network::prefer_source`] did for a source.
    pub async fn forget_source(&self, index: u32, source: Ipv4Addr) -> io::Result<()> {
        for route in self.routes(index).await? {
            if route.protocol == OUR_PROTOCOL && route.source == Some(source) {
                match self.handle.route().del(route.message).execute().await.map_err(io_error) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// IPv4 routes of the main table that lead out of an interface.
    async fn routes(&self, index: u32) -> io::Result<Vec<Route>> {
        let mut found = Vec::new();
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = std::pin::pin!(self.handle.route().get(all).execute());
        while let Some(message) = routes.next().await {
            found.extend(route(message.map_err(io_error)?, index));
        }
        Ok(found)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Changes {
    /// From here on every change of interfaces and addresses is told. Must be called on a tokio runtime.
    pub fn watch() -> io::Result<Changes> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, _, notices) = new_multicast_connection(&groups)?;
        Ok(Changes { notices: notices.boxed_local(), connection: tokio::spawn(connection) })
    }

    /// Waits for the next change. An error means that nothing will be told any more.
    pub async fn next(&mut self) -> io::Result<Change> {
        loop {
            let (message, _) = self.notices.next().await.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
            match message.payload {
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
                ) => return Ok(Change::Link(link.header.index)),
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address),
                ) => {
                    if let Some(assigned) = assigned(&address) {
                        return Ok(Change::Address(assigned.index, assigned.address));
                    }
                }
                NetlinkPayload::Overrun(_) => return Ok(Change::Everything),
                _ => {}
            }
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn interface(link: &LinkMessage) -> Interface {
    let mut name = String::new();
    let mut mac = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name = found.clone(),
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
            _ => {}
        }
    }
    let flags = link.header.flags;
    let loopback = flags.contains(LinkFlags::Loopback);
    let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
    Interface {
        index: link.header.index,
        name,
        mac: mac.filter(|_| ethernet),
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp),
        neighbours: ethernet && !flags.contains(LinkFlags::Noarp),
        loopback,
    }
}

fn assigned(message: &AddressMessage) -> Option<Assigned> {
    let (mut local, mut peer, mut ours) = (None, None, false);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == OUR_PROTOCOL,
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    Some(Assigned {
        index: message.header.index,
        address: local.or(peer)?,
        prefix: message.header.prefix_len,
        ours,
        unusable: flags.contains(AddressFlags::Dadfailed)
            || flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic),
    })
}

/// An IPv4 route of the main table.
struct Route {
    to: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    source: Option<Ipv4Addr>,
    protocol: u8,
    message: RouteMessage,
}

fn route(message: RouteMessage, index: u32) -> Option<Route> {
    let header = &message.header;
    let mut route = Route {
        to: Ipv4Addr::UNSPECIFIED,
        prefix: header.destination_prefix_length,
        gateway: None,
        source: None,
        protocol: header.protocol.into(),
        message: message.clone(),
    };
    let mut table = u32::from(header.table);
    let mut out = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => route.to = *to,
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => route.gateway = Some(*gateway),
            RouteAttribute::PrefSource(RouteAddress::Inet(source)) => route.source = Some(*source),
            RouteAttribute::Oif(found) => out = Some(*found),
            RouteAttribute::Table(found) => table = *found,
            _ => {}
        }
    }
    let main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    (main && out == Some(index) && header.kind == RouteType::Unicast && route.prefix <= 32).then_some(route)
}

/// Success, with a thing that is there already counted as such.
fn added(result: Result<(), rtnetlink::Error>) -> io::Result<Added> {
    match result.map_err(io_error) {
        Ok(()) => Ok(Added::New),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(Added::Present),
        Err(error) => Err(error),
    }
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
