//! Heartbeats, the arbiter, the fencing agent, probes and resources, as they answer a group's core.

use super::super::clients::Client;
use super::super::node::NAMES;
use super::super::world::{Event, World};
use super::GroupEvent;
use super::register::{Answer, Arbiter};
use std::time::Duration;
use twinblock::base::group::{Reason, StepVerb};
use twinblock::base::heartbeat::Heartbeat;
use twinblock::base::time::Moment;
use twinblock::logic::failover::interface::{ArbiterCall, Input, Way};
use twinblock::logic::failover::state::Phase;

/// Which resource is the floating address.
pub const ADDRESS: usize = 1;
/// Time after which a call to the arbiter is given up.
const ARBITER_TIMEOUT: Duration = Duration::from_secs(1);

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn arbiter_input(id: u64, answer: Answer) -> Box<Input> {
    Box::new(match answer {
        Answer::Read(outcome) => Input::ArbiterRead { id, outcome },
        Answer::Cas(outcome) => Input::ArbiterCas { id, outcome },
    })
}

impl World {
    pub(super) fn send_heartbeat(&mut self, to: usize, path: usize, heartbeat: Box<Heartbeat>) {
        let group = self.group().expect("it has a group");
        let (loss, delay) = (group.loss_per_mille, group.heartbeat_delay);
        if self.outside.cut[path][to] || self.random.below(1000) < loss {
            return;
        }
        let delay = self.random.span(Duration::from_micros(100), delay);
        self.group_event(delay, GroupEvent::Heartbeat { to, path, heartbeat });
    }

    pub(super) fn call_arbiter(&mut self, from: usize, id: u64, call: ArbiterCall) {
        let life = self.process_of(from).life;
        if self.outside.arbiter.away[from] {
            // Half the time it may have been asked, as far as the caller knows; sometimes it was.
            let asked = self.random.chance(0.5);
            if asked && self.random.chance(0.3) {
                let late = self.random.span(millis(1), millis(3_000));
                self.group_event(late, GroupEvent::ArbiterHears { from, life, id, call, answer_lost: true });
            }
            let input = arbiter_input(id, Arbiter::silence(call, asked));
            self.group_event(millis(300), GroupEvent::Answer { to: from, life, input });
            return;
        }
        let usual = self.group().expect("it has a group").arbiter_delay;
        let slowest = if self.outside.arbiter.slow { millis(2_500) } else { usual };
        let delay = self.random.span(millis(1), slowest);
        let lost = self.outside.arbiter.ambiguous && self.random.chance(0.6) || delay > ARBITER_TIMEOUT;
        self.group_event(delay, GroupEvent::ArbiterHears { from, life, id, call, answer_lost: lost });
        if lost {
            let input = arbiter_input(id, Arbiter::silence(call, true));
            self.group_event(ARBITER_TIMEOUT, GroupEvent::Answer { to: from, life, input });
        }
    }

    pub(super) fn arbiter_hears(&mut self, from: usize, life: u64, id: u64, call: ArbiterCall, answer_lost: bool) {
        let before = self.outside.arbiter.standing;
        let answer = self.outside.arbiter.carry_out(call);
        self.log.say(|| format!("arbiter: {} {call:?} -> {answer:?}", NAMES[from]));
        self.check_record_change(before, self.outside.arbiter.standing);
        if !answer_lost {
            let delay = self.random.span(millis(1), millis(10));
            self.group_event(delay, GroupEvent::Answer { to: from, life, input: arbiter_input(id, answer) });
        }
    }

    pub(super) fn fenced(&mut self, by: usize, life: u64, id: u64) {
        self.outside.shots -= 1;
        if !self.alive(by, life) {
            return;
        }
        let result = if self.outside.fence_broken[by] {
            Err("the agent does not answer".to_string())
        } else {
            self.power_off(1 - by);
            let back = self.random.span(millis(500), millis(10_000));
            self.after(back, Event::Heal(super::super::nemesis::Heal::Start(1 - by)));
            Ok(())
        };
        self.group_input(by, Input::Fenced { id, result });
    }

    pub(super) fn probe(&mut self, node: usize, id: u64) {
        let life = self.process_of(node).life;
        let answers = self.nodes[1 - node].process.is_some() && !self.outside.client_split;
        let input = Box::new(Input::Probed { id, targets_answer: true, peer_answers: answers });
        self.group_event(millis(20), GroupEvent::Answer { to: node, life, input });
    }

    // --- resources

    pub(super) fn begin_step(&mut self, at: usize, step: (u64, usize, StepVerb), deadline: Moment) {
        let (id, index, verb) = step;
        self.log.say(|| format!("{:<5} => {verb} {index}", NAMES[at]));
        self.outside.steps += 1;
        let life = self.process_of(at).life;
        let hangs = self.outside.step_hangs[at] == Some((index, verb));
        let given_up = self.nodes[at].clock.when(deadline).filter(|_| hangs);
        let delay = self.random.span(millis(1), millis(60));
        let when = given_up.unwrap_or(self.now + delay);
        self.group_event_at(when, GroupEvent::Step { at, life, id, index, verb, gives_up: hangs });
    }

    pub(super) fn stepped(&mut self, at: usize, life: u64, step: (u64, usize, StepVerb), gives_up: bool) {
        let (id, index, verb) = step;
        self.outside.steps -= 1;
        if !self.alive(at, life) {
            return;
        }
        let fails = gives_up || self.outside.step_fails[at] == Some((index, verb));
        if !fails {
            self.nodes[at].lasting.running[index] = verb == StepVerb::Start;
            if verb == StepVerb::Start {
                self.check_resource_start(at, index);
            }
            if (index, verb) == (ADDRESS, StepVerb::Start) {
                // What clients of the other server send to the address comes here now, and is answered by a reset. What
                // they had sent before waits in sockets over there.
                self.clients.iter_mut().filter(|c| c.connected_to() == Some(1 - at)).for_each(Client::lost_connection);
            }
        }
        let result = if fails { Err("simulated".to_string()) } else { Ok(()) };
        self.group_input(at, Input::StepDone { id, result });
    }

    /// After a handover, a resource must not start while the one who handed it over knows that it may still run there.
    fn check_resource_start(&self, at: usize, index: usize) {
        let state = |node: usize| self.side(node).and_then(|side| side.core.as_ref()).map(|core| core.state());
        let (Some(here), Some(there)) = (state(at), state(1 - at)) else { return };
        let handed = matches!(here.phase, Phase::TakingOver { way: Way::Handover, .. });
        let unknown = self.nodes[1 - at].lasting.running[index] && there.failed == Some(Reason::StopFailed);
        assert!(!(handed && unknown), "{} starts resource {index}, which the other could not stop", NAMES[at]);
    }

    /// Whether the floating address answers here: it is taken off when the gate closes. A killed process leaves it.
    pub fn holds_address(&self, node: usize) -> bool {
        let clock = self.clock(node);
        let awake = self.nodes[node].process.as_ref().is_some_and(|process| !process.paused);
        let open = self.side(node).is_some_and(|side| side.gate.allows(clock));
        awake && open && self.nodes[node].lasting.running[ADDRESS]
    }

    /// A killed daemon's connections are refused at once, and its peer tries soon.
    pub fn refusals_after_kill(&mut self, node: usize) {
        if self.group().is_some() {
            self.group_event(millis(5), GroupEvent::Refused { to: 1 - node });
        }
    }
}
