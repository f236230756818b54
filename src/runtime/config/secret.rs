//! The shared secret: a file only its owner may read, the same on both servers.

use sha2::{Digest, Sha256};
use std::fmt;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Largest secret file, in bytes: one that is larger was named by mistake.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Secrets shorter than this, in bytes after trimming, are warned of: who records a connection can guess them.
const SECRET_BYTES_ADVISED: usize = 16;

/// The key both daemons derive from the shared secret. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// The key of these bytes: SHA-256 without the white space around them, so that a final newline doesn't matter.
    pub fn of(bytes: &[u8]) -> Secret {
        Secret(Sha256::digest(bytes.trim_ascii()).into())
    }
}

/// Reads the secret file, and says when it is weak. The error is a reason and a next step.
pub fn read(path: &Path) -> Result<(Secret, Option<String>), (String, String)> {
    let shown = path.display();
    let make =
        format!("make one with `(umask 077; head -c 32 /dev/urandom | base64 > {shown})`, the same on both servers");
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err((format!("the secret file {shown} does not exist"), make));
        }
        Err(error) => {
            let reason = format!("the secret file {shown} can't be opened: {error}");
            return Err((reason, "make it readable to the user the daemon runs as".into()));
        }
    };
    let failed = |error| (format!("the secret file {shown} can't be read: {error}"), "look at the file system".into());
    let status = file.metadata().map_err(failed)?;
    if !status.is_file() {
        return Err((format!("the secret {shown} is not a regular file"), make));
    }
    let mode = status.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let reason = format!("the secret file {shown} is open to others than its owner (mode {mode:04o})");
        return Err((reason, format!("run `chmod 600 {shown}`, and change the secret if others may have read it")));
    }
    let owner = status.uid();
    let user = nix::unistd::geteuid().as_raw();
    if owner != user && owner != 0 {
        let reason = format!("the secret file {shown} belongs to user {owner}, not to user {user} that reads it");
        return Err((reason, format!("run `chown {user} {shown}`")));
    }
    if status.len() > SECRET_BYTES_MAX {
        let reason = format!("the secret file {shown} has {} bytes, more than {SECRET_BYTES_MAX}", status.len());
        return Err((reason, make));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(SECRET_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    let length = bytes.trim_ascii().len();
    if length == 0 {
        return Err((format!("the secret file {shown} is empty"), make));
    }
    let warning = (length < SECRET_BYTES_ADVISED)
        .then(|| format!("the secret in {shown} has only {length} bytes and may be guessed; {make}"));
    Ok((Secret::of(&bytes), warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_does_not_count_and_nothing_is_shown() {
        assert_eq!(Secret::of(b"a long secret\n"), Secret::of(b" a long secret"));
        assert_ne!(Secret::of(b"a long secret"), Secret::of(b"a longer secret"));
        assert_eq!(format!("{:?}", Secret::of(b"a long secret")), "Secret(..)");
    }
}
