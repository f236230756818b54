//! The one clock of every core on this node: a group's permit is given by one thread and obeyed by another.

use crate::base::time::Moment;
use nix::time::{ClockId, clock_gettime};

/// The time since boot, suspended time included: a node that slept is late, and has to know.
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux since 2.6.39 has this clock");
    Moment(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
