//! Is the peer there? Evidence from every path, and what it amounts to.
//!
//! | level | when |
//! |---|---|
//! | `unheard` | since the start nothing was heard, and the time for starting has not passed |
//! | `alive` | something was heard a moment ago |
//! | `suspect` | every path and the link are silent for `suspect_after` |
//! | `lost` | silent for `dead_after`; or its host refuses connections; or it said goodbye |
//!
//! The node's own absence (stopped, paused, starved) is not the peer's silence: after a gap between two looks at the clock,
//! silence is counted anew.

use super::interface::{Note, Settings};
use super::reconfigure::Pace;
use crate::base::heartbeat::{Heard, Heartbeat};
use crate::base::ids::Incarnation;
use crate::base::limits::{HEARTBEAT_MISSES, HEARTBEAT_PATHS_MAX, HEARTBEATS_TO_INSIST, INCARNATIONS_REMEMBERED};
use crate::base::time::Moment;
use serde::Serialize;
use std::time::Duration;

/// What the evidence amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Never heard, still hoped for.
    Unheard,
    /// There.
    Alive,
    /// Silent; may come back.
    Suspect,
    /// Not there.
    Lost,
}

/// What is known of one path.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    /// When the last fresh heartbeat came, and its sequence.
    heard: Option<(Moment, u64)>,
    up: bool,
    /// Since when it is up, or down; the start of this node before anything changed.
    since: Moment,
    /// Since when the peer says it does not hear us here.
    deaf_since: Option<Moment>,
    one_way: bool,
}

/// Evidence about the peer.
#[derive(Clone, Debug)]
pub struct Detector {
    interval: Duration,
    suspect_after: Duration,
    dead_after: Duration,
    init_dead_after: Duration,
    paths: Vec<Path>,
    link_heard: Option<Moment>,
    /// Silence counts from here: the start, or the end of this node's own absence.
    awake: Moment,
    began: Moment,
    last_look: Moment,
    /// The life of the peer that is heard, and since when it is the last one heard.
    life: Option<Incarnation>,
    life_heard: Moment,
    /// Another life that spoke since: its last sequence, and how often.
    rival: Option<(Incarnation, u64, u32)>,
    /// Lives that ended: their heartbeats are old news.
    ended: Vec<Incarnation>,
    newest: u64,
    /// When the peer's host refused connections, or the peer said goodbye.
    refused: Option<Moment>,
    gone: bool,
    level: Level,
}

/// One path, for status.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PathView {
    /// Heard within the last few heartbeats.
    pub up: bool,
    /// How long it is up, or down.
    pub since: Duration,
    /// How long it is silent; `None`: never heard.
    pub silent: Option<Duration>,
    /// The peer does not hear us here.
    pub one_way: bool,
}

impl Detector {
    /// Nothing heard yet.
    pub fn new(settings: &Settings, now: Moment) -> Detector {
        Detector {
            interval: settings.heartbeat_interval,
            suspect_after: settings.suspect_after,
            dead_after: settings.dead_after,
            init_dead_after: settings.init_dead_after,
            paths: vec![Path { since: now, ..Path::default() }; settings.paths.len().min(HEARTBEAT_PATHS_MAX)],
            link_heard: None,
            awake: now,
            began: now,
            last_look: now,
            life: None,
            life_heard: now,
            rival: None,
            ended: Vec::new(),
            newest: 0,
            refused: None,
            gone: false,
            level: Level::Unheard,
        }
    }

    /// Goes by other times from here on.
    pub fn set_pace(&mut self, pace: &Pace) {
        self.interval = pace.interval;
        self.suspect_after = pace.suspect_after;
        self.dead_after = pace.dead_after;
        self.init_dead_after = pace.init_dead_after;
    }

    /// Takes a heartbeat; says whether it is news at all, that is, newer than every other one heard on any path.
    /// One that is older than what this path has brought, or of a life that ended, is no sign of life either.
    pub fn heard(&mut self, now: Moment, index: usize, heartbeat: &Heartbeat) -> bool {
        if index >= self.paths.len() || !self.is_of_this_life(now, heartbeat) {
            return false;
        }
        let misses = self.misses();
        let path = &mut self.paths[index];
        if path.heard.is_some_and(|(_, sequence)| sequence >= heartbeat.sequence) {
            return false;
        }
        path.heard = Some((now, heartbeat.sequence));
        self.life_heard = now;
        let hears_us = heartbeat.heard[index].is_some_and(|heard| heard.age < misses);
        path.deaf_since = if hears_us { None } else { path.deaf_since.or(Some(now)) };
        self.refused = None;
        self.gone = heartbeat.role == crate::base::group::GroupRole::Gone;
        let news = heartbeat.sequence > self.newest;
        self.newest = self.newest.max(heartbeat.sequence);
        news
    }

    /// A late heartbeat of a life that ended must not silence the one that lives: another life is believed at once only when
    /// this one has been silent for a while, and otherwise, or when it was thought to have ended, when it insists.
    fn is_of_this_life(&mut self, now: Moment, heartbeat: &Heartbeat) -> bool {
        let (other, sequence) = (heartbeat.incarnation, heartbeat.sequence);
        if self.life == Some(other) {
            self.rival = None;
            return true;
        }
        let count = match self.rival {
            Some((life, last, count)) if life == other && sequence > last => count + 1,
            Some((life, ..)) if life == other => return false,
            _ => 1,
        };
        let silent = self.life.is_none() || now.since(self.life_heard) >= self.interval * 2;
        let known = self.ended.contains(&other);
        if silent && !known || count >= HEARTBEATS_TO_INSIST {
            self.ended.retain(|life| *life != other);
            self.rival = None;
            self.life_heard = now;
            self.begin_life(other);
            return true;
        }
        self.rival = Some((other, sequence, count));
        false
    }

    fn begin_life(&mut self, life: Incarnation) {
        if let Some(old) = self.life.replace(life) {
            self.ended.insert(0, old);
            self.ended.truncate(INCARNATIONS_REMEMBERED);
        }
        self.newest = 0;
        for path in &mut self.paths {
            path.heard = path.heard.map(|(at, _)| (at, 0));
        }
    }

    /// The link carried something.
    pub fn link_heard(&mut self, now: Moment) {
        self.link_heard = Some(now);
        self.refused = None;
    }

    /// The peer's host refuses connections. While starting it proves nothing: the peer may start as well.
    pub fn refused(&mut self, now: Moment) {
        if self.last_heard().is_some() {
            self.refused = Some(now);
        }
    }

    /// Looks at the clock; what changed is told.
    pub fn look(&mut self, now: Moment, notes: &mut Vec<Note>) {
        if now.since(self.last_look) > self.suspect_after {
            self.awake = now;
        }
        self.last_look = now;
        let misses = self.misses();
        for (index, path) in self.paths.iter_mut().enumerate() {
            let up = path.heard.is_some_and(|(at, _)| now.since(at) < misses);
            if up != path.up {
                (path.up, path.since) = (up, now);
                notes.push(Note::Path { path: index, up });
            }
            // It takes the peer some heartbeats to say so, and some to mean it.
            let one_way = up && path.deaf_since.is_some_and(|since| now.since(since) >= misses);
            if one_way != path.one_way {
                path.one_way = one_way;
                notes.push(Note::OneWay { path: index, one_way });
            }
        }
        let (level, evidence) = self.judge(now);
        if level != self.level {
            self.level = level;
            notes.push(Note::Peer { level, evidence });
        }
    }

    fn judge(&self, now: Moment) -> (Level, &'static str) {
        let Some(last) = self.last_heard() else {
            let waited = now.since(self.began) >= self.init_dead_after;
            return if waited { (Level::Lost, "never-heard") } else { (Level::Unheard, "starting") };
        };
        let silence = now.since(last.max(self.awake));
        match () {
            () if self.gone => (Level::Lost, "goodbye"),
            () if self.refused.is_some() => (Level::Lost, "refused"),
            () if silence >= self.dead_after => (Level::Lost, "silent"),
            () if silence >= self.suspect_after => (Level::Suspect, "silent"),
            () => (Level::Alive, "heard"),
        }
    }

    /// When the peer was last heard, on any path or the link.
    pub fn last_heard(&self) -> Option<Moment> {
        self.paths.iter().filter_map(|path| path.heard.map(|(at, _)| at)).chain(self.link_heard).max()
    }

    /// Since when nothing is heard, this node's own absence aside.
    pub fn silent_since(&self) -> Option<Moment> {
        self.last_heard().map(|last| last.max(self.awake))
    }

    /// What the evidence amounted to at the last look.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The life of the peer that is heard.
    pub fn life(&self) -> Option<Incarnation> {
        self.life
    }

    /// The next moment at which a look may tell something new, if nothing is heard.
    pub fn deadline(&self, now: Moment) -> Option<Moment> {
        let mut moments: Vec<Moment> = Vec::new();
        match self.last_heard() {
            None => moments.push(self.began + self.init_dead_after),
            Some(last) => {
                let from = last.max(self.awake);
                moments.extend([from + self.suspect_after, from + self.dead_after]);
            }
        }
        let misses = self.misses();
        for path in &self.paths {
            moments.extend(path.heard.map(|(at, _)| at + misses));
            moments.extend(path.deaf_since.map(|since| since + misses));
        }
        moments.into_iter().filter(|at| *at > now).min()
    }

    /// For the heartbeats: what was heard where.
    pub fn heard_vector(&self, now: Moment) -> [Option<Heard>; HEARTBEAT_PATHS_MAX] {
        let mut vector = [None; HEARTBEAT_PATHS_MAX];
        for (entry, path) in vector.iter_mut().zip(&self.paths) {
            *entry = path.heard.map(|(at, sequence)| Heard { sequence, age: now.since(at) });
        }
        vector
    }

    /// How long the replication link carried nothing; `None`: nothing since the start.
    pub fn link_silent(&self, now: Moment) -> Option<Duration> {
        self.link_heard.map(|last| now.since(last))
    }

    /// How long only the link is silent: the peer is heard on a path, and this node was there to hear it.
    pub fn link_alone_silent(&self, now: Moment) -> Option<Duration> {
        let heard = self.paths.iter().any(|path| path.heard.is_some_and(|(at, _)| now.since(at) < self.misses()));
        self.link_heard.filter(|_| heard).map(|last| now.since(last.max(self.awake)))
    }

    /// Every path, for status.
    pub fn view(&self, now: Moment) -> Vec<PathView> {
        let view = |path: &Path| PathView {
            up: path.up,
            since: now.since(path.since),
            silent: path.heard.map(|(at, _)| now.since(at)),
            one_way: path.one_way,
        };
        self.paths.iter().map(view).collect()
    }

    fn misses(&self) -> Duration {
        self.interval * HEARTBEAT_MISSES
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{heartbeat, settings};
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment(millis * 1_000_000)
    }

    fn detector() -> Detector {
        Detector::new(&settings(0), at(0))
    }

    fn level_at(detector: &mut Detector, millis: u64) -> Level {
        // Looks often, as the runtime does, so that nothing counts as this node's own absence.
        let mut now = detector.last_look.0 / 1_000_000;
        while now < millis {
            now = (now + 100).min(millis);
            detector.look(at(now), &mut Vec::new());
        }
        detector.level()
    }

    #[test]
    fn silence_on_every_path_is_needed() {
        let mut detector = detector();
        assert!(detector.heard(at(10), 0, &heartbeat(1, 1)));
        assert!(!detector.heard(at(10), 1, &heartbeat(1, 1)), "the same news over the other path");
        assert_eq!(level_at(&mut detector, 400), Level::Alive);
        assert_eq!(level_at(&mut detector, 520), Level::Suspect);
        assert!(detector.heard(at(900), 1, &heartbeat(1, 2)));
        assert_eq!(level_at(&mut detector, 1100), Level::Alive);
        detector.link_heard(at(1800));
        assert_eq!(level_at(&mut detector, 2000), Level::Alive, "the link is a path");
        assert_eq!(level_at(&mut detector, 2790), Level::Suspect);
        assert_eq!(level_at(&mut detector, 2800), Level::Lost);
    }

    #[test]
    fn a_peer_never_heard_has_the_time_for_starting() {
        let mut detector = detector();
        detector.refused(at(5));
        assert_eq!(level_at(&mut detector, 119_999), Level::Unheard);
        assert_eq!(level_at(&mut detector, 120_000), Level::Lost);
    }

    #[test]
    fn fast_evidence_counts_until_the_peer_is_heard_again() {
        let mut detector = detector();
        detector.heard(at(10), 0, &heartbeat(1, 1));
        detector.refused(at(20));
        assert_eq!(level_at(&mut detector, 21), Level::Lost);
        detector.heard(at(30), 0, &heartbeat(1, 2));
        assert_eq!(level_at(&mut detector, 31), Level::Alive);
    }

    #[test]
    fn old_news_is_no_sign_of_life() {
        let mut detector = detector();
        detector.heard(at(10), 0, &heartbeat(1, 7));
        assert!(!detector.heard(at(900), 0, &heartbeat(1, 7)), "a copy");
        assert!(!detector.heard(at(900), 0, &heartbeat(1, 6)), "overtaken");
        assert!(detector.heard(at(950), 0, &heartbeat(2, 1)), "a new life");
        assert!(!detector.heard(at(1900), 0, &heartbeat(1, 8)), "a life that ended");
        assert_eq!(level_at(&mut detector, 1950), Level::Lost);
    }

    #[test]
    fn a_late_heartbeat_of_an_old_life_does_not_silence_the_new_one() {
        // This node has just started: it cannot know which of the two is the older.
        let mut detector = detector();
        assert!(detector.heard(at(10), 0, &heartbeat(2, 1)));
        assert!(!detector.heard(at(20), 0, &heartbeat(1, 900)));
        assert!(detector.heard(at(110), 0, &heartbeat(2, 2)));
        // The other way round: the old one first.
        let mut detector = self::detector();
        assert!(detector.heard(at(10), 0, &heartbeat(1, 900)));
        let heard = (1..20).find(|n| detector.heard(at(20 + n * 100), 0, &heartbeat(2, *n))).expect("it insists");
        assert!(heard <= u64::from(HEARTBEATS_TO_INSIST));
        // Even a life taken for ended comes back when it goes on.
        let back =
            (1..20).find(|n| detector.heard(at(5_000 + n * 100), 0, &heartbeat(1, 900 + n))).expect("it insists");
        assert_eq!(back, u64::from(HEARTBEATS_TO_INSIST));
    }

    #[test]
    fn own_absence_is_not_the_peers_silence() {
        let mut detector = detector();
        detector.heard(at(10), 0, &heartbeat(1, 1));
        level_at(&mut detector, 100);
        detector.look(at(60_000), &mut Vec::new());
        assert_eq!(detector.level(), Level::Alive, "heartbeats may lie in the socket");
        assert_eq!(level_at(&mut detector, 60_999), Level::Suspect);
        assert_eq!(level_at(&mut detector, 61_000), Level::Lost);
    }

    #[test]
    fn one_way_is_told_and_is_not_lost() {
        let mut detector = detector();
        let mut notes = Vec::new();
        for n in 0..20 {
            detector.heard(at(n * 100), 0, &heartbeat(1, n + 1));
            detector.look(at(n * 100), &mut notes);
        }
        assert!(notes.contains(&Note::OneWay { path: 0, one_way: true }));
        assert_eq!(detector.level(), Level::Alive);
        let mut hears = heartbeat(1, 50);
        hears.heard[0] = Some(Heard { sequence: 3, age: Duration::from_millis(40) });
        detector.heard(at(2000), 0, &hears);
        detector.look(at(2000), &mut notes);
        assert!(notes.contains(&Note::OneWay { path: 0, one_way: false }));
    }
}
