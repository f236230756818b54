//! Fence agents: options on standard input, one `key=value` per line, as all programs called `fence_*` take them.

use super::program::Program;
use super::{Action, Names};
use std::path::PathBuf;

/// One agent, as configured for one victim.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// The program; looked up where administrators' programs are when it has no slash.
    pub file: PathBuf,
    /// Its options, such as `ip` and `username`, and `plug` where the device has several.
    pub options: Vec<(String, String)>,
    /// Options whose values are in files that only their owner may read, such as `password`; read anew each time.
    pub secrets: Vec<(String, PathBuf)>,
}

impl AgentSpec {
    /// Whether it can be asked at all; the error is what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let names = self.options.iter().map(|(key, _)| key).chain(self.secrets.iter().map(|(key, _)| key));
        for key in names {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            if key.is_empty() || !key.bytes().all(plain) {
                return Err(format!("{key:?} is no name of an option of a fence agent"));
            }
            if key == "action" || key == "option" {
                return Err(format!("the option `{key}` of the fence agent is set by twinblock; leave it out"));
            }
        }
        match self.options.iter().find(|(_, value)| value.contains(['\n', '\r', '\0'])) {
            Some((key, _)) => Err(format!("the option `{key}` of the fence agent has more than one line")),
            None => Ok(()),
        }
    }

    /// The agent with its input. The error is a sentence.
    pub fn program(&self, action: Action, names: &Names) -> Result<Program, String> {
        let mut input = format!("action={}\nnodename={}\n", action.word(), names.victim);
        for (key, value) in &self.options {
            input.push_str(&format!("{key}={value}\n"));
        }
        let mut secrets = Vec::new();
        for (key, file) in &self.secrets {
            let secret = crate::runtime::arbiter::password::read(file)?;
            if secret.contains(['\n', '\r', '\0']) {
                return Err(format!("the password file {} has more than one line", file.display()));
            }
            input.push_str(&format!("{key}={secret}\n"));
            secrets.push(secret);
        }
        let file = self.file.clone();
        Ok(Program { file, arguments: Vec::new(), environment: Vec::new(), input: input.into_bytes(), secrets })
    }
}
