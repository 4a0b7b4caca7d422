//! Runs a program with a time limit and keeps both of its outputs.

use std::io::Read;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The exit code shown for a program that ran past its limit, as timeout(1) has it.
pub const TIMED_OUT: i32 = 124;
/// Output beyond this is dropped, in bytes.
const LONGEST: u64 = 16 * 1024 * 1024;

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What was run, for messages.
    pub shown: String,
    /// Its exit code; 128 and the signal's number when one ended it; [`TIMED_OUT`].
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Output {
    /// Standard output if it ended with 0.
    ///
    /// # Errors
    /// Else all that is known of it.
    pub fn ok(self) -> crate::Result<String> {
        if self.code == 0 { Ok(self.stdout) } else { Err(self.to_string()) }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.code == TIMED_OUT { " (ran past its limit)" } else { "" };
        writeln!(f, "$ {}\nexit {}{word} after {:?}", self.shown, self.code, self.took)?;
        writeln!(f, "--- stdout\n{}", self.stdout.trim_end())?;
        write!(f, "--- stderr\n{}", self.stderr.trim_end())
    }
}

/// Runs it to its end, at most `limit` long, with nothing on its standard input. It is the first of
/// a process group, and on a time-out all of that group is killed.
///
/// # Errors
/// Only when it cannot be started.
pub fn run(command: &mut Command, limit: Duration) -> crate::Result<Output> {
    let shown = shown(command);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| format!("cannot start {shown}: {e}"))?;
    let out = child.stdout.take().map(collect);
    let err = child.stderr.take().map(collect);
    let mut timed_out = false;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if started.elapsed() < limit => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => {
                timed_out = true;
                if let Ok(pid) = i32::try_from(child.id()) {
                    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
                }
                break child.wait().ok();
            }
        }
    };
    let code = match status {
        _ if timed_out => TIMED_OUT,
        Some(s) => s.code().or_else(|| s.signal().map(|n| 128 + n)).unwrap_or(TIMED_OUT),
        None => TIMED_OUT,
    };
    // A process it left behind may hold the pipes open for ever; then what came so far is shown.
    let text =
        |reader: Option<Reader>| reader.map(|r| r.text(Duration::from_secs(2))).unwrap_or_default();
    Ok(Output { shown, code, stdout: text(out), stderr: text(err), took: started.elapsed() })
}

struct Reader {
    thread: JoinHandle<()>,
    text: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Reader {
    fn text(self, limit: Duration) -> String {
        let until = Instant::now() + limit;
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        let bytes = self.text.lock().map(|b| b.clone()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn collect(from: impl Read + Send + 'static) -> Reader {
    let text = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
    let into = text.clone();
    let thread = std::thread::spawn(move || {
        let mut from = from.take(LONGEST);
        let mut buffer = [0u8; 8192];
        while let Ok(n) = from.read(&mut buffer) {
            let Some(piece) = buffer.get(..n).filter(|p| !p.is_empty()) else { return };
            let Ok(mut bytes) = into.lock() else { return };
            bytes.extend_from_slice(piece);
        }
    });
    Reader { thread, text }
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let quoted = |word: &std::ffi::OsStr| {
        let word = word.to_string_lossy().into_owned();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-=:,@%+".contains(&b);
        if !word.is_empty() && word.bytes().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Where a program is: the first of the names that PATH and the system's folders have.
///
/// # Errors
/// When none is there.
pub fn find(names: &[&str]) -> crate::Result<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for name in names {
        if name.starts_with('/') {
            if std::path::Path::new(name).is_file() {
                return Ok((*name).into());
            }
            continue;
        }
        for folder in path.split(':').chain(system.split(':')).filter(|f| f.starts_with('/')) {
            let file = std::path::Path::new(folder).join(name);
            if file.is_file() {
                return Ok(file);
            }
        }
    }
    Err(format!("{} is not installed", names.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_and_the_code_come_back() {
        let got = run(
            Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
            Duration::from_secs(10),
        )
        .unwrap();
        assert_eq!((got.code, got.stdout.as_str(), got.stderr.as_str()), (3, "out\n", "err\n"));
    }

    #[test]
    fn a_program_past_its_limit_is_killed_with_its_children() {
        let got =
            run(Command::new("sh").args(["-c", "sleep 60 & sleep 60"]), Duration::from_millis(200))
                .unwrap();
        assert_eq!(got.code, TIMED_OUT);
        assert!(got.took < Duration::from_secs(5), "{got}");
    }

    #[test]
    fn a_command_is_shown_as_typed() {
        assert_eq!(shown(Command::new("sh").args(["-c", "it's", ""])), r"sh -c 'it'\''s' ''");
    }
}
