//! What each kind of resource has for itself, for the reference. A test holds it against what is read.

/// A setting: key, kind of value, default, meaning.
pub type Row = (&'static str, &'static str, &'static str, &'static str);

const TIME: &str = "time (ms, s, min, h, d)";
const PROGRAM: &str = "program and arguments";

/// Every kind with its title and settings, in the order of their start.
pub const KINDS: &[(&str, &[Row])] = &[
    ("`[[group.filesystem]]`: a file system on a volume", FILESYSTEM),
    ("`[[group.files]]`: configuration files, copied to the other server whenever they change", FILES),
    ("`[[group.address]]`: a floating IP address", ADDRESS),
    ("`[[group.dns]]`: a host name that follows the group (RFC 2136)", DNS),
    ("`[[group.script]]`: programs of your own", SCRIPT),
    ("`[[group.service]]`: a systemd unit, or a program that is kept running", SERVICE),
];

const FILESYSTEM: &[Row] = &[
    ("device", "path", "required", "The block device it is on: that of the volume."),
    ("mount_point", "path", "required", "Where it is mounted; the directory is made when it is missing."),
    ("kind", "text", "required", "Its kind, as in `ext4` or `xfs`. A device that holds another kind is refused."),
    ("options", "text", "empty", "Mount options, as `mount -o` has them."),
    (
        "check",
        "auto, force, never",
        "`auto`",
        "What is checked before the mount. `auto`: what the file system itself asks for after a crash, with the repairs \
         that are safe. `force`: everything, each time. `never`: nothing.",
    ),
    (
        "when_busy",
        "kill, fail, force, lazy",
        "`kill`",
        "What is done when it is still busy shortly before `stop_timeout`: its holders are killed; or the stop fails and \
         names them; or `umount --force`; or `umount --lazy`.",
    ),
];

const FILES: &[Row] = &[
    (
        "paths",
        "list of paths",
        "required",
        "Files and directories with all that is below; absolute, the same on both servers, at most 64.",
    ),
    (
        "bytes_max",
        "bytes",
        "`16777216`",
        "Most bytes they may have together, at most 48 MiB; beyond it nothing is copied, and that is told.",
    ),
    (
        "settle",
        TIME,
        "`200ms`",
        "Time without a change after which they are copied: what belongs together travels together.",
    ),
    (
        "look_interval",
        TIME,
        "`10s`",
        "Time between two looks at everything; changes are told by the kernel, this is for those missed.",
    ),
];

const ADDRESS: &[Row] = &[
    ("address", "IP", "required", "The address, IPv4 or IPv6."),
    (
        "prefix",
        "number",
        "that of the network",
        "Length of the network's prefix in bits; only that, or the full length, is accepted.",
    ),
    (
        "interface",
        "name",
        "the one with the network",
        "The interface; needed when more than one has a network with the address.",
    ),
    ("probe", "true or false", "`true`", "Before the claim, ask whether anybody has the address."),
    (
        "on_duplicate",
        "by-mode, refuse, claim",
        "`by-mode`",
        "What to do when somebody has it: not claim it, or claim it with an alarm; by the mode of failover, `claim` where \
         an arbiter or fencing has proven that nobody else owns it.",
    ),
    ("link_check", "true or false", "`true`", "An interface without a carrier is a failure."),
    (
        "ping",
        "list of IP",
        "empty",
        "Addresses asked, from this address, whether the network is there; any answer is success.",
    ),
    ("ping_broadcast", "true or false", "`false`", "Ask everybody in the network instead."),
    (
        "source",
        "true or false",
        "`false`",
        "Outgoing traffic through the network uses this address as its source (IPv4).",
    ),
    ("skip", "true or false", "`false`", "Leave the address out on both servers; `skip_on` leaves it out on one."),
    ("timers.probe_tries", "number", "`3`", "Questions before the claim whether anybody has the address."),
    ("timers.probe_interval", TIME, "`100ms`", "Time between two of them."),
    ("timers.probe_wait", TIME, "`150ms`", "Time an answer to the last one may take."),
    (
        "timers.announce_count",
        "number",
        "`5`",
        "Announcements in a row after the claim, and when link or address came back.",
    ),
    ("timers.announce_interval", TIME, "`200ms`", "Time between two of them."),
    (
        "timers.announce_refresh",
        TIME,
        "`10s`",
        "Time between two announcements while all is well; `0`: only after the claim.",
    ),
    (
        "timers.look_interval",
        TIME,
        "`2s`",
        "Time between two looks at address and interface, for changes that the kernel's notices missed.",
    ),
    ("timers.link_grace", TIME, "`500ms`", "Time an interface may be without a carrier before that is a failure."),
    ("timers.ping_interval", TIME, "`5s`", "Time between two questions to the ping list."),
    ("timers.ping_wait", TIME, "`1s`", "Time answers to one round may take."),
    ("timers.ping_tries", "number", "`3`", "Rounds without any answer before that is a failure."),
    ("timers.ping_preload", "number", "`1`", "Questions to each target sent at once in each round."),
    ("timers.alarm_interval", TIME, "`10s`", "Shortest time between two alarms, and two defences, of the same kind."),
];

const DNS: &[Row] = &[
    ("server", "IP:PORT", "required", "The zone's primary name server; it is asked by TCP."),
    ("zone", "name", "required", "The zone, as in `example.org`."),
    ("host", "name", "required", "The host, a whole name in that zone."),
    (
        "addresses",
        "list of IP",
        "the group's floating addresses",
        "What the host has while the group is on this server. Where it is another on each server, write two sections, \
         each with `skip_on`.",
    ),
    ("ttl", TIME, "`30s`", "Time clients may remember them, at most a day."),
    ("key.name", "text", "no key", "Name of the key that updates are signed with (TSIG), as the name server has it."),
    ("key.algorithm", "text", "`hmac-sha256`", "Its algorithm."),
    (
        "key.secret_file",
        "path",
        "required with a key",
        "A file with its secret in base64. Only its owner may read it (mode 0600).",
    ),
    (
        "remove_at_stop",
        "true or false",
        "`false`",
        "Remove the name at a stop; otherwise the server that takes over replaces it.",
    ),
];

const SCRIPT: &[Row] = &[
    (
        "start",
        PROGRAM,
        "none",
        "Run to bring it up, within `start_timeout`; starting what runs already must succeed. Status 0 is success.",
    ),
    ("stop", PROGRAM, "none", "Run to take it down, within `stop_timeout`; stopping what does not run must succeed."),
    ("monitor", PROGRAM, "none", "Run to see whether it is up, every `monitor_interval`."),
    ("may_leave_processes", "true or false", "`false`", "Processes it left running are no failure of its stop."),
];

const SERVICE: &[Row] = &[
    (
        "unit",
        "name",
        "this or `command`",
        "A systemd unit, as in `nginx.service`. It must not be enabled: the group alone starts it.",
    ),
    ("command", PROGRAM, "this or `unit`", "A program that stays in the foreground; its path is absolute."),
    (
        "monitor",
        PROGRAM,
        "none",
        "A program that says whether the service answers (status 0), run every `monitor_interval`.",
    ),
    ("settle", TIME, "`100ms`", "Time a program must run to count as started."),
    ("look_interval", TIME, "`1s`", "Time between two looks at a unit."),
    ("restarts_max", "number", "`3`", "Restarts on this server before `beyond` is done."),
    ("restart_reset", TIME, "`10min`", "Time without an unwanted end after which earlier restarts are forgotten."),
    ("restart_pause", TIME, "`500ms`", "Time between an unwanted end and the restart."),
    (
        "beyond",
        "failover, stop-group, alarm",
        "`failover`",
        "What is done when it was restarted too often: the group moves to the other server; or stops here and goes \
         nowhere; or it is told, and the group goes on without it.",
    ),
    ("systemctl", "path", "`systemctl`", "The program to speak to systemd by."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::config::units::{parse_time, write_time};
    use crate::runtime::resource::address::AddressConfig;
    use crate::runtime::resource::dns::DnsConfig;
    use crate::runtime::resource::files::FilesConfig;
    use crate::runtime::resource::filesystem::FileSystemConfig;
    use crate::runtime::resource::script::ScriptConfig;
    use crate::runtime::resource::service::ServiceConfig;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;
    use std::collections::BTreeMap;

    fn flatten(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
        for (key, value) in value.as_object().unwrap() {
            match value {
                Value::Object(_) => flatten(&format!("{prefix}{key}."), value, into),
                other => drop(into.insert(format!("{prefix}{key}"), other.clone())),
            }
        }
    }

    /// The rows of a kind are exactly the settings that are read, and where a row has a value as its default, it is that.
    fn holds<C: DeserializeOwned + Serialize>(rows: &[Row], required: &str) {
        let read: C = toml::from_str(&format!("name = \"x\"\n{required}")).unwrap();
        let mut settings = BTreeMap::new();
        flatten("", &serde_json::to_value(&read).unwrap(), &mut settings);
        settings.remove("name");
        let mut documented: Vec<&str> = rows.iter().map(|row| row.0).collect();
        documented.sort_unstable();
        assert_eq!(documented, settings.keys().map(String::as_str).collect::<Vec<_>>());
        for (key, kind, default, _) in rows {
            let Some(default) = default.strip_prefix('`').and_then(|text| text.strip_suffix('`')) else { continue };
            let value = settings[*key].as_str().map_or_else(|| settings[*key].to_string(), str::to_string);
            let value = if kind.starts_with("time") { write_time(parse_time(&value).unwrap()) } else { value };
            assert_eq!(value, default, "{key}");
        }
    }

    #[test]
    fn every_setting_of_every_kind_is_documented_with_its_default() {
        holds::<FileSystemConfig>(FILESYSTEM, "device = \"/d\"\nmount_point = \"/m\"\nkind = \"ext4\"");
        holds::<FilesConfig>(FILES, "paths = [\"/etc/x\"]");
        holds::<AddressConfig>(ADDRESS, "address = \"192.0.2.1\"");
        let dns =
            "server = \"192.0.2.1:53\"\nzone = \"a\"\nhost = \"b.a\"\nkey = { name = \"k\", secret_file = \"s\" }";
        holds::<DnsConfig>(DNS, dns);
        holds::<ScriptConfig>(SCRIPT, "");
        holds::<ServiceConfig>(SERVICE, "unit = \"x.service\"");
        for (_, rows) in KINDS {
            assert!(rows.iter().all(|row| row.3.len() > 10 && row.3.ends_with('.')));
        }
    }
}
