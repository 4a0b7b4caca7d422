//! `docker gpuctl volume resize`.

use gpuctl_ledger::model::ByteSize;

use super::{Session, change_with, made_with};
use crate::engine::api::ResizeHow;
use crate::engine::api::{Failure, VolumeRequest};

/// Give a volume another size: a new version with the same content, or the same one with --in-place
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The volume: NAME or NAME-VERSION
    name: String,
    /// How much is to fit in: 20GB, 1.5TB, 500MiB, 1073741824
    size: ByteSize,
    /// Change the limit of the same volume: no copy, no new version
    #[arg(long, conflicts_with = "roll")]
    in_place: bool,
    /// Move the managed containers that mount it to the new version
    #[arg(long)]
    roll: bool,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Compare the copy without reading all of it once more
    #[arg(long)]
    no_verify: bool,
    /// Take the room on the host's disk at once
    #[arg(long, conflicts_with = "in_place")]
    allocate: bool,
    /// Show warnings and errors only, and no progress
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn resize(session: &Session, args: Args) -> Result<u8, Failure> {
    let how = ResizeHow {
        in_place: args.in_place,
        roll: args.roll,
        dry_run: args.dry_run,
        no_verify: args.no_verify,
        allocate: args.allocate,
    };
    let request = VolumeRequest::Resize { name: args.name, size: args.size, how };
    made_with(change_with(session, request, args.quiet)?, args.quiet)
}
