//! Signs of life in the shared directory: the proof that both servers see the same one.
//!
//! Each look of a node replaces its own file with a higher counter and with what it sees of the other's. While the peer
//! is known to be alive, its file must keep changing here, and it must see ours; a directory that is only local, or a
//! copy, shows neither.

use super::SharedSpec;
use super::directory::read_bounded;
use crate::base::arbiter::{ArbiterError, ArbiterErrorKind};
use crate::runtime::arbiter::stored::Owner;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One node's signs, and what is known of the other's.
pub struct Presence {
    names: [String; 2],
    /// Index of this node.
    node: usize,
    sign_time: Duration,
    own: Sign,
    /// The peer's sign as last seen, and since when it has been that.
    peer: Option<(Sign, Instant)>,
    /// Since when the peer has been heard without a break.
    heard_since: Option<Instant>,
}

/// What stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sign {
    /// The process.
    incarnation: u64,
    /// Rises with each look.
    counter: u64,
    /// The process of the peer whose sign was seen.
    sees: Option<u64>,
}

impl Presence {
    /// Nothing was seen yet.
    pub fn new(spec: &SharedSpec, owner: &Owner) -> Presence {
        Presence {
            names: owner.nodes.clone(),
            node: usize::from(spec.node.0),
            sign_time: spec.sign_time,
            own: Sign { incarnation: spec.incarnation.0, counter: 0, sees: None },
            peer: None,
            heard_since: None,
        }
    }

    /// This node's file.
    pub fn own_file(&self, folder: &Path) -> PathBuf {
        folder.join(format!("alive.{}", self.names[self.node]))
    }

    /// The next content of this node's file.
    pub fn next(&mut self, folder: &Path) -> Vec<u8> {
        self.see_peer(folder);
        self.own.counter += 1;
        self.own.sees = self.peer.as_ref().map(|(sign, _)| sign.incarnation);
        serde_json::to_vec(&self.own).expect("a sign has no type that JSON can't hold")
    }

    /// Whether the directory is the same one on both servers: a note while that is not proven, an error when it is
    /// disproven. `peer_alive`: the peer is heard through the network.
    pub fn judge(&mut self, folder: &Path, peer_alive: bool) -> Result<Option<String>, ArbiterError> {
        let now = Instant::now();
        self.see_peer(folder);
        self.heard_since = peer_alive.then(|| self.heard_since.unwrap_or(now));
        let name = &self.names[1 - self.node];
        let Some(heard_since) = self.heard_since else {
            let proven = self.is_seen_by_peer();
            return Ok((!proven).then(|| format!("{name} has not been up: that it uses this directory is not proven")));
        };
        let disproven = |what: String| {
            let detail = format!("{}: {name} is alive, but {what}", folder.display());
            Err(ArbiterError::new(ArbiterErrorKind::NotShared, detail))
        };
        let patient = now.duration_since(heard_since) < self.sign_time;
        match &self.peer {
            _ if patient && self.is_seen_by_peer() => Ok(None),
            _ if patient => Ok(Some(format!("{name} has not shown yet that it uses this directory"))),
            None => disproven("its sign of life is not there".into()),
            Some((_, since)) if now.duration_since(*since) >= self.sign_time => {
                disproven(format!("its sign of life has not changed for {} s", now.duration_since(*since).as_secs()))
            }
            Some(_) if !self.is_seen_by_peer() => disproven("it does not see this node's sign of life".into()),
            Some(_) => Ok(None),
        }
    }

    fn is_seen_by_peer(&self) -> bool {
        self.peer.as_ref().is_some_and(|(sign, _)| sign.sees == Some(self.own.incarnation))
    }

    fn see_peer(&mut self, folder: &Path) {
        let file = folder.join(format!("alive.{}", self.names[1 - self.node]));
        // A file that is no sign is as good as none.
        let Some(sign) = read_bounded(&file).ok().and_then(|bytes| serde_json::from_slice::<Sign>(&bytes).ok()) else {
            return;
        };
        if self.peer.as_ref().is_none_or(|(last, _)| *last != sign) {
            self.peer = Some((sign, Instant::now()));
        }
    }
}
