//! What to do next: one sentence for every state of a volume in which someone has to do something.

use crate::base::state::{DiskState, LinkState, Role};
use crate::runtime::control::message::{NodeStatus, VolumeStatus};

/// What the operator should do, if anything. The first that matters is said; the rest follows when it is done.
pub fn next(node: &NodeStatus, status: &VolumeStatus) -> Option<String> {
    let view = &status.view;
    let (name, here, peer) = (&view.name, &node.node, &node.peer);
    if view.disk == DiskState::Diskless && view.role == Role::Primary {
        return Some(format!(
            "`demote {name}` here, and `promote {name}` on {peer}, which refuses where its disk lacks writes of this one; put \
             this disk right, then `attach {name}`"
        ));
    }
    if view.disk == DiskState::Diskless {
        return Some(format!(
            "put right what is said of the disk and `attach {name}`; or, if it was exchanged for an empty one, \
             `replace-disk {name}` ({})",
            status.disk_path.display()
        ));
    }
    let words = match view.link {
        LinkState::Refused => refused(name, here, peer, view.rule.as_deref().unwrap_or_default()),
        LinkState::Disconnected => format!("bring the link back with `connect {name}`"),
        LinkState::Down => {
            format!(
                "start the daemon on {peer}, look at the network between the two, or put right what is said of the link"
            )
        }
        LinkState::Forwarding if view.peer_disk == Some(DiskState::Diskless) => {
            format!("on {peer}: `attach {name}`, or after the disk was exchanged `replace-disk {name}`")
        }
        LinkState::Resync if view.resync.as_ref().is_some_and(|resync| resync.paused) => {
            format!("let the resync go on with `resume-resync {name}`")
        }
        LinkState::Connected if view.role == Role::Secondary && view.peer_role == Some(Role::Secondary) => {
            format!("nobody serves the volume: `promote {name}` on the server that should")
        }
        _ => match &view.last_verify {
            Some(last) if last.bytes_different > last.bytes_repaired => {
                format!("the last verify found differences: `verify {name} --repair`")
            }
            _ => return None,
        },
    };
    Some(words)
}

/// What settles a refused handshake; `rule` is the name of the rule it ended with.
fn refused(name: &str, here: &str, peer: &str, rule: &str) -> String {
    match rule {
        "protocol-differs" => "install the same release on both servers".into(),
        "mode-differs" => {
            format!("write the same `mode` for {name} on both servers, and restart the daemon whose file was changed")
        }
        "disk-too-small" => format!(
            "one disk is smaller than the volume: put a larger one in its place, then `replace-disk {name}` there"
        ),
        "cloned-disk" => {
            format!("both servers use copies of one disk: on the server with the copy, `replace-disk {name}`")
        }
        "no-disk-anywhere" => format!("attach a disk on one of the servers: `attach {name}`"),
        "both-given-up" => format!("choose the one good side: on it, `resync {name} --source` with its own name"),
        "given-up-side-is-primary" | "inconsistent-primary" => {
            format!("the primary holds the copy that is given up: `demote {name}` there first")
        }
        "both-new" => format!(
            "both disks are new and of unknown content: choose the one to keep, on its own server: `resync {name} --source \
             {here}` here, or `resync {name} --source {peer}` on {peer}; or stop both daemons and make both blank with \
             `init-disk {name} --overwrite --zero`"
        ),
        "split-brain" => format!(
            "both servers went on alone ({rule}): `split-brain show {name}` tells what each has; then `split-brain resolve \
             {name} --discard {here}` or `--discard {peer}`, which archives what only that one has"
        ),
        "archive-failed" => format!(
            "make room for the archive on the server that could not write it, then there `split-brain resolve {name} \
             --discard` with its own name; or the same with `--no-archive`, and what only it has is lost"
        ),
        _ => format!(
            "the servers do not agree which copy is good ({rule}): look at both, then `resync {name} --source {here}` \
             or `resync {name} --source {peer}`; what only the other one has is lost"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::control::message::sample;

    #[test]
    fn trouble_has_advice_and_health_has_none() {
        let advice = |change: &dyn Fn(&mut crate::base::view::VolumeView)| {
            let mut view = sample::view();
            (view.resync, view.link, view.in_sync) = (None, LinkState::Connected, true);
            view.peer_disk = Some(DiskState::UpToDate);
            change(&mut view);
            let node = sample::node(view);
            next(&node, &node.volumes[0]).unwrap_or_default()
        };
        assert_eq!(advice(&|_| {}), "");
        assert!(advice(&|view| view.disk = DiskState::Diskless).contains("`promote vol0` on beta"));
        let diskless = |view: &mut crate::base::view::VolumeView| {
            (view.disk, view.role) = (DiskState::Diskless, Role::Secondary);
        };
        assert!(advice(&diskless).contains("replace-disk vol0"));
        let refused =
            |rule: &str| advice(&|view| (view.link, view.rule) = (LinkState::Refused, Some(rule.to_string())));
        assert!(refused("split-brain").contains("(split-brain)") && refused("split-brain").contains("--discard alpha"));
        assert!(
            refused("archive-failed").contains("--no-archive") && refused("unrelated-data").contains("--source alpha")
        );
        assert!(refused("mode-differs").contains("the same `mode`"));
        assert!(advice(&|view| view.link = LinkState::Down).contains("start the daemon on beta"));
        assert!(advice(&|view| view.link = LinkState::Disconnected).contains("connect vol0"));
        assert!(advice(&|view| view.role = Role::Secondary).contains("promote vol0"));
    }
}
