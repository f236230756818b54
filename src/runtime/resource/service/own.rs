//! A program that this daemon keeps running.

use super::{Limits, Restarts, ServiceConfig, beyond};
use crate::io::process::{self, Program, Running};
use crate::runtime::resource::program::{self, ending, said, unstarted};
use crate::runtime::resource::{Context, Events, Happened, State, Status, Trouble, Verb, What, left};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

/// Time before a stop's deadline at which what still runs is killed, at most; a quarter of the stop's time, at most.
const KILL_BEFORE_MAX: Duration = Duration::from_secs(2);
/// Time killed processes have to vanish before they are counted as left over.
const VANISH_TIME_MAX: Duration = Duration::from_millis(500);
/// Time between two looks whether they have.
const VANISH_LOOK: Duration = Duration::from_millis(5);
/// Processes named in a message.
const NAMED_MAX: usize = 5;

/// The program, and the task that keeps it running.
pub(super) struct Own {
    shared: Rc<Shared>,
    keeper: RefCell<Option<Keeper>>,
}

struct Shared {
    command: Vec<String>,
    config: ServiceConfig,
    limits: Rc<Cell<Limits>>,
    events: Events,
    seen: RefCell<Seen>,
}

/// What is known of the program.
#[derive(Clone)]
enum Seen {
    Stopped,
    Running { id: i32, restarts: u32 },
    Restarting { reason: String },
    GivenUp(Trouble),
}

struct Keeper {
    task: JoinHandle<()>,
    /// Ends the task, and the program by the time sent.
    stop: oneshot::Sender<Instant>,
}

impl Own {
    pub(super) fn new(command: &[String], config: &ServiceConfig, limits: Rc<Cell<Limits>>, events: Events) -> Own {
        let (command, config) = (command.to_vec(), config.clone());
        let shared = Shared { command, config, limits, events, seen: RefCell::new(Seen::Stopped) };
        Own { shared: Rc::new(shared), keeper: RefCell::new(None) }
    }

    pub(super) async fn check(&self, deadline: Instant) -> Result<(), Trouble> {
        program::check_by(&self.shared.config.name, &self.shared.command, deadline).await
    }

    pub(super) async fn start(&self, context: &Context, deadline: Instant) -> Result<(), Trouble> {
        if matches!(*self.shared.seen.borrow(), Seen::Running { .. } | Seen::Restarting { .. }) {
            return Ok(());
        }
        // What has been given up is started anew, with a new count.
        self.keeper.borrow_mut().take();
        let shared = self.shared.clone();
        program::check_by(&shared.config.name, &shared.command, deadline).await?;
        let what = program::program(&shared.command, &shared.config.name, context, Verb::Start);
        shared.end_leftovers(&what, Instant::now() + VANISH_TIME_MAX).await?;
        let mut running = timeout_at(deadline, shared.spawn(&what, 0)).await.unwrap_or_else(|_| Err(shared.late()))?;
        let settled = (Instant::now() + shared.limits.get().settle).min(deadline);
        if let Ok(ended) = timeout_at(settled, running.wait()).await {
            *shared.seen.borrow_mut() = Seen::Stopped;
            let ended = ended.map_or_else(|error| error.to_string(), ending);
            sleep(VANISH_LOOK).await;
            let reason = format!("{} ended at once, with {ended}{}", what.file.display(), said(&running.output()));
            let next = "let it stay in the foreground, and mend what it complains about";
            return Err(Trouble::transient(&shared.config.name, reason, next));
        }
        let (stop, stopped) = oneshot::channel();
        let task = tokio::task::spawn_local(shared.keep(what, running, stopped));
        *self.keeper.borrow_mut() = Some(Keeper { task, stop });
        Ok(())
    }

    pub(super) async fn stop(&self, context: &Context, deadline: Instant) -> Result<(), Trouble> {
        let keeper = self.keeper.borrow_mut().take();
        if let Some(Keeper { task, stop }) = keeper {
            // The task may have ended by itself; then there is nothing to stop.
            let _ = stop.send(deadline);
            let _ = timeout_at(deadline, task).await;
        }
        let shared = &self.shared;
        let what = program::program(&shared.command, &shared.config.name, context, Verb::Stop);
        shared.end_leftovers(&what, deadline.max(Instant::now() + VANISH_TIME_MAX)).await?;
        *shared.seen.borrow_mut() = Seen::Stopped;
        Ok(())
    }

    pub(super) fn monitor(&self) -> Result<(), Trouble> {
        let name = &self.shared.config.name;
        match &*self.shared.seen.borrow() {
            Seen::Running { .. } => Ok(()),
            Seen::Restarting { reason } => {
                Err(Trouble::transient(name, format!("it is being restarted: {reason}"), "wait for the restart"))
            }
            Seen::GivenUp(trouble) => Err(trouble.clone()),
            Seen::Stopped => Err(Trouble::transient(name, "it does not run", "start it")),
        }
    }

    pub(super) fn status(&self) -> Status {
        match &*self.shared.seen.borrow() {
            Seen::Stopped => Status::new(State::Stopped, "not started by this daemon"),
            Seen::Running { id, restarts: 0 } => Status::new(State::Started, format!("runs as process {id}")),
            Seen::Running { id, restarts } => {
                Status::new(State::Started, format!("runs as process {id}, restarted {restarts} times"))
            }
            Seen::Restarting { reason } => Status::new(State::Broken, format!("being restarted: {reason}")),
            Seen::GivenUp(trouble) => Status::new(State::Broken, trouble.to_string()),
        }
    }
}

impl Shared {
    async fn spawn(&self, what: &Program, restarts: u32) -> Result<Running, Trouble> {
        let running = process::spawn(what).await.map_err(|error| unstarted(&self.config.name, what, &error))?;
        *self.seen.borrow_mut() = Seen::Running { id: running.id(), restarts };
        Ok(running)
    }

    fn late(&self) -> Trouble {
        let reason = "it could not be started in its time: the disk it is on does not answer";
        Trouble::transient(&self.config.name, reason, "see whether its volume serves, or give it a longer time")
    }

    /// Keeps the program running until it is told to stop.
    async fn keep(self: Rc<Self>, what: Program, mut running: Running, mut stopped: oneshot::Receiver<Instant>) {
        let mut restarts = Restarts::default();
        loop {
            let ended = tokio::select! {
                ended = running.wait() => ended,
                deadline = &mut stopped => {
                    // Without a deadline the resource itself was dropped.
                    end(&mut running, deadline.unwrap_or_else(|_| Instant::now())).await;
                    *self.seen.borrow_mut() = Seen::Stopped;
                    return;
                }
            };
            let ended = ended.map_or_else(|error| error.to_string(), ending);
            let mut reason = format!("it ended with {ended}{}", said(&running.output()));
            *self.seen.borrow_mut() = Seen::Restarting { reason: reason.clone() };
            running = loop {
                let Some(count) = restarts.next(Instant::now(), &self.limits.get()) else {
                    self.give_up(&reason);
                    return;
                };
                let again = async {
                    sleep(self.limits.get().restart_pause).await;
                    // What the ended one forked would keep the new one from its port or its files.
                    self.end_leftovers(&what, Instant::now() + VANISH_TIME_MAX).await?;
                    self.spawn(&what, count).await
                };
                let again = tokio::select! {
                    again = again => again,
                    _ = &mut stopped => {
                        *self.seen.borrow_mut() = Seen::Stopped;
                        return;
                    }
                };
                match again {
                    Ok(running) => {
                        let words = format!("{reason}; restarted, {count} of {}", self.limits.get().restarts_max);
                        self.tell(What::Repaired(words));
                        break running;
                    }
                    Err(trouble) => reason = trouble.reason,
                }
            };
        }
    }

    fn give_up(&self, reason: &str) {
        let reason = format!("{reason}; it was restarted {} times already", self.limits.get().restarts_max);
        let next = "look at its own log, mend it, then start the group here again";
        let trouble = Trouble::transient(&self.config.name, reason, next);
        *self.seen.borrow_mut() = Seen::GivenUp(trouble.clone());
        let _ = self.events.send(beyond(&self.config, self.limits.get().beyond, trouble));
    }

    fn tell(&self, what: What) {
        // Nobody listening any more means that the daemon ends.
        let _ = self.events.send(Happened { resource: self.config.name.clone(), what });
    }

    /// Kills whatever carries the mark of the service, and waits until it is gone.
    async fn end_leftovers(&self, what: &Program, until: Instant) -> Result<(), Trouble> {
        loop {
            if process::signal_marked(&what.mark, libc::SIGKILL) == 0 {
                return Ok(());
            }
            sleep(VANISH_LOOK).await;
            if Instant::now() >= until {
                break;
            }
        }
        let rest: Vec<String> =
            process::marked(&what.mark).iter().take(NAMED_MAX).map(|id| process::describe(*id)).collect();
        if rest.is_empty() {
            return Ok(());
        }
        let reason = format!("these were killed and still run: {}", rest.join(", "));
        Err(Trouble::transient(
            &self.config.name,
            reason,
            "they wait for a disk or a server: free it, or fence this server",
        ))
    }
}

/// Asks the program to end, and kills what is left of its group shortly before the deadline.
async fn end(running: &mut Running, deadline: Instant) {
    running.signal(libc::SIGTERM);
    let kill_at = deadline - KILL_BEFORE_MAX.min(left(deadline) / 4);
    let _ = timeout_at(kill_at, running.wait_for_all()).await;
    running.kill().await;
}
