//! What can happen next in a state: client, primary, secondary, faults, takeover, resync.

use super::meet;
use super::state::*;
use super::variant::{Gate, Intent, Variant};

/// The model of one variant.
pub struct Model {
    pub variant: Variant,
    pub budget: Budget,
}

/// The successors of a state.
pub type Successors = Vec<(Step, State)>;

fn step(out: &mut Successors, node: usize, what: &'static str, value: u8, next: State) {
    out.push((Step { node: node as u8, what, value }, next));
}

impl Model {
    /// Everything that can happen next.
    pub fn successors(&self, s: &State, out: &mut Successors) {
        self.faults(s, out);
        for node in 0..2 {
            self.client_writes(s, node, out);
            self.received_frames(s, node, out);
            self.superseded_primary(s, node, out);
            self.client_reads_and_flushes(s, node, out);
            self.intent_is_cleared(s, node, out);
            self.primary_goes_on_alone(s, node, out);
            self.takeover(s, node, out);
        }
        self.handshake(s, out);
        self.resync(s, out);
    }

    fn faults(&self, s: &State, out: &mut Successors) {
        for node in 0..2 {
            if s.nodes[node].up && s.power_crashes > 0 {
                self.crash(s, node, true, out);
            }
            if s.nodes[node].up && s.process_crashes > 0 {
                self.crash(s, node, false, out);
            }
            if !s.nodes[node].up {
                let mut t = *s;
                t.nodes[node].up = true;
                step(out, node, "starts", NO_VALUE, t);
            }
        }
        if s.link && s.link_cuts > 0 {
            let mut t = *s;
            t.link = false;
            t.link_cuts -= 1;
            self.session_ends(&mut t);
            step(out, 0, "link is cut", NO_VALUE, t);
        }
        if !s.link {
            step(out, 0, "link is back", NO_VALUE, State { link: true, ..*s });
        }
    }

    fn session_ends(&self, t: &mut State) {
        if self.variant.rebump && t.session != DOWN {
            for node in &mut t.nodes {
                node.alone = false;
                node.excluded_peer = false;
            }
        }
        t.session = DOWN;
        t.resync_step = 0;
        t.watermark = 0;
        if t.write != 0 {
            t.sent = false;
            t.received = false;
        }
    }

    /// A crash leaves on the disk any one of the values that may be there.
    fn crash(&self, s: &State, node: usize, power: bool, out: &mut Successors) {
        let n = s.nodes[node];
        let mut possible = vec![if power { n.durable } else { n.visible }];
        let cached = if power { n.cached } else { 0 };
        possible.extend((0..8).filter(|value| cached & bit(*value) != 0));
        possible.extend((n.submitted != 0).then_some(n.submitted));
        possible.sort_unstable();
        possible.dedup();
        for value in possible {
            let mut t = *s;
            let m = &mut t.nodes[node];
            *m = Node { up: false, role: SECONDARY, alone: false, excluded_peer: false, same_process: false, ..*m };
            (m.newest, m.peer_durable, m.submitted) = (0, 0, 0);
            if power {
                (m.durable, m.visible, m.cached, m.same_boot) = (value, value, 0, false);
                t.power_crashes -= 1;
                t.fresh &= !bit(node as u8);
            } else {
                if value != m.visible {
                    m.apply(value);
                }
                t.process_crashes -= 1;
            }
            self.session_ends(&mut t);
            if s.primary as usize == node {
                t.write = 0;
                t.forget_write_progress();
                t.flush = 0;
            } else {
                t.stale_write = 0;
                t.stale_receipt = false;
                t.written = false;
                if t.flush != 0 {
                    t.flush &= !4;
                }
            }
            if s.in_memory_at as usize == node {
                t.in_memory = 0;
            }
            let what = if power { "loses power, its disk shows" } else { "is killed, its disk shows" };
            step(out, node, what, value, t);
        }
    }

    fn client_writes(&self, s: &State, p: usize, out: &mut Successors) {
        let np = s.nodes[p];
        let may_issue =
            s.write == 0 && s.flush == 0 && s.issued < self.budget.writes && (s.session != DOWN || np.alone);
        if s.serves(p) && may_issue {
            let mut t = *s;
            t.issued += 1;
            t.write = t.issued;
            t.forget_write_progress();
            step(out, p, "client asks for write", t.issued, t);
        }
        if !s.serves(p) || s.write == 0 {
            return;
        }
        let intents = self.variant.intent;
        if intents != Intent::None && !np.intent {
            let mut t = *s;
            t.nodes[p].intent = true;
            step(out, p, "persists intent", NO_VALUE, t);
        }
        let marked = intents != Intent::Before || np.intent;
        self.replicate(s, p, marked, out);
        self.write_locally(s, p, marked, out);
        self.acknowledge(s, p, out);
    }

    fn replicate(&self, s: &State, p: usize, marked: bool, out: &mut Successors) {
        let (w, q, connected) = (s.write, 1 - p, s.session != DOWN);
        if !connected {
            return;
        }
        if marked && !s.sent && !s.receipt {
            let mut t = *s;
            t.sent = true;
            t.nodes[p].newest = w;
            step(out, p, "sends write", w, t);
        }
        if s.sent && !s.received {
            let mut t = *s;
            t.received = true;
            t.in_memory = w;
            t.in_memory_at = q as u8;
            t.nodes[q].newest = w;
            step(out, q, "receives write", w, t);
        }
        if s.received && !s.receipt {
            step(out, p, "gets the receipt of write", w, State { receipt: true, ..*s });
        }
        if s.written && !s.confirmed {
            step(out, p, "gets the confirmation of write", w, State { confirmed: true, ..*s });
        }
    }

    fn write_locally(&self, s: &State, p: usize, marked: bool, out: &mut Successors) {
        let (np, w) = (s.nodes[p], s.write);
        let alone = np.alone && s.session == DOWN;
        let gate_open = self.variant.gate == Gate::Parallel || s.receipt || alone;
        if alone && !np.dirty {
            let mut t = *s;
            t.nodes[p].dirty = true;
            step(out, p, "persists dirty mark", NO_VALUE, t);
        }
        if np.submitted == 0 && np.visible < w && gate_open && marked && (!alone || np.dirty) {
            let mut t = *s;
            t.nodes[p].submitted = w;
            step(out, p, "submits its own write", w, t);
        }
        if np.submitted == w {
            let mut t = *s;
            t.nodes[p].submitted = 0;
            t.nodes[p].apply(w);
            step(out, p, "has written", w, t);
        }
    }

    fn acknowledge(&self, s: &State, p: usize, out: &mut Successors) {
        let (np, w) = (s.nodes[p], s.write);
        if np.visible != w {
            return;
        }
        let mut t = *s;
        t.write = 0;
        t.acknowledged = w;
        if s.session != DOWN && s.confirmed {
            t.fresh = if s.session == RESYNC { bit(p as u8) } else { 3 };
            t.forget_write_progress();
            if !self.variant.durable_watermark {
                t.nodes[0].peer_durable = w;
                t.nodes[1].peer_durable = w;
            }
            step(out, p, "acknowledges replicated write", w, t);
        } else if s.session == DOWN && (!self.variant.exclude_before_ack || (np.alone && np.dirty)) {
            t.fresh = bit(p as u8);
            t.forget_write_progress();
            t.nodes[p].dirty |= !self.variant.exclude_before_ack;
            step(out, p, "acknowledges write alone", w, t);
        }
    }

    fn received_frames(&self, s: &State, p: usize, out: &mut Successors) {
        let np = s.nodes[p];
        if !np.up || np.role == PRIMARY {
            return;
        }
        if s.in_memory != 0 && s.in_memory_at as usize == p && np.submitted == 0 {
            let mut t = *s;
            t.nodes[p].submitted = s.in_memory;
            t.in_memory = 0;
            step(out, p, "submits received write", s.in_memory, t);
        }
        if np.submitted != 0 && s.stale_write != np.submitted {
            let value = np.submitted;
            let mut t = *s;
            t.nodes[p].submitted = 0;
            t.nodes[p].apply(value);
            t.written |= s.write == value && s.session != DOWN;
            step(out, p, "has applied received write", value, t);
        }
    }

    /// A primary that was superseded still holds a write nobody acknowledged.
    fn superseded_primary(&self, s: &State, p: usize, out: &mut Successors) {
        let (np, w) = (s.nodes[p], s.stale_write);
        if !np.up || np.role != PRIMARY || s.primary as usize == p || w == 0 {
            return;
        }
        let may = match self.variant.gate {
            Gate::Parallel => self.variant.intent != Intent::Before || np.intent,
            Gate::Receipt => s.stale_receipt,
        };
        if np.submitted == 0 && np.visible < w && may {
            let mut t = *s;
            t.nodes[p].submitted = w;
            step(out, p, "superseded, submits its own write", w, t);
        }
        if np.submitted == w {
            let mut t = *s;
            t.nodes[p].submitted = 0;
            t.nodes[p].apply(w);
            step(out, p, "superseded, has written", w, t);
        }
        if !self.variant.exclude_before_ack && np.visible == w {
            let mut t = *s;
            t.acknowledged = t.acknowledged.max(w);
            t.fresh |= bit(p as u8);
            t.stale_write = 0;
            step(out, p, "superseded, acknowledges write", w, t);
        }
    }

    fn client_reads_and_flushes(&self, s: &State, p: usize, out: &mut Successors) {
        let (q, np) = (1 - p, s.nodes[p]);
        if !s.serves(p) {
            self.watermark_arrives(s, p, out);
            return;
        }
        if !(self.variant.read_wait && s.write != 0) && np.visible > s.acknowledged.max(s.flushed) {
            let mut t = *s;
            t.acknowledged = np.visible;
            let peer_has_it = s.members & bit(q as u8) != 0 && s.nodes[q].up && s.nodes[q].same_process;
            t.fresh = bit(p as u8) | if peer_has_it { bit(q as u8) } else { 0 };
            step(out, p, "client reads", np.visible, t);
        }
        let may_flush = s.write == 0 && s.flush == 0 && s.flushes > 0 && (s.session != DOWN || np.alone);
        if may_flush && np.visible > s.flushed {
            step(out, p, "client asks for a flush", NO_VALUE, State { flush: 1, flushes: s.flushes - 1, ..*s });
        }
        if s.flush & 1 != 0 {
            self.flush_goes_on(s, p, out);
        }
        self.watermark_arrives(s, p, out);
    }

    fn flush_goes_on(&self, s: &State, p: usize, out: &mut Successors) {
        let (q, np) = (1 - p, s.nodes[p]);
        if s.flush & 2 == 0 {
            let mut t = *s;
            t.flush |= 2;
            t.nodes[p].flush();
            if s.session == IN_SYNC {
                t.watermark = np.visible;
            }
            step(out, p, "has flushed", NO_VALUE, t);
        }
        if s.flush & 4 == 0 && s.session == IN_SYNC && s.nodes[q].submitted == 0 && s.in_memory == 0 {
            let mut t = *s;
            t.flush |= 4;
            t.nodes[q].flush();
            t.nodes[p].peer_durable = t.nodes[p].newest;
            step(out, q, "has flushed and said so", NO_VALUE, t);
        }
        if s.flush & 2 != 0 && (s.flush & 4 != 0 || (s.session != IN_SYNC && np.alone)) {
            step(out, p, "answers the flush, covering", np.visible, State { flush: 0, flushed: np.visible, ..*s });
        }
    }

    fn watermark_arrives(&self, s: &State, p: usize, out: &mut Successors) {
        let q = 1 - p;
        if s.watermark != 0 && s.session == IN_SYNC && s.nodes[q].up && s.nodes[p].up && s.nodes[p].role == PRIMARY {
            let mut t = *s;
            t.nodes[q].peer_durable = t.nodes[q].peer_durable.max(s.watermark);
            t.watermark = 0;
            step(out, q, "learns that the primary holds durably", s.watermark, t);
        }
    }

    fn intent_is_cleared(&self, s: &State, p: usize, out: &mut Successors) {
        let (q, np) = (1 - p, s.nodes[p]);
        let idle = s.session == IN_SYNC && s.write == 0 && s.flush == 0;
        let durable = np.cached == 0 && np.peer_durable >= np.newest && s.nodes[q].cached == 0;
        if np.up && np.role == PRIMARY && np.intent && idle && (durable || !self.variant.clear_needs_flush) {
            let mut t = *s;
            t.nodes[p].intent = false;
            step(out, p, "clears its intent", NO_VALUE, t);
        }
    }

    fn primary_goes_on_alone(&self, s: &State, p: usize, out: &mut Successors) {
        let np = s.nodes[p];
        if !np.up || np.role != PRIMARY || s.session != DOWN || np.alone {
            return;
        }
        let mut t = *s;
        if s.primary as usize != p {
            if np.submitted == 0 {
                t.nodes[p].role = SECONDARY;
                t.stale_write = 0;
                t.stale_receipt = false;
                step(out, p, "is refused by the arbiter and demotes", NO_VALUE, t);
            }
        } else if !np.excluded_peer {
            if self.variant.degrade_flush {
                t.nodes[p].flush();
            }
            t.members = bit(p as u8);
            t.epoch += 1;
            t.nodes[p].excluded_peer = true;
            step(out, p, "flushes and excludes its peer", NO_VALUE, t);
        } else {
            let forgotten =
                np.intent && self.variant.intent != Intent::None && !(self.variant.exact && np.same_process);
            let n = &mut t.nodes[p];
            n.alone = true;
            n.excluded_peer = false;
            n.generation = s.epoch;
            n.dirty |= np.unstable() || s.write != 0 || forgotten;
            step(out, p, "persists generation and marks, goes on alone", NO_VALUE, t);
        }
    }

    fn takeover(&self, s: &State, p: usize, out: &mut Successors) {
        let (q, np) = (1 - p, s.nodes[p]);
        let holds_frame = s.in_memory != 0 && s.in_memory_at as usize == p;
        let drained = !self.variant.flush_before_claim || !self.variant.takeover_drain || !holds_frame;
        let entitled = s.members & bit(p as u8) != 0 && !np.inconsistent && s.stale_write == 0;
        if np.up && np.role == SECONDARY && s.session == DOWN && entitled && drained && np.submitted == 0 {
            let mut t = *s;
            t.primary = p as u8;
            t.members = bit(p as u8);
            t.epoch += 1;
            t.nodes[p].role = CLAIMED;
            if s.nodes[q].role == CLAIMED {
                t.nodes[q].role = SECONDARY;
            }
            if !self.variant.takeover_drain && holds_frame {
                t.in_memory = 0;
            }
            if self.variant.flush_before_claim && self.variant.takeover_flush {
                t.nodes[p].flush();
            }
            if s.primary as usize != p {
                t.stale_write = s.write;
                t.stale_receipt = s.receipt;
                t.write = 0;
                t.forget_write_progress();
                t.flush = 0;
                t.watermark = 0;
            }
            let lossy = if self.variant.read_wait { !np.same_boot } else { !np.same_process };
            if self.variant.declare_cache_loss && lossy {
                t.fresh = 0;
            }
            step(out, p, "flushes and claims the volume", NO_VALUE, t);
        }
        if np.up && np.role == CLAIMED && s.primary as usize == p && !holds_frame && np.submitted == 0 {
            let mut t = *s;
            let compare =
                self.variant.intent == Intent::None && !np.same_process && self.variant.compare_without_memory;
            let n = &mut t.nodes[p];
            if self.variant.takeover_flush {
                n.flush();
            }
            n.generation = s.epoch;
            n.dirty |= np.unstable() || (np.intent && !(self.variant.exact && np.same_process)) || compare;
            n.role = PRIMARY;
            n.alone = true;
            step(out, p, "persists generation and marks, serves", NO_VALUE, t);
        }
    }

    fn handshake(&self, s: &State, out: &mut Successors) {
        let busy = |(index, node): (usize, &Node)| {
            node.submitted != 0 && !(node.role == PRIMARY && s.primary as usize == index)
        };
        let possible = s.link
            && s.session == DOWN
            && s.nodes.iter().all(|node| node.up && node.role != CLAIMED)
            && s.in_memory == 0
            && s.stale_write == 0
            && !s.nodes.iter().enumerate().any(busy);
        // A superseded primary steps down first.
        let superseded = (0..2).any(|node| s.nodes[node].role == PRIMARY && s.primary as usize != node);
        if !possible || superseded {
            return;
        }
        let Some(met) = meet::meet(&self.variant, s) else { return };
        let (source, target) = (met.source, 1 - met.source);
        let mut t = *s;
        t.source = source as u8;
        t.forget_write_progress();
        t.session = RESYNC;
        if met.copies {
            if self.variant.source_flush {
                t.nodes[source].flush();
            }
            t.nodes[source].dirty = true;
            t.nodes[target].inconsistent = true;
            t.resync_step = 0;
            step(out, source, "is the source of a resync", NO_VALUE, t);
        } else if self.variant.finalize_when_equal {
            t.resync_step = 1;
            step(out, source, "has nothing to copy, finalizes", NO_VALUE, t);
        } else {
            t.nodes[target].generation = t.nodes[source].generation;
            t.nodes[source].dirty = false;
            t.nodes[target].dirty = false;
            t.nodes[target].intent = false;
            t.resync_step = 4;
            step(out, source, "has nothing to copy, joins at once", NO_VALUE, t);
        }
    }

    fn resync(&self, s: &State, out: &mut Successors) {
        let quiet = s.write == 0 && s.flush == 0 && s.in_memory == 0 && s.nodes.iter().all(|node| node.submitted == 0);
        if s.session != RESYNC || !quiet {
            return;
        }
        let source = s.source as usize;
        let target = 1 - source;
        let mut t = *s;
        match s.resync_step {
            0 => {
                let value = s.nodes[source].visible;
                if t.nodes[target].visible != value {
                    t.nodes[target].apply(value);
                }
                t.resync_step = 1;
                step(out, source, "copies", value, t);
            }
            1 => {
                if self.variant.resync_flush {
                    t.nodes.iter_mut().for_each(Node::flush);
                }
                t.resync_step = 2;
                step(out, source, "has both flushed", NO_VALUE, t);
            }
            2 => {
                let generation = s.nodes[source].generation;
                t.nodes[target] =
                    Node { inconsistent: false, generation, dirty: false, intent: false, ..s.nodes[target] };
                t.resync_step = 3;
                step(out, target, "adopts generation", generation, t);
            }
            3 => {
                t.nodes[source].dirty = false;
                t.resync_step = 4;
                step(out, source, "clears its marks", NO_VALUE, t);
            }
            _ => self.join(s, out),
        }
    }

    fn join(&self, s: &State, out: &mut Successors) {
        let source = s.source as usize;
        let target = 1 - source;
        let mut t = *s;
        if self.variant.join_flush && s.nodes[target].durable < s.flushed {
            t.resync_step = 1;
            return step(out, target, "must flush before it joins", NO_VALUE, t);
        }
        t.session = IN_SYNC;
        t.resync_step = 0;
        t.members = 3;
        for index in 0..2 {
            let peer_stable = s.nodes[1 - index].cached == 0 || !self.variant.durable_watermark;
            let n = &mut t.nodes[index];
            (n.same_process, n.same_boot, n.alone, n.excluded_peer) = (true, true, false, false);
            n.newest = n.visible;
            n.peer_durable = if peer_stable { n.visible } else { 0 };
        }
        if s.nodes[source].role == SECONDARY || s.primary as usize != source {
            t.nodes[source].role = PRIMARY;
            t.nodes[target].role = SECONDARY;
            t.primary = source as u8;
            t.epoch += 1;
        }
        if s.fresh & bit(source as u8) != 0 {
            t.fresh = 3;
        }
        step(out, source, "and its peer are in sync", NO_VALUE, t);
    }
}
