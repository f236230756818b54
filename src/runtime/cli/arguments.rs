//! The verbs and their options, with the words `--help` shows.

use super::archive::ArchiveCommand;
use super::exit;
use super::group::GroupCommand;
use super::split_brain::SplitBrainCommand;
use crate::runtime::bench;
use crate::runtime::config::{DEFAULT_FILE, units};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Keeps a block device mirrored on two servers, serves it over NBD, and resyncs it by difference.
#[derive(Debug, Parser)]
#[command(name = "twinblock", version, after_help = exit::HELP, max_term_width = 110)]
pub struct Arguments {
    /// Configuration file, the same on both servers.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE, global = true)]
    pub config: PathBuf,
    /// Which node of the configuration this is. Default: the one that has the host's name.
    #[arg(long, value_name = "NODE", global = true)]
    pub node: Option<String>,
    /// Don't ask before something is lost: for scripts. Every verb takes it.
    #[arg(long, short, global = true)]
    pub yes: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Check the configuration, or print its reference.
    Check {
        /// Print every setting with kind, default, bounds and meaning, as markdown.
        #[arg(long)]
        reference: bool,
        /// Have the running daemons compare their settings and versions, and name what differs.
        #[arg(long, conflicts_with = "reference")]
        peer: bool,
    },
    /// Run the daemon of this node, in the foreground.
    Run {
        /// What is logged, such as `debug` or `info,twinblock::runtime::peer=debug`. Default: the configuration's.
        #[arg(long, value_name = "FILTER")]
        log: Option<String>,
        /// End at once when the parent process ends.
        #[arg(long, hide = true)]
        die_with_parent: bool,
    },
    /// Make the metadata of a volume's disk on this node. The daemon must not have the disk open.
    InitDisk(InitDisk),
    /// Show the state of every volume.
    Status {
        /// Where the time of requests goes instead: each stage with its percentiles, since the daemon started.
        #[arg(long)]
        latency: bool,
        /// For machines.
        #[arg(long)]
        json: bool,
        /// Again every second, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Make this node the primary of a volume: it serves the volume to clients.
    Promote {
        /// Name of the volume.
        volume: String,
        /// Although the peer may hold newer data, or this copy is not whole. Says what would be lost.
        #[arg(long)]
        force: bool,
        /// Longest wait while the two servers are still connecting.
        #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::parse_time)]
        timeout: Duration,
    },
    /// Make this node a secondary of a volume.
    Demote {
        /// Name of the volume.
        volume: String,
        /// Although clients are connected: their unfinished requests fail.
        #[arg(long)]
        force: bool,
    },
    /// Copy what differs between the servers now, copy or compare everything, or choose the good side.
    Resync(Resync),
    /// Hold a resync where it is.
    PauseResync {
        /// Name of the volume.
        volume: String,
    },
    /// Let a paused resync go on.
    ResumeResync {
        /// Name of the volume.
        volume: String,
    },
    /// Take a new disk into use on this node: initialise the configured disk, attach it, and resync it.
    ReplaceDisk(ReplaceDisk),
    /// Try to reach the peer again after `disconnect`.
    Connect {
        /// Name of the volume.
        volume: String,
    },
    /// End the link to the peer and stay apart until `connect`; what is written meanwhile is resynced then.
    Disconnect {
        /// Name of the volume.
        volume: String,
    },
    /// Open the configured disk again after `detach` or a failure.
    Attach {
        /// Name of the volume.
        volume: String,
    },
    /// Make a volume larger while it is in use: once both disks are, by `replace-disk`. Clients see it when they connect again,
    /// a block device at once.
    Resize {
        /// Name of the volume.
        volume: String,
        /// Its new size (bytes, KiB, MiB, GiB, TiB); without it, as much as both disks hold.
        #[arg(long, value_parser = units::parse_size)]
        size: Option<u64>,
    },
    /// Give up this node's disk in order; the peer serves until `attach`.
    Detach {
        /// Name of the volume.
        volume: String,
    },
    /// Compare both disks while they are in use.
    Verify {
        /// Name of the volume.
        volume: String,
        /// Copy the primary's data over what differs.
        #[arg(long)]
        repair: bool,
        /// Follow it to its end.
        #[arg(long)]
        wait: bool,
    },
    /// Read the configuration again in the running daemon, and say what changed and what waits for a restart.
    Reload,
    /// Both servers went on alone: look at both copies, and give one up.
    #[command(subcommand)]
    SplitBrain(SplitBrainCommand),
    /// What only a copy had that was given up, kept on this server.
    #[command(subcommand)]
    Archive(ArchiveCommand),
    /// Failover groups: what moves together, by itself or by hand.
    #[command(subcommand)]
    Group(GroupCommand),
    /// What happened on this server: changes of role with their stages, alarms, and the rest.
    Events {
        /// To this group only.
        group: Option<String>,
        /// Go on showing what happens, until interrupted.
        #[arg(long)]
        follow: bool,
        /// At most so many of the past.
        #[arg(long, value_name = "NUMBER", default_value = "50")]
        last: usize,
        /// One JSON object for each line.
        #[arg(long)]
        json: bool,
    },
    /// What would happen to a group if one server, path, disk or the arbiter died now, concluded from its live state.
    Explain {
        /// Name of the group; may be left out when there is only one.
        group: Option<String>,
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// Take this node out: its groups move away, and it takes none over until `activate`.
    Deactivate,
    /// Put this node back.
    Activate,
    /// See it work: two daemons on this machine, one killed after the other, every acknowledged write read back.
    Demo {
        /// Where the demo makes a directory of its own, removed in the end. Default: that for temporary files.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Only the group, as root: each change of owner so many times, with median and longest interruption.
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=999))]
        rounds: Option<u32>,
        /// With it, and in the same run: keepalived moves the same address between the same servers.
        #[arg(long, requires = "rounds")]
        keepalived: bool,
    },
    /// The demo's counting service.
    #[command(hide = true)]
    DemoService {
        /// Where it finds the volume it keeps its counter on, as `ADDRESS:PORT/EXPORT`.
        volume: String,
        /// Where it answers.
        listen: std::net::SocketAddr,
    },
    /// Measure what mirroring costs: with two throw-away daemons on this machine, or on a volume that is in use.
    Bench(Bench),
    /// List what differs or may differ between the servers, as offset and length in bytes.
    Dirty {
        /// Name of the volume.
        volume: String,
        /// For machines.
        #[arg(long)]
        json: bool,
    },
}

/// Options of `bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// A volume that this node serves, instead of a throw-away pair. It is only read, unless --overwrite is given.
    pub volume: Option<String>,
    /// Measure writes on that volume, too: everything on it is lost.
    #[arg(long, requires = "volume")]
    pub overwrite: bool,
    /// Short: one round of a second each, on disk only, a small volume, the pair and the limits alone.
    #[arg(long)]
    pub quick: bool,
    /// Only rows whose words contain this. May be repeated.
    #[arg(long, value_name = "WORDS")]
    pub only: Vec<String>,
    /// Write a report with plots there, one HTML file that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Times each figure is measured; the median counts.
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, value_name = "SECONDS", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Size of the volume. Each directory needs room for six of it.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = units::parse_size)]
    pub size: u64,
    /// Directory on the disk to be measured. Default: that for temporary files.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Directory in memory, where the processor is the limit.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    pub tmpfs: PathBuf,
    /// For machines.
    #[arg(long)]
    pub json: bool,
}

impl Bench {
    /// With the defaults filled in.
    pub fn resolved(&self) -> bench::Options {
        bench::Options {
            rounds: self.rounds,
            seconds: self.seconds,
            size_bytes: self.size,
            disk: self.dir.clone().unwrap_or_else(std::env::temp_dir),
            memory: self.tmpfs.clone(),
            quick: self.quick,
            only: self.only.clone(),
            json: self.json,
            html: self.html.clone(),
        }
        .made_quick()
    }
}

/// Options of `init-disk`. Without any, the disk must be blank.
#[derive(Args, Debug)]
pub struct InitDisk {
    /// Name of the volume.
    pub volume: String,
    /// Make a sparse file of this size, when the disk does not exist.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    pub size: Option<u64>,
    /// The disk holds data that is to be kept: it becomes the volume's content and is copied to the peer.
    #[arg(long, conflicts_with_all = ["overwrite", "zero"])]
    pub adopt: bool,
    /// With --adopt and internal metadata: what lies in the disk's tail may be overwritten.
    #[arg(long, requires = "adopt")]
    pub tail_is_free: bool,
    /// Although the disk holds data or metadata: they are lost, the peer's copy is written over them.
    #[arg(long)]
    pub overwrite: bool,
    /// Although there is metadata already: it is replaced.
    #[arg(long)]
    pub replace_metadata: bool,
    /// Zero the disk, so that two such disks need no first copy.
    #[arg(long)]
    pub zero: bool,
}

/// Options of `resync`.
#[derive(Args, Debug)]
pub struct Resync {
    /// Name of the volume.
    pub volume: String,
    /// Copy everything without comparing.
    #[arg(long)]
    pub full: bool,
    /// Compare everything, copy what differs.
    #[arg(long, conflicts_with = "full")]
    pub compare: bool,
    /// The node whose copy is the good one; what only the other has is lost. Settles a split brain.
    #[arg(long, value_name = "NODE")]
    pub source: Option<String>,
    /// Follow it to its end.
    #[arg(long)]
    pub wait: bool,
}

/// Options of `replace-disk`.
#[derive(Args, Debug)]
pub struct ReplaceDisk {
    /// Name of the volume.
    pub volume: String,
    /// The disk that is meant. It must be the configured one: a guard against a forgotten edit of the configuration.
    #[arg(long, value_name = "PATH")]
    pub disk: Option<PathBuf>,
    /// Follow the resync to its end.
    #[arg(long)]
    pub wait: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_verbs_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_and_after_the_verb() {
        for line in ["twinblock -c f --node a promote v --force", "twinblock promote v --force -c f --node a"] {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert_eq!((arguments.config, arguments.node.as_deref()), (PathBuf::from("f"), Some("a")));
            assert!(matches!(arguments.verb, Verb::Promote { force: true, .. }) && !arguments.yes);
        }
    }

    #[test]
    fn sizes_and_times_are_checked() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).is_ok();
        assert!(parse("twinblock init-disk v --size 64MiB"));
        assert!(!parse("twinblock init-disk v --size big"));
        assert!(!parse("twinblock init-disk v --adopt --overwrite"));
        assert!(!parse("twinblock init-disk v --tail-is-free"));
        assert!(parse("twinblock promote v --timeout 500ms"));
        assert!(!parse("twinblock promote v --timeout soon"));
        assert!(!parse("twinblock resync v --full --compare"));
    }
}
