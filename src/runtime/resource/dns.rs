//! A host name that follows the group: at each start its addresses in the DNS are replaced by the group's, in one step.
//!
//! For groups whose two servers have different addresses (two sites), or as a name for a floating address. Clients see the
//! change when what they remember is out of date: after `ttl`. At a stop the name stays, unless `remove_at_stop`: the
//! server that takes over replaces it.

use super::{Answer, Context, Events, Happened, Resource, State, Status, Trouble, What, span};
use crate::io::dns::{self, DnsError, Target};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Largest file of a key's secret, in bytes: one that is larger was named by mistake.
const SECRET_BYTES_MAX: u64 = 4096;
/// Longest time clients may remember an address.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// A host name of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsConfig {
    /// Name of the resource, unique in its group.
    pub name: String,
    /// The zone's primary name server, as `IP:PORT`.
    pub server: SocketAddr,
    /// The zone, as in `example.org`.
    pub zone: String,
    /// The host, a whole name in that zone, as in `files.example.org`.
    pub host: String,
    /// The host's addresses while the group is on this server; empty: the group's floating addresses.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Time clients may remember them.
    #[serde(default = "ttl", with = "span")]
    pub ttl: Duration,
    /// The key updates are signed with; without one the server must trust this server's address.
    #[serde(default)]
    pub key: Option<DnsKey>,
    /// Remove the name at a stop.
    #[serde(default)]
    pub remove_at_stop: bool,
}

/// A key shared with the name server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsKey {
    /// Its name, as the name server has it.
    pub name: String,
    /// Its algorithm.
    #[serde(default = "algorithm")]
    pub algorithm: String,
    /// A file with its secret in base64. Only its owner may read it (mode 0600).
    pub secret_file: PathBuf,
}

/// A host name of a group on this server.
pub struct Dns {
    config: DnsConfig,
    events: Events,
    /// What was last written by this daemon, while the group is here.
    written: RefCell<Option<Vec<IpAddr>>>,
}

impl Dns {
    /// A host name; what happens to it is told to `events`.
    pub fn new(config: DnsConfig, events: Events) -> Dns {
        Dns { config, events, written: RefCell::new(None) }
    }

    /// What is asked of whom, or what is wrong with the configuration.
    fn target(&self) -> Result<Target, Trouble> {
        let config = &self.config;
        let name = |what: &str, text: &str| {
            dns::name(text).map_err(|error| {
                let reason = format!("the {what} \"{text}\" is no name of the DNS: {error}");
                Trouble::config(&config.name, reason, "write it as in \"files.example.org\"")
            })
        };
        let (zone, host) = (name("zone", &config.zone)?, name("host", &config.host)?);
        if !host.ends_with(&zone) {
            let reason = format!("the host {} is not in the zone {}", config.host, config.zone);
            return Err(Trouble::config(&config.name, reason, "write the host's whole name, and the zone it is in"));
        }
        if config.ttl > TTL_MAX {
            let reason = "clients would remember the address for more than a day";
            return Err(Trouble::config(&config.name, reason, "choose a ttl below the time a failover may take"));
        }
        let key = config.key.as_ref().map(|key| self.key(key)).transpose()?;
        Ok(Target { server: config.server, zone, host, key })
    }

    fn key(&self, key: &DnsKey) -> Result<dns::DnsKey, Trouble> {
        let file = key.secret_file.display();
        let unread = |reason: String, next: String| Trouble::environment(&self.config.name, reason, next);
        let metadata = std::fs::metadata(&key.secret_file).map_err(|error| {
            unread(format!("the secret {file} can't be read: {error}"), "copy it from the name server".into())
        })?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let reason = format!("the secret {file} may be used by others (mode {mode:04o})");
            return Err(unread(reason, format!("run `chmod 600 {file}`")));
        }
        if !metadata.is_file() || metadata.len() > SECRET_BYTES_MAX {
            return Err(unread(format!("{file} is no file with a secret"), "name the right one".into()));
        }
        let secret = std::fs::read_to_string(&key.secret_file).map_err(|error| {
            unread(format!("the secret {file} can't be read: {error}"), "write it in base64".into())
        })?;
        dns::key(&key.algorithm, &key.name, &secret).map_err(|error| {
            let next = format!("compare `key` and {file} with the name server's configuration");
            Trouble::config(&self.config.name, format!("the key can't be used: {error}"), next)
        })
    }

    fn addresses(&self, context: &Context) -> Result<Vec<IpAddr>, Trouble> {
        let own = if self.config.addresses.is_empty() { &context.addresses } else { &self.config.addresses };
        if own.is_empty() {
            let reason = "there is no address to write: the group has no floating one";
            return Err(Trouble::config(&self.config.name, reason, "list `addresses`"));
        }
        Ok(own.clone())
    }

    async fn write(&self, addresses: &[IpAddr], deadline: Instant) -> Result<(), Trouble> {
        let target = self.target()?;
        let seconds = self.config.ttl.as_secs() as u32;
        self.by(deadline, dns::replace(&target, addresses, seconds)).await
    }

    async fn seen(&self, deadline: Instant) -> Result<Vec<IpAddr>, Trouble> {
        let target = self.target()?;
        self.by(deadline, dns::look_up(&target)).await
    }

    async fn by<T>(
        &self,
        deadline: Instant,
        exchange: impl Future<Output = Result<T, DnsError>>,
    ) -> Result<T, Trouble> {
        match timeout_at(deadline, exchange).await {
            Ok(done) => done.map_err(|error| self.trouble(error)),
            Err(_) => {
                let reason = format!("the name server {} did not answer in time", self.config.server);
                Err(Trouble::transient(&self.config.name, reason, "see whether it runs and can be reached"))
            }
        }
    }

    fn trouble(&self, error: DnsError) -> Trouble {
        let (name, server) = (&self.config.name, self.config.server);
        match error {
            DnsError::Unreachable(error) => {
                let reason = format!("the name server {server} can't be asked: {error}");
                Trouble::transient(name, reason, "see whether it runs, takes TCP, and can be reached")
            }
            DnsError::Refused(code) => {
                let next = match code.to_string().as_str() {
                    "REFUSED" => "allow updates of the zone by this key or address in the server's configuration",
                    // Servers answer so to whom they don't allow, too.
                    "NOTAUTH" | "NOTZONE" => {
                        "name the server that is primary for the zone, and allow updates by this key or address there"
                    }
                    "SERVFAIL" => "look at the name server's log; its zone file may be read-only",
                    _ => "look at the name server's log",
                };
                Trouble::transient(name, format!("the name server {server} answered {code}"), next)
            }
            DnsError::WrongKey(error) => {
                let reason = format!("the name server {server} and this server don't agree on the key: {error}");
                Trouble::config(
                    name,
                    reason,
                    "compare the key's name, algorithm and secret on both, and see whether the zone allows updates by it",
                )
            }
            DnsError::WrongTime => {
                let reason = format!("the clocks of the name server {server} and of this server differ too much");
                Trouble::environment(name, reason, "set both by NTP")
            }
            DnsError::Nonsense(error) => {
                let reason = format!("the name server {server} gave an answer that is none: {error}");
                Trouble::transient(name, reason, "see whether it is a name server")
            }
        }
    }

    async fn monitor_now(&self, context: &Context, deadline: Instant) -> Result<(), Trouble> {
        let wanted = self.addresses(context)?;
        let seen = self.seen(deadline).await?;
        if same(&wanted, &seen) {
            return Ok(());
        }
        self.write(&wanted, deadline).await?;
        let words = format!("{} had {} and has {} again", self.config.host, show(&seen), show(&wanted));
        // Nobody listening any more means that the daemon ends.
        let _ = self.events.send(Happened { resource: self.config.name.clone(), what: What::Repaired(words) });
        Ok(())
    }

    async fn status_now(&self, deadline: Instant) -> Result<Status, Trouble> {
        let written = self.written.borrow().clone();
        let seen = self.seen(deadline).await?;
        let words = format!("{} has {}", self.config.host, show(&seen));
        Ok(match written {
            Some(written) if same(&written, &seen) => Status::new(State::Started, words),
            Some(written) => Status::new(State::Broken, format!("{words} in place of {}", show(&written))),
            None => Status::new(State::Stopped, words),
        })
    }
}

impl Resource for Dns {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn check<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(async move {
            self.addresses(context)?;
            // Whether the server may be asked at all; whether it takes updates is only seen by one.
            self.seen(deadline).await.map(drop)
        })
    }

    fn start<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(async move {
            let addresses = self.addresses(context)?;
            self.write(&addresses, deadline).await?;
            *self.written.borrow_mut() = Some(addresses);
            Ok(())
        })
    }

    fn stop<'a>(&'a self, _: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(async move {
            if self.config.remove_at_stop {
                self.write(&[], deadline).await?;
            }
            *self.written.borrow_mut() = None;
            Ok(())
        })
    }

    fn monitor<'a>(&'a self, context: &'a Context, deadline: Instant) -> Answer<'a> {
        Box::pin(self.monitor_now(context, deadline))
    }

    fn status<'a>(&'a self, deadline: Instant) -> Answer<'a, Status> {
        Box::pin(self.status_now(deadline))
    }
}

fn same(one: &[IpAddr], other: &[IpAddr]) -> bool {
    one.iter().collect::<BTreeSet<_>>() == other.iter().collect::<BTreeSet<_>>()
}

fn show(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "no address".into();
    }
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn ttl() -> Duration {
    Duration::from_secs(30)
}

fn algorithm() -> String {
    "hmac-sha256".into()
}
