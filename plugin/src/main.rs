//! The program `docker-gpuctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(docker_gpuctl::main(std::env::args_os().skip(1)))
}
