//! Two servers on one machine: a directory, a configuration, two daemons as child processes of this binary.

use super::ward::{Member, Ward};
use crate::io::namespace::Namespace;
use crate::runtime::cli::exit::{Exit, Failure};
use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Names of the two servers.
pub const NODES: [&str; 2] = ["alpha", "beta"];
/// Name of the volume.
pub const VOLUME: &str = "vol0";
/// Longest wait for a daemon to be ready, to stop, or to be in sync.
const STEP_TIME_MAX: Duration = Duration::from_secs(30);
/// Time between two looks at the status.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Lines of a daemon's log shown when the demo fails.
const LOG_LINES_SHOWN: usize = 15;

/// The directory and the daemons, shared with whoever cleans up.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The directory that holds everything.
    pub folder: PathBuf,
    /// Where each server serves the volume.
    pub nbd: [SocketAddr; 2],
    /// Where the daemons run; outside of any namespace where there is none.
    spaces: [Option<Arc<Namespace>>; 2],
    ward: Ward,
    daemons: Arc<Mutex<[Option<Member>; 2]>>,
}

impl Pair {
    /// Makes the directory with secret and configuration. Nothing runs yet. `purpose` names the directory.
    pub fn new(parent: &Path, purpose: &str, ward: &Ward) -> Result<Pair, Failure> {
        let ports = free_ports().map_err(cannot_run)?;
        let nbd = [2, 3].map(|index| SocketAddr::from(([127, 0, 0, 1], ports[index])));
        let pair = Pair::placed(parent, purpose, ward, nbd, [None, None])?;
        pair.configure(&on_loopback(ports))?;
        Ok(pair)
    }

    /// Makes the directory with the secret, for daemons in namespaces; [`Pair::configure`] comes next. `nbd` is where clients
    /// find the volume.
    pub fn placed(
        parent: &Path,
        purpose: &str,
        ward: &Ward,
        nbd: [SocketAddr; 2],
        spaces: [Option<Arc<Namespace>>; 2],
    ) -> Result<Pair, Failure> {
        let folder = parent.join(format!("twinblock-{purpose}-{}", std::process::id()));
        let failed = |error: std::io::Error| {
            let message =
                format!("the {purpose} can't use {}: {error}; choose a directory with --dir", folder.display());
            Failure::new(Exit::Failed, message)
        };
        ward.make_folder(&folder).map_err(failed)?;
        Pair::write_secret(&folder).map_err(failed)?;
        Ok(Pair { folder, nbd, spaces, ward: ward.clone(), daemons: Arc::default() })
    }

    /// Writes the configuration.
    pub fn configure(&self, text: &str) -> Result<(), Failure> {
        std::fs::write(self.folder.join("pair.toml"), text).map_err(cannot_run)
    }

    fn write_secret(folder: &Path) -> std::io::Result<()> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| std::io::Error::other(error.to_string()))?;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(folder.join("secret"))?;
        writeln!(file, "{secret}")
    }

    /// Runs a verb on a server, as a person would, and returns what it printed.
    pub fn verb(&self, node: usize, arguments: &[&str]) -> Result<String, Failure> {
        let output = self.ward.run(self.command(node)?.args(arguments)).map_err(cannot_run)?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_string();
            let message = format!("`twinblock --node {} {}` failed: {words}", NODES[node], arguments.join(" "));
            return Err(Failure::new(Exit::Failed, message));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a server's daemon, and waits until it says that it is ready.
    pub fn start(&self, node: usize) -> Result<(), Failure> {
        let name = NODES[node];
        let log = File::options().append(true).create(true).open(self.folder.join(format!("{name}.log")));
        let log = log.map_err(cannot_run)?;
        let ready = self.folder.join(format!("{name}.ready"));
        let out = File::create(&ready).map_err(cannot_run)?;
        let mut command = self.command(node)?;
        // A group of its own: ctrl-C at the terminal is for the demo, which then ends its daemons itself.
        command.args(["run", "--die-with-parent"]).process_group(0).stdin(Stdio::null()).stdout(out).stderr(log);
        let ward = self.ward.clone();
        let daemon = match &self.spaces[node] {
            // On the thread that stays there: the daemon dies with the thread that started it.
            Some(space) => space.inside(move || ward.start(&mut command)).and_then(|started| started),
            None => ward.start(&mut command),
        };
        let daemon = daemon.map_err(cannot_run)?;
        self.lock()[node] = Some(daemon.clone());
        let deadline = Instant::now() + STEP_TIME_MAX;
        loop {
            if std::fs::read_to_string(&ready).is_ok_and(|text| text.contains("is ready")) {
                return Ok(());
            }
            if let Some(status) = daemon.ended() {
                return Err(self.failure(format!("the daemon of {name} ended at its start ({status})")));
            }
            if Instant::now() >= deadline {
                return Err(self.failure(format!("the daemon of {name} is not ready in time")));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Process ids of the daemons that run.
    pub fn pids(&self) -> Vec<u32> {
        self.lock().iter().flatten().map(Member::id).collect()
    }

    /// The socket on which a server serves the volume to clients of this machine.
    pub fn socket(&self, node: usize) -> PathBuf {
        self.folder.join(format!("{}-nbd.sock", NODES[node]))
    }

    /// Kills a server's daemon as a crash would: without a word.
    pub fn kill(&self, node: usize) {
        if let Some(daemon) = self.lock()[node].take() {
            daemon.kill();
        }
    }

    /// Stops a server's daemon in order.
    pub fn stop(&self, node: usize) -> Result<(), Failure> {
        let Some(daemon) = self.lock()[node].take() else { return Ok(()) };
        let pid = nix::unistd::Pid::from_raw(daemon.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + STEP_TIME_MAX;
        while Instant::now() < deadline {
            match daemon.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(self.failure(format!("the daemon of {} did not stop in order ({status})", NODES[node])));
                }
                None => std::thread::sleep(LOOK_INTERVAL),
            }
        }
        daemon.kill();
        Err(self.failure(format!("the daemon of {} did not stop in time", NODES[node])))
    }

    /// The state of the volume on a server.
    pub fn status(&self, node: usize) -> Result<serde_json::Value, Failure> {
        let text = self.verb(node, &["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| Failure::new(Exit::Failed, format!("the status can't be read: {error}")))?;
        Ok(status["volumes"][0].clone())
    }

    /// Waits until both disks hold the same, and returns the state of the volume on that server.
    pub fn wait_in_sync(&self, node: usize) -> Result<serde_json::Value, Failure> {
        let deadline = Instant::now() + STEP_TIME_MAX;
        loop {
            let status = self.status(node)?;
            if status["in_sync"] == true && status["resync"].is_null() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                let words = format!("not in sync in time; {} says {status}", NODES[node]);
                return Err(self.failure(words));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// A failure, with the end of both logs: the directory will be gone.
    pub fn failure(&self, words: String) -> Failure {
        let mut message = words;
        for node in NODES {
            let log = std::fs::read_to_string(self.folder.join(format!("{node}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            message.push_str(&format!("\n-- end of the log of {node}\n{}", last.join("\n")));
        }
        Failure::new(Exit::Failed, message)
    }

    /// Ends both daemons and removes the directory.
    pub fn clean_up(&self) {
        (0..NODES.len()).for_each(|node| self.kill(node));
        self.ward.remove_folder(&self.folder);
    }

    fn command(&self, node: usize) -> Result<Command, Failure> {
        let binary = std::env::current_exe().map_err(cannot_run)?;
        let mut command = Command::new(binary);
        // Relative paths keep the sockets' names short, wherever the directory is.
        command.current_dir(&self.folder).args(["-c", "pair.toml", "--node", NODES[node]]);
        Ok(command)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [Option<Member>; 2]> {
        self.daemons.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The configuration of a pair on this machine's loopback.
fn on_loopback(ports: [u16; 4]) -> String {
    let mut text = "cluster = \"demo\"\nsecret_file = \"secret\"\n".to_string();
    for (node, port) in NODES.iter().zip(ports) {
        text.push_str(&format!(
            "\n[[node]]\nname = \"{node}\"\nmirror = [\"127.0.0.1:{port}\"]\ncontrol = \"{node}.sock\"\n\
             state_dir = \"{node}.d\"\n"
        ));
    }
    text.push_str(&format!("\n[[volume]]\nname = \"{VOLUME}\"\nmode = \"sync\"\n"));
    for (node, port) in NODES.iter().zip(&ports[2..]) {
        text.push_str(&format!(
            "\n[volume.on.{node}]\ndisk = \"{node}.img\"\nmetadata = \"internal\"\n\
             nbd = [\"tcp:127.0.0.1:{port}\", \"unix:{node}-nbd.sock\"]\n"
        ));
    }
    text
}

/// Four ports nobody listens at.
fn free_ports() -> std::io::Result<[u16; 4]> {
    let listeners: Vec<TcpListener> =
        (0..4).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    let mut ports = [0; 4];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

fn cannot_run(error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("no twinblock daemon can be run: {error}"))
}
