//! Removes a tree of any depth, with at most three files open.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, IFlags};
use rustix::io::Errno;

use super::dir::{entries, open_in, open_root};
use super::error::{TreeError, name_path};
use super::file;
use super::meta::Meta;

/// Removes what is at a path, and all that is in it; not there is no fault. Links are removed, not
/// followed. What chattr protects is removed too. Where something is mounted in it, nothing below that
/// is touched and the rest stays as far as it had not been removed.
///
/// # Errors
/// [`TreeError`].
pub fn remove(path: &Path) -> Result<(), TreeError> {
    let (Some(name), Some(above)) = (path.file_name(), path.parent()) else {
        return Err(TreeError::system("remove", path, Errno::INVAL));
    };
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let failed = |why| TreeError::system("remove", path, why);
    let name = CString::new(name.as_bytes()).map_err(|_| failed(Errno::INVAL))?;
    let above = match open_root(above) {
        Ok(above) => above,
        Err(TreeError::System { why: Errno::NOENT, .. }) => return Ok(()),
        Err(why) => return Err(why),
    };
    let meta = match Meta::at(above.as_fd(), &name) {
        Ok(meta) => meta,
        Err(Errno::NOENT) => return Ok(()),
        Err(why) => return Err(failed(why)),
    };
    if meta.is_mount() {
        return Err(TreeError::Mount { path: path.to_owned() });
    }
    if meta.kind == FileType::Directory {
        Removing { device: meta.dev, root: path, stack: Vec::new() }.all(above.as_fd(), &name)?;
        return unlink(above.as_fd(), &name, AtFlags::REMOVEDIR).map_err(failed);
    }
    unlink(above.as_fd(), &name, AtFlags::empty()).map_err(failed)
}

/// Removes all that is in a directory, which stays as it is; as [`remove()`] otherwise.
///
/// # Errors
/// [`TreeError`].
pub fn clear(path: &Path) -> Result<(), TreeError> {
    let dir = open_root(path)?;
    let found = entries(dir.as_fd()).map_err(|why| TreeError::system("read", path, why))?;
    found.into_iter().try_for_each(|entry| remove(&path.join(name_path(&entry.name))))
}

struct Removing<'a> {
    device: u64,
    root: &'a Path,
    stack: Vec<Frame>,
}

/// A directory on the way to the one that is open.
struct Frame {
    name: CString,
    ino: u64,
    /// Directories in it that are left.
    left: Vec<CString>,
}

impl Removing<'_> {
    /// Removes all that is in a directory.
    fn all(&mut self, above: BorrowedFd<'_>, name: &CStr) -> Result<(), TreeError> {
        let mut at = self.enter(above, name)?;
        while let Some(frame) = self.stack.last_mut() {
            if let Some(name) = frame.left.pop() {
                at = self.enter(at.as_fd(), &name)?;
                continue;
            }
            let Some(empty) = self.stack.pop() else { break };
            let Some(frame) = self.stack.last() else { break };
            let failed = |why| TreeError::system("remove", &self.path(Some(&empty.name)), why);
            let back = open_in(at.as_fd(), c"..").map_err(failed)?;
            // Nobody moved it meanwhile, so this is not somewhere else.
            let meta = Meta::of(back.as_fd()).map_err(failed)?;
            if (meta.dev, meta.ino) != (self.device, frame.ino) {
                return Err(TreeError::Changed { path: self.path(Some(&empty.name)) });
            }
            unlink(back.as_fd(), &empty.name, AtFlags::REMOVEDIR).map_err(failed)?;
            at = back;
        }
        Ok(())
    }

    /// Opens a directory and removes all but the directories in it.
    fn enter(&mut self, above: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, TreeError> {
        let failed = |why| TreeError::system("remove", &self.path(Some(name)), why);
        // Asked by name: once something is mounted there, opening it gives what is mounted.
        if Meta::at(above, name).map_err(failed)?.is_mount() {
            return Err(TreeError::Mount { path: self.path(Some(name)) });
        }
        let dir = open_in(above, name).map_err(failed)?;
        let meta = Meta::of(dir.as_fd()).map_err(failed)?;
        if meta.dev != self.device {
            return Err(TreeError::Mount { path: self.path(Some(name)) });
        }
        if !meta.guards.is_empty() {
            unguard(dir.as_fd()).map_err(failed)?;
        }
        let found = entries(dir.as_fd()).map_err(failed)?;
        self.stack.push(Frame { name: name.to_owned(), ino: meta.ino, left: Vec::new() });
        let mut left = Vec::new();
        for entry in found {
            match unlink(dir.as_fd(), &entry.name, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR) => left.push(entry.name),
                Err(Errno::BUSY) => {
                    return Err(TreeError::Mount { path: self.path(Some(&entry.name)) });
                }
                Err(why) => {
                    return Err(TreeError::system("remove", &self.path(Some(&entry.name)), why));
                }
            }
        }
        if let Some(frame) = self.stack.last_mut() {
            frame.left = left;
        }
        Ok(dir)
    }

    /// The path of a name in the directory that is open.
    fn path(&self, name: Option<&CStr>) -> PathBuf {
        let mut path = self.root.to_owned();
        // The first frame is the root itself.
        let names = self.stack.iter().map(|frame| frame.name.as_c_str()).chain(name).skip(1);
        path.extend(names.map(name_path));
        path
    }
}

/// Removes a name; takes off first what chattr put on.
fn unlink(dir: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    let unlink = || match rustix::fs::unlinkat(dir, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    };
    match unlink() {
        Err(Errno::PERM) => {}
        other => return other,
    }
    let meta = Meta::at(dir, name)?;
    match meta.kind {
        FileType::Directory => unguard(open_in(dir, name)?.as_fd())?,
        FileType::RegularFile => unguard(file::open(dir, name)?.as_fd())?,
        _ => return Err(Errno::PERM),
    }
    unlink()
}

fn unguard(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = rustix::fs::ioctl_getflags(file)?;
    rustix::fs::ioctl_setflags(file, flags.difference(IFlags::IMMUTABLE | IFlags::APPEND))
}
