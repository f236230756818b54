//! Switches that break one safety rule each, so that the simulator can prove it would notice.
//! Without feature `mutants` there is only the sound core, and every question below is a constant `false`.

/// One broken rule. The names are those of the design's rules, with a letter where a rule has several places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// A write leaves before its region's intent is durable.
    R1,
    /// Intents are cleared as soon as their writes are complete, flushed or not.
    R2a,
    /// A resync never flushes the source's disk, neither before its target gives up its copy nor at its end. (Without the
    /// second alone nothing is lost: what is written after the first, intents cover until a flush cycle.)
    R2b,
    /// A primary goes on alone without flushing first.
    R3a,
    /// A resync target joins without flushing first.
    R3b,
    /// A secondary takes over without flushing first.
    R3c,
    /// A resync's source lets the target give up its copy without having flushed its own.
    R3d,
    /// A primary acknowledges alone before its new generation is durable.
    R4,
    /// A primary that lost a session after the peer adopted its generation goes on with the same one.
    R5,
    /// On equal generations the last primary is the source, whoever kept its memory.
    R6,
    /// The target's marks are not united with the source's.
    R7,
    /// Reads do not wait for writes under way.
    R8,
    /// A takeover after a reboot is not declared to the clients.
    R9,
    /// A block counts as stable once the peer has written it, flushed or not.
    R10,
    /// Exact recovery is done although writes were not gated by receipts.
    R11,
    /// Unreadable maps count as empty ones.
    R12,
    /// Frames in flight may overlap.
    R13,
    /// A buffer is given back when the local disk has it, although the peer's leg is still to be sent.
    R14,
    /// A copy that is given up is overwritten before what only it has is archived.
    E8,
}

impl Mutation {
    /// All of them, for tests that go through the list.
    pub const ALL: [Mutation; 19] = [
        Mutation::R1,
        Mutation::R2a,
        Mutation::R2b,
        Mutation::R3a,
        Mutation::R3b,
        Mutation::R3c,
        Mutation::R3d,
        Mutation::R4,
        Mutation::R5,
        Mutation::R6,
        Mutation::R7,
        Mutation::R8,
        Mutation::R9,
        Mutation::R10,
        Mutation::R11,
        Mutation::R12,
        Mutation::R13,
        Mutation::R14,
        Mutation::E8,
    ];
}

/// The rules a core goes by.
pub type Rules = crate::base::rules::Rules<Mutation>;
