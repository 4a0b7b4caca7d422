//! What the Engine sees: its mount namespace may be another than ours, and a mount made here may not
//! get there.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// A path as the process that answers at the Engine's socket sees it; `None` where that cannot be told.
fn seen_by_engine(host: &str, path: &Path) -> Option<PathBuf> {
    let stream = UnixStream::connect(host.strip_prefix("unix://")?).ok()?;
    let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    // Also where it has another root than we have.
    root.join("proc").symlink_metadata().ok()?;
    Some(root.join(path.strip_prefix("/").ok()?))
}

/// Whether a folder that we see is not there for the Engine. In doubt it is.
pub(crate) fn hides(host: &str, path: &Path) -> bool {
    seen_by_engine(host, path).is_some_and(|there| {
        there.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_is_there_where_both_are_one() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let host = format!("unix://{}", socket.display());
        assert!(!hides(&host, folder.path()));
        assert!(hides(&host, &folder.path().join("not-there")));
        // Nobody answers: nothing can be told.
        assert!(!hides("unix:///nowhere/d.sock", &folder.path().join("not-there")));
    }
}
