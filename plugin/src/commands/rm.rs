//! `docker gpuctl rm`.

use super::session::{Session, each, each_by_force};
use crate::engine::api::{Failure, Request};

/// Remove containers; their history stays, so that run --from can build them again
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME, NAME-VERSION or id
    #[arg(required = true)]
    names: Vec<String>,
    /// Remove a running container too; one that is not there is no failure
    #[arg(short, long)]
    force: bool,
    /// Remove its anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    /// Forget its history too
    #[arg(long)]
    history: bool,
}

pub(super) fn rm(session: &Session, args: Args) -> Result<u8, Failure> {
    let shown = if args.force { each_by_force } else { each };
    let request = Request::Remove {
        names: args.names,
        force: args.force,
        volumes: args.volumes,
        history: args.history,
    };
    shown(session.change(request, &mut session.terminal())?)
}
