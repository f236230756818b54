//! Every tunable setting in one table: name, kind, default, bounds, and what it does.
//!
//! The structs, the defaults, the parsing and the reference ([`super::reference`]) all come from the two tables below;
//! a new setting is one new entry.

use super::document::{Document, Section, Value};
use super::units;
use crate::base::state::{Mode, Overflow, SplitBrain};
use crate::io::ring::Choice;
use crate::runtime::device::FrontEnd;
use crate::runtime::shard::clients::ClientTimes;
use std::time::Duration;
use toml::de::DeValue;

/// One setting, for the reference.
pub struct Row {
    /// Key in the file.
    pub key: &'static str,
    /// What kind of value, with its unit.
    pub kind: &'static str,
    /// Value when the file has none, as it would be written.
    pub default: &'static str,
    /// Smallest and largest value allowed, as they would be written.
    pub bounds: Option<(&'static str, &'static str)>,
    /// What it does.
    pub doc: &'static str,
}

/// Kinds of values a setting may have.
pub trait Kind: Sized {
    /// For people: the kind and its unit.
    const WORDS: &'static str;
    /// Reads the value from its text; the error says what was expected.
    fn from_text(text: &str) -> Result<Self, String>;
    /// Place among the values of this kind, for bounds; all alike where there are none.
    fn rank(&self) -> f64 {
        0.0
    }
    /// The value as it would be written, the same for every way of writing it.
    fn show(&self) -> String;
    /// The text of a TOML value of a type that fits this kind.
    fn text(value: &DeValue<'_>) -> Option<String> {
        value.as_str().map(str::to_string)
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Bytes per second; 0 for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $kind:ty = $default:literal $(, $low:literal to $high:literal)?;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $kind, )+
        }

        impl $name {
            /// Every setting, for the reference.
            pub const ROWS: &'static [Row] = &[
                $( Row {
                    key: stringify!($field),
                    kind: <$kind as Kind>::WORDS,
                    default: $default,
                    bounds: settings!(@bounds $($low, $high)?),
                    doc: concat!($($doc),+),
                }, )+
            ];

            /// Every setting with its value, as it would be written.
            pub fn entries(&self) -> Vec<(&'static str, String)> {
                vec![$( (stringify!($field), Kind::show(&self.$field)), )+]
            }

            /// Takes from a section the settings that are written there; the others keep their defaults.
            pub fn read(section: &Section<'_, '_>) -> $name {
                let mut settings = $name::default();
                $( if let Some(value) = section.optional(stringify!($field)) {
                    let bounds = settings!(@bounds $($low, $high)?);
                    if let Some(value) = read_value::<$kind>(section, stringify!($field), value, bounds) {
                        settings.$field = value;
                    }
                } )+
                settings
            }
        }

        impl Default for $name {
            fn default() -> $name {
                $name {
                    $( $field: <$kind>::from_text($default).expect(concat!("default of ", stringify!($field))), )+
                }
            }
        }
    };
    (@bounds) => { None };
    (@bounds $low:literal, $high:literal) => { Some(($low, $high)) };
}

pub(super) use settings;

settings! {
    /// Settings of one volume, in its `[[volume]]` section.
    VolumeSettings {
        /// By what the volume is served where it is primary: `ublk` or `nbd-device` a block device of this kernel, at
        /// `device_dir`/NAME; `nbd-export` its `nbd` addresses; `none` nothing; `auto` its `nbd` addresses if it has any, else a
        /// block device: by ublk from Linux 6.16 on, else by the kernel's NBD client. With a block device the `nbd` addresses are served, too.
        front_end: FrontEnd = "auto";
        /// When a write is acknowledged: `sync` on both disks, `memory` on the local disk and in the peer's memory,
        /// `async` on the local disk and in a bounded send buffer.
        mode: Mode = "sync";
        /// What an asynchronous volume does when its send buffer is full: `block` lets writers wait,
        /// `shed` lets the peer fall behind and resyncs it later.
        overflow: Overflow = "block";
        /// Bytes an asynchronous volume may have sent but not yet written by the peer.
        async_bytes_max: Size = "256MiB", "1MiB" to "64GiB";
        /// Age the oldest unacknowledged write of an asynchronous volume may reach: what a crash can lose.
        async_age_max: Duration = "5s", "10ms" to "1h";
        /// Local writes wait until the peer has received theirs, which `exact_recovery` needs; costs latency.
        receipt_gating: bool = "false";
        /// After a crash of the primary, trust the survivor's memory instead of comparing the regions in use.
        /// Needs `receipt_gating` on both servers; off until it has been proven longer.
        exact_recovery: bool = "false";
        /// Longest wait for the peer to write one frame before the link is given up.
        remote_io_timeout: Duration = "10s", "100ms" to "10min";
        /// Longest silence of the peer before the link is given up.
        link_timeout: Duration = "5s", "1s" to "10min";
        /// Longest wait for the local disk before it is given up and the peer serves; 0 waits forever.
        disk_timeout: Duration = "30s", "0" to "1h";
        /// Longest time requests are held while neither disk can serve, before they fail.
        suspend_max: Duration = "25s", "0" to "1h";
        /// Time between two pings on a link. What a server knows of its peer when the peer is gone is as old as this, so
        /// it is short beside the fixed times below.
        ping_interval: Duration = "200ms", "100ms" to "500ms";
        /// Time between two flushes of both disks while something is not durable yet: bounds what a crash leaves to compare.
        flush_interval: Duration = "500ms", "100ms" to "1min";
        /// Time between two records of exactly what differs, while not in sync; in between, the coarse record holds.
        snapshot_interval: Duration = "30s", "1s" to "1h";
        /// Age at which an idle region, durable on both disks, leaves the write-intent map.
        intent_idle: Duration = "10min", "1s" to "1d";
        /// Time between two looks for regions that may leave the write-intent map.
        intent_sweep_interval: Duration = "10s", "1s" to "1h";
        /// Time after which a resync tries again to read what its source's disk could not read.
        unreadable_retry: Duration = "30s", "1s" to "1h";
        /// Resync never goes faster than this.
        resync_rate_max: Rate = "none";
        /// Resync never goes slower than this because of the application, so that it always gets on.
        resync_rate_min: Rate = "10MiB/s", "64KiB/s" to "100GiB/s";
        /// While a resync runs, the application's write latency may be this many times what it is without.
        latency_allowance: f64 = "1.25", "1" to "100";
        /// What happens by itself when both servers went on alone: `manual` nothing, `discard-zero-changes` the side that
        /// changed nothing is given up, `discard-least` also a secondary that changed less, `discard-younger` one that became
        /// primary later, `discard-older` one that did earlier, `prefer-arbiter-primary` one that the arbiter's record does
        /// not name. What is given up is archived, and never while its server serves. The same on both servers.
        split_brain: SplitBrain = "manual";
        /// What only one server has is kept in an archive before a resync overwrites it.
        archive: bool = "true";
        /// Largest file of one archive. A resync that would need more stops before it overwrites anything more.
        archive_limit: Size = "64GiB", "1MiB" to "16TiB";
        /// Longest time an NBD client may take to negotiate. One that has chosen the export may be silent for ever.
        nbd_handshake_timeout: Duration = "10s", "100ms" to "10min";
        /// Longest time an NBD client may leave its answers unread before its connection is cut.
        nbd_send_timeout: Duration = "1min", "1s" to "1h";
        /// The same while another client waits for a buffer, and then also the longest pause inside a write's data.
        nbd_stall_timeout: Duration = "5s", "100ms" to "1h";
        /// Silence after which the kernel asks whether a TCP client is still there, and time between two such questions;
        /// after about ten of them it is gone.
        nbd_keepalive: Duration = "30s", "1s" to "1h";
    }
}

settings! {
    /// Settings of the daemon as a whole, in the section `[daemon]`.
    DaemonSettings {
        /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,twinblock::runtime=debug`.
        /// `--log` goes before it.
        log: String = "info";
        /// How disks are read and written: `automatic` by io_uring where the kernel allows it, else by threads;
        /// `threads` always by threads.
        disk_engine: Choice = "automatic";
        /// Longest wait for a TCP connection to one address of the peer.
        connect_timeout: Duration = "2s", "50ms" to "1min";
        /// Longest time the peer may take to authenticate on a new connection.
        handshake_timeout: Duration = "5s", "100ms" to "1min";
        /// Connections that may be authenticating at a time; more are closed at once.
        handshakes_max: u32 = "32", "2" to "1024";
        /// Shortest wait before the peer is dialled again; doubles each time, with jitter.
        reconnect_min: Duration = "100ms", "10ms" to "1min";
        /// Longest wait before the peer is dialled again.
        reconnect_max: Duration = "2s", "10ms" to "10min";
        /// Shortest wait after the peer refused (wrong secret, other version and so on); doubles each time.
        refused_retry_min: Duration = "1s", "10ms" to "10min";
        /// Longest wait after the peer refused.
        refused_retry_max: Duration = "1min", "10ms" to "1h";
        /// Longest wait after the peer said that its operator disconnected the volume: `connect` there takes no longer.
        disconnected_retry_max: Duration = "2s", "10ms" to "10min";
        /// A link that was up this long was a good one: when it is lost, the waits are short again.
        steady_time: Duration = "10s", "0" to "1h";
        /// A peer that keeps a connection this long without a word counts as running, when this server looks whether it is.
        probe_patience: Duration = "300ms", "50ms" to "900ms";
        /// Longest time `run` takes to stop in order after SIGTERM before it ends without.
        stop_timeout: Duration = "20s", "1s" to "10min";
        /// A connection to the control socket that is silent this long is closed.
        control_idle_max: Duration = "1min", "1s" to "1h";
    }
}

/// Checks that need more than one setting.
impl DaemonSettings {
    /// Reports settings that contradict each other.
    pub fn check(&self, section: &Section<'_, '_>) {
        let pairs = [
            ("reconnect_min", self.reconnect_min, "reconnect_max", self.reconnect_max),
            ("refused_retry_min", self.refused_retry_min, "refused_retry_max", self.refused_retry_max),
        ];
        for (low_key, low, high_key, high) in pairs {
            if low > high {
                let reason = format!("it is longer than `{high_key}`");
                let next = format!("make it at most {}", units::show_time(high));
                section.document().problem(Some(section.span.clone()), &section.key(low_key), reason, next);
            }
        }
    }
}

/// Pings that must fit into the silence after which a link is given up.
pub const PINGS_PER_TIMEOUT: u32 = 4;

impl VolumeSettings {
    /// How long NBD clients are waited for.
    pub fn client_times(&self) -> ClientTimes {
        ClientTimes {
            handshake: self.nbd_handshake_timeout,
            send: self.nbd_send_timeout,
            stall: self.nbd_stall_timeout,
            keepalive: self.nbd_keepalive,
        }
    }

    /// Reports settings that contradict each other.
    pub fn check(&self, document: &Document<'_>, section: &Section<'_, '_>) {
        let problem = |key: &str, reason: String, next: &str| {
            document.problem(Some(section.span.clone()), &section.key(key), reason, next);
        };
        if self.exact_recovery && !self.receipt_gating {
            let reason = "it needs `receipt_gating = true`".to_string();
            problem("exact_recovery", reason, "turn the one on or the other off");
        }
        if self.link_timeout < self.ping_interval * PINGS_PER_TIMEOUT {
            let least = units::show_time(self.ping_interval * PINGS_PER_TIMEOUT);
            let reason =
                format!("it is less than {PINGS_PER_TIMEOUT} times `ping_interval`: a late ping would end the link");
            problem("link_timeout", reason, &format!("make it at least {least}, or shorten `ping_interval`"));
        }
        if self.nbd_stall_timeout > self.nbd_send_timeout {
            let reason = "it is longer than `nbd_send_timeout`".to_string();
            problem("nbd_stall_timeout", reason, "shorten it, or lengthen `nbd_send_timeout`");
        }
        if self.resync_rate_max.0 != 0 && self.resync_rate_min > self.resync_rate_max {
            let reason = "it is more than `resync_rate_max`".to_string();
            problem("resync_rate_min", reason, "lower it, or raise `resync_rate_max`");
        }
    }
}

pub(super) fn read_value<'d, K: Kind>(
    section: &Section<'_, 'd>,
    key: &str,
    value: Value<'d>,
    bounds: Option<(&str, &str)>,
) -> Option<K> {
    let problem = |reason: String, next: String| {
        section.document().problem(Some(value.span()), &section.key(key), reason, next);
        None
    };
    let Some(text) = K::text(value.get_ref()) else {
        section.wrong_type(key, value, K::WORDS);
        return None;
    };
    let read = match K::from_text(&text) {
        Ok(read) => read,
        Err(expected) => return problem(format!("\"{text}\" is not understood"), expected),
    };
    if let Some((low, high)) = bounds {
        let bound = |text| K::from_text(text).expect("bounds can be read").rank();
        if !(bound(low)..=bound(high)).contains(&read.rank()) {
            return problem(format!("{text} is out of bounds"), format!("choose from {low} to {high}"));
        }
    }
    Some(read)
}

impl Kind for Duration {
    const WORDS: &'static str = "time (ms, s, min, h, d)";
    fn from_text(text: &str) -> Result<Duration, String> {
        units::parse_time(text)
    }
    fn show(&self) -> String {
        units::write_time(*self)
    }
    fn rank(&self) -> f64 {
        self.as_secs_f64()
    }
    fn text(value: &DeValue<'_>) -> Option<String> {
        // A bare 0 is the one number that needs no unit.
        let zero = value.as_integer().is_some_and(|number| number.as_str() == "0");
        if zero { Some("0".into()) } else { value.as_str().map(str::to_string) }
    }
}

impl Kind for Size {
    const WORDS: &'static str = "size (bytes, KiB, MiB, GiB, TiB)";
    fn from_text(text: &str) -> Result<Size, String> {
        units::parse_size(text).map(Size)
    }
    fn show(&self) -> String {
        units::write_size(self.0)
    }
    fn rank(&self) -> f64 {
        self.0 as f64
    }
    fn text(value: &DeValue<'_>) -> Option<String> {
        text_or_number(value)
    }
}

impl Kind for Rate {
    const WORDS: &'static str = "rate (bytes/s, KiB/s, MiB/s, GiB/s), or none";
    fn from_text(text: &str) -> Result<Rate, String> {
        units::parse_rate(text).map(Rate)
    }
    fn show(&self) -> String {
        if self.0 == 0 { "none".into() } else { format!("{}/s", units::write_size(self.0)) }
    }
    fn rank(&self) -> f64 {
        self.0 as f64
    }
    fn text(value: &DeValue<'_>) -> Option<String> {
        text_or_number(value)
    }
}

/// A program to run with its arguments; empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine(pub Vec<String>);

impl Kind for CommandLine {
    const WORDS: &'static str = "list: a program's absolute path and its arguments; or none";
    fn from_text(text: &str) -> Result<CommandLine, String> {
        let words: Vec<String> = text.split('\0').map(str::to_string).collect();
        match words[0].as_str() {
            "none" if words.len() == 1 => Ok(CommandLine(Vec::new())),
            path if path.starts_with('/') => Ok(CommandLine(words)),
            _ => Err("expected none, or a list that begins with a program's absolute path".into()),
        }
    }
    fn show(&self) -> String {
        if self.0.is_empty() { "none".into() } else { format!("{:?}", self.0) }
    }
    /// The words with zero bytes between them, which no argument of a program can hold.
    fn text(value: &DeValue<'_>) -> Option<String> {
        let words = match value.as_array() {
            Some(items) => items.iter().map(|item| item.get_ref().as_str()).collect::<Option<Vec<_>>>()?,
            None => vec![value.as_str()?],
        };
        words.iter().all(|word| !word.contains('\0')).then(|| words.join("\0"))
    }
}

impl Kind for u32 {
    const WORDS: &'static str = "number";
    fn from_text(text: &str) -> Result<u32, String> {
        text.parse().map_err(|_| "expected a whole number".to_string())
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn rank(&self) -> f64 {
        f64::from(*self)
    }
    fn text(value: &DeValue<'_>) -> Option<String> {
        value.as_integer().map(|number| number.as_str().replace('_', ""))
    }
}

impl Kind for f64 {
    const WORDS: &'static str = "number";
    fn from_text(text: &str) -> Result<f64, String> {
        text.parse().map_err(|_| "expected a number such as 1.25".to_string())
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn rank(&self) -> f64 {
        *self
    }
    fn text(value: &DeValue<'_>) -> Option<String> {
        let number = value.as_float().map(|number| number.as_str());
        number.or_else(|| value.as_integer().map(|number| number.as_str())).map(|text| text.replace('_', ""))
    }
}

impl Kind for bool {
    const WORDS: &'static str = "true or false";
    fn from_text(text: &str) -> Result<bool, String> {
        text.parse().map_err(|_| "expected true or false".to_string())
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn text(value: &DeValue<'_>) -> Option<String> {
        value.as_bool().map(|value| value.to_string())
    }
}

impl Kind for String {
    const WORDS: &'static str = "text";
    fn from_text(text: &str) -> Result<String, String> {
        Ok(text.to_string())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

/// Words of a closed list.
macro_rules! word_kind {
    ($name:ident, $words:literal, $($word:literal => $value:expr),+) => {
        impl Kind for $name {
            const WORDS: &'static str = $words;
            fn from_text(text: &str) -> Result<$name, String> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err(concat!("expected one of ", $words).to_string()),
                }
            }
            fn show(&self) -> String {
                let known = [$(($word, $value)),+].into_iter().find(|(_, value)| value == self);
                known.map(|(word, _)| word.to_string()).expect("every value has its word")
            }
        }
    };
}

word_kind!(Mode, "sync, memory, async", "sync" => Mode::Sync, "memory" => Mode::Memory, "async" => Mode::Async);
word_kind!(Choice, "automatic, threads", "automatic" => Choice::Automatic, "threads" => Choice::Threads);
word_kind!(
    SplitBrain,
    "manual, discard-zero-changes, discard-least, discard-younger, discard-older, prefer-arbiter-primary",
    "manual" => SplitBrain::Manual,
    "discard-zero-changes" => SplitBrain::DiscardZeroChanges,
    "discard-least" => SplitBrain::DiscardLeast,
    "discard-younger" => SplitBrain::DiscardYounger,
    "discard-older" => SplitBrain::DiscardOlder,
    "prefer-arbiter-primary" => SplitBrain::PreferArbiterPrimary
);
word_kind!(
    FrontEnd,
    "auto, ublk, nbd-device, nbd-export, none",
    "auto" => FrontEnd::Auto,
    "ublk" => FrontEnd::Ublk,
    "nbd-device" => FrontEnd::NbdDevice,
    "nbd-export" => FrontEnd::NbdExport,
    "none" => FrontEnd::None
);
word_kind!(Overflow, "block, shed", "block" => Overflow::Block, "shed" => Overflow::Shed);

fn text_or_number(value: &DeValue<'_>) -> Option<String> {
    let number = value.as_integer().map(|number| number.as_str().replace('_', ""));
    number.or_else(|| value.as_str().map(str::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_lie_within_their_bounds_and_are_documented() {
        // Reading the defaults panics when one of them can't be parsed.
        let _ = (VolumeSettings::default(), DaemonSettings::default());
        for row in VolumeSettings::ROWS.iter().chain(DaemonSettings::ROWS) {
            assert!(row.doc.len() > 20, "{} says what it does", row.key);
        }
        assert_eq!(VolumeSettings::default().remote_io_timeout, Duration::from_secs(10));
        assert_eq!(VolumeSettings::default().async_bytes_max, Size(256 << 20));
    }
}
