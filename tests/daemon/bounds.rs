//! What an idle daemon costs.

use crate::pair::{ALPHA, Pair};

/// Resident memory of an idle daemon with a 1 TiB volume, in bytes: the bound of the specification.
const IDLE_BYTES_MAX: u64 = 64 << 20;

#[test]
fn an_idle_daemon_with_a_large_volume_is_small() {
    let mut pair = Pair::new("");
    let probe = std::fs::File::create(pair.path("probe")).unwrap();
    if let Err(error) = probe.set_len(1 << 40) {
        eprintln!("SKIPPED: this file system has no files of 1 TiB ({error})");
        return;
    }
    pair.done(ALPHA, &["init-disk", "vol0", "--size", "1TiB"]);
    pair.start(ALPHA);
    assert!(pair.status(ALPHA)["size_bytes"].as_u64().unwrap() > 1_000_000_000_000);
    let status = std::fs::read_to_string(format!("/proc/{}/status", pair.pid(ALPHA))).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let bytes = line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024;
    assert!(bytes < IDLE_BYTES_MAX, "{bytes} bytes are resident");
}
