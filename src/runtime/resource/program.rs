//! A program of the configuration: looked at before it is used, run with the group's context, its failure put into words.

use super::{Context, Trouble, Verb, left};
use crate::io::process::{self, Finished, Program};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use tokio::time::{Instant, timeout_at};

/// Words of one command: more are a mistake, and a script can take a file.
const WORDS_MAX: usize = 64;

/// The mark of what belongs to a resource.
pub(super) fn mark(context: &Context, resource: &str) -> String {
    format!("{}:{}/{}/{resource}", context.state_dir.display(), context.cluster, context.group)
}

/// What is to be run for a verb.
pub(super) fn program(command: &[String], resource: &str, context: &Context, verb: Verb) -> Program {
    Program {
        file: command.first().map(Into::into).unwrap_or_default(),
        arguments: command.get(1..).unwrap_or_default().to_vec(),
        environment: context.environment(resource, verb),
        mark: mark(context, resource),
    }
}

/// Whether a command can be run on this server at all. Its file may be on a disk that hangs: that ends by the deadline.
pub(super) async fn check_by(thing: &str, command: &[String], deadline: Instant) -> Result<(), Trouble> {
    let (name, words) = (thing.to_string(), command.to_vec());
    let checked = tokio::task::spawn_blocking(move || check(&name, &words));
    match timeout_at(deadline, checked).await {
        Ok(checked) => checked.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
        Err(_) => {
            let reason = "its program could not be looked at in its time: the disk it is on does not answer";
            Err(Trouble::transient(thing, reason, "see whether its volume serves"))
        }
    }
}

fn check(thing: &str, command: &[String]) -> Result<(), Trouble> {
    let Some(file) = command.first() else {
        return Err(Trouble::config(thing, "the command is empty", "write the program and its arguments as a list"));
    };
    if command.len() > WORDS_MAX || command.iter().any(|word| word.contains('\0')) {
        let reason = "the command has too many words, or a zero byte";
        return Err(Trouble::config(thing, reason, "put it into a script and name that"));
    }
    let path = Path::new(file);
    if !path.is_absolute() {
        let reason = format!("{file} is no absolute path");
        return Err(Trouble::config(thing, reason, "write the whole path: what PATH holds differs between servers"));
    }
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Trouble::environment(thing, format!("{file} does not exist"), "install it on this server, too")
        }
        _ => Trouble::environment(thing, format!("{file} can't be looked at: {error}"), "check its path"),
    })?;
    let mode = metadata.permissions().mode();
    if !metadata.is_file() {
        return Err(Trouble::config(thing, format!("{file} is no regular file"), "name the program itself"));
    }
    if mode & 0o111 == 0 {
        let reason = format!("{file} is not executable (mode {:04o})", mode & 0o7777);
        return Err(Trouble::environment(thing, reason, format!("run `chmod +x {file}`")));
    }
    if mode & 0o002 != 0 {
        let reason = format!(
            "{file} may be changed by anybody (mode {:04o}), and would run with the daemon's rights",
            mode & 0o7777
        );
        return Err(Trouble::environment(thing, reason, format!("run `chmod o-w {file}`")));
    }
    Ok(())
}

/// Runs a command to its end; an unsuccessful one is a trouble.
pub(super) async fn run(thing: &str, what: &Program, deadline: Instant) -> Result<(), Trouble> {
    let time = left(deadline);
    let Finished { status, output } =
        process::run(what, deadline).await.map_err(|error| unstarted(thing, what, &error))?;
    let file = what.file.display();
    match status {
        Some(status) if status.success() => {
            if !output.is_empty() {
                tracing::info!("{thing}: {file} said: {output}");
            }
            Ok(())
        }
        Some(status) => {
            let reason = format!("{file} ended with {}{}", ending(status), said(&output));
            Err(Trouble::transient(thing, reason, "mend what it complains about; its exit status 0 means success"))
        }
        None => {
            let reason = format!(
                "{file} did not end within {:.1} s and was killed with everything in its process group{}",
                time.as_secs_f64(),
                said(&output)
            );
            Err(Trouble::transient(thing, reason, "find out what it waits for, or give it a longer time"))
        }
    }
}

/// Why a program could not be started.
pub(super) fn unstarted(thing: &str, what: &Program, error: &io::Error) -> Trouble {
    let file = what.file.display();
    let (reason, next) = match error.raw_os_error() {
        Some(libc::ENOENT) if what.file.exists() => {
            (format!("{file} can't be run: the interpreter of its first line does not exist"), "correct its first line")
        }
        Some(libc::ENOENT) => (format!("{file} does not exist"), "install it on this server, too"),
        Some(libc::EACCES) => (format!("{file} may not be run"), "make it executable, on a file system without noexec"),
        _ => (format!("{file} can't be run: {error}"), "look at the limits of the daemon"),
    };
    Trouble::environment(thing, reason, next)
}

/// An ended program's status, for people.
pub(super) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => format!("signal {signal}"),
            Err(_) => format!("signal {signal}"),
        },
        (None, None) => "an unknown status".into(),
    }
}

/// What a program said, as the end of a clause.
pub(super) fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(", saying: {output}") }
}
