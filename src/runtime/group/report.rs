//! `group status`: everything that is known, put together once, for people and machines alike.

use super::asked::milliseconds;
use super::hands::{Hands, Slot};
use crate::base::group::{FailoverMode, GroupRole, Reason, ResourceState};
use crate::base::ids::NodeId;
use crate::base::limits::{HEARTBEAT_REFUSED_RECENT, STATUS_LOOK_TIME_MAX};
use crate::base::time::utc;
use crate::io::clock::calendar;
use crate::logic::failover::GroupView;
use crate::logic::failover::detector::PathView;
use crate::logic::failover::interface::Settings;
use crate::logic::failover::plan::Standing;
use crate::logic::failover::states::Advice;
use crate::runtime::config::units::show_time;
use crate::runtime::control::group::{
    ArbiterEvidence, ChangeEvidence, Evidence, GroupReport, NodeReport, PathEvidence, RefusedEvidence, ResourceReport,
};
use crate::runtime::heartbeat::PathReport;
use crate::runtime::resource::Resource;
use serde::Serialize;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What a report is made from.
pub struct Known<'k> {
    /// What the core shows.
    pub view: &'k GroupView,
    /// What it goes by.
    pub settings: &'k Settings,
    /// What is done for it.
    pub hands: &'k Hands,
    /// The heartbeat's paths.
    pub paths: Vec<PathReport>,
    /// The last change of role.
    pub last_change: Option<ChangeEvidence>,
}

/// Puts the report together; what the resources show when they are looked at comes with [`look`].
pub fn report(known: Known<'_>) -> GroupReport {
    let Known { view, settings, hands, paths, last_change } = known;
    let advice = view.advice.unwrap_or(UNFORESEEN);
    let evidence = Evidence {
        peer: word(&view.peer.level),
        peer_healthy: view.peer.healthy,
        silent_ms: view.peer.silent.map(milliseconds),
        peer_turn_ms: view.peer.turn_age.map(milliseconds),
        config_agrees: view.peer.config_agrees,
        paths: view
            .peer
            .paths
            .iter()
            .zip(paths)
            .map(|((name, path), report)| path_evidence(name, path, report))
            .collect(),
        link_silent_ms: view.peer.link_silent.map(milliseconds),
        arbiter: arbiter_evidence(view, settings, hands),
        fencing: hands.fencing.as_ref().map(|fence| fence.evidence()),
        last_change,
    };
    let resources = resources(view, settings, hands);
    GroupReport {
        name: view.group.clone(),
        mode: view.mode.word().into(),
        nodes: nodes(view, settings),
        meaning: advice.meaning.into(),
        action: advice.action.into(),
        notices: notices(view, settings, &evidence, &resources),
        resources,
        evidence,
        group: serde_json::to_value(view).expect("the view has no type that JSON can't hold"),
    }
}

/// Shown for a pair of states that the table lacks; the tests see to it that there is none.
const UNFORESEEN: Advice = Advice {
    meaning: "This pair of states is not foreseen.",
    action: "Look at the events of both servers, and report it.",
};

/// The resources, to be looked at without the group's task waiting for it.
pub fn looked_at(slots: &[Slot]) -> Vec<Option<Rc<dyn Resource>>> {
    // One with a verb under way is not looked at: what it is changes this moment.
    slots.iter().map(|slot| slot.is_at_rest().then(|| slot.resource.clone())).collect()
}

/// Adds what each resource shows when it is looked at, in bounded time.
pub async fn look(report: &mut GroupReport, resources: Vec<Option<Rc<dyn Resource>>>) {
    let deadline = Instant::now() + STATUS_LOOK_TIME_MAX;
    let look = |resource: Option<Rc<dyn Resource>>| async move {
        let resource = resource?;
        match timeout_at(deadline, resource.status(deadline)).await {
            Ok(Ok(status)) => Some(format!("{}: {}", status.state, status.detail)),
            Ok(Err(trouble)) => Some(format!("it can't be looked at: {}; {}", trouble.reason, trouble.next)),
            Err(_) => Some(format!("a look at it did not end within {}", show_time(STATUS_LOOK_TIME_MAX))),
        }
    };
    let looks: Vec<_> = resources.into_iter().map(|resource| tokio::task::spawn_local(look(resource))).collect();
    for (resource, look) in report.resources.iter_mut().zip(looks) {
        resource.found = look.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
}

fn nodes(view: &GroupView, settings: &Settings) -> Vec<NodeReport> {
    let name = |node: NodeId| settings.node_names[usize::from(node.0)].clone();
    let here = NodeReport {
        node: name(settings.node),
        here: true,
        heard: true,
        role: Some(word(&view.role)),
        state: Some(word(&view.state)),
        state_words: view.state.word().into(),
        reason: Some(word(&view.reason)),
        reason_words: view.reason.word().into(),
    };
    let heard = view.peer_state;
    let there = NodeReport {
        node: name(settings.node.peer()),
        here: false,
        heard: heard.is_some(),
        role: view.peer.role.filter(|_| heard.is_some()).map(|role| word(&role)),
        state: heard.map(|(state, _)| word(&state)),
        state_words: heard.map_or("not heard", |(state, _)| state.word()).into(),
        reason: heard.map(|(_, reason)| word(&reason)),
        reason_words: heard.map_or(word(&view.peer.level), |(_, reason)| reason.word().into()),
    };
    vec![here, there]
}

fn path_evidence(name: &str, path: &PathView, report: PathReport) -> PathEvidence {
    let refused = report.refused.into_iter().filter(|refused| !refused.harmless).map(|refused| RefusedEvidence {
        kind: refused.kind.into(),
        count: refused.count,
        age_ms: milliseconds(refused.age),
        words: refused.words,
    });
    PathEvidence {
        name: name.into(),
        up: path.up,
        since: utc(calendar().saturating_sub(milliseconds(path.since))),
        for_ms: milliseconds(path.since),
        one_way: path.one_way,
        silent_ms: path.silent.map(milliseconds),
        trouble: report.trouble,
        sent: report.sent,
        unsent: report.unsent,
        taken: report.heard,
        refused: refused.collect(),
    }
}

fn arbiter_evidence(view: &GroupView, settings: &Settings, hands: &Hands) -> Option<ArbiterEvidence> {
    let name = |node: &NodeId| settings.node_names[usize::from(node.0)].clone();
    let mut evidence = hands.arbiter.as_ref()?.evidence();
    if let Some((owner, epoch, in_sync)) = &view.arbiter.record {
        (evidence.owner, evidence.epoch) = (Some(name(owner)), Some(epoch.0));
        evidence.in_sync = in_sync.iter().map(name).collect();
    }
    Some(evidence)
}

fn resources(view: &GroupView, settings: &Settings, hands: &Hands) -> Vec<ResourceReport> {
    let book = hands.book.borrow();
    let known = settings.resources.iter().zip(&hands.slots).zip(book.entries()).zip(&view.resources);
    let report = known.map(|(((settings, slot), entry), (name, standing, _))| {
        let mut entry = entry.clone();
        // An answer that never came, or came too late: only the core knows that it gave up waiting.
        if *standing == Standing::Unknown {
            entry.state = ResourceState::Unknown;
        }
        let unfit = entry.unfit.is_some() && entry.state == ResourceState::Stopped;
        let (reason, next) = entry.advice();
        ResourceReport {
            name: name.clone(),
            kind: slot.kind().into(),
            critical: settings.critical,
            state: entry.state,
            since: utc(entry.since),
            for_ms: calendar().saturating_sub(entry.since),
            reason,
            next,
            unfit,
            restarts: entry.restarts,
            last_restart: entry.last_restart,
            found: None,
        }
    });
    report.collect()
}

/// What limits the group, most urgent first.
fn notices(view: &GroupView, settings: &Settings, evidence: &Evidence, resources: &[ResourceReport]) -> Vec<String> {
    let mut list = Vec::new();
    let peer = &settings.node_names[usize::from(settings.node.peer().0)];
    let owns = view.role == GroupRole::Owner;
    for resource in resources {
        let broken = matches!(resource.state, ResourceState::Failed | ResourceState::Unknown);
        // What was begun after it was stopped again, but this is why the group is down.
        let start_failed = view.reason == Reason::CriticalServiceStartFailed
            && resource.state == ResourceState::Stopped
            && resource.next != ResourceState::Stopped.advice().1;
        if resource.unfit || broken || start_failed {
            let ResourceReport { name, state, reason, next, .. } = resource;
            list.push(format!("{name} is {state}: {reason}; {next}"));
        }
    }
    if owns && !view.serving {
        list.push(format!("nothing is served: {}", view.reason));
    }
    if let Some(trouble) = &view.arbiter.trouble {
        list.push(format!("no automatic failover: {trouble}"));
    }
    let looked = evidence.arbiter.as_ref().and_then(|arbiter| arbiter.trouble.as_ref());
    if let Some(trouble) = looked.filter(|trouble| view.arbiter.trouble.as_ref() != Some(*trouble)) {
        list.push(format!("no failover can be relied on, the arbiter is not as it should be: {trouble}"));
    }
    if let Some(fencing) = evidence.fencing.as_ref().and_then(|fencing| fencing.trouble.as_ref()) {
        list.push(format!("no automatic failover: {peer} could not be switched off: {fencing}"));
    }
    if view.mode == FailoverMode::Manual {
        list.push("no automatic failover: mode `manual`; set `mode` in [failover] if that is not wanted".into());
    }
    if view.split_brain_possible {
        list.push("two servers may serve at once in this mode; an arbiter or fencing would prevent it".into());
    }
    if owns && view.alone {
        list.push(format!("alone: {peer} is excluded, and can't take over before its copy is in sync"));
    }
    list.extend(away_from_home(view, settings));
    if let Some(block) = view.takeover_block {
        list.push(format!("this server would not take over: {block}"));
    }
    if evidence.config_agrees == Some(false) {
        list.push(format!("the configurations of the two servers differ; make that of {peer} the same as this one's"));
    }
    for path in &evidence.paths {
        list.extend(path_notices(path, peer));
    }
    if let Some(slow) = evidence.arbiter.as_ref().filter(|arbiter| arbiter.state == "slow") {
        let took = Duration::from_millis(slow.took_ms.unwrap_or_default());
        list.push(format!("the arbiter is slow, its last answer took {}; look at its load", show_time(took)));
    }
    list.extend(
        evidence.arbiter.iter().flat_map(|arbiter| arbiter.notes.iter().map(|note| format!("arbiter: {note}"))),
    );
    list
}

/// Why the group is where it is, when that is not its home, and how it returns.
fn away_from_home(view: &GroupView, settings: &Settings) -> Option<String> {
    if view.role != GroupRole::Owner || settings.node == settings.home {
        return None;
    }
    let home = &settings.node_names[usize::from(settings.home.0)];
    let came = match view.reason {
        Reason::Initialization => "it started where its data was",
        _ => "it came here for the reason above",
    };
    let returns = match (&view.return_block, settings.fallback_after) {
        (Some(block), _) => format!("it can't return now: {} {}", block.reason, block.next),
        (None, None) => {
            format!("run `group fallback {}` to return it; `fallback` in [[group]] does that by itself", view.group)
        }
        (None, Some(after)) => format!("it returns by itself when {home} has been well for {}", show_time(after)),
    };
    Some(format!("away from its home {home}: {came}; {returns}"))
}

fn path_notices(path: &PathEvidence, peer: &str) -> Vec<String> {
    let name = &path.name;
    let mut list = Vec::new();
    if let Some(trouble) = &path.trouble {
        list.push(format!("heartbeat path {name}: {trouble}"));
    } else if !path.up {
        let since = show_time(Duration::from_millis(path.for_ms));
        list.push(format!("heartbeat path {name} is silent for {since}: check the network, and the daemon of {peer}"));
    } else if path.one_way {
        list.push(format!(
            "heartbeat path {name}: {peer} is heard and does not hear this server; check its firewall and routes"
        ));
    }
    for refused in &path.refused {
        if refused.age_ms < milliseconds(HEARTBEAT_REFUSED_RECENT) {
            let (kind, count, words) = (&refused.kind, refused.count, &refused.words);
            list.push(format!("heartbeat path {name}: {count} datagrams were not taken ({kind}); the last: {words}"));
        }
    }
    list
}

/// The word of a state in JSON.
pub fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("states are words, this is {other:?}"),
    }
}
