//! `twinblock bench`, at its smallest: the figures mean nothing here, that there are some does.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory on a disk: that for temporary files may be in memory.
fn directory(name: &str) -> PathBuf {
    let directory = Path::new("/var/tmp").join(format!("tb-{name}-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    directory
}

fn bench(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twinblock"));
    command.args(["bench", "--rounds", "1", "--seconds", "1", "--size", "24MiB", "--json", "--dir"]).arg(directory);
    for only in ["random writes, depth 8", "random reads, depth 8", "resync of 1 %", "by hand", "data"] {
        command.args(["--only", only]);
    }
    // Not in memory, so what would be measured there is left out.
    command.arg("--tmpfs").arg(directory).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Why there is nothing to test with, if so.
fn lacking() -> Option<&'static str> {
    let help = Command::new("fio").arg("--enghelp=nbd").output();
    let has_fio = help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("uri"));
    (!has_fio).then_some("fio with its nbd engine")
}

#[test]
fn every_row_has_a_figure_and_nothing_is_left_behind() {
    if let Some(program) = lacking() {
        println!("SKIPPED: bench needs {program}");
        return;
    }
    let directory = directory("bench");
    let page = directory.join("report.html");
    let output = bench(&directory).arg("--html").arg(&page).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let warnings = report["warnings"].to_string();
    let rows = report["rows"].as_array().unwrap();
    let ours: Vec<&Value> = rows.iter().filter(|row| row["who"] == "twinblock").collect();
    if warnings.contains("nothing was measured on disk") {
        println!("SKIPPED: bench needs a disk: {warnings}");
    } else {
        let names: Vec<&str> = ours.iter().map(|row| row["what"].as_str().unwrap()).collect();
        let expected = [
            "4 KiB random writes, depth 8",
            "4 KiB random reads, depth 8",
            "full copy of data",
            "resync of 1 %",
            "move to the other server, by hand",
            "promotion after a crash, by hand",
        ];
        assert_eq!(names, expected, "{report}");
        assert!(rows.iter().all(|row| row["median"].as_f64().unwrap() > 0.0), "{report}");
        for load in &ours[..2] {
            assert!(load["of_limit"].as_f64().unwrap() > 0.0, "{load}");
            assert!(load["resident_bytes"].as_f64().unwrap() > 0.0, "{load}");
            let stages = load["stages_microseconds"].as_array().unwrap();
            assert!(stages.iter().any(|stage| stage["stage"] == "total"), "{load}");
        }
        let wanted = ours[3]["mebibytes_per_second"].as_f64().unwrap() * ours[3]["median"].as_f64().unwrap();
        assert!((0.1..=0.5).contains(&wanted), "of 24 MiB 1 % differed: {}", ours[3]);
    }
    assert!(warnings.contains("nothing was measured on tmpfs"), "{warnings}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("What mirroring costs here"));
    std::fs::remove_file(&page).unwrap();
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "the directory is empty again");
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn interrupted_it_ends_its_daemons_and_removes_its_files() {
    interrupt_at("starting in");
    interrupt_at("filling the volume");
}

fn interrupt_at(wanted: &str) {
    if let Some(program) = lacking() {
        println!("SKIPPED: bench needs {program}");
        return;
    }
    let directory = directory("stop");
    let mut child = bench(&directory).spawn().unwrap();
    // Its stderr tells how far it is; it ends early where there is no disk to measure on.
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let ended = !said.any(|line| line.contains(wanted));
    if !ended {
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }
    said.for_each(drop);
    let code = child.wait().unwrap().code();
    assert!(ended || code == Some(130), "{code:?}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "the directory is empty again");
    std::fs::remove_dir(&directory).unwrap();
}
