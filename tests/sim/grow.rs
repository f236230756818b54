//! A volume that the operator makes larger while everything else goes wrong, too. Its disks hold something else in the new
//! part, each its own; from the moment a size is served, what the primary's disk holds there is the volume's content.

use super::content;
use super::node::NAMES;
use super::world::World;
use std::time::Duration;
use twinblock::base::command::Command;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::state::{Mode, Role};

/// Simulated time in which a healed pair must have grown and be in sync again.
const GROWING_TIME: Duration = Duration::from_secs(300);

impl World {
    /// Somebody asks for a larger volume.
    pub fn ask_to_grow(&mut self, node: usize) {
        let room = (self.config.volume_bytes() - self.served_bytes) / BLOCK;
        let bytes =
            (room > 0 && self.random.chance(0.7)).then(|| self.served_bytes + self.random.between(1, room) * BLOCK);
        self.command(node, Command::Resize { bytes });
    }

    /// Sees whether a node serves another size than was served before. A larger one brings content with it. A smaller one
    /// may follow only while nothing was acknowledged in the new part: its size was durable on a node that is lost.
    pub fn watch_size(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let served = process.mirror.serving().map(|serving| (process.life, serving.size_bytes));
        let changed = std::mem::replace(&mut self.served_by[node], served) != served;
        // A primary that does not know yet that it is none any more tells its clients nothing new.
        let Some((_, now)) = served.filter(|_| changed) else { return };
        let before = self.served_bytes;
        if now > before {
            let new = ByteRange::new(before, now - before);
            self.log.say(|| format!("{:<5} serves {now} bytes, {} more", NAMES[node], new.length));
            let disk = self.nodes[node].disk.read(new);
            for (index, bytes) in disk.chunks_exact(content::SECTOR).enumerate() {
                let sector = before as usize / content::SECTOR + index;
                self.history.appeared(self.nodes[node].line, sector, bytes, self.now);
            }
        }
        // What an asynchronous volume loses with its primary may have been there.
        let promised = if self.config.mode == Mode::Async { 0 } else { self.written_end };
        assert!(now >= promised, "{} serves {now} bytes, but {promised} have acknowledged writes", NAMES[node]);
        self.served_bytes = now;
        self.written_end = self.written_end.min(now);
    }

    /// A healed pair in sync takes all the room there is.
    pub fn grow_to_the_end(&mut self) {
        let full = self.config.volume_bytes();
        let grown = |world: &World| world.served_bytes == full && world.is_settled();
        let end = self.now + GROWING_TIME;
        while self.now < end && !self.run_until(Duration::from_secs(3), grown) {
            let primary = (0..2).find(|node| self.view(*node).is_some_and(|view| view.role == Role::Primary));
            if let Some(primary) = primary.filter(|node| self.can_be_asked(*node)) {
                self.command(primary, Command::Resize { bytes: None });
            }
        }
        assert!(grown(self), "a healed pair does not grow to {full} bytes: {:?}", self.operator.outcomes.last());
    }
}
