//! What is shown: the one source of `status`.

use super::core::Mirror;
use super::handshake::{self, Rule};
use super::marks::{next_absent, next_block};
use super::session::Phase;
use crate::base::range::ByteRange;
use crate::base::state::{DiskState, LinkState, Mode, ResyncKind, Role};
use crate::base::time::Moment;
use crate::base::view::{ResyncView, SplitSide, SplitView, VolumeView};
use crate::wire::message::Descriptor;
use roaring::RoaringBitmap;

impl Mirror {
    /// The whole visible state.
    pub fn view(&self, now: Moment) -> VolumeView {
        let dirty_bytes = self.marks.bytes();
        let unacknowledged = self.session.as_ref().map_or(0, |session| session.sent_bytes);
        VolumeView {
            name: self.settings.name.clone(),
            mode: self.settings.mode,
            role: self.role,
            disk: self.disk,
            disk_reason: self.disk_reason.clone(),
            peer_role: self.peer().map(|peer| peer.role),
            peer_disk: self.peer().map(|_| self.peer_disk()),
            link: self.link_state(),
            link_reason: self.link_reason.clone(),
            rule: self.rule.map(|rule| rule.name().to_string()),
            in_sync: self.in_sync(),
            serving: self.serving().is_some() && self.held_since.is_none(),
            held_reason: self.held_since.as_ref().map(|(_, reason)| reason.clone()),
            size_bytes: self.superblock.committed_bytes.max(if self.superblock.committed_bytes == 0 {
                self.capacity_bytes
            } else {
                0
            }),
            dirty_bytes,
            suspect_bytes: self.marks.suspect_bytes(),
            requests_in_flight: self.slots.len() as u32,
            unacknowledged_bytes: unacknowledged,
            generation: self.superblock.lineage.current.to_string(),
            cache_epoch: self.superblock.cache_epoch,
            resync: self.resync_view(now),
            last_resync: self.finished.resync.clone(),
            verify: self.verify_view(),
            last_verify: self.finished.verify.clone(),
            split: self.split_view(),
        }
    }

    /// Both disks hold the same and every acknowledged write.
    pub(super) fn in_sync(&self) -> bool {
        let caught_up =
            self.settings.mode != Mode::Async || self.session.as_ref().is_some_and(|session| session.sent_bytes == 0);
        caught_up && self.is_whole()
    }

    /// The same, but for what an asynchronous volume has on its way.
    pub(super) fn is_whole(&self) -> bool {
        let told_otherwise = self.session.as_ref().is_some_and(|session| session.unrepaired > 0);
        self.disk == DiskState::UpToDate && self.is_joined() && self.marks.is_empty() && !told_otherwise
    }

    /// Both sides of a pair that refuses to sync until one is given up.
    fn split_view(&self) -> Option<SplitView> {
        let session = self.session.as_ref().filter(|session| matches!(session.phase, Phase::Refused))?;
        let apart = matches!(self.rule, Some(Rule::Fork | Rule::Unrelated | Rule::Archive | Rule::DiscardPrimary));
        let (ours, theirs) = (session.ours.as_ref()?, session.theirs.as_ref()?);
        let side = |side: &Descriptor, other: &Descriptor| SplitSide {
            role: side.role,
            disk: side.disk,
            generation: side.lineage.current.to_string(),
            primary_epoch: side.primary_epoch.0,
            changed_bytes: handshake::changes_are_known(side, other).then_some(side.marked_bytes),
        };
        let now = SplitSide { role: self.role, disk: self.disk, ..side(ours, theirs) };
        // What was written since the two met counts, too.
        let changed_bytes = now.changed_bytes.map(|bytes| bytes.max(self.marks.bytes()));
        apart.then(|| SplitView { ours: SplitSide { changed_bytes, ..now }, theirs: side(theirs, ours) })
    }

    fn peer_disk(&self) -> DiskState {
        let said = self.peer().map_or(DiskState::Diskless, |peer| peer.disk);
        match self.session.as_ref().map(|session| &session.phase) {
            Some(Phase::Joined) => DiskState::UpToDate,
            Some(Phase::Source(source)) if source.mirrors() && source.copies() => DiskState::Inconsistent,
            _ => said,
        }
    }

    fn link_state(&self) -> LinkState {
        match self.session.as_ref().map(|session| &session.phase) {
            None => LinkState::Down,
            Some(Phase::Draining | Phase::Hello | Phase::Deciding) => LinkState::Handshake,
            Some(Phase::Refused) => LinkState::Refused,
            Some(Phase::Forwarding { .. }) => LinkState::Forwarding,
            Some(Phase::Source(_) | Phase::Target(_)) => LinkState::Resync,
            Some(Phase::Joined) => LinkState::Connected,
        }
    }

    fn resync_view(&self, now: Moment) -> Option<ResyncView> {
        match self.session.as_ref().map(|session| &session.phase)? {
            Phase::Source(source) if source.copies() => {
                let left = self.marks.bytes();
                let rate = source.meter.rate(now);
                Some(ResyncView {
                    kind: source.kind(),
                    reason: source.reason.clone(),
                    source: true,
                    paused: source.paused,
                    percent: percent(left, source.total),
                    bytes_left: left,
                    bytes_total: source.total,
                    bytes_copied: source.copied,
                    bytes_zeroed: source.zeroed,
                    bytes_equal: source.equal,
                    bytes_per_second: rate,
                    seconds_left: left.checked_div(rate),
                })
            }
            Phase::Target(target) if target.kind.is_some() => {
                let progress = target.progress;
                let passed = now.since(self.session.as_ref()?.began).as_secs_f64().max(0.001);
                let rate = ((progress.total - progress.left.min(progress.total)) as f64 / passed) as u64;
                Some(ResyncView {
                    kind: target.kind.unwrap_or(ResyncKind::Differential),
                    reason: target.reason.clone(),
                    source: false,
                    paused: progress.paused,
                    percent: percent(progress.left, progress.total),
                    bytes_left: progress.left,
                    bytes_total: progress.total,
                    bytes_copied: progress.copied,
                    bytes_zeroed: progress.zeroed,
                    bytes_equal: progress.equal,
                    bytes_per_second: rate,
                    seconds_left: progress.left.checked_div(rate),
                })
            }
            _ => None,
        }
    }

    /// The blocks inside `range` that differ or may differ from the peer, as block-aligned ranges in order; at most `max`.
    pub fn dirty_ranges(&self, range: ByteRange, max: usize) -> Vec<ByteRange> {
        ranges_of(&self.marks.all(), range.blocks(), max)
    }

    /// Whether this node is primary.
    pub fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }
}

fn percent(left: u64, total: u64) -> f64 {
    if total == 0 { 100.0 } else { 100.0 * (total - left.min(total)) as f64 / total as f64 }
}

/// The runs of a bitmap within `blocks`, as byte ranges in order; at most `max`.
pub(super) fn ranges_of(map: &RoaringBitmap, blocks: std::ops::Range<u32>, max: usize) -> Vec<ByteRange> {
    let mut ranges = Vec::new();
    let mut at = blocks.start;
    while ranges.len() < max {
        let Some(first) = next_block(map, at).filter(|first| *first < blocks.end) else { break };
        let end = next_absent(map, first).min(blocks.end);
        ranges.push(ByteRange::of_blocks(first..end));
        at = end;
    }
    ranges
}
