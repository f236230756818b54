//! What goes wrong, and how it mends.

use super::choices;
use super::config::Fault;
use super::world::{Event, World, ms};
use std::time::Duration;
use twinblock::logic::failover::interface::Input;

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub enum Heal {
    Path(usize, usize),
    Link,
    All,
    Start(usize),
    Arbiter(usize),
    ArbiterFast,
    ArbiterSure,
    Fence(usize),
    Disk(usize),
    Step(usize),
    Service(usize, usize),
}

impl World {
    /// Begins the faults.
    pub fn nemesis_on_duty(&mut self) {
        if !self.config.faults.is_empty() && !self.config.gap.is_zero() {
            let gap = self.random.span(self.config.gap / 4, self.config.gap * 2);
            self.after(gap, Event::Nemesis);
        }
    }

    /// One fault, and the next to come.
    pub fn nemesis(&mut self) {
        if self.healing {
            return;
        }
        let fault = *self.random.pick(&self.config.faults.clone());
        let node = self.random.below(2) as usize;
        self.fault(fault, node);
        self.nemesis_on_duty();
    }

    pub fn fault(&mut self, fault: Fault, node: usize) {
        let (low, high) = self.config.outage;
        let span = self.random.span(low, high);
        self.say(|| format!("fault: {fault:?} at {node} for {span:?}"));
        let heal = match fault {
            Fault::CutPath => {
                let path = self.random.below(2) as usize;
                self.cut[path] = [true; 2];
                self.after(span, Event::Heal(Heal::Path(path, 0)));
                Heal::Path(path, 1)
            }
            Fault::CutPathOneWay => {
                let path = self.random.below(2) as usize;
                self.cut[path][node] = true;
                Heal::Path(path, node)
            }
            Fault::CutLink => {
                self.link_cut = true;
                let at_once = self.random.chance(0.5);
                self.break_link(at_once);
                Heal::Link
            }
            Fault::CutAll => {
                self.cut = [[true; 2]; 2];
                self.link_cut = true;
                let at_once = self.random.chance(0.5);
                self.break_link(at_once);
                Heal::All
            }
            Fault::KillProcess => {
                self.crash(node, false);
                Heal::Start(node)
            }
            Fault::PowerOff => {
                self.crash(node, true);
                Heal::Start(node)
            }
            Fault::Pause => return self.pause(node, span, false),
            Fault::PauseClock => return self.pause(node, span, true),
            Fault::ArbiterAway => {
                self.arbiter.away[node] = true;
                Heal::Arbiter(node)
            }
            Fault::ArbiterSlow => {
                self.arbiter.slow = true;
                Heal::ArbiterFast
            }
            Fault::ArbiterAmbiguous => {
                self.arbiter.ambiguous = true;
                Heal::ArbiterSure
            }
            Fault::FenceBroken => {
                self.fence_broken[node] = true;
                Heal::Fence(node)
            }
            Fault::DiskFails => {
                self.nodes[node].disk_fails = true;
                if let Some(mirror) = self.mirror(node) {
                    mirror.failed = true;
                    self.end_session(node);
                    self.facts(node);
                }
                Heal::Disk(node)
            }
            other => return self.fault_of_service(other, node, span),
        };
        self.after(span, Event::Heal(heal));
    }

    /// What goes wrong with resources and with people.
    fn fault_of_service(&mut self, fault: Fault, node: usize, span: Duration) {
        let heal = match fault {
            Fault::StepFails => {
                self.step_fails[node] = Some(choices::step(&mut self.random));
                Heal::Step(node)
            }
            Fault::StepHangs => {
                self.step_hangs[node] = Some(choices::step(&mut self.random));
                Heal::Step(node)
            }
            Fault::ServiceDown => {
                let index = self.random.below(3) as usize;
                if self.nodes[node].running[index] {
                    self.input(node, Input::Resource { index, trouble: Some("simulated".into()) });
                }
                Heal::Service(node, index)
            }
            Fault::Operator => {
                let verb = choices::verb(&mut self.random);
                self.command(node, verb);
                return;
            }
            Fault::FalseRefusal => return self.input(node, Input::PeerRefused),
            Fault::StopDaemon => {
                self.input(node, Input::Stop);
                Heal::Start(node)
            }
            network => unreachable!("{network:?} is handled before"),
        };
        self.after(span, Event::Heal(heal));
    }

    pub fn heal(&mut self, heal: Heal) {
        self.say(|| format!("heals: {heal:?}"));
        match heal {
            Heal::Path(path, to) => self.cut[path][to] = false,
            Heal::Link => self.link_cut = false,
            Heal::All => {
                self.cut = [[false; 2]; 2];
                self.link_cut = false;
            }
            Heal::Start(node) => self.start(node),
            Heal::Arbiter(node) => self.arbiter.away[node] = false,
            Heal::ArbiterFast => self.arbiter.slow = false,
            Heal::ArbiterSure => self.arbiter.ambiguous = false,
            Heal::Fence(node) => self.fence_broken[node] = false,
            Heal::Disk(node) => {
                self.nodes[node].disk_fails = false;
                if let Some(mirror) = self.mirror(node) {
                    mirror.failed = false;
                    self.facts(node);
                }
            }
            Heal::Step(node) => {
                self.step_fails[node] = None;
                self.step_hangs[node] = None;
            }
            Heal::Service(node, index) => self.input(node, Input::Resource { index, trouble: None }),
        }
    }

    /// Everything is well again from here on.
    pub fn heal_everything(&mut self) {
        self.healing = true;
        self.say(|| "everything heals".into());
        for node in 0..2 {
            for heal in [Heal::Arbiter(node), Heal::Fence(node), Heal::Disk(node), Heal::Step(node)] {
                self.heal(heal);
            }
            for index in 0..3 {
                self.heal(Heal::Service(node, index));
            }
        }
        for heal in [Heal::All, Heal::ArbiterFast, Heal::ArbiterSure] {
            self.heal(heal);
        }
        for node in 0..2 {
            self.resume_now(node);
            self.after(ms(100), Event::Heal(Heal::Start(node)));
        }
    }
}
