//! Whether a layer has room where it is to go.

use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use super::{Fit, LayerError, shown};
use crate::tree::TreeError;

/// What stays free on the disk, in bytes.
const SPARE: u64 = 64 << 20;
/// What stays free of inodes.
const SPARE_INODES: u64 = 1000;
/// What a name takes besides content, in bytes: an inode, its place in a folder, and where blocks are
/// shared the record of that. More than it really is.
const PER_ENTRY: u64 = 1024;

/// What is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Free {
    /// In bytes.
    pub(super) bytes: u64,
    /// `None` where the file system makes them as it goes.
    pub(super) inodes: Option<u64>,
}

impl Free {
    /// Of a folder's file system, or of its quota.
    pub(super) fn of(folder: &Path) -> Result<Self, LayerError> {
        let disk = rustix::fs::statvfs(folder)
            .map_err(|why| TreeError::system("read the free space of", folder, why))?;
        let bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(Self { bytes, inodes: (disk.f_files > 0).then_some(disk.f_favail) })
    }
}

/// Refuses what does not fit. Pure.
pub(super) fn check(fit: &Fit, free: &Free, folder: &Path) -> Result<(), LayerError> {
    let Fit { size, shares } = fit;
    let content = if *shares { 0 } else { size.allocated };
    let names = size.entries.saturating_mul(PER_ENTRY);
    let needed = content.saturating_add(names).saturating_add(SPARE);
    let hint = "docker gpuctl prune frees what older versions keep";
    if free.bytes < needed {
        let (needed, free) = (shown(needed), shown(free.bytes));
        let folder = folder.display();
        let message =
            format!("its files need {needed} on the disk of {folder}, and {free} are free there");
        return Err(LayerError::refused(message, hint));
    }
    let inodes = size.entries.saturating_add(SPARE_INODES);
    if let Some(free) = free.inodes.filter(|free| *free < inodes) {
        let folder = folder.display();
        let message = format!(
            "it has {} files, and the disk of {folder} takes only {free} more",
            size.entries
        );
        return Err(LayerError::refused(message, hint));
    }
    Ok(())
}

/// Whether files in one folder can share their bytes with files in the other: found out by trying, with
/// files that have no name and are gone at once.
pub(crate) fn shares(from: &Path, to: &Path) -> bool {
    let nameless = |folder: &Path| {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR)
    };
    let (Ok(source), Ok(target)) = (nameless(from), nameless(to)) else { return false };
    let written = rustix::io::pwrite(&source, &[1; 64 << 10], 0);
    written == Ok(64 << 10) && rustix::fs::ioctl_ficlone(&target, &source).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Size;

    fn fit(shares: bool) -> Fit {
        let size = Size { entries: 10_000, bytes: 1 << 30, allocated: 1 << 30, apparent: 5 << 30 };
        Fit { size, shares }
    }

    fn refusal(shares: bool, bytes: u64, inodes: Option<u64>) -> Option<String> {
        let folder = Path::new("/var/lib/docker");
        check(&fit(shares), &Free { bytes, inodes }, folder).err().map(|why| why.to_string())
    }

    #[test]
    fn bytes_count_unless_they_are_shared_and_names_always() {
        let enough = (1 << 30) + (10_000 << 10) + SPARE;
        assert_eq!(refusal(false, enough, None), None);
        let said = refusal(false, enough - 1, None).unwrap();
        assert!(said.contains("are free there") && said.contains("/var/lib/docker"), "{said}");
        assert_eq!(refusal(true, (10_000 << 10) + SPARE, None), None);
        assert!(refusal(true, (10_000 << 10) + SPARE - 1, None).is_some());
    }

    #[test]
    fn inodes_count_where_a_disk_has_so_many_only() {
        let said = refusal(false, u64::MAX, Some(10_999)).unwrap();
        assert!(said.contains("10000 files") && said.contains("10999 more"), "{said}");
        assert_eq!(refusal(false, u64::MAX, Some(11_000)), None);
    }

    #[test]
    fn a_trial_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        shares(dir.path(), dir.path());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(!shares(Path::new("/proc"), dir.path()));
    }
}
