//! `docker gpuctl volume rm`.

use super::Session;
use crate::commands::session::each;
use crate::engine::api::{Failure, Request, VolumeRequest};

/// Remove volumes and what is in them; older versions and the history stay
#[derive(Debug, clap::Args)]
#[command(visible_alias = "remove")]
pub(super) struct Args {
    /// Names: NAME or NAME-VERSION
    #[arg(required = true)]
    names: Vec<String>,
    /// Remove the older versions too, and forget the name
    #[arg(long)]
    history: bool,
}

pub(super) fn rm(session: &Session, args: Args) -> Result<u8, Failure> {
    let request = VolumeRequest::Remove { names: args.names, history: args.history };
    each(session.change(Request::Volume(request), &mut session.terminal())?)
}
