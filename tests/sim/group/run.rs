//! Swarms of every mode: the volume's faults and the group's, then everything heals, and the pair serves, is in sync and
//! moves on request.

use super::super::config::{Config, Profile};
use super::super::swarm;
use super::super::world::World;
use std::time::Duration;
use twinblock::base::group::FailoverMode;
use twinblock::base::ids::NodeId;
use twinblock::logic::failover::interface::Verb;

/// Simulated time in which a healed pair must be settled: with an operator who does what `status` advises.
const CONVERGENCE_TIME: Duration = Duration::from_secs(400);

/// Time a planned move may take.
const MOVE_TIME: Duration = Duration::from_secs(15);
/// Times an operator asks for one.
const MOVES_MAX: u32 = 4;

impl World {
    /// The first part of a run with a group.
    pub fn play_group(&mut self) {
        for node in 0..2 {
            let late = if self.random.chance(0.2) { 700 } else { 1 + node as u64 };
            self.start_soon(node, Duration::from_millis(late));
        }
        self.operator_on_duty();
        self.wake_clients();
        self.nemesis_on_duty();
    }

    /// Demands that the healed pair is settled, in bounded time (I22).
    pub fn converge_group(&mut self) {
        let end = self.now + CONVERGENCE_TIME;
        while self.now < end {
            if self.run_until(Duration::from_secs(5), |world| world.is_settled() && world.group_is_settled()) {
                return;
            }
            self.resolve_refusal();
            for node in 0..2 {
                self.start(node);
            }
            self.operate_group();
        }
        let shown = |node: usize| {
            let core = self.side(node).and_then(|side| side.core.as_ref());
            format!("{:?}\n{:?}\n", core.map(|core| core.view()), self.view(node))
        };
        panic!(
            "the healed pair does not settle (I22): settled {} group {}\n{}{}",
            self.is_settled(),
            self.group_is_settled(),
            shown(0),
            shown(1)
        );
    }

    /// A planned move of the settled group, and back to rest. A refusal says why, and the operator sees to it and asks
    /// again: a server that has just started has yet to hear its peer, or what its resources are.
    pub fn move_group(&mut self, to: usize) -> bool {
        for _ in 0..MOVES_MAX {
            self.run_for(self.config.group.as_ref().map_or(Duration::ZERO, |group| group.dead_after));
            self.ask_group(to, Verb::Move { to: Some(NodeId(to as u8)) });
            if self.run_until(MOVE_TIME, |world| world.serving() == Some(to) && world.group_is_settled()) {
                return true;
            }
            self.operate_group();
        }
        false
    }
}

#[test]
fn f126_random_faults_in_mode_arbiter() {
    swarm(Profile::Group(FailoverMode::Arbiter));
}

#[test]
fn f126_random_faults_in_mode_fencing() {
    swarm(Profile::Group(FailoverMode::Fencing));
}

#[test]
fn f126_random_faults_in_mode_arbiter_and_fencing() {
    swarm(Profile::Group(FailoverMode::ArbiterFencing));
}

#[test]
fn f126_random_faults_in_mode_manual() {
    swarm(Profile::Group(FailoverMode::Manual));
}

#[test]
fn f126_random_faults_in_mode_best_effort() {
    swarm(Profile::Group(FailoverMode::BestEffort));
}

/// A quiet pair with a group in this mode, for stories.
pub fn scripted(seed: u64, mode: FailoverMode) -> Config {
    Config::scripted_group(seed, mode)
}
