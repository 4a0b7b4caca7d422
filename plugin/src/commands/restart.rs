//! `docker gpuctl restart`.

use super::session::{Session, each};
use super::stop::Ending;
use crate::engine::api::{Failure, Request};

/// Restart containers with the same number of GPUs, those held now first
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME, NAME-VERSION or id
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    ending: Ending,
}

pub(super) fn restart(session: &Session, args: Args) -> Result<u8, Failure> {
    let Ending { signal, timeout } = args.ending;
    let request = Request::Restart { names: args.names, timeout, signal };
    each(session.change(request, &mut session.terminal())?)
}
