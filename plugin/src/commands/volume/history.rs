//! `docker gpuctl volume history`.

use gpuctl_ledger::model::Timestamp;

use super::{Session, look, odd};
use crate::engine::api::{Failure, VolumeAnswer, VolumeRequest};
use crate::ui::{self, Format};

/// Show the versions of a volume and what each costs on disk
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The volume's name
    name: String,
    /// Only version numbers
    #[arg(short, long)]
    quiet: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn history(session: &Session, args: Args) -> Result<u8, Failure> {
    let request = VolumeRequest::History { name: args.name };
    let VolumeAnswer::History(rows) = look(session, request)? else { return Err(odd()) };
    ui::table(&ui::volume_history(&rows, args.format, args.quiet, Timestamp::now()));
    Ok(0)
}
