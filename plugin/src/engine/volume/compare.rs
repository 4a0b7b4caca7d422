//! Whether a copy is what it is a copy of: every path, its kind, mode, owner, times, size, links and
//! attributes, and, unless told otherwise, every byte.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use gpuctl_ledger::config::plain_io_error;
use rustix::io::Errno;

use super::super::api::Failure;
use crate::tree::{Progress, Step, Watch};

/// So much of two files is compared at a time, in bytes.
const PIECE: usize = 256 << 10;
/// The longest list of names of attributes, and the longest attribute, that the kernel has.
const LONGEST: usize = 64 << 10;

/// What is looked at.
struct Comparing<'a> {
    from: &'a Path,
    to: &'a Path,
    content: bool,
    watch: &'a dyn Watch,
    done: Progress,
    /// Of files with several names, the inode in the copy by that in the first tree.
    linked: HashMap<u64, u64>,
}

/// Compares two trees.
///
/// # Errors
/// [`Failure`] that names the first path in which they differ.
pub(super) fn compare(
    from: &Path,
    to: &Path,
    content: bool,
    watch: &dyn Watch,
) -> Result<(), Failure> {
    let done = Progress { step: Step::Compare, entries: 0, bytes: 0 };
    let mut comparing = Comparing { from, to, content, watch, done, linked: HashMap::new() };
    comparing.entry(Path::new(""))?;
    let mut left = vec![PathBuf::new()];
    while let Some(folder) = left.pop() {
        let (mine, theirs) = (names(&from.join(&folder))?, names(&to.join(&folder))?);
        if let Some(name) =
            mine.keys().find(|n| !theirs.contains_key(*n) && mine.get(*n) != Some(&true))
        {
            return Err(differs(&folder.join(name), "is missing in the copy"));
        }
        if let Some(name) = theirs.keys().find(|n| !mine.contains_key(*n)) {
            return Err(differs(&folder.join(name), "is only in the copy"));
        }
        for name in theirs.keys() {
            let path = folder.join(name);
            if comparing.entry(&path)? {
                left.push(path);
            }
        }
    }
    Ok(())
}

/// The names in a folder, and whether each is a socket: nobody listens on the copy of one, so there is
/// none.
fn names(folder: &Path) -> Result<BTreeMap<OsString, bool>, Failure> {
    let unread = |e: std::io::Error| unread(folder, &e);
    let mut names = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        names.insert(entry.file_name(), entry.file_type().is_ok_and(|t| t.is_socket()));
    }
    Ok(names)
}

fn unread(path: &Path, e: &std::io::Error) -> Failure {
    Failure::new(format!("{} cannot be compared: {}", path.display(), plain_io_error(e)))
}

fn differs(path: &Path, what: &str) -> Failure {
    Failure::new(format!("the copy is not what it is a copy of: {path:?} {what}"))
        .hint("somebody may be writing to the volume, or the disk is broken; nothing was changed")
}

impl Comparing<'_> {
    /// Compares one path; whether it is a folder.
    fn entry(&mut self, path: &Path) -> Result<bool, Failure> {
        if self.watch.stopped() {
            return Err(Failure::new("interrupted: the copy was removed again")
                .code(crate::client::signals::INTERRUPTED_CODE));
        }
        let (mine, theirs) = (self.from.join(path), self.to.join(path));
        let meta = |path: &Path| std::fs::symlink_metadata(path).map_err(|e| unread(path, &e));
        let (a, b) = (meta(&mine)?, meta(&theirs)?);
        if let Some(what) = metadata_differs(&a, &b) {
            return Err(differs(path, what));
        }
        if !a.is_dir() && a.nlink() > 1 && *self.linked.entry(a.ino()).or_insert(b.ino()) != b.ino()
        {
            return Err(differs(path, "is linked otherwise"));
        }
        if attributes(&mine)? != attributes(&theirs)? {
            return Err(differs(path, "has other attributes"));
        }
        if a.is_symlink() {
            let target = |path: &Path| std::fs::read_link(path).map_err(|e| unread(path, &e));
            if target(&mine)? != target(&theirs)? {
                return Err(differs(path, "points elsewhere"));
            }
        }
        if a.is_file() && self.content {
            if !same_content(&mine, &theirs, self.watch)? {
                return Err(differs(path, "has another content"));
            }
            self.done.bytes += a.len();
        }
        self.done.entries += 1;
        if self.done.entries.is_multiple_of(64) {
            self.watch.progress(self.done);
        }
        Ok(a.is_dir())
    }
}

/// In what two files differ, without their content. How long a folder is, and how many links it has, is
/// its filesystem's affair.
fn metadata_differs(a: &Metadata, b: &Metadata) -> Option<&'static str> {
    let is_dir = a.is_dir();
    // Overlay's mark of a removed file: the kernel shares one inode, which has a name outside of the layer.
    let whiteout = a.file_type().is_char_device() && a.rdev() == 0;
    let pairs = [
        (a.mode() == b.mode(), "has another kind or mode"),
        ((a.uid(), a.gid()) == (b.uid(), b.gid()), "has another owner"),
        ((a.mtime(), a.mtime_nsec()) == (b.mtime(), b.mtime_nsec()), "has another time"),
        (a.rdev() == b.rdev(), "is another device"),
        (is_dir || a.len() == b.len(), "has another length"),
        (is_dir || whiteout || a.nlink() == b.nlink(), "has another number of links"),
    ];
    pairs.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
}

/// All extended attributes, ACLs among them.
fn attributes(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Failure> {
    let failed = |why: Errno| unread(path, &why.into());
    let mut names = vec![0u8; LONGEST];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(why) => return Err(failed(why)),
    };
    let mut found = BTreeMap::new();
    let names = names.get(..length).unwrap_or_default();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0u8; LONGEST];
        let length = rustix::fs::lgetxattr(path, name, &mut value).map_err(failed)?;
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

/// Opened without a change to its time of access.
fn open(path: &Path) -> Result<File, Failure> {
    let flags = nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW | nix::libc::O_NOATIME;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| unread(path, &e))
}

fn same_content(mine: &Path, theirs: &Path, watch: &dyn Watch) -> Result<bool, Failure> {
    let (mut a, mut b) = (open(mine)?, open(theirs)?);
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let got = read_full(&mut a, &mut left).map_err(|e| unread(mine, &e))?;
        let also = read_full(&mut b, &mut right).map_err(|e| unread(theirs, &e))?;
        if got != also || left.get(..got) != right.get(..also) {
            return Ok(false);
        }
        if got < PIECE || watch.stopped() {
            return Ok(true);
        }
    }
}

fn read_full(file: &mut File, piece: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = piece.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Options, Stop, copy};
    use std::os::unix::fs::PermissionsExt;

    /// A tree and its copy.
    fn trees() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::create_dir_all(from.join("d/.e")).unwrap();
        std::fs::write(from.join("d/f"), vec![7; 300_000]).unwrap();
        std::fs::hard_link(from.join("d/f"), from.join("again")).unwrap();
        std::os::unix::fs::symlink("/nowhere", from.join("link")).unwrap();
        copy(&from, &to, &Options::default(), &Stop::new()).unwrap();
        (folder, from, to)
    }

    #[test]
    fn a_copy_is_the_same_and_whatever_is_changed_is_found() {
        let (_folder, from, to) = trees();
        compare(&from, &to, true, &Stop::new()).unwrap();
        let keep_time = |path: &Path, change: &dyn Fn(&Path)| {
            let time = std::fs::metadata(path).unwrap().modified().unwrap();
            change(path);
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        type Change = fn(&Path);
        let changes: [Change; 7] = [
            |to| std::fs::remove_file(to.join("link")).unwrap(),
            |to| std::fs::write(to.join("d/.e/x"), "").unwrap(),
            |to| {
                std::fs::set_permissions(to.join("d/f"), PermissionsExt::from_mode(0o4600)).unwrap()
            },
            |to| File::options().write(true).open(to.join("d/f")).unwrap().set_len(9).unwrap(),
            |to| {
                std::fs::remove_file(to.join("link")).unwrap();
                std::os::unix::fs::symlink("/elsewhe", to.join("link")).unwrap();
            },
            |to| std::fs::remove_dir(to.join("d/.e")).unwrap(),
            |to| {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::setxattr(to.join("d"), "user.x", b"y", flags).unwrap();
            },
        ];
        for (place, change) in changes.iter().enumerate() {
            let (_folder, from, to) = trees();
            change(&to);
            let why = compare(&from, &to, true, &Stop::new());
            assert!(why.is_err(), "change {place} was not found");
        }
        // One byte in the middle, with the time as it was.
        keep_time(&to.join("d/f"), &|path| {
            use std::os::unix::fs::FileExt as _;
            File::options().write(true).open(path).unwrap().write_at(b"x", 200_000).unwrap();
        });
        let why = compare(&from, &to, true, &Stop::new()).unwrap_err();
        assert!(why.message.contains("content"), "{why}");
        compare(&from, &to, false, &Stop::new()).unwrap();
    }
}
