//! How fast a resync may go: as fast as it can while clients are idle, and as fast as the clients' write latency bears
//! while they are not; never below a floor, so that it always gets on.

use super::interface::Settings;
use crate::base::limits::{
    RESYNC_CHUNK_BYTES_BUSY, RESYNC_CHUNK_BYTES_MAX, RESYNC_WINDOW_BYTES, RESYNC_WINDOW_BYTES_BUSY,
};
use crate::base::time::Moment;
use std::time::Duration;

/// Clients count as active for this long after a write.
const ACTIVE: Duration = Duration::from_millis(500);
/// Time between two adjustments of the rate.
const ADJUST: Duration = Duration::from_millis(100);
/// Rate begun with when clients are active, bytes per second.
const RATE_FIRST: f64 = 64e6;
/// No limit is needed above this rate, bytes per second.
const RATE_TOP: f64 = 64e9;
/// Most tokens saved up, as time at the current rate.
const BURST: Duration = Duration::from_millis(100);

/// Governs the rate of resync and verify.
#[derive(Debug)]
pub(super) struct Governor {
    floor: f64,
    cap: f64,
    allowance: f64,
    /// Mean client write latency while nothing is resynced, seconds.
    baseline: Option<f64>,
    /// Client writes since the last adjustment: their number and summed latency in seconds.
    writes: u32,
    latency: f64,
    last_write: Option<Moment>,
    rate: f64,
    tokens: f64,
    adjusted: Moment,
    now: Moment,
}

impl Governor {
    /// A governor with the volume's limits.
    pub(super) fn new(settings: &Settings) -> Governor {
        let cap = if settings.resync_rate_max == 0 { RATE_TOP } else { settings.resync_rate_max as f64 };
        Governor {
            floor: (settings.resync_rate_min as f64).clamp(1.0, cap),
            cap,
            allowance: settings.latency_allowance,
            baseline: None,
            writes: 0,
            latency: 0.0,
            last_write: None,
            rate: RATE_FIRST.min(cap),
            tokens: RESYNC_CHUNK_BYTES_MAX as f64,
            adjusted: Moment(0),
            now: Moment(0),
        }
    }

    /// Goes by other limits from here on; what was learnt of the disks and clients stays.
    pub(super) fn set_limits(&mut self, settings: &Settings) {
        let fresh = Governor::new(settings);
        (self.floor, self.cap, self.allowance) = (fresh.floor, fresh.cap, fresh.allowance);
        self.rate = self.rate.clamp(self.floor, self.cap);
    }

    /// A client's write was acknowledged after this time.
    pub(super) fn client_wrote(&mut self, latency: Duration) {
        self.writes += 1;
        self.latency += latency.as_secs_f64();
        self.last_write = Some(self.now);
    }

    fn clients_active(&self) -> bool {
        self.last_write.is_some_and(|last| self.now.since(last) < ACTIVE)
    }

    /// Bytes one chunk may have now.
    pub(super) fn chunk_bytes(&self) -> u64 {
        if self.clients_active() { RESYNC_CHUNK_BYTES_BUSY } else { RESYNC_CHUNK_BYTES_MAX }
    }

    /// Bytes that may be under way at once now.
    pub(super) fn window_bytes(&self) -> u64 {
        if self.clients_active() { RESYNC_WINDOW_BYTES_BUSY } else { RESYNC_WINDOW_BYTES }
    }

    /// Time passes; `copying` tells whether a resync or verify is at work.
    pub(super) fn advance(&mut self, now: Moment, copying: bool) {
        let passed = now.since(self.now).min(BURST).as_secs_f64();
        self.now = self.now.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.burst());
        if now.since(self.adjusted) < ADJUST {
            return;
        }
        self.adjusted = now;
        let mean = (self.writes > 0).then(|| self.latency / f64::from(self.writes));
        (self.writes, self.latency) = (0, 0.0);
        match (mean, copying) {
            (Some(mean), false) => {
                let before = self.baseline.unwrap_or(mean);
                self.baseline = Some(before * 0.8 + mean * 0.2);
            }
            (Some(mean), true) => {
                // Nothing known from before: begin at what is seen now, and let it only fall.
                let baseline = *self.baseline.get_or_insert(mean);
                if mean < baseline {
                    self.baseline = Some(baseline * 0.9 + mean * 0.1);
                }
                let factor = if mean > baseline * self.allowance { 0.7 } else { 1.2 };
                self.rate = (self.rate * factor).clamp(self.floor, self.cap);
            }
            (None, _) if !self.clients_active() => self.rate = self.cap,
            (None, _) => {}
        }
        if self.clients_active() && self.rate > RATE_FIRST * 16.0 {
            self.rate = RATE_FIRST.clamp(self.floor, self.cap);
        }
    }

    fn burst(&self) -> f64 {
        (self.rate * BURST.as_secs_f64()).max(RESYNC_CHUNK_BYTES_MAX as f64)
    }

    /// Whether another chunk may begin.
    pub(super) fn allows(&self) -> bool {
        self.tokens > 0.0
    }

    /// A chunk of this size begins.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.tokens -= bytes as f64;
    }

    /// When the next chunk may begin, if it may not now.
    pub(super) fn next(&self) -> Option<Moment> {
        (self.tokens <= 0.0).then(|| self.now + Duration::from_secs_f64((1.0 - self.tokens) / self.rate))
    }
}

/// Measures a rate: bytes per second, smoothed.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    since: Moment,
    bytes: u64,
    smooth: Option<f64>,
}

impl Meter {
    /// A meter that starts now.
    pub(super) fn new(now: Moment) -> Meter {
        Meter { since: now, bytes: 0, smooth: None }
    }

    /// So many bytes are through.
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Closes the current interval if it is long enough.
    pub(super) fn advance(&mut self, now: Moment) {
        let passed = now.since(self.since);
        if passed >= Duration::from_millis(200) {
            let rate = self.bytes as f64 / passed.as_secs_f64();
            self.smooth = Some(self.smooth.map_or(rate, |smooth| smooth * 0.6 + rate * 0.4));
            self.since = now;
            self.bytes = 0;
        }
    }

    /// Bytes per second.
    pub(super) fn rate(&self, now: Moment) -> u64 {
        let passed = now.since(self.since).as_secs_f64().max(0.001);
        self.smooth.unwrap_or(self.bytes as f64 / passed) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{NodeId, Uuid};

    fn settings() -> Settings {
        Settings { resync_rate_min: 1 << 20, ..Settings::usual(NodeId(0), Uuid(7)) }
    }

    fn run(governor: &mut Governor, milliseconds: u64, latency_us: u64, copying: bool) {
        for _ in 0..milliseconds / 10 {
            governor.advance(governor.now + Duration::from_millis(10), copying);
            governor.client_wrote(Duration::from_micros(latency_us));
        }
    }

    #[test]
    fn it_yields_to_latency_down_to_the_floor_and_comes_back() {
        let settings = settings();
        let mut governor = Governor::new(&settings);
        run(&mut governor, 1000, 100, false);
        run(&mut governor, 5000, 1000, true);
        assert_eq!(governor.rate, settings.resync_rate_min as f64);
        assert_eq!(governor.chunk_bytes(), RESYNC_CHUNK_BYTES_BUSY);
        assert_eq!(governor.window_bytes(), RESYNC_WINDOW_BYTES_BUSY);
        run(&mut governor, 3000, 100, true);
        assert!(governor.rate > settings.resync_rate_min as f64 * 10.0, "{}", governor.rate);
    }

    #[test]
    fn it_runs_free_while_nobody_writes() {
        let mut governor = Governor::new(&settings());
        for _ in 0..100 {
            governor.advance(governor.now + Duration::from_millis(10), true);
        }
        assert_eq!((governor.rate, governor.chunk_bytes()), (RATE_TOP, RESYNC_CHUNK_BYTES_MAX));
        assert_eq!(governor.window_bytes(), RESYNC_WINDOW_BYTES);
    }

    #[test]
    fn a_cap_holds() {
        let mut settings = settings();
        settings.resync_rate_max = 10_000_000;
        let mut governor = Governor::new(&settings);
        let mut sent = 0u64;
        for _ in 0..1000 {
            governor.advance(governor.now + Duration::from_millis(10), true);
            while governor.allows() {
                governor.spend(65536);
                sent += 65536;
            }
        }
        assert!((90_000_000..=112_000_000).contains(&sent), "{sent} bytes in ten seconds at 10 MB/s");
    }
}
