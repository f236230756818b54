//! Starting and stopping what moves with the group, in order: one step in flight, a deadline on each, and nothing half done
//! left unsaid.
//!
//! - Start goes up the list. A step that fails is undone together with all that were completed, in reverse.
//! - Stop goes down the list. A resource that does not stop keeps what it needs running below it; the others stop. Whether
//!   it still runs is not known from then on, and the group must not be started elsewhere.

use super::interface::{ResourceSettings, Settings};
use crate::base::group::StepVerb;
use crate::base::limits::STEP_GRACE;
use crate::base::time::Moment;
use serde::Serialize;

/// What is known of one resource on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Not running.
    #[default]
    Stopped,
    /// Being started.
    Starting,
    /// Running.
    Running,
    /// Being stopped.
    Stopping,
    /// Could not be stopped, or the stop did not end: perhaps running.
    Unknown,
}

/// Where the plan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Everything is to run.
    Up,
    /// A start failed: what was done is taken back.
    Undo,
    /// Nothing is to run.
    Down,
}

/// A step in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Echoed in the answer.
    pub id: u64,
    /// Which resource.
    pub index: usize,
    /// What is done to it.
    pub verb: StepVerb,
    /// When the runtime must have answered.
    pub deadline: Moment,
}

/// How a plan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything runs.
    Up,
    /// Nothing runs.
    Down,
    /// This resource could not be started; everything is stopped again.
    StartFailed(usize),
    /// This resource could not be stopped.
    StopFailed(usize),
}

/// The resources and what is being done to them.
#[derive(Clone, Debug)]
pub struct Plan {
    resources: Vec<ResourceSettings>,
    standing: Vec<Standing>,
    direction: Option<Direction>,
    step: Option<Step>,
    /// The resource whose start failed.
    failed_start: Option<usize>,
    /// The first resource whose stop failed in this direction; it is not tried again.
    failed_stop: Option<usize>,
    tried: Vec<bool>,
}

impl Plan {
    /// Nothing runs.
    pub fn new(settings: &Settings) -> Plan {
        let resources = settings.resources.clone();
        let count = resources.len();
        Plan {
            resources,
            standing: vec![Standing::Stopped; count],
            direction: None,
            step: None,
            failed_start: None,
            failed_stop: None,
            tried: vec![false; count],
        }
    }

    /// Goes by other times from here on; a step in flight keeps its deadline.
    pub fn set_times(&mut self, resources: &[ResourceSettings]) {
        self.resources = resources.to_vec();
    }

    /// An earlier life of the daemon may have left anything running.
    pub fn doubt(&mut self) {
        for (standing, resource) in self.standing.iter_mut().zip(&self.resources) {
            *standing = if resource.skip { Standing::Stopped } else { Standing::Unknown };
        }
    }

    /// Begins to go somewhere. A step in flight ends first.
    pub fn go(&mut self, direction: Direction) {
        self.direction = Some(direction);
        self.failed_start = None;
        self.failed_stop = None;
        self.tried.fill(false);
    }

    /// The next step, or the end. `None` while a step is in flight or nothing is to be done.
    pub fn next(&mut self, now: Moment, id: u64) -> Option<Result<Step, End>> {
        if self.step.is_some() {
            return None;
        }
        let direction = self.direction?;
        let Some((index, verb)) = self.candidate(direction) else {
            self.direction = None;
            return Some(Err(self.end(direction)));
        };
        let resource = &self.resources[index];
        let (timeout, standing) = match verb {
            StepVerb::Start => (resource.start_timeout, Standing::Starting),
            StepVerb::Stop => (resource.stop_timeout, Standing::Stopping),
        };
        self.standing[index] = standing;
        self.tried[index] = true;
        let step = Step { id, index, verb, deadline: now + timeout };
        self.step = Some(step);
        Some(Ok(step))
    }

    fn candidate(&self, direction: Direction) -> Option<(usize, StepVerb)> {
        match direction {
            Direction::Up => {
                let wanted = |index: &usize| {
                    self.standing[*index] != Standing::Running && !self.resources[*index].skip && !self.tried[*index]
                };
                (0..self.resources.len()).find(wanted).map(|index| (index, StepVerb::Start))
            }
            Direction::Undo | Direction::Down => {
                let wanted = |index: &usize| {
                    self.standing[*index] != Standing::Stopped && !self.tried[*index] && !self.is_needed(*index)
                };
                (0..self.resources.len()).rev().find(wanted).map(|index| (index, StepVerb::Stop))
            }
        }
    }

    /// Whether something that is not stopped needs this resource.
    fn is_needed(&self, index: usize) -> bool {
        let stands = |other: usize| self.standing[other] != Standing::Stopped;
        (index + 1..self.resources.len()).any(|other| stands(other) && self.resources[other].needs.contains(&index))
    }

    fn end(&self, direction: Direction) -> End {
        match (direction, self.failed_stop, self.failed_start) {
            (_, Some(index), _) => End::StopFailed(index),
            (Direction::Undo, None, Some(index)) => End::StartFailed(index),
            (Direction::Up, ..) => End::Up,
            (Direction::Undo | Direction::Down, ..) => End::Down,
        }
    }

    /// A step was answered; `None` when it is not the one in flight.
    pub fn done(&mut self, id: u64, ok: bool) -> Option<Step> {
        let step = self.step.filter(|step| step.id == id)?;
        self.step = None;
        self.standing[step.index] = match (step.verb, ok) {
            (StepVerb::Start, true) => Standing::Running,
            (StepVerb::Stop, true) => Standing::Stopped,
            (_, false) => Standing::Unknown,
        };
        match (step.verb, ok, self.direction) {
            (StepVerb::Start, false, Some(Direction::Up)) => {
                self.direction = Some(Direction::Undo);
                self.failed_start = Some(step.index);
                self.tried.fill(false);
            }
            // Down began while it was being started: it is stopped like the others, whatever became of it.
            (StepVerb::Start, ..) => self.tried[step.index] = false,
            (StepVerb::Stop, false, Some(Direction::Down | Direction::Undo)) => {
                self.failed_stop = self.failed_stop.or(Some(step.index));
            }
            (StepVerb::Stop, ..) => {}
        }
        Some(step)
    }

    /// The step that was not answered in time, as a failed one.
    pub fn overdue(&mut self, now: Moment) -> Option<Step> {
        let step = self.step.filter(|step| now >= step.deadline + STEP_GRACE)?;
        self.done(step.id, false)
    }

    /// When the step in flight is overdue.
    pub fn deadline(&self) -> Option<Moment> {
        self.step.map(|step| step.deadline + STEP_GRACE)
    }

    /// The step in flight.
    pub fn step(&self) -> Option<Step> {
        self.step
    }

    /// Where it goes, while it goes.
    pub fn direction(&self) -> Option<Direction> {
        self.direction
    }

    /// What is known of each resource.
    pub fn standing(&self) -> &[Standing] {
        &self.standing
    }

    /// The resources.
    pub fn resources(&self) -> &[ResourceSettings] {
        &self.resources
    }

    /// Whether every resource is certainly stopped.
    pub fn is_down(&self) -> bool {
        self.standing.iter().all(|standing| *standing == Standing::Stopped)
    }

    /// Every resource is off, because the whole node was.
    pub fn forget(&mut self) {
        self.standing.fill(Standing::Stopped);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::settings;
    use super::*;

    /// Volume's file system, address, service; the service needs both.
    fn plan() -> Plan {
        let mut plan = Plan::new(&settings(0));
        assert_eq!(plan.resources.len(), 3);
        plan.resources[2].needs = vec![0, 1];
        plan
    }

    /// Goes on until the end, with these failing; says what was done.
    fn run(plan: &mut Plan, fails: &[(usize, StepVerb)]) -> (Vec<(usize, StepVerb)>, End) {
        let mut done = Vec::new();
        for id in 0.. {
            match plan.next(Moment(0), id).expect("no step is in flight") {
                Err(end) => return (done, end),
                Ok(step) => {
                    assert!(plan.next(Moment(0), id + 1000).is_none(), "one step in flight");
                    done.push((step.index, step.verb));
                    plan.done(id, !fails.contains(&(step.index, step.verb)));
                }
            }
        }
        unreachable!()
    }

    use StepVerb::{Start, Stop};

    #[test]
    fn up_in_order_and_down_in_reverse() {
        let mut plan = plan();
        plan.go(Direction::Up);
        assert_eq!(run(&mut plan, &[]), (vec![(0, Start), (1, Start), (2, Start)], End::Up));
        plan.go(Direction::Up);
        assert_eq!(run(&mut plan, &[]), (vec![], End::Up));
        plan.go(Direction::Down);
        assert_eq!(run(&mut plan, &[]), (vec![(2, Stop), (1, Stop), (0, Stop)], End::Down));
        assert!(plan.is_down());
    }

    #[test]
    fn a_failed_start_is_undone_itself_included() {
        let mut plan = plan();
        plan.go(Direction::Up);
        let expected = vec![(0, Start), (1, Start), (1, Stop), (0, Stop)];
        assert_eq!(run(&mut plan, &[(1, Start)]), (expected, End::StartFailed(1)));
        assert!(plan.is_down());
    }

    #[test]
    fn a_failed_stop_keeps_what_it_needs_and_is_said() {
        let mut plan = plan();
        plan.resources[2].needs = vec![0];
        plan.go(Direction::Up);
        run(&mut plan, &[]);
        plan.go(Direction::Down);
        assert_eq!(run(&mut plan, &[(2, Stop)]), (vec![(2, Stop), (1, Stop)], End::StopFailed(2)));
        assert_eq!(plan.standing(), [Standing::Running, Standing::Stopped, Standing::Unknown]);
        plan.go(Direction::Down);
        assert_eq!(run(&mut plan, &[]), (vec![(2, Stop), (0, Stop)], End::Down), "another try");
    }

    #[test]
    fn a_failed_undo_is_worse_than_the_failed_start() {
        let mut plan = plan();
        plan.go(Direction::Up);
        assert_eq!(run(&mut plan, &[(1, Start), (1, Stop)]).1, End::StopFailed(1));
    }

    #[test]
    fn down_while_a_start_is_in_flight_stops_it_as_well() {
        let mut plan = plan();
        plan.go(Direction::Up);
        let Some(Ok(step)) = plan.next(Moment(0), 7) else { panic!() };
        plan.go(Direction::Down);
        assert!(plan.next(Moment(0), 8).is_none());
        plan.done(step.id, true);
        assert_eq!(run(&mut plan, &[]), (vec![(0, Stop)], End::Down));
    }

    #[test]
    fn what_is_not_answered_in_time_has_failed() {
        let mut plan = plan();
        plan.go(Direction::Up);
        let Some(Ok(step)) = plan.next(Moment(0), 7) else { panic!() };
        assert_eq!(plan.overdue(step.deadline), None);
        assert_eq!(plan.overdue(step.deadline + STEP_GRACE), Some(step));
        assert_eq!(plan.done(7, true), None, "too late");
        assert_eq!(plan.standing()[0], Standing::Unknown);
    }
}
