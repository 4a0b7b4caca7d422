//! `docker gpuctl stop`.

use super::session::{Session, each};
use crate::engine::api::{Failure, Request};

/// Stop containers and give their GPUs back
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME, NAME-VERSION or id
    #[arg(required = true)]
    names: Vec<String>,
    /// Seconds to wait before killing it (-1: never); the container's own setting when not given
    #[arg(
        short = 't',
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    timeout: Option<i32>,
}

pub(super) fn stop(session: &Session, args: Args) -> Result<u8, Failure> {
    let request = Request::Stop { names: args.names, timeout: args.timeout };
    each(session.change(request, &mut session.terminal())?)
}
