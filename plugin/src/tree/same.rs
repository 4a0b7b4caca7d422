//! Whether two files have the same bytes: read and compared, but for those that are proved to be the
//! same blocks of the disk.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fiemap::{Fiemap, FiemapExtentFlags as Extent, FiemapFlags};
use rustix::fs::SeekFrom;

use super::compare::{Comparing, Job, Local};
use super::content::{self, Fault};
use super::dir::Opened;
use super::error::TreeError;
use super::meta::Meta;
use super::pool::Pool;

/// So much is read of each file at a time, in bytes: both stay in the processor's own memory.
const ROOM: u64 = 128 << 10;
/// Files longer than two of these, in bytes, are compared in pieces by several threads.
const PIECE: u64 = 64 << 20;

/// Two files that are being compared.
pub(super) struct Pair {
    dir: usize,
    name: CString,
    fds: [OwnedFd; 2],
    size: u64,
    differs: AtomicBool,
}

/// Compares two files of the same length; of large ones, gives the jobs that do.
pub(super) fn content(
    comparing: &Comparing<'_>,
    dir: &Arc<Opened<2>>,
    name: CString,
    [a, b]: [Meta; 2],
    fds: [OwnedFd; 2],
    local: &mut Local,
    pool: &Pool<Job>,
) -> Result<Vec<Job>, TreeError> {
    if a.size == 0 {
        return Ok(Vec::new());
    }
    let [one, other] = &fds;
    if a.dev == b.dev && a.allocated != 0 && comparing.proofs.are_shared(one.as_fd(), other.as_fd())
    {
        comparing.done.bytes(a.data());
        return Ok(Vec::new());
    }
    let pair = Pair { dir: dir.id, name, fds, size: a.size, differs: AtomicBool::new(false) };
    if a.size <= 2 * PIECE {
        pair.piece(comparing, (0, a.size), local, pool)?;
        return Ok(Vec::new());
    }
    let pair = Arc::new(pair);
    let pieces = (0..a.size.div_ceil(PIECE)).rev();
    let range = |n: u64| (n * PIECE, ((n + 1) * PIECE).min(a.size));
    Ok(pieces.map(|n| Job::Piece(Arc::clone(&pair), range(n))).collect())
}

/// Proofs that files share their blocks.
///
/// One thread at a time asks: xfs holds its allocation group while it answers, so that two that ask at once
/// put each other to sleep, and take three times as long as one.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    /// Whether the last one shared its blocks.
    last: Mutex<bool>,
}

impl Proofs {
    /// Whether two files of one file system are the same blocks of its disk, so that they have the same
    /// bytes. "No" also where it cannot be told: where content is packed, encrypted, kept with the
    /// metadata or not placed yet.
    fn are_shared(&self, a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = are_shared(a, b, *last);
        *last
    }
}

/// See [`Proofs::are_shared`]. A file that shares nothing is known by its first blocks, without a wait for
/// the disk: on file systems that share none, that is all of them. Where it is `likely` that blocks are
/// shared, that look is saved.
fn are_shared(a: BorrowedFd<'_>, b: BorrowedFd<'_>, likely: bool) -> bool {
    if !likely && !matches!(extents(a, FiemapFlags::empty()).next(), Some(Some(_))) {
        return false;
    }
    let (mut a, mut b) = (extents(a, FiemapFlags::SYNC), extents(b, FiemapFlags::SYNC));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(Some(one)), Some(Some(other))) if one == other => {}
            _ => return false,
        }
    }
}

/// Where a file is on the disk, with `SYNC` after what is still in memory was written: offset, place,
/// length, and whether it reads as zeros. `None` for one that proves nothing.
fn extents(
    file: BorrowedFd<'_>,
    flags: FiemapFlags,
) -> impl Iterator<Item = Option<(u64, u64, u64, bool)>> {
    let plain = Extent::LAST | Extent::SHARED | Extent::UNWRITTEN;
    Fiemap::with_flags(file, flags).map(move |extent| {
        let extent = extent.ok()?;
        let unwritten = extent.fe_flags.contains(Extent::UNWRITTEN);
        let proves = unwritten || extent.fe_flags.contains(Extent::SHARED);
        let known = plain.contains(extent.fe_flags) && proves;
        known.then_some((extent.fe_logical, extent.fe_physical, extent.fe_length, unwritten))
    })
}

impl Pair {
    /// Compares a piece.
    pub(super) fn piece(
        &self,
        comparing: &Comparing<'_>,
        (start, end): (u64, u64),
        local: &mut Local,
        pool: &Pool<Job>,
    ) -> Result<(), TreeError> {
        let [a, b] = &self.fds;
        let (a, b) = (a.as_fd(), b.as_fd());
        let [one, other] = &mut local.bytes;
        let failed = |fault| {
            let path = comparing.dirs.path_in(self.dir, &self.name);
            match fault {
                Fault::Stop => TreeError::Stopped,
                Fault::Changed => TreeError::Changed { path },
                Fault::Read(why) | Fault::Write(why) => TreeError::system("read", &path, why),
            }
        };
        let mut at = start;
        while at < end && !self.differs.load(Ordering::Relaxed) {
            pool.go_on()?;
            // A short file is read at once; of a long one, what is a hole in both is passed over.
            if self.size > ROOM {
                let next = |fd| {
                    let data = content::seek(fd, SeekFrom::Data(at)).map_err(failed)?;
                    Ok::<_, TreeError>(data.unwrap_or(end))
                };
                at = next(a)?.min(next(b)?);
                if at >= end {
                    break;
                }
            }
            let length = (end - at).min(ROOM);
            let room = usize::try_from(length).unwrap_or(0);
            one.resize(room, 0);
            other.resize(room, 0);
            let read = content::fill(a, one, at).map_err(failed)?;
            if read < room || content::fill(b, other, at).map_err(failed)? < room {
                return Err(failed(Fault::Changed));
            }
            if one != other && !self.differs.swap(true, Ordering::Relaxed) {
                comparing.differs(self.dir, &self.name, "has other content");
            }
            comparing.done.bytes(length);
            at += length;
        }
        Ok(())
    }
}
