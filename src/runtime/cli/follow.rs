//! `--wait`: follows a resync or verify to its end, with a progress bar.

use super::exit::{Exit, Failure};
use super::progress::{Display, Progress};
use super::session::Session;
use crate::base::state::{DiskState, LinkState, Role};
use crate::base::view::VolumeView;
use crate::runtime::config::units::{show_size, show_time};
use std::time::{Duration, Instant};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Time in which what was asked for has begun, if it ever does: from then on quiet means done.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(3);

/// Follows a resync that was asked for when the volume looked like `before`, until both disks are the same.
pub fn resync(session: &mut Session<'_>, before: &VolumeView) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut display = Display::new();
    loop {
        let view = session.volume(&before.name)?.view;
        if view.in_sync && view.resync.is_none() {
            let ended = view.last_resync != before.last_resync;
            if ended || started.elapsed() >= BEGIN_TIME_MAX {
                display.end();
                say!("{}", resync_summary(&view, ended));
                return Ok(Exit::Done);
            }
        }
        if let Some(reason) = resync_is_stuck(&view)
            && started.elapsed() >= BEGIN_TIME_MAX
        {
            display.end();
            return Err(Failure::new(Exit::Refused, reason));
        }
        match (&view.resync, view.link) {
            (Some(resync), _) if resync.paused => {
                display.say("the resync is paused; let it go on with resume-resync");
            }
            (Some(resync), _) => display.show(&Progress {
                what: resync.kind.to_string(),
                percent: resync.percent,
                bytes: Some((resync.bytes_total.saturating_sub(resync.bytes_left), resync.bytes_total)),
                bytes_per_second: resync.bytes_per_second,
                seconds_left: resync.seconds_left,
            }),
            (None, LinkState::Down | LinkState::Disconnected) => {
                display.say("waiting for the peer; the resync goes on when it is back");
            }
            (None, _) => display.say("waiting for the resync to begin"),
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Follows a verify to its end.
pub fn verify(session: &mut Session<'_>, before: &VolumeView) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut display = Display::new();
    loop {
        let view = session.volume(&before.name)?.view;
        if let Some(verify) = &view.verify {
            let total = view.size_bytes;
            display.show(&Progress {
                what: format!("verify ({} differ)", show_size(verify.bytes_different)),
                percent: verify.percent,
                bytes: Some((total.saturating_sub(verify.bytes_left), total)),
                bytes_per_second: verify.bytes_per_second,
                seconds_left: verify.seconds_left,
            });
        } else if view.last_verify != before.last_verify || started.elapsed() >= BEGIN_TIME_MAX {
            display.end();
            return verify_summary(&view, before);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn verify_summary(view: &VolumeView, before: &VolumeView) -> Result<Exit, Failure> {
    let Some(summary) = view.last_verify.as_ref().filter(|_| view.last_verify != before.last_verify) else {
        let message = format!(
            "the verify of {} left no result: the link or a disk was lost; see `twinblock status`, then verify again",
            view.name
        );
        return Err(Failure::new(Exit::Failed, message));
    };
    say!(
        "compared {} in {}: {} differ{}",
        show_size(summary.bytes_compared),
        show_time(Duration::from_millis(summary.milliseconds)),
        if summary.bytes_different == 0 { "none".into() } else { show_size(summary.bytes_different) },
        if summary.bytes_repaired > 0 {
            format!(", {} repaired", show_size(summary.bytes_repaired))
        } else {
            "".into()
        },
    );
    for (offset, length) in &summary.ranges {
        say!("  {offset} {length}");
    }
    if !summary.complete {
        let message = "the verify did not reach the end: the link or a disk was lost; verify again".to_string();
        return Err(Failure::new(Exit::Failed, message));
    }
    if summary.bytes_different > summary.bytes_repaired {
        let message = "the disks differ; copy the primary's data over it with `verify --repair`".to_string();
        return Err(Failure::new(Exit::Differs, message));
    }
    Ok(Exit::Done)
}

fn resync_summary(view: &VolumeView, ended: bool) -> String {
    match &view.last_resync {
        Some(last) if ended => format!(
            "{} is in sync: {} resync copied {}, zeroed {}, found {} equal, in {}",
            view.name,
            last.kind,
            show_size(last.bytes_copied),
            show_size(last.bytes_zeroed),
            show_size(last.bytes_equal),
            show_time(Duration::from_millis(last.milliseconds)),
        ),
        _ => format!("{} is in sync: there was nothing to copy", view.name),
    }
}

/// Why a resync can't go on without the operator, if it can't.
fn resync_is_stuck(view: &VolumeView) -> Option<String> {
    let stuck = match view.link {
        LinkState::Refused => "the servers refuse to sync",
        LinkState::Disconnected => "the link is disconnected; bring it back with `connect`",
        _ if view.disk == DiskState::Diskless && view.role == Role::Secondary => "this node has no disk",
        _ if view.peer_disk == Some(DiskState::Diskless) => "the peer has no disk",
        _ => return None,
    };
    let reason = view.link_reason.as_ref().or(view.disk_reason.as_ref());
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    Some(format!("{stuck}{reason}; see `twinblock status`"))
}
