//! What to do next: one sentence for every state of a volume in which someone has to do something.

use crate::base::state::{DiskState, LinkState, Role};
use crate::runtime::control::message::{NodeStatus, VolumeStatus};

/// What the operator should do, if anything. The first that matters is said; the rest follows when it is done.
pub fn next(node: &NodeStatus, status: &VolumeStatus) -> Option<String> {
    let view = &status.view;
    let (name, here, peer) = (&view.name, &node.node, &node.peer);
    if view.disk == DiskState::Diskless {
        return Some(format!(
            "attach the disk again with `attach {name}`, or after it was exchanged `replace-disk {name}` ({})",
            status.disk_path.display()
        ));
    }
    let words = match view.link {
        LinkState::Refused => match (view.disk, view.peer_disk) {
            (DiskState::New, Some(DiskState::New)) => format!(
                "both disks are new and of unknown content: choose the good one with `resync {name} --source NODE`, or \
                 make both anew with `init-disk {name} --zero --overwrite`"
            ),
            _ => format!(
                "the servers do not agree which copy is good: look at both, then on either of them \
                 `resync {name} --source {here}` or `--source {peer}`"
            ),
        },
        LinkState::Disconnected => format!("bring the link back with `connect {name}`"),
        LinkState::Down => format!("start the daemon on {peer}, or look at the network between the two"),
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
        assert!(advice(&|view| view.disk = DiskState::Diskless).contains("replace-disk vol0"));
        assert!(advice(&|view| view.link = LinkState::Refused).contains("--source alpha"));
        assert!(advice(&|view| view.link = LinkState::Down).contains("start the daemon on beta"));
        assert!(advice(&|view| view.link = LinkState::Disconnected).contains("connect vol0"));
        assert!(advice(&|view| view.role = Role::Secondary).contains("promote vol0"));
    }
}
