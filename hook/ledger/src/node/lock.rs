//! The operation lock: one flock a container name. The kernel drops it when its holder dies, so it
//! says for certain whether the author of a journal still lives.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A held lock; dropped with the value, or with the process.
#[derive(Debug)]
pub struct Lock {
    file: Flock<File>,
    path: PathBuf,
}

impl Lock {
    /// Lets go, and removes the file: for a name that is no more. Who waits for it finds that its file
    /// is no longer the one on disk, and takes that one.
    ///
    /// # Errors
    /// The system's; then the file is left.
    pub fn remove(self) -> Result<()> {
        // First the file, then the lock: as long as we have it, nobody else's file is there.
        std::fs::remove_file(&self.path)
    }

    /// Whether the locked file is still the one on disk: whoever had it before may have removed it.
    fn is_on_disk(&self) -> Result<bool> {
        let ours = self.file.metadata()?;
        match std::fs::symlink_metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// Takes the lock file `name` in `dir`, waiting at most `limit`; `None` when somebody else has it.
///
/// The wait is the kernel's own, in turn: under a crowd of starting containers nobody is passed over.
///
/// # Errors
/// The system's.
pub fn take(dir: &Path, name: &str, limit: Duration) -> Result<Option<Lock>> {
    super::files::make_dir_in_open(dir)?;
    let path = dir.join(name);
    let began = Instant::now();
    loop {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW)
            .open(&path)?;
        let left = limit.saturating_sub(began.elapsed());
        let Some(file) = flock(file, left)? else { return Ok(None) };
        let lock = Lock { file, path: path.clone() };
        if lock.is_on_disk()? {
            return Ok(Some(lock));
        }
    }
}

fn flock(file: File, limit: Duration) -> Result<Option<Flock<File>>> {
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(Some(lock)),
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
                Ok(lock) => break Ok(lock),
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
        // Whoever gave up before may get it first, for the moment in which it notices.
        assert!(take(dir.path(), "a", Duration::from_secs(10)).unwrap().is_some());
    }

    #[test]
    fn who_waited_for_a_removed_lock_has_the_one_that_is_there_now() {
        let dir = tempfile::tempdir().unwrap();
        let held = take(dir.path(), "a", Duration::ZERO).unwrap().unwrap();
        let waiter = {
            let dir = dir.path().to_owned();
            std::thread::spawn(move || take(&dir, "a", Duration::from_secs(10)).unwrap())
        };
        std::thread::sleep(Duration::from_millis(200));
        held.remove().unwrap();
        let got = waiter.join().unwrap();
        assert!(got.is_some());
        assert!(dir.path().join("a").exists());
        assert!(take(dir.path(), "a", Duration::ZERO).unwrap().is_none(), "two have it");
        got.unwrap().remove().unwrap();
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn however_often_it_is_removed_only_one_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..50 {
                        let lock = take(dir.path(), "a", Duration::from_secs(30)).unwrap().unwrap();
                        let others = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(others, 0, "two have it");
                        std::thread::yield_now();
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        if round % 2 == 0 { lock.remove().unwrap() } else { drop(lock) }
                    }
                });
            }
        });
    }
}
