//! What a failover group owns besides its volumes: one interface, one small module for each kind.
//!
//! ```text
//! failover core ── "run VERB of resource i by DEADLINE" ──▶ run() ──▶ Resource ──▶ Ok | Trouble
//!                                                            │           │
//!                  told what happens between two verbs ◀── Happened ◀────┘
//! ```
//! A resource decides nothing about the group: it does one thing, says whether it worked, and if not what, why and what to
//! do next. Every verb may be repeated: a start of what is started and a stop of what is stopped are successes. Every verb
//! ends by its deadline; [`run`] sees to it even if the module doesn't.
//!
//! | kind | module | started means |
//! |---|---|---|
//! | floating IP | [`address`] | the address is on the interface, nobody else had it, everybody was told |
//! | file system | [`filesystem`] | checked and mounted |
//! | script | [`script`] | its start program ended with success |
//! | service | [`service`] | its unit is active, or its process runs and is watched |
//! | synced files | [`files`] | the newest copy is in place |
//! | DNS update | [`dns`] | the server took the update |
//!
//! The volume itself is the mirror's and is joined by the daemon, behind the same interface.

pub mod context;
pub mod span;
pub mod trouble;

mod program;

pub mod address;
pub mod dns;
pub mod files;
pub mod filesystem;
pub mod script;
pub mod service;

pub use self::context::{Context, DiskOutcome, Place, Reason};
pub use self::trouble::{Trouble, TroubleKind};

use serde::{Deserialize, Serialize};
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// How long after its deadline a verb is given up that did not heed it.
const OVERRUN_MAX: Duration = Duration::from_secs(1);

/// What is asked of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Does the configuration fit this server? Changes nothing.
    Check,
    /// Bring it up here.
    Start,
    /// Take it down here.
    Stop,
    /// Is what was started still so? Repairs what can be repaired here.
    Monitor,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Check => "check",
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Monitor => "monitor",
        })
    }
}

/// What a resource is on this server right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As after a start.
    Started,
    /// As after a stop.
    Stopped,
    /// Neither: it was started and something is missing, or a stop left something behind.
    Broken,
    /// The configuration leaves it out on this server.
    Skipped,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Started => "started",
            State::Stopped => "stopped",
            State::Broken => "broken",
            State::Skipped => "skipped",
        })
    }
}

/// What `status` shows of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What it is.
    pub state: State,
    /// The evidence, one sentence for people.
    pub detail: String,
}

impl Status {
    /// A status with its evidence.
    pub fn new(state: State, detail: impl Into<String>) -> Status {
        Status { state, detail: detail.into() }
    }
}

/// Something a resource tells by itself, between two verbs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// Name of the resource.
    pub resource: String,
    /// What happened.
    pub what: What,
}

/// What can happen by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what", content = "detail")]
pub enum What {
    /// Something was wrong and was put right here. A sentence.
    Repaired(String),
    /// Something is wrong that could not be put right here: the group should act as for a failed monitor.
    Failed(Trouble),
    /// The same, where the configuration wants the group to stop here and go nowhere.
    StopServing(Trouble),
    /// Somebody must know, and the service goes on. A sentence.
    Alarm(String),
}

/// Where a resource tells what happens. Unbounded, but every sender bounds how often it speaks.
pub type Events = mpsc::UnboundedSender<Happened>;

/// An answer that takes time.
pub type Answer<'a, T = ()> = Pin<Box<dyn Future<Output = Result<T, Trouble>> + 'a>>;

/// One resource on this server. All calls are from the daemon's main thread, at most one verb at a time for a resource.
pub trait Resource {
    /// Its name: unique in the group.
    fn name(&self) -> &str;

    /// Does the configuration fit this server? Before anything is started, and before a group is enabled.
    fn check<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a>;

    /// Brings it up here. After a failure, what was begun is undone by `stop`.
    fn start<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a>;

    /// Takes it down here. A failure is [`TroubleKind::StopFailed`]: the resource may still be in use here, so it must not
    /// be started elsewhere before this server is known to have let go.
    fn stop<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a>;

    /// Looks whether it is still as started, and repairs what can be repaired here.
    fn monitor<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a>;

    /// The other server is heard again, so the network may have healed: what clients have to learn is told once more.
    fn announce(&self) {}

    /// Goes by other settings of its kind from here on, started or not. False: it can't; it has to be made anew.
    fn reconfigure(&self, _settings: &dyn Any) -> bool {
        false
    }

    /// What it is right now, found by looking, not by remembering.
    fn status<'a>(&'a self, deadline: Instant) -> Answer<'a, Status>;
}

/// Runs a verb, and ends it when it overruns its deadline.
pub async fn run(resource: &dyn Resource, verb: Verb, context: &Context, deadline: Instant) -> Result<(), Trouble> {
    let answer = match verb {
        Verb::Check => resource.check(context, deadline),
        Verb::Start => resource.start(context, deadline),
        Verb::Stop => resource.stop(context, deadline),
        Verb::Monitor => resource.monitor(context, deadline),
    };
    let result = match timeout_at(deadline + OVERRUN_MAX, answer).await {
        Ok(result) => result,
        Err(_) => Err(Trouble::transient(
            resource.name(),
            format!("{verb} did not end by its deadline"),
            "look at the log for what it waits for, or give it a longer time",
        )),
    };
    match verb {
        // Whatever went wrong in a stop: what matters is that the resource may still be in use here.
        Verb::Stop => result.map_err(|trouble| Trouble { kind: TroubleKind::StopFailed, ..trouble }),
        _ => result,
    }
}

/// Time left until a deadline.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hanging;

    impl Resource for Hanging {
        fn name(&self) -> &str {
            "hanging"
        }
        fn check<'a>(&'a self, _: &'a Context, _: Instant) -> Answer<'a> {
            Box::pin(async { Ok(()) })
        }
        fn start<'a>(&'a self, _: &'a Context, _: Instant) -> Answer<'a> {
            Box::pin(std::future::pending())
        }
        fn stop<'a>(&'a self, _: &'a Context, _: Instant) -> Answer<'a> {
            Box::pin(async { Err(Trouble::config("hanging", "it is odd", "mend it")) })
        }
        fn monitor<'a>(&'a self, _: &'a Context, _: Instant) -> Answer<'a> {
            Box::pin(std::future::pending())
        }
        fn status<'a>(&'a self, _: Instant) -> Answer<'a, Status> {
            Box::pin(async { Ok(Status::new(State::Stopped, "never started")) })
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_verb_that_ignores_its_deadline_is_ended() {
        let deadline = Instant::now();
        let context = Context::for_tests();
        let trouble = run(&Hanging, Verb::Start, &context, deadline).await.unwrap_err();
        assert_eq!(trouble.kind, TroubleKind::Transient);
        assert!(trouble.to_string().contains("hanging: start did not end by its deadline"), "{trouble}");
        assert!(run(&Hanging, Verb::Check, &context, deadline).await.is_ok());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn whatever_fails_in_a_stop_is_a_failed_stop() {
        let trouble = run(&Hanging, Verb::Stop, &Context::for_tests(), Instant::now()).await.unwrap_err();
        assert_eq!(trouble.kind, TroubleKind::StopFailed);
        assert_eq!(trouble.reason, "it is odd");
    }
}
