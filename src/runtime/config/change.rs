//! A changed file and a daemon that runs: what the daemon can take over, and what has to wait for its next start.
//!
//! Decided by building the configuration the daemon runs with from then on: the running one, in which everything that may
//! change is replaced. What differs between the running one before and after is changed; what still differs from the file
//! waits.

use super::failover::{ArbiterConfig, FailoverSettings};
use super::form::Difference;
use super::group::{GroupConfig, ResourceConfig, What};
use super::settings::{DaemonSettings, VolumeSettings};
use super::{Config, VolumeConfig};
use crate::runtime::resource::address::AddressConfig;
use crate::runtime::resource::files::FilesConfig;
use crate::runtime::resource::filesystem::FileSystemConfig;
use crate::runtime::resource::service::ServiceConfig;

/// What a file means for a daemon that runs.
#[derive(Clone, Debug)]
pub struct Change {
    /// What the daemon runs with from now on.
    pub config: Config,
    /// What it does otherwise than before.
    pub changed: Vec<Difference>,
    /// What the file has and only a restart brings.
    pub waiting: Vec<Difference>,
}

/// What `file` means for a daemon that runs with `running`. Both were loaded with the secret.
pub fn change(running: &Config, file: &Config) -> Change {
    let mut config = running.clone();
    config.warnings.clone_from(&file.warnings);
    config.daemon = DaemonSettings {
        disk_engine: running.daemon.disk_engine,
        handshakes_max: running.daemon.handshakes_max,
        ..file.daemon.clone()
    };
    config.failover = FailoverSettings { mode: running.failover.mode, ..file.failover.clone() };
    for volume in &mut config.volumes {
        if let Some(new) = file.volume(&volume.name) {
            change_volume(volume, new);
        }
    }
    if let (Some(arbiter), Some(new)) = (&mut config.arbiter, &file.arbiter) {
        let (ArbiterConfig::Etcd { timeout, .. } | ArbiterConfig::File { timeout, .. }) = arbiter;
        let (ArbiterConfig::Etcd { timeout: new, .. } | ArbiterConfig::File { timeout: new, .. }) = new;
        *timeout = *new;
    }
    for (device, new) in config.fencing.iter_mut().zip(&file.fencing) {
        // How a server is switched off may change; whether it is at all depends on the mode.
        if let (Some(device), Some(new)) = (device, new) {
            device.clone_from(new);
        }
    }
    for group in &mut config.groups {
        if let Some(new) = file.groups.iter().find(|new| new.name == group.name) {
            change_group(group, new);
        }
    }
    let form = config.form();
    config.digest = form.digest();
    let changed = running.form().differences(&form);
    let mut waiting = form.differences(&file.form());
    if running.secret != file.secret {
        let present = || Some("present".to_string());
        let section = "the contents of secret_file".to_string();
        waiting.push(Difference { section, key: String::new(), here: present(), there: present() });
    }
    Change { config, changed, waiting }
}

/// What the two servers agree on when they meet stays, and where the volume is.
fn change_volume(volume: &mut VolumeConfig, new: &VolumeConfig) {
    let old = &volume.settings;
    volume.settings = VolumeSettings {
        mode: old.mode,
        receipt_gating: old.receipt_gating,
        exact_recovery: old.exact_recovery,
        ..new.settings.clone()
    };
}

fn change_group(group: &mut GroupConfig, new: &GroupConfig) {
    group.settings = new.settings.clone();
    for resource in &mut group.resources {
        if let Some(new) = new.resources.iter().find(|new| new.name == resource.name) {
            change_resource(resource, new);
        }
    }
}

/// What a resource is found again by must stay while it may be started.
fn change_resource(resource: &mut ResourceConfig, new: &ResourceConfig) {
    let what = match (&resource.what, &new.what) {
        (What::FileSystem(old), What::FileSystem(new)) => What::FileSystem(FileSystemConfig {
            device: old.device.clone(),
            mount_point: old.mount_point.clone(),
            kind: old.kind.clone(),
            ..new.clone()
        }),
        (What::Address(old), What::Address(new)) => What::Address(AddressConfig {
            address: old.address,
            prefix: old.prefix,
            interface: old.interface.clone(),
            source: old.source,
            skip: old.skip,
            ..new.clone()
        }),
        (What::Files(old), What::Files(new)) => What::Files(FilesConfig { paths: old.paths.clone(), ..new.clone() }),
        (What::Dns(_), What::Dns(new)) => What::Dns(new.clone()),
        (What::Script(_), What::Script(new)) => What::Script(new.clone()),
        (What::Service(old), What::Service(new)) => What::Service(ServiceConfig {
            unit: old.unit.clone(),
            command: old.command.clone(),
            systemctl: old.systemctl.clone(),
            ..new.clone()
        }),
        _ => return,
    };
    resource.what = what;
    resource.times = new.times.clone();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::config::{Depth, parse};
    use std::path::Path;

    const TEXT: &str = r#"cluster = "lab"
secret_file = "secret"
[[node]]
name = "alpha"
mirror = ["10.0.0.1:7101"]
heartbeat = ["10.0.0.1:7201"]
[[node]]
name = "beta"
mirror = ["10.0.0.2:7101"]
heartbeat = ["10.0.0.2:7201"]
[[volume]]
name = "vol0"
[volume.on.alpha]
disk = "/dev/vg0/vol0"
[volume.on.beta]
disk = "/dev/vg0/vol0"
[failover]
mode = "arbiter"
[arbiter]
kind = "file"
directory = "/shared"
[fencing.alpha]
script = "/off"
[fencing.beta]
agent = "/off"
options = { password = "swordfish" }
[[group]]
name = "db"
home = "alpha"
volumes = ["vol0"]
[[group.address]]
name = "ip"
address = "192.0.2.10"
ping = ["192.0.2.254"]
[[group.service]]
name = "web"
unit = "web.service"
skip_on = ["beta"]
"#;

    fn read(text: &str) -> Config {
        parse(Path::new("/etc/tb/pair.toml"), text, Some("alpha"), "", Depth::File).unwrap()
    }

    /// What a replacement in the file changes, and what waits.
    fn told(from: &str, to: &str) -> (Vec<String>, Vec<String>) {
        assert!(TEXT.contains(from), "{from}");
        let change = change(&read(TEXT), &read(&TEXT.replacen(from, to, 1)));
        let words = |list: &[Difference]| list.iter().map(ToString::to_string).collect();
        (words(&change.changed), words(&change.waiting))
    }

    #[test]
    fn what_may_change_does_and_the_rest_waits_by_name() {
        let changes = [
            (
                "name = \"vol0\"",
                "name = \"vol0\"\nresync_rate_max = \"50MiB/s\"",
                "volume vol0: resync_rate_max: none, now 50MiB/s",
            ),
            ("mode = \"arbiter\"", "mode = \"arbiter\"\nflap_guard = 0", "failover: flap_guard: 10min, now 0"),
            ("directory = \"/shared\"", "directory = \"/shared\"\ntimeout = \"2s\"", "arbiter: timeout: 1s, now 2s"),
            ("\"/off\"", "\"/off2\"", "fencing alpha: script: /off, now /off2"),
            ("swordfish", "sesame", "fencing beta: options.password: another value"),
            ("home = \"alpha\"", "home = \"alpha\"\nfallback = \"1h\"", "group db: fallback: manual, now 1h"),
            ("192.0.2.254", "192.0.2.253", "group db: address ip: ping: 192.0.2.254, now 192.0.2.253"),
            ("\"web.service\"", "\"web.service\"\nrestarts_max = 9", "group db: service web: restarts_max: 3, now 9"),
            (
                "\"web.service\"",
                "\"web.service\"\ncritical = false",
                "group db: service web: critical: true, now false",
            ),
        ];
        for (from, to, words) in changes {
            assert_eq!(told(from, to), (vec![words.to_string()], vec![]), "{to}");
        }
        let waiting = [
            (
                "disk = \"/dev/vg0/vol0\"",
                "disk = \"/dev/vg0/new\"",
                "volume vol0 on alpha: disk: /dev/vg0/vol0, now /dev/vg0/new",
            ),
            ("name = \"vol0\"", "name = \"vol0\"\nmode = \"async\"", "volume vol0: mode: sync, now async"),
            ("10.0.0.1:7101", "10.0.0.1:7301", "node alpha: mirror: 10.0.0.1:7101, now 10.0.0.1:7301"),
            ("\"/shared\"", "\"/other\"", "arbiter: directory: /shared, now /other"),
            ("home = \"alpha\"", "home = \"beta\"", "group db: home: alpha, now beta"),
            ("192.0.2.10\"", "192.0.2.11\"", "group db: address ip: address: 192.0.2.10, now 192.0.2.11"),
            ("skip_on = [\"beta\"]", "skip_on = []", "group db: service web: skip_on: beta, now empty"),
        ];
        for (from, to, words) in waiting {
            assert_eq!(told(from, to), (vec![], vec![words.to_string()]), "{to}");
        }
        let resource = "[[group.script]]\nname = \"hook\"\nstart = [\"/bin/true\"]\n[[group.service]]";
        let (changed, waiting) = told("[[group.service]]", resource);
        assert!(changed.is_empty(), "{changed:?}");
        assert_eq!(waiting[1], "group db: script hook: new", "{waiting:?}");
    }

    #[test]
    fn how_a_file_is_written_makes_no_difference() {
        let other = TEXT.replace("cluster", "# a comment\ncluster").replace("home =", "start = \"auto\"\nhome =");
        assert_eq!(read(TEXT).digest, read(&other).digest);
        assert!(read(TEXT).form().differences(&read(&other).form()).is_empty());
        // And both servers see the same.
        let there = parse(Path::new("/etc/tb/pair.toml"), TEXT, Some("beta"), "", Depth::File).unwrap();
        assert_eq!(read(TEXT).digest, there.digest);
    }

    #[test]
    fn differences_between_two_servers_are_named_and_secrets_are_not_shown() {
        let other = TEXT.replace("192.0.2.10", "192.0.2.11").replace("swordfish", "sesame");
        let other =
            other.replace("[[group.service]]\nname = \"web\"\nunit = \"web.service\"\nskip_on = [\"beta\"]\n", "");
        let differences = read(TEXT).form().differences(&read(&other).form());
        let told: Vec<String> = differences.iter().map(|difference| difference.between("beta")).collect();
        assert_eq!(
            told,
            [
                "fencing beta: options.password: other values here and on beta",
                "group db: order of its resources ip, web here, ip on beta",
                "group db: address ip: address 192.0.2.10 here, 192.0.2.11 on beta",
                "group db: service web: only here",
            ]
        );
        let text = serde_json::to_string(&read(TEXT).form()).unwrap();
        assert!(!text.contains("swordfish"), "{text}");
    }
}
