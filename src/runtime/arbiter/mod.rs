//! The arbiter as the group's task uses it: read the record, change it from what was seen, look at its health.
//!
//! | file | what it does |
//! |---|---|
//! | [`Arbiter`] here | records instead of bytes; one request at a time; refuses what went back in time |
//! | [`stored`] | the record as JSON |
//! | [`memory`] | what was seen, kept across restarts |
//! | [`register`] | the two kinds behind one interface, in bytes |
//! | [`etcd`] | a key of an etcd, through its JSON gateway |
//! | [`mod@file`] | a directory on storage that both servers share |
//! | [`report`] | health, for `status` |
//!
//! Every call is answered within the configured time. Nothing is decided here: an ambiguous answer is handed on as one.

pub mod memory;
pub mod password;
pub mod report;
pub mod stored;

pub mod register;

pub mod etcd;
pub mod file;

use self::etcd::{Etcd, EtcdSpec};
use self::file::{Shared, SharedSpec};
use self::memory::Memory;
use self::register::{Entry, Register, Seen, Swapped};
use self::report::Report;
use self::stored::Owner;
use crate::base::arbiter::{ArbiterError, CasOutcome, ReadOutcome, Record, Versioned};
use crate::base::ids::Epoch;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Which arbiter a group has.
#[derive(Clone, Debug)]
pub enum ArbiterSpec {
    /// An etcd.
    Etcd(EtcdSpec),
    /// A directory.
    Shared(SharedSpec),
}

/// The arbiter of one group on one node.
pub struct Arbiter {
    owner: Owner,
    /// Names the register in messages.
    place: String,
    timeout: AtomicU64,
    register: tokio::sync::Mutex<State>,
    memory: Mutex<Memory>,
}

struct State {
    register: Register,
    /// The bytes seen last. A compare-and-set compares them too: after a restore the same revision may come again.
    last: Option<Entry>,
}

impl Arbiter {
    /// The arbiter of a group; nothing is asked yet. `timeout` bounds each call, `memory` is what was seen before.
    pub fn new(spec: &ArbiterSpec, owner: Owner, timeout: Duration, memory: Memory) -> Result<Arbiter, ArbiterError> {
        let (register, place) = match spec {
            ArbiterSpec::Etcd(spec) => {
                let etcd = Etcd::new(spec, &owner)?;
                let place = etcd.place();
                (Register::Etcd(Box::new(etcd)), place)
            }
            ArbiterSpec::Shared(spec) => {
                let shared = Shared::new(spec, &owner);
                let place = shared.place();
                (Register::Shared(shared), place)
            }
        };
        let register = tokio::sync::Mutex::new(State { register, last: None });
        let timeout = AtomicU64::new(timeout.as_millis() as u64);
        Ok(Arbiter { owner, place, timeout, register, memory: Mutex::new(memory) })
    }

    /// Each question may take this long from here on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout.store(timeout.as_millis() as u64, Ordering::Relaxed);
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout.load(Ordering::Relaxed))
    }

    /// Reads the record as it stands now, not as some replica remembers it.
    pub async fn read(&self) -> ReadOutcome {
        let deadline = Instant::now() + self.timeout();
        let Ok(mut state) = tokio::time::timeout_at(deadline, self.register.lock()).await else {
            return ReadOutcome::Failed(self.busy());
        };
        match state.register.read(deadline).await.and_then(|seen| self.take_in(&mut state, seen)) {
            Ok(Some(found)) => ReadOutcome::Found(found),
            Ok(None) => ReadOutcome::Absent,
            Err(error) => ReadOutcome::Failed(error),
        }
    }

    /// Puts `new` in the place of `expected` (`None`: of nothing), or does nothing.
    ///
    /// An [`CasOutcome::Unknown`] may still be carried out after this returned: see [`crate::base::arbiter::settle`].
    /// Panics when `new` may not follow `expected`, which would be our own bug.
    pub async fn compare_and_set(&self, expected: Option<&Versioned>, new: &Record) -> CasOutcome {
        assert_eq!(new.fault(), None, "a record that may not be stored");
        assert!(expected.is_none_or(|expected| new.may_follow(&expected.record)), "a record that goes backwards");
        let deadline = Instant::now() + self.timeout();
        let Ok(mut state) = tokio::time::timeout_at(deadline, self.register.lock()).await else {
            return CasOutcome::Refused(self.busy());
        };
        let bytes = self.owner.encode(new);
        let expected = expected.map(|expected| {
            let seen = state.last.as_ref().filter(|last| last.revision == expected.revision);
            seen.cloned()
                .filter(|seen| self.owner.decode(&seen.bytes, &self.place) == Ok(expected.record))
                .unwrap_or_else(|| Entry { revision: expected.revision, bytes: self.owner.encode(&expected.record) })
        });
        let memory = self.memory();
        match state.register.swap(expected.as_ref(), &bytes, &memory, deadline).await {
            Swapped::Won(seen) => self.won(&mut state, seen, new),
            Swapped::Lost(seen) => match self.take_in(&mut state, seen) {
                // An earlier try of ours arrived after all.
                Ok(Some(found)) if found.record == *new => CasOutcome::Won(found.revision),
                Ok(found) => CasOutcome::Lost(found),
                Err(error) => CasOutcome::Refused(error),
            },
            Swapped::Refused(error) => CasOutcome::Refused(error),
            Swapped::Unknown(error) => CasOutcome::Unknown(error),
        }
    }

    /// Looks at every endpoint, or at the directory. `peer_alive`: the peer's daemon is heard, so its signs must be
    /// seen in the directory as well.
    pub async fn check(&self, peer_alive: bool) -> Report {
        let deadline = Instant::now() + self.timeout();
        let Ok(mut state) = tokio::time::timeout_at(deadline, self.register.lock()).await else {
            return Report { trouble: Some(self.busy()), ..Report::default() };
        };
        state.register.check(peer_alive, deadline).await
    }

    /// What was seen so far. The caller saves it when it has changed.
    pub fn memory(&self) -> Memory {
        self.memory.lock().expect("nobody panics with the memory in hand").clone()
    }

    /// An epoch this node knows from elsewhere: a record below it went back in time.
    pub fn raise(&self, epoch: Epoch) {
        self.memory.lock().expect("nobody panics with the memory in hand").raise(epoch);
    }

    /// An operator has looked at an arbiter that went back in time, and takes it as it is.
    ///
    /// A record of too low an epoch is still refused by [`Arbiter::read`], which says what stands there; the operator's
    /// recovery replaces it by one above every epoch seen.
    pub fn accept_store(&self) {
        self.memory.lock().expect("nobody panics with the memory in hand").accept_store();
    }

    fn won(&self, state: &mut State, seen: Seen, new: &Record) -> CasOutcome {
        let revision = seen.entry.as_ref().map(|entry| entry.revision).unwrap_or_default();
        let found = Versioned { record: *new, revision };
        self.memory.lock().expect("nobody panics with the memory in hand").remember(&seen, Some(found));
        state.last = seen.entry;
        CasOutcome::Won(revision)
    }

    /// Decodes what was seen, and refuses what went back in time.
    fn take_in(&self, state: &mut State, seen: Seen) -> Result<Option<Versioned>, ArbiterError> {
        let found = match &seen.entry {
            Some(entry) => {
                let record = self.owner.decode(&entry.bytes, &self.place)?;
                Some(Versioned { record, revision: entry.revision })
            }
            None => None,
        };
        let judged = self.memory.lock().expect("nobody panics with the memory in hand").judge(&seen, found);
        // Also what is refused: an operator's recovery replaces exactly that.
        state.last = seen.entry;
        judged.map(|()| found)
    }

    fn busy(&self) -> ArbiterError {
        let detail =
            format!("{}: the request before has had no answer for {} ms", self.place, self.timeout().as_millis());
        ArbiterError::new(crate::base::arbiter::ArbiterErrorKind::TimedOut, detail)
    }
}
