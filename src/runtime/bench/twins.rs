//! The pair under test: two daemons of this very program, with a volume on two files.

use super::Contender;
use super::process::processor_seconds_of;
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::demo::pair::{NODES, Pair, VOLUME};

/// Room for internal metadata behind the volume.
const METADATA_BYTES: u64 = 64 << 20;

pub(super) struct Twins {
    pair: Pair,
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
        Ok(Twins { pair })
    }
}

impl Contender for Twins {
    fn name(&self) -> &'static str {
        "twinblock"
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///{VOLUME}?socket={}", self.pair.socket(0).display())
    }

    fn sync(&mut self) -> Result<f64, Failure> {
        self.pair.verb(0, &["resync", VOLUME, "--full", "--wait", "--yes"])?;
        let status = self.pair.status(0)?;
        // The daemon's own figure: the command looks only now and then.
        let milliseconds = status["last_resync"]["milliseconds"].as_f64();
        let seconds = milliseconds.map(|milliseconds| milliseconds / 1e3);
        seconds.ok_or_else(|| Failure::new(Exit::Failed, "the status tells nothing of the resync that has ended"))
    }

    fn processor_seconds(&self) -> f64 {
        self.pair.pids().into_iter().map(processor_seconds_of).sum()
    }
}
