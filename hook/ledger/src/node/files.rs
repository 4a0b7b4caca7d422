//! Files that root reads and writes: bounded, checked on the descriptor, replaced atomically.

use std::ffi::OsString;
use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The content of a regular file of at most `longest` bytes.
///
/// # Errors
/// The system's; [`ErrorKind::InvalidData`] where it is no regular file or longer.
pub fn read_bounded(path: &Path, longest: u64) -> Result<Vec<u8>> {
    read_opened(path, longest, false)
}

/// As [`read_bounded`], of a file that root owns and nobody else can write.
///
/// # Errors
/// As [`read_bounded`]; [`ErrorKind::PermissionDenied`] where it is not root's alone.
pub fn read_trusted(path: &Path, longest: u64) -> Result<Vec<u8>> {
    read_opened(path, longest, true)
}

fn read_opened(path: &Path, longest: u64, trusted: bool) -> Result<Vec<u8>> {
    // Not blocking: somebody may have put a fifo in its place.
    let flags = nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(Error::from(ErrorKind::InvalidData));
    }
    if trusted && (meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o022 != 0) {
        return Err(Error::from(ErrorKind::PermissionDenied));
    }
    // One read, and one that finds the end; a file of /proc does not tell its length.
    let expected = if meta.len() == 0 { 4096 } else { meta.len().min(longest).saturating_add(1) };
    let mut content = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    file.take(longest.saturating_add(1)).read_to_end(&mut content)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > longest {
        return Err(Error::from(ErrorKind::InvalidData));
    }
    Ok(content)
}

/// A bounded, trusted file of JSON; `None` where there is none.
///
/// # Errors
/// As [`read_trusted`]; [`ErrorKind::InvalidData`] where it is not what it should be.
pub fn read_json<T: DeserializeOwned>(path: &Path, longest: u64) -> Result<Option<T>> {
    match read_trusted(path, longest) {
        Ok(content) => serde_json::from_slice(&content)
            .map(Some)
            .map_err(|_| Error::from(ErrorKind::InvalidData)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes a folder and those above it, ours alone.
///
/// # Errors
/// The system's.
pub fn make_private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a folder that is ours alone, in one that others may enter: /run/gpuctl also holds the
/// service's socket.
///
/// # Errors
/// The system's.
pub fn make_dir_in_open(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_open_dir(parent)?;
    }
    make_private_dir(path)
}

/// Makes a folder and those above it, which others may enter and only we can change.
///
/// # Errors
/// The system's.
pub fn make_open_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Writes a file so that a reader, or the next boot, sees the old content or the new and nothing
/// between: a temporary file beside it, synced, then renamed.
///
/// # Errors
/// The system's; then the old content stands.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    replace_with(path, content, mode, true)
}

/// As [`replace`], without the sync: for files that need not outlast the boot.
///
/// # Errors
/// As [`replace`].
pub fn replace_unsynced(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    replace_with(path, content, mode, false)
}

fn replace_with(path: &Path, content: &[u8], mode: u32, sync: bool) -> Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(ErrorKind::InvalidInput)?);
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || -> Result<()> {
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW)
            .open(&temporary)?;
        file.write_all(content)?;
        if sync {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)?;
        if sync && let Some(parent) = path.parent() {
            std::fs::File::open(parent)?.sync_all()?;
        }
        Ok(())
    };
    let written = write();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// As [`replace`], as JSON, for root alone.
///
/// # Errors
/// As [`replace`].
pub fn replace_json(path: &Path, value: &impl Serialize, sync: bool) -> Result<()> {
    let content = serde_json::to_vec(value).map_err(|_| Error::from(ErrorKind::InvalidData))?;
    replace_with(path, &content, 0o600, sync)
}

/// Removes a file; not there is no fault.
///
/// # Errors
/// The system's.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_a_fifo_and_a_long_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, b"12345").unwrap();
        assert_eq!(read_bounded(&file, 5).unwrap(), b"12345");
        assert!(read_bounded(&file, 4).is_err());
        let link = dir.path().join("l");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(read_bounded(&link, 100).is_err());
        let fifo = dir.path().join("p");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read_bounded(&fifo, 100).is_err());
    }

    #[test]
    fn replace_leaves_no_temporary_file_and_keeps_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        replace(&file, b"a", 0o600).unwrap();
        replace(&file, b"b", 0o640).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"b");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_may_write_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, b"{}").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read_trusted(&file, 10).is_err());
    }
}
