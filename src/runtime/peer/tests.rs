//! The link's beginning over loopback: who gets a session, who doesn't, and what is said of it.

use super::*;
use crate::runtime::config::secret::Secret;
use crate::runtime::config::settings::DaemonSettings;
use std::future::Future;
use std::io::{Read, Write};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Longest any of these tests may take.
const TEST_TIME_MAX: Duration = Duration::from_secs(20);

type Offered = mpsc::UnboundedReceiver<(std::net::TcpStream, SessionId)>;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async { tokio::time::timeout(TEST_TIME_MAX, test).await.expect("in time") });
}

fn local(node: u8, peer: Vec<SocketAddr>) -> Local {
    Local {
        node: NodeId(node),
        names: ["alpha".into(), "beta".into()],
        peer_addresses: peer,
        incarnation: Incarnation(u64::from(node)),
        config_digest: Cell::new(1),
        credentials: Credentials {
            preamble: Preamble { protocol: PROTOCOL_VERSION, cluster: "lab".into() },
            secret: Secret::of(b"the same on both"),
        },
        settings: RefCell::new(Rc::new(DaemonSettings {
            handshake_timeout: Duration::from_millis(300),
            handshakes_max: 4,
            reconnect_min: Duration::from_millis(10),
            reconnect_max: Duration::from_millis(50),
            refused_retry_min: Duration::from_millis(10),
            refused_retry_max: Duration::from_millis(50),
            ..DaemonSettings::default()
        })),
        asides: OnceCell::new(),
        other_config: Notify::new(),
    }
}

fn link(name: &str) -> (Rc<VolumeLink>, Offered) {
    let (send, receive) = mpsc::unbounded_channel();
    let offer: Offer = Box::new(move |stream, session, _| drop(send.send((stream, session))));
    (Rc::new(VolumeLink::new(name, Uuid(5), offer)), receive)
}

/// The accepting node with one volume, listening.
struct Acceptor {
    address: SocketAddr,
    link: Rc<VolumeLink>,
    offered: Offered,
}

async fn acceptor(local: Local, volume: &str) -> Acceptor {
    let listener = listen::bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (link, offered) = link(volume);
    link.want(false);
    let places = Rc::new(listen::Places::new(&local));
    tokio::task::spawn_local(listen::serve(listener, Rc::new(local), Rc::new(vec![link.clone()]), places));
    Acceptor { address, link, offered }
}

/// The dialling node with one volume, which wants a session.
fn dialler(local: Local, volume: &str) -> (Rc<VolumeLink>, Offered) {
    let (link, offered) = link(volume);
    link.want(false);
    let dialling = link.clone();
    tokio::task::spawn_local(async move { dial::keep_connected(&local, &dialling).await });
    (link, offered)
}

/// Waits until a link has a reason for not being there that contains these words.
async fn trouble(link: &VolumeLink, words: &str) {
    while !link.trouble().is_some_and(|trouble| trouble.contains(words)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn both_ends_get_the_same_session_and_a_clean_stream() {
    run(async {
        let mut there = acceptor(local(1, vec!["127.0.0.1:1".parse().unwrap()]), "vol0").await;
        let (_link, mut offered) = dialler(local(0, vec![there.address]), "vol0");
        let (mut ours, session) = offered.recv().await.unwrap();
        ours.write_all(b"frame").unwrap();
        let (theirs, same) = there.offered.recv().await.unwrap();
        assert_eq!(session, same);
        let mut theirs = TcpStream::from_std(theirs).unwrap();
        let mut frame = [0; 5];
        theirs.read_exact(&mut frame).await.unwrap();
        assert_eq!(&frame, b"frame", "nothing of the handshake is left in the stream");
        assert!(there.link.trouble().is_none());
    });
}

#[test]
fn sessions_differ_and_a_new_one_is_made_when_wanted() {
    run(async {
        let mut there = acceptor(local(1, vec![]), "vol0").await;
        let (link, mut offered) = dialler(local(0, vec![there.address]), "vol0");
        let (_, first) = offered.recv().await.unwrap();
        link.want(true);
        let (_, second) = offered.recv().await.unwrap();
        assert_ne!(first, second);
        assert_eq!(there.offered.recv().await.unwrap().1, first);
        assert_eq!(there.offered.recv().await.unwrap().1, second);
    });
}

#[test]
fn after_a_fault_there_is_a_wait_which_a_wish_for_a_session_at_once_ends() {
    run(async {
        let mut there = acceptor(local(1, vec![]), "vol0").await;
        let patient = local(0, vec![there.address]);
        let hour = Duration::from_secs(3600);
        let settings = DaemonSettings { reconnect_min: hour, reconnect_max: hour, ..(*patient.settings()).clone() };
        patient.settings.replace(Rc::new(settings));
        let (link, mut offered) = dialler(patient, "vol0");
        link.want(true);
        offered.recv().await.unwrap();
        there.offered.recv().await.unwrap();
        link.want(false);
        // Anyone who dials now is seen before this stranger is.
        for _ in 0..20 {
            let mut stranger = TcpStream::connect(there.address).await.unwrap();
            stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let _ = stranger.read_to_end(&mut Vec::new()).await;
        }
        assert!(offered.try_recv().is_err(), "a session that broke is not made again at once");
        link.want(true);
        offered.recv().await.unwrap();
    });
}

/// Both ends must say what is wrong, and no session may come of it.
async fn refused(dialling: Local, accepting: Local, volume: &str, ours: &str, theirs: &str) {
    let mut there = acceptor(accepting, "vol0").await;
    let (here, mut offered) = dialler(Local { peer_addresses: vec![there.address], ..dialling }, volume);
    trouble(&here, ours).await;
    if !theirs.is_empty() {
        trouble(&there.link, theirs).await;
    }
    assert!(offered.try_recv().is_err() && there.offered.try_recv().is_err(), "no session");
}

#[test]
fn a_wrong_secret_is_told_on_both_sides() {
    run(async {
        let mut wrong = local(0, vec![]);
        wrong.credentials.secret = Secret::of(b"another one");
        let words = "does not hold the same secret";
        refused(wrong, local(1, vec![]), "vol0", words, words).await;
    });
}

#[test]
fn another_version_is_told_on_both_sides() {
    run(async {
        let mut newer = local(0, vec![]);
        newer.credentials.preamble.protocol = 99;
        let ours = format!("the peer speaks link protocol version {PROTOCOL_VERSION}");
        refused(newer, local(1, vec![]), "vol0", &ours, "the peer speaks link protocol version 99").await;
    });
}

#[test]
fn another_cluster_is_told_on_both_sides() {
    run(async {
        let mut other = local(0, vec![]);
        other.credentials.preamble.cluster = "prod".into();
        let ours = "belongs to cluster \"lab\"";
        refused(other, local(1, vec![]), "vol0", ours, "belongs to cluster \"prod\"").await;
    });
}

#[test]
fn an_unknown_volume_is_told() {
    run(async {
        let words = "the peer refused (unknown-volume): beta has no volume \"vol9\"";
        refused(local(0, vec![]), local(1, vec![]), "vol9", words, "").await;
    });
}

#[test]
fn two_servers_with_one_name_are_told() {
    run(async {
        let words = "both servers run as node beta";
        refused(local(1, vec![]), local(1, vec![]), "vol0", words, words).await;
    });
}

#[test]
fn nodes_in_another_order_are_told() {
    run(async {
        let mut swapped = local(1, vec![]);
        swapped.names.swap(0, 1);
        let words = "with the nodes in the same order";
        refused(swapped, local(1, vec![]), "vol0", words, words).await;
    });
}

#[test]
fn a_disconnected_volume_is_refused_until_it_is_connected() {
    run(async {
        let mut there = acceptor(local(1, vec![]), "vol0").await;
        there.link.set_disconnected(true);
        let (here, mut offered) = dialler(local(0, vec![there.address]), "vol0");
        trouble(&here, "(disconnected)").await;
        there.link.set_disconnected(false);
        offered.recv().await.unwrap();
        there.offered.recv().await.unwrap();
        assert!(here.trouble().is_none() && there.link.trouble().is_none(), "a session clears the reason");

        here.set_disconnected(true);
        here.want(true);
        tokio::task::yield_now().await;
        assert!(offered.try_recv().is_err());
        here.set_disconnected(false);
        offered.recv().await.unwrap();
    });
}

#[test]
fn addresses_are_tried_in_turn() {
    run(async {
        let there = acceptor(local(1, vec![]), "vol0").await;
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (_link, mut offered) = dialler(local(0, vec![dead, there.address]), "vol0");
        offered.recv().await.unwrap();
    });
}

#[test]
fn nobody_there_is_told_with_the_address() {
    run(async {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (here, _offered) = dialler(local(0, vec![dead]), "vol0");
        trouble(&here, &format!("beta at {dead}: nobody listens there")).await;
    });
}

#[test]
fn garbage_and_silence_never_end_the_listener() {
    run(async {
        let mut there = acceptor(local(1, vec!["127.0.0.1:1".parse().unwrap()]), "vol0").await;
        let garbage: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"TWINLINK",
            b"TWINLINK\x01\0\0\0\xff",
            b"TWINLINK\x01\0\0\0\x03lab\xff\xff",
            &[b"TWINLINK\x01\0\0\0\x03lab\x04\x00".as_slice(), &[0x55; 1024]].concat(),
        ];
        for bytes in garbage {
            let mut stream = TcpStream::connect(there.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            // It is closed in bounded time, whatever was sent.
            let _ = stream.read_to_end(&mut answer).await;
        }
        // More who say nothing than there are places: the peer's turn comes when their time is over.
        let mut silent = Vec::new();
        for _ in 0..8 {
            silent.push(TcpStream::connect(there.address).await.unwrap());
        }
        let (_link, mut offered) = dialler(local(0, vec![there.address]), "vol0");
        offered.recv().await.unwrap();
        there.offered.recv().await.unwrap();
    });
}

#[test]
fn strangers_do_not_take_the_places_of_the_peer() {
    run(async {
        let accepting = local(1, vec!["127.0.0.1:1".parse().unwrap()]);
        let places = listen::Places::new(&accepting);
        let stranger = "10.9.9.9".parse().unwrap();
        let held: Vec<_> = std::iter::from_fn(|| places.take(stranger)).take(100).collect();
        assert_eq!(held.len(), 2, "half of handshakes_max");
        assert!(places.take("127.0.0.1".parse().unwrap()).is_some());
    });
}

#[test]
fn a_probe_tells_who_listens_and_leaves_no_trace() {
    run(async {
        let there = acceptor(local(1, vec![]), "vol0").await;
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(dial::peer_refuses(&local(0, vec![dead])).await);
        assert!(!dial::peer_refuses(&local(0, vec![dead, there.address])).await);
        assert!(!dial::peer_refuses(&local(0, vec![])).await, "who has no addresses refuses nothing");
        let (_link, mut offered) = dialler(local(0, vec![there.address]), "vol0");
        offered.recv().await.unwrap();
        assert!(there.link.trouble().is_none());
    });
}

#[test]
fn a_taken_port_is_named() {
    run(async {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (reason, next) = listen::bind_tcp(taken.local_addr().unwrap()).unwrap_err();
        assert!(reason.contains(&taken.local_addr().unwrap().to_string()), "{reason}");
        assert!(next.contains("stop the process that has the port"), "{next}");
        let (_, next) = listen::bind_tcp("192.0.2.1:7101".parse().unwrap()).unwrap_err();
        assert!(next.contains("no address of this server"), "{next}");
    });
}

#[test]
fn a_recorded_hello_makes_no_session() {
    run(async {
        // Somebody in the middle records what the dialling side sends first, and plays it again.
        let recorder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (_link, _offered) = dialler(local(0, vec![recorder.local_addr().unwrap()]), "vol0");
        let recording = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = recorder.accept().unwrap();
            let mut bytes = vec![0; 4096];
            let length = stream.read(&mut bytes).unwrap();
            bytes.truncate(length);
            bytes
        });
        let recording = recording.await.unwrap();
        let mut there = acceptor(local(1, vec![]), "vol0").await;
        let mut stream = TcpStream::connect(there.address).await.unwrap();
        stream.write_all(&recording).await.unwrap();
        stream.write_all(&[0, 16]).await.unwrap();
        stream.write_all(&[0x11; 16]).await.unwrap();
        trouble(&there.link, "does not hold the same secret").await;
        assert!(there.offered.try_recv().is_err());
    });
}
