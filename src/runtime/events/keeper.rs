//! The thread that numbers events, keeps them, and has them announced.

use super::hook::{self, Announcement};
use super::{Event, EventsSpec, Message, New, Severity, Shared, kind};
use crate::base::limits::{EVENTS_KEPT_MAX, HOOKS_WAITING_MAX, JOURNAL_BYTES_MAX};
use crate::base::time::utc;
use crate::io::clock::calendar;
use crate::io::journal::Journal;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet};

/// Starts the thread; what an earlier life of the daemon left is there when it returns.
pub fn start(spec: EventsSpec, shared: Arc<Shared>, receiver: mpsc::Receiver<Message>) -> Result<(), String> {
    let words = |error: std::io::Error| format!("the kernel refuses what the events need: {error}");
    let (journal, kept) = load(&spec.state_dir.join("events"))?;
    let unfinished = unfinished(&kept);
    *shared.ring.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    let number = shared.ring.lock().unwrap_or_else(PoisonError::into_inner).back().map_or(0, |last| last.number);
    shared.newest.send_replace(number);
    let mut keeper = Keeper {
        spec,
        shared,
        journal: Some(journal),
        writing: None,
        unwritten: Vec::new(),
        failing: false,
        fresh: false,
        number,
    };
    for new in unfinished {
        keeper.take(new, calendar());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(words)?;
    let thread = std::thread::Builder::new().name("events".into());
    thread.spawn(move || LocalSet::new().block_on(&runtime, keeper.run(receiver))).map_err(words)?;
    Ok(())
}

struct Keeper {
    spec: EventsSpec,
    shared: Arc<Shared>,
    /// With the write while one is under way.
    journal: Option<Journal>,
    /// The write under way.
    writing: Option<JoinHandle<Written>>,
    /// Lines that are not durable yet.
    unwritten: Vec<Vec<u8>>,
    /// The last write failed, and that was said.
    failing: bool,
    /// Something happened since the last write began.
    fresh: bool,
    number: u64,
}

/// Reads what earlier lives of the daemon kept. What can't be read is left out, and said.
fn load(path: &Path) -> Result<(Journal, VecDeque<Event>), String> {
    let (journal, lines) = Journal::open(path, JOURNAL_BYTES_MAX).map_err(|error| {
        format!("{} can't be opened: {error}; correct its permissions, or make room", path.display())
    })?;
    let count = lines.len();
    let mut events: VecDeque<Event> = lines.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect();
    if events.len() < count {
        let left_out = count - events.len();
        tracing::warn!("{}: {left_out} lines are no events and were left out", path.display());
    }
    events.drain(..events.len().saturating_sub(EVENTS_KEPT_MAX));
    Ok((journal, events))
}

/// Changes of role that began and never ended: the daemon was cut off on the way.
fn unfinished(events: &VecDeque<Event>) -> Vec<New> {
    let mut open: HashMap<&str, &Event> = HashMap::new();
    for event in events {
        let Some(group) = event.group.as_deref() else { continue };
        match event.kind.as_str() {
            kind::BEGAN => drop(open.insert(group, event)),
            kind::ENDED => drop(open.remove(group)),
            _ => {}
        }
    }
    let mut open: Vec<&Event> = open.into_values().collect();
    open.sort_by_key(|event| event.number);
    open.into_iter().map(cut_off).collect()
}

fn cut_off(began: &Event) -> New {
    let mut detail = began.detail.clone();
    if let Value::Object(fields) = &mut detail {
        fields.extend([("done".into(), json!(false)), ("stages".into(), json!([])), ("cut_off".into(), json!(true))]);
    }
    let words = format!("the daemon ended in the middle of what began at {}: {}", began.time, began.words);
    New { group: began.group.clone(), kind: kind::ENDED.into(), severity: Severity::Error, words, detail }
}

impl Keeper {
    async fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        let (hooks, waiting) = mpsc::channel(HOOKS_WAITING_MAX);
        let (failures, mut failed) = mpsc::channel(HOOKS_WAITING_MAX);
        tokio::task::spawn_local(hook::run_in_turn(waiting, failures));
        for event in self.announced_at_start() {
            self.announce(&hooks, &event);
        }
        let mut flushes = Vec::new();
        loop {
            self.begin_writing();
            if self.writing.is_none() {
                flushes.drain(..).for_each(|flush| self.end_flush(&hooks, flush));
            }
            let mut fresh = Vec::new();
            tokio::select! {
                message = receiver.recv() => match message {
                    Some(message) => self.sort(message, &mut fresh, &mut flushes),
                    None => return,
                },
                Some(new) = failed.recv() => fresh.push((new, calendar())),
                written = written(&mut self.writing) => self.end_writing(written),
            }
            while let Ok(message) = receiver.try_recv() {
                self.sort(message, &mut fresh, &mut flushes);
            }
            let lost = self.shared.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let words = format!("{lost} events were lost: more happened than could be kept");
                fresh.push((New::of_daemon(Severity::Error, words), calendar()));
            }
            for (new, at) in fresh {
                let event = self.take(new, at);
                self.announce(&hooks, &event);
            }
        }
    }

    fn sort(&mut self, message: Message, fresh: &mut Vec<(New, u64)>, flushes: &mut Vec<oneshot::Sender<()>>) {
        match message {
            Message::Record { new, at } => fresh.push((new, at)),
            Message::Flush(done) => flushes.push(done),
            Message::Reconfigure(hooks) => self.spec.hooks = hooks,
        }
    }

    /// Answers when the hooks that wait now have run.
    fn end_flush(&self, hooks: &mpsc::Sender<Announcement>, done: oneshot::Sender<()>) {
        let last = Announcement { hook: None, environment: Vec::new(), group: None, done: Some(done) };
        // With the queue full, whoever waits for the flush stops waiting at once.
        drop(hooks.try_send(last));
    }

    /// Numbers an event, and shows it from here on.
    fn take(&mut self, new: New, at: u64) -> Event {
        self.number += 1;
        self.fresh = true;
        let New { group, kind, severity, words, detail } = new;
        let event = Event {
            number: self.number,
            time: utc(at),
            node: self.spec.node.clone(),
            group,
            kind,
            severity,
            words,
            detail,
        };
        self.unwritten.push(serde_json::to_vec(&event).expect("an event has no type that JSON can't hold"));
        let mut ring = self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= EVENTS_KEPT_MAX {
            ring.pop_front();
        }
        ring.push_back(event.clone());
        drop(ring);
        self.shared.newest.send_replace(self.number);
        event
    }

    /// What was recorded before the hooks could run.
    fn announced_at_start(&self) -> Vec<Event> {
        let ring = self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().take(self.unwritten.len()).rev().cloned().collect()
    }

    fn announce(&self, hooks: &mpsc::Sender<Announcement>, event: &Event) {
        if !kind::is_announced(&event.kind) {
            return;
        }
        let own = event.group.as_ref().and_then(|group| self.spec.hooks.groups.get(group));
        let Some(hook) = own.or(self.spec.hooks.all.as_ref()) else { return };
        let environment = hook::environment(&self.spec.cluster, event);
        let announcement =
            Announcement { hook: Some(hook.clone()), environment, group: event.group.clone(), done: None };
        if hooks.try_send(announcement).is_err() {
            tracing::error!("the hook is not told of event {}: {HOOKS_WAITING_MAX} of them wait for it", event.number);
        }
    }

    /// Begins to make durable what is not, on another thread: the disk may be slow. What could not be written is tried again
    /// with the next event, and the oldest of it forgotten when it is too much.
    fn begin_writing(&mut self) {
        let again = !self.failing || self.fresh;
        if self.unwritten.is_empty() || !again {
            return;
        }
        let Some(mut journal) = self.journal.take() else { return };
        self.fresh = false;
        let lines = std::mem::take(&mut self.unwritten);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let result = journal.append(&lines);
            (journal, lines, result)
        }));
    }

    fn end_writing(&mut self, (journal, mut lines, result): Written) {
        self.journal = Some(journal);
        match result {
            Ok(()) => self.failing = false,
            Err(error) => {
                lines.append(&mut self.unwritten);
                lines.drain(..lines.len().saturating_sub(EVENTS_KEPT_MAX));
                self.unwritten = lines;
                if !std::mem::replace(&mut self.failing, true) {
                    let place = self.spec.state_dir.display();
                    tracing::error!("events can't be kept in {place}: {error}; make room, or correct its permissions");
                }
            }
        }
    }
}

/// A journal after a write, the lines that were to be written, and whether they were.
type Written = (Journal, Vec<Vec<u8>>, std::io::Result<()>);

/// The end of the write under way; never, while there is none.
async fn written(writing: &mut Option<JoinHandle<Written>>) -> Written {
    let Some(handle) = writing else { return std::future::pending().await };
    let written = handle.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    *writing = None;
    written
}

#[cfg(test)]
mod tests {
    use super::super::{Events, EventsSpec, Hooks};
    use super::*;
    use std::time::Duration;

    fn start(folder: &Path) -> Events {
        let spec = EventsSpec {
            node: "alpha".into(),
            cluster: "lab".into(),
            state_dir: folder.into(),
            hooks: Hooks::default(),
        };
        Events::start(spec).unwrap()
    }

    fn new(group: &str, kind: &str, words: &str) -> New {
        let detail = json!({ "change": "to-owner", "reason": "peer-down" });
        New { group: Some(group.into()), kind: kind.into(), severity: Severity::Info, words: words.into(), detail }
    }

    fn words(events: &Events, group: Option<&str>) -> Vec<String> {
        events.show(group, None, 100).events.into_iter().map(|event| event.words).collect()
    }

    async fn flush(events: &Events) {
        events.flush(Duration::from_secs(30)).await;
    }

    #[tokio::test]
    async fn events_are_kept_in_order_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let events = start(folder.path());
        events.record(new("db", "path", "one"));
        events.record(new("web", "path", "two"));
        events.wait(1, Duration::from_secs(30)).await;
        assert_eq!(words(&events, None), ["one", "two"]);
        flush(&events).await;
        let events = start(folder.path());
        assert_eq!(words(&events, Some("web")), ["two"]);
        events.record(new("db", "path", "three"));
        flush(&events).await;
        let shown = events.show(None, Some(1), 1);
        assert_eq!((shown.events[0].words.as_str(), shown.after), ("two", 2), "as much as was asked for");
        let shown = events.show(Some("db"), Some(2), 100);
        assert_eq!((shown.events[0].number, shown.after), (3, 3));
        assert_eq!(events.show(Some("web"), Some(2), 100).after, 3, "others' events are not looked at again");
    }

    #[tokio::test]
    async fn a_change_that_was_cut_off_is_ended_by_the_next_life() {
        let folder = tempfile::tempdir().unwrap();
        let events = start(folder.path());
        events.record(new("web", kind::BEGAN, "taking the group over begins"));
        events.record(new("web", kind::ENDED, "taking the group over is done"));
        events.record(new("db", kind::BEGAN, "taking the group over begins"));
        flush(&events).await;
        for _ in 0..2 {
            let events = start(folder.path());
            flush(&events).await;
            let shown = events.show(None, None, 100).events;
            assert_eq!(shown.len(), 4, "once: {shown:?}");
            let last = &shown[3];
            assert_eq!((last.group.as_deref(), last.kind.as_str()), (Some("db"), kind::ENDED));
            assert_eq!((&last.detail["done"], &last.detail["change"]), (&json!(false), &json!("to-owner")));
            assert!(last.words.contains("ended in the middle"), "{}", last.words);
        }
    }

    #[tokio::test]
    async fn lines_that_are_no_events_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let events = start(folder.path());
        events.record(new("db", "path", "one"));
        flush(&events).await;
        let path = folder.path().join("events");
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"{\"number\":\"x\"}\n\xff\xfe\n{\"nu");
        std::fs::write(&path, text).unwrap();
        assert_eq!(words(&start(folder.path()), None), ["one"]);
    }
}
