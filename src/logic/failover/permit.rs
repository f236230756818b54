//! Permit and promise: who may answer reads and hold the address, without synchronised clocks.
//!
//! ```text
//! owner    ──sent s──────────────────────────────► permit ends: s + T·(1−ρ) − margin
//!              ╲                        ╱ promise, echoing s
//! standby       ╲──received r ≥ s──────╱─────────► promise ends: r + T
//! ```
//! Sent before received, and counted shorter: the permit has always ended before the promise does. Writes need neither: they
//! are acknowledged only with the peer's word or after it was excluded.

use super::interface::Settings;
use super::mutation::{Mutation, Rules};
use crate::base::heartbeat::{Heartbeat, Promise};
use crate::base::ids::{Epoch, Incarnation};
use crate::base::time::Moment;
use std::time::Duration;

/// An owner's permit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Permit {
    until: Option<Moment>,
}

impl Permit {
    /// Takes a promise; one for another life or epoch says nothing.
    pub fn renew(&mut self, now: Moment, promise: &Promise, me: Incarnation, epoch: Epoch, terms: &Terms) {
        if promise.to != me || promise.epoch != epoch || promise.sent > now {
            return;
        }
        let from = if terms.rules.broken(Mutation::PermitFromReceipt) { now } else { promise.sent };
        let until = from + terms.permit(promise.span);
        self.until = Some(self.until.map_or(until, |old| old.max(until)));
    }

    /// A new epoch: promises of the old one are void.
    pub fn clear(&mut self) {
        self.until = None;
    }

    /// Until when it holds; in the past when it has ended.
    pub fn until(&self) -> Option<Moment> {
        self.until
    }

    /// Whether it holds now.
    pub fn is_valid(&self, now: Moment) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// What a standby has promised.
#[derive(Clone, Copy, Debug)]
pub struct Promises {
    /// No takeover before this.
    until: Moment,
    /// A promise of before the start may have been forgotten; over then.
    forgotten_until: Moment,
    /// Longest promise this life may have given.
    longest: Duration,
    newest: Option<Promise>,
}

impl Promises {
    /// A node that has just started waits as long as a promise holds, of its settings now or of those it had before.
    pub fn new(settings: &Settings, promised: Duration, now: Moment, rules: Rules) -> Promises {
        let longest = settings.dead_after;
        let wait = if rules.broken(Mutation::NoBootWait) { Duration::ZERO } else { longest.max(promised) };
        Promises { until: now, forgotten_until: now + wait, longest, newest: None }
    }

    /// Other settings: promises last this long from here on.
    pub fn set_span(&mut self, span: Duration) {
        self.longest = self.longest.max(span);
    }

    /// What the next life must wait for: the longest promise of this one, and while those of the life before may still hold,
    /// theirs.
    pub fn remembered(&self, now: Moment, promised: Duration) -> Duration {
        if now < self.forgotten_until { self.longest.max(promised) } else { self.longest }
    }

    /// Promises to the sender of `heartbeat`.
    pub fn give(&mut self, now: Moment, heartbeat: &Heartbeat, span: Duration) {
        self.until = self.until.max(now + span);
        self.newest = Some(Promise { to: heartbeat.incarnation, epoch: heartbeat.epoch, sent: heartbeat.sent, span });
    }

    /// The one it was given to serves no more, by its own word.
    pub fn release(&mut self, now: Moment) {
        self.until = now;
        self.newest = None;
    }

    /// The newest, for the heartbeats.
    pub fn newest(&self) -> Option<Promise> {
        self.newest
    }

    /// When a takeover may begin.
    pub fn end(&self, rules: Rules) -> Moment {
        if rules.broken(Mutation::PromiseNotKept) { self.forgotten_until } else { self.until.max(self.forgotten_until) }
    }
}

/// How much shorter a permit is than the promise it rests on.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Largest difference of two clocks' rates, parts per thousand.
    pub clock_rate_per_mille: u32,
    /// Taken off besides.
    pub margin: Duration,
    /// The rules gone by.
    pub rules: Rules,
}

impl Terms {
    /// A permit's length for a promise of this length.
    pub fn permit(&self, span: Duration) -> Duration {
        if self.rules.broken(Mutation::PermitWithoutMargin) {
            return span;
        }
        (span * 1000u32.saturating_sub(self.clock_rate_per_mille) / 1000).saturating_sub(self.margin)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{heartbeat, settings};
    use super::*;

    const SPAN: Duration = Duration::from_secs(1);

    fn terms() -> Terms {
        Terms { clock_rate_per_mille: 10, margin: Duration::from_millis(10), rules: Rules::default() }
    }

    /// Whatever the delays and the clocks' rates within the bound: the permit ends first.
    #[test]
    fn the_permit_ends_before_the_promise() {
        for owner_rate in [995u64, 1000, 1005] {
            for standby_rate in [995u64, 1000, 1005] {
                for delay in [0u64, 1, 50_000, 900_000] {
                    // True microseconds; each clock shows true · rate / 1000.
                    let owner = |true_us: u64| Moment(true_us * owner_rate);
                    let standby = |true_us: u64| Moment(true_us * standby_rate);
                    let sent = 5_000_000;
                    let mut asks = heartbeat(1, 1);
                    asks.sent = owner(sent);
                    let mut promises = Promises::new(&settings(1), Duration::ZERO, Moment(0), Rules::default());
                    promises.give(standby(sent + delay), &asks, SPAN);
                    let mut permit = Permit::default();
                    let promise = promises.newest().unwrap();
                    permit.renew(owner(sent + 2 * delay), &promise, asks.incarnation, asks.epoch, &terms());
                    let permit_end = permit.until().unwrap().0 / owner_rate;
                    let promise_end = promises.end(Rules::default()).0 / standby_rate;
                    assert!(permit_end < promise_end, "{owner_rate} {standby_rate} {delay}");
                }
            }
        }
    }

    #[test]
    fn a_promise_to_another_life_or_epoch_permits_nothing() {
        let mut permit = Permit::default();
        let promise = Promise { to: Incarnation(1), epoch: Epoch(3), sent: Moment(0), span: SPAN };
        permit.renew(Moment(1), &promise, Incarnation(2), Epoch(3), &terms());
        permit.renew(Moment(1), &promise, Incarnation(1), Epoch(4), &terms());
        assert_eq!(permit.until(), None);
        permit.renew(Moment(1), &promise, Incarnation(1), Epoch(3), &terms());
        assert!(permit.is_valid(Moment(979_999_999)) && !permit.is_valid(Moment(980_000_000)));
    }

    #[test]
    fn a_node_that_started_waits_for_promises_it_may_have_forgotten() {
        let now = Moment(7_000_000_000);
        let promises = |promised| Promises::new(&settings(1), promised, now, Rules::default());
        assert_eq!(promises(Duration::ZERO).end(Rules::default()), now + SPAN);
        assert_eq!(promises(SPAN * 5).end(Rules::default()), now + SPAN * 5, "promises were longer then");
    }

    #[test]
    fn the_next_life_is_told_of_the_longest_promise_that_may_hold() {
        let start = Moment(7_000_000_000);
        let mut promises = Promises::new(&settings(1), SPAN * 5, start, Rules::default());
        assert_eq!(promises.remembered(start + SPAN * 4, SPAN * 5), SPAN * 5);
        assert_eq!(promises.remembered(start + SPAN * 5, SPAN * 5), SPAN);
        promises.set_span(SPAN * 3);
        promises.set_span(SPAN);
        assert_eq!(promises.remembered(start + SPAN * 5, SPAN * 5), SPAN * 3);
    }
}
