//! `reload` and SIGHUP: the file is read again, and what can change in a running daemon does. All or nothing: a file with
//! a problem changes nothing.

use super::{Daemon, events, groups, log};
use crate::base::command::Refusal;
use crate::runtime::config::change::change;
use crate::runtime::config::form::Difference;
use crate::runtime::config::{self, Config, Depth};
use std::rc::Rc;

/// Reads the file again. What changed and what waits for a restart, one line each.
pub fn reload(daemon: &Daemon) -> Result<String, Refusal> {
    let running = daemon.running();
    let node = running.this_node().name.clone();
    let file = config::load(&running.file, Some(&node), Depth::Secret).map_err(|problems| {
        Refusal::new(
            "configuration",
            format!("Nothing was changed: the configuration has problems.\n{problems}"),
            "Correct them and reload again.",
        )
    })?;
    let change = change(&running, &file);
    let unfit = |reason: String, next: &str| {
        Refusal::new("configuration", format!("Nothing was changed: {reason}."), next.to_string())
    };
    let filter = log::parse(&change.config.daemon.log)
        .map_err(|reason| unfit(reason, "Correct `log` in the section [daemon] and reload again."))?;
    groups::check_fencing(&change.config)
        .map_err(|reason| unfit(reason, "Correct the section [fencing] and reload again."))?;
    for warning in &change.config.warnings {
        tracing::warn!("{warning}");
    }
    if !daemon.log_is_fixed {
        log::change(filter);
    }
    let words = words(&change.changed, &change.waiting, &node, daemon.log_is_fixed);
    daemon.waiting.replace(change.waiting);
    apply(daemon, change.config);
    Ok(words)
}

/// Everything of the running daemon goes by another configuration from here on.
pub fn apply(daemon: &Daemon, mut config: Config) {
    config.digest = config.form().digest();
    let config = Rc::new(config);
    daemon.local.reconfigure(&config);
    for volume in &daemon.volumes {
        if let Some(settings) = config.volume(&volume.name) {
            volume.shard.reconfigure(config.core_settings(settings), settings.settings.client_times());
        }
    }
    if let Some(groups) = &daemon.groups {
        for group in &config.groups {
            groups.reconfigure(&group.name, groups::changed(&config, group));
        }
    }
    daemon.happenings.reconfigure(events::hooks(&config));
    daemon.running.replace(config);
    daemon.comparison.look_again();
}

fn words(changed: &[Difference], waiting: &[Difference], node: &str, log_is_fixed: bool) -> String {
    let mut lines = Vec::new();
    for difference in changed {
        let held = log_is_fixed && difference.section == "daemon" && difference.key == "log";
        let but = if held { " (but --log goes before it)" } else { "" };
        lines.push(format!("changed: {difference}{but}"));
    }
    for difference in waiting {
        lines.push(format!("needs a restart of the daemon on {node}: {difference}{}", other_way(difference)));
    }
    if lines.is_empty() {
        return "the configuration is unchanged".into();
    }
    lines.join("\n")
}

/// A way to take it over without a restart.
fn other_way(difference: &Difference) -> String {
    let on_a_node = difference.section.strip_prefix("volume ").and_then(|rest| rest.split_once(" on "));
    match on_a_node {
        Some((volume, _)) if matches!(difference.key.as_str(), "disk" | "metadata") => {
            format!(" (or `detach {volume}` and `attach {volume}` there)")
        }
        _ => String::new(),
    }
}
