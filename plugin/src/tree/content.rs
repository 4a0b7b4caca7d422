//! The bytes of files: shared with the first file where the file system can, else copied, and holes
//! stay holes.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Up to this size, in bytes, a file without holes is read and written at once.
const SMALL: u64 = 256 * 1024;
/// So many bytes are copied between two looks whether to stop.
const PIECE: u64 = 1 << 20;
/// Room for reading where the system cannot copy by itself.
const ROOM: usize = 1 << 20;

/// Why it ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Whoever looks on says stop.
    Stop,
    /// The first file is shorter than it was.
    Changed,
    /// Reading.
    Read(Errno),
    /// Writing.
    Write(Errno),
}

/// How bytes can be copied here; found out by trying.
#[derive(Debug)]
pub(super) struct Ways {
    reflink: AtomicBool,
    in_kernel: AtomicBool,
}

impl Ways {
    pub(super) fn new(reflink: bool) -> Self {
        Self { reflink: AtomicBool::new(reflink), in_kernel: AtomicBool::new(true) }
    }

    /// Shares all bytes of `from` with `to`; whether it could.
    pub(super) fn reflink(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<bool, Fault> {
        if !self.reflink.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(to, from) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY | Errno::NOSYS) => {
                self.reflink.store(false, Ordering::Relaxed);
                Ok(false)
            }
            // This file alone: it is in use as swap, or is not copied on write.
            Err(Errno::INVAL | Errno::TXTBSY | Errno::PERM) => Ok(false),
            Err(why) => Err(Fault::Write(why)),
        }
    }

    /// Copies what `from` has between two offsets, and calls `told` with the bytes copied after each
    /// piece; its answer says whether to go on.
    pub(super) fn copy(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        (start, end): (u64, u64),
        told: &dyn Fn(u64) -> bool,
    ) -> Result<(), Fault> {
        let mut at = start;
        while at < end {
            let Some(data) = seek(from, SeekFrom::Data(at))? else { break };
            if data >= end {
                break;
            }
            let hole = seek(from, SeekFrom::Hole(data))?.unwrap_or(end).min(end);
            at = data;
            while at < hole {
                let piece = (hole - at).min(PIECE);
                self.piece(from, to, at, piece)?;
                at += piece;
                if !told(piece) {
                    return Err(Fault::Stop);
                }
            }
        }
        Ok(())
    }

    fn piece(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        start: u64,
        length: u64,
    ) -> Result<(), Fault> {
        let (mut at, end) = (start, start + length);
        while at < end && self.in_kernel.load(Ordering::Relaxed) {
            let (mut read_at, mut write_at) = (at, at);
            let left = usize::try_from(end - at).unwrap_or(ROOM);
            let copied = rustix::fs::copy_file_range(
                from,
                Some(&mut read_at),
                to,
                Some(&mut write_at),
                left,
            );
            match copied {
                // Either the file has become shorter, or this file system only says so.
                Ok(0) => break,
                Ok(n) => at += u64::try_from(n).unwrap_or(0),
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                    self.in_kernel.store(false, Ordering::Relaxed);
                }
                Err(why) => return Err(Fault::Write(why)),
            }
        }
        if at < end { through(from, to, at, end) } else { Ok(()) }
    }
}

/// Copies through memory.
fn through(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<(), Fault> {
    let size = usize::try_from(end - start).unwrap_or(ROOM).min(ROOM);
    let mut room = vec![0; size];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(ROOM).min(ROOM);
        let into = room.get_mut(..want).unwrap_or_default();
        let read = fill(from, into, at)?;
        if read == 0 {
            return Err(Fault::Changed);
        }
        write_all(to, room.get(..read).unwrap_or_default(), at)?;
        at += u64::try_from(read).unwrap_or(0);
    }
    Ok(())
}

/// Copies a small file without holes through `room`: its length read.
pub(super) fn small(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    size: u64,
    room: &mut Vec<u8>,
) -> Result<(), Fault> {
    let size = usize::try_from(size).map_err(|_| Fault::Changed)?;
    room.resize(size.max(room.len()), 0);
    let into = room.get_mut(..size).unwrap_or_default();
    if fill(from, into, 0)? < size {
        return Err(Fault::Changed);
    }
    write_all(to, into, 0)
}

/// Whether a file is copied by [`small`].
pub(super) fn is_small(size: u64, allocated: u64) -> bool {
    size <= SMALL && allocated >= size
}

/// Fills a buffer from an offset; less only at the end of the file.
pub(super) fn fill(from: BorrowedFd<'_>, into: &mut [u8], start: u64) -> Result<usize, Fault> {
    let mut read = 0;
    while let Some(rest) = into.get_mut(read..).filter(|rest| !rest.is_empty()) {
        let at = start + u64::try_from(read).unwrap_or(0);
        match rustix::io::pread(from, rest, at) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(Errno::INTR) => {}
            Err(why) => return Err(Fault::Read(why)),
        }
    }
    Ok(read)
}

fn write_all(to: BorrowedFd<'_>, bytes: &[u8], start: u64) -> Result<(), Fault> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        let at = start + u64::try_from(written).unwrap_or(0);
        match rustix::io::pwrite(to, rest, at) {
            Ok(0) => return Err(Fault::Write(Errno::IO)),
            Ok(n) => written += n,
            Err(Errno::INTR) => {}
            Err(why) => return Err(Fault::Write(why)),
        }
    }
    Ok(())
}

/// Where the next data or hole begins; `None` where there is no more data.
pub(super) fn seek(file: BorrowedFd<'_>, to: SeekFrom) -> Result<Option<u64>, Fault> {
    match rustix::fs::seek(file.as_fd(), to) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows no holes: all is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(match to {
            SeekFrom::Data(at) => Some(at),
            _ => None,
        }),
        Err(why) => Err(Fault::Read(why)),
    }
}
