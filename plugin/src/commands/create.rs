//! `docker gpuctl create`.

use super::run;
use crate::client::argv::Globals;
use crate::engine::api::Failure;

/// Create a container without starting it; it holds no GPUs until it starts
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    /// As for docker create
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) words: Vec<String>,
}

pub(super) const HELP: &str = "\
Usage:  docker gpuctl create [OPTIONS] IMAGE [COMMAND] [ARG...]
        docker gpuctl create [OPTIONS] --from NAME[@VERSION]

Create a container without starting it; it holds no GPUs until it starts

Takes every option of docker create (docker create --help). Those with a meaning of their own:
      --gpus N | all | device=LIST   How many GPUs it gets when it starts, or which; also by attributes,
                                     mig=N and shared: see docker gpuctl run --help
  -p, --publish auto:PORT            A port of this host that is chosen and kept: see docker gpuctl run --help
      --name NAME                    The container's name. In Docker it is NAME-VERSION
      --from NAME[@VERSION]          Build from the record of a container instead of from options

Examples:
  docker gpuctl create --name train --gpus 2 my/image python train.py
  docker gpuctl start train
";

pub(super) fn words(globals: Globals, words: &[String]) -> Result<u8, Failure> {
    run::make(&globals, words, false, HELP)
}
