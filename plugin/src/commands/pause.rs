//! `docker gpuctl pause`.

use super::session::{Session, each};
use crate::engine::api::{Failure, MoreRequest, Request};

/// Freeze the processes of containers; they keep their GPUs and ports
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME, NAME-VERSION or id
    #[arg(required = true)]
    names: Vec<String>,
}

pub(super) fn pause(session: &Session, args: Args) -> Result<u8, Failure> {
    let request = Request::More(MoreRequest::Pause { names: args.names });
    each(session.change(request, &mut session.terminal())?)
}
