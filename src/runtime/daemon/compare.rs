//! Do both servers run with the same settings and the same software? Each asks the other for its settings whenever one of
//! them may have changed, and says by name what differs.

use super::{Daemon, files};
use crate::base::command::Refusal;
use crate::io::clock::calendar;
use crate::runtime::config::Config;
use crate::runtime::config::form::{Difference, Form};
use crate::runtime::config::units::show_time;
use crate::runtime::peer::{Local, aside};
use crate::wire::aside::{Answer, FORM_BYTES_MAX, Question};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Time between two questions while the peer differs or does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The same while all is well; a change is told without being asked.
const LOOK_NOW_AND_THEN: Duration = Duration::from_secs(300);
/// Differences that are kept and told; beyond it only their number is.
const DIFFERENCES_MAX: usize = 100;

/// Difference of both clocks beyond which it is told.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5);

/// Differences told among the notices of a group; `check --peer` tells all.
const NOTICES_MAX: usize = 5;

/// What is known of the peer's settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Name of the peer.
    pub peer: String,
    /// Its version; `None` while it was never asked with success.
    pub version: Option<String>,
    /// Version of this daemon.
    pub own_version: String,
    /// What differs: this node's value is `here`, the peer's `there`.
    pub differences: Vec<Difference>,
    /// Differences beyond these.
    pub more: usize,
    /// How far the peer's clock is ahead of this node's, in milliseconds, when that is worth telling.
    pub clock_ahead_ms: Option<i64>,
    /// Why the peer could not be asked the last time.
    pub trouble: Option<String>,
    /// Digest of the settings of this daemon.
    pub digest: String,
    /// What this node's file has and only a restart brings; each a sentence.
    pub waiting: Vec<String>,
}

impl Compared {
    /// Every difference as a sentence.
    pub fn sentences(&self) -> Vec<String> {
        let mut list: Vec<String> = self.differences.iter().map(|one| one.between(&self.peer)).collect();
        if self.more > 0 {
            list.push(format!("and {} more differences", self.more));
        }
        list
    }
}

/// The comparison of this daemon with its peer.
#[derive(Default)]
pub struct Comparison {
    compared: RefCell<Compared>,
    /// Digest of the peer, as last heard.
    peer_digest: Cell<Option<u64>>,
    wake: Notify,
}

impl Comparison {
    /// One of both configurations may have changed.
    pub fn look_again(&self) {
        self.wake.notify_one();
    }

    /// What differs, as last seen.
    pub fn differences(&self) -> Vec<Difference> {
        self.compared.borrow().differences.clone()
    }

    /// Everything that is known.
    pub fn compared(&self) -> Compared {
        self.compared.borrow().clone()
    }
}

/// Keeps comparing for as long as the daemon runs.
pub async fn keep_comparing(daemon: Rc<Daemon>) {
    loop {
        look(&daemon).await;
        let compared = daemon.comparison.compared();
        let well = compared.trouble.is_none() && compared.differences.is_empty();
        let pause = if well { LOOK_NOW_AND_THEN } else { LOOK_AGAIN };
        let wake = async {
            tokio::select! {
                () = daemon.comparison.wake.notified() => {}
                () = daemon.local.other_config.notified() => {}
            }
        };
        // Either is a reason to look again.
        let _ = timeout(pause, wake).await;
    }
}

/// Asks the peer now. What is known then.
pub async fn look(daemon: &Daemon) -> Compared {
    let config = daemon.running();
    let question = Question::Config { digest: config.digest };
    let asked = calendar();
    let answer = aside::ask(&daemon.local, &question, &[]).await;
    let clock_ahead = answer.as_ref().ok().and_then(|(answer, _)| clock_ahead(answer, asked, calendar()));
    let judged = answer.and_then(|(answer, body)| judge(&config, answer, body));
    let mut compared = Compared {
        peer: config.peer_node().name.clone(),
        own_version: env!("CARGO_PKG_VERSION").into(),
        digest: format!("{:016x}", config.digest),
        ..daemon.comparison.compared()
    };
    compared.waiting = daemon.waiting.borrow().iter().map(ToString::to_string).collect();
    match judged {
        Ok((version, digest, mut differences)) => {
            daemon.comparison.peer_digest.set(Some(digest));
            compared.clock_ahead_ms = clock_ahead;
            compared.version = Some(version);
            compared.trouble = None;
            compared.more = differences.len().saturating_sub(DIFFERENCES_MAX);
            differences.truncate(DIFFERENCES_MAX);
            compared.differences = differences;
        }
        Err(reason) => compared.trouble = Some(reason),
    }
    tell(&daemon.comparison.compared.replace(compared.clone()), &compared);
    compared
}

/// What the peer's answer says: its version, its digest, and what differs.
fn judge(config: &Config, answer: Answer, body: Vec<u8>) -> Result<(String, u64, Vec<Difference>), String> {
    let Answer::Config { version, digest, .. } = answer else { return Err("the peer answered something else".into()) };
    let version = version.map(|number| number.to_string()).join(".");
    if digest == config.digest {
        return Ok((version, digest, Vec::new()));
    }
    let form: Form =
        serde_json::from_slice(&body).map_err(|error| format!("the peer's settings can't be read: {error}"))?;
    Ok((version, digest, config.form().differences(&form)))
}

/// How far the peer's clock is ahead, in milliseconds, if that is more than what the answer's way and clocks that are kept
/// by somebody explain. The answer was given at some moment between the question and its arrival.
fn clock_ahead(answer: &Answer, asked: u64, answered: u64) -> Option<i64> {
    let Answer::Config { calendar, .. } = answer else { return None };
    let there = i64::try_from(*calendar).ok()?;
    let (asked, answered) = (i64::try_from(asked).ok()?, i64::try_from(answered).ok()?);
    let ahead = if there > answered { there - answered } else { (there - asked).min(0) };
    (ahead.unsigned_abs() > CLOCK_DIFFERENCE_MAX.as_millis() as u64).then_some(ahead)
}

/// The same as a sentence with the next step.
fn clock_words(peer: &str, ahead_ms: i64) -> String {
    let (time, where_to) =
        (Duration::from_millis(ahead_ms.unsigned_abs()), if ahead_ms > 0 { "ahead of" } else { "behind" });
    format!(
        "the clock of {peer} is {} {where_to} this server's: nothing is decided by it, but logs and events can't be \
         compared, and certificates and signed DNS updates may be refused; synchronise both clocks",
        show_time(time)
    )
}

/// Logs what is new.
fn tell(before: &Compared, now: &Compared) {
    for difference in now.differences.iter().filter(|one| !before.differences.contains(one)) {
        tracing::warn!("the configurations differ: {}", difference.between(&now.peer));
    }
    if now.more > before.more {
        tracing::warn!("the configurations differ in {} more settings", now.more);
    }
    if let (Some(ahead), None) = (now.clock_ahead_ms, before.clock_ahead_ms) {
        tracing::warn!("{}", clock_words(&now.peer, ahead));
    }
    if now.differences.is_empty() && !before.differences.is_empty() {
        tracing::info!("the configuration of {} is the same as this node's", now.peer);
    }
    if let Some(version) = now.version.as_ref().filter(|version| **version != now.own_version)
        && before.version != now.version
    {
        tracing::warn!("{} runs version {version}, this node {}: install the same release", now.peer, now.own_version);
    }
}

/// A refusal because the two servers are not the same, with everything that differs in its reason.
pub fn named(compared: &Compared, refusal: Refusal) -> Refusal {
    let mut list = compared.sentences();
    if let Some(version) = compared.version.as_ref().filter(|version| **version != compared.own_version) {
        list.insert(0, format!("{} runs version {version}, this node {}", compared.peer, compared.own_version));
    }
    list.extend(compared.trouble.iter().map(|trouble| format!("the peer could not be asked what differs: {trouble}")));
    if list.is_empty() {
        // They were made the same a moment ago, and the next heartbeat will say so.
        return Refusal { next: "They agree by now: ask again in a moment.".into(), ..refusal };
    }
    let next =
        "Make them the same on both servers (`check --peer` tells the same), `reload` or restart, and ask again.";
    Refusal { reason: format!("{} {}.", refusal.reason, list.join("; ")), next: next.into(), ..refusal }
}

/// What an operator who looks at a group should know of it.
pub fn notices(daemon: &Daemon) -> Vec<String> {
    let compared = daemon.comparison.compared();
    let mut list: Vec<String> = compared.sentences().into_iter().take(NOTICES_MAX).collect();
    if let Some(version) = compared.version.filter(|version| *version != compared.own_version) {
        list.push(format!("{} runs version {version}, this node {}", compared.peer, compared.own_version));
    }
    list.iter_mut().for_each(|words| words.insert_str(0, "not the same on both servers: "));
    list.extend(compared.clock_ahead_ms.map(|ahead| clock_words(&compared.peer, ahead)));
    list
}

/// What the peer is told when it asks.
pub fn answer(daemon: &Daemon, digest: u64) -> (Answer, Vec<u8>) {
    let config = daemon.running();
    if daemon.comparison.peer_digest.get() != Some(digest) {
        daemon.comparison.look_again();
    }
    let body = match digest == config.digest {
        true => Vec::new(),
        false => serde_json::to_vec(&config.form()).expect("texts can be written as JSON"),
    };
    if body.len() > FORM_BYTES_MAX {
        return (Answer::Refused("the configuration is too long to be compared".into()), Vec::new());
    }
    let bytes = body.len() as u32;
    (Answer::Config { version: super::groups::version(), digest: config.digest, bytes, calendar: calendar() }, body)
}

/// Answers whatever the peer asks beside the replication.
pub fn answer_peer(daemon: &Rc<Daemon>, local: &Local) {
    let daemon = Rc::downgrade(daemon);
    let asides = aside::Asides::new(Box::new(move |question, body| {
        let daemon = daemon.upgrade();
        Box::pin(async move {
            let Some(daemon) = daemon else { return (Answer::Refused("the daemon ends".into()), Vec::new()) };
            match question {
                Question::Config { digest } => answer(&daemon, digest),
                Question::Files { group, resource, .. } => {
                    (files::keep(&daemon, &group, resource, body).await, Vec::new())
                }
            }
        })
    }));
    let _ = local.asides.set(asides);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_an_hour_off_is_told_and_one_that_is_kept_is_not() {
        let at = |calendar| Answer::Config { version: [0; 3], digest: 0, bytes: 0, calendar };
        const NOW: u64 = 1_800_000_000_000;
        const HOUR: u64 = 3_600_000;
        assert_eq!(clock_ahead(&at(NOW + HOUR), NOW - 20, NOW), Some(HOUR as i64));
        assert_eq!(clock_ahead(&at(NOW - HOUR), NOW - 20, NOW), Some(20 - HOUR as i64));
        // Within the time the answer took, and what clocks that are kept differ by.
        assert_eq!(clock_ahead(&at(NOW - 9_000), NOW - 9_500, NOW), None);
        assert_eq!(clock_ahead(&at(NOW + 4_000), NOW - 20, NOW), None);
        assert_eq!(clock_ahead(&at(u64::MAX), NOW - 20, NOW), None);
        let words = clock_words("beta", -(HOUR as i64));
        assert!(
            words.contains("the clock of beta is 1 h 00 min behind this") && words.contains("synchronise both clocks"),
            "{words}"
        );
    }
}
