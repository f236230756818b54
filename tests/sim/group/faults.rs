//! What goes wrong around a group, how it mends, and what operators ask of it.

use super::super::config::Act;
use super::super::nemesis::Heal;
use super::super::node::NAMES;
use super::super::world::{Event, World};
use super::choices;
use std::time::Duration;
use twinblock::base::group::{NodeState, Reason};
use twinblock::base::state::DiskState;
use twinblock::logic::failover::interface::{Input, Verb};

impl World {
    /// A fault of the group's own world.
    pub fn perform_on_group(&mut self, act: Act, node: usize) {
        let coin = self.random.chance(0.5);
        let path = self.random.below(2) as usize;
        let heal = match act {
            Act::CutPath => {
                self.outside.cut[path] = [true; 2];
                Heal::Path(path)
            }
            Act::CutPathOneWay => {
                self.outside.cut[path][node] = true;
                Heal::Path(path)
            }
            Act::CutAll => {
                self.isolate(coin);
                Heal::Everything
            }
            Act::ArbiterAway => {
                self.outside.arbiter.away[node] = true;
                Heal::Arbiter
            }
            Act::ArbiterSlow => {
                self.outside.arbiter.slow = true;
                Heal::Arbiter
            }
            Act::ArbiterAmbiguous => {
                self.outside.arbiter.ambiguous = true;
                Heal::Arbiter
            }
            Act::FenceBroken => {
                self.outside.fence_broken[node] = true;
                Heal::Fence(node)
            }
            Act::StepFails => {
                self.outside.step_fails[node] = Some(choices::step(&mut self.random));
                Heal::Steps(node)
            }
            Act::StepHangs => {
                self.outside.step_hangs[node] = Some(choices::step(&mut self.random));
                Heal::Steps(node)
            }
            Act::ServiceDown => {
                let index = self.random.below(3) as usize;
                if self.nodes[node].lasting.running[index] {
                    self.group_input(node, Input::Resource { index, trouble: Some("simulated".into()) });
                }
                Heal::Service(node, index)
            }
            Act::FalseRefusal => return self.group_input(node, Input::PeerRefused),
            Act::ShardStuck => {
                self.shard_sticks(node);
                Heal::Shard(node)
            }
            Act::PauseClock => {
                self.pause_with_clock(node);
                Heal::Resume(node)
            }
            Act::GroupVerb => {
                let verb = choices::verb(&mut self.random);
                self.ask_group(node, verb);
                return;
            }
            Act::GroupForce => {
                self.ask_group(node, Verb::Start { force: true });
                return;
            }
            other => unreachable!("{other:?} is no fault of a group"),
        };
        self.heal_later(heal);
    }

    /// Nothing passes between the two servers, on any path.
    pub fn isolate(&mut self, client_split: bool) {
        self.outside.cut = [[true; 2]; 2];
        self.outside.client_split = client_split;
        self.cut_network();
    }

    /// The volume's thread makes no turn any more.
    pub fn shard_sticks(&mut self, node: usize) {
        let now = self.now;
        if let Some(process) = &mut self.nodes[node].process {
            process.stuck.get_or_insert(now);
        }
    }

    fn shard_goes_on(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if process.stuck.take().is_some() {
            self.wake_up(node);
        }
    }

    /// The machine stands still, and its clock with it.
    pub fn pause_with_clock(&mut self, node: usize) {
        if self.nodes[node].process.as_ref().is_none_or(|process| process.paused) {
            return;
        }
        self.pause(node);
        let now = self.now;
        self.nodes[node].clock.hold(now, true);
        self.nodes[node].lasting.clock_stood_until = twinblock::base::time::Moment(u64::MAX);
    }

    /// The machine's clock goes on; for as long as a permit lasts, one that has ended may look valid.
    pub fn clock_goes_on(&mut self, node: usize) {
        let now = self.now;
        let lasting = &mut self.nodes[node].lasting;
        if lasting.clock_stood_until.0 == u64::MAX {
            let permit = self.config.group.as_ref().map_or(Duration::ZERO, |group| group.dead_after);
            lasting.clock_stood_until = now + permit;
            self.nodes[node].clock.hold(now, false);
        }
    }

    /// A fault of the group's own world ends.
    pub fn heal_group(&mut self, heal: Heal) {
        match heal {
            Heal::Path(path) => self.outside.cut[path] = [false; 2],
            Heal::Everything => {
                self.outside.cut = [[false; 2]; 2];
                self.outside.client_split = false;
                self.heal_network();
            }
            Heal::Arbiter => {
                let arbiter = &mut self.outside.arbiter;
                (arbiter.away, arbiter.slow, arbiter.ambiguous) = ([false; 2], false, false);
            }
            Heal::Fence(node) => self.outside.fence_broken[node] = false,
            Heal::Steps(node) => {
                self.outside.step_fails[node] = None;
                self.outside.step_hangs[node] = None;
            }
            Heal::Shard(node) => self.shard_goes_on(node),
            Heal::Service(node, index) => self.group_input(node, Input::Resource { index, trouble: None }),
            other => unreachable!("{other:?} heals nothing of a group"),
        }
    }

    /// Everything around the group is well again.
    pub fn heal_the_outside(&mut self) {
        self.heal_group(Heal::Everything);
        self.heal_group(Heal::Arbiter);
        for node in 0..2 {
            self.heal_group(Heal::Fence(node));
            self.heal_group(Heal::Shard(node));
            self.heal_group(Heal::Steps(node));
            for index in 0..3 {
                self.heal_group(Heal::Service(node, index));
            }
        }
    }

    /// What a careful operator does: what the table of states says, and no more.
    pub fn operate_group(&mut self) {
        for node in 0..2 {
            let Some(core) = self.side(node).and_then(|side| side.core.as_ref()) else { continue };
            let owner_without_disk =
                core.state().owns() && self.view(node).is_some_and(|view| view.disk == DiskState::Diskless);
            let shown = core.node_state();
            let verb = match shown {
                // A disk can't be attached to an owner: the group moves to the copy that serves, if it may.
                // Where there is none, it stops, so that the disk can be attached.
                _ if owner_without_disk && self.random.chance(0.4) => Verb::Move { to: None },
                _ if owner_without_disk && self.random.chance(0.4) => Verb::StopGroup,
                (NodeState::RunningInFailedMode, _) => Verb::Recover,
                (NodeState::Idle, Reason::Deactivated) => Verb::Activate,
                (NodeState::Idle, Reason::AdminRequest) => Verb::Start { force: false },
                (NodeState::Unknown, Reason::Disabled) => Verb::Enable,
                _ => continue,
            };
            self.ask_group(node, verb);
        }
    }

    /// Asks the daemon's group to stop first, then its volume: as the daemon does.
    pub fn stop_group_first(&mut self, node: usize) -> bool {
        let begun = self.side(node).is_some_and(|side| side.core.is_some() && !side.over);
        if begun {
            self.log.say(|| format!("{} is asked to stop", NAMES[node]));
            self.group_input(node, Input::Stop);
        }
        begun
    }

    /// Has a daemon started soon.
    pub fn start_soon(&mut self, node: usize, delay: Duration) {
        self.after(delay, Event::Heal(Heal::Start(node)));
    }
}
