//! A service on the volume: a systemd unit, or a program that this daemon keeps running.
//!
//! Either is watched and restarted when it ends by itself, up to a number of times; the count is forgotten when it has run
//! long enough. Beyond it the group is told: fail over, stop serving, or only say so.
//!
//! **systemd** is spoken to through `systemctl`: it is there wherever systemd is, its jobs wait for the unit, it can be
//! killed at a deadline, and `show` is made for machines. D-Bus would say the same with fifty more crates. The unit must
//! not be enabled: it is started by the group alone.
//!
//! **A program of our own** has a process group and a mark of its own. It dies with the daemon (its volume does, too); what
//! it forked is found by the mark and ended at stop, and at the next start of the daemon ([`end_left_behind`]).

mod own;
mod systemd;

use self::own::Own;
use self::systemd::Unit;
use super::{Answer, Context, Events, Happened, Resource, Status, Trouble, What, program, span};
use crate::io::process;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// A service: either `unit` or `command`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Name of the resource, unique in its group.
    pub name: String,
    /// A systemd unit, as in `nginx.service`.
    #[serde(default)]
    pub unit: Option<String>,
    /// A program with its arguments that stays in the foreground; its path is absolute.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// A program that says whether the service answers (status 0), run by every monitor.
    #[serde(default)]
    pub monitor: Option<Vec<String>>,
    /// Time a program must run to count as started.
    #[serde(default = "settle", with = "span")]
    pub settle: Duration,
    /// Time between two looks at a unit.
    #[serde(default = "look_interval", with = "span")]
    pub look_interval: Duration,
    /// Restarts on this server before `beyond` is done.
    #[serde(default = "restarts_max")]
    pub restarts_max: u32,
    /// Time without an unwanted end after which earlier restarts are forgotten.
    #[serde(default = "restart_reset", with = "span")]
    pub restart_reset: Duration,
    /// Time between an unwanted end and the restart.
    #[serde(default = "restart_pause", with = "span")]
    pub restart_pause: Duration,
    /// What is done when it was restarted too often.
    #[serde(default)]
    pub beyond: Beyond,
    /// The program to speak to systemd by.
    #[serde(default = "systemctl")]
    pub systemctl: PathBuf,
}

/// What is done when a service was restarted too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Beyond {
    /// The group moves to the other server.
    #[default]
    Failover,
    /// The group stops on this server and goes nowhere.
    StopGroup,
    /// It is told, and the group goes on without the service.
    Alarm,
}

impl ServiceConfig {
    /// A program of our own with every default.
    pub fn of_command(name: &str, command: Vec<String>) -> ServiceConfig {
        ServiceConfig {
            name: name.into(),
            unit: None,
            command: Some(command),
            monitor: None,
            settle: settle(),
            look_interval: look_interval(),
            restarts_max: restarts_max(),
            restart_reset: restart_reset(),
            restart_pause: restart_pause(),
            beyond: Beyond::default(),
            systemctl: systemctl(),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            settle: self.settle,
            look_interval: self.look_interval,
            restarts_max: self.restarts_max,
            restart_reset: self.restart_reset,
            restart_pause: self.restart_pause,
            beyond: self.beyond,
        }
    }

    /// A unit with every default.
    pub fn of_unit(name: &str, unit: &str) -> ServiceConfig {
        ServiceConfig { unit: Some(unit.into()), command: None, ..ServiceConfig::of_command(name, Vec::new()) }
    }
}

/// What may change while a service runs.
#[derive(Clone, Copy, Debug)]
struct Limits {
    settle: Duration,
    look_interval: Duration,
    restarts_max: u32,
    restart_reset: Duration,
    restart_pause: Duration,
    beyond: Beyond,
}

/// A service of a group on this server.
pub struct Service {
    config: ServiceConfig,
    /// The configured one, until another one is set.
    monitor: RefCell<Option<Vec<String>>>,
    limits: Rc<Cell<Limits>>,
    kind: Kind,
}

enum Kind {
    Unit(Unit),
    Own(Own),
    /// Both or neither is configured; `check` says so.
    Unclear,
}

impl Service {
    /// A service that was not started yet; what happens to it is told to `events`.
    pub fn new(config: ServiceConfig, events: Events) -> Service {
        let limits = Rc::new(Cell::new(config.limits()));
        let kind = match (&config.unit, &config.command) {
            (Some(unit), None) => Kind::Unit(Unit::new(unit, &config, limits.clone(), events)),
            (None, Some(command)) => Kind::Own(Own::new(command, &config, limits.clone(), events)),
            _ => Kind::Unclear,
        };
        Service { monitor: RefCell::new(config.monitor.clone()), limits, config, kind }
    }

    fn unclear(&self) -> Trouble {
        let reason = "it needs either `unit` or `command`, and not both";
        Trouble::config(&self.config.name, reason, "name a systemd unit, or a program to keep running")
    }

    async fn check_now(&self, deadline: Instant) -> Result<(), Trouble> {
        let monitor = self.monitor.borrow().clone();
        if let Some(command) = &monitor {
            program::check_by(&format!("{} (monitor)", self.config.name), command, deadline).await?;
        }
        match &self.kind {
            Kind::Unit(unit) => unit.check(deadline).await,
            Kind::Own(own) => own.check(deadline).await,
            Kind::Unclear => Err(self.unclear()),
        }
    }

    async fn monitor_now(&self, context: &Context, deadline: Instant) -> Result<(), Trouble> {
        match &self.kind {
            Kind::Unit(unit) => unit.monitor(deadline).await?,
            Kind::Own(own) => own.monitor()?,
            Kind::Unclear => return Err(self.unclear()),
        }
        let monitor = self.monitor.borrow().clone();
        let Some(command) = &monitor else { return Ok(()) };
        let thing = format!("{} (monitor)", self.config.name);
        let what = program::program(command, &self.config.name, context, super::Verb::Monitor);
        // A mark of its own: a stop of the service must not end it, nor find it left over.
        let what = process::Program { mark: format!("{}+monitor", what.mark), ..what };
        program::run(&thing, &what, deadline).await
    }
}

impl Resource for Service {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn check<'a>(&'a self, _: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.check_now(deadline))
    }

    fn start<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(async move {
            match &self.kind {
                Kind::Unit(unit) => unit.start(deadline).await,
                Kind::Own(own) => own.start(context, deadline).await,
                Kind::Unclear => Err(self.unclear()),
            }
        })
    }

    fn stop<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(async move {
            match &self.kind {
                Kind::Unit(unit) => unit.stop(deadline).await,
                Kind::Own(own) => own.stop(context, deadline).await,
                Kind::Unclear => Ok(()),
            }
        })
    }

    fn monitor<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.monitor_now(context, deadline))
    }

    fn reconfigure(&self, settings: &dyn Any) -> bool {
        let same = |new: &&ServiceConfig| (&new.unit, &new.command) == (&self.config.unit, &self.config.command);
        let Some(new) = settings.downcast_ref::<ServiceConfig>().filter(same) else { return false };
        self.limits.set(new.limits());
        self.monitor.replace(new.monitor.clone());
        true
    }

    fn status<'a>(&'a self, deadline: Instant) -> Answer<'a, Status> {
        Box::pin(async move {
            match &self.kind {
                Kind::Unit(unit) => unit.status(deadline).await,
                Kind::Own(own) => Ok(own.status()),
                Kind::Unclear => Err(self.unclear()),
            }
        })
    }
}

/// Ends what services and scripts of a dead daemon left running for this resource. Returns how many there were.
pub fn end_left_behind(context: &Context, resource: &str) -> usize {
    process::signal_marked(&program::mark(context, resource), libc::SIGKILL)
}

/// Counts unwanted ends, and says what follows from each.
#[derive(Default)]
struct Restarts {
    ends: VecDeque<Instant>,
}

impl Restarts {
    /// Counts one more end. The number of this restart, or `None` when it was one too many.
    fn next(&mut self, now: Instant, limits: &Limits) -> Option<u32> {
        if self.ends.back().is_some_and(|last| now.duration_since(*last) >= limits.restart_reset) {
            self.ends.clear();
        }
        if self.ends.len() as u32 >= limits.restarts_max {
            return None;
        }
        self.ends.push_back(now);
        Some(self.ends.len() as u32)
    }
}

/// What is told when a service was restarted too often.
fn beyond(config: &ServiceConfig, beyond: Beyond, trouble: Trouble) -> Happened {
    let what = match beyond {
        Beyond::Failover => What::Failed(trouble),
        Beyond::StopGroup => What::StopServing(trouble),
        Beyond::Alarm => What::Alarm(trouble.to_string()),
    };
    Happened { resource: config.name.clone(), what }
}

fn settle() -> Duration {
    Duration::from_millis(100)
}

fn look_interval() -> Duration {
    Duration::from_secs(1)
}

fn restarts_max() -> u32 {
    3
}

fn restart_reset() -> Duration {
    Duration::from_secs(600)
}

fn restart_pause() -> Duration {
    Duration::from_millis(500)
}

fn systemctl() -> PathBuf {
    "systemctl".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_counted_and_forgotten() {
        let config = ServiceConfig { restarts_max: 2, ..ServiceConfig::of_unit("web", "web.service") };
        let (limits, mut restarts) = (config.limits(), Restarts::default());
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(restarts.next(now, &limits), Some(1));
        assert_eq!(restarts.next(now + second, &limits), Some(2));
        assert_eq!(restarts.next(now + second * 2, &limits), None);
        assert_eq!(restarts.next(now + second + config.restart_reset, &limits), Some(1), "long enough without an end");
        let never = ServiceConfig { restarts_max: 0, ..config };
        assert_eq!(Restarts::default().next(now, &never.limits()), None);
    }

    #[test]
    fn a_service_is_a_unit_or_a_command() {
        let read: ServiceConfig = toml::from_str("name = \"web\"\nunit = \"nginx.service\"").unwrap();
        assert_eq!(read, ServiceConfig::of_unit("web", "nginx.service"));
        let text = "name = \"web\"\ncommand = [\"/bin/cat\"]\nrestart_reset = \"1h\"\nbeyond = \"stop-group\"";
        let read: ServiceConfig = toml::from_str(text).unwrap();
        assert_eq!((read.restart_reset, read.beyond), (Duration::from_secs(3600), Beyond::StopGroup));
        assert!(toml::from_str::<ServiceConfig>("name = \"web\"\nrestart = 3").is_err());
    }
}
