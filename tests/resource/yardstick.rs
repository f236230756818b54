//! keepalived beside us, in the same namespaces: how long an address takes from one host to another. Figures are printed,
//! never asserted.
//!
//! What is measured is the address alone, seen by a third host that asks for it all the time (a TCP connection to a port
//! nobody listens at is refused as soon as the address is reached): from the loss of its owner to the first answer of the
//! new one. keepalived notices the loss by itself; our claim begins when the failover core says so, so its detection time
//! is stated apart.

use crate::or_skip;
use crate::world::{TIME_MAX, Told, World, missing, v4};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant as Clock};
use tokio::time::Instant;
use twinblock::runtime::resource::address::{AddressConfig, FloatingAddress, OnDuplicate};
use twinblock::runtime::resource::{Context, Verb, run};

const ADDRESS: &str = "10.99.0.50";
const ROUNDS: usize = 5;
/// Time one question may take.
const PATIENCE: Duration = Duration::from_millis(20);

/// Asks from a host until an answer comes; the time it took.
fn until_reached(world: &World, from: usize) -> Duration {
    let socket = SocketAddr::new(ADDRESS.parse::<IpAddr>().unwrap(), 1);
    world.on(from, async || {
        let began = Clock::now();
        loop {
            match TcpStream::connect_timeout(&socket, PATIENCE) {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return began.elapsed(),
                _ => assert!(began.elapsed() < TIME_MAX, "nobody answers"),
            }
        }
    })
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    spans[spans.len() / 2]
}

struct Keepalived(Child);

impl Keepalived {
    /// keepalived on a host with its fastest safe timers of version 2: an advertisement each second (its default), or each
    /// tenth of one with version 3 of the protocol.
    fn on(world: &World, host: usize, folder: &std::path::Path, version: u8, interval: &str) -> Keepalived {
        let priority = 100 - host;
        let text = format!(
            "global_defs {{\n vrrp_version {version}\n vrrp_startup_delay 0\n}}\n\
             vrrp_instance a {{\n state BACKUP\n interface eth0\n virtual_router_id 50\n priority {priority}\n \
             advert_int {interval}\n virtual_ipaddress {{\n  {ADDRESS}/24\n }}\n}}\n"
        );
        let at = |name: &str| folder.join(format!("{name}{host}")).to_str().unwrap().to_string();
        std::fs::write(at("conf"), text).unwrap();
        let words = ["--dont-fork", "--vrrp", "--no-syslog", "--use-file", &at("conf"), "--pid", &at("pid")];
        let child = Command::new("ip")
            .args(["netns", "exec", world.name(host), "keepalived"])
            .args(words)
            .args(["--vrrp_pid", &at("vrrp")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Keepalived(child)
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "a comparison, which takes more than a minute"]
fn beside_keepalived() {
    or_skip!(missing());
    if Command::new("keepalived").arg("--version").stderr(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: keepalived is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (version, interval) in [(2, "1"), (3, "0.1")] {
        let mut crashes = Vec::new();
        for _ in 0..ROUNDS {
            let world = World::new(3);
            let keepers = [0, 1].map(|host| Keepalived::on(&world, host, folder.path(), version, interval));
            until_reached(&world, 2);
            let began = Clock::now();
            while !world.has(0, v4(50)) || world.has(1, v4(50)) {
                assert!(began.elapsed() < TIME_MAX, "the first host does not own it");
                std::thread::sleep(Duration::from_millis(10));
            }
            // A crash as a server's: it is off the network at once.
            world.cable(0, false);
            crashes.push(until_reached(&world, 2));
            drop(keepers);
        }
        println!(
            "keepalived, advertisements each {interval} s: crash to answer {:?} (median of {ROUNDS})",
            median(crashes)
        );
    }
    for (words, on_duplicate) in [
        ("after duplicate detection", OnDuplicate::Refuse),
        ("at once, as with an arbiter's proof", OnDuplicate::Claim),
    ] {
        let claims = (0..ROUNDS).map(|_| crash_and_claim(on_duplicate)).collect();
        println!("our claim {words}: order to answer {:?} (median of {ROUNDS})", median(claims));
    }
}

/// Our address on one host, which crashes; the time from the order to claim it on another to the first answer.
fn crash_and_claim(on_duplicate: OnDuplicate) -> Duration {
    let world = World::new(3);
    let context = Context::for_tests();
    let far = Instant::now() + TIME_MAX;
    let floating =
        |sender| FloatingAddress::new(AddressConfig { on_duplicate, ..AddressConfig::new("web", v4(50)) }, sender);
    world.on(0, async || {
        let (sender, _told) = Told::channel();
        run(&floating(sender), Verb::Start, &context, far).await.unwrap();
    });
    until_reached(&world, 2);
    world.cable(0, false);
    world.on(1, async || {
        let (sender, _told) = Told::channel();
        let here = floating(sender);
        let began = Clock::now();
        run(&here, Verb::Start, &context, far).await.unwrap();
        std::thread::scope(|scope| scope.spawn(|| until_reached(&world, 2)).join().unwrap());
        began.elapsed()
    })
}
