//! The core and the disk, as the clients see them.

use super::clients::Host;
use super::disk::Disk;
use crate::base::range::ByteRange;
use crate::base::request::Request;
use crate::base::state::{DiskState, Role};
use crate::base::time::Moment;
use crate::logic::export::offer::{Availability, Terms};
use crate::logic::mirror::Mirror;
use crate::logic::mirror::interface::{Effect, Input, Serving};

/// What clients get at in one turn.
pub(super) struct CoreHost<'a> {
    pub mirror: &'a mut Mirror,
    pub disk: &'a Disk,
    pub now: Moment,
    pub effects: &'a mut Vec<Effect>,
    /// Names of this node and of the peer.
    pub node_names: &'a [String; 2],
    pub stopping: bool,
}

impl Host for CoreHost<'_> {
    fn serving(&self) -> Option<Serving> {
        self.mirror.serving()
    }

    fn availability(&self) -> Availability {
        if self.stopping {
            return Availability::Stopping;
        }
        if let Some(Serving { size_bytes, cache_epoch }) = self.mirror.serving() {
            let fast_zero = self.disk.zeroes_fast();
            return Availability::Serving(Terms { size_bytes, cache_epoch, read_only: false, fast_zero });
        }
        let [here, peer] = self.node_names;
        let view = self.mirror.view(self.now);
        let name = &view.name;
        Availability::Refused(match (view.role, view.peer_role) {
            (Role::Secondary, Some(Role::Primary)) => format!("{name} is served by {peer}, {here} is its secondary"),
            (Role::Secondary, _) => {
                format!("{here} is secondary of {name} and does not serve it: promote it, or connect to {peer}")
            }
            (Role::Primary, _) => {
                let why = view.held_reason.unwrap_or_else(|| "it is not ready yet".to_owned());
                format!("{here} does not serve {name} now: {why}")
            }
        })
    }

    fn can_admit(&self) -> bool {
        self.mirror.can_admit()
    }

    fn submit(&mut self, request: Request) {
        self.mirror.handle(self.now, Input::Request(request), self.effects);
    }

    fn holes(&self, range: ByteRange, most: usize) -> Vec<ByteRange> {
        if self.mirror.view(self.now).disk != DiskState::UpToDate {
            return Vec::new();
        }
        let mut holes = self.disk.holes(range);
        holes.truncate(most);
        holes
    }

    fn dirty(&self, range: ByteRange, most: usize) -> Vec<ByteRange> {
        self.mirror.dirty_ranges(range, most)
    }
}
