//! A linearizable register that may be slow, away, or silent after it has done what it was asked.

use twinblock::base::arbiter::{ArbiterError, ArbiterErrorKind, CasOutcome, ReadOutcome, Revision, Versioned};
use twinblock::logic::failover::interface::ArbiterCall;

#[derive(Clone, Debug, Default)]
pub struct Arbiter {
    pub standing: Option<Versioned>,
    pub revision: u64,
    /// Out of reach, per node.
    pub away: [bool; 2],
    /// Answers get lost.
    pub ambiguous: bool,
    pub slow: bool,
}

/// What a call yielded.
#[derive(Clone, Debug)]
pub enum Answer {
    Read(ReadOutcome),
    Cas(CasOutcome),
}

impl Arbiter {
    /// Carries the call out, at the moment it arrives.
    pub fn carry_out(&mut self, call: ArbiterCall) -> Answer {
        match call {
            ArbiterCall::Read => Answer::Read(self.standing.map_or(ReadOutcome::Absent, ReadOutcome::Found)),
            ArbiterCall::Cas { expected, new } => {
                assert_eq!(new.fault(), None, "a record that may not be stored");
                if expected != self.standing {
                    return Answer::Cas(CasOutcome::Lost(self.standing));
                }
                self.revision += 1;
                self.standing = Some(Versioned { record: new, revision: Revision(self.revision) });
                Answer::Cas(CasOutcome::Won(Revision(self.revision)))
            }
        }
    }

    /// What the caller hears when no answer comes, or none can come.
    pub fn silence(call: ArbiterCall, asked: bool) -> Answer {
        let kind = if asked { ArbiterErrorKind::TimedOut } else { ArbiterErrorKind::Unreachable };
        let error = ArbiterError::new(kind, "simulated");
        match call {
            ArbiterCall::Read => Answer::Read(ReadOutcome::Failed(error)),
            ArbiterCall::Cas { .. } if asked => Answer::Cas(CasOutcome::Unknown(error)),
            ArbiterCall::Cas { .. } => Answer::Cas(CasOutcome::Refused(error)),
        }
    }
}
