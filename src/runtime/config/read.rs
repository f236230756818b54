//! From the document to a [`Config`]: every key of the file is read here, in the order of the reference.

use super::address::{self, NbdAddress};
use super::check;
use super::document::{Document, Section};
use super::failover::{self, ArbiterConfig, FailoverSettings, FencingConfig};
use super::group::{self, GroupConfig};
use super::problem::Problems;
use super::settings::{DaemonSettings, VolumeSettings};
use super::{ADDRESSES_MAX, Config, Depth, NAME_BYTES_MAX, NodeConfig, PlaceConfig, VOLUMES_MAX, VolumeConfig, secret};
use crate::base::ids::NodeId;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// What a read needs besides the text.
pub struct Reader<'r> {
    /// Name given with `--node`.
    pub node: Option<&'r str>,
    /// Host name, which stands in for it.
    pub host: &'r str,
    /// How much of the world to look at.
    pub depth: Depth,
}

/// A node or volume with the places of its parts, so that later checks can name lines.
pub struct Placed<T> {
    /// What was read.
    pub value: T,
    /// Where its section stands.
    pub span: Range<usize>,
    /// Where its addresses stand, with the key they belong to.
    pub addresses: Vec<(String, Range<usize>, Address)>,
}

/// An address as far as uniqueness goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Of the replication link or the heartbeat.
    Peer(std::net::SocketAddr),
    /// Of an NBD listener.
    Nbd(NbdAddress),
}

/// Reads a whole file.
pub fn read(file: &Path, text: &str, reader: Reader<'_>) -> Result<Config, Problems> {
    let document = Document::new(file, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            let next = "correct the TOML at this place";
            document.problem(error.span(), "", error.message(), next);
        }
        return document.finish(None);
    }
    let root = Section::new(&document, "", 0..0, table.get_ref());
    let config = reader.config(&root);
    root.end();
    document.finish(config)
}

impl Reader<'_> {
    fn config(&self, root: &Section<'_, '_>) -> Option<Config> {
        let document = root.document();
        let cluster = root.required("cluster", "cluster = \"lab\"").and_then(|value| {
            let text = root.text("cluster", value)?;
            name(root, "cluster", text, value.span())
        });
        let secret_file = path(root, "secret_file", Some("secret_file = \"secret\""));
        let daemon = match root.optional("daemon").and_then(|value| root.table("daemon", value)) {
            Some(section) => {
                let settings = DaemonSettings::read(&section);
                settings.check(&section);
                section.end();
                settings
            }
            None => DaemonSettings::default(),
        };
        let nodes = read_nodes(root);
        let names: Vec<&str> = nodes.iter().map(|node| node.value.name.as_str()).collect();
        let volumes = read_volumes(root, &names);
        check::nodes(document, &nodes);
        check::volumes(document, &nodes, &volumes);
        let node = self.which_node(document, &names);
        let decision = read_failover(root, &nodes, &names, node, &volumes);
        let mut warnings = decision.warnings;
        let secret = match (&secret_file, self.depth) {
            (Some((path, span)), Depth::Secret) => match secret::read(path) {
                Ok((secret, warning)) => {
                    warnings.extend(warning);
                    Some(secret)
                }
                Err((reason, next)) => {
                    document.problem(Some(span.clone()), "secret_file", reason, next);
                    None
                }
            },
            _ => None,
        };
        let nodes: Vec<NodeConfig> = nodes.into_iter().map(|node| node.value).collect();
        let mut config = Config {
            file: document.file().to_path_buf(),
            cluster: cluster?,
            secret_file: secret_file?.0,
            secret,
            daemon,
            nodes: nodes.try_into().ok()?,
            node: node?,
            volumes: volumes.into_iter().map(|volume| volume.value).collect(),
            failover: decision.settings,
            arbiter: decision.arbiter,
            fencing: decision.fencing,
            groups: decision.groups,
            digest: 0,
            warnings,
        };
        config.digest = config.form().digest();
        Some(config)
    }

    fn which_node(&self, document: &Document<'_>, names: &[&str]) -> Option<NodeId> {
        let choice = names.join(" or ");
        let host = self.host.split('.').next().unwrap_or_default();
        let wanted = self.node.unwrap_or(host);
        let found = names.iter().position(|name| *name == wanted);
        let found = found.or_else(|| names.iter().position(|name| self.node.is_none() && *name == self.host));
        if found.is_none() && names.len() == 2 {
            let (reason, next) = match self.node {
                Some(node) => (format!("there is no node \"{node}\""), format!("name {choice} with --node")),
                None => (
                    format!("this host is called \"{}\", which is none of the nodes", self.host),
                    format!("say which one it is with --node {choice}"),
                ),
            };
            document.problem(None, "node", reason, next);
        }
        found.map(|index| NodeId(index as u8))
    }
}

/// Who decides, how a server is switched off, and what moves.
struct Decision {
    settings: FailoverSettings,
    arbiter: Option<ArbiterConfig>,
    fencing: [Option<FencingConfig>; 2],
    groups: Vec<GroupConfig>,
    warnings: Vec<String>,
}

fn read_failover(
    root: &Section<'_, '_>,
    nodes: &[Placed<NodeConfig>],
    names: &[&str],
    node: Option<NodeId>,
    volumes: &[Placed<VolumeConfig>],
) -> Decision {
    let section = |key: &str| root.optional(key).and_then(|value| root.table(key, value));
    let settings = section("failover").map_or_else(FailoverSettings::default, |section| {
        let settings = FailoverSettings::read(&section);
        settings.check(&section);
        section.end();
        settings
    });
    let arbiter_section = section("arbiter");
    let has_arbiter = arbiter_section.is_some();
    let arbiter = arbiter_section.and_then(failover::read_arbiter);
    let fencing_section = section("fencing");
    let fencing = fencing_section.as_ref().map_or([None, None], |section| failover::read_fencing(section, names));
    let has_fencing = [0, 1].map(|index| {
        let name = names.get(index).copied().unwrap_or_default();
        fencing_section.as_ref().is_some_and(|section| section.optional(name).is_some())
    });
    if let Some(section) = fencing_section {
        section.end();
    }
    let mut groups = group::read_groups(root, names, node);
    groups.iter_mut().for_each(|group| group.value.resolve(settings.mode));
    let document = root.document();
    group::check(document, &groups, &volumes.iter().map(|volume| volume.value.name.as_str()).collect::<Vec<_>>());
    check::split_brains(document, volumes, &groups, settings.mode);
    let warnings = check::nbd(document, nodes, volumes, &groups);
    let heartbeats = [0, 1].map(|index| nodes.get(index).is_some_and(|node| !node.value.heartbeat.is_empty()));
    failover::check(document, &settings, has_arbiter, has_fencing, heartbeats, !groups.is_empty());
    let groups = groups.into_iter().map(|group| group.value).collect();
    Decision { settings, arbiter, fencing, groups, warnings }
}

fn read_nodes(root: &Section<'_, '_>) -> Vec<Placed<NodeConfig>> {
    let Some(value) = root.required("node", "[[node]]") else { return Vec::new() };
    let tables = root.tables("node", value);
    if tables.len() != 2 {
        let reason = format!("there are {} nodes", tables.len());
        let span = tables.last().map(|(_, span)| span.clone());
        root.document().problem(span, "node", reason, "describe exactly two, each in a [[node]] section");
    }
    tables.into_iter().enumerate().filter_map(|(index, table)| read_node(root, index, table)).collect()
}

fn read_node<'d>(
    root: &Section<'_, 'd>,
    index: usize,
    (table, span): (&'d DeTable<'d>, Range<usize>),
) -> Option<Placed<NodeConfig>> {
    let mut section = Section::new(root.document(), format!("node[{}].", index + 1), span.clone(), table);
    let name = read_name(&mut section, "node", "name = \"alpha\"");
    let mut addresses = Vec::new();
    let mut sockets = |key: &str, value| {
        let mut list = Vec::new();
        for (text, span) in bounded_texts(&section, key, value) {
            match address::parse_peer_socket(text) {
                Ok(socket) => {
                    addresses.push((section.key(key), span, Address::Peer(socket)));
                    list.push(socket);
                }
                Err((reason, next)) => section.document().problem(Some(span), &section.key(key), reason, next),
            }
        }
        list
    };
    let mirror =
        section.required("mirror", "mirror = [\"10.0.0.1:7101\"]").map(|value| (value, sockets("mirror", value)));
    if let Some((value, list)) = &mirror
        && list.is_empty()
        && value.get_ref().as_array().is_some_and(|items| items.is_empty())
    {
        let next = "name at least one address, as in [\"10.0.0.1:7101\"]";
        section.document().problem(Some(value.span()), &section.key("mirror"), "the list is empty", next);
    }
    let heartbeat = section.optional("heartbeat").map(|value| sockets("heartbeat", value)).unwrap_or_default();
    let shown = name.clone().unwrap_or_default();
    let control = path(&section, "control", None).map(|(path, span)| {
        if let Err((reason, next)) = address::check_unix_path(&path) {
            section.document().problem(Some(span), &section.key("control"), reason, next);
        }
        path
    });
    let state_dir = path(&section, "state_dir", None).map(|(path, _)| path);
    let archive_dir = path(&section, "archive_dir", None).map(|(path, _)| path);
    let state_dir = state_dir.unwrap_or_else(|| PathBuf::from(format!("/var/lib/twinblock/{shown}")));
    let device_dir = path(&section, "device_dir", None).map(|(path, _)| path);
    section.end();
    let value = NodeConfig {
        name: name?,
        mirror: mirror.map(|(_, list)| list).unwrap_or_default(),
        heartbeat,
        control: control.unwrap_or_else(|| PathBuf::from(format!("/run/twinblock/{shown}.sock"))),
        archive_dir: archive_dir.unwrap_or_else(|| state_dir.join("archive")),
        state_dir,
        device_dir: device_dir.unwrap_or_else(|| PathBuf::from("/dev/twinblock")),
    };
    Some(Placed { value, span, addresses })
}

fn read_volumes(root: &Section<'_, '_>, nodes: &[&str]) -> Vec<Placed<VolumeConfig>> {
    let Some(value) = root.required("volume", "[[volume]]") else { return Vec::new() };
    let tables = root.tables("volume", value);
    if tables.is_empty() || tables.len() > VOLUMES_MAX {
        let reason = format!("there are {} volumes", tables.len());
        let next = format!("describe 1 to {VOLUMES_MAX}, each in a [[volume]] section");
        root.document().problem(Some(value.span()), "volume", reason, next);
    }
    tables.into_iter().enumerate().filter_map(|(index, table)| read_volume(root, index, table, nodes)).collect()
}

fn read_volume<'d>(
    root: &Section<'_, 'd>,
    index: usize,
    (table, span): (&'d DeTable<'d>, Range<usize>),
    nodes: &[&str],
) -> Option<Placed<VolumeConfig>> {
    let document = root.document();
    let mut section = Section::new(document, format!("volume[{}].", index + 1), span.clone(), table);
    let name = read_name(&mut section, "volume", "name = \"vol0\"");
    let settings = VolumeSettings::read(&section);
    settings.check(document, &section);
    let mut addresses = Vec::new();
    let mut places = Vec::new();
    if let Some(on) = section.required("on", "[volume.on.NODE]").and_then(|value| section.table("on", value)) {
        for node in nodes {
            let place = on
                .required(node, &format!("[volume.on.{node}]"))
                .and_then(|value| on.table(node, value))
                .and_then(|place| read_place(place, &mut addresses));
            places.extend(place);
        }
        // Of nodes with the same name only one can be described here; that is told already.
        if nodes.len() == 2 && nodes[0] != nodes[1] {
            on.end();
        }
    }
    section.end();
    Some(Placed { value: VolumeConfig { name: name?, settings, on: places.try_into().ok()? }, span, addresses })
}

fn read_place(section: Section<'_, '_>, addresses: &mut Vec<(String, Range<usize>, Address)>) -> Option<PlaceConfig> {
    let document = section.document();
    let disk = path(&section, "disk", Some("disk = \"/dev/vg0/vol0\""));
    // A file that happens to be called so is written "./internal".
    let internal = section.optional("metadata").is_some_and(|value| value.get_ref().as_str() == Some("internal"));
    let metadata = if internal { None } else { path(&section, "metadata", None).map(|(path, _)| path) };
    let mut nbd = Vec::new();
    if let Some(value) = section.optional("nbd") {
        for (text, span) in bounded_texts(&section, "nbd", value) {
            match address::parse_nbd(text, |path| document.path(path)) {
                Ok(address) => {
                    addresses.push((section.key("nbd"), span, Address::Nbd(address.clone())));
                    nbd.push(address);
                }
                Err((reason, next)) => document.problem(Some(span), &section.key("nbd"), reason, next),
            }
        }
    }
    section.end();
    Some(PlaceConfig { disk: disk?.0, metadata, nbd })
}

/// Reads the name of a section, and shows the section by that name from here on.
pub(super) fn read_name(section: &mut Section<'_, '_>, kind: &str, example: &str) -> Option<String> {
    let value = section.required("name", example)?;
    let text = section.text("name", value)?;
    let name = name(section, "name", text, value.span())?;
    section.prefix = format!("{kind}.{name}.");
    Some(name)
}

/// Checks a name: letters, digits, hyphen, underscore.
fn name(section: &Section<'_, '_>, key: &str, text: &str, span: Range<usize>) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let problem = |reason: String| {
        let next = format!("use 1 to {NAME_BYTES_MAX} letters, digits, hyphens and underscores, the first no hyphen");
        section.document().problem(Some(span.clone()), &section.key(key), reason, next);
        None
    };
    match text.bytes().find(|byte| !allowed(*byte)) {
        Some(_) => problem(format!("the name {text:?} has characters that are not allowed")),
        None if text.is_empty() => problem("the name is empty".into()),
        None if text.starts_with('-') => problem(format!("the name {text:?} would look like an option")),
        None if text.len() > NAME_BYTES_MAX => problem(format!("the name has {} characters", text.len())),
        None => Some(text.to_string()),
    }
}

/// Reads a path; it is required when there is an example to show.
pub(super) fn path(section: &Section<'_, '_>, key: &str, example: Option<&str>) -> Option<(PathBuf, Range<usize>)> {
    let value = match example {
        Some(example) => section.required(key, example)?,
        None => section.optional(key)?,
    };
    let text = section.text(key, value)?;
    if text.is_empty() || text.contains('\0') {
        section.document().problem(
            Some(value.span()),
            &section.key(key),
            "this is no path",
            "write the path of a file",
        );
        return None;
    }
    Some((section.document().path(text), value.span()))
}

pub(super) fn bounded_texts<'d>(
    section: &Section<'_, 'd>,
    key: &str,
    value: super::document::Value<'d>,
) -> Vec<(&'d str, Range<usize>)> {
    let mut texts = section.texts(key, value);
    if texts.len() > ADDRESSES_MAX {
        let reason = format!("the list has {} addresses", texts.len());
        section.document().problem(
            Some(value.span()),
            &section.key(key),
            reason,
            format!("write at most {ADDRESSES_MAX}"),
        );
        texts.truncate(ADDRESSES_MAX);
    }
    texts
}
