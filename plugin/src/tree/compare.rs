//! Two trees, compared in all that a copy is to keep.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::dir::{Dirs, Kept, Opened, entries, open_root};
use super::error::TreeError;
use super::file;
use super::meta::Meta;
use super::pool::{self, Done, Pool, Work};
use super::same::{self, Pair, Proofs};
use super::watch::{Step, Watch};
use super::xattr::{self, Attributes, Bearer, Room};

/// So many entries of a directory are one job.
const BATCH: usize = 128;
/// So many differences are told.
const TOLD: usize = 50;

/// How trees are compared.
#[derive(Debug, Clone, Default)]
pub struct Compare {
    /// The bytes of files too.
    pub content: bool,
    /// Extended attributes, by whole names, that may differ.
    pub skip_xattrs: Vec<String>,
}

/// What differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// The first 50, one line each, for the user.
    pub lines: Vec<String>,
    /// All of them.
    pub count: u64,
}

impl Differences {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Compares two trees: every name, and of each its type, mode, owner, size, device, extended
/// attributes, time of modification, chattr's guards, target of a link, content, and which names
/// are one file. Not: times of access, which a look may change; how much is on the disk; and sockets
/// of `a`, which no copy has.
///
/// # Errors
/// [`TreeError`]. That they differ is no error.
pub fn compare(
    a: &Path,
    b: &Path,
    how: &Compare,
    watch: &dyn Watch,
) -> Result<Differences, TreeError> {
    let dirs = Dirs::new([open_root(a)?, open_root(b)?])
        .map_err(|why| TreeError::system("read", a, why))?;
    let comparing = Comparing {
        dirs,
        how,
        done: Done::default(),
        proofs: Proofs::default(),
        found: Mutex::new(Found::default()),
    };
    comparing.root()?;
    pool::run(&comparing, vec![Job::Directory(0)], watch, Step::Compare, &comparing.done)?;
    let several = std::mem::take(&mut comparing.found().several);
    comparing.links(several);
    let mut found = comparing.found();
    let mut differences = std::mem::take(&mut found.differences);
    differences.lines.sort_unstable();
    Ok(differences)
}

pub(super) struct Comparing<'a> {
    pub(super) dirs: Dirs<2>,
    how: &'a Compare,
    pub(super) done: Done,
    pub(super) proofs: Proofs,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    differences: Differences,
    several: Vec<Several>,
}

/// A file that has several names in either tree: its inode in each.
struct Several {
    inodes: (u64, u64),
    name: (usize, CString),
}

pub(super) enum Job {
    Directory(usize),
    Entries(Arc<Opened<2>>, Vec<CString>),
    Piece(Arc<Pair>, (u64, u64)),
}

#[derive(Default)]
pub(super) struct Local {
    kept: Kept<2>,
    xattrs: Room,
    pub(super) bytes: [Vec<u8>; 2],
}

impl Work for Comparing<'_> {
    type Job = Job;
    type Local = Local;

    fn job(&self, job: Job, local: &mut Local, pool: &Pool<Job>) -> Result<(), TreeError> {
        match job {
            Job::Directory(id) => self.directory(id, local, pool),
            Job::Entries(dir, names) => {
                let mut left = names.into_iter();
                while let Some(name) = left.next() {
                    pool.go_on()?;
                    let pieces = self.entry(&dir, name, local, pool)?;
                    if !pieces.is_empty() {
                        // First the large file, which is open, then the rest: so few are open at once.
                        let rest = Job::Entries(dir, left.collect());
                        pool.push(std::iter::once(rest).chain(pieces));
                        return Ok(());
                    }
                }
                Ok(())
            }
            Job::Piece(pair, range) => pair.piece(self, range, local, pool),
        }
    }
}

impl Comparing<'_> {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a difference.
    pub(super) fn differs(&self, dir: usize, name: &CStr, what: &str) {
        let path = self.dirs.path_in(dir, name);
        let Differences { lines, count } = &mut self.found().differences;
        *count += 1;
        if lines.len() < TOLD {
            lines.push(format!("{path:?}: {what}"));
        }
    }

    fn root(&self) -> Result<(), TreeError> {
        let [a, b] = self.dirs.roots();
        let failed = |why| TreeError::system("read", Path::new("."), why);
        let of = |fd| Meta::of(fd).map_err(failed);
        let (one, other) = (of(a.as_fd())?, of(b.as_fd())?);
        let bearers = [Bearer::Open(a.as_fd()), Bearer::Open(b.as_fd())];
        self.metas(0, c"", [&one, &other], bearers, &mut Room::default())
    }

    fn directory(&self, id: usize, local: &mut Local, pool: &Pool<Job>) -> Result<(), TreeError> {
        let dir = self.dirs.open(id, &mut local.kept)?;
        let [a, b] = &dir.fds;
        let failed = |why| TreeError::system("read", &self.dirs.path(id), why);
        let names = |fd| {
            let mut names: Vec<CString> =
                entries(fd).map_err(failed)?.into_iter().map(|entry| entry.name).collect();
            names.sort_unstable();
            Ok::<_, TreeError>(names)
        };
        let (ours, theirs) = (names(a.as_fd())?, names(b.as_fd())?);
        for name in theirs.iter().filter(|name| ours.binary_search(name).is_err()) {
            self.differs(id, name, "is in the second only");
        }
        let (both, ours): (Vec<CString>, Vec<CString>) =
            ours.into_iter().partition(|name| theirs.binary_search(name).is_ok());
        for name in ours {
            let meta = Meta::at(a.as_fd(), &name).map_err(failed)?;
            if meta.kind != FileType::Socket {
                self.differs(id, &name, "is in the first only");
            }
        }
        let batches = both.chunks(BATCH);
        pool.push(batches.rev().map(|names| Job::Entries(Arc::clone(&dir), names.to_vec())));
        Ok(())
    }

    /// Compares what a name stands for, or gives the jobs that do.
    fn entry(
        &self,
        dir: &Arc<Opened<2>>,
        name: CString,
        local: &mut Local,
        pool: &Pool<Job>,
    ) -> Result<Vec<Job>, TreeError> {
        let [a, b] = &dir.fds;
        let (a, b) = (a.as_fd(), b.as_fd());
        let failed = |why| TreeError::system("read", &self.dirs.path_in(dir.id, &name), why);
        let (one, other) =
            (Meta::at(a, &name).map_err(failed)?, Meta::at(b, &name).map_err(failed)?);
        self.done.entry();
        // By their descriptors attributes are had quicker.
        let both = [&one, &other].iter().all(|meta| meta.kind == FileType::RegularFile);
        let open = |dir| file::open(dir, &name).map_err(failed);
        let fds = if both { Some([open(a)?, open(b)?]) } else { None };
        let bearers = match &fds {
            Some([a, b]) => [Bearer::Open(a.as_fd()), Bearer::Open(b.as_fd())],
            None => [Bearer::Named(a, &name), Bearer::Named(b, &name)],
        };
        self.metas(dir.id, &name, [&one, &other], bearers, &mut local.xattrs)?;
        if one.kind != other.kind {
            return Ok(Vec::new());
        }
        if one.kind == FileType::Directory {
            let id = self.dirs.add(dir.id, name);
            pool.push([Job::Directory(id)]);
            return Ok(Vec::new());
        }
        if one.nlink > 1 || other.nlink > 1 {
            let inodes = (one.ino, other.ino);
            let name = (dir.id, name.clone());
            self.found().several.push(Several { inodes, name });
        }
        if one.kind == FileType::Symlink {
            let target = |fd| rustix::fs::readlinkat(fd, &name, Vec::new()).map_err(failed);
            if target(a)? != target(b)? {
                self.differs(dir.id, &name, "leads elsewhere");
            }
        }
        match fds {
            Some(fds) if self.how.content && one.size == other.size => {
                same::content(self, dir, name, [one, other], fds, local, pool)
            }
            _ => Ok(Vec::new()),
        }
    }

    fn metas(
        &self,
        dir: usize,
        name: &CStr,
        [a, b]: [&Meta; 2],
        bearers: [Bearer<'_>; 2],
        room: &mut Room,
    ) -> Result<(), TreeError> {
        let differs = |what: &str| self.differs(dir, name, what);
        if a.kind != b.kind {
            differs(&format!("is a {} and a {}", kind(a.kind), kind(b.kind)));
            return Ok(());
        }
        if a.mode != b.mode {
            differs(&format!("mode {:04o} and {:04o}", a.mode, b.mode));
        }
        if (a.uid, a.gid) != (b.uid, b.gid) {
            differs(&format!("owner {}:{} and {}:{}", a.uid, a.gid, b.uid, b.gid));
        }
        // Of a directory it is the file system's own affair.
        if a.size != b.size && a.kind != FileType::Directory {
            differs(&format!("{} and {} bytes", a.size, b.size));
        }
        if a.rdev != b.rdev {
            let ((a, b), (c, d)) = (a.rdev, b.rdev);
            differs(&format!("device {a}:{b} and {c}:{d}"));
        }
        if a.mtime != b.mtime {
            let ((a, b), (c, d)) = (a.mtime, b.mtime);
            differs(&format!("changed at {a}.{b:09} and {c}.{d:09}"));
        }
        // Fifos and devices have them only where their file system opens them itself.
        if a.guards != b.guards && [FileType::RegularFile, FileType::Directory].contains(&a.kind) {
            differs("what chattr protects");
        }
        let [a, b] = bearers;
        let mut read = |bearer: Bearer<'_>| {
            bearer.read(&self.how.skip_xattrs, room).map_err(|why: Errno| {
                TreeError::system("read the attributes of", &self.dirs.path_in(dir, name), why)
            })
        };
        for attribute in different(&read(a)?, &read(b)?) {
            differs(&format!("attribute {}", attribute.to_string_lossy()));
        }
        Ok(())
    }

    /// Names that are one file in one tree are one in the other.
    fn links(&self, several: Vec<Several>) {
        let (mut there, mut back) = (HashMap::new(), HashMap::new());
        for Several { inodes: (a, b), name: (dir, name) } in several {
            let same = *there.entry(a).or_insert(b) == b && *back.entry(b).or_insert(a) == a;
            if !same {
                self.differs(dir, &name, "is not one file with the same other names");
            }
        }
    }
}

/// The attributes that are not the same in both.
fn different<'a>(a: &'a Attributes, b: &'a Attributes) -> Vec<&'a CStr> {
    let one_sided = |a: &'a Attributes, b: &Attributes| {
        let has = |name| b.binary_search_by(|(other, _)| other.cmp(name)).is_ok();
        let names = a.iter().map(|(name, _)| name);
        names
            .filter(|name| !has(*name) && !xattr::is_file_systems(name))
            .map(CString::as_c_str)
            .collect::<Vec<_>>()
    };
    let mut found = one_sided(a, b);
    found.extend(one_sided(b, a));
    for (name, value) in a {
        let other = b.binary_search_by(|(other, _)| other.cmp(name)).ok().and_then(|i| b.get(i));
        if other.is_some_and(|(_, other)| other != value) {
            found.push(name);
        }
    }
    found
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "folder",
        FileType::Symlink => "link",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Unknown => "thing of an unknown kind",
    }
}
