//! `reload`: the verbs about the configuration of the running daemon.

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
