//! The programs that make filesystems and mount them: run by name from the system's own folders, with
//! a limit of time, no shell, and an environment of ours.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gpuctl_ledger::config::plain_io_error;

use super::GivenUp;
use crate::engine::api::Failure;

/// Where they are.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// Most of what one says that is read, in bytes.
const LONGEST: u64 = 256 << 10;
/// How often it is looked whether one has ended.
const LOOK: Duration = Duration::from_millis(3);

/// Limit of what only writes a few blocks or asks the kernel.
pub(super) const SHORT: Duration = Duration::from_secs(60);
/// Limit of what reads or writes all of a filesystem.
pub(super) const LONG: Duration = Duration::from_secs(24 * 3600);

/// Where a program is.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// Those of these programs that are not installed.
pub(crate) fn missing(names: &[&'static str]) -> Vec<&'static str> {
    names.iter().copied().filter(|name| find(name).is_none()).collect()
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its exit code; 128 and the signal's number of one that was killed.
    pub(super) code: u8,
    /// What it printed.
    pub(super) stdout: String,
    /// What it complained about.
    pub(super) stderr: String,
}

/// Runs a program to its end.
///
/// # Errors
/// When it is not installed, takes longer than `limit`, or the user gave up; then it was killed.
pub(super) fn run(
    name: &str,
    arguments: &[&std::ffi::OsStr],
    limit: Duration,
    given_up: GivenUp<'_>,
) -> Result<Ended, Failure> {
    let path = find(name).ok_or_else(|| not_installed(name))?;
    let mut command = Command::new(path);
    command.args(arguments).env_clear().current_dir("/").stdin(Stdio::null());
    command.env("PATH", FOLDERS.join(":")).env("LC_ALL", "C");
    // It asks nothing, whatever is on the terminal.
    command.env("E2FSPROGS_LIBMAGIC_SUPPRESS", "1");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::new(format!("{name} does not start: {}", plain_io_error(&e))))?;
    let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let began = Instant::now();
    let why = loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                let text = |reader: Reader| reader.join().unwrap_or_default();
                let code = crate::client::dockercli::exit_code(status);
                return Ok(Ended { code, stdout: text(out), stderr: text(err) });
            }
            Ok(None) if given_up() => break Failure::new("interrupted").code(130),
            Ok(None) if began.elapsed() < limit => std::thread::sleep(LOOK),
            _ => {
                let text = format!("{name} did not end within {} s", limit.as_secs());
                break Failure::new(text).hint("is the disk very slow, or broken?");
            }
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    Err(why)
}

/// As [`run`], of a program that has to end with 0; what it printed.
///
/// # Errors
/// As [`run`], and with its own words when it fails.
pub(super) fn done(
    name: &str,
    arguments: &[&std::ffi::OsStr],
    limit: Duration,
    given_up: GivenUp<'_>,
) -> Result<String, Failure> {
    let ended = run(name, arguments, limit, given_up)?;
    if ended.code == 0 {
        return Ok(ended.stdout);
    }
    Err(failed(name, arguments, &ended))
}

/// A failure of a program, with its own words.
pub(super) fn failed(name: &str, arguments: &[&std::ffi::OsStr], ended: &Ended) -> Failure {
    let words: Vec<String> = arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let lines = ended.stderr.lines().chain(ended.stdout.lines());
    let said: Vec<String> =
        lines.map(str::trim).filter(|l| !l.is_empty()).take(4).map(str::to_owned).collect();
    Failure::new(format!("{name} {} failed, with exit code {}", words.join(" "), ended.code))
        .details(said)
}

fn not_installed(name: &str) -> Failure {
    let package = match name {
        "mkfs.xfs" | "xfs_growfs" => "xfsprogs",
        "mkfs.ext4" | "resize2fs" | "e2fsck" | "dumpe2fs" => "e2fsprogs",
        "cp" => "coreutils",
        _ => "mount and util-linux",
    };
    Failure::new(format!("{name} is not installed on this host")).hint(format!("install {package}"))
}

type Reader = std::thread::JoinHandle<String>;

/// Reads what a program says, so that it never waits for us.
fn reader(from: Option<impl std::io::Read + Send + 'static>) -> Reader {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut from) = from {
            let _ = (&mut from).take(LONGEST).read_to_end(&mut text);
            let _ = std::io::copy(&mut from, &mut std::io::sink());
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration, given_up: GivenUp<'_>) -> Result<Ended, Failure> {
        run("sh", &["-c".as_ref(), script.as_ref()], limit, given_up)
    }

    #[test]
    fn a_program_is_heard_and_judged() {
        let ended = sh("echo a; echo b >&2; exit 3", SHORT, &|| false).unwrap();
        assert_eq!((ended.code, ended.stdout.trim(), ended.stderr.trim()), (3, "a", "b"));
        let failure =
            done("sh", &["-c".as_ref(), "echo why >&2; exit 2".as_ref()], SHORT, &|| false);
        let failure = failure.unwrap_err();
        assert!(
            failure.message.contains("exit code 2") && failure.details == ["why"],
            "{failure:?}"
        );
        let none = run("no-such-program", &[], SHORT, &|| false).unwrap_err();
        assert!(none.message.contains("not installed"), "{none}");
        // More than a pipe holds, and more than is read.
        let long = sh("head -c 400000 /dev/zero", SHORT, &|| false).unwrap();
        assert_eq!((long.code, long.stdout.len()), (0, 256 << 10));
    }

    #[test]
    fn one_that_takes_too_long_or_is_given_up_is_ended() {
        let began = Instant::now();
        let slow = sh("exec sleep 30", Duration::from_millis(50), &|| false).unwrap_err();
        assert!(slow.message.contains("did not end"), "{slow}");
        let given_up = sh("exec sleep 30", SHORT, &|| true).unwrap_err();
        assert_eq!(given_up.code, 130);
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
