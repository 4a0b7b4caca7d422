//! The service's socket: systemd's, or our own.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use gpuctl_ledger::config::plain_io_error;
use nix::unistd::{Gid, Group, chown};

use crate::engine::api::Failure;

/// Who may connect, besides root.
const GROUP: &str = "docker";
const MODE: u32 = 0o660;

/// A listening socket; one that we made is removed with it.
#[derive(Debug)]
pub struct Socket {
    /// Where to accept.
    pub listener: UnixListener,
    /// The file to remove; systemd's stays.
    ours: Option<PathBuf>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(path) = &self.ours {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The socket that systemd handed over, else one made at `path`.
///
/// # Errors
/// When another service answers there, or the socket cannot be made.
pub fn open(path: &Path) -> Result<Socket, Failure> {
    // Checks LISTEN_PID and LISTEN_FDS, and takes them out of the environment.
    let mut handed = listenfd::ListenFd::from_env();
    match handed.take_unix_listener(0) {
        Ok(Some(listener)) => Ok(Socket { listener, ours: None }),
        Ok(None) => make(path),
        Err(_) => Err(Failure::new("what systemd handed over is no listening Unix socket")),
    }
}

/// Makes the socket under another name and moves it into place, so that nobody meets it before its
/// rights are set.
fn make(path: &Path) -> Result<Socket, Failure> {
    let wrong = |e: std::io::Error| {
        let why = plain_io_error(&e);
        Failure::new(format!("the socket {} cannot be made: {why}", path.display()))
    };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(Failure::new(format!("{} is there and is no socket", path.display())));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(Failure::new(format!(
                "another gpuctl service answers at {}",
                path.display()
            ))
            .hint("systemctl status gpuctl.service"));
        }
        _ => {}
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(wrong)?;
    let made = folder.join(format!(".gpuctl.{}", std::process::id()));
    let _ = std::fs::remove_file(&made);
    let listener = UnixListener::bind(&made).map_err(wrong)?;
    let ready = std::fs::set_permissions(&made, std::fs::Permissions::from_mode(MODE))
        .and_then(|()| match Group::from_name(GROUP) {
            Ok(Some(group)) => chown(&made, None, Some(Gid::from_raw(group.gid.as_raw())))
                .map_err(std::io::Error::from),
            // No such group: root alone.
            _ => Ok(()),
        })
        .and_then(|()| std::fs::rename(&made, path));
    if let Err(error) = ready {
        let _ = std::fs::remove_file(&made);
        return Err(wrong(error));
    }
    Ok(Socket { listener, ours: Some(path.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/gpuctl.sock");
        let first = make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let refused = make(&path).unwrap_err();
        assert!(refused.message.contains("another gpuctl service answers"), "{refused}");
        drop(first);
        assert!(!path.exists());
        // As one that was killed: the file stays and nobody answers.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _second = make(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "data").unwrap();
        assert!(make(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }
}
