//! Two cores joined by queues, with disks that are done at once: what is left is the deciding.

use roaring::RoaringBitmap;
use std::time::Duration;
use twinblock::base::command::{Command, CommandOutcome};
use twinblock::base::generation::{Generation, Lineage};
use twinblock::base::ids::{BootId, BufferId, CommandId, Incarnation, NodeId, RequestId, SessionId, Uuid};
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::base::request::{Action, Request};
use twinblock::base::state::{DiskState, LinkState};
use twinblock::base::time::Moment;
use twinblock::logic::mirror::Mirror;
use twinblock::logic::mirror::interface::{Completion, DiskIo, Effect, Identity, Input, Settings};
use twinblock::wire::metadata::record::{Loaded, Superblock};

const VOLUME: Uuid = Uuid(7);
const SESSION: SessionId = SessionId(1);
/// Rounds of messages until everything that was handed in must have settled.
const ROUNDS_MAX: usize = 10_000;
/// Time that passes in a turn.
const TURN: Duration = Duration::from_micros(10);

/// A primary, which is node 0, and its secondary.
pub struct Pair {
    cores: [Mirror; 2],
    inboxes: [Vec<Input>; 2],
    /// Reused from turn to turn, as the daemon does.
    inputs: Vec<Input>,
    effects: Vec<Effect>,
    now: Moment,
    size_bytes: u64,
    random: u64,
    requests: u64,
    settled: u64,
    commanded: bool,
}

impl Pair {
    /// In sync, node 0 serving a volume of this size.
    pub fn in_sync(size_bytes: u64, adjust: impl Fn(&mut Settings)) -> Pair {
        let mut pair = Pair {
            cores: [0, 1].map(|node| core(node, size_bytes, &adjust)),
            inboxes: Default::default(),
            inputs: Vec::new(),
            effects: Vec::new(),
            now: Moment(1),
            size_bytes,
            random: 1,
            requests: 0,
            settled: 0,
            commanded: false,
        };
        for inbox in &mut pair.inboxes {
            inbox.push(Input::LinkUp { session: SESSION });
        }
        pair.pass(Duration::from_secs(1));
        pair.inboxes[0].push(Input::Command { id: CommandId(1), command: Command::Promote { force: false } });
        pair.pass(Duration::from_secs(1));
        let link = pair.cores[0].view(pair.now).link;
        assert!(pair.commanded && pair.cores[0].serving().is_some() && link == LinkState::Connected, "{link}");
        pair
    }

    /// The link is gone: node 0 goes on alone.
    pub fn alone(mut self) -> Pair {
        for inbox in &mut self.inboxes {
            inbox.push(Input::LinkDown { session: SESSION, reason: "cut".into() });
        }
        self.pass(Duration::from_secs(20));
        self.write(1, self.size_bytes);
        self
    }

    /// So many random writes of a block below `within` at once; returns when all are settled.
    pub fn write(&mut self, count: usize, within: u64) {
        for number in 0..count {
            let range = self.place(within);
            self.admit(Action::Write { range, buffer: BufferId(number as u32), fua: false });
        }
        self.run();
    }

    /// The same for reads.
    pub fn read(&mut self, count: usize, within: u64) {
        for number in 0..count {
            let range = self.place(within);
            self.admit(Action::Read { range, buffer: BufferId(number as u32) });
        }
        self.run();
    }

    /// One flush.
    pub fn flush(&mut self) {
        self.admit(Action::Flush);
        self.run();
    }

    fn place(&mut self, within: u64) -> ByteRange {
        // The constants are Knuth's; the upper half is random enough.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ByteRange::new((self.random >> 20) % (within / BLOCK) * BLOCK, BLOCK)
    }

    fn admit(&mut self, action: Action) {
        self.requests += 1;
        self.inboxes[0].push(Input::Request(Request { id: RequestId(self.requests), action }));
    }

    /// Turns until every request is settled and no message is left.
    fn run(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if self.inboxes.iter().all(Vec::is_empty) {
                assert_eq!(self.settled, self.requests, "nothing is left to do");
                return;
            }
            self.turns();
        }
        panic!("requests did not settle");
    }

    /// Lets time pass, with its timers.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.inboxes.iter_mut().for_each(|inbox| inbox.push(Input::Tick));
            self.turns();
            self.now = self.now + Duration::from_millis(10);
        }
    }

    /// One turn of each.
    fn turns(&mut self) {
        self.now = self.now + TURN;
        for node in 0..2 {
            std::mem::swap(&mut self.inputs, &mut self.inboxes[node]);
            for input in self.inputs.drain(..) {
                self.cores[node].handle(self.now, input, &mut self.effects);
            }
            self.cores[node].settle(self.now, &mut self.effects);
            self.carry_out(node);
        }
    }

    fn carry_out(&mut self, node: usize) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Disk { op, io } => {
                    let completion = match io {
                        DiskIo::Holes { range } => Completion::Holes(vec![range]),
                        DiskIo::ReadChunk { .. } => Completion::Chunk { buffer: None },
                        DiskIo::Digest { range } => Completion::Digests(vec![0; (range.length / BLOCK) as usize]),
                        _ => Completion::Done,
                    };
                    self.inboxes[node].push(Input::DiskDone { op, result: Ok(completion) });
                }
                Effect::Persist { op, .. } => self.inboxes[node].push(Input::Persisted { op, result: Ok(()) }),
                Effect::Send { session, frame } => self.inboxes[1 - node].push(Input::Frame { session, frame }),
                Effect::ProbePeer => self.inboxes[node].push(Input::PeerProbed { refused: true }),
                Effect::Reply { request } => {
                    assert_eq!(request.outcome, Ok(()));
                    self.settled += 1;
                }
                Effect::CommandDone { outcome, .. } => {
                    assert!(matches!(outcome, CommandOutcome::Done(_)), "{outcome:?}");
                    self.commanded = true;
                }
                Effect::Disconnect { reason, .. } => panic!("the session ends: {reason}"),
                _ => {}
            }
        }
    }
}

fn core(node: u8, size_bytes: u64, adjust: &impl Fn(&mut Settings)) -> Mirror {
    let mut settings = Settings::usual(NodeId(node), VOLUME);
    adjust(&mut settings);
    let shift = Superblock::region_shift_for(size_bytes);
    let blank = Superblock::blank(VOLUME, NodeId(node), Uuid(100 + u128::from(node)), shift);
    let lineage = Lineage::starting_at(Generation::ZEROED);
    let loaded = Loaded {
        superblock: Superblock { disk: DiskState::UpToDate, lineage, clean: false, ..blank },
        capacity_bytes: size_bytes,
        intents: RoaringBitmap::new(),
        dirty: RoaringBitmap::new(),
        suspect: RoaringBitmap::new(),
        maps_unreadable: false,
        superblock_suspect: false,
    };
    let number = 10 + u64::from(node);
    let identity = Identity { incarnation: Incarnation(number), boot: BootId(1), seed: number };
    Mirror::new(settings, identity, Some(loaded))
}
