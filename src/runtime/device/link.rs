//! The stable link to a volume's device. It leads to whatever number the kernel gave this time.

use std::io;
use std::path::Path;

/// Makes the link lead to the device. Refused when something else is at its place.
pub(super) fn set(link: &Path, device: &Path) -> Result<(), String> {
    check(link)?;
    let failed = |error: io::Error| format!("{} can't be made: {error}", link.display());
    if let Some(folder) = link.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let new = link.with_extension("new");
    if let Err(error) = std::fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed(error));
    }
    std::os::unix::fs::symlink(device, &new).and_then(|()| std::fs::rename(&new, link)).map_err(failed)
}

/// Whether the place is free, or has a link of ours.
pub(super) fn check(link: &Path) -> Result<(), String> {
    let taken = |what: String| {
        Err(format!("{} is taken by {what}: move that away, or set another `device_dir`", link.display()))
    };
    match std::fs::symlink_metadata(link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{} can't be looked at: {error}", link.display())),
        Ok(metadata) if metadata.is_symlink() => match std::fs::read_link(link) {
            Ok(to) if ["/dev/ublkb", "/dev/nbd"].iter().any(|ours| to.to_string_lossy().starts_with(ours)) => Ok(()),
            Ok(to) => taken(format!("a link to {}", to.display())),
            Err(error) => taken(format!("a link that can't be read ({error})")),
        },
        Ok(metadata) if metadata.is_dir() => taken("a directory".into()),
        Ok(_) => taken("a file".into()),
    }
}

/// Removes the link if it leads to the device.
pub(super) fn remove(link: &Path, device: &Path) {
    if std::fs::read_link(link).is_ok_and(|to| to == device)
        && let Err(error) = std::fs::remove_file(link)
    {
        tracing::warn!("{} can't be removed: {error}", link.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_of_ours_is_replaced_and_anything_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("devices").join("vol0");
        set(&link, Path::new("/dev/ublkb3")).unwrap();
        set(&link, Path::new("/dev/nbd2")).unwrap();
        set(&link, Path::new("/dev/ublkb4")).unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("/dev/ublkb4"));
        remove(&link, Path::new("/dev/ublkb3"));
        assert!(link.is_symlink(), "a link to another device stays");
        remove(&link, Path::new("/dev/ublkb4"));
        assert!(!link.is_symlink());

        std::fs::write(&link, "mine").unwrap();
        assert!(set(&link, Path::new("/dev/ublkb5")).unwrap_err().contains("taken by a file"));
        assert_eq!(std::fs::read(&link).unwrap(), b"mine");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/dev/sda", &link).unwrap();
        assert!(set(&link, Path::new("/dev/ublkb5")).unwrap_err().contains("a link to /dev/sda"));
    }
}
