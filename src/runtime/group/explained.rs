//! `explain`: what would happen if one thing after the other died now, put into words.

use super::asked::milliseconds;
use super::notes::line;
use crate::base::ids::NodeId;
use crate::logic::failover::Failover;
use crate::logic::failover::explain::{Explanation, Loss};
use crate::logic::failover::interface::{Note, Settings};
use crate::runtime::control::group::{ExplainedLoss, ExplainedMoment, GroupExplanation};

/// Rehearses every loss on copies of the core. Takes a while: not for the group's thread.
pub fn explain(core: &Failover) -> GroupExplanation {
    let settings = core.settings();
    let losses = losses(settings).into_iter().map(|loss| explained(settings, &core.explain(loss)));
    let losses: Vec<ExplainedLoss> = losses.collect();
    GroupExplanation { group: settings.group.clone(), assumed: ASSUMED.into(), losses }
}

const ASSUMED: &str = "only the one thing dies, clients are writing, and everything else answers at once: disks, \
                       resources, the arbiter, the fencing device";

fn losses(settings: &Settings) -> Vec<Loss> {
    let mut losses = vec![Loss::ThisServer, Loss::Peer];
    losses.extend((0..settings.paths.len()).map(Loss::Path));
    losses.extend([Loss::Link, Loss::Network, Loss::Disk]);
    losses.extend(settings.mode.has_arbiter().then_some(Loss::Arbiter));
    let critical = settings.resources.iter().enumerate().filter(|(_, resource)| resource.critical && !resource.skip);
    losses.extend(critical.map(|(index, _)| Loss::Resource(index)));
    losses
}

fn explained(settings: &Settings, explanation: &Explanation) -> ExplainedLoss {
    let name = |node: NodeId| settings.node_names[usize::from(node.0)].clone();
    let (kind, what) = words(settings, explanation.loss);
    // What follows the loss of this server is told by the other one.
    let teller = if explanation.loss == Loss::ThisServer { settings.node.peer() } else { settings.node };
    let tellers = Settings { node: teller, ..settings.clone() };
    let told = explanation.timeline.iter().filter(|(_, note)| is_telling(note));
    let timeline = told.map(|(after, note)| ExplainedMoment {
        after_ms: milliseconds(*after),
        words: format!("{}: {}", name(teller), line(&tellers, note).1),
    });
    ExplainedLoss {
        loss: kind.into(),
        what,
        serves: explanation.serves.map(name),
        interrupted_ms: milliseconds(explanation.interrupted),
        why: explanation.why.clone(),
        timeline: timeline.collect(),
    }
}

/// What shows how it would come about.
fn is_telling(note: &Note) -> bool {
    !matches!(note, Note::Path { .. } | Note::OneWay { .. } | Note::Paired)
}

fn words(settings: &Settings, loss: Loss) -> (&'static str, String) {
    let here = &settings.node_names[usize::from(settings.node.0)];
    let there = &settings.node_names[usize::from(settings.node.peer().0)];
    match loss {
        Loss::ThisServer => ("this-server", format!("{here}, this server")),
        Loss::Peer => ("peer", format!("{there}, the other server")),
        Loss::Path(index) => ("path", format!("the heartbeat path {}", settings.paths[index])),
        Loss::Link => ("link", "the replication link".into()),
        Loss::Network => ("network", "every network between the two".into()),
        Loss::Disk => ("disk", format!("the disk of {here}")),
        Loss::Arbiter => ("arbiter", "the arbiter".into()),
        Loss::Resource(index) => ("resource", format!("{} on {here}, for good", settings.resources[index].name)),
    }
}
