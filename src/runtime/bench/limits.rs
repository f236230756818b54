//! What the machine can do at best, measured in the same run: the disk without any server, and the link without any use.

use super::Contender;
use super::fio::Target;
use crate::runtime::cli::exit::{Exit, Failure};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How the limit is called among the contenders.
pub(super) const LIMIT: &str = "limit";
/// Time for each figure of the link.
const LINK_TIME: Duration = Duration::from_millis(500);
const PING_BYTES: usize = 4 << 10;
const STREAM_BYTES: usize = 1 << 20;

/// Two files beside those of the two servers, with nothing in between. A write to both is what a mirror must do at least.
pub(super) struct RawDisk {
    files: [PathBuf; 2],
}

impl RawDisk {
    /// Makes the files.
    pub fn new(folder: &Path, size_bytes: u64) -> Result<RawDisk, Failure> {
        let files = ["raw-alpha.img", "raw-beta.img"].map(|name| folder.join(name));
        for file in &files {
            let made = File::create(file).and_then(|made| made.set_len(size_bytes));
            made.map_err(|error| Failure::new(Exit::Failed, format!("{} can't be made: {error}", file.display())))?;
        }
        Ok(RawDisk { files })
    }
}

impl Contender for RawDisk {
    fn name(&self) -> &'static str {
        LIMIT
    }

    fn target(&self, writes: bool) -> Target {
        // A read needs one disk.
        Target::Files(self.files[..if writes { 2 } else { 1 }].to_vec())
    }
}

/// What the link could carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkLimit {
    /// Middle time of a block there and back, in microseconds.
    pub round_trip_microseconds: f64,
    /// Bytes per second one way.
    pub bytes_per_second: f64,
}

/// Measures TCP over the loopback, which is the link of a pair on one machine.
pub(super) fn measure_link() -> io::Result<LinkLimit> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        // Should the other side fail, neither waits for ever.
        stream.set_read_timeout(Some(LINK_TIME * 20))?;
        stream.set_write_timeout(Some(LINK_TIME * 20))?;
    }
    let echo = std::thread::spawn(move || -> io::Result<()> {
        let mut block = vec![0; PING_BYTES];
        while far.read_exact(&mut block).is_ok() {
            // The last block asks for the stream to begin.
            if block[0] == 1 {
                break;
            }
            far.write_all(&block)?;
        }
        let mut sink = vec![0; STREAM_BYTES];
        while far.read(&mut sink)? > 0 {}
        Ok(())
    });
    let mut block = vec![0; PING_BYTES];
    let mut trips = Vec::new();
    let began = Instant::now();
    while began.elapsed() < LINK_TIME {
        let sent = Instant::now();
        near.write_all(&block)?;
        near.read_exact(&mut block)?;
        trips.push(sent.elapsed());
    }
    block[0] = 1;
    near.write_all(&block)?;
    let stream = vec![7; STREAM_BYTES];
    let (began, mut bytes) = (Instant::now(), 0);
    while began.elapsed() < LINK_TIME {
        near.write_all(&stream)?;
        bytes += STREAM_BYTES;
    }
    drop(near);
    echo.join().map_err(|_| io::Error::other("the other end of the loopback failed"))??;
    let bytes_per_second = bytes as f64 / began.elapsed().as_secs_f64();
    trips.sort();
    let round_trip_microseconds = trips[trips.len() / 2].as_nanos() as f64 / 1e3;
    Ok(LinkLimit { round_trip_microseconds, bytes_per_second })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_loopback_is_measured() {
        let link = super::measure_link().unwrap();
        assert!(link.round_trip_microseconds > 0.0 && link.bytes_per_second > 0.0, "{link:?}");
    }
}
