//! `docker gpuctl volume adopt`.

use gpuctl_ledger::model::VolumeName;

use super::{Session, change, made};
use crate::engine::api::{Failure, VolumeRequest};

/// Take in a volume that docker volume create made: it can be resized then
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its name in Docker
    volume: String,
    /// Its name from now on [default: the same; of NAME-N, NAME at version N]
    #[arg(long)]
    name: Option<VolumeName>,
}

pub(super) fn adopt(session: &Session, args: Args) -> Result<u8, Failure> {
    let request = VolumeRequest::Adopt { docker_name: args.volume, name: args.name };
    made(change(session, request)?)
}
