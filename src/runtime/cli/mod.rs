//! The command line: one binary, one configuration file, one verb.
//!
//! `run` is the daemon. Every other verb reads the same file, asks the running daemon of this node over its control
//! socket, and turns the answer into words and an exit code ([`exit`]).

pub mod exit;

mod advice;
mod confirm;
mod progress;

mod configuration;
mod events;
mod follow;
mod group;
mod group_status;
mod init;
mod latency;
pub mod session;
mod status;
mod verbs;

mod archive;
mod split_brain;

mod arguments;

use self::arguments::{Arguments, Bench, Verb};
use self::exit::{Exit, Failure};
use crate::runtime::bench::{self, Running};
use crate::runtime::config::{self, Config, Depth};
use crate::runtime::control::message::GroupVerb;
use crate::runtime::daemon::{self, RunOptions};
use crate::runtime::demo;
use clap::Parser;
use std::process::ExitCode;

/// Runs the command.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(&arguments) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("twinblock: {failure}");
            failure.exit.into()
        }
    }
}

fn dispatch(arguments: &Arguments) -> Result<Exit, Failure> {
    let file = || load(arguments, Depth::File);
    let yes = arguments.yes;
    match &arguments.verb {
        Verb::Check { peer: true, .. } => configuration::compare(&file()?),
        Verb::Check { reference: true, .. } => {
            say!("{}", config::reference::markdown().trim_end());
            Ok(Exit::Done)
        }
        Verb::Check { reference: false, .. } => check(&load(arguments, Depth::Secret)?),
        Verb::Run { log, die_with_parent } => {
            let options = RunOptions { log: log.clone(), die_with_parent: *die_with_parent };
            daemon::run(load(arguments, Depth::Secret)?, &options)
        }
        Verb::Bench(options) => match &options.volume {
            None => bench::bench(&options.resolved()),
            Some(volume) => measure(&file()?, volume, options, yes),
        },
        Verb::Demo { dir, rounds, keepalived } => demo::demo(dir.clone(), *rounds, *keepalived),
        Verb::DemoService { volume, listen } => demo::counter::serve(volume, *listen),
        Verb::InitDisk(options) => init::init_disk(&file()?, options, yes),
        Verb::Status { latency, json, watch } => status::status(&file()?, *latency, *json, *watch),
        Verb::Dirty { volume, json } => verbs::dirty(&file()?, volume, *json),
        Verb::Promote { volume, force, timeout } => verbs::promote(&file()?, volume, *force, yes, *timeout),
        Verb::Demote { volume, force } => verbs::demote(&file()?, volume, *force, yes),
        Verb::Resync(options) => verbs::resync(&file()?, options, yes),
        Verb::PauseResync { volume } => verbs::plain(&file()?, verbs::Plain::PauseResync, volume),
        Verb::ResumeResync { volume } => verbs::plain(&file()?, verbs::Plain::ResumeResync, volume),
        Verb::Connect { volume } => verbs::plain(&file()?, verbs::Plain::Connect, volume),
        Verb::Disconnect { volume } => verbs::plain(&file()?, verbs::Plain::Disconnect, volume),
        Verb::Attach { volume } => verbs::plain(&file()?, verbs::Plain::Attach, volume),
        Verb::Resize { volume, size } => verbs::resize(&file()?, volume, *size),
        Verb::Detach { volume } => verbs::plain(&file()?, verbs::Plain::Detach, volume),
        Verb::ReplaceDisk(options) => verbs::replace_disk(&file()?, options, yes),
        Verb::Reload => configuration::reload(&file()?),
        Verb::SplitBrain(command) => split_brain::split_brain(&file()?, command, yes),
        Verb::Archive(command) => archive::archive(&file()?, command, yes),
        Verb::Group(command) => group::group(&file()?, command),
        Verb::Events { group, follow, last, json } => {
            let wanted = events::Wanted { group: group.as_deref(), follow: *follow, last: *last, json: *json };
            events::events(&file()?, &wanted)
        }
        Verb::Explain { group, json } => group_status::explain(&file()?, group.as_deref(), *json),
        Verb::Deactivate => group::every(&file()?, &GroupVerb::Deactivate),
        Verb::Activate => group::every(&file()?, &GroupVerb::Activate),
        Verb::Verify { volume, repair, wait } => verbs::verify(&file()?, volume, *repair, *wait),
    }
}

fn load(arguments: &Arguments, depth: Depth) -> Result<Config, Failure> {
    config::load(&arguments.config, arguments.node.as_deref(), depth)
        .map_err(|problems| Failure::new(Exit::Usage, format!("the configuration has problems\n{problems}")))
}

fn check(config: &Config) -> Result<Exit, Failure> {
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    say!(
        "{} is good: cluster {}, this node {}, peer {}, {}",
        config.file.display(),
        config.cluster,
        config.this_node().name,
        config.peer_node().name,
        match config.volumes.len() {
            1 => "1 volume".to_string(),
            n => format!("{n} volumes"),
        },
    );
    Ok(Exit::Done)
}

/// Measures a volume that is in use. What is on it is only overwritten when that was asked for, and confirmed.
fn measure(config: &Config, volume: &str, options: &Bench, yes: bool) -> Result<Exit, Failure> {
    let running = Running::find(config, volume, options.overwrite)?;
    if options.overwrite {
        confirm::confirm(
            &format!("Everything on {volume} is overwritten, on both servers: what is on it is lost."),
            yes,
        )?;
    }
    bench::bench_running(running, &options.resolved())
}
