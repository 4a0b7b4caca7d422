//! A refusal, where whoever called will find it: the runtime's log, from which containerd and Docker
//! take the text that the user reads, and stderr.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use gpuctl_ledger::model::Timestamp;

use crate::command::{Command, LogFormat};

/// Longest text, in characters: Docker shows all of it on one line.
const LONGEST: usize = 1500;

/// Texts that make Docker exit with 126 or 127 where they occur in a runtime's error, and what is
/// said instead. A refusal is 125.
const TRAPS: [(&str, &str); 5] = [
    ("permission denied", "access was denied"),
    ("is a directory", "is a folder"),
    ("no such file or directory", "is not there"),
    ("executable file not found", "program is missing"),
    ("not a directory", "is no folder"),
];

/// Whether a character moves the cursor, ends the line or turns its direction round.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A text fit for Docker's one line: no control characters, no traps, not too long.
pub fn presentable(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if is_unseen(c) { ' ' } else { c }).take(LONGEST).collect();
    for (trap, instead) in TRAPS {
        while let Some(at) = line.to_ascii_lowercase().find(trap) {
            line.replace_range(at..at + trap.len(), instead);
        }
    }
    line
}

/// Tells whoever called that the container may not start, and why. Exit status of the runtime: 1.
pub fn tell(command: &Command, text: &str) -> i32 {
    let message = format!("gpuctl: {}", presentable(text));
    let time = Timestamp::now();
    if let Some(path) = &command.log {
        let line = match command.log_format {
            LogFormat::Json => {
                serde_json::json!({"level": "error", "msg": message, "time": time}).to_string()
            }
            LogFormat::Text => {
                format!("time=\"{time}\" level=error msg={}", serde_json::json!(message))
            }
        };
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(path);
        // Nobody is left to tell when the log cannot be written, but stderr.
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
    let _ = writeln!(std::io::stderr(), "{message}");
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_docker_reads_as_another_exit_code_gets_through() {
        let text = presentable(
            "a: Permission denied (Not a directory)\n\u{1b}[31mno such file or directory",
        );
        assert_eq!(text, "a: access was denied (is no folder)  [31mis not there");
        assert!(presentable(&"x".repeat(10_000)).len() <= LONGEST);
    }

    #[test]
    fn the_log_gets_one_json_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log.json");
        let command =
            Command { log: Some(log.clone()), log_format: LogFormat::Json, ..Command::default() };
        assert_eq!(tell(&command, "2 GPUs \"asked\" for\n"), 1);
        let line: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(log).unwrap()).unwrap();
        assert_eq!(line["level"], "error");
        assert_eq!(line["msg"], "gpuctl: 2 GPUs \"asked\" for ");
    }
}
