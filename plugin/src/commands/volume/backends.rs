//! `docker gpuctl volume backends`.

use super::super::list_args::ListArgs;
use super::{Session, look, odd};
use crate::engine::api::{Failure, VolumeAnswer, VolumeRequest};
use crate::ui;

/// Show how this host can keep volumes to a size, and why not otherwise
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    list: ListArgs,
}

pub(super) fn backends(session: &Session, args: &Args) -> Result<u8, Failure> {
    let ask = || match look(session, VolumeRequest::Backends)? {
        VolumeAnswer::Backends(rows) => Ok(rows),
        _ => Err(odd()),
    };
    args.list.show("volume backends", &ui::BACKENDS, ask)
}
