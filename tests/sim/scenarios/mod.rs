//! Named stories: the single and sequenced faults of the design's matrix (F.1, F.2) that apply to two nodes in mode
//! `manual`. Each ends with everything healed, converged and checked like any other run.

mod sequenced;
mod single;

use super::config::Config;
use super::log::Log;
use super::node::NAMES;
use super::world::World;
use std::time::Duration;
use twinblock::base::command::{Command, CommandOutcome};
use twinblock::base::range::ByteRange;
use twinblock::base::state::{DiskState, LinkState, Role};

const ALPHA: usize = 0;
const BETA: usize = 1;

/// A pair and its clients, driven by hand.
struct Pair {
    world: World,
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Both run, alpha serves, two clients work.
fn serving_pair(seed: u64) -> Pair {
    serving_pair_with(seed, |_| {})
}

fn serving_pair_with(seed: u64, change: impl FnOnce(&mut Config)) -> Pair {
    let mut config = Config::scripted(seed);
    change(&mut config);
    let mut pair = Pair { world: World::new(config, Log::keeping(200)) };
    pair.world.start(ALPHA);
    pair.world.start(BETA);
    pair.wait(seconds(5), "in sync", World::both_in_sync);
    pair.promote(ALPHA);
    pair.world.wake_clients();
    pair.clients_get_on(seconds(2));
    pair
}

impl Pair {
    /// Waits for something to come true.
    fn wait(&mut self, time: Duration, what: &str, done: impl FnMut(&World) -> bool) {
        let came = self.world.run_until(time, done);
        if !came {
            panic!("never {what}:\n{}\n{:?}\n{:?}", self.world.log.text(), self.world.view(0), self.world.view(1));
        }
    }

    fn pass(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    /// The operator asks; says whether it was done.
    fn ask(&mut self, node: usize, command: Command) -> Result<(), String> {
        let before = self.world.operator.outcomes.len();
        self.world.command(node, command.clone()).expect("its daemon runs");
        self.wait(seconds(60), "answered", |world| {
            world.operator.outcomes[before..].iter().any(|(who, what, _)| (*who, what) == (node, &command))
        });
        let outcomes = &self.world.operator.outcomes[before..];
        let (_, _, outcome) = outcomes.iter().find(|(_, what, _)| *what == command).expect("answered");
        match outcome {
            CommandOutcome::Done(_) => Ok(()),
            CommandOutcome::Refused(refusal) => Err(refusal.code.clone()),
        }
    }

    fn promote(&mut self, node: usize) {
        let mut last = String::new();
        for _ in 0..50 {
            match self.ask(node, Command::Promote { force: false }) {
                Ok(()) => return,
                Err(code) => last = code,
            }
            self.pass(millis(100));
        }
        panic!("{} can't be promoted: {last}\n{}", NAMES[node], self.world.log.text());
    }

    fn answered(&self) -> u64 {
        self.world.clients.iter().map(|client| client.answered).sum()
    }

    fn errors(&self) -> u64 {
        self.world.clients.iter().map(|client| client.errors).sum()
    }

    /// The clients get answers again, within this time, and no errors.
    fn clients_get_on(&mut self, within: Duration) {
        let (answered, errors) = (self.answered(), self.errors());
        self.wait(within, "answering clients", |world| {
            world.clients.iter().map(|client| client.answered).sum::<u64>() > answered + 20
        });
        assert_eq!(self.errors(), errors, "clients got errors");
    }

    fn clients_get_nothing(&mut self, time: Duration) {
        let answered = self.answered();
        self.pass(time);
        assert!(self.answered() <= answered, "clients got answers");
    }

    fn disk(&self, node: usize) -> DiskState {
        self.world.view(node).expect("its daemon runs").disk
    }

    fn link(&self, node: usize) -> LinkState {
        self.world.view(node).expect("its daemon runs").link
    }

    fn role(&self, node: usize) -> Role {
        self.world.view(node).expect("its daemon runs").role
    }

    fn back_in_sync(&mut self) {
        self.wait(seconds(60), "back in sync", World::both_in_sync);
    }

    /// The daemon whose disk was given up gets it back.
    fn attach(&mut self, node: usize) {
        let closed = |world: &World| {
            world.nodes[node]
                .process
                .as_ref()
                .is_some_and(|p| !p.disk_open && p.disk_ops.is_empty() && p.persists.is_empty())
        };
        self.wait(seconds(60), "closed", closed);
        self.world.attach(node);
        self.wait(seconds(5), "attached", |world| {
            world.nodes[node].process.as_ref().is_some_and(|p| p.commands.is_empty())
        });
    }

    /// What a disk holds of the volume.
    fn content(&self, node: usize) -> Vec<u8> {
        self.world.nodes[node].disk.read(ByteRange::new(0, self.world.config.volume_bytes())).to_vec()
    }

    /// The victim's archive, laid over what its disk holds now, is what its disk held before, and was finished.
    fn has_archived(&mut self, victim: usize, before: &[u8]) {
        self.wait(seconds(1), "finished the archive", |world| {
            let vault = &world.nodes[victim].vault;
            vault.finished > 0 && !vault.open
        });
        let vault = &self.world.nodes[victim].vault;
        let mut view = self.content(victim);
        for (block, bytes) in &vault.blocks {
            let at = *block as usize * bytes.len();
            view[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let lost = blocks_that_differ(before, &view);
        assert!(!vault.blocks.is_empty() && lost.is_empty(), "blocks {lost:?} of the victim are in no archive");
    }

    /// Bytes the last resync moved as data.
    fn copied(&self) -> u64 {
        let copied =
            |node| self.world.view(node).and_then(|view| view.last_resync).map_or(0, |resync| resync.bytes_copied);
        copied(ALPHA).max(copied(BETA))
    }

    /// Everything heals; the pair must converge, and every promise must have been kept.
    fn ends_well(mut self) {
        self.world.operator_on_duty();
        self.world.heal_everything();
        self.world.converge();
        self.world.check_everything_at_rest();
    }
}

/// The blocks in which two contents differ.
fn blocks_that_differ(a: &[u8], b: &[u8]) -> Vec<u32> {
    let size = twinblock::base::range::BLOCK as usize;
    let pairs = a.chunks(size).zip(b.chunks(size)).enumerate();
    pairs.filter(|(_, (a, b))| a != b).map(|(block, _)| block as u32).collect()
}
