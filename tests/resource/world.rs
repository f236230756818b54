//! Network namespaces of a test's own: a switch (a bridge in a namespace of its own) and hosts on it, each a namespace with
//! one interface `eth0`. Nothing outside is touched; dropping the world removes everything.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use twinblock::runtime::resource::{Happened, What};

/// Longest any wait may take, on a loaded machine.
pub const TIME_MAX: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// What is missing here to make namespaces, if anything is.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    let made = Command::new("ip").args(["netns", "list"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match made {
        Ok(status) if status.success() => None,
        _ => Some("the program ip (iproute2) is not installed, or may not look at namespaces".into()),
    }
}

/// The tests' own `return` when something is missing.
#[macro_export]
macro_rules! or_skip {
    ($missing:expr) => {
        if let Some(why) = $missing {
            eprintln!("SKIPPED: {why}");
            return;
        }
    };
}

/// A switch and its hosts.
pub struct World {
    name: String,
    hosts: Vec<String>,
}

/// A host of a world, by its number from 0.
pub type Host = usize;

/// Network of every world, as `address of host N`.
pub fn v4(last: u8) -> IpAddr {
    IpAddr::from([10, 99, 0, last])
}

/// The same for IPv6.
pub fn v6(last: u16) -> IpAddr {
    IpAddr::from([0xfd00, 0x99, 0, 0, 0, 0, 0, last])
}

impl World {
    /// A world with so many hosts: host N has the addresses 10.99.0.N+1/24 and fd00:99::N+1/64.
    pub fn new(hosts: usize) -> World {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tb{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut world = World { name, hosts: Vec::new() };
        let switch = world.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "sw", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"]);
        ip(&["-n", &switch, "link", "set", "sw", "up"]);
        for number in 0..hosts {
            let host = format!("{}h{number}", world.name);
            ip(&["netns", "add", &host]);
            world.hosts.push(host);
            // Else a host's own IPv6 addresses could not be used in its first second.
            let quick = || std::fs::write("/proc/sys/net/ipv6/conf/default/dad_transmits", "0");
            world.inside(number, quick).unwrap();
            world.plug_in(number);
        }
        world
    }

    fn switch(&self) -> String {
        format!("{}sw", self.name)
    }

    /// Gives a host its interface, with its own addresses.
    pub fn plug_in(&self, host: Host) {
        let (switch, name, port) = (self.switch(), &self.hosts[host], format!("p{host}"));
        // Both ends are made in the switch's namespace: a name such as eth0 may be taken outside.
        ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", name]);
        ip(&["-n", &switch, "link", "set", &port, "master", "sw", "up"]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        ip(&["-n", name, "link", "set", "eth0", "up"]);
        let number = host as u8 + 1;
        self.ip(host, &["address", "add", &format!("{}/24", v4(number)), "dev", "eth0"]);
        self.ip(host, &["address", "add", &format!("{}/64", v6(number.into())), "dev", "eth0", "nodad"]);
    }

    /// Name of a host's namespace.
    pub fn name(&self, host: Host) -> &str {
        &self.hosts[host]
    }

    /// Runs `ip` with these words in a host's namespace; its output.
    pub fn ip(&self, host: Host, words: &[&str]) -> String {
        ip(&[&["-n", &self.hosts[host]], words].concat())
    }

    /// Takes the cable of a host out of the switch, or puts it back.
    pub fn cable(&self, host: Host, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        ip(&["-n", &self.switch(), "link", "set", &format!("p{host}"), state]);
    }

    /// Whether a host has an address.
    pub fn has(&self, host: Host, address: IpAddr) -> bool {
        self.ip(host, &["-o", "address", "show"]).contains(&format!(" {address}/"))
    }

    /// The hardware address of a host.
    pub fn mac(&self, host: Host) -> String {
        let shown = self.ip(host, &["-o", "link", "show", "eth0"]);
        shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_string()
    }

    /// The hardware address a host remembers for an address.
    pub fn neighbour(&self, host: Host, address: IpAddr) -> Option<String> {
        let shown = self.ip(host, &["neighbour", "show", &address.to_string()]);
        Some(shown.split("lladdr ").nth(1)?.split_whitespace().next()?.to_string())
    }

    /// Makes a host remember something wrong for an address.
    pub fn remember(&self, host: Host, address: IpAddr, mac: &str) {
        self.ip(host, &["neighbour", "replace", &address.to_string(), "lladdr", mac, "dev", "eth0", "nud", "stale"]);
    }

    /// Runs a task in the namespace of a host, on a thread and a runtime of its own, as the daemon runs it.
    pub fn on<T: Send>(&self, host: Host, task: impl AsyncFnOnce() -> T + Send) -> T {
        self.inside(host, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, async { tokio::time::timeout(TIME_MAX * 2, task()).await.unwrap() })
        })
    }

    /// Calls something in the namespace of a host, on a thread of its own.
    fn inside<T: Send>(&self, host: Host, call: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.hosts[host]);
        let inside = || {
            let namespace = std::fs::File::open(&path).unwrap();
            nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            call()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain([&self.switch()]) {
            let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
        }
    }
}

fn ip(words: &[&str]) -> String {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < TIME_MAX, "not so in time: {what}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What resources told.
pub struct Told(pub mpsc::UnboundedReceiver<Happened>);

impl Told {
    /// Where to tell, and what was told.
    pub fn channel() -> (mpsc::UnboundedSender<Happened>, Told) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Told(receiver))
    }

    /// Waits for the next thing that is told and fits.
    pub async fn next(&mut self, what: &str, fits: impl Fn(&What) -> bool) -> What {
        let wait = async {
            loop {
                let happened = self.0.recv().await.expect("somebody can still tell");
                if fits(&happened.what) {
                    return happened.what;
                }
            }
        };
        tokio::time::timeout(TIME_MAX, wait).await.unwrap_or_else(|_| panic!("nobody told: {what}"))
    }

    /// Waits for a repair whose words contain these.
    pub async fn repaired(&mut self, words: &str) -> String {
        let fits = |what: &What| matches!(what, What::Repaired(said) if said.contains(words));
        match self.next(words, fits).await {
            What::Repaired(said) => said,
            other => unreachable!("{other:?} does not fit"),
        }
    }

    /// Waits for a failure whose words contain these.
    pub async fn failed(&mut self, words: &str) -> String {
        let said = |what: &What| match what {
            What::Failed(trouble) => trouble.to_string(),
            _ => String::new(),
        };
        said(&self.next(words, |what| said(what).contains(words)).await)
    }

    /// Waits for an alarm whose words contain these.
    pub async fn alarm(&mut self, words: &str) -> String {
        let fits = |what: &What| matches!(what, What::Alarm(said) if said.contains(words));
        match self.next(words, fits).await {
            What::Alarm(said) => said,
            other => unreachable!("{other:?} does not fit"),
        }
    }
}
