//! A real etcd in a temporary folder.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest start of an etcd on a busy machine.
const START_TIME: Duration = Duration::from_secs(60);

/// How a member is started.
#[derive(Clone, Default)]
pub struct Options {
    /// Server certificate, its key, and the authority for clients' certificates.
    pub tls: Option<(PathBuf, PathBuf, PathBuf)>,
    /// More arguments.
    pub arguments: Vec<String>,
}

/// One member, alone or of a cluster.
pub struct Server {
    name: String,
    folder: tempfile::TempDir,
    options: Options,
    client: u16,
    peer: u16,
    /// `name=url` of all members.
    cluster: String,
    child: Option<Child>,
}

/// Whether the programs are there; says so when not.
pub fn is_missing() -> bool {
    for program in ["etcd", "etcdctl"] {
        if Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            println!("SKIPPED: {program} is not installed");
            return true;
        }
    }
    false
}

impl Server {
    /// One member alone, answering.
    pub fn start(options: Options) -> Server {
        let mut servers = Server::cluster(1, options);
        servers.remove(0)
    }

    /// So many members of one cluster, each answering.
    pub fn cluster(count: usize, options: Options) -> Vec<Server> {
        let mut ports = free_ports(2 * count).into_iter();
        let mut servers: Vec<Server> = (0..count)
            .map(|index| Server {
                name: format!("m{index}"),
                folder: tempfile::tempdir().unwrap(),
                options: options.clone(),
                client: ports.next().unwrap(),
                peer: ports.next().unwrap(),
                cluster: String::new(),
                child: None,
            })
            .collect();
        let urls: Vec<String> = servers.iter().map(|server| format!("{}={}", server.name, server.peer_url())).collect();
        for server in &mut servers {
            server.cluster = urls.join(",");
            server.spawn();
        }
        for server in &servers {
            server.wait();
        }
        servers
    }

    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client)
    }

    pub fn port(&self) -> u16 {
        self.client
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the process, which is not waited for.
    pub fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new("etcd");
        command.args(["--name", &self.name]).arg("--data-dir").arg(self.data());
        command.args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()]);
        command.args(["--listen-peer-urls", &self.peer_url(), "--initial-advertise-peer-urls", &self.peer_url()]);
        command.args(["--initial-cluster", &self.cluster, "--logger", "zap", "--log-level", "error"]);
        if let Some((certificate, key, ca)) = &self.options.tls {
            command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
            command.arg("--trusted-ca-file").arg(ca).arg("--client-cert-auth");
        }
        command.args(&self.options.arguments).env_clear();
        self.child = Some(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Waits until it listens.
    pub fn wait(&self) {
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.client)).is_err() {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < START_TIME, "etcd does not start: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
        self.wait();
    }

    /// Runs etcdctl against it; panics when that fails.
    pub fn control(&self, arguments: &[&str]) -> String {
        let output = self.try_control(arguments);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "etcdctl {arguments:?}: {words}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn try_control(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("etcdctl");
        command.env_clear().env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]);
        command.args(arguments).output().unwrap()
    }

    /// Replaces its data by a backup, as a new cluster that goes by `token`; it must have been killed.
    pub fn restore(&mut self, backup: &Path, token: &str) {
        assert!(self.child.is_none());
        std::fs::remove_dir_all(self.data()).unwrap();
        let mut command = Command::new("etcdctl");
        command.env_clear().env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(backup);
        command.arg("--data-dir").arg(self.data()).args(["--name", &self.name, "--initial-cluster", &self.cluster]);
        command.args(["--initial-advertise-peer-urls", &self.peer_url(), "--initial-cluster-token", token]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.spawn();
        self.wait();
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports nobody listens on now.
pub fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
