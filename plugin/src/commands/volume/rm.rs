//! `docker gpuctl volume rm`.

use super::Session;
use crate::commands::session::{each, each_by_force};
use crate::engine::api::{Failure, Request, VolumeRequest};

/// Remove volumes and what is in them; older versions and the history stay
#[derive(Debug, clap::Args)]
#[command(visible_alias = "remove")]
pub(super) struct Args {
    /// Names: NAME or NAME-VERSION
    #[arg(required = true)]
    names: Vec<String>,
    /// One that is not there is no failure
    #[arg(short, long)]
    force: bool,
    /// Remove the older versions too, and forget the name
    #[arg(long)]
    history: bool,
}

pub(super) fn rm(session: &Session, args: Args) -> Result<u8, Failure> {
    let shown = if args.force { each_by_force } else { each };
    let request = VolumeRequest::Remove { names: args.names, history: args.history };
    shown(session.change(Request::Volume(request), &mut session.terminal())?)
}
