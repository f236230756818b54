//! `init-disk`: makes the metadata of a volume's disk, without the daemon.

use super::arguments::InitDisk;
use super::confirm::confirm;
use super::exit::{Exit, Failure};
use super::progress::{Display, Progress};
use super::session::{known_volume, refused};
use crate::io::disk::{self, InitOptions, InitialContent};
use crate::runtime::config::Config;
use crate::runtime::config::units::show_size;
use crate::runtime::daemon::disk_spec;
use std::time::Instant;

/// `init-disk`.
pub fn init_disk(config: &Config, options: &InitDisk, yes: bool) -> Result<Exit, Failure> {
    let volume = known_volume(config, &options.volume)?;
    let place = volume.place(config.node);
    let spec = disk_spec(config, &volume.name, place);
    if let Some(words) = what_is_lost(options, &place.disk) {
        confirm(&words, yes)?;
    }
    let init = InitOptions {
        content: match (options.adopt, options.overwrite) {
            (true, _) => InitialContent::Adopt,
            (_, true) => InitialContent::Overwrite,
            _ => InitialContent::Blank,
        },
        replace_metadata: options.replace_metadata,
        tail_is_free: options.tail_is_free,
        zero: options.zero,
        create_bytes: options.size,
    };
    let mut display = Display::new();
    let started = Instant::now();
    let done = disk::init_disk_with_progress(&spec, init, &mut |step: &str, done: u64, total: u64| {
        let rate = done as f64 / started.elapsed().as_secs_f64().max(0.001);
        display.show(&Progress {
            what: step.to_string(),
            percent: 100.0 * done as f64 / total.max(1) as f64,
            bytes: Some((done, total)),
            bytes_per_second: rate as u64,
            seconds_left: (rate > 1.0).then(|| ((total - done.min(total)) as f64 / rate) as u64),
        });
    });
    display.end();
    let report = done.map_err(|error| refused(&error.refusal))?;
    for sentence in &report.sentences {
        say!("{sentence}");
    }
    say!(
        "{} on {}: {} holds {} of data, {} are set aside for metadata; it is {}{}.",
        volume.name,
        config.this_node().name,
        place.disk.display(),
        show_size(report.capacity_bytes),
        show_size(report.metadata_bytes),
        report.disk,
        if report.zeroed { " and reads as zeroes" } else { "" }
    );
    Ok(Exit::Done)
}

/// What the options allow to be lost; nothing where a disk that holds something is refused anyway.
fn what_is_lost(options: &InitDisk, disk: &std::path::Path) -> Option<String> {
    if !disk.exists() {
        return None;
    }
    let disk = disk.display();
    if options.overwrite || options.zero {
        let how = if options.zero { "zeroed" } else { "given up" };
        return Some(format!("What {disk} holds is {how} and lost."));
    }
    if options.tail_is_free {
        return Some(format!("What lies at the end of {disk}, behind the data that is kept, is overwritten and lost."));
    }
    options.replace_metadata.then(|| {
        format!("The metadata on {disk} is replaced: what it knew of a peer and of unfinished resyncs is lost.")
    })
}
