//! The one clock of every core on this node: a group's permit is given by one thread and obeyed by another.

use crate::base::time::Moment;
use nix::time::{ClockId, clock_gettime};
use std::time::{SystemTime, UNIX_EPOCH};

/// The time since boot, suspended time included: a node that slept is late, and has to know.
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux since 2.6.39 has this clock");
    Moment(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// The calendar's time in milliseconds since 1970, for people only: it may jump, and nothing is decided by it.
pub fn calendar() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
