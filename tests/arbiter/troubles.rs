//! An etcd that can't be used: each with its own word and a way out.

use crate::certificates::{self, Authority, Use};
use crate::server::{self, Options, Server};
use crate::world::{PATIENCE, arbiter, arbiter_of, failure, found, put, spec, takeover};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use twinblock::base::arbiter::{ArbiterErrorKind, CasOutcome};
use twinblock::runtime::arbiter::etcd::tls::TlsSpec;
use twinblock::runtime::arbiter::etcd::{EtcdSpec, User};
use twinblock::runtime::arbiter::memory::Memory;
use twinblock::runtime::arbiter::{Arbiter, ArbiterSpec};

#[tokio::test]
async fn certificates_that_are_not_accepted_are_named() {
    if server::is_missing() || certificates::is_missing() {
        return;
    }
    let (ours, strange) = (Authority::new("ours"), Authority::new("strange"));
    let (certificate, key) = ours.issue("etcd", Use::Server("IP:127.0.0.1,DNS:etcd.example"));
    let options = Options { tls: Some((certificate, key, ours.certificate())), ..Options::default() };
    let server = Server::start(options);
    let with = |ca: &Authority, identity: Option<(PathBuf, PathBuf)>| {
        let tls = Some(TlsSpec { ca: ca.certificate(), identity });
        EtcdSpec { tls, ..spec(&[server.url()]) }
    };
    let good = ours.issue("client", Use::Client);
    let arbiter = arbiter_of(with(&ours, Some(good.clone())), PATIENCE, Memory::default());
    let first = put(&arbiter, takeover(0, None)).await;
    assert_eq!(found(&arbiter).await, Some(first));
    assert_eq!(arbiter.check(false).await.trouble, None);

    let by_name = EtcdSpec { ..with(&ours, Some(good.clone())) };
    let wrong_name = {
        let (certificate, key) = ours.issue("other", Use::Server("DNS:other.example"));
        Server::start(Options { tls: Some((certificate, key, ours.certificate())), ..Options::default() })
    };
    let wrong_name_url = spec(&[wrong_name.url()]).endpoints;
    for (what, spec, words) in [
        ("another authority", with(&strange, Some(good.clone())), "server's certificate is not accepted"),
        ("another name", EtcdSpec { endpoints: wrong_name_url, ..by_name }, "server's certificate is not accepted"),
        ("expired", with(&ours, Some(ours.issue("late", Use::Expired))), "accept our certificate"),
        ("of another authority", with(&ours, Some(strange.issue("client", Use::Client))), "accept our certificate"),
        ("none", with(&ours, None), "accept our certificate"),
    ] {
        let arbiter = arbiter_of(spec, PATIENCE, Memory::default());
        let error = failure(&arbiter).await;
        // A server that hangs up before its alert is read leaves only the hint.
        let hung_up = error.kind == ArbiterErrorKind::Unreachable;
        assert!(error.kind == ArbiterErrorKind::Certificate || hung_up, "{what}: {error:?}");
        assert!(error.detail.contains(words), "{what}: {error}");
        let outcome = arbiter.compare_and_set(Some(&first), &takeover(1, Some(&first))).await;
        assert!(matches!(outcome, CasOutcome::Refused(_)), "{what}: {outcome:?}");
    }
    assert_eq!(found(&arbiter).await, Some(first), "nobody changed anything");
}

#[tokio::test]
async fn certificate_files_that_can_not_be_used_are_named_at_once() {
    if certificates::is_missing() {
        return;
    }
    let authority = Authority::new("ours");
    let (certificate, key) = authority.issue("client", Use::Client);
    let (_, other_key) = authority.issue("other", Use::Client);
    let empty = tempfile::NamedTempFile::new().unwrap();
    for (ca, identity, words) in [
        (PathBuf::from("/nowhere/ca.pem"), None, "/nowhere/ca.pem"),
        (empty.path().into(), None, "holds no certificate"),
        (authority.certificate(), Some((certificate.clone(), other_key)), "does not go with"),
        (authority.certificate(), Some((certificate, PathBuf::from("/nowhere/key"))), "/nowhere/key"),
        (authority.certificate(), Some((key.clone(), key)), "holds no certificate"),
    ] {
        let tls = Some(TlsSpec { ca, identity });
        let spec = ArbiterSpec::Etcd(EtcdSpec { tls, ..spec(&["https://127.0.0.1:1".into()]) });
        let refused = Arbiter::new(&spec, crate::world::owner(), PATIENCE, Memory::default());
        let error = refused.err().expect(words);
        assert!(error.kind == ArbiterErrorKind::Certificate && error.detail.contains(words), "{error}");
    }
}

#[tokio::test]
async fn the_wrong_scheme_is_told() {
    if server::is_missing() || certificates::is_missing() {
        return;
    }
    let ours = Authority::new("ours");
    let plain = Server::start(Options::default());
    let tls = Some(TlsSpec { ca: ours.certificate(), identity: None });
    let https = spec(&[plain.url().replace("http", "https")]);
    let error = failure(&arbiter_of(EtcdSpec { tls, ..https }, PATIENCE, Memory::default())).await;
    // A server that hangs up at what it does not understand may as well have been stopped.
    let kinds = [ArbiterErrorKind::Protocol, ArbiterErrorKind::Unreachable];
    assert!(kinds.contains(&error.kind) && error.detail.contains("is TLS on there?"), "{error}");
    let (certificate, key) = ours.issue("etcd", Use::Server("IP:127.0.0.1"));
    let safe = Server::start(Options { tls: Some((certificate, key, ours.certificate())), ..Options::default() });
    let http = spec(&[safe.url().replace("https", "http")]);
    let error = failure(&arbiter_of(http, PATIENCE, Memory::default())).await;
    assert!(kinds.contains(&error.kind) && error.detail.to_lowercase().contains("https"), "{error}");
}

fn password_file(folder: &Path, name: &str, password: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("{password}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[tokio::test]
async fn users_passwords_and_tokens() {
    if server::is_missing() {
        return;
    }
    let mut server = Server::start(Options::default());
    for arguments in [
        vec!["user", "add", "root:rootpass"],
        vec!["user", "grant-role", "root", "root"],
        vec!["role", "add", "twin"],
        vec!["role", "grant-permission", "twin", "--prefix=true", "readwrite", "/twinblock/lab/"],
        vec!["user", "add", "twin:twinpass"],
        vec!["user", "grant-role", "twin", "twin"],
        vec!["role", "add", "none"],
        vec!["user", "add", "stranger:strangerpass"],
        vec!["user", "grant-role", "stranger", "none"],
        vec!["auth", "enable"],
    ] {
        // A role has to exist before it is granted; `root` is made with the first grant.
        if arguments[..2] == ["user", "grant-role"] && arguments[3] == "root" {
            let _ = server.try_control(&["role", "add", "root"]);
        }
        server.control(&arguments);
    }
    let folder = tempfile::tempdir().unwrap();
    let url = server.url();
    let as_user = |name: &str, password: &str| {
        let user = User { name: name.into(), password_file: password_file(folder.path(), name, password) };
        arbiter_of(EtcdSpec { user: Some(user), ..spec(std::slice::from_ref(&url)) }, PATIENCE, Memory::default())
    };
    let twin = as_user("twin", "twinpass");
    let first = put(&twin, takeover(0, None)).await;
    assert_eq!(twin.check(false).await.trouble, None);

    // One who may only read is found out before anything has to be put, and nothing is put to find out.
    let role = |what: &str, right: &[&str]| {
        let words = [&["--user", "root:rootpass", "role", what, "twin", "--prefix=true"], right].concat();
        server.control(&[&words[..], &["/twinblock/lab/"]].concat());
    };
    role("revoke-permission", &[]);
    role("grant-permission", &["read"]);
    let reader = as_user("twin", "twinpass");
    let trouble = reader.check(false).await.trouble.expect("a reader can't be relied on");
    assert!(trouble.kind == ArbiterErrorKind::Permission, "{trouble}");
    assert!(trouble.to_string().contains("the right to read and write"), "{trouble}");
    role("revoke-permission", &[]);
    role("grant-permission", &["readwrite"]);
    assert_eq!((reader.check(false).await.trouble, found(&reader).await), (None, Some(first)));

    let error = failure(&arbiter(&[&server], PATIENCE)).await;
    assert!(error.kind == ArbiterErrorKind::Credentials && error.detail.contains("no user is configured"), "{error}");
    let error = failure(&as_user("stranger", "strangerpass")).await;
    assert_eq!(error.kind, ArbiterErrorKind::Permission, "{error}");
    for name in ["twin", "nobody"] {
        let wrong = as_user(name, "wrong-secret");
        let error = failure(&wrong).await;
        assert_eq!(error.kind, ArbiterErrorKind::Credentials, "{error}");
        assert!(!error.to_string().contains("wrong-secret"), "{error}");
        let outcome = wrong.compare_and_set(Some(&first), &takeover(1, Some(&first))).await;
        assert!(matches!(outcome, CasOutcome::Refused(_)), "{outcome:?}");
    }
    password_file(folder.path(), "twin", "twinpass");
    // A restarted etcd knows none of its simple tokens any more.
    let before = found(&twin).await;
    server.restart();
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        match twin.read().await {
            twinblock::base::arbiter::ReadOutcome::Found(found) => break assert_eq!(Some(found), before),
            other => assert!(std::time::Instant::now() < until, "{other:?}"),
        }
    }
    // The same when a compare-and-set is the first to find out, on a connection that is there already.
    let other = as_user("twin", "twinpass");
    assert_eq!(found(&other).await, before);
    server.control(&["--user", "root:rootpass", "user", "grant-role", "stranger", "twin"]);
    let outcome = other.compare_and_set(before.as_ref(), &takeover(1, before.as_ref())).await;
    assert!(matches!(outcome, CasOutcome::Won(_)), "{outcome:?}");
}

#[tokio::test]
async fn a_full_store_is_read_only() {
    if server::is_missing() {
        return;
    }
    let quota = vec!["--quota-backend-bytes".to_string(), (16 << 20).to_string()];
    let server = Server::start(Options { arguments: quota, ..Options::default() });
    let arbiter = arbiter(&[&server], PATIENCE);
    let first = put(&arbiter, takeover(0, None)).await;
    let megabyte = "x".repeat(100_000);
    let mut puts = 0;
    while server.try_control(&["put", &format!("/fill/{puts}"), &megabyte]).status.success() {
        puts += 1;
        assert!(puts < 1000, "it never fills up");
    }
    assert_eq!(found(&arbiter).await, Some(first), "reading goes on");
    let outcome = arbiter.compare_and_set(Some(&first), &takeover(1, Some(&first))).await;
    let CasOutcome::Refused(error) = outcome else { panic!("{outcome:?}") };
    assert!(error.kind == ArbiterErrorKind::ReadOnly && error.detail.contains("space exceeded"), "{error}");
    let trouble = arbiter.check(false).await.trouble.expect("the alarm is seen before anything is put");
    assert!(trouble.kind == ArbiterErrorKind::ReadOnly && trouble.detail.contains("NOSPACE"), "{trouble}");
    server.control(&["del", "--prefix", "/fill/"]);
    let revision = found_revision(&server);
    server.control(&["compaction", "--physical=true", &revision]);
    server.control(&["defrag"]);
    server.control(&["alarm", "disarm"]);
    assert_eq!(arbiter.check(false).await.trouble, None);
    assert!(matches!(arbiter.compare_and_set(Some(&first), &takeover(1, Some(&first))).await, CasOutcome::Won(_)));
}

fn found_revision(server: &Server) -> String {
    let status = server.control(&["endpoint", "status", "--write-out=json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status[0]["Status"]["header"]["revision"].to_string()
}

#[tokio::test]
async fn of_three_members_one_may_die_and_two_may_not() {
    if server::is_missing() {
        return;
    }
    let mut servers = Server::cluster(3, Options::default());
    let all: Vec<&Server> = servers.iter().collect();
    let arbiter = arbiter(&all, PATIENCE);
    let first = put(&arbiter, takeover(0, None)).await;
    assert_eq!(arbiter.check(false).await.trouble, None);
    servers[0].kill();
    // A new leader may have to be found first.
    assert_eq!(crate::world::found_at_last(&arbiter).await, Some(first));
    let second = takeover(1, Some(&first));
    let settled = crate::world::decide(&arbiter, Some(&first), &second).await;
    assert!(matches!(settled, twinblock::base::arbiter::Settled::Won(_)), "{settled:?}");
    let report = arbiter.check(false).await;
    assert_eq!(report.trouble, None, "two of three are enough");
    assert!(report.notes.iter().any(|note| note.starts_with("1 of 3")), "{report:?}");
    assert_eq!(report.places.iter().filter(|place| place.trouble.is_some()).count(), 1);
    servers[1].kill();
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    let hasty = arbiter_of(spec(&urls), Duration::from_secs(3), arbiter.memory());
    let error = failure(&hasty).await;
    assert!(error.is_passing(), "{error:?}");
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        // The last member notices only after its election time that it is alone.
        let trouble = hasty.check(false).await.trouble.expect("one of three is not enough");
        if trouble.kind == ArbiterErrorKind::ReadOnly && trouble.detail.contains("no leader") {
            break;
        }
        assert!(std::time::Instant::now() < until, "{trouble}");
    }
    servers[0].restart();
    assert_eq!(crate::world::found_at_last(&arbiter).await.map(|found| found.record), Some(second));
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named() {
    let [port] = server::free_ports(1)[..] else { unreachable!() };
    let url = format!("http://127.0.0.1:{port}");
    let arbiter = arbiter_of(spec(std::slice::from_ref(&url)), PATIENCE, Memory::default());
    let error = failure(&arbiter).await;
    assert_eq!(error.kind, ArbiterErrorKind::Unreachable);
    assert!(error.detail.contains(&url) && error.detail.contains("is etcd running?"), "{error}");
    let report = arbiter.check(false).await;
    assert_eq!(report.trouble.map(|error| error.kind), Some(ArbiterErrorKind::Unreachable));
    assert_eq!(report.places.len(), 1);
}
