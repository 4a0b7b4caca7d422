//! `docker gpuctl volume rollback`.

use gpuctl_ledger::model::Version;

use super::{Session, change_with, made_with};
use crate::engine::api::ResizeHow;
use crate::engine::api::{Failure, VolumeRequest};

/// Make a new version with the content and the size of an older one
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The volume: NAME or NAME-VERSION
    name: String,
    /// The version [default: the one before the current]
    version: Option<u32>,
    /// Move the managed containers that mount it to the new version
    #[arg(long)]
    roll: bool,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Compare the copy without reading all of it once more
    #[arg(long)]
    no_verify: bool,
    /// Show warnings and errors only, and no progress
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn rollback(session: &Session, args: Args) -> Result<u8, Failure> {
    let how = ResizeHow {
        roll: args.roll,
        dry_run: args.dry_run,
        no_verify: args.no_verify,
        ..ResizeHow::default()
    };
    let version = args.version.map(Version);
    let request = VolumeRequest::Rollback { name: args.name, version, how };
    made_with(change_with(session, request, args.quiet)?, args.quiet)
}
