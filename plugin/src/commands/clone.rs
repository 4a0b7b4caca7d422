//! `docker gpuctl clone`.

use gpuctl_ledger::model::{ContainerName, GpuRequest};

use super::session::{Session, odd};
use crate::engine::api::{Answer, CloneRequest, Failure, MoreAnswer, MoreRequest, Request};
use crate::ui;

/// Make a second container with the files and settings of one, and GPUs and ports of its own
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The container: NAME, NAME-VERSION or id
    name: String,
    /// The name of the second one
    new: ContainerName,
    /// How many GPUs it gets; as many as the first one when not given
    #[arg(long, value_name = "N")]
    gpus: Option<GpuRequest>,
    /// Show warnings and errors only, and no progress
    #[arg(short, long)]
    quiet: bool,
    /// Copy its volumes too: data of the clone twin is twin-data. Without it both mount the same ones; those
    /// without a name are new in any case
    #[arg(long)]
    volumes: bool,
}

pub(super) fn clone(session: &Session, args: Args) -> Result<u8, Failure> {
    let Args { name, new, gpus, quiet, volumes } = args;
    let request = Request::More(MoreRequest::Clone(CloneRequest { name, new, gpus, volumes }));
    match session.change(request, &mut session.terminal().quiet(quiet))? {
        Answer::More(MoreAnswer::Renamed { docker_name: Some(docker_name), .. }) => {
            ui::lines([docker_name.as_str()]);
        }
        _ => return Err(odd()),
    }
    Ok(0)
}
