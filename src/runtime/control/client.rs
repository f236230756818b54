//! The command's side of the control socket. Blocking: a command asks one thing after the other.

use super::message::{self, ANSWER_BYTES_MAX, Answer, Ask, CONTROL_VERSION, Request};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for an answer: the slowest request initialises a disk.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(180);

/// A connection to a daemon.
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens there.
    NotRunning(PathBuf),
    /// The socket can't be used.
    Unreachable(PathBuf, io::Error),
    /// The connection broke before the answer.
    Broken(PathBuf, io::Error),
    /// No answer came in time.
    TimedOut(PathBuf),
    /// What came is no answer of this version.
    Misunderstood(PathBuf, String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NotRunning(path) => write!(f, "no daemon listens at {}", path.display()),
            ClientError::Unreachable(path, error) => {
                write!(f, "the daemon at {} can't be reached: {error}", path.display())
            }
            ClientError::Broken(path, error) => {
                write!(f, "the daemon at {} went away before it answered: {error}", path.display())
            }
            ClientError::TimedOut(path) => {
                write!(f, "the daemon at {} did not answer within {} s", path.display(), ANSWER_TIME_MAX.as_secs())
            }
            ClientError::Misunderstood(path, what) => write!(f, "the daemon at {} answered: {what}", path.display()),
        }
    }
}

impl Client {
    /// Connects to the daemon's socket.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(path.to_path_buf()),
            _ => ClientError::Unreachable(path.to_path_buf(), error),
        })?;
        let timeouts = stream
            .set_read_timeout(Some(ANSWER_TIME_MAX))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIME_MAX)));
        timeouts.map_err(|error| ClientError::Unreachable(path.to_path_buf(), error))?;
        Ok(Client { path: path.to_path_buf(), stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, ask: Ask) -> Result<Answer, ClientError> {
        let broken = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::TimedOut(self.path.clone()),
            _ => ClientError::Broken(self.path.clone(), error),
        };
        let line = message::encode(&Request { version: CONTROL_VERSION, ask });
        self.stream.get_mut().write_all(&line).map_err(broken)?;
        let mut answer = Vec::new();
        let mut bounded = (&mut self.stream).take(ANSWER_BYTES_MAX as u64);
        bounded.read_until(b'\n', &mut answer).map_err(broken)?;
        if answer.last() != Some(&b'\n') {
            let end = io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed");
            return Err(ClientError::Broken(self.path.clone(), end));
        }
        match serde_json::from_slice(&answer) {
            Ok(Answer::Misunderstood { reason }) => Err(ClientError::Misunderstood(self.path.clone(), reason)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(ClientError::Misunderstood(self.path.clone(), format!("something else ({error})"))),
        }
    }
}
