//! What the system says of a file, and how another is made the same.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{
    AtFlags, FileType, Gid, IFlags, Mode, Statx, StatxAttributes, StatxFlags, Timespec, Timestamps,
    Uid, statx,
};
use rustix::io::Errno;

/// The flags of chattr that say who may change a file: they are carried.
const GUARDS: StatxAttributes =
    StatxAttributes::IMMUTABLE.union(StatxAttributes::APPEND).union(StatxAttributes::NODUMP);

/// A moment, to the nanosecond.
pub(super) type Time = (i64, u32);

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) kind: FileType,
    /// With the set-uid, set-gid and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    /// On the disk, in bytes.
    pub(super) allocated: u64,
    pub(super) nlink: u32,
    pub(super) ino: u64,
    pub(super) dev: u64,
    pub(super) rdev: (u32, u32),
    pub(super) atime: Time,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    /// Of chattr's flags, those that are carried.
    pub(super) guards: StatxAttributes,
    mount: bool,
}

impl Meta {
    /// Of a name in a directory.
    pub(super) fn at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self, Errno> {
        Self::read(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
    }

    /// Of an open file.
    pub(super) fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        Self::read(fd, c"", AtFlags::EMPTY_PATH)
    }

    fn read(dir: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<Self, Errno> {
        let read: Statx = statx(dir, name, flags, StatxFlags::BASIC_STATS)?;
        let mode = u32::from(read.stx_mode);
        Ok(Self {
            kind: FileType::from_raw_mode(mode),
            mode: mode & 0o7777,
            uid: read.stx_uid,
            gid: read.stx_gid,
            size: read.stx_size,
            allocated: read.stx_blocks.saturating_mul(512),
            nlink: read.stx_nlink,
            ino: read.stx_ino,
            dev: rustix::fs::makedev(read.stx_dev_major, read.stx_dev_minor),
            rdev: (read.stx_rdev_major, read.stx_rdev_minor),
            atime: (read.stx_atime.tv_sec, read.stx_atime.tv_nsec),
            mtime: (read.stx_mtime.tv_sec, read.stx_mtime.tv_nsec),
            ctime: (read.stx_ctime.tv_sec, read.stx_ctime.tv_nsec),
            guards: read.stx_attributes & GUARDS,
            mount: read.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        })
    }

    /// Bytes that are no hole.
    pub(super) fn data(&self) -> u64 {
        self.size.min(self.allocated)
    }

    /// Whether something is mounted there. Linux before 5.8 does not say.
    pub(super) fn is_mount(&self) -> bool {
        self.mount
    }

    /// Whether nothing was written to it since the other was read.
    pub(super) fn is_still(&self, before: &Self) -> bool {
        (self.ino, self.size, self.mtime, self.ctime)
            == (before.ino, before.size, before.mtime, before.ctime)
    }

    pub(super) fn permissions(&self) -> Mode {
        Mode::from_raw_mode(self.mode)
    }

    pub(super) fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }

    pub(super) fn times(&self) -> Timestamps {
        let of = |(tv_sec, tv_nsec): Time| Timespec { tv_sec, tv_nsec: tv_nsec.into() };
        Timestamps { last_access: of(self.atime), last_modification: of(self.mtime) }
    }

    /// Sets the flags of chattr that this one has on another.
    pub(super) fn guard(&self, other: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut flags = rustix::fs::ioctl_getflags(other)?;
        for (guard, flag) in [
            (StatxAttributes::IMMUTABLE, IFlags::IMMUTABLE),
            (StatxAttributes::APPEND, IFlags::APPEND),
            (StatxAttributes::NODUMP, IFlags::NODUMP),
        ] {
            flags.set(flag, self.guards.contains(guard));
        }
        rustix::fs::ioctl_setflags(other, flags)
    }
}
