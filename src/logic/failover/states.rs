//! The twelve node states as a view of what is going on, and the table of what a pair of them means and wants.
//!
//! The table is the documentation: `status` prints from it, and the tests prove that no run reaches a pair without a row.

use super::detector::Level;
use super::interface::Way;
use super::state::{Leave, Phase, State, TakeStep};
use crate::base::group::{GroupRole, NodeState, Reason};
use serde::Serialize;

/// What the derivation looks at besides the state itself.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// This is the group's home node.
    pub home: bool,
    /// How well the peer is heard.
    pub level: Level,
    /// What the peer said it is, when it is heard.
    pub peer: Option<GroupRole>,
    /// An operator took this node out.
    pub deactivated: bool,
    /// The operators want no automatic change.
    pub disabled: bool,
    /// The operators want the group stopped.
    pub stopped: bool,
    /// The disk is good.
    pub storage: bool,
    /// Neither node has the volume's data yet.
    pub no_data: bool,
    /// No critical resource is down.
    pub services: bool,
    /// Every acknowledged write is on both.
    pub in_sync: bool,
    /// The volumes are connected and being brought in sync.
    pub resyncing: bool,
    /// An owner that may not serve right now.
    pub held: bool,
    /// The mode has an arbiter and it does not answer.
    pub arbiter_down: bool,
    /// Its record went back in time.
    pub arbiter_back: bool,
    /// Both nodes went on alone.
    pub split: bool,
}

/// The state of a node and why.
pub fn derive(state: &State, now: &Situation) -> (NodeState, Reason) {
    if let Some(reason) = state.failed {
        return (NodeState::RunningInFailedMode, reason);
    }
    if now.split {
        return (NodeState::RunningInFailedMode, Reason::SplitBrain);
    }
    match state.phase {
        Phase::Starting => (NodeState::Initializing, Reason::Initialization),
        Phase::Gone => (NodeState::Unknown, Reason::PeerReboot),
        Phase::TakingOver { way, step } => taking_over(state, now, way, step),
        Phase::Leaving { how, .. } => leaving(state, now, how),
        Phase::Owner => owner(state, now),
        Phase::Standby => standby(state, now),
    }
}

fn taking_over(state: &State, now: &Situation, way: Way, step: TakeStep) -> (NodeState, Reason) {
    match way {
        Way::Claim if step != TakeStep::Starting => (NodeState::Initializing, Reason::Initialization),
        Way::Handover | Way::Claim if now.home => (NodeState::TakingBack, state.reason),
        _ => (NodeState::TakingOver, state.reason),
    }
}

fn leaving(state: &State, now: &Situation, how: Leave) -> (NodeState, Reason) {
    match how {
        Leave::Move if !now.home => (NodeState::FallingBack, state.reason),
        _ => (NodeState::FailingOver, state.reason),
    }
}

fn owner(state: &State, now: &Situation) -> (NodeState, Reason) {
    let reason = match () {
        () if now.disabled => return (NodeState::Unknown, Reason::Disabled),
        () if now.held => Reason::LeaseLost,
        () if !now.storage => Reason::StorageFailure,
        () if !now.services => Reason::CriticalServiceDown,
        () if now.arbiter_back => Reason::ArbiterWentBack,
        () if now.arbiter_down => Reason::ArbiterUnreachable,
        () if !now.home => state.reason,
        () if now.level == Level::Lost || now.level == Level::Unheard => Reason::PeerDown,
        () if !now.in_sync => Reason::ResyncInProgress,
        () => Reason::Normal,
    };
    let place = if now.home { NodeState::Normal } else { NodeState::RunningInBackupMode };
    (place, reason)
}

fn standby(state: &State, now: &Situation) -> (NodeState, Reason) {
    let broken = NodeState::FailedOverCriticalServicesNotRunning;
    let heard = matches!(now.level, Level::Alive | Level::Suspect);
    let peer_owns = now.peer.is_some_and(|role| matches!(role, GroupRole::Owner | GroupRole::Leaving));
    match () {
        () if now.deactivated => (NodeState::Idle, Reason::Deactivated),
        () if now.stopped => (NodeState::Idle, Reason::AdminRequest),
        () if now.disabled => (NodeState::Unknown, Reason::Disabled),
        () if now.no_data => (NodeState::Initializing, Reason::NoData),
        () if !now.storage => (broken, Reason::StorageFailure),
        () if !now.services => (broken, Reason::CriticalServiceDown),
        () if !heard && now.arbiter_back => (NodeState::Unknown, Reason::ArbiterWentBack),
        () if !heard && now.arbiter_down => (NodeState::Unknown, Reason::NetworkIsolated),
        () if !heard => (NodeState::Unknown, Reason::PeerDown),
        () if !peer_owns => (NodeState::Initializing, Reason::Initialization),
        () if now.home && state.reason == Reason::AdminRequest => (NodeState::Idle, Reason::AdminRequest),
        () if now.home => (NodeState::FailedOver, state.reason),
        () if now.arbiter_back => (NodeState::Normal, Reason::ArbiterWentBack),
        () if now.arbiter_down => (NodeState::Normal, Reason::ArbiterUnreachable),
        () if !now.in_sync => (NodeState::Normal, Reason::ResyncInProgress),
        () => (NodeState::Normal, Reason::Normal),
    }
}

/// What a pair of states means, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What is going on, one sentence.
    pub meaning: &'static str,
    /// What to do, one sentence.
    pub action: &'static str,
}

/// One row: either node may be the one, the first row that fits counts.
pub struct Row {
    /// What the one node is.
    pub one: Pattern,
    /// What the other is.
    pub other: Pattern,
    /// What follows.
    pub advice: Advice,
}

/// Which states and reasons a row is about. An empty list means any.
#[derive(Clone, Copy)]
pub enum Pattern {
    /// Heard, and in one of these states for one of these reasons.
    In(&'static [NodeState], &'static [Reason]),
    /// Not heard.
    Unreachable,
    /// Whatever it is.
    Any,
}

impl Pattern {
    fn fits(&self, node: Option<(NodeState, Reason)>) -> bool {
        match (self, node) {
            (Pattern::Any, _) | (Pattern::Unreachable, None) => true,
            (Pattern::In(states, reasons), Some((state, reason))) => {
                (states.is_empty() || states.contains(&state)) && (reasons.is_empty() || reasons.contains(&reason))
            }
            _ => false,
        }
    }
}

/// What to say of this node's state and its peer's; `None` for the peer when it is not heard.
pub fn advice(own: (NodeState, Reason), peer: Option<(NodeState, Reason)>) -> Option<Advice> {
    let fits =
        |row: &&Row| row.one.fits(Some(own)) && row.other.fits(peer) || row.one.fits(peer) && row.other.fits(Some(own));
    TABLE.iter().find(fits).map(|row| row.advice)
}

const fn row(one: Pattern, other: Pattern, meaning: &'static str, action: &'static str) -> Row {
    Row { one, other, advice: Advice { meaning, action } }
}

use NodeState as S;
use Pattern::{Any, In, Unreachable};
use Reason as R;

const HEALTHY: &[NodeState] = &[S::Normal];
const BACKUP: &[NodeState] = &[S::RunningInBackupMode];
const SERVING: &[NodeState] = &[S::Normal, S::RunningInBackupMode];
const FAILED: &[NodeState] = &[S::RunningInFailedMode];
const AWAY: &[NodeState] = &[S::FailedOver, S::Idle];
const BROKEN: &[NodeState] = &[S::FailedOverCriticalServicesNotRunning];
const INITIALIZING: &[NodeState] = &[S::Initializing];
const MOVING: &[NodeState] = &[S::TakingOver, S::FailingOver, S::FallingBack, S::TakingBack];

/// Every row, the most urgent first.
pub const TABLE: &[Row] = &[
    row(
        In(FAILED, &[R::SplitBrain]),
        Any,
        "Both nodes went on alone; each may hold writes that the other lacks.",
        "Compare both copies, choose the one to give up, and run `split-brain resolve --discard NODE`; its writes are archived.",
    ),
    row(
        In(FAILED, &[R::StopFailed]),
        Any,
        "A resource did not stop on one node, and may still run there; the group is not started elsewhere.",
        "Stop that resource by hand on that node (the event log names it), then run `group recover`; or switch the node off.",
    ),
    row(
        In(FAILED, &[R::CriticalServiceStartFailed]),
        Any,
        "A critical resource did not start; what had been started was stopped again.",
        "Mend that resource (the event log names it), then run `group recover`; or move the group.",
    ),
    row(
        In(FAILED, &[R::CriticalServiceDown]),
        Any,
        "A critical resource is down on the only node that can serve.",
        "Mend that resource, then run `group recover`.",
    ),
    row(
        In(FAILED, &[R::StorageFailure]),
        Any,
        "The disk failed on the only node that can serve.",
        "Bring the other node up; or `group stop`, replace the disk, `attach` it, `group start`.",
    ),
    row(
        In(FAILED, &[R::TakeoverFailed, R::TakebackFailed]),
        Any,
        "Becoming owner failed on the way.",
        "Look at the event log for the stage that failed, mend it, then run `group recover`.",
    ),
    row(
        In(FAILED, &[]),
        Any,
        "Something failed and wants an operator.",
        "Look at the event log, then run `group recover`.",
    ),
    row(
        In(SERVING, &[R::LeaseLost]),
        Any,
        "The owner serves nothing until it is known who owns the group.",
        "Mend the network between the servers, or the way to the arbiter or the fencing agent; it goes on, or gives up, by itself.",
    ),
    row(
        In(&[], &[R::ArbiterWentBack]),
        Any,
        "The arbiter's record is older than one seen before; there is no automatic failover.",
        "Find out which server holds the newest data, then run `group recover` on it, which writes a newer record.",
    ),
    row(
        In(MOVING, &[]),
        Any,
        "The group is changing its node.",
        "Wait; the event log shows each stage. If it lasts, run `group recover`.",
    ),
    row(
        In(&[], &[R::ArbiterUnreachable]),
        Any,
        "The group runs, and there is no automatic failover: the arbiter can't be used.",
        "Bring the arbiter back, or the network to it, or mend what the notices say of it.",
    ),
    row(
        In(&[S::Unknown], &[R::Disabled]),
        Any,
        "High availability is disabled: no node changes its role by itself.",
        "Run `group enable` when the pair is fit.",
    ),
    row(
        In(&[S::Idle], &[R::AdminRequest]),
        In(&[S::Idle], &[]),
        "The group is stopped on both nodes by an operator.",
        "Run `group start` when it is wanted.",
    ),
    row(
        In(&[S::Idle], &[R::AdminRequest]),
        Unreachable,
        "The group is stopped by an operator; the other node is not heard.",
        "Run `group start` when it is wanted.",
    ),
    row(
        In(&[S::Idle], &[R::Deactivated]),
        In(SERVING, &[]),
        "One node was taken out by an operator; there is no failover to it.",
        "Run `activate` there when it may serve again.",
    ),
    row(
        In(&[S::Idle], &[R::Deactivated]),
        Any,
        "One node was taken out by an operator, and the other does not serve.",
        "Bring the other node up, or run `activate` here.",
    ),
    row(
        In(INITIALIZING, &[R::NoData]),
        Any,
        "A new pair: both disks are new and of unknown content, so neither node has the volume's data yet.",
        "Choose the disk to keep, on its own node: `resync VOLUME --source NODE` with that node's name; or stop both daemons and make both blank with `init-disk VOLUME --overwrite --zero`. Then the group starts by itself.",
    ),
    row(
        In(BROKEN, &[R::StorageFailure]),
        In(SERVING, &[]),
        "The group runs on one node; the disk of the other failed or is not usable.",
        "Repair or replace that disk and attach it; wait for the resync; then fall back if wanted.",
    ),
    row(
        In(BROKEN, &[]),
        In(SERVING, &[]),
        "The group runs on one node; a critical resource of the other is down.",
        "Mend that resource; then fall back if wanted.",
    ),
    row(
        In(BROKEN, &[]),
        Any,
        "This node can't serve, and the other does not.",
        "Mend the disk or resource that is down, or bring the other node up.",
    ),
    row(
        In(BACKUP, &[R::StorageFailure]),
        Any,
        "The disk of the serving node failed; its peer's copy serves.",
        "Nothing if the group moves by itself; otherwise move it, then replace the disk.",
    ),
    row(
        In(SERVING, &[R::StorageFailure, R::CriticalServiceDown]),
        Any,
        "The serving node lost its disk or a critical resource.",
        "Nothing if the group moves by itself; otherwise mend it, or move the group.",
    ),
    row(
        In(BACKUP, &[]),
        In(AWAY, &[]),
        "The group runs away from home, and home is healthy.",
        "Wait until the copy at home is in sync, then run `group fallback` when wanted.",
    ),
    row(
        In(BACKUP, &[]),
        Unreachable,
        "The group runs away from home, and home is not heard.",
        "Check home's power, daemon and networks; when it is back and in sync, run `group fallback`.",
    ),
    row(
        In(BACKUP, &[]),
        In(&[S::Initializing, S::Unknown], &[]),
        "The group runs away from home, and home is starting or lost sight of it.",
        "Wait; if it lasts, check the networks between the servers.",
    ),
    row(
        In(HEALTHY, &[R::ResyncInProgress]),
        In(HEALTHY, &[]),
        "The group runs; the other copy is being brought up to date and can't take over yet.",
        "Wait; `status` shows how far the resync is.",
    ),
    row(In(HEALTHY, &[]), In(HEALTHY, &[]), "Healthy.", "Nothing."),
    row(
        In(HEALTHY, &[]),
        Unreachable,
        "The group runs at home; the other node is not heard and can't take over.",
        "Check the other node's power, daemon and networks; it resyncs by itself when it is back.",
    ),
    row(
        In(HEALTHY, &[]),
        In(&[S::Initializing, S::Unknown], &[]),
        "The group runs at home; the other node is starting or lost sight of it.",
        "Wait; if it lasts, check the networks between the servers.",
    ),
    row(In(SERVING, &[]), In(AWAY, &[]), "The group runs; the other node just learns of it.", "Nothing."),
    row(
        In(SERVING, &[]),
        In(SERVING, &[]),
        "One of the two has just got the group and the other does not know it yet.",
        "Wait a moment; if it lasts, check the networks between the servers.",
    ),
    row(
        In(INITIALIZING, &[]),
        In(INITIALIZING, &[]),
        "Both nodes are starting and decide who serves.",
        "Wait; if it lasts, `status` names what is missing (a disk, a resync, a refused handshake).",
    ),
    row(
        In(INITIALIZING, &[]),
        Any,
        "A node is starting and looks for its peer.",
        "Wait for the other node, or start it.",
    ),
    row(
        In(&[S::Unknown], &[R::NetworkIsolated]),
        Any,
        "This node hears its peer no more and can't use the arbiter, so it does not serve.",
        "Mend this node's network, or what the notices say of the arbiter.",
    ),
    row(
        In(&[S::Unknown], &[R::PeerDown]),
        Any,
        "The peer is not heard, and this node may not or can't take over.",
        "Bring the peer up; or, sure that it is off, run `group start --force` here: what only the peer has is given up.",
    ),
    row(In(&[S::Unknown], &[R::PeerReboot]), Any, "The daemon is stopping in order.", "Start it again when wanted."),
    row(
        In(AWAY, &[]),
        Any,
        "This node leaves the group to its peer, which does not serve it.",
        "Wait; if it lasts, look at the peer's state.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_the_first_that_fits() {
        for (index, row) in TABLE.iter().enumerate() {
            let mut reached = false;
            let all =
                || NodeState::ALL.iter().flat_map(|state| Reason::ALL.iter().map(move |reason| (*state, *reason)));
            for own in all() {
                for peer in all().map(Some).chain([None]) {
                    reached |= advice(own, peer) == Some(row.advice);
                }
            }
            assert!(reached, "row {index} is hidden: {}", row.advice.meaning);
        }
    }

    #[test]
    fn advice_does_not_depend_on_who_asks() {
        for own in NodeState::ALL {
            for peer in NodeState::ALL {
                for reason in Reason::ALL {
                    let (one, other) = ((*own, Reason::Normal), (*peer, *reason));
                    assert_eq!(advice(one, Some(other)), advice(other, Some(one)));
                }
            }
        }
    }
}
