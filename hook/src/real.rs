//! The real OCI runtime: which it is, and becoming it.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use gpuctl_ledger::config::Config;

/// How often we have been entered for one call, in the environment.
const DEPTH: &str = "GPUCTL_RUNTIME_DEPTH";
/// At most so often: ours, NVIDIA's runtime, ours again. More is a loop.
const DEEPEST: u32 = 4;
/// Where runc is when the config does not say, or says what is not there.
const USUAL: [&str; 4] =
    ["/usr/bin/runc", "/usr/sbin/runc", "/usr/local/sbin/runc", "/usr/local/bin/runc"];

/// The program name under which daemon.json enters us for managed containers.
pub(crate) const MANAGED_ENTRY: &str = "gpuctl-runtime";
/// The program name under which the Engine, containerd and NVIDIA's runtime find us in strict mode.
const STRICT_ENTRY: &str = "runc";

/// What stands behind us for this call. NVIDIA's runtime, where it is that, calls `runc` in its turn:
/// entered by that name, or a second time, we are behind it, and only the real runc is left.
pub fn behind<'a>(config: &'a Config, entered: &str) -> &'a Path {
    let runtime = &config.runtime;
    match &runtime.runc {
        Some(runc) if entered == STRICT_ENTRY || depth() > 0 => runc,
        _ => &runtime.real,
    }
}

/// How often we have been entered before for this call, from the environment.
pub fn depth() -> u32 {
    std::env::var(DEPTH).ok().and_then(|d| d.parse().ok()).unwrap_or(0)
}

/// Whether a file is a program that only root can change, and not ourselves under another name.
fn trusted(path: &Path) -> bool {
    let Ok(meta) = std::fs::metadata(path) else { return false };
    let own = std::fs::metadata("/proc/self/exe");
    let ours = own.is_ok_and(|own| (own.dev(), own.ino()) == (meta.dev(), meta.ino()));
    path.is_absolute()
        && meta.is_file()
        && meta.uid() == 0
        && meta.mode() & 0o022 == 0
        && meta.mode() & 0o111 != 0
        && !ours
}

/// The real runtime: the one that the config names, else the first at a usual place, so that
/// containers without GPUs start although it moved.
///
/// # Errors
/// One line for people.
pub fn find(configured: &Path) -> Result<PathBuf, String> {
    if trusted(configured) {
        return Ok(configured.to_owned());
    }
    USUAL.iter().map(PathBuf::from).find(|path| trusted(path)).ok_or_else(|| {
        format!("the real runtime {} is missing, or not root's alone", configured.display())
    })
}

/// Whether a runtime is NVIDIA's, which does what the container's environment says.
pub fn is_nvidia(runtime: &Path) -> bool {
    let name = runtime.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with("nvidia-container-runtime")
}

fn command(real: &Path, args: &[OsString]) -> std::process::Command {
    let mut command = std::process::Command::new(real);
    command.args(args).env(DEPTH, (depth() + 1).to_string());
    command
}

/// Becomes the real runtime. Returns only when that failed, or when we are in a loop: why.
pub fn exec(real: &Path, args: &[OsString]) -> String {
    if depth() >= DEEPEST {
        return format!(
            "{} leads back to gpuctl-runtime: set runtime.real in the config to the real runc",
            real.display()
        );
    }
    let error = command(real, args).exec();
    format!(
        "the real runtime {} does not start: {}",
        real.display(),
        gpuctl_ledger::config::plain_io_error(&error)
    )
}

/// Runs the real runtime and waits for it: its exit status.
///
/// # Errors
/// As [`exec`].
pub fn run(real: &Path, args: &[OsString]) -> Result<i32, String> {
    if depth() >= DEEPEST {
        return Err(exec(real, args));
    }
    match command(real, args).status() {
        Ok(status) => Ok(status.code().unwrap_or(1)),
        Err(e) => Err(format!(
            "the real runtime {} does not start: {}",
            real.display(),
            gpuctl_ledger::config::plain_io_error(&e)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_relative_path_nor_ourselves_is_the_real_runtime() {
        assert!(!trusted(Path::new("runc")));
        assert!(!trusted(&std::env::current_exe().unwrap()));
        assert!(!trusted(Path::new("/etc/passwd")));
        assert!(trusted(Path::new("/bin/sh")));
    }

    #[test]
    fn called_by_nvidias_runtime_only_the_real_runc_is_behind_us() {
        let text =
            "[runtime]\nreal = \"/usr/bin/nvidia-container-runtime\"\nrunc = \"/usr/bin/runc\"\n";
        let nvidia = Config::parse(text).unwrap();
        assert_eq!(behind(&nvidia, "gpuctl-gate"), nvidia.runtime.real);
        assert_eq!(behind(&nvidia, "runc"), Path::new("/usr/bin/runc"));
        assert_eq!(behind(&Config::default(), "runc"), Path::new("/usr/bin/runc"));
        assert!(is_nvidia(&nvidia.runtime.real) && !is_nvidia(Path::new("/usr/bin/runc")));
    }
}
