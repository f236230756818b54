//! The state of a failover group on one node: what `group status --json` prints.
//!
//! Names of fields are kept from version to version; new ones may come. Times are RFC 3339 in UTC, durations are in
//! milliseconds, words such as states and reasons are lower case with hyphens, as in `running-in-backup-mode`.

use crate::base::group::ResourceState;
use serde::{Deserialize, Serialize};

/// One group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Its name.
    pub name: String,
    /// Who decides, as in the configuration.
    pub mode: String,
    /// Both nodes, this one first.
    pub nodes: Vec<NodeReport>,
    /// What the two states mean together.
    pub meaning: String,
    /// What to do about it.
    pub action: String,
    /// What limits the group right now, most urgent first; each a sentence with the next step.
    pub notices: Vec<String>,
    /// What moves with the group, on this node, in the order of the start.
    pub resources: Vec<ResourceReport>,
    /// What all this is concluded from.
    pub evidence: Evidence,
    /// The core's own view, for those who look closely. Its fields are not promised.
    pub group: serde_json::Value,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    pub node: String,
    /// Whether it is this one.
    pub here: bool,
    /// Whether it is heard; of one that is not, nothing below is known.
    pub heard: bool,
    /// Its part: `owner`, `standby` and so on.
    pub role: Option<String>,
    /// One of the twelve states.
    pub state: Option<String>,
    /// The same, for people.
    pub state_words: String,
    /// Why.
    pub reason: Option<String>,
    /// The same, for people.
    pub reason_words: String,
}

/// One resource on this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceReport {
    /// Its name.
    pub name: String,
    /// `filesystem`, `address`, `script`, `service` and so on.
    pub kind: String,
    /// Whether its failure moves the group.
    pub critical: bool,
    /// What it is.
    pub state: ResourceState,
    /// Since when.
    pub since: String,
    /// How long that is.
    pub for_ms: u64,
    /// Why, when it is not well; what the state means, otherwise.
    pub reason: String,
    /// What to do.
    pub next: String,
    /// It is not started, and could not be started on this server.
    #[serde(default)]
    pub unfit: bool,
    /// How often it was restarted or repaired here since it was started.
    pub restarts: u32,
    /// The last time of these, in words.
    pub last_restart: Option<String>,
    /// What a look at it has found just now, if it could be looked at.
    pub found: Option<String>,
}

/// What the state is concluded from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What the silence of the peer amounts to: `alive`, `suspect`, `lost`, or `unheard` since the start.
    pub peer: String,
    /// Whether everything the group needs is well there, or could be started, as it said last.
    #[serde(default)]
    pub peer_healthy: Option<bool>,
    /// How long nothing was heard on any path or the link; nothing since the start when it is missing.
    pub silent_ms: Option<u64>,
    /// How long ago the peer's volumes made a turn, as it said last.
    pub peer_turn_ms: Option<u64>,
    /// Whether both configurations agree; missing while the peer has not told.
    pub config_agrees: Option<bool>,
    /// Every heartbeat path.
    pub paths: Vec<PathEvidence>,
    /// How long the replication link carried nothing; nothing since the start when it is missing.
    pub link_silent_ms: Option<u64>,
    /// The arbiter, in modes that have one.
    pub arbiter: Option<ArbiterEvidence>,
    /// The device that switches the peer off, in modes that have one.
    pub fencing: Option<FencingEvidence>,
    /// The last change of role of this node.
    pub last_change: Option<ChangeEvidence>,
}

/// One heartbeat path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathEvidence {
    /// Its name.
    pub name: String,
    /// Whether the peer is heard there.
    pub up: bool,
    /// Since when it is so.
    pub since: String,
    /// How long that is.
    pub for_ms: u64,
    /// The peer is heard there, and does not hear us.
    pub one_way: bool,
    /// How long nothing came; nothing ever when it is missing.
    pub silent_ms: Option<u64>,
    /// What is wrong with it on this node.
    pub trouble: Option<String>,
    /// Heartbeats sent, not sent, and taken.
    pub sent: u64,
    /// See `sent`.
    pub unsent: u64,
    /// See `sent`.
    pub taken: u64,
    /// Datagrams that were not taken.
    pub refused: Vec<RefusedEvidence>,
}

/// Datagrams of one kind that were not taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RefusedEvidence {
    /// The kind, such as `wrong-key`, `other-cluster`, `replayed`.
    pub kind: String,
    /// How many since the daemon started.
    pub count: u64,
    /// How long ago the last one came.
    pub age_ms: u64,
    /// Why it was not taken, and what to do about it.
    pub words: String,
}

/// The arbiter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArbiterEvidence {
    /// `reachable`, `slow`, `unreachable`, or `unknown` before the first answer.
    pub state: String,
    /// How long ago it last answered.
    pub answered_ms: Option<u64>,
    /// How long that answer took.
    pub took_ms: Option<u64>,
    /// Owner in its record, by name.
    pub owner: Option<String>,
    /// Epoch of its record.
    pub epoch: Option<u64>,
    /// Nodes in sync as its record has it, by name.
    pub in_sync: Vec<String>,
    /// Each endpoint, or the directory: its name and what it is, or what is wrong with it.
    pub places: Vec<String>,
    /// What is allowed but unwise, or not proven yet.
    pub notes: Vec<String>,
    /// What the last look at all of it found wrong, though it may still answer; with the next step.
    #[serde(default)]
    pub trouble: Option<String>,
    /// The last trouble with it, also when it is over.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<String>,
}

/// The device that switches the peer off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FencingEvidence {
    /// `reachable`, `unreachable`, or `unknown` before the first look.
    pub state: String,
    /// How long ago it was looked at.
    pub checked_ms: Option<u64>,
    /// What is wrong with it.
    pub trouble: Option<String>,
}

/// A change of role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangeEvidence {
    /// `to-owner` or `to-standby`.
    pub change: String,
    /// Why.
    pub reason: String,
    /// The rule that decided it.
    pub rule: String,
    /// When it began.
    pub began: String,
    /// How it ended; missing while it is under way.
    pub done: Option<bool>,
}

/// What would happen to a group: what `explain --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupExplanation {
    /// Name of the group.
    pub group: String,
    /// What is taken for granted in every rehearsal.
    pub assumed: String,
    /// One loss after the other.
    pub losses: Vec<ExplainedLoss>,
}

/// What one loss would lead to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedLoss {
    /// The kind: `this-server`, `peer`, `path`, `link`, `network`, `disk`, `arbiter`, `resource`.
    pub loss: String,
    /// What dies, in words.
    pub what: String,
    /// Who would serve in the end, by name; nobody when it is missing.
    pub serves: Option<String>,
    /// How long until then nothing, or not everything, would be served.
    pub interrupted_ms: u64,
    /// Why nobody would serve, or what would be wrong all the same.
    pub why: Option<String>,
    /// How it would come about.
    pub timeline: Vec<ExplainedMoment>,
}

/// One thing that would be told on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedMoment {
    /// How long after the loss.
    pub after_ms: u64,
    /// What, as it would stand in the log.
    pub words: String,
}
