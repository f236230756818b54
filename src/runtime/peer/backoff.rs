//! How long to wait before the peer is dialled again.

use std::time::Duration;

/// Waits that double from a least to a longest, with jitter, so that many volumes don't dial at the same moment.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    least: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `least` to `longest` from here on.
    pub fn set_bounds(&mut self, least: Duration, longest: Duration) {
        (self.least, self.longest) = (least, longest.max(least));
        self.next = self.next.clamp(self.least, self.longest);
    }

    /// The next wait. `random` is any number; half of the wait depends on it.
    pub fn wait(&mut self, random: u32) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.longest);
        let half = whole / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// The next wait is the least again.
    pub fn reset(&mut self) {
        self.next = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_starts_again() {
        let mut backoff = Backoff::default();
        backoff.set_bounds(Duration::from_millis(100), Duration::from_millis(350));
        let waits: Vec<u128> = (0..4).map(|_| backoff.wait(u32::MAX).as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        assert_eq!(backoff.wait(0).as_millis(), 175, "at least half of it");
        backoff.reset();
        assert_eq!(backoff.wait(u32::MAX).as_millis(), 100);
        backoff.set_bounds(Duration::from_millis(10), Duration::from_millis(50));
        assert_eq!(backoff.wait(u32::MAX).as_millis(), 50, "a wait that grew is no longer than the longest");
    }
}
