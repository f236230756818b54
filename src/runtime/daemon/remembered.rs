//! What an operator said that a restart must not forget: one small file in the state directory for each such word.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Ending of the file that keeps a volume disconnected; its name is the volume's.
const DISCONNECTED: &str = "disconnected";
/// Ending of the file that says since when a volume's servers are apart.
const APART: &str = "apart";

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

/// Since when a volume's servers are apart, as this one saw it, in seconds since 1970.
pub fn apart_since(state_dir: &Path, volume: &str) -> Option<u64> {
    std::fs::read_to_string(apart(state_dir, volume)).ok()?.trim().parse().ok()
}

/// The servers are apart from now on, if they were not before. Only a note for people: not worth a sync.
pub fn set_apart(state_dir: &Path, volume: &str) -> io::Result<()> {
    let path = apart(state_dir, volume);
    if path.exists() {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs());
    std::fs::write(path, format!("{now}\n"))
}

/// The servers are together again.
pub fn clear_apart(state_dir: &Path, volume: &str) -> io::Result<()> {
    match std::fs::remove_file(apart(state_dir, volume)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn apart(state_dir: &Path, volume: &str) -> PathBuf {
    state_dir.join(format!("{volume}.{APART}"))
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

    #[test]
    fn the_first_moment_apart_is_kept_until_both_are_together() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        assert_eq!(apart_since(state, "vol0"), None);
        set_apart(state, "vol0").unwrap();
        assert!(apart_since(state, "vol0").is_some_and(|since| since > 1_700_000_000));
        std::fs::write(state.join("vol0.apart"), "77\n").unwrap();
        set_apart(state, "vol0").unwrap();
        assert_eq!((apart_since(state, "vol0"), apart_since(state, "vol1")), (Some(77), None));
        clear_apart(state, "vol0").unwrap();
        clear_apart(state, "vol0").unwrap();
        assert_eq!(apart_since(state, "vol0"), None);
    }
}
