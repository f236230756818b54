//! What a group's core tells, as log lines.

use crate::logic::failover::interface::{Change, Note, Settings};
use crate::runtime::config::units::show_time;
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
