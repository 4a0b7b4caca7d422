//! What init does on a whole machine: it takes the orphans of an Engine - containerd, shims, the
//! processes of containers - and collects them when they end. Where the machine's own pid 1 does
//! not (in many containers), a dead containerd would stay as a zombie, and dockerd, which only looks
//! whether its pid exists, would wait for it for ever.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::wait;

use crate::{Doing as _, Place, Result};

/// The name under which `gpuctl-sim` is this.
pub const NAME: &str = "reaper";

/// Where it stands in a place.
pub fn path(place: &Place) -> PathBuf {
    place.libexec().join(NAME)
}

/// Starts a program and collects every child and orphan until none is left.
///
/// # Errors
/// When it cannot be started.
pub fn run(arguments: &[String]) -> Result<()> {
    let [program, rest @ ..] = arguments else { return Err("nothing to start".into()) };
    set_child_subreaper(true).doing("adopt orphans")?;
    Command::new(program).args(rest).spawn().doing(format!("start {program}"))?;
    loop {
        match wait() {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return Ok(()),
        }
    }
}
