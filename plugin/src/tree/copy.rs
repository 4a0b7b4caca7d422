//! A tree made anew elsewhere, so that nothing of it is lost.
//!
//! Three rounds. First every directory is made, bare, and every file with all that belongs to it;
//! of files with several names one name. Then the other names are linked. Then directories get
//! their owners, attributes and times, which the rounds before would have changed; and a default ACL
//! or a set-gid bit that came earlier would have passed on to what is in it.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::io::Errno;

use super::content::Ways;
use super::dir::{Dirs, Entry, Kept, Opened, entries, open_root};
use super::error::TreeError;
use super::file::{self, Big};
use super::meta::Meta;
use super::pool::{self, Done, Pool, Work};
use super::watch::{Progress, Step, Watch};
use super::xattr::{Bearer, Room};

/// So many entries of a directory are one job.
const BATCH: usize = 128;
/// So many sockets are named in a report.
const NAMED: usize = 100;
/// How often it is looked whether to stop while the disk is waited for.
const TICK: Duration = Duration::from_millis(100);

/// How a tree is copied.
#[derive(Debug, Clone)]
pub struct Options {
    /// Share the bytes with the first tree where the file system can.
    pub reflink: bool,
    /// Extended attributes, by whole names, that are not copied; those of the target stay.
    pub skip_xattrs: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { reflink: true, skip_xattrs: Vec::new() }
    }
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files, directories and so on, without the root.
    pub entries: u64,
    /// Bytes copied or shared; see [`Progress::bytes`].
    pub bytes: u64,
    /// Of these, bytes that both trees share on the disk.
    pub reflinked_bytes: u64,
    /// Sockets, which are not copied: nobody listens on a copy. The first 100 of them, below the root.
    pub sockets: Vec<PathBuf>,
    /// All sockets.
    pub sockets_count: u64,
}

/// Copies a tree, with all that belongs to it, into a directory that is made, or is there and empty:
/// then it gets all attributes of the tree's root. When it returns, all is on the disk.
///
/// # Errors
/// [`TreeError`]. What was copied until then is left for the caller to [`super::remove()`].
pub fn copy(
    from: &Path,
    to: &Path,
    options: &Options,
    watch: &dyn Watch,
) -> Result<Report, TreeError> {
    let (report, syncing) = begin(from, to, options, watch)?;
    syncing.wait(watch)?;
    Ok(report)
}

/// As [`copy()`], and returns while it goes to the disk.
///
/// # Errors
/// As [`copy()`].
pub(crate) fn begin(
    from: &Path,
    to: &Path,
    options: &Options,
    watch: &dyn Watch,
) -> Result<(Report, Syncing), TreeError> {
    let source = open_root(from)?;
    let target = target(to, &options.skip_xattrs)?;
    let synced = target.try_clone().map_err(|_| TreeError::system("open", to, Errno::MFILE))?;
    let meta = |fd: &OwnedFd, path| {
        Meta::of(fd.as_fd()).map_err(|why| TreeError::system("read", path, why))
    };
    let (root, top) = (meta(&source, from)?, meta(&target, to)?);
    let target_id = (top.dev, top.ino);
    if target_id == (root.dev, root.ino) {
        return Err(TreeError::Inside { path: to.to_owned() });
    }
    let dirs = Dirs::new([source, target]).map_err(|why| TreeError::system("read", from, why))?;
    let copying = Copying {
        dirs,
        target: (target_id, to.to_owned()),
        skip: &options.skip_xattrs,
        ways: Ways::new(options.reflink),
        done: Done::default(),
        reflinked: AtomicU64::new(0),
        found: Mutex::new(Found { dirs: vec![(0, root)], ..Found::default() }),
    };
    pool::run(&copying, vec![Job::Directory(0)], watch, Step::Copy, &copying.done)?;
    let links = std::mem::take(&mut copying.found().links);
    pool::run(&copying, batches(links, Job::Links), watch, Step::Copy, &copying.done)?;
    let mut left = std::mem::take(&mut copying.found().dirs);
    left.sort_unstable_by_key(|(id, _)| *id);
    pool::run(&copying, batches(left, Job::Attributes), watch, Step::Copy, &copying.done)?;
    copying.guard()?;
    let progress = copying.done.so_far(Step::Copy);
    watch.progress(progress);
    let syncing = Syncing::begin(synced, to, progress);
    let mut found = copying.found();
    found.sockets.sort_unstable();
    let report = Report {
        entries: progress.entries,
        bytes: progress.bytes,
        reflinked_bytes: copying.reflinked.load(Ordering::Relaxed),
        sockets: std::mem::take(&mut found.sockets),
        sockets_count: found.sockets_count,
    };
    Ok((report, syncing))
}

/// The root of the copy, bare: an ACL or a set-gid bit that it has would pass on to what comes into it.
fn target(to: &Path, skip: &[String]) -> Result<OwnedFd, TreeError> {
    let failed = |why| TreeError::system("make", to, why);
    match rustix::fs::mkdirat(CWD, to, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(why) => return Err(failed(why)),
    }
    let target = open_root(to)?;
    if !entries(target.as_fd()).map_err(failed)?.is_empty() {
        return Err(TreeError::NotEmpty { path: to.to_owned() });
    }
    rustix::fs::fchmod(&target, Mode::RWXU).map_err(failed)?;
    Bearer::Open(target.as_fd()).strip(skip, &mut Room::default()).map_err(failed)?;
    Ok(target)
}

/// A file system on its way to its disk. That cannot be interrupted, so a thread of its own waits for
/// it.
pub(crate) struct Syncing {
    told: mpsc::Receiver<Result<(), Errno>>,
    to: PathBuf,
    done: Progress,
}

impl Syncing {
    fn begin(target: OwnedFd, to: &Path, done: Progress) -> Self {
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            // Nobody listens any more where it was stopped.
            let _ = tell.send(rustix::fs::syncfs(target));
        });
        Self { told, to: to.to_owned(), done: Progress { step: Step::Sync, ..done } }
    }

    /// Waits until it is there.
    ///
    /// # Errors
    /// [`TreeError::System`] where it is not; [`TreeError::Stopped`].
    pub(crate) fn wait(self, watch: &dyn Watch) -> Result<(), TreeError> {
        let failed = |why| TreeError::system("sync", &self.to, why);
        loop {
            watch.progress(self.done);
            match self.told.recv_timeout(TICK) {
                Ok(synced) => return synced.map_err(failed),
                Err(RecvTimeoutError::Timeout) if watch.stopped() => {
                    return Err(TreeError::Stopped);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(failed(Errno::IO)),
            }
        }
    }
}

fn batches<T>(of: Vec<T>, job: impl Fn(Vec<T>) -> Job) -> Vec<Job> {
    let mut of = of.into_iter();
    let mut jobs = Vec::new();
    loop {
        let batch: Vec<T> = of.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            // The last is done first.
            jobs.reverse();
            return jobs;
        }
        jobs.push(job(batch));
    }
}

/// A copy under way.
pub(super) struct Copying<'a> {
    pub(super) dirs: Dirs<2>,
    target: ((u64, u64), PathBuf),
    pub(super) skip: &'a [String],
    pub(super) ways: Ways,
    pub(super) done: Done,
    pub(super) reflinked: AtomicU64,
    found: Mutex<Found>,
}

/// What is found on the way and done later, or told.
#[derive(Default)]
struct Found {
    /// Of files with several names, the one that is copied.
    first: HashMap<u64, Name>,
    links: Vec<Link>,
    dirs: Vec<(usize, Meta)>,
    guarded: Vec<(Name, Meta)>,
    sockets: Vec<PathBuf>,
    sockets_count: u64,
}

/// A name in a directory.
type Name = (usize, CString);

/// One more name of a file.
#[derive(Debug)]
pub(super) struct Link {
    first: Name,
    name: Name,
}

pub(super) enum Job {
    Directory(usize),
    Entries(Arc<Opened<2>>, Vec<Entry>),
    Piece(Arc<Big>, (u64, u64)),
    Links(Vec<Link>),
    Attributes(Vec<(usize, Meta)>),
}

/// What a thread keeps.
#[derive(Default)]
pub(super) struct Local {
    kept: Kept<2>,
    pub(super) xattrs: Room,
    pub(super) bytes: Vec<u8>,
}

impl Work for Copying<'_> {
    type Job = Job;
    type Local = Local;

    fn job(&self, job: Job, local: &mut Local, pool: &Pool<Job>) -> Result<(), TreeError> {
        match job {
            Job::Directory(id) => self.directory(id, local, pool),
            Job::Entries(dir, entries) => {
                let mut left = entries.into_iter();
                while let Some(entry) = left.next() {
                    pool.go_on()?;
                    let pieces = self.entry(&dir, entry, local, pool)?;
                    if !pieces.is_empty() {
                        // First the large file, which is open, then the rest: so few are open at once.
                        let rest = Job::Entries(dir, left.collect());
                        pool.push(std::iter::once(rest).chain(pieces));
                        return Ok(());
                    }
                }
                Ok(())
            }
            Job::Piece(big, range) => big.piece(self, range, local, pool),
            Job::Links(links) => links.iter().try_for_each(|link| {
                pool.go_on()?;
                self.link(link, local)
            }),
            Job::Attributes(dirs) => dirs.iter().try_for_each(|(id, before)| {
                pool.go_on()?;
                self.attributes(*id, before, local)
            }),
        }
    }
}

impl Copying<'_> {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory(&self, id: usize, local: &mut Local, pool: &Pool<Job>) -> Result<(), TreeError> {
        let dir = self.dirs.open(id, &mut local.kept)?;
        let [from, _] = &dir.fds;
        let failed = |why| TreeError::system("read", &self.dirs.path(id), why);
        let mut found = entries(from.as_fd()).map_err(failed)?;
        let mut jobs = Vec::new();
        while !found.is_empty() {
            let rest = found.split_off(found.len().min(BATCH));
            jobs.push(Job::Entries(Arc::clone(&dir), found));
            found = rest;
        }
        jobs.reverse();
        pool.push(jobs);
        Ok(())
    }

    /// Copies what a name stands for, or gives the jobs that do.
    fn entry(
        &self,
        dir: &Arc<Opened<2>>,
        entry: Entry,
        local: &mut Local,
        pool: &Pool<Job>,
    ) -> Result<Vec<Job>, TreeError> {
        let [from, to] = &dir.fds;
        let (from, to) = (from.as_fd(), to.as_fd());
        let name = entry.name;
        let failed = |doing, why| TreeError::system(doing, &self.dirs.path_in(dir.id, &name), why);
        let meta = Meta::at(from, &name).map_err(|why| failed("read", why))?;
        if meta.kind == FileType::Socket {
            let mut found = self.found();
            found.sockets_count += 1;
            if found.sockets.len() < NAMED {
                found.sockets.push(self.dirs.path_in(dir.id, &name));
            }
            return Ok(Vec::new());
        }
        if meta.kind == FileType::Directory {
            if meta.is_mount() {
                return Err(TreeError::Mount { path: self.dirs.path_in(dir.id, &name) });
            }
            if (meta.dev, meta.ino) == self.target.0 {
                return Err(TreeError::Inside { path: self.target.1.clone() });
            }
            rustix::fs::mkdirat(to, &name, Mode::RWXU).map_err(|why| failed("make", why))?;
            let id = self.dirs.add(dir.id, name);
            self.found().dirs.push((id, meta));
            pool.push([Job::Directory(id)]);
            return Ok(Vec::new());
        }
        if meta.nlink > 1 && self.is_linked_later(dir.id, &name, &meta) {
            return Ok(Vec::new());
        }
        if !meta.guards.is_empty() {
            self.found().guarded.push(((dir.id, name.clone()), meta));
        }
        if meta.kind == FileType::RegularFile {
            return file::copy(self, dir, name, meta, local, pool);
        }
        self.other(from, to, &name, &meta, local).map_err(|(doing, why)| failed(doing, why))?;
        self.done.entry();
        Ok(Vec::new())
    }

    /// Whether another name of the same file has been seen; this one is then a link.
    fn is_linked_later(&self, dir: usize, name: &CString, meta: &Meta) -> bool {
        let mut found = self.found();
        let name = (dir, name.clone());
        match found.first.entry(meta.ino) {
            Slot::Vacant(slot) => {
                slot.insert(name);
                false
            }
            Slot::Occupied(slot) => {
                let first = slot.get().clone();
                found.links.push(Link { first, name });
                true
            }
        }
    }

    /// Symbolic links, fifos and devices: never opened.
    fn other(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CString,
        meta: &Meta,
        local: &mut Local,
    ) -> Result<(), (&'static str, Errno)> {
        let making = |why| ("make", why);
        let is_link = meta.kind == FileType::Symlink;
        if is_link {
            let target =
                rustix::fs::readlinkat(from, name, Vec::new()).map_err(|why| ("read", why))?;
            rustix::fs::symlinkat(&target, to, name).map_err(making)?;
        } else {
            let (major, minor) = meta.rdev;
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(to, name, meta.kind, Mode::empty(), device).map_err(making)?;
        }
        let (uid, gid) = meta.owner();
        rustix::fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(making)?;
        if !is_link && meta.mode != 0 {
            // Just made here as what it is, so no link is followed.
            rustix::fs::chmodat(to, name, meta.permissions(), AtFlags::empty()).map_err(making)?;
        }
        let attributes = Bearer::Named(from, name).read(self.skip, &mut local.xattrs);
        let attributes = attributes.map_err(|why| ("read the attributes of", why))?;
        let written = Bearer::Named(to, name).write(&attributes);
        written.map_err(|why| ("write the attributes of", why))?;
        rustix::fs::utimensat(to, name, &meta.times(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(making)?;
        let after = Meta::at(from, name).map_err(|why| ("read", why))?;
        if after.is_still(meta) { Ok(()) } else { Err(("read", Errno::STALE)) }
    }

    fn link(&self, link: &Link, local: &mut Local) -> Result<(), TreeError> {
        let ((first_dir, first), (dir, name)) = (&link.first, &link.name);
        let (old, new) =
            (self.dirs.open(*first_dir, &mut local.kept)?, self.dirs.open(*dir, &mut local.kept)?);
        let ([_, old], [_, new]) = (&old.fds, &new.fds);
        rustix::fs::linkat(old, first, new, name, AtFlags::empty())
            .map_err(|why| TreeError::system("link", &self.dirs.path_in(*dir, name), why))?;
        self.done.entry();
        Ok(())
    }

    fn attributes(&self, id: usize, before: &Meta, local: &mut Local) -> Result<(), TreeError> {
        let dir = self.dirs.open(id, &mut local.kept)?;
        let [from, to] = &dir.fds;
        let (from, to) = (from.as_fd(), to.as_fd());
        let failed = |doing, why| TreeError::system(doing, &self.dirs.path(id), why);
        let attributes = Bearer::Open(from).read(self.skip, &mut local.xattrs);
        let attributes = attributes.map_err(|why| failed("read the attributes of", why))?;
        let (uid, gid) = before.owner();
        rustix::fs::fchown(to, uid, gid)
            .and_then(|()| rustix::fs::fchmod(to, before.permissions()))
            .and_then(|()| Bearer::Open(to).write(&attributes))
            .and_then(|()| rustix::fs::futimens(to, &before.times()))
            .map_err(|why| failed("write the attributes of", why))?;
        if !before.guards.is_empty() {
            before.guard(to).map_err(|why| failed("protect", why))?;
        }
        if !Meta::of(from).map_err(|why| failed("read", why))?.is_still(before) {
            return Err(TreeError::Changed { path: self.dirs.path(id) });
        }
        if id != 0 {
            self.done.entry();
        }
        Ok(())
    }

    /// Files that chattr protects: once they are, they take no more names.
    fn guard(&self) -> Result<(), TreeError> {
        let guarded = std::mem::take(&mut self.found().guarded);
        let mut kept = Kept::default();
        for ((id, name), meta) in guarded {
            // Of others the flags are not to be had without opening them.
            if meta.kind != FileType::RegularFile {
                continue;
            }
            let dir = self.dirs.open(id, &mut kept)?;
            let [_, to] = &dir.fds;
            file::open(to.as_fd(), &name)
                .and_then(|file| meta.guard(file.as_fd()))
                .map_err(|why| TreeError::system("protect", &self.dirs.path_in(id, &name), why))?;
        }
        Ok(())
    }
}
