//! What the core wants of the archive, handed to the thread that keeps it; answers come back as calls.

use super::disk::Disk;
use super::handle::{Call, Inbox};
use crate::base::ids::{OpId, Uuid};
use crate::io::archive::{Begin, Keeper, Place, Work};
use crate::logic::mirror::interface::{Archive, Input};
use std::sync::Arc;

/// Number of what is answered to nobody.
const NOBODY: u64 = u64::MAX;

/// The archive of one volume.
pub(super) struct Archives {
    place: Place,
    volume: String,
    volume_uuid: Uuid,
    /// This node and its peer.
    nodes: [String; 2],
    inbox: Arc<Inbox>,
    /// Started when it is needed first.
    keeper: Option<Keeper>,
    /// Begun and not answered.
    under_way: usize,
}

impl Archives {
    pub fn new(place: Place, volume: &str, volume_uuid: Uuid, nodes: [String; 2], inbox: Arc<Inbox>) -> Archives {
        Archives { place, volume: volume.to_owned(), volume_uuid, nodes, inbox, keeper: None, under_way: 0 }
    }

    /// Begins what the core wants; a failure to begin is answered at once.
    pub fn start(&mut self, op: OpId, work: Archive, disk: &Disk, answers: &mut Vec<Input>) {
        let started = self.work_of(work, disk).and_then(|work| self.hand_over(op.0, work));
        if let Err(reason) = started {
            answers.push(Input::Archived { op, result: Err(reason) });
        }
    }

    fn work_of(&self, work: Archive, disk: &Disk) -> Result<Work, String> {
        Ok(match work {
            Archive::Save { range, zeroes } => Work::Save { range, zeroes },
            Archive::Finish => Work::Finish,
            Archive::Open { resumed, device, ours, theirs, size_bytes } => {
                let disk =
                    disk.descriptor().map_err(|error| format!("the disk can't be read for the archive: {error}"))?;
                Work::Open(Box::new(Begin {
                    disk,
                    resumed,
                    volume: self.volume.clone(),
                    volume_uuid: self.volume_uuid,
                    device,
                    nodes: self.nodes.clone(),
                    generations: [ours, theirs],
                    size_bytes,
                }))
            }
        })
    }

    fn hand_over(&mut self, number: u64, work: Work) -> Result<(), String> {
        if self.keeper.is_none() {
            let inbox = self.inbox.clone();
            let answer = move |number, result| inbox.call(Call::Archived { number, result });
            let keeper = Keeper::spawn(&self.volume, self.place.clone(), Box::new(answer));
            self.keeper = Some(keeper.map_err(|error| format!("the archive's thread can't be started: {error}"))?);
        }
        self.keeper.as_ref().expect("just started").start(number, work)?;
        self.under_way += 1;
        Ok(())
    }

    /// Something has ended: the answer for the core, if it is for the core.
    pub fn finish(&mut self, number: u64, result: Result<(), String>) -> Option<Input> {
        self.under_way -= 1;
        (number != NOBODY).then_some(Input::Archived { op: OpId(number), result })
    }

    /// Lets go of the disk.
    pub fn close(&mut self) {
        if self.keeper.is_some() && self.hand_over(NOBODY, Work::Close).is_err() {
            self.keeper = None;
        }
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way == 0
    }
}
