//! `docker gpuctl commit`.

use super::session::{Session, odd};
use crate::client::flags::go_bool;
use crate::engine::api::{Answer, CommitRequest, Failure, MoreAnswer, MoreRequest, Request};
use crate::ui;

/// Make an image of a container; volumes are not in it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The container: NAME, NAME-VERSION or id
    name: String,
    /// What the image is called: REPOSITORY or REPOSITORY:TAG; without it, only its id names it
    image: Option<String>,
    /// Author, as "Ada Lovelace <ada@example.org>"
    #[arg(short, long, default_value = "", hide_default_value = true)]
    author: String,
    /// Apply a line of a Dockerfile to the image
    #[arg(short, long = "change", value_name = "LINE")]
    changes: Vec<String>,
    /// Commit message
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Pause the container meanwhile
    #[arg(
        short,
        long,
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        value_parser = switch
    )]
    pause: bool,
    /// Do not: its files may then be of different moments
    #[arg(long)]
    no_pause: bool,
}

fn switch(text: &str) -> Result<bool, String> {
    go_bool(text).ok_or_else(|| "neither true nor false".to_owned())
}

pub(super) fn commit(session: &Session, args: Args) -> Result<u8, Failure> {
    let request = CommitRequest {
        name: args.name,
        image: args.image,
        author: args.author,
        message: args.message,
        changes: args.changes,
        pause: args.pause && !args.no_pause,
    };
    // Docker cannot be stopped at it: an interrupt is told what becomes of the image.
    match session.change(Request::More(MoreRequest::Commit(request)), &mut session.terminal())? {
        Answer::More(MoreAnswer::Committed(id)) => ui::lines([id]),
        _ => return Err(odd()),
    }
    Ok(0)
}
