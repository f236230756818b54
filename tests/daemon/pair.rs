//! Two real daemons on files in a temporary directory, driven by the same binary a person would use.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{File, Permissions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use twinblock::io::namespace::Namespace;
use twinblock::runtime::demo::nbd::NbdClient;

/// The first node of the configuration, which dials.
pub const ALPHA: usize = 0;
/// The second, which accepts.
pub const BETA: usize = 1;
/// Names of both.
pub const NODES: [&str; 2] = ["alpha", "beta"];
/// Longest any wait may take, on a loaded machine.
pub const TIME_MAX: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Two servers and what belongs to them. Dropping it ends the daemons and removes the files.
pub struct Pair {
    pub folder: tempfile::TempDir,
    pub host: String,
    daemons: [Option<Child>; 2],
    /// Where the daemons run; outside of any namespace where there is none.
    pub spaces: [Option<Arc<Namespace>>; 2],
}

/// What a verb did.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Pair {
    /// A pair with one volume; `settings` are lines of its `[[volume]]` section. Nothing runs yet.
    pub fn new(settings: &str) -> Pair {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        // Every pair of every test process has a loopback address of its own, so that ports never collide.
        let process = std::process::id();
        let host =
            format!("127.{}.{}.{}", 1 + process % 250, 1 + process / 250 % 250, NEXT.fetch_add(1, Ordering::Relaxed));
        let pair = Pair { folder: tempfile::tempdir().unwrap(), host, daemons: [None, None], spaces: [None, None] };
        std::fs::write(pair.path("secret"), "a secret that both servers share\n").unwrap();
        std::fs::set_permissions(pair.path("secret"), Permissions::from_mode(0o600)).unwrap();
        pair.configure(settings, "");
        pair
    }

    /// A pair whose disks are made, blank, of this size.
    pub fn initialised(settings: &str, size: &str) -> Pair {
        let pair = Pair::new(settings);
        for node in [ALPHA, BETA] {
            pair.done(node, &["init-disk", "vol0", "--size", size]);
        }
        pair
    }

    /// A pair that runs, in sync, with alpha as primary.
    pub fn running(settings: &str, size: &str) -> Pair {
        let mut pair = Pair::initialised(settings, size);
        pair.start(ALPHA);
        pair.start(BETA);
        pair.done(ALPHA, &["promote", "vol0", "--timeout", "30s"]);
        pair.wait_in_sync(ALPHA);
        pair
    }

    /// Writes the configuration anew.
    pub fn configure(&self, settings: &str, more: &str) {
        let host = &self.host;
        let mut text = "cluster = \"test\"\nsecret_file = \"secret\"\n".to_string();
        for (index, node) in NODES.iter().enumerate() {
            text.push_str(&format!(
                "[[node]]\nname = \"{node}\"\nmirror = [\"{host}:710{index}\"]\n\
                 heartbeat = [\"{host}:720{index}\"]\ncontrol = \"{node}.sock\"\nstate_dir = \"{node}.d\"\n"
            ));
        }
        text.push_str(&format!("[[volume]]\nname = \"vol0\"\n{settings}\n"));
        for (index, node) in NODES.iter().enumerate() {
            text.push_str(&format!(
                "[volume.on.{node}]\ndisk = \"{node}.img\"\nnbd = [\"tcp:{host}:1080{index}\", \"unix:{node}-nbd.sock\"]\n"
            ));
        }
        std::fs::write(self.path("pair.toml"), text + more).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn nbd(&self, node: usize) -> SocketAddr {
        format!("{}:1080{node}", self.host).parse().unwrap()
    }

    pub fn mirror(&self, node: usize) -> SocketAddr {
        format!("{}:710{node}", self.host).parse().unwrap()
    }

    pub fn heartbeat(&self, node: usize) -> SocketAddr {
        format!("{}:720{node}", self.host).parse().unwrap()
    }

    /// The binary, in the pair's directory, as that node; with a file of its own where there is one.
    pub fn command(&self, node: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_twinblock"));
        let own = format!("{}.toml", NODES[node]);
        let file = if self.path(&own).exists() { own } else { "pair.toml".into() };
        command.current_dir(self.folder.path()).args(["-c", &file, "--node", NODES[node]]).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end.
    pub fn verb(&self, node: usize, arguments: &[&str]) -> Ran {
        let Output { status, stdout, stderr } = self.command(node, arguments).output().unwrap();
        Ran {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Runs a verb that must succeed.
    pub fn done(&self, node: usize, arguments: &[&str]) -> String {
        let ran = self.verb(node, arguments);
        assert_eq!(ran.code, 0, "{} {arguments:?}: {}\n{}", NODES[node], ran.err, self.logs());
        ran.out
    }

    /// Runs a verb that must end with this exit code and these words.
    pub fn fails(&self, node: usize, arguments: &[&str], code: i32, words: &str) -> String {
        let ran = self.verb(node, arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {}{}\n{}", ran.out, ran.err, self.logs());
        assert!(ran.err.contains(words), "{arguments:?} said {:?}, expected {words:?}", ran.err);
        ran.err
    }

    /// Starts a daemon and waits until it is ready.
    pub fn start(&mut self, node: usize) {
        let command = self.command(node, &["run", "--log", "debug"]);
        self.start_as(node, command);
    }

    /// The same with a command of the test's own.
    pub fn start_as(&mut self, node: usize, mut command: Command) {
        let ready = self.path(&format!("{}.ready", NODES[node]));
        let log = File::options().append(true).create(true).open(self.path(&format!("{}.log", NODES[node]))).unwrap();
        command.stdout(File::create(&ready).unwrap()).stderr(log);
        self.daemons[node] = Some(match &self.spaces[node] {
            Some(space) => space.inside(move || command.spawn()).unwrap().unwrap(),
            None => command.spawn().unwrap(),
        });
        self.wait(&format!("{} to be ready", NODES[node]), |pair| {
            if let Some(status) = pair.daemons[node].as_mut().unwrap().try_wait().unwrap() {
                panic!("the daemon of {} ended at its start: {status}\n{}", NODES[node], pair.logs());
            }
            std::fs::read_to_string(&ready).unwrap().contains("is ready").then_some(())
        });
    }

    pub fn pid(&self, node: usize) -> u32 {
        self.daemons[node].as_ref().unwrap().id()
    }

    /// As a crash does it.
    pub fn kill9(&mut self, node: usize) {
        let mut child = self.daemons[node].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// In order; the exit code must be 0.
    pub fn stop(&mut self, node: usize) {
        kill(Pid::from_raw(self.pid(node) as i32), Signal::SIGTERM).unwrap();
        let status = self.wait("the daemon to stop", |pair| pair.daemons[node].as_mut().unwrap().try_wait().unwrap());
        assert!(status.success(), "{} stopped with {status}\n{}", NODES[node], self.logs());
        self.daemons[node] = None;
    }

    /// The daemon runs and answers.
    pub fn assert_alive(&mut self, node: usize) {
        assert!(self.daemons[node].as_mut().unwrap().try_wait().unwrap().is_none(), "{}", self.logs());
        self.status(node);
    }

    /// The state of vol0 on a node.
    pub fn status(&self, node: usize) -> Value {
        let status: Value = serde_json::from_str(&self.done(node, &["status", "--json"])).unwrap();
        assert_eq!(status["node"], NODES[node]);
        status["volumes"][0].clone()
    }

    pub fn wait_in_sync(&mut self, node: usize) -> Value {
        self.wait_status(node, "in sync", |status| status["in_sync"] == true && status["resync"].is_null())
    }

    /// Waits for a state of vol0.
    pub fn wait_status(&mut self, node: usize, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait(&format!("{} to be {what}", NODES[node]), |pair| Some(pair.status(node)).filter(&wanted))
    }

    /// Waits for anything, and shows both logs when it doesn't come.
    pub fn wait<T>(&mut self, what: &str, mut look: impl FnMut(&mut Pair) -> Option<T>) -> T {
        let deadline = Instant::now() + TIME_MAX;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            if Instant::now() >= deadline {
                panic!("waited in vain for {what}\n{}", self.logs());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// A client of a node that serves; it may take a moment after a promotion.
    pub fn client(&mut self, node: usize) -> NbdClient {
        let address = self.nbd(node);
        self.wait("an NBD connection", |_| NbdClient::connect(address, "vol0").ok())
    }

    /// Stops both daemons in this order; then both disks hold the same, as far as the volume goes.
    pub fn stop_identical(&mut self, order: [usize; 2]) {
        let bytes = self.status(order[1])["size_bytes"].as_u64().unwrap();
        order.into_iter().for_each(|node| self.stop(node));
        let read = |node: usize| {
            let mut data = std::fs::read(self.path(&format!("{}.img", NODES[node]))).unwrap();
            data.truncate(bytes as usize);
            data
        };
        let (ours, theirs) = (read(ALPHA), read(BETA));
        assert_eq!(ours.len() as u64, bytes);
        let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the disks differ at this byte");
    }

    pub fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.path(&format!("{}.log", NODES[node]))).unwrap_or_default()
    }

    pub fn logs(&self) -> String {
        format!("-- alpha\n{}\n-- beta\n{}", self.log(ALPHA), self.log(BETA))
    }

    /// Makes a file in the directory.
    pub fn file(&self, name: &str, text: &str) {
        File::create(self.path(name)).unwrap().write_all(text.as_bytes()).unwrap();
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for mut child in self.daemons.iter_mut().filter_map(Option::take) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Writes the same byte over a range, and flushes.
pub fn write(client: &mut NbdClient, offset: u64, length: usize, byte: u8) {
    for start in (0..length).step_by(1 << 20) {
        client.write(offset + start as u64, &vec![byte; (length - start).min(1 << 20)]).unwrap();
    }
    client.flush().unwrap();
}

/// Reads a range that must hold one byte throughout.
pub fn assert_holds(client: &mut NbdClient, offset: u64, length: usize, byte: u8) {
    let mut data = vec![!byte; length];
    client.read(offset, &mut data).unwrap();
    let wrong = data.iter().position(|found| *found != byte);
    assert_eq!(wrong.map(|at| (at, data[at])), None, "all of {offset}+{length} is {byte:#x}");
}
