//! The core's outer face.

use super::interface::{Effect, Identity, Input, Serving, Settings};
use crate::base::range::ByteRange;
use crate::base::time::Moment;
use crate::base::view::VolumeView;
use crate::wire::metadata::record::Loaded;

/// The mirror core of one volume on one node.
pub struct Mirror {}

impl Mirror {
    /// A core whose disk holds `loaded`, or that has no disk. Starts as secondary.
    pub fn new(_settings: Settings, _identity: Identity, _loaded: Option<Loaded>) -> Mirror {
        Mirror {}
    }

    /// Takes one input and appends what is to be done.
    pub fn handle(&mut self, _now: Moment, _input: Input, _out: &mut Vec<Effect>) {}

    /// Ends a batch of inputs: sends what was gathered (receipts, acknowledgements).
    pub fn settle(&mut self, _now: Moment, _out: &mut Vec<Effect>) {}

    /// When [`Input::Tick`] is wanted at the latest.
    pub fn next_deadline(&self) -> Option<Moment> {
        None
    }

    /// Whether another client piece may be handed in.
    pub fn can_admit(&self) -> bool {
        false
    }

    /// What this node serves, if it serves.
    pub fn serving(&self) -> Option<Serving> {
        None
    }

    /// The whole visible state.
    pub fn view(&self, _now: Moment) -> VolumeView {
        unimplemented!("the mirror core is being built")
    }

    /// The blocks inside `range` that differ or may differ from the peer, as block-aligned ranges in order; at most `max`.
    pub fn dirty_ranges(&self, _range: ByteRange, _max: usize) -> Vec<ByteRange> {
        Vec::new()
    }

    /// Checks invariants too dear for every call; panics on our own bugs.
    pub fn check(&self) {}
}
