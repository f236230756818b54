//! One connection of a command to the daemon of this node, and its answers as exit codes.

use super::exit::{Exit, Failure};
use crate::base::command::{Command, CommandOutcome, Refusal};
use crate::runtime::config::{Config, VolumeConfig};
use crate::runtime::control::client::{Client, ClientError};
use crate::runtime::control::message::{Answer, Ask, NodeStatus, VolumeStatus};
use crate::runtime::daemon::Compared;

/// A connection to the daemon of this node.
pub struct Session<'c> {
    /// The configuration the command works with.
    pub config: &'c Config,
    client: Client,
}

/// How a request ended: a sentence for people, or a refusal.
pub type Outcome = Result<String, Refusal>;

impl<'c> Session<'c> {
    /// Connects.
    pub fn open(config: &'c Config) -> Result<Session<'c>, Failure> {
        let client = Client::connect(&config.this_node().control).map_err(|error| failure(config, error))?;
        Ok(Session { config, client })
    }

    /// Asks something that is answered with an outcome.
    pub fn outcome(&mut self, ask: Ask) -> Result<Outcome, Failure> {
        match self.ask(ask)? {
            Answer::Outcome { result: CommandOutcome::Done(sentence) } => Ok(Ok(sentence)),
            Answer::Outcome { result: CommandOutcome::Refused(refusal) } => Ok(Err(refusal)),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives the core of a volume a command.
    pub fn command(&mut self, volume: &str, command: Command) -> Result<Outcome, Failure> {
        self.outcome(Ask::Command { volume: volume.into(), command })
    }

    /// The state of the node.
    pub fn status(&mut self) -> Result<NodeStatus, Failure> {
        let value = self.status_json()?;
        serde_json::from_value(value).map_err(|error| {
            let message = format!(
                "the status of the daemon can't be read ({error}): use the twinblock of the same release as the \
                 running daemon"
            );
            Failure::new(Exit::Failed, message)
        })
    }

    /// The state of the node as the daemon wrote it.
    pub fn status_json(&mut self) -> Result<serde_json::Value, Failure> {
        match self.ask(Ask::Status)? {
            Answer::Status { status } => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// Where the time of every volume's requests goes, as the daemon wrote it.
    pub fn latency(&mut self) -> Result<serde_json::Value, Failure> {
        match self.ask(Ask::Latency)? {
            Answer::Latency { volumes } => Ok(volumes),
            other => Err(unexpected(&other)),
        }
    }

    /// The state of every group, as the daemon wrote it.
    pub fn groups(&mut self) -> Result<serde_json::Value, Failure> {
        match self.ask(Ask::Groups)? {
            Answer::Groups { groups } => Ok(groups),
            other => Err(unexpected(&other)),
        }
    }

    /// How the settings differ from the peer's.
    pub fn compared(&mut self) -> Result<Compared, Failure> {
        match self.ask(Ask::Compare)? {
            Answer::Compared { compared } => serde_json::from_value(compared).map_err(|error| {
                let words = format!("the daemon's answer can't be read ({error}); use the twinblock of its release");
                Failure::new(Exit::Failed, words)
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// The state of one volume.
    pub fn volume(&mut self, volume: &str) -> Result<VolumeStatus, Failure> {
        let status = self.status()?;
        status.volumes.into_iter().find(|one| one.view.name == volume).ok_or_else(|| {
            let message = format!(
                "the running daemon knows no volume {volume}: it was started with an older configuration; restart it"
            );
            Failure::new(Exit::Refused, message)
        })
    }

    /// Asks anything.
    pub fn ask(&mut self, ask: Ask) -> Result<Answer, Failure> {
        let config = self.config;
        self.client.ask(ask).map_err(|error| failure(config, error))
    }
}

/// The volume of the configuration, or the names there are.
pub fn known_volume<'c>(config: &'c Config, name: &str) -> Result<&'c VolumeConfig, Failure> {
    config.volume(name).ok_or_else(|| {
        let names: Vec<&str> = config.volumes.iter().map(|volume| volume.name.as_str()).collect();
        let message = format!("{} describes no volume {name}; there is {}", config.file.display(), names.join(", "));
        Failure::new(Exit::Usage, message)
    })
}

/// Prints what was done with a volume, or fails with the refusal.
pub fn report(config: &Config, volume: &str, outcome: Outcome) -> Result<Exit, Failure> {
    match outcome {
        Ok(sentence) => {
            say!("{volume} on {}: {sentence}", config.this_node().name);
            Ok(Exit::Done)
        }
        Err(refusal) => Err(refused(&refusal)),
    }
}

/// A refusal as the end of a command.
pub fn refused(refusal: &Refusal) -> Failure {
    Failure::new(Exit::Refused, format!("refused ({}): {refusal}", refusal.code))
}

fn failure(config: &Config, error: ClientError) -> Failure {
    let (exit, next) = match &error {
        ClientError::NotRunning(_) => {
            let node = &config.this_node().name;
            (Exit::NotReachable, format!("start it with `twinblock -c {} --node {node} run`", config.file.display()))
        }
        ClientError::Unreachable(..) => (Exit::NotReachable, "run this as the user the daemon runs as".into()),
        ClientError::Broken(..) => (Exit::NotReachable, "look at its log, then at `twinblock status`".into()),
        ClientError::TimedOut(_) => (Exit::TimedOut, "look at its log, then at `twinblock status`".into()),
        ClientError::Misunderstood(..) => (Exit::Failed, "use the same release for both".into()),
    };
    Failure::new(exit, format!("{error}; {next}"))
}

fn unexpected(answer: &Answer) -> Failure {
    Failure::new(Exit::Failed, format!("the daemon gave an answer to another question: {answer:?}"))
}
