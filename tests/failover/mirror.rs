//! A stand-in for the mirror: which writes each disk holds, which are durable, which were acknowledged; a session with one
//! ordered stream; a handshake by generations and memory, as the real one decides it. Data are numbers of writes.

use twinblock::base::generation::{Generation, Lineage, Relation};
use twinblock::base::ids::{BootId, Epoch, Incarnation};
use twinblock::base::state::{DiskState, Role};
use twinblock::logic::failover::interface::MirrorFacts;
use twinblock::wire::message::Continuity;

/// A set of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes(Vec<u64>);

impl Writes {
    pub fn insert(&mut self, write: u32) {
        let word = write as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (write % 64);
    }

    pub fn remove(&mut self, write: u32) {
        if let Some(word) = self.0.get_mut(write as usize / 64) {
            *word &= !(1 << (write % 64));
        }
    }

    pub fn unite(&mut self, other: &Writes) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine |= theirs;
        }
    }

    /// The writes of this set that the other lacks.
    pub fn missing_in<'a>(&'a self, other: &'a Writes) -> impl Iterator<Item = u32> + 'a {
        self.0.iter().enumerate().flat_map(move |(index, word)| {
            let lacking = word & !other.0.get(index).copied().unwrap_or(0);
            (0..64).filter(move |bit| lacking >> bit & 1 == 1).map(move |bit| (index * 64) as u32 + bit)
        })
    }
}

/// What survives a crash of the process; of power, only what is flushed.
#[derive(Clone, Debug)]
pub struct Disk {
    pub written: Writes,
    pub flushed: Writes,
    pub state: DiskState,
    pub lineage: Lineage,
    pub peer_outdated: bool,
    pub seen_epoch: Epoch,
    pub cache_epoch: u64,
    pub join: Option<(Incarnation, BootId)>,
}

/// A frame of the session.
#[derive(Clone, Debug)]
pub enum Frame {
    Write(u32),
    Written(u32),
    /// The target is up to date with these; the generation is this.
    Qualified(Writes, Lineage),
    Joined,
}

/// The session as one end sees it.
#[derive(Clone, Debug)]
pub struct Session {
    pub number: u64,
    pub with: Incarnation,
    pub source: bool,
    /// The stream carries every write, and acknowledgements wait for the peer.
    pub mirrors: bool,
    pub joined: bool,
    /// The copy is done but for the word.
    pub copied: bool,
    pub qualified: bool,
}

/// One end of the mirror, while its process lives.
#[derive(Clone, Debug)]
pub struct Mirror {
    pub role: Role,
    pub session: Option<Session>,
    /// This node acknowledges alone.
    pub alone: bool,
    pub quiescing: bool,
    /// On its way to go on alone: nothing is acknowledged.
    pub holding: bool,
    /// On its way to take over: no session is begun.
    pub prepared: bool,
    /// Orders up to this one are not carried out any more.
    pub cancelled: u64,
    pub failed: bool,
    /// Written here, not acknowledged.
    pub pending: Vec<u32>,
    /// Written there as well.
    pub confirmed: Writes,
    pub split: bool,
}

impl Disk {
    pub fn fresh() -> Disk {
        Disk {
            written: Writes::default(),
            flushed: Writes::default(),
            state: DiskState::UpToDate,
            lineage: Lineage::starting_at(Generation::ZEROED),
            peer_outdated: false,
            seen_epoch: Epoch(0),
            cache_epoch: 0,
            join: None,
        }
    }

    pub fn memory(&self, incarnation: Incarnation, boot: BootId) -> Continuity {
        match self.join {
            Some((life, _)) if life == incarnation => Continuity::SameProcess,
            Some((_, same)) if same == boot => Continuity::SameBoot,
            _ => Continuity::Rebooted,
        }
    }

    pub fn bump(&mut self, epoch: Epoch, nonce: u64) {
        let old = self.lineage.current;
        self.lineage.bump(Generation { epoch: epoch.0, nonce }, vec![old]);
        self.peer_outdated = true;
        self.state = DiskState::UpToDate;
        self.seen_epoch = self.seen_epoch.max(epoch);
    }

    pub fn flush(&mut self) {
        self.flushed = self.written.clone();
    }
}

impl Mirror {
    pub fn new() -> Mirror {
        Mirror {
            role: Role::Secondary,
            session: None,
            alone: false,
            quiescing: false,
            holding: false,
            prepared: false,
            cancelled: 0,
            failed: false,
            pending: Vec::new(),
            confirmed: Writes::default(),
            split: false,
        }
    }

    pub fn is_joined(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.joined)
    }

    pub fn facts(&self, disk: &Disk, incarnation: Incarnation, boot: BootId) -> MirrorFacts {
        let session = self.session.as_ref();
        let primary = self.role == Role::Primary;
        MirrorFacts {
            role: self.role,
            mixed: false,
            disk: if self.failed { DiskState::Diskless } else { disk.state },
            connected: session.is_some(),
            session_with: session.map(|session| session.with),
            in_sync: self.is_joined() && !self.failed,
            lossy: false,
            source: session.is_some_and(|session| session.source),
            wants_solo: primary && session.is_none() && !self.alone && !self.pending.is_empty() && !self.failed,
            peer_slow: false,
            wants_qualify: session.is_some_and(|session| session.source && session.copied && !session.qualified),
            wants_peer_only: false,
            peer_outdated: disk.peer_outdated,
            memory: disk.memory(incarnation, boot),
            suspect: false,
            split: self.split,
            generation: disk.lineage.current,
            seen_epoch: disk.seen_epoch,
            cache_epoch: disk.cache_epoch,
        }
    }
}

/// What the handshake decides: whether the first is the source, and whether the target must be brought up to date.
pub fn decide(a: (&Mirror, &Disk, Continuity), b: (&Mirror, &Disk, Continuity)) -> Option<(bool, bool)> {
    let relation = a.1.lineage.relation(&b.1.lineage);
    let (first, whole) = match relation {
        Relation::OursNewerMarks | Relation::OursNewerHistory => (true, false),
        Relation::TheirsNewerMarks | Relation::TheirsNewerHistory => (false, false),
        Relation::Fork | Relation::Unrelated => return None,
        Relation::Equal if a.0.role != b.0.role => (a.0.role == Role::Primary, true),
        Relation::Equal => {
            let rank = |(_, disk, memory): (&Mirror, &Disk, Continuity)| {
                (disk.state != DiskState::Inconsistent, memory, disk.state == DiskState::UpToDate)
            };
            (rank(a) >= rank(b), true)
        }
    };
    let (source, target) = if first { (a, b) } else { (b, a) };
    if target.0.role == Role::Primary || source.1.state == DiskState::Inconsistent || source.0.failed || target.0.failed
    {
        return None;
    }
    let same_memory = source.2 == Continuity::SameProcess && target.2 == Continuity::SameProcess;
    Some((
        first,
        whole && same_memory && target.1.state == DiskState::UpToDate && source.1.state == DiskState::UpToDate,
    ))
}
