//! Settings and heartbeats for unit tests.

use super::interface::{MirrorFacts, ResourceSettings, Settings};
use crate::base::arbiter::InSync;
use crate::base::generation::Generation;
use crate::base::group::{FailoverMode, GroupRole, NodeState, Reason, Wish};
use crate::base::heartbeat::{Heartbeat, VolumeWord};
use crate::base::ids::{BootId, Epoch, Incarnation, NodeId};
use crate::base::limits::HEARTBEAT_PATHS_MAX;
use crate::base::state::{DiskState, Role};
use crate::base::time::Moment;
use crate::wire::message::Continuity;
use std::time::Duration;

pub(crate) fn settings(node: u8) -> Settings {
    let resource = |name: &str| ResourceSettings {
        name: name.into(),
        needs: Vec::new(),
        critical: true,
        skip: false,
        start_timeout: Duration::from_secs(10),
        stop_timeout: Duration::from_secs(10),
    };
    Settings {
        group: "web".into(),
        node: NodeId(node),
        home: NodeId(0),
        node_names: ["alpha".into(), "beta".into()],
        mode: FailoverMode::Arbiter,
        paths: vec!["mirror".into(), "public".into()],
        heartbeat_interval: Duration::from_millis(100),
        suspect_after: Duration::from_millis(500),
        dead_after: Duration::from_secs(1),
        link_silence: Duration::from_secs(1),
        init_dead_after: Duration::from_secs(120),
        clock_rate_per_mille: 10,
        permit_margin: Duration::from_millis(10),
        arbiter_interval: Duration::from_secs(10),
        retry_interval: Duration::from_millis(200),
        fence_delay: Duration::from_secs(1),
        quiet_time: Duration::from_secs(2),
        unclean_takeover: false,
        peer_wait: Duration::from_secs(60),
        fallback_after: None,
        flap_guard: Duration::from_secs(600),
        critical_delay_storage: Duration::from_secs(10),
        critical_delay_service: Duration::from_secs(90),
        stall_after: Duration::from_secs(10),
        mirror_timeout: Duration::from_secs(30),
        handover_timeout: Duration::from_secs(10),
        auto_start: true,
        resources: vec![resource("files"), resource("address"), resource("service")],
        config: 1,
        version: [0, 1, 0],
    }
}

pub(super) fn heartbeat(incarnation: u64, sequence: u64) -> Heartbeat {
    Heartbeat {
        node: NodeId(1),
        incarnation: Incarnation(incarnation),
        boot: BootId(1),
        sequence,
        sent: Moment(0),
        epoch: Epoch(1),
        role: GroupRole::Standby,
        state: NodeState::Normal,
        reason: Reason::Normal,
        volume: VolumeWord::default(),
        insync: InSync::BOTH,
        healthy: true,
        deactivated: false,
        wish: Wish::default(),
        config: 1,
        version: [0, 1, 0],
        turn_age: Duration::ZERO,
        heard: [None; HEARTBEAT_PATHS_MAX],
        wants_promise: false,
        promise: None,
        ask: None,
        answer: None,
    }
}

/// A standby whose volume is connected and in sync.
pub(super) fn facts() -> MirrorFacts {
    MirrorFacts {
        role: Role::Secondary,
        mixed: false,
        disk: DiskState::UpToDate,
        connected: true,
        session_with: Some(Incarnation(1)),
        in_sync: true,
        lossy: false,
        source: false,
        wants_solo: false,
        peer_slow: false,
        wants_qualify: false,
        wants_peer_only: false,
        peer_outdated: false,
        memory: Continuity::SameProcess,
        suspect: false,
        split: false,
        generation: Generation::default(),
        seen_epoch: Epoch(1),
        cache_epoch: 0,
    }
}
