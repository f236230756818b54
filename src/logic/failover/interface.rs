//! What goes into the failover core of one group, and what comes out.
//!
//! Contract with the runtime:
//! - Effects of one call carry no promise of order among themselves, except that a [`Effect::Gate`] is obeyed before anything
//!   else of its batch.
//! - Every [`Effect::Mirror`], [`Effect::Arbiter`], [`Effect::Fence`], [`Effect::Probe`] and [`Effect::Step`] is answered exactly
//!   once, in bounded time, failures included. An answer that comes too late is ignored by its id.
//! - The gate is looked at when a reply leaves, not when its request came: a turn that overran must not answer.
//! - [`Input::Mirror`] comes whenever a fact of any volume changes, and before the answer to an order that changed it.

use crate::base::arbiter::{ArbiterError, CasOutcome, ReadOutcome, Record, Versioned};
use crate::base::command::CommandOutcome;
use crate::base::group::{FailoverMode, Memory, NodeState, Reason, Stage, StepVerb};
use crate::base::heartbeat::Heartbeat;
use crate::base::ids::{BootId, CommandId, Incarnation, NodeId};
use crate::base::time::Moment;
pub use crate::base::volume::{Facts as MirrorFacts, Order as MirrorOrder, Way};
use serde::Serialize;
use std::time::Duration;

/// Settings of one group. Both nodes should have the same; the checksum in the heartbeats shows when they don't.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the group, for sentences.
    pub group: String,
    /// This node.
    pub node: NodeId,
    /// The node the group belongs on.
    pub home: NodeId,
    /// Names of both nodes, for sentences.
    pub node_names: [String; 2],
    /// Who decides.
    pub mode: FailoverMode,
    /// Names of the heartbeat paths; their number is the number of paths.
    pub paths: Vec<String>,
    /// Time between two heartbeats of one path.
    pub heartbeat_interval: Duration,
    /// Silence of every path and of the link after which the peer is suspected.
    pub suspect_after: Duration,
    /// Silence of every path and of the link after which the peer is lost; also how long a promise holds.
    pub dead_after: Duration,
    /// Silence of the link alone, while clients wait and the peer is heard elsewhere, after which an owner goes on alone.
    pub link_silence: Duration,
    /// How long a starting node waits for a peer it never heard.
    pub init_dead_after: Duration,
    /// Largest difference of two clocks' rates, in parts per thousand.
    pub clock_rate_per_mille: u32,
    /// Taken off a permit besides, for what lies between a look at the clock and what follows.
    pub permit_margin: Duration,
    /// Time between two looks at the arbiter while nothing happens.
    pub arbiter_interval: Duration,
    /// Time between two tries at an arbiter, agent or ping that failed.
    pub retry_interval: Duration,
    /// Head start of the owner before a standby shoots.
    pub fence_delay: Duration,
    /// Best effort: how long every address of the peer must be silent.
    pub quiet_time: Duration,
    /// A rebooted node, or one of an asynchronous volume, may take over although acknowledged writes may be lost.
    pub unclean_takeover: bool,
    /// How long a rebooted node waits for its peer before that.
    pub peer_wait: Duration,
    /// How long a group must have been well at home's peer before it returns by itself; `None`: by hand only.
    pub fallback_after: Option<Duration>,
    /// Shortest time between two changes of role that are not forced by a loss.
    pub flap_guard: Duration,
    /// How long a volume without its disk may go on before the group moves.
    pub critical_delay_storage: Duration,
    /// How long a critical resource may be down before the group moves.
    pub critical_delay_service: Duration,
    /// A shard that makes no turn for so long is stuck.
    pub stall_after: Duration,
    /// Longest time an order to the mirror may take.
    pub mirror_timeout: Duration,
    /// How long a standby may leave the offer of the group unanswered before that is said.
    pub handover_timeout: Duration,
    /// The group starts by itself when both nodes are up.
    pub auto_start: bool,
    /// What moves with the group, in the order of its start; each depends only on earlier ones.
    pub resources: Vec<ResourceSettings>,
    /// Checksum of what both configurations must agree on.
    pub config: u64,
    /// Software version: major, minor, patch.
    pub version: [u16; 3],
}

/// One resource of the group.
#[derive(Clone, Debug)]
pub struct ResourceSettings {
    /// Name, for sentences.
    pub name: String,
    /// Indices of the resources it needs.
    pub needs: Vec<usize>,
    /// Its failure moves the group.
    pub critical: bool,
    /// It is not brought up on this node.
    pub skip: bool,
    /// Longest time its start may take.
    pub start_timeout: Duration,
    /// Longest time its stop may take.
    pub stop_timeout: Duration,
}

/// Who this process is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// This life of the daemon.
    pub incarnation: Incarnation,
    /// This boot.
    pub boot: BootId,
    /// Seed of the core's own random numbers.
    pub seed: u64,
}

/// What happened outside.
#[derive(Debug, Clone)]
pub enum Input {
    /// A heartbeat of the peer, authenticated, of this group.
    Heartbeat {
        /// On which path.
        path: usize,
        /// What it says.
        heartbeat: Box<Heartbeat>,
    },
    /// The replication link carried something from the peer.
    LinkHeard,
    /// Every address of the peer refused a connection: its host lives, its daemon doesn't.
    PeerRefused,
    /// The volumes' facts changed.
    Mirror(MirrorFacts),
    /// An order was carried out, or could not be.
    MirrorDone {
        /// Which.
        id: u64,
        /// How; the sentence says why not.
        result: Result<(), String>,
    },
    /// The answer to a read of the record.
    ArbiterRead {
        /// Which.
        id: u64,
        /// What it yielded.
        outcome: ReadOutcome,
    },
    /// The answer to a change of the record.
    ArbiterCas {
        /// Which.
        id: u64,
        /// What it yielded.
        outcome: CasOutcome,
    },
    /// A look at every part of the arbiter, now and then: what would keep the record from being changed or believed, which
    /// reading it does not show; or that nothing would.
    ArbiterLooked {
        /// `None`: well.
        trouble: Option<ArbiterError>,
    },
    /// The fencing agent ended.
    Fenced {
        /// Which.
        id: u64,
        /// `Ok` only when the peer's status was read as off afterwards.
        result: Result<(), String>,
    },
    /// The answer to a probe.
    Probed {
        /// Which.
        id: u64,
        /// A ping target answered.
        targets_answer: bool,
        /// The peer, or whoever holds the floating addresses, answered.
        peer_answers: bool,
    },
    /// A step ended.
    StepDone {
        /// Which.
        id: u64,
        /// How; the sentence says why not.
        result: Result<(), String>,
    },
    /// A monitor found a running resource down, or well again. Local restarts and repairs were tried before.
    Resource {
        /// Which.
        index: usize,
        /// `None`: well.
        trouble: Option<String>,
    },
    /// How long ago the shard made its last turn.
    TurnAge(Duration),
    /// An operator's command.
    Command {
        /// Echoed in the outcome.
        id: CommandId,
        /// What is asked.
        verb: Verb,
    },
    /// The daemon is to stop: hand over or stop the group, then [`Effect::Stopped`].
    Stop,
    /// The deadline of [`super::Failover::next_deadline`] has come (or any other reason to look at the clock).
    Tick,
}

/// What an operator may ask of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Start the group here; with force although the peer may hold newer data or serve.
    Start {
        /// See above.
        force: bool,
    },
    /// Stop the group on both nodes.
    StopGroup,
    /// Move the group, in order.
    Move {
        /// To this node; `None`: to the other one.
        to: Option<NodeId>,
    },
    /// Return the group to its home node, in order.
    Fallback,
    /// Leave the failed state: stop what is half done, start anew.
    Recover,
    /// Allow automatic changes of role, if the pair is fit.
    Enable,
    /// Forbid automatic changes of role.
    Disable,
    /// Take this node out: move the group away; it stays away.
    Deactivate,
    /// Put this node back.
    Activate,
}

/// What may leave for clients, and whether the floating addresses may be up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Nothing; floating addresses are taken off at once.
    Closed,
    /// Replies and addresses until this moment, not later.
    Until(Moment),
    /// Replies and addresses.
    Open,
}

impl Gate {
    /// Whether something may leave now.
    pub fn allows(self, now: Moment) -> bool {
        match self {
            Gate::Closed => false,
            Gate::Until(end) => now < end,
            Gate::Open => true,
        }
    }
}

/// What the core wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a heartbeat.
    Heartbeat {
        /// On which path.
        path: usize,
        /// What to say.
        heartbeat: Box<Heartbeat>,
    },
    /// Replaces the gate of before.
    Gate(Gate),
    /// An order to the volumes; answered by [`Input::MirrorDone`].
    Mirror {
        /// Echoed in the answer.
        id: u64,
        /// What is ordered.
        order: MirrorOrder,
    },
    /// Ask the arbiter; answered by [`Input::ArbiterRead`] or [`Input::ArbiterCas`].
    Arbiter {
        /// Echoed in the answer.
        id: u64,
        /// What to ask.
        call: ArbiterCall,
    },
    /// Switch the peer off and make sure; answered by [`Input::Fenced`].
    Fence {
        /// Echoed in the answer.
        id: u64,
    },
    /// Ping the targets, the peer's addresses and the floating ones; answered by [`Input::Probed`].
    Probe {
        /// Echoed in the answer.
        id: u64,
    },
    /// Start or stop a resource; answered by [`Input::StepDone`].
    Step {
        /// Echoed in the answer.
        id: u64,
        /// Which resource.
        index: usize,
        /// What to do.
        verb: StepVerb,
        /// Give up then, and answer.
        deadline: Moment,
        /// Why the group moves, for scripts.
        reason: Reason,
    },
    /// Keep this across restarts. Nothing waits for it.
    Remember(Memory),
    /// A command ended.
    CommandDone {
        /// Which.
        id: CommandId,
        /// How.
        outcome: CommandOutcome,
    },
    /// End this process at once, unclean: a thread of it is stuck while it owns the group.
    Abort {
        /// For the log.
        reason: String,
    },
    /// The group is handed over or stopped; the process may end.
    Stopped,
    /// Something worth telling.
    Note(Note),
}

/// What is asked of the arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArbiterCall {
    /// The record.
    Read,
    /// Change it, if it stands where it is expected.
    Cas {
        /// What must stand there.
        expected: Option<Versioned>,
        /// What is to stand there.
        new: Record,
    },
}

/// Things worth telling: announcements, alarms, evidence.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "note")]
pub enum Note {
    /// A path to the peer fell silent, or is heard again.
    Path {
        /// Which.
        path: usize,
        /// Heard.
        up: bool,
    },
    /// The peer is heard on this path but does not hear us there; or no longer so.
    OneWay {
        /// Which.
        path: usize,
        /// Still.
        one_way: bool,
    },
    /// The peer's liveness changed.
    Peer {
        /// What it is now.
        level: super::detector::Level,
        /// By which evidence.
        evidence: &'static str,
    },
    /// A change of role began.
    Began {
        /// What becomes of this node.
        change: Change,
        /// Why.
        reason: Reason,
        /// The named rule.
        rule: &'static str,
    },
    /// A change of role ended.
    Ended {
        /// What this node was becoming.
        change: Change,
        /// Why.
        reason: Reason,
        /// Whether it came to be.
        done: bool,
        /// How long each stage took.
        stages: Vec<(Stage, Duration)>,
    },
    /// This node serves alone from now on: the peer is excluded.
    Alone {
        /// How it was excluded.
        rule: &'static str,
    },
    /// Nothing is served until it is known who owns the group; or it is again.
    Held {
        /// Held.
        held: bool,
        /// Why.
        reason: Reason,
    },
    /// Both nodes hold every write, and either may take over.
    Paired,
    /// A resource could not be started or stopped, or was given up at its deadline.
    StepFailed {
        /// Which.
        index: usize,
        /// What was to be done.
        verb: StepVerb,
        /// Why not.
        why: String,
    },
    /// The arbiter does not answer, or does again.
    Arbiter {
        /// What is wrong; `None`: nothing any more.
        trouble: Option<String>,
    },
    /// The fencing agent failed.
    FenceFailed {
        /// Why.
        why: String,
    },
    /// Both nodes served.
    SplitBrain,
    /// The shard is stuck, or turns again.
    Stuck {
        /// On this node; otherwise on the peer.
        here: bool,
        /// Stuck.
        stuck: bool,
    },
    /// The node's state changed.
    State {
        /// Now.
        state: NodeState,
        /// Why.
        reason: Reason,
    },
    /// What the two servers must agree on differs, or no longer does.
    ConfigDiffers {
        /// Differs.
        differs: bool,
    },
}

/// A change of role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// To owner.
    ToOwner,
    /// To standby.
    ToStandby,
}
