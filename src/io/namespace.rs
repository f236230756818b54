//! Network namespaces of this process's own, and the wires between them. Decides nothing.
//!
//! A namespace lives as long as its handle here or a process started in it: it has no name in the file system, so nothing
//! is left behind, however this process ends. Each has a thread that stays in it; what is to happen inside happens there.

use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc;

use futures_util::StreamExt;

/// Name of the switch in its namespace.
const SWITCH: &str = "switch";

/// Something to do on a namespace's thread.
type Job = Box<dyn FnOnce() + Send>;

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    jobs: mpsc::Sender<Job>,
    file: File,
}

impl Namespace {
    /// A new one, with nothing in it but its loopback interface, switched on. Needs CAP_SYS_ADMIN.
    pub fn new() -> io::Result<Namespace> {
        let (ready, is_ready) = mpsc::channel();
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("namespace".into()).spawn(move || {
            let made = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
            // Whoever asked for it waits.
            let _ = ready.send(made.and_then(|()| File::open("/proc/thread-self/ns/net")));
            queue.into_iter().for_each(|job| job());
        })?;
        let file = is_ready.recv().map_err(|_| io::Error::other("the namespace's thread ended"))??;
        let namespace = Namespace { jobs, file };
        namespace.set_up("lo", true)?;
        Ok(namespace)
    }

    /// Does something inside, on the thread that stays there as long as the namespace: processes started by it may watch
    /// their parent.
    pub fn inside<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (done, result) = mpsc::channel();
        let ended = || io::Error::other("the namespace's thread ended");
        let job: Job = Box::new(move || done.send(job()).unwrap_or(()));
        self.jobs.send(job).map_err(|_| ended())?;
        result.recv().map_err(|_| ended())
    }

    /// Moves the calling thread into it, for good.
    pub fn enter(&self) -> io::Result<()> {
        Ok(nix::sched::setns(self.file.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?)
    }

    /// Makes it a switch that others are plugged into.
    pub fn make_switch(&self) -> io::Result<()> {
        // A switch that guards multicast would keep neighbour discovery from hosts it has not heard yet.
        self.ask(async |handle| {
            handle.link().add(LinkBridge::new(SWITCH).mcast_snooping(false).build()).execute().await
        })
    }

    /// Plugs it into a switch: `port` there, `interface` here, both switched on.
    pub fn plug_into(&self, switch: &Namespace, port: &str, interface: &str) -> io::Result<()> {
        self.wire(interface, switch, port)?;
        let controller = switch.index(SWITCH)?;
        let index = switch.index(port)?;
        switch.change(LinkUnspec::new_with_index(index).controller(controller).up().build())?;
        self.set_up(interface, true)
    }

    /// Of a switch: keeps two ports from hearing each other, whom every other port still hears.
    pub fn keep_apart(&self, ports: [&str; 2], apart: bool) -> io::Result<()> {
        for port in ports {
            let message = LinkBridgePort::new(self.index(port)?).isolated(apart).build();
            self.ask(async |handle| handle.link().change(message).execute().await)?;
        }
        Ok(())
    }

    /// A wire to another namespace: `interface` here, `other` there, both switched off.
    pub fn wire(&self, interface: &str, peer: &Namespace, other: &str) -> io::Result<()> {
        let far_end =
            LinkMessageBuilder::<LinkUnspec>::new().name(other.to_string()).setns_by_fd(peer.file.as_raw_fd()).build();
        let wire = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(interface.to_string())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far_end)))
            .build();
        self.ask(async |handle| handle.link().add(wire).execute().await)
    }

    /// Switches an interface on or off.
    pub fn set_up(&self, interface: &str, up: bool) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(self.index(interface)?);
        self.change(if up { message.up() } else { message.down() }.build())
    }

    /// Removes an interface, and with it the wire.
    pub fn remove(&self, interface: &str) -> io::Result<()> {
        let index = self.index(interface)?;
        self.ask(async move |handle| handle.link().del(index).execute().await)
    }

    /// Gives an interface an address of the server's own.
    pub fn give(&self, interface: &str, address: IpAddr, prefix: u8) -> io::Result<()> {
        let index = self.index(interface)?;
        self.ask(async move |handle| {
            let mut request = handle.address().add(index, address, prefix);
            if address.is_ipv6() {
                // Else it could not be used in its first second.
                request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            request.execute().await
        })
    }

    /// Whether an interface has an address.
    pub fn has(&self, address: IpAddr) -> io::Result<bool> {
        self.ask(async move |handle| {
            let mut all = std::pin::pin!(handle.address().get().execute());
            while let Some(message) = all.next().await {
                let is_it = |attribute: &AddressAttribute| match attribute {
                    AddressAttribute::Local(found) | AddressAttribute::Address(found) => *found == address,
                    _ => false,
                };
                if message?.attributes.iter().any(is_it) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    fn change(&self, message: LinkMessage) -> io::Result<()> {
        self.ask(async |handle| handle.link().change(message).execute().await)
    }

    fn index(&self, interface: &str) -> io::Result<u32> {
        let name = interface.to_string();
        self.ask(async move |handle| {
            let mut links = std::pin::pin!(handle.link().get().execute());
            while let Some(link) = links.next().await {
                let link = link?;
                let named =
                    |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(found) if *found == name);
                if link.attributes.iter().any(named) {
                    return Ok(Some(link.header.index));
                }
            }
            Ok(None)
        })?
        .ok_or_else(|| io::Error::other(format!("there is no interface {interface}")))
    }

    /// Asks the kernel, from inside.
    fn ask<T: Send + 'static>(
        &self,
        question: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send + 'static,
    ) -> io::Result<T> {
        self.inside(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                tokio::spawn(connection);
                question(handle).await.map_err(|error| match error {
                    rtnetlink::Error::NetlinkError(message) => message.to_io(),
                    other => io::Error::other(other.to_string()),
                })
            })
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    #[test]
    fn hosts_on_a_switch_reach_each_other_and_nobody_outside() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: network namespaces need root");
            return;
        }
        let [switch, one, other] = [(); 3].map(|()| Namespace::new().unwrap());
        switch.make_switch().unwrap();
        let addresses = ["10.97.0.1", "10.97.0.2"].map(|address| address.parse::<IpAddr>().unwrap());
        for (host, (port, address)) in [&one, &other].into_iter().zip([("p0", addresses[0]), ("p1", addresses[1])]) {
            host.plug_into(&switch, port, "eth0").unwrap();
            host.give("eth0", address, 24).unwrap();
        }
        assert!(one.has(addresses[0]).unwrap() && !one.has(addresses[1]).unwrap());
        let to = SocketAddr::new(addresses[1], 7000);
        let listener = other.inside(move || TcpListener::bind(to)).unwrap().unwrap();
        one.inside(move || TcpStream::connect(to)).unwrap().unwrap();
        assert!(TcpListener::bind(to).is_err(), "this thread is still outside");
        one.remove("eth0").unwrap();
        assert!(one.inside(move || TcpStream::connect(to)).unwrap().is_err());
        drop(listener);
    }
}
