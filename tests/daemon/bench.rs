//! `bench` on a volume that is in use.

use crate::pair::{ALPHA, BETA, Pair, assert_holds, write};
use serde_json::Value;
use std::process::Command;

#[test]
fn a_volume_in_use_is_measured_by_reading_it_and_overwritten_only_on_demand() {
    let help = Command::new("fio").arg("--enghelp=nbd").output();
    if !help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("uri")) {
        println!("SKIPPED: bench needs fio with its nbd engine");
        return;
    }
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 1 << 20, 7);
    let quick = ["bench", "vol0", "--quick", "--json", "--only", "depth 8"];
    let report: Value = serde_json::from_str(&pair.done(ALPHA, &quick)).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(names, ["4 KiB random reads, depth 8", "128 KiB reads, depth 8"], "{report}");
    assert!(rows.iter().all(|row| row["median"].as_f64().unwrap() > 0.0), "{report}");
    assert!(report["warnings"].to_string().contains("was only read"), "{report}");
    assert_holds(&mut client, 0, 1 << 20, 7);

    let writing = ["bench", "vol0", "--quick", "--overwrite", "--json", "--only", "4 KiB random writes, depth 8"];
    pair.fails(ALPHA, &writing, 6, "Everything on vol0 is overwritten");
    assert_holds(&mut client, 0, 1 << 20, 7);
    let report: Value = serde_json::from_str(&pair.done(ALPHA, &[&writing[..], &["--yes"]].concat())).unwrap();
    assert_eq!(report["rows"][0]["what"], "4 KiB random writes, depth 8", "{report}");
    pair.fails(BETA, &quick, 3, "measure on the node that is primary");
}
