//! Under a service manager: readiness, sockets handed over, signals; and the demo.

use crate::pair::{ALPHA, BETA, NODES, Pair, TIME_MAX};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use twinblock::runtime::demo::nbd::NbdClient;

#[test]
fn readiness_is_told_and_a_handed_over_socket_is_served() {
    let mut pair = Pair::initialised("", "64MiB");
    let told = UnixDatagram::bind(pair.path("notify.sock")).unwrap();
    told.set_read_timeout(Some(TIME_MAX)).unwrap();
    let handed = std::net::TcpListener::bind((pair.host.as_str(), 0)).unwrap();
    let address = handed.local_addr().unwrap();
    // The shell moves the socket to where the protocol wants it, and knows its own process number.
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=vol0 exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.current_dir(pair.folder.path()).args(["-c", script, env!("CARGO_BIN_EXE_twinblock")]);
    command.args(["-c", "pair.toml", "--node", NODES[ALPHA], "run"]);
    command.env("NOTIFY_SOCKET", pair.path("notify.sock"));
    command.stdin(Stdio::from(OwnedFd::from(handed)));
    pair.start_as(ALPHA, command);
    let mut word = [0; 64];
    let length = told.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"READY=1");

    pair.start(BETA);
    pair.done(ALPHA, &["promote", "vol0", "--timeout", "30s"]);
    let client = pair.wait("the handed-over socket to serve", |_| NbdClient::connect(address, "vol0").ok());
    client.disconnect();
    pair.stop(ALPHA);
    let length = told.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"STOPPING=1");
}

#[test]
fn a_hang_up_checks_the_configuration_and_a_killed_daemon_leaves_no_obstacle() {
    let mut pair = Pair::initialised("", "64MiB");
    pair.start(ALPHA);
    let pid = Pid::from_raw(pair.pid(ALPHA) as i32);
    kill(pid, Signal::SIGHUP).unwrap();
    pair.wait("the check", |pair| pair.log(ALPHA).contains("the configuration is unchanged").then_some(()));
    pair.configure("colour = 1", "");
    kill(pid, Signal::SIGHUP).unwrap();
    pair.wait("the problem", |pair| pair.log(ALPHA).contains("volume.vol0.colour").then_some(()));
    pair.configure("", "");
    pair.assert_alive(ALPHA);
    pair.kill9(ALPHA);
    assert!(pair.path("alpha.sock").exists(), "a stale socket is left behind");
    pair.start(ALPHA);
    pair.assert_alive(ALPHA);
}

#[test]
fn the_demo_works_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Command::new(env!("CARGO_BIN_EXE_twinblock"))
        .args(["demo", "--dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&demo.stdout), String::from_utf8_lossy(&demo.stderr));
    assert!(demo.status.success(), "{out}\n{err}");
    assert_eq!(out.matches("differential resync").count(), 2, "{out}");
    assert!(out.contains("the same on both"), "{out}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_same_signal_twice_stops_a_daemon_in_order() {
    let mut pair = Pair::running("", "64MiB");
    let mut client = pair.client(ALPHA);
    client.write(0, &[7; 4096]).unwrap();
    // As a supervisor does that signals the process and its group.
    kill(Pid::from_raw(pair.pid(ALPHA) as i32), Signal::SIGTERM).unwrap();
    pair.wait("the stop to begin", |pair| pair.log(ALPHA).contains("stopping: ").then_some(()));
    pair.stop(ALPHA);
    assert!(pair.log(ALPHA).contains("stopped in order"), "{}", pair.logs());
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind_either() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_twinblock"));
    demo.args(["demo", "--dir"]).arg(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut demo = demo.spawn().unwrap();
    let said =
        BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok).find(|line| line.contains("in sync"));
    assert!(said.is_some(), "the demo starts its daemons");
    let made = std::fs::read_dir(folder.path()).unwrap().flatten().next().unwrap().path();
    let pid = std::fs::read_to_string(made.join("beta.d/daemon.lock")).unwrap();
    let daemon = Pid::from_raw(pid.trim().parse().unwrap());
    kill(Pid::from_raw(demo.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(kill(daemon, None).is_err(), "its daemons are gone");
}
