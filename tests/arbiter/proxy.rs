//! A network that loses or delays: passes connections on, and can hold back either direction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They pass.
    Open,
    /// They wait until the way is open again.
    Held,
    /// They are lost.
    Lost,
}

struct Ways {
    /// To the server, and to the client.
    ways: Mutex<[Way; 2]>,
    changed: Condvar,
    /// Bytes that came while the way to the server was held.
    waiting: AtomicUsize,
    ended: AtomicBool,
}

pub struct Proxy {
    port: u16,
    ways: Arc<Ways>,
}

impl Proxy {
    /// Passes connections on to a port of this machine.
    pub fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ways = Arc::new(Ways {
            ways: Mutex::new([Way::Open; 2]),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let shared = ways.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", target))) else { continue };
                let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (there, back) = (shared.clone(), shared.clone());
                std::thread::spawn(move || pass(client, server, 0, &there));
                std::thread::spawn(move || pass(server_too, client_too, 1, &back));
            }
        });
        Proxy { port, ways }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, to_server: Way, to_client: Way) {
        *self.ways.ways.lock().unwrap() = [to_server, to_client];
        self.ways.changed.notify_all();
    }

    /// Bytes that came for the server while they were held.
    pub fn waiting(&self) -> usize {
        self.ways.waiting.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ways.ended.store(true, Ordering::SeqCst);
        self.set(Way::Open, Way::Open);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Bytes that were held are passed on even when their sender has given up meanwhile.
fn pass(mut from: TcpStream, mut to: TcpStream, direction: usize, ways: &Ways) {
    let mut bytes = [0; 16384];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let mut state = ways.ways.lock().unwrap();
        if state[direction] == Way::Held && direction == 0 {
            ways.waiting.fetch_add(count, Ordering::SeqCst);
        }
        while state[direction] == Way::Held {
            state = ways.changed.wait(state).unwrap();
        }
        let lost = state[direction] == Way::Lost;
        drop(state);
        if !lost && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // A server that sees the end of a request's connection at once might give the request up.
    if direction == 1 {
        let _ = to.shutdown(Shutdown::Both);
    }
}
