//! `docker gpuctl history`.

use super::list_args::ListArgs;
use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request};
use crate::ui;

/// Show the versions of a container: what changed, when, by whom
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The container's name
    name: String,
    #[command(flatten)]
    list: ListArgs,
}

pub(super) fn history(session: &Session, args: Args) -> Result<u8, Failure> {
    let Args { name, list } = args;
    list.show("history", &ui::VERSIONS, || match session.look(Request::History { name })? {
        Answer::History(rows) => Ok(rows),
        _ => Err(odd()),
    })
}
