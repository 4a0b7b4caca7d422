//! Regular files of a copy.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::content::{self, Fault};
use super::copy::{Copying, Job, Local};
use super::dir::Opened;
use super::error::TreeError;
use super::meta::Meta;
use super::pool::Pool;
use super::xattr::Bearer;

/// Files longer than two of these, in bytes, are copied in pieces by several threads.
const PIECE: u64 = 64 << 20;

/// Opens a regular file to read, and nothing else: a device that was put in its place is not woken,
/// a fifo not waited for, and its time of access stays.
pub(super) fn open(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::NOATIME
        | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Copies one; of a large one, gives the jobs that do.
pub(super) fn copy(
    copying: &Copying<'_>,
    dir: &Arc<Opened<2>>,
    name: CString,
    meta: Meta,
    local: &mut Local,
    pool: &Pool<Job>,
) -> Result<Vec<Job>, TreeError> {
    let [from_dir, to_dir] = &dir.fds;
    let failed = |doing, why| TreeError::system(doing, &copying.dirs.path_in(dir.id, &name), why);
    let from = open(from_dir.as_fd(), &name).map_err(|why| failed("read", why))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::openat(to_dir, &name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|why| failed("make", why))?;
    let big = Big { dir: dir.id, name, meta, from, to, left: AtomicUsize::new(1) };
    let (source, target) = (big.from.as_fd(), big.to.as_fd());
    let faulty = |fault| big.fault(copying, fault);
    if meta.size == 0 {
        // Nothing.
    } else if copying.ways.reflink(source, target).map_err(faulty)? {
        copying.done.bytes(meta.data());
        copying.reflinked.fetch_add(meta.data(), Ordering::Relaxed);
    } else if content::is_small(meta.size, meta.allocated) {
        content::small(source, target, meta.size, &mut local.bytes).map_err(faulty)?;
        copying.done.bytes(meta.size);
    } else {
        // Holes at its end too.
        rustix::fs::ftruncate(&big.to, meta.size).map_err(|why| faulty(Fault::Write(why)))?;
        if meta.allocated > 2 * PIECE {
            let pieces = meta.size.div_ceil(PIECE);
            big.left.store(usize::try_from(pieces).unwrap_or(usize::MAX), Ordering::Relaxed);
            let big = Arc::new(big);
            let ranges = (0..pieces).rev().map(|n| (n * PIECE, ((n + 1) * PIECE).min(meta.size)));
            return Ok(ranges.map(|range| Job::Piece(Arc::clone(&big), range)).collect());
        }
        big.piece(copying, (0, meta.size), local, pool)?;
        return Ok(Vec::new());
    }
    big.end(copying, local)?;
    Ok(Vec::new())
}

/// A file that is being copied, by several threads perhaps.
pub(super) struct Big {
    dir: usize,
    name: CString,
    meta: Meta,
    from: OwnedFd,
    to: OwnedFd,
    /// Pieces that are not done.
    left: AtomicUsize,
}

impl Big {
    /// Copies a piece; the last one to be done ends the file.
    pub(super) fn piece(
        &self,
        copying: &Copying<'_>,
        range: (u64, u64),
        local: &mut Local,
        pool: &Pool<Job>,
    ) -> Result<(), TreeError> {
        pool.go_on()?;
        let told = |bytes| {
            copying.done.bytes(bytes);
            pool.go_on().is_ok()
        };
        copying
            .ways
            .copy(self.from.as_fd(), self.to.as_fd(), range, &told)
            .map_err(|fault| self.fault(copying, fault))?;
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.end(copying, local)
        } else {
            Ok(())
        }
    }

    fn fault(&self, copying: &Copying<'_>, fault: Fault) -> TreeError {
        let path = copying.dirs.path_in(self.dir, &self.name);
        match fault {
            Fault::Stop => TreeError::Stopped,
            Fault::Changed => TreeError::Changed { path },
            Fault::Read(why) => TreeError::system("read", &path, why),
            Fault::Write(why) => TreeError::system("write", &path, why),
        }
    }

    /// All that is not content. Owner before mode, which a change of owner takes set-uid bits from;
    /// both before attributes, where capabilities are; times last.
    fn end(&self, copying: &Copying<'_>, local: &mut Local) -> Result<(), TreeError> {
        let (from, to) = (self.from.as_fd(), self.to.as_fd());
        let failed =
            |doing, why| TreeError::system(doing, &copying.dirs.path_in(self.dir, &self.name), why);
        let attributes = Bearer::Open(from).read(copying.skip, &mut local.xattrs);
        let attributes = attributes.map_err(|why| failed("read the attributes of", why))?;
        let (uid, gid) = self.meta.owner();
        rustix::fs::fchown(to, uid, gid)
            .and_then(|()| rustix::fs::fchmod(to, self.meta.permissions()))
            .and_then(|()| Bearer::Open(to).write(&attributes))
            .and_then(|()| rustix::fs::futimens(to, &self.meta.times()))
            .map_err(|why| failed("write the attributes of", why))?;
        let after = Meta::of(from).map_err(|why| failed("read", why))?;
        if after.kind != FileType::RegularFile || !after.is_still(&self.meta) {
            return Err(TreeError::Changed { path: copying.dirs.path_in(self.dir, &self.name) });
        }
        copying.done.entry();
        Ok(())
    }
}
