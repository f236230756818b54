//! A process's buffers, with real bytes. A number is never used twice, so a buffer used after its release, released
//! twice or never released is found at once.

use std::collections::BTreeMap;
use twinblock::base::ids::BufferId;

/// The buffers of one process.
#[derive(Default)]
pub struct Buffers {
    alive: BTreeMap<BufferId, Vec<u8>>,
    next: u32,
}

impl Buffers {
    /// A new buffer holding `bytes`.
    pub fn insert(&mut self, bytes: Vec<u8>) -> BufferId {
        self.next += 1;
        let id = BufferId(self.next);
        self.alive.insert(id, bytes);
        id
    }

    pub fn get(&self, id: BufferId) -> &[u8] {
        self.alive.get(&id).unwrap_or_else(|| panic!("{id:?} is used after its release"))
    }

    pub fn get_mut(&mut self, id: BufferId) -> &mut Vec<u8> {
        self.alive.get_mut(&id).unwrap_or_else(|| panic!("{id:?} is used after its release"))
    }

    pub fn release(&mut self, id: BufferId) -> Vec<u8> {
        self.alive.remove(&id).unwrap_or_else(|| panic!("{id:?} is released twice"))
    }

    /// Those not yet released.
    pub fn alive(&self) -> Vec<BufferId> {
        self.alive.keys().copied().collect()
    }
}
