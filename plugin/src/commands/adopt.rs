//! `docker gpuctl adopt`.

use gpuctl_ledger::model::ContainerName;

use super::session::{Session, odd};
use crate::engine::api::{AdoptRequest, Answer, Failure, MoreAnswer, MoreRequest, Request};
use crate::ui;

/// Manage a container that docker run made: it keeps running, and its GPUs
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The container, as Docker knows it: its name or id
    container: String,
    /// Its name from now on; its name in Docker when not given
    #[arg(long)]
    name: Option<ContainerName>,
    /// Do not make its old name an alias on its networks: connections over these stay
    #[arg(long)]
    no_alias: bool,
}

pub(super) fn adopt(session: &Session, args: Args) -> Result<u8, Failure> {
    let Args { container, name, no_alias } = args;
    let request = MoreRequest::Adopt(AdoptRequest { container, name, no_alias });
    match session.change(Request::More(request), &mut session.terminal())? {
        Answer::More(MoreAnswer::Renamed { docker_name: Some(docker_name), .. }) => {
            ui::lines([docker_name.as_str()]);
        }
        _ => return Err(odd()),
    }
    Ok(0)
}
