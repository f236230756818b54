//! Fencing: has the peer switched off by a program, and makes sure that it is off.
//!
//! | kind | how it is asked | answers |
//! |---|---|---|
//! | agent (any `fence_*` program) | options as `key=value` lines on standard input, `action=…` among them | exit 0: done; for `status` 0: on, 2: off |
//! | script | arguments `ACTION VICTIM`, and the environment of [`script`] | the same, and 3 for `status`: it can't tell |
//!
//! The victim counts as off only when `off` ended well **and** its status was read as off afterwards, again and again until
//! the deadline: agents whose `off` only asks for it exist, and so do agents that say yes to everything. A status of 2
//! alone is not enough, for a shell ends so, too, when it can't read a script. What was killed at its deadline may still
//! work on the far side, so the outcome is unknown, and asking again is right: switching off twice does no harm.
//!
//! | file | what it does |
//! |---|---|
//! | here | off, status, until confirmed |
//! | [`agent`], [`script`] | how each kind is asked |
//! | [`program`] | runs one program: its time, its output, its process group |

pub mod agent;
pub mod script;

pub mod program;

#[cfg(test)]
mod tests;

use self::agent::AgentSpec;
use self::program::{End, Finished};
use self::script::ScriptSpec;
use crate::base::limits::FENCING_STATUS_INTERVAL;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How a node is fenced.
#[derive(Clone, Debug)]
pub enum FencingSpec {
    /// By a fence agent.
    Agent(AgentSpec),
    /// By a script of the operator's.
    Script(ScriptSpec),
}

/// The fencing of one node by the other.
#[derive(Debug)]
pub struct Fencing {
    spec: FencingSpec,
    /// Who is switched off, by whom, in which cluster.
    names: Names,
    times: Times,
    /// One program at a time.
    turn: tokio::sync::Mutex<()>,
}

/// Names a fencing program is told.
#[derive(Clone, Debug)]
pub struct Names {
    /// The cluster.
    pub cluster: String,
    /// The node that is to be switched off.
    pub victim: String,
    /// The node that has it done.
    pub by: String,
}

/// How long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// All of it, from the order to the confirmation. Three quarters are for `off`.
    pub deadline: Duration,
    /// One read of the status.
    pub status: Duration,
}

/// How it ended. The sentence is for people and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The victim is off.
    Confirmed(String),
    /// It is not, as far as the program tells.
    Failed(String),
    /// It may be off, or may be switched off later.
    Unknown(String),
}

/// What to have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Switch the victim off.
    Off,
    /// Switch it on.
    On,
    /// Tell whether it is on.
    Status,
    /// Tell whether the device that switches can be reached.
    Monitor,
}

impl Action {
    /// Its name, as programs are told.
    pub fn word(self) -> &'static str {
        match self {
            Action::Off => "off",
            Action::On => "on",
            Action::Status => "status",
            Action::Monitor => "monitor",
        }
    }
}

/// The victim's power, as the program tells.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Power {
    On,
    Off,
    /// The script has no way to tell.
    NotTold,
    /// Why it could not be read.
    Unreadable(String),
}

impl Outcome {
    /// What the failover core is told.
    pub fn into_result(self) -> Result<(), String> {
        match self {
            Outcome::Confirmed(_) => Ok(()),
            Outcome::Failed(reason) | Outcome::Unknown(reason) => Err(reason),
        }
    }
}

impl Fencing {
    /// The fencing of a node; the error is what is wrong with the specification.
    pub fn new(spec: FencingSpec, names: Names, times: Times) -> Result<Fencing, String> {
        if let FencingSpec::Agent(agent) = &spec {
            agent.check()?;
        }
        Ok(Fencing { spec, names, times, turn: tokio::sync::Mutex::new(()) })
    }

    /// Switches the victim off and makes sure. Answers soon after the deadline at the latest.
    pub async fn off(&self) -> Outcome {
        let _turn = self.turn.lock().await;
        let began = Instant::now();
        let deadline = began + self.times.deadline;
        let off = match self.run(Action::Off, began + self.times.deadline * 3 / 4).await {
            Ok(off) => off,
            Err(reason) => return Outcome::Failed(reason),
        };
        match off.end {
            End::Exit(0) => self.confirm(began, deadline).await,
            End::Late => Outcome::Unknown(format!(
                "{} did not end within {}; it may still switch {} off{}",
                self.call(Action::Off),
                seconds(self.times.deadline * 3 / 4),
                self.names.victim,
                off.said()
            )),
            end => Outcome::Failed(format!("{} {end}{}", self.call(Action::Off), off.said())),
        }
    }

    /// Switches the victim on again, where it is to come back by itself.
    pub async fn on(&self) -> Result<(), String> {
        self.plain(Action::On, self.times.deadline).await
    }

    /// Whether the program and the device behind it can be reached.
    pub async fn monitor(&self) -> Result<(), String> {
        self.plain(Action::Monitor, self.times.status).await
    }

    async fn plain(&self, action: Action, time: Duration) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let done = self.run(action, Instant::now() + time).await?;
        match done.end {
            End::Exit(0) => Ok(()),
            end => Err(format!("{} {end}{}", self.call(action), done.said())),
        }
    }

    /// Reads the status until it is off, or time is up.
    async fn confirm(&self, began: Instant, deadline: Instant) -> Outcome {
        let victim = &self.names.victim;
        loop {
            let read = self.power(deadline.min(Instant::now() + self.times.status)).await;
            let took = seconds(began.elapsed());
            match &read {
                Power::Off => return Outcome::Confirmed(format!("{victim} is off, as its status says, after {took}")),
                Power::NotTold => {
                    let words = format!("{victim} is off after {took}, as the script says; it has no status to read");
                    return Outcome::Confirmed(words);
                }
                Power::On | Power::Unreadable(_) => {}
            }
            let next = Instant::now() + FENCING_STATUS_INTERVAL;
            if next >= deadline {
                let off = self.call(Action::Off);
                return match read {
                    Power::Unreadable(why) => {
                        Outcome::Unknown(format!("{off} ended well, but whether {victim} is off can't be read: {why}"))
                    }
                    _ => Outcome::Failed(format!("{off} ended well, but {victim} is still on after {took}")),
                };
            }
            sleep_until(next).await;
        }
    }

    async fn power(&self, deadline: Instant) -> Power {
        let read = match self.run(Action::Status, deadline).await {
            Ok(read) => read,
            Err(reason) => return Power::Unreadable(reason),
        };
        match (read.end, &self.spec) {
            (End::Exit(0), _) => Power::On,
            (End::Exit(2), _) => Power::Off,
            (End::Exit(3), FencingSpec::Script(_)) => Power::NotTold,
            (end, _) => Power::Unreadable(format!("{} {end}{}", self.call(Action::Status), read.said())),
        }
    }

    async fn run(&self, action: Action, deadline: Instant) -> Result<Finished, String> {
        let program = match &self.spec {
            FencingSpec::Agent(agent) => agent.program(action, &self.names)?,
            FencingSpec::Script(script) => script.program(action, &self.names, deadline),
        };
        program::run(&program, deadline).await
    }

    /// The program and what it was asked, for messages.
    fn call(&self, action: Action) -> String {
        let file = match &self.spec {
            FencingSpec::Agent(agent) => &agent.file,
            FencingSpec::Script(script) => &script.file,
        };
        format!("fencing by `{} {}`", file.display(), action.word())
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
