//! Where the time went while one load ran: what was counted at its end less what was counted at its beginning.

use crate::base::latency::{Kind, Stage, StageView};
use std::collections::BTreeMap;

/// One stage under one load. Times in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Went {
    pub kind: Kind,
    pub stage: Stage,
    /// Requests that went through it.
    pub count: u64,
    /// Middle and 99th percentile.
    pub p50: f64,
    pub p99: f64,
}

/// What was counted between two looks; stages nothing went through are left out.
pub(super) fn between(before: &[StageView], after: &[StageView]) -> Vec<Went> {
    after.iter().filter_map(|stage| went(before, stage)).collect()
}

fn went(before: &[StageView], after: &StageView) -> Option<Went> {
    let earlier = before.iter().find(|stage| (stage.kind, stage.stage) == (after.kind, after.stage));
    let earlier: BTreeMap<u64, u64> = earlier.map_or(BTreeMap::new(), |stage| stage.buckets.iter().copied().collect());
    let counted = |&(end, count): &(u64, u64)| (end, count.saturating_sub(earlier.get(&end).copied().unwrap_or(0)));
    let buckets: Vec<(u64, u64)> = after.buckets.iter().map(counted).filter(|(_, count)| *count > 0).collect();
    let count: u64 = buckets.iter().map(|(_, count)| count).sum();
    let at = |part: f64| {
        let rank = ((count as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let found = buckets.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map_or(0.0, |(end, _)| *end as f64 / 1e3)
    };
    (count > 0).then(|| Went { kind: after.kind, stage: after.stage, count, p50: at(0.5), p99: at(0.99) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::latency::Latency;
    use std::time::Duration;

    #[test]
    fn only_what_came_between_counts() {
        let mut latency = Latency::of(&[Stage::Total]);
        (0..50).for_each(|_| latency.record(Kind::Write, Stage::Total, Duration::from_secs(1)));
        let before = latency.view();
        (0..99).for_each(|_| latency.record(Kind::Write, Stage::Total, Duration::from_micros(100)));
        latency.record(Kind::Write, Stage::Total, Duration::from_secs(2));
        let found = between(&before, &latency.view());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].kind, found[0].count), (Kind::Write, 100));
        assert!((100.0..107.0).contains(&found[0].p50) && found[0].p99 < 107.0, "{found:?}");
        assert!(between(&latency.view(), &latency.view()).is_empty());
    }
}
