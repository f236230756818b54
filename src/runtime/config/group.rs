//! The `[[group]]` sections: what moves together, in which order, and where it belongs.
//!
//! ```text
//! [[group]]                    name, home, volumes, start, fallback
//! [[group.filesystem]]         resources: their own settings, and those every resource has
//! [[group.address]]
//! ...
//! ```
//! Resources start in the order of their kinds, and within a kind in the order of the file, after the volumes; they stop
//! in reverse. `after` names others that must be up before, and moves a resource behind them.

use super::document::{Document, Section};
use super::order::order;
use super::read::{self, Placed};
use super::settings::{CommandLine, Kind, Row, read_value, settings};
use super::units;
use crate::base::group::FailoverMode;
use crate::base::ids::NodeId;
use crate::runtime::resource::address::AddressConfig;
use crate::runtime::resource::dns::DnsConfig;
use crate::runtime::resource::files::FilesConfig;
use crate::runtime::resource::filesystem::FileSystemConfig;
use crate::runtime::resource::script::ScriptConfig;
use crate::runtime::resource::service::ServiceConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Value;
use toml::de::{DeTable, DeValue};

/// Groups of one cluster: each watches, decides and moves for itself.
pub const GROUPS_MAX: usize = 64;
/// Resources of one group besides its volumes.
pub const RESOURCES_MAX: usize = 64;

/// A failover group.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Name, unique.
    pub name: String,
    /// The server it belongs on.
    pub home: NodeId,
    /// Its volumes, by name.
    pub volumes: Vec<String>,
    /// How it starts and returns.
    pub settings: GroupSettings,
    /// What else moves with it, in the order of its start.
    pub resources: Vec<ResourceConfig>,
}

settings! {
    /// Settings of one group, in its `[[group]]` section.
    GroupSettings {
        /// Whether it starts by itself once both servers are up: `auto`, or `manual` with `group start`.
        start: Start = "auto";
        /// Return to its home server: `manual`, or by itself when it has been well there for this long, as in `30min`.
        fallback: Fallback = "manual";
        /// Program told of this group's announcements, in the place of that of `[failover]`.
        hook: CommandLine = "none";
    }
}

settings! {
    /// Settings that every resource of a group has.
    ResourceTimes {
        /// Longest time its start may take.
        start_timeout: Duration = "1min", "100ms" to "1h";
        /// Longest time its stop may take.
        stop_timeout: Duration = "1min", "100ms" to "1h";
        /// Time between two looks at it.
        monitor_interval: Duration = "5s", "100ms" to "1h";
        /// Longest time such a look may take.
        monitor_timeout: Duration = "30s", "100ms" to "1h";
        /// Whether the group moves when it fails and can't be repaired here.
        critical: bool = "true";
    }
}

/// Whether a group starts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Once both servers are up.
    Auto,
    /// By an operator's order.
    Manual,
}

impl Kind for Start {
    const WORDS: &'static str = "auto, manual";
    fn from_text(text: &str) -> Result<Start, String> {
        match text {
            "auto" => Ok(Start::Auto),
            "manual" => Ok(Start::Manual),
            _ => Err("expected auto or manual".into()),
        }
    }
    fn show(&self) -> String {
        match self {
            Start::Auto => "auto".into(),
            Start::Manual => "manual".into(),
        }
    }
}

impl GroupConfig {
    /// Settles what depends on the mode of failover.
    pub fn resolve(&mut self, mode: FailoverMode) {
        for resource in &mut self.resources {
            if let What::Address(address) = &mut resource.what {
                address.on_duplicate = address.on_duplicate.in_mode(mode);
            }
        }
    }

    /// Its floating addresses.
    pub fn addresses(&self) -> impl Iterator<Item = std::net::IpAddr> {
        self.resources.iter().filter_map(|resource| match &resource.what {
            What::Address(config) => Some(config.address),
            _ => None,
        })
    }
}

/// When a group returns to its home server by itself: never, or after it has been well for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback(pub Option<Duration>);

impl Kind for Fallback {
    const WORDS: &'static str = "manual, or time (ms, s, min, h, d)";
    fn from_text(text: &str) -> Result<Fallback, String> {
        if text == "manual" {
            return Ok(Fallback(None));
        }
        units::parse_time(text).map(|time| Fallback(Some(time))).map_err(|expected| format!("{expected}, or manual"))
    }
    fn show(&self) -> String {
        self.0.map_or("manual".into(), units::write_time)
    }
}

/// A resource of a group.
#[derive(Clone, Debug)]
pub struct ResourceConfig {
    /// Name, unique in the group.
    pub name: String,
    /// What it is.
    pub what: What,
    /// Indices of the resources that must be up before it.
    pub needs: Vec<usize>,
    /// It is left out on this server.
    pub skip: bool,
    /// The servers it is left out on, by node.
    pub skip_on: [bool; 2],
    /// What every resource has.
    pub times: ResourceTimes,
    /// Line of its section in the file.
    pub line: usize,
}

/// The kinds of resources with their settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum What {
    /// A mounted file system.
    FileSystem(FileSystemConfig),
    /// Configuration files that are the same on both servers.
    Files(FilesConfig),
    /// A floating IP address.
    Address(AddressConfig),
    /// A host name in the DNS.
    Dns(DnsConfig),
    /// Programs run at the start and the stop.
    Script(ScriptConfig),
    /// A supervised service.
    Service(ServiceConfig),
}

impl What {
    /// Where it mounts a file system, if it does.
    pub fn mount_point(&self) -> Option<&PathBuf> {
        match self {
            What::FileSystem(config) => Some(&config.mount_point),
            _ => None,
        }
    }

    /// The programs it runs.
    pub fn programs(&self) -> Vec<&Path> {
        let commands = match self {
            What::Script(config) => vec![&config.start, &config.stop, &config.monitor],
            What::Service(config) => vec![&config.command, &config.monitor],
            _ => Vec::new(),
        };
        commands.into_iter().flatten().filter_map(|command| command.first()).map(Path::new).collect()
    }

    /// Name of the resource.
    pub fn name(&self) -> &str {
        match self {
            What::FileSystem(config) => &config.name,
            What::Files(config) => &config.name,
            What::Address(config) => &config.name,
            What::Dns(config) => &config.name,
            What::Script(config) => &config.name,
            What::Service(config) => &config.name,
        }
    }

    /// Key of its section.
    pub fn kind(&self) -> &'static str {
        match self {
            What::FileSystem(_) => "filesystem",
            What::Files(_) => "files",
            What::Address(_) => "address",
            What::Dns(_) => "dns",
            What::Script(_) => "script",
            What::Service(_) => "service",
        }
    }
}

/// Keys of the sections, in the order of the start.
const KINDS: [&str; 6] = ["filesystem", "files", "address", "dns", "script", "service"];

/// Reads every `[[group]]`.
pub fn read_groups(root: &Section<'_, '_>, nodes: &[&str], node: Option<NodeId>) -> Vec<Placed<GroupConfig>> {
    let Some(value) = root.optional("group") else { return Vec::new() };
    let tables = root.tables("group", value);
    if tables.len() > GROUPS_MAX {
        let reason = format!("there are {} groups", tables.len());
        root.document().problem(Some(value.span()), "group", reason, format!("describe at most {GROUPS_MAX}"));
    }
    let tables = tables.into_iter().enumerate();
    tables.filter_map(|(index, table)| read_group(root, index, table, nodes, node)).collect()
}

fn read_group<'d>(
    root: &Section<'_, 'd>,
    index: usize,
    (table, span): (&'d DeTable<'d>, Range<usize>),
    nodes: &[&str],
    node: Option<NodeId>,
) -> Option<Placed<GroupConfig>> {
    let mut section = Section::new(root.document(), format!("group[{}].", index + 1), span.clone(), table);
    let name = read::read_name(&mut section, "group", "name = \"db\"");
    let home = section.required("home", "home = \"alpha\"").and_then(|value| {
        let text = section.text("home", value)?;
        let found = nodes.iter().position(|name| *name == text);
        if found.is_none() {
            let next = format!("write {}", nodes.join(" or "));
            let reason = format!("there is no node \"{text}\"");
            section.document().problem(Some(value.span()), &section.key("home"), reason, next);
        }
        found.map(|index| NodeId(index as u8))
    });
    let volumes = section.required("volumes", "volumes = [\"vol0\"]");
    let volumes: Vec<String> = volumes
        .map(|value| section.texts("volumes", value))
        .unwrap_or_default()
        .into_iter()
        .map(|(text, _)| text.to_string())
        .collect();
    let settings = GroupSettings::read(&section);
    let resources = read_resources(&section, nodes, node);
    section.end();
    let value = GroupConfig { name: name?, home: home?, volumes, settings, resources };
    Some(Placed { value, span, addresses: Vec::new() })
}

fn read_resources(section: &Section<'_, '_>, nodes: &[&str], node: Option<NodeId>) -> Vec<ResourceConfig> {
    let mut read = Vec::new();
    for kind in KINDS {
        let Some(value) = section.optional(kind) else { continue };
        for (index, (table, span)) in section.tables(kind, value).into_iter().enumerate() {
            let prefix = format!("{}{kind}[{}].", section.prefix, index + 1);
            let resource = Section::new(section.document(), prefix, span, table);
            read.extend(read_resource(resource, kind, nodes, node));
        }
    }
    if read.len() > RESOURCES_MAX {
        let reason = format!("it has {} resources", read.len());
        let next = format!("describe at most {RESOURCES_MAX}");
        section.document().problem(Some(section.span.clone()), &section.key(""), reason, next);
    }
    in_order(section, read)
}

/// The resources in the order of their start, each with the places of those it needs.
fn in_order(section: &Section<'_, '_>, mut read: Vec<ReadResource>) -> Vec<ResourceConfig> {
    let document = section.document();
    let names: Vec<String> = read.iter().map(|(resource, ..)| resource.name.clone()).collect();
    for (index, (resource, after, span, prefix)) in read.iter_mut().enumerate() {
        if let Some(other) = names[..index].iter().position(|name| *name == resource.name) {
            let reason = format!("the name \"{}\" is used twice in this group", names[other]);
            document.problem(Some(span.clone()), &format!("{prefix}name"), reason, "choose another");
        }
        for name in after {
            match names.iter().position(|other| other == name) {
                Some(other) => resource.needs.push(other),
                None => {
                    let reason = format!("\"{name}\" is no resource of this group");
                    let next = format!("name others of it: {}", names.join(", "));
                    document.problem(Some(span.clone()), &format!("{prefix}after"), reason, next);
                }
            }
        }
    }
    let needs: Vec<Vec<usize>> = read.iter().map(|(resource, ..)| resource.needs.clone()).collect();
    let order = match order(&needs) {
        Ok(order) => order,
        Err(circle) => {
            let (_, _, span, prefix) = &read[circle[0]];
            let mut words: Vec<&str> = circle.iter().map(|index| names[*index].as_str()).collect();
            words.push(&names[circle[0]]);
            let reason = format!("a circle: {}", words.join(" after "));
            document.problem(Some(span.clone()), &format!("{prefix}after"), reason, "remove one of these");
            return Vec::new();
        }
    };
    let place = |old: &usize| order.iter().position(|placed| placed == old).expect("everything has its place");
    let mut resources: Vec<Option<ResourceConfig>> = read.into_iter().map(|(resource, ..)| Some(resource)).collect();
    let mut take = |index: &usize| {
        let mut resource = resources[*index].take().expect("each has one place");
        resource.needs = resource.needs.iter().map(place).collect();
        resource
    };
    order.iter().map(&mut take).collect()
}

type ReadResource = (ResourceConfig, Vec<String>, Range<usize>, String);

fn read_resource(section: Section<'_, '_>, kind: &str, nodes: &[&str], node: Option<NodeId>) -> Option<ReadResource> {
    let times = ResourceTimes::read(&section);
    let list = |key: &str| {
        let value = section.optional(key);
        value.map(|value| section.texts(key, value)).unwrap_or_default()
    };
    let after = list("after").into_iter().map(|(text, _)| text.to_string()).collect();
    let mut skip_on = [false; 2];
    for (text, span) in list("skip_on") {
        match nodes.iter().take(2).position(|name| *name == text) {
            Some(index) => skip_on[index] = true,
            None => {
                let next = format!("write {}", nodes.join(" or "));
                let reason = format!("there is no node \"{text}\"");
                section.document().problem(Some(span), &section.key("skip_on"), reason, next);
            }
        }
    }
    let skip = node.is_some_and(|node| skip_on[usize::from(node.0)]);
    let what = match kind {
        "filesystem" => own(&section).map(What::FileSystem),
        "files" => own(&section).map(|config: FilesConfig| {
            if let Err(trouble) = config.check() {
                let key = section.prefix.trim_end_matches('.');
                section.document().problem(Some(section.span.clone()), key, trouble.reason, trouble.next);
            }
            What::Files(config)
        }),
        "dns" => own(&section).map(|mut config: DnsConfig| {
            if let Some(key) = &mut config.key {
                key.secret_file = section.document().folder().join(&key.secret_file);
            }
            What::Dns(config)
        }),
        "address" => own(&section).map(|mut config: AddressConfig| {
            if let Err(trouble) = config.check() {
                let key = section.prefix.trim_end_matches('.');
                section.document().problem(Some(section.span.clone()), key, trouble.reason, trouble.next);
            }
            skip_on = skip_on.map(|skip| skip | config.skip);
            config.skip |= skip;
            What::Address(config)
        }),
        "script" => own(&section).map(What::Script),
        _ => own(&section).map(What::Service),
    }?;
    let name = what.name().to_string();
    let line = section.document().line(section.span.start);
    let resource = ResourceConfig { name, what, needs: Vec::new(), skip, skip_on, times, line };
    Some((resource, after, section.span.clone(), section.prefix.clone()))
}

/// The settings that only this kind has: everything that was not asked for yet.
fn own<C: DeserializeOwned>(section: &Section<'_, '_>) -> Option<C> {
    let rest: toml::Table = section.unknown().map(|(key, value)| (key.to_string(), plain(value.get_ref()))).collect();
    match C::deserialize(Value::Table(rest)) {
        Ok(config) => Some(config),
        Err(error) => {
            let reason = error.message().replace('`', "\"");
            let next = "see the resource's settings in the reference (`twinblock check --reference`)";
            section.document().problem(Some(section.span.clone()), section.prefix.trim_end_matches('.'), reason, next);
            None
        }
    }
}

fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            i64::from_str_radix(&digits, number.radix()).map_or(Value::String(digits), Value::Integer)
        }
        DeValue::Float(number) => {
            let text = number.as_str().replace('_', "");
            text.parse().map_or(Value::String(text), Value::Float)
        }
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Datetime(date) => Value::Datetime(*date),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| plain(item.get_ref())).collect()),
        DeValue::Table(table) => {
            Value::Table(table.iter().map(|(key, value)| (key.get_ref().to_string(), plain(value.get_ref()))).collect())
        }
    }
}

/// Reports groups of the same name, volumes that are not there or in two groups, and what two resources have.
pub fn check(document: &Document<'_>, groups: &[Placed<GroupConfig>], volumes: &[&str]) {
    let mut names: Vec<(&str, usize)> = Vec::new();
    let mut owners: Vec<(&str, &str)> = Vec::new();
    for group in groups {
        let (value, span) = (&group.value, group.span.clone());
        let problem = |key: &str, reason: String, next: &str| {
            document.problem(Some(span.clone()), &format!("group.{}.{key}", value.name), reason, next);
        };
        let line = document.line(span.start);
        if let Some((_, first)) = names.iter().find(|(name, _)| *name == value.name) {
            problem(
                "name",
                format!("the group is described twice, first in line {first}"),
                "give each a name of its own",
            );
        }
        names.push((&value.name, line));
        if value.volumes.is_empty() {
            problem("volumes", "it has no volume".into(), "name at least one");
        }
        for volume in &value.volumes {
            if !volumes.contains(&volume.as_str()) {
                problem("volumes", format!("there is no volume \"{volume}\""), "name volumes of this file");
            }
            if let Some((_, other)) = owners.iter().find(|(name, _)| name == volume) {
                problem("volumes", format!("the volume \"{volume}\" is in group \"{other}\" already"), "remove one");
            }
            owners.push((volume, &value.name));
        }
    }
    super::claims::check(document, groups);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::state::Exclusion;
    use crate::runtime::config::failover::ArbiterConfig;
    use crate::runtime::config::problem::Problems;
    use crate::runtime::config::{Config, Depth, parse};
    use std::path::Path;

    const PAIR: &str = r#"cluster = "lab"
secret_file = "secret"

[[node]]
name = "alpha"
mirror = ["10.0.0.1:7101"]
heartbeat = ["10.0.0.1:7201", "192.0.2.1:7201"]

[[node]]
name = "beta"
mirror = ["10.0.0.2:7101"]
heartbeat = ["10.0.0.2:7201", "192.0.2.2:7201"]

[[volume]]
name = "vol0"

[volume.on.alpha]
disk = "/dev/vg0/vol0"

[volume.on.beta]
disk = "/dev/vg0/vol0"
"#;

    const GROUP: &str = r#"
[failover]
mode = "arbiter"

[arbiter]
kind = "etcd"
endpoints = ["http://10.0.0.3:2379"]
timeout = "500ms"

[[group]]
name = "db"
home = "beta"
volumes = ["vol0"]
fallback = "30min"

[[group.address]]
name = "ip"
address = "192.0.2.10"
ping = ["192.0.2.254"]

[[group.filesystem]]
name = "data"
device = "/dev/twinblock/vol0"
mount_point = "/srv/db"
kind = "ext4"
stop_timeout = "20s"

[[group.service]]
name = "postgres"
unit = "postgresql.service"
after = ["data", "ip"]
skip_on = ["alpha"]
"#;

    fn read(text: &str) -> Result<Config, Problems> {
        parse(Path::new("/etc/tb/pair.toml"), text, Some("alpha"), "", Depth::File)
    }

    /// The whole example with one replacement; every problem as one text.
    fn refused(from: &str, to: &str) -> String {
        let text = format!("{PAIR}{GROUP}");
        assert!(text.contains(from), "{from}");
        read(&text.replacen(from, to, 1)).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_group_is_read_in_the_order_of_its_start() {
        let config = read(&format!("{PAIR}{GROUP}")).unwrap();
        assert_eq!(config.failover.mode, FailoverMode::Arbiter);
        assert!(matches!(&config.arbiter, Some(ArbiterConfig::Etcd { timeout, .. }) if timeout.as_millis() == 500));
        let group = &config.groups[0];
        assert_eq!((group.name.as_str(), group.home), ("db", NodeId(1)));
        assert_eq!(group.settings.fallback, Fallback(Some(Duration::from_secs(1800))));
        let names: Vec<&str> = group.resources.iter().map(|resource| resource.name.as_str()).collect();
        assert_eq!(names, ["data", "ip", "postgres"]);
        assert_eq!(group.resources[0].times.stop_timeout, Duration::from_secs(20));
        assert_eq!(group.resources[2].needs, [0, 1]);
        assert!(group.resources[2].skip && !group.resources[1].skip);
        let volume = config.volume("vol0").unwrap();
        assert_eq!(config.core_settings(volume).exclusion, Exclusion::Group);
    }

    #[test]
    fn a_resource_waits_for_what_it_comes_after() {
        let later = GROUP.replace("ping = [", "after = [\"postgres\"]\nping = [").replace("[\"data\", \"ip\"]", "[]");
        let config = read(&format!("{PAIR}{later}")).unwrap();
        let names: Vec<&str> = config.groups[0].resources.iter().map(|resource| resource.name.as_str()).collect();
        assert_eq!(names, ["data", "postgres", "ip"]);
        assert_eq!(config.groups[0].resources[2].needs, [1]);
    }

    #[test]
    fn without_a_group_everything_is_by_hand() {
        let config = read(PAIR).unwrap();
        assert!(config.groups.is_empty() && config.arbiter.is_none());
        assert_eq!(config.core_settings(config.volume("vol0").unwrap()).exclusion, Exclusion::Operator);
    }

    #[test]
    fn a_split_brain_is_left_to_an_arbiter_only_where_there_is_one() {
        let with =
            |policy: &str| PAIR.replace("name = \"vol0\"\n", &format!("name = \"vol0\"\nsplit_brain = \"{policy}\"\n"));
        assert!(read(&with("discard-older")).is_ok());
        let told = read(&with("prefer-arbiter-primary")).map(|_| ()).unwrap_err().to_string();
        assert!(told.contains("volume.vol0.split_brain") && told.contains("no arbiter knows"), "{told}");
        assert!(read(&format!("{}{GROUP}", with("prefer-arbiter-primary"))).is_ok());
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let cases = [
            ("home = \"beta\"", "home = \"gamma\"", "group.db.home", "write alpha or beta"),
            ("volumes = [\"vol0\"]", "volumes = [\"vol1\"]", "group.db.volumes", "no volume \"vol1\""),
            ("fallback = \"30min\"", "fallback = \"soon\"", "group.db.fallback", "manual"),
            ("fallback =", "falback =", "group.db.falback", "did you mean `fallback`"),
            ("mount_point", "mountpoint", "group.db.filesystem[1]", "mountpoint"),
            ("address = \"192.0.2.10\"", "address = \"192.0.2.300\"", "group.db.address[1]", "invalid IP address"),
            ("after = [\"data\", \"ip\"]", "after = [\"date\"]", "group.db.service[1].after", "\"date\""),
            ("volumes = [\"vol0\"]", "volumes = []", "group.db.volumes", "no volume"),
            (
                "kind = \"ext4\"",
                "kind = \"ext4\"\nafter = [\"postgres\"]",
                "group.db.filesystem[1].after",
                "a circle: data after postgres after data",
            ),
            ("skip_on = [\"alpha\"]", "skip_on = [\"gamma\"]", "group.db.service[1].skip_on", "no node"),
            ("name = \"ip\"", "name = \"data\"", "group.db.address[1].name", "used twice"),
            ("mode = \"arbiter\"", "mode = \"quorum\"", "failover.mode", "arbiter+fencing"),
            ("mode = \"arbiter\"", "mode = \"fencing\"", "fencing", "[fencing.NODE]"),
            (
                "mode = \"arbiter\"",
                "mode = \"arbiter\"\ndead_after = \"400ms\"",
                "failover.suspect_after",
                "dead_after",
            ),
            (
                "mode = \"arbiter\"",
                "mode = \"best-effort\"\nping = [\"10.0.0.9\"]",
                "failover.accept_split_brain_risk",
                "both servers may serve at once",
            ),
            (
                "mode = \"arbiter\"",
                "mode = \"best-effort\"\naccept_split_brain_risk = true",
                "failover.ping",
                "needs hosts that show",
            ),
            (
                "mode = \"arbiter\"",
                "mode = \"best-effort\"\naccept_split_brain_risk = true\nping = [\"10.0.0.9\"]\nquiet_time = \"1500ms\"",
                "failover.quiet_time",
                "at least 2 s",
            ),
            ("mode = \"arbiter\"", "mode = \"arbiter\"\nping = [\"gateway\"]", "failover.ping", "numeric addresses"),
            ("http://10.0.0.3:2379", "https://10.0.0.3:2379", "arbiter.ca", "authority"),
            ("http://10.0.0.3:2379", "10.0.0.3:2379", "arbiter.endpoints", "https://"),
            ("kind = \"etcd\"", "kind = \"consul\"", "arbiter.kind", "etcd or file"),
        ];
        for (from, to, key, words) in cases {
            let told = refused(from, to);
            assert!(told.contains(key) && told.contains(words), "{to}: {told}");
        }
    }

    #[test]
    fn a_volume_is_served_at_its_own_groups_address_by_both_servers() {
        let at = |address: &str, node: &str| {
            let disk = format!("[volume.on.{node}]\ndisk = \"/dev/vg0/vol0\"\n");
            (disk.clone(), format!("{disk}nbd = [\"tcp:{address}\"]\n"))
        };
        let with = |places: [(String, String); 2]| {
            places.into_iter().fold(format!("{PAIR}{GROUP}"), |text, (from, to)| text.replacen(&from, &to, 1))
        };
        let both = with([at("192.0.2.10:10809", "alpha"), at("192.0.2.10:10809", "beta")]);
        assert!(read(&both).unwrap().warnings.is_empty());
        let one = read(&with([at("192.0.2.10:10809", "alpha"), at("192.0.2.2:10809", "beta")])).unwrap();
        let warning = "while the group \"db\" is on beta, clients of 192.0.2.10:10809 find nobody";
        assert!(one.warnings[0].contains(warning), "{:?}", one.warnings);
        let told = |text: &str| read(text).map(|_| ()).unwrap_err().to_string();
        // Neither a server's own address nor another volume's.
        let own = told(&with([at("192.0.2.2:10809", "alpha"), at("192.0.2.2:10809", "beta")]));
        assert!(own.contains("192.0.2.2:10809 is also in volume.vol0.on.alpha.nbd"), "{own}");
        let foreign = told(&both.replace("volumes = [\"vol0\"]", "volumes = []"));
        assert!(foreign.contains("192.0.2.10 floats with the group \"db\", to which the volume \"vol0\""), "{foreign}");
    }

    #[test]
    fn what_moves_is_owned_once() {
        let twice =
            format!("{PAIR}{GROUP}{}", GROUP.split_once("[[group]]").unwrap().1.replacen("\n", "\n[[group]]\n", 1));
        let told = read(&twice).map(|_| ()).unwrap_err().to_string();
        for words in [
            "described twice",
            "the volume \"vol0\" is in group \"db\" already",
            "the address 192.0.2.10 belongs to address \"ip\" of group \"db\" already (line 37)",
            "the device /dev/twinblock/vol0 belongs to filesystem \"data\" of group \"db\" already",
            "the mount point /srv/db belongs",
            "the unit postgresql.service belongs",
        ] {
            assert!(told.contains(words), "{words}: {told}");
        }
    }
}
