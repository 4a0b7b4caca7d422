//! `docker gpuctl volume ls`.

use super::super::list_args::ListArgs;
use super::{Session, look, odd};
use crate::engine::api::{Failure, VolumeAnswer, VolumeRequest};
use crate::ui;

/// List volumes, how large and how full they are, and who mounts them
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list")]
pub(super) struct Args {
    #[command(flatten)]
    list: ListArgs,
}

pub(super) fn ls(session: &Session, args: &Args) -> Result<u8, Failure> {
    let ask = || match look(session, VolumeRequest::Ls)? {
        VolumeAnswer::Rows(rows) => Ok(rows),
        _ => Err(odd()),
    };
    args.list.show("volume ls", &ui::VOLUMES, ask)
}
