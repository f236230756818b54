//! The hook: a program of the operator's, run for each announcement, one after the other, bounded in time.
//!
//! What it is told, as environment variables:
//!
//! | variable | values |
//! |---|---|
//! | `TWINBLOCK_EVENT` | the kind, such as `role-change-began` ([`super::kind`]) |
//! | `TWINBLOCK_SEVERITY` | `info`, `warning`, `error` |
//! | `TWINBLOCK_WORDS` | one sentence for people |
//! | `TWINBLOCK_NUMBER`, `TWINBLOCK_TIME` | the event's number on this node, and its time in UTC |
//! | `TWINBLOCK_CLUSTER`, `TWINBLOCK_NODE`, `TWINBLOCK_GROUP` | names; the group's is empty when it is about none |
//! | `TWINBLOCK_CHANGE`, `TWINBLOCK_REASON`, `TWINBLOCK_RULE` | of a change of role: `to-owner` or `to-standby`, and why |
//! | `TWINBLOCK_DONE` | of one that ended: `true`, or `false` when it failed |
//! | `TWINBLOCK_STAGES` | of one that ended: milliseconds of each stage, as in `detect=1004 drain=12 start=80` |
//! | `TWINBLOCK_JSON` | the whole event, as `events --json` prints it |
//!
//! A hook that does not end in its time is killed with its process group, and that is said. The next one waits for it, and
//! nothing else does.

use super::{Event, New, Severity, kind};
use crate::io::process::{self, Program};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// A program that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSpec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Longest time it may take.
    pub timeout: Duration,
}

/// One run of a hook; without one, a mark in the queue.
#[derive(Debug)]
pub struct Announcement {
    /// The program.
    pub hook: Option<HookSpec>,
    /// What it is told.
    pub environment: Vec<(String, String)>,
    /// The group it is about.
    pub group: Option<String>,
    /// Told when everything before it is done.
    pub done: Option<oneshot::Sender<()>>,
}

/// Runs one hook after the other; failures are told.
pub async fn run_in_turn(mut waiting: mpsc::Receiver<Announcement>, failures: mpsc::Sender<New>) {
    while let Some(announcement) = waiting.recv().await {
        let Announcement { hook, environment, group, done } = announcement;
        if let Some(hook) = hook
            && let Err(words) = run(&hook, environment).await
        {
            tracing::error!("{words}");
            let detail = json!({ "hook": hook.command });
            let kind = kind::HOOK_FAILED.to_string();
            // With the queue full there are failures enough to look at.
            drop(failures.try_send(New { group, kind, severity: Severity::Error, words, detail }));
        }
        if let Some(done) = done {
            done.send(()).unwrap_or(());
        }
    }
}

async fn run(hook: &HookSpec, environment: Vec<(String, String)>) -> Result<(), String> {
    let Some((file, arguments)) = hook.command.split_first() else { return Ok(()) };
    let program =
        Program { file: file.into(), arguments: arguments.to_vec(), environment, mark: format!("hook {file}") };
    let seconds = hook.timeout.as_secs_f64();
    match process::run(&program, Instant::now() + hook.timeout).await {
        Err(error) => Err(format!("the hook {file} can't be run: {error}; check that it exists and is executable")),
        Ok(finished) => match finished.status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("the hook {file} failed ({status}){}", said(&finished.output))),
            None => Err(format!(
                "the hook {file} did not end within {seconds:.1} s and was killed{}; find out what it waits for, or make \
                 `hook_timeout` longer",
                said(&finished.output)
            )),
        },
    }
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(", saying: {output}") }
}

/// What a hook is told of an event.
pub fn environment(cluster: &str, event: &Event) -> Vec<(String, String)> {
    let detail = |key: &str| match &event.detail[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let stages = event.detail["stages"].as_array().into_iter().flatten();
    let stages: Vec<String> =
        stages.map(|stage| format!("{}={}", stage["stage"].as_str().unwrap_or("?"), stage["ms"])).collect();
    let severity = match event.severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let variables = [
        ("EVENT", event.kind.clone()),
        ("SEVERITY", severity.into()),
        ("WORDS", event.words.clone()),
        ("NUMBER", event.number.to_string()),
        ("TIME", event.time.clone()),
        ("CLUSTER", cluster.into()),
        ("NODE", event.node.clone()),
        ("GROUP", event.group.clone().unwrap_or_default()),
        ("CHANGE", detail("change")),
        ("REASON", detail("reason")),
        ("RULE", detail("rule")),
        ("DONE", detail("done")),
        ("STAGES", stages.join(" ")),
        ("JSON", serde_json::to_string(event).unwrap_or_default()),
    ];
    // A zero byte, which no variable can hold, would keep the hook from being run at all.
    let clean = |text: String| text.replace('\0', "");
    variables.into_iter().map(|(name, value)| (format!("TWINBLOCK_{name}"), clean(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Events, EventsSpec, Hooks, Severity};
    use super::*;
    use std::collections::HashMap;
    use std::path::Path;

    fn start(folder: &Path, script: &str, timeout: Duration) -> Events {
        let command = ["/bin/sh", "-c", script, folder.to_str().unwrap()].map(String::from).to_vec();
        let spec = EventsSpec {
            node: "alpha".into(),
            cluster: "lab".into(),
            state_dir: folder.join("state"),
            hooks: Hooks { all: Some(HookSpec { command, timeout }), groups: HashMap::new() },
        };
        Events::start(spec).unwrap()
    }

    fn ended(number: u64) -> New {
        let detail = json!({
            "change": "to-owner", "reason": "peer-down", "done": true, "took_ms": number,
            "stages": [{ "stage": "detect", "ms": 1004 }, { "stage": "drain", "ms": number }],
        });
        let words = format!("taking over is done \0 {number}");
        New { group: Some("db".into()), kind: kind::ENDED.into(), severity: Severity::Warning, words, detail }
    }

    #[tokio::test]
    async fn the_hook_is_told_in_order_and_of_announcements_only() {
        let folder = tempfile::tempdir().unwrap();
        let script =
            "echo $TWINBLOCK_EVENT $TWINBLOCK_GROUP $TWINBLOCK_CHANGE $TWINBLOCK_DONE $TWINBLOCK_STAGES >> $0/told";
        let events = start(folder.path(), script, Duration::from_secs(30));
        for number in 1..4 {
            events.record(ended(number));
            events.record(New { kind: "path".into(), ..ended(number) });
        }
        events.flush(Duration::from_secs(60)).await;
        let told = std::fs::read_to_string(folder.path().join("told")).unwrap();
        let line = |number: u64| format!("role-change-ended db to-owner true detect=1004 drain={number}\n");
        assert_eq!(told, (1..4).map(line).collect::<String>());
    }

    #[tokio::test]
    async fn a_hook_that_hangs_or_fails_is_ended_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let script = "test \"$TWINBLOCK_NUMBER\" = 1 && sleep 1000; echo no mail server; exit 3";
        let events = start(folder.path(), script, Duration::from_millis(200));
        events.record(ended(1));
        events.record(ended(2));
        events.wait(3, Duration::from_secs(60)).await;
        let failures: Vec<String> = events.show(None, Some(2), 9).events.into_iter().map(|event| event.words).collect();
        assert!(failures[0].contains("did not end within 0.2 s and was killed"), "{failures:?}");
        assert!(failures[1].contains("exit status: 3), saying: no mail server"), "{failures:?}");
    }
}
