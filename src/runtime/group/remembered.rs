//! What a node must remember of its groups across restarts: one small file for each, replaced whole.

use crate::base::group::Memory;
use crate::io::files::write_atomically;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file of a group.
pub fn file(state_dir: &Path, group: &str) -> PathBuf {
    state_dir.join(format!("group.{group}.json"))
}

/// Reads what was remembered; nothing when there is no file yet. The error is a sentence.
pub fn load(file: &Path) -> Result<Memory, String> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Memory::default()),
        Err(error) => return Err(format!("{} can't be read: {error}; correct its permissions", file.display())),
    };
    serde_json::from_str(&text).map_err(|error| {
        format!(
            "{} is damaged ({error}): what the operators last wanted of the group is not known; remove it to begin anew",
            file.display()
        )
    })
}

/// Makes it durable.
pub fn save(file: &Path, memory: &Memory) -> io::Result<()> {
    write_atomically(file, &serde_json::to_vec(memory)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Epoch;

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path(), "db");
        assert_eq!(load(&file), Ok(Memory::default()));
        let memory = Memory { deactivated: true, arbiter_epoch: Epoch(7), ..Memory::default() };
        save(&file, &memory).unwrap();
        save(&file, &memory).unwrap();
        assert_eq!(load(&file), Ok(memory));
        fs::write(&file, "{\"wish\":").unwrap();
        assert!(load(&file).unwrap_err().contains("group.db.json is damaged"));
    }
}
