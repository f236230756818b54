//! A plain script that fences: `SCRIPT ACTION VICTIM`.
//!
//! | what | holds |
//! |---|---|
//! | first argument, `TWINBLOCK_FENCE_ACTION` | `off`, `on`, `status` or `monitor` |
//! | second argument, `TWINBLOCK_FENCE_VICTIM` | name of the node to switch off |
//! | `TWINBLOCK_FENCE_BY` | name of the node that has it done |
//! | `TWINBLOCK_FENCE_CLUSTER` | name of the cluster |
//! | `TWINBLOCK_FENCE_SECONDS` | whole seconds until it is killed with all it has started |
//!
//! `off` must end with 0 only when the victim is off or surely will write nothing any more. `status` ends with 0: it is on;
//! 2: it is off; 3: there is no way to tell, so that the word of `off` counts. Any other end is a failure, and what the
//! script wrote is shown.

use super::program::Program;
use super::{Action, Names};
use std::path::PathBuf;
use tokio::time::Instant;

/// A script.
#[derive(Clone, Debug)]
pub struct ScriptSpec {
    /// Its file.
    pub file: PathBuf,
}

impl ScriptSpec {
    /// The script with its arguments and environment.
    pub fn program(&self, action: Action, names: &Names, deadline: Instant) -> Program {
        let left = deadline.saturating_duration_since(Instant::now()).as_secs();
        let variables = [
            ("ACTION", action.word().to_string()),
            ("VICTIM", names.victim.clone()),
            ("BY", names.by.clone()),
            ("CLUSTER", names.cluster.clone()),
            ("SECONDS", left.to_string()),
        ];
        let environment = variables.map(|(name, value)| (format!("TWINBLOCK_FENCE_{name}"), value)).to_vec();
        let arguments = vec![action.word().to_string(), names.victim.clone()];
        Program { file: self.file.clone(), arguments, environment, input: Vec::new(), secrets: Vec::new() }
    }
}
