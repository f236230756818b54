//! Files that follow a group, between the two daemons: taken to the peer beside the replication, and from there to the
//! group's thread.

use super::Daemon;
use crate::runtime::group::Outgoing;
use crate::runtime::peer::aside;
use crate::wire::aside::{Answer, Question};
use std::rc::Rc;
use tokio::sync::mpsc;

/// Takes the groups' files to the peer, one bundle after the other, for as long as the daemon runs.
pub async fn keep_carrying(daemon: Rc<Daemon>, mut files: mpsc::Receiver<Outgoing>) {
    while let Some(Outgoing { group, resource, bundle, answer }) = files.recv().await {
        let question = Question::Files { group, resource, bytes: bundle.len() as u32 };
        let carried = match aside::ask(&daemon.local, &question, &bundle).await {
            Ok((Answer::Kept, _)) => Ok(()),
            Ok((Answer::Refused(reason), _)) => Err(format!("{}: {reason}", daemon.local.peer_name())),
            Ok((Answer::Config { .. }, _)) => Err("the other server answered something else".into()),
            Err(reason) => Err(reason),
        };
        answer.send(carried).unwrap_or(());
    }
}

/// Has files that came from the peer kept for the next start of their group.
pub async fn keep(daemon: &Daemon, group: &str, resource: String, bundle: Vec<u8>) -> Answer {
    let known = daemon.config.groups.iter().any(|known| known.name == group);
    let Some(groups) = daemon.groups.as_ref().filter(|_| known) else {
        return Answer::Refused("it has no such group; use the same configuration on both servers".into());
    };
    match groups.files(group, resource, bundle).await {
        Ok(()) => Answer::Kept,
        Err(reason) => Answer::Refused(reason.chars().take(REASON_CHARACTERS_MAX).collect()),
    }
}

/// Longest reason that is sent: it fits the head of an answer.
const REASON_CHARACTERS_MAX: usize = 900;
