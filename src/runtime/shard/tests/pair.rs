//! Two whole shards, their disks, the link between them and a client, in one process.

use super::{MIB, PATIENCE};
use crate::base::command::{Command, CommandOutcome};
use crate::base::ids::{BootId, Incarnation, NodeId, SessionId};
use crate::base::state::{DiskState, LinkState, Role};
use crate::io::archive::Place;
use crate::io::disk::{DiskSpec, InitOptions, MetadataPlace, OpenedVolume, init_disk, open_volume, volume_uuid};
use crate::io::ring::Choice;
use crate::logic::mirror::interface::{Identity, Settings};
use crate::runtime::config::settings::VolumeSettings;
use crate::runtime::shard::{NbdListener, ShardConfig, ShardEvent, ShardHandle, ShardView};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const DISK_BYTES: u64 = 24 << 20;

fn spec(directory: &Path, node: u8) -> DiskSpec {
    DiskSpec {
        volume: "vol0".to_owned(),
        cluster: "lab".to_owned(),
        node: NodeId(node),
        volume_uuid: volume_uuid("lab", "vol0"),
        disk: directory.join(format!("disk-{node}")),
        metadata: MetadataPlace::Internal,
    }
}

fn settings(node: u8) -> Settings {
    let usual = Settings::usual(NodeId(node), volume_uuid("lab", "vol0"));
    Settings { receipt_gating: true, resync_rate_min: 1 << 20, ..usual }
}

/// One node: its shard, and what it has said.
struct Node {
    shard: ShardHandle,
    events: mpsc::UnboundedReceiver<(String, ShardEvent)>,
    socket: PathBuf,
}

impl Node {
    fn start(directory: &Path, node: u8, disk: Option<OpenedVolume>, disk_engine: Choice) -> Node {
        let (events, heard) = mpsc::unbounded_channel();
        let socket = directory.join(format!("nbd-{node}"));
        let _ = std::fs::remove_file(&socket);
        let listeners = vec![NbdListener::Unix(UnixListener::bind(&socket).unwrap())];
        let seed = u64::from(node) + 77;
        let identity = Identity { incarnation: Incarnation(seed), boot: BootId(5), seed };
        let disk_reason = disk.is_none().then(|| "left out by the test".to_owned());
        let settings = settings(node);
        let client_times = VolumeSettings::default().client_times();
        let archive = Place { directory: directory.join(format!("archive-{node}")), bytes_max: 1 << 30 };
        let config = ShardConfig {
            settings,
            identity,
            disk,
            disk_reason,
            listeners,
            client_times,
            events,
            disk_engine,
            archive,
            reserves_memory: false,
        };
        Node { shard: ShardHandle::spawn(config).unwrap(), events: heard, socket }
    }

    /// Waits for an event, and drops those before it.
    async fn event(&mut self, what: &str, is_it: impl Fn(&ShardEvent) -> bool) {
        let wait = async {
            loop {
                match self.events.recv().await {
                    Some((_, event)) if is_it(&event) => return,
                    Some((_, ShardEvent::Fatal(why))) => panic!("the shard died while waiting for {what}: {why}"),
                    Some(_) => {}
                    None => panic!("the shard went away before {what}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} did not come"));
    }

    async fn until(&self, what: &str, holds: impl Fn(&ShardView) -> bool) -> ShardView {
        let started = Instant::now();
        loop {
            let view = self.shard.view().await;
            if holds(&view) {
                return view;
            }
            assert!(started.elapsed() < PATIENCE, "waiting for {what}, the volume is {view:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn done(&self, command: Command) -> String {
        match self.shard.command(command.clone()).await {
            CommandOutcome::Done(words) => words,
            CommandOutcome::Refused(refusal) => panic!("{command:?} was refused: {refusal}"),
        }
    }

    async fn stop(mut self) {
        self.shard.stop();
        self.event("the end", |event| matches!(event, ShardEvent::Stopped)).await;
    }
}

struct Pair {
    directory: tempfile::TempDir,
    runtime: Runtime,
    alpha: Node,
    beta: Node,
    sessions: u64,
}

impl Pair {
    /// Two blank disks, connected and in sync, alpha primary.
    fn in_sync(disk_engine: Choice) -> Pair {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let [alpha, beta] = [0, 1].map(|node| {
            let spec = spec(directory.path(), node);
            let options = InitOptions { create_bytes: Some(DISK_BYTES), ..InitOptions::default() };
            init_disk(&spec, options).unwrap();
            Node::start(directory.path(), node, Some(open_volume(&spec).unwrap()), disk_engine)
        });
        let mut pair = Pair { directory, runtime, alpha, beta, sessions: 0 };
        pair.connect();
        pair.runtime.block_on(async {
            pair.alpha.until("a link", |view| view.volume.link == LinkState::Connected).await;
            pair.alpha.done(Command::Promote { force: false }).await;
            pair.alpha.until("being in sync", |view| view.volume.in_sync && view.volume.serving).await;
        });
        pair
    }

    /// What the daemons do: an authenticated connection, handed to both.
    fn connect(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let right = listener.accept().unwrap().0;
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.alpha.shard.offer_link(left, session, "beta".to_owned());
        self.beta.shard.offer_link(right, session, "alpha".to_owned());
    }

    fn client(&self) -> Client {
        Client::connect(&self.alpha.socket)
    }

    /// Both disks' first bytes, which must be equal.
    fn bytes(&self, length: u64) -> Vec<u8> {
        let [alpha, beta] = [0, 1].map(|node| {
            let file = std::fs::File::open(spec(self.directory.path(), node).disk).unwrap();
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        });
        assert!(alpha == beta, "the disks differ");
        alpha
    }
}

/// A client that knows just enough of NBD.
struct Client {
    stream: UnixStream,
    size: u64,
}

const NBD_READ: u16 = 0;
const NBD_WRITE: u16 = 1;
const NBD_FLUSH: u16 = 3;
const NBD_ZEROES: u16 = 6;

impl Client {
    fn connect(socket: &Path) -> Client {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        let mut option = b"IHAVEOPT".to_vec();
        option.extend(1u32.to_be_bytes());
        option.extend(4u32.to_be_bytes());
        option.extend(b"vol0");
        stream.write_all(&option).unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        Client { stream, size: u64::from_be_bytes(answer[..8].try_into().unwrap()) }
    }

    fn send(&mut self, command: u16, cookie: u64, offset: u64, length: u32, payload: &[u8]) {
        let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
        request.extend(0u16.to_be_bytes());
        request.extend(command.to_be_bytes());
        request.extend(cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend(payload);
        self.stream.write_all(&request).unwrap();
    }

    /// Waits for an answer: its cookie and error.
    fn answer(&mut self) -> (u64, u32) {
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..4], 0x6744_6698u32.to_be_bytes());
        let error = u32::from_be_bytes(reply[4..8].try_into().unwrap());
        (u64::from_be_bytes(reply[8..].try_into().unwrap()), error)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.send(NBD_WRITE, 1, offset, bytes.len() as u32, bytes);
        assert_eq!(self.answer(), (1, 0));
    }

    fn read(&mut self, offset: u64, length: usize) -> Vec<u8> {
        self.send(NBD_READ, 2, offset, length as u32, &[]);
        assert_eq!(self.answer(), (2, 0));
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn flush(&mut self) {
        self.send(NBD_FLUSH, 3, 0, 0, &[]);
        assert_eq!(self.answer(), (3, 0));
    }
}

fn pattern(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| ((at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn both(test: impl Fn(Pair)) {
    test(Pair::in_sync(Choice::Threads));
    test(Pair::in_sync(Choice::Automatic));
}

#[test]
fn every_write_is_on_both_disks() {
    both(|pair| {
        let mut client = pair.client();
        let mut expected = vec![0; client.size as usize];
        // Aligned, unaligned, within one block, across pieces, several under way at once.
        let ranges =
            [(0, 4096), (8192, MIB), (100, 50), (5000, 10_000), (MIB as u64 - 700, 3000), (3 * MIB as u64, 4096)];
        for (seed, (offset, length)) in ranges.into_iter().enumerate() {
            let bytes = pattern(seed as u64, length);
            client.write(offset, &bytes);
            expected[offset as usize..offset as usize + length].copy_from_slice(&bytes);
            assert!(client.read(offset, length) == bytes);
        }
        let batch = pattern(9, 4096);
        for cookie in 0..64 {
            let offset = (4 << 20) + cookie * 8192;
            client.send(NBD_WRITE, 100 + cookie, offset, 4096, &batch);
            expected[offset as usize..][..4096].copy_from_slice(&batch);
        }
        let mut answered: Vec<(u64, u32)> = (0..64).map(|_| client.answer()).collect();
        answered.sort();
        assert_eq!(answered, (0..64).map(|cookie| (100 + cookie, 0)).collect::<Vec<_>>());
        client.send(NBD_ZEROES, 7, 4 << 20, 10_000, &[]);
        assert_eq!(client.answer(), (7, 0));
        expected[4 << 20..][..10_000].fill(0);
        client.flush();
        assert!(client.read(0, 8 << 20) == expected[..8 << 20]);
        assert!(pair.bytes(client.size) == expected);
        let Pair { runtime, alpha, beta, .. } = pair;
        drop(client);
        runtime.block_on(async {
            alpha.stop().await;
            beta.stop().await;
        });
    });
}

#[test]
fn what_was_written_alone_is_copied_when_the_peer_is_back() {
    both(|mut pair| {
        let mut client = pair.client();
        client.write(0, &pattern(1, 4096));
        // Flushed on both sides, it need not be copied again.
        client.flush();
        pair.beta.shard.set_disconnected(true);
        pair.runtime.block_on(async {
            let view = pair.beta.until("the end", |view| view.volume.link == LinkState::Disconnected).await;
            assert_eq!(view.volume.disk, DiskState::UpToDate);
            pair.alpha.until("being alone", |view| view.volume.link == LinkState::Down).await;
        });
        client.write(5 << 20, &pattern(2, 3 * 4096));
        client.flush();
        let dirty = pair.runtime.block_on(pair.alpha.shard.dirty(10));
        assert_eq!(dirty, [(5 << 20, 3 * 4096)]);
        // Offered while the operator wants none: not taken.
        pair.connect();
        pair.beta.shard.set_disconnected(false);
        pair.connect();
        let summary = pair.runtime.block_on(async {
            let view = pair.alpha.until("the resync's end", |view| view.volume.last_resync.is_some()).await;
            pair.beta.until("being in sync", |view| view.volume.in_sync).await;
            view.volume.last_resync.unwrap()
        });
        assert!(summary.bytes_copied >= 3 * 4096 && summary.bytes_copied <= 1 << 20, "{summary:?}");
        assert!(pair.bytes(client.size)[5 << 20..][..12_288] == pattern(2, 12_288));
    });
}

#[test]
fn a_demotion_waits_for_the_clients_unless_forced() {
    let pair = Pair::in_sync(Choice::Automatic);
    let mut client = pair.client();
    client.write(0, &[1; 512]);
    pair.runtime.block_on(async {
        let CommandOutcome::Refused(refusal) = pair.alpha.shard.command(Command::Demote { force: false }).await else {
            panic!("a client is connected")
        };
        assert!(refusal.code == "clients-connected" && refusal.reason.contains("1 client is"), "{refusal}");
        assert_eq!(pair.alpha.shard.view().await.clients.len(), 1);
        pair.alpha.done(Command::Demote { force: true }).await;
        let view = pair.alpha.until("no clients", |view| view.clients.is_empty()).await;
        assert_eq!(view.volume.role, Role::Secondary);
    });
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0, "the client was cut");
}

#[test]
fn a_detached_disk_is_closed_and_can_be_attached_again() {
    let mut pair = Pair::in_sync(Choice::Automatic);
    let mut client = pair.client();
    client.write(0, &pattern(1, 4096));
    let spec = spec(pair.directory.path(), 1);
    pair.runtime.block_on(async {
        assert!(open_volume(&spec).is_err(), "a disk in use is locked");
        pair.beta.done(Command::Detach).await;
        pair.beta.event("the closing", |event| matches!(event, ShardEvent::DiskClosed)).await;
        pair.beta.until("diskless", |view| view.volume.disk == DiskState::Diskless).await;
    });
    client.write(4096, &pattern(2, 4096));
    let opened = open_volume(&spec).unwrap();
    let second = pair.runtime.block_on(async {
        let outcome = pair.beta.shard.attach(opened).await;
        assert!(matches!(outcome, CommandOutcome::Done(_)), "{outcome:?}");
        let other = tempfile::tempdir().unwrap();
        let other_spec = DiskSpec { disk: other.path().join("disk"), ..spec };
        init_disk(&other_spec, InitOptions { create_bytes: Some(DISK_BYTES), ..InitOptions::default() }).unwrap();
        pair.beta.shard.attach(open_volume(&other_spec).unwrap()).await
    });
    assert!(matches!(second, CommandOutcome::Refused(refusal) if refusal.code == "disk-attached"));
    pair.connect();
    pair.runtime.block_on(async {
        pair.beta.until("being in sync", |view| view.volume.in_sync).await;
    });
    assert!(pair.bytes(8192)[4096..] == pattern(2, 4096));
}

#[test]
fn a_shard_that_has_ended_answers_still() {
    let mut pair = Pair::in_sync(Choice::Automatic);
    pair.runtime.block_on(async {
        pair.alpha.shard.stop();
        pair.alpha.event("the end", |event| matches!(event, ShardEvent::Stopped)).await;
        let outcome = pair.alpha.shard.command(Command::PauseResync).await;
        assert!(matches!(outcome, CommandOutcome::Refused(refusal) if refusal.code == "stopping"));
        assert_eq!(pair.alpha.shard.view().await.volume.name, "vol0");
        assert_eq!(pair.alpha.shard.dirty(10).await, []);
    });
    // Unlocked at the end.
    open_volume(&spec(pair.directory.path(), 0)).unwrap();
}
