//! `reload` and `check --peer`: the verbs about the configuration of the running daemons.

use super::exit::{Exit, Failure};
use super::session::{Session, refused};
use crate::runtime::config::Config;
use crate::runtime::control::message::Ask;

/// `reload`.
pub fn reload(config: &Config) -> Result<Exit, Failure> {
    match Session::open(config)?.outcome(Ask::Reload)? {
        Ok(words) => {
            say!("{words}");
            Ok(Exit::Done)
        }
        Err(refusal) => Err(refused(&refusal)),
    }
}

/// `check --peer`: the running daemons compare themselves.
pub fn compare(config: &Config) -> Result<Exit, Failure> {
    let compared = Session::open(config)?.compared()?;
    if let Some(trouble) = &compared.trouble {
        let message = format!("not compared: {trouble}; see that its daemon runs, and repeat it");
        return Err(Failure::new(Exit::NotReachable, message));
    }
    let peer = &compared.peer;
    let mut same = true;
    let theirs = compared.version.clone().unwrap_or_default();
    if theirs != compared.own_version {
        say!("{peer} runs version {theirs}, this node {}: install the same release on both", compared.own_version);
        same = false;
    }
    for sentence in compared.sentences() {
        say!("{sentence}");
        same = false;
    }
    for waiting in &compared.waiting {
        say!("in the file of this node, and only used after a restart of its daemon: {waiting}");
    }
    if compared.digest != format!("{:016x}", config.digest) && compared.waiting.is_empty() {
        say!("{} was changed since the daemon read it: `reload` takes it over", config.file.display());
    }
    if same {
        say!("both daemons run with the same settings, version {theirs}");
        return Ok(Exit::Done);
    }
    say!("use the same file on both servers, and `reload` or restart the daemon whose file changed");
    Ok(Exit::Differs)
}
