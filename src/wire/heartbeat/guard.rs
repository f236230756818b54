//! Tells what is old, without clocks in common.
//!
//! Within one life of the peer's daemon the sequence of each path tells a datagram that was heard before. A new life is
//! believed only when it echoes the challenge this node sends now, which no recording of an earlier life can: the
//! challenge is drawn at random when this node starts, and is another one as soon as a life was believed. So both sides
//! believe each other after one heartbeat in each direction:
//! ```text
//! A: challenge a, echo 0   ─▶   B: not proven, but a is heard
//! A: b is echoed; B lives  ◀─   B: challenge b, echo a
//! A: challenge a+1, echo b ─▶   B: A lives
//! ```

use super::{Envelope, Refusal};
use crate::base::ids::Incarnation;
use crate::base::limits::{HEARTBEAT_PATHS_MAX, HEARTBEAT_WINDOW};

/// What one node knows of the peer's lives, and what it tells of its own.
#[derive(Clone, Debug)]
pub struct Guard {
    /// What a new life of the peer has to echo.
    challenge: u64,
    /// The peer's challenge, from the last datagram of any life of it; 0 when none was heard.
    heard: u64,
    /// The life that is believed.
    life: Option<Incarnation>,
    windows: [Window; HEARTBEAT_PATHS_MAX],
    /// The last sequence sent on each path.
    sent: [u64; HEARTBEAT_PATHS_MAX],
}

/// Sequences heard on one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Window {
    /// The highest.
    highest: u64,
    /// Bit n: the one that is n below the highest was heard.
    heard: u128,
}

impl Guard {
    /// A guard that has heard nobody; `random` is drawn at each start.
    pub fn new(random: u64) -> Guard {
        Guard {
            // 0 says that none was heard.
            challenge: random.max(1),
            heard: 0,
            life: None,
            windows: Default::default(),
            sent: [0; HEARTBEAT_PATHS_MAX],
        }
    }

    /// Sequence, challenge and echo of the next datagram on a path.
    pub fn next(&mut self, path: usize) -> (u64, u64, u64) {
        self.sent[path] += 1;
        (self.sent[path], self.challenge, self.heard)
    }

    /// Judges an authentic datagram of the peer.
    pub fn admit(&mut self, envelope: &Envelope) -> Result<(), Refusal> {
        if self.life != Some(envelope.incarnation) {
            // Whoever it is: a peer that was started anew has to hear its challenge back.
            self.heard = envelope.challenge;
            if envelope.echo != self.challenge {
                return Err(Refusal::Unproven);
            }
            self.challenge = self.challenge.wrapping_add(1).max(1);
            self.life = Some(envelope.incarnation);
            self.windows = Default::default();
        }
        if !self.windows[usize::from(envelope.path)].take(envelope.sequence) {
            return Err(Refusal::Replayed);
        }
        self.heard = envelope.challenge;
        Ok(())
    }
}

impl Window {
    /// Whether a sequence is new; then it is noted.
    fn take(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let step = sequence - self.highest;
            self.heard = if step < HEARTBEAT_WINDOW { self.heard << step | 1 } else { 1 };
            self.highest = sequence;
            return true;
        }
        let behind = self.highest - sequence;
        let bit = if behind < HEARTBEAT_WINDOW { 1 << behind } else { return false };
        let new = self.heard & bit == 0 && sequence != 0;
        self.heard |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::NodeId;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn datagram(guard: &mut Guard, life: u64, path: u8) -> Envelope {
        let (sequence, challenge, echo) = guard.next(usize::from(path));
        let incarnation = Incarnation(life);
        Envelope { group: "web".into(), node: NodeId(0), path, incarnation, sequence, challenge, echo }
    }

    #[test]
    fn two_nodes_believe_each_other_after_one_heartbeat_each_way() {
        let (mut a, mut b) = (Guard::new(1000), Guard::new(2000));
        assert_eq!(b.admit(&datagram(&mut a, 1, 0)), Err(Refusal::Unproven));
        assert_eq!(a.admit(&datagram(&mut b, 2, 0)), Ok(()));
        assert_eq!(b.admit(&datagram(&mut a, 1, 0)), Ok(()));
        assert_eq!(b.admit(&datagram(&mut a, 1, 3)), Ok(()), "over any path");
    }

    /// Two guards that believe each other, and everything that the first has sent.
    fn pair() -> (Guard, Guard, Vec<Envelope>) {
        let (mut a, mut b) = (Guard::new(1000), Guard::new(2000));
        let mut sent = Vec::new();
        for _ in 0..3 {
            sent.push(datagram(&mut a, 1, 0));
            let _ = b.admit(sent.last().unwrap());
            let _ = a.admit(&datagram(&mut b, 2, 0));
        }
        (a, b, sent)
    }

    #[test]
    fn nothing_is_taken_twice() {
        let (mut a, mut b, sent) = pair();
        for old in &sent[1..] {
            assert_eq!(b.admit(old), Err(Refusal::Replayed));
        }
        let late = datagram(&mut a, 1, 0);
        let next = datagram(&mut a, 1, 0);
        assert_eq!((b.admit(&next), b.admit(&late)), (Ok(()), Ok(())), "overtaken is not old");
        assert_eq!((b.admit(&next), b.admit(&late)), (Err(Refusal::Replayed), Err(Refusal::Replayed)));
        let ancient = datagram(&mut a, 1, 0);
        for _ in 0..HEARTBEAT_WINDOW {
            assert_eq!(b.admit(&datagram(&mut a, 1, 0)), Ok(()));
        }
        assert_eq!(b.admit(&ancient), Err(Refusal::Replayed), "too far behind to tell");
    }

    #[test]
    fn recordings_of_a_former_life_mean_nothing() {
        let (mut a, mut b, mut recorded) = pair();
        // Never received: held back by whoever records.
        recorded.extend((0..5).map(|_| datagram(&mut a, 1, 0)));
        let mut a = Guard::new(5000);
        assert_eq!(b.admit(&datagram(&mut a, 7, 0)), Err(Refusal::Unproven));
        assert_eq!(a.admit(&datagram(&mut b, 2, 0)), Ok(()));
        assert_eq!(b.admit(&datagram(&mut a, 7, 0)), Ok(()), "the new life");
        for old in &recorded {
            assert_eq!(b.admit(old), Err(Refusal::Unproven));
        }
        assert_eq!(b.admit(&datagram(&mut a, 7, 0)), Ok(()), "which goes on");
        // Nor do they to a receiver that was started anew and remembers nothing.
        let mut b = Guard::new(9000);
        for old in &recorded {
            assert_eq!(b.admit(old), Err(Refusal::Unproven));
        }
    }

    #[test]
    fn a_peer_started_anew_is_believed_again_although_recordings_are_played() {
        let (_, mut b, recorded) = pair();
        let mut a = Guard::new(5000);
        for round in 0..20 {
            let _ = b.admit(&recorded[round % 3]);
            let _ = b.admit(&datagram(&mut a, 7, 0));
            let _ = a.admit(&datagram(&mut b, 2, 0));
        }
        assert_eq!(b.admit(&datagram(&mut a, 7, 0)), Ok(()));
        assert_eq!(a.admit(&datagram(&mut b, 2, 0)), Ok(()));
    }

    proptest! {
        #[test]
        fn a_window_takes_each_sequence_once(sequences in proptest::collection::vec(0..400u64, 0..300)) {
            let (mut window, mut heard, mut highest) = (Window::default(), HashSet::new(), 0);
            for sequence in sequences {
                let new = sequence != 0 && sequence + HEARTBEAT_WINDOW > highest && heard.insert(sequence);
                prop_assert_eq!(window.take(sequence), new);
                highest = highest.max(sequence);
            }
        }
    }
}
