//! A key of an etcd (version 3.4 or later) through its JSON gateway.
//!
//! | file | what it does |
//! |---|---|
//! | here | which endpoint is asked, tokens, and when an answer counts as unknown |
//! | [`connection`] | one kept HTTP connection |
//! | [`endpoint`], [`tls`] | where, and how it is made safe |
//! | [`message`], [`base64`] | bodies of requests and answers |
//!
//! A compare-and-set that may have been carried out is sent again, to the next endpoint: it compares the same revision
//! and puts the same nonce, so it can't be carried out twice, and if the first one arrived the second finds our own
//! record. The first question on a new connection is always a read: before anything is put it shows whether this still
//! is the store it was, and a certificate that is not accepted shows on a question that changes nothing.

pub mod base64;
pub mod message;

pub mod endpoint;
pub mod tls;

pub mod connection;

use self::connection::{Connection, Failure};
use self::endpoint::Endpoint;
use self::message::Status;
use self::tls::TlsSpec;
use super::memory::Memory;
use super::register::{Entry, Seen, Swapped};
use super::report::{Place, Report};
use super::stored::Owner;
use crate::base::arbiter::{ArbiterError, ArbiterErrorKind};
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;
use tokio::time::Instant;

const RANGE: &str = "/v3/kv/range";
const TXN: &str = "/v3/kv/txn";
const AUTHENTICATE: &str = "/v3/auth/authenticate";
const STATUS: &str = "/v3/maintenance/status";

/// Which etcd, and how it is reached.
#[derive(Clone, Debug)]
pub struct EtcdSpec {
    /// Its members, at least one; tried in turn, beginning with the one that answered last.
    pub endpoints: Vec<Endpoint>,
    /// For https endpoints.
    pub tls: Option<TlsSpec>,
    /// A user, where etcd asks for one.
    pub user: Option<User>,
    /// What the keys begin with: `PREFIX/CLUSTER/GROUP`.
    pub prefix: String,
}

/// A user of etcd.
#[derive(Clone, Debug)]
pub struct User {
    /// Its name.
    pub name: String,
    /// The file with its password, which only its owner may read; read anew for each token.
    pub password_file: PathBuf,
}

/// The register in an etcd.
pub struct Etcd {
    spec: EtcdSpec,
    key: String,
    /// The endpoint tried first.
    current: usize,
    /// Kept between requests, to the current endpoint.
    connection: Option<Connection>,
    /// Tokens end after some minutes; a refused one is replaced.
    token: Option<String>,
    /// A user is configured, and etcd asks for none.
    open_to_all: bool,
}

/// Which connection will do for a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The kept one, or else a new one.
    Any,
    /// Only the kept one.
    Kept,
}

/// A request without a good answer, and what follows from that.
struct Trouble {
    error: ArbiterError,
    perhaps_done: bool,
    /// The answer would be the same elsewhere.
    last_word: bool,
}

impl Etcd {
    /// The register of a group. Nothing is asked yet.
    pub fn new(spec: &EtcdSpec, owner: &Owner) -> Result<Etcd, ArbiterError> {
        assert!(!spec.endpoints.is_empty(), "the configuration has at least one endpoint");
        let key = format!("{}/{}/{}", spec.prefix.trim_end_matches('/'), owner.cluster, owner.group);
        if let Some(tls) = &spec.tls {
            tls::load(tls).map_err(|detail| ArbiterError::new(ArbiterErrorKind::Certificate, detail))?;
        }
        Ok(Etcd { spec: spec.clone(), key, current: 0, connection: None, token: None, open_to_all: false })
    }

    /// Names the register in messages.
    pub fn place(&self) -> String {
        format!("the etcd key {}", self.key)
    }

    /// Reads the key as a quorum has it.
    pub async fn read(&mut self, deadline: Instant) -> Result<Seen, ArbiterError> {
        let mut troubles = Vec::new();
        let tries = self.spec.endpoints.len();
        for left in (1..=tries).rev() {
            match self.range(share(deadline, left)).await {
                Ok(seen) => return Ok(seen),
                Err(trouble) => {
                    let last_word = trouble.last_word;
                    troubles.push(trouble.error);
                    if last_word {
                        break;
                    }
                }
            }
            self.give_up_endpoint();
        }
        Err(summary(troubles))
    }

    /// Puts `new` where `expected` stands.
    pub async fn swap(&mut self, expected: Option<&Entry>, new: &[u8], memory: &Memory, deadline: Instant) -> Swapped {
        let mut troubles = Vec::new();
        let mut perhaps_done = false;
        // Once more than there are endpoints: an answer that is missing from the last one may be had by asking again,
        // and a kept connection may have been closed just now.
        for left in (0..=self.spec.endpoints.len()).rev() {
            match self.txn(expected, new, memory, share(deadline, left + 1)).await {
                Ok((true, seen)) => return Swapped::Won(seen),
                Ok((false, seen)) => return Swapped::Lost(seen),
                Err(trouble) => {
                    perhaps_done |= trouble.perhaps_done;
                    let last_word = trouble.last_word;
                    troubles.push(trouble.error);
                    if last_word {
                        break;
                    }
                }
            }
            self.give_up_endpoint();
        }
        let error = summary(troubles);
        if perhaps_done { Swapped::Unknown(error) } else { Swapped::Refused(error) }
    }

    /// Asks every member how it is, and reads the key.
    pub async fn check(&mut self, deadline: Instant) -> Report {
        let mut read = self.read(share(deadline, 3)).await;
        if read.is_ok()
            && let Err(error) = self.may_write(share(deadline, 2)).await
        {
            read = Err(error);
        }
        let mut looks = Vec::new();
        for endpoint in &self.spec.endpoints {
            let (endpoint, tls, token) = (endpoint.clone(), self.spec.tls.clone(), self.token.clone());
            looks.push(tokio::spawn(async move { look(&endpoint, tls.as_ref(), token.as_deref(), deadline).await }));
        }
        let mut report = Report::default();
        for (endpoint, look) in self.spec.endpoints.iter().zip(looks) {
            let place = match look.await {
                Ok(Ok(status)) => self.place_of(endpoint, &status),
                Ok(Err(error)) => Place { name: endpoint.to_string(), what: "etcd".into(), trouble: Some(error) },
                Err(_) => continue,
            };
            report.places.push(place);
        }
        // A member's own word, such as an alarm, says more than a read that had no answer.
        let read_only = |error: &&ArbiterError| error.kind == ArbiterErrorKind::ReadOnly;
        let troubles: Vec<&ArbiterError> = report.places.iter().filter_map(|place| place.trouble.as_ref()).collect();
        let alarm = troubles.iter().copied().find(|error| read_only(error) && error.detail.contains("alarm"));
        report.trouble = match (alarm, read) {
            (Some(alarm), _) => Some(alarm.clone()),
            (None, Err(error)) => Some(troubles.iter().copied().find(read_only).unwrap_or(&error).clone()),
            (None, Ok(_)) => None,
        };
        report.notes = self.notes(troubles.len());
        report
    }

    /// Whether this user may change the record: before it is needed, and without changing it.
    async fn may_write(&mut self, deadline: Instant) -> Result<(), ArbiterError> {
        if self.spec.user.is_none() || self.open_to_all {
            return Ok(());
        }
        let asked = self.ask(TXN, &message::rights(self.key.as_bytes()), deadline).await;
        match asked {
            Err(trouble) if trouble.error.kind == ArbiterErrorKind::Permission => Err(trouble.error),
            // Whatever else is wrong is seen, and said better, by the other questions.
            _ => Ok(()),
        }
    }

    fn place_of(&self, endpoint: &Endpoint, status: &Status) -> Place {
        let said = |what: String| Some(ArbiterError::new(ArbiterErrorKind::ReadOnly, format!("{endpoint}: {what}")));
        let trouble = match (status.errors.first(), status.has_leader) {
            (Some(_), _) => said(format!("etcd reports {}", status.errors.join(", "))),
            (None, false) => said("this member knows no leader: there is no quorum, or it is cut off".into()),
            (None, true) => None,
        };
        Place { name: endpoint.to_string(), what: format!("etcd {}", status.version), trouble }
    }

    fn notes(&self, in_trouble: usize) -> Vec<String> {
        let mut notes = Vec::new();
        let all = self.spec.endpoints.len();
        if (1..all).contains(&in_trouble) {
            notes.push(format!("{in_trouble} of {all} endpoints of etcd are in trouble"));
        }
        if self.open_to_all {
            notes.push("a user is configured, but etcd asks for none: anybody may change the record".into());
        }
        notes
    }

    async fn range(&mut self, deadline: Instant) -> Result<Seen, Trouble> {
        let answer = self.ask(RANGE, &message::range(self.key.as_bytes()), deadline).await?;
        message::seen(&answer).ok_or_else(|| self.nonsense(&answer))
    }

    async fn txn(
        &mut self,
        expected: Option<&Entry>,
        new: &[u8],
        memory: &Memory,
        deadline: Instant,
    ) -> Result<(bool, Seen), Trouble> {
        let proven = self.connection.as_ref().is_some_and(|kept| kept.proven && !kept.is_closed());
        if !proven {
            let nothing_done = |trouble| Trouble { perhaps_done: false, ..trouble };
            let seen = self.range(deadline).await.map_err(nothing_done)?;
            let refused = |error| Trouble { error, perhaps_done: false, last_word: true };
            memory.judge_store(&seen.store, seen.store_revision).map_err(refused)?;
        }
        // On that very connection: behind a new one may be another store.
        let body = message::swap(self.key.as_bytes(), expected, new);
        let answer = self.ask_once(TXN, &body, Over::Kept, deadline).await?;
        message::swapped(&answer, new).ok_or_else(|| self.nonsense(&answer))
    }

    /// Asks the current endpoint. A kept connection may have been closed long ago; then a new one is made.
    async fn ask(&mut self, path: &str, body: &Value, deadline: Instant) -> Result<Value, Trouble> {
        let kept = self.connection.is_some();
        match self.ask_once(path, body, Over::Any, deadline).await {
            Err(trouble) if kept && !trouble.last_word && self.connection.is_none() => {
                self.ask_once(path, body, Over::Any, deadline).await
            }
            other => other,
        }
    }

    /// Asks the current endpoint, with a token where one is needed.
    async fn ask_once(&mut self, path: &str, body: &Value, over: Over, deadline: Instant) -> Result<Value, Trouble> {
        let renewable = self.token.is_some();
        self.authenticate(over, deadline).await.map_err(|trouble| Trouble { perhaps_done: false, ..trouble })?;
        match self.post(path, body, over, deadline).await? {
            Ok(answer) => Ok(answer),
            Err(refused) if refused.token && renewable => {
                self.token = None;
                self.authenticate(over, deadline)
                    .await
                    .map_err(|trouble| Trouble { perhaps_done: false, ..trouble })?;
                self.post(path, body, over, deadline).await?.map_err(|refused| self.said_no(refused))
            }
            Err(refused) => Err(self.said_no(refused)),
        }
    }

    /// Gets a token, if there is a user and no token yet.
    async fn authenticate(&mut self, over: Over, deadline: Instant) -> Result<(), Trouble> {
        let Some(user) = &self.spec.user else { return Ok(()) };
        if self.token.is_some() || self.open_to_all {
            return Ok(());
        }
        let password = super::password::read(&user.password_file).map_err(|detail| Trouble {
            error: ArbiterError::new(ArbiterErrorKind::Credentials, detail),
            perhaps_done: false,
            last_word: true,
        })?;
        let body = message::authenticate(&user.name, &password);
        match self.post(AUTHENTICATE, &body, over, deadline).await? {
            Ok(answer) => {
                let token = message::token(&answer).ok_or_else(|| self.nonsense(&json!("no token")))?;
                self.token = Some(token);
            }
            Err(refused) if refused.no_auth => self.open_to_all = true,
            Err(refused) => return Err(self.said_no(refused)),
        }
        Ok(())
    }

    /// Sends a request to the current endpoint, over the kept connection or a new one.
    async fn post(
        &mut self,
        path: &str,
        body: &Value,
        over: Over,
        deadline: Instant,
    ) -> Result<Result<Value, message::Refused>, Trouble> {
        let trouble =
            |failure: Failure| Trouble { error: failure.error, perhaps_done: failure.perhaps_done, last_word: false };
        let mut connection = match self.connection.take() {
            Some(kept) if !kept.is_closed() => kept,
            _ if over == Over::Kept => {
                let detail = format!("{}: the connection was closed", self.spec.endpoints[self.current]);
                let error = ArbiterError::new(ArbiterErrorKind::Unreachable, detail);
                return Err(Trouble { error, perhaps_done: false, last_word: false });
            }
            _ => {
                let endpoint = &self.spec.endpoints[self.current];
                Connection::open(endpoint, self.spec.tls.as_ref(), deadline).await.map_err(trouble)?
            }
        };
        let answer = connection.post(path, body, self.token.as_deref(), deadline).await.map_err(trouble)?;
        self.connection = Some(connection);
        if answer.status != 200 {
            return Ok(Err(message::refused(answer.status, &answer.body)));
        }
        serde_json::from_slice(&answer.body).map(Ok).map_err(|_| self.nonsense(&json!("no JSON")))
    }

    /// The current endpoint was of no use: the next one is asked from now on.
    fn give_up_endpoint(&mut self) {
        self.connection = None;
        // An etcd that was restored waits with the tokens of before until its log is as long as it was then: for ever. It
        // does not refuse them, so a question that had no answer is asked with a new one.
        self.token = None;
        self.current = (self.current + 1) % self.spec.endpoints.len();
    }

    fn said_no(&self, refused: message::Refused) -> Trouble {
        let hint = match (refused.kind, &self.spec.user) {
            (ArbiterErrorKind::Credentials, Some(user)) => format!(" (as user {})", user.name),
            (ArbiterErrorKind::Credentials, None) => " (no user is configured)".into(),
            (ArbiterErrorKind::Permission, _) => format!(" ({})", self.place()),
            _ => String::new(),
        };
        let detail = format!("{}: etcd says {:?}{hint}", self.spec.endpoints[self.current], refused.words);
        // Another member may have the quorum that this one has lost; all of them have the same users and rights.
        let last_word = refused.without_effect && refused.kind != ArbiterErrorKind::TimedOut;
        let error = ArbiterError::new(refused.kind, detail);
        Trouble { error, perhaps_done: !refused.without_effect, last_word }
    }

    fn nonsense(&self, answer: &Value) -> Trouble {
        let shown: String = answer.to_string().chars().take(120).collect();
        let endpoint = &self.spec.endpoints[self.current];
        let detail = format!("{endpoint}: this is no answer of an etcd's JSON gateway: {shown}");
        let error = ArbiterError::new(ArbiterErrorKind::Protocol, detail);
        Trouble { error, perhaps_done: true, last_word: false }
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("key", &self.key).finish_non_exhaustive()
    }
}

/// How one member is, over a connection of its own.
async fn look(
    endpoint: &Endpoint,
    tls: Option<&TlsSpec>,
    token: Option<&str>,
    deadline: Instant,
) -> Result<Status, ArbiterError> {
    let mut connection = Connection::open(endpoint, tls, deadline).await.map_err(|failure| failure.error)?;
    let answer = connection.post(STATUS, &json!({}), token, deadline).await.map_err(|failure| failure.error)?;
    let protocol = |what: String| ArbiterError::new(ArbiterErrorKind::Protocol, format!("{endpoint}: {what}"));
    if answer.status != 200 {
        let refused = message::refused(answer.status, &answer.body);
        let detail = format!("{endpoint}: etcd says {:?}", refused.words);
        return Err(ArbiterError::new(refused.kind, detail));
    }
    let status = serde_json::from_slice(&answer.body).ok().and_then(|answer| message::status(&answer));
    status.ok_or_else(|| protocol("this is no answer of an etcd's JSON gateway".into()))
}

/// The part of the time that one of `tries` may take.
fn share(deadline: Instant, tries: usize) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / u32::try_from(tries.max(1)).unwrap_or(u32::MAX)
}

/// All troubles in one sentence; the kind is that of the most telling one.
fn summary(mut troubles: Vec<ArbiterError>) -> ArbiterError {
    troubles.dedup_by(|one, other| one.detail == other.detail);
    let rank = |error: &&ArbiterError| match error.kind {
        ArbiterErrorKind::Unreachable => 0,
        ArbiterErrorKind::TimedOut => 1,
        _ => 2,
    };
    let kind = troubles.iter().max_by_key(rank).map_or(ArbiterErrorKind::Unreachable, |error| error.kind);
    let found = troubles.iter().find_map(|error| error.found);
    let details: Vec<&str> = troubles.iter().map(|error| error.detail.as_str()).collect();
    ArbiterError { found, ..ArbiterError::new(kind, details.join("; ")) }
}
