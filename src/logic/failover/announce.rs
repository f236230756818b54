//! Announcements: a change of role is told when it begins and when it has ended, with how long each stage took.

use super::core::Failover;
use super::detector::Level;
use super::interface::{Change, Effect, Note};
use crate::base::group::{GroupRole, Reason, Stage};
use crate::base::time::Moment;
use std::time::Duration;

/// A change of role under way.
#[derive(Clone, Debug)]
pub(super) struct Episode {
    change: Change,
    reason: Reason,
    done: Vec<(Stage, Duration)>,
    stage: Stage,
    since: Moment,
}

impl Failover {
    /// A change begins; its first stage may have begun before (detection).
    pub(super) fn begin_episode(
        &mut self,
        change: Change,
        reason: Reason,
        rule: &'static str,
        first: (Stage, Moment),
        out: &mut Vec<Effect>,
    ) {
        self.end_episode(false, out);
        let (stage, since) = first;
        self.state.reason = reason;
        self.episode = Some(Episode { change, reason, done: Vec::new(), stage, since });
        out.push(Effect::Note(Note::Began { change, reason, rule }));
    }

    /// The next stage begins.
    pub(super) fn stage(&mut self, stage: Stage) {
        let now = self.now;
        if let Some(episode) = &mut self.episode
            && episode.stage != stage
        {
            episode.done.push((episode.stage, now.since(episode.since)));
            (episode.stage, episode.since) = (stage, now);
        }
    }

    /// It has ended.
    pub(super) fn end_episode(&mut self, done: bool, out: &mut Vec<Effect>) {
        let Some(mut episode) = self.episode.take() else { return };
        episode.done.push((episode.stage, self.now.since(episode.since)));
        let Episode { change, reason, done: stages, .. } = episode;
        out.push(Effect::Note(Note::Ended { change, reason, done, stages }));
    }

    /// Tells what has changed and is nobody's decision.
    pub(super) fn tell_changes(&mut self, out: &mut Vec<Effect>) {
        let arbiter_down = self.arbiter_trouble().is_some();
        if arbiter_down != self.told.arbiter_down {
            self.told.arbiter_down = arbiter_down;
            let trouble = self.arbiter_trouble().map(ToString::to_string);
            out.push(Effect::Note(Note::Arbiter { trouble }));
        }
        let differs = self.peer.is_some_and(|peer| peer.config != self.settings.config);
        if differs != self.told.config_differs {
            self.told.config_differs = differs;
            out.push(Effect::Note(Note::ConfigDiffers { differs }));
        }
        let here = self.turn_age >= self.settings.stall_after;
        if here != self.told.stuck_here {
            self.told.stuck_here = here;
            out.push(Effect::Note(Note::Stuck { here: true, stuck: here }));
        }
        let heard = self.detector.level() == Level::Alive;
        let there = heard && self.peer.is_some_and(|peer| peer.turn_age >= self.settings.stall_after);
        if there != self.told.stuck_there {
            self.told.stuck_there = there;
            out.push(Effect::Note(Note::Stuck { here: false, stuck: there }));
        }
        if self.mirror.split && !self.told.split {
            out.push(Effect::Note(Note::SplitBrain));
        }
        let dual = self.hears_peer() && self.peer.is_some_and(|peer| peer.role == GroupRole::Owner);
        self.told.split = self.mirror.split || self.told.split && dual;
        let shown = self.node_state();
        if self.shown != Some(shown) {
            self.shown = Some(shown);
            self.talk.beat_now();
            let (state, reason) = shown;
            out.push(Effect::Note(Note::State { state, reason }));
        }
    }
}
