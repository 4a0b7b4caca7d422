//! gpuctl-hook: what runc starts, as root. One static binary, told by its name what it is:
//! `gpuctl-runtime`, `gpuctl-gate` and `runc` are the OCI runtime wrapper, `gpuctl-hook` the OCI
//! hooks, `nvidia-container-runtime-hook` the stub that lets dockerd take a bare `--gpus`.

use std::ffi::OsString;

fn main() {
    let mut args = std::env::args_os();
    let entered = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    let status = gpuctl_hook::entry::main(&entered, &rest);
    #[allow(clippy::exit)]
    std::process::exit(status);
}
