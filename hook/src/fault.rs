//! Where tests kill the program. Compiled out of releases.
//!
//! Runtime and hooks are started by containerd, with an environment that no test can set for one of
//! them: the file `kill_at` in the run folder says where. Its first line is the name of a point; who
//! comes by there takes the line out and dies.

use gpuctl_ledger::config::Config;

/// Kills this process if the file says so.
#[cfg(feature = "faults")]
pub fn here(config: &Config, point: &str) {
    let path = config.paths.run.join("kill_at");
    let Ok(text) = std::fs::read_to_string(&path) else { return };
    let mut lines = text.lines();
    if lines.next() != Some(point) {
        return;
    }
    let rest: String = lines.map(|line| format!("{line}\n")).collect();
    let written =
        if rest.is_empty() { std::fs::remove_file(&path) } else { std::fs::write(&path, rest) };
    if written.is_ok() {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "gpuctl: killed for a test at {point}");
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing, in a release.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn here(_config: &Config, _point: &str) {}
