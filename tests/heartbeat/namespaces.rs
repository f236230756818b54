//! Two network namespaces with two cables between them.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Makes every world's names another one.
static COUNTER: AtomicU32 = AtomicU32::new(0);

pub struct World {
    names: [String; 2],
}

/// Address of a node on a path.
pub fn address(node: usize, path: usize) -> String {
    format!("10.77.{path}.{}", node + 1)
}

impl World {
    /// `None`, and says so, where namespaces can't be made.
    pub fn new() -> Option<World> {
        let number = COUNTER.fetch_add(1, Ordering::SeqCst);
        let names = ["a", "b"].map(|side| format!("tbh{}-{number}{side}", std::process::id()));
        let world = World { names };
        for name in &world.names {
            if !ip(&["netns", "add", name]) {
                println!("SKIPPED: can't make a network namespace (needs root and iproute2)");
                return None;
            }
        }
        for path in 0..2 {
            let cable = format!("path{path}");
            world.ip(0, &["link", "add", &cable, "type", "veth", "peer", "name", &cable, "netns", &world.names[1]]);
            for node in 0..2 {
                world.add_address(node, path);
                world.set_link(node, path, true);
            }
        }
        Some(world)
    }

    pub fn add_address(&self, node: usize, path: usize) {
        self.ip(node, &["address", "add", &format!("{}/24", address(node, path)), "dev", &format!("path{path}")]);
    }

    pub fn remove_address(&self, node: usize, path: usize) {
        self.ip(node, &["address", "del", &format!("{}/24", address(node, path)), "dev", &format!("path{path}")]);
    }

    pub fn set_link(&self, node: usize, path: usize, up: bool) {
        self.ip(node, &["link", "set", &format!("path{path}"), if up { "up" } else { "down" }]);
    }

    /// Does something on a thread inside a node's namespace.
    pub fn inside<T: Send + 'static>(&self, node: usize, act: impl FnOnce() -> T + Send + 'static) -> T {
        let file = std::fs::File::open(format!("/run/netns/{}", self.names[node])).unwrap();
        let thread = std::thread::spawn(move || {
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            act()
        });
        thread.join().unwrap()
    }

    fn ip(&self, node: usize, arguments: &[&str]) {
        assert!(ip(&[&["-n", &self.names[node]], arguments].concat()), "ip {arguments:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().is_ok_and(|done| done.status.success())
}
