//! What the core wants done, done.

use super::device::Device;
use super::disk::Means;
use super::handle::ShardEvent;
use super::{Shard, calls};
use crate::base::command::CommandOutcome;
use crate::base::ids::CommandId;
use crate::base::time::Moment;
use crate::logic::mirror::interface::Effect;

impl Shard {
    /// Carries out the effects of this turn. Answers that come at once wait for the next one.
    pub(super) fn carry_out(&mut self, now: Moment) {
        self.tell_facts();
        self.tell_serving();
        let epoch = self.mirror.epoch();
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Disk { op, io } => {
                    let mut means = Means { ring: &mut self.ring, pool: &mut self.pool, answers: &mut self.inputs };
                    self.disk.start(op, io, &mut means);
                }
                Effect::Persist { op, record } => {
                    let mut means = Means { ring: &mut self.ring, pool: &mut self.pool, answers: &mut self.inputs };
                    self.persist.start(op, record, &mut means);
                }
                Effect::Archive { op, work } => self.archives.start(op, work, &self.disk, &mut self.inputs),
                Effect::Send { session, frame } => self.link.send(session, &frame, (epoch, now), &mut self.pool),
                Effect::Disconnect { session, reason, reconnect_now } => {
                    self.link.disconnect(session, reason, reconnect_now, now, (&mut self.pool, &self.poller));
                    self.note_ended_session();
                }
                Effect::ProbePeer => self.tell(ShardEvent::ProbeWanted),
                Effect::OrderDone { id, result } => self.tell(ShardEvent::OrderDone { id, result }),
                Effect::Reply { request } if Device::owns(request.id) => {
                    self.device.reply(request.id, request.outcome, &mut self.pool);
                }
                Effect::Reply { request } => self.clients.reply(request.id, request.outcome, &mut self.pool),
                Effect::ReplyApart { request, bytes } if Device::owns(request.id) => {
                    self.device.reply_apart(request.id, request.outcome, bytes, &mut self.pool);
                }
                Effect::ReplyApart { request, bytes } => {
                    self.clients.reply_apart(request.id, request.outcome, bytes, &mut self.pool);
                }
                Effect::Copy { from, to } => self.pool.copy(from, to),
                Effect::Release { buffer } => self.pool.release(buffer),
                Effect::CutClients { reason } => self.clients.cut(&reason, &mut self.pool, &self.poller),
                Effect::CloseDisk => self.close_disk(),
                Effect::CommandDone { id, outcome } => self.command_done(id, outcome),
                Effect::Stopped => self.begin_stopping(now),
                Effect::Note(note) => self.tell(ShardEvent::Note(note)),
            }
        }
        self.effects = effects;
    }

    /// Tells the failover group, if there is one, what has changed.
    fn tell_facts(&mut self) {
        if !self.in_group {
            return;
        }
        let facts = self.mirror.facts();
        if self.facts != Some(facts) {
            self.facts = Some(facts);
            self.tell(ShardEvent::Facts(facts));
        }
    }

    /// Tells the daemon, which makes and removes the block device, what is served.
    fn tell_serving(&mut self) {
        let serving = self.mirror.serving();
        if self.served != serving {
            self.served = serving;
            self.tell(ShardEvent::Serving(serving));
        }
    }

    fn close_disk(&mut self) {
        self.disk.close(&mut self.inputs);
        self.persist.close(&mut self.inputs);
        self.archives.close();
        self.closing_disk = true;
    }

    fn command_done(&mut self, id: CommandId, outcome: CommandOutcome) {
        if self.attaching == Some(id) {
            self.attaching = None;
            if matches!(outcome, CommandOutcome::Refused(_)) {
                self.close_disk();
            }
        }
        calls::answer(self.commands.remove(&id), outcome);
    }
}
