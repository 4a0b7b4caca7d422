//! `docker gpuctl ports`.

use super::list_args::ListArgs;
use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, MoreAnswer, MoreRequest, Request};
use crate::ui;

/// List the ports of this host that are kept for containers: what -p auto:PORT chose
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    list: ListArgs,
}

pub(super) fn ports(session: &Session, args: &Args) -> Result<u8, Failure> {
    let ask = || match session.look(Request::More(MoreRequest::Ports))? {
        Answer::More(MoreAnswer::Ports(rows)) => Ok(rows),
        _ => Err(odd()),
    };
    args.list.show("ports", &ui::PORTS, ask)
}
