//! A floating IP: claimed only when nobody has it, announced, watched, repaired here where that is possible.
//!
//! ```text
//! start   place it ─▶ link up ─▶ anybody there? ─▶ add ─▶ announce ─▶ watch ──────────────┐
//!         (with `on_duplicate = "claim"` that is asked afterwards: the claim takes 2 ms)    │
//! watch   kernel's notices, looks now and then: present? link? put back, bring up  ◀──────┤
//!         every refresh: announce again; after a repair: a burst                          │
//!         claims of others heard: alarm, and defend                                       │
//!         ping list, from the address: anybody there?                                     │
//! stop    end the watch ─▶ take it off every interface ─▶ look that it is gone ◀──────────┘
//! ```
//! An address that a dead daemon left behind is recognised by the kernel's mark ([`left_behind`]); the daemon removes it
//! at its start, before anything else. `start` adopts what is there all the same.

mod config;
mod place;
mod watch;

pub use self::config::{AddressConfig, AddressTimers, OnDuplicate, PING_TARGETS_MAX};
pub use self::place::{Spot, choose};

use self::watch::{Air, Watch};
use super::{Answer, Context, Events, Happened, Resource, State, Status, Trouble, What};
use crate::io::address::announce::Announcer;
use crate::io::address::netlink::{Added, Changes, Network};
use crate::io::address::ping::ping;
use crate::io::address::probe::{Probed, probe};
use crate::io::address::{Assigned, Interface, Mac};
use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, watch as value};
use tokio::time::{Instant, sleep, timeout_at};

/// The right raw sockets and changes of addresses need.
const RIGHTS: &str = "CAP_NET_ADMIN and CAP_NET_RAW";
/// Longest wait for a carrier after an interface was switched on.
const CARRIER_TIME_MAX: Duration = Duration::from_secs(2);
/// Time between two looks for that carrier.
const CARRIER_LOOK: Duration = Duration::from_millis(20);

/// A floating address of this server.
pub struct FloatingAddress {
    shared: Rc<Shared>,
    watch: RefCell<Option<Watch>>,
}

/// What the verbs and the watch share.
struct Shared {
    config: AddressConfig,
    timers: value::Sender<AddressTimers>,
    /// Announce again: others may have learned something else meanwhile.
    again: Notify,
    events: Events,
    /// What was told last, and when.
    told: RefCell<Option<(What, Instant)>>,
}

impl FloatingAddress {
    /// A floating address; what happens to it is told to `events`.
    pub fn new(config: AddressConfig, events: Events) -> FloatingAddress {
        let timers = value::Sender::new(config.timers.clone());
        FloatingAddress {
            shared: Rc::new(Shared { config, timers, again: Notify::new(), events, told: RefCell::new(None) }),
            watch: RefCell::new(None),
        }
    }

    /// Replaces every time and count, also of the watch that runs. Refused as a whole when one is out of bounds.
    pub fn set_timers(&self, timers: AddressTimers) -> Result<(), Trouble> {
        timers.check(&self.shared.config.name)?;
        self.shared.timers.send_replace(timers);
        Ok(())
    }

    async fn check_now(&self) -> Result<(), Trouble> {
        let shared = &self.shared;
        let config = &shared.config;
        config.check()?;
        if config.skip {
            return Ok(());
        }
        let network = shared.network()?;
        let (interfaces, addresses) = shared.look(&network).await?;
        let spot = choose(config, &interfaces, &addresses)?;
        let running = self.watch.borrow().is_some();
        if let Some(own) = addresses.iter().find(|own| own.address == config.address && !own.ours && !running) {
            let name =
                interfaces.iter().find(|interface| interface.index == own.index).map_or("?", |found| &found.name);
            let reason = format!("{} is a permanent address of {name} already", config.address);
            let next =
                "take it out of this server's network configuration: a floating address is added by twinblock alone";
            return Err(Trouble::config(&config.name, reason, next));
        }
        // A socket of the kind the claim needs shows whether the right is there, and disturbs nobody.
        Announcer::open(&spot.interface, config.address)
            .map_err(|error| Trouble::system(&config.name, "opening a raw socket", &error, RIGHTS))?;
        Ok(())
    }

    async fn start_now(&self) -> Result<(), Trouble> {
        let shared = &self.shared;
        if shared.config.skip {
            return Ok(());
        }
        let network = shared.network()?;
        if self.watch.borrow().as_ref().is_some_and(Watch::is_running) {
            return shared.inspect(&network).await.map(drop);
        }
        // From here on no change is missed, so that the watch begins where the claim ends.
        let changes = Changes::watch().map_err(|error| shared.system("watching the interfaces", &error))?;
        let (interfaces, addresses) = shared.look(&network).await?;
        let spot = choose(&shared.config, &interfaces, &addresses)?;
        let spot = shared.link_up(&network, spot).await?;
        let proven = shared.config.on_duplicate == OnDuplicate::Claim;
        if !proven {
            shared.nobody_else(&spot, &interfaces).await?;
        }
        let air = Air::open(&spot.interface, shared.config.address);
        let air = air.map_err(|error| shared.on_interface(&spot, "opening a raw socket", &error))?;
        shared.put(&network, &spot).await?;
        air.announce().await.map_err(|error| shared.on_interface(&spot, "announcing the address", &error))?;
        let mut watch = Watch::begin(shared.clone(), network, changes, air, spot.clone());
        if proven {
            // The claim does not wait for what can't change it; whoever answers all the same is an alarm.
            watch.also(shared.clone(), spot, interfaces);
        }
        *self.watch.borrow_mut() = Some(watch);
        Ok(())
    }

    async fn stop_now(&self) -> Result<(), Trouble> {
        self.watch.borrow_mut().take();
        let shared = &self.shared;
        if shared.config.skip {
            return Ok(());
        }
        let network = shared.network()?;
        let here = |addresses: Vec<Assigned>| -> Vec<Assigned> {
            addresses.into_iter().filter(|own| own.address == shared.config.address).collect()
        };
        let failed = |what: &str, error: &io::Error| Trouble {
            next: format!(
                "remove it by hand (`ip address del {} dev ...`), or fence this server, before it is used elsewhere",
                shared.config.address
            ),
            ..shared.system(what, error)
        };
        for own in here(network.addresses().await.map_err(|error| failed("listing addresses", &error))?) {
            if let IpAddr::V4(v4) = own.address {
                // The kernel would remove them with the address; this way nothing leaves by them meanwhile.
                let _ = network.forget_source(own.index, v4).await;
            }
            let removed = network.remove_address(own.index, own.address, own.prefix).await;
            removed.map_err(|error| failed("removing the address", &error))?;
        }
        let rest = here(network.addresses().await.map_err(|error| failed("listing addresses", &error))?);
        if rest.is_empty() {
            return Ok(());
        }
        Err(failed("removing the address", &io::Error::other("it is still, or again, on an interface")))
    }

    async fn monitor_now(&self) -> Result<(), Trouble> {
        let shared = &self.shared;
        if shared.config.skip {
            return Ok(());
        }
        let network = shared.network()?;
        let spot = shared.inspect(&network).await?;
        shared.reachable(&spot).await
    }

    async fn status_now(&self) -> Result<Status, Trouble> {
        let shared = &self.shared;
        let config = &shared.config;
        if config.skip {
            return Ok(Status::new(State::Skipped, format!("{} is left out on this server", config.address)));
        }
        let network = shared.network()?;
        let (interfaces, addresses) = shared.look(&network).await?;
        let watched = self.watch.borrow().as_ref().is_some_and(Watch::is_running);
        let Some(own) = addresses.iter().find(|own| own.address == config.address) else {
            let state = if watched { State::Broken } else { State::Stopped };
            return Ok(Status::new(state, format!("{} is on no interface", config.address)));
        };
        let interface = interfaces.iter().find(|interface| interface.index == own.index);
        let name = interface.map_or("?", |interface| &interface.name);
        let running = interface.is_some_and(|interface| interface.running);
        let (state, words) = match (watched, own.unusable, running) {
            (false, ..) => (State::Broken, "nobody watches it"),
            (true, true, _) => (State::Broken, "the kernel found it in use elsewhere"),
            (true, false, false) if config.link_check => (State::Broken, "the interface has no carrier"),
            (true, false, _) => (State::Started, "announced and watched"),
        };
        Ok(Status::new(state, format!("{}/{} is on {name}, {words}", config.address, own.prefix)))
    }

    /// Ends an attempt at its deadline.
    async fn by<T>(&self, deadline: Instant, attempt: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        timeout_at(deadline, attempt).await.unwrap_or_else(|_| {
            let reason = "it did not end by its deadline".to_string();
            Err(Trouble::transient(&self.shared.config.name, reason, "give it a longer time, or look at the network"))
        })
    }
}

impl Resource for FloatingAddress {
    fn name(&self) -> &str {
        &self.shared.config.name
    }

    fn check<'a>(&'a self, _: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.by(deadline, self.check_now()))
    }

    fn start<'a>(&'a self, _: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.by(deadline, self.start_now()))
    }

    fn stop<'a>(&'a self, _: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.by(deadline, self.stop_now()))
    }

    fn monitor<'a>(&'a self, _: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.by(deadline, self.monitor_now()))
    }

    fn announce(&self) {
        if self.watch.borrow().is_some() {
            self.shared.again.notify_one();
        }
    }

    fn reconfigure(&self, settings: &dyn std::any::Any) -> bool {
        let Some(new) = settings.downcast_ref::<AddressConfig>() else { return false };
        let same = AddressConfig { timers: self.shared.config.timers.clone(), ..new.clone() } == self.shared.config;
        same && self.set_timers(new.timers.clone()).is_ok()
    }

    fn status<'a>(&'a self, deadline: Instant) -> Answer<'a, Status> {
        Box::pin(self.by(deadline, self.status_now()))
    }
}

/// Floating addresses a daemon put on this server's interfaces, this one or one that died.
pub async fn left_behind() -> io::Result<Vec<Assigned>> {
    let network = Network::open()?;
    Ok(network.addresses().await?.into_iter().filter(|own| own.ours).collect())
}

/// Removes what a dead daemon left behind of these addresses; others, and those that nobody of us put there, stay. Returns
/// what was removed. To be called before the daemon says a word to its peer: until then two servers may have the address.
pub async fn remove_left_behind(floating: &[IpAddr]) -> io::Result<Vec<Assigned>> {
    let network = Network::open()?;
    let mut removed = Vec::new();
    for own in left_behind().await?.into_iter().filter(|own| floating.contains(&own.address)) {
        if network.remove_address(own.index, own.address, own.prefix).await? {
            removed.push(own);
        }
    }
    Ok(removed)
}

impl Shared {
    fn network(&self) -> Result<Network, Trouble> {
        Network::open().map_err(|error| self.system("asking the kernel for its interfaces", &error))
    }

    async fn look(&self, network: &Network) -> Result<(Vec<Interface>, Vec<Assigned>), Trouble> {
        let failed = |error| self.system("listing interfaces and addresses", &error);
        let interfaces = network.interfaces().await.map_err(failed)?;
        Ok((interfaces, network.addresses().await.map_err(failed)?))
    }

    /// Switches the interface on if it is off, and waits for its carrier.
    async fn link_up(&self, network: &Network, mut spot: Spot) -> Result<Spot, Trouble> {
        if !spot.interface.up {
            let done = network.set_up(spot.interface.index).await;
            done.map_err(|error| self.system("switching the interface on", &error))?;
            self.tell(What::Repaired(format!("the interface {} was off and is on again", spot.interface.name)));
        }
        let until = Instant::now() + CARRIER_TIME_MAX;
        while !spot.interface.running && self.config.link_check {
            let name = spot.interface.name.clone();
            let found =
                network.interface(&name).await.map_err(|error| self.system("asking for an interface", &error))?;
            let Some(interface) = found else { return Err(self.gone(&name)) };
            if !interface.running && Instant::now() >= until {
                return Err(self.no_carrier(&name));
            }
            spot.interface = interface;
            sleep(CARRIER_LOOK).await;
        }
        Ok(spot)
    }

    /// Makes sure that nobody else answers for the address.
    async fn nobody_else(&self, spot: &Spot, interfaces: &[Interface]) -> Result<(), Trouble> {
        if !self.config.probe {
            return Ok(());
        }
        let own: Vec<Mac> = interfaces.iter().filter_map(|interface| interface.mac).collect();
        let plan = self.timers.borrow().probe_plan();
        let found = probe(&spot.interface, self.config.address, plan, &own).await;
        let Probed::Taken(mac) = found.map_err(|error| self.on_interface(spot, "looking for a duplicate", &error))?
        else {
            return Ok(());
        };
        let (address, name) = (self.config.address, &spot.interface.name);
        let whose = if mac == Mac::ZERO { "another host".to_string() } else { format!("the host with {mac}") };
        if self.config.on_duplicate == OnDuplicate::Claim {
            let words = format!("{whose} answers for {address} on {name}; it is claimed all the same");
            self.tell(What::Alarm(words));
            return Ok(());
        }
        Err(Trouble::transient(
            &self.config.name,
            format!("{address} is in use on {name}'s network by {whose}"),
            "find that host and free the address; if it is the other server, take the group down there first",
        ))
    }

    /// Adds the address, and the routes that make it the source, if that is wanted.
    async fn put(&self, network: &Network, spot: &Spot) -> Result<Added, Trouble> {
        let config = &self.config;
        let added = network.add_address(spot.interface.index, config.address, spot.prefix, config.source).await;
        let added = added.map_err(|error| self.on_interface(spot, "adding the address", &error))?;
        if let (true, IpAddr::V4(v4)) = (config.source, config.address) {
            let routes = network.prefer_source(spot.interface.index, v4, spot.network).await;
            routes.map_err(|error| self.on_interface(spot, "making it the source of outgoing traffic", &error))?;
        }
        Ok(added)
    }

    /// Looks whether the address is there and its interface has a carrier; puts it back, brings the interface up. Where
    /// it is, when all is well in the end.
    async fn inspect(&self, network: &Network) -> Result<Spot, Trouble> {
        let (interfaces, addresses) = self.look(network).await?;
        let mut spot = choose(&self.config, &interfaces, &addresses)?;
        let mut repaired = Vec::new();
        if !spot.interface.up {
            let done = network.set_up(spot.interface.index).await;
            done.map_err(|error| self.on_interface(&spot, "switching the interface on", &error))?;
            repaired.push(format!("the interface {} was off and is on again", spot.interface.name));
            let again = network.interface(&spot.interface.name).await;
            let again = again.map_err(|error| self.on_interface(&spot, "asking for the interface", &error))?;
            spot.interface = again.ok_or_else(|| self.gone(&spot.interface.name))?;
        }
        let at_spot = |own: &&Assigned| own.address == self.config.address && own.index == spot.interface.index;
        if addresses.iter().find(at_spot).is_some_and(|own| own.unusable) {
            let reason = format!("the kernel found {} in use elsewhere", self.config.address);
            return Err(Trouble::transient(
                &self.config.name,
                reason,
                "find the host that has it, and free the address",
            ));
        }
        // Also when it is there: the routes may have gone with the carrier.
        if self.put(network, &spot).await? == Added::New {
            repaired.push(format!("{} was gone from {} and is back", self.config.address, spot.interface.name));
        }
        for words in repaired {
            self.tell(What::Repaired(words));
        }
        if self.config.link_check && !spot.interface.running {
            return Err(self.no_carrier(&spot.interface.name));
        }
        Ok(spot)
    }

    /// Whether anybody of the ping list answers; always, without such a list.
    async fn reachable(&self, spot: &Spot) -> Result<(), Trouble> {
        let config = &self.config;
        let mut targets = config.ping.clone();
        if config.ping_broadcast {
            targets.push(place::everybody(config.address, spot.network));
        }
        if targets.is_empty() {
            return Ok(());
        }
        let plan = self.timers.borrow().ping_plan();
        let answered = ping(config.address, spot.interface.index, &targets, plan).await;
        match answered.map_err(|error| self.on_interface(spot, "asking the ping list", &error))? {
            Some(_) => Ok(()),
            None => {
                let list: Vec<String> = targets.iter().map(IpAddr::to_string).collect();
                let reason = format!("none of {} answered {} in {} tries", list.join(", "), config.address, plan.tries);
                Err(Trouble::transient(
                    &config.name,
                    reason,
                    "look at this server's network, its switch and its gateway",
                ))
            }
        }
    }

    /// Tells what happened; the same again only after a while.
    fn tell(&self, what: What) {
        let (now, pause) = (Instant::now(), self.timers.borrow().alarm_interval);
        if self.told.borrow().as_ref().is_some_and(|(last, when)| *last == what && now < *when + pause) {
            return;
        }
        *self.told.borrow_mut() = Some((what.clone(), now));
        // Nobody listening any more means that the daemon ends.
        let _ = self.events.send(Happened { resource: self.config.name.clone(), what });
    }

    fn system(&self, what: &str, error: &io::Error) -> Trouble {
        Trouble::system(&self.config.name, what, error, RIGHTS)
    }

    /// The same for what is done on the interface: that may have vanished meanwhile.
    fn on_interface(&self, spot: &Spot, what: &str, error: &io::Error) -> Trouble {
        match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => self.gone(&spot.interface.name),
            Some(libc::ENETDOWN) => {
                let reason = format!("the interface {} was switched off meanwhile", spot.interface.name);
                Trouble::transient(&self.config.name, reason, format!("`ip link set {} up`", spot.interface.name))
            }
            _ => self.system(what, error),
        }
    }

    fn gone(&self, name: &str) -> Trouble {
        let reason = format!("the interface {name} has vanished");
        Trouble::environment(&self.config.name, reason, "bring it back, or name another one in the configuration")
    }

    fn no_carrier(&self, name: &str) -> Trouble {
        let reason = format!("the interface {name} has no carrier");
        Trouble::transient(&self.config.name, reason, "look at its cable and at the switch")
    }
}
