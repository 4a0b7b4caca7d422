//! `docker gpuctl exec`.

use super::pass::{self, Passed};
use crate::client::argv::Globals;
use crate::engine::api::Failure;

/// Execute a command in a running container
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    /// As for docker exec
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) words: Vec<String>,
}

pub(super) fn words(globals: Globals, words: &[String]) -> Result<u8, Failure> {
    let passed = Passed {
        command: "exec",
        usage: "Usage:  docker gpuctl exec [OPTIONS] CONTAINER COMMAND [ARG...]\n\n\
                Execute a command in a running container\n\n\
                Aliases:\n  docker gpuctl exec, docker gpuctl execute\n",
        operands: 2,
    };
    pass::words(&globals, words, &passed)
}
