//! What an operator may ask of a group, and which step of its plan may go wrong, by chance.

use crate::random::Random;
use twinblock::base::group::StepVerb;
use twinblock::logic::failover::interface::Verb;

/// An operator's verb.
pub fn verb(random: &mut Random) -> Verb {
    let verbs = [
        Verb::Move { to: None },
        Verb::Move { to: None },
        Verb::Fallback,
        Verb::Recover,
        Verb::Start { force: false },
        Verb::StopGroup,
        Verb::Deactivate,
        Verb::Activate,
        Verb::Enable,
        Verb::Disable,
    ];
    *random.pick(&verbs)
}

/// A step of one of three resources.
pub fn step(random: &mut Random) -> (usize, StepVerb) {
    let index = random.below(3) as usize;
    (index, if random.chance(0.5) { StepVerb::Start } else { StepVerb::Stop })
}
