//! The sections `[failover]`, `[arbiter]` and `[fencing.NODE]`: who decides that a server is lost, and how soon.

use super::document::{Document, Section};
use super::read;
use super::settings::{CommandLine, Kind, Row, read_value, settings};
use super::units;
use crate::base::group::FailoverMode;
use crate::base::ids::{Incarnation, NodeId};
use crate::base::limits::ARBITER_SIGN_TIME;
use crate::runtime::arbiter::etcd::endpoint::Endpoint;
use crate::runtime::arbiter::etcd::tls::TlsSpec;
use crate::runtime::arbiter::etcd::{EtcdSpec, User};
use crate::runtime::arbiter::file::SharedSpec;
use crate::runtime::resource::address::PING_TARGETS_MAX;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

settings! {
    /// Settings of failover, in the section `[failover]`; the same for every group.
    FailoverSettings {
        /// How it is made sure that only one server serves. `manual`: nobody takes over by itself. `arbiter`: whoever
        /// changes the arbiter's record first. `fencing`: whoever has the other one confirmed off. `arbiter+fencing`:
        /// both. `best-effort`: whoever reaches the `ping` list while the other one is silent on every address; both may
        /// serve at once, see `accept_split_brain_risk`.
        mode: FailoverMode = "manual";
        /// Time between two heartbeats on each path.
        heartbeat_interval: Duration = "100ms", "10ms" to "10s";
        /// Silence of every path and of the link after which the other server is suspected, and looked for by other means.
        suspect_after: Duration = "500ms", "100ms" to "10min";
        /// Silence after which it is lost. A false alarm costs a move of the group, never data.
        dead_after: Duration = "1s", "300ms" to "10min";
        /// How long a starting server waits for one it never heard.
        init_dead_after: Duration = "2min", "1s" to "1h";
        /// Largest difference between the rates of two servers' clocks, in parts per thousand.
        clock_rate_per_mille: u32 = "5", "0" to "100";
        /// Taken off the time a server may answer reads after it was last confirmed.
        permit_margin: Duration = "20ms", "1ms" to "1s";
        /// Time between two looks at the arbiter while nothing happens.
        arbiter_interval: Duration = "5s", "500ms" to "10min";
        /// Time between two tries at an arbiter, agent or ping that failed.
        retry_interval: Duration = "500ms", "50ms" to "1min";
        /// Head start of the server that owns the group, before the other one has it switched off.
        fence_delay: Duration = "2s", "0" to "1min";
        /// A server that was switched off and on again may take over although acknowledged writes that were never flushed
        /// may be lost, and so may one whose volume is asynchronous (`mode = "async"`) although the last ones may not have
        /// arrived; clients of before are refused. Otherwise an operator decides.
        unclean_takeover: bool = "false";
        /// How long such a server waits for the other one before that.
        peer_wait: Duration = "1min", "1s" to "1h";
        /// Shortest time between two changes of role that no loss forced.
        flap_guard: Duration = "10min", "0" to "1d";
        /// How long a server may serve without its own disk before the group moves.
        critical_delay_storage: Duration = "10s", "0" to "1h";
        /// How long a critical resource may be down before the group moves.
        critical_delay_service: Duration = "90s", "0" to "1h";
        /// A volume's thread that makes no turn for so long is stuck.
        stall_after: Duration = "5s", "1s" to "10min";
        /// Longest time a volume may take for a change of role.
        mirror_timeout: Duration = "1min", "1s" to "1h";
        /// How long the other server may leave the offer of a group unanswered before that is said.
        handover_timeout: Duration = "10s", "1s" to "10min";
        /// Program told of each change of role when it begins and when it has ended, and of each alarm; by environment
        /// variables named TWINBLOCK_EVENT, TWINBLOCK_WORDS, TWINBLOCK_GROUP, TWINBLOCK_STAGES and so on. One at a time, and
        /// nothing waits for it.
        hook: CommandLine = "none";
        /// Longest time the hook may take before it is killed.
        hook_timeout: Duration = "10s", "100ms" to "10min";
        /// Addresses, of other hosts than the two servers, that answer a ping when this server's network is alive; any answer
        /// counts. Asked in mode `best-effort`.
        ping: Targets = "none";
        /// How long the other server's addresses and the floating ones must be silent before this one takes over in mode
        /// `best-effort`. At least twice `dead_after`.
        quiet_time: Duration = "2s", "600ms" to "1h";
        /// Longest wait for the answers to one round of questions in mode `best-effort`.
        probe_wait: Duration = "300ms", "50ms" to "5s";
        /// Demanded by mode `best-effort`: two servers that can't see each other may both serve, and the writes of one of them
        /// are then given up.
        accept_split_brain_risk: bool = "false";
    }
}

impl FailoverSettings {
    /// Reports settings that contradict each other.
    pub fn check(&self, section: &Section<'_, '_>) {
        let problem = |key: &str, reason: String, next: String| {
            section.document().problem(Some(section.span.clone()), &section.key(key), reason, next);
        };
        let ordered = [
            ("heartbeat_interval", self.heartbeat_interval * BEATS_PER_SUSPICION, "suspect_after", self.suspect_after),
            ("suspect_after", self.suspect_after, "dead_after", self.dead_after),
            ("dead_after", self.dead_after, "init_dead_after", self.init_dead_after),
        ];
        for (low_key, low, high_key, high) in ordered {
            if low > high {
                let reason = format!("`{high_key}` is too short for it");
                problem(low_key, reason, format!("make `{high_key}` at least {}", units::show_time(low)));
            }
        }
        if self.mode != FailoverMode::BestEffort {
            return;
        }
        if !self.accept_split_brain_risk {
            let reason =
                "in mode `best-effort` both servers may serve at once, and one side's writes are lost then".into();
            let next = "use an arbiter, or write `accept_split_brain_risk = true` if you accept that";
            problem("accept_split_brain_risk", reason, next.into());
        }
        if self.ping.0.is_empty() {
            let reason = "mode `best-effort` needs hosts that show whether this server's network is alive".into();
            problem("ping", reason, "name a few, as in `ping = [\"192.0.2.1\"]`: the gateway, a switch".into());
        }
        let least = self.dead_after * QUIET_PER_DEATH;
        if self.quiet_time < least {
            let reason = "the other server would be taken for dead before it gives up by itself".into();
            problem("quiet_time", reason, format!("make it at least {}", units::show_time(least)));
        }
    }
}

/// The other server must be silent for so many times the time after which it would isolate itself.
const QUIET_PER_DEATH: u32 = 2;

/// Hosts that are asked whether the network is there.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Targets(pub Vec<IpAddr>);

impl Kind for Targets {
    const WORDS: &'static str = "list of addresses";
    fn from_text(text: &str) -> Result<Targets, String> {
        if text == "none" {
            return Ok(Targets::default());
        }
        let list: Result<Vec<IpAddr>, _> = text.split(", ").map(str::parse).collect();
        match list {
            Ok(list) if list.len() <= PING_TARGETS_MAX => Ok(Targets(list)),
            Ok(_) => Err(format!("expected at most {PING_TARGETS_MAX} addresses")),
            Err(_) => Err("expected a list of numeric addresses, as in [\"192.0.2.1\"]".into()),
        }
    }
    fn text(value: &DeValue<'_>) -> Option<String> {
        let items: Option<Vec<&str>> = value.as_array()?.iter().map(|item| item.get_ref().as_str()).collect();
        items.map(|items| if items.is_empty() { "none".to_string() } else { items.join(", ") })
    }
    fn show(&self) -> String {
        if self.0.is_empty() {
            return "none".to_string();
        }
        self.0.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Heartbeats that must be missing before anybody is suspected.
const BEATS_PER_SUSPICION: u32 = 3;

impl Kind for FailoverMode {
    const WORDS: &'static str = "manual, arbiter, fencing, arbiter+fencing, best-effort";
    fn from_text(text: &str) -> Result<FailoverMode, String> {
        let known = FailoverMode::ALL.iter().find(|mode| mode.word() == text);
        known.copied().ok_or_else(|| format!("expected one of {}", Self::WORDS))
    }
    fn show(&self) -> String {
        self.word().to_string()
    }
}

/// The arbiter as configured.
#[derive(Clone, Debug)]
pub enum ArbiterConfig {
    /// An etcd.
    Etcd {
        /// Which, and how it is reached.
        spec: EtcdSpec,
        /// Longest time one question may take.
        timeout: Duration,
    },
    /// A directory on storage that both servers share.
    File {
        /// The directory.
        directory: PathBuf,
        /// Longest time one question may take.
        timeout: Duration,
    },
}

/// How one server is switched off by the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencingConfig {
    /// The program: a fence agent, or a script.
    pub program: PathBuf,
    /// A fence agent takes its options on standard input.
    pub is_agent: bool,
    /// Options for the agent, in the order of the file.
    pub options: Vec<(String, String)>,
    /// Options whose values are read from files that only their owner may read.
    pub secret_options: Vec<(String, PathBuf)>,
    /// Longest time until the server must be confirmed off.
    pub timeout: Duration,
}

settings! {
    /// Settings of the arbiter besides where it is, in the section `[arbiter]`.
    ArbiterTimes {
        /// Longest time one question to the arbiter may take.
        timeout: Duration = "1s", "50ms" to "1min";
    }
}

settings! {
    /// Settings of a fencing device, in the section `[fencing.NODE]`.
    FencingTimes {
        /// Longest time until the server must be confirmed off.
        timeout: Duration = "1min", "1s" to "10min";
    }
}

/// Reads `[arbiter]`.
pub fn read_arbiter(section: Section<'_, '_>) -> Option<ArbiterConfig> {
    let times = ArbiterTimes::read(&section);
    let kind = section.required("kind", "kind = \"etcd\"").and_then(|value| section.text("kind", value));
    let config = match kind {
        Some("etcd") => read_etcd(&section).map(|spec| ArbiterConfig::Etcd { spec, timeout: times.timeout }),
        Some("file") => read::path(&section, "directory", Some("directory = \"/shared/twinblock\""))
            .map(|(directory, _)| ArbiterConfig::File { directory, timeout: times.timeout }),
        Some(other) => {
            let reason = format!("there is no arbiter of kind \"{other}\"");
            section.document().problem(Some(section.span.clone()), &section.key("kind"), reason, "write etcd or file");
            None
        }
        None => None,
    };
    section.end();
    config
}

fn read_etcd(section: &Section<'_, '_>) -> Option<EtcdSpec> {
    let value = section.required("endpoints", "endpoints = [\"https://10.0.0.3:2379\"]")?;
    let mut endpoints = Vec::new();
    for (text, span) in read::bounded_texts(section, "endpoints", value) {
        match Endpoint::parse(text) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err((reason, next)) => section.document().problem(Some(span), &section.key("endpoints"), reason, next),
        }
    }
    let path = |key: &str| read::path(section, key, None).map(|(path, _)| path);
    let (ca, certificate, key) = (path("ca"), path("certificate"), path("key"));
    let (user, password_file) = (section.optional("user"), path("password_file"));
    let prefix = section.optional("prefix").and_then(|value| section.text("prefix", value)).unwrap_or("/twinblock");
    let problem = |key: &str, reason: &str, next: &str| {
        section.document().problem(Some(section.span.clone()), &section.key(key), reason, next);
    };
    if endpoints.is_empty() {
        problem("endpoints", "there is none", "name at least one, as in [\"https://10.0.0.3:2379\"]");
        return None;
    }
    let tls = endpoints.iter().any(|endpoint| endpoint.tls);
    if tls && ca.is_none() {
        problem("ca", "an https endpoint needs the authority to trust", "add `ca = \"/etc/twinblock/etcd-ca.pem\"`");
    }
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            problem("certificate", "a certificate and its key come together", "add the other one, or remove both");
            None
        }
    };
    let user = match (user.and_then(|value| section.text("user", value)), password_file) {
        (Some(name), Some(password_file)) => Some(User { name: name.to_string(), password_file }),
        (None, None) => None,
        _ => {
            problem("user", "a user and the file with its password come together", "add the other one, or remove both");
            None
        }
    };
    let tls = ca.filter(|_| tls).map(|ca| TlsSpec { ca, identity });
    Some(EtcdSpec { endpoints, tls, user, prefix: prefix.to_string() })
}

/// Reads `[fencing.NODE]` for each node: how the other one switches it off.
pub fn read_fencing(section: &Section<'_, '_>, nodes: &[&str]) -> [Option<FencingConfig>; 2] {
    let mut configs = [None, None];
    for (node, config) in nodes.iter().zip(&mut configs) {
        *config = section.optional(node).and_then(|value| section.table(node, value)).and_then(read_device);
    }
    configs
}

fn read_device(section: Section<'_, '_>) -> Option<FencingConfig> {
    let times = FencingTimes::read(&section);
    let agent = read::path(&section, "agent", None);
    let script = read::path(&section, "script", None);
    let mut options = Vec::new();
    let mut secret_options = Vec::new();
    if let Some(table) = section.optional("options").and_then(|value| section.table("options", value)) {
        for (key, _) in table.keys() {
            let value = table.optional(key).expect("a key of the table has a value");
            match scalar(value.get_ref()) {
                Some(text) if !text.contains('\n') => options.push((key.to_string(), text)),
                _ => table.wrong_type(key, value, "a text on one line, a number, or true or false"),
            }
        }
    }
    if let Some(table) = section.optional("secret_options").and_then(|value| section.table("secret_options", value)) {
        for (key, _) in table.keys() {
            secret_options.extend(read::path(&table, key, None).map(|(path, _)| (key.to_string(), path)));
        }
    }
    let config = match (agent, script) {
        (Some((program, _)), None) => Some((program, true)),
        (None, Some((program, _))) => Some((program, false)),
        _ => {
            let reason = "exactly one of `agent` and `script` says how the server is switched off";
            let next = "write `agent = \"/usr/sbin/fence_ipmilan\"`, or `script = \"/path\"`";
            section.document().problem(Some(section.span.clone()), &section.key("agent"), reason, next);
            None
        }
    };
    section.end();
    config.map(|(program, is_agent)| FencingConfig {
        program,
        is_agent,
        options,
        secret_options,
        timeout: times.timeout,
    })
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.as_str().to_string()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// Reports what a mode needs and does not have, and what is configured and of no use.
pub fn check(
    document: &Document<'_>,
    settings: &FailoverSettings,
    arbiter: bool,
    fencing: [bool; 2],
    heartbeats: [bool; 2],
    groups: bool,
) {
    let mode = settings.mode;
    let missing = |what: bool, key: &str, reason: String, next: &str| {
        if what {
            document.problem(None, key, reason, next);
        }
    };
    missing(
        mode.has_arbiter() && !arbiter,
        "arbiter",
        format!("mode `{mode}` needs an arbiter"),
        "describe it in a section [arbiter]",
    );
    missing(
        mode.has_fencing() && fencing != [true, true],
        "fencing",
        format!("mode `{mode}` needs a way to switch off either server"),
        "describe both in sections [fencing.NODE]",
    );
    missing(
        groups && mode.is_automatic() && heartbeats != [true, true],
        "heartbeat",
        format!("mode `{mode}` needs heartbeats between the servers"),
        "give each [[node]] its `heartbeat` addresses, as many on both",
    );
}

/// Who this process is, for the parts of an arbiter that are about this server.
pub fn shared_spec(directory: PathBuf, node: NodeId, incarnation: Incarnation) -> SharedSpec {
    SharedSpec { directory, node, incarnation, sign_time: ARBITER_SIGN_TIME }
}
