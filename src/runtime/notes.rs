//! What the mirror core tells, as log lines. The one place where notes become words.

use crate::base::state::DiskState;
use crate::logic::mirror::interface::Note;
use crate::runtime::config::units::{show_size, show_time};
use crate::runtime::events::{New, kind};
use serde_json::json;
use tracing::Level;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// What happened.
    pub words: String,
}

/// Logs a note of a volume.
pub fn log(volume: &str, note: &Note) {
    let Line { level, words } = line(note);
    match level {
        Level::ERROR => tracing::error!(volume, "{words}"),
        Level::WARN => tracing::warn!(volume, "{words}"),
        Level::INFO => tracing::info!(volume, "{words}"),
        _ => tracing::debug!(volume, "{words}"),
    }
}

/// A note as an event, if it is one to keep: what a volume does all day is none.
pub fn event(volume: &str, group: Option<&str>, note: &Note) -> Option<New> {
    let kind = match note {
        Note::DiskChanged { disk: DiskState::Diskless, .. } => kind::DISK_FAILED,
        Note::DiskChanged { .. } => "disk",
        Note::ResyncBegan { .. } | Note::Joined { .. } => "resync",
        Note::Verified { .. } => "verify",
        Note::Grown { .. } => "grown",
        Note::Held { .. } => "volume-held",
        Note::ArchiveFailed { .. } => "archive-failed",
        _ => return None,
    };
    let Line { level, words } = line(note);
    let (group, detail) = (group.map(str::to_string), json!({ "volume": volume }));
    Some(New { group, kind: kind.into(), severity: level.into(), words: format!("{volume}: {words}"), detail })
}

/// The words for a note.
pub fn line(note: &Note) -> Line {
    let (level, words) = match note {
        Note::Grown { bytes } => (Level::INFO, format!("the volume has {} now", show_size(*bytes))),
        Note::SessionBegan => (Level::INFO, "the link to the peer is up".to_string()),
        Note::SessionEnded { reason } => (Level::WARN, format!("the link to the peer is down: {reason}")),
        Note::Decided { rule, plan } => (Level::INFO, format!("handshake: {plan} (rule {rule})")),
        Note::RoleChanged { role, reason } => (Level::INFO, format!("this node is {role} now: {reason}")),
        Note::DiskChanged { disk, reason } => {
            let level = match disk {
                DiskState::Diskless => Level::ERROR,
                DiskState::Outdated | DiskState::Inconsistent => Level::WARN,
                DiskState::New | DiskState::UpToDate => Level::INFO,
            };
            (level, format!("the disk is {disk} now: {reason}"))
        }
        Note::SoloBegan => (Level::WARN, "going on alone: what is written from here is not on the peer".into()),
        Note::ResyncBegan { kind, reason, bytes } => {
            (Level::INFO, format!("{kind} resync of {} begins: {reason}", show_size(*bytes)))
        }
        Note::Joined { bytes_copied, bytes_equal, bytes_zeroed, took } => (
            Level::INFO,
            format!(
                "in sync: {} copied, {} zeroed, {} found equal, in {}",
                show_size(*bytes_copied),
                show_size(*bytes_zeroed),
                show_size(*bytes_equal),
                show_time(*took)
            ),
        ),
        Note::Verified { bytes, different: 0 } => {
            (Level::INFO, format!("verified: {} are the same on both disks", show_size(*bytes)))
        }
        Note::Verified { bytes, different } => (
            Level::ERROR,
            format!("verified: {} of {} differ between the disks", show_size(*different), show_size(*bytes)),
        ),
        Note::ReadRepaired { range } => {
            (Level::WARN, format!("reading {range} failed here; the peer's copy was served and written back"))
        }
        Note::Held { reason } => (Level::ERROR, format!("requests are held: {reason}")),
        Note::PeerMisbehaved { what } => (Level::ERROR, format!("the peer broke the protocol: {what}")),
        Note::ArchiveFailed { reason } => {
            (Level::ERROR, format!("nothing more is overwritten here, since it can't be archived: {reason}"))
        }
        Note::Shed => (Level::WARN, "the peer falls behind on purpose: the send buffer is full".into()),
    };
    Line { level, words }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn words_have_their_figures() {
        let joined =
            Note::Joined { bytes_copied: 3 << 20, bytes_equal: 0, bytes_zeroed: 0, took: Duration::from_millis(1500) };
        assert_eq!(line(&joined).words, "in sync: 3.00 MiB copied, 0 B zeroed, 0 B found equal, in 1.50 s");
        assert_eq!(line(&Note::Verified { bytes: 4096, different: 0 }).level, Level::INFO);
        assert_eq!(line(&Note::Verified { bytes: 4096, different: 4096 }).level, Level::ERROR);
        let lost = Note::DiskChanged { disk: DiskState::Diskless, reason: "input/output error".into() };
        assert_eq!(
            line(&lost),
            Line { level: Level::ERROR, words: "the disk is diskless now: input/output error".into() }
        );
    }
}
