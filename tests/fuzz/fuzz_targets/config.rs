//! Configuration files: refused with at least one reason that names the file, or read into a whole configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use twinblock::runtime::config::{Depth, parse};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse(Path::new("pair.toml"), text, Some("alpha"), "", Depth::File) {
        Ok(config) => {
            assert_eq!(config.nodes[usize::from(config.node.0)].name, "alpha");
            assert!(config.volumes.iter().all(|volume| config.volume(&volume.name).is_some()));
        }
        Err(problems) => assert!(!problems.list.is_empty() && problems.to_string().contains("pair.toml")),
    }
});
