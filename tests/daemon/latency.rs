//! `status --latency`: where the time of requests went, on both servers.

use crate::pair::{ALPHA, BETA, Pair, assert_holds, write};
use serde_json::Value;

/// How many went through each stage of each kind, as the daemon of a node tells.
fn stages(pair: &Pair, node: usize) -> Vec<(String, u64)> {
    let volumes: Value = serde_json::from_str(&pair.done(node, &["status", "--latency", "--json"])).unwrap();
    assert_eq!(volumes[0]["volume"], "vol0");
    let stages = volumes[0]["stages"].as_array().unwrap();
    for stage in stages.iter().filter(|stage| stage["count"] != 0) {
        let times = ["p50", "p90", "p99", "p999", "max"].map(|name| stage[name].as_f64().unwrap());
        assert!(times.is_sorted() && times[4] > 0.0, "{stage}");
        let buckets = stage["buckets"].as_array().unwrap();
        let counted: u64 = buckets.iter().map(|bucket| bucket[1].as_u64().unwrap()).sum();
        assert_eq!(stage["count"], counted, "{stage}");
    }
    let name = |stage: &Value| format!("{} {}", stage["kind"].as_str().unwrap(), stage["stage"].as_str().unwrap());
    stages.iter().map(|stage| (name(stage), stage["count"].as_u64().unwrap())).collect()
}

fn count(stages: &[(String, u64)], name: &str) -> u64 {
    stages.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name} in {stages:?}")).1
}

#[test]
fn every_request_is_found_in_the_stages_it_went_through() {
    let mut pair = Pair::running("receipt_gating = true", "64MiB");
    assert_eq!(count(&stages(&pair, ALPHA), "write total"), 0);
    let mut client = pair.client(ALPHA);
    for number in 0..5 {
        write(&mut client, number * 4096, 4096, 7);
    }
    for number in 0..3 {
        assert_holds(&mut client, number * 4096, 4096, 7);
    }
    client.flush().unwrap();

    let primary = stages(&pair, ALPHA);
    // All of a kind, through all stages that no one is spared.
    for stage in ["client-read", "gate-wait", "local-write", "link-out", "peer-receipt", "peer-write", "total", "reply"]
    {
        assert_eq!(count(&primary, &format!("write {stage}")), 5, "{stage}: {primary:?}");
    }
    for stage in ["client-read", "local-read", "total", "reply"] {
        assert_eq!(count(&primary, &format!("read {stage}")), 3, "{stage}: {primary:?}");
    }
    // Each write was followed by a flush.
    for stage in ["client-read", "total", "reply"] {
        assert_eq!(count(&primary, &format!("flush {stage}")), 6, "{stage}: {primary:?}");
    }
    // The volume was blank: the first write waited for its intent, and its region is every other one's.
    assert_eq!(count(&primary, "write intent-wait"), 1, "{primary:?}");
    assert_eq!((count(&primary, "read gate-wait"), count(&primary, "read peer-read")), (0, 0), "{primary:?}");
    // Flushes that no client asked for are made, too.
    assert!(count(&primary, "flush local-flush") >= 1 && count(&primary, "flush peer-flush") >= 1, "{primary:?}");

    let secondary = stages(&pair, BETA);
    assert_eq!((count(&secondary, "write local-write"), count(&secondary, "write total")), (5, 0), "{secondary:?}");
    assert!(count(&secondary, "flush local-flush") >= 1, "{secondary:?}");

    let table = pair.done(ALPHA, &["status", "--latency"]);
    assert!(table.lines().any(|line| line.split_whitespace().take(4).eq(["write", "client", "read", "5"])), "{table}");
    assert!(!table.contains("peer read"), "{table}");
}
