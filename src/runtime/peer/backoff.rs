//! How long to wait before the peer is dialled again.

use std::time::Duration;

/// Waits that double from a least to a longest, with jitter, so that many volumes don't dial at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    least: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `least` to `longest`.
    pub fn new(least: Duration, longest: Duration) -> Backoff {
        Backoff { least, longest: longest.max(least), next: least }
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
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let waits: Vec<u128> = (0..4).map(|_| backoff.wait(u32::MAX).as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        assert_eq!(backoff.wait(0).as_millis(), 175, "at least half of it");
        backoff.reset();
        assert_eq!(backoff.wait(u32::MAX).as_millis(), 100);
    }
}
