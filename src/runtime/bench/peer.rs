//! What users have today: a `qemu-storage-daemon` that mirrors to a `qemu-nbd`, every write waiting for both.

use super::Contender;
use super::fio::Target;
use super::process::{Process, START_TIME_MAX, free_port, processor_seconds_of, resident_bytes_of};
use crate::runtime::cli::exit::{Exit, Failure};
use crate::runtime::demo::ward::Ward;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// How it is called among the contenders.
pub(super) const RIVAL: &str = "qemu-storage-daemon";

/// Whether the programs are there. The reason if not.
pub(super) fn installed() -> Result<(), &'static str> {
    let there = |program: &str| {
        let run = Command::new(program).arg("--version").stdin(Stdio::null()).output();
        run.is_ok_and(|output| output.status.success())
    };
    if !there("qemu-storage-daemon") {
        return Err("it is not installed (Debian: qemu-system-common)");
    }
    if !there("qemu-nbd") {
        return Err("qemu-nbd is not installed (Debian: qemu-utils)");
    }
    Ok(())
}

pub(super) struct PeerPair {
    socket: PathBuf,
    monitor: Monitor,
    processes: [Process; 2],
}

impl PeerPair {
    /// Starts both ends and mirrors.
    pub fn start(folder: &Path, size_bytes: u64, ward: &Ward) -> Result<PeerPair, Failure> {
        let port = free_port()?;
        let (source, target) = (folder.join("peer-source.img"), folder.join("peer-target.img"));
        for disk in [&source, &target] {
            fs::File::create(disk)
                .and_then(|file| file.set_len(size_bytes))
                .map_err(|error| Failure::new(Exit::Failed, format!("{} can't be made: {error}", disk.display())))?;
        }
        let mut server = Command::new("qemu-nbd");
        server.args(["--format=raw", "--cache=none", "--aio=native", "--persistent", "--export-name=target"]);
        server.args(["--bind=127.0.0.1", &format!("--port={port}")]).arg(&target);
        let mut server = Process::start(server, folder.join("peer-target.log"), ward)?;
        server.wait_until("its port", || TcpStream::connect(("127.0.0.1", port)).is_ok())?;

        let (socket, control) = (folder.join("peer-nbd.sock"), folder.join("peer-qmp.sock"));
        let mut daemon = Command::new("qemu-storage-daemon");
        daemon
            .arg("--blockdev")
            .arg(format!("driver=file,node-name=file,filename={},cache.direct=on,aio=native", source.display()));
        daemon.args(["--blockdev", "driver=raw,node-name=source,file=file", "--blockdev"]);
        daemon.arg(format!(
            "driver=nbd,node-name=target,server.type=inet,server.host=127.0.0.1,server.port={port},export=target"
        ));
        daemon.arg("--chardev").arg(format!("socket,id=qmp,path={},server=on,wait=off", control.display()));
        daemon.args(["--monitor", "chardev=qmp", "--nbd-server"]);
        daemon.arg(format!("addr.type=unix,addr.path={}", socket.display()));
        daemon.args(["--export", "type=nbd,id=export,node-name=source,name=vol0,writable=on"]);
        let mut daemon = Process::start(daemon, folder.join("peer-source.log"), ward)?;
        daemon.wait_until("its sockets", || socket.exists() && UnixStream::connect(&control).is_ok())?;

        let mut monitor = Monitor::connect(&control)?;
        monitor.mirror()?;
        Ok(PeerPair { socket, monitor, processes: [server, daemon] })
    }
}

impl Contender for PeerPair {
    fn name(&self) -> &'static str {
        RIVAL
    }

    fn target(&self, _writes: bool) -> Target {
        Target::Nbd(format!("nbd+unix:///vol0?socket={}", self.socket.display()))
    }

    fn sync(&mut self) -> Option<Result<f64, Failure>> {
        let stopped = self.monitor.stop_mirror();
        let started = Instant::now();
        Some(stopped.and_then(|()| self.monitor.mirror()).map(|()| started.elapsed().as_secs_f64()))
    }

    fn processor_seconds(&self) -> Option<f64> {
        Some(self.processes.iter().map(|process| processor_seconds_of(process.id())).sum())
    }

    fn resident_bytes(&self) -> Option<u64> {
        self.processes.iter().map(|process| resident_bytes_of(process.id())).max()
    }
}

/// The control connection: one JSON object per line, answers and events mixed.
struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(path: &Path) -> Result<Monitor, Failure> {
        let stream = UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(START_TIME_MAX * 4))?;
            Ok(stream)
        });
        let mut monitor = Monitor { stream: BufReader::new(stream.map_err(broken)?) };
        monitor.read()?;
        monitor.execute(json!({"execute": "qmp_capabilities"}))?;
        Ok(monitor)
    }

    /// Copies everything, and returns when both sides are the same and every write waits for both.
    fn mirror(&mut self) -> Result<(), Failure> {
        let arguments = json!({
            "job-id": "mirror", "device": "source", "target": "target", "sync": "full", "copy-mode": "write-blocking",
        });
        self.execute(json!({"execute": "blockdev-mirror", "arguments": arguments}))?;
        self.wait_for(|message| message["event"] == "BLOCK_JOB_READY")
    }

    fn stop_mirror(&mut self) -> Result<(), Failure> {
        let arguments = json!({"device": "mirror", "force": true});
        self.execute(json!({"execute": "block-job-cancel", "arguments": arguments}))?;
        self.wait_for(|message| message["event"] == "JOB_STATUS_CHANGE" && message["data"]["status"] == "null")
    }

    fn execute(&mut self, command: Value) -> Result<(), Failure> {
        self.stream.get_mut().write_all(format!("{command}\n").as_bytes()).map_err(broken)?;
        self.wait_for(|message| message.get("return").is_some())
    }

    /// Reads until the message that is waited for; an error in between is the end.
    fn wait_for(&mut self, is_it: impl Fn(&Value) -> bool) -> Result<(), Failure> {
        loop {
            let message = self.read()?;
            if is_it(&message) {
                return Ok(());
            }
            let failed = message["data"].get("error").or(message.get("error"));
            if let Some(error) = failed {
                return Err(Failure::new(Exit::Failed, format!("qemu-storage-daemon refused: {error}")));
            }
        }
    }

    fn read(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).map_err(broken)? == 0 {
            return Err(Failure::new(Exit::Failed, "qemu-storage-daemon closed its control connection"));
        }
        serde_json::from_str(&line).map_err(|error| broken(error.into()))
    }
}

fn broken(error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("the control connection of qemu-storage-daemon broke: {error}"))
}
