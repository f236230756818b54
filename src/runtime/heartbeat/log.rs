//! What is said about a path: each trouble once, each kind of refusal now and then, with how many there were.

use crate::base::limits::{HEARTBEAT_LOG_INTERVAL, HEARTBEAT_UNPROVEN_MAX};
use crate::wire::heartbeat::Refusal;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Name of the refusal that shows that the peer does not hear us.
const UNPROVEN: &str = Refusal::KINDS[10];

/// Datagrams of one kind that were not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The kind, one of [`Refusal::KINDS`].
    pub kind: &'static str,
    /// How many there were.
    pub count: u64,
    /// Why the last one was not taken, and what to do about it.
    pub words: String,
    /// How long ago it came.
    pub age: Duration,
    /// As many as every start has.
    pub harmless: bool,
}

/// Keeps the log of one path short.
#[derive(Debug, Default)]
pub struct Log {
    /// What is wrong now, as it was said.
    trouble: Option<String>,
    refused: [Said; Refusal::KINDS.len()],
    /// Datagrams in a row that showed that the peer does not hear us.
    unproven: u64,
}

#[derive(Clone, Debug, Default)]
struct Said {
    /// How many there were.
    count: u64,
    /// The last one: why it was not taken, and when it came.
    newest: Option<(String, Instant)>,
    /// How many of them when it was said last, and when that was.
    last: Option<(u64, Instant)>,
}

impl Log {
    /// Something is wrong with the path on this node.
    pub fn trouble(&mut self, path: &str, words: String) {
        if self.trouble.as_ref() != Some(&words) {
            tracing::warn!("heartbeat path {path}: {words}");
            self.trouble = Some(words);
        }
    }

    /// It is well again.
    pub fn well(&mut self, path: &str) {
        if self.trouble.take().is_some() {
            tracing::info!("heartbeat path {path}: works again");
        }
    }

    /// What is wrong now.
    pub fn current(&self) -> Option<String> {
        self.trouble.clone()
    }

    /// A datagram was taken.
    pub fn heard(&mut self) {
        self.unproven = 0;
    }

    /// A datagram was not taken; says so unless that was said lately. Whether it did.
    pub fn refused(&mut self, path: &str, peer: &str, refusal: &Refusal, now: Instant) -> bool {
        let said = &mut self.refused[refusal.index()];
        said.count += 1;
        said.newest = Some((refusal.to_string(), now));
        if *refusal == Refusal::Unproven {
            // Each start of either daemon begins with some of them.
            self.unproven += 1;
            if self.unproven < HEARTBEAT_UNPROVEN_MAX {
                return false;
            }
        }
        let more = match said.last {
            Some((_, at)) if now.duration_since(at) < HEARTBEAT_LOG_INTERVAL => return false,
            Some((count, _)) => format!(" ({} like it since the last such message)", said.count - count),
            None => String::new(),
        };
        said.last = Some((said.count, now));
        tracing::warn!("heartbeat path {path}: a datagram from {peer} was not taken: {refusal}{more}");
        true
    }

    /// What was not taken, by reason; only what there was.
    pub fn counts(&self, now: Instant) -> Vec<Refused> {
        let seen = Refusal::KINDS.into_iter().zip(&self.refused);
        let refused = seen.filter_map(|(kind, said)| {
            let (words, at) = said.newest.clone()?;
            // Each start of either daemon begins with a few of these.
            let harmless = kind == UNPROVEN && self.unproven < HEARTBEAT_UNPROVEN_MAX;
            Some(Refused { kind, count: said.count, words, age: now.duration_since(at), harmless })
        });
        refused.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_now_and_then_and_counted_always() {
        let (mut log, now) = (Log::default(), Instant::now());
        let mut refuse = |refusal, now| log.refused("lan", "beta", refusal, now);
        assert!(refuse(&Refusal::WrongKey, now));
        assert!(!refuse(&Refusal::WrongKey, now + HEARTBEAT_LOG_INTERVAL / 2));
        assert!(refuse(&Refusal::Replayed, now), "another reason");
        assert!(refuse(&Refusal::WrongKey, now + HEARTBEAT_LOG_INTERVAL));
        let counts = log.counts(now + HEARTBEAT_LOG_INTERVAL * 2);
        let counted: Vec<(&str, u64)> = counts.iter().map(|refused| (refused.kind, refused.count)).collect();
        assert_eq!(counted, [("wrong-key", 3), ("replayed", 1)]);
        assert_eq!((counts[0].age, counts[0].harmless), (HEARTBEAT_LOG_INTERVAL, false));
        assert!(counts[0].words.contains("use the same file"), "{}", counts[0].words);
    }

    #[test]
    fn the_beginning_of_a_life_is_no_news() {
        let (mut log, now) = (Log::default(), Instant::now());
        for _ in 0..3 {
            for _ in 1..HEARTBEAT_UNPROVEN_MAX {
                assert!(!log.refused("lan", "beta", &Refusal::Unproven, now));
            }
            log.heard();
        }
        let said = (0..HEARTBEAT_UNPROVEN_MAX).filter(|_| log.refused("lan", "beta", &Refusal::Unproven, now)).count();
        assert_eq!(said, 1, "a peer that never hears us is");
        assert_eq!(log.counts(now)[0].kind, "unproven");
        assert!(!log.counts(now)[0].harmless);
    }

    #[test]
    fn a_trouble_stays_until_it_is_over() {
        let mut log = Log::default();
        log.trouble("lan", "no address".into());
        log.trouble("lan", "no address".into());
        assert_eq!(log.current().as_deref(), Some("no address"));
        log.well("lan");
        assert_eq!(log.current(), None);
    }
}
