//! The daemon's side of the control socket.

use super::message::{self, Answer, Ask, REQUEST_BYTES_MAX};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Connections at a time; more wait in the socket's backlog.
const CONNECTIONS_MAX: usize = 32;
/// Longest time a client may leave its answer unread.
const SEND_TIME_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed accept (no descriptors left): the loop must not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the socket until the task is dropped. Runs on a `LocalSet`; `answer` is called once per request.
pub async fn serve<F, R>(listener: UnixListener, idle_max: impl Fn() -> Duration, answer: F)
where
    F: Fn(Ask) -> R + 'static,
    R: Future<Output = Answer> + 'static,
{
    let answer = Rc::new(answer);
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (answer, idle_max) = (answer.clone(), idle_max());
                tokio::task::spawn_local(async move {
                    serve_connection(stream, idle_max, &*answer).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("control socket: a connection can't be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers the requests of one connection until it ends, is idle, or makes no sense.
async fn serve_connection<F, R>(stream: UnixStream, idle_max: Duration, answer: &F)
where
    F: Fn(Ask) -> R,
    R: Future<Output = Answer>,
{
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut read).take(REQUEST_BYTES_MAX as u64);
        match tokio::time::timeout(idle_max, bounded.read_until(b'\n', &mut line)).await {
            Ok(Ok(0)) | Ok(Err(_)) | Err(_) => return,
            Ok(Ok(_)) => {}
        }
        let whole = line.last() == Some(&b'\n');
        let reply = if whole {
            match message::decode_request(&line) {
                Ok(ask) => answer(ask).await,
                Err(reason) => Answer::Misunderstood { reason },
            }
        } else {
            let reason = format!("the request does not end with a newline within {REQUEST_BYTES_MAX} bytes");
            Answer::Misunderstood { reason }
        };
        let sent = tokio::time::timeout(SEND_TIME_MAX, write.write_all(&message::encode(&reply))).await;
        // After nonsense nobody knows where the next request begins.
        if !matches!(sent, Ok(Ok(()))) || !whole {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::Client;
    use super::super::socket;
    use super::*;
    use crate::base::command::CommandOutcome;
    use std::io::{Read, Write};
    use std::path::Path;

    /// A daemon that repeats what it is asked, on a thread of its own for as long as the test runs.
    fn start(path: &Path) {
        let listener = socket::bind(path, 0o600).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let listener = UnixListener::from_std(listener).unwrap();
                serve(
                    listener,
                    || Duration::from_secs(5),
                    |ask| async move { Answer::Outcome { result: CommandOutcome::Done(format!("{ask:?}")) } },
                )
                .await;
            });
        });
    }

    #[test]
    fn answers_in_turn_and_survives_nonsense() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        start(&path);
        let mut client = Client::connect(&path).unwrap();
        for ask in [Ask::Status, Ask::Attach { volume: "v".into() }] {
            let expected = CommandOutcome::Done(format!("{ask:?}"));
            assert_eq!(client.ask(ask).unwrap(), Answer::Outcome { result: expected });
        }

        let mut hostile = std::os::unix::net::UnixStream::connect(&path).unwrap();
        hostile.write_all(b"GET / HTTP/1.1\n").unwrap();
        let mut answer = [0; 4096];
        let length = hostile.read(&mut answer).unwrap();
        assert!(std::str::from_utf8(&answer[..length]).unwrap().contains("misunderstood"));

        // A line that never ends is refused at the limit, and the connection closed.
        let mut endless = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let _ = endless.write_all(&vec![b'['; REQUEST_BYTES_MAX + 1]);
        let mut answer = Vec::new();
        let _ = endless.read_to_end(&mut answer);
        assert!(String::from_utf8(answer).unwrap().contains("does not end with a newline"));

        // One that vanishes in the middle is nothing.
        std::os::unix::net::UnixStream::connect(&path).unwrap().write_all(b"{\"ver").unwrap();
        assert!(client.ask(Ask::Status).is_ok(), "the daemon still answers");
    }
}
