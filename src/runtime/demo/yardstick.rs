//! keepalived beside the group: the same address, on the same servers, in the same run, seen by the same client. It moves the
//! address and nothing else, so it is measured against what the group's address alone took.
//!
//! keepalived notices a loss by the silence of its advertisements: one each second (its default) or, with version 3 of
//! the protocol, each tenth of one. Figures are printed, never judged.

use super::pair::Pair;
use super::pulse::{Asking, reach_on};
use super::town::{FLOATING, Town};
use super::ward::{Member, Ward};
use crate::runtime::cli::exit::{Exit, Failure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for keepalived to own the address, to move it, or to end.
const TIME_MAX: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Answers from its owner before the address is taken from it.
const ANSWERS_BEFORE: u64 = 50;

/// A way keepalived is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// What it is called in the table.
    pub name: &'static str,
    /// Version of the protocol.
    version: u8,
    /// Seconds between two advertisements.
    interval: &'static str,
}

/// Its default, and the fastest that is usual.
pub const PACES: [Pace; 2] = [
    Pace { name: "keepalived, advertisements each 1 s", version: 2, interval: "1" },
    Pace { name: "keepalived, advertisements each 0.1 s", version: 3, interval: "0.1" },
];

/// Whether it can be run here.
pub fn is_installed() -> bool {
    Command::new("keepalived").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// One loss of the address's owner under keepalived: how long the address did not answer. Nobody else may have the
/// address.
pub fn measure(town: &Town, ward: &Ward, pair: &Pair, pace: Pace) -> Result<Duration, Failure> {
    let failed = |what: &str| pair.failure(format!("{}: {what}", pace.name));
    let system = |error: io::Error| failed(&error.to_string());
    let mut keepers = Vec::new();
    for server in 0..town.servers.len() {
        keepers.push(start(town, ward, &pair.folder, server, pace).map_err(system)?);
    }
    let asking: Asking<()> = reach_on(&town.client);
    let owned = || Ok(town.servers[0].has(FLOATING)? && !town.servers[1].has(FLOATING)?);
    let begun = wait(owned).map_err(system)? && asking.pulse.wait_more(ANSWERS_BEFORE, TIME_MAX);
    if !begun {
        return Err(failed("the first server does not own the address"));
    }
    let mark = asking.pulse.mark();
    // As a power-off is to everybody else: off the network at once.
    town.unplug(0, true).map_err(system)?;
    let back = asking.pulse.wait_back(mark, TIME_MAX);
    asking.end();
    town.unplug(0, false).map_err(system)?;
    for keeper in &keepers {
        // In order: it takes the address off.
        let _ = kill(Pid::from_raw(keeper.id() as i32), Signal::SIGTERM);
    }
    let gone = || Ok(keepers.iter().all(|keeper| keeper.ended().is_some()));
    if !wait(gone).map_err(system)? {
        return Err(failed("it does not end"));
    }
    back.ok_or_else(|| failed("the address is not answered any more"))
}

fn start(town: &Town, ward: &Ward, folder: &Path, server: usize, pace: Pace) -> io::Result<Member> {
    let text = format!(
        "global_defs {{\n vrrp_version {}\n vrrp_startup_delay 0\n}}\n\
         vrrp_instance a {{\n state BACKUP\n interface eth0\n virtual_router_id 50\n priority {}\n advert_int {}\n \
         virtual_ipaddress {{\n  {FLOATING}/24\n }}\n}}\n",
        pace.version,
        100 - server,
        pace.interval
    );
    let at = |name: &str| folder.join(format!("keepalived.{name}{server}"));
    std::fs::write(at("conf"), text)?;
    let mut command = Command::new("keepalived");
    command.args(["--dont-fork", "--vrrp", "--no-syslog", "--use-file"]).arg(at("conf"));
    command.arg("--pid").arg(at("pid")).arg("--vrrp_pid").arg(at("vrrp"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let own = ward.clone();
    town.servers[server].inside(move || own.start(&mut command))?
}

/// Waits until something is so; whether it was in time.
fn wait(mut so: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let deadline = Instant::now() + TIME_MAX;
    while !so()? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(true)
}

/// What is said where it is missing.
pub fn missing() -> Failure {
    Failure::new(Exit::Failed, "keepalived is not installed: `apt-get install keepalived`, or leave out --keepalived")
}
