//! Makes the resources of a group from their settings, at the start and when the settings change.

use crate::runtime::config::group::What;
use crate::runtime::resource::address::FloatingAddress;
use crate::runtime::resource::dns::Dns;
use crate::runtime::resource::files::{SyncedFiles, Transport};
use crate::runtime::resource::filesystem::FileSystem;
use crate::runtime::resource::script::Script;
use crate::runtime::resource::service::Service;
use crate::runtime::resource::{Events, Resource};
use std::any::Any;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Makes the resources of one group.
pub struct Maker {
    /// Where they tell what happens to them.
    pub events: Events,
    /// Name of this node.
    pub node: String,
    /// Where synced files are kept.
    pub folder: PathBuf,
    /// The way to the same resources on the other server.
    pub way: Rc<Way>,
}

/// A resource as it was made.
pub struct Made {
    /// It.
    pub resource: Rc<dyn Resource>,
    /// The same, when it takes files from the other server.
    pub files: Option<Rc<SyncedFiles>>,
}

impl Maker {
    /// Makes a resource.
    pub fn make(&self, what: &What) -> Made {
        let mut files = None;
        let resource: Rc<dyn Resource> = match what.clone() {
            What::FileSystem(config) => Rc::new(FileSystem::new(config, self.events.clone())),
            What::Files(config) => {
                let (folder, way) = (self.folder.clone(), self.way.clone());
                let made = Rc::new(SyncedFiles::new(config, folder, &self.node, way, self.events.clone()));
                files = Some(made.clone());
                made
            }
            What::Address(config) => Rc::new(FloatingAddress::new(config, self.events.clone())),
            What::Dns(config) => Rc::new(Dns::new(config, self.events.clone())),
            What::Script(config) => Rc::new(Script::new(config)),
            What::Service(config) => Rc::new(Service::new(config, self.events.clone())),
        };
        Made { resource, files }
    }
}

/// The settings of the kind alone, as [`Resource::reconfigure`] takes them.
pub fn settings(what: &What) -> &dyn Any {
    match what {
        What::FileSystem(config) => config,
        What::Files(config) => config,
        What::Address(config) => config,
        What::Dns(config) => config,
        What::Script(config) => config,
        What::Service(config) => config,
    }
}

/// Whether a resource made anew has to be started again, which for these takes over what is there. The others keep
/// nothing between two verbs.
pub fn watches(what: &What) -> bool {
    matches!(what, What::Address(_) | What::Files(_) | What::Dns(_))
}

/// Files of a group on their way to the other server. The daemon's main thread sends them: what a bundle takes in time must
/// not hold up a heartbeat.
#[derive(Debug)]
pub struct Outgoing {
    /// Name of the group.
    pub group: String,
    /// Name of the resource.
    pub resource: String,
    /// The files.
    pub bundle: Vec<u8>,
    /// Whether they are kept there.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// The way of a group's files.
pub struct Way {
    /// Name of the group.
    pub group: String,
    /// To the main thread.
    pub out: mpsc::Sender<Outgoing>,
    /// One bundle in memory at a time, over all groups.
    pub turns: Rc<Semaphore>,
}

impl Transport for Way {
    fn send<'a>(
        &'a self,
        resource: &'a str,
        bundle: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + 'a>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let outgoing = Outgoing { group: self.group.clone(), resource: resource.to_string(), bundle, answer };
            self.out.send(outgoing).await.map_err(|_| ends())?;
            answered.await.map_err(|_| ends())?
        })
    }

    fn turns(&self) -> Option<Rc<Semaphore>> {
        Some(self.turns.clone())
    }
}

fn ends() -> String {
    "the daemon ends".into()
}
