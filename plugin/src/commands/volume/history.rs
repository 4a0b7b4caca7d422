//! `docker gpuctl volume history`.

use super::super::list_args::ListArgs;
use super::{Session, look, odd};
use crate::engine::api::{Failure, VolumeAnswer, VolumeRequest};
use crate::ui;

/// Show the versions of a volume and what each costs on disk
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The volume's name
    name: String,
    #[command(flatten)]
    list: ListArgs,
}

pub(super) fn history(session: &Session, args: Args) -> Result<u8, Failure> {
    let Args { name, list } = args;
    list.show("volume history", &ui::VOLUME_VERSIONS, || {
        match look(session, VolumeRequest::History { name })? {
            VolumeAnswer::History(rows) => Ok(rows),
            _ => Err(odd()),
        }
    })
}
