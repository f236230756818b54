//! On which interface a floating address belongs, and with which prefix: found from the interfaces' own networks. Pure.

use super::AddressConfig;
use crate::io::address::{Assigned, Interface, same_network};
use crate::runtime::resource::trouble::Trouble;
use std::net::{IpAddr, Ipv4Addr};

/// Where an address belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The interface.
    pub interface: Interface,
    /// Prefix the address is given, in bits.
    pub prefix: u8,
    /// Prefix of the network it lies in, in bits.
    pub network: u8,
}

/// Finds the spot, or says why there is none.
pub fn choose(config: &AddressConfig, interfaces: &[Interface], addresses: &[Assigned]) -> Result<Spot, Trouble> {
    config.check()?;
    let address = config.address;
    let Some(name) = &config.interface else { return choose_plain(config, interfaces, addresses) };
    let Some(interface) = interfaces.iter().find(|interface| interface.name == *name) else {
        let reason = format!("there is no interface {name} on this server");
        return Err(Trouble::environment(
            &config.name,
            reason,
            format!("correct the name (there are: {})", names(interfaces.iter())),
        ));
    };
    let own = networks(config, interface, addresses);
    let Some(network) = own.iter().find(|own| same_network(address, own.address, own.prefix)) else {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let (reason, next) = if own.is_empty() {
            let reason = format!("{name} has no {family} network, so {address} can't belong to it");
            (reason, format!("give {name} an {family} address of its own first, or name another interface"))
        } else {
            let list: Vec<String> = own.iter().map(|own| show_network(own)).collect();
            let reason = format!("{address} is in none of the networks of {name} ({})", list.join(", "));
            (reason, "choose an address of one of these networks, or name another interface".to_string())
        };
        return Err(Trouble::config(&config.name, reason, next));
    };
    spot(config, interface, network)
}

/// Without an interface in the configuration: the only one whose networks contain the address.
fn choose_plain(config: &AddressConfig, interfaces: &[Interface], addresses: &[Assigned]) -> Result<Spot, Trouble> {
    let mut fitting = Vec::new();
    for interface in interfaces.iter().filter(|interface| !interface.loopback) {
        let own = networks(config, interface, addresses);
        let network = own.into_iter().find(|own| same_network(config.address, own.address, own.prefix));
        fitting.extend(network.map(|network| (interface, network)));
    }
    match fitting[..] {
        [(interface, network)] => spot(config, interface, network),
        [] => {
            let mut known: Vec<String> = Vec::new();
            for interface in interfaces.iter().filter(|interface| !interface.loopback) {
                let own = networks(config, interface, addresses);
                known.extend(own.iter().map(|own| format!("{} {}", interface.name, show_network(own))));
            }
            let reason = format!("{} is in no network of this server", config.address);
            let known = if known.is_empty() { "none of its family".into() } else { known.join(", ") };
            Err(Trouble::config(&config.name, reason, format!("choose an address of one of its networks ({known})")))
        }
        _ => {
            let list = names(fitting.iter().map(|(interface, _)| *interface));
            let reason = format!("{} would fit several interfaces ({list})", config.address);
            Err(Trouble::config(&config.name, reason, "name the one that is meant with `interface`"))
        }
    }
}

/// The networks an interface is in by its own addresses: not by floating ones, nor by single hosts' addresses, nor by the
/// one that every interface has for its own link, unless the address is of that.
fn networks<'a>(config: &AddressConfig, interface: &Interface, addresses: &'a [Assigned]) -> Vec<&'a Assigned> {
    let bits = if config.address.is_ipv4() { 32 } else { 128 };
    addresses
        .iter()
        .filter(|own| own.index == interface.index && own.address.is_ipv4() == config.address.is_ipv4())
        .filter(|own| own.address != config.address && !own.ours && own.prefix < bits)
        .filter(|own| !is_of_the_link(own.address) || is_of_the_link(config.address))
        .collect()
}

fn is_of_the_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn spot(config: &AddressConfig, interface: &Interface, network: &Assigned) -> Result<Spot, Trouble> {
    let address = config.address;
    let full = if address.is_ipv4() { 32 } else { 128 };
    let prefix = config.prefix.unwrap_or(network.prefix);
    if prefix != network.prefix && prefix != full {
        let reason =
            format!("the prefix is {prefix}, but the network of {} is {}", interface.name, show_network(network));
        let next = format!("write {} (or {full}, for the address alone), or leave the prefix out", network.prefix);
        return Err(Trouble::config(&config.name, reason, next));
    }
    if let (IpAddr::V4(v4), true) = (address, network.prefix < 31) {
        let host = u32::MAX >> network.prefix;
        let part = u32::from(v4) & host;
        if part == 0 || part == host {
            let what = if part == 0 { "name" } else { "broadcast address" };
            let reason = format!("{address} is the {what} of the network {}", show_network(network));
            return Err(Trouble::config(&config.name, reason, "choose another address of that network"));
        }
    }
    if interface.loopback {
        let reason = format!("{} is the loopback interface: no client can reach it", interface.name);
        return Err(Trouble::config(&config.name, reason, "name an interface of the clients' network"));
    }
    Ok(Spot { interface: interface.clone(), prefix, network: network.prefix })
}

/// The broadcast address of a network, or all nodes of the link.
pub fn everybody(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) if prefix < 31 => Ipv4Addr::from(u32::from(v4) | u32::MAX >> prefix).into(),
        IpAddr::V4(_) => Ipv4Addr::BROADCAST.into(),
        IpAddr::V6(_) => crate::io::address::packet::ALL_NODES.into(),
    }
}

fn names<'a>(interfaces: impl Iterator<Item = &'a Interface>) -> String {
    let names: Vec<&str> =
        interfaces.filter(|interface| !interface.loopback).map(|interface| interface.name.as_str()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn show_network(own: &Assigned) -> String {
    match own.address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(own.prefix)).unwrap_or(0);
            format!("{}/{}", Ipv4Addr::from(u32::from(v4) & mask), own.prefix)
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(own.prefix)).unwrap_or(0);
            format!("{}/{}", std::net::Ipv6Addr::from(u128::from(v6) & mask), own.prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str) -> Interface {
        let loopback = name == "lo";
        Interface { index, name: name.into(), mac: None, up: true, running: true, neighbours: !loopback, loopback }
    }

    fn assigned(index: u32, network: &str) -> Assigned {
        let (address, prefix) = network.split_once('/').unwrap();
        let (address, prefix) = (address.parse().unwrap(), prefix.parse().unwrap());
        Assigned { index, address, prefix, ours: false, unusable: false }
    }

    fn server() -> (Vec<Interface>, Vec<Assigned>) {
        let addresses = [
            (1, "127.0.0.1/8"),
            (2, "10.0.0.1/24"),
            (2, "fd00::1/64"),
            (2, "fe80::1/64"),
            (3, "10.0.1.1/24"),
            (3, "fe80::2/64"),
        ];
        let interfaces = vec![interface(1, "lo"), interface(2, "eth0"), interface(3, "eth1")];
        (interfaces, addresses.map(|(index, network)| assigned(index, network)).to_vec())
    }

    fn chosen(address: &str, change: impl FnOnce(&mut AddressConfig)) -> Result<(String, u8), String> {
        let mut config = AddressConfig::new("web", address.parse().unwrap());
        change(&mut config);
        let (interfaces, addresses) = server();
        let spot = choose(&config, &interfaces, &addresses).map_err(|trouble| trouble.to_string())?;
        Ok((spot.interface.name, spot.prefix))
    }

    #[test]
    fn the_interface_is_found_when_it_is_plain() {
        assert_eq!(chosen("10.0.0.9", |_| ()), Ok(("eth0".into(), 24)));
        assert_eq!(chosen("10.0.1.9", |_| ()), Ok(("eth1".into(), 24)));
        assert_eq!(chosen("fd00::9", |_| ()), Ok(("eth0".into(), 64)));
        let several = chosen("fe80::9", |_| ()).unwrap_err();
        assert!(several.contains("would fit several interfaces (eth0, eth1); name the one"), "{several}");
        assert_eq!(chosen("fe80::9", |config| config.interface = Some("eth1".into())), Ok(("eth1".into(), 64)));
        let none = chosen("192.168.1.1", |_| ()).unwrap_err();
        assert!(none.contains("is in no network of this server") && none.contains("eth1 10.0.1.0/24"), "{none}");
    }

    #[test]
    fn what_does_not_fit_the_interface_is_said() {
        let on =
            |address: &str, name: &str| chosen(address, |config| config.interface = Some(name.into())).unwrap_err();
        let gone = on("10.0.0.9", "eth7");
        assert!(gone.contains("there is no interface eth7") && gone.contains("there are: eth0, eth1"), "{gone}");
        let other = on("10.0.1.9", "eth0");
        assert!(other.contains("10.0.1.9 is in none of the networks of eth0 (10.0.0.0/24)"), "{other}");
        // The address of its own link, which every interface has, is no network of the server.
        let family = on("fd00::9", "eth1");
        assert!(family.contains("eth1 has no IPv6 network"), "{family}");
        let loopback = on("127.0.0.9", "lo");
        assert!(loopback.contains("127.0.0.9 is no address a server can own"), "{loopback}");
    }

    #[test]
    fn a_prefix_is_the_networks_or_the_full_length() {
        let with = |prefix| chosen("10.0.0.9", |config| config.prefix = Some(prefix));
        assert_eq!(with(24), Ok(("eth0".into(), 24)));
        assert_eq!(with(32), Ok(("eth0".into(), 32)));
        let wrong = with(16).unwrap_err();
        assert!(wrong.contains("the prefix is 16, but the network of eth0 is 10.0.0.0/24; write 24"), "{wrong}");
    }

    #[test]
    fn the_ends_of_a_network_are_no_hosts() {
        assert!(chosen("10.0.0.0", |_| ()).unwrap_err().contains("is the name of the network 10.0.0.0/24"));
        assert!(chosen("10.0.0.255", |_| ()).unwrap_err().contains("is the broadcast address of the network"));
    }

    #[test]
    fn a_floating_address_makes_no_network() {
        let (interfaces, mut addresses) = server();
        addresses.push(Assigned { ours: true, ..assigned(3, "192.168.1.1/24") });
        let config = AddressConfig::new("web", "192.168.1.2".parse().unwrap());
        assert!(choose(&config, &interfaces, &addresses).is_err());
    }

    #[test]
    fn everybody_is_the_broadcast_address() {
        assert_eq!(everybody("10.0.0.9".parse().unwrap(), 24), "10.0.0.255".parse::<IpAddr>().unwrap());
        assert_eq!(everybody("10.0.0.9".parse().unwrap(), 32), "255.255.255.255".parse::<IpAddr>().unwrap());
        assert_eq!(everybody("fd00::9".parse().unwrap(), 64), "ff02::1".parse::<IpAddr>().unwrap());
    }
}
