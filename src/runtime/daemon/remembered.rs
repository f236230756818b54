//! What an operator said that a restart must not forget: one small file in the state directory for each such word.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Ending of the file that keeps a volume disconnected; its name is the volume's.
const DISCONNECTED: &str = "disconnected";

/// Whether the operator disconnected a volume and did not connect it since.
pub fn is_disconnected(state_dir: &Path, volume: &str) -> bool {
    mark(state_dir, volume).exists()
}

/// Remembers it, or that it is over, so that a power failure does not forget it.
pub fn set_disconnected(state_dir: &Path, volume: &str, disconnected: bool) -> io::Result<()> {
    let path = mark(state_dir, volume);
    if disconnected {
        File::create(&path)?.sync_all()?;
    } else if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    File::open(state_dir)?.sync_all()
}

fn mark(state_dir: &Path, volume: &str) -> PathBuf {
    state_dir.join(format!("{volume}.{DISCONNECTED}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_volume_is_remembered_by_itself_and_twice_is_as_good_as_once() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        assert!(!is_disconnected(state, "vol0"));
        for disconnected in [true, true, false, false] {
            set_disconnected(state, "vol0", disconnected).unwrap();
            assert_eq!((is_disconnected(state, "vol0"), is_disconnected(state, "vol1")), (disconnected, false));
        }
        assert!(set_disconnected(&state.join("gone"), "vol0", true).is_err());
    }
}
