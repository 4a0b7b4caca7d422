//! Asks another program a question of one answer: with a limit of time and of length, an environment
//! of its own, and only where the program is root's alone.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The longest answer that is read, in bytes.
const LONGEST: u64 = 16 * 1024;

/// Whether a program may be run by root: it is root's, and nobody else's to write.
pub(super) fn is_trusted(program: &Path) -> bool {
    std::fs::metadata(program).is_ok_and(|meta| {
        meta.is_file() && meta.uid() == 0 && meta.mode() & 0o022 == 0 && meta.mode() & 0o111 != 0
    })
}

/// What a program says on stdout, where it ends with 0 within `limit`.
pub(super) fn answer(program: &Path, words: &[&str], limit: Duration) -> Option<String> {
    let until = Instant::now() + limit;
    let mut child = Command::new(program)
        .args(words)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let (tell, told) = mpsc::sync_channel(1);
    let out = child.stdout.take()?;
    // Whoever holds the other end open for longer is not waited for.
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = out.take(LONGEST).read_to_end(&mut text);
        let _ = tell.send(read.ok().map(|_| text));
    });
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break false;
            }
        }
    };
    let text = told.recv_timeout(until.saturating_duration_since(Instant::now())).ok()??;
    ended.then(|| String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_in_time_counts() {
        let shell = Path::new("/bin/sh");
        let second = Duration::from_secs(1);
        assert_eq!(answer(shell, &["-c", "echo yes"], second).as_deref(), Some("yes\n"));
        assert_eq!(answer(shell, &["-c", "echo no; exit 3"], second), None);
        let began = Instant::now();
        assert_eq!(answer(shell, &["-c", "echo late; exec sleep 30"], second), None);
        // One that has ended, and whose child keeps the pipe.
        assert_eq!(answer(shell, &["-c", "sleep 5 & echo early"], second), None);
        assert!(began.elapsed() < Duration::from_secs(4));
        assert_eq!(answer(Path::new("/not/there"), &[], second), None);
        let long = answer(shell, &["-c", "head -c 20000 /dev/zero; exit 0"], second);
        assert!(long.is_none_or(|text| text.len() as u64 == LONGEST));
    }
}
