//! How long what was queued for a socket stays in our hands: until the kernel has its last byte.

use crate::base::latency::{Kind, Latency, Stage};
use crate::base::time::Moment;
use crate::io::clock::now;
use std::collections::VecDeque;

/// What waits in one socket's queue, and since when. Bounded by the queue, whose users bound it.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// Bytes the kernel has taken, ever.
    sent_bytes: u64,
    /// In order; one for each turn that queued something and kind of request.
    waiting: VecDeque<Departure>,
}

#[derive(Debug)]
struct Departure {
    /// Where its last byte ends, in bytes since the beginning.
    end: u64,
    since: Moment,
    kind: Kind,
    count: u64,
}

impl Departures {
    /// Something was queued in the turn that began then; with it, so many bytes are queued.
    pub fn queued(&mut self, kind: Kind, queued_bytes: usize, since: Moment) {
        let end = self.sent_bytes + queued_bytes as u64;
        match self.waiting.back_mut().filter(|last| (last.kind, last.since) == (kind, since)) {
            // What a turn queues usually leaves at once; its last byte stands for all of it.
            Some(last) => (last.end, last.count) = (end, last.count + 1),
            None => self.waiting.push_back(Departure { end, since, kind, count: 1 }),
        }
    }

    /// The kernel took so many bytes, right now.
    pub fn sent(&mut self, bytes: usize, stage: Stage, latency: &mut Latency) {
        self.sent_bytes += bytes as u64;
        let has_left = |sent_bytes, departure: &Departure| departure.end <= sent_bytes;
        if !self.waiting.front().is_some_and(|first| has_left(self.sent_bytes, first)) {
            return;
        }
        let now = now();
        while let Some(gone) = self.waiting.pop_front_if(|first| has_left(self.sent_bytes, first)) {
            latency.record_many(gone.kind, stage, now.since(gone.since), gone.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_has_left_to_its_last_byte_is_counted_once() {
        let (mut departures, mut latency) = (Departures::default(), Latency::of(&[Stage::Reply]));
        let early = now();
        let counts = |latency: &Latency| {
            let view = latency.view();
            let of = |kind| view.iter().find(|stage| stage.kind == kind).unwrap().count;
            (of(Kind::Read), of(Kind::Write))
        };
        departures.queued(Kind::Read, 100, early);
        departures.queued(Kind::Read, 200, early);
        departures.queued(Kind::Write, 216, early);
        departures.sent(199, Stage::Reply, &mut latency);
        assert_eq!(counts(&latency), (0, 0));
        departures.queued(Kind::Write, 16 + 17, early + Duration::from_secs(1));
        departures.sent(1, Stage::Reply, &mut latency);
        assert_eq!(counts(&latency), (2, 0));
        departures.sent(32, Stage::Reply, &mut latency);
        assert_eq!(counts(&latency), (2, 2));
        departures.sent(1000, Stage::Reply, &mut latency);
        assert_eq!(counts(&latency), (2, 2));
    }
}
