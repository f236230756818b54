//! Breadth-first search over every state a model can reach.

use super::state::{State, Step};
use super::steps::{Model, Successors};
use super::variant::Intent;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

/// A fast hash; states are compared whole.
#[derive(Default, Clone, Copy)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte as u64);
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// How a search ended.
pub enum Verdict {
    /// Every reachable state is sound.
    Holds { states: usize },
    /// None of the first so many states is unsound; there are more.
    Capped { states: usize },
    /// A shortest way to an unsound state.
    Violated { states: usize, what: String, steps: Vec<Step> },
}

/// What was seen on the way, so that a search that saw nothing does not count as one.
#[derive(Default, Debug)]
pub struct Coverage {
    pub other_node_serves: usize,
    pub in_resync: usize,
    pub both_down: usize,
    pub acknowledged_alone: usize,
}

/// Searches until done, or until `cap` states are known.
pub fn search(model: &Model, cap: usize) -> (Verdict, Coverage) {
    let initial = State::initial(model.budget);
    let has_intents = model.variant.intent != Intent::None;
    let mut known: HashMap<State, u32, BuildHasherDefault<Mixer>> = HashMap::default();
    let mut found: Vec<(u32, State)> = vec![(u32::MAX, initial)];
    known.insert(initial, 0);
    let mut coverage = Coverage::default();
    let mut successors = Successors::new();
    let mut at = 0;
    while at < found.len() {
        let state = found[at].1;
        if let Some(what) = state.violation(has_intents) {
            let steps = path_to(model, &found, at);
            return (Verdict::Violated { states: found.len(), what, steps }, coverage);
        }
        coverage.count(&state);
        successors.clear();
        model.successors(&state, &mut successors);
        for (_, next) in successors.drain(..) {
            let Entry::Vacant(place) = known.entry(next) else { continue };
            if found.len() >= cap {
                return (Verdict::Capped { states: found.len() }, coverage);
            }
            place.insert(found.len() as u32);
            found.push((at as u32, next));
        }
        at += 1;
    }
    (Verdict::Holds { states: found.len() }, coverage)
}

impl Coverage {
    fn count(&mut self, state: &State) {
        self.other_node_serves += state.serves(1) as usize;
        self.in_resync += (state.session == super::state::RESYNC) as usize;
        self.both_down += state.nodes.iter().all(|node| !node.up) as usize;
        self.acknowledged_alone += (state.members != 3 && state.session == 0 && state.acknowledged > 0) as usize;
    }
}

fn path_to(model: &Model, found: &[(u32, State)], end: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = end;
    while found[at].0 != u32::MAX {
        let (from, to) = (found[at].0 as usize, found[at].1);
        let mut successors = Successors::new();
        model.successors(&found[from].1, &mut successors);
        steps.extend(successors.into_iter().find(|(_, state)| *state == to).map(|(step, _)| step));
        at = from;
    }
    steps.reverse();
    steps
}
