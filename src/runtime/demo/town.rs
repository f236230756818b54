//! A network in namespaces: two servers, a client and a witness on one switch, and a wire between the servers.
//!
//! ```text
//!      client .3     witness .4 (etcd)
//!          │            │
//!   ───────┴──switch────┴────────        10.97.0.0/24, floating address .50
//!      │                   │
//!   alpha .1 ───wire─── beta .2          10.96.0.0/24
//! ```

use super::pair::{NODES, VOLUME};
use super::ward::Ward;
use crate::io::namespace::Namespace;
use crate::runtime::cli::exit::{Exit, Failure};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The address that moves.
pub const FLOATING: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 97, 0, 50));
/// Where the volume is served there.
pub const NBD: SocketAddr = SocketAddr::new(FLOATING, 10809);
/// Where the service answers there.
pub const SERVICE: SocketAddr = SocketAddr::new(FLOATING, 7777);
/// Where the service finds the volume, on either server.
const LOCAL_NBD: &str = "127.0.0.1:10810";
const ETCD_PORT: u16 = 2379;
/// Longest start of an etcd.
const ETCD_START_MAX: Duration = Duration::from_secs(15);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Of the wire, on either server.
const WIRE: &str = "wire0";

/// The network.
#[derive(Debug)]
pub struct Town {
    /// The servers, in the order of [`NODES`].
    pub servers: [Arc<Namespace>; 2],
    /// The client.
    pub client: Arc<Namespace>,
    witness: Namespace,
    switch: Namespace,
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// A real etcd on a host of its own.
    Etcd,
    /// A directory both servers see.
    Directory,
}

fn on_switch(host: u8) -> IpAddr {
    IpAddr::from([10, 97, 0, host])
}

fn on_wire(host: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, host])
}

impl Town {
    /// Makes it. Needs root.
    pub fn new() -> io::Result<Town> {
        let switch = Namespace::new()?;
        switch.make_switch()?;
        let town = Town {
            servers: [Arc::new(Namespace::new()?), Arc::new(Namespace::new()?)],
            client: Arc::new(Namespace::new()?),
            witness: Namespace::new()?,
            switch,
        };
        town.plug(&town.client, 3)?;
        town.plug(&town.witness, 4)?;
        town.plug(&town.servers[0], 1)?;
        town.plug(&town.servers[1], 2)?;
        town.join()?;
        Ok(town)
    }

    fn plug(&self, host: &Namespace, number: u8) -> io::Result<()> {
        host.plug_into(&self.switch, &format!("port{number}"), "eth0")?;
        host.give("eth0", on_switch(number), 24)
    }

    /// The wire between the servers.
    fn join(&self) -> io::Result<()> {
        self.servers[0].wire(WIRE, &self.servers[1], WIRE)?;
        for (server, number) in self.servers.iter().zip([1, 2]) {
            server.give(WIRE, on_wire(number), 24)?;
            server.set_up(WIRE, true)?;
        }
        Ok(())
    }

    /// Takes a server off every network at once, as its power does.
    pub fn cut_off(&self, server: usize) -> io::Result<()> {
        self.servers[server].remove("eth0")?;
        self.servers[server].remove(WIRE)
    }

    /// Plugs it in again. A host that was switched off has forgotten every address.
    pub fn plug_in(&self, server: usize) -> io::Result<()> {
        self.plug(&self.servers[server], server as u8 + 1)?;
        self.join()
    }

    /// Takes a server's cable out of the switch, or puts it back; what it has stays on it.
    pub fn unplug(&self, server: usize, unplugged: bool) -> io::Result<()> {
        self.switch.set_up(&format!("port{}", server + 1), !unplugged)
    }

    /// Starts an etcd on the witness, if one is installed. Its data are in the folder.
    pub fn start_witness(&self, folder: &Path, ward: &Ward) -> Result<Witness, Failure> {
        let failed = |words: String| Failure::new(Exit::Failed, words);
        let log = std::fs::File::create(folder.join("etcd.log")).map_err(|error| failed(error.to_string()))?;
        let here = format!("http://{}", SocketAddr::new(on_switch(4), ETCD_PORT));
        let mut command = Command::new("etcd");
        command.args(["--name", "m0", "--data-dir"]).arg(folder.join("etcd"));
        command.args(["--listen-client-urls", &here, "--advertise-client-urls", &here]);
        let peer = "http://127.0.0.1:2380";
        command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
        command.args(["--initial-cluster", &format!("m0={peer}"), "--logger", "zap", "--log-level", "error"]);
        command.env_clear().stdin(Stdio::null()).stderr(log.try_clone().map_err(|error| failed(error.to_string()))?);
        command.stdout(log);
        let own = ward.clone();
        let started = self.witness.inside(move || own.start(&mut command)).and_then(|started| started);
        let etcd = match started {
            Ok(etcd) => etcd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Witness::Directory),
            Err(error) => return Err(failed(format!("etcd can't be started: {error}"))),
        };
        let to = SocketAddr::new(on_switch(4), ETCD_PORT);
        let deadline = Instant::now() + ETCD_START_MAX;
        while !self.witness.inside(move || TcpStream::connect(to).is_ok()).unwrap_or(false) {
            if etcd.ended().is_some() || Instant::now() >= deadline {
                let said = std::fs::read_to_string(folder.join("etcd.log")).unwrap_or_default();
                return Err(failed(format!("etcd does not start: {said}")));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(Witness::Etcd)
    }
}

/// The configuration of both servers: one group with the volume, the floating address and, if there is a command for it, a
/// service.
pub fn configuration(witness: Witness, service: Option<&[String]>) -> String {
    let mut text = "cluster = \"demo\"\nsecret_file = \"secret\"\n".to_string();
    for (node, number) in NODES.iter().zip([1, 2]) {
        let [wire, public] = [on_wire(number), on_switch(number)];
        text.push_str(&format!(
            "\n[[node]]\nname = \"{node}\"\nmirror = [\"{wire}:7101\"]\nheartbeat = [\"{wire}:7201\", \
             \"{public}:7201\"]\ncontrol = \"{node}.sock\"\nstate_dir = \"{node}.d\"\n"
        ));
    }
    text.push_str(&format!("\n[[volume]]\nname = \"{VOLUME}\"\nmode = \"sync\"\n"));
    for node in NODES {
        text.push_str(&format!(
            "\n[volume.on.{node}]\ndisk = \"{node}.img\"\nnbd = [\"tcp:{NBD}\", \"tcp:{LOCAL_NBD}\"]\n"
        ));
    }
    text.push_str("\n[failover]\nmode = \"arbiter\"\n\n[arbiter]\n");
    text.push_str(&match witness {
        Witness::Etcd => {
            format!("kind = \"etcd\"\nendpoints = [\"http://{}\"]\n", SocketAddr::new(on_switch(4), ETCD_PORT))
        }
        Witness::Directory => "kind = \"file\"\ndirectory = \"arbiter\"\n".to_string(),
    });
    text.push_str(&format!(
        "\n[[group]]\nname = \"db\"\nhome = \"{}\"\nvolumes = [\"{VOLUME}\"]\n\n[[group.address]]\nname = \"ip\"\n\
         address = \"{FLOATING}\"\n",
        NODES[0]
    ));
    if let Some(command) = service {
        let words: Vec<String> = command.iter().map(|word| format!("{word:?}")).collect();
        let words = words.join(", ");
        text.push_str(&format!("\n[[group.service]]\nname = \"counter\"\ncommand = [{words}]\nsettle = \"20ms\"\n"));
    }
    text
}

/// The command of the counting service.
pub fn service_command(binary: &Path) -> Vec<String> {
    let volume = format!("{LOCAL_NBD}/{VOLUME}");
    [&binary.display().to_string(), "demo-service", &volume, &SERVICE.to_string()].map(str::to_string).to_vec()
}
