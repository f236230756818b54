//! Switches that break one rule each, so that the tests can prove they would notice.
//! Without feature `mutants` there is only the sound core, and every question below is a constant `false`.

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// The permit is counted from the receipt of the promise instead of from the heartbeat it answers.
    PermitFromReceipt,
    /// The permit is as long as the promise: no room for clocks that differ.
    PermitWithoutMargin,
    /// A standby takes over although its promise has not ended.
    PromiseNotKept,
    /// A node that has just started contests at once, although it may have forgotten a promise.
    NoBootWait,
    /// A node with an open contest promises.
    PromiseInContest,
    /// A node with an open contest agrees to be outdated, and does not look again before it serves.
    OutdatedInContest,
    /// An owner alone returns to permits only after the record names its peer as in sync again.
    LatePermits,
    /// Going on alone does not wait for the other to be excluded.
    SoloUnexcluded,
    /// The door excludes the other before received writes are drained and flushed.
    ExcludeUndrained,
    /// An ambiguous answer of the arbiter counts as won.
    AmbiguousIsWon,
    /// An ambiguous answer of the arbiter counts as lost.
    AmbiguousIsLost,
    /// An unconfirmed fencing counts as confirmed.
    UnconfirmedFence,
    /// A record in which this node is not in sync may be taken over.
    NotInSync,
    /// A peer with a higher epoch is not obeyed.
    HigherEpochIgnored,
    /// A record of a lower epoch than one seen before is believed.
    RecordWentBack,
    /// A group whose stop failed is handed over all the same.
    FailedStopIgnored,
    /// Who handed the group over takes it back when it hears nothing.
    HandoverTakenBack,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 17] = [
        Mutation::PermitFromReceipt,
        Mutation::PermitWithoutMargin,
        Mutation::PromiseNotKept,
        Mutation::NoBootWait,
        Mutation::PromiseInContest,
        Mutation::OutdatedInContest,
        Mutation::LatePermits,
        Mutation::SoloUnexcluded,
        Mutation::ExcludeUndrained,
        Mutation::AmbiguousIsWon,
        Mutation::AmbiguousIsLost,
        Mutation::UnconfirmedFence,
        Mutation::NotInSync,
        Mutation::HigherEpochIgnored,
        Mutation::RecordWentBack,
        Mutation::FailedStopIgnored,
        Mutation::HandoverTakenBack,
    ];
}

/// The rules a core goes by.
pub type Rules = crate::base::rules::Rules<Mutation>;
