//! `archive`: what only a copy had that was given up, kept on this server.

use super::confirm::confirm;
use super::exit::{Exit, Failure};
use super::progress::{Display, Progress};
use crate::io::archive::catalogue::{self, show_moment};
use crate::io::archive::{ArchiveError, Entry, View};
use crate::runtime::archive::{Signals, serve};
use crate::runtime::config::Config;
use crate::runtime::config::units::show_size;
use crate::runtime::shard::NbdListener;
use clap::Subcommand;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What to do with archives.
#[derive(Debug, Subcommand)]
pub enum ArchiveCommand {
    /// The archives on this server.
    List {
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// Serve one read-only over NBD until interrupted: its blocks over the volume as it is now.
    Mount {
        /// Its name, as `archive list` shows it.
        name: String,
        /// The socket to serve it at. Default: beside the daemon's control socket.
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Write what it has to a sparse raw image, and the list of its parts beside it as FILE.json.
    Export {
        /// Its name.
        name: String,
        /// The image to be made.
        file: PathBuf,
        /// The whole copy: its blocks over the volume as it is now.
        #[arg(long)]
        whole: bool,
        /// Leave out blocks that are damaged instead of ending there.
        #[arg(long)]
        skip_damaged: bool,
    },
    /// Remove one for good.
    Delete {
        /// Its name.
        name: String,
    },
}

/// Carries it out.
pub fn archive(config: &Config, command: &ArchiveCommand, yes: bool) -> Result<Exit, Failure> {
    match command {
        ArchiveCommand::List { json } => list(config, *json),
        ArchiveCommand::Mount { name, socket } => mount(config, name, socket.as_deref()),
        ArchiveCommand::Export { name, file, whole, skip_damaged } => {
            export(config, name, file, (*whole, *skip_damaged))
        }
        ArchiveCommand::Delete { name } => delete(config, name, yes),
    }
}

fn directory(config: &Config) -> &Path {
    &config.this_node().archive_dir
}

fn failed(error: ArchiveError) -> Failure {
    Failure::new(Exit::Failed, error.to_string())
}

fn list(config: &Config, json: bool) -> Result<Exit, Failure> {
    let entries = catalogue::list(directory(config)).map_err(failed)?;
    if json {
        let list: Vec<serde_json::Value> = entries.iter().map(as_json).collect();
        say!("{}", serde_json::Value::Array(list));
        return Ok(Exit::Done);
    }
    if entries.is_empty() {
        say!("no archives in {}", directory(config).display());
        return Ok(Exit::Done);
    }
    for entry in &entries {
        match &entry.reader {
            Err(error) => say!("{}: {error}", entry.name),
            Ok(reader) => say!("{}\n  {}", entry.name, describe(entry, reader)),
        }
    }
    Ok(Exit::Done)
}

fn describe(entry: &Entry, reader: &crate::io::archive::Reader) -> String {
    let header = &reader.header;
    let mut words = format!(
        "{} that only {} had of {} ({}), given up for {} on {}; the file has {}",
        show_size(reader.bytes_held()),
        header.node,
        header.volume,
        show_size(header.size_bytes),
        header.peer,
        show_moment(header.began),
        show_size(entry.bytes),
    );
    match reader.finished {
        Some(finished) => words.push_str(&format!("; complete since {}", show_moment(finished))),
        None => words.push_str("; not complete: the resync that overwrites this copy is not done"),
    }
    if reader.damaged_bytes > 0 {
        words.push_str(&format!("; DAMAGED: {} of the file are no records any more", show_size(reader.damaged_bytes)));
    }
    if reader.bytes_unreadable() > 0 {
        words.push_str(&format!("; {} were unreadable on the disk", show_size(reader.bytes_unreadable())));
    }
    words
}

fn as_json(entry: &Entry) -> serde_json::Value {
    match &entry.reader {
        Err(error) => serde_json::json!({
            "name": entry.name, "path": entry.path, "file_bytes": entry.bytes, "error": error.to_string(),
        }),
        Ok(reader) => serde_json::json!({
            "name": entry.name,
            "path": entry.path,
            "file_bytes": entry.bytes,
            "volume": reader.header.volume,
            "node": reader.header.node,
            "peer": reader.header.peer,
            "generation": reader.header.ours.to_string(),
            "replaced_by": reader.header.theirs.to_string(),
            "size_bytes": reader.header.size_bytes,
            "bytes": reader.bytes_held(),
            "began": reader.header.began,
            "finished": reader.finished,
            "damaged_bytes": reader.damaged_bytes,
            "unreadable_bytes": reader.bytes_unreadable(),
        }),
    }
}

/// The file of that name.
fn path_of(config: &Config, name: &str) -> Result<PathBuf, Failure> {
    let path = catalogue::path_of(directory(config), name).filter(|path| path.exists());
    path.ok_or_else(|| {
        let here = &config.this_node().name;
        let message = format!(
            "there is no archive {name} in {} on {here}; `archive list` shows what there is (archives are on the server whose \
             copy was given up)",
            directory(config).display()
        );
        Failure::new(Exit::Usage, message)
    })
}

/// The archive over the volume's disk on this node.
fn view(config: &Config, name: &str) -> Result<View, Failure> {
    let path = path_of(config, name)?;
    let reader = crate::io::archive::Reader::open(&path).map_err(failed)?;
    let volume = &reader.header.volume;
    let Some(known) = config.volume(volume) else {
        let message = format!("{} describes no volume {volume}, of which {name} is", config.file.display());
        return Err(Failure::new(Exit::Usage, message));
    };
    View::open(&path, &known.place(config.node).disk).map_err(failed)
}

fn mount(config: &Config, name: &str, socket: Option<&Path>) -> Result<Exit, Failure> {
    let view = view(config, name)?;
    let beside = config.this_node().control.with_file_name(format!("{name}.sock"));
    let socket = socket.unwrap_or(&beside);
    let signals = Signals::new().map_err(|error| Failure::new(Exit::Failed, format!("no signals: {error}")))?;
    let listener = bind(socket).map_err(|error| {
        let message = format!("no socket at {}: {error}; name another with --socket", socket.display());
        Failure::new(Exit::Failed, message)
    })?;
    let reader = view.archive();
    say!("nbd+unix:///{name}?socket={}", socket.display());
    let since = match reader.finished {
        Some(finished) => {
            format!("what was written to {} since {} shows through", reader.header.volume, show_moment(finished))
        }
        None => "the resync is not done, so it is the copy exactly as it was given up".into(),
    };
    eprintln!(
        "serving {name} read-only until interrupted: {} from the archive over {} as it is now; {since}",
        show_size(reader.bytes_held()),
        reader.header.volume,
    );
    let served = serve(name, view, NbdListener::Unix(listener), signals);
    // It is ours.
    let _ = std::fs::remove_file(socket);
    served.map_err(|error| Failure::new(Exit::Failed, format!("serving {name} ended: {error}")))?;
    Ok(Exit::Done)
}

/// Binds a socket; one that nobody listens at any more is removed.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        bound => return bound,
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        _ => Err(io::Error::from(io::ErrorKind::AddrInUse)),
    }
}

fn export(config: &Config, name: &str, file: &Path, (whole, skip_damaged): (bool, bool)) -> Result<Exit, Failure> {
    let mut view = view(config, name)?;
    let failed = |path: &Path, error: io::Error| {
        let next = match error.kind() {
            io::ErrorKind::AlreadyExists => "name a file that does not exist",
            _ => {
                "look at its directory, and at the archive with `archive list`; --skip-damaged leaves out what is damaged"
            }
        };
        Failure::new(Exit::Failed, format!("{} can't be written: {error}; {next}", path.display()))
    };
    let create = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| failed(path, e));
    let mut list = file.as_os_str().to_owned();
    list.push(".json");
    let list = PathBuf::from(list);
    let image = create(file)?;
    let parts = create(&list)?;
    let left_out = with_progress(|progress| view.export(&image, whole, skip_damaged, progress));
    let left_out = left_out.map_err(|error| failed(file, error))?;
    // Looked at afterwards: the resync may have ended while the copy was written.
    let finished = crate::io::archive::Reader::open(&path_of(config, name)?).map_err(self::failed)?.finished;
    write_list(&parts, name, &view, whole, finished.is_none()).map_err(|error| failed(&list, error))?;
    let kind = if whole { "the whole copy" } else { "what only this copy had" };
    say!("{}: {kind} of {name}; the parts from the archive are listed in {}", file.display(), list.display());
    if let (true, Some(finished)) = (whole, finished) {
        let volume = &view.archive().header.volume;
        say!(
            "What was written to {volume} since {} shows through, in blocks that were the same on both.",
            show_moment(finished)
        );
    }
    if left_out > 0 {
        let message = format!("{left_out} blocks of {name} are damaged and read as zeroes in {}", file.display());
        return Err(Failure::new(Exit::Failed, message));
    }
    Ok(Exit::Done)
}

fn write_list(file: &File, name: &str, view: &View, whole: bool, unfinished: bool) -> io::Result<()> {
    let header = &view.archive().header;
    let list = serde_json::json!({
        "archive": name,
        "volume": header.volume,
        "node": header.node,
        "size_bytes": header.size_bytes,
        "whole": whole,
        // What only this copy had never changes; the rest is the copy that was given up only while the resync ran.
        "exact": !whole || unfinished,
        "parts": view.parts(),
    });
    serde_json::to_writer(file, &list)?;
    file.sync_all()
}

fn with_progress<T>(work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> T) -> T {
    let (mut display, began) = (Display::new(), Instant::now());
    let result = work(&mut |done, total| {
        let rate = (done as f64 / began.elapsed().as_secs_f64().max(0.001)) as u64;
        display.show(&Progress {
            what: "export".into(),
            percent: 100.0 * done as f64 / total.max(1) as f64,
            bytes: Some((done, total)),
            bytes_per_second: rate,
            seconds_left: total.saturating_sub(done).checked_div(rate),
        });
    });
    display.end();
    result
}

fn delete(config: &Config, name: &str, yes: bool) -> Result<Exit, Failure> {
    let path = path_of(config, name)?;
    let what = match crate::io::archive::Reader::open(&path) {
        Err(error) => format!("{name} is removed for good ({error})."),
        Ok(reader) => {
            let (header, held) = (&reader.header, show_size(reader.bytes_held()));
            let warning = match reader.finished {
                Some(_) => "",
                None => " It is not complete: a resync that still needs it will not go on without it.",
            };
            format!("{held} that only {} had of {} are removed for good.{warning}", header.node, header.volume)
        }
    };
    confirm(&what, yes)?;
    std::fs::remove_file(&path)
        .map_err(|error| Failure::new(Exit::Failed, format!("{} can't be removed: {error}", path.display())))?;
    say!("{name} is removed");
    Ok(Exit::Done)
}
