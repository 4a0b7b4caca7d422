//! One line for each decision about GPUs, appended to `audit.log` in the state folder. A full log
//! becomes `audit.log.1`, in the place of the one before.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Result, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::{Timestamp, Unit};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::refuse::presentable;

/// The size at which a log is full, in bytes: some 30 000 decisions. What is kept is never more than
/// twice this, and the lines that a crowd writes while one of it rotates.
const LARGEST: u64 = 10 << 20;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// GPUs were granted.
    Granted,
    /// A start was refused.
    Refused,
    /// GPUs were taken out of a spec that named or opened them without a request.
    Stripped,
    /// The exempt list let it through.
    Exempted,
    /// GPUs were given back, or reserved, at the container's end.
    Ended,
    /// The container's own settings name GPUs that it did not get.
    Hint,
}

impl Decision {
    fn word(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::Stripped => "stripped",
            Self::Exempted => "exempted",
            Self::Ended => "ended",
            Self::Hint => "hint",
        }
    }
}

/// Appends a line. A full or read-only disk keeps nobody from starting a container.
pub fn write(config: &Config, decision: Decision, id: &str, name: &str, units: &[Unit], why: &str) {
    let line = serde_json::json!({
        "time": Timestamp::now(),
        "decision": decision.word(),
        "observe": config.policy.observe,
        "container": presentable(id),
        "name": presentable(name),
        "gpus": units,
        "reason": presentable(why),
    });
    let path = config.paths.state.join("audit.log");
    let _ = append(&path, format!("{line}\n").as_bytes(), LARGEST);
}

/// Appends to the log, which is begun anew first where it has reached so many bytes.
fn append(path: &Path, line: &[u8], largest: u64) -> Result<()> {
    let (mut file, meta) = open(path)?;
    // A crowd may come to a log that is rotated again and again: one line is not worth more tries.
    if meta.len() >= largest && rotate(path, file.try_clone()?, &meta).is_ok() {
        file = open(path)?.0;
    }
    file.write_all(line)
}

/// Opens the log: no link, and a file of ours by what was opened, not by what the path said.
fn open(path: &Path) -> Result<(File, Metadata)> {
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok((file, meta))
}

/// Makes the full log `audit.log.1`, in the place of the one before. Whoever has it open yet writes
/// to it there: no line is lost.
///
/// The lock is on the full log itself, and whoever has it sees that the log is still that one: of a
/// crowd that finds it full one renames it, and nobody renames the new one. Nobody waits: while one
/// is at it, the others write to what they have open.
fn rotate(path: &Path, full: File, meta: &Metadata) -> Result<()> {
    let _lock = match Flock::lock(full, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, Errno::EWOULDBLOCK)) => return Err(ErrorKind::WouldBlock.into()),
        Err((_, e)) => return Err(e.into()),
    };
    let now = path.symlink_metadata()?;
    if (now.dev(), now.ino()) == (meta.dev(), meta.ino()) {
        // No link is followed: neither name is resolved to what it may point to.
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_full_log_becomes_the_older_one_and_the_one_before_goes() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            paths: gpuctl_ledger::config::Paths {
                state: dir.path().to_owned(),
                ..Default::default()
            },
            ..Default::default()
        };
        let (log, older) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
        std::fs::write(&older, "the one before").unwrap();
        write(&config, Decision::Granted, "ab12", "train", &[], "started");
        // Sparse: it takes no room.
        let full = std::fs::OpenOptions::new().write(true).open(&log).unwrap();
        full.set_len(LARGEST - 1).unwrap();
        write(&config, Decision::Granted, "ab12", "train", &[], "not full yet");
        assert_eq!(read(&older), "the one before");
        write(&config, Decision::Refused, "cd34", "late", &[], "none is free");
        assert!(std::fs::metadata(&older).unwrap().len() >= LARGEST);
        assert_eq!(read(&log).lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&read(&log)).unwrap();
        assert_eq!((&line["name"], &line["decision"]), (&"late".into(), &"refused".into()));
        let mode = std::fs::metadata(&log).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn who_found_it_full_but_comes_late_leaves_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        append(&log, b"full\n", 5).unwrap();
        let (late, seen) = open(&log).unwrap();
        append(&log, b"new\n", 5).unwrap();
        rotate(&log, late, &seen).unwrap();
        assert_eq!(
            (read(&log), read(&log.with_extension("log.1"))),
            ("new\n".into(), "full\n".into())
        );
    }

    #[test]
    fn a_crowd_rotates_once_and_loses_no_line() {
        const CROWD: u64 = 16;
        const EACH: u64 = 60;
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let (log, older) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
            let line = |one: u64, n: u64| format!("{one:4} {n:4} {}\n", "x".repeat(90));
            // What comes after the rotation does not fill the new one.
            let largest = CROWD * EACH * 100 * 6 / 10;
            std::thread::scope(|scope| {
                for one in 0..CROWD {
                    let (log, line) = (&log, &line);
                    scope.spawn(move || {
                        for n in 0..EACH {
                            append(log, line(one, n).as_bytes(), largest).unwrap();
                        }
                    });
                }
            });
            let both = format!("{}{}", read(&older), read(&log));
            let mut found: Vec<&str> = both.lines().collect();
            found.sort_unstable();
            let all: Vec<String> =
                (0..CROWD).flat_map(|one| (0..EACH).map(move |n| line(one, n))).collect();
            let all: Vec<&str> = all.iter().map(|l| l.trim_end_matches('\n')).collect();
            assert!(found == all, "{} of {} lines", found.len(), all.len());
        }
    }

    #[test]
    fn no_link_is_followed_and_a_fifo_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (log, older) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
        let theirs = dir.path().join("theirs");
        std::fs::write(&theirs, "as it was").unwrap();
        symlink(&theirs, &log).unwrap();
        assert!(append(&log, b"a line\n", 5).is_err());
        std::fs::remove_file(&log).unwrap();
        symlink(&theirs, &older).unwrap();
        append(&log, b"a line\n", 5).unwrap();
        append(&log, b"another\n", 5).unwrap();
        assert_eq!((read(&older), read(&log)), ("a line\n".into(), "another\n".into()));
        assert_eq!(read(&theirs), "as it was");
        std::fs::remove_file(&log).unwrap();
        nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _reader = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&log)
            .unwrap();
        assert!(append(&log, b"a line\n", 5).is_err());
    }

    #[test]
    fn what_cannot_be_rotated_is_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        // A folder that is not empty is replaced by no rename.
        std::fs::create_dir_all(dir.path().join("audit.log.1/full")).unwrap();
        append(&log, b"a line\n", 5).unwrap();
        append(&log, b"another\n", 5).unwrap();
        assert_eq!(read(&log), "a line\nanother\n");
        // Somebody else is at it: nobody waits.
        std::fs::remove_dir_all(dir.path().join("audit.log.1")).unwrap();
        let _other = Flock::lock(open(&log).unwrap().0, FlockArg::LockExclusive).unwrap();
        append(&log, b"a third\n", 5).unwrap();
        assert_eq!(read(&log), "a line\nanother\na third\n");
    }
}
