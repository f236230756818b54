//! Binding unix sockets: a stale file of a dead daemon is replaced, a live one is not.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Binds a unix socket at `path` with the given permissions. The error is a reason and a next step.
///
/// Called before the daemon has threads: the permissions are set through the process's mask, so that the socket never
/// exists with wider ones.
pub fn bind(path: &Path, mode: u32) -> Result<UnixListener, (String, String)> {
    let shown = path.display();
    make_folder(path)?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err((format!("{shown} can't be looked at: {error}"), "check the path".into())),
        Ok(status) if !status.file_type().is_socket() => {
            return Err((
                format!("{shown} exists and is no socket"),
                "move it away, or choose another path for the socket".into(),
            ));
        }
        Ok(_) => remove_stale(path)?,
    }
    let old = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(!mode & 0o777));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(old);
    let listener = bound.map_err(|error| {
        (format!("the socket {shown} can't be bound: {error}"), "check the path and its permissions".to_string())
    })?;
    listener.set_nonblocking(true).map_err(|error| (format!("the socket {shown}: {error}"), String::new()))?;
    Ok(listener)
}

fn make_folder(path: &Path) -> Result<(), (String, String)> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|error| {
        let reason = format!("the directory {} can't be made: {error}", folder.display());
        (reason, "make it, or choose another path for the socket".into())
    })
}

/// Removes a socket file nobody listens at.
fn remove_stale(path: &Path) -> Result<(), (String, String)> {
    let shown = path.display();
    match UnixStream::connect(path) {
        Ok(_) => Err((
            format!("another process listens at {shown}"),
            "stop it, or choose another path for the socket".into(),
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(|error| {
            (format!("the stale socket {shown} can't be removed: {error}"), "remove it by hand".into())
        }),
        // Gone meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            let reason = format!("the socket {shown} is in use or can't be reached: {error}");
            Err((reason, "stop the process that uses it, or remove it by hand".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn stale_sockets_are_replaced_and_live_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/control.sock");
        let first = bind(&path, 0o600).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (reason, _) = bind(&path, 0o600).unwrap_err();
        assert!(reason.contains("another process listens at"), "{reason}");
        drop(first);
        assert!(path.exists(), "a socket's file outlives its listener");
        bind(&path, 0o600).unwrap();
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, "precious").unwrap();
        assert!(bind(&path, 0o600).unwrap_err().0.contains("is no socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
