//! What is wrong is named, with the reason and the next step; nothing is lost, nothing hangs, the daemon stays alive.

use crate::pair::{ALPHA, BETA, Pair, assert_holds, write};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_wrong_configuration_is_told_with_its_line() {
    let pair = Pair::new("colour = \"blue\"");
    let words = pair.fails(ALPHA, &["run"], 2, "pair.toml:");
    assert!(words.contains("volume.vol0.colour: there is no such setting"), "{words}");
    pair.fails(ALPHA, &["check"], 2, "volume.vol0.colour");
    pair.configure("", "");
    assert!(pair.done(ALPHA, &["check"]).contains("pair.toml is good: cluster test, this node alpha, peer beta"));
    std::fs::set_permissions(pair.path("secret"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    pair.fails(ALPHA, &["run"], 2, "is open to others than its owner (mode 0644); run `chmod 600 secret`");
    pair.fails(ALPHA, &["check"], 2, "secret_file");
}

#[test]
fn without_a_daemon_the_verbs_say_how_to_start_it() {
    let pair = Pair::new("");
    for verb in [&["status"][..], &["promote", "vol0"], &["dirty", "vol0"], &["replace-disk", "vol0", "--yes"]] {
        pair.fails(ALPHA, verb, 4, "start it with `twinblock -c pair.toml --node alpha run`");
    }
    pair.fails(ALPHA, &["promote", "vol9"], 2, "describes no volume vol9; there is vol0");
}

#[test]
fn a_second_daemon_of_a_node_is_refused() {
    let mut pair = Pair::initialised("", "64MiB");
    pair.start(ALPHA);
    let pid = pair.pid(ALPHA);
    pair.fails(ALPHA, &["run"], 3, &format!("already running, process {pid}"));
    pair.fails(ALPHA, &["init-disk", "vol0", "--overwrite", "--yes"], 3, "refused (");
    pair.assert_alive(ALPHA);
}

#[test]
fn a_taken_port_is_named() {
    let pair = Pair::initialised("", "64MiB");
    let taken = std::net::TcpListener::bind(pair.mirror(ALPHA)).unwrap();
    let words = pair.fails(ALPHA, &["run"], 1, &taken.local_addr().unwrap().to_string());
    assert!(words.contains("stop the process that has the port"), "{words}");
    drop(taken);
    let taken = std::net::TcpListener::bind(pair.nbd(ALPHA)).unwrap();
    pair.fails(ALPHA, &["run"], 1, &taken.local_addr().unwrap().to_string());
}

#[test]
fn a_disk_that_holds_something_is_not_initialised() {
    let pair = Pair::new("");
    pair.fails(ALPHA, &["init-disk", "vol0"], 3, "alpha.img");
    pair.fails(ALPHA, &["init-disk", "vol0", "--size", "4KiB"], 3, "alpha.img");
    let mut data = vec![0; 64 << 20];
    data[5 << 20] = 1;
    std::fs::write(pair.path("alpha.img"), &data).unwrap();
    pair.fails(ALPHA, &["init-disk", "vol0"], 3, "alpha.img");
    assert!(std::fs::read(pair.path("alpha.img")).unwrap() == data, "nothing was changed");
    pair.fails(ALPHA, &["init-disk", "vol0", "--overwrite"], 6, "What alpha.img holds is given up and lost");
    pair.done(ALPHA, &["init-disk", "vol0", "--overwrite", "--yes"]);
    pair.fails(ALPHA, &["init-disk", "vol0"], 3, "refused (");
}

#[test]
fn a_volume_without_its_disk_starts_diskless_and_the_daemon_goes_on() {
    let mut pair = Pair::initialised("", "64MiB");
    std::fs::rename(pair.path("alpha.img"), pair.path("elsewhere")).unwrap();
    pair.start(ALPHA);
    let status = pair.status(ALPHA);
    assert_eq!(status["disk"], "diskless");
    assert!(status["disk_reason"].as_str().unwrap().contains("alpha.img"), "{status}");
    pair.fails(ALPHA, &["promote", "vol0", "--timeout", "200ms"], 3, "refused (");
    pair.fails(ALPHA, &["attach", "vol0"], 3, "alpha.img");
    std::fs::rename(pair.path("elsewhere"), pair.path("alpha.img")).unwrap();
    pair.done(ALPHA, &["attach", "vol0"]);
    assert_eq!(pair.status(ALPHA)["disk"], "up-to-date");
}

#[test]
fn a_disk_of_another_cluster_is_refused() {
    let mut pair = Pair::initialised("", "64MiB");
    let text = std::fs::read_to_string(pair.path("pair.toml")).unwrap();
    pair.file("pair.toml", &text.replace("cluster = \"test\"", "cluster = \"prod\""));
    pair.start(ALPHA);
    let status = pair.status(ALPHA);
    assert_eq!(status["disk"], "diskless");
    assert!(status["disk_reason"].as_str().unwrap().contains("cluster"), "{status}");
}

#[test]
fn another_secret_is_told_on_both_servers() {
    let mut pair = Pair::initialised("", "64MiB");
    pair.start(ALPHA);
    pair.file("secret", "not the secret that alpha was started with");
    pair.start(BETA);
    for node in [ALPHA, BETA] {
        let told = |status: &serde_json::Value| {
            status["link_reason"].as_str().is_some_and(|reason| reason.contains("does not hold the same secret"))
        };
        let status = pair.wait_status(node, "telling about the secret", told);
        assert_eq!(status["link"], "down");
        assert!(pair.log(node).contains("does not hold the same secret"), "{}", pair.logs());
    }
}

#[test]
fn garbage_on_every_socket_leaves_the_daemons_alive() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 1 << 20, 1);
    let garbage: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\n\r\n", &[0xff; 70_000], b"{\"version\":1,\"ask\":\"status\"", b"\0\0\0\x03TWBF"];
    for bytes in garbage {
        for address in [pair.mirror(ALPHA), pair.mirror(BETA), pair.nbd(ALPHA), pair.nbd(BETA)] {
            let mut stream = TcpStream::connect(address).unwrap();
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            // Whatever is answered: in bounded time the connection ends.
            let _ = stream.read_to_end(&mut Vec::new());
        }
        for socket in ["alpha.sock", "beta.sock", "alpha-nbd.sock"] {
            let mut stream = UnixStream::connect(pair.path(socket)).unwrap();
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    pair.assert_alive(ALPHA);
    pair.assert_alive(BETA);
    assert_holds(&mut client, 0, 1 << 20, 1);
    assert_eq!(pair.wait_in_sync(ALPHA)["link"], "connected");
}

/// A small file system in memory, for as long as it is held.
struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    /// `None` where mounting is not allowed.
    fn mount(path: PathBuf, size: &str) -> Option<SmallFileSystem> {
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&path).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(SmallFileSystem(path))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_file_system_under_a_disk_costs_the_client_nothing() {
    let mut pair = Pair::new("");
    let Some(small) = SmallFileSystem::mount(pair.path("small"), "24M") else {
        println!("SKIPPED: a full file system: mounting one in memory is not allowed here");
        return;
    };
    let text = std::fs::read_to_string(pair.path("pair.toml")).unwrap();
    pair.file("pair.toml", &text.replace("disk = \"beta.img\"", "disk = \"small/beta.img\""));
    for node in [ALPHA, BETA] {
        pair.done(node, &["init-disk", "vol0", "--size", "64MiB"]);
        pair.start(node);
    }
    pair.done(ALPHA, &["promote", "vol0", "--timeout", "30s"]);
    pair.wait_in_sync(ALPHA);
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 30 << 20, 7);
    let status = pair.wait_status(BETA, "out of space", |status| status["disk"] == "diskless");
    assert!(status["disk_reason"].as_str().unwrap().contains("no space left"), "{status}");
    assert!(pair.done(BETA, &["status"]).contains("next: put right what is said of the disk and `attach vol0`"));
    small.resize("200M");
    pair.done(BETA, &["attach", "vol0"]);
    let status = pair.wait_in_sync(ALPHA);
    assert_eq!(status["last_resync"]["kind"], "differential", "{status}");
    assert_holds(&mut client, 0, 30 << 20, 7);
    assert!(pair.done(ALPHA, &["verify", "vol0", "--wait"]).contains("none differ"));
    pair.stop(BETA);
    pair.stop(ALPHA);
}

#[test]
fn a_disk_smaller_than_the_volume_is_refused_and_nothing_is_lost() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    write(&mut client, 0, 4 << 20, 5);
    pair.stop(BETA);
    std::fs::remove_file(pair.path("beta.img")).unwrap();
    pair.done(BETA, &["init-disk", "vol0", "--size", "32MiB"]);
    pair.start(BETA);
    for node in [ALPHA, BETA] {
        let status = pair.wait_status(node, "refusing", |status| status["link"] == "refused");
        assert!(status["link_reason"].as_str().unwrap().contains("smaller than the volume"), "{status}");
        assert!(pair.done(node, &["status"]).contains("put a larger one in its place"));
    }
    assert_holds(&mut client, 0, 4 << 20, 5);
    write(&mut client, 0, 4 << 20, 6);
    assert_holds(&mut client, 0, 4 << 20, 6);
}

#[test]
fn the_secondary_refuses_clients_with_a_clear_message() {
    let mut pair = Pair::running("", "64MiB");
    let refused = twinblock::runtime::demo::nbd::NbdClient::connect(pair.nbd(BETA), "vol0").err().unwrap();
    assert!(refused.to_string().contains("secondary"), "{refused}");
    pair.assert_alive(BETA);
}
