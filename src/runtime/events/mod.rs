//! Events: what happened to groups and volumes, kept across restarts, shown by `events`, announced to a hook program.
//!
//! ```text
//! groups' thread ─▶┐                    ┌─▶ ring in memory ─▶ `events`, `events --follow`
//! main thread ────▶│  thread "events" ──┼─▶ journal in state_dir, durable
//!                  └  numbers, in order └─▶ hook, one at a time
//! ```
//! Whoever records an event never waits: neither a slow disk nor a hanging hook holds up a failover. The journal is in the
//! state directory and not in a volume's metadata area, because what matters most is what happened when a disk failed or
//! could not be opened; and a group has several volumes, or a node none of them.
//!
//! A change of role that has begun and not ended when the daemon ends is announced as ended, as cut off, by its next life.

mod hook;
mod keeper;

pub use self::hook::HookSpec;
use crate::base::limits::EVENTS_WAITING_MAX;
use crate::io::clock::calendar;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Out of the ordinary.
    Warning,
    /// Somebody should look.
    Error,
}

impl From<tracing::Level> for Severity {
    fn from(level: tracing::Level) -> Severity {
        match level {
            tracing::Level::ERROR => Severity::Error,
            tracing::Level::WARN => Severity::Warning,
            _ => Severity::Info,
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Rises by one with every event of this node, over restarts, too.
    pub number: u64,
    /// When, in UTC.
    pub time: String,
    /// On which node.
    pub node: String,
    /// To which group; none when it is about a volume without one, or the daemon.
    pub group: Option<String>,
    /// What kind of thing: one of [`kind`].
    pub kind: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence for people.
    pub words: String,
    /// The same for machines; its fields depend on the kind.
    pub detail: Value,
}

/// The kinds of events. Those with a star are announced to the hook.
///
/// | kind | what |
/// |---|---|
/// | `role-change-began` * | `detail`: `change` (`to-owner`, `to-standby`), `reason`, `rule` |
/// | `role-change-ended` * | the same, `done`, `took_ms`, `stages` (each `stage` and `ms`) |
/// | `held` *, `split-brain` *, `stuck` * | nothing is served; both served; a volume's thread stands |
/// | `arbiter` *, `fencing-device` *, `fence-failed` * | who decides can't be asked, or can again |
/// | `step-failed` *, `resource-failed` *, `resource-well` *, `resource-alarm` * | `detail`: `resource`; a duplicate address is an alarm |
/// | `disk-failed` * | `detail`: `volume` |
/// | `config-differs` *, `heartbeat-refused` * | the other server's configuration; datagrams that are not the peer's |
/// | `state`, `alone`, `paired`, `peer`, `path`, `one-way`, `resource-repaired`, `disk`, `resync`, `verify`, `volume-held`, `daemon`, `hook-failed` | the rest |
pub mod kind {
    /// A change of role began.
    pub const BEGAN: &str = "role-change-began";
    /// A change of role ended.
    pub const ENDED: &str = "role-change-ended";
    /// A resource can't be started or stopped.
    pub const STEP_FAILED: &str = "step-failed";
    /// A resource was found down.
    pub const RESOURCE_FAILED: &str = "resource-failed";
    /// A resource is well again.
    pub const RESOURCE_WELL: &str = "resource-well";
    /// Somebody must know of a resource that goes on.
    pub const RESOURCE_ALARM: &str = "resource-alarm";
    /// A resource was put right here.
    pub const RESOURCE_REPAIRED: &str = "resource-repaired";
    /// A disk is not used any more.
    pub const DISK_FAILED: &str = "disk-failed";
    /// What switches the peer off.
    pub const FENCING_DEVICE: &str = "fencing-device";
    /// Datagrams that are not the peer's.
    pub const HEARTBEAT_REFUSED: &str = "heartbeat-refused";
    /// A hook did not do its work.
    pub const HOOK_FAILED: &str = "hook-failed";
    /// The daemon started or stopped.
    pub const DAEMON: &str = "daemon";

    /// What the hook is not told.
    const QUIET: [&str; 13] = [
        "state",
        "alone",
        "paired",
        "peer",
        "path",
        "one-way",
        RESOURCE_REPAIRED,
        "disk",
        "resync",
        "verify",
        "volume-held",
        DAEMON,
        HOOK_FAILED,
    ];

    /// Whether the hook is told.
    pub fn is_announced(kind: &str) -> bool {
        !QUIET.contains(&kind)
    }
}

/// An event to record.
#[derive(Clone, Debug)]
pub struct New {
    /// To which group.
    pub group: Option<String>,
    /// One of [`kind`].
    pub kind: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence for people.
    pub words: String,
    /// The same for machines.
    pub detail: Value,
}

/// What the events of a daemon are kept and announced with.
pub struct EventsSpec {
    /// Name of this node.
    pub node: String,
    /// Name of the cluster, for the hook.
    pub cluster: String,
    /// Where the journal is.
    pub state_dir: PathBuf,
    /// Who is told.
    pub hooks: Hooks,
}

/// The programs that are told of announcements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// The one for groups that have none of their own.
    pub all: Option<HookSpec>,
    /// Those of groups.
    pub groups: HashMap<String, HookSpec>,
}

/// Records events and shows them, from any thread.
#[derive(Clone)]
pub struct Events {
    sender: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

enum Message {
    Record { new: New, at: u64 },
    Reconfigure(Hooks),
    Flush(oneshot::Sender<()>),
}

struct Shared {
    ring: Mutex<VecDeque<Event>>,
    /// Number of the newest event.
    newest: watch::Sender<u64>,
    /// Events that nobody could take.
    lost: AtomicU64,
}

/// Events in answer to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Oldest first.
    pub events: Vec<Event>,
    /// To be asked for next: what comes after this number.
    pub after: u64,
}

impl Events {
    /// Starts the thread. The error is a sentence.
    pub fn start(spec: EventsSpec) -> Result<Events, String> {
        let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
        let shared =
            Arc::new(Shared { ring: Mutex::default(), newest: watch::Sender::new(0), lost: AtomicU64::new(0) });
        keeper::start(spec, shared.clone(), receiver)?;
        Ok(Events { sender, shared })
    }

    /// Records an event. Never waits: if nobody can take it, it is counted and the loss is told.
    pub fn record(&self, new: New) {
        if self.sender.try_send(Message::Record { new, at: calendar() }).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Others are told from here on.
    pub fn reconfigure(&self, hooks: Hooks) {
        if self.sender.try_send(Message::Reconfigure(hooks)).is_err() {
            tracing::error!("the hooks stay as they were: too many events wait; reload once more");
        }
    }

    /// What happened after an event, at most `most` of it; without a number, the newest.
    pub fn show(&self, group: Option<&str>, after: Option<u64>, most: usize) -> Shown {
        let ring = self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |event: &&Event| group.is_none() || event.group.as_deref() == group;
        let newest = ring.back().map_or(after.unwrap_or(0), |event| event.number);
        let events: Vec<Event> = match after {
            Some(after) => {
                ring.iter().filter(wanted).filter(|event| event.number > after).take(most).cloned().collect()
            }
            None => {
                let mut last: Vec<Event> = ring.iter().rev().filter(wanted).take(most).cloned().collect();
                last.reverse();
                last
            }
        };
        let after = match events.last() {
            Some(last) if events.len() == most => last.number,
            _ => newest,
        };
        Shown { events, after }
    }

    /// Waits until something happened after that event, for so long at most.
    pub async fn wait(&self, after: u64, longest: Duration) {
        let mut newest = self.shared.newest.subscribe();
        // Either way the caller looks again.
        let _ = tokio::time::timeout(longest, newest.wait_for(|newest| *newest > after)).await;
    }

    /// Waits until what was recorded is kept and announced, for so long at most.
    pub async fn flush(&self, longest: Duration) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if self.sender.send(Message::Flush(done)).await.is_ok() {
                let _ = flushed.await;
            }
        };
        let _ = tokio::time::timeout(longest, flush).await;
    }
}

impl New {
    /// An event of the daemon as a whole.
    pub fn of_daemon(severity: Severity, words: impl Into<String>) -> New {
        New { group: None, kind: kind::DAEMON.into(), severity, words: words.into(), detail: Value::Null }
    }
}
