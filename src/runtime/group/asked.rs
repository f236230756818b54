//! The arbiter and the fencing device as a group uses them, with what is known of their health.

use crate::base::arbiter::{ArbiterError, CasOutcome, ReadOutcome};
use crate::base::limits::{ARBITER_HEALTH_INTERVAL, ARBITER_TROUBLED_INTERVAL, FENCING_HEALTH_INTERVAL};
use crate::base::time::Moment;
use crate::io::clock::{calendar, now};
use crate::logic::failover::interface::{ArbiterCall, Input};
use crate::runtime::arbiter::memory::Memory;
use crate::runtime::arbiter::report::Report;
use crate::runtime::arbiter::stored::Owner;
use crate::runtime::arbiter::{Arbiter, ArbiterSpec};
use crate::runtime::control::group::{ArbiterEvidence, FencingEvidence};
use crate::runtime::fencing::{Fencing, Outcome};
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify};

/// An arbiter, and what was seen of it, which must outlast a restart.
pub struct Asked {
    /// It.
    pub arbiter: Arbiter,
    timeout: Cell<Duration>,
    /// Where what was seen is kept.
    file: PathBuf,
    saved: Mutex<Memory>,
    /// When the peer was last heard.
    peer_heard: Cell<Moment>,
    health: RefCell<Health>,
}

/// What the answers so far tell of the arbiter.
#[derive(Default)]
struct Health {
    /// When it last answered, and how long that took.
    answered: Option<(Moment, Duration)>,
    /// Whether the last call had no answer.
    failing: bool,
    /// The last trouble, and when that was.
    error: Option<(u64, ArbiterError)>,
    /// The last look at every part of it.
    report: Report,
}

impl Asked {
    /// An arbiter whose memory is what the file holds.
    pub fn new(spec: &ArbiterSpec, owner: Owner, timeout: Duration, file: PathBuf) -> Result<Asked, String> {
        let memory = Memory::load(&file)?;
        let arbiter = Arbiter::new(spec, owner, timeout, memory.clone()).map_err(|error| error.to_string())?;
        let (saved, peer_heard, health) = (Mutex::new(memory), Cell::new(Moment(0)), RefCell::default());
        let timeout = Cell::new(timeout);
        Ok(Asked { arbiter, timeout, file, saved, peer_heard, health })
    }

    /// Each question may take this long from here on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout.set(timeout);
        self.arbiter.set_timeout(timeout);
    }

    /// The peer's daemon is heard.
    pub fn hear_peer(&self) {
        self.peer_heard.set(now());
    }

    /// Asks it for the core.
    pub async fn ask(&self, id: u64, call: ArbiterCall) -> Input {
        let began = now();
        match call {
            ArbiterCall::Read => {
                let outcome = self.arbiter.read().await;
                self.learn(
                    began,
                    match &outcome {
                        ReadOutcome::Failed(error) => Some(error),
                        ReadOutcome::Found(_) | ReadOutcome::Absent => None,
                    },
                );
                Input::ArbiterRead { id, outcome }
            }
            ArbiterCall::Cas { expected, new } => {
                let outcome = self.arbiter.compare_and_set(expected.as_ref(), &new).await;
                self.learn(
                    began,
                    match &outcome {
                        CasOutcome::Refused(error) | CasOutcome::Unknown(error) => Some(error),
                        CasOutcome::Won(_) | CasOutcome::Lost(_) => None,
                    },
                );
                Input::ArbiterCas { id, outcome }
            }
        }
    }

    fn learn(&self, began: Moment, error: Option<&ArbiterError>) {
        let mut health = self.health.borrow_mut();
        health.failing = error.is_some();
        match error {
            None => health.answered = Some((now(), now().since(began))),
            Some(error) => health.error = Some((calendar(), error.clone())),
        }
    }

    /// Makes durable what was seen, if it is new. Not on this thread: a disk may be slow, a permit must not.
    pub async fn save(&self) {
        let mut saved = self.saved.lock().await;
        let memory = self.arbiter.memory();
        if memory == *saved {
            return;
        }
        saved.clone_from(&memory);
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || memory.save(&file).map_err(|error| (file, error))).await;
        if let Ok(Err((file, error))) = written {
            let file = file.display();
            tracing::error!(
                "{file} can't be written: {error}; after a restart an arbiter that went back is not noticed"
            );
        }
    }

    /// Looks at the arbiter's health now and then, and says when it changes, in the log and to `tell`.
    pub async fn watch(&self, group: &str, tell: impl Fn(Option<ArbiterError>)) {
        let mut told = None;
        loop {
            let trouble = self.look().await;
            if trouble != told {
                match &trouble {
                    Some(trouble) => tracing::error!(group, "the arbiter is not as it should be: {trouble}"),
                    None => tracing::info!(group, "the arbiter is well again"),
                }
                tell(trouble.clone());
            }
            // While it stands in the way of a change of role, it is soon seen that it does no more.
            let pause = if trouble.is_some() { ARBITER_TROUBLED_INTERVAL } else { ARBITER_HEALTH_INTERVAL };
            told = trouble;
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks at every part of it once. What is wrong.
    async fn look(&self) -> Option<ArbiterError> {
        let peer_alive = now().since(self.peer_heard.get()) < ARBITER_HEALTH_INTERVAL;
        let report = self.arbiter.check(peer_alive).await;
        let mut health = self.health.borrow_mut();
        if let Some(error) = &report.trouble {
            health.error = Some((calendar(), error.clone()));
        }
        health.report = report;
        health.report.trouble.clone()
    }

    /// What is known of it, without its record.
    pub fn evidence(&self) -> ArbiterEvidence {
        let health = self.health.borrow();
        let slow = health.answered.is_some_and(|(_, took)| took > self.timeout.get() / 2);
        let state = match (health.failing || health.report.trouble.is_some(), health.answered) {
            (true, _) => "unreachable",
            (false, None) => "unknown",
            (false, Some(_)) if slow => "slow",
            (false, Some(_)) => "reachable",
        };
        let places = health.report.places.iter().map(|place| match &place.trouble {
            Some(trouble) => format!("{}: {trouble}", place.name),
            None if place.what.is_empty() => place.name.clone(),
            None => format!("{} ({})", place.name, place.what),
        });
        ArbiterEvidence {
            state: state.into(),
            answered_ms: health.answered.map(|(at, _)| milliseconds(now().since(at))),
            took_ms: health.answered.map(|(_, took)| milliseconds(took)),
            owner: None,
            epoch: None,
            in_sync: Vec::new(),
            places: places.collect(),
            notes: health.report.notes.clone(),
            trouble: health.report.trouble.as_ref().map(ToString::to_string),
            last_error: health.error.as_ref().map(|(_, error)| error.to_string()),
            last_error_at: health.error.as_ref().map(|(at, _)| crate::base::time::utc(*at)),
        }
    }
}

/// The device that switches the peer off, and whether it can be reached.
pub struct Fence {
    fencing: RefCell<Rc<Fencing>>,
    /// Somebody wants the peer switched off: a look at the device's health gives way.
    wanted: Notify,
    looked: RefCell<Option<(Moment, Result<(), String>)>>,
}

impl Fence {
    /// A device that was not looked at yet.
    pub fn new(fencing: Fencing) -> Fence {
        Fence { fencing: RefCell::new(Rc::new(fencing)), wanted: Notify::new(), looked: RefCell::default() }
    }

    /// Another device, or the same with other settings, from here on; what is under way ends with the one before.
    pub fn replace(&self, fencing: Fencing) {
        self.fencing.replace(Rc::new(fencing));
    }

    fn device(&self) -> Rc<Fencing> {
        self.fencing.borrow().clone()
    }

    /// Has the peer switched off, at once.
    pub async fn off(&self) -> Outcome {
        self.wanted.notify_waiters();
        self.device().off().await
    }

    /// Looks at the device now and then; `tell` hears when it can't be reached, with why, and when it can again.
    pub async fn watch(&self, tell: impl Fn(Option<&str>)) {
        let mut failing = false;
        loop {
            // The program of a look that gives way is killed with it.
            let device = self.device();
            let looked = tokio::select! {
                looked = device.monitor() => Some(looked),
                () = self.wanted.notified() => None,
            };
            if let Some(looked) = looked {
                if looked.is_err() != failing {
                    failing = looked.is_err();
                    tell(looked.as_ref().err().map(String::as_str));
                }
                *self.looked.borrow_mut() = Some((now(), looked));
            }
            tokio::time::sleep(FENCING_HEALTH_INTERVAL).await;
        }
    }

    /// What is known of it.
    pub fn evidence(&self) -> FencingEvidence {
        let looked = self.looked.borrow();
        let state = match &*looked {
            None => "unknown",
            Some((_, Ok(()))) => "reachable",
            Some((_, Err(_))) => "unreachable",
        };
        FencingEvidence {
            state: state.into(),
            checked_ms: looked.as_ref().map(|(at, _)| milliseconds(now().since(*at))),
            trouble: looked.as_ref().and_then(|(_, result)| result.as_ref().err().cloned()),
        }
    }
}

/// A duration for machines.
pub fn milliseconds(span: Duration) -> u64 {
    span.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Incarnation, NodeId};
    use crate::runtime::arbiter::file::SharedSpec;

    #[tokio::test(flavor = "current_thread")]
    async fn a_directory_that_only_one_server_sees_is_said_with_a_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let shared = SharedSpec {
            directory: folder.path().to_path_buf(),
            node: NodeId(0),
            incarnation: Incarnation(1),
            sign_time: Duration::ZERO,
        };
        let nodes = ["alpha".into(), "beta".into()];
        let owner = Owner { cluster: "lab".into(), group: "db".into(), nodes };
        let (spec, patience) = (ArbiterSpec::Shared(shared), Duration::from_secs(30));
        let asked = Asked::new(&spec, owner, patience, folder.path().join("seen.json")).unwrap();
        assert_eq!(asked.look().await, None, "nobody can say while the other server is not up");
        assert_eq!(asked.evidence().notes.len(), 1, "but that it is not proven is said");
        asked.hear_peer();
        let trouble = asked.look().await.unwrap().to_string();
        assert!(trouble.contains("beta is alive, but its sign of life is not there"), "{trouble}");
        assert!(trouble.contains("put the directory on storage that both servers share"), "{trouble}");
        let evidence = asked.evidence();
        assert_eq!((evidence.trouble, evidence.state.as_str()), (Some(trouble), "unreachable"));
    }
}
