//! How long things took: counts in buckets whose width grows with the value, so that a span of any size is known to
//! within a sixteenth, in fixed memory, without allocating when something is recorded.

use std::time::Duration;

/// Spans are told apart down to this many nanoseconds, as a power of two.
const UNIT_SHIFT: u32 = 8;
/// Buckets to each doubling, as a power of two.
const FINE_BITS: u32 = 4;
const FINE: usize = 1 << FINE_BITS;
/// Doublings beyond the first `FINE` units: the last bucket ends at 137 s, longer than any time-out of a disk or peer.
const DOUBLINGS: usize = 25;
const BUCKETS: usize = FINE + DOUBLINGS * FINE;

/// Counts of spans by their length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    count: u64,
    sum_nanoseconds: u64,
    max_nanoseconds: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0; BUCKETS], count: 0, sum_nanoseconds: 0, max_nanoseconds: 0 }
    }
}

impl Histogram {
    /// Counts one span.
    pub fn record(&mut self, span: Duration) {
        self.record_many(span, 1);
    }

    /// Counts several that took the same time.
    pub fn record_many(&mut self, span: Duration, count: u64) {
        // Five hundred years of nanoseconds fit.
        let nanoseconds = span.as_nanos() as u64;
        self.counts[bucket_of(nanoseconds)] += count;
        self.count += count;
        self.sum_nanoseconds = self.sum_nanoseconds.saturating_add(nanoseconds.saturating_mul(count));
        self.max_nanoseconds = self.max_nanoseconds.max(nanoseconds);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_nanoseconds)
    }

    /// The average, exactly; zero of nothing.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum_nanoseconds.checked_div(self.count).unwrap_or(0))
    }

    /// The span that this part of all (0 to 1) did not exceed, at most a sixteenth too long; zero of nothing.
    pub fn quantile(&self, part: f64) -> Duration {
        let rank = ((self.count as f64 * part).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(last_of(bucket).min(self.max_nanoseconds));
            }
        }
        self.max()
    }

    /// Every bucket that counted something: its longest span in nanoseconds, and how many.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bucket, count)| (last_of(bucket), *count))
    }
}

/// The bucket a span belongs to.
fn bucket_of(nanoseconds: u64) -> usize {
    let units = nanoseconds >> UNIT_SHIFT;
    if units < FINE as u64 {
        return units as usize;
    }
    let doubling = units.ilog2() - FINE_BITS;
    let fine = (units >> doubling) as usize & (FINE - 1);
    (FINE + doubling as usize * FINE + fine).min(BUCKETS - 1)
}

/// The longest span of a bucket, in nanoseconds.
fn last_of(bucket: usize) -> u64 {
    if bucket < FINE {
        return ((bucket as u64 + 1) << UNIT_SHIFT) - 1;
    }
    let (doubling, fine) = ((bucket - FINE) / FINE, (bucket - FINE) % FINE);
    ((((FINE + fine + 1) as u64) << doubling) << UNIT_SHIFT) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for bucket in 0..BUCKETS - 1 {
            let last = last_of(bucket);
            assert_eq!((bucket_of(last), bucket_of(last + 1)), (bucket, bucket + 1));
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1, "the last bucket takes whatever is longer");
        assert_eq!(last_of(BUCKETS - 1), (1 << 37) - 1, "137 s");
    }

    #[test]
    fn of_known_spans_the_quantiles_are_known() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.count(), histogram.quantile(0.5), histogram.mean()), (0, Duration::ZERO, Duration::ZERO));
        for milliseconds in 1..=1000 {
            histogram.record(Duration::from_millis(milliseconds));
        }
        assert_eq!((histogram.count(), histogram.max()), (1000, Duration::from_secs(1)));
        assert_eq!(histogram.mean(), Duration::from_micros(500_500));
        for (part, milliseconds) in [(0.5, 500), (0.9, 900), (0.99, 990), (0.999, 999)] {
            let (found, exact) = (histogram.quantile(part), Duration::from_millis(milliseconds));
            assert!(found >= exact && found <= exact + exact / 16, "{part}: {found:?}");
        }
        assert_eq!(histogram.quantile(1.0), Duration::from_secs(1), "never above the longest");
        histogram.record_many(Duration::from_micros(10), 9000);
        assert_eq!(histogram.count(), 10_000);
        assert!(histogram.quantile(0.9) <= Duration::from_nanos(10_700));
        assert_eq!(histogram.buckets().map(|(_, count)| count).sum::<u64>(), 10_000);
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_a_sixteenth_above_the_sorted_spans(
            mut spans in prop::collection::vec(0_u64..100_000_000_000, 1..200),
            part in 0.0_f64..=1.0,
        ) {
            let mut histogram = Histogram::default();
            spans.iter().for_each(|span| histogram.record(Duration::from_nanos(*span)));
            spans.sort_unstable();
            let rank = ((spans.len() as f64 * part).ceil() as usize).clamp(1, spans.len());
            let (exact, found) = (spans[rank - 1], histogram.quantile(part).as_nanos() as u64);
            prop_assert!(found >= exact && found <= exact + exact / 16 + (1 << UNIT_SHIFT), "{exact} {found}");
        }
    }
}
