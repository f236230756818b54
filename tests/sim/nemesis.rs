//! The nemesis: faults and operator's whims at random times, each of which ends by itself after a while.

use super::config::Act;
use super::devices::DISK_ERRORS;
use super::node::NAMES;
use super::world::{Event, World};
use std::time::Duration;
use twinblock::base::command::Command;
use twinblock::base::error::DiskError;
use twinblock::logic::mirror::interface::Input;

/// What ends a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heal {
    Start(usize),
    Resume(usize),
    Network,
    ResumeResync(usize),
    /// A daemon that was asked to stop has had its time.
    Kill(usize),
    /// A heartbeat path.
    Path(usize),
    /// Everything between the servers.
    Everything,
    Arbiter,
    Fence(usize),
    Steps(usize),
    Service(usize, usize),
    /// The volume's thread.
    Shard(usize),
}

/// Time a daemon gets to stop in order.
const STOP_TIME: Duration = Duration::from_secs(40);

impl World {
    /// The nemesis is let loose.
    pub fn nemesis_on_duty(&mut self) {
        let delay = self.span(self.config.gap);
        self.after(delay, Event::Nemesis);
    }

    /// Something happens.
    pub fn nemesis_acts(&mut self) {
        if !self.active {
            return;
        }
        let total: u64 = self.config.acts.iter().map(|(_, weight)| weight).sum();
        if total > 0 {
            let mut at = self.random.below(total);
            let acts = self.config.acts.clone();
            let chosen = acts.iter().find(|(_, weight)| {
                let here = at < *weight;
                at = at.saturating_sub(*weight);
                here
            });
            let node = self.random.below(2) as usize;
            let act = chosen.expect("weights add up").0;
            if !self.would_destroy_the_data(act, node) {
                self.log.say(|| format!("*** {act:?} at {}", NAMES[node]));
                self.stats.acts += 1;
                self.perform(act, node);
            }
        }
        let delay = self.span(self.config.gap);
        self.after(delay, Event::Nemesis);
    }

    fn perform(&mut self, act: Act, node: usize) {
        match act {
            group if group.is_of_group() => self.perform_on_group(group, node),
            Act::ProcessCrash
            | Act::PowerCrash
            | Act::BothPower
            | Act::Pause
            | Act::Restart
            | Act::Rot
            | Act::RotMaps
            | Act::ReplaceDisk => {
                self.perform_on_process(act, node);
            }
            Act::Reset | Act::Cut | Act::OneWay | Act::Corrupt | Act::ClientReset => self.perform_on_network(act, node),
            Act::DiskError | Act::FlushError | Act::MetadataError | Act::DiskHang | Act::DiskSlow => {
                self.perform_on_devices(act, node);
            }
            _ => self.perform_as_operator(act, node),
        }
    }

    /// Has something healed after a while.
    pub fn heal_later(&mut self, heal: Heal) {
        let delay = self.span(self.config.outage);
        self.after(delay, Event::Heal(heal));
    }

    fn perform_on_process(&mut self, act: Act, node: usize) {
        match act {
            Act::ProcessCrash => self.crash_for_a_while(node),
            Act::PowerCrash => self.power_off_for_a_while(node),
            Act::BothPower => {
                self.power_off_for_a_while(0);
                self.power_off_for_a_while(1);
            }
            Act::Pause => {
                self.pause(node);
                self.heal_later(Heal::Resume(node));
            }
            Act::Restart => {
                self.stop(node);
                self.after(STOP_TIME, Event::Heal(Heal::Kill(node)));
            }
            Act::RotMaps => {
                self.nodes[node].faults.rot_maps = true;
                if self.random.chance(0.5) {
                    self.power_off_for_a_while(node);
                } else {
                    self.stop(node);
                    self.after(STOP_TIME, Event::Heal(Heal::Kill(node)));
                }
            }
            Act::Rot => {
                self.power_off_for_a_while(node);
                self.nodes[node].metadata.rot_newest_superblock();
                self.outside.checks.forget_epoch(node);
            }
            _ => {
                self.power_off_for_a_while(node);
                self.nodes[node].replace_disk(&self.config, &mut self.random);
                self.outside.checks.forget_epoch(node);
            }
        }
    }

    fn perform_on_network(&mut self, act: Act, node: usize) {
        match act {
            Act::Reset => self.reset_session(),
            Act::Cut => {
                self.cut_network();
                self.heal_later(Heal::Network);
            }
            Act::OneWay => {
                self.link.lossy[node] = true;
                self.heal_later(Heal::Network);
            }
            Act::Corrupt => {
                self.link.corrupt(&mut self.random);
            }
            _ => {
                let client = self.random.below(self.clients.len() as u64) as usize;
                let for_good = self.random.chance(0.15);
                self.client_resets(client, for_good);
            }
        }
    }

    fn perform_on_devices(&mut self, act: Act, node: usize) {
        let error = *self.random.pick(&DISK_ERRORS);
        let coin = self.random.chance(0.5);
        let outage = self.span(self.config.outage);
        let both_in_sync = self.both_in_sync();
        let until = self.now + outage;
        let faults = &mut self.nodes[node].faults;
        match act {
            Act::DiskError if coin => faults.next_read = Some(DiskError::Failed(5)),
            Act::DiskError => faults.next_write = Some(error),
            Act::FlushError => {
                faults.next_flush = Some(DiskError::Failed(5));
                faults.flush_drops = both_in_sync;
            }
            Act::MetadataError => faults.next_persist = Some(error),
            Act::DiskHang => faults.hangs_until = until,
            _ => faults.slow = (100, until),
        }
    }

    fn perform_as_operator(&mut self, act: Act, node: usize) {
        if !self.can_be_asked(node) {
            return;
        }
        match act {
            Act::Switchover => self.switch_over(node),
            Act::Resync => {
                let full = self.random.chance(0.5);
                self.command(node, Command::Resync { full, compare: !full, discard_ours: None });
            }
            Act::PauseResync => {
                self.command(node, Command::PauseResync);
                self.heal_later(Heal::ResumeResync(node));
            }
            Act::Verify => {
                let repair = self.random.chance(0.5);
                self.command(node, Command::Verify { repair });
            }
            Act::Detach => {
                self.command(node, Command::Detach);
            }
            Act::Grow => self.ask_to_grow(node),
            _ => {
                self.force(node);
            }
        }
    }

    /// A fault ends.
    pub fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::Start(node) => self.start(node),
            Heal::Resume(node) => self.resume(node),
            Heal::Network => self.heal_network(),
            Heal::ResumeResync(node) => {
                if self.can_be_asked(node) {
                    self.command(node, Command::ResumeResync);
                }
            }
            Heal::Path(_)
            | Heal::Everything
            | Heal::Arbiter
            | Heal::Fence(_)
            | Heal::Steps(_)
            | Heal::Service(..)
            | Heal::Shard(_) => self.heal_group(heal),
            Heal::Kill(node) => {
                if self.nodes[node].process.as_ref().is_some_and(|process| process.stopping) {
                    self.kill(node, "did not stop in time");
                    self.heal_later(Heal::Start(node));
                }
            }
        }
    }

    /// The daemon is killed and started again after a while.
    pub fn crash_for_a_while(&mut self, node: usize) {
        self.kill(node, "killed");
        self.heal_later(Heal::Start(node));
    }

    /// The machine loses its power and gets it back after a while.
    pub fn power_off_for_a_while(&mut self, node: usize) {
        self.power_off(node);
        self.heal_later(Heal::Start(node));
    }

    /// The machine loses its power.
    pub fn power_off(&mut self, node: usize) {
        self.log.say(|| format!("{:<5} loses its power", NAMES[node]));
        self.clock_goes_on(node);
        let process = self.nodes[node].lose_power(self.now, &mut self.random);
        if let Some(process) = process {
            self.bury(node, process);
        }
    }

    /// The daemon stands still.
    pub fn pause(&mut self, node: usize) {
        if let Some(process) = &mut self.nodes[node].process {
            process.paused = true;
        }
    }

    /// The daemon goes on.
    pub fn resume(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut().filter(|process| process.paused) else { return };
        process.paused = false;
        self.clock_goes_on(node);
        self.wake_up(node);
    }

    /// The thread of the volume makes turns again, and finds what came in meanwhile.
    pub fn wake_up(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        process.turn_at = None;
        process.tick_at = None;
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if std::mem::take(&mut process.arrivals_waiting)
            && let Some(session) = process.session
        {
            self.arrive(node, session);
        }
        self.wake(node, Duration::from_micros(50));
        self.wake_group(node);
        self.connect_soon();
    }

    /// The daemon is asked to stop in order.
    pub fn stop(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut().filter(|p| !p.stopping && !p.paused) else { return };
        process.stopping = true;
        if self.stop_group_first(node) {
            return;
        }
        let process = self.process_of(node);
        let clients: Vec<usize> = process.connections.keys().copied().collect();
        for client in clients {
            self.cut_client(node, client);
        }
        self.deliver(node, Input::Stop);
    }

    /// The session ends, by a reset that both ends get to know.
    pub fn reset_session(&mut self) {
        let Some(session) = self.link.sessions.keys().next_back().copied() else { return };
        self.link.lose_transit(session, &mut self.random);
        for node in 0..2 {
            let delay = self.random.span(Duration::from_micros(50), Duration::from_millis(300));
            self.after(delay, Event::SessionEnds { node, session, reason: "connection reset".into() });
        }
    }

    /// Nothing passes in either direction.
    pub fn cut_network(&mut self) {
        self.link.lossy = [true; 2];
        if let Some(session) = self.link.sessions.keys().next_back().copied()
            && self.random.chance(0.5)
        {
            self.link.lose_transit(session, &mut self.random);
        }
    }

    /// Everything passes again.
    pub fn heal_network(&mut self) {
        self.link.lossy = [false; 2];
        for node in 0..2 {
            for session in self.link.stuck_arrivals(node) {
                self.after(Duration::from_micros(100), Event::Arrive { node, session });
            }
        }
        // Ends whose other end is gone get to know it now; so do the ends of a stream that lost something.
        let ended: Vec<_> = self.link.sessions.values().filter(|s| s.open != [true; 2] || s.pipes[0].closed).collect();
        let ended: Vec<_> = ended.iter().map(|session| session.id).collect();
        for session in ended {
            for node in 0..2 {
                let delay = self.random.span(Duration::from_micros(50), Duration::from_millis(300));
                self.after(delay, Event::SessionEnds { node, session, reason: "connection reset".into() });
            }
        }
        self.connect_soon();
    }

    /// All faults end; nothing new happens.
    pub fn heal_everything(&mut self) {
        self.active = false;
        self.log.say(|| "*** everything heals".into());
        self.disconnected = false;
        self.heal_network();
        self.heal_the_outside();
        for node in 0..2 {
            self.nodes[node].faults = super::node::Faults::default();
            if self.nodes[node].process.as_ref().is_some_and(|process| process.stopping) {
                self.kill(node, "did not stop in time");
            }
            self.start(node);
            self.resume(node);
            if self.can_be_asked(node) {
                self.command(node, Command::ResumeResync);
            }
        }
    }
}
