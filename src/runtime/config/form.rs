//! A configuration in one form: every setting with its value, defaults filled in, whichever way the file is written.
//!
//! Two servers, or a daemon and its changed file, are compared by it: section by section and key by key, so that a
//! difference has a name. What is secret is not in it: the secret file is left out, and of a fence agent's options only a
//! digest is there. A section is called as people call it (`volume vol0 on alpha`, `group db: address ip`).

use super::failover::{ArbiterConfig, FencingConfig};
use super::group::GroupConfig;
use super::{Config, VolumeConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Longest value shown in a difference, in characters; the rest is left out.
const VALUE_SHOWN_MAX: usize = 120;

/// Section, key, value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Form(BTreeMap<String, BTreeMap<String, String>>);

/// A setting that two forms don't have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its section.
    pub section: String,
    /// Its key; empty when one side does not have the section at all.
    pub key: String,
    /// The value here; `None`: not set.
    pub here: Option<String>,
    /// The value there.
    pub there: Option<String>,
}

impl Form {
    /// Checksum that two equal forms share.
    pub fn digest(&self) -> u64 {
        let text = serde_json::to_vec(self).expect("texts can be written as JSON");
        u64::from_be_bytes(Sha256::digest(text)[..8].try_into().expect("a digest has 32 bytes"))
    }

    /// Everything that differs, in the order of the sections.
    pub fn differences(&self, there: &Form) -> Vec<Difference> {
        let mut list = Vec::new();
        let sections: BTreeSet<&String> = self.0.keys().chain(there.0.keys()).collect();
        for section in sections {
            let difference = |key: &str, here: Option<&String>, there: Option<&String>| Difference {
                section: section.clone(),
                key: key.to_string(),
                here: here.cloned(),
                there: there.cloned(),
            };
            let present = String::from("present");
            match (self.0.get(section), there.0.get(section)) {
                (Some(one), Some(other)) => {
                    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
                    let differing = keys.into_iter().filter(|key| one.get(*key) != other.get(*key));
                    list.extend(differing.map(|key| difference(key, one.get(key), other.get(key))));
                }
                (one, other) => list.push(difference("", one.map(|_| &present), other.map(|_| &present))),
            }
        }
        list
    }

    fn put(&mut self, section: &str, key: &str, value: impl Into<String>) {
        self.0.entry(section.to_string()).or_default().insert(key.to_string(), value.into());
    }

    fn put_all<'k>(&mut self, section: &str, entries: impl IntoIterator<Item = (&'k str, String)>) {
        entries.into_iter().for_each(|(key, value)| self.put(section, key, value));
    }
}

impl Difference {
    /// The setting, as in `group db: address ip: prefix`.
    pub fn name(&self) -> String {
        if self.key.is_empty() { self.section.clone() } else { format!("{}: {}", self.section, self.key) }
    }

    /// As a sentence about this node and the other one.
    pub fn between(&self, there: &str) -> String {
        let (one, other) = (shown(self.here.as_deref()), shown(self.there.as_deref()));
        match (&self.here, &self.there) {
            (Some(_), None) if self.key.is_empty() => format!("{}: only here", self.section),
            (None, Some(_)) if self.key.is_empty() => format!("{}: only on {there}", self.section),
            _ if hidden(one.as_str()) => format!("{}: other values here and on {there}", self.name()),
            _ => format!("{} {one} here, {other} on {there}", self.name()),
        }
    }
}

/// As a change from `here` to `there`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (shown(self.here.as_deref()), shown(self.there.as_deref()));
        match (&self.here, &self.there) {
            (Some(_), None) if self.key.is_empty() => write!(f, "{}: removed", self.section),
            (None, Some(_)) if self.key.is_empty() => write!(f, "{}: new", self.section),
            _ if hidden(before.as_str()) => write!(f, "{}: another value", self.name()),
            _ => write!(f, "{}: {before}, now {after}", self.name()),
        }
    }
}

/// A value for people: on one line, and no longer than is of use.
fn shown(value: Option<&str>) -> String {
    let Some(value) = value else { return "not set".into() };
    if value.is_empty() {
        return "empty".into();
    }
    let plain: String = value.chars().take(VALUE_SHOWN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.chars().count() > VALUE_SHOWN_MAX { format!("{plain}...") } else { plain }
}

fn hidden(value: &str) -> bool {
    value.starts_with(HIDDEN)
}

/// What the digest of a value that is not shown begins with.
const HIDDEN: &str = "hidden:";

/// The form of a configuration.
pub fn of(config: &Config) -> Form {
    let mut form = Form::default();
    form.put("cluster", "name", &config.cluster);
    form.put_all("daemon", config.daemon.entries());
    for (index, node) in config.nodes.iter().enumerate() {
        let section = format!("node {}", node.name);
        form.put(&section, "place in the file", (index + 1).to_string());
        form.put(&section, "mirror", list(&node.mirror));
        form.put(&section, "heartbeat", list(&node.heartbeat));
        form.put(&section, "control", node.control.display().to_string());
        form.put(&section, "state_dir", node.state_dir.display().to_string());
    }
    config.volumes.iter().for_each(|volume| put_volume(&mut form, config, volume));
    form.put_all("failover", config.failover.entries());
    if let Some(arbiter) = &config.arbiter {
        put_arbiter(&mut form, arbiter);
    }
    for (node, device) in config.nodes.iter().zip(&config.fencing) {
        if let Some(device) = device {
            put_device(&mut form, &format!("fencing {}", node.name), device);
        }
    }
    config.groups.iter().for_each(|group| put_group(&mut form, config, group));
    form
}

fn put_volume(form: &mut Form, config: &Config, volume: &VolumeConfig) {
    let section = format!("volume {}", volume.name);
    form.put_all(&section, volume.settings.entries());
    for (node, place) in config.nodes.iter().zip(&volume.on) {
        let section = format!("{section} on {}", node.name);
        let metadata = place.metadata.as_ref().map_or("internal".into(), |path| path.display().to_string());
        form.put(&section, "disk", place.disk.display().to_string());
        form.put(&section, "metadata", metadata);
        form.put(&section, "nbd", list(&place.nbd));
    }
}

fn put_arbiter(form: &mut Form, arbiter: &ArbiterConfig) {
    match arbiter {
        ArbiterConfig::File { directory, timeout } => {
            form.put("arbiter", "kind", "file");
            form.put("arbiter", "directory", directory.display().to_string());
            form.put("arbiter", "timeout", super::units::write_time(*timeout));
        }
        ArbiterConfig::Etcd { spec, timeout } => {
            form.put("arbiter", "kind", "etcd");
            form.put("arbiter", "endpoints", list(&spec.endpoints));
            form.put("arbiter", "prefix", &spec.prefix);
            form.put("arbiter", "timeout", super::units::write_time(*timeout));
            if let Some(tls) = &spec.tls {
                form.put("arbiter", "ca", tls.ca.display().to_string());
                if let Some((certificate, key)) = &tls.identity {
                    form.put("arbiter", "certificate", certificate.display().to_string());
                    form.put("arbiter", "key", key.display().to_string());
                }
            }
            if let Some(user) = &spec.user {
                form.put("arbiter", "user", &user.name);
                form.put("arbiter", "password_file", user.password_file.display().to_string());
            }
        }
    }
}

fn put_device(form: &mut Form, section: &str, device: &FencingConfig) {
    let key = if device.is_agent { "agent" } else { "script" };
    form.put(section, key, device.program.display().to_string());
    form.put(section, "timeout", super::units::write_time(device.timeout));
    for (key, value) in &device.options {
        // Passwords are often among them.
        let digest = Sha256::new().chain_update(key).chain_update([0]).chain_update(value).finalize();
        let short: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        form.put(section, &format!("options.{key}"), format!("{HIDDEN}{short}"));
    }
    for (key, path) in &device.secret_options {
        form.put(section, &format!("secret_options.{key}"), path.display().to_string());
    }
}

fn put_group(form: &mut Form, config: &Config, group: &GroupConfig) {
    let section = format!("group {}", group.name);
    form.put(&section, "home", &config.nodes[usize::from(group.home.0)].name);
    form.put(&section, "volumes", list(&group.volumes));
    form.put_all(&section, group.settings.entries());
    let names: Vec<&str> = group.resources.iter().map(|resource| resource.name.as_str()).collect();
    form.put(&section, "order of its resources", list(&names));
    for resource in &group.resources {
        let section = format!("{section}: {} {}", resource.what.kind(), resource.name);
        form.put_all(&section, resource.times.entries());
        let after: Vec<&str> = resource.needs.iter().map(|index| names[*index]).collect();
        form.put(&section, "after", list(&after));
        let nodes = config.nodes.iter().zip(resource.skip_on);
        let skipped: Vec<&str> = nodes.filter(|(_, skip)| *skip).map(|(node, _)| node.name.as_str()).collect();
        form.put(&section, "skip_on", list(&skipped));
        let own = serde_json::to_value(&resource.what).expect("settings can be written as JSON");
        put_value(form, &section, "", &own);
    }
}

/// Puts what a kind of resource has for itself; `skip` is another on each server, and `skip_on` tells it.
fn put_value(form: &mut Form, section: &str, key: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !["name", "skip"].contains(&name.as_str())) {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                put_value(form, section, &key, value);
            }
        }
        Value::String(text) => form.put(section, key, text),
        Value::Array(items) => {
            let words: Vec<String> =
                items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_string)).collect();
            form.put(section, key, list(&words));
        }
        other => form.put(section, key, other.to_string()),
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
