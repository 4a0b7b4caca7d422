//! Files of ours: whole or not at all when written, within bounds when read.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use gpuctl_ledger::config::plain_io_error;
use nix::libc;

use super::GpuError;

/// The longest file of the kernel's that is read, in bytes.
const LONGEST_FACT: u64 = 16 * 1024;

/// A short text of /proc or /sys; `None` where it cannot be read.
pub(super) fn read_text(path: &Path) -> Option<String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    let mut text = String::new();
    file.take(LONGEST_FACT).read_to_string(&mut text).ok()?;
    Some(text)
}

/// A file of ours of at most `longest` bytes; `None` where there is none. Root takes no file that
/// others can write; the checks are on the opened file.
pub(super) fn read_own(path: &Path, longest: u64) -> Result<Option<Vec<u8>>, GpuError> {
    let unreadable = |e: &std::io::Error| GpuError::Unreadable(path.into(), plain_io_error(e));
    let wrong = |why: &str| GpuError::Wrong(path.into(), why.into());
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Err(wrong("it is a link")),
        Err(e) => return Err(unreadable(&e)),
    };
    let meta = file.metadata().map_err(|e| unreadable(&e))?;
    if !meta.is_file() {
        return Err(wrong("it is no plain file"));
    }
    if nix::unistd::geteuid().is_root() && (meta.uid() != 0 || meta.mode() & 0o022 != 0) {
        return Err(wrong("it is not root's alone"));
    }
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
    if bytes.len() as u64 > longest {
        return Err(wrong("it is too long"));
    }
    Ok(Some(bytes))
}

/// Puts `bytes` into place by a rename, synced, mode 0644: a reader finds the old file or the new
/// one, also after a power cut. The folder is made if it is not there.
pub(super) fn write_own(path: &Path, bytes: &[u8]) -> Result<(), GpuError> {
    let unwritable = |e: &std::io::Error| GpuError::Unwritable(path.into(), plain_io_error(e));
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(|e| unwritable(&e))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let token = gpuctl_ledger::model::Token::random().map_err(|e| unwritable(&e))?;
    let draft = folder.join(format!(".{name}.{token}"));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&draft)?;
        // Whatever the umask of who runs us: the hook and the plugin of any user read it.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        File::open(folder)?.sync_all()
    })();
    written.map_err(|e| {
        // Best effort: the draft may never have been made, or be in place already.
        let _ = std::fs::remove_file(&draft);
        unwritable(&e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/inventory.json");
        write_own(&path, b"one").unwrap();
        write_own(&path, b"two").unwrap();
        assert_eq!(read_own(&path, 3).unwrap().unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_plain_file_of_sane_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(read_own(&path, 3).unwrap(), None);
        std::fs::write(&path, "four").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_own(&path, 3), Err(GpuError::Wrong(_, w)) if w.contains("long")));
        assert!(read_own(&path, 4).unwrap().is_some());
        let link = dir.path().join("l");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read_own(&link, 9), Err(GpuError::Wrong(_, w)) if w.contains("link")));
        assert!(matches!(read_own(dir.path(), 9), Err(GpuError::Wrong(..))));
        if nix::unistd::geteuid().is_root() {
            std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
            assert!(matches!(read_own(&path, 9), Err(GpuError::Wrong(_, w)) if w.contains("root")));
        }
    }

    #[test]
    fn a_failed_write_leaves_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(write_own(&path, b"x"), Err(GpuError::Unwritable(..))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
