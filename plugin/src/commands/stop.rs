//! `docker gpuctl stop`.

use super::session::{Session, each};
use crate::engine::api::{Failure, Request};

/// How a container is asked to end, as docker stop has it.
#[derive(Debug, clap::Args)]
pub(super) struct Ending {
    /// Signal to ask it by; the container's own when not given
    #[arg(short, long, value_name = "SIGNAL")]
    pub(super) signal: Option<String>,
    /// Seconds to wait before killing it (-1: never); the container's own setting when not given
    #[arg(
        short = 't',
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    pub(super) timeout: Option<i32>,
}

/// Stop containers and give their GPUs back
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME, NAME-VERSION or id
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    ending: Ending,
}

pub(super) fn stop(session: &Session, args: Args) -> Result<u8, Failure> {
    let Ending { signal, timeout } = args.ending;
    let request = Request::Stop { names: args.names, timeout, signal };
    each(session.change(request, &mut session.terminal())?)
}
