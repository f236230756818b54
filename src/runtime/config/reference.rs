//! The reference of the configuration, written from the tables the parser reads by: it can't be out of date.

use super::failover::{ArbiterTimes, FailoverSettings, FencingTimes};
use super::group::{GROUPS_MAX, GroupSettings, ResourceTimes};
use super::kinds;
use super::settings::{DaemonSettings, Row, VolumeSettings};
use super::{ADDRESSES_MAX, NAME_BYTES_MAX, VOLUMES_MAX};
use crate::base::limits;
use std::fmt::Write;
use std::time::Duration;

/// A key that is no tunable: it says what the cluster is made of.
struct Key {
    key: &'static str,
    kind: &'static str,
    default: &'static str,
    doc: &'static str,
}

const ROOT: &[Key] = &[
    Key {
        key: "cluster",
        kind: "name",
        default: "required",
        doc: "Name of the cluster. Servers of another cluster are refused.",
    },
    Key {
        key: "secret_file",
        kind: "path",
        default: "required",
        doc: "File with the secret both servers share. Only its owner may read it (mode 0600).",
    },
];

const NODE: &[Key] = &[
    Key {
        key: "name",
        kind: "name",
        default: "required",
        doc: "Name of the server. Without `--node`, the one that is the host name is this one.",
    },
    Key {
        key: "mirror",
        kind: "list of IP:PORT (TCP)",
        default: "required",
        doc: "Addresses of the replication link on this server; the peer tries them in turn.",
    },
    Key {
        key: "heartbeat",
        kind: "list of IP:PORT (UDP)",
        default: "empty",
        doc: "Addresses of the heartbeat, as many on both servers: the first of one speaks to the first of the other, and so on. Used by failover groups.",
    },
    Key {
        key: "control",
        kind: "path",
        default: "/run/twinblock/NAME.sock",
        doc: "Socket the other commands talk to the daemon by (mode 0600).",
    },
    Key {
        key: "state_dir",
        kind: "path",
        default: "/var/lib/twinblock/NAME",
        doc: "Directory of the daemon's lock, and of what a restart must remember (`disconnect`); made when it is missing.",
    },
    Key {
        key: "archive_dir",
        kind: "path",
        default: "archive in the state_dir",
        doc: "Directory of the archives of what only this server had when its copy was given up; made when it is missing. \
              Not on a volume of the cluster.",
    },
    Key {
        key: "device_dir",
        kind: "path",
        default: "/dev/twinblock",
        doc: "Directory of the links to the volumes' block devices; made when it is missing.",
    },
];

const VOLUME: &[Key] =
    &[Key { key: "name", kind: "name", default: "required", doc: "Name of the volume, and of its NBD export." }];

const PLACE: &[Key] = &[
    Key {
        key: "disk",
        kind: "path",
        default: "required",
        doc: "Block device or regular file that holds the data on this server.",
    },
    Key {
        key: "metadata",
        kind: "internal, or path",
        default: "internal",
        doc: "Where the product's own records are: at the end of the disk, or on a device or file of their own, \
              which leaves a populated disk as it is.",
    },
    Key {
        key: "nbd",
        kind: "list of unix:PATH or tcp:IP:PORT",
        default: "empty",
        doc: "Where the volume is served while this server is its primary. A floating address of the volume's group is \
              written for both servers: clients find the volume there wherever it is.",
    },
];

const ARBITER: &[Key] = &[
    Key {
        key: "kind",
        kind: "etcd, file",
        default: "required",
        doc: "What the arbiter is: an etcd (version 3.4 or later), or a directory on storage that both servers share.",
    },
    Key {
        key: "endpoints",
        kind: "list of URL",
        default: "required for etcd",
        doc: "The etcd's members, as in `https://10.0.0.3:2379`; tried in turn.",
    },
    Key {
        key: "ca",
        kind: "path",
        default: "required for https",
        doc: "The authorities that sign the members' certificates, PEM. Those of the system are not trusted.",
    },
    Key {
        key: "certificate",
        kind: "path",
        default: "none",
        doc: "This server's certificate for etcd, PEM; with `key`.",
    },
    Key { key: "key", kind: "path", default: "none", doc: "Its key, PEM." },
    Key {
        key: "user",
        kind: "text",
        default: "none",
        doc: "User of etcd, where it asks for one; with `password_file`.",
    },
    Key {
        key: "password_file",
        kind: "path",
        default: "none",
        doc: "File with the user's password. Only its owner may read it (mode 0600).",
    },
    Key {
        key: "prefix",
        kind: "text",
        default: "/twinblock",
        doc: "What the keys in etcd begin with: PREFIX/CLUSTER/GROUP.",
    },
    Key {
        key: "directory",
        kind: "path",
        default: "required for file",
        doc: "The shared directory. It must exist, and keep hard links: NFS, GFS2, OCFS2 and CephFS do.",
    },
];

const FENCING: &[Key] = &[
    Key {
        key: "agent",
        kind: "path",
        default: "this or `script`",
        doc: "A fence agent (`fence_*`): takes its options on standard input; its status is read again after it switched the server off.",
    },
    Key {
        key: "script",
        kind: "path",
        default: "this or `agent`",
        doc: "A script of your own, run with `off NODE`; status 0 means that the server is off for certain.",
    },
    Key { key: "options", kind: "section", default: "none", doc: "Options of the agent, by name." },
    Key {
        key: "secret_options",
        kind: "section of paths",
        default: "none",
        doc: "Options whose values are in files that only their owner may read.",
    },
];

const GROUP: &[Key] = &[
    Key { key: "name", kind: "name", default: "required", doc: "Name of the group." },
    Key { key: "home", kind: "name of a node", default: "required", doc: "The server it belongs on." },
    Key {
        key: "volumes",
        kind: "list of names",
        default: "required",
        doc: "Its volumes. A volume is in one group at most.",
    },
];

const RESOURCE: &[Key] = &[
    Key { key: "name", kind: "name", default: "required", doc: "Name of the resource, unique in its group." },
    Key {
        key: "after",
        kind: "list of names",
        default: "empty",
        doc: "Resources of the group that must be up before it.",
    },
    Key { key: "skip_on", kind: "list of nodes", default: "empty", doc: "Servers on which it is left out." },
];

/// A time that is no setting.
struct Fixed {
    time: Duration,
    doc: &'static str,
}

const FIXED: &[Fixed] = &[
    Fixed {
        time: limits::PEER_GONE_WITHIN,
        doc: "Age of the peer's last answer to a ping up to which its daemon, found not running, counts as not having \
              gone on alone, so that `promote` needs no `--force`. Safety depends on it being shorter than the next one \
              *on the other server*, so neither can be set.",
    },
    Fixed {
        time: limits::SOLO_AFTER,
        doc: "Time for which a primary that lost its link acknowledges nothing, unless it finds the peer's daemon not \
              running. Longer than the one before by more than the clocks of two servers can differ in rate.",
    },
    Fixed { time: limits::PROBE_PAUSE, doc: "Time between two tries to find out whether the peer's daemon runs." },
    Fixed {
        time: limits::LINK_LINGER_TIME_MAX,
        doc: "Time a session that was ended in order has to send its last frames.",
    },
    Fixed { time: limits::DISK_LOCK_TIME, doc: "Wait for a disk that another process has locked." },
    Fixed {
        time: limits::DISK_LOCK_DYING_TIME,
        doc: "The same when that process was killed: the kernel keeps the lock until its last I/O has ended.",
    },
    Fixed {
        time: limits::DISK_CLOSE_TIME_MAX,
        doc: "Wait of `attach` and `replace-disk` for the last operation of a disk that was given up.",
    },
    Fixed {
        time: limits::REQUESTS_STOP_TIME_MAX,
        doc: "Wait of a stopping daemon for requests that neither disk can serve; `stop_timeout` bounds the whole.",
    },
    Fixed {
        time: limits::SECOND_SIGNAL_AFTER,
        doc: "A second SIGTERM or SIGINT sooner than this is taken for the first; later it ends the daemon at once.",
    },
    Fixed {
        time: limits::SHARD_STOP_TIME_MAX,
        doc: "Time a stopped volume has for the last bytes to its clients and its peer.",
    },
    Fixed {
        time: limits::NBD_ACCEPT_PAUSE,
        doc: "Time without accepting clients after the kernel had no descriptor or memory for one.",
    },
    Fixed { time: limits::POOL_TRIM_AFTER, doc: "Idle time after which a volume gives its buffers' memory back." },
];

/// The whole reference as markdown.
pub fn markdown() -> String {
    let mut out = String::new();
    out.push_str("# Configuration reference\n\n");
    out.push_str("Written by `twinblock check --reference`. One TOML file, the same on both servers. ");
    out.push_str("Relative paths are relative to the file.\n\n");
    let _ = writeln!(
        out,
        "Names have 1 to {NAME_BYTES_MAX} letters, digits, hyphens and underscores. A list has at most \
         {ADDRESSES_MAX} addresses.\nTimes are written `500ms`, `10s`, `5min`, `1h`; sizes `4096`, `256MiB`, `1TiB`; \
         rates `100MiB/s`. Everything may be left out\nthat has a default.\n"
    );
    keys(&mut out, "Top of the file", ROOT);
    keys(&mut out, "`[[node]]`, exactly two", NODE);
    keys(&mut out, &format!("`[[volume]]`, 1 to {VOLUMES_MAX}"), VOLUME);
    rows(&mut out, VolumeSettings::ROWS);
    keys(&mut out, "`[volume.on.NODE]`, one for each node", PLACE);
    out.push_str("## `[failover]`\n\nFor every group of the file.\n\n");
    out.push_str("| setting | kind | default | bounds | meaning |\n|---|---|---|---|---|\n");
    rows(&mut out, FailoverSettings::ROWS);
    keys(&mut out, "`[arbiter]`", ARBITER);
    rows(&mut out, ArbiterTimes::ROWS);
    keys(&mut out, "`[fencing.NODE]`: how that server is switched off by the other one", FENCING);
    rows(&mut out, FencingTimes::ROWS);
    keys(&mut out, &format!("`[[group]]`, at most {GROUPS_MAX}"), GROUP);
    rows(&mut out, GroupSettings::ROWS);
    out.push_str(
        "What else moves with the volumes stands in sections behind their `[[group]]`, which have the settings of every\n\
         resource and those of their kind. They start in the order of the kinds below, within a kind in the order of the\n\
         file, and stop in reverse; `after` moves one behind others.\n\n",
    );
    keys(&mut out, "Every resource", RESOURCE);
    rows(&mut out, ResourceTimes::ROWS);
    for (title, rows) in kinds::KINDS {
        let _ = writeln!(out, "## {title}\n\n| setting | kind | default | meaning |\n|---|---|---|---|");
        for (key, kind, default, doc) in *rows {
            let _ = writeln!(out, "| `{key}` | {kind} | {default} | {doc} |");
        }
        out.push('\n');
    }
    out.push_str("## `[daemon]`\n\n| setting | kind | default | bounds | meaning |\n|---|---|---|---|---|\n");
    rows(&mut out, DaemonSettings::ROWS);
    out.push_str("## Fixed times\n\nNo settings: here because they tell how long things take.\n\n");
    out.push_str("| time | meaning |\n|---|---|\n");
    for fixed in FIXED {
        let _ = writeln!(out, "| {} ms | {} |", fixed.time.as_millis(), fixed.doc);
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// Sections whose table goes on with settings.
const CONTINUED: [&str; 5] = ["`[[volume]]`", "`[arbiter]`", "`[fencing.NODE]`", "`[[group]]`", "Every resource"];

fn keys(out: &mut String, title: &str, keys: &[Key]) {
    let _ = writeln!(out, "## {title}\n\n| setting | kind | default | bounds | meaning |\n|---|---|---|---|---|");
    for key in keys {
        let _ = writeln!(out, "| `{}` | {} | {} | | {} |", key.key, key.kind, key.default, key.doc);
    }
    if !CONTINUED.iter().any(|section| title.starts_with(section)) {
        out.push('\n');
    }
}

fn rows(out: &mut String, rows: &[Row]) {
    for row in rows {
        let bounds = row.bounds.map(|(low, high)| format!("{low} to {high}")).unwrap_or_default();
        let _ = writeln!(out, "| `{}` | {} | `{}` | {bounds} |{} |", row.key, row.kind, row.default, row.doc);
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    /// The file for people who have no binary at hand is the same as what the binary prints.
    #[test]
    fn the_written_reference_is_up_to_date() {
        let written = include_str!("reference.md");
        assert!(
            written == super::markdown(),
            "src/runtime/config/reference.md is out of date: run `cargo run -- check --reference > src/runtime/config/reference.md`"
        );
    }
}
