//! The pair under test: two daemons of this very program, with a volume on two files.

use super::Contender;
use super::fio::{self, Target};
use super::process::{processor_seconds_of, resident_bytes_of};
use crate::base::latency::{StageView, VolumeLatency};
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::demo::pair::{NODES, Pair, VOLUME};
use crate::runtime::demo::ward::Ward;
use serde_json::Value;
use std::time::Instant;

/// Room for internal metadata behind the volume.
const METADATA_BYTES: u64 = 64 << 20;

pub(super) struct Twins {
    pair: Pair,
    size_bytes: u64,
}

/// A resync that was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resynced {
    /// From the start of the session to in sync.
    pub seconds: f64,
    /// Copied, in bytes.
    pub bytes: u64,
}

impl Twins {
    /// Makes two disks, starts two daemons, and waits until they are in sync and serve.
    pub fn start(pair: Pair, size_bytes: u64) -> Result<Twins, Failure> {
        let size = (size_bytes + METADATA_BYTES).to_string();
        for node in 0..NODES.len() {
            pair.verb(node, &["init-disk", VOLUME, "--size", &size])?;
        }
        for node in 0..NODES.len() {
            pair.start(node)?;
        }
        pair.verb(0, &["promote", VOLUME])?;
        pair.wait_in_sync(0)?;
        Ok(Twins { pair, size_bytes })
    }

    /// The pair that [`Twins::start`] started.
    pub fn adopt(pair: Pair, size_bytes: u64) -> Twins {
        Twins { pair, size_bytes }
    }

    /// Has this part of a hundred written by one server alone, and lets the other catch up.
    pub fn differ(&self, percent: u32, ward: &Ward) -> Result<Resynced, Failure> {
        self.pair.verb(0, &["disconnect", VOLUME])?;
        let bytes = (self.size_bytes / 100 * u64::from(percent)) >> 16 << 16;
        if bytes > 0 {
            fio::scatter(ward, &self.target(true), self.size_bytes, bytes)?;
        }
        self.pair.verb(0, &["connect", VOLUME])?;
        let status = self.pair.wait_in_sync(0)?;
        resynced(&status)
    }

    /// Moves the volume to the other server and back, in order. Returns the seconds of the way there.
    pub fn move_in_order(&self) -> Result<f64, Failure> {
        let began = Instant::now();
        self.hand_over(0, 1)?;
        let seconds = began.elapsed().as_secs_f64();
        self.hand_over(1, 0)?;
        Ok(seconds)
    }

    /// Kills the primary and has the other one serve, by hand; then puts everything back. Returns the seconds until it served.
    pub fn crash(&self) -> Result<f64, Failure> {
        let began = Instant::now();
        self.pair.kill(0);
        self.pair.verb(1, &["promote", VOLUME, "--force", "--yes"])?;
        let seconds = began.elapsed().as_secs_f64();
        self.pair.start(0)?;
        self.pair.wait_in_sync(1)?;
        self.hand_over(1, 0)?;
        Ok(seconds)
    }

    fn hand_over(&self, from: usize, to: usize) -> Result<(), Failure> {
        self.pair.verb(from, &["demote", VOLUME])?;
        self.pair.verb(to, &["promote", VOLUME])?;
        self.pair.wait_in_sync(to).map(|_| ())
    }
}

fn resynced(status: &Value) -> Result<Resynced, Failure> {
    let last = &status["last_resync"];
    // The daemon's own figures: a command looks only now and then.
    match (last["milliseconds"].as_f64(), last["bytes_copied"].as_u64()) {
        (Some(milliseconds), Some(bytes)) => Ok(Resynced { seconds: milliseconds / 1e3, bytes }),
        _ => Err(Failure::new(Exit::Failed, "the status tells nothing of the resync that has ended")),
    }
}

impl Contender for Twins {
    fn name(&self) -> &'static str {
        "twinblock"
    }

    fn target(&self, _writes: bool) -> Target {
        Target::Nbd(format!("nbd+unix:///{VOLUME}?socket={}", self.pair.socket(0).display()))
    }

    fn sync(&mut self) -> Option<Result<f64, Failure>> {
        let copied = self.pair.verb(0, &["resync", VOLUME, "--full", "--wait", "--yes"]);
        Some(copied.and_then(|_| resynced(&self.pair.status(0)?)).map(|resynced| resynced.seconds))
    }

    fn processor_seconds(&self) -> Option<f64> {
        Some(self.pair.pids().into_iter().map(processor_seconds_of).sum())
    }

    fn resident_bytes(&self) -> Option<u64> {
        self.pair.pids().into_iter().map(resident_bytes_of).max()
    }

    fn stages(&self) -> Vec<StageView> {
        let told = self.pair.verb(0, &["status", "--latency", "--json"]).ok();
        let volumes: Option<Vec<VolumeLatency>> = told.and_then(|told| serde_json::from_str(&told).ok());
        volumes.and_then(|mut volumes| volumes.pop()).map_or(Vec::new(), |volume| volume.stages)
    }
}
