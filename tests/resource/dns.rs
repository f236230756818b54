//! A host name in the zone of a real name server (knot) on loopback.

use crate::or_skip;
use crate::world::{TIME_MAX, Told};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant as Clock};
use tokio::task::LocalSet;
use tokio::time::Instant;
use twinblock::runtime::resource::dns::{Dns, DnsConfig, DnsKey};
use twinblock::runtime::resource::{Context, Resource, State, Trouble, TroubleKind, Verb, run};

const VERB_TIME: Duration = Duration::from_secs(20);
const SECRET: &str = "Q2hhbmdlIG1lLCBJIGFtIGEgdGVzdCBzZWNyZXQhISE=";

fn missing() -> Option<String> {
    let found = Command::new("knotd").arg("--version").output();
    found.is_err().then(|| "knotd (knot) is not installed".into())
}

/// A knot that serves one zone. Dropping it ends it.
struct NameServer {
    folder: tempfile::TempDir,
    child: Child,
    address: SocketAddr,
}

impl NameServer {
    fn new() -> NameServer {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        // Free at this moment, and on a loopback address of this process's own.
        let id = std::process::id();
        let host = format!("127.{}.{}.53", 1 + id % 250, 1 + id / 250 % 250);
        let address = TcpListener::bind((host.as_str(), 0)).unwrap().local_addr().unwrap();
        let text = format!(
            "server:\n  rundir: {at}\n  listen: {}@{}\n\
             database:\n  storage: {at}\n\
             key:\n  - id: group-key\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
             acl:\n  - id: updates\n    key: group-key\n    action: update\n\
             zone:\n  - domain: example.test\n    storage: {at}\n    file: zone\n    acl: updates\n\
             \x20\x20- domain: closed.test\n    storage: {at}\n    file: closed\n",
            address.ip(),
            address.port()
        );
        std::fs::write(folder.path().join("knot.conf"), text).unwrap();
        for (file, zone) in [("zone", "example.test"), ("closed", "closed.test")] {
            let text = format!("{zone}. 60 SOA ns.{zone}. admin.{zone}. 1 60 60 600 60\n{zone}. 60 NS ns.{zone}.\n");
            std::fs::write(folder.path().join(file), text + &format!("ns.{zone}. 60 A 127.0.0.1\n")).unwrap();
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("knotd")
            .arg("-c")
            .arg(folder.path().join("knot.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = NameServer { folder, child, address };
        let began = Clock::now();
        while TcpStream::connect(address).is_err() {
            let log = || std::fs::read_to_string(server.folder.path().join("log")).unwrap();
            assert!(server.child.try_wait().unwrap().is_none(), "knotd ended: {}", log());
            assert!(began.elapsed() < TIME_MAX, "knotd does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn secret(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("secret");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    fn config(&self) -> DnsConfig {
        let key = DnsKey {
            name: "group-key".into(),
            algorithm: "hmac-sha256".into(),
            secret_file: self.secret(&format!("{SECRET}\n")),
        };
        DnsConfig { key: Some(key), ..config(self.address) }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(server: SocketAddr) -> DnsConfig {
    let text =
        format!("name = \"name\"\nserver = \"{server}\"\nzone = \"example.test\"\nhost = \"files.example.test\"");
    toml::from_str(&text).unwrap()
}

fn on_daemon<T>(task: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { tokio::time::timeout(TIME_MAX * 2, task()).await.unwrap() })
}

fn context(addresses: &[&str]) -> Context {
    let addresses = addresses.iter().map(|address| address.parse::<IpAddr>().unwrap()).collect();
    Context { addresses, ..Context::for_tests() }
}

async fn verb(dns: &Dns, verb: Verb, context: &Context) -> Result<(), Trouble> {
    run(dns, verb, context, Instant::now() + VERB_TIME).await
}

async fn status(dns: &Dns) -> (State, String) {
    let status = dns.status(Instant::now() + VERB_TIME).await.unwrap();
    (status.state, status.detail)
}

async fn refused(config: DnsConfig, words: &str) -> TroubleKind {
    let (sender, _told) = Told::channel();
    let trouble = verb(&Dns::new(config, sender), Verb::Start, &context(&["10.0.0.9"])).await.unwrap_err();
    assert!(trouble.to_string().contains(words), "{trouble}");
    trouble.kind
}

#[test]
fn a_name_follows_the_group() {
    or_skip!(missing());
    let server = NameServer::new();
    on_daemon(async || {
        let (sender, mut told) = Told::channel();
        let here = Dns::new(server.config(), sender.clone());
        let first = context(&["10.0.0.9", "fd00::9"]);
        verb(&here, Verb::Check, &first).await.unwrap();
        assert_eq!(status(&here).await, (State::Stopped, "files.example.test has no address".into()));
        verb(&here, Verb::Start, &first).await.unwrap();
        verb(&here, Verb::Start, &first).await.unwrap();
        assert_eq!(status(&here).await, (State::Started, "files.example.test has 10.0.0.9, fd00::9".into()));
        verb(&here, Verb::Monitor, &first).await.unwrap();
        // The other server takes over, with an address of its own.
        let there =
            Dns::new(DnsConfig { addresses: vec!["10.1.0.9".parse().unwrap()], ..server.config() }, sender.clone());
        verb(&there, Verb::Start, &first).await.unwrap();
        assert_eq!(status(&there).await, (State::Started, "files.example.test has 10.1.0.9".into()));
        assert_eq!(status(&here).await.0, State::Broken);
        // A monitor puts right what somebody changed.
        verb(&here, Verb::Monitor, &first).await.unwrap();
        let words = told.repaired("had 10.1.0.9 and has 10.0.0.9, fd00::9 again").await;
        assert!(words.contains("files.example.test"), "{words}");
        verb(&here, Verb::Stop, &first).await.unwrap();
        assert_eq!(status(&here).await, (State::Stopped, "files.example.test has 10.0.0.9, fd00::9".into()));
        let removing = Dns::new(DnsConfig { remove_at_stop: true, ..server.config() }, sender);
        verb(&removing, Verb::Stop, &first).await.unwrap();
        verb(&removing, Verb::Stop, &first).await.unwrap();
        assert_eq!(status(&removing).await, (State::Stopped, "files.example.test has no address".into()));
    });
}

#[test]
fn a_server_that_does_not_trust_us_says_why() {
    or_skip!(missing());
    let server = NameServer::new();
    on_daemon(async || {
        let good = server.config();
        let key = good.key.clone().unwrap();
        let unsigned = DnsConfig { key: None, ..good.clone() };
        refused(unsigned, "by this key or address").await;
        let unknown = DnsConfig { key: Some(DnsKey { name: "other-key".into(), ..key.clone() }), ..good.clone() };
        assert_eq!(refused(unknown, "don't agree on the key").await, TroubleKind::Config);
        let closed = DnsConfig { zone: "closed.test".into(), host: "a.closed.test".into(), ..good.clone() };
        refused(closed, "whether the zone allows updates by it").await;
        let foreign = DnsConfig { zone: "elsewhere.test".into(), host: "a.elsewhere.test".into(), ..good.clone() };
        refused(foreign, "answered").await;
        server.secret("b3RoZXI=");
        assert_eq!(refused(good.clone(), "don't agree on the key").await, TroubleKind::Config);
        server.secret("no base64!");
        refused(good.clone(), "the secret is not in base64").await;
        std::fs::set_permissions(&key.secret_file, PermissionsExt::from_mode(0o644)).unwrap();
        refused(good.clone(), "may be used by others (mode 0644); run `chmod 600").await;
        std::fs::remove_file(&key.secret_file).unwrap();
        assert_eq!(refused(good, "can't be read").await, TroubleKind::Environment);
    });
}

#[test]
fn what_can_never_work_is_refused() {
    let server = "127.0.0.1:9".parse().unwrap();
    on_daemon(async || {
        let cases = [
            (DnsConfig { zone: "other.test".into(), ..config(server) }, "is not in the zone other.test"),
            (DnsConfig { host: String::new(), ..config(server) }, "is no name of the DNS"),
            (DnsConfig { host: "a..example.test".into(), ..config(server) }, "is no name of the DNS"),
            (DnsConfig { ttl: Duration::from_secs(1 << 20), ..config(server) }, "more than a day"),
        ];
        for (config, words) in cases {
            assert_eq!(refused(config, words).await, TroubleKind::Config);
        }
        let (sender, _told) = Told::channel();
        let nothing = verb(&Dns::new(config(server), sender), Verb::Check, &context(&[])).await.unwrap_err();
        assert!(nothing.reason.contains("there is no address to write"), "{nothing}");
    });
}

#[test]
fn a_server_that_hangs_lies_or_is_gone_is_told() {
    on_daemon(async || {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(refused(config(gone), "can't be asked").await, TroubleKind::Transient);
        let answers: [&[u8]; 4] = [
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            &[0, 3, 1, 2, 3],
            &[0, 12, 0, 0, 0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xff, 0xff, 0],
        ];
        for answer in answers {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let thread = std::thread::spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                let _ = stream.read(&mut [0; 512]);
                stream.write_all(answer).unwrap();
            });
            assert_eq!(refused(config(address), "the name server").await, TroubleKind::Transient);
            thread.join().unwrap();
        }
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let (sender, _told) = Told::channel();
        let dns = Dns::new(config(silent.local_addr().unwrap()), sender);
        let soon = Instant::now() + Duration::from_millis(100);
        let trouble = run(&dns, Verb::Start, &context(&["10.0.0.9"]), soon).await.unwrap_err();
        assert!(trouble.reason.contains("did not answer in time"), "{trouble}");
    });
}
