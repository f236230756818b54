//! What is known of the arbiter's record, and the one change of it that may be under way.
//!
//! ```text
//! Reading ──found──► Proposing ──won──────────────► done
//!    ▲  ▲               │ lost: judge what stands there, propose again or give up
//!    │  └───refused─────┤
//!    └──open / read─ Settling ◄──unknown
//! ```
//! From the first proposal until its fate is known the contest **binds**: the node neither promises, nor agrees to be
//! outdated, nor drops the contest. An ambiguous answer is settled by reading, and by proposing the very same once more while
//! nothing has changed: only a change of the register ends a proposal that may still be on its way.

use super::interface::ArbiterCall;
use super::mutation::{Mutation, Rules};
use crate::base::arbiter::{
    ArbiterError, ArbiterErrorKind, CasOutcome, InSync, ReadOutcome, Record, Revision, Settled, Versioned, settle,
};
use crate::base::generation::Generation;
use crate::base::ids::{Epoch, NodeId};
use crate::base::limits::ARBITER_FRESH;
use crate::base::time::Moment;
use std::time::Duration;

/// What a change of the record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The owner goes on alone: only it is in sync.
    Narrow,
    /// The owner's peer is in sync again.
    Widen,
    /// The owner lost its disk: only the peer is in sync.
    PeerOnly,
    /// A standby takes over from a lost owner.
    Takeover,
    /// Both stand by and agree: this one becomes owner. Holds who is in sync.
    Claim(InSync),
    /// The owner gives the group to its peer.
    Handover,
    /// An operator insists.
    Force,
}

/// Why a proposal can't be made, or was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The record names another owner.
    OtherOwner,
    /// The record does not name this node as in sync.
    NotInSync,
    /// There is no record.
    NoRecord,
    /// The record is older than one seen before.
    WentBack,
}

/// How a contest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The record is as proposed.
    Won(Purpose, Record),
    /// It can't be had.
    Denied(Purpose, Denied),
}

/// What a proposal holds besides what the record says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints {
    /// Generation of this node's data.
    pub generation: Generation,
    /// Cache epoch of this node, or the one it declares.
    pub cache_epoch: u64,
    /// Highest epoch this node has seen anywhere.
    pub epoch: Epoch,
    /// The peer's epoch when it last said that it stands by.
    pub peer_epoch: Epoch,
    /// The peer was kept out of the record, and holds everything now that nothing is acknowledged any more.
    pub drained: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reading,
    Proposing,
    Settling,
}

#[derive(Clone, Copy, Debug)]
struct Contest {
    purpose: Purpose,
    stage: Stage,
    proposal: Option<(Option<Versioned>, Record)>,
    /// An answer is missing: the proposal may stand there, or come to stand there.
    ambiguous: bool,
    retry_at: Moment,
}

/// What is known of the record.
#[derive(Clone, Debug)]
pub struct Register {
    node: NodeId,
    rules: Rules,
    retry: Duration,
    interval: Duration,
    /// What stood there at the last look, and when that was. The inner `None`: nothing did.
    known: Option<(Option<Versioned>, Moment)>,
    /// Highest epoch seen there, over all lives of this node.
    floor: Epoch,
    /// The last answer was no good one.
    trouble: Option<ArbiterError>,
    contest: Option<Contest>,
    /// The call in flight.
    call: Option<u64>,
    next_look: Moment,
    /// When the last answer that was no good one came.
    tried: Moment,
}

impl Register {
    /// Goes by other times from here on.
    pub fn set_times(&mut self, now: Moment, retry: Duration, interval: Duration) {
        (self.retry, self.interval) = (retry, interval);
        self.next_look = self.next_look.min(now + interval);
    }

    /// Nothing known but the highest epoch of earlier lives.
    pub fn new(node: NodeId, floor: Epoch, retry: Duration, interval: Duration, now: Moment, rules: Rules) -> Register {
        Register {
            node,
            rules,
            retry,
            interval,
            known: None,
            floor,
            trouble: None,
            contest: None,
            call: None,
            next_look: now,
            tried: now,
        }
    }

    /// Wants this change. Another one under way goes on if it binds; otherwise this one takes its place.
    pub fn want(&mut self, purpose: Purpose, now: Moment) {
        match &mut self.contest {
            Some(contest) if contest.purpose == purpose || contest.binds(self.call) => {}
            _ => {
                // An old view is refreshed first: a proposal binds, and none is made to an arbiter that does not answer.
                let fresh = self.trouble.is_none()
                    && self.known.is_some_and(|(found, at)| found.is_some() && now.since(at) < ARBITER_FRESH);
                let stage = if fresh { Stage::Proposing } else { Stage::Reading };
                self.contest = Some(Contest { purpose, stage, proposal: None, ambiguous: false, retry_at: now });
            }
        }
    }

    /// Wants no change for this purpose any more. One that binds goes on to its end.
    pub fn drop_unless_bound(&mut self, matching: impl Fn(Purpose) -> bool) {
        let call = self.call;
        if self.contest.is_some_and(|contest| matching(contest.purpose) && !contest.binds(call)) {
            self.contest = None;
        }
    }

    /// Whether a proposal may stand or come to stand in the record.
    pub fn binds(&self) -> bool {
        self.contest.is_some_and(|contest| contest.binds(self.call))
    }

    /// What is wanted.
    pub fn wants(&self) -> Option<Purpose> {
        self.contest.map(|contest| contest.purpose)
    }

    /// The record as last seen, if anything is known.
    pub fn record(&self) -> Option<Record> {
        self.known.and_then(|(found, _)| found).map(|found| found.record)
    }

    /// The record and where it stands, as last seen.
    pub fn standing(&self) -> Option<Versioned> {
        self.known.and_then(|(found, _)| found)
    }

    /// The same knowledge in the hands of another node, with nothing under way.
    pub fn belongs_to(&mut self, node: NodeId) {
        self.node = node;
        self.contest = None;
        self.call = None;
    }

    /// This node is owner no more, or becomes it by another's word: what it knew of the record may be long past.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// Whether it is certain that the record names this node as owner and as the only one in sync: nobody else can change it.
    pub fn is_ours_alone(&self) -> bool {
        let alone = |record: Record| record.primary == self.node && record.insync == InSync::only(self.node);
        !self.binds() && self.record().is_some_and(alone)
    }

    /// Whether the record was looked at and there is none.
    pub fn is_empty(&self) -> bool {
        matches!(self.known, Some((None, _)))
    }

    /// What is wrong with the arbiter.
    pub fn trouble(&self) -> Option<&ArbiterError> {
        self.trouble.as_ref()
    }

    /// Whether what stands there is older than what was seen before.
    pub fn went_back(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.kind == ArbiterErrorKind::WentBack)
    }

    /// Highest epoch seen there.
    pub fn floor(&self) -> Epoch {
        self.floor
    }

    /// A look is wanted soon: something happens.
    pub fn look_soon(&mut self, now: Moment) {
        let known_at = self.known.map_or(Moment(0), |(_, at)| at);
        let tried_at = if self.trouble.is_some() { self.tried } else { known_at };
        self.next_look = self.next_look.min((tried_at + ARBITER_FRESH).max(now));
    }

    /// The next call, if one is due and none is in flight.
    pub fn next_call(
        &mut self,
        now: Moment,
        id: u64,
        hints: Hints,
        nonce: u64,
    ) -> Option<Result<ArbiterCall, Verdict>> {
        if self.call.is_some() {
            return None;
        }
        let Some(contest) = self.contest.as_mut().filter(|contest| now >= contest.retry_at) else {
            if self.contest.is_some() || now < self.next_look {
                return None;
            }
            self.next_look = now + self.interval;
            self.call = Some(id);
            return Some(Ok(ArbiterCall::Read));
        };
        match contest.stage {
            Stage::Reading | Stage::Settling => {
                self.call = Some(id);
                Some(Ok(ArbiterCall::Read))
            }
            Stage::Proposing => {
                let found = self.known.and_then(|(found, _)| found);
                let (expected, new) = match contest.proposal {
                    Some(proposal) => proposal,
                    None => match propose(contest.purpose, self.node, found.as_ref(), hints, nonce, self.rules) {
                        Ok(new) => (found, new),
                        Err(denied) => {
                            let purpose = contest.purpose;
                            self.contest = None;
                            return Some(Err(Verdict::Denied(purpose, denied)));
                        }
                    },
                };
                contest.proposal = Some((expected, new));
                self.call = Some(id);
                Some(Ok(ArbiterCall::Cas { expected, new }))
            }
        }
    }

    /// The answer to a read.
    pub fn read(&mut self, now: Moment, id: u64, outcome: ReadOutcome) -> Option<Verdict> {
        if self.call != Some(id) {
            return None;
        }
        self.call = None;
        let found = match outcome {
            ReadOutcome::Found(found) => Some(found),
            ReadOutcome::Absent => None,
            ReadOutcome::Failed(error) => {
                self.troubled(now, error);
                return self.if_went_back();
            }
        };
        let Some(contest) = self.contest.filter(|contest| contest.stage == Stage::Settling) else {
            if !self.saw(now, found) {
                return self.if_went_back();
            }
            if let Some(contest) = &mut self.contest {
                contest.stage = Stage::Proposing;
                contest.proposal = None;
            }
            return None;
        };
        let (expected, new) = contest.proposal.expect("what is settled was proposed");
        match settle(expected.as_ref(), &new, found.as_ref()) {
            Settled::Won(revision) => self.won(now, revision),
            Settled::Lost(found) => self.lost(now, found),
            Settled::Open => {
                if let Some(contest) = &mut self.contest {
                    contest.stage = Stage::Proposing;
                }
                None
            }
        }
    }

    /// The answer to a compare-and-set.
    pub fn answered(&mut self, now: Moment, id: u64, outcome: CasOutcome) -> Option<Verdict> {
        if self.call != Some(id) {
            return None;
        }
        self.call = None;
        let contest = self.contest.as_mut().expect("a proposal is part of a contest");
        let (_, new) = contest.proposal.expect("it was proposed");
        match outcome {
            CasOutcome::Won(revision) => self.won(now, revision),
            CasOutcome::Lost(Some(found)) if found.record == new => self.won(now, found.revision),
            CasOutcome::Lost(found) => self.lost(now, found),
            CasOutcome::Refused(error) => {
                // Nothing came of this try; of an earlier one perhaps.
                contest.stage = if contest.ambiguous { Stage::Settling } else { Stage::Reading };
                self.troubled(now, error);
                self.if_went_back()
            }
            CasOutcome::Unknown(_) if self.rules.broken(Mutation::AmbiguousIsWon) => self.won(now, Revision(0)),
            CasOutcome::Unknown(error) => {
                if self.rules.broken(Mutation::AmbiguousIsLost) {
                    self.contest = None;
                } else {
                    contest.ambiguous = true;
                    contest.stage = Stage::Settling;
                }
                self.troubled(now, error);
                None
            }
        }
    }

    fn won(&mut self, now: Moment, revision: Revision) -> Option<Verdict> {
        let contest = self.contest.take().expect("a contest is won");
        let (_, record) = contest.proposal.expect("with a proposal");
        self.saw(now, Some(Versioned { record, revision }));
        Some(Verdict::Won(contest.purpose, record))
    }

    /// The proposal will never stand there, or stands no more: what stands there decides whether another is made.
    fn lost(&mut self, now: Moment, found: Option<Versioned>) -> Option<Verdict> {
        if let Some(contest) = &mut self.contest {
            contest.ambiguous = false;
            contest.proposal = None;
            contest.stage = Stage::Proposing;
        }
        if self.saw(now, found) { None } else { self.if_went_back() }
    }

    /// Takes note of what stands there; says no when that is older than what was seen before.
    fn saw(&mut self, now: Moment, found: Option<Versioned>) -> bool {
        let epoch = found.map_or(Epoch(0), |found| found.record.epoch);
        let forced = self.wants() == Some(Purpose::Force);
        if epoch < self.floor && !forced && !self.rules.broken(Mutation::RecordWentBack) {
            let detail =
                format!("the record is of epoch {}, and one of epoch {} was seen before", epoch.0, self.floor.0);
            self.trouble = Some(ArbiterError { found, ..ArbiterError::new(ArbiterErrorKind::WentBack, detail) });
            self.known = None;
            return false;
        }
        self.floor = self.floor.max(epoch);
        self.known = Some((found, now));
        self.trouble = None;
        true
    }

    fn troubled(&mut self, now: Moment, error: ArbiterError) {
        if error.kind == ArbiterErrorKind::WentBack && self.wants() == Some(Purpose::Force) {
            self.known = Some((error.found, now));
            if let Some(contest) = &mut self.contest {
                contest.stage = Stage::Proposing;
            }
        }
        self.trouble = Some(error);
        self.tried = now;
        if let Some(contest) = &mut self.contest {
            contest.retry_at = now + self.retry;
        }
    }

    /// A contest for a record that went back is over, unless an operator insists or its own fate is open.
    fn if_went_back(&mut self) -> Option<Verdict> {
        let contest = self.contest?;
        let over = self.went_back() && !contest.ambiguous && contest.purpose != Purpose::Force;
        over.then(|| {
            self.contest = None;
            Verdict::Denied(contest.purpose, Denied::WentBack)
        })
    }

    /// When a call will be due.
    pub fn deadline(&self) -> Option<Moment> {
        match (self.call, self.contest) {
            (Some(_), _) => None,
            (None, Some(contest)) => Some(contest.retry_at),
            (None, None) => Some(self.next_look),
        }
    }
}

impl Contest {
    fn binds(&self, call: Option<u64>) -> bool {
        self.ambiguous || self.stage == Stage::Proposing && call.is_some()
    }
}

/// The record that this purpose wants in place of `found`, or why it can't be wanted.
pub fn propose(
    purpose: Purpose,
    me: NodeId,
    found: Option<&Versioned>,
    hints: Hints,
    nonce: u64,
    rules: Rules,
) -> Result<Record, Denied> {
    let old = found.map(|found| found.record);
    let risen = Epoch(old.map_or(Epoch(0), |old| old.epoch).max(hints.epoch).0 + 1);
    let cache_epoch = hints.cache_epoch.max(old.map_or(0, |old| old.cache_epoch));
    let record =
        |epoch, primary, insync| Record { epoch, primary, insync, gen_hint: hints.generation, cache_epoch, nonce };
    let owned = |old: Option<Record>| match old {
        None => Err(Denied::NoRecord),
        Some(old) if old.primary != me => Err(Denied::OtherOwner),
        Some(old) => Ok(old),
    };
    match purpose {
        Purpose::Narrow => match owned(old) {
            // The first record of a group whose peer was never there.
            Err(Denied::NoRecord) => Ok(record(risen, me, InSync::only(me))),
            other => other.map(|_| record(risen, me, InSync::only(me))),
        },
        Purpose::Widen => owned(old).map(|old| record(old.epoch.max(hints.epoch), me, InSync::BOTH)),
        Purpose::PeerOnly => owned(old).map(|old| record(old.epoch.max(hints.epoch), me, InSync::only(me.peer()))),
        Purpose::Handover => match owned(old)? {
            _ if hints.drained => Ok(record(risen, me.peer(), InSync::only(me.peer()))),
            old if !old.insync.contains(me.peer()) => Err(Denied::NotInSync),
            old => Ok(record(risen, me.peer(), old.insync)),
        },
        Purpose::Takeover => match old {
            None => Err(Denied::NoRecord),
            Some(old) if !old.insync.contains(me) && !rules.broken(Mutation::NotInSync) => Err(Denied::NotInSync),
            Some(_) => Ok(record(risen, me, InSync::only(me))),
        },
        // The peer won meanwhile, and does not stand by any more.
        Purpose::Claim(_) if old.is_some_and(|old| old.primary != me && old.epoch > hints.peer_epoch) => {
            Err(Denied::OtherOwner)
        }
        Purpose::Claim(insync) => Ok(record(risen, me, insync)),
        Purpose::Force => Ok(record(risen, me, InSync::only(me))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(0);
    const B: NodeId = NodeId(1);
    const RETRY: Duration = Duration::from_millis(200);

    fn versioned(epoch: u64, primary: NodeId, insync: InSync, revision: u64) -> Versioned {
        let record = Record {
            epoch: Epoch(epoch),
            primary,
            insync,
            gen_hint: Generation::NONE,
            cache_epoch: 0,
            nonce: revision,
        };
        Versioned { record, revision: Revision(revision) }
    }

    fn register(node: NodeId, floor: u64) -> Register {
        Register::new(node, Epoch(floor), RETRY, Duration::from_secs(10), Moment(0), Rules::default())
    }

    fn call(register: &mut Register, now: u64, id: u64) -> ArbiterCall {
        register.next_call(Moment(now), id, Hints::default(), 1000 + id).expect("a call is due").expect("not denied")
    }

    fn error() -> ArbiterError {
        ArbiterError::new(ArbiterErrorKind::TimedOut, "test")
    }

    /// B reads and proposes to take over; gives back what it proposed.
    fn proposed(register: &mut Register, found: Versioned) -> Record {
        register.want(Purpose::Takeover, Moment(0));
        assert_eq!(call(register, 0, 1), ArbiterCall::Read);
        assert!(!register.binds(), "a read binds nobody");
        assert_eq!(register.read(Moment(1), 1, ReadOutcome::Found(found)), None);
        let ArbiterCall::Cas { expected, new } = call(register, 1, 2) else { panic!() };
        assert_eq!(expected, Some(found));
        assert!(register.binds());
        new
    }

    #[test]
    fn a_takeover_needs_to_be_in_sync() {
        let mut register = register(B, 0);
        register.want(Purpose::Takeover, Moment(0));
        call(&mut register, 0, 1);
        register.read(Moment(1), 1, ReadOutcome::Found(versioned(4, A, InSync::only(A), 9)));
        let verdict = register.next_call(Moment(1), 2, Hints::default(), 5);
        assert_eq!(verdict, Some(Err(Verdict::Denied(Purpose::Takeover, Denied::NotInSync))));
        assert_eq!(register.wants(), None);
    }

    #[test]
    fn an_ambiguous_answer_binds_until_the_register_has_changed() {
        let mut register = register(B, 0);
        let found = versioned(4, A, InSync::BOTH, 9);
        let new = proposed(&mut register, found);
        assert_eq!((new.epoch, new.primary, new.insync), (Epoch(5), B, InSync::only(B)));
        assert_eq!(register.answered(Moment(2), 2, CasOutcome::Unknown(error())), None);
        register.drop_unless_bound(|_| true);
        assert!(register.binds());
        let later = RETRY.as_nanos() as u64 + 2;
        assert_eq!(call(&mut register, later, 3), ArbiterCall::Read);
        assert_eq!(register.read(Moment(later), 3, ReadOutcome::Found(found)), None, "it may still be on its way");
        assert!(register.binds());
        let again = call(&mut register, later, 4);
        assert_eq!(again, ArbiterCall::Cas { expected: Some(found), new }, "the very same, nonce included");
        // The first try arrived in the meantime.
        let standing = Versioned { record: new, revision: Revision(10) };
        let verdict = register.answered(Moment(later), 4, CasOutcome::Lost(Some(standing)));
        assert_eq!(verdict, Some(Verdict::Won(Purpose::Takeover, new)));
        assert!(!register.binds() && register.is_ours_alone());
    }

    #[test]
    fn a_refused_retry_does_not_settle_the_first_try() {
        let mut register = register(B, 0);
        let found = versioned(4, A, InSync::BOTH, 9);
        proposed(&mut register, found);
        register.answered(Moment(2), 2, CasOutcome::Unknown(error()));
        let later = RETRY.as_nanos() as u64 + 2;
        call(&mut register, later, 3);
        register.read(Moment(later), 3, ReadOutcome::Found(found));
        call(&mut register, later, 4);
        register.answered(Moment(later), 4, CasOutcome::Refused(error()));
        assert!(register.binds());
        // Then the owner is found to have changed the record: settled.
        call(&mut register, 3 * later, 5);
        register.read(Moment(3 * later), 5, ReadOutcome::Found(versioned(5, A, InSync::only(A), 10)));
        assert!(!register.binds());
        let verdict = register.next_call(Moment(3 * later), 6, Hints::default(), 5);
        assert_eq!(verdict, Some(Err(Verdict::Denied(Purpose::Takeover, Denied::NotInSync))));
    }

    #[test]
    fn a_record_that_went_back_is_not_believed() {
        let mut register = register(B, 7);
        register.want(Purpose::Takeover, Moment(0));
        call(&mut register, 0, 1);
        let old = versioned(4, B, InSync::only(B), 2);
        let verdict = register.read(Moment(1), 1, ReadOutcome::Found(old));
        assert_eq!(verdict, Some(Verdict::Denied(Purpose::Takeover, Denied::WentBack)));
        assert!(register.went_back() && register.record().is_none());
        register.want(Purpose::Force, Moment(2));
        call(&mut register, 2, 3);
        assert_eq!(register.read(Moment(3), 3, ReadOutcome::Found(old)), None);
        let hints = Hints { epoch: Epoch(7), ..Hints::default() };
        let Some(Ok(ArbiterCall::Cas { new, .. })) = register.next_call(Moment(3), 4, hints, 1) else { panic!() };
        assert_eq!(new.epoch, Epoch(8), "above everything seen");
    }

    #[test]
    fn only_the_owner_changes_who_is_in_sync() {
        let theirs = versioned(4, B, InSync::BOTH, 9);
        for purpose in [Purpose::Narrow, Purpose::Widen, Purpose::PeerOnly, Purpose::Handover] {
            let result = propose(purpose, A, Some(&theirs), Hints::default(), 1, Rules::default());
            assert_eq!(result, Err(Denied::OtherOwner), "{purpose:?}");
        }
        let ours = versioned(4, A, InSync::BOTH, 9);
        for purpose in [Purpose::Narrow, Purpose::Widen, Purpose::PeerOnly, Purpose::Handover, Purpose::Takeover] {
            let new = propose(purpose, A, Some(&ours), Hints::default(), 1, Rules::default()).unwrap();
            assert!(new.may_follow(&ours.record) && new.fault().is_none(), "{purpose:?}");
        }
    }
}
