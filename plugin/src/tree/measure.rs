//! How large a tree is.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::dir::{Dirs, Entry, Kept, Opened, entries, open_root};
use super::error::TreeError;
use super::meta::Meta;
use super::pool::{self, Done, Pool, Work};
use super::watch::{Step, Watch};
use super::xattr::{Bearer, Room};

/// So many entries of a directory are one job.
const BATCH: usize = 512;
/// So many files with an attribute are named.
const NAMED: usize = 5;

/// A tree's size, of what a copy brings along: sockets are left out, and a file with several names
/// counts its bytes once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Names: of files, directories and so on, without the root.
    pub entries: u64,
    /// Bytes of files that are no hole: what a copy of the bytes has to move.
    pub bytes: u64,
    /// Bytes on the disk, in whole blocks; those shared with other files too.
    pub allocated: u64,
    /// Bytes of files as `ls` shows them, holes too.
    pub apparent: u64,
}

/// A size, and what was met on the way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Survey {
    pub(crate) size: Size,
    /// Files that have the attribute looked for, below the root: the first of them.
    pub(crate) bearers: Vec<PathBuf>,
}

/// Adds up a tree, which may be written to meanwhile: what is removed since it was listed is not
/// counted. What is mounted in it is not either.
///
/// # Errors
/// [`TreeError`].
pub fn measure(root: &Path, watch: &dyn Watch) -> Result<Size, TreeError> {
    Ok(run(root, &[], Mounts::PassBy, watch)?.size)
}

/// As [`measure()`], and looks for regular files that have one of these attributes. Something that is
/// mounted in the tree is an error: it cannot be copied.
pub(crate) fn survey(
    root: &Path,
    attributes: &[&CStr],
    watch: &dyn Watch,
) -> Result<Survey, TreeError> {
    run(root, attributes, Mounts::Refuse, watch)
}

/// What is done about file systems that are mounted in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mounts {
    PassBy,
    Refuse,
}

fn run(
    root: &Path,
    attributes: &[&CStr],
    mounts: Mounts,
    watch: &dyn Watch,
) -> Result<Survey, TreeError> {
    let dirs = Dirs::new([open_root(root)?]).map_err(|why| TreeError::system("read", root, why))?;
    let top = dirs.open(0, &mut Kept::default())?;
    let [fd] = &top.fds;
    let top = Meta::of(fd.as_fd()).map_err(|why| TreeError::system("read", root, why))?;
    let survey =
        Survey { size: Size { allocated: top.allocated, ..Size::default() }, bearers: Vec::new() };
    let measuring = Measuring {
        dirs,
        attributes,
        mounts,
        done: Done::default(),
        sum: Mutex::new((survey, HashSet::new())),
    };
    pool::run(&measuring, vec![Job::Directory(0)], watch, Step::Measure, &measuring.done)?;
    let (mut survey, _) = measuring.sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    survey.bearers.sort_unstable();
    Ok(survey)
}

struct Measuring<'a> {
    dirs: Dirs<1>,
    attributes: &'a [&'a CStr],
    mounts: Mounts,
    done: Done,
    /// The inodes are those with several names.
    sum: Mutex<(Survey, HashSet<u64>)>,
}

enum Job {
    Directory(usize),
    Entries(Arc<Opened<1>>, Vec<Entry>),
}

impl Work for Measuring<'_> {
    type Job = Job;
    type Local = (Kept<1>, Room);

    fn job(
        &self,
        job: Job,
        (kept, room): &mut Self::Local,
        pool: &Pool<Job>,
    ) -> Result<(), TreeError> {
        match job {
            Job::Directory(id) => {
                let dir = match self.dirs.open(id, kept) {
                    Err(TreeError::System { why, .. }) if is_gone(why) && id != 0 => return Ok(()),
                    other => other?,
                };
                let [fd] = &dir.fds;
                let mut found = match entries(fd.as_fd()) {
                    Err(why) if is_gone(why) && id != 0 => return Ok(()),
                    other => {
                        other.map_err(|why| TreeError::system("read", &self.dirs.path(id), why))?
                    }
                };
                while !found.is_empty() {
                    let rest = found.split_off(found.len().min(BATCH));
                    pool.push([Job::Entries(Arc::clone(&dir), found)]);
                    found = rest;
                }
                Ok(())
            }
            Job::Entries(dir, entries) => self.add_up(&dir, entries, room, pool),
        }
    }
}

impl Measuring<'_> {
    fn add_up(
        &self,
        dir: &Opened<1>,
        entries: Vec<Entry>,
        room: &mut Room,
        pool: &Pool<Job>,
    ) -> Result<(), TreeError> {
        pool.go_on()?;
        let [fd] = &dir.fds;
        let fd = fd.as_fd();
        let (mut sum, mut several, mut bearers) = (Size::default(), Vec::new(), Vec::new());
        for Entry { name, .. } in entries {
            let failed = |why| TreeError::system("read", &self.dirs.path_in(dir.id, &name), why);
            let meta = match Meta::at(fd, &name) {
                Err(why) if is_gone(why) => continue,
                other => other.map_err(failed)?,
            };
            if meta.kind == FileType::Socket {
                continue;
            }
            if meta.is_mount() {
                if self.mounts == Mounts::PassBy {
                    continue;
                }
                return Err(TreeError::Mount { path: self.dirs.path_in(dir.id, &name) });
            }
            self.done.entry();
            sum.entries += 1;
            match meta.kind {
                FileType::Directory => {
                    sum.allocated += meta.allocated;
                    pool.push([Job::Directory(self.dirs.add(dir.id, name.clone()))]);
                }
                _ if meta.nlink > 1 => several.push(meta),
                _ => sum.add(&meta),
            }
            if meta.kind == FileType::RegularFile && !self.attributes.is_empty() {
                match Bearer::Named(fd, &name).has_any(self.attributes, room) {
                    Ok(true) => bearers.push(self.dirs.path_in(dir.id, &name)),
                    Err(why) if !is_gone(why) => return Err(failed(why)),
                    _ => {}
                }
            }
        }
        self.done.bytes(sum.bytes);
        let mut all = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        let (survey, inodes) = &mut *all;
        for meta in several {
            if inodes.insert(meta.ino) {
                sum.add(&meta);
            }
        }
        survey.size.plus(sum);
        survey.bearers.extend(bearers);
        survey.bearers.truncate(NAMED);
        Ok(())
    }
}

/// Whether a name that was listed stands for nothing any more, or for something else.
fn is_gone(why: Errno) -> bool {
    matches!(why, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

impl Size {
    fn add(&mut self, meta: &Meta) {
        self.allocated += meta.allocated;
        if meta.kind == FileType::RegularFile {
            self.bytes += meta.data();
            self.apparent += meta.size;
        }
    }

    fn plus(&mut self, more: Self) {
        self.entries += more.entries;
        self.bytes += more.bytes;
        self.allocated += more.allocated;
        self.apparent += more.apparent;
    }
}
