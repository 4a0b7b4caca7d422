//! The audit log: whether a decision can be written down. A start does not wait for that and is not refused
//! without it, so nobody else would say it.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gpuctl_ledger::audit;
use gpuctl_ledger::config::{Config, plain_io_error};
use rustix::fs::Access;

use super::programs::closed;
use super::{Checks, by_fix};
use crate::gpu;

const NAME: &str = "audit";
/// How long its disk may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What came of opening it as a decision does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// It takes lines.
    Open,
    /// It is no file, or a link to one: nothing is written through it.
    NoFile,
    /// It is another user's.
    Owner(u32),
    /// Others than root may write it.
    Writable,
    /// It does not open, or cannot be begun: why.
    Shut(&'static str),
}

pub(super) fn checks(config: &Config, fix: bool, checks: &mut Checks) {
    let path = audit::path(&config.paths);
    let asked = path.clone();
    let seen = gpu::within(LIMIT, move || Ok(look(&asked)));
    let seen = seen.unwrap_or(Seen::Shut("its disk does not answer"));
    if fix
        && seen == Seen::Writable
        && let Ok(meta) = path.symlink_metadata()
        && meta.is_file()
        && closed(NAME, &path, &meta, checks)
    {
        return;
    }
    judge(&path, &seen, checks);
}

/// Opens it and writes nothing. One that is not there is not begun.
fn look(path: &Path) -> Seen {
    let flags = nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    match std::fs::OpenOptions::new().append(true).custom_flags(flags).open(path) {
        Ok(file) => match file.metadata() {
            Ok(meta) if !meta.is_file() => Seen::NoFile,
            Ok(meta) if meta.uid() != nix::unistd::geteuid().as_raw() => Seen::Owner(meta.uid()),
            Ok(meta) if meta.mode() & 0o022 != 0 => Seen::Writable,
            Ok(_) => Seen::Open,
            Err(e) => Seen::Shut(plain_io_error(&e)),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => begun(path.parent()),
        Err(_) if path.symlink_metadata().is_ok_and(|meta| !meta.is_file()) => Seen::NoFile,
        Err(e) => Seen::Shut(plain_io_error(&e)),
    }
}

/// Whether it could be begun in its folder; one that is not there yet is made by the first start.
fn begun(folder: Option<&Path>) -> Seen {
    let folder: Option<PathBuf> =
        folder.and_then(|f| f.ancestors().find(|f| f.is_dir())).map(Path::to_owned);
    match folder.map(|f| rustix::fs::access(f, Access::WRITE_OK | Access::EXEC_OK)) {
        Some(Err(e)) => Seen::Shut(plain_io_error(&e.into())),
        _ => Seen::Open,
    }
}

fn judge(path: &Path, seen: &Seen, checks: &mut Checks) {
    let shown = path.display();
    let lost = "decisions about GPUs are not written down";
    let (why, fix) = match seen {
        Seen::Open => return checks.ok(NAME, format!("{shown} takes lines")),
        Seen::Writable => {
            let text =
                format!("{shown} can be written by others than root: what is in it proves nothing");
            return checks.problem(NAME, text, by_fix());
        }
        Seen::NoFile => ("is no file".to_owned(), format!("mv {shown} {shown}.foreign")),
        Seen::Owner(uid) => (format!("is user {uid}'s"), format!("chown root: {shown}")),
        Seen::Shut(why) => (
            format!("cannot be written: {why}"),
            format!("lsattr {shown}; chattr -i {shown}; findmnt -T {shown}: its disk is to be rw"),
        ),
    };
    checks.problem(NAME, format!("{shown} {why}; {lost}"), Some(fix));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::api::Verdict;

    #[test]
    fn what_takes_no_lines_is_told_from_what_does() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        assert_eq!(look(&log), Seen::Open);
        assert!(!log.exists(), "looking begins none");
        assert_eq!(look(&dir.path().join("not/yet/audit.log")), Seen::Open);
        std::fs::write(&log, "a line\n").unwrap();
        assert_eq!(look(&log), Seen::Open);
        assert_eq!(std::fs::read(&log).unwrap(), b"a line\n");
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(&log, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &log).unwrap();
        assert_eq!(look(&log), Seen::NoFile);
        std::fs::remove_file(&log).unwrap();
        std::fs::create_dir(&log).unwrap();
        assert_eq!(look(&log), Seen::NoFile);
        std::fs::remove_dir(&log).unwrap();
        nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(look(&log), Seen::NoFile, "nobody reads from it, and nobody waits");
        std::fs::remove_file(&log).unwrap();
        std::fs::write(&log, "").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&log, mode).unwrap();
        assert_eq!(look(&log), Seen::Writable);
        let meta = log.metadata().unwrap();
        assert!(closed(NAME, &log, &meta, &mut Checks::default()));
        assert_eq!(look(&log), Seen::Open);
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&log, Some(4711), None).unwrap();
            assert_eq!(look(&log), Seen::Owner(4711));
        }
    }

    #[test]
    fn each_is_a_problem_that_says_what_is_lost() {
        let judged = |seen: Seen| {
            let mut checks = Checks::default();
            judge(Path::new("/s/audit.log"), &seen, &mut checks);
            checks.0.remove(0)
        };
        assert_eq!(judged(Seen::Open).verdict, Verdict::Ok);
        for seen in [Seen::NoFile, Seen::Owner(7), Seen::Shut("the disk is read-only")] {
            let line = judged(seen);
            assert_eq!(line.verdict, Verdict::Problem);
            assert!(line.detail.ends_with("decisions about GPUs are not written down"), "{line:?}");
            assert!(line.fix.unwrap().contains("/s/audit.log"));
        }
    }
}
