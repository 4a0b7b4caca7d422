//! How full something is: by the blocks of its filesystem, not by the lengths of files.

use std::path::Path;

use gpuctl_ledger::model::ByteSize;
use nix::sys::statvfs::statvfs;

use crate::engine::api::Failure;
use crate::tree::{self, Stop};

/// How full a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// What it has room for.
    pub(crate) size: ByteSize,
    /// What of that is taken.
    pub(crate) used: ByteSize,
}

/// What a filesystem can still take, and what it has in all, in bytes.
///
/// # Errors
/// The system's.
pub(crate) fn free(path: &Path) -> std::io::Result<(u64, u64)> {
    let stat = statvfs(path)?;
    let unit = stat.fragment_size();
    Ok((stat.blocks_available().saturating_mul(unit), stat.blocks().saturating_mul(unit)))
}

/// What a tree takes on its disk: its blocks, a file with several names once, nothing beyond its own
/// filesystem. It may be deeper than any path, and be written to meanwhile.
///
/// # Errors
/// The system's, with the path.
pub(crate) fn of_tree(root: &Path) -> Result<ByteSize, Failure> {
    let size = tree::measure(root, &Stop::new()).map_err(|why| {
        Failure::new(format!("how full {} is cannot be told: {why}", root.display()))
    })?;
    Ok(ByteSize(size.allocated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_and_not_lengths_and_each_file_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let empty = of_tree(folder.path()).unwrap().0;
        // A hole takes nothing, whatever its length.
        std::fs::File::create(at("hole")).unwrap().set_len(1 << 30).unwrap();
        assert_eq!(of_tree(folder.path()).unwrap().0, empty);
        std::fs::create_dir(at("d")).unwrap();
        std::fs::write(at("d/.full"), vec![1; 1 << 20]).unwrap();
        let full = std::fs::File::open(at("d/.full")).unwrap();
        full.sync_all().unwrap();
        let once = of_tree(folder.path()).unwrap().0;
        assert!(once >= empty + (1 << 20) && once < empty + (1 << 20) + (1 << 16), "{once}");
        std::fs::hard_link(at("d/.full"), at("again")).unwrap();
        std::os::unix::fs::symlink("/", at("link")).unwrap();
        assert!(of_tree(folder.path()).unwrap().0 < once + 8192);
    }
}
