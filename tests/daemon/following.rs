//! What follows a group besides its volumes: configuration files and a host name; and groups that stand by for each other.

use crate::pair::{ALPHA, BETA, NODES, Pair, assert_holds, write};
use serde_json::Value;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use twinblock::runtime::demo::nbd::NbdClient;

const FAILOVER: &str = "[failover]\nmode = \"arbiter\"\n[arbiter]\nkind = \"file\"\ndirectory = \"arbiter\"\n";

fn groups(pair: &Pair, node: usize) -> Value {
    serde_json::from_str(&pair.done(node, &["group", "status", "--json"])).unwrap()
}

/// Waits until a node serves a group.
fn wait_owner(pair: &mut Pair, node: usize, index: usize) {
    pair.wait(&format!("group {index} to be on {}", NODES[node]), |pair| {
        let group = &groups(pair, node)[index]["group"];
        (group["role"] == "owner" && group["serving"] == true).then_some(())
    });
}

/// A knot that serves `example.test` to whoever has the key. Dropping it ends it.
struct NameServer {
    child: Child,
    address: String,
}

impl NameServer {
    /// In the pair's directory; `None` where there is no knot.
    fn start(pair: &mut Pair) -> Option<NameServer> {
        if Command::new("knotd").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("the part of the host name is skipped: knotd (knot) is not installed");
            return None;
        }
        let (at, host) = (pair.folder.path().display().to_string(), pair.host.clone());
        let secret = "Q2hhbmdlIG1lLCBJIGFtIGEgdGVzdCBzZWNyZXQhISE=";
        pair.file("dns.secret", secret);
        std::fs::set_permissions(pair.path("dns.secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
        pair.file(
            "knot.conf",
            &format!(
                "server:\n  rundir: {at}\n  listen: {host}@5353\ndatabase:\n  storage: {at}\n\
                 key:\n  - id: group-key\n    algorithm: hmac-sha256\n    secret: {secret}\n\
                 acl:\n  - id: updates\n    key: group-key\n    action: update\n\
                 zone:\n  - domain: example.test\n    storage: {at}\n    file: zone\n    acl: updates\n"
            ),
        );
        pair.file(
            "zone",
            "example.test. 60 SOA ns.example.test. admin.example.test. 1 60 60 600 60\n\
             example.test. 60 NS ns.example.test.\nns.example.test. 60 A 127.0.0.1\n",
        );
        let log = std::fs::File::create(pair.path("knot.log")).unwrap();
        let mut command = Command::new("knotd");
        command.arg("-c").arg(pair.path("knot.conf")).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = NameServer { child, address: format!("{host}:5353") };
        pair.wait("the name server", |_| std::net::TcpStream::connect(&server.address).ok());
        Some(server)
    }

    /// The sections of a host name that leads to another address on each server.
    fn sections(&self) -> String {
        let (key, address) = ("key = { name = \"group-key\", secret_file = \"dns.secret\" }", &self.address);
        let section = |node: &str, other: &str, last: u8| {
            format!(
                "[[group.dns]]\nname = \"name-{node}\"\nserver = \"{address}\"\nzone = \"example.test\"\n\
                 host = \"db.example.test\"\naddresses = [\"192.0.2.{last}\"]\nskip_on = [\"{other}\"]\n{key}\n"
            )
        };
        section("alpha", "beta", 1) + &section("beta", "alpha", 2)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a daemon that sees its own directory under the common name, as on a server of its own.
fn start_with_files(pair: &mut Pair, node: usize) {
    let mut command = Command::new("unshare");
    let script = format!("mount --bind {}.etc etc && exec \"$@\"", NODES[node]);
    command.current_dir(pair.folder.path()).args(["-m", "sh", "-c", &script, "sh"]);
    command.args([env!("CARGO_BIN_EXE_twinblock"), "-c", "pair.toml", "--node", NODES[node], "run", "--log", "debug"]);
    command.stdin(Stdio::null());
    pair.start_as(node, command);
}

fn found(pair: &Pair, node: usize, resource: &str) -> String {
    let groups = groups(pair, node);
    let resources = groups[0]["resources"].as_array().unwrap();
    let resource = resources.iter().find(|one| one["name"] == resource).unwrap();
    resource["found"].as_str().unwrap_or_default().to_string()
}

#[test]
fn files_and_a_host_name_follow_their_group() {
    let allowed = Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    if !allowed {
        eprintln!("skipped: mount namespaces need root");
        return;
    }
    let mut pair = Pair::initialised("", "64MiB");
    let (etc, told) = (pair.path("etc"), pair.path("told"));
    for folder in ["arbiter", "etc", "alpha.etc/app", "beta.etc/app"] {
        std::fs::create_dir_all(pair.path(folder)).unwrap();
    }
    pair.file("alpha.etc/app/conf", "first\n");
    pair.file("beta.etc/app/conf", "never used\n");
    pair.file("beta.etc/app/extra", "goes\n");
    let server = NameServer::start(&mut pair);
    let name = server.as_ref().map(NameServer::sections).unwrap_or_default();
    let (etc, told) = (etc.display(), told.display());
    let sections = format!(
        "{FAILOVER}[[group]]\nname = \"db\"\nhome = \"alpha\"\nvolumes = [\"vol0\"]\n\
         [[group.script]]\nname = \"hook\"\nstart = [\"/bin/sh\", \"-c\", \"cat {etc}/app/conf >> {told}\"]\n\
         [[group.files]]\nname = \"settings\"\npaths = [\"{etc}/app\"]\nsettle = \"50ms\"\n{name}"
    );
    pair.configure("", &sections);
    start_with_files(&mut pair, ALPHA);
    start_with_files(&mut pair, BETA);
    wait_owner(&mut pair, ALPHA, 0);
    let there = |pair: &mut Pair, node: usize, version: u32| {
        let words = format!("version {version} is in place, the other server has it");
        pair.wait("the files to be on the other server", |pair| {
            found(pair, node, "settings").contains(&words).then_some(())
        });
    };
    there(&mut pair, ALPHA, 1);
    if server.is_some() {
        pair.wait("the name to lead to alpha", |pair| {
            found(pair, ALPHA, "name-alpha").contains("db.example.test has 192.0.2.1").then_some(())
        });
    }

    // A change, in contents, permissions and kinds, is taken over by the time the group's script runs there.
    pair.file("alpha.etc/app/new", "second\n");
    let own = pair.path("alpha.etc/app");
    std::fs::set_permissions(own.join("new"), PermissionsExt::from_mode(0o600)).unwrap();
    symlink("conf", own.join("link")).unwrap();
    std::fs::rename(own.join("new"), own.join("conf")).unwrap();
    pair.wait("the change to be copied", |pair| {
        found(pair, ALPHA, "settings")
            .contains("other server has it")
            .then(|| found(pair, ALPHA, "settings"))
            .filter(|found| !found.contains("version 1 "))
    });
    pair.done(ALPHA, &["group", "move"]);
    wait_owner(&mut pair, BETA, 0);
    let told = |pair: &mut Pair, words: &str| {
        pair.wait(&format!("the script to find {words:?}"), |pair| {
            (std::fs::read_to_string(pair.path("told")).unwrap() == words).then_some(())
        });
    };
    told(&mut pair, "first\nsecond\n");
    let placed = pair.path("beta.etc/app");
    assert_eq!(placed.join("conf").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_link(placed.join("link")).unwrap(), Path::new("conf"));
    assert!(!placed.join("extra").exists(), "what the owner does not have goes");
    if server.is_some() {
        pair.wait("the name to lead to beta", |pair| {
            found(pair, BETA, "name-beta").contains("db.example.test has 192.0.2.2").then_some(())
        });
    }

    // A crash brings the last version that was copied.
    let before = pair.wait("the files to be on both", |pair| {
        Some(found(pair, BETA, "settings")).filter(|found| found.contains("other server has it"))
    });
    std::fs::write(placed.join("conf"), "third\n").unwrap();
    pair.wait("the next version", |pair| {
        let now = found(pair, BETA, "settings");
        (now != before && now.contains("other server has it")).then_some(())
    });
    pair.kill9(BETA);
    wait_owner(&mut pair, ALPHA, 0);
    told(&mut pair, "first\nsecond\nthird\n");
    assert_eq!(std::fs::read_to_string(own.join("conf")).unwrap(), "third\n");
}

#[test]
fn a_group_of_two_volumes_and_another_one_at_home_on_the_other_server() {
    let mut pair = Pair::new("");
    std::fs::create_dir(pair.path("arbiter")).unwrap();
    let host = &pair.host;
    let mut more = String::new();
    for volume in 1..3 {
        more.push_str(&format!("[[volume]]\nname = \"vol{volume}\"\n"));
        for (index, node) in NODES.iter().enumerate() {
            more.push_str(&format!(
                "[volume.on.{node}]\ndisk = \"{node}{volume}.img\"\nnbd = [\"tcp:{host}:1{volume}80{index}\"]\n"
            ));
        }
    }
    more.push_str(FAILOVER);
    more.push_str("[[group]]\nname = \"db\"\nhome = \"alpha\"\nvolumes = [\"vol0\", \"vol1\"]\n");
    more.push_str("[[group]]\nname = \"web\"\nhome = \"beta\"\nvolumes = [\"vol2\"]\n");
    pair.configure("", &more);
    for node in [ALPHA, BETA] {
        for volume in ["vol0", "vol1", "vol2"] {
            pair.done(node, &["init-disk", volume, "--size", "32MiB"]);
        }
        pair.start(node);
    }
    let client = |pair: &mut Pair, node: usize, volume: usize| {
        let address = match volume {
            0 => pair.nbd(node),
            _ => format!("{}:1{volume}80{node}", pair.host).parse().unwrap(),
        };
        let name = format!("vol{volume}");
        pair.wait("an NBD connection", |_| NbdClient::connect(address, &name).ok())
    };
    // Each server works, and stands by for the other. Of two blank disks the first copy begins on one side: until it is
    // done, that side serves whatever its home.
    pair.wait("each group to be at home", |pair| {
        let away = |index: usize, node: usize| groups(pair, node)[index]["group"]["role"] != "owner";
        let sent = |name: &str, from: usize| pair.verb(from, &["group", "fallback", name]);
        let (db, web) = (away(0, ALPHA), away(1, BETA));
        if db {
            sent("db", BETA);
        }
        if web {
            sent("web", ALPHA);
        }
        (!db && !web).then_some(())
    });
    wait_owner(&mut pair, ALPHA, 0);
    wait_owner(&mut pair, BETA, 1);
    for (node, volume) in [(ALPHA, 0), (ALPHA, 1), (BETA, 2)] {
        let mut client = client(&mut pair, node, volume);
        write(&mut client, 0, 1 << 20, 0x10 + volume as u8);
        client.disconnect();
    }
    pair.fails(ALPHA, &["group", "move"], 2, "which group?");
    // Both volumes of a group move, and nothing of the other group.
    pair.done(ALPHA, &["group", "move", "db"]);
    wait_owner(&mut pair, BETA, 0);
    for volume in 0..3 {
        let mut client = client(&mut pair, BETA, volume);
        assert_holds(&mut client, 0, 1 << 20, 0x10 + volume as u8);
        if volume == 1 {
            write(&mut client, 1 << 20, 1 << 20, 0x77);
        }
        client.disconnect();
    }
    pair.done(BETA, &["group", "fallback", "db"]);
    wait_owner(&mut pair, ALPHA, 0);
    wait_owner(&mut pair, BETA, 1);
    pair.wait("the standbys to be fit", |pair| {
        let (ours, theirs) = (groups(pair, ALPHA), groups(pair, BETA));
        let both =
            |group: &Value| group["group"]["arbiter"]["record"][2].as_array().is_some_and(|nodes| nodes.len() == 2);
        (both(&ours[0]) && both(&theirs[1])).then_some(())
    });
    // The survivor of a crash serves everything.
    pair.kill9(BETA);
    wait_owner(&mut pair, ALPHA, 0);
    wait_owner(&mut pair, ALPHA, 1);
    for volume in 0..3 {
        let mut client = client(&mut pair, ALPHA, volume);
        assert_holds(&mut client, 0, 1 << 20, 0x10 + volume as u8);
        if volume == 1 {
            assert_holds(&mut client, 1 << 20, 1 << 20, 0x77);
        }
        client.disconnect();
    }
}
