//! Time: what happens because nothing happened.

use super::core::{Mirror, Op};
use super::door::Door;
use super::interface::Effect;
use super::request::Path;
use super::session::Session;
use super::slab::Key;
use crate::base::error::RequestError;
use crate::base::limits::FLUSH_WINDOW_BYTES;
use crate::base::state::{DiskState, Mode, Role};
use crate::base::time::Moment;
use std::time::Duration;

/// Time between two looks while something is going on.
const BUSY: Duration = Duration::from_millis(100);
/// Time between two looks while nothing is.
const IDLE: Duration = Duration::from_millis(500);

/// When things were last done.
#[derive(Debug, Default)]
pub(super) struct Timers {
    looked: Moment,
    snapshot: Moment,
    /// Marked bytes when the last snapshot was taken.
    snapshot_bytes: u64,
    sweep: Moment,
    unreadable: Moment,
}

impl Timers {
    /// When the core wants to be asked again at the latest.
    pub(super) fn next(&self, mirror: &Mirror) -> Moment {
        let at_rest = |session: &Session| session.mirrors() && !session.is_copying();
        let quiet = mirror.slots.is_empty()
            && mirror.chunks.is_empty()
            && mirror.ops.is_empty()
            && mirror.unstable.is_empty()
            && mirror.session.as_ref().is_none_or(at_rest);
        let mut look = self.looked + if quiet { IDLE } else { BUSY };
        if let Some(session) = &mirror.session {
            let due = mirror.ping_due(session).min(session.heard + mirror.settings.link_timeout);
            // Not before `tick` would look.
            look = look.min(due.max(self.looked + BUSY / 2));
        }
        let copying = mirror.verify.is_some() || mirror.session.as_ref().is_some_and(|session| session.is_copying());
        match mirror.governor.next() {
            Some(tokens) if copying => look.min(tokens),
            _ => look,
        }
    }

    /// A snapshot is durable.
    pub(super) fn snapshot_taken(&mut self, now: Moment) {
        self.snapshot = now;
    }
}

impl Mirror {
    pub(super) fn tick(&mut self, out: &mut Vec<Effect>) {
        if self.now.since(self.timers.looked) < BUSY / 2 {
            return;
        }
        self.timers.looked = self.now;
        self.watch_link(out);
        self.watch_disk(out);
        self.watch_held(out);
        self.go_alone_in_time(out);
        self.flush_sometimes(out);
        self.snapshot_sometimes(out);
        self.sweep_sometimes(out);
        self.report_sometimes(out);
        self.stop_step(out);
    }

    /// Pings, silence, and a peer that takes frames but does not write them.
    fn watch_link(&mut self, out: &mut Vec<Effect>) {
        let now = self.now;
        let ping = self.session.as_ref().is_some_and(|session| self.ping_due(session) <= now);
        let Some(session) = self.session.as_mut() else { return };
        let silence = now.since(session.heard);
        let unwritten = session.oldest_unwritten().map(|since| now.since(since));
        if silence >= self.settings.link_timeout {
            let reason = format!("nothing heard from {} for {} ms", self.peer_name(), silence.as_millis());
            self.end_session(&reason, false, out);
        } else if self.settings.mode != Mode::Async
            && unwritten.is_some_and(|waited| waited >= self.settings.remote_io_timeout)
        {
            let reason = format!("{} did not write a frame for {} s", self.peer_name(), silence_seconds(unwritten));
            self.end_session(&reason, false, out);
        } else if self.handshake_is_stuck() {
            let reason = format!("the handshake with {} takes too long", self.peer_name());
            self.end_session(&reason, false, out);
        } else if ping {
            self.ping(out);
        }
    }

    /// When the next ping goes out. A secondary pings for what the answers prove (see `peer_probed`); a primary only
    /// wants to hear something, which the secondary's pings are.
    fn ping_due(&self, session: &Session) -> Moment {
        let interval = self.settings.ping_interval;
        let due = session.pinged + interval;
        if self.role == Role::Primary { due.max(session.heard + interval + interval / 2) } else { due }
    }

    /// Clients wait and the peer, though alive, does not come to the point: they are served alone until it does.
    fn handshake_is_stuck(&self) -> bool {
        let longest = self.settings.remote_io_timeout;
        let deciding = |session: &Session| session.is_deciding() && self.now.since(session.began) >= longest;
        self.role == Role::Primary && !self.slots.is_empty() && self.session.as_ref().is_some_and(deciding)
    }

    /// A local disk that does not answer.
    fn watch_disk(&mut self, out: &mut Vec<Effect>) {
        let limit = self.settings.disk_timeout;
        if limit.is_zero() || self.disk == DiskState::Diskless {
            return;
        }
        // The archive may be on another disk, and slow; it is no reason to give up this one.
        let of_disk = |op: &Op| !matches!(op, Op::Archive(_));
        let hung = self.ops.iter().any(|(_, (op, since))| of_disk(op) && self.now.since(*since) >= limit);
        if hung {
            self.disk_failed("an operation", crate::base::error::DiskError::TimedOut, out);
        }
    }

    /// Requests held for a lost peer go on alone when the time for that has come.
    fn go_alone_in_time(&mut self, out: &mut Vec<Effect>) {
        let waits = self.role == Role::Primary && self.path() == Path::Held && !self.slots.is_empty();
        if waits && self.door == Door::Closed && self.disk == DiskState::UpToDate && self.may_go_alone() {
            self.drive_all(out);
        }
    }

    /// Requests that neither disk serves fail after a while: applications can bear an error, not silence for ever.
    fn watch_held(&mut self, out: &mut Vec<Effect>) {
        let Some((since, _)) = &self.held_since else { return };
        if self.now.since(*since) < self.settings.suspend_max {
            return;
        }
        self.fail_flushes(RequestError::Io, out);
        let keys: Vec<Key> = self.slots.keys();
        for key in keys {
            if let Some(slot) = self.slots.get_mut(key)
                && slot.locked
                && slot.failed.is_none()
                && !slot.is_ghost()
            {
                slot.failed = Some(RequestError::Io);
                self.conclude(key, out);
            }
        }
    }

    /// Bounds what is unstable, and with it what a crash leaves to compare.
    fn flush_sometimes(&mut self, out: &mut Vec<Effect>) {
        let due = self.now.since(self.flushing.began) >= self.settings.flush_interval
            || self.unstable.bytes() >= FLUSH_WINDOW_BYTES;
        let sends = self.session.as_ref().is_some_and(|session| session.mirrors());
        let wanted = self.role == Role::Primary || self.session.as_ref().is_some_and(|session| session.is_copying());
        // A client's flush may have made the peer durable, but not what was still on its way to our own disk.
        let something = !self.unstable.is_empty() || (self.is_joined() && self.flushing.stable < self.sequence);
        if due && sends && wanted && self.flushing.is_idle() && something {
            self.start_cycle(out);
        }
    }

    /// While not in sync, keeps the exact record of what differs durable beside the coarse one.
    fn snapshot_sometimes(&mut self, out: &mut Vec<Effect>) {
        let due = self.now.since(self.timers.snapshot) >= self.settings.snapshot_interval;
        let settled = !self.maps_unreadable && !self.is_snapshotting() && self.pending.stopping.is_none();
        if due && settled && !self.is_joined() && self.marks.bytes() != self.timers.snapshot_bytes {
            self.timers.snapshot_bytes = self.marks.bytes();
            self.timers.snapshot = self.now;
            self.take_snapshot(out);
        }
    }

    fn is_snapshotting(&self) -> bool {
        self.is_under_way(|op| matches!(op, Op::Snapshot(_)))
    }

    fn sweep_sometimes(&mut self, out: &mut Vec<Effect>) {
        if self.now.since(self.timers.sweep) < self.settings.intent_sweep_interval
            || !self.is_joined()
            || !self.marks.is_empty()
        {
            return;
        }
        self.timers.sweep = self.now;
        // A secondary writes nothing of its own, and what it wrote as primary was made durable on both when it demoted.
        let stable = if self.role == Role::Primary { self.flushing.stable } else { u64::MAX - 1 };
        self.intents.sweep(self.now, self.settings.intent_idle, stable);
        self.write_intents(out);
    }

    fn report_sometimes(&mut self, out: &mut Vec<Effect>) {
        let now = self.now;
        if let Some(source) = self.session.as_mut().and_then(|session| session.source()) {
            source.meter.advance(now);
            if !source.unreadable.is_empty() && now.since(self.timers.unreadable) >= self.settings.unreadable_retry {
                self.timers.unreadable = now;
                source.unreadable.clear();
            }
            if now.since(source.told) >= self.settings.ping_interval {
                self.tell_progress(out);
            }
        }
        if self.verify.is_some() {
            self.tell_verify(false, out);
        }
    }
}

fn silence_seconds(waited: Option<Duration>) -> u64 {
    waited.map_or(0, |waited| waited.as_secs())
}
