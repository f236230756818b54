//! The protocol and its mutilated variants: each switch takes one rule away.

/// When the local write is submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// At once.
    Parallel,
    /// When the peer has acknowledged receipt.
    Receipt,
}

/// When a write's intent becomes durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    /// Before the write is sent or submitted (R1).
    Before,
    /// Some time.
    Lazy,
    /// Never: there are no intents.
    None,
}

/// What one variant does.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub name: &'static str,
    pub gate: Gate,
    pub intent: Intent,
    /// The secondary flushes before it claims sole authority (R3).
    pub takeover_flush: bool,
    /// The primary flushes before it claims sole authority (R3).
    pub degrade_flush: bool,
    /// A takeover applies every received frame before it claims authority.
    pub takeover_drain: bool,
    /// The unstable set counts since the peer's last durable watermark (R10), not only what is unacknowledged.
    pub durable_watermark: bool,
    /// Intents are cleared only when durable on both (R2).
    pub clear_needs_flush: bool,
    /// A resync flushes both disks before marks are cleared (R2).
    pub resync_flush: bool,
    /// A resync's source flushes before its target gives up its own copy (R3).
    pub source_flush: bool,
    /// The target joins only once it is durable up to the last client-flushed write (R3).
    pub join_flush: bool,
    /// Reads wait for overlapping writes under way (R8).
    pub read_wait: bool,
    /// An acknowledgement alone comes after the peer is excluded (R4).
    pub exclude_before_ack: bool,
    /// If nobody kept memory, everything is compared (R12).
    pub compare_without_memory: bool,
    /// A session lost after the peer adopted the generation forces a new one (R5).
    pub rebump: bool,
    /// Intents are consulted only when nobody kept memory (R11 wants this gated).
    pub exact: bool,
    /// "Nothing to copy" runs the same finalize steps (D4).
    pub finalize_when_equal: bool,
    /// A takeover flushes before the arbiter's exchange, not after.
    pub flush_before_claim: bool,
    /// The arbiter's record decides the direction instead of the handshake.
    pub arbiter_decides: bool,
    /// The disk's cache outlives a process: same boot ranks above rebooted (R6).
    pub boot_rank: bool,
    /// On equal generations the node that kept its memory is the source (R6).
    pub survivor_rule: bool,
    /// A takeover by a node that lost its cache is declared to the clients (R9).
    pub declare_cache_loss: bool,
    /// Equal generations never drop marks (R7).
    pub union_always: bool,
    /// Whether it is expected to hold.
    pub holds: bool,
}

const P1: Variant = Variant {
    name: "P1 parallel, intents before send",
    gate: Gate::Parallel,
    intent: Intent::Before,
    takeover_flush: true,
    degrade_flush: true,
    takeover_drain: true,
    durable_watermark: true,
    clear_needs_flush: true,
    resync_flush: true,
    source_flush: true,
    join_flush: true,
    read_wait: true,
    exclude_before_ack: true,
    compare_without_memory: false,
    rebump: true,
    exact: false,
    finalize_when_equal: true,
    flush_before_claim: true,
    arbiter_decides: false,
    boot_rank: true,
    survivor_rule: true,
    declare_cache_loss: true,
    union_always: true,
    holds: true,
};

const R1: Variant = Variant {
    name: "R1 gated, no intents, compare if nobody kept memory",
    gate: Gate::Receipt,
    intent: Intent::None,
    compare_without_memory: true,
    ..P1
};

const X1: Variant = Variant { name: "X1 gated, intents, exact", gate: Gate::Receipt, exact: true, ..P1 };

const BROKEN_P: Variant = Variant { holds: false, ..P1 };
const BROKEN_R: Variant = Variant { holds: false, ..R1 };
const BROKEN_X: Variant = Variant { holds: false, ..X1 };

/// The variants that must hold in every state.
pub const SOUND: [Variant; 4] =
    [P1, R1, X1, Variant { name: "X15 the arbiter decides the direction, flush first", arbiter_decides: true, ..X1 }];

/// The variants in which the search must find a violation.
pub const BROKEN: [Variant; 25] = [
    Variant { name: "P2 reads do not wait", read_wait: false, ..BROKEN_P },
    Variant { name: "P3 intents set lazily", intent: Intent::Lazy, ..BROKEN_P },
    Variant {
        name: "P4 no intents, only a survivor's memory",
        intent: Intent::None,
        compare_without_memory: true,
        ..BROKEN_P
    },
    Variant { name: "P5 intents cleared at completion", clear_needs_flush: false, ..BROKEN_P },
    Variant { name: "P6 exact without gating", exact: true, ..BROKEN_P },
    Variant { name: "R2 no intents and no compare", compare_without_memory: false, ..BROKEN_R },
    Variant { name: "R3 window is what is unacknowledged", durable_watermark: false, ..BROKEN_R },
    Variant { name: "R4 reads do not wait, two faults", read_wait: false, ..BROKEN_R },
    Variant { name: "R5 takeover drops received frames", read_wait: false, takeover_drain: false, ..BROKEN_R },
    Variant { name: "X2 intents set lazily", intent: Intent::Lazy, ..BROKEN_X },
    Variant { name: "X3 intents cleared at completion", clear_needs_flush: false, ..BROKEN_X },
    Variant { name: "X4 window is what is unacknowledged", durable_watermark: false, ..BROKEN_X },
    Variant { name: "X5 nothing to copy clears marks at once", finalize_when_equal: false, ..BROKEN_X },
    Variant { name: "X6 no flush before takeover", takeover_flush: false, ..BROKEN_X },
    Variant { name: "X7 no flush before going on alone", degrade_flush: false, ..BROKEN_X },
    Variant { name: "X8 no flush before join", join_flush: false, ..BROKEN_X },
    Variant { name: "X9 resync clears marks without flush", resync_flush: false, ..BROKEN_X },
    Variant { name: "X10 acknowledged alone before the peer is excluded", exclude_before_ack: false, ..BROKEN_X },
    Variant { name: "X11 no survivor rule", survivor_rule: false, ..BROKEN_X },
    Variant { name: "X12 no boot rank", boot_rank: false, ..BROKEN_X },
    Variant { name: "X13 no new generation after a broken join", rebump: false, ..BROKEN_X },
    Variant {
        name: "X14 the arbiter decides, flush after",
        arbiter_decides: true,
        flush_before_claim: false,
        ..BROKEN_X
    },
    Variant { name: "X16 cache loss not declared", declare_cache_loss: false, ..BROKEN_X },
    Variant { name: "X18 no flush of the source before its target gives up", source_flush: false, ..BROKEN_X },
    Variant { name: "X17 equal generations drop marks", union_always: false, ..BROKEN_X },
];
