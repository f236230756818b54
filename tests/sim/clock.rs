//! A machine's clock: it runs a little fast or slow, began somewhere, and may stand still with a virtual machine.

use std::time::Duration;
use twinblock::base::time::Moment;

/// One clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// True time at which it showed `base`.
    since: Moment,
    base: Moment,
    /// Parts per thousand of true time.
    rate: u64,
    stands: bool,
}

impl Clock {
    /// A clock that shows true time.
    pub fn exact() -> Clock {
        Clock::new(Moment(0), 1000)
    }

    /// A clock that showed `base` at the beginning, and runs at this rate.
    pub fn new(base: Moment, rate: u64) -> Clock {
        Clock { since: Moment(0), base, rate, stands: false }
    }

    /// What it shows at this true time.
    pub fn shows(&self, now: Moment) -> Moment {
        if self.stands {
            return self.base;
        }
        Moment(self.base.0 + now.since(self.since).as_nanos() as u64 * self.rate / 1000)
    }

    /// True time at which it will show this moment; `None` while it stands.
    pub fn when(&self, moment: Moment) -> Option<Moment> {
        let ahead = moment.since(self.base).as_nanos() as u64;
        (!self.stands).then(|| self.since + Duration::from_nanos((ahead * 1000).div_ceil(self.rate)))
    }

    /// Stops it, or lets it go on from where it stands.
    pub fn hold(&mut self, now: Moment, stands: bool) {
        self.base = self.shows(now);
        self.since = now;
        self.stands = stands;
    }
}
