//! A server of a volume in memory: the real connections, negotiation and sessions on real sockets, and a core that
//! does what a test tells it.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use twinblock::base::error::RequestError;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::request::{Action, Outcome, Request};
use twinblock::base::time::Moment;
use twinblock::io::poller::{Interest, Poller, Waker};
use twinblock::io::pool::Pool;
use twinblock::logic::export::offer::{Availability, Terms};
use twinblock::logic::mirror::interface::Serving;
use twinblock::runtime::config::settings::VolumeSettings;
use twinblock::runtime::shard::clients::{ClientTimes, ClientView, Clients, Host, NbdListener, NbdStream};

/// Name of the volume.
pub const VOLUME: &str = "vol0";

const TOKEN_WAKER: u64 = 0;
const TOKEN_CLIENTS: u64 = 1 << 32;

/// What the core in memory is and does; changed by a test at any time.
pub struct State {
    /// What is served.
    pub serving: Option<Serving>,
    /// What a client hears while nothing is served. `None`: the server is stopping.
    pub refusal: Option<String>,
    /// Writes are refused.
    pub read_only: bool,
    /// Zeroing is fast.
    pub fast_zero: bool,
    /// What was written, by block.
    blocks: HashMap<u64, Vec<u8>>,
    /// What differs from the peer.
    pub dirty: Vec<ByteRange>,
    /// Ranges whose requests fail.
    pub failing: Vec<(ByteRange, RequestError)>,
    /// Writes there are answered well and not done.
    pub losing: Option<ByteRange>,
    /// Pieces are taken and not answered.
    pub holding: bool,
    /// Answer the youngest piece first.
    pub reversed: bool,
    /// Time that passes for the server, on top of the clock.
    pub clock_ahead: Duration,
    /// The clock stands still here, so that only `clock_ahead` makes time pass.
    frozen: Option<Duration>,
    begin: Instant,
    /// Pieces taken so far.
    pub taken: Vec<Action>,
    /// Every client as of the last turn.
    pub clients: Vec<ClientView>,
    /// Buffers in use as of the last turn.
    pub buffers_in_use: usize,
    adopted: Vec<NbdStream>,
    cut: Option<String>,
    ending: bool,
}

impl State {
    /// The volume's bytes.
    pub fn content(&self, range: ByteRange) -> Vec<u8> {
        (range.offset..range.end())
            .map(|at| self.blocks.get(&(at / BLOCK)).map_or(0, |block| block[(at % BLOCK) as usize]))
            .collect()
    }

    /// Stops the clock: time passes only as the test says.
    pub fn freeze(&mut self) {
        self.frozen = Some(self.begin.elapsed());
    }

    fn now(&self) -> Moment {
        let clock = self.frozen.unwrap_or_else(|| self.begin.elapsed());
        Moment((clock + self.clock_ahead).as_nanos() as u64)
    }

    fn failure(&self, action: &Action) -> Option<RequestError> {
        let range = match action {
            Action::Read { range, .. } | Action::Write { range, .. } | Action::Zero { range, .. } => *range,
            Action::Flush => ByteRange::new(u64::MAX - 1, 1),
        };
        self.failing.iter().find(|(failing, _)| failing.overlaps(&range)).map(|(_, error)| *error)
    }

    fn carry_out(&mut self, action: &Action, pool: &mut Pool) -> Outcome {
        let failure = self.failure(action);
        match *action {
            Action::Read { range, buffer } => {
                let start = (range.offset % BLOCK) as usize;
                let place = &mut pool.slice_mut(buffer)[start..start + range.length as usize];
                self.each_block(range, |blocks, block, inside, at| match blocks.get(&block) {
                    Some(bytes) => place[at..at + inside.len()].copy_from_slice(&bytes[inside]),
                    None => place[at..at + inside.len()].fill(0),
                });
            }
            Action::Write { range, buffer, .. } => {
                let start = (range.offset % BLOCK) as usize;
                let bytes = pool.slice(buffer)[start..start + range.length as usize].to_vec();
                let lost = self.losing.is_some_and(|losing| losing.overlaps(&range));
                if failure.is_none() && !lost {
                    self.each_block(range, |blocks, block, inside, at| {
                        let length = inside.len();
                        let kept = blocks.entry(block).or_insert_with(|| vec![0; BLOCK as usize]);
                        kept[inside].copy_from_slice(&bytes[at..at + length]);
                    });
                }
                pool.release(buffer);
            }
            Action::Zero { range, .. } => {
                assert!(range.is_aligned() && range.length > 0, "{range} is no range to zero");
                if failure.is_none() {
                    self.blocks.retain(|block, _| !range.contains(&ByteRange::new(block * BLOCK, BLOCK)));
                }
            }
            Action::Flush => {}
        }
        failure.map_or(Ok(()), Err)
    }

    fn each_block(
        &mut self,
        range: ByteRange,
        mut each: impl FnMut(&mut HashMap<u64, Vec<u8>>, u64, std::ops::Range<usize>, usize),
    ) {
        let mut at = range.offset;
        while at < range.end() {
            let inside = (at % BLOCK) as usize;
            let length = (BLOCK as usize - inside).min((range.end() - at) as usize);
            each(&mut self.blocks, at / BLOCK, inside..inside + length, (at - range.offset) as usize);
            at += length as u64;
        }
    }
}

struct Core {
    state: Arc<Mutex<State>>,
    taken: Vec<Request>,
}

impl Core {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the state in hand")
    }
}

impl Host for Core {
    fn serving(&self) -> Option<Serving> {
        self.state().serving
    }

    fn availability(&self) -> Availability {
        let state = self.state();
        match (state.serving, &state.refusal) {
            (Some(Serving { size_bytes, cache_epoch }), _) => Availability::Serving(Terms {
                size_bytes,
                cache_epoch,
                read_only: state.read_only,
                fast_zero: state.fast_zero,
            }),
            (None, Some(refusal)) => Availability::Refused(refusal.clone()),
            (None, None) => Availability::Stopping,
        }
    }

    fn can_admit(&self) -> bool {
        self.taken.len() < twinblock::base::limits::PIECES_IN_FLIGHT_MAX
    }

    fn submit(&mut self, request: Request) {
        assert!(self.can_admit(), "the core is full");
        self.state().taken.push(request.action);
        self.taken.push(request);
    }

    fn holes(&self, range: ByteRange, most: usize) -> Vec<ByteRange> {
        let state = self.state();
        let mut holes: Vec<ByteRange> = Vec::new();
        for block in range.blocks() {
            let block = u64::from(block);
            if state.blocks.contains_key(&block) {
                continue;
            }
            if let Some(last) = holes.last_mut().filter(|last| last.end() == block * BLOCK) {
                last.length += BLOCK;
            } else if holes.len() == most {
                return holes;
            } else {
                holes.push(ByteRange::new(block * BLOCK, BLOCK));
            }
        }
        holes
    }

    fn dirty(&self, range: ByteRange, most: usize) -> Vec<ByteRange> {
        self.state().dirty.iter().filter_map(|dirty| dirty.intersection(&range)).take(most).collect()
    }
}

/// A running server. Ends, and checks that no buffer was lost, when it is dropped.
pub struct Server {
    /// Holds the socket.
    pub directory: TempDir,
    /// Where it listens on the network.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A server of an empty volume of this size.
    pub fn start(size_bytes: u64) -> Server {
        let directory = TempDir::new().unwrap();
        let unix = UnixListener::bind(directory.path().join("s")).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            serving: Some(Serving { size_bytes, cache_epoch: 1 }),
            refusal: Some(format!("volume {VOLUME} is secondary on beta; connect to alpha")),
            read_only: false,
            fast_zero: true,
            blocks: HashMap::new(),
            dirty: Vec::new(),
            failing: Vec::new(),
            losing: None,
            holding: false,
            reversed: false,
            clock_ahead: Duration::ZERO,
            frozen: None,
            begin: Instant::now(),
            taken: Vec::new(),
            clients: Vec::new(),
            buffers_in_use: 0,
            adopted: Vec::new(),
            cut: None,
            ending: false,
        }));
        let waker = Waker::new().unwrap();
        let (for_thread, shared) = (waker.clone(), state.clone());
        let listeners = vec![NbdListener::Unix(unix), NbdListener::Tcp(tcp)];
        let thread = std::thread::spawn(move || run(listeners, shared, &for_thread));
        Server { directory, address, state, waker, thread: Some(thread) }
    }

    /// The unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// The export's address on the unix socket.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{VOLUME}?socket={}", self.socket().display())
    }

    /// The export's address on the network.
    pub fn tcp_uri(&self) -> String {
        format!("nbd://{}/{VOLUME}", self.address)
    }

    /// Looks at the state or changes it; the server acts on it at once.
    pub fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let result = act(&mut self.state.lock().unwrap());
        self.waker.wake();
        result
    }

    /// Waits until the state is as wanted.
    pub fn wait_until(&self, what: &str, mut holds: impl FnMut(&State) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.with(|state| holds(state)) {
            assert!(Instant::now() < end, "waited in vain until {what}");
            std::thread::yield_now();
        }
    }

    /// Serves a connected socket.
    pub fn adopt(&self, stream: NbdStream) {
        self.with(|state| state.adopted.push(stream));
    }

    /// Cuts every client.
    pub fn cut(&self, reason: &str) {
        self.with(|state| state.cut = Some(reason.to_owned()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.with(|state| state.ending = true);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.expect("it runs once").expect("the server's thread ended by a panic");
        }
    }
}

/// How long clients are waited for.
pub fn times() -> ClientTimes {
    VolumeSettings::default().client_times()
}

fn run(listeners: Vec<NbdListener>, state: Arc<Mutex<State>>, waker: &Waker) {
    let mut poller = Poller::new().unwrap();
    let mut pool = Pool::new().unwrap();
    poller.add(waker.as_fd(), TOKEN_WAKER, Interest::READ).unwrap();
    let mut clients = Clients::new(VOLUME, listeners, times(), TOKEN_CLIENTS, &poller).unwrap();
    let mut core = Core { state, taken: Vec::new() };
    let mut events = Vec::new();
    loop {
        let now = core.state().now();
        let timeout = if clients.has_more(core.can_admit(), &pool) {
            Some(Duration::ZERO)
        } else {
            clients.deadline().map(|deadline| deadline.since(now))
        };
        poller.wait(&mut events, timeout).unwrap();
        let now = core.state().now();
        for event in events.drain(..) {
            if event.token == TOKEN_WAKER {
                waker.take();
            } else {
                clients.on_event(event);
            }
        }
        for stream in std::mem::take(&mut core.state().adopted) {
            clients.adopt(stream, now, &mut pool, &poller).unwrap();
        }
        if let Some(reason) = core.state().cut.take() {
            clients.cut(&reason, &mut pool, &poller);
        }
        clients.admit(&mut core, (now, now), &mut pool, &poller);
        let ending = core.state().ending;
        if ending {
            clients.cut("the test has ended", &mut pool, &poller);
        }
        settle(&mut core, &mut clients, &mut pool, ending);
        clients.flush(now, &mut pool, &poller);
        let mut shown = core.state();
        shown.clients = clients.view(now);
        shown.buffers_in_use = pool.in_use();
        if ending {
            assert!(clients.is_quiet(), "a piece was left behind");
            assert_eq!(pool.in_use(), 0, "a buffer was lost");
            return;
        }
    }
}

/// Answers what the core has taken, unless the test holds it.
fn settle(core: &mut Core, clients: &mut Clients, pool: &mut Pool, ending: bool) {
    if core.state().holding && !ending {
        return;
    }
    let mut taken = std::mem::take(&mut core.taken);
    if core.state().reversed {
        taken.reverse();
    }
    for request in taken {
        let outcome = core.state().carry_out(&request.action, pool);
        clients.reply(request.id, outcome, pool);
    }
}
