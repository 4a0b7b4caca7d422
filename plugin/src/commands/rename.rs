//! `docker gpuctl rename`.

use gpuctl_ledger::model::ContainerName;

use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, MoreAnswer, MoreRequest, Request};
use crate::ui;

/// Give a container another name; it keeps running, with its history, GPUs and ports
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The container: NAME, NAME-VERSION or id
    name: String,
    /// Its new name
    new: ContainerName,
}

pub(super) fn rename(session: &Session, args: Args) -> Result<u8, Failure> {
    let request = Request::More(MoreRequest::Rename { name: args.name, new: args.new });
    match session.change(request, &mut session.terminal())? {
        Answer::More(MoreAnswer::Renamed { name, docker_name }) => {
            let docker_name = docker_name.map(String::from);
            ui::lines([docker_name.unwrap_or_else(|| name.to_string())]);
        }
        _ => return Err(odd()),
    }
    Ok(0)
}
