//! The operation lock: one flock a container name. The kernel drops it when its holder dies, so it
//! says for certain whether the author of a journal still lives.

use std::io::Result;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A held lock; dropped with the value, or with the process.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] Flock<std::fs::File>);

/// Takes the lock file `name` in `dir`, waiting at most `limit`; `None` when somebody else has it.
///
/// The wait is the kernel's own, in turn: under a crowd of starting containers nobody is passed over.
///
/// # Errors
/// The system's.
pub fn take(dir: &Path, name: &str, limit: Duration) -> Result<Option<Lock>> {
    super::files::make_dir_in_open(dir)?;
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW)
        .open(dir.join(name))?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(Some(Lock(lock))),
        Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => file,
        Err((_, e)) => return Err(e.into()),
    };
    if limit.is_zero() {
        return Ok(None);
    }
    // A blocking flock has no limit of its own: a thread waits, and drops what comes too late.
    let (tell, told) = mpsc::sync_channel(1);
    std::thread::Builder::new().name("lock".into()).spawn(move || {
        let mut file = file;
        let taken = loop {
            match Flock::lock(file, FlockArg::LockExclusive) {
                Err((back, Errno::EINTR)) => file = back,
                Ok(lock) => break Ok(Lock(lock)),
                Err((_, e)) => break Err(e),
            }
        };
        let _ = tell.send(taken);
    })?;
    match told.recv_timeout(limit) {
        Ok(taken) => taken.map(Some).map_err(Into::into),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_and_ends_with_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let held = take(dir.path(), "a", Duration::ZERO).unwrap();
        assert!(held.is_some());
        assert!(take(dir.path(), "a", Duration::from_millis(20)).unwrap().is_none());
        assert!(take(dir.path(), "b", Duration::ZERO).unwrap().is_some());
        drop(held);
        assert!(take(dir.path(), "a", Duration::ZERO).unwrap().is_some());
    }
}
