//! `docker gpuctl start`.

use super::session::{Session, each};
use crate::engine::api::{Failure, Request};

/// Start stopped containers, with the number of GPUs they are to have
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME, NAME-VERSION or id
    #[arg(required = true)]
    names: Vec<String>,
}

pub(super) fn start(session: &Session, args: Args) -> Result<u8, Failure> {
    each(session.change(Request::Start { names: args.names }, &mut session.terminal())?)
}
