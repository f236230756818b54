//! The reference of the configuration, written from the tables the parser reads by: it can't be out of date.

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
        doc: "Addresses of the heartbeat. Checked, and not used yet: automatic failover comes with a later version.",
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
        doc: "Where the volume is served while this server is its primary.",
    },
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

fn keys(out: &mut String, title: &str, keys: &[Key]) {
    let _ = writeln!(out, "## {title}\n\n| setting | kind | default | bounds | meaning |\n|---|---|---|---|---|");
    for key in keys {
        let _ = writeln!(out, "| `{}` | {} | {} | | {} |", key.key, key.kind, key.default, key.doc);
    }
    if title.starts_with("`[[volume]]`") {
        return;
    }
    out.push('\n');
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
