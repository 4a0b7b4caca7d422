//! `docker gpuctl unpause`.

use super::session::{Session, each};
use crate::engine::api::{Failure, MoreRequest, Request};

/// Let the processes of paused containers go on
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME, NAME-VERSION or id
    #[arg(required = true)]
    names: Vec<String>,
}

pub(super) fn unpause(session: &Session, args: Args) -> Result<u8, Failure> {
    let request = Request::More(MoreRequest::Unpause { names: args.names });
    each(session.change(request, &mut session.terminal())?)
}
