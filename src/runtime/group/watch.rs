//! Looks at resources again and again, and tells when one fails or is well again: whether what was started still runs, and
//! whether what was not could be started here at all, so that a server that is not fit is known before it is needed.

use crate::runtime::resource::{Context, Resource, Trouble, Verb, run};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// What a look has found: the resource, and what is wrong with it.
pub struct Found {
    /// Index of the resource.
    pub index: usize,
    /// `None`: well.
    pub trouble: Option<Trouble>,
    /// It is not started: the trouble is what would keep it from that.
    pub stopped: bool,
}

/// Watches one resource while it is started. Dropping it ends the watch.
pub struct Watch(JoinHandle<()>);

/// How often, and for how long at most.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Between two looks.
    pub interval: Duration,
    /// For one look.
    pub timeout: Duration,
}

impl Watch {
    /// Begins to watch. Only changes are told, so that a resource that stays well costs no one anything.
    pub fn begin(
        index: usize,
        resource: Rc<dyn Resource>,
        context: Context,
        rhythm: Rhythm,
        stopped: bool,
        found: mpsc::UnboundedSender<Found>,
    ) -> Watch {
        let verb = if stopped { Verb::Check } else { Verb::Monitor };
        Watch(tokio::task::spawn_local(async move {
            let mut last = None;
            loop {
                sleep(rhythm.interval).await;
                let looked = run(&*resource, verb, &context, Instant::now() + rhythm.timeout).await;
                let trouble = looked.err();
                if trouble != last {
                    last.clone_from(&trouble);
                    if found.send(Found { index, trouble, stopped }).is_err() {
                        return;
                    }
                }
            }
        }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}
