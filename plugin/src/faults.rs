//! Where tests kill the program. Nothing of it is in a release.

/// Kills this process where `GPUCTL_KILL_AT` names this point.
#[cfg(feature = "faults")]
pub(crate) fn point(name: &str) {
    if std::env::var("GPUCTL_KILL_AT").is_ok_and(|at| at == name) {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing.
#[cfg(not(feature = "faults"))]
#[inline]
pub(crate) fn point(_: &str) {}
