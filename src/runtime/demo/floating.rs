//! The demo's first part, as root: a group with a floating address moves, and survives the crash of its owner, while a client
//! writes to that address and another one talks to a service on the volume.

use super::client::{self, Dice};
use super::ledger::{BLOCK_BYTES, Ledger};
use super::nbd::NbdClient;
use super::pair::{NODES, Pair, VOLUME};
use super::pulse::{Asking, Mark, Pulse, Written, count_on, reach_on, write_on};
use super::town::{self, NBD, Town, Witness};
use super::ward::Ward;
use super::{DISK_SIZE, compare_files, number, since, yardstick};
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::config::units::{show_size, show_time};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait of a client for the group to be back.
const BACK_TIME_MAX: Duration = Duration::from_secs(20);
/// Longest wait for a state of the group.
const STATE_TIME_MAX: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Answers each client gets before the next thing happens.
const ANSWERS_BETWEEN: u64 = 60;
/// What is done to the group.
const MOVE: &str = "move";
const CRASH: &str = "kill -9";
const POWER_OFF: &str = "power off";
/// In the table of who moved the address.
const TWINBLOCK: &str = "twinblock";
const SEED: u64 = 0x6164_6472_6573_7321;

/// What is missing here for this part, if anything is.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root, to make network namespaces".into());
    }
    match crate::io::namespace::Namespace::new() {
        Ok(_) => None,
        Err(error) => Some(format!("network namespaces can't be made here ({error})")),
    }
}

/// Shows it; the number of steps it took. With `rounds` everything is done so many times, for the figures; with
/// `keepalived` that takes its turn with the same address in every round.
pub fn show(parent: &Path, ward: &Ward, rounds: Option<u32>, keepalived: bool) -> Result<u32, Failure> {
    if keepalived && !yardstick::is_installed() {
        return Err(yardstick::missing());
    }
    let town = Town::new().map_err(|error| {
        Failure::new(Exit::Failed, format!("the demo's network can't be made in namespaces: {error}"))
    })?;
    let binary = std::env::current_exe().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let pair = Pair::placed(parent, "demo-group", ward, [NBD; 2], town.servers.clone().map(Some))?;
    let witness = town.start_witness(&pair.folder, ward)?;
    if witness == Witness::Directory {
        let made = std::fs::create_dir(pair.folder.join("arbiter"));
        made.map_err(|error| pair.failure(format!("no directory for the arbiter: {error}")))?;
    }
    pair.configure(&town::configuration(witness, Some(&town::service_command(&binary))))?;
    let beside = if keepalived { Some(ward) } else { None };
    let mut show = Show { town, pair, step: 0, owner: 0, waits: Vec::new(), addresses: Vec::new() };
    show.play(witness, rounds.unwrap_or(1), beside)?;
    if rounds.is_some() {
        show.tell_figures();
    }
    show.pair.clean_up();
    Ok(show.step)
}

struct Show {
    town: Town,
    pair: Pair,
    step: u32,
    /// Who owns the group.
    owner: usize,
    /// What was done, and how long the writer and the service's client waited.
    waits: Vec<(&'static str, [Duration; 2])>,
    /// Who moved the address of an owner that lost its power, and how long the address alone did not answer.
    addresses: Vec<(&'static str, Duration)>,
}

/// Both clients at work.
struct Clients {
    writer: Asking<Written>,
    counter: Asking<Result<u64, String>>,
}

impl Show {
    fn play(&mut self, witness: Witness, rounds: u32, beside: Option<&Ward>) -> Result<(), Failure> {
        self.begin(witness)?;
        let clients = self.clients()?;
        for _ in 0..rounds {
            self.planned_move(&clients)?;
            self.crash(&clients)?;
            self.power_off(&clients)?;
            if let Some(ward) = beside {
                self.keepalived(&clients, ward)?;
            }
        }
        self.end(clients)
    }

    /// keepalived has the address for a while, and loses its owner.
    fn keepalived(&mut self, clients: &Clients, ward: &Ward) -> Result<(), Failure> {
        self.say("keepalived with the same address, the group is stopped meanwhile: its owner is off the network");
        self.pair.verb(self.owner, &["group", "stop"])?;
        for pace in yardstick::PACES {
            let took = yardstick::measure(&self.town, ward, &self.pair, pace)?;
            self.addresses.push((pace.name, took));
            self.tell(format!("{}: the address alone did not answer for {}", pace.name, show_time(took)));
        }
        self.pair.verb(self.owner, &["group", "start"])?;
        self.owner = self.wait_owner()?;
        self.wait_paired(self.owner)?;
        self.settle(clients)
    }

    /// Median and longest of every kind of change.
    fn tell_figures(&self) {
        say!("\nInterruption of both clients, from the last good answer to the next, median and longest:");
        for what in [MOVE, CRASH, POWER_OFF] {
            let all: Vec<&[Duration; 2]> =
                self.waits.iter().filter(|(done, _)| *done == what).map(|(_, waits)| waits).collect();
            let figures = [0, 1].map(|client| {
                let mut waits: Vec<Duration> = all.iter().map(|waits| waits[client]).collect();
                waits.sort();
                let (median, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
                format!("{}, {}", show_time(median), show_time(longest))
            });
            say!("   {what:10} {} times: NBD writer {}; service {}", all.len(), figures[0], figures[1]);
        }
        say!("The address alone, after the power-off of its owner:");
        for who in [TWINBLOCK].into_iter().chain(yardstick::PACES.map(|pace| pace.name)) {
            let mut waits: Vec<Duration> =
                self.addresses.iter().filter(|(moved, _)| *moved == who).map(|(_, took)| *took).collect();
            waits.sort();
            if let (Some(median), Some(longest)) = (waits.get(waits.len() / 2), waits.last()) {
                say!("   {who:38} {} times: {}, {}", waits.len(), show_time(*median), show_time(*longest));
            }
        }
    }

    fn begin(&mut self, witness: Witness) -> Result<(), Failure> {
        self.say("two servers, a client and a witness, each in a network namespace of its own");
        self.tell(match witness {
            Witness::Etcd => "arbiter: the etcd installed here, on the witness".to_string(),
            Witness::Directory => {
                "arbiter: a directory both servers see, since etcd is not installed; in production use etcd".to_string()
            }
        });
        let started = Instant::now();
        for node in 0..NODES.len() {
            self.pair.verb(node, &["init-disk", VOLUME, "--size", DISK_SIZE])?;
        }
        for node in 0..NODES.len() {
            self.pair.start(node)?;
        }
        self.wait_paired(0)?;
        self.tell(format!(
            "group db (volume, floating address {}, service) runs on alpha, beta stands by, after {}",
            town::FLOATING,
            since(started)
        ));
        Ok(())
    }

    /// One client writes over NBD, one talks to the service, both to the floating address.
    fn clients(&self) -> Result<Clients, Failure> {
        let size = number(&self.pair.status(0)?, "/size_bytes");
        // The last block is the service's.
        let ledger = Ledger::new(size - BLOCK_BYTES as u64);
        let clients =
            Clients { writer: write_on(&self.town.client, ledger, Dice(SEED)), counter: count_on(&self.town.client) };
        self.settle(&clients)?;
        Ok(clients)
    }

    fn planned_move(&mut self, clients: &Clients) -> Result<(), Failure> {
        let (from, to) = self.change_owner();
        let words = format!("group move: {} hands the group to {}, while both clients work", NODES[from], NODES[to]);
        self.say(&words);
        let marks = marks(clients);
        self.pair.verb(from, &["group", "move"])?;
        self.tell_waits(MOVE, clients, marks)?;
        self.tell_stages(from, "giving the group up");
        self.tell_stages(to, "taking the group over");
        self.wait_paired(to)?;
        self.settle(clients)
    }

    fn crash(&mut self, clients: &Clients) -> Result<(), Failure> {
        let (from, to) = self.change_owner();
        self.say(&format!("kill -9 the daemon of {}, the owner", NODES[from]));
        let marks = marks(clients);
        self.pair.kill(from);
        self.tell_waits(CRASH, clients, marks)?;
        self.tell_stages(to, "taking the group over");
        let started = Instant::now();
        self.pair.start(from)?;
        self.wait_paired(to)?;
        self.tell(format!("{} started again: standing by, in sync, after {}", NODES[from], since(started)));
        self.settle(clients)
    }

    fn power_off(&mut self, clients: &Clients) -> Result<(), Failure> {
        let (from, to) = self.change_owner();
        self.say(&format!("power off {}, the owner: off every network at once, and killed", NODES[from]));
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("the demo's network: {error}"));
        let alone = reach_on(&self.town.client);
        if !alone.pulse.wait_more(ANSWERS_BETWEEN, BACK_TIME_MAX) {
            return Err(self.pair.failure("the address does not answer".into()));
        }
        let (marks, mark) = (marks(clients), alone.pulse.mark());
        self.town.cut_off(from).map_err(failed)?;
        self.pair.kill(from);
        self.tell_waits(POWER_OFF, clients, marks)?;
        if let Some(took) = alone.pulse.wait_back(mark, BACK_TIME_MAX) {
            self.addresses.push((TWINBLOCK, took));
        }
        alone.end();
        self.tell_stages(to, "taking the group over");
        let started = Instant::now();
        self.town.plug_in(from).map_err(failed)?;
        self.pair.start(from)?;
        self.wait_paired(to)?;
        self.tell(format!("{} switched on again: standing by, in sync, after {}", NODES[from], since(started)));
        self.settle(clients)
    }

    fn end(&mut self, clients: Clients) -> Result<(), Failure> {
        self.say("read everything back, stop both daemons, compare the disks");
        let last = clients.counter.end().map_err(|words| self.pair.failure(format!("WRONG NUMBER: {words}")))?;
        let Written { mut ledger, tally, wrong } = clients.writer.end();
        if let Some(wrong) = wrong {
            return Err(self.pair.failure(format!("WRONG DATA: {wrong}")));
        }
        let reading = |error: std::io::Error| self.pair.failure(format!("reading back: {error}"));
        let client = self.town.client.inside(|| NbdClient::connect(NBD, VOLUME)).and_then(|client| client);
        let mut client = client.map_err(reading)?;
        let known = client::read_back(&mut client, &mut ledger).map_err(reading)?;
        let known = known.map_err(|wrong| self.pair.failure(format!("WRONG DATA: {wrong}")))?;
        client.disconnect();
        self.tell(format!(
            "{} writes were acknowledged, all {} of known data are there; the service counted to {last} and skipped none",
            tally.writes,
            show_size(known)
        ));
        self.pair.stop(0)?;
        self.pair.stop(1)?;
        let paths = NODES.map(|node| self.pair.folder.join(format!("{node}.img")));
        compare_files(&paths, &mut ledger).map_err(|words| self.pair.failure(words))?;
        self.tell("both disks are the same".into());
        Ok(())
    }

    /// Both clients work for a moment.
    fn settle(&self, clients: &Clients) -> Result<(), Failure> {
        for (pulse, who) in [(&clients.writer.pulse, "writer"), (&clients.counter.pulse, "service's client")] {
            if !pulse.wait_more(ANSWERS_BETWEEN, BACK_TIME_MAX) {
                return Err(self.pair.failure(format!("the {who} gets no answers")));
            }
        }
        Ok(())
    }

    /// Waits until both clients are answered again, and tells how long they were not.
    fn tell_waits(&mut self, what: &'static str, clients: &Clients, marks: [Mark; 2]) -> Result<(), Failure> {
        let back = |pulse: &Pulse, mark, who: &str| {
            let back = pulse.wait_back(mark, BACK_TIME_MAX);
            back.ok_or_else(|| self.pair.failure(format!("the {who} is not answered any more")))
        };
        let writer = back(&clients.writer.pulse, marks[0], "writer")?;
        let counter = back(&clients.counter.pulse, marks[1], "service's client")?;
        self.waits.push((what, [writer, counter]));
        self.tell(format!("from the last good answer to the next: {} writing over NBD", show_time(writer)));
        self.tell(format!("{:42}{} talking to the service", "", show_time(counter)));
        Ok(())
    }

    /// The stages of a server's last change of role, as it announced them.
    fn tell_stages(&self, node: usize, change: &str) {
        let log = std::fs::read_to_string(self.pair.folder.join(format!("{}.log", NODES[node]))).unwrap_or_default();
        let wanted = format!("{change} is done, ");
        let line = log.lines().rev().find_map(|line| line.split_once(&wanted));
        let stages = line.and_then(|(_, rest)| rest.split_once(": ")).map(|(_, stages)| stages);
        if let Some(stages) = stages {
            let stages = stages.split(" group=").next().unwrap_or_default();
            self.tell(format!("{}, {change}: {stages}", NODES[node]));
        }
    }

    /// Waits until a server owns the group, everything runs, and the other one may take over.
    fn wait_paired(&self, node: usize) -> Result<(), Failure> {
        let deadline = Instant::now() + STATE_TIME_MAX;
        loop {
            let status = self.pair.verb(node, &["group", "status", "--json"])?;
            let groups: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
            let group = &groups[0]["group"];
            let resources = group["resources"].as_array().cloned().unwrap_or_default();
            let running = resources.iter().all(|resource| resource[1] == "running");
            let insync = group["arbiter"]["record"][2].as_array().map_or(0, Vec::len);
            if group["role"] == "owner" && group["serving"] == true && running && insync == NODES.len() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.pair.failure(format!("the group is not as it should be on {}: {group}", NODES[node])));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Waits until one of the servers owns the group; which.
    fn wait_owner(&self) -> Result<usize, Failure> {
        let deadline = Instant::now() + STATE_TIME_MAX;
        while Instant::now() < deadline {
            for node in 0..NODES.len() {
                let status = self.pair.verb(node, &["group", "status", "--json"])?;
                let groups: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
                if groups[0]["group"]["role"] == "owner" {
                    return Ok(node);
                }
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Err(self.pair.failure("nobody owns the group".into()))
    }

    /// The owner until now, and the one from now on.
    fn change_owner(&mut self) -> (usize, usize) {
        let from = self.owner;
        self.owner = 1 - from;
        (from, self.owner)
    }

    fn say(&mut self, words: &str) {
        self.step += 1;
        say!("\n{}. {words}", self.step);
    }

    fn tell(&self, words: String) {
        say!("   {words}");
    }
}

fn marks(clients: &Clients) -> [Mark; 2] {
    [clients.writer.pulse.mark(), clients.counter.pulse.mark()]
}
