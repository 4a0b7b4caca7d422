//! The programs that root runs for every container: who may write them, and whether the hook is static.
//! Whoever can write one of them, or a folder above it, is root.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use gpuctl_ledger::config::Config;

use super::{Checks, by_fix, check, packaged};
use crate::engine::api::Verdict;
use crate::engine::create::is_ours;

/// So much of a program is read: its head is at the beginning.
const HEAD: usize = 64 * 1024;
/// The names of the hook's program in its folder.
const NAMES: [&str; 4] =
    ["gpuctl-runtime", "gpuctl-gate", "strict/runc", "stub/nvidia-container-runtime-hook"];

/// A file or folder as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    uid: u32,
    mode: u32,
    is_file: bool,
}

impl Seen {
    fn of(meta: &Metadata) -> Self {
        Self { uid: meta.uid(), mode: meta.mode(), is_file: meta.is_file() }
    }
}

pub(super) fn checks(config: &Config, config_path: &Path, fix: bool, checks: &mut Checks) {
    let hook = &config.runtime.hook;
    let is_static = head(hook).map(|head| is_static(&head));
    program("hook", hook, fix, checks, |checks| match is_static {
        Some(Some(false)) => {
            let text = format!(
                "{} needs libraries of this host: a library that is replaced keeps GPU containers from starting",
                hook.display()
            );
            checks.problem("hook", text, Some("install the package's own gpuctl-hook".into()));
        }
        Some(None) => {
            let text = format!("{} is no program of Linux", hook.display());
            checks.problem("hook", text, Some(packaged::again(Path::new("/"))));
        }
        _ => checks.ok("hook", format!("{}: root's alone, static", hook.display())),
    });
    program("real runtime", &config.runtime.real, fix, checks, |checks| {
        checks.ok("real runtime", format!("{}: root's alone", config.runtime.real.display()));
    });
    names(hook, checks);
    for (what, path) in [("hook's folder", hook.as_path()), ("config", config_path)] {
        let open = path.ancestors().skip(1).filter_map(|folder| {
            let seen = Seen::of(&std::fs::metadata(folder).ok()?);
            Some((folder, open_folder(seen)?))
        });
        for (folder, why) in open {
            let shown = folder.display();
            let text = format!("{shown} {why}: whoever can write it is root");
            let fix = format!("chown root {shown}; chmod go-w {shown}");
            checks.problem(what, text, Some(fix));
        }
    }
    state(&config.paths.state, fix, checks);
}

/// One program; what is said of it where nothing is wrong is `good`'s to say.
fn program(name: &str, path: &Path, fix: bool, checks: &mut Checks, good: impl Fn(&mut Checks)) {
    let shown = path.display();
    let Ok(meta) = std::fs::metadata(path) else {
        let text = format!("{shown} is missing");
        return checks.problem(name, text, Some(packaged::again(Path::new("/"))));
    };
    match judge(Seen::of(&meta)) {
        Wrong::Nothing => good(checks),
        Wrong::NoProgram => {
            let text = format!("{shown} is no program");
            checks.problem(name, text, Some(packaged::again(Path::new("/"))));
        }
        Wrong::NotRun => {
            let text = format!("{shown} may not be run: no container that passes it starts");
            checks.problem(name, text, Some(format!("chmod 755 {shown}")));
        }
        Wrong::Owner(uid) => {
            let text = format!(
                "{shown} is user {uid}'s: who owns it can change it, and nobody knows what is in it by now"
            );
            checks.problem(name, text, Some(packaged::again(Path::new("/"))));
        }
        Wrong::SetUid => {
            let text =
                format!("{shown} has a set-uid or set-gid bit: whoever starts it is root by it");
            checks.problem(name, text, Some(format!("chmod 755 {shown}")));
        }
        Wrong::Open if fix && closed(name, path, &meta, checks) => {}
        Wrong::Open => {
            let text = format!("{shown} can be written by others than root");
            checks.problem(name, text, by_fix());
        }
    }
}

/// Takes the right to write from all but the owner, and says so. Whether that could be done.
pub(super) fn closed(name: &str, path: &Path, meta: &Metadata, checks: &mut Checks) -> bool {
    let mode = std::fs::Permissions::from_mode(meta.mode() & 0o7777 & !0o022);
    let done = std::fs::set_permissions(path, mode).is_ok();
    if done {
        let shown = path.display();
        let text = format!("{shown} could be written by others than root, and no longer can");
        checks.0.push(check(name, Verdict::Fixed, text, None));
    }
    done
}

/// What is wrong with a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    NoProgram,
    /// Nobody has the right to run it.
    NotRun,
    Owner(u32),
    Open,
    /// It runs as its owner, whoever starts it.
    SetUid,
}

fn judge(seen: Seen) -> Wrong {
    match seen {
        Seen { is_file: false, .. } => Wrong::NoProgram,
        Seen { uid, .. } if uid != 0 => Wrong::Owner(uid),
        Seen { mode, .. } if mode & 0o111 == 0 => Wrong::NotRun,
        Seen { mode, .. } if mode & 0o022 != 0 => Wrong::Open,
        Seen { mode, .. } if mode & 0o6000 != 0 => Wrong::SetUid,
        _ => Wrong::Nothing,
    }
}

/// Why others than root can replace what is in a folder, if they can. In one with the sticky bit, like
/// /tmp, everybody keeps to their own.
fn open_folder(seen: Seen) -> Option<String> {
    const STICKY: u32 = 0o1000;
    if seen.uid != 0 {
        return Some(format!("is user {}'s", seen.uid));
    }
    let open = seen.mode & 0o022 != 0 && seen.mode & STICKY == 0;
    open.then(|| "can be written by others than root".to_owned())
}

/// Whether names that stand for the hook's program lead to it.
fn names(hook: &Path, checks: &mut Checks) {
    let Some(folder) = hook.parent() else { return };
    let [runtime, gate, ..] = NAMES;
    let gone = |name: &&'static str| {
        let seen = folder.join(name).symlink_metadata();
        hook.exists() && seen.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    };
    for name in [runtime, gate].into_iter().filter(gone) {
        let text = format!(
            "{} is not there: no container starts whose runtime it is",
            folder.join(name).display()
        );
        checks.problem("hook's names", text, Some(packaged::again(Path::new("/"))));
    }
    let foreign: Vec<String> = NAMES
        .iter()
        .map(|name| folder.join(name))
        .filter(|path| path.symlink_metadata().is_ok() && is_ours(hook, path) != Some(true))
        .map(|path| path.display().to_string())
        .collect();
    if !foreign.is_empty() {
        let text = format!("{} should be {} and is not", foreign.join(", "), hook.display());
        checks.problem("hook's names", text, Some(packaged::again(Path::new("/"))));
    }
}

/// The ledger's folder holds who has what, and names credentials.
fn state(folder: &Path, fix: bool, checks: &mut Checks) {
    const NAME: &str = "state";
    let shown = folder.display();
    let Ok(meta) = std::fs::metadata(folder) else {
        // The first start makes it.
        return;
    };
    let seen = Seen::of(&meta);
    if seen.uid == 0 && seen.mode & 0o022 == 0 {
        return checks.ok(NAME, format!("{shown}: root's alone to write"));
    }
    if seen.uid == 0 && fix && closed(NAME, folder, &meta, checks) {
        return;
    }
    let fix = if seen.uid == 0 { by_fix() } else { Some(format!("chown root {shown}")) };
    checks.problem(NAME, format!("{shown} can be written by others than root"), fix);
}

/// The beginning of a file.
fn head(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let path: PathBuf = std::fs::canonicalize(path).ok()?;
    // Nobody may write to a fifo that stands there.
    let flags = nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(HEAD as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Whether a program of 64 bits names no interpreter that would load libraries; `None` of what is no
/// such program.
fn is_static(head: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let little_64 = head.get(..6) == Some(b"\x7fELF\x02\x01".as_slice());
    if !little_64 {
        return None;
    }
    let at = usize::try_from(number(32, 8)?).ok()?;
    let (size, count) =
        (usize::try_from(number(54, 2)?).ok()?, usize::try_from(number(56, 2)?).ok()?);
    for n in 0..count {
        let entry = at.checked_add(n.checked_mul(size)?)?;
        if number(entry, 4)? == u64::from(INTERPRETER) {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_roots_own_programs_are_good() {
        let seen = |uid, mode| Seen { uid, mode, is_file: true };
        assert_eq!(judge(seen(0, 0o100_755)), Wrong::Nothing);
        assert_eq!(judge(seen(0, 0o100_775)), Wrong::Open);
        assert_eq!(judge(seen(0, 0o100_757)), Wrong::Open);
        assert_eq!(judge(seen(1000, 0o100_755)), Wrong::Owner(1000));
        assert_eq!(judge(seen(0, 0o100_644)), Wrong::NotRun);
        assert_eq!(judge(Seen { is_file: false, ..seen(0, 0o40_755) }), Wrong::NoProgram);
        assert_eq!(open_folder(seen(0, 0o41_777)), None);
        assert!(open_folder(seen(0, 0o40_777)).is_some());
        assert!(open_folder(seen(7, 0o40_755)).is_some());
    }

    #[test]
    fn nobody_waits_for_what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("gpuctl-hook");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(head(&fifo), None);
        assert_eq!(head(dir.path()), None);
    }

    #[test]
    fn a_program_that_needs_libraries_is_told_from_one_that_does_not() {
        // This test itself is linked to them, wherever tests are.
        let own = head(Path::new("/proc/self/exe")).unwrap();
        assert_eq!(is_static(&own), Some(false));
        let mut without = own.clone();
        // Its first program header says what comes after, the second names the interpreter.
        let at = usize::from(without[32]);
        let size = usize::from(without[54]);
        for n in 0..usize::from(without[56]) {
            if without[at + n * size] == 3 {
                without[at + n * size] = 0;
            }
        }
        assert_eq!(is_static(&without), Some(true));
        assert_eq!(is_static(b"#!/bin/sh\n"), None);
        assert_eq!(is_static(&own[..70]), None);
        assert_eq!(is_static(&[]), None);
    }
}
