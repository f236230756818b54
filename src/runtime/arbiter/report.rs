//! What a look at the arbiter's health found, for `status`.

use crate::base::arbiter::ArbiterError;
use serde::Serialize;

/// The health of an arbiter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Each endpoint, or the directory.
    pub places: Vec<Place>,
    /// Why the arbiter can't be relied on; `None` when it can.
    pub trouble: Option<ArbiterError>,
    /// What is allowed but unwise, or not proven yet.
    pub notes: Vec<String>,
}

/// One endpoint or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Its name in the configuration.
    pub name: String,
    /// What it is, as it says: `etcd 3.4.23`, `directory`.
    pub what: String,
    /// What is wrong with it.
    pub trouble: Option<ArbiterError>,
}
