//! `docker gpuctl logs`.

use super::pass::{self, Passed};
use crate::client::argv::Globals;
use crate::engine::api::Failure;

/// Fetch the logs of a container
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    /// As for docker logs
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) words: Vec<String>,
}

pub(super) fn words(globals: Globals, words: &[String]) -> Result<u8, Failure> {
    let passed = Passed {
        command: "logs",
        usage: "Usage:  docker gpuctl logs [OPTIONS] CONTAINER\n\nFetch the logs of a container\n",
        operands: 1,
    };
    pass::words(&globals, words, &passed)
}
