//! A script of the operator: programs for start, stop and monitor, told why and where by their environment
//! ([`super::context`]).
//!
//! A program succeeds by ending with status 0. One that does not end in its time is asked to (SIGTERM), then killed with
//! its whole process group. What a start program leaves running on purpose stays; it is known by its mark, and when the
//! stop program has ended and some of it still runs, that is a failed stop, named.

use super::program;
use super::{Answer, Context, Resource, State, Status, Trouble, Verb};
use crate::io::process;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::time::Instant;

/// Processes named in a message; the others are counted.
const NAMED_MAX: usize = 5;

/// A script. Each command is a program with its arguments; the program's path is absolute.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptConfig {
    /// Name of the resource, unique in its group.
    pub name: String,
    /// Run to bring it up; starting what runs already must succeed.
    #[serde(default)]
    pub start: Option<Vec<String>>,
    /// Run to take it down; stopping what does not run must succeed.
    #[serde(default)]
    pub stop: Option<Vec<String>>,
    /// Run to see whether it is up.
    #[serde(default)]
    pub monitor: Option<Vec<String>>,
    /// After a stop, processes that the script left running are a failure (default), or are left alone.
    #[serde(default)]
    pub may_leave_processes: bool,
}

impl ScriptConfig {
    fn commands(&self) -> [(Verb, &Option<Vec<String>>); 3] {
        [(Verb::Start, &self.start), (Verb::Stop, &self.stop), (Verb::Monitor, &self.monitor)]
    }
}

/// A script of a group on this server.
pub struct Script {
    name: String,
    config: RefCell<Rc<ScriptConfig>>,
    started: Cell<bool>,
}

impl Script {
    /// A script that was not started yet.
    pub fn new(config: ScriptConfig) -> Script {
        Script { name: config.name.clone(), config: RefCell::new(Rc::new(config)), started: Cell::new(false) }
    }

    fn config(&self) -> Rc<ScriptConfig> {
        self.config.borrow().clone()
    }

    async fn check_now(&self, deadline: Instant) -> Result<(), Trouble> {
        let config = self.config();
        if config.commands().iter().all(|(_, command)| command.is_none()) {
            let reason = "it has neither a start, a stop nor a monitor program";
            return Err(Trouble::config(&self.name, reason, "write at least one"));
        }
        for (verb, command) in config.commands() {
            if let Some(command) = command {
                program::check_by(&format!("{} ({verb})", self.name), command, deadline).await?;
            }
        }
        Ok(())
    }

    async fn run(&self, verb: Verb, context: &Context, deadline: Instant) -> Result<(), Trouble> {
        let config = self.config();
        let command =
            config.commands().into_iter().find(|(of, _)| *of == verb).and_then(|(_, command)| command.as_ref());
        let Some(command) = command else { return Ok(()) };
        let thing = format!("{} ({verb})", self.name);
        // Looked at again: it may have vanished since the check.
        program::check_by(&thing, command, deadline).await?;
        program::run(&thing, &program::program(command, &self.name, context, verb), deadline).await
    }

    async fn stop_now(&self, context: &Context, deadline: Instant) -> Result<(), Trouble> {
        self.run(Verb::Stop, context, deadline).await?;
        self.started.set(false);
        let rest = process::marked(&program::mark(context, &self.name));
        if rest.is_empty() || self.config().may_leave_processes {
            return Ok(());
        }
        let named: Vec<String> = rest.iter().take(NAMED_MAX).map(|id| process::describe(*id)).collect();
        let more = rest.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(Trouble::transient(
            &self.name,
            format!("after its stop program these still run: {}{more}", named.join(", ")),
            "let the stop program end them, or set `may_leave_processes`",
        ))
    }
}

impl Resource for Script {
    fn name(&self) -> &str {
        &self.name
    }

    fn check<'a>(&'a self, _: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.check_now(deadline))
    }

    fn start<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(async move {
            self.run(Verb::Start, context, deadline).await?;
            self.started.set(true);
            Ok(())
        })
    }

    fn stop<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.stop_now(context, deadline))
    }

    fn monitor<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.run(Verb::Monitor, context, deadline))
    }

    fn reconfigure(&self, settings: &dyn Any) -> bool {
        let Some(new) = settings.downcast_ref::<ScriptConfig>() else { return false };
        self.config.replace(Rc::new(new.clone()));
        true
    }

    fn status<'a>(&'a self, _: Instant) -> Answer<'a, Status> {
        // A script's effect can't be seen; its monitor program would have to be run, which is not for looking.
        Box::pin(async {
            Ok(match self.started.get() {
                true => Status::new(State::Started, "its start program ended with success"),
                false => Status::new(State::Stopped, "not started by this daemon"),
            })
        })
    }
}
