//! `status`: a table for people, JSON for machines.

use super::exit::{Exit, Failure};
use super::progress::{Progress, bar};
use super::session::Session;
use super::{advice, latency, verbs};
use crate::runtime::config::Config;
use crate::runtime::config::units::{show_size, show_time};
use crate::runtime::control::message::{NodeStatus, VolumeStatus};
use crate::runtime::device::DeviceState;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Time between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Shows the state of the node, or where the time of requests goes, once or again and again.
pub fn status(config: &Config, latency: bool, json: bool, watch: bool) -> Result<Exit, Failure> {
    let mut session = Session::open(config)?;
    loop {
        let text = match (latency, json) {
            (false, false) => table(&session.status()?),
            (false, true) => format!("{}\n", session.status_json()?),
            (true, false) => latency::table(&session.latency()?)?,
            (true, true) => format!("{}\n", session.latency()?),
        };
        let mut out = std::io::stdout().lock();
        let clear = if watch && !json && out.is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        // Whoever reads may have gone (a closed pipe): that ends the watch and is no error.
        if write!(out, "{clear}{text}").and_then(|()| out.flush()).is_err() || !watch {
            return Ok(Exit::Done);
        }
        drop(out);
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// The table for people.
pub fn table(status: &NodeStatus) -> String {
    let mut rows =
        vec![["VOLUME", "ROLE", "DISK", "PEER", "LINK", "SYNC", "DIRTY", "SIZE", "CLIENTS"].map(String::from).to_vec()];
    rows.extend(status.volumes.iter().map(row));
    let lines = align(&rows);
    let mut out = format!("node {} of cluster {}, peer {}\n\n", status.node, status.cluster, status.peer);
    out.push_str(&lines[0]);
    for (volume, line) in status.volumes.iter().zip(&lines[1..]) {
        out.push_str(line);
        for detail in details(status, volume) {
            out.push_str(&format!("  {detail}\n"));
        }
    }
    out
}

fn row(status: &VolumeStatus) -> Vec<String> {
    let view = &status.view;
    let peer = match (view.peer_role, view.peer_disk) {
        (None, None) => "unknown".to_string(),
        (role, disk) => {
            let words = [role.map(|role| role.to_string()), disk.map(|disk| disk.to_string())];
            words.into_iter().flatten().collect::<Vec<_>>().join("/")
        }
    };
    vec![
        view.name.clone(),
        view.role.to_string(),
        view.disk.to_string(),
        peer,
        view.link.to_string(),
        if view.in_sync { "yes" } else { "no" }.into(),
        show_size(view.dirty_bytes),
        show_size(view.size_bytes),
        verbs::clients_word(status),
    ]
}

/// What needs more than a cell: running work, reasons, and what to do next.
fn details(node: &NodeStatus, status: &VolumeStatus) -> Vec<String> {
    let view = &status.view;
    let mut lines = Vec::new();
    if let Some(resync) = &view.resync {
        lines.push(bar(&Progress {
            what: format!("resync {} {}", if resync.source { "to" } else { "from" }, node.peer),
            percent: resync.percent,
            bytes: Some((resync.bytes_total.saturating_sub(resync.bytes_left), resync.bytes_total)),
            bytes_per_second: resync.bytes_per_second,
            seconds_left: resync.seconds_left,
        }));
        let paused = if resync.paused { ", paused" } else { "" };
        lines.push(format!("{}{paused}: {}", resync.kind, resync.reason));
    }
    if let Some(verify) = &view.verify {
        lines.push(bar(&Progress {
            what: format!("verify ({} differ)", show_size(verify.bytes_different)),
            percent: verify.percent,
            bytes: None,
            bytes_per_second: verify.bytes_per_second,
            seconds_left: verify.seconds_left,
        }));
    }
    if let (None, Some(last)) = (&view.resync, &view.last_resync) {
        lines.push(format!(
            "last resync: {}, {} copied, {} zeroed, {} found equal, in {}: {}",
            last.kind,
            show_size(last.bytes_copied),
            show_size(last.bytes_zeroed),
            show_size(last.bytes_equal),
            show_time(Duration::from_millis(last.milliseconds)),
            last.reason
        ));
    }
    if let Some(last) = &view.last_verify {
        let end = if last.complete { "" } else { ", did not reach the end" };
        lines.push(format!(
            "last verify: {} compared, {} differed, {} repaired{end}",
            show_size(last.bytes_compared),
            show_size(last.bytes_different),
            show_size(last.bytes_repaired)
        ));
    }
    if let Some(device) = &status.device {
        let leads_to = device.device.as_ref().map_or(String::new(), |to| format!(" -> {}", to.display()));
        let trouble = device.trouble.as_ref().map_or(String::new(), |trouble| format!(": {trouble}"));
        if device.state != DeviceState::Absent {
            lines.push(format!("device {}{leads_to}: {}{trouble}", device.link.display(), device.state));
        }
    }
    let reasons = [("disk", &view.disk_reason), ("link", &view.link_reason), ("requests are held", &view.held_reason)];
    for (what, reason) in reasons {
        if let Some(reason) = reason {
            lines.push(format!("{what}: {reason}"));
        }
    }
    lines.extend(advice::next(node, status).map(|words| format!("next: {words}")));
    lines
}

/// Pads every column to its widest cell.
pub(super) fn align(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows[0].len();
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::state::{DiskState, LinkState};
    use crate::runtime::control::message::sample;

    #[test]
    fn a_table_with_a_resync() {
        let text = table(&sample::node(sample::view()));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "node alpha of cluster lab, peer beta");
        assert!(lines[2].starts_with("VOLUME  ROLE     DISK        PEER                    LINK    SYNC  DIRTY"));
        assert!(lines[3].starts_with("vol0    primary  up-to-date  secondary/inconsistent  resync  no    64.0 MiB"));
        assert!(lines[4].contains("resync to beta [") && lines[4].contains("37.5 %") && lines[4].contains("4 s left"));
        assert!(lines[5].contains("differential: the peer was away"));
    }

    #[test]
    fn reasons_and_the_next_step_are_shown() {
        let mut view = sample::view();
        (view.resync, view.link, view.link_reason) = (None, LinkState::Down, Some("connection refused".into()));
        (view.disk, view.disk_reason) = (DiskState::Diskless, Some("input/output error (errno 5)".into()));
        let text = table(&sample::node(view));
        assert!(text.contains("  disk: input/output error (errno 5)\n"), "{text}");
        assert!(text.contains("  link: connection refused\n"), "{text}");
        assert!(text.contains("  next: "), "{text}");
    }
}
