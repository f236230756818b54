//! Two servers and a client in network namespaces, on one switch.

use crate::pair::Pair;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use twinblock::io::namespace::Namespace;
use twinblock::runtime::demo::nbd::NbdClient;

/// Where the volume is served at its floating addresses.
pub const PORT: u16 = 10809;
/// Patience of the test's client for a connection; it tries again.
const CONNECT_TIME: Duration = Duration::from_millis(200);
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The network: servers alpha and beta, and a client, on one switch.
pub struct Town {
    pub hosts: [Arc<Namespace>; 3],
    pub switch: Namespace,
}

/// The client, among the hosts.
pub const CLIENT: usize = 2;

pub fn v4(last: u8) -> IpAddr {
    IpAddr::from([10, 97, 0, last])
}

pub fn v6(last: u16) -> IpAddr {
    IpAddr::from([0xfd00, 0x97, 0, 0, 0, 0, 0, last])
}

/// The floating addresses.
pub fn floating() -> [IpAddr; 2] {
    [v4(50), v6(0x50)]
}

impl Town {
    pub fn new() -> Town {
        let switch = Namespace::new().unwrap();
        switch.make_switch().unwrap();
        let hosts = [0, 1, 2].map(|host: u8| {
            let space = Namespace::new().unwrap();
            space.plug_into(&switch, &format!("p{host}"), "eth0").unwrap();
            space.give("eth0", v4(host + 1), 24).unwrap();
            space.give("eth0", v6(u16::from(host) + 1), 64).unwrap();
            Arc::new(space)
        });
        Town { hosts, switch }
    }

    /// A client at an address, once somebody serves there.
    pub fn client(&self, pair: &mut Pair, address: IpAddr) -> NbdClient {
        let to = SocketAddr::new(address, PORT);
        pair.wait(&format!("a client at {to}"), |_| {
            let connect = move || NbdClient::connect_within(to, "vol0", CONNECT_TIME, ANSWER_TIME);
            self.hosts[CLIENT].inside(connect).unwrap().ok()
        })
    }

    /// A client that was greeted and has nothing to say.
    pub fn silent_client(&self, address: IpAddr) -> TcpStream {
        let to = SocketAddr::new(address, PORT);
        let mut stream = self.hosts[CLIENT].inside(move || TcpStream::connect(to)).unwrap().unwrap();
        stream.set_read_timeout(Some(ANSWER_TIME)).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        stream
    }

    pub fn has(&self, host: usize, address: IpAddr) -> bool {
        self.hosts[host].has(address).unwrap()
    }
}

/// What is missing here for these tests, if anything is.
pub fn skipped() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: network namespaces need root");
    }
    !root
}
