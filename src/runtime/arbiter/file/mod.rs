//! A directory on storage that both servers share.
//!
//! ```text
//! DIRECTORY/CLUSTER.GROUP/
//!   store                          identity of the store, made once
//!   record.00000000000000000042    one file per revision, never changed; the highest is the record
//!   alive.alpha, alive.beta        each node's sign of life, with what it sees of the other's
//!   new.*                          being written; of no meaning
//! ```
//! **Why this is safe.** Revision 43 comes to be by `link`, which fails when the name exists: of all who saw 42, one
//! makes 43, and its content was whole and durable before. Nobody holds a lock, so none can be lost, broken or
//! forgotten: a server that was away for an hour finds that its 43 exists. Who made 43 looks once more whether there is
//! a higher one, so that not even a revision that was cleared away long ago can be made twice. "Won" is said when the
//! directory is durable too.
//!
//! **What the storage must keep:** `link` fails for a name that exists, whoever made it, and a file is whole once it was
//! flushed and linked. NFS version 3 and 4, GFS2, OCFS2 and CephFS say that they keep it, and so does a local file
//! system between processes of one machine. Each look changes the directory first (the sign of life), since NFS clients
//! remember a directory's content for up to a minute but drop it when they see it changed; a look that is stale all the
//! same only leads to a lost race, never to a won one. Tested on ext4 and tmpfs, and through two FUSE mounts that
//! remember names for a minute.
//!
//! **Not good:** directories that are copied from server to server, file systems without hard links, a local file system
//! on a disk that two servers mount, object stores, and a volume that this pair mirrors: it would wait for itself.
//! [`Directory::check`] tries the links, and each node's sign must be seen to change by the other, or the directory is
//! not the same one on both.
//!
//! | file | what it does |
//! |---|---|
//! | here | the thread that does the blocking calls, since shared storage may hang; time-outs |
//! | [`directory`] | the files |
//! | [`presence`] | the signs of life |

pub mod directory;
pub mod presence;

use self::directory::{Directory, Trouble};
use super::memory::Memory;
use super::register::{Entry, Seen, Swapped};
use super::report::Report;
use super::stored::Owner;
use crate::base::arbiter::{ArbiterError, ArbiterErrorKind};
use crate::base::ids::{Incarnation, NodeId};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Which directory, and who uses it.
#[derive(Clone, Debug)]
pub struct SharedSpec {
    /// It must exist: an empty mount point must not become an arbiter.
    pub directory: PathBuf,
    /// This node.
    pub node: NodeId,
    /// This process.
    pub incarnation: Incarnation,
    /// How long the peer may be heard without its sign changing.
    pub sign_time: Duration,
}

/// The register in a directory.
pub struct Shared {
    jobs: mpsc::Sender<Job>,
    place: String,
    /// The answer to a request that took too long: until it is there, the thread hangs in the storage.
    late: Option<(oneshot::Receiver<()>, Instant)>,
}

type Work = Box<dyn FnOnce(&mut Directory) + Send>;

struct Job {
    work: Work,
    /// Dropped when the work is done.
    done: oneshot::Sender<()>,
}

impl Shared {
    /// The register of a group. Nothing is looked at yet.
    pub fn new(spec: &SharedSpec, owner: &Owner) -> Shared {
        let mut directory = Directory::new(spec, owner);
        let place = directory.place();
        let (jobs, receiver) = mpsc::channel::<Job>();
        // It ends with the last sender. One that hangs in the storage ends with the process.
        let spawned = std::thread::Builder::new().name("arbiter".into()).spawn(move || {
            while let Ok(Job { work, done }) = receiver.recv() {
                work(&mut directory);
                drop(done);
            }
        });
        if let Err(error) = spawned {
            tracing::error!("the thread for {place} can't be started: {error}; every request to it will fail");
        }
        Shared { jobs, place, late: None }
    }

    /// Names the register in messages.
    pub fn place(&self) -> String {
        self.place.clone()
    }

    /// Looks at the record.
    pub async fn read(&mut self, deadline: Instant) -> Result<Seen, ArbiterError> {
        match self.run(deadline, |directory| directory.read()).await {
            Ok(read) => read.map_err(|trouble| trouble.error),
            Err(Missing::NotAsked(error) | Missing::NoAnswer(error)) => Err(error),
        }
    }

    /// Puts `new` where `expected` stands.
    pub async fn swap(&mut self, expected: Option<&Entry>, new: &[u8], memory: &Memory, deadline: Instant) -> Swapped {
        let (expected, new, memory) = (expected.cloned(), new.to_vec(), memory.clone());
        match self.run(deadline, move |directory| directory.swap(expected.as_ref(), &new, &memory)).await {
            Ok(Ok((true, seen))) => Swapped::Won(seen),
            Ok(Ok((false, seen))) => Swapped::Lost(seen),
            Ok(Err(Trouble { error, perhaps_done: true })) | Err(Missing::NoAnswer(error)) => Swapped::Unknown(error),
            Ok(Err(Trouble { error, perhaps_done: false })) | Err(Missing::NotAsked(error)) => Swapped::Refused(error),
        }
    }

    /// Looks at the directory itself, and for the peer's sign.
    pub async fn check(&mut self, peer_alive: bool, deadline: Instant) -> Report {
        match self.run(deadline, move |directory| directory.check(peer_alive)).await {
            Ok(report) => report,
            Err(Missing::NotAsked(error) | Missing::NoAnswer(error)) => {
                Report { trouble: Some(error), ..Report::default() }
            }
        }
    }

    /// Has the thread do something; answered by the deadline.
    async fn run<T: Send + 'static>(
        &mut self,
        deadline: Instant,
        work: impl FnOnce(&mut Directory) -> T + Send + 'static,
    ) -> Result<T, Missing> {
        if let Some((mut late, since)) = self.late.take()
            && late.try_recv() == Err(oneshot::error::TryRecvError::Empty)
        {
            let error = self.hangs(since);
            self.late = Some((late, since));
            return Err(Missing::NotAsked(error));
        }
        let since = Instant::now();
        let (answer, answered) = oneshot::channel();
        let (done, late) = oneshot::channel();
        let work = Box::new(move |directory: &mut Directory| drop(answer.send(work(directory))));
        let stopped = || {
            let detail = format!("{}: its thread has ended, which is a bug; restart the daemon", self.place);
            ArbiterError::new(ArbiterErrorKind::Unreachable, detail)
        };
        self.jobs.send(Job { work, done }).map_err(|_| Missing::NotAsked(stopped()))?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Missing::NoAnswer(stopped())),
            Err(_) => {
                let error = self.hangs(since);
                self.late = Some((late, since));
                Err(Missing::NoAnswer(error))
            }
        }
    }

    fn hangs(&self, since: Instant) -> ArbiterError {
        let detail = format!("{}: the storage has not answered for {} ms", self.place, since.elapsed().as_millis());
        ArbiterError::new(ArbiterErrorKind::TimedOut, detail)
    }
}

/// Why there is no answer of the thread.
enum Missing {
    NotAsked(ArbiterError),
    NoAnswer(ArbiterError),
}
