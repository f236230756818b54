//! The invariants of the design (E.10) that a god's eye can see: the two disks, what is durable of their metadata, and
//! what the cores show, after every turn, before every write and after every record.

use super::config::Act;
use super::content::SECTOR;
use super::node::{Ask, NAMES, Work};
use super::world::World;
use twinblock::base::error::DiskError;
use twinblock::base::generation::Relation;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::state::{DiskState, LinkState, Mode, ResyncKind, Role};
use twinblock::base::time::Moment;
use twinblock::base::view::VolumeView;
use twinblock::logic::mirror::interface::{DiskIo, Note};
use twinblock::wire::frame::Frame;
use twinblock::wire::message::Message;
use twinblock::wire::metadata::record::Record;

/// Volumes above this many blocks have their coverage checked only now and then: it reads both disks.
const SMALL_BLOCKS: u64 = 512;

impl World {
    /// After a node's turn.
    pub fn check_after_turn(&mut self, node: usize) {
        let Some(view) = self.view(node) else { return };
        let serving = self.serves(node);
        self.check_only_one_serves();
        // A primary without a disk can complete nothing by itself: it may not have noticed yet that its peer serves.
        let completes = |view: &VolumeView| view.serving && view.disk == DiskState::UpToDate;
        if completes(&view) && !self.config.forced() && self.group().is_none() {
            let other = self.view(1 - node).is_some_and(|view| completes(&view));
            assert!(!other, "both nodes serve clients (I1)");
        }
        let half_a_copy = matches!(view.disk, DiskState::New | DiskState::Inconsistent | DiskState::Outdated);
        assert!(
            !(serving && half_a_copy && !self.config.forced()),
            "{} serves with its disk {} (I6)",
            NAMES[node],
            view.disk
        );
        if let Some(resync) = &view.resync {
            let primary_target = view.role == Role::Primary && !resync.source;
            assert!(!primary_target, "{} is primary and the target of a resync (I14)", NAMES[node]);
        }
        if view.in_sync {
            assert!(view.disk == DiskState::UpToDate, "{} is in sync with its disk {}", NAMES[node], view.disk);
            assert!(view.link == LinkState::Connected, "{} is in sync over a link {}", NAMES[node], view.link);
        }
        self.check_equality_when_quiet(node, &view);
    }

    /// I5: in sync, nothing under way, nothing marked: the disks hold the same.
    fn check_equality_when_quiet(&mut self, node: usize, view: &VolumeView) {
        if !view.in_sync || view.dirty_bytes != 0 || view.requests_in_flight != 0 || !self.is_quiet() {
            return;
        }
        let stamp = (self.nodes[0].disk.flush_point(), self.nodes[1].disk.flush_point());
        if self.compared_at == stamp {
            return;
        }
        let Some(other) = self.view(1 - node) else { return };
        if !other.in_sync || other.dirty_bytes != 0 {
            return;
        }
        self.compared_at = stamp;
        self.stats.equality_checks += 1;
        self.assert_disks_equal();
        let marked = self.nodes.iter().any(|node| node.metadata.intends_anything());
        let stable = self.nodes.iter().all(|node| node.disk.is_stable() || node.was_doomed);
        assert!(stable || marked, "nothing is marked and yet a power loss would make a difference (I5)");
    }

    /// Nothing is under way on either node or between them.
    pub fn is_quiet(&self) -> bool {
        let quiet = |node: &super::node::Node| {
            node.process.as_ref().is_some_and(|p| {
                p.disk_ops.is_empty()
                    && p.persists.is_empty()
                    && p.archive_ops.is_empty()
                    && p.requests.is_empty()
                    && p.inbox.is_empty()
            })
        };
        let drained = |session: &twinblock::base::ids::SessionId| (0..2).all(|from| self.link.drained(from, *session));
        self.nodes.iter().all(quiet) && self.link.sessions.keys().all(drained)
    }

    /// Both disks hold the same bytes.
    pub fn assert_disks_equal(&self) {
        for block in 0..self.durable_blocks() as u32 {
            let range = ByteRange::of_blocks(block..block + 1);
            let equal = self.nodes[0].disk.read(range) == self.nodes[1].disk.read(range);
            assert!(
                equal,
                "block {block} differs between the disks, and nothing says so (I5): {}",
                self.describe(block)
            );
        }
    }

    /// Blocks of the volume, as far as it is durable that they belong to it.
    fn durable_blocks(&self) -> u64 {
        let whole = self.config.volume_bytes();
        let committed = self.nodes.iter().map(|node| node.durable().committed_bytes).max();
        committed.filter(|_| self.config.reserve_blocks > 0).unwrap_or(whole) / BLOCK
    }

    fn describe(&self, block: u32) -> String {
        let range = ByteRange::of_blocks(block..block + 1);
        let values = |node: usize| {
            let bytes = self.nodes[node].disk.read(range).chunks(SECTOR).enumerate();
            let first = range.offset / SECTOR as u64;
            bytes.map(|(n, bytes)| super::content::identify(bytes, first + n as u64)).collect::<Vec<_>>()
        };
        format!("{} {:?}, {} {:?}", NAMES[0], values(0), NAMES[1], values(1))
    }

    /// I7, I8: before a byte of a write reaches a disk or the link, a durable mark covers it.
    pub fn check_disk_write(&mut self, node: usize, io: &DiskIo) {
        let this = &self.nodes[node];
        let buffers = &this.process.as_ref().expect("it writes").buffers;
        let (range, new) = match io {
            DiskIo::Write { range, buffer, .. } => (*range, Some(buffers.get(*buffer))),
            DiskIo::Zero { range, .. } => (*range, None),
            _ => return,
        };
        for block in range.blocks() {
            let place = ByteRange::of_blocks(block..block + 1);
            let at = (place.offset - range.offset) as usize;
            let old = this.disk.read(place);
            // Writing what is there already makes no difference: a resync may do so.
            let changes = match new {
                Some(bytes) => old != &bytes[at..at + BLOCK as usize],
                None => old.iter().any(|byte| *byte != 0),
            };
            if changes {
                self.assert_marked(node, place, "is written");
            }
        }
    }

    fn assert_marked(&self, node: usize, range: ByteRange, what: &str) {
        if self.everything_is_suspect() {
            return;
        }
        for block in range.blocks() {
            let marked = self.nodes.iter().any(|node| node.metadata.marks(block));
            assert!(marked, "block {block} {what} by {} before a durable mark covers it (I7)", NAMES[node]);
        }
    }

    /// The two nodes would not trust their marks if they met now: everything would be compared or copied.
    fn everything_is_suspect(&self) -> bool {
        let suspect = |node: &super::node::Node| {
            let superblock = node.durable();
            superblock.disk == DiskState::New
                || superblock.discard
                || superblock.suspect
                || superblock.requested.is_some()
                || matches!(superblock.unfinished, Some(ResyncKind::Compare | ResyncKind::Full))
                || node.metadata.is_suspect()
        };
        let relation = self.nodes[0].durable().lineage.relation(&self.nodes[1].durable().lineage);
        let marks_fit = matches!(relation, Relation::Equal | Relation::OursNewerMarks | Relation::TheirsNewerMarks);
        !marks_fit || self.nodes.iter().any(suspect)
    }

    /// I8: whatever may differ between the disks, now or after a power loss, is marked durably.
    pub fn check_after_persist(&mut self, node: usize, result: Result<(), DiskError>) {
        let blocks = self.durable_blocks();
        let due = blocks <= SMALL_BLOCKS || self.stats.events.is_multiple_of(16);
        let rotten = self.nodes.iter().any(|node| node.disk.rotten);
        if result.is_err() || !due || rotten || self.everything_is_suspect() {
            return;
        }
        let [a, b] = &self.nodes;
        for block in 0..blocks as u32 {
            if !a.metadata.marks(block) && !b.metadata.marks(block) && a.disk.may_differ_from(block, &b.disk) {
                panic!(
                    "after a record of {}, block {block} may differ between the disks and no durable mark covers it (I8): {}",
                    NAMES[node],
                    self.describe(block)
                );
            }
        }
    }

    /// I18: what may only rise, rises.
    pub fn check_record(&self, node: usize, record: &Record) {
        let Record::Superblock(new) = record else { return };
        let old = self.nodes[node].durable();
        assert!(new.seen_epoch >= old.seen_epoch, "{} forgets an epoch it has seen (I18)", NAMES[node]);
        assert!(new.primary_epoch >= old.primary_epoch, "{} forgets an epoch of its own (I18)", NAMES[node]);
        assert!(new.cache_epoch >= old.cache_epoch, "{}: the cache epoch falls", NAMES[node]);
        assert!(new.disk != DiskState::Diskless, "a disk is never diskless on the disk");
        assert_eq!(new.device, old.device, "a disk keeps its identity");
    }

    /// What a node tells its peer is true, and durable where it must be.
    pub fn check_message(&self, node: usize, message: &Message) {
        let view = self.view(node).expect("it sends");
        let (ours, theirs) = (self.nodes[node].durable(), self.nodes[1 - node].durable());
        let name = NAMES[node];
        match message {
            Message::ResyncReady if view.resync.is_some() => {
                let half_a_copy = matches!(ours.disk, DiskState::Inconsistent | DiskState::New);
                assert!(half_a_copy, "{name} is ready to be written to, and would start again as {} (I15)", ours.disk);
            }
            Message::Adopted => {
                assert!(ours.disk == DiskState::UpToDate, "{name} has adopted, and would start as {} (I15)", ours.disk);
                let (current, source) = (ours.lineage.current, theirs.lineage.current);
                assert!(current == source, "{name} has adopted {source}, and would start with {current}");
            }
            Message::Claimed { granted: true, .. } => {
                assert!(view.role == Role::Secondary, "{name} lets its peer be primary beside itself (I1)");
            }
            Message::RoleChanged { role: Role::Primary, .. } => {
                let durable = ours.role == Role::Primary || view.disk == DiskState::Diskless;
                assert!(durable, "{name} says that it is primary before that is durable");
            }
            _ => {}
        }
    }

    /// I11 for what is sent, and I7.
    pub fn check_frame(&mut self, node: usize, frame: &Frame) {
        let (sequence, range) = match frame {
            Frame::Data { sequence, range, .. }
            | Frame::Zero { sequence, range, .. }
            | Frame::ResyncData { sequence, range, .. }
            | Frame::ResyncZero { sequence, range } => (sequence.0, *range),
            Frame::ReadReply { .. } | Frame::Control(_) => return,
        };
        let disk_open = self.process_of(node).disk_open;
        if disk_open && matches!(frame, Frame::Data { .. } | Frame::Zero { .. }) {
            self.assert_marked(node, range, "is sent");
        }
        if matches!(frame, Frame::ResyncData { .. } | Frame::ResyncZero { .. }) {
            let resyncs = self.view(node).is_some_and(|view| view.link == LinkState::Resync);
            let target = self.nodes[1 - node].durable().disk;
            // One that has rotted meanwhile knows that it is not to be trusted.
            let rotten = self.nodes[1 - node].metadata.is_suspect();
            let half_a_copy = matches!(target, DiskState::Inconsistent | DiskState::New) || rotten;
            assert!(!resyncs || half_a_copy, "{} resyncs a peer that would start again as {target} (I15)", NAMES[node]);
        }
        let process = self.process_of(node);
        let clash = process.in_flight.iter().find(|(_, other)| other.overlaps(&range)).copied();
        assert!(clash.is_none(), "{} sends {range} while {clash:?} is in flight (I11)", NAMES[node]);
        process.in_flight.push((sequence, range));
    }

    /// What a peer's message says about frames in flight.
    pub fn watch_frame(&mut self, node: usize, frame: &Frame) {
        let settled = match frame {
            Frame::Control(Message::Written { sequences }) => sequences.clone(),
            Frame::Control(Message::Failed { sequence, .. }) => vec![*sequence],
            _ => return,
        };
        self.process_of(node).in_flight.retain(|(sequence, _)| !settled.iter().any(|s| s.0 == *sequence));
    }

    /// I13: both ends decide alike.
    pub fn check_note(&mut self, node: usize, note: &Note) {
        let Note::Decided { rule, .. } = note else { return };
        let Some(session) = self.process_of(node).session else { return };
        let first = self.decided.get(&session).copied();
        match first {
            Some((other, theirs)) if other != node => {
                assert_eq!(theirs, *rule, "the two nodes decided by different rules (I13)");
            }
            _ => {
                self.decided.insert(session, (node, rule));
            }
        }
    }

    fn disk_holds(&self, index: usize, range: ByteRange, work: Work) -> bool {
        let mut wanted = vec![0; range.length as usize];
        if let Work::Write { value, .. } = work {
            super::clients::fill_range(value, range, &mut wanted);
        }
        self.nodes[index].disk.read(range) == wanted
    }

    /// Which disks hold what a client's operation wrote, just when it is answered. In mode memory, the peer's process
    /// counts as well.
    pub fn holders(&self, node: usize, range: ByteRange, work: Work) -> u8 {
        let mut holders = (self.disk_holds(0, range, work) as u8) | (self.disk_holds(1, range, work) as u8) << 1;
        if self.peer_may_hold_in_memory(node) && self.nodes[1 - node].process.is_some() {
            holders |= 1 << (1 - node);
        }
        holders
    }

    /// In mode memory, what the peer received counts; it may have died since. It may also have said so in the very turn in
    /// which its end is heard: an answer that rests on it is as good as one of the turn before.
    pub fn peer_may_hold_in_memory(&self, node: usize) -> bool {
        let mirrors = |view: VolumeView| matches!(view.link, LinkState::Resync | LinkState::Connected);
        let told = self.nodes[node].process.as_ref().is_some_and(|process| process.told_of_receipt);
        self.config.mode == Mode::Memory && (told || self.view(node).is_some_and(mirrors))
    }

    /// When this node last lost what it had not flushed.
    pub fn loss_of(&self, node: usize) -> Moment {
        match self.config.mode {
            Mode::Memory => self.nodes[node].memory_lost.max(self.nodes[node].cache_lost),
            Mode::Sync | Mode::Async => self.nodes[node].cache_lost,
        }
    }

    /// A client's request was answered well: what that promises, holds.
    pub fn check_answer(&mut self, node: usize, ask: &Ask, admitted: Moment) {
        match ask.work {
            Work::Read(_) => {}
            Work::Write { range, fua, .. } | Work::Zero { range, fua, .. } => {
                // A peer whose cache was lost in this very moment held it when it said so.
                if self.nodes.iter().all(|node| node.cache_lost < admitted) {
                    self.check_write_answer(node, ask.work, range, fua);
                }
            }
            Work::Flush => {
                for index in self.answerable(node) {
                    let lost = self.nodes[index].disk.acknowledged_but_unstable(admitted);
                    let doomed = self.nodes[index].was_doomed;
                    assert!(
                        lost.is_none() || doomed,
                        "a flush was answered, and {} may still lose sector {lost:?}, acknowledged before it (I16)",
                        NAMES[index]
                    );
                    self.check_told_is_stable(node, index, admitted);
                }
                self.told.retain(|_, (_, at)| *at >= admitted);
            }
        }
    }

    /// I16 in mode memory: what a client was told before its flush is on this disk for good, or something newer is on both.
    fn check_told_is_stable(&self, node: usize, index: usize, before: Moment) {
        let process = self.nodes[node].process.as_ref().expect("it answers");
        let under_way: Vec<ByteRange> =
            process.requests.values().filter_map(|admitted| admitted.ask.work.range()).collect();
        for (sector, (value, _)) in self.told.iter().filter(|(_, (_, at))| *at < before) {
            let place = ByteRange::new(sector * SECTOR as u64, SECTOR as u64);
            let newest = super::content::identify(self.nodes[node].disk.read(place), *sector) == Some(*value);
            if !newest || under_way.iter().any(|other| other.overlaps(&place)) {
                // Something newer is, or may be, in its place.
                continue;
            }
            let held = self.nodes[index].disk.stable_value(*sector) == Some(*value) || self.nodes[index].was_doomed;
            assert!(held, "a flush was answered, and {} does not hold sector {sector} for good (I16)", NAMES[index]);
        }
    }

    /// The nodes on which an answer's promise must hold: this one unless it has no disk, and the peer when in sync.
    fn answerable(&self, node: usize) -> Vec<usize> {
        let process = self.nodes[node].process.as_ref().expect("it answers");
        let view = process.mirror.view(self.clock(node));
        let own = process.disk_open && view.disk == DiskState::UpToDate;
        let peer = !own || (view.in_sync && self.config.mode != Mode::Async);
        let mut nodes = if own { vec![node] } else { Vec::new() };
        nodes.extend(peer.then_some(1 - node));
        nodes
    }

    /// I3, I9, I10: an acknowledged write is on both disks, or it is on one and the other's generation is a thing of the past.
    fn check_write_answer(&mut self, node: usize, work: Work, range: ByteRange, fua: bool) {
        let holders = self.holders(node, range, work);
        let own = holders & (1 << node) != 0;
        let peer = holders & (1 << (1 - node)) != 0;
        assert!(own || peer, "{} acknowledges a write that is on no disk", NAMES[node]);
        self.check_group_write(node, holders);
        if fua {
            for index in self.answerable(node) {
                let there = self.disk_holds(index, range, work) && self.nodes[index].disk.range_is_stable(range);
                let name = NAMES[index];
                assert!(
                    there || self.nodes[index].was_doomed,
                    "a FUA write was answered, and {name} may still lose it"
                );
            }
        }
        if own && peer || self.config.mode == Mode::Async || self.peer_may_hold_in_memory(node) {
            return;
        }
        self.stats.solo_acknowledgements += 1;
        let (holder, other) = if own { (node, 1 - node) } else { (1 - node, node) };
        let (with, without) = (self.nodes[holder].durable(), self.nodes[other].durable());
        let excluded = with.lineage.current != without.lineage.current || without.disk != DiskState::UpToDate;
        assert!(
            excluded,
            "{} acknowledges a write that {} lacks, though both have generation {} (I3, I9)",
            NAMES[node], NAMES[other], with.lineage.current
        );
    }

    /// Both nodes are in sync: their clients see one line of content.
    pub fn joined(&mut self, node: usize) {
        let view = self.view(node).expect("it joined");
        self.both_hold_everything();
        let source = if view.last_resync.as_ref().is_none_or(|resync| resync.source) { node } else { 1 - node };
        if self.nodes[1 - source].line != self.nodes[source].line {
            self.nodes[1 - source].line = self.nodes[source].line;
            self.nodes[1 - source].cache_epoch = self.nodes[source].cache_epoch;
        }
    }

    /// Whether both nodes say that they are in sync.
    pub fn both_in_sync(&self) -> bool {
        (0..2).all(|node| self.view(node).is_some_and(|view| view.in_sync))
    }

    /// Whether this act would destroy the only good copy, which no mirror survives.
    pub fn would_destroy_the_data(&self, act: Act, node: usize) -> bool {
        match act {
            Act::ReplaceDisk | Act::Rot | Act::FlushError => {
                let other = &self.nodes[1 - node];
                let other_is_whole = other.durable().disk == DiskState::UpToDate
                    && self.view(1 - node).is_some_and(|view| view.disk == DiskState::UpToDate)
                    && !other.metadata.is_suspect();
                !(other_is_whole && self.was_in_sync_when_last_seen(node))
            }
            _ => false,
        }
    }

    /// Neither node acknowledged anything alone since both were in sync, or the other one did.
    fn was_in_sync_when_last_seen(&self, node: usize) -> bool {
        let relation = self.nodes[1 - node].durable().lineage.relation(&self.nodes[node].durable().lineage);
        self.both_in_sync() || matches!(relation, Relation::OursNewerMarks | Relation::OursNewerHistory)
    }
}
