//! What a group's core tells, as log lines and events.

use super::asked::milliseconds;
use crate::logic::failover::interface::{Change, Note, Settings};
use crate::runtime::config::units::show_time;
use crate::runtime::events::{New, kind};
use serde_json::{Value, json};
use std::time::Duration;
use tracing::Level;

/// Logs a note of a group.
pub fn log(group: &str, settings: &Settings, note: &Note) {
    let (level, words) = line(settings, note);
    match level {
        Level::ERROR => tracing::error!(group, "{words}"),
        Level::WARN => tracing::warn!(group, "{words}"),
        _ => tracing::info!(group, "{words}"),
    }
}

/// A note as an event; `rule` is that of the change of role under way, which its end does not name.
pub fn event(settings: &Settings, note: &Note, rule: Option<&str>) -> New {
    let (level, words) = line(settings, note);
    let mut detail = serde_json::to_value(note).expect("notes have no type that JSON can't hold");
    let tag = detail.as_object_mut().and_then(|fields| fields.remove("note"));
    let kind = match note {
        Note::Began { .. } => kind::BEGAN.to_string(),
        Note::Ended { change, reason, done, stages } => {
            let stage = |(stage, took): &(_, Duration)| json!({ "stage": stage, "ms": milliseconds(*took) });
            let took_ms: u64 = stages.iter().map(|(_, took)| milliseconds(*took)).sum();
            let stages: Vec<Value> = stages.iter().map(stage).collect();
            detail = json!({
                "change": change, "reason": reason, "rule": rule, "done": done, "took_ms": took_ms, "stages": stages,
            });
            kind::ENDED.into()
        }
        Note::StepFailed { index, verb, why } => {
            let resource = settings.resources.get(*index).map(|resource| &resource.name);
            detail = json!({ "resource": resource, "verb": verb, "why": why });
            kind::STEP_FAILED.into()
        }
        Note::Path { path, .. } | Note::OneWay { path, .. } => {
            detail["path"] = json!(settings.paths.get(*path));
            tagged(tag)
        }
        _ => tagged(tag),
    };
    New { group: Some(settings.group.clone()), kind, severity: level.into(), words, detail }
}

/// The kind of an event that is called as its note.
fn tagged(tag: Option<Value>) -> String {
    tag.and_then(|tag| tag.as_str().map(str::to_string)).expect("every note has a tag")
}

/// The words for a note.
pub fn line(settings: &Settings, note: &Note) -> (Level, String) {
    let path = |index: usize| settings.paths.get(index).map_or("?", String::as_str);
    let resource = |index: usize| settings.resources.get(index).map_or("?", |resource| resource.name.as_str());
    let me = settings.node;
    let peer = &settings.node_names[usize::from(me.peer().0)];
    match note {
        Note::Path { path: index, up: true } => (Level::INFO, format!("{peer} is heard on {}", path(*index))),
        Note::Path { path: index, up: false } => {
            (Level::WARN, format!("nothing is heard of {peer} on {}", path(*index)))
        }
        Note::OneWay { path: index, one_way: true } => {
            (Level::WARN, format!("{peer} is heard on {} but does not hear this node there", path(*index)))
        }
        Note::OneWay { path: index, one_way: false } => {
            (Level::INFO, format!("{peer} hears this node on {} again", path(*index)))
        }
        Note::Peer { level, evidence } => (Level::WARN, format!("{peer} is {level:?} now: {evidence}").to_lowercase()),
        Note::Began { change, reason, rule } => {
            (Level::WARN, format!("{} begins, {reason} (rule {rule})", change_words(*change)))
        }
        Note::Ended { change, reason, done, stages } => {
            let stages: Vec<String> =
                stages.iter().map(|(stage, took)| format!("{stage} {}", show_time(*took))).collect();
            let level = if *done { Level::WARN } else { Level::ERROR };
            let end = if *done { "is done" } else { "has failed" };
            (level, format!("{} {end}, {reason}: {}", change_words(*change), stages.join(", ")))
        }
        Note::Alone { rule } => (Level::WARN, format!("this node serves alone: {peer} is excluded (rule {rule})")),
        Note::Held { held: true, reason } => {
            (Level::ERROR, format!("nothing is served until it is known who owns the group: {reason}"))
        }
        Note::Held { held: false, .. } => (Level::INFO, "serving again".into()),
        Note::Paired => (Level::INFO, "both nodes hold every write; either may take over".into()),
        Note::StepFailed { index, verb, why } => (Level::ERROR, format!("{} did not {verb}: {why}", resource(*index))),
        Note::Arbiter { trouble: Some(why) } => {
            (Level::ERROR, format!("the arbiter does not answer, so nobody can take over: {why}"))
        }
        Note::Arbiter { trouble: None } => (Level::INFO, "the arbiter answers".into()),
        Note::FenceFailed { why } => (Level::ERROR, format!("{peer} can't be switched off: {why}")),
        Note::SplitBrain => {
            (Level::ERROR, "both nodes have served: choose the side to keep (`split-brain show`)".into())
        }
        Note::Stuck { here, stuck: true } => {
            let who = if *here { "this node" } else { peer };
            (Level::ERROR, format!("a volume's thread of {who} makes no turn"))
        }
        Note::Stuck { here, stuck: false } => {
            let who = if *here { "this node" } else { peer };
            (Level::INFO, format!("the volumes' threads of {who} turn again"))
        }
        Note::State { state, reason } => (Level::INFO, format!("this node is {state} now: {reason}")),
        Note::ConfigDiffers { differs: true } => {
            (Level::ERROR, format!("the configuration of {peer} differs from this node's"))
        }
        Note::ConfigDiffers { differs: false } => {
            (Level::INFO, format!("the configuration of {peer} is the same as this node's"))
        }
    }
}

fn change_words(change: Change) -> &'static str {
    match change {
        Change::ToOwner => "taking the group over",
        Change::ToStandby => "giving the group up",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::group::{Reason, Stage};

    fn settings() -> Settings {
        crate::logic::failover::testing::settings(0)
    }

    #[test]
    fn a_change_of_role_has_its_stages() {
        let stages = vec![(Stage::Detect, Duration::from_millis(1004)), (Stage::Start, Duration::from_millis(80))];
        let note = Note::Ended { change: Change::ToOwner, reason: Reason::PeerDown, done: true, stages };
        let event = event(&settings(), &note, Some("peer-lost"));
        assert_eq!(event.kind, kind::ENDED);
        let wanted = json!({
            "change": "to-owner", "reason": "peer-down", "rule": "peer-lost", "done": true, "took_ms": 1084,
            "stages": [{ "stage": "detect", "ms": 1004 }, { "stage": "start", "ms": 80 }],
        });
        assert_eq!(event.detail, wanted);
        assert!(event.words.contains("detect 1.00 s, start 0.08 s"), "{}", event.words);
    }

    #[test]
    fn places_are_named() {
        let down = event(&settings(), &Note::Path { path: 0, up: false }, None);
        assert_eq!((down.kind.as_str(), &down.detail), ("path", &json!({ "path": "mirror", "up": false })));
        assert!(!kind::is_announced(&down.kind));
        let held = event(&settings(), &Note::Held { held: true, reason: Reason::LeaseLost }, None);
        assert_eq!((held.kind.as_str(), kind::is_announced(&held.kind)), ("held", true));
    }
}
