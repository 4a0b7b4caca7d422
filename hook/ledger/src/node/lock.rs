//! The operation lock: one flock a container name. The kernel drops it when its holder dies, so it
//! says for certain whether the author of a journal still lives.

use std::io::Result;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A held lock; dropped with the value, or with the process.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] Flock<std::fs::File>);

/// Takes the lock file `name` in `dir`, waiting at most `limit`; `None` when somebody else has it.
///
/// # Errors
/// The system's.
pub fn take(dir: &Path, name: &str, limit: Duration) -> Result<Option<Lock>> {
    super::files::make_private_dir(dir)?;
    let deadline = Instant::now() + limit;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW)
        .open(dir.join(name))?;
    let mut pause = Duration::from_millis(1);
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(Lock(lock))),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
            Err((_, e)) => return Err(e.into()),
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
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
