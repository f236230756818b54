//! What is known of each resource here: what it is, since when, why, and how often it was put right.
//!
//! Written by whoever does something to a resource or hears of it, read by `group status`. It decides nothing: what the
//! group does about a resource is the core's business.

use crate::base::group::{ResourceState, StepVerb};
use crate::runtime::resource::Trouble;

/// The resources of a group, by index.
#[derive(Debug)]
pub struct Book {
    entries: Vec<Entry>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub state: ResourceState,
    /// Since when, in milliseconds of the calendar.
    pub since: u64,
    /// What is wrong with it, or was when it failed last since its start.
    pub trouble: Option<Trouble>,
    /// What would keep it from being started here, as long as it is not.
    pub unfit: Option<Trouble>,
    /// Times it was restarted or repaired since its start.
    pub restarts: u32,
    /// The last of these.
    pub last_restart: Option<String>,
}

impl Book {
    /// So many resources, none of which was started; the skipped ones never will be.
    pub fn new(skipped: impl Iterator<Item = bool>, now: u64) -> Book {
        let state = |skipped| if skipped { ResourceState::Skipped } else { ResourceState::Stopped };
        let entry = |skipped| Entry {
            state: state(skipped),
            since: now,
            trouble: None,
            unfit: None,
            restarts: 0,
            last_restart: None,
        };
        Book { entries: skipped.map(entry).collect() }
    }

    /// Every resource, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A step begins.
    pub fn began(&mut self, index: usize, verb: StepVerb, now: u64) {
        match verb {
            StepVerb::Start => {
                let entry = &mut self.entries[index];
                (entry.trouble, entry.unfit, entry.restarts, entry.last_restart) = (None, None, 0, None);
                self.become_state(index, ResourceState::Starting, now);
            }
            // A clean-up of what was never started is no news.
            StepVerb::Stop if self.entries[index].state == ResourceState::Stopped => {}
            StepVerb::Stop => self.become_state(index, ResourceState::Stopping, now),
        }
    }

    /// A step has ended.
    pub fn ended(&mut self, index: usize, verb: StepVerb, result: Result<(), Trouble>, now: u64) {
        let state = match (verb, &result) {
            (StepVerb::Start, Ok(())) => ResourceState::Running,
            (StepVerb::Start, Err(_)) => ResourceState::Failed,
            (StepVerb::Stop, Ok(())) => ResourceState::Stopped,
            (StepVerb::Stop, Err(_)) => ResourceState::Unknown,
        };
        // After a failed start the stop that undoes it says nothing about why it failed.
        if let Err(trouble) = result {
            self.entries[index].trouble = Some(trouble);
        }
        self.become_state(index, state, now);
    }

    /// A look at a started resource, or the resource itself, tells what is wrong with it, or that it is well again.
    pub fn found(&mut self, index: usize, trouble: Option<&Trouble>, now: u64) {
        let watched = matches!(self.entries[index].state, ResourceState::Running | ResourceState::Failed);
        if !watched {
            return;
        }
        let state = if trouble.is_some() { ResourceState::Failed } else { ResourceState::Running };
        self.entries[index].trouble = trouble.cloned();
        self.become_state(index, state, now);
    }

    /// A look at what is not started tells what would keep it from that, or that nothing would.
    pub fn checked(&mut self, index: usize, trouble: Option<&Trouble>) {
        self.entries[index].unfit = trouble.cloned();
    }

    /// It was restarted or repaired.
    pub fn repaired(&mut self, index: usize, words: String) {
        let entry = &mut self.entries[index];
        entry.restarts += 1;
        entry.last_restart = Some(words);
    }

    /// The gate has closed on it, or opened again.
    pub fn suspended(&mut self, index: usize, suspended: bool, now: u64) {
        let state = if suspended { ResourceState::Suspended } else { ResourceState::Running };
        self.become_state(index, state, now);
    }

    fn become_state(&mut self, index: usize, state: ResourceState, now: u64) {
        let entry = &mut self.entries[index];
        if entry.state != state && entry.state != ResourceState::Skipped {
            (entry.state, entry.since) = (state, now);
        }
    }
}

impl Entry {
    /// Why it is so, and what to do about it.
    pub fn advice(&self) -> (String, String) {
        let (meaning, next) = self.state.advice();
        if let (Some(unfit), ResourceState::Stopped) = (&self.unfit, self.state) {
            return (format!("{meaning}, and could not be: {}", unfit.reason), unfit.next.clone());
        }
        match (&self.trouble, self.state) {
            (Some(trouble), ResourceState::Failed | ResourceState::Unknown | ResourceState::Stopping) => {
                (trouble.reason.clone(), trouble.next.clone())
            }
            (Some(trouble), ResourceState::Stopped) => {
                (format!("{meaning}; the last start failed: {}", trouble.reason), trouble.next.clone())
            }
            _ => (meaning.into(), next.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ResourceState as S;

    fn state(book: &Book) -> (ResourceState, u64) {
        (book.entries()[0].state, book.entries()[0].since)
    }

    #[test]
    fn a_resource_is_what_was_done_to_it_last() {
        let mut book = Book::new([false].into_iter(), 1);
        book.began(0, StepVerb::Stop, 2);
        book.ended(0, StepVerb::Stop, Ok(()), 3);
        assert_eq!(state(&book), (S::Stopped, 1), "a clean-up is no news");
        book.began(0, StepVerb::Start, 4);
        assert_eq!(state(&book), (S::Starting, 4));
        book.found(0, Some(&Trouble::transient("web", "too early", "wait")), 5);
        book.ended(0, StepVerb::Start, Ok(()), 6);
        assert_eq!(state(&book), (S::Running, 6));
        book.repaired(0, "it ended with status 1; restarted".into());
        let down = Trouble::transient("web", "does not answer", "mend it");
        book.found(0, Some(&down), 7);
        assert_eq!(state(&book), (S::Failed, 7));
        assert_eq!(book.entries()[0].advice(), ("does not answer".into(), "mend it".into()));
        book.found(0, None, 8);
        assert_eq!((state(&book), book.entries()[0].restarts), ((S::Running, 8), 1));
        assert_eq!(book.entries()[0].advice().1, "nothing");
        book.suspended(0, true, 9);
        book.found(0, None, 10);
        assert_eq!(state(&book), (S::Suspended, 9));
    }

    #[test]
    fn a_failure_is_told_until_the_next_start() {
        let mut book = Book::new([false].into_iter(), 1);
        book.began(0, StepVerb::Start, 2);
        book.ended(0, StepVerb::Start, Err(Trouble::config("web", "no such file", "install it")), 3);
        assert_eq!(state(&book), (S::Failed, 3));
        book.began(0, StepVerb::Stop, 4);
        book.ended(0, StepVerb::Stop, Ok(()), 5);
        let (reason, next) = book.entries()[0].advice();
        assert!(reason.contains("the last start failed: no such file"), "{reason}");
        assert_eq!(next, "install it");
        book.began(0, StepVerb::Start, 6);
        book.ended(0, StepVerb::Start, Ok(()), 7);
        book.began(0, StepVerb::Stop, 8);
        book.ended(0, StepVerb::Stop, Err(Trouble::transient("web", "it hangs", "kill it")), 9);
        assert_eq!((state(&book), book.entries()[0].advice().0), ((S::Unknown, 9), "it hangs".into()));
    }

    #[test]
    fn what_could_not_be_started_is_said_while_it_is_not() {
        let mut book = Book::new([false].into_iter(), 1);
        book.checked(0, Some(&Trouble::environment("web", "no such file", "install it")));
        assert_eq!(
            book.entries()[0].advice(),
            ("not started on this node, and could not be: no such file".into(), "install it".into())
        );
        book.checked(0, None);
        assert!(!book.entries()[0].advice().0.contains("could not"));
        book.checked(0, Some(&Trouble::environment("web", "no such file", "install it")));
        book.began(0, StepVerb::Start, 2);
        assert_eq!(book.entries()[0].advice().0, "being started");
    }

    #[test]
    fn what_is_left_out_stays_so() {
        let mut book = Book::new([true].into_iter(), 1);
        book.began(0, StepVerb::Start, 2);
        book.ended(0, StepVerb::Start, Ok(()), 3);
        assert_eq!(state(&book), (S::Skipped, 1));
    }
}
