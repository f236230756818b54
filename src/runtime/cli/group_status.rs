//! `group status` and `explain`: what the daemon reports of its groups, for people and machines.

use super::exit::{Exit, Failure};
use super::group::known;
use super::session::{Session, refused};
use crate::base::command::CommandOutcome;
use crate::runtime::config::Config;
use crate::runtime::config::units::show_time;
use crate::runtime::control::group::{
    ArbiterEvidence, ChangeEvidence, FencingEvidence, GroupExplanation, GroupReport, PathEvidence, ResourceReport,
};
use crate::runtime::control::message::{Answer, Ask};
use std::fmt::Write;
use std::time::Duration;

/// Shows the state of every group.
pub fn status(config: &Config, json: bool) -> Result<Exit, Failure> {
    known(config, config.groups.first().map(|group| group.name.as_str()))?;
    let groups = Session::open(config)?.groups()?;
    if json {
        say!("{groups}");
        return Ok(Exit::Done);
    }
    let reports: Vec<GroupReport> = serde_json::from_value(groups).map_err(|error| unreadable(&error))?;
    for report in reports {
        say!("{}", table(&report).trim_end());
    }
    Ok(Exit::Done)
}

/// Shows what would happen if something died.
pub fn explain(config: &Config, name: Option<&str>, json: bool) -> Result<Exit, Failure> {
    let group = known(config, name)?.name.clone();
    let explanation = match Session::open(config)?.ask(Ask::Explain { group })? {
        Answer::Explained { explanation } => explanation,
        Answer::Outcome { result: CommandOutcome::Refused(refusal) } => return Err(refused(&refusal)),
        _ => return Err(Failure::new(Exit::Failed, "the daemon gave an answer to another question")),
    };
    if json {
        say!("{explanation}");
        return Ok(Exit::Done);
    }
    let explanation: GroupExplanation = serde_json::from_value(explanation).map_err(|error| unreadable(&error))?;
    say!("{}", rehearsals(&explanation).trim_end());
    Ok(Exit::Done)
}

fn unreadable(error: &serde_json::Error) -> Failure {
    let next = "use the twinblock of the same release as the running daemon";
    Failure::new(Exit::Failed, format!("the answer of the daemon can't be read ({error}): {next}"))
}

/// A group for people: what it is, what limits it, what to do; then what all that is concluded from.
pub fn table(report: &GroupReport) -> String {
    let mut out = String::new();
    let mut say = |line: String| {
        // Writing to a string can't fail.
        let _ = writeln!(out, "{line}");
    };
    say(format!("group {}: mode {}", report.name, report.mode));
    for node in &report.nodes {
        let role = node.role.as_ref().map(|role| format!(", {role}")).unwrap_or_default();
        let here = if node.here { " (this server)" } else { "" };
        say(format!("  {}{here}: {} ({}){role}", node.node, node.state_words, node.reason_words));
    }
    say(format!("  {}", report.meaning));
    say(format!("  next: {}", report.action));
    for notice in &report.notices {
        say(format!("  ! {notice}"));
    }
    if !report.resources.is_empty() {
        say("  resources on this server:".into());
    }
    for resource in &report.resources {
        say(format!("    {}", resource_line(resource)));
    }
    say("  evidence:".into());
    let evidence = &report.evidence;
    let silent = evidence.silent_ms.map_or("never heard".into(), |ms| format!("last heard {} ago", ago(ms)));
    let turn = evidence.peer_turn_ms.map(|ms| format!(", its volumes turned {} before that", ago(ms)));
    say(format!("    the other server is {}, {silent}{}", evidence.peer, turn.unwrap_or_default()));
    for path in &evidence.paths {
        say(format!("    {}", path_line(path)));
    }
    let link = evidence
        .link_silent_ms
        .map_or("carried nothing yet".into(), |ms| format!("last carried something {} ago", ago(ms)));
    say(format!("    replication link: {link}"));
    evidence.arbiter.iter().for_each(|arbiter| say(format!("    {}", arbiter_line(arbiter))));
    evidence.fencing.iter().for_each(|fencing| say(format!("    {}", fencing_line(fencing))));
    evidence.last_change.iter().for_each(|change| say(format!("    {}", change_line(change))));
    out
}

fn ago(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        _ => show_time(Duration::from_millis(milliseconds)),
    }
}

fn resource_line(resource: &ResourceReport) -> String {
    let ResourceReport { name, kind, state, for_ms, .. } = resource;
    let mut line = format!("{kind} {name}: {state} for {}", ago(*for_ms));
    if resource.restarts > 0 {
        let last = resource.last_restart.as_deref().unwrap_or("?");
        line.push_str(&format!(", repaired {} times (the last: {last})", resource.restarts));
    }
    if resource.next != "nothing" {
        line.push_str(&format!(": {}; next: {}", resource.reason, resource.next));
    }
    if let Some(found) = &resource.found {
        line.push_str(&format!(" [{found}]"));
    }
    line
}

fn path_line(path: &PathEvidence) -> String {
    let state = match (path.up, path.one_way) {
        (true, true) => "up, one way",
        (true, false) => "up",
        (false, _) => "down",
    };
    let mut line = format!("path {}: {state} for {}", path.name, ago(path.for_ms));
    for refused in &path.refused {
        line.push_str(&format!(", {} {} (last {} ago)", refused.count, refused.kind, ago(refused.age_ms)));
    }
    line
}

fn arbiter_line(arbiter: &ArbiterEvidence) -> String {
    let mut line = format!("arbiter: {}", arbiter.state);
    if let (Some(answered), Some(took)) = (arbiter.answered_ms, arbiter.took_ms) {
        line.push_str(&format!(", answered {} ago within {}", ago(answered), ago(took)));
    }
    if let (Some(owner), Some(epoch)) = (&arbiter.owner, arbiter.epoch) {
        line.push_str(&format!("; owner {owner}, epoch {epoch}, in sync: {}", arbiter.in_sync.join(", ")));
    }
    if let (Some(error), Some(at)) = (&arbiter.last_error, &arbiter.last_error_at) {
        line.push_str(&format!("; last trouble at {at}: {error}"));
    }
    line
}

fn fencing_line(fencing: &FencingEvidence) -> String {
    let checked = fencing.checked_ms.map(|ms| format!(", looked at {} ago", ago(ms))).unwrap_or_default();
    let trouble = fencing.trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
    format!("fencing device: {}{checked}{trouble}", fencing.state)
}

fn change_line(change: &ChangeEvidence) -> String {
    let end = match change.done {
        None => "under way",
        Some(true) => "done",
        Some(false) => "failed",
    };
    format!(
        "last change of role: {}, {} (rule {}), began {}, {end}",
        change.change, change.reason, change.rule, change.began
    )
}

/// What would happen, for people.
fn rehearsals(explanation: &GroupExplanation) -> String {
    let mut out = format!("group {}: taken for granted: {}\n", explanation.group, explanation.assumed);
    for loss in &explanation.losses {
        let end = match (&loss.serves, loss.interrupted_ms) {
            (Some(node), 0) => format!("{node} serves, without interruption"),
            (Some(node), ms) => format!("{node} serves after {}", ago(ms)),
            (None, _) => "nobody would serve".into(),
        };
        let why = loss.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let _ = writeln!(out, "\nif {} died: {end}{why}", loss.what);
        for moment in &loss.timeline {
            let _ = writeln!(out, "  {:>9}  {}", format!("+{}", ago(moment.after_ms)), moment.words);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::group::ResourceState;
    use crate::runtime::control::group::{Evidence, ExplainedLoss, ExplainedMoment, NodeReport, RefusedEvidence};

    fn node(name: &str, here: bool, state: &str, reason: &str) -> NodeReport {
        NodeReport {
            node: name.into(),
            here,
            heard: true,
            role: Some("owner".into()),
            state: Some(state.to_lowercase()),
            state_words: state.into(),
            reason: Some(reason.into()),
            reason_words: reason.into(),
        }
    }

    fn report() -> GroupReport {
        let path = PathEvidence {
            name: "lan".into(),
            up: false,
            since: "2026-11-20T15:52:32.007Z".into(),
            for_ms: 75_000,
            one_way: false,
            silent_ms: Some(75_000),
            trouble: None,
            sent: 9,
            unsent: 0,
            taken: 4,
            refused: vec![RefusedEvidence {
                kind: "wrong-key".into(),
                count: 7,
                age_ms: 80,
                words: "use one secret".into(),
            }],
        };
        let resource = ResourceReport {
            name: "web".into(),
            kind: "service".into(),
            critical: true,
            state: ResourceState::Failed,
            since: "2026-11-20T15:52:32.007Z".into(),
            for_ms: 1500,
            reason: "it ended with status 1".into(),
            next: "mend it".into(),
            unfit: false,
            restarts: 2,
            last_restart: Some("it ended; restarted".into()),
            found: Some("stopped: not started by this daemon".into()),
        };
        GroupReport {
            name: "db".into(),
            mode: "arbiter".into(),
            nodes: vec![node("alpha", true, "Normal", "normal")],
            meaning: "Healthy.".into(),
            action: "Nothing.".into(),
            notices: vec!["no automatic failover: the arbiter is away".into()],
            resources: vec![resource],
            evidence: Evidence {
                peer: "alive".into(),
                peer_healthy: Some(true),
                silent_ms: Some(40),
                peer_turn_ms: Some(3),
                config_agrees: Some(true),
                paths: vec![path],
                link_silent_ms: None,
                arbiter: None,
                fencing: Some(FencingEvidence { state: "reachable".into(), checked_ms: Some(5000), trouble: None }),
                last_change: None,
            },
            group: serde_json::Value::Null,
        }
    }

    #[test]
    fn what_matters_comes_first_and_the_evidence_last() {
        let text = table(&report());
        for line in [
            "  alpha (this server): Normal (normal), owner",
            "  next: Nothing.",
            "  ! no automatic failover: the arbiter is away",
            "    service web: failed for 1.50 s, repaired 2 times (the last: it ended; restarted): it ended with status 1; \
             next: mend it [stopped: not started by this daemon]",
            "    path lan: down for 1 min 15 s, 7 wrong-key (last 80 ms ago)",
            "    fencing device: reachable, looked at 5 s ago",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is missing in\n{text}");
        }
        let (notice, evidence) = (text.find("  ! ").unwrap(), text.find("evidence").unwrap());
        assert!(notice < evidence);
    }

    #[test]
    fn the_report_goes_there_and_back() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["resources"][0]["state"], "failed");
        assert_eq!(serde_json::from_value::<GroupReport>(json).unwrap(), report());
    }

    #[test]
    fn a_rehearsal_says_who_serves_and_when() {
        let loss = |serves: Option<&str>, interrupted_ms| ExplainedLoss {
            loss: "peer".into(),
            what: "beta, the other server".into(),
            serves: serves.map(String::from),
            interrupted_ms,
            why: serves.is_none().then(|| "its copy is not in sync".into()),
            timeline: vec![ExplainedMoment { after_ms: 1010, words: "alpha: serves alone".into() }],
        };
        let losses = vec![loss(Some("alpha"), 0), loss(Some("alpha"), 1010), loss(None, 9)];
        let text = rehearsals(&GroupExplanation { group: "db".into(), assumed: "all is well".into(), losses });
        assert!(text.contains("if beta, the other server died: alpha serves, without interruption\n"), "{text}");
        assert!(text.contains("died: alpha serves after 1.01 s\n"), "{text}");
        assert!(text.contains("died: nobody would serve: its copy is not in sync\n"), "{text}");
        assert!(text.contains("+1.01 s  alpha: serves alone"), "{text}");
    }
}
