//! Settings of a floating address.

use crate::base::group::FailoverMode;
use crate::io::address::ping::PingPlan;
use crate::io::address::probe::ProbePlan;
use crate::runtime::resource::span;
use crate::runtime::resource::trouble::Trouble;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// Targets of one ping list: more says nothing more about the network.
pub const PING_TARGETS_MAX: usize = 16;

/// A floating address, as this server has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressConfig {
    /// Name of the resource, unique in its group.
    pub name: String,
    /// The address, IPv4 or IPv6.
    pub address: IpAddr,
    /// Length of the network's prefix, in bits; left out it is that of the interface's network. Only this, or the full
    /// length of an address (32, 128), is accepted.
    #[serde(default)]
    pub prefix: Option<u8>,
    /// The interface; may be left out when just one has a network that contains the address.
    #[serde(default)]
    pub interface: Option<String>,
    /// Before the claim, ask whether anybody has the address.
    #[serde(default = "yes")]
    pub probe: bool,
    /// What to do when somebody has it; left out, the mode of failover says.
    #[serde(default)]
    pub on_duplicate: OnDuplicate,
    /// An interface without a carrier is a failure.
    #[serde(default = "yes")]
    pub link_check: bool,
    /// Addresses asked, from this address, whether the network is there; any answer is success. Empty: nobody is asked,
    /// unless `ping_broadcast` is on.
    #[serde(default)]
    pub ping: Vec<IpAddr>,
    /// Ask everybody in the network instead (IPv4 broadcast, IPv6 all nodes). Many hosts don't answer that.
    #[serde(default)]
    pub ping_broadcast: bool,
    /// Outgoing traffic through the interface's network uses this address as its source. IPv4, one in each network.
    #[serde(default)]
    pub source: bool,
    /// Leave the address out on this server (a remote site, where it could not be reached): every verb succeeds and
    /// nothing is done.
    #[serde(default)]
    pub skip: bool,
    /// Times and counts; they may be changed in the running daemon.
    #[serde(default)]
    pub timers: AddressTimers,
}

/// What to do when somebody else has the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDuplicate {
    /// What fits the mode of failover: `claim` where an arbiter or fencing has proven that nobody else owns it, `refuse`
    /// elsewhere.
    #[default]
    ByMode,
    /// Don't claim it: the start fails.
    Refuse,
    /// Claim it all the same, at once, with an alarm when somebody answers.
    Claim,
}

impl OnDuplicate {
    /// What is meant, where this is the mode.
    pub fn in_mode(self, mode: FailoverMode) -> OnDuplicate {
        match self {
            OnDuplicate::ByMode if mode.has_arbiter() || mode.has_fencing() => OnDuplicate::Claim,
            OnDuplicate::ByMode => OnDuplicate::Refuse,
            chosen => chosen,
        }
    }
}

/// Times and counts of a floating address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddressTimers {
    /// Questions asked before the claim whether anybody has the address.
    pub probe_tries: u32,
    /// Time between two of them.
    #[serde(with = "span")]
    pub probe_interval: Duration,
    /// Time an answer to the last one may take.
    #[serde(with = "span")]
    pub probe_wait: Duration,
    /// Announcements in a row after the claim, and when the link or the address came back.
    pub announce_count: u32,
    /// Time between two of them.
    #[serde(with = "span")]
    pub announce_interval: Duration,
    /// Time between two announcements while all is well; `0` announces only after the claim.
    #[serde(with = "span")]
    pub announce_refresh: Duration,
    /// Time between two looks at address and interface; changes are told by the kernel at once, this is for those missed.
    #[serde(with = "span")]
    pub look_interval: Duration,
    /// Time an interface may be without a carrier before that is a failure.
    #[serde(with = "span")]
    pub link_grace: Duration,
    /// Time between two questions to the ping list.
    #[serde(with = "span")]
    pub ping_interval: Duration,
    /// Time answers to one round may take.
    #[serde(with = "span")]
    pub ping_wait: Duration,
    /// Rounds without any answer before that is a failure.
    pub ping_tries: u32,
    /// Questions to each target sent at once in each round.
    pub ping_preload: u32,
    /// Shortest time between two alarms, and two defences, of the same kind.
    #[serde(with = "span")]
    pub alarm_interval: Duration,
}

impl Default for AddressTimers {
    fn default() -> AddressTimers {
        let ms = Duration::from_millis;
        AddressTimers {
            probe_tries: 3,
            probe_interval: ms(100),
            probe_wait: ms(150),
            announce_count: 5,
            announce_interval: ms(200),
            announce_refresh: ms(10_000),
            look_interval: ms(2_000),
            link_grace: ms(500),
            ping_interval: ms(5_000),
            ping_wait: ms(1_000),
            ping_tries: 3,
            ping_preload: 1,
            alarm_interval: ms(10_000),
        }
    }
}

/// Bounds of every time: name, value, smallest and largest in milliseconds.
type Bound = (&'static str, Duration, u64, u64);

impl AddressTimers {
    /// What a probe is given.
    pub fn probe_plan(&self) -> ProbePlan {
        ProbePlan { tries: self.probe_tries, interval: self.probe_interval, patience: self.probe_wait }
    }

    /// What a ping is given.
    pub fn ping_plan(&self) -> PingPlan {
        PingPlan { tries: self.ping_tries, wait: self.ping_wait, preload: self.ping_preload }
    }

    /// Refuses values that would flood the network, or never come to an end.
    pub fn check(&self, thing: &str) -> Result<(), Trouble> {
        let spans: [Bound; 9] = [
            ("probe_interval", self.probe_interval, 10, 10_000),
            ("probe_wait", self.probe_wait, 10, 10_000),
            ("announce_interval", self.announce_interval, 10, 60_000),
            ("announce_refresh", self.announce_refresh, 0, 3_600_000),
            ("look_interval", self.look_interval, 100, 3_600_000),
            ("link_grace", self.link_grace, 0, 600_000),
            ("ping_interval", self.ping_interval, 100, 3_600_000),
            ("ping_wait", self.ping_wait, 10, 60_000),
            ("alarm_interval", self.alarm_interval, 100, 3_600_000),
        ];
        for (name, span, low, high) in spans {
            if !(u128::from(low)..=u128::from(high)).contains(&span.as_millis()) {
                let reason = format!("{name} is {} ms", span.as_millis());
                return Err(Trouble::config(thing, reason, format!("choose from {low} ms to {high} ms")));
            }
        }
        let counts = [
            ("probe_tries", self.probe_tries),
            ("announce_count", self.announce_count),
            ("ping_tries", self.ping_tries),
            ("ping_preload", self.ping_preload),
        ];
        for (name, count) in counts {
            if !(1..=100).contains(&count) {
                return Err(Trouble::config(thing, format!("{name} is {count}"), "choose from 1 to 100"));
            }
        }
        Ok(())
    }
}

impl AddressConfig {
    /// A configuration with every default.
    pub fn new(name: &str, address: IpAddr) -> AddressConfig {
        AddressConfig {
            name: name.into(),
            address,
            prefix: None,
            interface: None,
            probe: true,
            on_duplicate: OnDuplicate::default(),
            link_check: true,
            ping: Vec::new(),
            ping_broadcast: false,
            source: false,
            skip: false,
            timers: AddressTimers::default(),
        }
    }

    /// What is wrong with it whatever the server.
    pub fn check(&self) -> Result<(), Trouble> {
        let refuse = |reason: String, next: &str| Err(Trouble::config(&self.name, reason, next));
        let address = self.address;
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return refuse(format!("{address} is no address a server can own"), "choose one of the clients' network");
        }
        if let IpAddr::V6(v6) = address
            && v6.to_ipv4_mapped().is_some()
        {
            return refuse(format!("{address} is an IPv4 address in disguise"), "write it as IPv4");
        }
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if let Some(prefix) = self.prefix.filter(|prefix| *prefix == 0 || *prefix > bits) {
            return refuse(format!("a prefix of {prefix} bits fits no such address"), "leave the prefix out");
        }
        if self.source && address.is_ipv6() {
            let reason = "IPv6 chooses the source of each connection by rules of its own".to_string();
            return refuse(reason, "turn `source` off for it");
        }
        if self.ping.len() > PING_TARGETS_MAX {
            let reason = format!("the ping list has {} addresses", self.ping.len());
            return refuse(reason, "a few of different devices are enough, at most 16");
        }
        if let Some(other) = self.ping.iter().find(|other| other.is_ipv4() != address.is_ipv4() || **other == address) {
            let reason = format!("{other} in the ping list can't tell anything of {address}");
            return refuse(reason, "list other hosts' addresses of the same family");
        }
        self.timers.check(&self.name)
    }
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_enough_and_a_wrong_one_is_refused() {
        let read: AddressConfig = toml::from_str("name = \"web\"\naddress = \"10.0.0.9\"").unwrap();
        assert_eq!(read, AddressConfig::new("web", "10.0.0.9".parse().unwrap()));
        let text = "name = \"web\"\naddress = \"10.0.0.9\"\n[timers]\nannounce_refresh = \"1min\"";
        let read: AddressConfig = toml::from_str(text).unwrap();
        assert_eq!(read.timers.announce_refresh, Duration::from_secs(60));
        let written = toml::to_string(&read).unwrap();
        assert_eq!(toml::from_str::<AddressConfig>(&written).unwrap(), read);
        for bad in ["nmae = 1", "probe = \"no\"", "on_duplicate = \"fight\"", "[timers]\nlook_interval = \"1 parsec\""]
        {
            assert!(toml::from_str::<AddressConfig>(&format!("name = \"w\"\naddress = \"::1\"\n{bad}")).is_err());
        }
    }

    #[test]
    fn a_proof_is_better_than_a_probe() {
        for mode in FailoverMode::ALL {
            let proven = mode.has_arbiter() || mode.has_fencing();
            let by_mode = OnDuplicate::default().in_mode(*mode);
            assert_eq!(by_mode == OnDuplicate::Claim, proven, "{mode}");
            assert_eq!(OnDuplicate::Refuse.in_mode(*mode), OnDuplicate::Refuse);
            assert_eq!(OnDuplicate::Claim.in_mode(*mode), OnDuplicate::Claim);
        }
    }

    #[test]
    fn duplicates_are_found_in_less_than_half_a_second() {
        let timers = AddressTimers::default();
        let longest = timers.probe_interval * (timers.probe_tries - 1) + timers.probe_wait;
        assert!(longest < Duration::from_millis(500), "{longest:?}");
    }

    #[test]
    fn what_can_never_work_is_refused() {
        let config = |address: &str| AddressConfig::new("web", address.parse().unwrap());
        assert!(config("10.0.0.9").check().is_ok() && config("fd00::9").check().is_ok());
        let refused = |config: AddressConfig, words: &str| {
            let trouble = config.check().unwrap_err().to_string();
            assert!(trouble.contains(words), "{trouble}");
        };
        for bad in ["0.0.0.0", "224.0.0.1", "127.0.0.1", "::", "ff02::1", "::1"] {
            refused(config(bad), "is no address a server can own");
        }
        refused(config("::ffff:10.0.0.9"), "in disguise");
        refused(AddressConfig { prefix: Some(33), ..config("10.0.0.9") }, "a prefix of 33 bits");
        refused(AddressConfig { prefix: Some(0), ..config("fd00::9") }, "a prefix of 0 bits");
        refused(AddressConfig { source: true, ..config("fd00::9") }, "turn `source` off");
        refused(AddressConfig { ping: vec!["fd00::1".parse().unwrap()], ..config("10.0.0.9") }, "in the ping list");
        refused(AddressConfig { ping: vec!["10.0.0.9".parse().unwrap()], ..config("10.0.0.9") }, "in the ping list");
        let mut flood = config("10.0.0.9");
        flood.timers.announce_interval = Duration::ZERO;
        refused(flood, "announce_interval is 0 ms; choose from 10 ms");
        let mut never = config("10.0.0.9");
        never.timers.probe_tries = 0;
        refused(never, "probe_tries is 0");
    }
}
