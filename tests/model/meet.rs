//! The handshake of the model: the product's own decision function, asked through descriptors made from model nodes.

use super::state::{PRIMARY, State};
use super::variant::{Gate, Intent, Variant};
use twinblock::base::generation::{Generation, Lineage};
use twinblock::base::ids::{BootId, Epoch, Incarnation, NodeId, Uuid};
use twinblock::base::state::{DiskState, Mode, ResyncKind, Role};
use twinblock::logic::mirror::handshake::{Plan, Side, decide};
use twinblock::wire::message::{Continuity, Descriptor, PROTOCOL_VERSION};

/// How two nodes go on.
pub struct Met {
    pub source: usize,
    /// The block is copied.
    pub copies: bool,
}

/// What two nodes do when they meet; `None` when nothing moves.
pub fn meet(variant: &Variant, s: &State) -> Option<Met> {
    let [ours, theirs] = [0, 1].map(|node| descriptor(variant, s, node));
    let Plan::Sync(sync) = decide(&ours, &theirs).plan else { return None };
    if sync.demote {
        return None;
    }
    let mut source = if sync.source == Side::Ours { 0 } else { 1 };
    if variant.arbiter_decides && s.members != 3 {
        source = if s.members == 1 { 0 } else { 1 };
        if s.nodes[source].inconsistent || s.nodes[1 - source].role == PRIMARY {
            return None;
        }
    }
    let intents = !sync.skip_intents && s.nodes.iter().any(|node| node.intent);
    let copies = match sync.kind {
        None => s.nodes[1 - source].inconsistent,
        Some(ResyncKind::Compare | ResyncKind::Full) => true,
        Some(ResyncKind::Differential) => intents || s.nodes[1 - source].inconsistent || ours.marked || theirs.marked,
    };
    Some(Met { source, copies })
}

fn generation(number: u8) -> Generation {
    Generation { epoch: number as u64, nonce: 100 + number as u64 }
}

/// A model node as it would describe itself.
fn descriptor(variant: &Variant, s: &State, index: usize) -> Descriptor {
    let (node, peer) = (&s.nodes[index], &s.nodes[1 - index]);
    let current = generation(node.generation);
    let history: Vec<Generation> = (1..node.generation).rev().map(generation).collect();
    let bases = if node.generation > peer.generation { vec![generation(peer.generation)] } else { Vec::new() };
    let nobody_remembers = s.nodes.iter().all(|node| !node.same_process);
    let compare = variant.intent == Intent::None && variant.compare_without_memory && nobody_remembers;
    // The write under way is known to the primary alone, until it was sent.
    let marks = node.dirty || node.unstable() || s.write != 0;
    let dropped = !variant.union_always && node.generation == peer.generation;
    let continuity = match (node.same_process, node.same_boot) {
        _ if !variant.survivor_rule => Continuity::SameProcess,
        (true, _) => Continuity::SameProcess,
        (false, true) if variant.boot_rank => Continuity::SameBoot,
        _ => Continuity::Rebooted,
    };
    let serving = node.role == PRIMARY && s.primary as usize == index;
    Descriptor {
        protocol: PROTOCOL_VERSION,
        features: 0,
        node: NodeId(index as u8),
        volume: Uuid(1),
        device: Uuid(10 + index as u128),
        role: if serving { Role::Primary } else { Role::Secondary },
        disk: if node.inconsistent { DiskState::Inconsistent } else { DiskState::UpToDate },
        mode: Mode::Sync,
        capacity_bytes: 4096,
        committed_bytes: 4096,
        lineage: Lineage { current, bases, history },
        primary_epoch: Epoch((s.primary as usize == index) as u64),
        seen_epoch: Epoch(s.epoch as u64),
        cache_epoch: 0,
        continuity,
        marked: marks && !dropped,
        marked_bytes: 0,
        intents_marked: node.intent && variant.intent != Intent::None && !dropped,
        maps_readable: !compare,
        // The variant that is exact without gating is the one that lies about it.
        gated_since_join: variant.exact || variant.gate == Gate::Receipt,
        exact: variant.exact,
        unfinished: None,
        discard: false,
        requested: None,
        incarnation: Incarnation(0),
        boot: BootId(0),
    }
}
