//! The command against a daemon that says what the test wants: what it does about answers a real one seldom gives.

use crate::pair::{ALPHA, Pair};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

/// A daemon of alpha that gives these answers, one per request, then closes. Yields the requests it got.
fn daemon(pair: &Pair, answers: &[&str]) -> JoinHandle<Vec<serde_json::Value>> {
    let listener = UnixListener::bind(pair.path("alpha.sock")).unwrap();
    let answers: Vec<String> = answers.iter().map(|answer| answer.to_string()).collect();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut asked = Vec::new();
        for answer in answers {
            asked.push(serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap());
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
        asked
    })
}

fn refused(code: &str) -> String {
    let detail = format!("{{\"code\":\"{code}\",\"reason\":\"Because.\",\"next\":\"Wait.\"}}");
    format!("{{\"answer\":\"outcome\",\"result\":{{\"outcome\":\"refused\",\"detail\":{detail}}}}}\n")
}

const DONE: &str = "{\"answer\":\"outcome\",\"result\":{\"outcome\":\"done\",\"detail\":\"primary\"}}\n";

#[test]
fn a_promotion_is_tried_again_while_the_servers_are_connecting() {
    let pair = Pair::new("");
    let daemon = daemon(&pair, &[&refused("connecting"), &refused("handshake"), DONE]);
    assert_eq!(pair.done(ALPHA, &["promote", "vol0", "--timeout", "30s"]), "vol0 on alpha: primary\n");
    let asked = daemon.join().unwrap();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0]["version"], 1);
    assert_eq!(asked[2]["command"], serde_json::json!({ "verb": "promote", "force": false }));
}

#[test]
fn a_promotion_is_not_tried_again_for_other_reasons_or_after_its_time() {
    let pair = Pair::new("");
    let first = daemon(&pair, &[&refused("no-disk")]);
    pair.fails(ALPHA, &["promote", "vol0"], 3, "refused (no-disk): Because. Wait.");
    assert_eq!(first.join().unwrap().len(), 1);
    std::fs::remove_file(pair.path("alpha.sock")).unwrap();
    let second = daemon(&pair, &[&refused("connecting")]);
    pair.fails(ALPHA, &["promote", "vol0", "--timeout", "0"], 3, "refused (connecting)");
    assert_eq!(second.join().unwrap().len(), 1);
}

#[test]
fn answers_that_make_no_sense_are_told() {
    let cases = [
        ("", 4, "went away before it answered"),
        ("{\"answer\":\"outco", 4, "went away before it answered"),
        ("ready\n", 1, "use the same release for both"),
        ("{\"answer\":\"misunderstood\",\"reason\":\"version 9\"}\n", 1, "version 9"),
        ("{\"answer\":\"dirty\",\"ranges\":[],\"truncated\":false}\n", 1, "an answer to another question"),
        ("{\"answer\":\"status\",\"status\":{\"node\":5}}\n", 1, "the same release as the running daemon"),
    ];
    for (answer, code, words) in cases {
        let pair = Pair::new("");
        let daemon = daemon(&pair, &[answer]);
        pair.fails(ALPHA, &["status"], code, words);
        daemon.join().unwrap();
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let pair = Pair::new("");
    let ranges: Vec<String> = (0..100_000u64).map(|n| format!("[{},4096]", n * 8192)).collect();
    let answer = format!("{{\"answer\":\"dirty\",\"ranges\":[{}],\"truncated\":true}}\n", ranges.join(","));
    let daemon = daemon(&pair, &[&answer]);
    let mut command = pair.command(ALPHA, &["dirty", "vol0"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{words}");
    assert!(words.contains("and more that is not listed") && !words.contains("panicked"), "{words}");
    daemon.join().unwrap();
}
