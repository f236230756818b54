//! Times in the configuration of resources, as people write them: `500ms`, `10s`. For `#[serde(with = "span")]`.

use crate::runtime::config::units::parse_time;
use serde::{Deserialize, Deserializer, Serializer, de::Error};
use std::time::Duration;

/// Writes a time so that it can be read again.
pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{}ms", span.as_millis()))
}

/// Reads a time.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_time(&text).map_err(|expected| D::Error::custom(format!("\"{text}\" is not understood: {expected}")))
}
