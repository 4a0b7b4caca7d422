//! What can go wrong with a tree, in words.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a tree was not copied, compared, measured or removed. Shown to the user as it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError {
    /// The watch said stop.
    #[error("stopped")]
    Stopped,
    /// Somebody wrote to it meanwhile.
    #[error("{path:?} changed while it was read")]
    Changed {
        /// Within the tree.
        path: PathBuf,
    },
    /// The target of a copy has something in it.
    #[error("{path:?} is not empty")]
    NotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// Something is mounted within the tree.
    #[error("{path:?} is another file system, mounted there")]
    Mount {
        /// Within the tree.
        path: PathBuf,
    },
    /// The target lies in the tree that is copied.
    #[error("{path:?} lies in the tree that is to be copied")]
    Inside {
        /// The target.
        path: PathBuf,
    },
    /// The system says no.
    #[error("cannot {doing} {path:?}: {}", words(*.why))]
    System {
        /// What was tried: a verb, and what else goes before the path.
        doing: &'static str,
        /// Within the tree, or a root.
        path: PathBuf,
        /// Why.
        why: Errno,
    },
}

impl TreeError {
    /// Whether there was no room: on the disk, of inodes, or of a quota.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::System { why: Errno::NOSPC | Errno::DQUOT, .. })
    }

    /// Whether it is the watch that ended it.
    pub fn is_stopped(&self) -> bool {
        *self == Self::Stopped
    }

    pub(crate) fn system(doing: &'static str, path: &Path, why: Errno) -> Self {
        Self::System { doing, path: path.to_owned(), why }
    }
}

/// Bytes of a path as a path.
pub(super) fn path_of(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// A name as a path.
pub(super) fn name_path(name: &CStr) -> &Path {
    path_of(name.to_bytes())
}

/// The system's errors in words of our own.
pub(crate) fn words(why: Errno) -> String {
    let known = match why {
        Errno::NOSPC => "the disk is full",
        Errno::DQUOT => "its quota is used up",
        Errno::IO => "the disk reports an error",
        Errno::ROFS => "the file system is read-only",
        Errno::NOENT => "it is gone",
        Errno::EXIST => "it is there already",
        Errno::NOTDIR => "it is no directory",
        Errno::ISDIR => "it is a folder",
        Errno::NOTEMPTY => "something is in it",
        Errno::BUSY => "it is in use",
        Errno::PERM | Errno::ACCESS => "it is not allowed",
        Errno::LOOP => "it is a link",
        Errno::MLINK => "this file system allows no more links to one file",
        Errno::NAMETOOLONG => "its name is too long for this file system",
        Errno::FBIG => "it is too large for this file system",
        Errno::OPNOTSUPP => "this file system does not know that",
        Errno::TOOBIG | Errno::RANGE => "it is too large",
        Errno::MFILE | Errno::NFILE => "too many files are open",
        Errno::NOMEM => "memory is short",
        Errno::STALE => "it is not what it was",
        Errno::XDEV => "it is another file system",
        other => return format!("the system's error {}", other.raw_os_error()),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_and_no_raw_error() {
        let path = path_of(b"a/\xff\n");
        let said = TreeError::system("write", path, Errno::NOSPC).to_string();
        assert_eq!(said, r#"cannot write "a/\xFF\n": the disk is full"#);
        for raw in 1..134 {
            let said = words(Errno::from_raw_os_error(raw));
            assert!(!said.is_empty());
            for matched in [
                "permission denied",
                "no such file or directory",
                "is a directory",
                "not a directory",
                "executable file not found",
            ] {
                assert!(!said.contains(matched), "{said}");
            }
        }
    }
}
