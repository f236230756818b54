//! A volume that is in use: measured through one of its NBD addresses, and only read unless told otherwise.

use super::Contender;
use super::fio::Target;
use super::process::{processor_seconds_of, resident_bytes_of};
use crate::base::latency::{StageView, VolumeLatency};
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::cli::session::{Session, known_volume};
use crate::runtime::config::Config;

/// A volume of a daemon that runs on this node.
#[derive(Debug)]
pub struct Running<'c> {
    config: &'c Config,
    volume: String,
    uri: String,
    size_bytes: u64,
    daemon: u32,
    /// What is on it may be overwritten.
    pub overwrite: bool,
}

impl<'c> Running<'c> {
    /// Finds the volume, which must be served here.
    pub fn find(config: &'c Config, volume: &str, overwrite: bool) -> Result<Running<'c>, Failure> {
        known_volume(config, volume)?;
        let mut session = Session::open(config)?;
        let (status, daemon) = (session.volume(volume)?, session.status()?.pid);
        let node = &config.this_node().name;
        if !status.view.serving {
            let words = format!(
                "{node} does not serve {volume} now ({}, {}): measure on the node that is primary",
                status.view.role, status.view.disk
            );
            return Err(Failure::new(Exit::Refused, words));
        }
        let uri = status.nbd.iter().find_map(|address| uri_of(address, volume)).ok_or_else(|| {
            let words =
                format!("{volume} has no NBD address on {node} that fio could use: give it one with `nbd = [...]`");
            Failure::new(Exit::Refused, words)
        })?;
        let size_bytes = status.view.size_bytes;
        Ok(Running { config, volume: volume.into(), uri, size_bytes, daemon, overwrite })
    }

    /// Size of the volume.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl Contender for Running<'_> {
    fn name(&self) -> &'static str {
        "twinblock"
    }

    fn target(&self, _writes: bool) -> Target {
        Target::Nbd(self.uri.clone())
    }

    fn processor_seconds(&self) -> Option<f64> {
        Some(processor_seconds_of(self.daemon))
    }

    fn resident_bytes(&self) -> Option<u64> {
        Some(resident_bytes_of(self.daemon))
    }

    fn stages(&self) -> Vec<StageView> {
        let told = Session::open(self.config).and_then(|mut session| session.latency());
        let volumes: Vec<VolumeLatency> =
            told.ok().and_then(|told| serde_json::from_value(told).ok()).unwrap_or_default();
        volumes.into_iter().find(|one| one.volume == self.volume).map_or(Vec::new(), |found| found.stages)
    }
}

/// An address of the configuration as fio wants it; `None` for one it can't use.
fn uri_of(address: &str, export: &str) -> Option<String> {
    match address.split_once(':')? {
        ("unix", path) => Some(format!("nbd+unix:///{export}?socket={path}")),
        ("tcp", place) => Some(format!("nbd://{}/{export}", place.replacen("0.0.0.0:", "127.0.0.1:", 1))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::uri_of;

    #[test]
    fn addresses_become_uris() {
        assert_eq!(uri_of("unix:/run/a.sock", "v").as_deref(), Some("nbd+unix:///v?socket=/run/a.sock"));
        assert_eq!(uri_of("tcp:[::1]:10809", "v").as_deref(), Some("nbd://[::1]:10809/v"));
        assert_eq!(uri_of("tcp:0.0.0.0:10809", "v").as_deref(), Some("nbd://127.0.0.1:10809/v"));
        assert_eq!(uri_of("none", "v"), None);
    }
}
