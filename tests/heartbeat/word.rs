//! A heartbeat as tests send it.

use std::time::Duration;
use twinblock::base::arbiter::InSync;
use twinblock::base::generation::Generation;
use twinblock::base::group::{GroupRole, NodeState, Reason, Wish};
use twinblock::base::heartbeat::{Heartbeat, VolumeWord};
use twinblock::base::ids::{BootId, Epoch, Incarnation, NodeId};
use twinblock::base::limits::HEARTBEAT_PATHS_MAX;
use twinblock::io::clock::now;

/// Of a standby in its first epoch, sent now.
pub fn heartbeat(number: u8, incarnation: u64, sequence: u64) -> Heartbeat {
    Heartbeat {
        node: NodeId(number),
        incarnation: Incarnation(incarnation),
        boot: BootId(1),
        sequence,
        sent: now(),
        epoch: Epoch(1),
        role: GroupRole::Standby,
        state: NodeState::Normal,
        reason: Reason::Normal,
        volume: VolumeWord { generation: Generation { epoch: 1, nonce: 2 }, ..VolumeWord::default() },
        insync: InSync::BOTH,
        healthy: true,
        deactivated: false,
        wish: Wish::default(),
        config: 3,
        version: [0, 1, 0],
        turn_age: Duration::ZERO,
        heard: [None; HEARTBEAT_PATHS_MAX],
        wants_promise: false,
        promise: None,
        ask: None,
        answer: None,
    }
}
