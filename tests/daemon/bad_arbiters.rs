//! An etcd that can't be used, as an operator sees it: away, read-only, compacted, gone back in time, with another
//! certificate. One real etcd and one pair of daemons go through all of it.

use crate::pair::{ALPHA, BETA, NODES, Pair};
use serde_json::Value;
use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const KEY: &str = "/twinblock/test/db";

/// One member alone, in the pair's folder.
struct Etcd {
    client: u16,
    peer: u16,
    child: Option<Child>,
    secure: bool,
}

fn missing() -> Option<String> {
    let absent = |program: &&str| Command::new(program).arg("version").stderr(Stdio::null()).output().is_err();
    ["etcd", "etcdctl", "openssl"].iter().find(|program| absent(program)).map(|p| format!("{p} is not installed"))
}

fn run(folder: &Path, program: &str, words: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command.current_dir(folder).env("ETCDCTL_API", "3").args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
    said
}

impl Etcd {
    fn new(secure: bool) -> Etcd {
        let held = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [client, peer] = held.map(|listener| listener.local_addr().unwrap().port());
        Etcd { client, peer, child: None, secure }
    }

    fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.secure { "https" } else { "http" }, self.client)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    fn start(&mut self, pair: &mut Pair) {
        let (url, peer) = (self.url(), self.peer_url());
        let log = std::fs::File::options().create(true).append(true).open(pair.path("etcd.log")).unwrap();
        let mut command = Command::new("etcd");
        command.current_dir(pair.folder.path()).args(["--name", "m", "--data-dir", "data", "--log-level", "error"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("m={peer}")]);
        if self.secure {
            command.args(["--cert-file", "server.pem", "--key-file", "server.key"]);
        }
        self.child = Some(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        pair.wait("etcd to listen", |_| std::net::TcpStream::connect(("127.0.0.1", self.client)).ok());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// As its root, whose password is always asked for.
    fn control(&self, pair: &Pair, words: &[&str]) -> String {
        let url = self.url();
        run(pair.folder.path(), "etcdctl", &[&["--endpoints", &url, "--user", "root:rootpass"], words].concat())
    }

    /// The user of the daemons has this right from here on.
    fn grant(&self, pair: &Pair, right: &str) {
        self.control(pair, &["role", "revoke-permission", "twin", "--prefix=true", "/twinblock/"]);
        self.control(pair, &["role", "grant-permission", "twin", "--prefix=true", right, "/twinblock/"]);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn configure(pair: &Pair, arbiter: &str) {
    let sections = format!(
        "[failover]\nmode = \"arbiter\"\narbiter_interval = \"500ms\"\ninit_dead_after = \"1s\"\n\
         [arbiter]\nkind = \"etcd\"\ntimeout = \"5s\"\nuser = \"twin\"\npassword_file = \"password\"\n{arbiter}\n\
         [[group]]\nname = \"db\"\nhome = \"alpha\"\nvolumes = [\"vol0\"]\n"
    );
    pair.configure("", &sections);
    pair.file("password", "twinpass\n");
    std::fs::set_permissions(pair.path("password"), Permissions::from_mode(0o600)).unwrap();
}

fn report(pair: &Pair, node: usize) -> Value {
    let groups: Value = serde_json::from_str(&pair.done(node, &["group", "status", "--json"])).unwrap();
    groups[0].clone()
}

/// Waits until a node is in this state and says all these words somewhere in what it shows, for people too.
fn wait_said(pair: &mut Pair, node: usize, (state, reason): (&str, &str), words: &[&str]) -> Value {
    let what = format!("{} to be {state} ({reason}) and to say {words:?}", NODES[node]);
    let report = pair.wait(&what, |pair| {
        let report = report(pair, node);
        let own = &report["nodes"][0];
        let shown = format!("{} {} {}", report["meaning"], report["action"], report["notices"]);
        let says = words.iter().all(|words| shown.contains(words));
        (own["state"] == state && own["reason"] == reason && says).then_some(report)
    });
    let shown = pair.done(node, &["group", "status"]);
    assert!(words.iter().all(|words| shown.contains(words)), "{words:?}: {shown}");
    report
}

fn wait_well(pair: &mut Pair, owner: usize) {
    let state = if owner == ALPHA { ("normal", "normal") } else { ("running-in-backup-mode", "admin-request") };
    pair.wait("the group to be well", |pair| {
        let report = report(pair, owner);
        let well = report["evidence"]["arbiter"]["state"] == "reachable"
            && report["evidence"]["arbiter"]["in_sync"][1].is_string();
        let own = &report["nodes"][0];
        (own["role"] == "owner" && own["state"] == state.0 && own["reason"] == state.1 && well).then_some(())
    });
}

#[test]
fn an_etcd_that_can_not_be_used_is_said_and_the_group_stays_where_it_is() {
    if let Some(why) = missing() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let mut pair = Pair::initialised("", "32MiB");
    let mut etcd = Etcd::new(false);
    etcd.start(&mut pair);
    let url = etcd.url();
    let plain = |words: &[&str]| run(pair.folder.path(), "etcdctl", &[&["--endpoints", &url], words].concat());
    for words in [
        "user add root:rootpass",
        "role add root",
        "user grant-role root root",
        "role add twin",
        "role grant-permission twin --prefix=true readwrite /twinblock/",
        "user add twin:twinpass",
        "user grant-role twin twin",
        "auth enable",
    ] {
        plain(&words.split(' ').collect::<Vec<_>>());
    }
    configure(&pair, &format!("endpoints = [\"{url}\"]"));
    pair.start(ALPHA);
    pair.start(BETA);
    wait_well(&mut pair, ALPHA);

    // A user who has just lost the right to write: the move that finds it out ends where it began.
    etcd.grant(&pair, "read");
    pair.fails(ALPHA, &["group", "move"], 3, "permission denied");
    pair.client(ALPHA).disconnect();
    // And it is seen while nothing has to be written.
    let words = ["permission denied", "give this user the right to read and write the group's record"];
    wait_said(&mut pair, ALPHA, ("normal", "arbiter-unreachable"), &words);
    pair.fails(ALPHA, &["group", "move"], 3, "permission denied");
    // Nothing was begun that could not have been ended.
    pair.client(ALPHA).disconnect();
    etcd.grant(&pair, "readwrite");
    wait_well(&mut pair, ALPHA);

    // Compacted: nothing to tell, and a change of role works.
    etcd.control(&pair, &["snapshot", "save", "backup"]);
    let found = etcd.control(&pair, &["get", "-w", "json", KEY]);
    let found: Value = serde_json::from_str(found.lines().next().unwrap()).unwrap();
    etcd.control(&pair, &["compaction", "--physical=true", &found["header"]["revision"].to_string()]);
    pair.wait("the move", |pair| (pair.verb(ALPHA, &["group", "move"]).code == 0).then_some(()));
    wait_well(&mut pair, BETA);

    // Away: the owner serves on, nobody could take over, and both say so.
    etcd.kill();
    let words = ["is etcd running?", "Bring the arbiter back, or the network to it"];
    wait_said(&mut pair, BETA, ("running-in-backup-mode", "arbiter-unreachable"), &words);
    pair.client(BETA).disconnect();

    // Restored from a backup made before the move: the record is older than the one that was seen.
    std::fs::remove_dir_all(pair.path("data")).unwrap();
    let (peer, cluster) = (etcd.peer_url(), format!("m={}", etcd.peer_url()));
    let words = ["snapshot", "restore", "backup", "--data-dir", "data", "--name", "m", "--initial-cluster", &cluster];
    run(pair.folder.path(), "etcdctl", &[&words[..], &["--initial-advertise-peer-urls", &peer]].concat());
    etcd.start(&mut pair);
    let words = ["older than one seen before", "then run `group recover` on it"];
    wait_said(&mut pair, BETA, ("running-in-backup-mode", "arbiter-went-back"), &words);
    pair.client(BETA).disconnect();
    pair.done(BETA, &["group", "recover"]);
    wait_well(&mut pair, BETA);
    pair.stop(ALPHA);
    pair.stop(BETA);

    // Another certificate than the one that is trusted: a daemon that is started so says it, and does not serve.
    etcd.kill();
    for name in ["server", "strange"] {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let words =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let names =
            ["-subj", "/CN=etcd", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", &key, "-out", &certificate];
        run(pair.folder.path(), "openssl", &[&words[..], &names].concat());
    }
    let mut secure = Etcd::new(true);
    std::fs::remove_dir_all(pair.path("data")).unwrap();
    secure.start(&mut pair);
    configure(&pair, &format!("endpoints = [\"{}\"]\nca = \"strange.pem\"", secure.url()));
    pair.start(ALPHA);
    let words = [
        "the server's certificate is not accepted",
        "check `ca`, `certificate` and `key` of the arbiter",
        "or what the notices say of the arbiter.",
    ];
    let shown = wait_said(&mut pair, ALPHA, ("unknown", "network-isolated"), &words);
    assert_eq!(shown["group"]["serving"], false, "{shown}");
}
