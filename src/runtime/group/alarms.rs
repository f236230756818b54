//! Alarms that no core raises: about what the groups are reached and decided by.

use crate::base::limits::{HEARTBEAT_LOG_INTERVAL, HEARTBEAT_REFUSED_LOOK};
use crate::runtime::events::{Events, New, Severity, kind};
use crate::runtime::heartbeat::Heartbeats;
use serde_json::json;
use std::collections::HashMap;
use std::rc::Rc;
use tokio::time::Instant;

/// Logs and records that the device that switches the peer off can't be reached, or can again.
pub fn tell_of_device(events: &Events, group: &str, trouble: Option<&str>) {
    let (severity, words) = match trouble {
        Some(trouble) => (Severity::Error, format!("the peer could not be switched off: {trouble}")),
        None => (Severity::Info, "what switches the peer off can be reached again".to_string()),
    };
    match trouble {
        Some(_) => tracing::error!(group, "{words}"),
        None => tracing::info!(group, "{words}"),
    }
    let (group, detail) = (Some(group.to_string()), serde_json::Value::Null);
    events.record(New { group, kind: kind::FENCING_DEVICE.into(), severity, words, detail });
}

/// Records datagrams that are not the peer's: each kind on each path now and then, while they come.
pub async fn watch_refused(heartbeats: Rc<Heartbeats>, events: Events) {
    let mut told: HashMap<(String, &'static str), (u64, Instant)> = HashMap::new();
    loop {
        tokio::time::sleep(HEARTBEAT_REFUSED_LOOK).await;
        for path in heartbeats.report() {
            for refused in path.refused.into_iter().filter(|refused| !refused.harmless) {
                let key = (path.name.clone(), refused.kind);
                let (count, at) = told.get(&key).copied().map_or((0, None), |(count, at)| (count, Some(at)));
                let lately = at.is_some_and(|at| at.elapsed() < HEARTBEAT_LOG_INTERVAL);
                if refused.count == count || lately {
                    continue;
                }
                let words = format!(
                    "heartbeat path {}: {} datagrams were not taken ({}); the last: {}",
                    path.name, refused.count, refused.kind, refused.words
                );
                let detail = json!({ "path": path.name, "refused": refused.kind, "count": refused.count });
                told.insert(key, (refused.count, Instant::now()));
                let kind = kind::HEARTBEAT_REFUSED.to_string();
                events.record(New { group: None, kind, severity: Severity::Error, words, detail });
            }
        }
    }
}
