//! A password in a file that only its owner may read.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Longest password, in bytes: a longer file was named by mistake.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Reads it, without the line end. The error is a sentence and never shows what was read.
pub fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("the password file {shown} can't be read: {error}");
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "the password file {shown} is open to others than its owner (mode {mode:04o}); run `chmod 600 {shown}`"
        ));
    }
    let mut text = String::new();
    file.take(PASSWORD_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    let password = text.trim_end_matches(['\n', '\r']);
    match password.len() {
        0 => Err(format!("the password file {shown} is empty")),
        1..=PASSWORD_BYTES_MAX => Ok(password.to_string()),
        _ => Err(format!("the password file {shown} has more than {PASSWORD_BYTES_MAX} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_of_its_owner_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        assert!(read(&path).unwrap_err().contains("can't be read"));
        write(" se cret \n", 0o600);
        assert_eq!(read(&path).as_deref(), Ok(" se cret "));
        write("secret", 0o640);
        let refused = read(&path).unwrap_err();
        assert!(refused.contains("chmod 600") && !refused.contains("secret"), "{refused}");
        write("\n", 0o600);
        assert!(read(&path).unwrap_err().contains("empty"));
        write(&"x".repeat(PASSWORD_BYTES_MAX + 1), 0o600);
        assert!(read(&path).unwrap_err().contains("more than"));
    }
}
