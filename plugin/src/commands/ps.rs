//! `docker gpuctl ps`.

use super::list_args::ListArgs;
use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request};
use crate::ui;

/// List containers with their GPUs
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    list: ListArgs,
}

pub(super) fn ps(session: &Session, args: &Args) -> Result<u8, Failure> {
    // As in docker ps: who asks for a state means also those that do not run.
    let by_state =
        |filter: &String| filter.starts_with("status=") || filter.starts_with("refused=");
    let all = args.all || args.list.filter.iter().any(by_state);
    args.list.show("ps", &ui::CONTAINERS, || match session.look(Request::Ps { all })? {
        Answer::Ps(rows) => Ok(rows),
        _ => Err(odd()),
    })
}
