//! A systemd unit, through `systemctl`.

use super::{Limits, Restarts, ServiceConfig, beyond};
use crate::io::process::{self, Program};
use crate::runtime::resource::program::{said, unstarted};
use crate::runtime::resource::{Events, Happened, State, Status, Trouble, What};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Longest time systemd may take to say what a unit is.
const SHOW_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest time a restart may take.
const RESTART_TIME_MAX: Duration = Duration::from_secs(90);
/// What is asked about a unit.
const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,Result,UnitFileState,MainPID";

/// A unit, and the task that watches it.
pub(super) struct Unit {
    shared: Rc<Shared>,
    watch: RefCell<Option<Watch>>,
}

struct Shared {
    unit: String,
    config: ServiceConfig,
    limits: Rc<Cell<Limits>>,
    events: Events,
}

struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What systemd says of a unit.
struct Shown(HashMap<String, String>);

impl Shown {
    fn of(&self, property: &str) -> &str {
        self.0.get(property).map_or("", String::as_str)
    }

    fn is_active(&self) -> bool {
        matches!(self.of("ActiveState"), "active" | "reloading")
    }

    fn is_down(&self) -> bool {
        matches!(self.of("ActiveState"), "inactive" | "failed")
    }

    fn words(&self) -> String {
        let result = match self.of("Result") {
            "" | "success" => String::new(),
            result => format!(", result {result}"),
        };
        format!("{} ({}{result})", self.of("ActiveState"), self.of("SubState"))
    }
}

impl Unit {
    pub(super) fn new(unit: &str, config: &ServiceConfig, limits: Rc<Cell<Limits>>, events: Events) -> Unit {
        let shared = Shared { unit: unit.into(), config: config.clone(), limits, events };
        Unit { shared: Rc::new(shared), watch: RefCell::new(None) }
    }

    pub(super) async fn check(&self, deadline: Instant) -> Result<(), Trouble> {
        let shared = &self.shared;
        let (name, unit) = (&shared.config.name, &shared.unit);
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if unit.is_empty() || unit.starts_with('-') || unit.len() > 255 || !unit.chars().all(allowed) {
            return Err(Trouble::config(name, format!("\"{unit}\" is no unit"), "write it as in \"nginx.service\""));
        }
        let shown = shared.show(deadline).await?;
        match shown.of("LoadState") {
            "loaded" => {}
            "masked" => {
                let reason = format!("the unit {unit} is masked");
                return Err(Trouble::environment(name, reason, format!("run `systemctl unmask {unit}`")));
            }
            other => {
                let reason = format!("the unit {unit} is {other} on this server");
                return Err(Trouble::environment(name, reason, "install it on this server, too, or correct its name"));
            }
        }
        if matches!(shown.of("UnitFileState"), "enabled" | "enabled-runtime") {
            let reason = format!("the unit {unit} is enabled: it would start at boot, without its volume and address");
            return Err(Trouble::config(name, reason, format!("run `systemctl disable {unit}`; the group starts it")));
        }
        Ok(())
    }

    pub(super) async fn start(&self, deadline: Instant) -> Result<(), Trouble> {
        let shared = &self.shared;
        if !shared.show(deadline).await?.is_active() {
            shared.control("start", deadline).await?;
            let shown = shared.show(deadline).await?;
            if !shown.is_active() {
                return Err(shared.not("active", &shown));
            }
        }
        let watched = self.watch.borrow().as_ref().is_some_and(|watch| !watch.0.is_finished());
        if !watched {
            *self.watch.borrow_mut() = Some(Watch(tokio::task::spawn_local(shared.clone().keep())));
        }
        Ok(())
    }

    pub(super) async fn stop(&self, deadline: Instant) -> Result<(), Trouble> {
        self.watch.borrow_mut().take();
        let shared = &self.shared;
        shared.control("stop", deadline).await?;
        let shown = shared.show(deadline).await?;
        if shown.is_down() { Ok(()) } else { Err(shared.not("stopped", &shown)) }
    }

    pub(super) async fn monitor(&self, deadline: Instant) -> Result<(), Trouble> {
        let shown = self.shared.show(deadline).await?;
        if shown.is_active() { Ok(()) } else { Err(self.shared.not("active", &shown)) }
    }

    pub(super) async fn status(&self, deadline: Instant) -> Result<Status, Trouble> {
        let shown = self.shared.show(deadline).await?;
        let watched = self.watch.borrow().is_some();
        let state = match (shown.is_active(), shown.is_down(), watched) {
            (true, _, true) => State::Started,
            (_, true, false) => State::Stopped,
            _ => State::Broken,
        };
        let watch = if watched { "" } else { ", not started by this daemon" };
        Ok(Status::new(state, format!("{} is {}{watch}", self.shared.unit, shown.words())))
    }
}

impl Shared {
    /// Restarts the unit when it ended by itself, up to the configured number of times.
    async fn keep(self: Rc<Self>) {
        let mut restarts = Restarts::default();
        loop {
            sleep(self.limits.get().look_interval).await;
            // What can't be asked now is asked again; the monitor tells if that lasts.
            let Ok(shown) = self.show(Instant::now() + SHOW_TIME_MAX).await else { continue };
            if !shown.is_down() {
                continue;
            }
            let reason = format!("the unit {} is {}", self.unit, shown.words());
            let Some(count) = restarts.next(Instant::now(), &self.limits.get()) else {
                let reason = format!("{reason}; it was restarted {} times already", self.limits.get().restarts_max);
                let next = format!("look at `journalctl -u {}`, mend it, then start the group here again", self.unit);
                let trouble = Trouble::transient(&self.config.name, reason, next);
                let _ = self.events.send(beyond(&self.config, self.limits.get().beyond, trouble));
                return;
            };
            sleep(self.limits.get().restart_pause).await;
            // Else systemd's own limit of starts would refuse ours.
            let _ = self.control("reset-failed", Instant::now() + SHOW_TIME_MAX).await;
            if self.control("start", Instant::now() + RESTART_TIME_MAX).await.is_ok() {
                let words = format!("{reason}; restarted, {count} of {}", self.limits.get().restarts_max);
                let what = What::Repaired(words);
                let _ = self.events.send(Happened { resource: self.config.name.clone(), what });
            }
        }
    }

    fn not(&self, wanted: &str, shown: &Shown) -> Trouble {
        let reason = format!("the unit {} is not {wanted} but {}", self.unit, shown.words());
        Trouble::transient(&self.config.name, reason, format!("look at `journalctl -u {}`", self.unit))
    }

    /// Runs a job for the unit and waits for its end.
    async fn control(&self, verb: &str, deadline: Instant) -> Result<(), Trouble> {
        self.systemctl(&[verb, "--", &self.unit], deadline).await.map(drop)
    }

    async fn show(&self, deadline: Instant) -> Result<Shown, Trouble> {
        let said = self.systemctl(&["show", PROPERTIES, "--", &self.unit], deadline).await?;
        let properties = said.lines().filter_map(|line| line.split_once('='));
        let shown = Shown(properties.map(|(name, value)| (name.into(), value.trim().into())).collect());
        if shown.of("ActiveState").is_empty() {
            let reason = format!("systemctl tells nothing of the unit {}", self.unit);
            return Err(Trouble::environment(&self.config.name, reason, "try `systemctl show` by hand"));
        }
        Ok(shown)
    }

    async fn systemctl(&self, arguments: &[&str], deadline: Instant) -> Result<String, Trouble> {
        let mut words = vec!["--no-pager".to_string(), "--no-ask-password".to_string()];
        words.extend(arguments.iter().map(|word| word.to_string()));
        let what = Program {
            file: self.config.systemctl.clone(),
            arguments: words,
            environment: vec![("LC_ALL".into(), "C".into())],
            mark: "systemctl".into(),
        };
        let name = &self.config.name;
        let verb = arguments[0];
        let finished = process::run(&what, deadline).await;
        let finished = finished.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Trouble::environment(
                name,
                format!("{} does not exist on this server", what.file.display()),
                "use `command` in place of `unit` where systemd does not run",
            ),
            _ => unstarted(name, &what, &error),
        })?;
        match finished.status {
            Some(status) if status.success() => Ok(finished.output),
            Some(_) => {
                let reason = format!("`systemctl {verb} {}` failed{}", self.unit, said(&finished.output));
                let next = format!("look at `systemctl status {0}` and `journalctl -u {0}`", self.unit);
                Err(Trouble::transient(name, reason, next))
            }
            None => {
                let reason = format!("`systemctl {verb} {}` did not end in its time", self.unit);
                Err(Trouble::transient(name, reason, "look at `systemctl list-jobs`, or give it a longer time"))
            }
        }
    }
}
