//! Watches a claimed address until it is dropped: presence, link, other hosts' claims, reachability, announcements.

use super::{AddressTimers, Shared, Spot};
use crate::io::address::announce::Announcer;
use crate::io::address::listen::Listener;
use crate::io::address::netlink::{Change, Changes, Network};
use crate::io::address::{Interface, Mac};
use crate::runtime::resource::{Trouble, What};
use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::watch as value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Shortest time between two repairs: whoever else removes the address all the time must not keep this server busy.
const REPAIR_PAUSE: Duration = Duration::from_millis(50);

/// The tasks that watch an address. Dropping it ends them.
pub(super) struct Watch {
    tasks: [JoinHandle<()>; 2],
    /// Asks, after the claim, whether anybody else has the address.
    asking: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to watch. Must be called inside a `LocalSet`.
    pub(super) fn begin(shared: Rc<Shared>, network: Network, changes: Changes, air: Air, spot: Spot) -> Watch {
        let place = Rc::new(RefCell::new(spot));
        let now = Instant::now();
        // Before they are looked at, so that no replacement is missed.
        let timers = shared.timers.subscribe();
        // The claim itself announced once.
        let burst_left = shared.timers.borrow().announce_count.saturating_sub(1);
        let keeper = Keeper {
            shared: shared.clone(),
            network,
            place: place.clone(),
            air: Some(air),
            own_macs: Vec::new(),
            burst_left,
            announce_at: next_announcement(&shared.timers.borrow(), burst_left, now),
            look_at: now,
            looked: now,
            failing_since: None,
            failing: false,
            alarmed: None,
        };
        let keep = tokio::task::spawn_local(keeper.run(changes, timers));
        let reach = tokio::task::spawn_local(keep_asking(shared, place));
        Watch { tasks: [keep, reach], asking: None }
    }

    /// Also asks, once, whether anybody else has the address.
    pub(super) fn also(&mut self, shared: Rc<Shared>, spot: Spot, interfaces: Vec<Interface>) {
        self.asking = Some(tokio::task::spawn_local(async move {
            if let Err(trouble) = shared.nobody_else(&spot, &interfaces).await {
                shared.tell(What::Alarm(trouble.to_string()));
            }
        }));
    }

    /// Whether it still watches.
    pub(super) fn is_running(&self) -> bool {
        self.tasks.iter().all(|task| !task.is_finished())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in self.tasks.iter().chain(&self.asking) {
            task.abort();
        }
    }
}

/// What announces and listens on the interface as it is now.
pub(super) struct Air {
    interface: Interface,
    announcer: Announcer,
    listener: Listener,
}

impl Air {
    /// From here on claims of others are heard.
    pub(super) fn open(interface: &Interface, address: IpAddr) -> io::Result<Air> {
        let listener = Listener::open(interface, address)?;
        let announcer = Announcer::open(interface, address)?;
        Ok(Air { interface: interface.clone(), announcer, listener })
    }

    /// Announces once.
    pub(super) async fn announce(&self) -> io::Result<()> {
        self.announcer.send().await
    }
}

struct Keeper {
    shared: Rc<Shared>,
    network: Network,
    /// Where the address is.
    place: Rc<RefCell<Spot>>,
    /// None while the interface can't be used.
    air: Option<Air>,
    /// This server's hardware addresses.
    own_macs: Vec<Mac>,
    /// Announcements of the burst that are still to be sent.
    burst_left: u32,
    announce_at: Instant,
    look_at: Instant,
    /// When the last look was.
    looked: Instant,
    failing_since: Option<Instant>,
    /// A failure was told and is not over.
    failing: bool,
    /// When the last alarm of a duplicate was told.
    alarmed: Option<Instant>,
}

impl Keeper {
    async fn run(mut self, mut changes: Changes, mut timers: value::Receiver<AddressTimers>) {
        loop {
            let heard = async {
                match &self.air {
                    Some(air) => air.listener.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.next() => match change {
                    Ok(change) if !self.concerns(change) => {}
                    Ok(_) => self.look_soon(),
                    // Without notices the looks at intervals go on.
                    Err(_) => {
                        self.shared.tell(What::Alarm("the kernel's notices have ended: changes are seen later".into()));
                        changes = match Changes::watch() {
                            Ok(changes) => changes,
                            Err(_) => return,
                        };
                    }
                },
                claim = heard => match claim {
                    Ok((address, mac)) => self.claimed(address, mac).await,
                    Err(_) => {
                        self.air = None;
                        self.look_soon();
                    }
                },
                () = self.shared.again.notified() => {
                    self.burst_left = self.shared.timers.borrow().announce_count;
                    self.announce_at = Instant::now();
                }
                () = sleep_until(self.announce_at) => self.announce().await,
                () = sleep_until(self.look_at) => self.look().await,
                // The sender lives as long as the resource, which ends this task.
                Ok(()) = timers.changed() => self.retime(),
            }
        }
    }

    fn concerns(&self, change: Change) -> bool {
        match change {
            Change::Link(index) => self.air.is_none() || index == self.place.borrow().interface.index,
            Change::Everything => true,
            Change::Address(_, address) => address == self.shared.config.address,
        }
    }

    /// At once, but not sooner after the last look than a pause.
    fn look_soon(&mut self) {
        self.look_at = self.look_at.min(Instant::now().max(self.looked + REPAIR_PAUSE));
    }

    /// New times hold from now on.
    fn retime(&mut self) {
        let timers = self.shared.timers.borrow();
        let now = Instant::now();
        self.look_at = self.look_at.min(now + timers.look_interval);
        let next = next_announcement(&timers, self.burst_left, now);
        self.announce_at = if timers.announce_refresh.is_zero() { next } else { self.announce_at.min(next) };
    }

    /// Looks, repairs, and tells when something began or ceased to fail.
    async fn look(&mut self) {
        let began = Instant::now();
        let interval = self.shared.timers.borrow().look_interval;
        let inspected = self.shared.inspect(&self.network).await;
        self.looked = began;
        self.look_at = began + interval.max(REPAIR_PAUSE);
        match inspected {
            Ok(spot) => {
                self.failing_since = None;
                if self.failing {
                    self.failing = false;
                    self.shared.tell(What::Repaired(format!("{} is well again", self.shared.config.address)));
                }
                self.settle(spot).await;
            }
            Err(trouble) => self.failed(trouble, began),
        }
    }

    fn failed(&mut self, trouble: Trouble, now: Instant) {
        self.air = None;
        let grace = self.shared.timers.borrow().link_grace;
        let since = *self.failing_since.get_or_insert(now);
        if now.duration_since(since) < grace {
            self.look_at = self.look_at.min(since + grace);
        } else if !self.failing {
            self.failing = true;
            self.shared.tell(What::Failed(trouble));
        }
    }

    /// Makes sure that announcements go out on the interface as it is now; a burst if it changed.
    async fn settle(&mut self, spot: Spot) {
        let same = self.air.as_ref().is_some_and(|air| air.interface == spot.interface);
        *self.place.borrow_mut() = spot.clone();
        if same && !self.own_macs.is_empty() {
            return;
        }
        if let Ok(interfaces) = self.network.interfaces().await {
            self.own_macs = interfaces.iter().filter_map(|interface| interface.mac).collect();
        }
        // When it can't be opened, the next look tries again, and tells what is wrong.
        if !same && let Ok(air) = Air::open(&spot.interface, self.shared.config.address) {
            self.air = Some(air);
            self.burst_left = self.shared.timers.borrow().announce_count;
            self.announce_at = Instant::now();
        }
    }

    async fn announce(&mut self) {
        let now = Instant::now();
        if let Some(air) = &self.air
            && air.announce().await.is_err()
        {
            self.air = None;
            self.look_soon();
        }
        self.burst_left = self.burst_left.saturating_sub(1);
        self.announce_at = next_announcement(&self.shared.timers.borrow(), self.burst_left, now);
    }

    /// Somebody spoke for an address.
    async fn claimed(&mut self, address: IpAddr, mac: Mac) {
        let ours = self.own_macs.contains(&mac) || self.place.borrow().interface.mac == Some(mac);
        let (now, pause) = (Instant::now(), self.shared.timers.borrow().alarm_interval);
        if address != self.shared.config.address || ours || self.alarmed.is_some_and(|last| now < last + pause) {
            return;
        }
        self.alarmed = Some(now);
        let name = self.place.borrow().interface.name.clone();
        self.shared.tell(What::Alarm(format!(
            "the host with {mac} claims {address} on {name}, too: clients may reach the wrong one; find it and free the address"
        )));
        // Defended once, so that clients find the way back; more would be a war.
        if let Some(air) = &self.air {
            let _ = air.announce().await;
        }
    }
}

/// Asks the ping list again and again; tells when it falls silent and when it answers again.
async fn keep_asking(shared: Rc<Shared>, place: Rc<RefCell<Spot>>) {
    let mut timers = shared.timers.subscribe();
    let mut failing = false;
    loop {
        let next = Instant::now() + shared.timers.borrow().ping_interval;
        let spot = place.borrow().clone();
        match shared.reachable(&spot).await {
            Ok(()) if failing => {
                failing = false;
                shared.tell(What::Repaired(format!("the ping list of {} answers again", shared.config.address)));
            }
            Err(trouble) if !failing => {
                failing = true;
                shared.tell(What::Failed(trouble));
            }
            _ => {}
        }
        tokio::select! {
            () = sleep_until(next) => {}
            Ok(()) = timers.changed() => {}
        }
    }
}

/// When the announcement after one at `now` is due: the next of a burst, or the refresh. Without a refresh it is so late
/// that it never comes.
fn next_announcement(timers: &AddressTimers, burst_left: u32, now: Instant) -> Instant {
    match (burst_left, timers.announce_refresh) {
        (1.., _) => now + timers.announce_interval,
        (0, Duration::ZERO) => now + Duration::from_secs(365 * 24 * 3600),
        (0, refresh) => now + refresh,
    }
}
