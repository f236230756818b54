//! Two cores, perfect disks, a perfect link that can be cut, processes that can be killed.

use roaring::RoaringBitmap;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use twinblock::base::command::{Command, CommandOutcome};
use twinblock::base::error::{DiskError, RequestError};
use twinblock::base::generation::{Generation, Lineage};
use twinblock::base::ids::*;
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::request::{Action, Outcome, Request};
use twinblock::base::state::*;
use twinblock::base::time::Moment;
use twinblock::base::view::VolumeView;
use twinblock::logic::mirror::Mirror;
use twinblock::logic::mirror::interface::*;
use twinblock::wire::frame::Frame;
use twinblock::wire::metadata::record::{Loaded, Record, Superblock};

/// Blocks of the volume.
pub const BLOCKS: usize = 512;
/// log2 of the bytes of an intent region.
pub const REGION_SHIFT: u32 = 16;

fn settings(node: u8, exclusion: Exclusion) -> Settings {
    let usual = Settings::usual(NodeId(node), Uuid(7));
    Settings { exclusion, receipt_gating: true, resync_rate_min: 1 << 20, ..usual }
}

fn fresh_superblock(node: u8, device: u128) -> Superblock {
    let blank = Superblock::blank(Uuid(7), NodeId(node), Uuid(device), REGION_SHIFT);
    let lineage = Lineage::starting_at(Generation::ZEROED);
    Superblock { disk: DiskState::UpToDate, lineage, clean: false, ..blank }
}

fn start(node: u8, exclusion: Exclusion, loaded: Loaded, incarnation: u64) -> Mirror {
    let identity = Identity { incarnation: Incarnation(incarnation), boot: BootId(1), seed: incarnation };
    Mirror::new(settings(node, exclusion), identity, Some(loaded))
}

pub struct Node {
    core: Mirror,
    pub disk: Vec<u8>,
    pub loaded: Loaded,
    buffers: BTreeMap<BufferId, Vec<u8>>,
    next_buffer: u32,
    replies: BTreeMap<RequestId, Outcome>,
    outcomes: BTreeMap<CommandId, CommandOutcome>,
    /// Every write of the data disk fails.
    pub broken: bool,
    /// How many more records its disk takes; those after that are lost with the power. `None`: all.
    pub records_left: Option<u32>,
    snapshots: BTreeMap<u64, (RoaringBitmap, RoaringBitmap)>,
    /// Every record fails.
    pub records_fail: bool,
    /// Reads of clients are answered only by [`Pair::finish_slow`].
    pub slow: bool,
    owed: Vec<OpId>,
    pub stopped: bool,
    exclusion: Exclusion,
    /// How the group's orders ended.
    orders: BTreeMap<u64, Result<(), String>>,
}

impl Node {
    pub fn new(node: u8, device: u128) -> Node {
        Node::excluded_by(Exclusion::Operator, node, device)
    }

    fn excluded_by(exclusion: Exclusion, node: u8, device: u128) -> Node {
        let loaded = Loaded {
            superblock: fresh_superblock(node, device),
            capacity_bytes: BLOCKS as u64 * BLOCK,
            intents: RoaringBitmap::new(),
            dirty: RoaringBitmap::new(),
            suspect: RoaringBitmap::new(),
            maps_unreadable: false,
            superblock_suspect: false,
        };
        Node {
            core: start(node, exclusion, loaded.clone(), 10 + u64::from(node)),
            disk: vec![0; BLOCKS * BLOCK as usize],
            loaded,
            buffers: BTreeMap::new(),
            next_buffer: 0,
            replies: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            broken: false,
            records_left: None,
            records_fail: false,
            snapshots: BTreeMap::new(),
            slow: false,
            owed: Vec::new(),
            stopped: false,
            exclusion,
            orders: BTreeMap::new(),
        }
    }

    /// A disk with room for twice the volume, which has its size already; what is in the rest, nobody knows.
    pub fn with_room(node: u8, device: u128) -> Node {
        let mut node = Node::new(node, device);
        let filling = device as u8;
        node.disk.resize(2 * BLOCKS * BLOCK as usize, filling);
        node.loaded.capacity_bytes *= 2;
        node.loaded.superblock.committed_bytes = BLOCKS as u64 * BLOCK;
        node
    }

    fn buffer(&mut self, bytes: Vec<u8>) -> BufferId {
        self.next_buffer += 1;
        self.buffers.insert(BufferId(self.next_buffer), bytes);
        BufferId(self.next_buffer)
    }

    fn slice(&mut self, range: ByteRange) -> &mut [u8] {
        &mut self.disk[range.offset as usize..range.end() as usize]
    }

    fn io(&mut self, io: DiskIo) -> Result<Completion, DiskError> {
        match io {
            DiskIo::Read { range, buffer } => {
                let bytes = self.slice(range).to_vec();
                self.buffers.insert(buffer, bytes);
                Ok(Completion::Done)
            }
            DiskIo::Fill { range, buffer } => {
                let whole = range.aligned_out();
                let mut bytes = self.slice(whole).to_vec();
                let at = (range.offset - whole.offset) as usize;
                let to = at + range.length as usize;
                bytes[at..to].copy_from_slice(&self.buffers[&buffer][at..to]);
                self.buffers.insert(buffer, bytes);
                Ok(Completion::Done)
            }
            DiskIo::ReadChunk { range } => {
                let bytes = self.slice(range).to_vec();
                let data = bytes.iter().any(|byte| *byte != 0);
                Ok(Completion::Chunk { buffer: data.then(|| self.buffer(bytes)) })
            }
            DiskIo::Digest { range } => Ok(Completion::Digests(
                self.slice(range).chunks(BLOCK as usize).map(xxhash_rust::xxh3::xxh3_128).collect(),
            )),
            DiskIo::Holes { .. } => Ok(Completion::Holes(Vec::new())),
            _ if self.broken => Err(DiskError::Failed(5)),
            DiskIo::Write { range, buffer, .. } => {
                let bytes = self.buffers[&buffer].clone();
                self.slice(range).copy_from_slice(&bytes);
                Ok(Completion::Done)
            }
            DiskIo::Zero { range, .. } => {
                self.slice(range).fill(0);
                Ok(Completion::Done)
            }
            DiskIo::Flush => Ok(Completion::Done),
        }
    }

    fn record(&mut self, record: Record) {
        match record {
            Record::Superblock(superblock) => {
                // A snapshot counts once it is named.
                let named = superblock.snapshot.and_then(|sequence| self.snapshots.get(&sequence));
                (self.loaded.dirty, self.loaded.suspect) = named.cloned().unwrap_or_default();
                self.loaded.superblock = *superblock;
            }
            Record::Intents { regions, .. } => self.loaded.intents = regions.into_iter().collect(),
            Record::Snapshot { sequence, dirty, suspect } => drop(self.snapshots.insert(sequence, (dirty, suspect))),
        }
    }
}

enum OnWire {
    Frame(usize, SessionId, Frame),
    End(SessionId),
}

pub struct Pair {
    pub nodes: [Node; 2],
    now: Moment,
    link: Option<SessionId>,
    /// Nobody reconnects while it is cut.
    pub cut: bool,
    pub down: [bool; 2],
    numbers: u64,
    wire: VecDeque<OnWire>,
}

impl Pair {
    pub fn new() -> Pair {
        Pair::excluded_by(Exclusion::Operator)
    }

    /// A pair whose nodes ask a failover group.
    pub fn in_group() -> Pair {
        Pair::excluded_by(Exclusion::Group)
    }

    fn excluded_by(exclusion: Exclusion) -> Pair {
        let nodes = [Node::excluded_by(exclusion, 0, 100), Node::excluded_by(exclusion, 1, 101)];
        let mut pair =
            Pair { nodes, now: Moment(1), link: None, cut: false, down: [false; 2], numbers: 0, wire: VecDeque::new() };
        pair.run();
        pair
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub fn give(&mut self, node: usize, input: Input) {
        let mut out = Vec::new();
        let now = self.now;
        let core = &mut self.nodes[node].core;
        core.handle(now, input, &mut out);
        core.settle(now, &mut out);
        core.check();
        let mut answers = Vec::new();
        for effect in out {
            self.carry_out(node, effect, &mut answers);
        }
        for answer in answers {
            self.give(node, answer);
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect, answers: &mut Vec<Input>) {
        let me = &mut self.nodes[node];
        match effect {
            Effect::Disk { op, io: DiskIo::Read { .. } } if me.slow => me.owed.push(op),
            Effect::Disk { op, io } => answers.push(Input::DiskDone { op, result: me.io(io) }),
            Effect::Persist { .. } if me.records_left == Some(0) => {}
            Effect::Persist { op, .. } if me.records_fail => {
                answers.push(Input::Persisted { op, result: Err(DiskError::Failed(5)) });
            }
            Effect::Persist { op, record } => {
                me.records_left = me.records_left.map(|left| left - 1);
                me.record(record);
                answers.push(Input::Persisted { op, result: Ok(()) });
            }
            Effect::Archive { op, .. } => answers.push(Input::Archived { op, result: Ok(()) }),
            Effect::Send { session, frame } => self.send(node, session, frame),
            Effect::Disconnect { session, .. } => self.wire.push_back(OnWire::End(session)),
            Effect::ProbePeer => answers.push(Input::PeerProbed { refused: self.down[1 - node] }),
            Effect::Reply { request } => {
                assert!(me.replies.insert(request.id, request.outcome).is_none(), "a piece settles once");
            }
            Effect::OrderDone { id, result } => {
                assert!(me.orders.insert(id, result).is_none(), "an order ends once");
            }
            Effect::ReplyApart { request, bytes } => {
                assert!(me.replies.insert(request.id, request.outcome).is_none(), "a piece settles once");
                if let Some(buffer) = bytes {
                    me.buffers.remove(&buffer).expect("the bytes are somewhere");
                }
            }
            Effect::Copy { from, to } => {
                let size = me.buffers[&to].len();
                let bytes = from.map_or(vec![0; size], |from| me.buffers[&from].clone());
                me.buffers.insert(to, bytes);
            }
            Effect::Release { buffer } => drop(me.buffers.remove(&buffer).expect("a buffer is released once")),
            Effect::CommandDone { id, outcome } => drop(me.outcomes.insert(id, outcome)),
            Effect::Stopped => me.stopped = true,
            Effect::Note(_) | Effect::CutClients { .. } | Effect::CloseDisk => {}
        }
    }

    fn send(&mut self, node: usize, session: SessionId, mut frame: Frame) {
        if self.link != Some(session) {
            return;
        }
        let to = 1 - node;
        if let Some((buffer, range)) = frame.bulk() {
            let bytes = self.nodes[node].buffers[&buffer].clone();
            assert_eq!(bytes.len() as u64, range.aligned_out().length);
            let copy = self.nodes[to].buffer(bytes);
            if let Frame::Data { buffer, .. } | Frame::ResyncData { buffer, .. } | Frame::ReadReply { buffer, .. } =
                &mut frame
            {
                *buffer = copy;
            }
        }
        self.wire.push_back(OnWire::Frame(to, session, frame));
    }

    pub fn drop_link(&mut self, reason: &str) {
        if let Some(session) = self.link.take() {
            for node in 0..2 {
                if !self.down[node] {
                    self.give(node, Input::LinkDown { session, reason: reason.into() });
                }
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(next) = self.wire.pop_front() {
            match next {
                OnWire::End(session) if self.link == Some(session) => self.drop_link("ended"),
                OnWire::End(_) => {}
                OnWire::Frame(to, session, frame) if self.link == Some(session) && !self.down[to] => {
                    self.give(to, Input::Frame { session, frame });
                }
                OnWire::Frame(to, _, frame) => {
                    if let Some((buffer, _)) = frame.bulk() {
                        self.nodes[to].buffers.remove(&buffer);
                    }
                }
            }
        }
    }

    /// The group orders something, without waiting for its end.
    pub fn begin_order(&mut self, node: usize, order: Order) -> u64 {
        let id = self.number();
        self.give(node, Input::Order { id, order });
        id
    }

    /// How an order ended, if it has.
    pub fn order_ended(&self, node: usize, id: u64) -> Option<Result<(), String>> {
        self.nodes[node].orders.get(&id).cloned()
    }

    /// The group orders something; lets it end.
    pub fn order(&mut self, node: usize, order: Order) -> Result<(), String> {
        let id = self.begin_order(node, order);
        self.run();
        self.order_ended(node, id).expect("an order ends")
    }

    /// What the group knows of a node's volume.
    pub fn facts(&self, node: usize) -> Facts {
        self.nodes[node].core.facts()
    }

    /// The group's permit to read: for so long from now, or without an end.
    pub fn permit(&mut self, node: usize, time: Option<Duration>) {
        let until = time.map(|time| self.now + time);
        self.give(node, Input::Permit { until });
        self.deliver();
    }

    /// Gives a command without waiting for its end.
    pub fn begin_command(&mut self, node: usize, command: Command) {
        let id = CommandId(self.number());
        self.give(node, Input::Command { id, command });
    }

    /// The size that clients of a node have, if it serves.
    pub fn served_bytes(&self, node: usize) -> Option<u64> {
        self.nodes[node].core.serving().map(|serving| serving.size_bytes)
    }

    /// Hands in a piece without waiting for its end.
    pub fn begin(&mut self, node: usize, action: Action) -> RequestId {
        let id = RequestId(self.number());
        self.give(node, Input::Request(Request { id, action }));
        id
    }

    /// Answers the reads that a slow disk owes.
    pub fn finish_slow(&mut self, node: usize) {
        for op in std::mem::take(&mut self.nodes[node].owed) {
            self.give(node, Input::DiskDone { op, result: Ok(Completion::Done) });
        }
    }

    /// A buffer of one block, for a read.
    pub fn buffer(&mut self, node: usize) -> BufferId {
        self.nodes[node].buffer(vec![0; BLOCK as usize])
    }

    /// Takes a read's buffer back.
    pub fn take_buffer(&mut self, node: usize, buffer: BufferId) -> Vec<u8> {
        self.nodes[node].buffers.remove(&buffer).expect("the buffer is the client's again")
    }

    /// How a piece ended, if it has.
    pub fn ended(&self, node: usize, id: RequestId) -> Option<Outcome> {
        self.nodes[node].replies.get(&id).copied()
    }

    /// Delivers everything, lets six seconds pass, reconnects where it may.
    pub fn run(&mut self) {
        for _ in 0..60 {
            self.deliver();
            let up = self.down == [false; 2] && !self.nodes.iter().any(|node| node.stopped);
            if self.link.is_none() && !self.cut && up {
                let session = SessionId(self.number());
                self.link = Some(session);
                self.give(0, Input::LinkUp { session });
                self.give(1, Input::LinkUp { session });
                continue;
            }
            self.now = self.now + Duration::from_millis(100);
            for node in 0..2 {
                if !self.down[node] {
                    self.give(node, Input::Tick);
                }
            }
        }
    }

    pub fn command(&mut self, node: usize, command: Command) -> CommandOutcome {
        let id = CommandId(self.number());
        self.give(node, Input::Command { id, command });
        self.run();
        self.nodes[node].outcomes.remove(&id).expect("a command is answered")
    }

    pub fn promote(&mut self, node: usize, force: bool) -> CommandOutcome {
        self.command(node, Command::Promote { force })
    }

    /// Hands in a piece, runs, and returns how it ended.
    pub fn request(&mut self, node: usize, action: Action) -> Outcome {
        let id = self.begin(node, action);
        self.run();
        self.ended(node, id).expect("the piece settled")
    }

    pub fn write(&mut self, node: usize, offset: u64, bytes: &[u8]) -> Outcome {
        let action = self.writing(node, offset, bytes);
        self.request(node, action)
    }

    /// A write of these bytes.
    pub fn writing(&mut self, node: usize, offset: u64, bytes: &[u8]) -> Action {
        let range = ByteRange::new(offset, bytes.len() as u64);
        let mut content = vec![0xee; range.aligned_out().length as usize];
        let at = (offset % BLOCK) as usize;
        content[at..at + bytes.len()].copy_from_slice(bytes);
        let buffer = self.nodes[node].buffer(content);
        Action::Write { range, buffer, fua: false }
    }

    pub fn read(&mut self, node: usize, offset: u64, length: u64) -> Result<Vec<u8>, RequestError> {
        let range = ByteRange::new(offset, length);
        let buffer = self.nodes[node].buffer(vec![0; range.aligned_out().length as usize]);
        self.request(node, Action::Read { range, buffer })?;
        let bytes = self.nodes[node].buffers.remove(&buffer).expect("the buffer is the client's again");
        let at = (offset % BLOCK) as usize;
        Ok(bytes[at..at + length as usize].to_vec())
    }

    pub fn kill(&mut self, node: usize) {
        self.down[node] = true;
        self.drop_link("reset");
        self.nodes[node].buffers.clear();
        self.run();
    }

    pub fn restart(&mut self, node: usize) {
        let incarnation = 1000 + self.number();
        self.nodes[node].core =
            start(node as u8, self.nodes[node].exclusion, self.nodes[node].loaded.clone(), incarnation);

        self.nodes[node].records_left = None;
        self.nodes[node].stopped = false;
        self.down[node] = false;
        self.run();
    }

    /// Stops a node in order.
    pub fn stop(&mut self, node: usize) {
        self.give(node, Input::Stop);
        self.run();
        assert!(self.nodes[node].stopped, "the node stopped: {:#?}", self.view(node));
        self.drop_link("stopped");
        self.down[node] = true;
    }

    pub fn view(&self, node: usize) -> VolumeView {
        self.nodes[node].core.view(self.now)
    }

    #[track_caller]
    pub fn assert_in_sync(&self) {
        for node in 0..2 {
            let view = self.view(node);
            assert!(view.in_sync, "node {node}: {view:#?}");
            assert_eq!(view.dirty_bytes, 0);
            assert!(self.nodes[node].buffers.is_empty(), "node {node} leaked a buffer");
        }
        assert!(self.nodes[0].disk == self.nodes[1].disk, "in sync, but the disks differ");
    }
}
