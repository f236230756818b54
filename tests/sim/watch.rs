//! The watchdog: a run that never ends, or takes all memory, inside a single event can't be failed from within. It is
//! named, and the whole test process ends, long before the machine is in trouble.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of memory of this process after which it ends.
const MEMORY_BYTES_MAX: u64 = 5 << 30;
/// Time after which a run that takes no further events is said to hang. A loaded machine takes seconds for some.
const HANG_MAX: Duration = Duration::from_secs(180);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// The status a test process ends with when it did not pass.
const FAILED: i32 = 101;

struct Run {
    name: String,
    steps: Arc<AtomicU64>,
    seen: u64,
    at: Instant,
}

static RUNS: Mutex<BTreeMap<u64, Run>> = Mutex::new(BTreeMap::new());
static NUMBERS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static STEPS: Arc<AtomicU64> = Arc::new(AtomicU64::new(0));
}

/// A run under way; watched until dropped.
pub struct Watched(u64);

/// Has this thread's next run watched, under this name.
pub fn begin(name: String) -> Watched {
    static WATCHDOG: Once = Once::new();
    WATCHDOG.call_once(|| drop(std::thread::spawn(watch)));
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let steps = STEPS.with(Arc::clone);
    let run = Run { name, seen: steps.load(Ordering::Relaxed), steps, at: Instant::now() };
    RUNS.lock().unwrap_or_else(PoisonError::into_inner).insert(number, run);
    Watched(number)
}

impl Drop for Watched {
    fn drop(&mut self) {
        RUNS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// This thread's run has taken some more events.
pub fn progress() {
    STEPS.with(|steps| steps.fetch_add(1, Ordering::Relaxed));
}

fn watch() {
    loop {
        std::thread::sleep(LOOK);
        let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = memory_bytes();
        let mut hung = None;
        for run in runs.values_mut() {
            let steps = run.steps.load(Ordering::Relaxed);
            if steps != run.seen {
                (run.seen, run.at) = (steps, Instant::now());
            } else if run.at.elapsed() > HANG_MAX {
                hung = Some(run.name.clone());
            }
        }
        if memory > MEMORY_BYTES_MAX || hung.is_some() {
            let names: Vec<&str> = runs.values().map(|run| run.name.as_str()).collect();
            let what = match hung {
                Some(name) => format!("{name} takes no further events for {HANG_MAX:?}"),
                None => format!("{} MiB of memory are in use", memory >> 20),
            };
            // Straight to the descriptor: what a test prints is kept back until it ends.
            let _ = writeln!(std::io::stderr(), "FAILED: the simulator is ended, {what}; under way: {names:#?}");
            std::process::exit(FAILED);
        }
    }
}

/// Memory this process has, as the kernel counts it; zero where that is not told.
fn memory_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = pages.and_then(|text| text.split(' ').nth(1).and_then(|field| field.parse::<u64>().ok()));
    resident.unwrap_or(0) * PAGE_BYTES
}
