//! Makes the resources of a group from their settings, at the start and when the settings change.

use crate::runtime::config::group::What;
use crate::runtime::resource::address::FloatingAddress;
use crate::runtime::resource::filesystem::FileSystem;
use crate::runtime::resource::script::Script;
use crate::runtime::resource::service::Service;
use crate::runtime::resource::{Events, Resource};
use std::any::Any;
use std::rc::Rc;

/// Makes a resource; what happens to it is told to `events`.
pub fn make(what: &What, events: &Events) -> Rc<dyn Resource> {
    match what.clone() {
        What::FileSystem(config) => Rc::new(FileSystem::new(config, events.clone())),
        What::Address(config) => Rc::new(FloatingAddress::new(config, events.clone())),
        What::Script(config) => Rc::new(Script::new(config)),
        What::Service(config) => Rc::new(Service::new(config, events.clone())),
    }
}

/// The settings of the kind alone, as [`Resource::reconfigure`] takes them.
pub fn settings(what: &What) -> &dyn Any {
    match what {
        What::FileSystem(config) => config,
        What::Address(config) => config,
        What::Script(config) => config,
        What::Service(config) => config,
    }
}

/// Whether a resource made anew has to be started again, which for these takes over what is there. The others keep
/// nothing between two verbs.
pub fn watches(what: &What) -> bool {
    matches!(what, What::Address(_))
}
