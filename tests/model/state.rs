//! One state of the model: one block, two nodes, one write at a time, whose value is its number.

/// What is done next, for a counterexample: who, what, and the value it is about.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub node: u8,
    pub what: &'static str,
    pub value: u8,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.value {
            NO_VALUE => write!(f, "node {}: {}", self.node, self.what),
            value => write!(f, "node {}: {} {}", self.node, self.what, value),
        }
    }
}

/// A step that is about no value.
pub const NO_VALUE: u8 = u8::MAX;

/// What a node does in the cluster.
pub const SECONDARY: u8 = 0;
pub const PRIMARY: u8 = 1;
/// Claimed at the arbiter, metadata not yet persisted.
pub const CLAIMED: u8 = 2;

/// The session.
pub const DOWN: u8 = 0;
pub const IN_SYNC: u8 = 1;
pub const RESYNC: u8 = 2;

/// One node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Node {
    pub up: bool,
    /// What its disk holds durably, what a read sees, which values a power loss could leave (by bit), and which write is
    /// under way.
    pub durable: u8,
    pub visible: u8,
    pub cached: u8,
    pub submitted: u8,
    /// Metadata: durable and atomic.
    pub generation: u8,
    pub dirty: bool,
    pub intent: bool,
    pub inconsistent: bool,
    pub role: u8,
    /// Excluded its peer at the arbiter; metadata not yet persisted.
    pub excluded_peer: bool,
    /// Durably recorded that the peer is outdated.
    pub alone: bool,
    /// Same process, same boot, since both were in sync.
    pub same_process: bool,
    pub same_boot: bool,
    /// Newest write seen in the stream, and the peer's newest durable one, as far as known.
    pub newest: u8,
    pub peer_durable: u8,
}

/// The whole state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct State {
    pub nodes: [Node; 2],
    pub link: bool,
    pub session: u8,
    pub source: u8,
    pub resync_step: u8,
    /// The arbiter's record.
    pub primary: u8,
    pub members: u8,
    pub epoch: u8,
    /// The write under way, and how far it is.
    pub write: u8,
    pub sent: bool,
    pub received: bool,
    pub receipt: bool,
    pub written: bool,
    pub confirmed: bool,
    /// A write still held by a primary that was superseded.
    pub stale_write: u8,
    pub stale_receipt: bool,
    /// A received frame not yet submitted, and who has it.
    pub in_memory: u8,
    pub in_memory_at: u8,
    /// The client's flush: 1 under way, 2 done locally, 4 done at the peer.
    pub flush: u8,
    /// The primary's durable watermark on its way; 0 for none.
    pub watermark: u8,
    pub issued: u8,
    pub acknowledged: u8,
    pub flushed: u8,
    /// Nodes that still hold what was acknowledged in their cache or on their disk.
    pub fresh: u8,
    /// What is left of the budgets.
    pub power_crashes: u8,
    pub process_crashes: u8,
    pub link_cuts: u8,
    pub flushes: u8,
}

/// How many of what a search allows.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub writes: u8,
    pub power_crashes: u8,
    pub process_crashes: u8,
    pub link_cuts: u8,
    pub flushes: u8,
}

pub const fn bit(index: u8) -> u8 {
    1 << index
}

impl Node {
    /// Everything completed is durable.
    pub fn flush(&mut self) {
        self.durable = self.visible;
        self.cached = 0;
    }

    /// A write reached the disk's cache.
    pub fn apply(&mut self, value: u8) {
        self.visible = value;
        self.cached |= bit(value);
    }

    /// It remembers writes that the peer may not hold durably.
    pub fn unstable(&self) -> bool {
        self.up && self.same_process && self.newest > self.peer_durable
    }
}

impl State {
    /// Both nodes up and in sync, node 0 primary.
    pub fn initial(budget: Budget) -> State {
        let node = Node { up: true, same_process: true, same_boot: true, generation: 1, ..Node::default() };
        let mut nodes = [node; 2];
        nodes[0].role = PRIMARY;
        State {
            nodes,
            link: true,
            session: IN_SYNC,
            members: 3,
            epoch: 1,
            fresh: 3,
            power_crashes: budget.power_crashes,
            process_crashes: budget.process_crashes,
            link_cuts: budget.link_cuts,
            flushes: budget.flushes,
            ..State::default()
        }
    }

    /// Whether this node is the primary that clients reach.
    pub fn serves(&self, node: usize) -> bool {
        self.nodes[node].up && self.nodes[node].role == PRIMARY && self.primary as usize == node
    }

    /// The least value a client may see.
    pub fn floor(&self) -> u8 {
        if self.fresh != 0 { self.acknowledged.max(self.flushed) } else { self.flushed }
    }

    /// Forgets how far the write under way is.
    pub fn forget_write_progress(&mut self) {
        self.sent = false;
        self.received = false;
        self.receipt = false;
        self.written = false;
        self.confirmed = false;
    }

    /// What is wrong with this state, if anything.
    pub fn violation(&self, has_intents: bool) -> Option<String> {
        for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| self.serves(*index)) {
            if node.visible < self.floor() {
                return Some(format!(
                    "data lost: node {index} shows {}, but {} was promised",
                    node.visible,
                    self.floor()
                ));
            }
            if node.inconsistent {
                return Some(format!("node {index} serves although it is inconsistent"));
            }
        }
        let [a, b] = &self.nodes;
        let quiet =
            self.session == IN_SYNC && self.write == 0 && self.in_memory == 0 && a.submitted == 0 && b.submitted == 0;
        if !quiet {
            return None;
        }
        if a.visible != b.visible {
            return Some(format!("in sync, and the disks show {} and {}", a.visible, b.visible));
        }
        let marked = self.nodes.iter().any(|node| node.dirty || node.intent || node.unstable());
        let stable = a.durable == b.durable && a.cached == 0 && b.cached == 0;
        if !marked && has_intents && self.flush == 0 && !stable {
            return Some(format!("nothing marked, and the disks hold {} and {} durably", a.durable, b.durable));
        }
        None
    }
}
