//! One line for each decision about GPUs, appended to `audit.log` in the state folder.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::{Timestamp, Unit};

use crate::refuse::presentable;

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
}

impl Decision {
    fn word(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::Stripped => "stripped",
            Self::Exempted => "exempted",
            Self::Ended => "ended",
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
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(config.paths.state.join("audit.log"));
    let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
}
