//! `docker gpuctl volume ls`.

use gpuctl_ledger::model::Timestamp;

use super::{Session, look, odd};
use crate::engine::api::{Failure, VolumeAnswer, VolumeRequest};
use crate::ui::{self, Format};

/// List volumes, how large and how full they are, and who mounts them
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list")]
pub(super) struct Args {
    /// Only names in Docker
    #[arg(short, long)]
    quiet: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn ls(session: &Session, args: &Args) -> Result<u8, Failure> {
    let VolumeAnswer::Rows(rows) = look(session, VolumeRequest::Ls)? else { return Err(odd()) };
    ui::table(&ui::volumes(&rows, args.format, args.quiet, Timestamp::now()));
    Ok(0)
}
