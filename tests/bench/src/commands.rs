//! What is measured, and what it needs: commands, run to their end.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gpuctl_sim::{Result, command};
use gpuctl_tests::Node;

/// How long one command may take: a machine may be emulated.
const LIMIT: Duration = Duration::from_secs(1800);

/// Runs a command to its end, which must be a success; how long it took.
pub(crate) fn timed(command: &mut Command) -> Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let status = command.status().map_err(|e| e.to_string())?;
    let took = began.elapsed();
    if status.success() { Ok(took) } else { Err(format!("{}: {status}", command::shown(command))) }
}

/// A shell script, in a folder.
pub(crate) fn sh(script: &str, folder: &Path) -> Command {
    let mut sh = Command::new("sh");
    sh.args(["-c", script]).current_dir(folder);
    sh
}

/// The node's Docker CLI, to its end; what it printed.
pub(crate) fn docker(node: &Node, words: &[&str]) -> Result<String> {
    command::run(node.site().engine().docker().args(words), LIMIT)?.ok()
}
