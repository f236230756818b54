//! New settings for a group that is at work.
//!
//! Times, and what is only looked at when something is decided, may change at any moment; a promise holds as long as it
//! was given for. The two servers don't change at the same moment, so until the peer has the same settings the heart beats
//! at the shorter of both intervals, and the peer is given up after the longer of both silences: a change rolled out one
//! server after the other looks like no loss to either.

use super::core::Failover;
use super::interface::{ResourceSettings, Settings};
use std::time::Duration;

/// How often this node speaks, and how long the peer may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time between two heartbeats of this node.
    pub beat: Duration,
    /// The longest time between two of the peer's, as far as it is well.
    pub interval: Duration,
    /// Silence after which the peer is suspected.
    pub suspect_after: Duration,
    /// Silence after which it is lost.
    pub dead_after: Duration,
    /// How long a starting node waits for one it never heard.
    pub init_dead_after: Duration,
}

impl Pace {
    /// What the settings say.
    pub fn of(settings: &Settings) -> Pace {
        Pace {
            beat: settings.heartbeat_interval,
            interval: settings.heartbeat_interval,
            suspect_after: settings.suspect_after,
            dead_after: settings.dead_after,
            init_dead_after: settings.init_dead_after,
        }
    }

    /// What suits a peer of either pace.
    fn and(self, other: Pace) -> Pace {
        Pace {
            beat: self.beat.min(other.beat),
            interval: self.interval.max(other.interval),
            suspect_after: self.suspect_after.max(other.suspect_after),
            dead_after: self.dead_after.max(other.dead_after),
            init_dead_after: self.init_dead_after.max(other.init_dead_after),
        }
    }
}

impl Failover {
    /// Goes by other settings from here on. What the group is made of must be the same: the nodes, the mode, the paths,
    /// and the names and order of its resources.
    pub fn reconfigure(&mut self, settings: Settings) {
        let old = &self.settings;
        assert_eq!((&settings.group, settings.node, settings.home), (&old.group, old.node, old.home));
        assert_eq!((settings.mode, &settings.paths), (old.mode, &old.paths));
        let same = |(new, old): (&ResourceSettings, &ResourceSettings)| {
            (&new.name, &new.needs, new.skip) == (&old.name, &old.needs, old.skip)
        };
        assert!(settings.resources.len() == old.resources.len());
        assert!(settings.resources.iter().zip(&old.resources).all(same), "resources come and go with a restart");
        self.set_pace(self.pace.and(Pace::of(&settings)));
        self.register.set_times(self.now, settings.retry_interval, settings.arbiter_interval);
        self.plan.set_times(&settings.resources);
        self.promises.set_span(settings.dead_after);
        self.settings = settings;
        self.keep_pace();
        // The peer learns at once that the settings are others.
        self.talk.speak();
    }

    /// The peer was heard, or the settings have changed: once both have the same, nobody needs to be patient.
    pub(super) fn keep_pace(&mut self) {
        let pace = Pace::of(&self.settings);
        if self.pace != pace && self.peer.is_some_and(|peer| peer.config == self.settings.config) {
            self.set_pace(pace);
        }
    }

    fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
        self.detector.set_pace(&pace);
    }
}

#[cfg(test)]
mod tests {
    use super::super::interface::{Effect, Identity, Input};
    use super::super::testing::{facts, heartbeat, settings};
    use super::*;
    use crate::base::group::Memory;
    use crate::base::ids::{BootId, Incarnation};
    use crate::base::time::Moment;

    fn core() -> Failover {
        let identity = Identity { incarnation: Incarnation(1), boot: BootId(1), seed: 1 };
        Failover::new(settings(0), identity, Memory::default(), facts(), Moment(0))
    }

    fn slower(config: u64) -> Settings {
        let second = Duration::from_secs(1);
        Settings {
            heartbeat_interval: second,
            suspect_after: second * 4,
            dead_after: second * 8,
            init_dead_after: second * 600,
            config,
            ..settings(0)
        }
    }

    #[test]
    fn until_both_have_the_same_settings_the_more_patient_ones_hold() {
        let mut core = core();
        let (usual, slow) = (Pace::of(&settings(0)), Pace::of(&slower(2)));
        core.reconfigure(slower(2));
        assert_eq!((core.pace.beat, core.pace.dead_after), (usual.beat, slow.dead_after));
        let mut out = Vec::new();
        core.settle(Moment(1), &mut out);
        let told = |effect: &Effect| matches!(effect, Effect::Heartbeat { heartbeat, .. } if heartbeat.config == 2);
        assert!(out.iter().any(told), "the peer is told at once");

        let of_peer =
            |sequence, config| Box::new(crate::base::heartbeat::Heartbeat { config, ..heartbeat(1, sequence) });
        core.handle(Moment(2), Input::Heartbeat { path: 0, heartbeat: of_peer(1, 1) }, &mut out);
        assert_eq!(core.pace.beat, usual.beat, "the peer has the old ones");
        core.handle(Moment(3), Input::Heartbeat { path: 0, heartbeat: of_peer(2, 2) }, &mut out);
        assert_eq!(core.pace, slow);

        // And back: nobody is lost because he still speaks as rarely as he may.
        core.reconfigure(Settings { config: 3, ..settings(0) });
        assert_eq!((core.pace.beat, core.pace.dead_after), (usual.beat, slow.dead_after));
        core.handle(Moment(4), Input::Heartbeat { path: 0, heartbeat: of_peer(3, 3) }, &mut out);
        assert_eq!(core.pace, usual);
    }

    #[test]
    #[should_panic(expected = "resources come and go")]
    fn what_the_group_is_made_of_stays() {
        let mut core = core();
        let mut other = settings(0);
        other.resources[0].skip = !other.resources[0].skip;
        core.reconfigure(other);
    }
}
