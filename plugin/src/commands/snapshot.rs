//! `docker gpuctl snapshot`.

use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, MoreAnswer, MoreRequest, Request};
use crate::ui;

/// Keep the files of a container as they are now, as those of its version
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The container: NAME, NAME-VERSION or id
    name: String,
    /// Show warnings and errors only, and no progress
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn snapshot(session: &Session, args: Args) -> Result<u8, Failure> {
    let quiet = args.quiet;
    let request = Request::More(MoreRequest::Snapshot { name: args.name });
    match session.change(request, &mut session.terminal().quiet(quiet))? {
        Answer::More(MoreAnswer::Kept { docker_name, .. }) => ui::lines([docker_name.as_str()]),
        _ => return Err(odd()),
    }
    Ok(0)
}
