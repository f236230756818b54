//! The doors through which clients of floating addresses come: the group's volumes, served over NBD.

use crate::logic::failover::interface::MirrorOrder;
use crate::runtime::shard::ShardHandle;
use std::net::IpAddr;
use std::time::Duration;

/// Longest wait for a volume's thread to cut the clients of a floating address.
const DOOR_TIME_MAX: Duration = Duration::from_millis(100);

/// The doors of a group. A floating address is open from just before it comes until just before it goes: clients are cut
/// while they can still be told.
#[derive(Clone)]
pub struct Doors {
    shards: Vec<ShardHandle>,
    /// The group is lost to this node: its clients have nothing to wait for here.
    losing: bool,
}

impl Doors {
    /// Those of these volumes.
    pub fn new(shards: Vec<ShardHandle>) -> Doors {
        Doors { shards, losing: false }
    }

    /// Lets clients of a floating address in, or cuts them and turns them away. A volume whose thread does not answer is not
    /// waited for: its clients get no answers, and the address must go.
    pub async fn set(&self, address: Option<IpAddr>, open: bool) {
        let Some(address) = address else { return };
        for shard in &self.shards {
            if tokio::time::timeout(DOOR_TIME_MAX, shard.set_address(address, open)).await.is_err() {
                tracing::error!("a volume's thread does not answer: clients of {address} are not cut");
            }
        }
    }

    /// The gate closes, so an address goes. Its clients are cut only when the group is lost for certain: an owner that is
    /// confirmed a moment later goes on with them.
    pub async fn suspend(&self, address: Option<IpAddr>) {
        if self.losing {
            self.set(address, false).await;
        }
    }

    /// What the volumes are ordered shows whether clients of this node have anything to wait for.
    pub fn ordered(&mut self, order: MirrorOrder) {
        match order {
            MirrorOrder::Demote => self.losing = true,
            MirrorOrder::Promote { .. } => self.losing = false,
            _ => {}
        }
    }
}
