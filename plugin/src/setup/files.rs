//! Files of the system, replaced whole: owner and mode stay, a reader sees the old text or the new.

use std::io::{Error, ErrorKind, Result, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use gpuctl_ledger::model::Timestamp;
use gpuctl_ledger::node::files;

/// Longest file that is compared, in bytes.
const LONGEST: u64 = 1 << 20;

/// Where a path leads: a link to a file elsewhere is followed, so that the file is replaced and not
/// the link.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn folder(path: &Path) -> Result<&Path> {
    path.parent().ok_or_else(|| Error::from(ErrorKind::InvalidInput))
}

/// The text of a file now; `None` where there is none.
///
/// # Errors
/// The system's.
pub(super) fn text(path: &Path) -> Result<Option<String>> {
    match files::read_bounded(&real(path), LONGEST) {
        Ok(bytes) => {
            String::from_utf8(bytes).map(Some).map_err(|_| Error::from(ErrorKind::InvalidData))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Keeps a file's text beside it, under a name with the time; that name.
///
/// # Errors
/// The system's.
pub(super) fn backup(path: &Path, text: &str) -> Result<PathBuf> {
    let real = real(path);
    let time: String = Timestamp::now().to_string().chars().filter(char::is_ascii_digit).collect();
    let mut name = real.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".gpuctl-{time}"));
    let copy = real.with_file_name(name);
    let mode = std::fs::metadata(&real)?.mode() & 0o7777;
    files::replace(&copy, text.as_bytes(), mode)?;
    Ok(copy)
}

/// Writes a file whole.
///
/// # Errors
/// The system's; then the old text stands.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let path = real(path);
    let folder = folder(&path)?;
    // What is for root alone lies in a folder of root's alone.
    let make = if mode & 0o077 == 0 { files::make_private_dir } else { files::make_open_dir };
    make(folder)?;
    let old = std::fs::metadata(&path).ok();
    let mode = old.as_ref().map_or(mode, |meta| meta.mode() & 0o7777);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(ErrorKind::InvalidInput)?);
    name.push(format!(".{}.tmp", std::process::id()));
    let draft = folder.join(name);
    let put = || -> Result<()> {
        files::remove(&draft)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW)
            .open(&draft)?;
        file.write_all(text.as_bytes())?;
        if let Some(old) = &old {
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    let done = put();
    if done.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    done
}

/// Makes a link, in place of whatever file or link is there.
///
/// # Errors
/// The system's.
pub(super) fn symlink(path: &Path, target: &Path) -> Result<()> {
    let folder = folder(path)?;
    files::make_open_dir(folder)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(ErrorKind::InvalidInput)?);
    name.push(format!(".{}.tmp", std::process::id()));
    let draft = folder.join(name);
    files::remove(&draft)?;
    std::os::unix::fs::symlink(target, &draft)?;
    std::fs::rename(&draft, path).inspect_err(|_| drop(std::fs::remove_file(&draft)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_and_owner_stay_and_a_link_leads_to_the_new_text() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("real.json"), dir.path().join("daemon.json"));
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real.json", &link).unwrap();
        let root = nix::unistd::geteuid().is_root();
        if root {
            std::os::unix::fs::chown(&file, Some(65534), Some(65534)).unwrap();
        }
        let copy = backup(&link, "old").unwrap();
        write(&link, "new", 0o644).unwrap();
        let meta = std::fs::metadata(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(meta.mode() & 0o7777, 0o640);
        assert!(!root || meta.uid() == 65534);
        assert!(link.symlink_metadata().unwrap().file_type().is_symlink());
        assert_eq!(std::fs::read_to_string(&copy).unwrap(), "old");
        assert_eq!(std::fs::metadata(&copy).unwrap().mode() & 0o7777, 0o640);
        symlink(&dir.path().join("a/b"), Path::new("../real.json")).unwrap();
        symlink(&dir.path().join("a/b"), Path::new("../real.json")).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a/b")).unwrap(), "new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
        let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().mode() & 0o777;
        write(&dir.path().join("state/own"), "x", 0o600).unwrap();
        write(&dir.path().join("etc/all"), "x", 0o644).unwrap();
        assert_eq!((mode("state"), mode("state/own")), (0o700, 0o600));
        assert_eq!((mode("etc"), mode("etc/all")), (0o755, 0o644));
    }
}
